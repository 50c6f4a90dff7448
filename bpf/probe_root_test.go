package bpf

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/culvert-net/culvert/bpf/internal/frame"
	"github.com/culvert-net/culvert/plan"
)

// marked is the context of a packet whose socket has a mark.
func marked(mark uint32) []byte {
	const length, at = 192, 8 // struct __sk_buff, linux/bpf.h
	b := make([]byte, length)
	binary.NativeEndian.PutUint32(b[at:], mark)
	return b
}

// probing is what node 2 sends to its ledger to see whether it is alive.
func probing(flags uint8) frame.Packet {
	p := frame.TCP("0.0.0.2:40000", ledger+":8443", flags).Between(mesh, 0, 0, provider, 0)
	p.SrcTag = 0
	return p
}

// probed lets node b probe its ledger.
func (n *node) probed() {
	n.t.Helper()
	n.put("probes", ProbeKey{Vpc: provider, Addr: NetAddr(ip(ledger)), Port: NetPort(8443)}, &Probe{Source: NetAddr(ip(balancer))})
}

// A probe and its answer, and a client of a consumer's whose own port the probe has: it gets another, and each gets its answers.
func TestProbe(t *testing.T) {
	_, b := pair(t)
	b.probed()
	in := b.run("from_host", fromHost(probing(frame.SYN), hostMAC, dpMAC), marked(uint32(ProbeMark)))
	in.refused(t, ReasonForwarded)
	port := binary.BigEndian.Uint16(in.frame[14+20:])
	front := netip.AddrPortFrom(ip(balancer), port).String()
	in.forwarded(t, NextWorkload, 121, delivered(probing(frame.SYN).From(front), 21))
	if port >= plan.PortSpare {
		t.Fatalf("a probe took port %d, which a client may be promised", port)
	}
	client := frame.TCP(netip.AddrPortFrom(ip(cart), port).String(), ledger+":8443", frame.SYN)
	tunneled(b, client.Between(mesh, consumer, number, provider, 0)).refused(t, ReasonForwarded)
	ports := map[uint16]bool{}
	for key := range b.flows() {
		if key.SideOf() == ViewWorkload {
			ports[Port(key.Dport)] = true
		}
	}
	if len(ports) != 2 || !ports[port] {
		t.Errorf("ports %v, want the probe's %d and another", ports, port)
	}
	answer := frame.TCP(ledger+":8443", front, frame.SYN|frame.ACK)
	out := b.workload(provider, ledger, sent(answer, 21))
	back := answer.To("0.0.0.2:40000").Between(mesh, provider, 0, 0, 0)
	back.DstTag = 0
	out.passed(t, ReasonNodesOwn, NextHost, host, fromHost(back, dpMAC, hostMAC))
}

// What a probe is refused for.
func TestProbesThatAreRefused(t *testing.T) {
	_, b := pair(t)
	marks := marked(uint32(ProbeMark))
	b.run("from_host", probing(frame.SYN).Overlay(), marks).refused(t, ReasonHostNotAdmitted)
	b.probed()
	b.run("from_host", probing(frame.SYN).Overlay()).refused(t, ReasonHostNotAdmitted)
	b.run("from_host", probing(frame.ACK).Overlay(), marks).refused(t, ReasonHostNotAdmitted)
	b.changeENI(provider, ledger, func(e *ENI) { e.IngressRules = fromGroup })
	b.run("from_host", probing(frame.SYN).Overlay(), marks).refused(t, ReasonGroupIngress)
	b.changeENI(provider, ledger, func(e *ENI) { e.IngressRules = allowAll })
	b.put("addresses", key(provider, balancer), &Address{Type: uint32(AddressLoadBalancer), EgressRules: fromGroup, Families: bothFamilies})
	b.run("from_host", probing(frame.SYN).Overlay(), marks).refused(t, ReasonLBGroupEgress)
	b.put("addresses", key(provider, balancer), &Address{Type: uint32(AddressWorkload), EgressRules: allowAll, Families: bothFamilies})
	b.run("from_host", probing(frame.SYN).Overlay(), marks).refused(t, ReasonHostNotAdmitted)
	if n := len(b.flows()); n != 0 {
		t.Errorf("%d flow entries of what was refused", n)
	}
	b.remove("enis", key(provider, ledger))
	b.run("from_host", probing(frame.SYN).Overlay(), marks).refused(t, ReasonNotHere)
}
