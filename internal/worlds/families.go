package worlds

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// AddFamilies gives the workloads and endpoints of a world address types at random, and puts beside rules from IPv4 prefixes such
// from IPv6 ones: everywhere, the same range of the group's own VPC, or that of another.
func AddFamilies(rng *rand.Rand, r *api.Resources) {
	types := []api.IPAddressType{"", api.IPv4Only, api.DualStack, api.DualStack, api.IPv6Only}
	for _, id := range slices.Sorted(maps.Keys(r.ENIs)) {
		if e := r.ENIs[id]; e.Type == api.ENIWorkload {
			e.IPAddressType = types[rng.IntN(len(types))]
		}
	}
	for _, id := range slices.Sorted(maps.Keys(r.Endpoints)) {
		r.Endpoints[id].IPAddressType = types[rng.IntN(len(types))]
	}
	vpcs := slices.Sorted(maps.Keys(r.VPCs))
	for _, id := range slices.Sorted(maps.Keys(r.SecurityGroups)) {
		g := r.SecurityGroups[id]
		for _, rules := range []*[]api.Rule{&g.Ingress, &g.Egress} {
			for _, rule := range slices.Clone(*rules) {
				if rule.CIDR.IsValid() && rng.IntN(3) > 0 {
					vpc := g.VPC
					if rng.IntN(4) == 0 {
						vpc = vpcs[rng.IntN(len(vpcs))]
					}
					*rules = append(*rules, six(r, rule, r.VPCs[vpc], len(*rules)))
				} else if rule.Protocol == api.ICMP && rule.Group != "" {
					rule.ID, rule.Protocol = fmt.Sprintf("%s-6-%d", rule.ID, len(*rules)), api.ICMPv6
					*rules = append(*rules, rule)
				}
			}
		}
	}
}

// six is a rule's counterpart for IPv6, of a range of a VPC where the rule's is not everywhere.
func six(r *api.Resources, rule api.Rule, vpc *api.VPC, n int) api.Rule {
	rule.ID = fmt.Sprintf("%s-6-%d", rule.ID, n)
	if rule.Protocol == api.ICMP {
		rule.Protocol = api.ICMPv6
	}
	if rule.CIDR.Bits() == 0 {
		rule.CIDR = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		return rule
	}
	block := api.IPv6Block(r.Mesh.Number, vpc.Number, rule.CIDR)
	if rule.CIDR.IsSingleIP() && n%2 == 0 {
		block = netip.PrefixFrom(api.IPv6Address(r.Mesh.Number, vpc.Number, rule.CIDR.Addr()), 128)
	}
	rule.CIDR = block
	return rule
}
