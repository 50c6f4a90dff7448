package verdict

import (
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// maxMessage is the longest overlay packet between nodes, in bytes: what every path carries. bpf/lib/abi.h.
const maxMessage = 1200

// betweenNodes says whether these are the addresses of two nodes.
func betweenNodes(source, dest api.Overlay) bool {
	return source.VPC == 0 && dest.VPC == 0 && source.Tag == 0 && dest.Tag == 0 && source.Host != 0 && dest.Host != 0 &&
		source.Host != dest.Host
}

// isMessage says whether a packet between nodes is what their agents tell each other.
func (p *ip) isMessage() bool {
	return p.protocol == plan.ProtocolUDP && p.fragment == 0 && p.sport == plan.NodePort && p.dport == plan.NodePort
}

// message is a packet from the tunnel that is in no VPC; whole is all of it, fragment says whether it is one.
func (d *decision) message(whole, b []byte, fragment bool, source, dest api.Overlay) Reason {
	if !betweenNodes(source, dest) || dest.Host != d.plan.Config.Node {
		return ReasonBadOverlay
	}
	p, r := d.fromTunnel(b, source, dest)
	if r != ReasonNone || fragment || p.protocol != plan.ProtocolUDP {
		return ReasonHostNotAdmitted
	}
	if r := d.parse(p); r != ReasonNone {
		return r
	}
	if !p.isMessage() {
		return ReasonHostNotAdmitted
	}
	if !d.pay(PaidKey{Rate: RateMessages, Node: source.Host}, secondNS/Messages, secondNS) {
		return ReasonMessageRate
	}
	c := d.plan.Config
	d.redirect(NextHost, c.HostIfindex, frame(c.HostMAC, c.DPMAC, typeIPv6, whole))
	return ReasonNodesOwn
}

// sendMessage is a packet of the host to another node, whose bytes do not change.
func (d *decision) sendMessage(p *ip) Reason {
	if !p.isMessage() {
		return ReasonHostNotAdmitted
	}
	length := p.length
	if p.segment != 0 {
		length = p.segment + p.head + p.header
	}
	if length > maxMessage {
		return ReasonTooBig
	}
	d.redirect(NextTunnel, d.plan.Config.TunnelIfindex, p.b)
	return ReasonNodesOwn
}
