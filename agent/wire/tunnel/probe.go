package tunnel

import (
	"encoding/binary"
	"net/netip"
)

// A probe is an IPv6 packet between the first addresses of two tunnels, which no workload has, and never leaves the two
// processes. It is padded to the size in question; the answer is small and says how much came.
const (
	// probeProtocol is one of the two numbers for experiments (RFC 3692): what does not know probes drops them.
	probeProtocol = 253

	probeMagic  = 0x63760d54
	probeLen    = ip6Len + 16 // the least: header, magic, version and kind, size, number
	probeVer    = 1
	probeAsk    = 1
	probeAnswer = 2
	probeStone  = 3 // a milestone: what was sent before it has arrived when it has
	probeRoom   = 4 // the answer to one: its number, and what the peer has room for
)

// probe is one packet of the measurement.
type probe struct {
	from, to netip.Addr
	kind     uint8
	size     int    // of the question, header included
	seq      uint32 // the question's
	room     uint64 // of probeRoom, in bytes
}

// put writes the packet and returns its length: a question has its own size, all others helloSize.
func (p probe) put(b []byte) int {
	n := helloSize
	if p.kind == probeAsk {
		n = p.size
	}
	if n < probeLen || n > len(b) {
		return 0
	}
	clear(b[:n])
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(n-ip6Len))
	b[6], b[7] = probeProtocol, 1
	from, to := p.from.As16(), p.to.As16()
	copy(b[8:], from[:])
	copy(b[24:], to[:])
	body := b[ip6Len:]
	binary.BigEndian.PutUint32(body, probeMagic)
	body[4], body[5] = probeVer, p.kind
	binary.BigEndian.PutUint32(body[8:], uint32(p.size))
	binary.BigEndian.PutUint32(body[12:], p.seq)
	if p.kind == probeRoom {
		binary.BigEndian.PutUint64(body[16:], p.room)
	}
	return n
}

// isProbe is the first look at every packet that came.
func isProbe(b []byte) bool { return len(b) >= probeLen && b[6] == probeProtocol && b[0]>>4 == 6 }

// parseProbe reads a packet; ok is false for what is none, or says another size than it has.
func parseProbe(b []byte) (p probe, ok bool) {
	if !isProbe(b) || int(binary.BigEndian.Uint16(b[4:]))+ip6Len != len(b) {
		return p, false
	}
	body := b[ip6Len:]
	p = probe{
		from: netip.AddrFrom16([16]byte(b[8:24])), to: netip.AddrFrom16([16]byte(b[24:40])), kind: body[5],
		size: int(binary.BigEndian.Uint32(body[8:])), seq: binary.BigEndian.Uint32(body[12:]),
	}
	if binary.BigEndian.Uint32(body) != probeMagic || body[4] != probeVer {
		return p, false
	}
	switch p.kind {
	case probeAsk:
		return p, p.size == len(b)
	case probeAnswer:
		return p, p.size >= probeLen
	case probeRoom:
		if len(b) == helloSize {
			p.room = binary.BigEndian.Uint64(body[16:])
		}
	case probeStone:
	default:
		return p, false
	}
	return p, len(b) == helloSize
}
