package bpf

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/bpf/internal/frame"
)

const (
	endpointID = "vpce-0a1b2c3d4e5f60718"
	clientISN  = 4_294_967_200 // the header and what follows it go over the end of the number space
	targetISN  = 7000
	told       = uint32(16 + 12 + 4 + len(endpointID))
)

// proxyHeader is what the target must read first.
func proxyHeader() []byte {
	b := []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x26")
	b = append(b, 10, 0, 1, 5, 10, 0, 1, 200)
	b = binary.BigEndian.AppendUint16(b, 40000)
	b = binary.BigEndian.AppendUint16(b, 443)
	return append(append(b, 0xea, 0, 23, 1), endpointID...)
}

func sack(edges ...uint32) []byte {
	b := []byte{1, 5, byte(2 + 4*len(edges))} // at an odd place
	for _, e := range edges {
		b = binary.BigEndian.AppendUint32(b, e)
	}
	return append(b, 1)
}

// proxied is the provider's node of a service whose targets are told, with one connection's ends.
type proxied struct {
	t *testing.T
	n *node
}

func newProxied(t *testing.T) *proxied {
	t.Helper()
	_, b := pair(t)
	b.changeGrant(func(g *Grant) {
		g.Flags = uint8(GrantProxy)
		g.EndpointLen = uint8(copy(g.Endpoint[:], endpointID))
	})
	return &proxied{t, b}
}

// client sends a segment; its target must get want.
func (x *proxied) client(seq, ack uint32, flags uint8, options []byte, n int, want func(*frame.Packet)) {
	x.t.Helper()
	p := frame.TCP(cart+":40000", ledger+":8443", flags).Payload(n)
	p.Seq, p.Ack, p.Options = seq, ack, options
	in := x.n.run("from_tunnel", p.Between(mesh, consumer, number, provider, 0).MACs(noMAC, noMAC).Overlay())
	p = p.From(balancer + ":40000")
	want(&p)
	in.forwarded(x.t, NextWorkload, 121, delivered(p, 21))
}

// target sends a segment; its client must get want.
func (x *proxied) target(seq, ack uint32, flags uint8, options []byte, want func(*frame.Packet)) {
	x.t.Helper()
	p := frame.TCP(ledger+":8443", balancer+":40000", flags)
	p.Seq, p.Ack, p.Options = seq, ack, options
	out := x.n.workload(provider, ledger, sent(p, 21))
	p = p.To(cart + ":40000")
	want(&p)
	out.tunneled(x.t, p.Between(mesh, provider, 0, consumer, number))
}

func (x *proxied) open() {
	x.t.Helper()
	x.client(clientISN, 0, frame.SYN, nil, 0, same)
	x.target(targetISN, clientISN+1, frame.SYN|frame.ACK, nil, same)
}

func same(*frame.Packet) {}

func isHeader(p *frame.Packet) {
	p.Seq, p.Flags, p.Data = clientISN+1, frame.PSH|p.Flags&frame.ACK, proxyHeader()
}

func first(n uint32) uint32 { return clientISN + 1&0xffffffff + n }

// A whole connection: the third ACK becomes the header, and all that follow until the target has all of it; then numbers are
// shifted. Partly acknowledged headers, SACK blocks at odd places, and a number space that ends in the midst of it.
func TestProxyHeader(t *testing.T) {
	x := newProxied(t)
	x.open()
	x.client(first(0), targetISN+1, frame.ACK, nil, 0, isHeader)
	x.client(first(0), targetISN+1, frame.ACK|frame.PSH, []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}, 700, isHeader)
	x.client(first(700), targetISN+1, frame.ACK|frame.FIN, nil, 0, isHeader)
	x.target(targetISN+1, first(20), frame.ACK, sack(first(30), first(40)), func(p *frame.Packet) {
		p.Ack, p.Options = first(0), sack(first(0), first(0))
	})
	x.client(first(0), targetISN+1, frame.ACK, nil, 0, isHeader)
	x.target(targetISN+1, first(told), frame.ACK, nil, func(p *frame.Packet) { p.Ack = first(0) })
	x.client(first(0), targetISN+1, frame.ACK|frame.PSH, nil, 700, func(p *frame.Packet) { p.Seq = first(told) })
	x.target(targetISN+1, first(told), frame.ACK, sack(first(told+300), first(told+700)), func(p *frame.Packet) {
		p.Ack, p.Options = first(0), sack(first(300), first(700))
	})
	x.target(targetISN+1, first(told+700), frame.ACK|frame.PSH, nil, func(p *frame.Packet) { p.Ack = first(700) })
	x.client(first(700), targetISN+1, frame.ACK|frame.FIN, nil, 0, func(p *frame.Packet) { p.Seq = first(told + 700) })
	x.target(targetISN+1, first(told+701), frame.ACK|frame.FIN, nil, func(p *frame.Packet) { p.Ack = first(701) })
	for k, f := range x.n.flows() {
		if FlowFlag(f.Flags)&FlowClosed == 0 || f.ProxyDone != 1 || f.Proxy != uint8(told) {
			t.Errorf("entry %+v: %+v", k, f)
		}
	}
	x.client(first(701), targetISN+2, frame.ACK, nil, 0, func(p *frame.Packet) { p.Seq = first(told + 701) })
}

// Where data could pass by the header: in a SYN, by Fast Open, on another path of Multipath TCP.
func TestProxyHeaderComesFirst(t *testing.T) {
	x := newProxied(t)
	options := []byte{2, 4, 5, 0, 34, 6, 1, 2, 3, 4, 30, 4, 0, 129, 254, 4, 0xf9, 0x89, 254, 4, 0, 0}
	plain := slices.Concat([]byte{2, 4, 5, 0}, slices.Repeat([]byte{1}, 14), []byte{254, 4, 0, 0, 0, 0})
	options = append(options, 0, 0)
	x.client(clientISN, 0, frame.SYN, options, 100, func(p *frame.Packet) { p.Options, p.Data = plain, nil })
	x.client(clientISN, 0, frame.SYN|frame.FIN, nil, 100, func(p *frame.Packet) { p.Data = nil })
	x.target(targetISN, clientISN+1, frame.SYN|frame.ACK, options, func(p *frame.Packet) { p.Options = plain })
	x.client(first(0), targetISN+1, frame.RST, nil, 0, same)
}

// Another SYN-ACK than the first one's: the client has begun anew, unseen, and gets its own header.
func TestProxyHeaderOfALaterHandshake(t *testing.T) {
	x := newProxied(t)
	x.open()
	x.client(first(0), targetISN+1, frame.ACK, nil, 0, isHeader)
	x.target(targetISN+1, first(told), frame.ACK, nil, func(p *frame.Packet) { p.Ack = first(0) })
	x.client(500, 0, frame.SYN, nil, 0, same)
	x.target(targetISN+1, first(told), frame.ACK, nil, func(p *frame.Packet) { p.Ack = first(0) }) // of the old one still
	x.client(500, 0, frame.SYN, nil, 0, same)
	x.target(targetISN+9000, 501, frame.SYN|frame.ACK, nil, same)
	x.client(501, targetISN+9001, frame.ACK|frame.PSH, nil, 50, func(p *frame.Packet) {
		isHeader(p)
		p.Seq = 501
	})
}

// A target that closed first and has forgotten its socket takes another connection within the flow's time. The client gives it
// the number of the one before, and data that would stand where the header is: it does not get there.
func TestProxyHeaderOfTheSameNumber(t *testing.T) {
	x := newProxied(t)
	x.open()
	x.client(first(0), targetISN+1, frame.ACK, nil, 0, isHeader)
	x.target(targetISN+1, first(told), frame.ACK, nil, func(p *frame.Packet) { p.Ack = first(0) })
	x.target(targetISN+1, first(told), frame.ACK|frame.FIN, nil, func(p *frame.Packet) { p.Ack = first(0) })
	x.client(first(0), targetISN+2, frame.ACK, nil, 0, func(p *frame.Packet) { p.Seq = first(told) })
	x.client(clientISN, 0, frame.SYN, nil, 0, same)
	x.target(targetISN+9000, clientISN+1, frame.SYN|frame.ACK, nil, same)
	x.client(first(0)-told, targetISN+9001, frame.ACK|frame.PSH, nil, int(told), isHeader)
	x.client(first(0), targetISN+9001, frame.ACK|frame.PSH, nil, 50, isHeader)
	x.target(targetISN+9001, first(told), frame.ACK, nil, func(p *frame.Packet) { p.Ack = first(0) })
	x.client(first(0), targetISN+9001, frame.ACK|frame.PSH, nil, 50, func(p *frame.Packet) { p.Seq = first(told) })
}

// A flow keeps what it was opened with when the service changes; UDP has no header.
func TestProxyHeaderIsOfTheFlow(t *testing.T) {
	x := newProxied(t)
	x.open()
	x.n.changeGrant(func(g *Grant) { g.Flags = 0 })
	x.n.generation()
	x.client(first(0), targetISN+1, frame.ACK, nil, 0, isHeader)
	x.n.changeGrant(func(g *Grant) { g.EndpointLen-- })
	p := frame.TCP(cart+":40000", ledger+":8443", frame.ACK)
	x.n.run("from_tunnel", p.Between(mesh, consumer, number, provider, 0).Overlay()).refused(t, ReasonNoGrant)

	k := GrantKey{Vpc: consumer, Tag: number + 11}
	var g Grant
	if err := x.n.coll.Maps["grants"].Lookup(k, &g); err != nil {
		t.Fatal(err)
	}
	g.Flags = uint8(GrantProxy)
	x.n.put("grants", k, &g)
	u := frame.UDP(cart+":40000", ledger+":8443")
	in := x.n.run("from_tunnel", u.Between(mesh, consumer, number+11, provider, 0).Overlay())
	in.forwarded(t, NextWorkload, 121, delivered(u.From(balancer+":40000"), 21))
}
