package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// vnetLen is the length of struct virtio_net_hdr (linux/virtio_net.h): flags, kind of segmentation, length of headers,
// size of a segment's payload, and where the checksum begins and stands. Numbers are in the machine's byte order.
const vnetLen = 10

const (
	vnetFlags      = 0
	vnetGSOType    = 1
	vnetHdrLen     = 2
	vnetGSOSize    = 4
	vnetCsumStart  = 6
	vnetCsumOffset = 8
)

const (
	ip6Len  = 40
	ip4Len  = 20
	udpLen  = 8
	tcpLen  = 20
	tcpMax  = 60
	tcpSeq  = 4  // offsets in the TCP header
	tcpOff  = 12 // data offset, in the upper half of the byte
	tcpFlag = 13
	tcpSum  = 16
	udpSize = 4 // offsets in the UDP header
	udpSum  = 6

	flagFIN = 0x01
	flagPSH = 0x08
	flagACK = 0x10
)

// markPartial is the bit of a packet's second byte that says "the transport checksum was not computed": the flow
// label's highest. It is used between tunnels only, and only when both are configured so.
const markPartial = 0x08

var errPacket = errors.New("malformed packet from the interface")

// splitter cuts what the kernel hands out, up to 64 KiB with one set of headers, into packets. It does as
// tun.handleVirtioRead of golang.zx2c4.com/wireguard does, but piece by piece: segments that find no buffer in one call
// come with the next.
type splitter struct {
	packet  []byte // as read, without the virtio header
	header  int    // bytes of IP and transport headers
	l4      int    // where the transport header begins
	sumAt   int
	proto   uint8
	six     bool
	size    int // payload of one segment; 0: the packet is whole
	at      int // where the next segment's payload begins
	index   int
	seq     uint32
	pseudo  uint64 // sum of the pseudo-header without the length
	needSum bool
	mark    bool // leave checksums out and say so
	pending bool
}

// load takes a packet with its virtio header. The memory must stay until the last segment is out.
func (s *splitter) load(in []byte, mark bool) error {
	s.pending = false
	if len(in) < vnetLen+1 {
		return fmt.Errorf("%w: %d bytes", errPacket, len(in))
	}
	vnet, packet := in[:vnetLen], in[vnetLen:]
	*s = splitter{packet: packet, mark: mark && packet[0]>>4 == 6}
	if s.mark {
		packet[1] &^= markPartial
	}
	s.needSum = vnet[vnetFlags]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0
	s.l4 = int(binary.NativeEndian.Uint16(vnet[vnetCsumStart:]))
	s.sumAt = s.l4 + int(binary.NativeEndian.Uint16(vnet[vnetCsumOffset:]))
	gso := vnet[vnetGSOType]
	if gso == unix.VIRTIO_NET_HDR_GSO_NONE {
		if s.needSum && !sumOf(packet, s.l4, s.sumAt) {
			return fmt.Errorf("%w: checksum of what begins at %d at %d of %d bytes", errPacket, s.l4, s.sumAt, len(packet))
		}
		s.pending = true
		return nil
	}
	s.size = int(binary.NativeEndian.Uint16(vnet[vnetGSOSize:]))
	if err := s.loadSuper(gso); err != nil {
		return err
	}
	s.pending = true
	return nil
}

func (s *splitter) loadSuper(gso byte) error {
	s.six = s.packet[0]>>4 == 6
	ipLen, addresses := ip4Len, 12
	if s.six {
		ipLen, addresses = ip6Len, 8
	}
	l4, proto := transport(s.packet)
	switch {
	case s.size == 0, s.l4 != l4, len(s.packet) < s.l4+udpLen:
		return fmt.Errorf("%w: super-packet of %d bytes, transport at %d, segments of %d",
			errPacket, len(s.packet), s.l4, s.size)
	case gso == unix.VIRTIO_NET_HDR_GSO_UDP_L4:
		s.proto, s.header, s.sumAt = unix.IPPROTO_UDP, s.l4+udpLen, s.l4+udpSum
	case s.six && gso == unix.VIRTIO_NET_HDR_GSO_TCPV6, !s.six && gso == unix.VIRTIO_NET_HDR_GSO_TCPV4:
		if len(s.packet) < s.l4+tcpLen {
			return fmt.Errorf("%w: %d bytes with TCP at %d", errPacket, len(s.packet), s.l4)
		}
		length := int(s.packet[s.l4+tcpOff]>>4) * 4
		if length < tcpLen {
			return fmt.Errorf("%w: TCP header of %d bytes", errPacket, length)
		}
		s.proto, s.header, s.sumAt = unix.IPPROTO_TCP, s.l4+length, s.l4+tcpSum
		s.seq = binary.BigEndian.Uint32(s.packet[s.l4+tcpSeq:])
	default:
		return fmt.Errorf("%w: segmentation %d in IP version %d", errPacket, gso, s.packet[0]>>4)
	}
	if s.proto != proto {
		return fmt.Errorf("%w: segmentation %d of protocol %d", errPacket, gso, proto)
	}
	if len(s.packet) <= s.header {
		return fmt.Errorf("%w: %d bytes, %d of headers", errPacket, len(s.packet), s.header)
	}
	s.at = s.header
	s.pseudo = pseudoSum(s.packet[addresses:ipLen], s.proto, 0)
	return nil
}

// segments is how many packets are to come of what was loaded.
func (s *splitter) segments() int {
	if s.size == 0 || len(s.packet) <= s.header {
		return 1
	}
	return (len(s.packet) - s.header + s.size - 1) / s.size
}

// next writes the next packet and returns its length, or 0 when it does not fit.
func (s *splitter) next(out []byte) int {
	if s.size == 0 {
		s.pending = false
		return s.whole(out)
	}
	end := min(s.at+s.size, len(s.packet))
	payload := s.packet[s.at:end]
	length := s.header + len(payload)
	last := end == len(s.packet)
	s.pending = !last
	if length > len(out) {
		s.pending = false
		return 0
	}
	out = out[:length]
	copy(out, s.packet[:s.header])
	copy(out[s.header:], payload)
	s.fixIP(out)
	if s.proto == unix.IPPROTO_TCP {
		binary.BigEndian.PutUint32(out[s.l4+tcpSeq:], s.seq+uint32(s.index*s.size))
		if !last {
			out[s.l4+tcpFlag] &^= flagFIN | flagPSH
		}
	} else {
		binary.BigEndian.PutUint16(out[s.l4+udpSize:], uint16(length-s.l4))
	}
	out[s.sumAt], out[s.sumAt+1] = 0, 0
	if s.mark {
		out[1] |= markPartial
	} else {
		s.checksum(out)
	}
	s.at = end
	s.index++
	return length
}

// fixIP sets a segment's length and, in IPv4, its id and header checksum.
func (s *splitter) fixIP(out []byte) {
	if s.six {
		binary.BigEndian.PutUint16(out[4:], uint16(len(out)-ip6Len))
		return
	}
	binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
	binary.BigEndian.PutUint16(out[4:], binary.BigEndian.Uint16(out[4:])+uint16(s.index))
	out[10], out[11] = 0, 0
	binary.BigEndian.PutUint16(out[10:], ^fold(sum(out[:s.l4], 0)))
}

func (s *splitter) checksum(out []byte) {
	total := ^fold(sum(out[s.l4:], sum16(uint16(len(out)-s.l4), s.pseudo)))
	if total == 0 && s.proto == unix.IPPROTO_UDP {
		total = 0xffff // 0 would mean "none" (RFC 768)
	}
	binary.BigEndian.PutUint16(out[s.sumAt:], total)
}

// whole copies a packet that the kernel did not join. Where the kernel left the checksum, the field holds the sum of the
// pseudo-header.
func (s *splitter) whole(out []byte) int {
	if len(s.packet) > len(out) {
		return 0
	}
	out = out[:copy(out, s.packet)]
	if !s.needSum {
		return len(out)
	}
	if s.mark && markable(out, s.l4, s.sumAt) {
		out[1] |= markPartial
		return len(out)
	}
	start := sum16(binary.BigEndian.Uint16(out[s.sumAt:]), 0)
	out[s.sumAt], out[s.sumAt+1] = 0, 0
	total := ^fold(sum(out[s.l4:], start))
	if total == 0 && s.sumAt-s.l4 == udpSum {
		total = 0xffff
	}
	binary.BigEndian.PutUint16(out[s.sumAt:], total)
	return len(out)
}

// transport tells where the transport header is, right behind the IP header, and of which protocol it is; 0 where there is none.
func transport(packet []byte) (l4 int, proto uint8) {
	switch {
	case len(packet) >= ip6Len && packet[0]>>4 == 6:
		return ip6Len, packet[6]
	case len(packet) >= ip4Len && packet[0]>>4 == 4 && int(packet[0]&0xf)*4 >= ip4Len:
		return int(packet[0]&0xf) * 4, packet[9]
	}
	return 0, 0
}

// sumOf reports whether what stands at sumAt, and is computed from l4 on, is the checksum of TCP or UDP. The kernel passes on
// what whoever sent the packet said: a workload that opens a packet socket with virtio headers may name any place, and have
// bytes of addresses and ports replaced after all was checked.
func sumOf(packet []byte, l4, sumAt int) bool {
	at, proto := transport(packet)
	if at == 0 || l4 != at {
		return false
	}
	switch proto {
	case unix.IPPROTO_TCP:
		return sumAt == l4+tcpSum && len(packet) >= l4+tcpLen
	case unix.IPPROTO_UDP:
		return sumAt == l4+udpSum && len(packet) >= l4+udpLen
	}
	return false
}

// markable reports whether the other end can finish the checksum: TCP or UDP right behind the IPv6 header.
func markable(packet []byte, l4, sumAt int) bool {
	return len(packet) > 0 && packet[0]>>4 == 6 && sumOf(packet, l4, sumAt)
}
