package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

var targetGroupKind = kind[api.TargetGroup]{
	prefix: api.KindTargetGroup.Prefix(), missing: api.CodeTargetGroupNotFound,
	command: "target-group", arg: "GROUP", noun: "target group", plural: "target groups", sample: "ledger", byVPC: true,
	list: (*client.Client).ListTargetGroups, watch: (*client.Client).WatchTargetGroups,
	get:    (*client.Client).GetTargetGroup,
	remove: (*client.Client).DeleteTargetGroup,
	head:   []string{"ID", "NAME", "VPC", "PROTOCOL", "PORT", "TARGETS"},
	row: func(v *api.TargetGroup) []string {
		targets := make([]string, len(v.Targets))
		for i, t := range v.Targets {
			targets[i] = t.ENI
			if t.Port != 0 {
				targets[i] += ":" + strconv.Itoa(int(t.Port))
			}
			if t.Weight != api.DefaultTargetWeight {
				targets[i] += "=" + strconv.Itoa(int(t.Weight))
			}
		}
		for _, t := range v.Draining {
			targets = append(targets, fmt.Sprintf("%s:%d draining", t.ENI, t.Port))
		}
		return []string{v.ID, v.Name, v.VPC, string(v.Protocol), strconv.Itoa(int(v.Port)), strings.Join(targets, ",")}
	},
	shown: func(v *api.TargetGroup) any { // with the ports in force
		g := *v
		g.Targets = slices.Clone(v.Targets)
		for i := range g.Targets {
			g.Targets[i].Port = cmp.Or(g.Targets[i].Port, v.Port)
		}
		return &g
	},
	more: func(ctx context.Context, cl *client.Client, v *api.TargetGroup, w io.Writer) error {
		h, err := cl.TargetHealth(ctx, v.ID)
		if err != nil {
			return err
		}
		fmt.Fprintln(w)
		return targetHealthText(w, h)
	},
	empty: "You have no target group yet. Make one: culvert target-group create ledger --vpc VPC --port 8443",
}

func (a *app) targetGroupCommand() *cobra.Command {
	g := group("target-group", "Sets of receivers behind a load balancer", `
A target group is a set of network interfaces and ports that a load balancer's listener sends to.`, `
  culvert target-group create ledger --vpc pay --port 8443
  culvert target-group register ledger ledger-1 ledger-2`)
	verb := func(name, short, long, example string, call func(*client.Client, context.Context, string, []api.TargetRequest,
		...client.Option) (*api.TargetGroup, error)) *cobra.Command {
		m := new(mutation)
		c := command(name+" GROUP ENI[:PORT]...", short, long, example, nil)
		var weight uint16
		c.RunE = change(a, targetGroupKind, m,
			func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.TargetGroup, error) {
				targets, err := parseTargets(args[1:])
				if err != nil {
					return nil, err
				}
				for i := range targets {
					if c.Flags().Changed("weight") {
						targets[i].Weight = &weight
					}
				}
				return call(cl, ctx, args[0], targets, o...)
			})
		if name == "register" {
			c.Flags().Uint16Var(&weight, "weight", api.DefaultTargetWeight, "`share` of new flows, 0 (none) to 999; what is there stays")
		}
		c.Args = atLeast("GROUP", "ENI")
		c.ValidArgsFunction = positions(complete(a, targetGroupKind), complete(a, eniKind))
		m.flags(c)
		targetGroupKind.narrow(a, c, &m.vpc)
		return c
	}
	g.AddCommand(a.targetGroupCreate(), a.targetGroupModify(), targetGroupKind.listCommand(a), targetGroupKind.describeCommand(a),
		a.targetGroupHealth(),
		verb("register", "Add targets", `
Add network interfaces to a target group, at the group's port or one of their own. One that is there stays, and
gets the weight if one is given.`, `
  culvert target-group register ledger ledger-1 ledger-2:9443 10.0.1.7:8443
  culvert target-group register ledger ledger-3 --weight 10`, (*client.Client).RegisterTargets),
		verb("deregister", "Remove targets", `
Remove network interfaces from a target group: no new flow goes there. Those that are open go on until they end or,
with --connection-termination, for the group's deregistration delay. Without a port, every port is removed.`, `
  culvert target-group deregister ledger ledger-2`, (*client.Client).DeregisterTargets),
		targetGroupKind.deleteCommand(a, "No listener may send to it."))
	return g
}

func (a *app) targetGroupCreate() *cobra.Command {
	var r api.CreateTargetGroupRequest
	var protocol string
	var targets []string
	var attributes *groupFlags
	var m mutation
	c := command("create [NAME] --vpc VPC --port PORT [--target ENI[:PORT]]", "Create a target group", `
Create a target group of a VPC, with the port that its targets are reached at. A target is named by the id, name or
address of its interface, or is one by its tags.`, `
  culvert target-group create ledger --vpc pay --port 8443 --target ledger-1 --target ledger-2
  culvert target-group create ledger --vpc pay --port 8443 --target-tag app=ledger --target-tag tier=front
  culvert target-group create web --vpc pay --port 8080 --health-protocol HTTP --health-path /healthz
  culvert target-group create dns --vpc pay --protocol udp --port 53 --health-protocol TCP`, nil)
	c.RunE = change(a, targetGroupKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.TargetGroup, error) {
			var err error
			r.Name, r.Protocol = strings.Join(args, ""), api.Protocol(protocol)
			if r.Targets, err = parseTargets(targets); err != nil {
				return nil, err
			}
			r.Stickiness, r.ConnectionTermination = attributes.stickiness, attributes.termination
			if r.DeregistrationDelaySeconds, err = attributes.seconds(c); err != nil {
				return nil, err
			}
			if r.GroupHealthRequest, err = attributes.health.request(c); err != nil {
				return nil, err
			}
			return cl.CreateTargetGroup(ctx, r, o...)
		})
	f := c.Flags()
	reference(a, c, vpcKind, &r.VPC, "vpc", "the `VPC` of its targets")
	choice(c, &protocol, "protocol", "tcp", "tcp", "udp")
	f.Uint16Var(&r.Port, "port", 0, "`port` that the targets are reached at")
	attributes = groupAttributes(c)
	references(a, c, eniKind, &targets, "target", "`ENI[:PORT]` that receives")
	f.StringToStringVar(&r.TargetTags, "target-tag", nil, "register every interface with the tag `KEY=VALUE`, later ones too (may repeat: all of them)")
	f.Lookup("target-tag").DefValue = "" // help would show an empty list
	tags(c, &r.Tags)
	c.Args = atMost("NAME")
	required(c, "vpc", "port")
	m.flags(c)
	return c
}

func parseTargets(args []string) ([]api.TargetRequest, error) {
	var out []api.TargetRequest
	for _, arg := range args {
		if at, err := netip.ParseAddrPort(arg); err == nil && at.Port() != 0 {
			out = append(out, api.TargetRequest{ENI: at.Addr().String(), Port: at.Port()})
			continue
		}
		eni, port, has := strings.Cut(arg, ":")
		if _, err := netip.ParseAddr(arg); err == nil { // IPv6 without a port
			eni, has = arg, false
		}
		t := api.TargetRequest{ENI: eni}
		if has {
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil || n == 0 {
				return nil, api.Errorf(api.CodeInvalidParameter, "ENI", "write it as ledger-1 or ledger-1:8443",
					"%q has no port from 1 to 65535", arg)
			}
			t.Port = uint16(n)
		}
		out = append(out, t)
	}
	return out, nil
}

var loadBalancerKind = kind[api.LoadBalancer]{
	prefix: api.KindLoadBalancer.Prefix(), missing: api.CodeLoadBalancerNotFound,
	command: "load-balancer", arg: "BALANCER", noun: "load balancer", plural: "load balancers", sample: "ledger", byVPC: true,
	list: (*client.Client).ListLoadBalancers, watch: (*client.Client).WatchLoadBalancers,
	get:    (*client.Client).GetLoadBalancer,
	remove: (*client.Client).DeleteLoadBalancer,
	head:   []string{"ID", "NAME", "VPC", "SUBNETS", "LISTENERS"},
	row: func(v *api.LoadBalancer) []string {
		listeners := make([]string, len(v.Listeners))
		for i, l := range v.Listeners {
			listeners[i] = fmt.Sprintf("%d/%s", l.Port, l.Protocol)
		}
		return []string{v.ID, v.Name, v.VPC, strings.Join(v.Subnets, ","), strings.Join(listeners, ",")}
	},
	empty: "You have no load balancer yet. Make one: culvert load-balancer create ledger --vpc VPC",
}

func (a *app) loadBalancerCommand() *cobra.Command {
	g := group("load-balancer", "Fronts of a service's targets", `
A load balancer stands before target groups, with one address in each of its subnets: the source that targets see.`, `
  culvert load-balancer create ledger --vpc pay --listener 443:ledger
  culvert load-balancer list`)
	g.AddCommand(a.loadBalancerCreate(), a.loadBalancerModify(), loadBalancerKind.listCommand(a), loadBalancerKind.describeCommand(a),
		loadBalancerKind.deleteCommand(a, "No service may be using it."))
	return g
}

func (a *app) loadBalancerCreate() *cobra.Command {
	var r api.CreateLoadBalancerRequest
	var listeners []string
	var m mutation
	c := command("create [NAME] --vpc VPC | --subnet SUBNET [--listener PORT[/PROTOCOL]:GROUP]",
		"Create a load balancer", `
Create a load balancer with an address in each subnet named, or else in one subnet of each zone of its VPC.`, `
  culvert load-balancer create ledger --vpc pay --listener 443:ledger
  culvert load-balancer create dns --subnet pay-1a --subnet pay-1b --listener 53/udp:dns`, nil)
	c.RunE = change(a, loadBalancerKind, &m,
		func(ctx context.Context, cl *client.Client, args []string, o ...client.Option) (*api.LoadBalancer, error) {
			r.Name = strings.Join(args, "")
			r.CrossZone = crossZone(c)
			for _, text := range listeners {
				l, err := parseListener(text)
				if err != nil {
					return nil, err
				}
				r.Listeners = append(r.Listeners, l)
			}
			return cl.CreateLoadBalancer(ctx, r, o...)
		})
	reference(a, c, vpcKind, &r.VPC, "vpc", "the `VPC` it is in")
	references(a, c, subnetKind, &r.Subnets, "subnet", "`SUBNET` in which it has an address")
	references(a, c, groupKind, &r.SecurityGroups, "sg", "security `GROUP`")
	crossZoneFlag(c)
	c.Flags().StringArrayVar(&listeners, "listener", nil, "`PORT[/PROTOCOL]:GROUP`: a listener and its target group (may repeat)")
	tags(c, &r.Tags)
	c.Args = atMost("NAME")
	m.flags(c)
	return c
}

// parseListener reads PORT[/PROTOCOL]:GROUP, the group being of targets.
func parseListener(text string) (l api.ListenerRequest, err error) {
	front, group, has := strings.Cut(text, ":")
	port, protocol, _ := strings.Cut(front, "/")
	if protocol == "" {
		protocol = "tcp"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || !has || group == "" {
		return l, api.Errorf(api.CodeInvalidParameter, "--listener", "write it as 443:ledger or 53/udp:dns",
			"%q is not PORT[/PROTOCOL]:GROUP", text)
	}
	return api.ListenerRequest{Protocol: api.Protocol(protocol), Port: uint16(n), TargetGroup: group}, nil
}

// listener is one with the load balancer it belongs to.
type listener struct {
	api.Listener
	LoadBalancer     string `json:"loadBalancerId"`
	LoadBalancerName string `json:"loadBalancerName,omitempty"`
	Revision         int64  `json:"revision"` // of the load balancer
}

// GetMeta makes listeners look like resources to the common commands.
func (l *listener) GetMeta() *api.Meta { return &api.Meta{ID: l.ID, Revision: l.Revision} }

var listenerKind = kind[listener]{
	command: "listener", arg: "LISTENER", noun: "listener", plural: "listeners", sample: "listener-0a1b2c3d4e5f60718",
	byVPC: true, list: listListeners, watch: watchListeners, get: getListener, remove: deleteListener,
	head: []string{"ID", "LOAD BALANCER", "PORT", "PROTOCOL", "TARGET GROUP", "IDLE TIMEOUT"},
	row: func(v *listener) []string {
		return []string{v.ID, v.LoadBalancer, strconv.Itoa(int(v.Port)), string(v.Protocol), v.TargetGroup,
			fmt.Sprintf("%ds", v.IdleTimeoutSeconds)}
	},
	empty: "You have no listener yet. Make one: " +
		"culvert listener create --load-balancer BALANCER --port 443 --target-group GROUP",
}

func listListeners(c *client.Client, ctx context.Context, o ...client.Option) ([]listener, error) {
	balancers, err := c.ListLoadBalancers(ctx, o...)
	var out []listener
	for _, b := range balancers {
		out = append(out, listenersOf(&b)...)
	}
	return out, err
}

func listenersOf(b *api.LoadBalancer) []listener {
	var out []listener
	for _, l := range b.Listeners {
		out = append(out, listener{Listener: l, LoadBalancer: b.ID, LoadBalancerName: b.Name, Revision: b.Revision})
	}
	return out
}

func getListener(c *client.Client, ctx context.Context, ref string, o ...client.Option) (*listener, error) {
	all, err := listListeners(c, ctx, o...)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].ID == ref {
			return &all[i], nil
		}
	}
	return nil, api.Errorf(api.CodeListenerNotFound, "LISTENER", "see culvert listener list", "the listener %q does not exist", ref)
}

func deleteListener(c *client.Client, ctx context.Context, ref string, o ...client.Option) (*api.Result, error) {
	l, err := getListener(c, ctx, ref)
	if err != nil {
		return nil, err
	}
	b, err := c.DeleteListener(ctx, l.LoadBalancer, l.ID, o...)
	if err != nil {
		return nil, err
	}
	return &api.Result{Revision: b.Revision}, nil
}

func (a *app) listenerCommand() *cobra.Command {
	g := group("listener", "Ports of a load balancer", `
A listener is a port of a load balancer and the target group that it sends to.`, `
  culvert listener create --load-balancer ledger --port 443 --target-group ledger
  culvert listener list`)
	g.AddCommand(a.listenerCreate(), listenerKind.listCommand(a), listenerKind.describeCommand(a),
		listenerKind.deleteCommand(a, "Its flows are cut."))
	return g
}

func (a *app) listenerCreate() *cobra.Command {
	var r api.ListenerRequest
	var balancer, protocol string
	var idle time.Duration
	var m mutation
	c := command("create --load-balancer BALANCER --port PORT --target-group GROUP [--protocol PROTOCOL]", "Create a listener", `
Create a listener. Endpoints of services that use the load balancer answer at its port from then on.`, `
  culvert listener create --load-balancer ledger --port 443 --target-group ledger --wait
  culvert listener create --load-balancer dns --protocol udp --port 53 --target-group dns`,
		func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			defer cl.Close()
			r.Protocol, r.IdleTimeoutSeconds = api.Protocol(protocol), uint32(max(0, idle/time.Second))
			b, err := cl.CreateListener(cmd.Context(), balancer, r, m.options()...)
			if err != nil {
				return err
			}
			if err := m.converge(cmd.Context(), a, cl, b.Revision); err != nil {
				return err
			}
			for _, l := range listenersOf(b) {
				if l.Port == r.Port && l.Protocol == r.Protocol {
					return listenerKind.show(a, l)
				}
			}
			return a.print(b, func(w io.Writer) error { return details(w, b) })
		})
	f := c.Flags()
	reference(a, c, loadBalancerKind, &balancer, "load-balancer", "the load `BALANCER` it is a port of")
	choice(c, &protocol, "protocol", "tcp", "tcp", "udp")
	f.Uint16Var(&r.Port, "port", 0, "`port` that consumers dial")
	reference(a, c, targetGroupKind, &r.TargetGroup, "target-group", "target `GROUP` that it sends to")
	f.DurationVar(&idle, "idle-timeout", 0, "forget a TCP flow that was silent so long: 60s to 6000s (default 350s)")
	c.Args = noArguments
	required(c, "load-balancer", "port", "target-group")
	m.flags(c)
	return c
}
