// Package frame builds packets for tests: one value, written either as an Ethernet frame of a workload or as an overlay
// packet. Checksums are computed from scratch, so a packet that the programs changed incrementally equals one built anew.
package frame

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// Packet is a value: every method returns a changed copy.
type Packet struct {
	Src, Dst       netip.AddrPort // ICMP: the source's port is the id
	Protocol       uint8
	TOS, TTL       uint8
	ID             uint16
	DF             bool
	Flags          uint8 // TCP
	Seq, Ack       uint32
	Window         uint16
	Options        []byte // TCP
	Type, Code     uint8  // ICMP
	Data           []byte
	NoChecksum     bool            // UDP: 0
	Broken         func(ip []byte) // last change of the finished IPv4 packet
	Length         int             // of what remains of that; 0: all
	SrcVPC, DstVPC uint32
	SrcTag, DstTag uint16 // with the family bit
	Mesh           uint32
	SrcMAC, DstMAC [6]byte
	BrokenOverlay  func(ip6 []byte)
}

func base(protocol uint8, src, dst string) Packet {
	return Packet{
		Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Protocol: protocol, TTL: 64, ID: 0x1234,
		DF: true, Window: 64000, SrcTag: api.TagFamilyIPv4, DstTag: api.TagFamilyIPv4,
	}
}

// TCP is a segment with the flags.
func TCP(src, dst string, flags uint8) Packet {
	p := base(6, src, dst)
	p.Flags, p.Seq, p.Ack = flags, 1000, 0
	if flags&ACK != 0 {
		p.Ack = 5000
	}
	return p
}

// UDP is a datagram with a few bytes.
func UDP(src, dst string) Packet { return base(17, src, dst).Payload(11) }

// Echo is an ICMP echo request; the port of src is the id.
func Echo(src, dst string) Packet {
	p := base(1, src, dst+":0").Payload(13)
	p.Type = 8
	return p
}

// EchoReply is the answer to Echo.
func EchoReply(src string, id uint16, dst string) Packet {
	p := base(1, src+":0", dst+":0").Payload(13)
	p.Src = netip.AddrPortFrom(p.Src.Addr(), id)
	return p
}

// Payload sets n bytes of data.
func (p Packet) Payload(n int) Packet {
	p.Data = make([]byte, n)
	for i := range p.Data {
		p.Data[i] = byte(i*7 + 3)
	}
	return p
}

// From sets the source.
func (p Packet) From(src string) Packet { p.Src = netip.MustParseAddrPort(src); return p }

// To sets the destination.
func (p Packet) To(dst string) Packet { p.Dst = netip.MustParseAddrPort(dst); return p }

// MSS adds an MSS option behind a NOP, so that it lies at an odd offset.
func (p Packet) MSS(mss uint16) Packet {
	p.Options = append(slices.Clone(p.Options), 1, 2, 4, byte(mss>>8), byte(mss), 1, 1, 1)
	return p
}

// Between sets VPCs and numbers of the tags.
func (p Packet) Between(mesh, srcVPC uint32, srcNumber uint16, dstVPC uint32, dstNumber uint16) Packet {
	p.Mesh, p.SrcVPC, p.DstVPC = mesh, srcVPC, dstVPC
	p.SrcTag, p.DstTag = api.TagFamilyIPv4|srcNumber, api.TagFamilyIPv4|dstNumber
	return p
}

// MACs sets the Ethernet addresses.
func (p Packet) MACs(src, dst [6]byte) Packet { p.SrcMAC, p.DstMAC = src, dst; return p }

// Break changes the finished IPv4 packet; checksums stay as they were.
func (p Packet) Break(f func(ip []byte)) Packet { p.Broken = f; return p }

// Cut leaves n bytes of the finished IPv4 packet.
func (p Packet) Cut(n int) Packet { p.Length = n; return p }

// BreakOverlay changes the finished IPv6 packet.
func (p Packet) BreakOverlay(f func(ip6 []byte)) Packet { p.BrokenOverlay = f; return p }

// IPv4 is the IP packet.
func (p Packet) IPv4() []byte {
	transport := p.transport()
	b := make([]byte, 20, 20+len(transport))
	b[0], b[1] = 0x45, p.TOS
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(transport)))
	binary.BigEndian.PutUint16(b[4:], p.ID)
	if p.DF {
		b[6] = 0x40
	}
	b[8], b[9] = p.TTL, p.Protocol
	copy(b[12:], p.Src.Addr().AsSlice())
	copy(b[16:], p.Dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^Sum(b, 0))
	b = append(b, transport...)
	if p.Broken != nil {
		p.Broken(b)
	}
	if p.Length > 0 {
		b = b[:p.Length]
	}
	return b
}

// Ethernet is the frame.
func (p Packet) Ethernet() []byte { return ethernet(p.SrcMAC, p.DstMAC, 0x0800, p.IPv4()) }

// IPv6 is the overlay packet.
func (p Packet) IPv6() []byte {
	v4 := p.IPv4()
	b := make([]byte, 40, 20+len(v4))
	label := uint32(p.ID)
	if p.DF {
		label |= 1 << 16
	}
	binary.BigEndian.PutUint32(b, 6<<28|uint32(p.TOS)<<20|label)
	binary.BigEndian.PutUint16(b[4:], uint16(len(v4)-20))
	b[6], b[7] = p.Protocol, p.TTL
	src := api.Overlay{Mesh: p.Mesh, VPC: p.SrcVPC, Host: api.AddrHost(p.Src.Addr()), Tag: p.SrcTag}.Addr().As16()
	dst := api.Overlay{Mesh: p.Mesh, VPC: p.DstVPC, Host: api.AddrHost(p.Dst.Addr()), Tag: p.DstTag}.Addr().As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	b = append(b, v4[20:]...)
	if p.BrokenOverlay != nil {
		p.BrokenOverlay(b)
	}
	return b
}

// Overlay is the overlay packet behind an Ethernet header, as test runs need it.
func (p Packet) Overlay() []byte { return ethernet(p.SrcMAC, p.DstMAC, 0x86dd, p.IPv6()) }

func ethernet(src, dst [6]byte, kind uint16, body []byte) []byte {
	b := append(slices.Clone(dst[:]), src[:]...)
	return append(binary.BigEndian.AppendUint16(b, kind), body...)
}

func (p Packet) transport() []byte {
	switch p.Protocol {
	case 6:
		return p.tcp()
	case 17:
		b := make([]byte, 8, 8+len(p.Data))
		binary.BigEndian.PutUint16(b, p.Src.Port())
		binary.BigEndian.PutUint16(b[2:], p.Dst.Port())
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(p.Data)))
		b = append(b, p.Data...)
		if !p.NoChecksum {
			sum := p.checksum(b)
			if sum == 0 {
				sum = 0xffff
			}
			binary.BigEndian.PutUint16(b[6:], sum)
		}
		return b
	default:
		b := make([]byte, 8, 8+len(p.Data))
		b[0], b[1] = p.Type, p.Code
		binary.BigEndian.PutUint16(b[4:], p.Src.Port())
		binary.BigEndian.PutUint16(b[6:], 1)
		b = append(b, p.Data...)
		binary.BigEndian.PutUint16(b[2:], ^Sum(b, 0))
		return b
	}
}

func (p Packet) tcp() []byte {
	header := 20 + (len(p.Options)+3)/4*4
	b := make([]byte, header, header+len(p.Data))
	binary.BigEndian.PutUint16(b, p.Src.Port())
	binary.BigEndian.PutUint16(b[2:], p.Dst.Port())
	binary.BigEndian.PutUint32(b[4:], p.Seq)
	binary.BigEndian.PutUint32(b[8:], p.Ack)
	b[12], b[13] = byte(header/4<<4), p.Flags
	binary.BigEndian.PutUint16(b[14:], p.Window)
	copy(b[20:], p.Options)
	b = append(b, p.Data...)
	binary.BigEndian.PutUint16(b[16:], p.checksum(b))
	return b
}

// checksum is that of TCP and UDP with the IPv4 pseudo header.
func (p Packet) checksum(b []byte) uint16 {
	pseudo := append(p.Src.Addr().AsSlice(), p.Dst.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, p.Protocol)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(b)))
	return ^Sum(b, uint32(Sum(pseudo, 0)))
}

// Sum is the one's complement sum of 16-bit words.
func Sum(b []byte, sum uint32) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// ARP is an ARP frame.
func ARP(srcMAC [6]byte, operation uint16, senderMAC [6]byte, sender, target string) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, operation)
	b = append(b, senderMAC[:]...)
	b = append(b, netip.MustParseAddr(sender).AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	b = append(b, netip.MustParseAddr(target).AsSlice()...)
	return ethernet(srcMAC, [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 0x0806, b)
}
