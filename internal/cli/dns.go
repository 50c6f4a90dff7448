package cli

import (
	"context"
	"strconv"
	"strings"

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

var hostedZoneKind = kind[api.HostedZone]{
	command: "hosted-zone", arg: "ZONE", noun: "hosted zone", plural: "hosted zones", sample: "corp.internal",
	list: (*client.Client).ListHostedZones, watch: (*client.Client).WatchHostedZones,
	get: (*client.Client).GetHostedZone, remove: (*client.Client).DeleteHostedZone,
	head: []string{"ID", "DOMAIN", "ACCOUNT", "VPCS", "RECORD SETS"},
	row: func(v *api.HostedZone) []string {
		return []string{v.ID, v.Name, v.Account, strings.Join(v.VPCs, ","), strconv.Itoa(len(v.RecordSets))}
	},
	empty: "You have no hosted zone yet. Make one: culvert hosted-zone create corp.internal --vpc VPC",
}

func (a *app) hostedZoneCommand() *cobra.Command {
	g := group("hosted-zone", "Private hosted zones: DNS records for your VPCs", `
A hosted zone holds DNS records of a domain for the VPCs that it is associated with, and only for them. Of several that
a name lies in, the most specific one answers.`, `
  culvert hosted-zone create corp.internal --vpc shop
  culvert hosted-zone record put corp.internal www A 10.0.1.5
  culvert hosted-zone list`)
	var r api.CreateHostedZoneRequest
	var m mutation
	c := command("create DOMAIN [--vpc VPC]...", "Create a hosted zone", `
Create a hosted zone for a domain, of any name, and associate it with VPCs of your account.`, `
  culvert hosted-zone create corp.internal --vpc shop`, nil)
	c.RunE = change(a, hostedZoneKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.HostedZone, error) {
			r.Domain = args[0]
			return cl.CreateHostedZone(ctx, r, o...)
		})
	references(a, c, vpcKind, &r.VPCs, "vpc", "`VPC` that sees its names")
	tags(c, &r.Tags)
	c.Args = exactly("DOMAIN")
	m.flags(c)
	g.AddCommand(c, hostedZoneKind.listCommand(a), hostedZoneKind.describeCommand(a),
		hostedZoneKind.deleteCommand(a, "Its records go with it."),
		vpcsCommand(a, hostedZoneKind, "associate", "Let VPCs see a hosted zone's names", "Let more VPCs see the names of a hosted zone.",
			"`VPC` that sees its names", (*client.Client).AssociateHostedZone),
		vpcsCommand(a, hostedZoneKind, "disassociate", "Take that back", "Hide the names of a hosted zone from VPCs.",
			"`VPC` that sees its names", (*client.Client).DisassociateHostedZone),
		a.recordCommand())
	return g
}

// vpcsCommand is a command that adds VPCs to what something is for, or takes them out.
func vpcsCommand[T any](a *app, k kind[T], verb, short, long, usage string,
	call func(*client.Client, context.Context, string, []string, ...client.Option) (*T, error)) *cobra.Command {
	m := new(mutation)
	var vpcs []string
	c := command(verb+" "+k.arg+" --vpc VPC...", short, "\n"+long, "\n  culvert "+k.command+" "+verb+" "+k.sample+" --vpc shop", nil)
	c.RunE = change(a, k, m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*T, error) {
			return call(cl, ctx, args[0], vpcs, o...)
		})
	references(a, c, vpcKind, &vpcs, "vpc", usage)
	required(c, "vpc")
	c.Args = exactly(k.arg)
	c.ValidArgsFunction = complete(a, k)
	m.flags(c)
	return c
}

// within makes a record's name absolute: what is not in the domain is taken to be relative to it.
func within(name, zone string) string {
	name = strings.TrimSuffix(name, ".")
	if name == "@" || api.WithinDomain(name, zone) || strings.HasPrefix(zone, api.KindHostedZone.Prefix()) {
		return name
	}
	return name + "." + zone
}

func (a *app) recordCommand() *cobra.Command {
	g := group("record", "Records of a hosted zone", `
Records of a hosted zone: A, AAAA, CNAME, TXT, SRV, MX, CAA, HTTPS and SVCB. All records of one name and type are one
set. A name is written whole, or without the domain where the zone is named by its domain; @ is the domain itself, and
*. as first label stands for names that do not exist otherwise.`, `
  culvert hosted-zone record put corp.internal www A 10.0.1.5 10.0.1.6
  culvert hosted-zone describe corp.internal`)
	var put, remove mutation
	var ttl uint32
	p := command("put ZONE NAME TYPE VALUE...", "Put a record set in the place of what is there", `
Put all records of a name and type in the place of those that are there. Values are written as in a zone file.`, `
  culvert hosted-zone record put corp.internal www A 10.0.1.5 10.0.1.6
  culvert hosted-zone record put corp.internal @ MX "10 mail.corp.internal" --record-ttl 60`, nil)
	p.RunE = change(a, hostedZoneKind, &put,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.HostedZone, error) {
			set := api.RecordSetRequest{Name: within(args[1], args[0]), Type: strings.ToUpper(args[2]), TTLSeconds: &ttl, Values: args[3:]}
			return cl.ChangeRecords(ctx, args[0], api.ChangeRecordsRequest{Put: []api.RecordSetRequest{set}}, o...)
		})
	p.Flags().Uint32Var(&ttl, "record-ttl", api.DefaultRecordTTL, "`seconds` for which others may keep the answer")
	p.Args = atLeast("ZONE", "NAME", "TYPE", "VALUE")
	p.ValidArgsFunction = positions(complete(a, hostedZoneKind))
	put.flags(p)
	d := command("delete ZONE NAME TYPE", "Delete a record set", `
Delete all records of a name and type.`, `
  culvert hosted-zone record delete corp.internal www A`, nil)
	d.RunE = change(a, hostedZoneKind, &remove,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.HostedZone, error) {
			name := api.RecordName{Name: within(args[1], args[0]), Type: strings.ToUpper(args[2])}
			return cl.ChangeRecords(ctx, args[0], api.ChangeRecordsRequest{Remove: []api.RecordName{name}}, o...)
		})
	d.Args = exactly("ZONE", "NAME", "TYPE")
	d.ValidArgsFunction = positions(complete(a, hostedZoneKind))
	remove.flags(d)
	g.AddCommand(p, d)
	return g
}
