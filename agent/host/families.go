package host

import (
	"fmt"
	"net/netip"
)

// GatewayIPv6 is the gateway's address on every workload's link, for IPv6; decision 0011.
var GatewayIPv6 = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: 1})

// ranges are the addresses that an attachment's VPC has, in the families that the attachment has.
func (s WorkloadSpec) ranges() []netip.Prefix {
	var out []netip.Prefix
	if !s.IPv6Only {
		out = append(out, s.VPC)
	}
	if s.IPv6Address.IsValid() {
		out = append(out, s.IPv6Block)
	}
	return out
}

// mesh is the range of all VPCs' IPv6 addresses. Targets of services that show them their clients (decision 0016) answer there.
func (s WorkloadSpec) mesh() netip.Prefix { return netip.PrefixFrom(s.IPv6Block.Addr(), 32).Masked() }

// addresses are those of a family, that of the ENI first. IPv6 needs one on the link besides, to look for the gateway by.
func (s WorkloadSpec) addresses(v6 bool) []netip.Prefix {
	switch {
	case !v6 && !s.IPv6Only:
		return []netip.Prefix{netip.PrefixFrom(s.Address, 32)}
	case v6 && s.IPv6Address.IsValid():
		return []netip.Prefix{netip.PrefixFrom(s.IPv6Address, 128), netip.PrefixFrom(linkLocal(s.MAC), 64)}
	}
	return nil
}

// linkLocal is fe80::/64 with the modified EUI-64 of a MAC, RFC 4291 appendix A.
func linkLocal(m MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// checkIPv6 returns what is wrong with what a specification says of IPv6; "": nothing.
func (s WorkloadSpec) checkIPv6() string {
	switch a := s.IPv6Address; {
	case !a.IsValid() && (s.IPv6Only || s.IPv6Block.IsValid()):
		return "IPv6Address: is needed with IPv6Only or IPv6Block"
	case !a.IsValid():
		return ""
	case !a.Is6() || a.Is4In6() || !a.IsPrivate():
		return "IPv6Address: an IPv6 address of fc00::/7"
	case s.IPv6Block.Bits() != 64 || !s.IPv6Block.Contains(a):
		return "IPv6Block: the /64 that IPv6Address is in"
	}
	return ""
}

// split parts routes by family.
func split(routes []route) (v4, v6 []route) {
	for _, r := range routes {
		if r.dst.Addr().Is4() {
			v4 = append(v4, r)
		} else {
			v6 = append(v6, r)
		}
	}
	return v4, v6
}

// ipCommand is the command that shows and changes what is of a prefix's family.
func ipCommand(p netip.Prefix, command string) string {
	if p.Addr().Is4() {
		return "ip " + command
	}
	return fmt.Sprintf("ip -6 %s", command)
}
