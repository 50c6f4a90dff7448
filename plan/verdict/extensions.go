package verdict

import (
	"encoding/binary"

	"github.com/culvert-net/culvert/plan"
)

// Bounds of what extension headers of a workload's IPv6 packet are looked at.
const (
	extensionBytes   = 128 // all of them together
	extensionHeaders = 6
)

func isExtension(next uint8) bool {
	return next == nextHopByHop || next == nextRouting || next == nextDestOption
}

// extensions is how many bytes of extension headers stand before what a packet is about, and what that is; payload is
// everything behind the IPv6 header. Not ok: one of them asks for more than to be passed over, or cannot be read.
func extensions(next uint8, payload []byte) (n int, after uint8, ok bool) {
	whole := payload[:min(len(payload), extensionBytes)]
	for headers := 0; isExtension(next); headers++ {
		b := whole[n:]
		if headers == extensionHeaders || next == nextHopByHop && headers > 0 || len(b) < 8 || len(b) < 8+8*int(b[1]) {
			return 0, 0, false
		}
		b = b[:8+8*int(b[1])]
		if next == nextRouting {
			if kind, left := b[2], b[3]; left != 0 || kind == 0 || kind == 2 {
				return 0, 0, false
			}
		} else if !passedOver(b[2:]) {
			return 0, 0, false
		}
		n, next = n+len(b), b[0]
	}
	return n, next, true
}

// passedOver says whether all options of a header are such that whoever does not know one skips it (RFC 8200, 4.2).
func passedOver(options []byte) bool {
	for len(options) > 0 {
		switch {
		case options[0] == 0: // Pad1
			options = options[1:]
		case options[0]>>6 != 0, len(options) < 2, len(options) < 2+int(options[1]):
			return false
		default:
			options = options[2+int(options[1]):]
		}
	}
	return true
}

// stripExtensions is an IPv6 packet without its extension headers, but for a Fragment header.
func stripExtensions(b []byte) ([]byte, bool) {
	n, next, ok := extensions(b[6], b[ipv6Header:ipv6Header+int(be16(b[4:]))])
	if !ok {
		return nil, false
	}
	out := append(append([]byte(nil), b[:ipv6Header]...), b[ipv6Header+n:]...)
	binary.BigEndian.PutUint16(out[4:], uint16(int(be16(b[4:]))-n))
	out[6] = next
	return out, true
}

// bare6 is a workload's IPv6 packet without extension headers, and what its Fragment header said, if it is a fragment. It
// counts as what remains, a Fragment header of a fragment included.
func (d *decision) bare6(b []byte) (out []byte, fragment uint16, id uint32, r Reason) {
	before := len(b)
	if isExtension(b[6]) {
		var ok bool
		if b, ok = stripExtensions(b); !ok {
			return nil, 0, 0, ReasonIPOptions
		}
	}
	d.size -= uint64(before - len(b))
	if b[6] == nextFragment {
		var ok bool
		if b, fragment, id, ok = unwrapped(b); !ok {
			return nil, 0, 0, ReasonMalformed
		}
		if fragment == 0 { // RFC 6946
			d.size -= fragmentHeader
		}
	}
	switch next := b[6]; {
	case next == plan.ProtocolTCP, next == plan.ProtocolUDP, next == plan.ProtocolICMPv6:
		return b, fragment, id, ReasonNone
	case isExtension(next):
		return nil, 0, 0, ReasonIPOptions
	case next == nextFragment:
		return nil, 0, 0, ReasonFragment
	}
	return nil, 0, 0, ReasonProtocol
}
