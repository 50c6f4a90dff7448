package verdict

import "github.com/culvert-net/culvert/plan"

// Measured is what an entry knows of its direction of a TCP connection; decision 0030. Times are the lowest 32 bits of State.RatesNS in
// ticks, but never 0.
type Measured struct {
	Known       bool   // NextSeq is
	NextSeq     uint32 // behind what was sent
	Retransmits uint32 // wire packets with bytes that had been sent before
	TimedSeq    uint32 // of the answering entry: what is being timed, and since when, 0 nothing; of the opening one: what was last
	TimedAt     uint32
	Handshake   uint32 // of the opening entry, ticks; 0: none was seen
	RTT         uint32 // of the answering entry, eight times what is smoothed; 0: never timed
}

const (
	tickShift = 10      // of nanoseconds
	timeAgain = 1 << 14 // ticks from one segment that is timed to the next
	timedMost = 1 << 28 // ticks
)

func (d *decision) tick() uint32 { return max(uint32(d.state.RatesNS>>tickShift), 1) }

// payload is how many bytes behind the transport header are the packet's.
func (p *ip) payload() uint32 { return uint32(p.length - p.head - p.header) }

// sends is where what a segment sends begins and ends, in sequence numbers.
func (p *ip) sends() (seq, end uint32) {
	seq = be32(p.transport()[tcpSequence:])
	end = seq + p.payload()
	for _, flag := range [...]uint8{tcpSYN, tcpFIN} {
		if p.flags&flag != 0 {
			end++
		}
	}
	return seq, end
}

// timeSYN begins to measure a new flow.
func (d *decision) timeSYN(f, other *Flow, p *ip) {
	if p.protocol != plan.ProtocolTCP {
		return
	}
	seq, end := p.sends()
	f.Measured = Measured{Known: true, NextSeq: end, TimedSeq: seq + 1, TimedAt: d.tick()}
	other.Measured = Measured{TimedSeq: seq + 1, TimedAt: d.tick()}
}

// pairOf is the other entry of a flow.
func (d *decision) pairOf(key FlowKey, f *Flow) (Flow, bool) {
	other, ok := d.state.Flows[f.Reverse]
	return other, ok && other.Reverse == key
}

// measure looks at a segment of a flow.
func (d *decision) measure(key FlowKey, f *Flow, p *ip) {
	if p.fragment != 0 || p.flags&tcpRST != 0 {
		return
	}
	m, opening, syn := &f.Measured, f.Flags&FlowOpening != 0, p.flags&tcpSYN != 0
	seq, end := p.sends()
	if p.flags&tcpACK != 0 && !opening {
		d.acknowledged(f, p)
	}
	if other, ok := d.pairOf(key, f); ok && p.flags&tcpACK != 0 && opening && !syn && f.TCPFlags&tcpACK == 0 &&
		other.TCPFlags&tcpSYN != 0 && m.Known && m.Handshake == 0 {
		m.Handshake = max(d.tick()-m.TimedAt, 1)
	}
	before := m.NextSeq
	switch {
	case seq == end:
	case !m.Known, syn && end != before: // the first one, or another connection's
		m.NextSeq, m.Known = end, true
		if opening && syn {
			d.time(key, f, seq+1, true)
		}
	default:
		again := int32(before - seq)
		if again > 0 {
			d.sentAgain(key, f, p, uint32(again))
		}
		if int32(end-before) > 0 {
			m.NextSeq = end
			if opening && again <= 0 && d.tick()-m.TimedAt >= timeAgain {
				d.time(key, f, end, false)
			}
		}
	}
}

// acknowledged takes a sample where an answer acknowledges what is timed (RFC 6298, 2).
func (d *decision) acknowledged(f *Flow, p *ip) {
	m, ack := &f.Measured, be32(p.transport()[tcpAcknowledged:])
	if f.Proxy != 0 && p.flags&tcpSYN == 0 {
		ack = f.unshifted(ack)
	}
	if m.TimedAt == 0 || int32(ack-m.TimedSeq) < 0 {
		return
	}
	took := min(d.tick()-m.TimedAt, timedMost)
	m.TimedSeq, m.TimedAt = 0, 0
	if m.RTT == 0 {
		m.RTT = max(8*took, 1)
	} else {
		m.RTT += took - m.RTT/8
	}
}

// time begins to time what the opener has sent, up to a sequence number; anew: whatever else was timed.
func (d *decision) time(key FlowKey, f *Flow, seq uint32, anew bool) {
	f.Measured.TimedSeq, f.Measured.TimedAt = seq, d.tick()
	if other, ok := d.pairOf(key, f); ok && (anew || other.Measured.TimedAt == 0) {
		other.Measured.TimedSeq, other.Measured.TimedAt = seq, d.tick()
		d.state.Flows[f.Reverse] = other
	}
}

// sentAgain counts the packets with some of the bytes that were sent before; what of them is acknowledged nobody knows.
func (d *decision) sentAgain(key FlowKey, f *Flow, p *ip, bytes uint32) {
	n := uint32(1)
	if d.packets > 1 {
		n = (min(bytes, p.payload()) + uint32(p.segment) - 1) / uint32(p.segment)
	}
	f.Measured.Retransmits += n
	if other, ok := d.pairOf(key, f); ok && f.Flags&FlowOpening != 0 {
		other.Measured.TimedSeq, other.Measured.TimedAt = 0, 0
		d.state.Flows[f.Reverse] = other
	}
}
