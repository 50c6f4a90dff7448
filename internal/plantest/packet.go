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

// IP describes an IPv4 packet; Bytes writes it with right lengths and checksums.
type IP struct {
	Source, Dest         netip.Addr
	Protocol             uint8 // 1, 6, 17
	SourcePort, DestPort uint16
	Flags                uint8 // TCP
	Seq, Ack             uint32
	Options              []byte // TCP, a multiple of 4 bytes
	ICMPType, ICMPCode   uint8
	ICMPID               uint16
	Payload              []byte
	TTL, TOS             uint8
	ID                   uint16
	DF                   bool
	NoChecksum           bool // UDP without checksum
}

// Bytes is the packet.
func (p IP) Bytes() []byte {
	l4 := p.transport()
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

func (p IP) transport() []byte {
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
		binary.BigEndian.PutUint16(b[16:], ^onesSum(p.pseudo(len(b)), b))
		return b
	case 17:
		b := make([]byte, 8)
		binary.BigEndian.PutUint16(b, p.SourcePort)
		binary.BigEndian.PutUint16(b[2:], p.DestPort)
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(p.Payload)))
		b = append(b, p.Payload...)
		if !p.NoChecksum {
			sum := ^onesSum(p.pseudo(len(b)), b)
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
	}
	return p.Payload
}

func (p IP) pseudo(length int) []byte {
	s, d := p.Source.As4(), p.Dest.As4()
	b := append(append([]byte(nil), s[:]...), d[:]...)
	return append(b, 0, p.Protocol, byte(length>>8), byte(length))
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

// Check demands that an IPv4 packet have right checksums.
func Check(b []byte) error {
	if len(b) < 28 || b[0] != 0x45 {
		return fmt.Errorf("not an IPv4 packet without options: % x", b)
	}
	if onesSum(b[:20]) != 0xffff {
		return fmt.Errorf("header checksum is wrong: % x", b[:20])
	}
	length := int(binary.BigEndian.Uint16(b[2:]))
	p := IP{Source: netip.AddrFrom4([4]byte(b[12:16])), Dest: netip.AddrFrom4([4]byte(b[16:20])), Protocol: b[9]}
	l4 := b[20:length]
	switch {
	case p.Protocol == 1 && onesSum(l4) == 0xffff:
	case p.Protocol == 17 && l4[6]|l4[7] == 0:
	case p.Protocol != 1 && onesSum(p.pseudo(len(l4)), l4) == 0xffff:
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
func (p IP) Overlay(source, dest api.Overlay) []byte {
	p.Source, p.Dest = source.HostAddr(), dest.HostAddr()
	v4 := p.Bytes()
	b := make([]byte, 8)
	label := uint32(p.ID)
	if p.DF {
		label |= 1 << 16
	}
	binary.BigEndian.PutUint32(b, 6<<28|uint32(p.TOS)<<20|label)
	binary.BigEndian.PutUint16(b[4:], uint16(len(v4)-20))
	b[6], b[7] = p.Protocol, v4[8]
	s, d := source.Addr().As16(), dest.Addr().As16()
	return append(append(append(b, s[:]...), d[:]...), v4[20:]...)
}

// At is the overlay address of a workload; number is the tag's.
func At(vpc uint32, a netip.Addr, number uint16) api.Overlay {
	return api.Overlay{Mesh: Mesh, VPC: vpc, Host: api.AddrHost(a), Tag: api.TagFamilyIPv4 | number}
}

// ARP is an Ethernet frame with an ARP packet.
func ARP(op uint16, frameMAC, senderMAC [6]byte, sender, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, byte(op >> 8), byte(op)}
	s, t := sender.As4(), target.As4()
	b = append(append(append(b, senderMAC[:]...), s[:]...), 0, 0, 0, 0, 0, 0)
	return Frame([6]byte{255, 255, 255, 255, 255, 255}, frameMAC, 0x0806, append(b, t[:]...))
}
