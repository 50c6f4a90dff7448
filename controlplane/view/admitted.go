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
				key := api.Rule{Protocol: r.Protocol, FromPort: r.FromPort, ToPort: r.ToPort, CIDR: p}
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
	addresses := map[string][]netip.Addr{}
	for _, e := range r.ENIs {
		if e.Type == api.ENIWorkload {
			for _, g := range e.SecurityGroups {
				addresses[g] = append(addresses[g], e.Address)
			}
		}
	}
	members := map[string]func() []netip.Prefix{}
	for g, list := range addresses {
		members[g] = sync.OnceValue(func() []netip.Prefix { return Cover(list) })
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
	consumers := map[string]int{} // by account: rules so far
	for _, g := range v.Grants {
		order[g.Endpoint], account[g.Endpoint] = g.ConnectionNumber, g.ConsumerAccount
		consumers[g.ConsumerAccount] = 0
	}
	share := min(api.MaxAdmittedRulesPerNodeAndAccount, api.MaxAdmittedRulesPerNode/max(1, len(consumers)))
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
