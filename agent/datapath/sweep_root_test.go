package datapath

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/netlab"
)

// bootTime is that far from now.
func bootTime(t *testing.T, after time.Duration) time.Duration {
	t.Helper()
	now, err := BootTime()
	if err != nil {
		t.Fatal(err)
	}
	return now + after
}

// sweep sweeps as if it were later.
func (h *meshHost) sweep(t *testing.T, after time.Duration) Swept {
	t.Helper()
	var swept Swept
	if err := h.Do(func() (err error) { // its prompts go out of this host's interfaces
		swept, err = h.dp.Sweep(t.Context(), bootTime(t, after))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return swept
}

// expire is the sweep of a later time, as far as its marks.
func (h *meshHost) expire(t *testing.T) {
	t.Helper()
	h.markOver(t)
	flows, err := h.dp.Flows(t.Context())
	if err != nil || len(flows) == 0 {
		t.Fatalf("%d flows, %v", len(flows), err)
	}
	for _, f := range flows {
		if f.Flags()&bpf.FlowExpired == 0 {
			t.Fatalf("not marked: %+v", f)
		}
	}
}

// markOver marks what did not move meanwhile.
func (h *meshHost) markOver(t *testing.T) {
	t.Helper()
	l, err := h.dp.look(t.Context(), bootTime(t, time.Hour), false, ledger{})
	if err == nil {
		err = h.dp.mark(l.marks())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Flows end when their time is over, once, with final counters; what is used goes on.
func TestSweep(t *testing.T) {
	m := newMesh(t)
	ctx := t.Context()
	exchange(t, m.cart, m.shelf, "10.0.1.6:80", ":80", 100)
	near, far := connect(t, m.cart, m.ledger, "10.0.1.200:443", ":8443")
	if err := errors.Join(send(near, []byte("hello")), receive(far, []byte("hello"))); err != nil {
		t.Fatal(err)
	}
	if swept := m.a.sweep(t, 0); len(swept.Removed) != 0 || swept.Left != 4 {
		t.Fatalf("swept %+v at once", swept)
	}
	swept := m.a.sweep(t, 3*time.Minute) // after UDP's time, before TCP's
	if len(swept.Removed) != 1 || swept.Left != 2 {
		t.Fatalf("swept %+v", swept)
	}
	if f := swept.Removed[0]; f.Opening.Key.Protocol != 17 || f.Opening.Packets != 1 || f.Opening.Id != f.Reply.Id ||
		f.Reply.Packets != 1 || f.Half {
		t.Errorf("removed %+v", f)
	}
	if err := errors.Join(send(near, []byte("again")), receive(far, []byte("again"))); err != nil {
		t.Errorf("the TCP flow after the sweep: %v", err)
	}
	if err := errors.Join(near.Close(), far.Close()); err != nil {
		t.Fatal(err)
	}
	netlab.Eventually(t, patience, func() bool {
		flows, err := m.a.dp.Flows(ctx)
		return err == nil && len(flows) == 1 && flows[0].Flags()&bpf.FlowClosed != 0
	}, "the TCP flow is closed")
	if swept := m.a.sweep(t, 5*time.Second); len(swept.Removed) != 0 {
		t.Errorf("a closed flow went too early: %+v", swept)
	}
	if swept := m.a.sweep(t, 11*time.Second); len(swept.Removed) != 1 || swept.Left != 0 {
		t.Errorf("swept %+v after the flow was closed", swept)
	}
}

// Both flows that ran out and flows that were cut are marked before they are removed; records tell them apart.
func TestOverIsNotRevoked(t *testing.T) {
	m := newMesh(t)
	exchange(t, m.cart, m.shelf, "10.0.1.6:80", ":80", 100)
	gone := m.a.sweep(t, 3*time.Minute).Removed
	if len(gone) != 1 || gone[0].record().Dead {
		t.Errorf("a flow that ran out: %+v", gone)
	}
	near, _ := connect(t, m.cart, m.ledger, "10.0.1.200:443", ":8443")
	m.generation++
	cut := m.plan(m.a)
	cut.Services = nil
	m.applyPlan(m.a, cut)
	netlab.Eventually(t, patience, func() bool {
		_ = send(near, []byte("x")) // refused, sooner or later
		flows, err := m.a.dp.Flows(t.Context())
		return err == nil && len(flows) == 1 && flows[0].record().Dead
	}, "the flow is cut")
	gone = m.a.sweep(t, 0).Removed
	if len(gone) != 1 || !gone[0].record().Dead {
		t.Errorf("a flow that was cut: %+v", gone)
	}
}

// dialFrom dials from a port of the workload's own choice.
func (w *workload) dialFrom(t *testing.T, network string, port uint16, to string) net.Conn {
	t.Helper()
	local := net.Addr(net.TCPAddrFromAddrPort(netip.AddrPortFrom(w.address, port)))
	if network == "udp4" {
		local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(w.address, port))
	}
	var c net.Conn
	if err := w.Do(func() (err error) {
		c, err = (&net.Dialer{LocalAddr: local, Timeout: patience * netlab.Slowness()}).Dial(network, to)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// The ports of a flow whose time is over can be used at once, on both nodes, without a packet lost: UDP goes on, the middle
// of a TCP connection is reset, and a new connection opens.
func TestExpiredPortsAreUsedAgain(t *testing.T) {
	m := newMesh(t)
	var pc net.PacketConn
	var ln net.Listener
	if err := m.ledger.Do(func() (err error) {
		if pc, err = net.ListenPacket("udp4", ":8443"); err != nil {
			return err
		}
		ln, err = net.Listen("tcp4", ":8443")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	defer ln.Close()
	echo(pc)
	u := m.cart.dialFrom(t, "udp4", 5000, "10.0.1.200:443")
	for i := range byte(3) {
		if err := errors.Join(send(u, []byte{i}), receive(u, []byte{i})); err != nil {
			t.Fatalf("datagram %d: %v", i, err)
		}
		m.a.expire(t)
		m.b.expire(t)
	}
	for range 3 {
		near := m.cart.dialFrom(t, "tcp4", 5000, "10.0.1.200:443")
		far, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(send(near, []byte("x")), receive(far, []byte("x"))); err != nil {
			t.Fatal(err)
		}
		m.a.expire(t)
		m.b.expire(t)
		for _, c := range []net.Conn{near, far} {
			if err := send(c, []byte("y")); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a read on %s: %v, want a reset", c.LocalAddr(), err)
			}
			c.Close()
		}
	}
	for _, h := range []*meshHost{m.a, m.b} {
		for _, hook := range []bpf.Hook{bpf.HookWorkload, bpf.HookTunnel} {
			if n := h.counter(t, hook, bpf.ReasonFlowRevoked); n != 0 {
				t.Errorf("host %s, hook %s: %d packets FLOW_REVOKED", h.Name, hook, n)
			}
		}
	}
}

// What a packet removes comes to records with both directions' final counters, as what a sweep removes does.
func TestRemovedByPackets(t *testing.T) {
	m := newMesh(t)
	s := NewSource(m.a.dp)
	defer run(t, s)()
	var pc net.PacketConn
	if err := m.shelf.Do(func() (err error) { pc, err = net.ListenPacket("udp4", ":80"); return err }); err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	echo(pc)
	c := m.cart.dialFrom(t, "udp4", 5000, "10.0.1.6:80")
	talk := func() {
		t.Helper()
		if err := errors.Join(send(c, []byte("hello")), receive(c, []byte("hello"))); err != nil {
			t.Fatal(err)
		}
	}
	talk()
	talk()
	m.a.expire(t)
	talk()
	var gone []flow.Flow
	netlab.Eventually(t, patience, func() bool {
		err := s.Flows(t.Context(), func(f flow.Flow) bool {
			if f.Removed {
				gone = append(gone, f)
			}
			return true
		})
		return err == nil && len(gone) > 0
	}, "the flow that made way")
	f := gone[0]
	if len(gone) != 1 || f.Dead || !f.Closed || f.Packets != 2 || f.ReplyPackets != 2 || f.Bytes != 66 || f.Opening.SrcPort != 5000 ||
		f.Rewritten != f.Opening || f.Hook != flow.HookWorkload || f.ENI != m.cart.number {
		t.Errorf("removed %+v", gone)
	}
}

// run starts a source and returns what ends it.
func run(t *testing.T, s *Source) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Sweeps that race with packets, which remove flows as well: every packet that was let through is in the counters of exactly
// one flow, and no flow is told of twice.
func TestSweepsRaceWithPackets(t *testing.T) {
	m := newMesh(t)
	s := NewSource(m.a.dp)
	defer run(t, s)()
	var pc net.PacketConn
	if err := m.shelf.Do(func() (err error) { pc, err = net.ListenPacket("udp4", ":80"); return err }); err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	echo(pc)
	c := m.cart.dialFrom(t, "udp4", 5000, "10.0.1.6:80")
	sent := make(chan error, 1)
	go func() {
		buf := make([]byte, 8)
		for i := range 20_000 {
			if err := send(c, []byte{byte(i)}); err != nil {
				sent <- err
				return
			}
			// An answer that comes just after its flow's end is refused: nobody waits for it.
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, _ = c.Read(buf)
		}
		sent <- nil
	}()
	total := map[uint64]flow.Flow{}
	collect := func() {
		if err := s.Flows(t.Context(), func(f flow.Flow) bool {
			switch old := total[f.ID]; {
			case !old.Removed:
				total[f.ID] = f
			case f.Removed:
				t.Errorf("told twice: %+v, %+v", old, f)
			}
			return true
		}); err != nil {
			t.Error(err)
		}
	}
	for sweeping := true; sweeping; {
		select {
		case err := <-sent:
			if err != nil {
				t.Fatal(err)
			}
			sweeping = false
		default:
			for range 10 { // packets remove these
				m.a.markOver(t)
			}
			if _, err := s.sweepAt(t.Context(), bootTime(t, time.Hour)); err != nil {
				t.Fatal(err)
			}
			collect()
		}
	}
	netlab.Eventually(t, patience, func() bool {
		collect()
		var packets, want uint64
		for _, f := range total {
			packets += f.Packets + f.ReplyPackets
		}
		want = m.a.counter(t, bpf.HookWorkload, bpf.ReasonForwarded) + m.a.counter(t, bpf.HookTunnel, bpf.ReasonForwarded)
		t.Logf("%d packets in %d flows, %d were let through", packets, len(total), want)
		return packets == want
	}, "every packet in a flow")
}

// A packet and the sweep remove one entry each: the flow is told of once, with the counters of both, whoever tells first.
func TestRemovedByBoth(t *testing.T) {
	for name, event := range map[string]func(s *Source, half *Flow, e *bpf.Event){
		"sweep first": func(s *Source, half *Flow, e *bpf.Event) { s.joinLocked(half); s.event(e) },
		"event first": func(s *Source, half *Flow, e *bpf.Event) { s.event(e); s.joinLocked(half) },
	} {
		d := openTable(t, 64)
		now := bootTime(t, 0)
		fill(t, d, 1, now, func(_ int, open, reply *bpf.Flow) { open.Packets, reply.Packets = 5, 7 })
		l, err := d.look(t.Context(), now+time.Hour, false, ledger{})
		if err != nil || len(l.over) != 1 {
			t.Fatal(len(l.over), err)
		}
		if err := d.mark(l.marks()); err != nil {
			t.Fatal(err)
		}
		taken := []bpf.FlowRemoval{{Key: l.over[0].Reply.Key, Id: l.over[0].ID()}}
		if err := bpf.RemoveFlows(d.coll.Programs[bpf.ABIProgRemoveFlows], taken); err != nil || taken[0].Removed != 1 {
			t.Fatal(taken, err)
		}
		swept := Swept{Left: 1}
		if err := d.remove(l.over, &swept); err != nil || len(swept.Removed) != 1 || !swept.Removed[0].Half || swept.Left != 0 {
			t.Fatalf("%s: %+v, %v", name, swept, err)
		}
		e := bpf.Event{Kind: uint8(bpf.EventRemoved), FlowId: taken[0].Id, Packets: taken[0].Packets, Flags: taken[0].Flags}
		e.Key.Vpc, e.Key.View, e.Key.Protocol = taken[0].Key.Vpc, taken[0].Key.View, taken[0].Key.Protocol
		s := NewSource(d)
		event(s, &swept.Removed[0], &e)
		if len(s.removed) != 1 || len(s.partial) != 0 {
			t.Fatalf("%s: %+v removed, %+v waits", name, s.removed, s.partial)
		}
		if f := s.removed[0]; f.Packets != 5 || f.ReplyPackets != 7 || !f.Removed || f.Dead {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// A pinned table stays as it was made, on demand or in advance.
func TestFlowTableOnDemand(t *testing.T) {
	cfg := testConfig(t)
	for _, onDemand := range []bool{true, false} {
		cfg.OnDemand = onDemand
		d, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.coll.Maps[mapFlows].Flags() & unix.BPF_F_NO_PREALLOC; got == 0 {
			t.Errorf("asked for on demand %v: entries are made in advance", onDemand)
		}
		d.Close()
	}
	if err := RemovePins(cfg.PinPath); err != nil {
		t.Fatal(err)
	}
	d, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Remove()
	if got := d.coll.Maps[mapFlows].Flags() & unix.BPF_F_NO_PREALLOC; got != 0 {
		t.Error("made on demand, want in advance")
	}
}
