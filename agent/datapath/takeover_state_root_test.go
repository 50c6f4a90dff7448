package datapath

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/netlab"
)

var errStopped = errors.New("the process dies here")

// Entries, counters, losses and refusals are the same on the other side, both ways; nothing passes between the downgrade and the
// older agent's plan; and a node that opened its new programs reads the entries of before until it takes them over.
func TestTakeoverKeepsAll(t *testing.T) {
	m, open := quietMesh(t)
	h := m.a
	before := h.state(t)
	done := h.downgrade(t)
	if done.Entries != len(before.flows) || done.Left != 0 {
		t.Errorf("downgrade told of %+v, want %d entries", done, len(before.flows))
	}
	checkClosed(t, m)
	a := h.openOld(t, m.plan(h))
	old := a.entries()
	if len(old) != len(before.flows) {
		t.Errorf("%d entries in schema 2, want %d", len(old), len(before.flows))
	}
	for _, f := range old {
		key, up, ok := flow2Up(&f.Key, &f)
		if up = common(up); !ok || up != before.flows[key] {
			t.Errorf("entry %+v of schema 2, was %+v", f, before.flows[key])
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	h.upgrade(t)
	before.check(t, "before the takeover", h.state(t))
	if g, err := h.dp.Generation(); err != nil || g != m.generation {
		t.Errorf("generation %d before the takeover, %v; want that of schema 2, %d", g, err, m.generation)
	}
	if swept, err := h.dp.Sweep(t.Context(), 1<<62); err != nil || len(swept.Removed) > 0 {
		t.Errorf("swept before the takeover: %+v, %v", swept, err)
	}
	m.applyPlan(h, m.plan(h))
	before.check(t, "after the takeover", h.state(t))
	checkRefusal(t, m)
	stillThere(t, open)
	reconcile(t, m)
	now, err := BootTime()
	if err != nil {
		t.Fatal(err)
	}
	// Established connections may be silent for longer than ones that nobody answered.
	if swept, err := h.dp.Sweep(t.Context(), now+90*time.Second); err != nil || len(swept.Removed) > 0 {
		t.Errorf("swept after 90 s of silence: %+v, %v", swept, err)
	}
}

// checkClosed: a packet from cart to desk ends with NO_STATE, counted in schema 2.
func checkClosed(t *testing.T, m *mesh) {
	t.Helper()
	seen := m.desk.Exec("cat", "/proc/net/snmp")
	if err := send(mustDial(t, m.cart, "10.0.1.7:9"), []byte("x")); err != nil {
		t.Fatal(err)
	}
	counters, err := ebpf.LoadPinnedMap(filepath.Join(versionDir(m.a.cfg.PinPath, 2), "maps", mapCounters), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer counters.Close()
	key := bpf.CounterKey{Reason: uint16(bpf.ReasonNoState), Hook: uint8(bpf.HookWorkload)}
	netlab.Eventually(t, patience, func() bool {
		var per []bpf.Counter
		err := counters.Lookup(&key, &per)
		return err == nil && slices.ContainsFunc(per, func(c bpf.Counter) bool { return c.Packets > 0 })
	}, "what comes between the downgrade and the older agent's plan is refused with NO_STATE")
	if now := m.desk.Exec("cat", "/proc/net/snmp"); now != seen {
		t.Errorf("between the downgrade and the older agent's plan something passed: %s\n%s", seen, now)
	}
}

// checkRefusal: the one refusal of quietMesh is drained once.
func checkRefusal(t *testing.T, m *mesh) {
	t.Helper()
	n := 0
	for range 2 {
		refusals, err := m.a.dp.DrainRefusals(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range refusals {
			if bpf.Reason(r.Key.Reason) == bpf.ReasonNoDestination {
				n++
				if r.Value.Packets != 1 || r.Value.Bytes != 38 || bpf.Addr(r.Key.Saddr) != m.cart.address {
					t.Errorf("refusal %+v", r)
				}
			}
		}
	}
	if n != 1 {
		t.Errorf("%d refusals, want the one of before", n)
	}
}

// What packets change after the first copy is on the other side: entries opened, counted on, closed, and removed.
func TestTakeoverSeesChanges(t *testing.T) {
	m, open := quietMesh(t)
	h := m.a
	m.old(h)
	var want state
	late := []net.Conn{}
	h.cfg.step = func(step string) error {
		switch step {
		case "copied":
			near, far := connect(t, m.desk, m.cart, "10.0.1.5:81", ":81")
			late = append(late, near, far)
			stillThere(t, open)
			removeEntry(t, h, open[6])
			open = open[:6]
		case "settled":
			want = rawState(t, h)
		}
		return nil
	}
	h.upgrade(t)
	m.applyPlan(h, m.plan(h))
	now := h.state(t)
	differences(t, "flow entry", want.flows, now.flows)
	if len(now.flows) == 0 {
		t.Error("there are no flow entries")
	}
	stillThere(t, append(open, late...))
}

// rawState are the entries of schema 2, converted.
func rawState(t *testing.T, h *meshHost) state {
	t.Helper()
	s := state{flows: map[bpf.FlowKey]bpf.Flow{}}
	m, err := ebpf.LoadPinnedMap(filepath.Join(versionDir(h.cfg.PinPath, 2), "maps", mapFlows), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := each(t.Context(), m, func(k *bpf.FlowKey, f *flow2) error {
		if key, up, ok := flow2Up(k, f); ok {
			s.flows[key] = common(up)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// removeEntry removes the entries of a connection's flow from schema 2's table, as a packet does that finds it over.
func removeEntry(t *testing.T, h *meshHost, c net.Conn) {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(versionDir(h.cfg.PinPath, 2), "maps", mapFlows), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	port := bpf.NetPort(uint16(c.LocalAddr().(*net.TCPAddr).Port))
	var keys []bpf.FlowKey
	if err := each(t.Context(), m, func(k *bpf.FlowKey, _ *flow2) error {
		if k.Sport == port || k.Dport == port {
			keys = append(keys, *k)
		}
		return nil
	}); err != nil || len(keys) == 0 {
		t.Fatalf("no entries of port %d: %v", bpf.Port(port), err)
	}
	for _, k := range keys {
		if err := m.Delete(k); err != nil {
			t.Fatal(err)
		}
	}
}

// A takeover that ends anywhere is completed by the next agent, or taken back by it: no flow is lost, nothing counts twice.
func TestTakeoverInterrupted(t *testing.T) {
	steps := map[string][]bool{
		"copied": {false}, "replaced": {true, false}, "stopped": {false}, "settled": {true}, "pinned": {false},
		"committed": {true, false}, "carried": {true},
	}
	m, open := quietMesh(t)
	h := m.a
	before := h.state(t)
	refuse := func(at string) func(string) error {
		return func(step string) error {
			if step == at {
				return errStopped
			}
			return nil
		}
	}
	for step, ways := range steps {
		for _, again := range ways { // the same way again, or back at once
			h.cfg.step = refuse(step)
			if err := h.Do(func() error {
				_, err := Downgrade(context.Background(), h.cfg, 2)
				return err
			}); err == nil {
				t.Fatalf("downgrade up to %s: it came to its end", step)
			}
			h.cfg.step = nil
			if again {
				m.old(h)
				h.cfg.step = refuse(step)
				h.upgrade(t)
				if err := h.Do(func() error { _, err := h.dp.Apply(context.Background(), m.plan(h)); return err }); !errors.Is(err, errStopped) {
					t.Fatalf("takeover up to %s: %v", step, err)
				}
				if err := h.dp.Close(); err != nil {
					t.Fatal(err)
				}
				h.cfg.step = nil
			}
			h.upgrade(t)
			m.applyPlan(h, m.plan(h))
			m.schema(h, bpf.Version)
			before.check(t, "ended at "+step, h.state(t))
		}
	}
	stillThere(t, open)
	checkRefusal(t, m)
	reconcile(t, m)
}

// An older agent that was put in place without a downgrade begins with no flows. The newer one that comes back takes over
// its flows, not those that it left itself.
func TestTakeoverWithoutDowngrade(t *testing.T) {
	for name, noTCX := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			m, stale := quietMesh(t, func(c *Config) { c.noTCX = noTCX })
			h := m.a
			if err := h.dp.Close(); err != nil {
				t.Fatal(err)
			}
			a := h.openOldFresh(t, m)
			near, far := connect(t, m.cart, m.desk, "10.0.1.7:82", ":82")
			live := a.entries()
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			h.upgrade(t)
			m.applyPlan(h, m.plan(h))
			m.schema(h, bpf.Version)
			if now := h.state(t); len(now.flows) != len(live) {
				t.Errorf("%d entries, want the %d of schema 2", len(now.flows), len(live))
			}
			stillThere(t, []net.Conn{near, far})
			for _, c := range stale {
				c.Close()
			}
			attached, err := h.attached()
			if want := 2*len(h.workloads) + 3; err != nil || len(attached) != want {
				t.Errorf("%d attachments, want %d: %v", len(attached), want, err)
			}
			for _, a := range attached {
				if !a.First {
					t.Errorf("%+v is not first", a)
				}
			}
		})
	}
}

// openOldFresh starts an agent of schema 2 that knows nothing of later ones: without passages.
func (h *meshHost) openOldFresh(t *testing.T, m *mesh) *agent2 {
	t.Helper()
	all := passages
	passages = nil
	defer func() { passages = all }()
	a := h.openOld(t, m.plan(h))
	if err := h.Do(func() error {
		err := errors.Join(a.Secure(h.tunnel, AtTunnel), a.Secure(h.link, AtHost))
		for _, w := range h.workloads {
			err = errors.Join(err, a.Secure(w.ifindex, AtWorkload))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return a
}

// A connection that the first plan does not have any more is cut, at ends that are silent too: every entry is judged again,
// whatever the generations say.
func TestTakeoverJudges(t *testing.T) {
	m, open := quietMesh(t)
	h := m.a
	m.old(h)
	stillThere(t, open) // with a packet each gets the generation in force
	h.upgrade(t)
	p := m.plan(h)
	p.Grants, p.GrantTargets, p.Services = nil, nil, nil
	m.applyPlan(h, p)
	if err := open[2].SetDeadline(time.Now().Add(patience * netlab.Slowness())); err != nil {
		t.Fatal(err)
	}
	if _, err := open[2].Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a read of what was connected: %v, want a reset", err)
	}
	stillThere(t, open[4:])
}

// What cannot be downgraded is refused, and nothing changes.
func TestDowngradeRefuses(t *testing.T) {
	m, open := quietMesh(t)
	h := m.a
	before := pins(t, h)
	var refused *api.Error
	if _, err := Downgrade(t.Context(), h.cfg, 7); !errors.As(err, &refused) || refused.Field != "--schema" || refused.Remedy == "" {
		t.Errorf("downgrade to an unknown schema: %v", err)
	}
	if after := pins(t, h); !slices.Equal(before, after) {
		t.Errorf("pins before %v, after %v", before, after)
	}
	stillThere(t, open)
	if _, err := Downgrade(t.Context(), testConfig(t), 2); err == nil || !strings.Contains(err.Error(), "nothing to downgrade") {
		t.Errorf("downgrade of nothing: %v", err)
	}
}

// Tables of the next schema are at least as large as those of before.
func TestTakeoverKeepsRoom(t *testing.T) {
	m, open := quietMesh(t, func(c *Config) { c.Sizes.Flows = 8192 })
	h := m.a
	m.old(h)
	h.cfg.Sizes.Flows, h.cfg.Sizes.Counters = 64, 8
	h.upgrade(t)
	m.applyPlan(h, m.plan(h))
	if n := h.dp.FlowEntries(); n != 8192 {
		t.Errorf("room for %d entries, want as before: 8192", n)
	}
	m.old(h)
	h.cfg.Sizes.Flows = 16384
	h.upgrade(t)
	m.applyPlan(h, m.plan(h))
	if n := h.dp.FlowEntries(); n != 16384 {
		t.Errorf("room for %d entries, want as configured: 16384", n)
	}
	stillThere(t, open)
}

// Interfaces come and go while an agent has opened its programs and not applied its plan.
func TestTakeoverOfInterfaces(t *testing.T) {
	m, open := quietMesh(t)
	h := m.a
	m.old(h)
	h.upgrade(t)
	m.secure(h, m.cart.ifindex, AtWorkload)
	m.secure(h, h.tunnel, AtTunnel)
	if attached, err := h.attached(); err != nil || len(attached) != 2*len(h.workloads)+3 {
		t.Errorf("attached before the takeover: %+v, %v", attached, err)
	}
	stillThere(t, open)
	if err := h.Do(func() error { return h.dp.Detach(m.vault.ifindex, AtWorkload) }); err != nil {
		t.Fatal(err)
	}
	h.DeleteLink("cvdesk")
	if attached, err := h.attached(); err != nil || len(attached) != 5 {
		t.Errorf("attached after two interfaces went: %+v, %v", attached, err)
	}
	h.workloads = slices.DeleteFunc(h.workloads, func(w *workload) bool { return w != m.cart })
	late := m.workload(h, "late", shop, "10.0.1.77", 99)
	m.applyPlan(h, m.plan(h))
	m.schema(h, bpf.Version)
	stillThere(t, open[:2])
	transfer(t, late, m.cart, "10.0.1.5:83", ":83", 1000)
}

func mustDial(t *testing.T, w *workload, to string) (c net.Conn) {
	t.Helper()
	if err := w.Do(func() (err error) { c, err = net.Dial("udp4", to); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// What a packet removed while no agent read events has its final counters in a record of the next schema's agent.
func TestTakeoverOfEvents(t *testing.T) {
	m, open := quietMesh(t)
	h := m.a
	m.old(h)
	near := open[6].(*net.TCPConn)
	if err := errors.Join(near.SetLinger(0), near.Close()); err != nil { // a RST; its port is free
		t.Fatal(err)
	}
	var before bpf.Flow
	for _, f := range rawState(t, h).flows {
		if f.Key.Sport == bpf.NetPort(uint16(near.LocalAddr().(*net.TCPAddr).Port)) && f.Key.SideOf() == bpf.ViewWorkload {
			before = f
		}
	}
	if before.Packets == 0 || bpf.FlowFlag(before.Flags)&bpf.FlowClosed == 0 {
		t.Fatalf("entry of the connection that was reset: %+v", before)
	}
	if err := m.cart.Do(func() error { // a SYN on a flow that is closed opens another
		c, err := (&net.Dialer{LocalAddr: near.LocalAddr(), Timeout: patience * netlab.Slowness()}).Dial("tcp4", "10.0.1.7:80")
		if err == nil {
			err = c.Close()
		}
		return err
	}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("dial with nobody there: %v", err)
	}
	h.upgrade(t)
	s := NewSource(h.dp)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	m.applyPlan(h, m.plan(h))
	var removed []flow.Flow
	netlab.Eventually(t, patience, func() bool {
		return s.Flows(ctx, func(f flow.Flow) bool {
			if f.Removed && f.ID == before.Id && f.View == flow.View(bpf.ViewWorkload) {
				removed = append(removed, f)
			}
			return true
		}) == nil && len(removed) > 0
	}, "the flow that was removed is read")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if c := removed[0].Counts; len(removed) != 1 || c.Packets != before.Packets || c.Bytes != before.Bytes {
		t.Errorf("removed %+v, want once with %d packets, %d bytes", removed, before.Packets, before.Bytes)
	}
}
