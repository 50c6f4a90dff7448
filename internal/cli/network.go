package cli

import (
	"context"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

var vpcKind = kind[api.VPC]{
	command: "vpc", arg: "VPC", noun: "VPC", plural: "VPCs", sample: "shop",
	list: (*client.Client).ListVPCs, watch: (*client.Client).WatchVPCs,
	get: (*client.Client).GetVPC, remove: (*client.Client).DeleteVPC,
	head: []string{"ID", "NAME", "ACCOUNT", "CIDR", "FORWARDERS"},
	row: func(v *api.VPC) []string {
		return []string{v.ID, v.Name, v.Account, v.CIDR.String(), strings.Join(v.Forwarders, ",")}
	},
	empty: "You have no VPC yet. Make one: culvert vpc create shop --cidr 10.0.0.0/16",
}

func (a *app) vpcCommand() *cobra.Command {
	g := group("vpc", "Isolated networks with address plans of their own", `
A VPC is an isolated network with its own address plan. VPCs may overlap: two with the same addresses still reach each
other's services, and nothing else, through endpoints.`, `
  culvert vpc create shop --cidr 10.0.0.0/16
  culvert vpc list`)
	g.AddCommand(a.vpcCreate(), vpcKind.listCommand(a), vpcKind.describeCommand(a), a.vpcModify(),
		vpcKind.deleteCommand(a, "It must be empty: no subnet, no security group but the default one."))
	return g
}

func (a *app) vpcCreate() *cobra.Command {
	var r api.CreateVPCRequest
	var cidr string
	var m mutation
	c := command("create [NAME] --cidr CIDR", "Create a VPC", `
Create a VPC with a range of IPv4 addresses from /16 to /28. It is born with a default security group. Names that are
not private to the VPC are not answered unless it has forwarders. Nodes ask those from their own network: any but DNS
over TLS at a public address must be set by an administrator.`, `
  culvert vpc create shop --cidr 10.0.0.0/16
  culvert vpc create shop --cidr 10.0.0.0/16 --forwarder tls://9.9.9.9`, nil)
	c.RunE = change(a, vpcKind, &m, func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.VPC, error) {
		var err error
		r.Name = strings.Join(args, "")
		if r.CIDR, err = parsePrefix("--cidr", cidr); err != nil {
			return nil, err
		}
		return cl.CreateVPC(ctx, r, o...)
	})
	f := c.Flags()
	f.StringVar(&cidr, "cidr", "", "`CIDR` of its addresses, such as 10.0.0.0/16")
	f.StringArrayVar(&r.Forwarders, "forwarder", nil, "`SERVER` for all other names: tls://ADDRESS of a public resolver (may repeat)")
	f.BoolVar(&r.PlainForwarders, "plain-forwarders", false, "allow forwarders without TLS; queries leave in clear (administrators)")
	tags(c, &r.Tags)
	c.Args = atMost("NAME")
	required(c, "cidr")
	m.flags(c)
	return c
}

func (a *app) vpcModify() *cobra.Command {
	var forwarders []string
	var plain bool
	var m mutation
	c := command("modify VPC [--forwarder SERVER] [--plain-forwarders]", "Change a VPC's forwarders", `
Change which servers answer names that are not private to the VPC. --forwarder replaces the whole list; an empty one
ends forwarding. Any but DNS over TLS at port 853 of a public address must be set by an administrator.`, `
  culvert vpc modify shop --forwarder tls://9.9.9.9
  culvert vpc modify shop --forwarder ""`, nil)
	c.RunE = change(a, vpcKind, &m, func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.VPC, error) {
		var r api.ModifyVPCRequest
		if c.Flags().Changed("forwarder") {
			list := nonEmpty(forwarders)
			r.Forwarders = &list
		}
		if c.Flags().Changed("plain-forwarders") {
			r.PlainForwarders = &plain
		}
		return cl.ModifyVPC(ctx, args[0], r, o...)
	})
	c.Flags().StringArrayVar(&forwarders, "forwarder", nil, "`SERVER` for all other names: tls://ADDRESS of a public resolver (may repeat)")
	c.Flags().BoolVar(&plain, "plain-forwarders", false, "allow forwarders without TLS; queries leave in clear (administrators)")
	c.Args = exactly("VPC")
	c.ValidArgsFunction = complete(a, vpcKind)
	m.flags(c)
	return c
}

var subnetKind = kind[api.Subnet]{
	prefix: api.KindSubnet.Prefix(), missing: api.CodeSubnetNotFound,
	command: "subnet", arg: "SUBNET", noun: "subnet", plural: "subnets", sample: "shop-1a", byVPC: true,
	list: (*client.Client).ListSubnets, watch: (*client.Client).WatchSubnets,
	get: (*client.Client).GetSubnet, remove: (*client.Client).DeleteSubnet,
	head: []string{"ID", "NAME", "VPC", "CIDR", "ZONE", "BLOCKS"},
	row: func(s *api.Subnet) []string {
		return []string{s.ID, s.Name, s.VPC, s.CIDR.String(), s.Zone, strconv.Itoa(len(s.Blocks))}
	},
	empty: "You have no subnet yet. Make one: culvert subnet create shop-1a --vpc VPC --cidr 10.0.1.0/24 --zone a",
}

func (a *app) subnetCommand() *cobra.Command {
	g := group("subnet", "Parts of a VPC, each in one zone", `
A subnet is a part of a VPC's addresses in one zone. Its first four addresses and its last are reserved, as in AWS.`, `
  culvert subnet create shop-1a --vpc shop --cidr 10.0.1.0/24 --zone a
  culvert subnet list --vpc shop`)
	g.AddCommand(a.subnetCreate(), subnetKind.listCommand(a), subnetKind.describeCommand(a),
		subnetKind.deleteCommand(a, "It must hold no network interface."))
	return g
}

func (a *app) subnetCreate() *cobra.Command {
	var r api.CreateSubnetRequest
	var cidr string
	var m mutation
	c := command("create [NAME] --vpc VPC --cidr CIDR --zone ZONE", "Create a subnet", `
Create a subnet. Zones are names of your choice for what fails together; an endpoint has one address in each.`, `
  culvert subnet create shop-1a --vpc shop --cidr 10.0.1.0/24 --zone a`, nil)
	c.RunE = change(a, subnetKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.Subnet, error) {
			var err error
			r.Name = strings.Join(args, "")
			if r.CIDR, err = parsePrefix("--cidr", cidr); err != nil {
				return nil, err
			}
			return cl.CreateSubnet(ctx, r, o...)
		})
	f := c.Flags()
	reference(a, c, vpcKind, &r.VPC, "vpc", "the `VPC` it is a part of")
	f.StringVar(&cidr, "cidr", "", "`CIDR` within the VPC's, such as 10.0.1.0/24")
	f.StringVar(&r.Zone, "zone", "", "`ZONE` it is in, such as a")
	tags(c, &r.Tags)
	c.Args = atMost("NAME")
	required(c, "vpc", "cidr", "zone")
	m.flags(c)
	return c
}

// parsePrefix reads a CIDR; what may be in it is the server's to say.
func parsePrefix(flag, s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, api.Errorf(api.CodeInvalidParameter, flag, "write it as ADDRESS/BITS, such as 10.0.0.0/16",
			"%q is not a range of addresses", s)
	}
	return p, nil
}

func parseAddress(flag, s string) (netip.Addr, error) {
	p, err := netip.ParseAddr(s)
	if err != nil {
		return p, api.Errorf(api.CodeInvalidParameter, flag, "write it as in 10.0.1.5", "%q is not an address", s)
	}
	return p, nil
}

func nonEmpty(list []string) []string {
	out := []string{}
	for _, s := range list {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}
