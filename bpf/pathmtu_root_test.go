package bpf

import (
	"encoding/binary"
	"testing"

	"github.com/culvert-net/culvert/bpf/internal/frame"
)

// pathTo tells a node what the path to addresses of a VPC carries.
func (n *node) pathTo(vpc uint32, addr string, bits int, mtu uint16) {
	n.t.Helper()
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], vpc)
	n.put("paths", &PathKey{Prefix: uint32(32 + bits), Vpc: binary.NativeEndian.Uint32(b[:]), Addr: NetAddr(ip(addr))}, &Path{Mtu: mtu})
}

// nextMTU is what a packet-too-big says.
func nextMTU(r result) int { return int(binary.BigEndian.Uint16(r.frame[14+20+6:])) }

// Each node holds a flow to what its own path carries, in both directions: what a workload sends, and what it is told that
// it may send.
func TestPathMTU(t *testing.T) {
	a, b := pair(t)
	a.pathTo(provider, "10.0.0.0", 16, 1200)
	a.pathTo(provider, ledger, 32, 1328) // the longest prefix counts
	a.pathTo(consumer, shelf, 32, 1200)  // another's
	b.pathTo(consumer, cart, 32, 1296)
	client, target := cart+":8443", ledger+":8443"
	request := frame.TCP(client, endpoint+":443", frame.SYN)
	out := a.workload(consumer, cart, sent(request.MSS(1460), 11))
	wire := out.tunneled(t, request.MSS(1328-68).To(target).Between(mesh, consumer, number, provider, 0))
	in := b.run("from_tunnel", wire)
	in.forwarded(t, NextWorkload, 121, delivered(request.MSS(1296-68).From(balancer+":8443").To(target), 21))

	answer := frame.TCP(target, balancer+":8443", frame.SYN|frame.ACK)
	out = b.workload(provider, ledger, sent(answer.MSS(1460), 21))
	wire = out.tunneled(t, answer.MSS(1296-68).To(client).Between(mesh, provider, 0, consumer, number))
	a.pathTo(provider, ledger, 32, 1248)
	a.generation() // what is known of a path reaches flows when they are judged
	in = a.run("from_tunnel", wire)
	in.forwarded(t, NextWorkload, 111, delivered(answer.MSS(1248-68).From(endpoint+":443").To(client), 11))
	for _, n := range []*node{a, b} {
		for k, f := range n.flows() {
			if want := map[*node]uint16{a: 1248, b: 1296}[n]; f.Mtu != want {
				t.Errorf("flow %+v has MTU %d, want %d", k, f.Mtu, want)
			}
		}
	}
	data := frame.TCP(client, endpoint+":443", frame.ACK)
	fits := data.Payload(1248 - 20 - 40)
	a.workload(consumer, cart, sent(fits, 11)).tunneled(t, fits.To(target).Between(mesh, consumer, number, provider, 0))
	for _, large := range []frame.Packet{data.Payload(1248 - 20 - 40 + 1), frame.UDP(client, shelf+":80").Payload(1200)} {
		r := a.workload(consumer, cart, sent(large, 11))
		want := 1248 - 28
		if large.Dst == frame.UDP(client, shelf+":80").Dst {
			want = 1200 - 28
		}
		if r.outcome.Reason != uint32(ReasonTooBig) || nextMTU(r) != want {
			t.Errorf("too large: %s, MTU %d, want %d", Reason(r.outcome.Reason), nextMTU(r), want)
		}
	}
}

// What stays on the node knows no path.
func TestPathMTUOnTheNode(t *testing.T) {
	a, _ := pair(t)
	a.pathTo(consumer, shelf, 32, 1200)
	a.eni(consumer, shelf, 12)
	large := frame.UDP(cart+":40000", shelf+":80").Payload(1392 - 28)
	a.workload(consumer, cart, sent(large, 11)).forwarded(t, NextWorkload, 112, delivered(large, 12))
}
