package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

var endpointKind = kind[api.Endpoint]{
	prefix: api.KindEndpoint.Prefix(), missing: api.CodeEndpointNotFound,
	command: "endpoint", arg: "ENDPOINT", noun: "endpoint", plural: "endpoints", sample: "ledger", byVPC: true,
	list: (*client.Client).ListEndpoints, watch: (*client.Client).WatchEndpoints,
	get: (*client.Client).GetEndpoint, remove: (*client.Client).DeleteEndpoint,
	head: []string{"ID", "NAME", "VPC", "SERVICE", "STATE", "PRIVATE DNS", "DNS NAME"},
	row: func(v *api.Endpoint) []string {
		name := ""
		if len(v.DNSNames) > 0 {
			name = v.DNSNames[0]
		}
		return []string{v.ID, v.Name, v.VPC, v.ServiceName, string(v.State), yesNo(v.PrivateDNSEnabled), name}
	},
	empty: "You have no endpoint yet. What you may use: culvert service catalogue\n" +
		"Then: culvert endpoint create ledger --vpc VPC --service ACCOUNT/NAME",
}

func (a *app) endpointCommand() *cobra.Command {
	g := group("endpoint", "Endpoints: private addresses of other accounts' services", `
An endpoint gives a VPC addresses of its own for a service of another account. Its state is Available when traffic
flows, PendingAcceptance while the provider has not decided.`, `
  culvert endpoint create ledger --vpc shop --service pay/ledger --private-dns --wait
  culvert endpoint list`)
	g.AddCommand(a.endpointCreate(), endpointKind.listCommand(a), endpointKind.describeCommand(a), a.endpointModify(),
		endpointKind.deleteCommand(a, "Its flows are cut."))
	return g
}

func (a *app) endpointCreate() *cobra.Command {
	var r api.CreateEndpointRequest
	var subnets []string
	var families string
	var m mutation
	c := command("create [NAME] --vpc VPC --service ACCOUNT/NAME [--subnet SUBNET[=ADDRESS]] [--sg GROUP] [--private-dns]",
		"Create an endpoint for a service", `
Create an endpoint in a VPC for a service, with an address in one subnet of each zone, or in those named. With
--private-dns the service's private DNS names lead to it inside the VPC; where another endpoint has one of them too, the
one with the smaller --private-dns-priority answers, and the next one while all targets behind it are ill. With --wait
the command returns when the endpoint is Available and every live node knows it; where the provider must accept, that is
when it has. Its names answer with IPv4 addresses, or with what --ip-address-type says; the service need not know.`, `
  culvert endpoint create ledger --vpc shop --service pay/ledger --private-dns --wait
  culvert endpoint create ledger --vpc shop --service pay/ledger --subnet shop-1a=10.0.1.200 --sg web`,
		func(cmd *cobra.Command, args []string) error {
			var err error
			r.Name, r.IPAddressType = strings.Join(args, ""), api.IPAddressType(families)
			if r.Subnets, r.Addresses, err = parseSubnets(subnets); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			e, err := cl.CreateEndpoint(cmd.Context(), r, m.options()...)
			if err != nil {
				return err
			}
			e, err = m.settle(cmd.Context(), a, cl, e)
			return errors.Join(err, endpointKind.show(a, *e))
		})
	reference(a, c, vpcKind, &r.VPC, "vpc", "the `VPC` it is in")
	serviceReference(a, c, &r.Service, "the service")
	references(a, c, subnetKind, &subnets, "subnet", "`SUBNET[=ADDRESS]` in which it has an address, one of your choice or any")
	references(a, c, groupKind, &r.SecurityGroups, "sg", "security `GROUP` that says who may use it")
	c.Flags().BoolVar(&r.PrivateDNSEnabled, "private-dns", false, "answer the service's private DNS names with it in the VPC")
	c.Flags().Uint16Var(&r.PrivateDNSPriority, "private-dns-priority", 0, "`number` of 1 to 1000; the default is 100")
	addressType(c, &families, string(api.IPv4Only))
	tags(c, &r.Tags)
	c.Args = atMost("NAME")
	required(c, "vpc", "service")
	m.flags(c)
	return c
}

// settle waits, if that was asked for, until the endpoint is Available everywhere. It always returns what is known of it.
func (m *mutation) settle(ctx context.Context, a *app, c *client.Client, e *api.Endpoint) (*api.Endpoint, error) {
	if m.wait && !m.dryRun {
		ctx, cancel := context.WithTimeout(ctx, m.timeout)
		defer cancel()
		now, err := c.WaitEndpoint(ctx, e.ID)
		switch {
		case errors.Is(err, context.DeadlineExceeded) && e.State == api.PendingAcceptance:
			return e, fmt.Errorf("the endpoint is made, but its provider has not accepted it yet: %w", context.DeadlineExceeded)
		case errors.Is(err, context.DeadlineExceeded):
			return e, fmt.Errorf("the endpoint is made, but is not Available yet: %w", context.DeadlineExceeded)
		case err != nil:
			return e, err
		}
		e = now
	}
	return e, m.converge(ctx, a, c, e.Revision)
}

// parseSubnets reads SUBNET or SUBNET=ADDRESS.
func parseSubnets(in []string) (subnets []string, addresses map[string]netip.Addr, err error) {
	addresses = map[string]netip.Addr{}
	for _, text := range in {
		subnet, address, chosen := strings.Cut(text, "=")
		subnets = append(subnets, subnet)
		if chosen {
			if addresses[subnet], err = parseAddress("--subnet", address); err != nil {
				return nil, nil, err
			}
		}
	}
	return subnets, addresses, nil
}

func (a *app) endpointModify() *cobra.Command {
	var groups []string
	var families string
	var private bool
	var priority uint16
	var m mutation
	c := command("modify ENDPOINT [--sg GROUP] [--private-dns] [--private-dns-priority NUMBER] [--ip-address-type TYPE]",
		"Change an endpoint", `
Change an endpoint's security groups (the whole list), whether the service's private DNS names lead to it, or of which
family the addresses of its names are.

Names move from one endpoint to another in one step: make the new one with a larger --private-dns-priority than the
old one's, then give it a smaller one. No query fails meanwhile, and connections to the old one go on until you delete
it.`, `
  culvert endpoint modify ledger-2 --private-dns-priority 50
  culvert endpoint modify ledger --private-dns
  culvert endpoint modify ledger --sg web --wait`, nil)
	c.RunE = change(a, endpointKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.Endpoint, error) {
			var r api.ModifyEndpointRequest
			if c.Flags().Changed("private-dns") {
				r.PrivateDNSEnabled = &private
			}
			if c.Flags().Changed("private-dns-priority") {
				r.PrivateDNSPriority = &priority
			}
			if c.Flags().Changed("ip-address-type") {
				r.IPAddressType = (*api.IPAddressType)(&families)
			}
			if c.Flags().Changed("sg") {
				r.SecurityGroups = &groups
			}
			return cl.ModifyEndpoint(ctx, args[0], r, o...)
		})
	references(a, c, groupKind, &groups, "sg", "security `GROUP` that says who may use it")
	c.Flags().BoolVar(&private, "private-dns", false, "answer the service's private DNS names with it in the VPC")
	c.Flags().Uint16Var(&priority, "private-dns-priority", 0, "`number` of 1 to 1000; of the endpoints with a name the smallest answers")
	addressType(c, &families, "")
	c.Args = exactly("ENDPOINT")
	c.ValidArgsFunction = complete(a, endpointKind)
	m.flags(c)
	endpointKind.narrow(a, c, &m.vpc)
	return c
}
