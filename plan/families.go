package plan

import (
	"fmt"
	"net/netip"

	"github.com/culvert-net/culvert/api"
)

// Families are the IP versions in which an address exists; values are the datapath's.
type Families uint8

// Families of addresses.
const (
	FamilyIPv4   Families = 1
	FamilyIPv6   Families = 2
	BothFamilies          = FamilyIPv4 | FamilyIPv6
)

// familiesOf reads an address type; endpoints and load balancers have both families, whatever theirs says of their names.
func familiesOf(e api.ENIType, t api.IPAddressType) Families {
	var f Families
	if t.HasIPv4() || e != api.ENIWorkload {
		f |= FamilyIPv4
	}
	if t.HasIPv6() || e != api.ENIWorkload {
		f |= FamilyIPv6
	}
	return f
}

// String names the families.
func (f Families) String() string {
	switch f {
	case FamilyIPv4:
		return "ipv4"
	case FamilyIPv6:
		return "ipv6"
	case BothFamilies:
		return "dualstack"
	}
	return fmt.Sprintf("families-%d", uint8(f))
}

// Family of the packets that a rule is for: 4, 6, or 0 for both, which is so with groups. The value is the datapath's.
func (r Rule) Family() uint8 {
	switch {
	case r.Group != 0:
		return 0
	case r.Prefix.Addr().Is4():
		return 4
	}
	return 6
}

// Match is what a rule without group compares a peer with: its VPC (0: any), and its IPv4 form.
func (r Rule) Match() (vpc uint32, peers netip.Prefix) {
	if r.Prefix.Addr().Is4() {
		return 0, r.Prefix.Masked()
	}
	return api.IPv6Match(r.Prefix)
}

// rulePrefix checks a rule's prefix: IPv4, or IPv6 of this mesh. Behind an address of a VPC there are no others, so that /96 and
// /128 mean the same and /96 stands for both.
func (c *compiler) rulePrefix(protocol api.Protocol, p netip.Prefix) (netip.Prefix, error) {
	switch {
	case p.Addr().Is4() && (p != p.Masked() || protocol == api.ICMPv6), p.Addr().Is6() && protocol == api.ICMP:
		return p, fmt.Errorf("cidr: %s has host bits, or is of another family than %q", p, protocol)
	case p.Addr().Is4():
		return p, nil
	}
	if e := api.ValidateIPv6Prefix("cidr", p); e != nil {
		return p, e
	}
	if p.Bits() > 0 && !api.MeshPrefix(c.view.Mesh.Number).Contains(p.Addr()) {
		return p, fmt.Errorf("cidr: %s is not of mesh %06x", p, c.view.Mesh.Number)
	}
	return netip.PrefixFrom(p.Addr(), min(p.Bits(), addressBits6)).Masked(), nil
}

// Lengths of IPv6 prefixes of a VPC and of one address.
const (
	vpcBits6     = 64
	addressBits6 = 96
)

// twin is the other half of the next wider prefix; ok is false for a prefix that has no wider one within what a rule may say.
func twin(p netip.Prefix) (other netip.Prefix, ok bool) {
	bits := p.Bits()
	if bits == 0 || p.Addr().Is6() && bits <= vpcBits6 {
		return p, false
	}
	b := p.Addr().AsSlice()
	b[(bits-1)/8] ^= 0x80 >> ((bits - 1) % 8)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, bits), true
}
