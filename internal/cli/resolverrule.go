package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

var resolverRuleKind = kind[api.ResolverRule]{
	command: "resolver-rule", arg: "RULE", noun: "resolver rule", plural: "resolver rules", sample: "corp.example.com",
	list: (*client.Client).ListResolverRules, watch: (*client.Client).WatchResolverRules,
	get: (*client.Client).GetResolverRule, remove: (*client.Client).DeleteResolverRule,
	head: []string{"ID", "DOMAIN", "ACCOUNT", "VPCS", "FORWARDERS"},
	row: func(v *api.ResolverRule) []string {
		return []string{v.ID, v.Name, v.Account, strings.Join(v.VPCs, ","), strings.Join(v.Forwarders, ",")}
	},
	empty: "You have no resolver rule yet. Make one: culvert resolver-rule create corp.example.com --forwarder tls://9.9.9.9 --vpc VPC",
}

func (a *app) resolverRuleCommand() *cobra.Command {
	g := group("resolver-rule", "Which servers answer a domain's names", `
A resolver rule sends questions about a domain, and what is below it, to servers of its own, for the VPCs that it is
associated with. Of several that a name lies in, the most specific one counts. Names that are private in the VPC are
never sent anywhere.`, `
  culvert resolver-rule create corp.example.com --forwarder tls://9.9.9.9 --vpc shop
  culvert resolver-rule list`)
	g.AddCommand(a.resolverRuleCreate(), resolverRuleKind.listCommand(a), resolverRuleKind.describeCommand(a), a.resolverRuleModify(),
		resolverRuleKind.deleteCommand(a, "The VPCs' own forwarders answer its names again."),
		vpcsCommand(a, resolverRuleKind, "associate", "Have a resolver rule decide for VPCs", "Have a resolver rule decide for more VPCs.",
			"`VPC` that it is for", (*client.Client).AssociateResolverRule),
		vpcsCommand(a, resolverRuleKind, "disassociate", "Take that back", "Take VPCs out of a resolver rule: their own forwarders answer again.",
			"`VPC` that it is for", (*client.Client).DisassociateResolverRule))
	return g
}

func (a *app) resolverRuleCreate() *cobra.Command {
	var r api.CreateResolverRuleRequest
	var m mutation
	c := command("create DOMAIN --forwarder SERVER... [--vpc VPC]...", "Create a resolver rule", `
Create a resolver rule for a domain, and associate it with VPCs of your account. Nodes ask the servers from their own
network: any but DNS over TLS at a public address must be set by an administrator.`, `
  culvert resolver-rule create corp.example.com --forwarder tls://9.9.9.9 --vpc shop`, nil)
	c.RunE = change(a, resolverRuleKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.ResolverRule, error) {
			r.Domain = args[0]
			return cl.CreateResolverRule(ctx, r, o...)
		})
	f := c.Flags()
	f.StringArrayVar(&r.Forwarders, "forwarder", nil, "`SERVER` for the domain's names: tls://ADDRESS of a public resolver (may repeat)")
	f.BoolVar(&r.PlainForwarders, "plain-forwarders", false, "allow forwarders without TLS; queries leave in clear (administrators)")
	references(a, c, vpcKind, &r.VPCs, "vpc", "`VPC` that it is for")
	tags(c, &r.Tags)
	c.Args = exactly("DOMAIN")
	required(c, "forwarder")
	m.flags(c)
	return c
}

func (a *app) resolverRuleModify() *cobra.Command {
	var forwarders []string
	var plain bool
	var m mutation
	c := command("modify RULE [--forwarder SERVER]... [--plain-forwarders]", "Change a resolver rule's servers", `
Change which servers a resolver rule's questions go to. --forwarder replaces the whole list.`, `
  culvert resolver-rule modify corp.example.com --forwarder tls://9.9.9.9 --forwarder tls://149.112.112.112`, nil)
	c.RunE = change(a, resolverRuleKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.ResolverRule, error) {
			var r api.ModifyResolverRuleRequest
			if c.Flags().Changed("forwarder") {
				list := nonEmpty(forwarders)
				r.Forwarders = &list
			}
			if c.Flags().Changed("plain-forwarders") {
				r.PlainForwarders = &plain
			}
			return cl.ModifyResolverRule(ctx, args[0], r, o...)
		})
	c.Flags().StringArrayVar(&forwarders, "forwarder", nil, "`SERVER` for the domain's names: tls://ADDRESS of a public resolver (may repeat)")
	c.Flags().BoolVar(&plain, "plain-forwarders", false, "allow forwarders without TLS; queries leave in clear (administrators)")
	c.Args = exactly("RULE")
	c.ValidArgsFunction = complete(a, resolverRuleKind)
	m.flags(c)
	return c
}
