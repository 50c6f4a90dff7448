package plan

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// resolverRules fills Rules. Which forwarders may be asked is the resolver's to say; a rule without one stays, so that nobody else is
// asked about its domain. What tenants wrote and is wrong is left out, as of hosted zones.
func (c *compiler) resolverRules() error {
	taken := map[string]bool{} // by VPC and domain
	for i := range c.view.ResolverRules {
		r := &c.view.ResolverRules[i]
		field := fmt.Sprintf("resolverRules[%q]", r.ID)
		if err := checkIDs(field, r.ID); err != nil {
			return err
		}
		if len(r.VPCs) == 0 || i > 0 && c.view.ResolverRules[i-1].ID == r.ID {
			return fmt.Errorf("%s.vpcs: none, or the rule stands twice", field)
		}
		var vpcs []string
		for _, number := range r.VPCs {
			vpc := c.vpcs[number]
			if vpc == nil || !vpc.Local {
				return fmt.Errorf("%s.vpcs: %d is no VPC of this node", field, number)
			}
			key := pad(uint64(number)) + "/" + r.Domain
			if taken[key] {
				c.leave("resolverRules", number, "another one has the domain in the VPC, too", r.ID)
				continue
			}
			taken[key] = true
			vpcs = append(vpcs, strconv.FormatUint(uint64(number), 10))
		}
		if !validName(r.Domain) || strings.HasPrefix(r.Domain, "*") {
			c.leave("resolverRules", r.VPCs[0], notAName, r.ID)
			continue
		}
		if len(vpcs) == 0 {
			continue
		}
		if r.LeftOut != "" {
			c.leave("resolverRules", r.VPCs[0], r.LeftOut, r.ID)
		}
		c.plan.Rules = append(c.plan.Rules, ResolverRule{ID: r.ID, Domain: r.Domain, VPCs: strings.Join(vpcs, ","),
			Forwarders: strings.Join(c.ruleForwarders(r), ","), Plain: r.PlainForwarders})
	}
	return nil
}

// ruleForwarders are those of a rule that can be asked.
func (c *compiler) ruleForwarders(r *api.ViewResolverRule) (out []string) {
	for _, f := range r.Forwarders {
		switch {
		case api.ValidateForwarder(f, r.PlainForwarders) != nil:
			c.leave("resolverRules: forwarders", r.VPCs[0], "not a forwarder, or not allowed", r.ID)
		case len(out) == MaxForwarders:
			c.leave("resolverRules: forwarders", r.VPCs[0], fmt.Sprintf("a rule has at most %d", MaxForwarders), r.ID)
		default:
			out = append(out, f)
		}
	}
	return out
}

// Numbers are the VPCs.
func (r ResolverRule) Numbers() []uint32 { return numbers(r.VPCs) }
