package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

var domainKind = kind[api.Domain]{
	command: "domain", arg: "DOMAIN", noun: "domain", plural: "domains", sample: "example.com",
	list: (*client.Client).ListDomains, watch: (*client.Client).WatchDomains,
	get: (*client.Client).GetDomain, remove: (*client.Client).DeleteDomain,
	head: []string{"ID", "DOMAIN", "ACCOUNT", "STATE", "TXT RECORD", "VALUE"},
	row: func(v *api.Domain) []string {
		return []string{v.ID, v.Name, v.Account, string(v.State), v.VerificationName, v.VerificationValue}
	},
	empty: "You have proved no domain. Say which is yours: culvert domain create example.com",
}

func (a *app) provenDomainCommand() *cobra.Command {
	g := group("domain", "DNS domains that an account proves to be its own", `
A service may have private DNS names in a domain that its account has proved by a TXT record, beside those that an
administrator gave it (culvert account domain).`, `
  culvert domain create example.com
  culvert domain list`)
	var create, verify mutation
	var r api.CreateDomainRequest
	c := command("create DOMAIN", "Say that a domain is your account's", `
Say that a domain is your account's. The answer has a TXT record to be put into the domain: the server looks for it each
minute, for three days. The state is pendingVerification until it is found, then verified.`, `
  culvert domain create example.com`, nil)
	c.RunE = change(a, domainKind, &create,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.Domain, error) {
			r.Domain = args[0]
			return cl.CreateDomain(ctx, r, o...)
		})
	tags(c, &r.Tags)
	c.Args = exactly("DOMAIN")
	create.flags(c)
	v := command("verify DOMAIN", "Look for the record at once", `
Have the server look for a domain's TXT record at once, also when it had given up.`, `
  culvert domain verify example.com`, nil)
	v.RunE = change(a, domainKind, &verify,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.Domain, error) {
			return cl.VerifyDomain(ctx, args[0], o...)
		})
	v.Args = exactly("DOMAIN")
	v.ValidArgsFunction = complete(a, domainKind)
	verify.flags(v)
	g.AddCommand(c, domainKind.listCommand(a), domainKind.describeCommand(a), v,
		domainKind.deleteCommand(a, "No service may have a private DNS name in it any more."))
	return g
}
