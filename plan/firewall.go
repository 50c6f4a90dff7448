package plan

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// firewalls fills Firewalls. One whose rules were left out of the view, or are no rules, is closed; the rest of the view is in force.
func (c *compiler) firewalls() error {
	taken := map[uint32]bool{} // VPCs
	for i := range c.view.Firewalls {
		g := &c.view.Firewalls[i]
		field := fmt.Sprintf("firewalls[%q]", g.ID)
		if err := checkIDs(field, g.ID); err != nil {
			return err
		}
		if len(g.VPCs) == 0 || i > 0 && c.view.Firewalls[i-1].ID == g.ID {
			return fmt.Errorf("%s.vpcs: none, or the group stands twice", field)
		}
		var vpcs []string
		for _, number := range g.VPCs {
			vpc := c.vpcs[number]
			if vpc == nil || !vpc.Local {
				return fmt.Errorf("%s.vpcs: %d is no VPC of this node", field, number)
			}
			if taken[number] {
				return fmt.Errorf("%s.vpcs: %d has another group, too", field, number)
			}
			taken[number] = true
			vpcs = append(vpcs, strconv.FormatUint(uint64(number), 10))
		}
		text, why := firewallText(g)
		if why != "" {
			c.leave("firewalls", g.VPCs[0], why, g.ID)
		}
		c.plan.Firewalls = append(c.plan.Firewalls, Firewall{ID: g.ID, VPCs: strings.Join(vpcs, ","), Text: text, Closed: why != ""})
	}
	return nil
}

// firewallText is a line for each rule; or why the rules are not known.
func firewallText(g *api.ViewFirewall) (text, why string) {
	var b strings.Builder
	before := uint32(0)
	for i := range g.Rules {
		r := &g.Rules[i]
		if r.Validate() != nil || r.DomainList != "" || r.Priority <= before || r.Rule != "" && checkRuleName(r.Rule) != nil {
			return "", fmt.Sprintf("rule %d is malformed, or out of order", i)
		}
		before = r.Priority
		response, override := cmp.Or(string(r.BlockResponse), "-"), cmp.Or(r.BlockOverrideDomain, "-")
		fmt.Fprintf(&b, "%d %s %s %s %d %s %s\n", r.Priority, r.Action, response, override, r.BlockOverrideTTLSeconds,
			strings.Join(r.Domains, ","), cmp.Or(r.Rule, fmt.Sprintf("%s/%d", g.ID, r.Priority)))
	}
	if g.LeftOut != "" {
		return "", g.LeftOut
	}
	return b.String(), ""
}

// checkRuleName demands GROUP/PRIORITY.
func checkRuleName(name string) error {
	group, priority, ok := strings.Cut(name, "/")
	if _, err := strconv.ParseUint(priority, 10, 32); !ok || err != nil {
		return fmt.Errorf("%q is no name of a rule", name)
	}
	return checkIDs("rule", group)
}

// Rules reads the text back; each rule has its name.
func (f Firewall) Rules() (out []api.ViewFirewallRule, err error) {
	for line := range strings.Lines(f.Text) {
		w := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		if len(w) != 7 {
			return nil, fmt.Errorf("firewall rule group %s: %q is no rule", f.ID, line)
		}
		priority, err1 := strconv.ParseUint(w[0], 10, 32)
		ttl, err2 := strconv.ParseUint(w[4], 10, 32)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("firewall rule group %s: %q is no rule", f.ID, line)
		}
		r := api.ViewFirewallRule{Rule: w[6], FirewallRule: api.FirewallRule{Priority: uint32(priority), Action: api.FirewallAction(w[1]),
			Domains: strings.Split(w[5], ","), BlockOverrideTTLSeconds: uint32(ttl)}}
		if w[2] != "-" {
			r.BlockResponse = api.BlockResponse(w[2])
		}
		if w[3] != "-" {
			r.BlockOverrideDomain = w[3]
		}
		out = append(out, r)
	}
	return out, nil
}

// Numbers are the VPCs.
func (f Firewall) Numbers() []uint32 { return numbers(f.VPCs) }
