package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
)

// addFirewalls adds the rule groups of the VPCs that the node hosts a workload of: for VPCs with the same groups in the same order once.
// Of those that there is no room for the rules are left out: nothing is answered then, rather than something that is to be blocked.
func (x *Index) addFirewalls(v *api.View, local map[string]bool) {
	var walls []api.ViewFirewall
	groups := map[string][]*api.FirewallRuleGroup{} // by the id of what they are together
	for vpc, list := range x.firewalls(local) {
		id := firewallID(list)
		if _, known := groups[id]; !known {
			walls = append(walls, api.ViewFirewall{ID: id, Account: list[0].Account})
		}
		groups[id] = list
		w := &walls[slices.IndexFunc(walls, func(w api.ViewFirewall) bool { return w.ID == id })]
		w.VPCs = append(w.VPCs, x.r.VPCs[vpc].Number)
	}
	size, began, wanted := map[string]int{}, map[string]time.Time{}, map[string]int{} // by wall twice, by account
	for _, w := range walls {
		began[w.ID] = groups[w.ID][0].CreatedAt
		for _, g := range groups[w.ID] {
			size[w.ID] += g.SizeWith(x.r.FirewallDomainLists)
			if g.CreatedAt.Before(began[w.ID]) {
				began[w.ID] = g.CreatedAt
			}
		}
		wanted[w.Account] += size[w.ID]
	}
	slices.SortFunc(walls, func(a, b api.ViewFirewall) int {
		return cmp.Or(began[a.ID].Compare(began[b.ID]), cmp.Compare(a.ID, b.ID))
	})
	fits := fitting(walls, size, wanted)
	for i := range walls {
		w := &walls[i]
		slices.Sort(w.VPCs)
		if !fits[w.ID] {
			w.LeftOut = fmt.Sprintf("a node has room for %d KiB of firewall rules", api.MaxFirewallBytesPerNode>>10)
			continue
		}
		w.Rules, w.LeftOut = x.firewallRules(groups[w.ID])
	}
	slices.SortFunc(walls, func(a, b api.ViewFirewall) int { return cmp.Compare(a.ID, b.ID) })
	v.Firewalls = walls
}

// fitting are those that there is room for, of walls from the oldest to the newest: of each account what fits into its even share, so that nobody
// takes that from another; then, of what room is left, accounts take turns.
func fitting(walls []api.ViewFirewall, size, wanted map[string]int) map[string]bool {
	fits, used, room := map[string]bool{}, map[string]int{}, api.MaxFirewallBytesPerNode
	share := evenShare(wanted, room, room)
	for _, w := range walls {
		if used[w.Account]+size[w.ID] <= share {
			used[w.Account] += size[w.ID]
			room -= size[w.ID]
			fits[w.ID] = true
		}
	}
	rest := slices.DeleteFunc(slices.Clone(walls), func(w api.ViewFirewall) bool { return fits[w.ID] })
	turn, turns := map[string]int{}, map[string]int{} // by wall, by account
	for _, w := range rest {
		turn[w.ID] = turns[w.Account]
		turns[w.Account]++
	}
	slices.SortStableFunc(rest, func(a, b api.ViewFirewall) int { return cmp.Compare(turn[a.ID], turn[b.ID]) })
	for _, w := range rest {
		if size[w.ID] <= room {
			room -= size[w.ID]
			fits[w.ID] = true
		}
	}
	return fits
}

// firewalls are the rule groups of local VPCs, by the VPC's id, in the order in which they are looked at.
func (x *Index) firewalls(local map[string]bool) map[string][]*api.FirewallRuleGroup {
	by := map[string][]*api.FirewallRuleGroup{}
	for _, g := range x.r.FirewallRuleGroups {
		for _, vpc := range g.VPCs {
			if local[vpc] && x.r.VPCs[vpc] != nil {
				by[vpc] = append(by[vpc], g)
			}
		}
	}
	for vpc, list := range by {
		slices.SortFunc(list, func(a, b *api.FirewallRuleGroup) int {
			return cmp.Or(cmp.Compare(a.PriorityIn(vpc), b.PriorityIn(vpc)), cmp.Compare(a.ID, b.ID))
		})
	}
	return by
}

// firewallID is the first group's id, and the others' without prefix behind dots: nodes take ids of 128 bytes at most.
func firewallID(groups []*api.FirewallRuleGroup) string {
	id := groups[0].ID
	for _, g := range groups[1:] {
		id += "." + strings.TrimPrefix(g.ID, api.KindFirewallRuleGroup.Prefix())
	}
	return id
}

// firewallRules are the rules of groups as those of one, with the domains of their lists; or why they are not known. A rule
// whose list is empty has no name. Rules of one group alone keep their priorities: nodes that know of one group only take them so.
func (x *Index) firewallRules(groups []*api.FirewallRuleGroup) (out []api.ViewFirewallRule, leftOut string) {
	out = []api.ViewFirewallRule{}
	for _, g := range groups {
		for _, r := range g.Rules {
			full, known := r.With(x.r.FirewallDomainLists)
			if !known {
				return nil, fmt.Sprintf("the domain list %s of %s is gone", r.DomainList, g.ID)
			}
			if len(full.Domains) == 0 {
				continue
			}
			v := api.ViewFirewallRule{FirewallRule: full}
			if len(groups) > 1 {
				v.Rule, v.Priority = fmt.Sprintf("%s/%d", g.ID, r.Priority), uint32(len(out)+1)
			}
			out = append(out, v)
		}
	}
	return out, ""
}
