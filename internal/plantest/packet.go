package plantest

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/culvert-net/culvert/api"
)

// TCP flags.
const (
	FIN = 0x01
	SYN = 0x02
	RST = 0x04
	PSH = 0x08
	ACK = 0x10
)

// IP describes a packet; Bytes writes it as IPv4, IPv6 as IPv6, with right lengths and checksums.
type IP struct {
	Source, Dest         netip.Addr // IPv4 forms
	To                   netip.Addr // for those who choose: an IPv6 destination that is not of the own VPC
	Six                  bool       // for those who choose: it is an IPv6 packet
	Label                uint32     // of IPv6, 20 bits
	Protocol             uint8      // 1, 6, 17, 58
	SourcePort, DestPort uint16
	Flags                uint8 // TCP
	Seq, Ack             uint32
	Options              []byte // TCP, a multiple of 4 bytes
	ICMPType, ICMPCode   uint8  // of IPv4; an echo is written as the family has it
	ICMPID               uint16
	Payload              []byte
	TTL, TOS             uint8
	ID                   uint16
	DF                   bool
	NoChecksum           bool // UDP without checksum
}

// Bytes is the packet.
func (p IP) Bytes() []byte {
	l4 := p.transport(p.Source, p.Dest)
	b := make([]byte, 20, 20+len(l4))
	b[0], b[1] = 0x45, p.TOS
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(l4)))
	binary.BigEndian.PutUint16(b[4:], p.ID)
	if p.DF {
		b[6] = 0x40
	}
	b[8], b[9] = p.TTL, p.Protocol
	if p.TTL == 0 {
		b[8] = 64
	}
	s, d := p.Source.As4(), p.Dest.As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	binary.BigEndian.PutUint16(b[10:], ^onesSum(b))
	return append(b, l4...)
}

// IPv6 is the packet between two IPv6 addresses.
func (p IP) IPv6(source, dest netip.Addr) []byte {
	l4 := p.transport(source, dest)
	b := make([]byte, 8, 40+len(l4))
	binary.BigEndian.PutUint32(b, 6<<28|uint32(p.TOS)<<20|p.Label&0xfffff)
	binary.BigEndian.PutUint16(b[4:], uint16(len(l4)))
	b[6], b[7] = p.Protocol, p.TTL
	if p.TTL == 0 {
		b[7] = 64
	}
	return append(append(append(b, source.AsSlice()...), dest.AsSlice()...), l4...)
}

// FrameIPv6 is a frame as the workload of an ENI in a VPC sends it.
func (p IP) FrameIPv6(number, mesh, vpc uint32) []byte {
	b := p.IPv6(api.IPv6Address(mesh, vpc, p.Source), api.IPv6Address(mesh, vpc, p.Dest))
	return Frame(GatewayMAC, MAC(number), 0x86dd, b)
}

// transport is what follows the IP header; addresses of either family are in its sum.
func (p IP) transport(source, dest netip.Addr) []byte {
	pseudo := func(length int) []byte {
		b := append(source.AsSlice(), dest.AsSlice()...)
		return append(b, 0, p.Protocol, byte(length>>8), byte(length))
	}
	switch p.Protocol {
	case 6:
		b := make([]byte, 20)
		binary.BigEndian.PutUint16(b, p.SourcePort)
		binary.BigEndian.PutUint16(b[2:], p.DestPort)
		binary.BigEndian.PutUint32(b[4:], p.Seq)
		binary.BigEndian.PutUint32(b[8:], p.Ack)
		b[12], b[13] = byte(5+len(p.Options)/4)<<4, p.Flags
		binary.BigEndian.PutUint16(b[14:], 64240)
		b = append(append(b, p.Options...), p.Payload...)
		binary.BigEndian.PutUint16(b[16:], ^onesSum(pseudo(len(b)), b))
		return b
	case 17:
		b := make([]byte, 8)
		binary.BigEndian.PutUint16(b, p.SourcePort)
		binary.BigEndian.PutUint16(b[2:], p.DestPort)
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(p.Payload)))
		b = append(b, p.Payload...)
		if !p.NoChecksum {
			sum := ^onesSum(pseudo(len(b)), b)
			if sum == 0 {
				sum = 0xffff
			}
			binary.BigEndian.PutUint16(b[6:], sum)
		}
		return b
	case 1:
		b := []byte{p.ICMPType, p.ICMPCode, 0, 0, byte(p.ICMPID >> 8), byte(p.ICMPID), 0, 1}
		b = append(b, p.Payload...)
		binary.BigEndian.PutUint16(b[2:], ^onesSum(b))
		return b
	case 58:
		kind := map[uint8]uint8{0: 129, 8: 128}[p.ICMPType]
		if kind == 0 {
			kind = p.ICMPType
		}
		b := []byte{kind, p.ICMPCode, 0, 0, byte(p.ICMPID >> 8), byte(p.ICMPID), 0, 1}
		b = append(b, p.Payload...)
		binary.BigEndian.PutUint16(b[2:], ^onesSum(pseudo(len(b)), b))
		return b
	}
	return p.Payload
}

// onesSum is the one's complement sum of parts, each padded to 16 bits.
func onesSum(parts ...[]byte) uint16 {
	total := uint32(0)
	for _, b := range parts {
		for i, x := range b {
			if i%2 == 0 {
				total += uint32(x) << 8
			} else {
				total += uint32(x)
			}
			total = total>>16 + total&0xffff
		}
	}
	return uint16(total>>16 + total&0xffff)
}

// Check demands that a packet of either family have right checksums.
func Check(b []byte) error {
	if len(b) >= 48 && b[0]>>4 == 6 {
		return check(b, b[8:40], b[6], b[40:40+int(binary.BigEndian.Uint16(b[4:]))])
	}
	if len(b) < 28 || b[0] != 0x45 {
		return fmt.Errorf("not an IPv4 packet without options: % x", b)
	}
	if onesSum(b[:20]) != 0xffff {
		return fmt.Errorf("header checksum is wrong: % x", b[:20])
	}
	return check(b, b[12:20], b[9], b[20:int(binary.BigEndian.Uint16(b[2:]))])
}

func check(b, addresses []byte, protocol uint8, l4 []byte) error {
	pseudo := append(append([]byte(nil), addresses...), 0, protocol, byte(len(l4)>>8), byte(len(l4)))
	switch {
	case protocol == 1 && onesSum(l4) == 0xffff:
	case protocol == 17 && l4[6]|l4[7] == 0 && len(addresses) == 8:
	case protocol != 1 && onesSum(pseudo, l4) == 0xffff:
	default:
		return fmt.Errorf("transport checksum is wrong: % x", b)
	}
	return nil
}

// Frame puts an Ethernet header before a packet.
func Frame(dest, source [6]byte, kind uint16, packet []byte) []byte {
	b := append(append([]byte(nil), dest[:]...), source[:]...)
	return append(append(b, byte(kind>>8), byte(kind)), packet...)
}

// Workload is a frame as the workload of an ENI sends it.
func (p IP) Workload(number uint32) []byte { return Frame(GatewayMAC, MAC(number), 0x0800, p.Bytes()) }

// Overlay is the packet between two overlay addresses; their hosts stand in for the packet's addresses.
// Neither with the family bit: it is IPv6.
func (p IP) Overlay(source, dest api.Overlay) []byte {
	if (source.Tag|dest.Tag)&api.TagFamilyIPv4 == 0 {
		return p.IPv6(source.Addr(), dest.Addr())
	}
	p.Source, p.Dest = source.HostAddr(), dest.HostAddr()
	return Overlay(p.Bytes(), source, dest)
}

// At is the overlay address of a workload; number is the tag's.
func At(vpc uint32, a netip.Addr, number uint16) api.Overlay { return InMesh(Mesh, vpc, a, number) }

// InMesh is the same in another mesh.
func InMesh(mesh, vpc uint32, a netip.Addr, number uint16) api.Overlay {
	return api.Overlay{Mesh: mesh, VPC: vpc, Host: api.AddrHost(a), Tag: api.TagFamilyIPv4 | number}
}

// At6 is At of an IPv6 packet.
func At6(vpc uint32, a netip.Addr, number uint16) api.Overlay {
	return api.Overlay{Mesh: Mesh, VPC: vpc, Host: api.AddrHost(a), Tag: number}
}

// Discovery is an ICMPv6 message of neighbour discovery with a right checksum: type, code, 4 bytes, target and options.
func Discovery(hopLimit, kind, code uint8, source, dest, target netip.Addr, options ...byte) []byte {
	p := IP{Protocol: 58, ICMPType: kind, ICMPCode: code, TTL: hopLimit, Payload: options}
	if target.IsValid() {
		p.Payload = append(target.AsSlice(), options...)
	}
	b := p.IPv6(source, dest)
	b[40+7] = 0 // the echo's sequence
	l4 := b[40:]
	l4[2], l4[3] = 0, 0
	pseudo := append(append([]byte(nil), b[8:40]...), 0, 58, byte(len(l4)>>8), byte(len(l4)))
	binary.BigEndian.PutUint16(l4[2:], ^onesSum(pseudo, l4))
	return b
}

// ARP is an Ethernet frame with an ARP packet.
func ARP(op uint16, frameMAC, senderMAC [6]byte, sender, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, byte(op >> 8), byte(op)}
	s, t := sender.As4(), target.As4()
	b = append(append(append(b, senderMAC[:]...), s[:]...), 0, 0, 0, 0, 0, 0)
	return Frame([6]byte{255, 255, 255, 255, 255, 255}, frameMAC, 0x0806, append(b, t[:]...))
}
