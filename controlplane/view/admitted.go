package view

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/culvert-net/culvert/api"
)

// admitted are the inward rules of an endpoint's groups, at most as many as the datapath holds, sorted. A group in a rule becomes
// the addresses of its workloads, since the provider's node knows nothing else of the consumer's VPC; endpoints and load
// balancers open no flows, so theirs do not count. Of rules that match the same, the one with the smallest id stays.
func (x *Index) admitted(l *link) api.ViewAdmitted {
	out := api.ViewAdmitted{Endpoint: l.endpoint.ID}
	have := map[api.Rule]string{} // by rule without its id
	for _, id := range l.endpoint.SecurityGroups {
		g := x.r.SecurityGroups[id]
		if g == nil {
			continue
		}
		for _, r := range g.Ingress {
			prefixes := []netip.Prefix{r.CIDR}
			if r.Group != "" {
				prefixes = x.workloads(r.Group)
			}
			for _, p := range prefixes {
				if r.Protocol == api.ICMP && p.Addr().Is6() || r.Protocol == api.ICMPv6 && p.Addr().Is4() {
					continue // of a group's members, those that the rule's protocol is not for
				}
				key := api.Rule{Protocol: r.Protocol, FromPort: r.FromPort, ToPort: r.ToPort, ICMPType: r.ICMPType, ICMPCode: r.ICMPCode, CIDR: p}
				if id, known := have[key]; !known || r.ID < id {
					have[key] = r.ID
				}
				if len(have) > api.MaxRulesPerSet {
					out.LeftOut = fmt.Sprintf("the endpoint admits more than %d ranges of addresses: use fewer or wider rules",
						api.MaxRulesPerSet)
					return out
				}
			}
		}
	}
	for r, id := range have {
		r.ID = id
		out.Rules = append(out.Rules, r)
	}
	slices.SortFunc(out.Rules, func(a, b api.Rule) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), comparePrefix(a.CIDR, b.CIDR))
	})
	return out
}

// workloads are the addresses of the workloads in a group, as the fewest prefixes.
func (x *Index) workloads(group string) []netip.Prefix {
	if p := x.members[group]; p != nil {
		return p()
	}
	return nil
}

// newMembers prepares workloads for every group that somebody is in.
func newMembers(r *api.Resources) map[string]func() []netip.Prefix {
	type group struct {
		vpc    uint32
		v4, v6 []netip.Addr // IPv4 forms of those that have the family
	}
	groups := map[string]*group{}
	for _, e := range r.ENIs {
		v := r.VPCs[e.VPC]
		if e.Type != api.ENIWorkload || v == nil {
			continue
		}
		for _, id := range e.SecurityGroups {
			g := groups[id]
			if g == nil {
				g = &group{vpc: v.Number}
				groups[id] = g
			}
			if e.IPAddressType.HasIPv4() {
				g.v4 = append(g.v4, e.Address)
			}
			if e.IPAddressType.HasIPv6() {
				g.v6 = append(g.v6, e.Address)
			}
		}
	}
	members := map[string]func() []netip.Prefix{}
	for id, g := range groups {
		members[id] = sync.OnceValue(func() []netip.Prefix {
			out := Cover(g.v4)
			for _, p := range Cover(g.v6) {
				out = append(out, api.IPv6Block(r.Mesh.Number, g.vpc, p))
			}
			return out
		})
	}
	return members
}

// Cover returns the fewest prefixes that hold exactly the given IPv4 addresses, in order. It sorts its argument.
func Cover(addresses []netip.Addr) []netip.Prefix {
	slices.SortFunc(addresses, netip.Addr.Compare)
	var out []netip.Prefix
	for _, a := range slices.Compact(addresses) {
		p := netip.PrefixFrom(a, 32)
		for len(out) > 0 && p.Bits() > 0 {
			wider := netip.PrefixFrom(a, p.Bits()-1).Masked()
			if last := out[len(out)-1]; last.Bits() != p.Bits() || !wider.Contains(last.Addr()) {
				break
			}
			out, p = out[:len(out)-1], wider
		}
		out = append(out, p)
	}
	return out
}

// shareRules leaves out of a view what its consumers have of rules beyond their shares, the newest endpoints' first, so that none
// fills it for the others.
func (x *Index) shareRules(v *api.View) {
	order := map[string]uint32{} // by endpoint: number of its connection
	account := map[string]string{}
	consumers, wants := map[string]int{}, map[string]int{} // by account: rules so far, and all
	for _, g := range v.Grants {
		order[g.Endpoint], account[g.Endpoint] = g.ConnectionNumber, g.ConsumerAccount
	}
	for _, a := range v.Admitted {
		wants[account[a.Endpoint]] += len(a.Rules)
	}
	share := evenShare(wants, api.MaxAdmittedRulesPerNodeAndAccount, api.MaxAdmittedRulesPerNode)
	slices.SortFunc(v.Admitted, func(a, b api.ViewAdmitted) int { return cmp.Compare(order[a.Endpoint], order[b.Endpoint]) })
	for i := range v.Admitted {
		a := &v.Admitted[i]
		owner := account[a.Endpoint]
		if consumers[owner] += len(a.Rules); consumers[owner] > share {
			consumers[owner] -= len(a.Rules)
			*a = api.ViewAdmitted{Endpoint: a.Endpoint,
				LeftOut: fmt.Sprintf("a node has room for %d rules of the consumer's endpoints", share)}
		}
	}
}
