package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/netns"
)

var eniKind = kind[api.ENI]{
	prefix: api.KindENI.Prefix(), missing: api.CodeENINotFound,
	command: "eni", arg: "ENI", noun: "network interface", plural: "network interfaces", sample: "cart", byVPC: true,
	list: (*client.Client).ListENIs, watch: (*client.Client).WatchENIs,
	get: (*client.Client).GetENI, remove: (*client.Client).DeleteENI,
	head: []string{"ID", "NAME", "TYPE", "VPC", "SUBNET", "ADDRESS", "FAMILIES", "NODE", "ATTACHED"},
	row: func(v *api.ENI) []string {
		return []string{v.ID, v.Name, string(v.Type), v.VPC, v.Subnet, shortAddress(v), string(v.IPAddressType), v.Node,
			yesNo(v.Attached)}
	},
	empty: "You have no network interface yet. Make one: culvert eni create cart --subnet SUBNET",
}

// shortAddress is an interface's IPv4 address, if it has one.
func shortAddress(v *api.ENI) string {
	if v.IPAddressType == api.IPv6Only {
		return v.IPv6Address.String()
	}
	return v.Address.String()
}

// both are the addresses that there are.
func both(list ...netip.Addr) string {
	var out []string
	for _, a := range list {
		if a.IsValid() {
			out = append(out, a.String())
		}
	}
	return strings.Join(out, ", ")
}

// addressType adds the flag that says which families there are.
func addressType(c *cobra.Command, p *string, standard string) {
	types := []string{string(api.IPv4Only), string(api.DualStack), string(api.IPv6Only)}
	c.Flags().StringVar(p, "ip-address-type", standard, "`TYPE` of its addresses: ipv4, dualstack or ipv6")
	must(c.RegisterFlagCompletionFunc("ip-address-type", cobra.FixedCompletions(types, cobra.ShellCompDirectiveNoFileComp)))
}

func (a *app) eniCommand() *cobra.Command {
	g := group("eni", "Network interfaces: an address in a subnet", `
An ENI is an address in a subnet. One of type workload is put into a network namespace on a node with eni attach; those
of endpoints and load balancers are made with these.`, `
  culvert eni create cart --subnet shop-1a --node host-a
  culvert eni attach cart --netns cart`)
	g.AddCommand(a.eniCreate(), eniKind.listCommand(a), eniKind.describeCommand(a), a.eniModify(),
		a.eniBind(), a.eniUnbind(), a.eniAttach(), a.eniDetach(),
		eniKind.deleteCommand(a, "It must be no target and attached nowhere."))
	return g
}

func (a *app) eniCreate() *cobra.Command {
	var r api.CreateENIRequest
	var address, families string
	var m mutation
	c := command("create [NAME] --subnet SUBNET [--node NODE] [--address ADDRESS] [--ip-address-type TYPE] [--sg GROUP]",
		"Create a network interface", `
Create a workload's network interface. Without --address it gets a free one, from the block of addresses lent to its
node; without --sg it is in the VPC's default security group. Its node may be said later: attaching it binds it. With
--ip-address-type dualstack it has an IPv6 address too, which is made of the IPv4 one; with ipv6 only that.`, `
  culvert eni create cart --subnet shop-1a --node host-a
  culvert eni create cart --subnet shop-1a --ip-address-type dualstack
  culvert eni create cart --subnet shop-1a --address 10.0.1.5 --sg web`, nil)
	c.RunE = change(a, eniKind, &m, func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.ENI, error) {
		r.Name, r.IPAddressType = strings.Join(args, ""), api.IPAddressType(families)
		if address != "" {
			var err error
			if r.Address, err = parseAddress("--address", address); err != nil {
				return nil, err
			}
		}
		return cl.CreateENI(ctx, r, o...)
	})
	reference(a, c, subnetKind, &r.Subnet, "subnet", "the `SUBNET` it is in")
	c.Flags().StringVar(&address, "address", "", "this `address` instead of any free one")
	addressType(c, &families, string(api.IPv4Only))
	references(a, c, groupKind, &r.SecurityGroups, "sg", "security `GROUP`")
	reference(a, c, nodeKind, &r.Node, "node", "the `NODE` that hosts it")
	tags(c, &r.Tags)
	c.Args = atMost("NAME")
	required(c, "subnet")
	m.flags(c)
	return c
}

func (a *app) eniModify() *cobra.Command {
	var groups []string
	var families string
	var m mutation
	c := command("modify ENI [--sg GROUP] [--ip-address-type TYPE]", "Change an interface's security groups or families", `
Replace the list of security groups of a network interface, or say in which families it has an address. Flows that the
new ones do not allow are cut; so are those of a family that is taken away.`, `
  culvert eni modify cart --sg web --sg db-clients
  culvert eni modify cart --ip-address-type dualstack`, nil)
	c.RunE = change(a, eniKind, &m, func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.ENI, error) {
		var r api.ModifyENIRequest
		if c.Flags().Changed("sg") {
			r.SecurityGroups = &groups
		}
		if c.Flags().Changed("ip-address-type") {
			r.IPAddressType = (*api.IPAddressType)(&families)
		}
		if r == (api.ModifyENIRequest{}) {
			return nil, api.Errorf(api.CodeMissingParameter, "--sg", "give --sg or --ip-address-type", "nothing is to be changed")
		}
		return cl.ModifyENI(ctx, args[0], r, o...)
	})
	references(a, c, groupKind, &groups, "sg", "security `GROUP`")
	addressType(c, &families, "")
	c.Args = exactly("ENI")
	c.ValidArgsFunction = complete(a, eniKind)
	m.flags(c)
	eniKind.narrow(a, c, &m.vpc)
	return c
}

func (a *app) eniBind() *cobra.Command {
	var node string
	var m mutation
	c := command("bind ENI --node NODE", "Say which node hosts an interface", `
Make a node the host of a workload's network interface. The interface must be attached nowhere. Attaching it binds it by
itself; bind is for doing that from elsewhere.`, `
  culvert eni bind cart --node host-a --wait`, nil)
	c.RunE = change(a, eniKind, &m, func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.ENI, error) {
		return cl.BindENI(ctx, args[0], node, o...)
	})
	reference(a, c, nodeKind, &node, "node", "the `NODE` that hosts it")
	c.Args = exactly("ENI")
	c.ValidArgsFunction = complete(a, eniKind)
	required(c, "node")
	m.flags(c)
	eniKind.narrow(a, c, &m.vpc)
	return c
}

func (a *app) eniUnbind() *cobra.Command {
	var m mutation
	c := command("unbind ENI", "Take an interface off its node", `
Take a workload's network interface off the node that hosts it. Its address stays its own.`, `
  culvert eni unbind cart`, nil)
	c.RunE = change(a, eniKind, &m, func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.ENI, error) {
		return cl.BindENI(ctx, args[0], "", o...)
	})
	c.Args = exactly("ENI")
	c.ValidArgsFunction = complete(a, eniKind)
	m.flags(c)
	eniKind.narrow(a, c, &m.vpc)
	return c
}

// attachFlags say where an interface goes.
type attachFlags struct {
	netns        string
	pid          int
	unit         string
	ifname       string
	defaultRoute bool
	keepResolver bool
	outbound     bool
	timeout      time.Duration
}

func (a *app) eniAttach() *cobra.Command {
	var f attachFlags
	var vpc string
	c := command("attach ENI --netns NAME|PATH | --pid N | --unit UNIT [--interface NAME] [--default-route]",
		"Put an interface into a network namespace on this machine", `
Put a workload's network interface into an existing network namespace of this machine, and return when it forwards. The
namespace is named as by ip netns, or given as a path, or as that of a process, or of a systemd unit's main process. The
agent here does it, so this needs root. An interface that is bound to no node is bound to this one first, which needs a
server and an API key; bound already and named by id, it is attached without the server.

Under a name that is root's alone, a namespace that is made anew, also at boot, gets the interface again. That of a
process has it until it ends; then attach it anew. The VPC's resolver is set where ip netns exec looks for it, or is
mounted over /etc/resolv.conf of the process, among its own mounts; detaching takes it away again. What uses another
resolver is left alone with --keep-resolver.

With --outbound the node's resolver asks forwarders that lie inside the VPC, or behind an endpoint of it, through this
interface, and is subject to its security groups. Nodes without such an interface do not reach them.`, `
  culvert eni attach cart --netns cart --default-route
  culvert eni attach cart --unit cart.service
  culvert eni attach cart --pid "$(podman inspect --format '{{.State.Pid}}' cart)"
  culvert eni attach eni-0a1b2c3d4e5f60718 --pid 4711 --interface eth1 --keep-resolver`,
		func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
			defer cancel()
			path, err := f.path(ctx)
			if err != nil {
				return err
			}
			got, err := a.attach(ctx, vpc, args[0], local.AttachRequest{
				Netns: path, Interface: f.ifname, DefaultRoute: f.defaultRoute, KeepResolver: f.keepResolver,
				Outbound: f.outbound,
			})
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is %s in %s: address %s, MTU %d, resolver %s\n",
					got.ENI, got.Interface, path, both(got.Address, got.IPv6Address), got.MTU, got.Resolver)
				if err == nil && got.Unnamed != "" {
					_, err = fmt.Fprintf(w, "What runs there was not told of the resolver: %s. "+
						"Tell it, as \"nameserver %s\" in resolv.conf, or mend that.\n", got.Unnamed, got.Resolver)
				}
				return err
			})
		})
	f.flags(c)
	eniKind.narrow(a, c, &vpc)
	c.Args = exactly("ENI")
	c.ValidArgsFunction = complete(a, eniKind)
	return c
}

func (f *attachFlags) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.netns, "netns", "", "network `namespace`: name as of ip netns, or path")
	c.Flags().IntVar(&f.pid, "pid", 0, "network namespace of this `process`")
	c.Flags().StringVar(&f.unit, "unit", "", "network namespace of this systemd `unit`'s main process")
	c.Flags().StringVar(&f.ifname, "interface", "eni0", "`name` of the interface inside")
	c.Flags().BoolVar(&f.defaultRoute, "default-route", false, "make it the way to everywhere")
	c.Flags().BoolVar(&f.keepResolver, "keep-resolver", false, "leave /etc/resolv.conf alone")
	c.Flags().BoolVar(&f.outbound, "outbound", false, "have the node's resolver ask forwarders inside the VPC through it")
	c.Flags().DurationVar(&f.timeout, "timeout", time.Minute, "how long to wait")
	must(c.RegisterFlagCompletionFunc("netns", completeNetns))
}

func (f *attachFlags) path(ctx context.Context) (string, error) {
	said := 0
	for _, given := range []bool{f.netns != "", f.pid != 0, f.unit != ""} {
		if given {
			said++
		}
	}
	switch {
	case f.pid < 0:
		return "", invalidFlag("--pid", strconv.Itoa(f.pid), "give the number of a process that runs, as ps shows it here")
	case said != 1:
		return "", api.Errorf(api.CodeInvalidCombination, "--netns", "give --netns NAME or PATH, --pid N, or --unit UNIT",
			"the network namespace must be said, once")
	case f.unit != "":
		pid, err := mainProcess(ctx, f.unit)
		return netns.ProcessPath(pid), err
	case f.pid != 0:
		if _, err := os.Stat("/proc/" + strconv.Itoa(f.pid)); err != nil {
			return "", api.Errorf(api.CodeInvalidParameter, "--pid", "give the number of a process that runs, as ps shows it here",
				"there is no process %d", f.pid)
		}
		return netns.ProcessPath(f.pid), nil
	}
	path, err := filepath.Abs(netns.Path(f.netns))
	if err == nil && !netns.Exists(path) {
		err = api.Errorf(api.CodeInvalidParameter, "--netns", "make it with: ip netns add "+f.netns,
			"%s is not a network namespace", path)
	}
	return path, err
}

// mainProcess is that of a systemd unit which runs.
func mainProcess(ctx context.Context, unit string) (pid int, err error) {
	// systemctl show answers for units that do not exist, too.
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=MainPID", "--value", "--", unit).Output()
	if err != nil {
		return 0, api.Errorf(api.CodeInvalidParameter, "--unit", "give --pid N instead", "systemctl cannot be asked: %v", err)
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil || pid <= 0 {
		return 0, api.Errorf(api.CodeInvalidParameter, "--unit", "start it first: systemctl start "+unit,
			"unit %s has no main process", unit)
	}
	return pid, nil
}

// attach binds the interface to this machine's node if it is bound to none, and has the agent attach it.
func (a *app) attach(ctx context.Context, vpc, ref string, r local.AttachRequest) (*local.AttachResponse, error) {
	c, errServer := a.client()
	if errServer != nil {
		if !strings.HasPrefix(ref, "eni-") {
			return nil, errServer // names are known to the server only
		}
		c = nil
	} else {
		defer c.Close()
	}
	agent, err := a.agent()
	if err != nil {
		return nil, err
	}
	r.ENI = ref
	if c != nil {
		if r.ENI, err = eniKind.in(ctx, c, vpc, ref); err != nil {
			return nil, err
		}
		if r.ENI, err = bindHere(ctx, c, agent, r.ENI); err != nil {
			return nil, err
		}
	}
	got, err := agent.Attach(ctx, r)
	return &got, err
}

// bindHere returns the interface's id. When the server is away, an id is taken as it is.
func bindHere(ctx context.Context, c *client.Client, agent *local.Client, ref string) (id string, err error) {
	eni, err := c.GetENI(ctx, ref)
	var refused *api.Error
	if err != nil && !errors.As(err, &refused) && strings.HasPrefix(ref, "eni-") {
		return ref, nil
	}
	if err != nil || eni.Node != "" {
		return eni.ID, err
	}
	status, err := agent.Status(ctx)
	if err != nil {
		return "", err
	}
	if eni, err = c.BindENI(ctx, eni.ID, status.Node); err != nil {
		return "", err
	}
	return eni.ID, c.WaitConverged(ctx, eni.Revision)
}

func (a *app) eniDetach() *cobra.Command {
	var vpc string
	c := command("detach ENI", "Take an interface out of its namespace", `
Take a workload's network interface out of its namespace on this machine. It stays bound to this node. One that is not
attached is fine.`, `
  culvert eni detach cart`,
		func(cmd *cobra.Command, args []string) error {
			id := args[0]
			if !strings.HasPrefix(id, "eni-") {
				cl, err := a.client()
				if err != nil {
					return err
				}
				defer cl.Close()
				if id, err = eniKind.in(cmd.Context(), cl, vpc, id); err != nil {
					return err
				}
				eni, err := cl.GetENI(cmd.Context(), id)
				if err != nil {
					return err
				}
				id = eni.ID
			}
			agent, err := a.agent()
			if err != nil {
				return err
			}
			if err := agent.Detach(cmd.Context(), local.DetachRequest{ENI: id}); err != nil {
				return err
			}
			return a.print(local.DetachRequest{ENI: id}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, quietly(a, "detached ", id))
				return err
			})
		})
	eniKind.narrow(a, c, &vpc)
	c.Args = exactly("ENI")
	c.ValidArgsFunction = complete(a, eniKind)
	return c
}
