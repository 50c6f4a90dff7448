package plantest

import (
	"encoding/binary"

	"github.com/culvert-net/culvert/api"
)

// Bits of an IPv4 header's seventh and eighth byte.
const (
	DontFragment  = 0x4000
	MoreFragments = 0x2000
	offsetBits    = 0x1fff // of 8 bytes each
)

// Overlay is an IPv4 packet without options, or a fragment of one, as the tunnel has it.
func Overlay(v4 []byte, source, dest api.Overlay) []byte {
	bits := binary.BigEndian.Uint16(v4[6:])
	id := uint32(binary.BigEndian.Uint16(v4[4:]))
	label := id
	if bits&DontFragment != 0 {
		label |= 1 << 16
	}
	b := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(v4[1])<<20|label)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(v4)-20)), v4[9], v4[8])
	s, d := source.Addr().As16(), dest.Addr().As16()
	b = append(append(append(b, s[:]...), d[:]...), v4[20:]...)
	if bits&(MoreFragments|offsetBits) == 0 {
		return b
	}
	at := bits & offsetBits << 3
	if bits&MoreFragments != 0 {
		at |= 1
	}
	return withFragmentHeader(b, at, id)
}

// withFragmentHeader puts one behind an IPv6 header.
func withFragmentHeader(b []byte, at uint16, id uint32) []byte {
	h := binary.BigEndian.AppendUint32([]byte{b[6], 0, byte(at >> 8), byte(at)}, id)
	out := append(append(append([]byte(nil), b[:40]...), h...), b[40:]...)
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
	out[6] = 44
	return out
}

// Fragments cuts a packet without options and extension headers into fragments with an id and at most size bytes of payload,
// a multiple of 8. IPv6 that needs no cut gets a Fragment header all the same.
func Fragments(packet []byte, size int, id uint32) [][]byte {
	head := 20
	if packet[0]>>4 == 6 {
		head = 40
	}
	payload := packet[head:]
	var all [][]byte
	for at := 0; at < len(payload); at += size {
		end := min(at+size, len(payload))
		b := append(append([]byte(nil), packet[:head]...), payload[at:end]...)
		if head == 40 {
			bits := uint16(at)
			if end < len(payload) {
				bits |= 1
			}
			all = append(all, withFragmentHeader(b, bits, id))
			continue
		}
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[4:], uint16(id))
		bits := binary.BigEndian.Uint16(packet[6:])&DontFragment | uint16(at/8)
		if end < len(payload) {
			bits |= MoreFragments
		}
		binary.BigEndian.PutUint16(b[6:], bits)
		seal(b, 20)
		all = append(all, b)
	}
	return all
}

// IsLater says whether a packet is a fragment, but not the first one.
func IsLater(packet []byte) bool {
	if packet[0]>>4 == 6 {
		return packet[6] == 44 && binary.BigEndian.Uint16(packet[42:])>>3 != 0
	}
	return binary.BigEndian.Uint16(packet[6:])&offsetBits != 0
}

// Extension is a header of IPv6 without its first two bytes; it is filled up with zeros, which are options to skip.
type Extension struct {
	Kind    uint8
	Options []byte
}

// WithExtensions puts extension headers behind an IPv6 header.
func WithExtensions(v6 []byte, headers ...Extension) []byte {
	out := append([]byte(nil), v6[:40]...)
	at := 6
	for _, h := range headers {
		b := append([]byte{0, 0}, h.Options...)
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
		b[1] = byte(len(b)/8 - 1)
		out[at] = h.Kind
		at = len(out)
		out = append(out, b...)
	}
	out[at] = v6[6]
	out = append(out, v6[40:]...)
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
	return out
}

// WithOptions puts options behind an IPv4 header without any; their number is a multiple of 4, at most 40.
func WithOptions(v4, options []byte) []byte {
	b := append(append(append([]byte(nil), v4[:20]...), options...), v4[20:]...)
	b[0] = 0x45 + byte(len(options)/4)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	seal(b, 20+len(options))
	return b
}

// Sealed is an IPv4 packet without options with the right checksum of its header.
func Sealed(v4 []byte) []byte {
	b := append([]byte(nil), v4...)
	seal(b, 20)
	return b
}

// seal computes the header's checksum.
func seal(b []byte, header int) {
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^onesSum(b[:header]))
}

// Complaint is the ICMP error of a packet's receiver about it, to its sender, of the packet's family, quoting as many bytes as
// there are up to most.
func Complaint(packet []byte, kind, code uint8, rest uint32, most int) []byte {
	m := binary.BigEndian.AppendUint32([]byte{kind, code, 0, 0}, rest)
	m = append(m, packet[:min(len(packet), most)]...)
	if packet[0]>>4 == 6 {
		b := []byte{0x60, 0, 0, 0, byte(len(m) >> 8), byte(len(m)), 58, 64}
		b = append(append(b, packet[24:40]...), packet[8:24]...)
		binary.BigEndian.PutUint16(m[2:], ^onesSum(b[8:], []byte{0, 58, byte(len(m) >> 8), byte(len(m))}, m))
		return append(b, m...)
	}
	binary.BigEndian.PutUint16(m[2:], ^onesSum(m))
	b := []byte{0x45, 0xc0, byte((20 + len(m)) >> 8), byte(20 + len(m)), 0, 7, 0, 0, 64, 1, 0, 0}
	b = append(append(append(b, packet[16:20]...), packet[12:16]...), m...)
	seal(b, 20)
	return b
}
