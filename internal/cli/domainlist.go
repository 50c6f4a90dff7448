package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

var domainListKind = kind[api.FirewallDomainList]{
	command: "dns-firewall domain-list", arg: "LIST", noun: "firewall domain list", plural: "firewall domain lists", sample: "trackers",
	list: (*client.Client).ListFirewallDomainLists, watch: (*client.Client).WatchFirewallDomainLists,
	get: (*client.Client).GetFirewallDomainList, remove: (*client.Client).DeleteFirewallDomainList,
	head: []string{"ID", "NAME", "ACCOUNT", "DOMAINS"},
	row: func(v *api.FirewallDomainList) []string {
		return []string{v.ID, v.Name, v.Account, strconv.Itoa(len(v.Domains))}
	},
	empty: "You have no firewall domain list yet. Make one: culvert dns-firewall domain-list create NAME DOMAIN",
}

func (a *app) domainListCommand() *cobra.Command {
	g := group("domain-list", "Domains that several rules share", `
A firewall domain list is domains that rules of several firewall rule groups may name together. A domain is a name, *.
and a name for all that is below it, or * for everything. What is changed in a list counts at once for all its rules.`, `
  culvert dns-firewall domain-list create trackers ads.example.com "*.example.net"
  culvert dns-firewall rule put shop 15 BLOCK --domain-list trackers`)
	var r api.CreateFirewallDomainListRequest
	var m mutation
	c := command("create NAME [DOMAIN]...", "Create a firewall domain list", `
Create a firewall domain list, empty or with domains.`, `
  culvert dns-firewall domain-list create trackers ads.example.com "*.example.net"
  culvert dns-firewall domain-list create blocked $(cat blocked.txt)`, nil)
	c.RunE = change(a, domainListKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.FirewallDomainList, error) {
			r.Name, r.Domains = args[0], args[1:]
			return cl.CreateFirewallDomainList(ctx, r, o...)
		})
	tags(c, &r.Tags)
	c.Args = atLeast("NAME")
	m.flags(c)
	g.AddCommand(c, domainListKind.listCommand(a), domainListKind.describeCommand(a),
		domainListKind.deleteCommand(a, "One that a rule names is not deleted."),
		a.domainsCommand("add", api.DomainsAdd, "Add domains to a list", "Add domains to a firewall domain list. Those that it has already stay."),
		a.domainsCommand("remove", api.DomainsRemove, "Remove domains from a list", "Remove domains from a firewall domain list."),
		a.domainsCommand("replace", api.DomainsReplace, "Put domains in the place of all", "Put domains in the place of all that a firewall domain list has."))
	return g
}

// domainsCommand changes the domains of a list.
func (a *app) domainsCommand(verb string, op api.DomainsOperation, short, long string) *cobra.Command {
	m := new(mutation)
	c := command(verb+" LIST DOMAIN...", short, "\n"+long, "\n  culvert dns-firewall domain-list "+verb+" trackers ads.example.com", nil)
	c.RunE = change(a, domainListKind, m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.FirewallDomainList, error) {
			return cl.ChangeFirewallDomains(ctx, args[0], api.ChangeFirewallDomainsRequest{Operation: op, Domains: args[1:]}, o...)
		})
	c.Args = atLeast("LIST", "DOMAIN")
	c.ValidArgsFunction = positions(complete(a, domainListKind))
	m.flags(c)
	return c
}
