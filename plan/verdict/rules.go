package verdict

import (
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// peer is the other side of a rule check: an address in the family of the packet that the check is about.
type peer struct {
	address netip.Addr
	groups  plan.Groups
}

// in is an address of a VPC in a family.
func (d *decision) in(six bool, vpc uint32, a netip.Addr) netip.Addr {
	if six {
		return api.IPv6Address(d.plan.Config.Mesh, vpc, a)
	}
	return a
}

// allows asks a rule set; port is the destination's, and for ICMP that of an echo request, which alone opens a flow. The
// rule is the first that matches.
func (d *decision) allows(set uint32, other peer, protocol uint8, port uint16) (rule uint32, ok bool) {
	switch protocol {
	case plan.ProtocolICMP:
		port = plan.ICMPPort(api.ICMPEchoRequest, 0)
	case plan.ProtocolICMPv6:
		port = plan.ICMPPort(api.ICMPv6EchoRequest, 0)
	}
	for _, r := range d.state.rulesOf(d.plan, set) {
		if r.Protocol != plan.ProtocolAny && r.Protocol != uint16(protocol) {
			continue
		}
		if port < r.PortLow || port > r.PortHigh {
			continue
		}
		if r.Group != 0 && slices.Contains(other.groups[:], r.Group) || r.Group == 0 && r.Prefix.Contains(other.address) {
			return r.ID, true
		}
	}
	return 0, false
}

// peerAt is an address with the groups that the plan knows of it.
func (d *decision) peerAt(six bool, vpc uint32, a netip.Addr) peer {
	p := peer{address: d.in(six, vpc, a)}
	if row := d.address(vpc, a); row != nil {
		p.groups = row.Groups
	}
	return p
}

func (d *decision) eniAt(vpc uint32, a netip.Addr) *plan.ENI {
	for i := range d.plan.ENIs {
		if e := &d.plan.ENIs[i]; e.VPC == vpc && e.Address == a {
			return e
		}
	}
	return nil
}

func (d *decision) address(vpc uint32, a netip.Addr) *plan.Address {
	for i := range d.plan.Addresses {
		if row := &d.plan.Addresses[i]; row.VPC == vpc && row.Address == a {
			return row
		}
	}
	return nil
}

func (d *decision) service(vpc uint32, a netip.Addr, protocol uint8, port uint16) *plan.Service {
	for i := range d.plan.Services {
		if s := &d.plan.Services[i]; s.VPC == vpc && s.Address == a && s.Protocol == protocol && s.Port == port {
			return s
		}
	}
	return nil
}

func (d *decision) grant(vpc uint32, tag uint16) *plan.Grant {
	for i := range d.plan.Grants {
		if g := &d.plan.Grants[i]; g.ConsumerVPC == vpc && g.Tag == tag {
			return g
		}
	}
	return nil
}

func (d *decision) grantTarget(vpc uint32, tag uint16, a netip.Addr, port uint16) *plan.GrantTarget {
	for i := range d.plan.GrantTargets {
		t := &d.plan.GrantTargets[i]
		if t.ConsumerVPC == vpc && t.Tag == tag && t.Address == a && t.Port == port {
			return t
		}
	}
	return nil
}

// judgeSend is every check of the send half; row is what the destination is.
func (d *decision) judgeSend(eni *plan.ENI, row *plan.Address, p *ip5) (rule uint32, s *plan.Service, r Reason) {
	rule, ok := d.allows(eni.EgressRules, peer{d.in(p.six, eni.VPC, p.dest), row.Groups}, p.protocol, p.dport)
	if !ok {
		return 0, nil, ReasonGroupEgress
	}
	if row.Type == plan.AddressWorkload {
		return rule, nil, ReasonNone
	}
	rule, ok = d.allows(row.Rules, peer{d.in(p.six, eni.VPC, eni.Address), eni.Groups}, p.protocol, p.dport)
	if !ok {
		if row.Type == plan.AddressLoadBalancer {
			return 0, nil, ReasonLBGroupIngress
		}
		return 0, nil, ReasonEndpointGroup
	}
	if s = d.service(eni.VPC, p.dest, p.protocol, p.dport); s == nil {
		return 0, nil, ReasonNoListener
	}
	return rule, s, ReasonNone
}

// judgeLocal is the rule check of the receive half within one VPC.
func (d *decision) judgeLocal(eni *plan.ENI, p *ip5) (rule uint32, r Reason) {
	rule, ok := d.allows(eni.IngressRules, d.peerAt(p.six, eni.VPC, p.source), p.protocol, p.dport)
	if !ok {
		return 0, ReasonGroupIngress
	}
	return rule, ReasonNone
}

// judgeProvider is every rule check of the receive half of a connection; lb is the load balancer's address, and six says
// what the packet is on its way to the target.
func (d *decision) judgeProvider(g *plan.Grant, eni *plan.ENI, lb netip.Addr, six bool, p *ip5) (rule uint32, r Reason) {
	source := peer{address: d.in(p.six, g.ConsumerVPC, p.source)}
	if g.Inside {
		source = d.peerAt(p.six, g.ProviderVPC, p.source)
	} else if _, ok := d.allows(g.Admitted, source, p.protocol, g.DialedPort); !ok {
		return 0, ReasonGrantSource
	}
	if _, ok := d.allows(g.LBRules, source, p.protocol, g.DialedPort); !ok {
		return 0, ReasonLBGroupIngress
	}
	if _, ok := d.allows(g.LBEgressRules, d.peerAt(six, g.ProviderVPC, p.dest), p.protocol, p.dport); !ok {
		return 0, ReasonLBGroupEgress
	}
	rule, ok := d.allows(eni.IngressRules, d.peerAt(six, g.ProviderVPC, lb), p.protocol, p.dport)
	if !ok {
		return 0, ReasonGroupIngress
	}
	return rule, ReasonNone
}

// ip5 is a tuple: of a packet, or of a flow's opening key.
type ip5 struct {
	source, dest netip.Addr
	sport, dport uint16
	protocol     uint8
	six          bool
}

func (p *ip) tuple() *ip5 { return &ip5{p.source, p.dest, p.sport, p.dport, p.protocol, p.six} }

func (k FlowKey) tuple() *ip5 {
	return &ip5{k.Source, k.Dest, k.SourcePort, k.DestPort, k.Protocol, k.IPv6}
}
