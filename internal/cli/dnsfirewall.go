package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

var firewallKind = kind[api.FirewallRuleGroup]{
	command: "dns-firewall", arg: "GROUP", noun: "firewall rule group", plural: "firewall rule groups", sample: "shop",
	list: (*client.Client).ListFirewallRuleGroups, watch: (*client.Client).WatchFirewallRuleGroups,
	get: (*client.Client).GetFirewallRuleGroup, remove: (*client.Client).DeleteFirewallRuleGroup,
	head: []string{"ID", "NAME", "ACCOUNT", "VPCS", "RULES"},
	row: func(v *api.FirewallRuleGroup) []string {
		var rules, vpcs []string
		for _, r := range v.Rules {
			rules = append(rules, fmt.Sprintf("%d:%s", r.Priority, r.Action))
		}
		for _, vpc := range v.VPCs {
			vpcs = append(vpcs, fmt.Sprintf("%s:%d", vpc, v.PriorityIn(vpc)))
		}
		return []string{v.ID, v.Name, v.Account, strings.Join(vpcs, ","), strings.Join(rules, ",")}
	},
	empty: "You have no firewall rule group yet. Make one: culvert dns-firewall create NAME --vpc VPC",
}

func (a *app) dnsFirewallCommand() *cobra.Command {
	g := group("dns-firewall", "Which names workloads may look up", `
A firewall rule group decides about DNS queries of the VPCs that it is associated with, before anything answers them. A
VPC has up to five, and looks at the one with the smallest priority there first. Of its rules the one with the smallest
priority that has the name decides; where no rule of any group has it the query passes. Names that aliases lead to are
judged, too. What BLOCK and ALERT decided is recorded where no query log is, too: culvert queries find shows it.`, `
  culvert dns-firewall create shop --vpc shop
  culvert dns-firewall rule put shop 10 ALLOW corp.internal "*.corp.internal"
  culvert dns-firewall rule put shop 20 BLOCK "*" --block-response NXDOMAIN`)
	var r api.CreateFirewallRuleGroupRequest
	var m mutation
	var turn uint32
	c := command("create NAME [--vpc VPC]...", "Create a firewall rule group", `
Create a firewall rule group without rules, and associate it with VPCs of your account.`, `
  culvert dns-firewall create shop --vpc shop
  culvert dns-firewall create trackers --vpc shop --priority 2000`, nil)
	c.RunE = change(a, firewallKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.FirewallRuleGroup, error) {
			r.Name, r.Priority = args[0], given(c, "priority", &turn)
			return cl.CreateFirewallRuleGroup(ctx, r, o...)
		})
	references(a, c, vpcKind, &r.VPCs, "vpc", "`VPC` that it decides for")
	c.Flags().Uint32Var(&turn, "priority", 0, firewallTurn)
	tags(c, &r.Tags)
	c.Args = exactly("NAME")
	m.flags(c)
	g.AddCommand(c, firewallKind.listCommand(a), firewallKind.describeCommand(a),
		firewallKind.deleteCommand(a, "VPCs may look up what their other groups let pass."),
		a.associateFirewallCommand(),
		vpcsCommand(a, firewallKind, "disassociate", "Take that back",
			"Take VPCs out of a firewall rule group: their workloads may look up what other groups let pass.",
			"`VPC` that it decides for", (*client.Client).DisassociateFirewallRuleGroup),
		a.firewallRuleCommand(), a.domainListCommand())
	return g
}

// firewallTurn is the usage of --priority.
const firewallTurn = "`number` from 1 to 10000 in these VPCs: the smaller goes first; default 1000"

func (a *app) associateFirewallCommand() *cobra.Command {
	var m mutation
	var r api.AssociateFirewallRuleGroupRequest
	var turn uint32
	c := command("associate GROUP --vpc VPC...", "Have a rule group decide for VPCs", `
Have a firewall rule group decide for more VPCs, or change its priority in VPCs for which it does already.`, `
  culvert dns-firewall associate shop --vpc shop
  culvert dns-firewall associate shop --vpc shop --priority 200`, nil)
	c.RunE = change(a, firewallKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.FirewallRuleGroup, error) {
			r.Priority = given(c, "priority", &turn)
			return cl.AssociateFirewallRuleGroup(ctx, args[0], r, o...)
		})
	references(a, c, vpcKind, &r.VPCs, "vpc", "`VPC` that it decides for")
	required(c, "vpc")
	c.Flags().Uint32Var(&turn, "priority", 0, firewallTurn+", or what it is there")
	c.Args = exactly("GROUP")
	c.ValidArgsFunction = complete(a, firewallKind)
	m.flags(c)
	return c
}

// priority reads a rule's.
func priority(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, api.Errorf(api.CodeInvalidParameter, "PRIORITY", fmt.Sprintf("give 1 to %d", api.MaxFirewallPriority),
			"%q is not a number", api.Shortened(text))
	}
	return uint32(n), nil
}

func (a *app) firewallRuleCommand() *cobra.Command {
	g := group("rule", "Rules of a firewall rule group", `
Rules of a firewall rule group. Each has a priority of its own, and the smallest goes first. A domain is a name, *. and
a name for all that is below it, or * for everything. Instead of domains a rule may name a list of them, which other
rules name, too.`, `
  culvert dns-firewall rule put shop 20 BLOCK "*" --block-response NXDOMAIN
  culvert dns-firewall describe shop`)
	var put, remove mutation
	var rule api.FirewallRule
	var response string
	p := command("put GROUP PRIORITY ACTION {DOMAIN...|--domain-list LIST}", "Put a rule in the place of the one of its priority", `
Put a rule in the place of the one that has its priority. ALLOW lets queries pass, ALERT too, and records them, BLOCK
answers itself: that there is no such record (NODATA) or no such name (NXDOMAIN), or with an alias to another name
(OVERRIDE).`, `
  culvert dns-firewall rule put shop 10 ALLOW corp.internal "*.corp.internal"
  culvert dns-firewall rule put shop 15 ALERT --domain-list trackers
  culvert dns-firewall rule put shop 20 BLOCK "*.example.net" --block-response OVERRIDE \
    --block-override-domain blocked.corp.internal`, nil)
	p.RunE = change(a, firewallKind, &put,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.FirewallRuleGroup, error) {
			var err error
			if rule.Priority, err = priority(args[1]); err != nil {
				return nil, err
			}
			rule.Action, rule.Domains = api.FirewallAction(strings.ToUpper(args[2])), args[3:]
			rule.BlockResponse = api.BlockResponse(strings.ToUpper(response))
			return cl.ChangeFirewallRules(ctx, args[0], api.ChangeFirewallRulesRequest{Put: []api.FirewallRule{rule}}, o...)
		})
	choice(p, &response, "block-response", "", string(api.BlockNoData), string(api.BlockNXDomain), string(api.BlockOverride))
	reference(a, p, domainListKind, &rule.DomainList, "domain-list", "`LIST` of domains, in their place")
	f := p.Flags()
	f.StringVar(&rule.BlockOverrideDomain, "block-override-domain", "", "`NAME` that blocked queries lead to, with OVERRIDE")
	f.Uint32Var(&rule.BlockOverrideTTLSeconds, "block-override-ttl", 0, "`seconds` for which others may keep that alias")
	p.Args = func(c *cobra.Command, args []string) error {
		if c.Flags().Changed("domain-list") {
			return exactly("GROUP", "PRIORITY", "ACTION")(c, args)
		}
		return atLeast("GROUP", "PRIORITY", "ACTION", "DOMAIN")(c, args)
	}
	p.ValidArgsFunction = positions(complete(a, firewallKind))
	put.flags(p)
	d := command("delete GROUP PRIORITY", "Delete a rule", `
Delete the rule that has a priority.`, `
  culvert dns-firewall rule delete shop 20`, nil)
	d.RunE = change(a, firewallKind, &remove,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.FirewallRuleGroup, error) {
			n, err := priority(args[1])
			if err != nil {
				return nil, err
			}
			return cl.ChangeFirewallRules(ctx, args[0], api.ChangeFirewallRulesRequest{Remove: []uint32{n}}, o...)
		})
	d.Args = exactly("GROUP", "PRIORITY")
	d.ValidArgsFunction = positions(complete(a, firewallKind))
	remove.flags(d)
	g.AddCommand(p, d)
	return g
}
