package verdict

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/culvert-net/culvert/plan"
)

// Limits of what is remembered of datagrams that come in fragments; decision 0012.
const (
	// FragmentsHeld is how many datagrams of one source are remembered; the next one takes the place of the oldest.
	FragmentsHeld = 64
	// FragmentIDBlocks is in how many blocks a pair of addresses uses up the ids of its fragments.
	FragmentIDBlocks = 16
	// FragmentIDsOpen are the ids per second of a pair, toward a target, that are open to all connections.
	FragmentIDsOpen = 1400
	// FragmentIDsKept are those that all connections have in parts.
	FragmentIDsKept = 480
	// FragmentIDsBurst is how many seconds' worth of either may be taken at once.
	FragmentIDsBurst = 2
	// FragmentTime is how long a first fragment is remembered, and how long no other datagram gets its id.
	FragmentTime = 30 * time.Second
)

const (
	fragmentHeader  = 8
	fragmentMore    = 0x2000
	fragmentOffset  = 0x1fff // of 8 bytes each
	fragmentIDSpace = 1 << 16

	promisedPorts = (plan.PortOpen - plan.PortSpare) / 2 // toward one target, to all connections together
)

// FragmentKey finds what the first fragment of a datagram said.
type FragmentKey struct {
	VPC      uint32
	Source   netip.Addr
	Dest     netip.Addr
	ID       uint32
	Tag      uint16 // number
	View     View
	IPv6     bool
	Protocol uint8
}

// Fragment is what the first fragment of a datagram said.
type Fragment struct {
	SinceNS    uint64
	ID         uint32 // after the translation
	SourcePort uint16
	DestPort   uint16
	End        uint16 // bytes of the datagram that it holds
}

type fragmentSource struct {
	vpc     uint32
	address netip.Addr
	view    View
	ipv6    bool
}

// fragmentRing holds the newest datagrams of a source.
type fragmentRing struct {
	next uint32
	held [FragmentsHeld]FragmentKey
}

// fragmentPair are addresses after a translation of the source.
type fragmentPair struct {
	vpc          uint32
	source, dest netip.Addr
}

type fragmentIDs struct {
	next  uint64
	began [FragmentIDBlocks]uint64 // when the first id of a block was last taken; 0 never
}

// follows: the packet is part of a flow that others have opened.
func (p *ip) follows() bool { return p.later || p.about != 0 }

// parseFragment checks the form of a fragment by itself.
func (p *ip) parseFragment() Reason {
	if p.fragment == 0 {
		return ReasonNone
	}
	if p.segment != 0 {
		return ReasonMalformed
	}
	payload, at := p.length-p.head, p.offset()
	if payload == 0 || p.fragment&fragmentMore != 0 && payload%8 != 0 || at+payload > maxIPv4-ipv4Header {
		return ReasonFragment
	}
	p.later = at != 0
	return ReasonNone
}

// offset is where in the datagram a fragment begins, in bytes.
func (p *ip) offset() int { return int(p.fragment&fragmentOffset) * 8 }

// recall gives a later fragment the ports of its first one.
func (d *decision) recall(key *FlowKey, p *ip) Reason {
	if !p.later {
		return ReasonNone
	}
	f, ok := d.state.Fragments[fragmentKey(*key, p)]
	if !ok || d.state.NowNS-f.SinceNS > uint64(FragmentTime) || p.offset() < int(f.End) {
		return ReasonFragment
	}
	p.sport, p.dport, p.fresh = f.SourcePort, f.DestPort, f.ID
	key.SourcePort, key.DestPort = p.sport, p.dport
	return ReasonNone
}

func fragmentKey(key FlowKey, p *ip) FragmentKey {
	return FragmentKey{
		VPC: key.VPC, Source: key.Source, Dest: key.Dest, ID: p.id, Tag: key.Tag, View: key.View, IPv6: key.IPv6,
		Protocol: p.protocol,
	}
}

// remember keeps what a first fragment said that goes on by an entry.
func (d *decision) remember(key FlowKey, f Flow, p *ip) Reason {
	if p.fragment == 0 || p.later {
		return ReasonNone
	}
	p.fresh = p.id
	if d.hook != HookWorkload && f.Source != p.source || f.IPv6 != p.six {
		pair := fragmentPair{f.DestVPC, f.Source, f.Dest}
		if key.View == ViewProvider && !d.mayTakeID(pair, key, f.Connection) {
			return ReasonFragment
		}
		id, ok := d.freshID(pair)
		if !ok {
			return ReasonFragment
		}
		p.fresh = id
	}
	s := d.state
	if s.Fragments == nil {
		s.Fragments, s.rings = map[FragmentKey]Fragment{}, map[fragmentSource]*fragmentRing{}
	}
	at := fragmentKey(key, p)
	if _, ok := s.Fragments[at]; !ok {
		source := fragmentSource{key.VPC, key.Source, key.View, key.IPv6}
		if s.rings[source] == nil {
			s.rings[source] = &fragmentRing{}
		}
		slot := &s.rings[source].held[s.rings[source].next%FragmentsHeld]
		s.rings[source].next++
		delete(s.Fragments, *slot)
		*slot = at
	}
	s.Fragments[at] = Fragment{
		SinceNS: s.NowNS, ID: p.fresh, SourcePort: p.sport, DestPort: p.dport, End: uint16(p.length - p.head),
	}
	return ReasonNone
}

// mayTakeID: consumers of one target use up the ids of one pair. Each has a part that is kept for it, as it has of source
// ports, the rest is whose comes first.
func (d *decision) mayTakeID(pair fragmentPair, key FlowKey, connection uint32) bool {
	const burst = FragmentIDsBurst * secondNS
	share := PaidKey{Quota: QuotaKey{ID: connection, VPC: pair.vpc, Source: pair.source, Target: pair.dest}, Rate: RateIDs}
	if t := d.grantTarget(key.VPC, key.Tag, key.Dest, key.DestPort); t != nil && t.Ports != 0 {
		cost := uint64(promisedPorts) * secondNS / (FragmentIDsKept * uint64(t.Ports))
		if d.pay(share, cost, max(cost, burst)) {
			return true
		}
	}
	share.Quota.ID = 0
	return d.pay(share, secondNS/FragmentIDsOpen, burst)
}

// freshID is an id for a datagram whose source was translated to one that stands for many. None is given again while a
// receiver may still wait for the rest of the datagram that had it before.
func (d *decision) freshID(pair fragmentPair) (uint32, bool) {
	s := d.state
	if s.ids == nil {
		s.ids = map[fragmentPair]*fragmentIDs{}
	}
	if s.ids[pair] == nil {
		s.ids[pair] = &fragmentIDs{}
	}
	ids := s.ids[pair]
	const size = fragmentIDSpace / FragmentIDBlocks
	if block := ids.next / size % FragmentIDBlocks; ids.next%size == 0 {
		if used := ids.began[(block+1)%FragmentIDBlocks]; used != 0 && s.NowNS-used <= uint64(FragmentTime) {
			return 0, false
		}
		ids.began[block] = s.NowNS
	}
	ids.next++
	return uint32(uint16(ids.next - 1)), true
}

// takeID gives a fragment the id that it goes on with; its header is the one that it leaves with.
func (p *ip) takeID() {
	if p.fragment == 0 {
		return
	}
	p.id = p.fresh
	if !p.six {
		p.setHeader(4, uint16(p.id))
		p.setHeader(6, be16(p.b[6:])|p.fragment)
	}
}

// setHeader replaces two bytes of an IPv4 header.
func (p *ip) setHeader(at int, word uint16) {
	now := [2]byte{byte(word >> 8), byte(word)}
	binary.BigEndian.PutUint16(p.b[10:], updated(be16(p.b[10:]), p.b[at:at+2], now[:]))
	copy(p.b[at:], now[:])
}

// withFragmentHeader is an IPv6 packet with the Fragment header of a packet, if that is a fragment.
func (p *ip) withFragmentHeader(b []byte) []byte {
	if p.fragment == 0 {
		return b
	}
	out := append([]byte(nil), b[:ipv6Header]...)
	binary.BigEndian.PutUint16(out[4:], be16(out[4:])+fragmentHeader)
	out[6] = nextFragment
	at := uint16(p.offset())
	if p.fragment&fragmentMore != 0 {
		at |= 1
	}
	out = binary.BigEndian.AppendUint32(append(out, p.protocol, 0, byte(at>>8), byte(at)), p.id)
	return append(out, b[ipv6Header:]...)
}

// onLink is the packet as a workload gets it.
func (p *ip) onLink() []byte {
	if p.six {
		return p.withFragmentHeader(p.b)
	}
	return p.b
}

// unwrapped is an IPv6 packet without its Fragment header, and what that said: fragment 0 is a whole packet.
func unwrapped(b []byte) (out []byte, fragment uint16, id uint32, ok bool) {
	payload := int(be16(b[4:]))
	if payload < fragmentHeader {
		return nil, 0, 0, false
	}
	h := b[ipv6Header:]
	fragment = be16(h[2:]) >> 3
	if h[3]&1 != 0 {
		fragment |= fragmentMore
	}
	out = append(append([]byte(nil), b[:ipv6Header]...), h[fragmentHeader:]...)
	binary.BigEndian.PutUint16(out[4:], uint16(payload-fragmentHeader))
	out[6] = h[0]
	return out, fragment, be32(h[4:]), true
}

// setFragment makes a packet the fragment that a Fragment header says it is.
func (p *ip) setFragment(fragment uint16, id uint32) {
	if fragment == 0 {
		return
	}
	p.fragment, p.id = fragment, id
	if !p.six {
		p.setHeader(4, uint16(id))
		p.setHeader(6, be16(p.b[6:])|fragment)
	}
}

// flowProtocol is that of the packet's flow.
func (p *ip) flowProtocol() uint8 {
	if p.about != 0 {
		return p.about
	}
	return p.protocol
}
