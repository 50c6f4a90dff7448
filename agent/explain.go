package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/dns/zone"
	"github.com/culvert-net/culvert/plan"
)

// explainer walks the stages that a new flow from one of this node's ENIs would meet, over the plan in force.
type explainer struct {
	plan   *plan.Plan
	view   *api.View
	zone   *zone.Zone // what the resolver answers from
	tunnel wire.State
	family plan.Families // of the flow
	now    time.Time
	out    api.Explanation
}

// Explain tells which stage lets a new flow through or stops it, from the plan in force and the state of the tunnel.
func (a *Agent) Explain(ctx context.Context, r local.ExplainRequest) (api.Explanation, error) {
	a.mu.Lock()
	x := explainer{plan: a.applied, view: a.appliedView, now: time.Now()}
	a.mu.Unlock()
	x.zone = a.edges.Names.Zone()
	if x.plan == nil {
		return api.Explanation{}, &api.Error{Code: api.CodeUnavailable, Message: "no plan has been applied yet",
			Remedy: "see culvert status on this node"}
	}
	proto := r.Protocol
	if proto == "" {
		proto = api.TCP
	}
	number := map[api.Protocol]uint8{api.TCP: plan.ProtocolTCP, api.UDP: plan.ProtocolUDP, api.ICMP: plan.ProtocolICMP,
		api.ICMPv6: plan.ProtocolICMPv6}[proto]
	if number == 0 {
		return api.Explanation{}, &api.Error{Code: api.CodeInvalidParameter, Field: "protocol",
			Message: fmt.Sprintf("%q is no protocol of a flow", proto), Remedy: "use tcp, udp, icmp or icmpv6"}
	}
	x.tunnel, _ = a.edges.Wire.Observe(ctx) // without it the tunnel stage says that the device does not answer
	x.out.Allowed = x.run(r, number)
	return x.out, nil
}

func (x *explainer) ok(stage, format string, args ...any) bool {
	x.out.Stages = append(x.out.Stages, api.Stage{Name: stage, OK: true, Detail: fmt.Sprintf(format, args...)})
	return true
}

func (x *explainer) stop(stage, reason, remedy, format string, args ...any) bool {
	x.out.Stages = append(x.out.Stages, api.Stage{Name: stage, Reason: reason, Remedy: remedy,
		Detail: fmt.Sprintf(format, args...)})
	return false
}

func (x *explainer) run(r local.ExplainRequest, proto uint8) bool {
	i := slices.IndexFunc(x.plan.ENIs, func(e plan.ENI) bool { return e.ID == r.From })
	if i < 0 {
		return x.stop("source", "UNKNOWN_LINK", "attach it on this node, or ask the node that hosts it",
			"%s is not attached on this node", r.From)
	}
	src := x.plan.ENIs[i]
	dst, ok := x.resolve(src, r.To)
	if !ok {
		return false
	}
	x.out.Address = dst.String()
	if x.family = familyOf(dst); src.Families&x.family == 0 {
		return x.stop("source", "NOT_IP", "give it the family: culvert eni modify "+src.ID+" --ip-address-type dualstack",
			"%s is %s, and %s is not of that family", src.ID, src.Families, dst)
	}
	if proto == plan.ProtocolICMP || proto == plan.ProtocolICMPv6 {
		proto = map[plan.Families]uint8{plan.FamilyIPv4: plan.ProtocolICMP, plan.FamilyIPv6: plan.ProtocolICMPv6}[x.family]
	}
	x.ok("source", "%s is %s, attached on this node", src.ID, x.form(src.VPC, src.Address))
	j := slices.IndexFunc(x.plan.Addresses, func(a plan.Address) bool {
		return a.VPC == src.VPC && a.Families&x.family != 0 && x.form(a.VPC, a.Address) == dst
	})
	if j < 0 {
		return x.stop("destination", "NO_DESTINATION",
			"reach another account's service through an endpoint: culvert endpoint create --service ACCOUNT/NAME",
			"nothing in this VPC has the address %s", dst)
	}
	to := x.plan.Addresses[j]
	x.ok("destination", "%s is a %s (%s)", dst, to.Type, to.ENI)
	if to.Type == plan.AddressResolver {
		return x.resolver(proto, r.Port)
	}
	rule, ok := x.match(src.EgressRules, dst, to.Groups, proto, r.Port)
	if !ok {
		return x.stop("egress", "GROUP_EGRESS", "authorize egress in a security group of "+src.ID,
			"no egress rule of %s's security groups allows it", src.ID)
	}
	x.ok("egress", "allowed by %s", rule)
	if to.Type == plan.AddressEndpoint || to.Type == plan.AddressLoadBalancer {
		return x.endpoint(src, to, proto, r.Port)
	}
	return x.samevpc(src, to, proto, r.Port)
}

func familyOf(a netip.Addr) plan.Families {
	if a.Is4() {
		return plan.FamilyIPv4
	}
	return plan.FamilyIPv6
}

// form is an address of a VPC in the flow's family.
func (x *explainer) form(vpc uint32, a netip.Addr) netip.Addr {
	if x.family == plan.FamilyIPv6 {
		return api.IPv6Address(x.plan.Config.Mesh, vpc, a)
	}
	return a
}

func (x *explainer) resolver(proto uint8, port uint16) bool {
	if port == 53 && (proto == plan.ProtocolTCP || proto == plan.ProtocolUDP) {
		return x.ok("resolver", "the node's resolver answers")
	}
	return x.stop("resolver", "HOST_NOT_ADMITTED", "use port 53", "the resolver answers UDP and TCP port 53 only")
}

// match names the first rule of a set that lets the packet through; of ICMP that is an echo request.
func (x *explainer) match(set uint32, peer netip.Addr, groups plan.Groups, proto uint8, port uint16) (string, bool) {
	at := port
	switch proto {
	case plan.ProtocolICMP:
		at = plan.ICMPPort(api.ICMPEchoRequest, 0)
	case plan.ProtocolICMPv6:
		at = plan.ICMPPort(api.ICMPv6EchoRequest, 0)
	}
	for _, s := range x.plan.RuleSets {
		if s.ID != set {
			continue
		}
		rules, err := plan.ParseRules(s.Text)
		if err != nil {
			return "", false
		}
		for _, r := range rules {
			ports := r.PortLow <= at && at <= r.PortHigh
			from := r.Group != 0 && slices.Contains(groups[:], r.Group) ||
				r.Group == 0 && r.Prefix.Contains(peer)
			if ports && from && (r.Protocol == plan.ProtocolAny || r.Protocol == uint16(proto)) {
				return r.Name, true
			}
		}
	}
	return "", false
}

func (x *explainer) samevpc(src plan.ENI, to plan.Address, proto uint8, port uint16) bool {
	k := slices.IndexFunc(x.plan.ENIs, func(e plan.ENI) bool { return e.VPC == to.VPC && e.Address == to.Address })
	if k < 0 {
		if !x.path(to.VPC, to.Address) {
			return false
		}
		return x.ok("receiver", "its node decides by the ingress rules of %s: ask there", to.ENI)
	}
	from := x.form(src.VPC, src.Address)
	rule, ok := x.match(x.plan.ENIs[k].IngressRules, from, src.Groups, proto, port)
	if !ok {
		return x.stop("ingress", "GROUP_INGRESS", "authorize ingress in a security group of "+to.ENI,
			"no ingress rule of %s's security groups allows %s", to.ENI, from)
	}
	return x.ok("ingress", "allowed by %s", rule)
}

// dialled asks the groups of what was dialled: an endpoint, or a load balancer of the same VPC.
func (x *explainer) dialled(src plan.ENI, to plan.Address, proto uint8, port uint16) bool {
	from := x.form(src.VPC, src.Address)
	rule, ok := x.match(to.Rules, from, src.Groups, proto, port)
	inside := to.Type == plan.AddressLoadBalancer
	switch {
	case ok && inside:
		return x.ok("load-balancer", "its security groups allow it by %s", rule)
	case ok:
		return x.ok("endpoint", "its security groups allow it by %s", rule)
	case inside:
		return x.stop("load-balancer", "LB_GROUP_INGRESS", "authorize ingress in the load balancer's security group",
			"no ingress rule of the load balancer's security groups allows %s to port %d", from, port)
	}
	return x.stop("endpoint", "ENDPOINT_GROUP", "authorize ingress in the endpoint's security group (yours, not the provider's)",
		"no ingress rule of the endpoint's security groups allows %s to port %d", from, port)
}

func (x *explainer) endpoint(src plan.ENI, to plan.Address, proto uint8, port uint16) bool {
	if !x.dialled(src, to, proto, port) {
		return false
	}
	k := slices.IndexFunc(x.plan.Services, func(s plan.Service) bool {
		return s.VPC == to.VPC && s.Address == to.Address && s.Port == port && s.Protocol == proto
	})
	if k < 0 {
		return x.stop("listener", "NO_LISTENER", x.listenerRemedy(to),
			"nothing listens there on this port: %s", x.listeners(to))
	}
	s := x.plan.Services[k]
	if s.TableWidth == 0 {
		return x.stop("target", "NO_TARGET", "the provider has to register targets", "the service has no target")
	}
	t := slices.IndexFunc(x.plan.TargetTables, func(t plan.TargetTable) bool { return t.ID == s.Table })
	if t < 0 {
		return x.stop("target", "NO_TARGET", "see culvert status on this node", "target table %d is missing", s.Table)
	}
	targets, err := x.plan.TargetTables[t].Targets()
	if err != nil || len(targets) == 0 {
		return x.stop("target", "NO_TARGET", "the provider has to register targets", "the service has no target")
	}
	x.ok("target", "one of %d", len(targets))
	for _, target := range targets {
		if target.Weight > 0 && !x.path(s.ProviderVPC, target.Addr()) {
			return false
		}
	}
	if to.Type == plan.AddressLoadBalancer {
		return x.ok("receiver", "the target's node decides by its grant for load balancer %s and the target's ingress rules", s.Endpoint)
	}
	return x.ok("receiver", "the provider's node decides by its grant for connection %s", x.connection(s.Endpoint))
}

func (x *explainer) connection(endpoint string) string {
	for _, e := range x.view.Endpoints {
		if e.ID == endpoint {
			return fmt.Sprintf("%s, accepted by %s", e.Connection, e.Approver)
		}
	}
	return "of " + endpoint
}

func (x *explainer) listeners(to plan.Address) string {
	var have []string
	for _, s := range x.plan.Services {
		if s.VPC == to.VPC && s.Address == to.Address {
			have = append(have, fmt.Sprintf("%d/%s", s.Port, protocolName(s.Protocol)))
		}
	}
	if len(have) == 0 && to.Type == plan.AddressLoadBalancer {
		return "it has no listener with a target group, or its targets are told the client, and then no workload of its VPC reaches it"
	}
	if len(have) == 0 {
		return "the connection is not Available"
	}
	return "it has " + strings.Join(have, ", ")
}

func (x *explainer) listenerRemedy(to plan.Address) string {
	if slices.ContainsFunc(x.plan.Services, func(s plan.Service) bool { return s.VPC == to.VPC && s.Address == to.Address }) {
		return "use one of these ports"
	}
	if to.Type == plan.AddressLoadBalancer {
		return "see culvert load-balancer describe, and the clientIdentity of its services"
	}
	return "see culvert endpoint describe: the provider may have to accept it"
}

func protocolName(p uint8) string {
	switch p {
	case plan.ProtocolTCP:
		return string(api.TCP)
	case plan.ProtocolUDP:
		return string(api.UDP)
	case plan.ProtocolICMPv6:
		return string(api.ICMPv6)
	}
	return string(api.ICMP)
}

// path says how a packet gets to an address: on this node, or by which peer.
func (x *explainer) path(vpc uint32, a netip.Addr) bool {
	if slices.ContainsFunc(x.plan.ENIs, func(e plan.ENI) bool { return e.VPC == vpc && e.Address == a }) {
		return x.ok("path", "%s is on this node", a)
	}
	overlay := api.Overlay{Mesh: x.plan.Config.Mesh, VPC: vpc, Host: api.AddrHost(a)}.Addr()
	best := -1
	for i, row := range x.plan.AllowedIPs {
		if row.Prefix.Contains(overlay) && (best < 0 || row.Prefix.Bits() > x.plan.AllowedIPs[best].Prefix.Bits()) {
			best = i
		}
	}
	if best < 0 {
		return x.stop("path", "", "its node has to be up and not revoked; see culvert node list", "no node speaks for %s", a)
	}
	key := x.plan.AllowedIPs[best].PublicKey
	for _, p := range x.tunnel.Peers {
		if p.PublicKey.String() != key {
			continue
		}
		if p.LastHandshake.IsZero() {
			return x.ok("path", "%s is behind %s; no handshake yet, the first packet makes one", a, p.Underlay)
		}
		return x.ok("path", "%s is behind %s, last handshake %s ago", a, p.Underlay,
			max(0, x.now.Sub(p.LastHandshake).Round(time.Second)))
	}
	return x.stop("path", "", "see culvert status on this node: is culvert tunnel running?",
		"the tunnel does not have the peer for %s", a)
}
