package bpf

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf/internal/frame"
)

// conversation is one TCP connection from cart to shelf at cart's node, whose clock stands where the test puts it.
type conversation struct {
	*node
	segment uint32 // of offloaded packets that cart sends; 0: none are
}

func newConversation(t *testing.T) *conversation {
	n := newNode(t, 1, func(spec *ebpf.CollectionSpec) {
		if err := spec.Variables[ABIVarRateClockStands].Set(uint32(1)); err != nil {
			t.Fatal(err)
		}
	})
	n.eni(consumer, cart, 11)
	n.address(consumer, shelf, AddressWorkload, 12)
	return &conversation{node: n}
}

func (c *conversation) at(ms int) {
	c.t.Helper()
	if err := c.coll.Variables[ABIVarRateClockNs].Set(uint64(time.Hour) + uint64(ms)*uint64(time.Millisecond)); err != nil {
		c.t.Fatal(err)
	}
}

// out is what cart sends at a moment, back what shelf does.
func (c *conversation) out(ms int, flags uint8, seq, ack uint32, payload int) {
	c.t.Helper()
	c.at(ms)
	p := frame.TCP(cart+":40000", shelf+":80", flags).Payload(payload)
	p.Seq, p.Ack = seq, ack
	var ctx []any
	if c.segment != 0 {
		ctx = append(ctx, offloaded(c.segment))
	}
	c.workload(consumer, cart, sent(p, 11), ctx...).refused(c.t, ReasonForwarded)
}

func (c *conversation) back(ms int, flags uint8, seq, ack uint32, payload int) {
	c.t.Helper()
	c.at(ms)
	p := frame.TCP(shelf+":80", cart+":40000", flags).Payload(payload)
	p.Seq, p.Ack = seq, ack
	tunneled(c.node, p.Between(mesh, consumer, 0, consumer, 0)).refused(c.t, ReasonForwarded)
}

// wants checks what the flow remembers: times to two ticks, 0 for what it must not know.
func (c *conversation) wants(handshake, rtt time.Duration, again, answersAgain uint32) {
	c.t.Helper()
	var opening, answering Flow
	for _, f := range c.flows() {
		if FlowFlag(f.Flags)&FlowOpening != 0 {
			opening = f
		} else {
			answering = f
		}
	}
	near := func(what string, got, want time.Duration) {
		c.t.Helper()
		if want == 0 && got != 0 || max(got-want, want-got) > 2*Ticks(1) {
			c.t.Errorf("%s %v, want %v", what, got, want)
		}
	}
	near("handshake", Ticks(opening.Handshake), handshake)
	near("round trip", Ticks(answering.Rtt)/8, rtt)
	if opening.Retransmits != again || answering.Retransmits != answersAgain {
		c.t.Errorf("%d packets sent again and %d of answers, want %d and %d", opening.Retransmits, answering.Retransmits, again, answersAgain)
	}
	if opening.Rtt != 0 || answering.Handshake != 0 {
		c.t.Errorf("the opening entry has round trip %d, the other one handshake %d", opening.Rtt, answering.Handshake)
	}
}

const ms = time.Millisecond

// A connection as it should be: the SYN and its answer are the first sample, then one segment at a time, each weighing one in eight.
func TestTCPTimes(t *testing.T) {
	c := newConversation(t)
	c.out(0, frame.SYN, 1000, 0, 0)
	c.wants(0, 0, 0, 0)
	c.back(8, frame.SYN|frame.ACK, 5000, 1001, 0)
	c.wants(0, 8*ms, 0, 0)
	c.out(9, frame.ACK, 1001, 5001, 0)
	c.wants(9*ms, 8*ms, 0, 0)
	c.out(10, frame.ACK|frame.PSH, 1001, 5001, 100) // too soon after the SYN to be timed
	c.back(12, frame.ACK, 5001, 1101, 0)
	c.wants(9*ms, 8*ms, 0, 0)
	c.out(40, frame.ACK|frame.PSH, 1101, 5001, 100)
	c.out(60, frame.ACK|frame.PSH, 1201, 5001, 100) // one at a time
	c.back(62, frame.ACK, 5001, 1200, 0)            // not all of it
	c.wants(9*ms, 8*ms, 0, 0)
	c.back(64, frame.ACK, 5001, 1301, 400)
	c.wants(9*ms, 10*ms, 0, 0) // 7/8 of 8 and 1/8 of 24
	c.back(66, frame.ACK, 5401, 1301, 0)
	c.out(70, frame.FIN|frame.ACK, 1301, 5401, 0)
	c.back(72, frame.FIN|frame.ACK, 5401, 1302, 0)
	c.out(73, frame.ACK, 1302, 5402, 0)
	c.wants(9*ms, 10*ms, 0, 0)
}

// What was sent again is counted by packets, and its acknowledgement is no sample (Karn's rule).
func TestTCPSentAgain(t *testing.T) {
	c := newConversation(t)
	c.out(0, frame.SYN, 1000, 0, 0)
	c.out(1000, frame.SYN, 1000, 0, 0)
	c.back(1008, frame.SYN|frame.ACK, 5000, 1001, 0)
	c.back(1010, frame.SYN|frame.ACK, 5000, 1001, 0)
	c.out(1011, frame.ACK, 1001, 5001, 0)
	c.wants(1011*ms, 0, 1, 1) // the handshake took as long as it took
	c.out(1020, frame.ACK, 1001, 5001, 100)
	c.out(1220, frame.ACK, 1001, 5001, 200) // the first 100 again, and 100 more
	c.back(1225, frame.ACK, 5001, 1201, 0)
	c.wants(1011*ms, 0, 2, 1)
	c.out(1300, frame.ACK, 1201, 5001, 100)
	c.back(1305, frame.ACK, 5001, 1301, 100)
	c.wants(1011*ms, 5*ms, 2, 1)
	c.back(1400, frame.ACK, 5001, 1301, 100)
	c.wants(1011*ms, 5*ms, 2, 2)

	c.segment = 500 // four packets in one: three of them begin before what is new
	c.out(1500, frame.ACK, 1301, 5101, 1100)
	c.out(1700, frame.ACK, 1301, 5101, 2000)
	c.wants(1011*ms, 5*ms, 5, 2)
	c.out(1800, frame.ACK, 1801, 5101, 1500) // all of it
	c.wants(1011*ms, 5*ms, 8, 2)
	c.segment = 0
	c.out(1900, frame.RST, 7, 0, 0)
	c.wants(1011*ms, 5*ms, 8, 2)
}

// Sequence numbers go round; a connection that begins anew on a flow that nobody closed is no retransmission of the one before.
func TestTCPSequenceNumbersGoRound(t *testing.T) {
	c := newConversation(t)
	c.out(0, frame.SYN, ^uint32(0), 0, 0)
	c.back(4, frame.SYN|frame.ACK, ^uint32(10), 0, 0)
	c.out(5, frame.ACK, 0, ^uint32(9), 0)
	c.out(40, frame.ACK, 0, ^uint32(9), 100)
	c.back(44, frame.ACK, ^uint32(9), 100, 200)
	c.out(45, frame.ACK, 100, 190, 0)
	c.wants(5*ms, 4*ms, 0, 0)
	c.out(100, frame.SYN, 1<<31, 0, 0)
	c.back(112, frame.SYN|frame.ACK, 77, 1<<31+1, 0)
	c.out(113, frame.ACK, 1<<31+1, 78, 0)
	c.out(114, frame.ACK, 1<<31+1, 78, 50)
	c.wants(5*ms, 5*ms, 0, 0) // 7/8 of 4 and 1/8 of 12
}
