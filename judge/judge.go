package judge

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// Packet would open a flow.
type Packet struct {
	From     string       // id of a workload ENI, or of a node
	To       netip.Addr   // as the sender writes it; its family is the packet's
	Protocol api.Protocol // tcp, udp, icmp or icmpv6 (echo request)
	Port     uint16       // of the destination; 0 with icmp and icmpv6
	// Target is the ENI that a load balancer's target group is taken to choose; "": whichever of those it may choose.
	Target string
}

// Reasons, in the datapath's words (docs/REASONS.md).
const (
	Forwarded       = "FORWARDED"
	NoState         = "NO_STATE"
	UnknownLink     = "UNKNOWN_LINK"
	NotIP           = "NOT_IP"
	Protocol        = "PROTOCOL"
	NoDestination   = "NO_DESTINATION"
	NotHere         = "NOT_HERE"
	NoListener      = "NO_LISTENER"
	NoTarget        = "NO_TARGET"
	HostNotAdmitted = "HOST_NOT_ADMITTED"
	// TargetNotGranted: the load balancer has no address that the target could see.
	TargetNotGranted = "TARGET_NOT_GRANTED"
	GroupEgress      = "GROUP_EGRESS"
	GroupIngress     = "GROUP_INGRESS"
	EndpointGroup    = "ENDPOINT_GROUP"
	LBGroupIngress   = "LB_GROUP_INGRESS"
	LBGroupEgress    = "LB_GROUP_EGRESS"
)

// Verdict says whether a packet arrives, and why.
type Verdict struct {
	Allowed    bool
	Reason     string
	Resolver   bool   // the destination is the VPC's resolver
	Via        string // endpoint, or load balancer of the VPC, that the address belongs to
	Connection string // its connection
	Rule       string // sgr-… of the last group asked, when allowed
	To         string // ENI that receives, when allowed
	Port       uint16 // at which it receives
	Source     netip.Addr
	// Targets has a verdict for each target that may be chosen, by ENI and port. Allowed and the rest are those of the first that
	// is allowed, else of the first.
	Targets []Verdict
}

func refused(reason string) Verdict { return Verdict{Reason: reason} }

// Judge decides about one packet. What is not known is refused.
func Judge(r *api.Resources, p Packet) Verdict {
	if r.Nodes[p.From] != nil {
		return refused(HostNotAdmitted)
	}
	src := r.ENIs[p.From]
	if src == nil || src.Type != api.ENIWorkload || r.VPCs[src.VPC] == nil || r.Nodes[src.Node] == nil {
		return refused(UnknownLink)
	}
	if !hosted(r, src) {
		return refused(NoState)
	}
	f := familyOf(p.To)
	source := address(r, src, f)
	if !source.IsValid() {
		return refused(NotIP)
	}
	if p.Protocol != api.TCP && p.Protocol != api.UDP && p.Protocol != echo[f] {
		return refused(Protocol)
	}
	if isResolver(r, src.VPC, p.To) {
		if p.Protocol == echo[f] || p.Port != 53 {
			return refused(HostNotAdmitted)
		}
		return Verdict{Allowed: true, Reason: Forwarded, Resolver: true, Source: source, Port: 53}
	}
	dst := eniAt(r, src.VPC, p.To)
	if dst == nil || dst == src {
		return refused(NoDestination)
	}
	out, ok := admits(r, src.SecurityGroups, outward, p.To, dst.SecurityGroups, p.Protocol, p.Port)
	if !ok {
		return refused(GroupEgress)
	}
	switch dst.Type {
	case api.ENIEndpoint:
		return judgeEndpoint(r, p, src, dst)
	case api.ENILoadBalancer:
		return judgeBalancer(r, p, src, dst)
	}
	if !hosted(r, dst) {
		return refused(NotHere)
	}
	in, ok := admits(r, dst.SecurityGroups, inward, source, src.SecurityGroups, p.Protocol, p.Port)
	if !ok {
		return Verdict{Reason: GroupIngress, Rule: out}
	}
	return Verdict{Allowed: true, Reason: Forwarded, Rule: in, To: dst.ID, Port: p.Port, Source: source}
}

// judgeEndpoint follows a connection from the endpoint's ENI to the targets.
func judgeEndpoint(r *api.Resources, p Packet, src, dialled *api.ENI) Verdict {
	v := Verdict{Via: dialled.Owner}
	source := address(r, src, familyOf(p.To))
	if _, ok := admits(r, dialled.SecurityGroups, inward, source, src.SecurityGroups, p.Protocol, p.Port); !ok {
		v.Reason = EndpointGroup
		return v
	}
	v.Reason = NoListener
	c, lb := connectionOf(r, dialled)
	if c == nil {
		return v
	}
	v.Connection = c.ID
	f := front{lb: lb, dialled: dialled, numbers: c.TagNumbers, source: source}
	if r.Services[c.Service].ClientIdentity == api.IdentityClientAddress {
		f.client = src
	}
	return judgeListener(r, p, v, f)
}

// judgeBalancer follows a flow from a workload to a load balancer of its own VPC. The load balancer's groups see the workload's;
// there is no endpoint.
func judgeBalancer(r *api.Resources, p Packet, src, dialled *api.ENI) Verdict {
	v := Verdict{Reason: NoListener, Via: dialled.Owner}
	source := address(r, src, familyOf(p.To))
	lb := r.LoadBalancers[dialled.Owner]
	if lb == nil || lb.VPC != dialled.VPC || !slices.Contains(lb.ENIs, dialled.ID) {
		return v
	}
	if len(lb.SecurityGroups) > 0 {
		if _, ok := admits(r, lb.SecurityGroups, inward, source, src.SecurityGroups, p.Protocol, p.Port); !ok {
			v.Reason = LBGroupIngress
			return v
		}
	}
	for _, s := range r.Services { // its targets expect to be told the client, and here nobody does
		if slices.Contains(s.LoadBalancers, lb.ID) && s.ClientIdentity != "" && s.ClientIdentity != api.IdentityLoadBalancer {
			return v
		}
	}
	if lb.Number == 0 {
		return v
	}
	return judgeListener(r, p, v, front{lb: lb, dialled: dialled, numbers: lb.TagNumbers, source: source, groups: src.SecurityGroups})
}

// front is a load balancer as a source sees it, through an endpoint or from its own VPC.
type front struct {
	lb      *api.LoadBalancer
	dialled *api.ENI
	numbers []api.TagNumber
	source  netip.Addr
	groups  []string // the source's, where the load balancer's rules know them
	client  *api.ENI // the source, where targets that have IPv6 see its own address
}

// judgeListener finds the listener dialled and judges each target that may be chosen.
func judgeListener(r *api.Resources, p Packet, v Verdict, f front) Verdict {
	i := slices.IndexFunc(f.lb.Listeners, func(l api.Listener) bool { return l.Protocol == p.Protocol && l.Port == p.Port })
	if i < 0 {
		return v
	}
	listener := f.lb.Listeners[i]
	group := r.TargetGroups[listener.TargetGroup]
	n := slices.IndexFunc(f.numbers, func(t api.TagNumber) bool {
		return t.ENI == f.dialled.ID && t.Listener == listener.ID
	})
	if group == nil || n < 0 {
		return v
	}
	for _, t := range choices(r, group, f) {
		if p.Target != "" && t.ENI != p.Target {
			continue
		}
		w := judgeTarget(r, f, listener, t, f.numbers[n].Number)
		w.Via, w.Connection = v.Via, v.Connection
		v.Targets = append(v.Targets, w)
	}
	if len(v.Targets) == 0 {
		v.Reason = NoTarget
		return v
	}
	best := max(slices.IndexFunc(v.Targets, func(w Verdict) bool { return w.Allowed }), 0)
	w := v.Targets[best]
	w.Targets = v.Targets
	return w
}

// connectionOf is the Available connection behind an endpoint's ENI with its load balancer; nil when something is missing
// or does not fit together.
func connectionOf(r *api.Resources, dialled *api.ENI) (*api.Connection, *api.LoadBalancer) {
	e := r.Endpoints[dialled.Owner]
	if e == nil || e.VPC != dialled.VPC || !slices.Contains(e.ENIs, dialled.ID) {
		return nil, nil
	}
	c := r.Connections[e.Connection]
	if c == nil || c.State != api.Available || c.Endpoint != e.ID || c.EndpointVPC != e.VPC || c.Service != e.Service {
		return nil, nil
	}
	lb := r.LoadBalancers[c.LoadBalancer]
	if r.Services[c.Service] == nil || lb == nil || r.VPCs[lb.VPC] == nil {
		return nil, nil
	}
	return c, lb
}

// choices are the targets that a new flow may go to, sorted: those on nodes that drain only when there are no others, and
// unless the load balancer is cross-zone those of the zone dialled, if there are any. Each has its port filled in.
func choices(r *api.Resources, g *api.TargetGroup, f front) []api.Target {
	var ready, draining []api.Target
	for _, t := range g.Targets {
		e := r.ENIs[t.ENI]
		if e == nil || e.VPC != f.lb.VPC || !hosted(r, e) || t.Weight == 0 {
			continue
		}
		if t.Port == 0 {
			t.Port = g.Port
		}
		t.Weight = 1 // whatever more than none
		if r.Nodes[e.Node].State == api.NodeDraining {
			draining = append(draining, t)
		} else {
			ready = append(ready, t)
		}
	}
	if len(ready) == 0 {
		ready = draining
	}
	near := slices.DeleteFunc(slices.Clone(ready), func(t api.Target) bool { return zoneOf(r, r.ENIs[t.ENI]) != zoneOf(r, f.dialled) })
	if !f.lb.CrossZone && len(near) > 0 {
		ready = near
	}
	slices.SortFunc(ready, func(a, b api.Target) int {
		if a.ENI != b.ENI {
			return strings.Compare(a.ENI, b.ENI)
		}
		return int(a.Port) - int(b.Port)
	})
	return slices.Compact(ready)
}

// judgeTarget asks the provider's side: the load balancer's groups both ways, then the target's. From the load balancer on the
// packet is of the source's family where the target has it, else of the other; of IPv6 where the target sees the client's own
// address, which has the number in it. Groups ask for the load balancer there too.
func judgeTarget(r *api.Resources, from front, l api.Listener, t api.Target, number uint16) Verdict {
	source, lb, target := from.source, from.lb, r.ENIs[t.ENI]
	v := Verdict{To: target.ID, Port: t.Port}
	f := familyOf(source)
	own := from.client != nil && address(r, target, 6).IsValid()
	if own {
		f = 6
	} else if !address(r, target, f).IsValid() {
		f = other[f]
	}
	if len(lb.SecurityGroups) > 0 { // a load balancer without groups lets everything through
		if _, ok := admits(r, lb.SecurityGroups, inward, source, from.groups, l.Protocol, l.Port); !ok {
			return Verdict{Reason: LBGroupIngress, To: v.To, Port: v.Port}
		}
		if _, ok := admits(r, lb.SecurityGroups, outward, address(r, target, f), target.SecurityGroups, l.Protocol, t.Port); !ok {
			return Verdict{Reason: LBGroupEgress, To: v.To, Port: v.Port}
		}
	}
	shown := frontOf(r, lb, target)
	if shown == nil {
		v.Reason = TargetNotGranted
		return v
	}
	v.Source = address(r, shown, f)
	rule, ok := admits(r, target.SecurityGroups, inward, v.Source, shown.SecurityGroups, l.Protocol, t.Port)
	if !ok {
		v.Reason = GroupIngress
		return v
	}
	v.Allowed, v.Reason, v.Rule = true, Forwarded, rule
	if own {
		v.Source = ownAddress(r, from.client, familyOf(source), number)
	}
	return v
}

// ownAddress is a client's as the overlay has it, of a packet in a family, by a number of its VPC's.
func ownAddress(r *api.Resources, client *api.ENI, f family, number uint16) netip.Addr {
	o := api.Overlay{Mesh: r.Mesh.Number, VPC: r.VPCs[client.VPC].Number, Host: api.AddrHost(client.Address), Tag: number}
	if f == 4 {
		o.Tag |= api.TagFamilyIPv4
	}
	return o.Addr()
}

// frontOf is the load balancer's ENI that a target sees as source: the one in its zone, else the first.
func frontOf(r *api.Resources, lb *api.LoadBalancer, target *api.ENI) *api.ENI {
	var first *api.ENI
	for _, id := range slices.Sorted(slices.Values(lb.ENIs)) {
		e := r.ENIs[id]
		if e == nil {
			continue
		}
		if zoneOf(r, e) == zoneOf(r, target) {
			return e
		}
		if first == nil {
			first = e
		}
	}
	return first
}

func zoneOf(r *api.Resources, e *api.ENI) string {
	if s := r.Subnets[e.Subnet]; s != nil {
		return s.Zone
	}
	return ""
}

// hosted reports whether a node that is not revoked hosts a workload ENI.
func hosted(r *api.Resources, e *api.ENI) bool {
	n := r.Nodes[e.Node]
	return e.Type == api.ENIWorkload && n != nil && (n.State == api.NodeReady || n.State == api.NodeDraining)
}

func eniAt(r *api.Resources, vpc string, a netip.Addr) *api.ENI {
	for _, e := range r.ENIs {
		if e.VPC == vpc && address(r, e, familyOf(a)) == a {
			return e
		}
	}
	return nil
}

// isResolver: base + 2 of the VPC and of each subnet in either family, and AWS's link-local address.
func isResolver(r *api.Resources, vpc string, a netip.Addr) bool {
	if a == netip.AddrFrom4([4]byte{169, 254, 169, 253}) {
		return true
	}
	second := func(p netip.Prefix) netip.Addr {
		v4 := p.Masked().Addr().Next().Next()
		if familyOf(a) == 6 {
			return ipv6(r, vpc, v4)
		}
		return v4
	}
	if a == second(r.VPCs[vpc].CIDR) {
		return true
	}
	for _, s := range r.Subnets {
		if s.VPC == vpc && a == second(s.CIDR) {
			return true
		}
	}
	return false
}

type way int

const (
	inward way = iota
	outward
)

// admits asks security groups about a peer. The rule is the first that matches, in the groups' and rules' order.
func admits(r *api.Resources, groups []string, w way, peer netip.Addr, peers []string, p api.Protocol, port uint16) (string, bool) {
	for _, id := range groups {
		g := r.SecurityGroups[id]
		if g == nil {
			continue
		}
		rules := g.Ingress
		if w == outward {
			rules = g.Egress
		}
		for _, rule := range rules {
			protocol := rule.Protocol == api.All || rule.Protocol == p
			var ports bool
			switch {
			case rule.Protocol == api.All:
				ports = true
			case p == api.ICMP:
				ports = rule.ICMPType.Matches(api.ICMPEchoRequest) && rule.ICMPCode.Matches(0)
			case p == api.ICMPv6:
				ports = rule.ICMPType.Matches(api.ICMPv6EchoRequest) && rule.ICMPCode.Matches(0)
			default:
				ports = rule.FromPort <= port && port <= rule.ToPort
			}
			who := rule.CIDR.IsValid() && rule.CIDR.Contains(peer) || rule.Group != "" && slices.Contains(peers, rule.Group)
			if protocol && ports && who {
				return rule.ID, true
			}
		}
	}
	return "", false
}
