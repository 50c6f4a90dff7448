package api

import (
	"encoding/binary"
	"net/netip"
)

// Overlay addresses, decision 0002: fd | mesh 24 | VPC 32 | host 32 | tag 16 | adj 16, all in network byte order.

// TagFamilyIPv4 is the tag's family bit: the workload's packet is IPv4.
const TagFamilyIPv4 uint16 = 0x8000

// MaxTagNumber is the largest tag number (15 bits).
const MaxTagNumber = 0x7fff

// Overlay is an overlay address taken apart.
type Overlay struct {
	Mesh uint32 // 24 bits
	VPC  uint32 // VPC number; 0: a node
	Host uint32 // the IPv4 address, or the node's number, as a big-endian integer
	Tag  uint16 // family bit and number
}

// Number is the tag without its family bit.
func (o Overlay) Number() uint16 { return o.Tag &^ TagFamilyIPv4 }

// HostAddr is Host as an IPv4 address.
func (o Overlay) HostAddr() netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], o.Host)
	return netip.AddrFrom4(b)
}

// adj makes all 16-bit words but the two of the host sum to zero in one's complement.
func (o Overlay) adj() uint16 {
	sum := 0xfd00 + o.Mesh>>16 + o.Mesh&0xffff + o.VPC>>16 + o.VPC&0xffff + uint32(o.Tag)
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return 0xffff - uint16(sum)
}

// Addr puts the address together.
func (o Overlay) Addr() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint32(b[0:], 0xfd000000|o.Mesh&0xffffff)
	binary.BigEndian.PutUint32(b[4:], o.VPC)
	binary.BigEndian.PutUint32(b[8:], o.Host)
	binary.BigEndian.PutUint16(b[12:], o.Tag)
	binary.BigEndian.PutUint16(b[14:], o.adj())
	return netip.AddrFrom16(b)
}

// ParseOverlay takes an address apart; ok is false unless it is in canonical form (prefix fd, right adj).
func ParseOverlay(a netip.Addr) (o Overlay, ok bool) {
	if !a.Is6() || a.Is4In6() {
		return o, false
	}
	b := a.As16()
	o = Overlay{
		Mesh: binary.BigEndian.Uint32(b[0:]) & 0xffffff,
		VPC:  binary.BigEndian.Uint32(b[4:]),
		Host: binary.BigEndian.Uint32(b[8:]),
		Tag:  binary.BigEndian.Uint16(b[12:]),
	}
	return o, b[0] == 0xfd && o.adj() == binary.BigEndian.Uint16(b[14:])
}

// AddrHost is an IPv4 address as a big-endian integer.
func AddrHost(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// OverlayPrefix is what AllowedIPs hold for an IPv4 prefix of a VPC: any tag, so /64 + bits (a /28 block is a /92, one address a /96).
func OverlayPrefix(mesh, vpc uint32, p netip.Prefix) netip.Prefix {
	b := Overlay{Mesh: mesh, VPC: vpc, Host: AddrHost(p.Masked().Addr())}.Addr().As16()
	b[12], b[13], b[14], b[15] = 0, 0, 0, 0
	return netip.PrefixFrom(netip.AddrFrom16(b), 64+p.Bits())
}

// NodeAddr is a node's own overlay address (the host address).
func NodeAddr(mesh, node uint32) netip.Addr { return Overlay{Mesh: mesh, Host: node}.Addr() }

// MeshPrefix is the prefix of every overlay address of a mesh, a /32.
func MeshPrefix(mesh uint32) netip.Prefix {
	var b [16]byte
	binary.BigEndian.PutUint32(b[0:], 0xfd000000|mesh&0xffffff)
	return netip.PrefixFrom(netip.AddrFrom16(b), 32)
}
