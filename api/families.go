package api

import "net/netip"

// IPAddressType says of which families an interface has addresses, in AWS's words; of an endpoint, with which its names answer.
type IPAddressType string

// Address types. "" is IPv4Only, as what was made before types existed has it.
const (
	IPv4Only  IPAddressType = "ipv4"
	IPv6Only  IPAddressType = "ipv6"
	DualStack IPAddressType = "dualstack"
)

// HasIPv4 reports whether IPv4 is among the families.
func (t IPAddressType) HasIPv4() bool { return t != IPv6Only }

// HasIPv6 reports whether IPv6 is among the families.
func (t IPAddressType) HasIPv6() bool { return t == IPv6Only || t == DualStack }

// validateAddressType takes "" for the default.
func validateAddressType(field string, t IPAddressType) *Error {
	switch t {
	case "", IPv4Only, IPv6Only, DualStack:
		return nil
	}
	return invalid(field, "give ipv4, dualstack or ipv6", "the address type %q is not known", Shortened(string(t)))
}

// IPv6Address is the IPv6 form of an address of a VPC: its overlay address with family bit 0 and number 0, decision 0011.
func IPv6Address(mesh, vpc uint32, a netip.Addr) netip.Addr {
	return Overlay{Mesh: mesh, VPC: vpc, Host: AddrHost(a)}.Addr()
}

// IPv4Form is the inverse of IPv6Address; ok is false for what is no IPv6 form of an address of a VPC.
func IPv4Form(a netip.Addr) (mesh, vpc uint32, v4 netip.Addr, ok bool) {
	o, ok := ParseOverlay(a)
	if !ok || o.VPC == 0 || o.Tag != 0 {
		return 0, 0, netip.Addr{}, false
	}
	return o.Mesh, o.VPC, o.HostAddr(), true
}

// IPv6Block is the IPv6 form of a range of a VPC: /64 + its bits, and the /64 for a whole VPC, see VPCIPv6Block.
func IPv6Block(mesh, vpc uint32, p netip.Prefix) netip.Prefix { return OverlayPrefix(mesh, vpc, p) }

// VPCIPv6Block is the /64 of a VPC: every IPv6 address in it is within.
func VPCIPv6Block(mesh, vpc uint32) netip.Prefix {
	return OverlayPrefix(mesh, vpc, netip.PrefixFrom(netip.IPv4Unspecified(), 0))
}

// everywhere6 is ::/0.
var everywhere6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)

// Lengths of IPv6 prefixes that mean something in a mesh: a VPC, and one address of it with whatever is behind the address.
const (
	ipv6VPCBits     = 64
	ipv6AddressBits = 96
)

// ValidateIPv6Prefix checks an IPv6 prefix of a rule: ::/0, or one within a VPC's /64, at most one address (/96, or /128 of the
// address as describe shows it). Whether it is of this mesh is not known here.
func ValidateIPv6Prefix(field string, p netip.Prefix) *Error {
	const remedy = "give ::/0, or a part of a VPC's ipv6CidrBlock: /64 to /96, or an interface's ipv6Address with /128"
	switch {
	case !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6():
		return invalid(field, remedy, "%s is not an IPv6 prefix", p)
	case p == everywhere6:
		return nil
	case p != p.Masked():
		return invalid(field, "write "+p.Masked().String(), "%s has bits set behind the prefix", p)
	}
	b := p.Addr().As16()
	switch {
	case p.Bits() < ipv6VPCBits, b[0] != 0xfd, b[4]|b[5]|b[6]|b[7] == 0:
		return invalid(field, remedy, "%s is not within the IPv6 range of a VPC", p)
	case p.Bits() <= ipv6AddressBits:
		return nil
	}
	if _, _, _, ok := IPv4Form(p.Addr()); !ok || p.Bits() != p.Addr().BitLen() {
		return invalid(field, remedy, "%s is not an address of a VPC", p)
	}
	return nil
}

// IPv6Match takes a prefix that ValidateIPv6Prefix lets through apart: whose addresses it means (0: everybody's), and which. An
// address is matched by its IPv4 form within the same VPC.
func IPv6Match(p netip.Prefix) (vpc uint32, v4 netip.Prefix) {
	if p.Bits() < ipv6VPCBits {
		return 0, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	b := p.Addr().As16()
	host := netip.AddrFrom4([4]byte(b[8:12]))
	vpc = uint32(b[4])<<24 | uint32(b[5])<<16 | uint32(b[6])<<8 | uint32(b[7])
	return vpc, netip.PrefixFrom(host, min(p.Bits(), ipv6AddressBits)-ipv6VPCBits)
}
