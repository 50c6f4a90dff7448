package datapath

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
)

// openTable is a datapath of which only the flow table matters.
func openTable(t *testing.T, flows uint32) *Datapath {
	t.Helper()
	needRoot(t)
	cfg := testConfig(t)
	cfg.PinPath, cfg.Sizes.Flows = "", flows
	d, err := Open(cfg)
	if err != nil {
		t.Fatalf("open: %+v", err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// While the table is nearly full, closed flows and unanswered ones go early, and nothing else does.
func TestNearlyFull(t *testing.T) {
	const closed, unanswered, others = 50, 50, 60
	d := openTable(t, 420)
	now := bootTime(t, 0)
	kinds := func(i int, open, reply *bpf.Flow) {
		if i < others {
			reply.Packets = 1
			return
		}
		if i%2 == 1 && i >= others+closed { // unanswered UDP
			return
		}
		open.Key.Protocol, reply.Key.Protocol = 6, 6
		open.TcpState, reply.TcpState = uint8(bpf.TCPSynSent), uint8(bpf.TCPSynSent)
		if i < others+closed {
			open.Key.View, reply.ReverseView = uint8(bpf.ViewProvider), uint8(bpf.ViewProvider)
			open.Flags |= uint16(bpf.FlowClosed)
			reply.Flags |= uint16(bpf.FlowClosed)
			open.TcpState, reply.TcpState = uint8(bpf.TCPTimeWait), uint8(bpf.TCPTimeWait)
			reply.Packets = 1
		}
	}
	sweep := func(after time.Duration) Swept {
		t.Helper()
		swept, err := d.Sweep(t.Context(), now+after)
		if err != nil {
			t.Fatal(err)
		}
		return swept
	}
	fill(t, d, others+closed, now, kinds) // 220 of 420 entries: there is room
	if swept := sweep(10 * time.Second); len(swept.Removed) != 0 || swept.Left != 2*(others+closed) {
		t.Fatalf("removed %d, left %d with room for all", len(swept.Removed), swept.Left)
	}
	fill(t, d, others+closed+unanswered, now, kinds) // 320
	if swept := sweep(500 * time.Millisecond); len(swept.Removed) != 0 {
		t.Errorf("removed %d at once", len(swept.Removed))
	}
	swept := sweep(2 * time.Second)
	if len(swept.Removed) != closed || swept.Left != 2*(others+unanswered) {
		t.Errorf("removed %d, left %d; want the %d closed ones gone", len(swept.Removed), swept.Left, closed)
	}
	for _, f := range swept.Removed {
		if f.Flags()&bpf.FlowClosed == 0 {
			t.Errorf("removed %+v", f)
		}
	}
	if swept := sweep(6 * time.Second); len(swept.Removed) != 0 {
		t.Errorf("removed %d though there is room again", len(swept.Removed))
	}
	fill(t, d, others+closed+unanswered, now, kinds)
	sweep(0)
	if swept := sweep(6 * time.Second); len(swept.Removed) != closed+unanswered || swept.Left != 2*others {
		t.Errorf("removed %d, left %d; want closed and unanswered ones gone", len(swept.Removed), swept.Left)
	}
}

// A sweep takes out so many flows at most, each once, and says that there may be more.
func TestSweepInPieces(t *testing.T) {
	const flows = maxSwept + 5000
	d := openTable(t, 2*flows)
	now := bootTime(t, 0)
	fill(t, d, flows, now, nil)
	seen := make(map[uint64]bool, flows)
	for i, want := range []Swept{{Left: 2 * 5000, More: true}, {}} {
		swept, err := d.Sweep(t.Context(), now+time.Hour)
		if err != nil || swept.Left != want.Left || swept.More != want.More {
			t.Fatalf("sweep %d: %d left, more: %t, %v; want %d, %t", i, swept.Left, swept.More, err, want.Left, want.More)
		}
		for _, f := range swept.Removed {
			if f.Half || f.Opening.Id != f.Reply.Id || seen[f.ID()] {
				t.Fatalf("removed %+v", f)
			}
			seen[f.ID()] = true
		}
	}
	if len(seen) != flows {
		t.Errorf("%d flows removed of %d", len(seen), flows)
	}
}

// A flow of which one entry is there is judged by that one.
func TestSweepOfOneEntry(t *testing.T) {
	d := openTable(t, 64)
	now := bootTime(t, 0)
	fill(t, d, 2, now, nil)
	flows, err := d.Flows(t.Context())
	if err != nil || len(flows) != 2 {
		t.Fatal(len(flows), err)
	}
	if err := errors.Join(d.coll.Maps[mapFlows].Delete(flows[0].Opening.Key), d.coll.Maps[mapFlows].Delete(flows[1].Reply.Key)); err != nil {
		t.Fatal(err)
	}
	if swept, err := d.Sweep(t.Context(), now); err != nil || len(swept.Removed) != 0 || swept.Left != 2 {
		t.Fatalf("%+v, %v", swept, err)
	}
	swept, err := d.Sweep(t.Context(), now+time.Hour)
	if err != nil || len(swept.Removed) != 2 || swept.Left != 0 {
		t.Fatalf("%+v, %v", swept, err)
	}
	for _, f := range swept.Removed {
		if f.Half || f.record().ID != f.ID() {
			t.Errorf("removed %+v, which is %+v", f, f.record())
		}
	}
}

// A flow that is used in one direction only is not over.
func TestOneWayFlow(t *testing.T) {
	d := openTable(t, 64)
	now := bootTime(t, 0)
	fill(t, d, 2, now, func(i int, open, reply *bpf.Flow) {
		if used := []*bpf.Flow{open, reply}[i]; used != nil {
			used.LastNs = uint64(now + time.Hour)
		}
	})
	if swept, err := d.Sweep(t.Context(), now+time.Hour); err != nil || len(swept.Removed) != 0 || swept.Left != 4 {
		t.Errorf("%+v, %v", swept, err)
	}
}

// The source asks for a sweep when the table is more than a quarter full, by what the last one left and what events tell.
func TestCrowdedTable(t *testing.T) {
	d := openTable(t, 16)
	s := NewSource(d)
	asked := func() bool {
		select {
		case <-s.crowd:
			return true
		default:
			return false
		}
	}
	fill(t, d, 1, bootTime(t, 0), nil)
	if err := s.Sweep(t.Context()); err != nil || asked() {
		t.Fatalf("asked for a sweep with 2 of 16 entries, or %v", err)
	}
	event := func(kind bpf.EventKind, reason bpf.Reason) bool {
		s.event(&bpf.Event{Kind: uint8(kind), Reason: uint16(reason), FlowId: 99})
		return asked()
	}
	for i, want := range []bool{false, true, true, true} {
		if got := event(bpf.EventOpen, bpf.ReasonForwarded); got != want {
			t.Errorf("after %d new flows, of 2 entries each: %t", i+1, got)
		}
	}
	for range 8 {
		event(bpf.EventRemoved, bpf.ReasonForwarded)
	}
	if event(bpf.EventOpen, bpf.ReasonForwarded) {
		t.Error("entries that packets removed count")
	}
	if event(bpf.EventRefused, bpf.ReasonNoGrant) || !event(bpf.EventRefused, bpf.ReasonFlowTableFull) {
		t.Error("FLOW_TABLE_FULL, and no other refusal, asks for a sweep")
	}
	s.crowded()
	start := time.Now()
	if !s.rest(t.Context(), 200*time.Millisecond) || time.Since(start) > 8*time.Second { // 10 s unless asked
		t.Errorf("rested for %s", time.Since(start))
	}
}

// More connections than the table has room for, one after the other, over closed flows that a provider keeps for a minute:
// each comes through.
func TestClosedFlowsMakeRoom(t *testing.T) {
	m := newMesh(t, func(c *Config) { c.Sizes.Flows = 64 })
	for _, h := range []*meshHost{m.a, m.b} {
		defer run(t, NewSource(h.dp))()
	}
	for range 80 {
		transfer(t, m.cart, m.ledger, "10.0.1.200:443", ":8443", 100)
	}
}

// An agent that comes with another size for the table, or over one whose entries an earlier version made in advance, keeps
// the table and every flow in it.
func TestFlowTableKeepsItsSize(t *testing.T) {
	m := newMesh(t, func(c *Config) {
		if err := oldTable(c.PinPath, 2048); err != nil {
			t.Fatal(err)
		}
	})
	near, far := connect(t, m.cart, m.ledger, "10.0.1.200:443", ":8443")
	flows := func() []Flow {
		t.Helper()
		all, err := m.a.dp.Flows(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatalf("%d flows, %v", len(all), err)
		}
		return all
	}
	id := flows()[0].ID()
	for _, entries := range []uint32{8192, 1024, 0} {
		for _, h := range []*meshHost{m.a, m.b} {
			old := h.dp
			h.cfg.Sizes.Flows = entries
			if err := h.Do(func() (err error) { h.dp, err = Open(h.cfg); return err }); err != nil {
				t.Fatalf("open with %d entries: %+v", entries, err)
			}
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			if n := h.dp.FlowEntries(); n != 2048 {
				t.Errorf("room for %d entries, want 2048", n)
			}
		}
		if err := errors.Join(send(near, []byte("x")), receive(far, []byte("x")), send(far, []byte("y")),
			receive(near, []byte("y"))); err != nil {
			t.Fatal(err)
		}
		if got := flows()[0].ID(); got != id {
			t.Errorf("flow %d, want %d", got, id)
		}
	}
}

// oldTable pins a flow table whose entries are made in advance.
func oldTable(pinPath string, entries uint32) error {
	spec, err := bpf.LoadABI()
	if err != nil {
		return err
	}
	dir := filepath.Join(pinPath, "v"+itoa(int(bpf.Version)), "maps")
	if err := errors.Join(mountBPFFS(pinPath), os.MkdirAll(dir, 0o700)); err != nil {
		return err
	}
	s := spec.Maps[mapFlows]
	s.MaxEntries, s.Flags = entries, 0
	m, err := ebpf.NewMap(s)
	if err != nil {
		return err
	}
	return errors.Join(m.Pin(filepath.Join(dir, mapFlows)), m.Close())
}
