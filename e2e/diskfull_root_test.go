package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/audit/verify"
	"github.com/culvert-net/culvert/internal/dev"
	"github.com/culvert-net/culvert/internal/netns"
	"github.com/culvert-net/culvert/internal/oracle"
)

// diskPrefix names the mesh of the tests with disks that are full.
const diskPrefix = "cvdisk"

// diskMesh is a mesh of one host; the server and the node have a small file system each.
type diskMesh struct {
	lab   *dev.Lab
	admin *client.Client
	till  string // an interface that the tests attach and detach; cart is always attached
}

// newDiskMesh builds it; it goes with the test.
func newDiskMesh(t *testing.T) *diskMesh {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, BPF, file systems")
	}
	program := filepath.Join(t.TempDir(), "culvert")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../cmd/culvert").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	lab, err := dev.New(dev.Config{Prefix: diskPrefix, Program: program})
	if err != nil {
		t.Fatal(err)
	}
	m := &diskMesh{lab: lab}
	disks := map[string]string{m.serverDir(): "size=256m,mode=0700", m.nodeDir(): "size=4m,mode=0700"}
	down := func() {
		var errs []error
		for _, host := range []string{"server", "host-a"} {
			if err := lab.Kill(host, "", false); err != nil && !errors.Is(err, dev.ErrNoMesh) {
				errs = append(errs, err)
			}
		}
		for dir := range disks {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, err)
			}
		}
		if err := errors.Join(append(errs, lab.Down(), netns.Remove(m.namespace("till")))...); err != nil {
			t.Error(err)
		}
	}
	down() // what a run that was killed has left
	t.Cleanup(down)
	for dir, options := range disks {
		if err := errors.Join(os.MkdirAll(dir, 0o700), unix.Mount("culvert-test", dir, "tmpfs", 0, options)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), slack*3*time.Minute)
	defer cancel()
	if err := lab.Up(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := m.populate(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.admin.Close()
		if t.Failed() {
			for _, role := range []string{"server", "agent"} {
				var b strings.Builder
				host := map[string]string{"server": "server", "agent": "host-a"}[role]
				if err := lab.Logs(context.Background(), host, role, 15, false, &b); err == nil {
					t.Logf("--- %s\n%s", role, b.String())
				}
			}
		}
	})
	return m
}

func (m *diskMesh) serverDir() string                { return m.lab.StateDir("server") }
func (m *diskMesh) nodeDir() string                  { return m.lab.StateDir("nodes", "host-a") }
func (m *diskMesh) namespace(workload string) string { return diskPrefix + "-w-" + workload }
func (m *diskMesh) agent() *local.Client             { return local.NewClient(m.lab.AgentSocket("host-a")) }

func (m *diskMesh) populate(ctx context.Context) (err error) {
	if m.admin, err = m.lab.Admin(""); err != nil {
		return err
	}
	if _, err := m.admin.CreateAccount(ctx, api.CreateAccountRequest{Name: "shop"}); err != nil {
		return err
	}
	shop, err := m.lab.Admin("shop")
	if err != nil {
		return err
	}
	defer shop.Close()
	net := netip.MustParsePrefix("10.0.1.0/24")
	if _, err := shop.CreateVPC(ctx, api.CreateVPCRequest{Name: "shop", CIDR: net}); err != nil {
		return err
	}
	if _, err := shop.CreateSubnet(ctx, api.CreateSubnetRequest{VPC: "shop", Name: "shop", Zone: "z1", CIDR: net}); err != nil {
		return err
	}
	for _, name := range []string{"cart", "till"} {
		eni, err := shop.CreateENI(ctx, api.CreateENIRequest{Subnet: "shop", Name: name, Node: "host-a"})
		if err != nil {
			return err
		}
		if _, err := m.lab.AddWorkload(ctx, shop, dev.Workload{Name: m.namespace(name), Host: "host-a", ENI: eni.ID}); err != nil {
			return err
		}
		m.till = eni.ID
	}
	return nil
}

// start starts the processes of a host again.
func (m *diskMesh) start(t *testing.T, host string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), slack*time.Minute)
	defer cancel()
	if err := m.lab.Start(ctx, host, ""); err != nil {
		t.Fatal(err)
	}
}

func (m *diskMesh) kill(t *testing.T, host, role string) {
	t.Helper()
	if err := m.lab.Kill(host, role, false); err != nil {
		t.Fatal(err)
	}
}

// fill takes all the room of a directory's file system; what it returns gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	if err := fillUp(path); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// fillUp writes until there is no room.
func fillUp(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, chunk := range []int{1 << 20, 4096} {
		for err == nil {
			_, err = f.Write(make([]byte, chunk))
		}
		if !errors.Is(err, unix.ENOSPC) {
			return err
		}
		err = nil
	}
	return nil
}

// writer makes accounts, one after the other, and notes what came of each.
type writer struct {
	acknowledged, refused []string
	stop                  func()
	begun, tight, full    chan struct{} // closed when ten were acknowledged, one was refused, five were
}

func (m *diskMesh) write(t *testing.T, round string) *writer {
	ctx, cancel := context.WithCancel(t.Context())
	w := &writer{begun: make(chan struct{}), tight: make(chan struct{}), full: make(chan struct{})}
	done := make(chan struct{})
	w.stop = func() { cancel(); <-done }
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			name := fmt.Sprintf("%s-%d", round, i)
			_, err := m.admin.CreateAccount(ctx, api.CreateAccountRequest{Name: name})
			refusal, said := errors.AsType[*api.Error](err)
			switch {
			case err == nil:
				if w.acknowledged = append(w.acknowledged, name); len(w.acknowledged) == 10 {
					close(w.begun)
				}
			case said && strings.Contains(refusal.Message, "disk is full"):
				switch w.refused = append(w.refused, name); len(w.refused) {
				case 1:
					close(w.tight)
				case 5:
					close(w.full)
				}
				pause(ctx, time.Millisecond)
			case !said:
				return // the server died; whether this one is there nobody was told
			default:
				t.Errorf("account %s: %v", name, err)
				return
			}
		}
	}()
	return w
}

// check compares with what is there.
func (w *writer) check(t *testing.T, m *diskMesh) {
	t.Helper()
	all, err := m.admin.ListAccounts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, a := range all {
		there[a.Name] = true
	}
	for _, name := range w.acknowledged {
		if !there[name] {
			t.Errorf("%s was acknowledged and is gone", name)
		}
	}
	for _, name := range w.refused {
		if there[name] {
			t.Errorf("%s was refused and is there", name)
		}
	}
	t.Logf("%d acknowledged, %d refused", len(w.acknowledged), len(w.refused))
}

// TestKilledOnAFullDisk kills the server and the agent while their disks are full and while they become full. What was
// acknowledged is there afterwards, what was refused is not, and no flow record is missing or there twice.
func TestKilledOnAFullDisk(t *testing.T) {
	beside(t)
	m := newDiskMesh(t)
	t.Run("server", m.serverKilled)
	t.Run("agent", m.agentKilled)
	t.Run("records", m.everyRecordOnce)
	t.Run("evidence", m.proven)
}

// proven: what the server keeps of the node's log proves itself by the log's public key alone.
func (m *diskMesh) proven(t *testing.T) {
	key, err := m.admin.LogKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := verify.ParseKeys(key.VerifierKey + "\n")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 90*time.Second, "evidence proves itself", func() error {
		r := verify.Run(os.DirFS(filepath.Join(m.serverDir(), "evidence")), keys, verify.Options{})
		if !r.OK || r.Segments < 2 || r.Records < 40 || r.Balanced == 0 {
			return fmt.Errorf("%d segments, %d records, %d compared, findings %+v", r.Segments, r.Records, r.Balanced, r.Findings)
		}
		return nil
	})
}

func (m *diskMesh) serverKilled(t *testing.T) {
	t.Run("while it becomes full", func(t *testing.T) {
		w := m.write(t, "becoming")
		await(t, w.begun)
		filler, filled := filepath.Join(m.serverDir(), "filler"), make(chan error, 1)
		go func() { filled <- fillUp(filler) }()
		await(t, w.tight) // which is before there is none
		m.kill(t, "server", "server")
		w.stop()
		if err := errors.Join(<-filled, os.Remove(filler)); err != nil {
			t.Fatal(err)
		}
		m.start(t, "server")
		w.check(t, m)
	})
	t.Run("while it is full", func(t *testing.T) {
		w := m.write(t, "full")
		await(t, w.begun)
		free := fill(t, m.serverDir())
		m.knock(t)
		await(t, w.full)
		eventually(t, 20*time.Second, "records that the server refuses", func() error {
			var b strings.Builder
			err := m.lab.Logs(t.Context(), "host-a", "agent", 1000, false, &b)
			if err == nil && !strings.Contains(b.String(), "disk is full") {
				err = errors.New("the agent heard of no full disk")
			}
			return err
		})
		m.kill(t, "server", "server")
		w.stop()
		m.start(t, "server") // and it is still full: it reads
		if _, err := m.admin.ListAccounts(t.Context()); err != nil {
			t.Errorf("a server that was started on a full disk: %v", err)
		}
		m.kill(t, "server", "server")
		free()
		m.start(t, "server")
		w.check(t, m)
	})
}

func await(t *testing.T, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(slack * 30 * time.Second):
		t.Fatal("it did not come to that")
	}
}

// knock has the workload send what is refused, of which there are flow records.
func (m *diskMesh) knock(t *testing.T) {
	t.Helper()
	script(t, "ip netns exec "+m.namespace("cart")+" bash -c 'for i in {1..20}; do echo x >/dev/udp/10.0.1.200/$((9000+i)); done'")
}

// attached tells whether the agent has till attached.
func (m *diskMesh) attached(t *testing.T) bool {
	t.Helper()
	s, err := m.agent().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := map[bool]int{}
	for _, w := range s.Workloads {
		names[w.ENI == m.till]++
	}
	if names[false] != 1 {
		t.Errorf("cart is not attached: %+v", s.Workloads)
	}
	return names[true] == 1
}

// wish attaches or detaches till.
func (m *diskMesh) wish(ctx context.Context, attach bool) error {
	if !attach {
		return m.agent().Detach(ctx, local.DetachRequest{ENI: m.till})
	}
	_, err := m.agent().Attach(ctx, local.AttachRequest{ENI: m.till, Netns: netns.Path(m.namespace("till")), DefaultRoute: true})
	return err
}

func (m *diskMesh) agentKilled(t *testing.T) {
	for _, attach := range []bool{false, true} { // what is asked for while it is full
		free := fill(t, m.nodeDir())
		m.knock(t)
		var refusal *api.Error
		if err := m.wish(t.Context(), attach); !errors.As(err, &refusal) || !strings.Contains(refusal.Message, "nothing was changed") {
			t.Errorf("a wish (attach: %t) that cannot be kept: %v", attach, err)
		}
		m.kill(t, "host-a", "agent")
		m.start(t, "host-a") // and it is still full
		m.knock(t)
		if got := m.attached(t); got == attach {
			t.Errorf("a refused wish (attach: %t) is in force", attach)
		}
		m.kill(t, "host-a", "agent")
		free()
		m.start(t, "host-a")
		if got := m.attached(t); got == attach {
			t.Errorf("a refused wish (attach: %t) is in force once there is room", attach)
		}
		if err := m.wish(t.Context(), attach); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		m.agentKilledWhileItBecomesFull(t)
	}
}

// agentKilledWhileItBecomesFull: in force is the last wish that was acknowledged, or the one that nobody answered.
func (m *diskMesh) agentKilledWhileItBecomesFull(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	last, unanswered, wishes := m.attached(t), false, 0
	some, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			err := m.wish(ctx, !last)
			_, refused := errors.AsType[*api.Error](err)
			switch {
			case err == nil:
				last = !last
				if wishes++; wishes == 4 {
					close(some)
				}
			case !refused:
				unanswered = true
				return
			}
		}
	}()
	await(t, some)
	free := fill(t, m.nodeDir())
	m.kill(t, "host-a", "agent")
	<-done
	free()
	m.start(t, "host-a")
	if got := m.attached(t); got != last && !unanswered {
		t.Errorf("till is attached: %t; acknowledged was %t", got, last)
	}
	t.Logf("%d wishes fulfilled, one unanswered: %t", wishes, unanswered)
}

// everyRecordOnce waits until the server has what the node recorded; records are numbered without gaps, and what is sealed of them fits the
// counters.
func (m *diskMesh) everyRecordOnce(t *testing.T) {
	m.knock(t)
	eventually(t, 30*time.Second, "all records at the server", func() error {
		local, err := oracle.Records(filepath.Join(m.nodeDir(), "flows"))
		if err != nil {
			return err
		}
		var have []string
		if err := m.admin.Flows(t.Context(), api.FlowQuery{FlowFilter: api.FlowFilter{Limit: 100_000}}, func(e api.FlowEnvelope) error {
			have = append(have, fmt.Sprintf("%08d", e.Seq))
			return nil
		}); err != nil {
			return err
		}
		slices.Sort(have)
		if all := len(local); all < 40 || len(have) != all || len(slices.Compact(slices.Clone(have))) != all ||
			have[all-1] != fmt.Sprintf("%08d", all) {
			return fmt.Errorf("the node has %d records, the server %d, up to %s", all, len(have), slices.Max(append(have, "none")))
		}
		return nil
	})
	if books, err := oracle.ReadSealed(m.nodeDir()); err != nil || books.Seals == 0 {
		t.Errorf("the node's log does not prove itself: %+v, %v", books, err)
	}
}
