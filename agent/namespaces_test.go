package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// memSpaces are the namespaces of a host in memory.
type memSpaces struct {
	host    *host.Mem
	boot    string
	others  map[string]bool   // paths that others than root may change
	cookies map[uint64]uint64 // by inode, where they differ
	open    atomic.Int64      // that nobody has closed
	looked  func()            // called once, after the next look at a path
}

// Open implements Namespaces.
func (m *memSpaces) Open(path string) (*Namespace, error) {
	inode, err := m.Inode(path)
	if err != nil {
		return nil, err
	}
	id := plan.Namespace{Boot: m.boot, Cookie: inode, Process: strings.HasPrefix(path, "/proc/")}
	if c := m.cookies[inode]; c != 0 {
		id.Cookie = c
	}
	m.open.Add(1)
	closed := false
	return &Namespace{Namespace: id, Inode: inode, Rooted: !id.Process && !m.others[path], Close: func() error {
		if closed {
			return errors.New("closed twice")
		}
		closed = true
		m.open.Add(-1)
		return nil
	}}, nil
}

// Inode implements Namespaces.
func (m *memSpaces) Inode(path string) (uint64, error) {
	inode := m.host.NamespaceInode(path)
	if inode == 0 {
		return 0, fmt.Errorf("%s: %w", path, host.ErrNoNamespace)
	}
	if f := m.looked; f != nil {
		m.looked = nil
		f()
	}
	return inode, nil
}

// replace makes another namespace at a path, as when a process number is given again.
func (b *bench) replace(path string) {
	b.host.RemoveNamespace(path)
	b.host.AddNamespace(path)
}

// in is the inode of the namespace that the ENI is in, 0 for none; what the disk says of it comes, too.
func (b *bench) in() (inode uint64, noted []plan.Attachment) {
	b.t.Helper()
	ws, err := b.host.Workloads()
	if err != nil {
		b.t.Fatal(err)
	}
	noted, err = b.dir.LoadAttachments()
	if err != nil {
		b.t.Fatal(err)
	}
	if len(ws) == 0 {
		return 0, noted
	}
	return ws[0].NetnsInode, noted
}

// wantLost demands that the ENI be nowhere, on the disk neither, that the status say why, and that nothing be held.
func (b *bench) wantLost(errs []error) {
	b.t.Helper()
	inode, noted := b.in()
	if inode != 0 || len(noted) != 0 || b.spaces.open.Load() != 0 || len(b.applied.ENIs) != 0 {
		b.t.Errorf("in %d, noted %v, %d open, plan %v", inode, noted, b.spaces.open.Load(), b.applied.ENIs)
	}
	if len(errs) != 1 || !errors.Is(errs[0], errLost) {
		b.t.Errorf("errors %v", errs)
	}
	s, err := b.agent.Status(b.t.Context())
	if err != nil || len(s.Workloads) != 1 || s.Workloads[0].ENI != eni || !strings.HasPrefix(s.Workloads[0].State, "detached: /") {
		b.t.Errorf("status %+v, %v", s.Workloads, err)
	}
	b.mustRound() // said once
}

const pidPath = "/proc/4711/ns/net"

// The process of an ENI ends, and another, of whoever, gets its number.
func TestProcessNumberGivenAgain(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.host.AddNamespace(pidPath)
	b.attachIn(pidPath)
	b.mustRound()
	if inode, _ := b.in(); inode != b.host.NamespaceInode(pidPath) || b.spaces.open.Load() != 1 {
		t.Fatalf("in %d, %d open", inode, b.spaces.open.Load())
	}
	b.replace(pidPath)
	_, errs := b.round()
	b.wantLost(errs)
	b.attachIn(pidPath) // meant now
	b.mustRound()
	if inode, _ := b.in(); inode != b.host.NamespaceInode(pidPath) {
		t.Errorf("attached again in %d", inode)
	}
	if s, err := b.agent.Status(t.Context()); err != nil || len(s.Workloads) != 1 || s.Workloads[0].State != "up" {
		t.Errorf("status %+v, %v", s.Workloads, err)
	}
}

func TestProcessThatEnds(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.host.AddNamespace(pidPath)
	b.attachIn(pidPath)
	b.mustRound()
	b.host.RemoveNamespace(pidPath)
	_, errs := b.round()
	b.wantLost(errs)
	if err := b.agent.dropAttachment(eni); err != nil {
		t.Fatal(err)
	}
	if s, err := b.agent.Status(t.Context()); err != nil || len(s.Workloads) != 0 {
		t.Errorf("after detach: %+v, %v", s.Workloads, err)
	}
}

// While no agent ran, the namespace ended and another got its number, and even its inode.
func TestInodeGivenAgainBetweenAgents(t *testing.T) {
	for _, path := range []string{pidPath, "/home/me/cart"} {
		b := newBench(t)
		b.spaces.others["/home/me/cart"] = true
		b.hear(testView(1))
		b.host.AddNamespace(path)
		b.attachIn(path)
		b.mustRound()
		was := b.host.NamespaceInode(path)
		b.stop()
		b.start()
		b.mustRound()
		if inode, _ := b.in(); inode != was {
			t.Fatalf("%s: a restart moved it to %d", path, inode)
		}
		b.stop()
		b.spaces.cookies[was] = 999
		b.start()
		_, errs := b.round()
		if path == pidPath {
			b.wantLost(errs)
			continue
		}
		if inode, noted := b.in(); inode != 0 || len(noted) != 1 || len(errs) != 1 || b.spaces.open.Load() != 0 {
			t.Errorf("in %d, noted %v, %v", inode, noted, errs)
		}
	}
}

// A name is root's, who makes it anew at boot or whenever the workload starts: the ENI follows.
func TestNamedNamespaceMadeAnew(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.attach()
	b.mustRound()
	b.host.RemoveNamespace("/run/netns/cart")
	_, errs := b.round()
	if inode, noted := b.in(); inode != 0 || len(noted) != 1 || len(errs) != 1 || !errors.Is(errs[0], host.ErrNoNamespace) ||
		b.spaces.open.Load() != 0 {
		t.Errorf("gone: in %d, noted %v, %v, %d open", inode, noted, errs, b.spaces.open.Load())
	}
	for _, boot := range []string{"boot-1", "boot-2"} {
		b.stop()
		b.spaces.boot = boot
		b.replace("/run/netns/cart")
		b.start()
		b.mustRound()
		inode, noted := b.in()
		if inode != b.host.NamespaceInode("/run/netns/cart") || noted[0].Namespace != (plan.Namespace{Boot: boot, Cookie: inode}) {
			t.Errorf("%s: in %d, noted %+v", boot, inode, noted)
		}
	}
}

func TestProcessDoesNotOutliveTheBoot(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.host.AddNamespace(pidPath)
	b.attachIn(pidPath)
	b.mustRound()
	b.stop()
	b.spaces.boot = "boot-2" // the cookie may well be the same
	b.start()
	_, errs := b.round()
	b.wantLost(errs)
}

// Who may change where a path leads could hand an ENI on, or push it upon somebody: root must say so again.
func TestPathThatOthersMayChange(t *testing.T) {
	const path = "/home/me/cart"
	b := newBench(t)
	b.spaces.others[path] = true
	b.hear(testView(1))
	b.host.AddNamespace(path)
	b.attachIn(path)
	b.mustRound()
	b.replace(path)
	_, errs := b.round()
	if inode, noted := b.in(); inode != 0 || len(noted) != 1 || len(errs) != 1 || !strings.Contains(errs[0].Error(), "attach again") {
		t.Errorf("in %d, noted %v, %v", inode, noted, errs)
	}
	b.attachIn(path)
	b.mustRound()
	if inode, _ := b.in(); inode != b.host.NamespaceInode(path) {
		t.Errorf("attached again: in %d", inode)
	}
}

// Files of an agent that noted no identity: names are taken as they are, processes cannot be trusted.
func TestAttachmentsWithoutIdentity(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	if err := b.dir.SaveAttachments([]plan.Attachment{{ENI: eni, Netns: "/run/netns/cart", Interface: "eni0"}}); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.hear(testView(1))
	b.mustRound()
	if inode, noted := b.in(); inode == 0 || noted[0].Namespace.Cookie != inode {
		t.Errorf("in %d, noted %+v", inode, noted)
	}
	b.stop()
	b.host.AddNamespace(pidPath)
	if err := b.dir.SaveAttachments([]plan.Attachment{{ENI: eni, Netns: pidPath, Interface: "eni0"}}); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.hear(testView(1))
	_, errs := b.round()
	b.wantLost(errs)
}

// An ENI that a killed process left attached is free at once for the next one, and one namespace holds a name once.
func TestAttachAfterAKilledProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.hear(testView(1))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.agent.loop(ctx) }()
		for _, path := range []string{"/proc/1/ns/net", "/proc/2/ns/net"} {
			b.host.AddNamespace(path)
			if _, err := b.agent.Attach(ctx, local.AttachRequest{ENI: eni, Netns: path}); err != nil {
				t.Fatal(err)
			}
			if inode, _ := b.in(); inode != b.host.NamespaceInode(path) {
				t.Errorf("%s: in %d", path, inode)
			}
			_, err := b.agent.Attach(ctx, local.AttachRequest{ENI: eni, Netns: "/run/netns/cart"})
			var e *api.Error
			if !errors.As(err, &e) || e.Code != api.CodeENIInUse {
				t.Errorf("attached elsewhere as well: %v", err)
			}
			if again, err := b.agent.Attach(ctx, local.AttachRequest{ENI: eni, Netns: path}); err != nil || again.ENI != eni {
				t.Errorf("the same again: %v", err)
			}
			b.host.RemoveNamespace(path)
		}
		cancel()
		if err := errors.Join(<-done, b.agent.release()); err != nil {
			t.Error(err)
		}
		if n := b.spaces.open.Load(); n != 0 {
			t.Errorf("%d namespaces are still open", n)
		}
	})
}

func TestLostAttachmentsAreBounded(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	var all []plan.Attachment
	for i := range lostKept + 5 {
		all = append(all, plan.Attachment{ENI: fmt.Sprintf("eni-%03d", i), Netns: fmt.Sprintf("/proc/%d/ns/net", 5000+i), Interface: "eni0"})
	}
	if err := b.dir.SaveAttachments(all); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.hear(testView(1))
	b.round()
	s, err := b.agent.Status(t.Context())
	if err != nil || len(s.Workloads) != lostKept || s.Workloads[0].ENI != "eni-005" {
		t.Errorf("%d workloads, %v", len(s.Workloads), err)
	}
	if slices.ContainsFunc(s.Workloads, func(w local.Workload) bool { return w.State == "up" }) {
		t.Error("one is up")
	}
}

// A namespace ends before its ENI is detached, or unbound from the node: the door and the resolver file go as well.
func TestNothingStaysOfAnENIWhoseNamespaceWasFirst(t *testing.T) {
	const cart = "/run/netns/cart"
	for name, end := range map[string]func(b *bench){
		"detached": func(b *bench) {
			if err := b.agent.dropAttachment(eni); err != nil {
				t.Fatal(err)
			}
		},
		"unbound": func(b *bench) {
			v := testView(2)
			v.ENIs = nil
			b.hear(v)
		},
	} {
		b := newBench(t)
		b.hear(testView(1))
		b.attach()
		b.mustRound()
		door := host.VethName(eni)
		if !slices.Contains(b.host.Doors(), door) || b.host.ResolverFile(cart) == "" {
			t.Fatalf("doors %v, resolver %q", b.host.Doors(), b.host.ResolverFile(cart))
		}
		b.host.RemoveNamespace(cart)
		end(b)
		b.round()
		if slices.Contains(b.host.Doors(), door) {
			t.Errorf("%s: the door stays", name)
		}
		if f := b.host.ResolverFile(cart); name == "detached" && f != "" {
			t.Errorf("%s: the resolver file stays: %s", name, f)
		}
	}
}

// Attach and Detach change what is held while the loop looks: nothing is closed twice, and nothing that is closed is held.
func TestNamespacesChangeWhileTheLoopLooks(t *testing.T) {
	const cart = "/run/netns/cart"
	for name, change := range map[string]func(b *bench) error{
		"looked at": func(b *bench) error {
			b.replace(cart)
			_, _, failed := b.agent.namespaces()
			return failed[eni]
		},
		"detached": func(b *bench) error { return b.agent.dropAttachment(eni) },
		"detached and attached": func(b *bench) error {
			err := b.agent.dropAttachment(eni)
			ns, errOpen := b.spaces.Open(cart)
			if err = errors.Join(err, errOpen); err != nil {
				return err
			}
			att := plan.Attachment{ENI: eni, Netns: cart, Namespace: ns.Namespace, Interface: host.DefaultInterface}
			_, _, err = b.agent.setAttachment(att, ns)
			return err
		},
	} {
		b := newBench(t)
		b.hear(testView(1))
		b.attach()
		b.mustRound()
		changed := make(chan error, 1)
		b.spaces.looked = func() {
			done := make(chan struct{})
			go func() {
				changed <- change(b)
				close(done)
			}()
			select { // it has to wait; where it does not, this look goes on after it
			case <-done:
			case <-time.After(100 * time.Millisecond):
			}
		}
		_, _, failed := b.agent.namespaces()
		if err := errors.Join(failed[eni], <-changed); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		held := int64(len(b.agent.held))
		if open := b.spaces.open.Load(); open != held {
			t.Errorf("%s: %d held, %d open", name, held, open)
		}
		b.stop()
	}
}

// One namespace has many paths; which of them is said does not matter, but whether it is that of a process does.
func TestAttachByAnotherPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.hear(testView(1))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.agent.loop(ctx) }()
		attach := func(path string) error {
			b.host.AddNamespace(path)
			b.spaces.cookies[b.host.NamespaceInode(path)] = 4711 // one namespace
			r, err := b.agent.Attach(ctx, local.AttachRequest{ENI: eni, Netns: path})
			if err == nil && r.ENI != eni {
				t.Errorf("%s: %+v", path, r)
			}
			return err
		}
		for _, path := range []string{"/run/netns/cart", "/var/run/netns/cart"} {
			if err := attach(path); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		if _, noted := b.in(); len(noted) != 1 || noted[0].Netns != "/run/netns/cart" {
			t.Errorf("noted %+v", noted)
		}
		var e *api.Error
		if err := attach(pidPath); !errors.As(err, &e) || e.Code != api.CodeENIInUse {
			t.Errorf("by a process as well: %v", err)
		}
		b.host.RemoveNamespace("/run/netns/cart") // the path, not what it led to
		if err := attach("/var/run/netns/cart"); err != nil {
			t.Errorf("the path that is left: %v", err)
		}
		if _, noted := b.in(); len(noted) != 1 || noted[0].Netns != "/var/run/netns/cart" {
			t.Errorf("noted %+v", noted)
		}
		cancel()
		if err := errors.Join(<-done, b.agent.release()); err != nil {
			t.Error(err)
		}
		if n := b.spaces.open.Load(); n != 0 {
			t.Errorf("%d namespaces are still open", n)
		}
	})
}

// What a process keeps of a resolver until it ends is no problem of the round; another failure is, and detaching is repeated.
func TestDetachThatLeavesAProcessItsResolver(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.attach()
	b.mustRound()
	if err := b.agent.dropAttachment(eni); err != nil {
		t.Fatal(err)
	}
	failing := errors.New("no")
	b.host.Fail = func(op string) error {
		if op == "Detach" {
			return failing
		}
		return nil
	}
	if _, errs := b.round(); len(errs) != 1 || !errors.Is(errs[0], failing) {
		t.Errorf("a failure: %v", errs)
	}
	failing = fmt.Errorf("process 7: %w", host.ErrKept)
	b.mustRound()
	b.host.Fail = nil
	b.mustRound()
	if ws, err := b.host.Workloads(); err != nil || len(ws) != 0 {
		t.Errorf("after detach: %v, %v", ws, err)
	}
}
