package controlplane

import (
	"slices"

	"github.com/culvert-net/culvert/api"
)

// prioritiesOf are a group's in the VPCs that it still decides for.
func prioritiesOf(g *api.FirewallRuleGroup) map[string]uint32 {
	out := map[string]uint32{}
	for _, vpc := range g.VPCs {
		out[vpc] = g.PriorityIn(vpc)
	}
	return out
}

// forgetInFirewalls takes a VPC that is deleted out of rule groups.
func (c *call) forgetInFirewalls(vpc string) error {
	for _, old := range c.r.FirewallRuleGroups {
		if !slices.Contains(old.VPCs, vpc) {
			continue
		}
		g := *old
		g.VPCs = without(old.VPCs, vpc)
		g.Priorities = prioritiesOf(&g)
		if err := put(c, &g, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// fitsFirewall bounds what nodes are told of one group.
func fitsFirewall(g *api.FirewallRuleGroup, lists map[string]*api.FirewallDomainList, field string) error {
	if n := g.SizeWith(lists); n > api.MaxFirewallRuleGroupBytes {
		return api.Errorf(api.CodeLimitExceeded, field, "make a further group, or name shorter lists",
			"with the domains of its lists the firewall rule group %s takes %d KiB, at most %d are allowed", g.ID, (n+1023)>>10,
			api.MaxFirewallRuleGroupBytes>>10)
	}
	return nil
}

// roomForRules bounds what an account's rules and lists take together, of which one with that id has a size from now on.
func (c *call) roomForRules(account, id string, size int, field string) error {
	sum := size
	for _, o := range c.r.FirewallRuleGroups {
		if o.Account == account && o.ID != id {
			sum += o.Size()
		}
	}
	for _, o := range c.r.FirewallDomainLists {
		if o.Account == account && o.ID != id {
			sum += o.Size()
		}
	}
	if sum > api.MaxFirewallBytesPerAccount {
		return api.Errorf(api.CodeLimitExceeded, field, "remove some", "the account's firewall rules and domain lists take %d KiB, at most %d are allowed",
			(sum+1023)>>10, api.MaxFirewallBytesPerAccount>>10)
	}
	return nil
}
