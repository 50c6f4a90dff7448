package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

var serviceKind = kind[api.Service]{
	command: "service", arg: "SERVICE", noun: "endpoint service", plural: "endpoint services", sample: "ledger",
	list: (*client.Client).ListServices, watch: (*client.Client).WatchServices,
	get: (*client.Client).GetService, remove: (*client.Client).DeleteService,
	head: []string{"ID", "NAME", "ACCOUNT", "STATE", "ACCEPTANCE", "ALLOWED", "CLIENT IDENTITY", "PRIVATE DNS NAMES"},
	row: func(v *api.Service) []string {
		acceptance := "automatic"
		if v.AcceptanceRequired {
			acceptance = "required"
		}
		return []string{v.ID, v.Name, v.Account, string(v.State), acceptance, strings.Join(v.AllowedPrincipals, ","),
			string(cmp.Or(v.ClientIdentity, api.IdentityLoadBalancer)), strings.Join(v.PrivateNames(), ",")}
	},
	more: func(ctx context.Context, cl *client.Client, v *api.Service, w io.Writer) error {
		t, err := cl.ServiceTargets(ctx, v.ID)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "\ntargets (%d)\n", len(t.Targets))
		return serviceTargetsTable(w, t)
	},
	empty: "You offer no service yet. Offer one: culvert service create ledger --load-balancer BALANCER\n" +
		"Those of others that you may use: culvert service catalogue",
}

var connectionKind = kind[api.Connection]{
	command: "service connections", arg: "CONNECTION", noun: "endpoint connection", plural: "endpoint connections",
	head: []string{"ENDPOINT", "NAME", "ACCOUNT", "SERVICE", "STATE", "CONNECTION", "DECIDED BY", "DECIDED AT"},
	row: func(v *api.Connection) []string {
		return []string{v.Endpoint, v.Name, v.EndpointAccount, v.Service, string(v.State), v.ID, v.Approver, stamp(v.DecidedAt)}
	},
	empty: "Nobody has made an endpoint. Who may, you say with: culvert service allow SERVICE ACCOUNT",
}

func (a *app) serviceCommand() *cobra.Command {
	g := group("service", "Endpoint services: what a provider offers", `
An endpoint service offers what is behind a load balancer to other accounts. Who may make an endpoint for it is listed
by service allow; whether each endpoint must be accepted is a property of the service. Consumers name it ACCOUNT/NAME.`, `
  culvert service create ledger --load-balancer ledger --acceptance-required
  culvert service allow ledger shop
  culvert service connections ledger
  culvert service accept ledger --all`)
	g.AddCommand(a.serviceCreate(), serviceKind.listCommand(a), serviceKind.describeCommand(a), a.serviceModify(),
		serviceKind.deleteCommand(a, "Its endpoint connections must be rejected or deleted first."),
		a.serviceCatalogue(), a.serviceConnections(), a.serviceTargets(),
		a.servicePrincipals("allow", "Let accounts make endpoints for a service", `
Let accounts, named by id or name, or everybody ("*") make endpoints for a service.`, (*client.Client).AllowPrincipals),
		a.servicePrincipals("disallow", "Take that permission back", `
Take back what service allow gave. Endpoints that exist stay; cut them with service reject.`,
			(*client.Client).DisallowPrincipals),
		a.serviceDecide("accept", "Accept endpoints", `
Accept endpoints of a service, named by id or name or by their connections' ids, or with --all whatever waits for it:
all of them, or none when one cannot be. Traffic flows from then on.`, (*client.Client).AcceptConnections),
		a.serviceDecide("reject", "Reject endpoints, accepted ones too", `
Reject endpoints of a service, named by id or name or by their connections' ids: all of them, or none when one cannot
be. Flows of one that was accepted are cut within seconds.`, (*client.Client).RejectConnections),
		a.serviceCap())
	return g
}

// clientIdentities are what a service may tell its targets of clients.
var clientIdentities = []string{string(api.IdentityLoadBalancer), string(api.IdentityProxyProtocol),
	string(api.IdentityClientAddress)}

func (a *app) serviceCreate() *cobra.Command {
	var r api.CreateServiceRequest
	var m mutation
	var caps capFlags
	c := command("create NAME --load-balancer BALANCER [--acceptance-required] [--private-dns-name NAME]... [--allow ACCOUNT]",
		"Offer a service", `
Offer what is behind a load balancer as an endpoint service. Private DNS names must lie in domains of your account;
*. as first label stands for every name below.

Targets see an address of the load balancer as the source of all clients. With --client-identity proxyProtocolV2 every
TCP connection begins with a header of the PROXY protocol, version 2, which tells a target the client's address and, as
AWS does, the endpoint's id. Targets must expect it. With clientAddress, targets that have IPv6 see each client's own
overlay address, over TCP and UDP, which culvert whois explains; to targets that have IPv4 only it makes no difference.`, `
  culvert service create ledger --load-balancer ledger --allow shop --acceptance-required
  culvert service create ledger --load-balancer ledger --allow '*' --private-dns-name ledger.pay.internal
  culvert service create ledger --load-balancer ledger --allow shop --client-identity proxyProtocolV2`, nil)
	c.RunE = change(a, serviceKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.Service, error) {
			r.Name, r.Caps = args[0], caps.request(c).Over(api.Caps{})
			return cl.CreateService(ctx, r, o...)
		})
	f := c.Flags()
	references(a, c, loadBalancerKind, &r.LoadBalancers, "load-balancer", "load `BALANCER` behind it")
	f.BoolVar(&r.AcceptanceRequired, "acceptance-required", false, "each endpoint must be accepted")
	references(a, c, accountKind, &r.AllowedPrincipals, "allow", "`ACCOUNT` that may make endpoints, '*' for everybody")
	f.StringArrayVar(&r.PrivateDNSNames, "private-dns-name", nil, "`name` that consumers may have in their VPC for it (may repeat)")
	caps.flags(c)
	choice(c, (*string)(&r.ClientIdentity), "client-identity", "", clientIdentities...)
	tags(c, &r.Tags)
	c.Args = exactly("NAME")
	required(c, "load-balancer")
	m.flags(c)
	return c
}

func (a *app) serviceModify() *cobra.Command {
	var r api.ModifyServiceRequest
	var acceptance bool
	var names []string
	var identity string
	var m mutation
	var caps capFlags
	c := command("modify SERVICE [--acceptance-required] [--private-dns-name NAME] [--add-load-balancer BALANCER]", "Change a service", `
Change whether endpoints must be accepted, the private DNS names (the whole list; "" removes them), what targets learn
of clients, which load balancers are behind a service, or what each of its endpoints may use. What targets learn
changes for connections that are opened from then on.`, `
  culvert service modify ledger --acceptance-required=false
  culvert service modify ledger --private-dns-name ledger.pay.internal
  culvert service modify ledger --max-connections-per-second 1000 --max-flows 20000 --max-bits-per-second 1000000000
  culvert service modify ledger --client-identity proxyProtocolV2
  culvert service modify ledger --add-load-balancer ledger-b --remove-load-balancer ledger-a`, nil)
	c.RunE = change(a, serviceKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.Service, error) {
			if c.Flags().Changed("acceptance-required") {
				r.AcceptanceRequired = &acceptance
			}
			if c.Flags().Changed("private-dns-name") {
				list := nonEmpty(names)
				r.PrivateDNSNames = &list
			}
			r.Caps = caps.request(c)
			if c.Flags().Changed("client-identity") {
				r.ClientIdentity = (*api.ClientIdentity)(&identity)
			}
			return cl.ModifyService(ctx, args[0], r, o...)
		})
	f := c.Flags()
	f.BoolVar(&acceptance, "acceptance-required", false, "each endpoint must be accepted")
	f.StringArrayVar(&names, "private-dns-name", nil, "`name` that consumers may have in their VPC for it (may repeat)")
	choice(c, &identity, "client-identity", "", clientIdentities...)
	references(a, c, loadBalancerKind, &r.AddLoadBalancers, "add-load-balancer", "one more load `BALANCER` behind it")
	references(a, c, loadBalancerKind, &r.RemoveLoadBalancers, "remove-load-balancer", "load `BALANCER` that is behind it no more")
	caps.flags(c)
	c.Args = exactly("SERVICE")
	c.ValidArgsFunction = complete(a, serviceKind)
	m.flags(c)
	return c
}

// catalogueKind is how services of others are shown.
var catalogueKind = kind[api.CatalogueEntry]{
	head: []string{"SERVICE", "ID", "ACCEPTANCE", "PORTS", "ZONES", "PRIVATE DNS NAMES"},
	row: func(e *api.CatalogueEntry) []string {
		acceptance := "automatic"
		if e.AcceptanceRequired {
			acceptance = "required"
		}
		return []string{e.ServiceName, e.ID, acceptance, strings.Join(e.Ports, ","), strings.Join(e.Zones, ","),
			strings.Join(e.PrivateDNSNames, ",")}
	},
}

func (a *app) serviceCatalogue() *cobra.Command {
	var watch bool
	c := command("catalogue", "List the services that you may use", `
List the endpoint services, of any account, that allow yours to make endpoints.`, `
  culvert service catalogue
  culvert service catalogue --watch
  culvert endpoint create ledger --vpc shop --service pay/ledger`,
		func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			if watch {
				return catalogueKind.showWatch(cmd.Context(), a, cl.WatchCatalogue(cmd.Context()))
			}
			entries, err := cl.Catalogue(cmd.Context())
			if err != nil {
				return err
			}
			if entries == nil {
				entries = []api.CatalogueEntry{}
			}
			if a.quiet {
				for _, e := range entries {
					fmt.Fprintln(a.Out, e.ServiceName)
				}
				return nil
			}
			return a.print(entries, func(w io.Writer) error { return catalogueTable(w, entries) })
		})
	watchFlag(c, &watch)
	c.Args = noArguments
	return c
}

func catalogueTable(w io.Writer, entries []api.CatalogueEntry) error {
	if len(entries) == 0 {
		_, err := fmt.Fprintln(w, "No service allows your account yet. Its provider runs: culvert service allow SERVICE YOUR-ACCOUNT")
		return err
	}
	var rows [][]string
	for i := range entries {
		rows = append(rows, catalogueKind.row(&entries[i]))
	}
	return table(w, catalogueKind.head, rows)
}

func (a *app) serviceConnections() *cobra.Command {
	var watch bool
	c := command("connections [SERVICE...]", "List the endpoints made for your services", `
List the endpoints that were made for your services, or for those named, with their states.`, `
  culvert service connections
  culvert service connections ledger -o json
  culvert service connections ledger --watch`,
		func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			if watch {
				if len(args) != 1 {
					return api.Errorf(api.CodeInvalidCombination, "--watch", "name one service", "the connections of one service can be watched, not of %d",
						len(args))
				}
				return connectionKind.showWatch(cmd.Context(), a, cl.WatchConnections(cmd.Context(), args[0]))
			}
			connections, err := connectionsOf(cmd.Context(), cl, args)
			if err != nil {
				return err
			}
			return connectionKind.showList(a, connections)
		})
	watchFlag(c, &watch)
	c.Args = cobra.ArbitraryArgs
	c.ValidArgsFunction = complete(a, serviceKind)
	return c
}

// connectionsOf are those of the services named, or of all.
func connectionsOf(ctx context.Context, cl *client.Client, services []string) ([]api.Connection, error) {
	if len(services) == 0 {
		all, err := cl.ListServices(ctx)
		if err != nil {
			return nil, err
		}
		for i := range all {
			services = append(services, all[i].ID)
		}
	}
	var out []api.Connection
	for _, s := range services {
		connections, err := cl.ListConnections(ctx, s)
		if err != nil {
			return nil, err
		}
		out = append(out, connections...)
	}
	return out, nil
}

func (a *app) serviceTargets() *cobra.Command {
	c := command("targets SERVICE", "List what is behind a service, and what it learns of clients", `
List the targets behind a service, and what each of them learns of clients whose connections open from now on. That may
be less than the service's --client-identity says: a target without IPv6 cannot see clients' own addresses, and a UDP
listener's cannot be sent a header. The reason stands beside it.`, `
  culvert service targets ledger`,
		func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			t, err := cl.ServiceTargets(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(t, func(w io.Writer) error { return serviceTargetsTable(w, t) })
		})
	c.Args = exactly("SERVICE")
	c.ValidArgsFunction = positions(complete(a, serviceKind))
	return c
}

func serviceTargetsTable(w io.Writer, t *api.ServiceTargets) error {
	rows := make([][]string, len(t.Targets))
	for i := range t.Targets {
		x := &t.Targets[i]
		state := "in service"
		if x.Draining {
			state = "draining"
		}
		rows[i] = []string{x.ENI, x.ENIName, fmt.Sprintf("%d/%s", x.ListenerPort, x.Protocol), netip.AddrPortFrom(x.Address, x.Port).String(),
			string(x.IPAddressType), state, string(x.Sees), x.Reason}
	}
	return table(w, []string{"TARGET", "NAME", "LISTENER", "ADDRESS", "TYPE", "STATE", "SEES", "BECAUSE"}, rows)
}

func (a *app) servicePrincipals(name, short, long string, call func(*client.Client, context.Context, string, []string,
	...client.Option) (*api.Service, error)) *cobra.Command {
	m := new(mutation)
	c := command(name+" SERVICE ACCOUNT...", short, long, fmt.Sprintf(`
  culvert service %s ledger shop
  culvert service %s ledger '*'`, name, name), nil)
	c.RunE = change(a, serviceKind, m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.Service, error) {
			return call(cl, ctx, args[0], args[1:], o...)
		})
	c.Args = atLeast("SERVICE", "ACCOUNT")
	c.ValidArgsFunction = positions(complete(a, serviceKind), complete(a, accountKind))
	m.flags(c)
	return c
}

func (a *app) serviceDecide(name, short, long string, call func(*client.Client, context.Context, string, []string,
	...client.Option) ([]api.Connection, error)) *cobra.Command {
	m := new(mutation)
	var all bool
	var caps capFlags
	accept := name == "accept"
	use, examples := name+" SERVICE ENDPOINT...", fmt.Sprintf(`
  culvert service %s ledger vpce-0a1b2c3d4e5f60718 --wait`, name)
	if accept {
		use, examples = use+" | --all", examples+"\n  culvert service accept ledger --all"
	}
	c := command(use, short, long, examples,
		func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			endpoints := args[1:]
			if all {
				if endpoints, err = waiting(cmd.Context(), cl, args[0]); err != nil {
					return err
				}
				if len(endpoints) == 0 {
					return a.print([]api.Connection{}, func(w io.Writer) error {
						_, err := fmt.Fprintln(a.Err, "No endpoint waits to be accepted.")
						return err
					})
				}
			}
			return a.changed(cmd.Context(), m, cl, func(o ...client.Option) ([]api.Connection, error) {
				if r := caps.request(cmd); r != nil {
					return cl.AcceptCapped(cmd.Context(), args[0], api.EndpointsRequest{Endpoints: endpoints, Caps: r}, o...)
				}
				return call(cl, cmd.Context(), args[0], endpoints, o...)
			})
		})
	c.Args = func(cmd *cobra.Command, args []string) error {
		if all {
			return exactly("SERVICE")(cmd, args)
		}
		return atLeast("SERVICE", "ENDPOINT")(cmd, args)
	}
	c.ValidArgsFunction = completeConnections(a)
	if accept {
		c.Flags().BoolVar(&all, "all", false, "every endpoint that waits to be accepted")
		caps.flags(c)
	}
	m.flags(c)
	return c
}

// waiting are the endpoints of a service in the state PendingAcceptance.
func waiting(ctx context.Context, cl *client.Client, service string) (endpoints []string, err error) {
	connections, err := cl.ListConnections(ctx, service)
	for _, x := range connections {
		if x.State == api.PendingAcceptance {
			endpoints = append(endpoints, x.Endpoint)
		}
	}
	return endpoints, err
}
