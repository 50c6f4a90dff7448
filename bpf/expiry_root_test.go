package bpf

import (
	"encoding/binary"
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/culvert-net/culvert/bpf/internal/frame"
)

// opening are the opening entries, which tests of one flow at a time have one of.
func (n *node) opening() []Flow {
	n.t.Helper()
	return slices.DeleteFunc(slices.Collect(maps.Values(n.flows())), func(f Flow) bool {
		return FlowFlag(f.Flags)&FlowOpening == 0
	})
}

func (n *node) only() Flow {
	n.t.Helper()
	open := n.opening()
	if len(open) != 1 || len(n.flows()) != 2 {
		n.t.Fatalf("%d flows of %d entries, want one of two", len(open), len(n.flows()))
	}
	return open[0]
}

// mark gives both entries of a flow a flag and reports whether it did.
func (n *node) mark(f Flow, flag FlowFlag, last uint64) bool {
	n.t.Helper()
	marked, err := MarkFlows(n.coll.Programs["mark_flows"], []FlowMark{{Key: f.Key, Id: f.Id, Flag: uint32(flag), LastNs: last}})
	if err != nil {
		n.t.Fatal(err)
	}
	return marked == 1
}

// expire lets the time of the only flow be over.
func (n *node) expire() Flow {
	n.t.Helper()
	f := n.only()
	if !n.mark(f, FlowExpired, n.lastOf(f)) {
		n.t.Fatal("not marked")
	}
	for k, e := range n.flows() {
		if FlowFlag(e.Flags)&FlowExpired == 0 {
			n.t.Fatalf("%+v is not marked", k)
		}
	}
	return n.only()
}

func (n *node) lastOf(f Flow) uint64 { return max(f.LastNs, n.flows()[f.ReverseKey()].LastNs) }

// anew checks that the only flow is another one than this.
func (n *node) anew(old Flow) {
	n.t.Helper()
	if f := n.only(); f.Id == old.Id || FlowFlag(f.Flags)&(FlowExpired|FlowDead|FlowClosed) != 0 || f.Packets != 1 {
		n.t.Errorf("the flow is %+v, want a new one", f)
	}
}

// A flow whose time is over is as good as absent, whatever comes: what may open a flow does, the rest has none. At the
// provider only what opens it anew takes its entries away.
func TestExpired(t *testing.T) {
	a, b := pair(t)
	for name, c := range map[string]struct {
		node        *node
		first, next func() result
		reason      Reason // of next; FORWARDED: as the first of a new flow
		reset       bool
		left        int // entries
	}{
		"UDP": {a,
			func() result { return a.workload(consumer, cart, sent(frame.UDP(cart+":40000", shelf+":80"), 11)) },
			func() result { return a.workload(consumer, cart, sent(frame.UDP(cart+":40000", shelf+":80"), 11)) },
			ReasonForwarded, false, 0},
		"SYN": {a,
			func() result { return a.workload(consumer, cart, sent(syn(), 11)) },
			func() result { return a.workload(consumer, cart, sent(syn(), 11)) },
			ReasonForwarded, false, 0},
		"middle of a connection": {a,
			func() result { return a.workload(consumer, cart, sent(syn(), 11)) },
			func() result {
				return a.workload(consumer, cart, sent(frame.TCP(cart+":40000", endpoint+":443", frame.ACK), 11))
			},
			ReasonNoFlow, true, 0},
		"answer to the consumer": {a,
			func() result { return a.workload(consumer, cart, sent(syn(), 11)) },
			func() result {
				return tunneled(a, frame.TCP(ledger+":8443", cart+":40000", frame.SYN|frame.ACK).
					Between(mesh, provider, 0, consumer, number))
			},
			ReasonNoFlow, false, 0},
		"SYN to the provider": {b,
			func() result { return tunneled(b, toProvider()) },
			func() result { return tunneled(b, toProvider()) },
			ReasonForwarded, false, 0},
		"answer of the provider": {b,
			func() result { return tunneled(b, toProvider()) },
			func() result {
				return b.workload(provider, ledger, sent(frame.TCP(ledger+":8443", balancer+":40000", frame.ACK), 21))
			},
			ReasonNoFlow, true, 2},
		"middle of a connection to the provider": {b,
			func() result { return tunneled(b, toProvider()) },
			func() result {
				middle := toProvider()
				middle.Flags = frame.ACK
				return tunneled(b, middle)
			},
			ReasonNoFlow, false, 2},
		"SYN of the provider": {b,
			func() result { return tunneled(b, toProvider()) },
			func() result {
				return b.workload(provider, ledger, sent(frame.TCP(ledger+":8443", balancer+":40000", frame.SYN), 21))
			},
			ReasonNoFlow, true, 2},
	} {
		t.Run(name, func(t *testing.T) {
			prepare(t, a, b)
			c.first().refused(t, ReasonForwarded)
			old := c.node.expire()
			again := c.next()
			if c.reason == ReasonForwarded {
				again.refused(t, ReasonForwarded)
				c.node.anew(old)
				return
			}
			if again.outcome.Reason != uint32(c.reason) || len(c.node.flows()) != c.left {
				t.Errorf("%s and %d entries, want %s and %d", Reason(again.outcome.Reason), len(c.node.flows()), c.reason, c.left)
			}
			if (again.verdict == actRedirect) != c.reset {
				t.Errorf("verdict %d, want a RST: %t", again.verdict, c.reset)
			}
		})
	}
}

// An answer of the resolver that comes too late finds nothing.
func TestExpiredAtTheHost(t *testing.T) {
	a, _ := pair(t)
	a.address(consumer, resolver, AddressResolver, 0)
	a.workload(consumer, cart, sent(frame.UDP(cart+":40000", resolver+":53"), 11)).refused(t, ReasonForwarded)
	a.expire()
	answer := frame.UDP("0.0.0.1:53", cart+":40000").Between(mesh, 0, 0, consumer, 0)
	answer.SrcTag = 0
	a.run("from_host", fromHost(answer, hostMAC, dpMAC)).refused(t, ReasonHostNotAdmitted)
	if n := len(a.flows()); n != 0 {
		t.Errorf("%d entries left", n)
	}
}

// A packet of either direction between the sweep's look and its mark keeps the flow alive, and so does an id that is not
// the one seen.
func TestMarkKeepsWhatMoved(t *testing.T) {
	_, b := pair(t)
	tunneled(b, toProvider()).refused(t, ReasonForwarded)
	seen := b.only()
	last := b.lastOf(seen)
	if b.mark(seen, FlowExpired, last-1) {
		t.Error("marked though the opening direction moved")
	}
	b.workload(provider, ledger, sent(frame.TCP(ledger+":8443", balancer+":40000", frame.SYN|frame.ACK), 21)).refused(t, ReasonForwarded)
	if b.mark(seen, FlowExpired, last) {
		t.Error("marked though the answering direction moved")
	}
	other := seen
	other.Id++
	if b.mark(other, FlowExpired, b.lastOf(seen)) || b.mark(other, FlowDead, 0) {
		t.Error("marked though it is another flow")
	}
	if f := b.only(); FlowFlag(f.Flags)&(FlowExpired|FlowDead) != 0 {
		t.Errorf("flags %d", f.Flags)
	}
	reply := b.flows()[seen.ReverseKey()]
	if !b.mark(reply, FlowExpired, b.lastOf(seen)) {
		t.Error("not marked by the key of the answering entry")
	}
	b.expire()
}

// A revoked flow makes way for a SYN, which is judged anew; everything else stays refused until the sweep.
func TestRevokedOpensAgain(t *testing.T) {
	a, b := pair(t)
	tunneled(b, toProvider()).refused(t, ReasonForwarded)
	old := b.only()
	if !b.mark(old, FlowDead, 0) {
		t.Fatal("not marked")
	}
	middle := toProvider()
	middle.Flags = frame.ACK
	tunneled(b, middle).refused(t, ReasonFlowRevoked)
	tunneled(b, toProvider()).refused(t, ReasonForwarded)
	b.anew(old)
	b.mark(b.only(), FlowDead, 0)
	b.remove("grants", GrantKey{Vpc: consumer, Tag: number})
	tunneled(b, toProvider()).refused(t, ReasonNoGrant)
	if n := len(b.flows()); n != 2 {
		t.Errorf("%d entries left, want 2 that hold the port", n)
	}

	request := sent(frame.UDP(cart+":40000", shelf+":80"), 11)
	a.workload(consumer, cart, request).refused(t, ReasonForwarded)
	a.mark(a.only(), FlowDead, 0)
	a.workload(consumer, cart, request).refused(t, ReasonFlowRevoked)
}

// What makes way tells its final counters, each entry once.
func TestRemovedEvents(t *testing.T) {
	_, b := pair(t)
	tunneled(b, toProvider()).refused(t, ReasonForwarded)
	b.workload(provider, ledger, sent(frame.TCP(ledger+":8443", balancer+":40000", frame.SYN|frame.ACK).Payload(9), 21)).
		refused(t, ReasonForwarded)
	want := b.flows()
	b.expire()
	events, err := ringbuf.NewReader(b.coll.Maps["events"])
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	tunneled(b, toProvider()).refused(t, ReasonForwarded)
	for events.AvailableBytes() > 0 {
		rec, err := events.Read()
		if err != nil {
			t.Fatal(err)
		}
		var e Event
		if _, err := binary.Decode(rec.RawSample, binary.NativeEndian, &e); err != nil {
			t.Fatal(err)
		}
		if EventKind(e.Kind) != EventRemoved {
			continue
		}
		f, ok := want[e.FlowKey()]
		if !ok || e.FlowId != f.Id || e.Packets != f.Packets || e.Bytes != f.Bytes || e.TimeNs != f.LastNs ||
			FlowFlag(e.Flags) != FlowFlag(f.Flags)|FlowExpired {
			t.Errorf("event %+v of flow %+v", e, f)
		}
		delete(want, e.FlowKey())
	}
	if len(want) != 0 {
		t.Errorf("no event of %+v", want)
	}
}

// remove_flows takes out what is marked, once, and tells its final counters.
func TestRemoveFlows(t *testing.T) {
	_, b := pair(t)
	remove := func(f Flow) FlowRemoval {
		t.Helper()
		r := []FlowRemoval{{Key: f.Key, Id: f.Id}}
		if err := RemoveFlows(b.coll.Programs["remove_flows"], r); err != nil {
			t.Fatal(err)
		}
		return r[0]
	}
	tunneled(b, toProvider()).refused(t, ReasonForwarded)
	seen := b.only()
	if remove(seen).Removed != 0 {
		t.Error("a living flow was removed")
	}
	tunneled(b, toProvider()).refused(t, ReasonForwarded)
	f := b.expire()
	other := f
	other.Id++
	if remove(other).Removed != 0 {
		t.Error("another flow was removed")
	}
	want := FlowRemoval{
		Key: f.Key, Id: f.Id, Removed: 1, LastNs: f.LastNs, Packets: 2, Bytes: f.Bytes, Flags: f.Flags,
		TcpFlags: f.TcpFlags, TcpState: f.TcpState, Retransmits: 1, // the SYN
	}
	if got := remove(seen); got != want {
		t.Errorf("removed %+v, want %+v", got, want)
	}
	if got := remove(seen); got.Removed != 0 || len(b.flows()) != 1 {
		t.Errorf("removed twice: %+v; %d entries", got, len(b.flows()))
	}
}
