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
