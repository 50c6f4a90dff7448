package view

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// addResolverRules adds those of the VPCs that the node hosts a workload of. Of what an account has beyond its share of a view, the newest
// first, the forwarders are left out: the domain's names are then not answered, rather than be asked for elsewhere.
func (x *Index) addResolverRules(v *api.View, local map[string]bool) {
	var rules []api.ViewResolverRule
	created := map[string]*api.ResolverRule{}
	wanted := map[string]int{} // by account: routes
	for _, r := range x.r.ResolverRules {
		if numbers := x.numbersOf(r.VPCs, local); len(numbers) > 0 {
			rules = append(rules, api.ViewResolverRule{ID: r.ID, Account: r.Account, Domain: r.Name, VPCs: numbers})
			created[r.ID] = r
			wanted[r.Account] += len(numbers)
		}
	}
	slices.SortFunc(rules, func(a, b api.ViewResolverRule) int {
		return cmp.Or(created[a.ID].CreatedAt.Compare(created[b.ID].CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	share, taken := evenShare(wanted, api.MaxRuleRoutesPerNodeAndAccount, api.MaxRuleRoutesPerNode), map[string]int{}
	for i := range rules {
		r := &rules[i]
		if taken[r.Account]+len(r.VPCs) > share {
			r.LeftOut = fmt.Sprintf("a node has room for %d of an account's pairs of a resolver rule and a VPC", share)
			continue
		}
		taken[r.Account] += len(r.VPCs)
		r.Forwarders, r.PlainForwarders = created[r.ID].Forwarders, created[r.ID].PlainForwarders
	}
	slices.SortFunc(rules, func(a, b api.ViewResolverRule) int { return cmp.Compare(a.ID, b.ID) })
	v.ResolverRules = rules
}

// evenShare is the most that each account may have, so that all together have the budget at most: with room enough what one of them may have
// anywhere.
func evenShare(wanted map[string]int, most, budget int) int {
	left := len(wanted)
	for _, n := range slices.Sorted(maps.Values(wanted)) {
		if n = min(n, most); n > budget/left {
			return budget / left
		}
		budget -= n
		left--
	}
	return most
}

// numbersOf are those of the VPCs that are local, sorted.
func (x *Index) numbersOf(vpcs []string, local map[string]bool) (out []uint32) {
	for _, vpc := range vpcs {
		if p := x.r.VPCs[vpc]; p != nil && local[vpc] {
			out = append(out, p.Number)
		}
	}
	slices.Sort(out)
	return out
}
