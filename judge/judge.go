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
	To       netip.Addr   // as the sender writes it
	Protocol api.Protocol // tcp, udp or icmp (echo request)
	Port     uint16       // of the destination; 0 with icmp
	// Target is the ENI that a load balancer's target group is taken to choose; "": whichever of those it may choose.
	Target string
}

// Reasons, in the datapath's words (docs/REASONS.md).
const (
	Forwarded       = "FORWARDED"
	NoState         = "NO_STATE"
	UnknownLink     = "UNKNOWN_LINK"
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
	Via        string // endpoint that the address belongs to
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
	if p.Protocol != api.TCP && p.Protocol != api.UDP && p.Protocol != api.ICMP {
		return refused(Protocol)
	}
	if isResolver(r, src.VPC, p.To) {
		if p.Protocol == api.ICMP || p.Port != 53 {
			return refused(HostNotAdmitted)
		}
		return Verdict{Allowed: true, Reason: Forwarded, Resolver: true, Source: src.Address, Port: 53}
	}
	dst := eniAt(r, src.VPC, p.To)
	if dst == nil || dst == src || dst.Type == api.ENILoadBalancer {
		return refused(NoDestination)
	}
	out, ok := admits(r, src.SecurityGroups, outward, dst.Address, dst.SecurityGroups, p.Protocol, p.Port)
	if !ok {
		return refused(GroupEgress)
	}
	if dst.Type == api.ENIEndpoint {
		return judgeEndpoint(r, p, src, dst)
	}
	if !hosted(r, dst) {
		return refused(NotHere)
	}
	in, ok := admits(r, dst.SecurityGroups, inward, src.Address, src.SecurityGroups, p.Protocol, p.Port)
	if !ok {
		return Verdict{Reason: GroupIngress, Rule: out}
	}
	return Verdict{Allowed: true, Reason: Forwarded, Rule: in, To: dst.ID, Port: p.Port, Source: src.Address}
}

// judgeEndpoint follows a connection from the endpoint's ENI to the targets.
func judgeEndpoint(r *api.Resources, p Packet, src, dialled *api.ENI) Verdict {
	v := Verdict{Via: dialled.Owner}
	if _, ok := admits(r, dialled.SecurityGroups, inward, src.Address, src.SecurityGroups, p.Protocol, p.Port); !ok {
		v.Reason = EndpointGroup
		return v
	}
	v.Reason = NoListener
	c, lb := connectionOf(r, dialled)
	if c == nil {
		return v
	}
	v.Connection = c.ID
	i := slices.IndexFunc(lb.Listeners, func(l api.Listener) bool { return l.Protocol == p.Protocol && l.Port == p.Port })
	if i < 0 {
		return v
	}
	listener := lb.Listeners[i]
	group := r.TargetGroups[listener.TargetGroup]
	numbered := slices.ContainsFunc(c.TagNumbers, func(t api.TagNumber) bool {
		return t.ENI == dialled.ID && t.Listener == listener.ID
	})
	if group == nil || !numbered {
		return v
	}
	for _, t := range choices(r, group, lb.VPC) {
		if p.Target != "" && t.ENI != p.Target {
			continue
		}
		w := judgeTarget(r, src, lb, listener, t)
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

// choices are the targets that a new flow may go to, sorted: those on nodes that drain only when there are no others.
// Each has its port filled in.
func choices(r *api.Resources, g *api.TargetGroup, vpc string) []api.Target {
	var ready, draining []api.Target
	for _, t := range g.Targets {
		e := r.ENIs[t.ENI]
		if e == nil || e.VPC != vpc || !hosted(r, e) {
			continue
		}
		if t.Port == 0 {
			t.Port = g.Port
		}
		if r.Nodes[e.Node].State == api.NodeDraining {
			draining = append(draining, t)
		} else {
			ready = append(ready, t)
		}
	}
	if len(ready) == 0 {
		ready = draining
	}
	slices.SortFunc(ready, func(a, b api.Target) int {
		if a.ENI != b.ENI {
			return strings.Compare(a.ENI, b.ENI)
		}
		return int(a.Port) - int(b.Port)
	})
	return slices.Compact(ready)
}

// judgeTarget asks the provider's side: the load balancer's groups both ways, then the target's.
func judgeTarget(r *api.Resources, src *api.ENI, lb *api.LoadBalancer, l api.Listener, t api.Target) Verdict {
	target := r.ENIs[t.ENI]
	v := Verdict{To: target.ID, Port: t.Port}
	if len(lb.SecurityGroups) > 0 { // a load balancer without groups lets everything through
		if _, ok := admits(r, lb.SecurityGroups, inward, src.Address, nil, l.Protocol, l.Port); !ok {
			return Verdict{Reason: LBGroupIngress, To: v.To, Port: v.Port}
		}
		if _, ok := admits(r, lb.SecurityGroups, outward, target.Address, target.SecurityGroups, l.Protocol, t.Port); !ok {
			return Verdict{Reason: LBGroupEgress, To: v.To, Port: v.Port}
		}
	}
	front := frontOf(r, lb, target)
	if front == nil {
		v.Reason = TargetNotGranted
		return v
	}
	v.Source = front.Address
	rule, ok := admits(r, target.SecurityGroups, inward, front.Address, front.SecurityGroups, l.Protocol, t.Port)
	if !ok {
		v.Reason = GroupIngress
		return v
	}
	v.Allowed, v.Reason, v.Rule = true, Forwarded, rule
	return v
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
		if e.VPC == vpc && e.Address == a {
			return e
		}
	}
	return nil
}

// isResolver: base + 2 of the VPC and of each subnet, and AWS's link-local address.
func isResolver(r *api.Resources, vpc string, a netip.Addr) bool {
	if a == netip.AddrFrom4([4]byte{169, 254, 169, 253}) {
		return true
	}
	second := func(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next().Next() }
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
			ports := rule.Protocol == api.All || p == api.ICMP || rule.FromPort <= port && port <= rule.ToPort
			who := rule.CIDR.IsValid() && rule.CIDR.Contains(peer) || rule.Group != "" && slices.Contains(peers, rule.Group)
			if protocol && ports && who {
				return rule.ID, true
			}
		}
	}
	return "", false
}
