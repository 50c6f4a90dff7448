package verdict

import (
	"net/netip"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// probe is the row of what the node itself may open a TCP connection to.
func (d *decision) probe(vpc uint32, a netip.Addr, port uint16) *plan.Probe {
	for i := range d.plan.Probes {
		if x := &d.plan.Probes[i]; x.VPC == vpc && x.Address == a && x.Port == port {
			return x
		}
	}
	return nil
}

// openProbe lets the node probe a target of its own, from the load balancer's address.
func (d *decision) openProbe(key FlowKey, p *ip) (Flow, Reason) {
	if p.protocol != plan.ProtocolTCP || !p.opens() {
		return Flow{}, ReasonHostNotAdmitted
	}
	row := d.probe(key.VPC, p.dest, p.dport)
	if row == nil {
		return Flow{}, ReasonHostNotAdmitted
	}
	eni := d.eniAt(key.VPC, p.dest)
	if eni == nil || eni.Families == 0 {
		return Flow{}, ReasonNotHere
	}
	six := p.six // the family dialled where the target has it, else the other
	if eni.Families&familyOf(six) == 0 {
		six = !six
	}
	d.eni = eni.Number
	rule, r := d.judgeProbe(eni, row.Source, six, p.tuple())
	if r != ReasonNone {
		return Flow{}, r
	}
	f, other := d.received(key, p, eni, six)
	f.Rule, other.Rule = rule, rule
	f.SourceVPC, other.DestVPC, other.Next = 0, 0, NextHost
	f.Source, f.Reverse.Dest = row.Source, row.Source
	return d.create(key, f, other, p, searchingPort)
}

// judgeProbe asks what a load balancer's packets to the target are asked.
func (d *decision) judgeProbe(eni *plan.ENI, lb netip.Addr, six bool, p *ip5) (rule uint32, r Reason) {
	front := d.address(eni.VPC, lb)
	if front == nil || front.Type != plan.AddressLoadBalancer {
		return 0, ReasonHostNotAdmitted
	}
	if _, ok := d.allows(front.EgressRules, d.peerAt(six, eni.VPC, p.dest), p.protocol, p.dport); !ok {
		return 0, ReasonLBGroupEgress
	}
	rule, ok := d.allows(eni.IngressRules, d.peerAt(six, eni.VPC, lb), p.protocol, p.dport)
	if !ok {
		return 0, ReasonGroupIngress
	}
	return rule, ReasonNone
}

// stillProbed judges a probe again.
func (d *decision) stillProbed(eni *plan.ENI, key FlowKey, f Flow) bool {
	row := d.probe(key.VPC, key.Dest, key.DestPort)
	if row == nil || row.Source != f.Source || eni.Families&familyOf(f.IPv6) == 0 {
		return false
	}
	_, r := d.judgeProbe(eni, row.Source, f.IPv6, key.tuple())
	return r == ReasonNone
}

// probePort is the source port of a probe at a try.
func probePort(k FlowKey, try uint32) uint16 {
	return plan.ProbePort(api.AddrHost(k.Source), api.AddrHost(k.Dest), k.SourcePort, k.DestPort, k.Protocol, k.VPC, try)
}
