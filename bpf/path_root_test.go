package bpf

import (
	"slices"
	"testing"

	"github.com/culvert-net/culvert/bpf/internal/frame"
	"github.com/culvert-net/culvert/plan"
)

func pair(t *testing.T) (a, b *node) {
	t.Helper()
	a, b = newNode(t, 1), newNode(t, 2)
	furnish(a, b)
	return a, b
}

// furnish puts the small world into two empty nodes.
func furnish(a, b *node) {
	a.eni(consumer, cart, 11)
	a.address(consumer, shelf, AddressWorkload, 12)
	a.service()
	b.eni(consumer, shelf, 12)
	b.address(consumer, cart, AddressWorkload, 11)
	b.eni(provider, ledger, 21)
	b.grant()
}

// Inside one VPC, node to node and back; every kind of packet a workload may send.
func TestSameVPC(t *testing.T) {
	tests := []struct {
		name            string
		request, answer frame.Packet
	}{
		{"tcp", frame.TCP(cart+":40000", shelf+":80", frame.SYN), frame.TCP(shelf+":80", cart+":40000", frame.SYN|frame.ACK)},
		{"udp", frame.UDP(cart+":40000", shelf+":80"), frame.UDP(shelf+":80", cart+":40000")},
		{"echo", frame.Echo(cart+":77", shelf), frame.EchoReply(shelf, 77, cart)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t)
			out := a.workload(consumer, cart, sent(tt.request, 11))
			request := tt.request.Between(mesh, consumer, 0, consumer, 0)
			wire := out.tunneled(t, request)
			in := b.run("from_tunnel", wire)
			in.forwarded(t, NextWorkload, 112, delivered(tt.request, 12))

			out = b.workload(consumer, shelf, sent(tt.answer, 12))
			answer := tt.answer.Between(mesh, consumer, 0, consumer, 0)
			wire = out.tunneled(t, answer)
			in = a.run("from_tunnel", wire)
			in.forwarded(t, NextWorkload, 111, delivered(tt.answer, 11))
		})
	}
}

// The endpoint of VPC 1 leads to the ledger of VPC 2, which has the client's own address, port included.
func TestEndpointOverlap(t *testing.T) {
	a, b := pair(t)
	client, target := cart+":8443", ledger+":8443"
	request := frame.TCP(client, endpoint+":443", frame.SYN)
	out := a.workload(consumer, cart, sent(request, 11))
	over := request.To(target).Between(mesh, consumer, number, provider, 0)
	wire := out.tunneled(t, over)
	in := b.run("from_tunnel", wire)
	in.forwarded(t, NextWorkload, 121, delivered(request.From(balancer+":8443").To(target), 21))

	answer := frame.TCP(target, balancer+":8443", frame.SYN|frame.ACK)
	out = b.workload(provider, ledger, sent(answer, 21))
	over = answer.To(client).Between(mesh, provider, 0, consumer, number)
	wire = out.tunneled(t, over)
	in = a.run("from_tunnel", wire)
	in.forwarded(t, NextWorkload, 111, delivered(answer.From(endpoint+":443").To(client), 11))

	if n := len(a.flows()); n != 2 {
		t.Errorf("%d flow entries at the consumer's node, want 2", n)
	}
	for _, n := range []*node{a, b} {
		for k, f := range n.flows() {
			if f.Key != k || n.flows()[f.ReverseKey()].Id != f.Id || f.Connection != connection || f.Packets != 1 {
				t.Errorf("entry %+v: %+v", k, f)
			}
		}
	}
}

// Both ends on one node: same checks, same entries, one run.
func TestEndpointSameNode(t *testing.T) {
	a, _ := pair(t)
	a.eni(provider, ledger, 21)
	a.grant()
	client, target := cart+":8443", ledger+":8443"
	request := frame.UDP(client, endpoint+":443")
	out := a.workload(consumer, cart, sent(request, 11))
	out.forwarded(t, NextWorkload, 121, delivered(request.From(balancer+":8443").To(target), 21))
	answer := frame.UDP(target, balancer+":8443")
	out = a.workload(provider, ledger, sent(answer, 21))
	out.forwarded(t, NextWorkload, 111, delivered(answer.From(endpoint+":443").To(client), 11))
	if n := len(a.flows()); n != 4 {
		t.Errorf("%d flow entries, want 4", n)
	}
	for _, c := range []struct {
		eni    uint32
		hook   Hook
		reason Reason
		want   uint64
	}{
		{11, HookWorkload, ReasonNone, 1}, {11, HookWorkload, ReasonForwarded, 1}, {0, HookLocal, ReasonNone, 2},
		{21, HookLocal, ReasonForwarded, 1}, {11, HookLocal, ReasonForwarded, 1}, {21, HookWorkload, ReasonForwarded, 1},
	} {
		if got := a.counter(c.eni, c.hook, c.reason); got.Packets != c.want || got.Bytes != c.want*39 {
			t.Errorf("counter %d %s %s: %+v, want %d packets", c.eni, c.hook, c.reason, got, c.want)
		}
	}
}

// A query reaches the node with VPC and client in its source address, and only the answer comes back.
func TestResolver(t *testing.T) {
	a, _ := pair(t)
	a.address(consumer, resolver, AddressResolver, 0)
	query := frame.UDP(cart+":40000", resolver+":53")
	out := a.workload(consumer, cart, sent(query, 11))
	over := query.To("0.0.0.1:53").Between(mesh, consumer, 0, 0, 0)
	over.DstTag = 0
	out.forwarded(t, NextHost, host, fromHost(over, dpMAC, hostMAC))

	answer := frame.UDP("0.0.0.1:53", cart+":40000").Between(mesh, 0, 0, consumer, 0)
	answer.SrcTag = 0
	in := a.run("from_host", fromHost(answer, hostMAC, dpMAC))
	in.forwarded(t, NextWorkload, 111, delivered(answer.From(resolver+":53"), 11))

	other := frame.UDP("0.0.0.1:54", cart+":40000").Between(mesh, 0, 0, consumer, 0)
	other.SrcTag = 0
	a.run("from_host", fromHost(other, hostMAC, dpMAC)).refused(t, ReasonHostNotAdmitted)
}

// messageBetween is what the agent of one node tells another's.
func messageBetween(from, to uint16) frame.Packet {
	port := ":" + itoa(plan.NodePort)
	p := frame.UDP("0.0.0."+itoa(from)+port, "0.0.0."+itoa(to)+port).Between(mesh, 0, 0, 0, 0)
	p.SrcTag, p.DstTag = 0, 0
	return p
}

// What agents tell each other passes as it is, without a flow; what does not fit every path stays.
func TestMessages(t *testing.T) {
	a, b := pair(t)
	message := messageBetween(1, 2)
	out := a.run("from_host", fromHost(message, hostMAC, dpMAC))
	out.passed(t, ReasonNodesOwn, NextTunnel, tunnel, append(slices.Clone(out.frame[:14]), message.IPv6()...))
	b.run("from_tunnel", message.MACs(noMAC, noMAC).Overlay()).passed(t, ReasonNodesOwn, NextHost, host, fromHost(message, dpMAC, hostMAC))
	if n := len(a.flows()) + len(b.flows()); n != 0 {
		t.Errorf("%d flow entries", n)
	}
	longest := message.Payload(plan.MaxMessage)
	a.run("from_host", longest.Overlay()).refused(t, ReasonNodesOwn)
	a.run("from_host", message.Payload(plan.MaxMessage+1).Overlay()).refused(t, ReasonTooBig)
	b.run("from_tunnel", longest.Overlay()).refused(t, ReasonNodesOwn)
	if n := b.counter(0, HookTunnel, ReasonNodesOwn); n.Packets != 2 {
		t.Errorf("%d messages counted, want 2", n.Packets)
	}
}
