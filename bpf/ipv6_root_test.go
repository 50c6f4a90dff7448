package bpf

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// six is the IPv6 form of an address of a VPC.
func six(vpc uint32, a netip.Addr) netip.Addr { return api.IPv6Address(mesh, vpc, a) }

// packetOf is what a workload of the VPC has of the packet.
func packetOf(p plantest.IP, vpc uint32) []byte {
	if p.Six {
		return p.IPv6(six(vpc, p.Source), six(vpc, p.Dest))
	}
	return p.Bytes()
}

func frameOf(p plantest.IP, vpc uint32, source, dest [6]byte) []byte {
	kind := uint16(0x0800)
	if p.Six {
		kind = 0x86dd
	}
	return plantest.Frame(dest, source, kind, packetOf(p, vpc))
}

// between is the packet in the overlay; it is of the family of the one that opened the flow.
func between(p plantest.IP, from uint32, fromNumber uint16, to uint32, toNumber uint16) []byte {
	source := api.Overlay{Mesh: mesh, VPC: from, Host: api.AddrHost(p.Source), Tag: fromNumber}
	dest := api.Overlay{Mesh: mesh, VPC: to, Host: api.AddrHost(p.Dest), Tag: toNumber}
	if !p.Six {
		source.Tag, dest.Tag = source.Tag|api.TagFamilyIPv4, dest.Tag|api.TagFamilyIPv4
	}
	return p.Overlay(source, dest)
}

// wired checks that a packet goes into the tunnel as it should, and gives it as the other node's test run needs it.
func (r result) wired(t *testing.T, want []byte) []byte {
	t.Helper()
	r.forwarded(t, NextTunnel, tunnel, append(slices.Clone(r.frame[:14]), want...))
	return plantest.Frame(noMAC, noMAC, 0x86dd, want)
}

// Inside one VPC an IPv6 packet crosses the tunnel as it is, flow label included.
func TestIPv6SameVPC(t *testing.T) {
	a, b := pair(t)
	for _, kind := range []plantest.IP{
		{Protocol: 6, SourcePort: 40000, DestPort: 80, Flags: plantest.SYN},
		{Protocol: 17, SourcePort: 40000, DestPort: 80, Payload: []byte("nine byte")},
		{Protocol: 58, ICMPType: 8, ICMPID: 77, Payload: []byte("ping")},
	} {
		t.Run(fmt.Sprint(kind.Protocol), func(t *testing.T) {
			kind.Six, kind.Label, kind.TOS, kind.TTL = true, 0xabcde, 0xb8, 61
			kind.Source, kind.Dest = ip(cart), ip(shelf)
			out := a.workload(consumer, cart, frameOf(kind, consumer, mac(11), gatewayMAC))
			in := b.run("from_tunnel", out.wired(t, packetOf(kind, consumer)))
			in.forwarded(t, NextWorkload, 112, frameOf(kind, consumer, gatewayMAC, mac(12)))

			answer := kind
			answer.Source, answer.Dest, answer.SourcePort, answer.DestPort = kind.Dest, kind.Source, kind.DestPort, kind.SourcePort
			answer.Flags, answer.ICMPType = plantest.SYN|plantest.ACK, 0
			out = b.workload(consumer, shelf, frameOf(answer, consumer, mac(12), gatewayMAC))
			in = a.run("from_tunnel", out.wired(t, packetOf(answer, consumer)))
			in.forwarded(t, NextWorkload, 111, frameOf(answer, consumer, gatewayMAC, mac(11)))
			if c := b.counter(12, HookTunnel, ReasonForwarded); c.Packets == 0 || c.Bytes%uint64(len(packetOf(kind, consumer))) != 0 {
				t.Errorf("counted %+v for packets of %d bytes", c, len(packetOf(kind, consumer)))
			}
			b.start()
			a.start()
			furnish(a, b)
		})
	}
}

// Both families at either end of a connection, on two nodes and on one. What arrives is what would have been written
// anew in the target's family: checksums, lengths, no flow label, no id.
func TestTranslation(t *testing.T) {
	a, b := pair(t)
	for _, client := range []bool{false, true} {
		for _, families := range []plan.Families{plan.FamilyIPv4, plan.FamilyIPv6, plan.BothFamilies} {
			for _, protocol := range []uint8{6, 17} {
				for _, oneNode := range []bool{false, true} {
					name := fmt.Sprintf("six=%t to %s, protocol %d, one node=%t", client, families, protocol, oneNode)
					t.Run(name, func(t *testing.T) {
						a.start()
						b.start()
						furnish(a, b)
						if oneNode {
							a.eni(provider, ledger, 21)
							a.grant()
						}
						translate(t, a, b, client, families, protocol, oneNode)
					})
				}
			}
		}
	}
}

func translate(t *testing.T, a, b *node, client bool, families plan.Families, protocol uint8, oneNode bool) {
	t.Helper()
	target, tag := b, uint16(number+protocol-6)
	if oneNode {
		target = a
	}
	target.changeENI(provider, ledger, func(e *ENI) { e.Families = uint8(families) })
	request := plantest.IP{
		Source: ip(cart), Dest: ip(endpoint), SourcePort: 40000, DestPort: 443, Six: client, Protocol: protocol,
		Flags: plantest.SYN, TOS: 0x48, TTL: 33, ID: 0x7788, Label: 0x12345, Payload: []byte("odd number of bytes"),
		NoChecksum: protocol == 17 && !client,
	}
	out := a.workload(consumer, cart, frameOf(request, consumer, mac(11), gatewayMAC))
	arrives := request
	arrives.Dest, arrives.DestPort = ip(ledger), 8443
	if !oneNode {
		out = b.run("from_tunnel", out.wired(t, between(arrives, consumer, tag, provider, 0)))
	}
	arrives.Source = ip(balancer)
	if arrives.Six = families == plan.FamilyIPv6 || families == plan.BothFamilies && client; arrives.Six != client {
		arrives.Label, arrives.ID, arrives.DF, arrives.NoChecksum = 0, 0, true, false
	}
	out.forwarded(t, NextWorkload, 121, frameOf(arrives, provider, gatewayMAC, mac(21)))

	answer := arrives
	answer.Source, answer.Dest, answer.SourcePort, answer.DestPort = arrives.Dest, arrives.Source, 8443, 40000
	answer.Flags, answer.Label, answer.ID, answer.DF = plantest.SYN|plantest.ACK, 0x54321, 0x99, false
	out = target.workload(provider, ledger, frameOf(answer, provider, mac(21), gatewayMAC))
	returns := answer
	if returns.Six = client; returns.Six != arrives.Six {
		returns.Label, returns.ID, returns.DF = 0, 0, true
	}
	returns.Dest = ip(cart)
	if !oneNode {
		out = a.run("from_tunnel", out.wired(t, between(returns, provider, 0, consumer, tag)))
	}
	returns.Source, returns.SourcePort = ip(endpoint), 443
	out.forwarded(t, NextWorkload, 111, frameOf(returns, consumer, gatewayMAC, mac(11)))
	for k, f := range target.flows() {
		if target.flows()[f.ReverseKey()].Id != f.Id {
			t.Errorf("entry %+v has no other half", k)
		}
	}
}

// The resolver's query and answer in IPv6: only the family bit tells them from IPv4's.
func TestIPv6Resolver(t *testing.T) {
	a, _ := pair(t)
	a.address(consumer, resolver, AddressResolver, 0)
	query := plantest.IP{
		Source: ip(cart), Dest: ip(resolver), SourcePort: 40000, DestPort: 53, Six: true, Protocol: 17, Payload: []byte("query"),
	}
	client := api.Overlay{Mesh: mesh, VPC: consumer, Host: api.AddrHost(ip(cart))}
	here := api.Overlay{Mesh: mesh, Host: 1}
	out := a.workload(consumer, cart, frameOf(query, consumer, mac(11), gatewayMAC))
	out.forwarded(t, NextHost, host, plantest.Frame(hostMAC, dpMAC, 0x86dd, query.Overlay(client, here)))

	answer := query
	answer.Source, answer.Dest, answer.SourcePort, answer.DestPort = query.Dest, query.Source, 53, 40000
	in := a.run("from_host", plantest.Frame(dpMAC, hostMAC, 0x86dd, answer.Overlay(here, client)))
	in.forwarded(t, NextWorkload, 111, frameOf(answer, consumer, gatewayMAC, mac(11)))
}

// What a workload gets back: TCP without a flow a RST, what is too big for the tunnel its MTU.
func TestIPv6Answers(t *testing.T) {
	a, _ := pair(t)
	p := plantest.IP{
		Source: ip(cart), Dest: ip(shelf), SourcePort: 40000, DestPort: 80, Six: true, Protocol: 6, Flags: plantest.ACK,
		Seq: 7, Ack: 4711, Payload: []byte("data"),
	}
	out := a.workload(consumer, cart, frameOf(p, consumer, mac(11), gatewayMAC))
	out.refused(t, ReasonNoFlow)
	reset := plantest.IP{
		Source: p.Dest, Dest: p.Source, SourcePort: 80, DestPort: 40000, Six: true, Protocol: 6, Flags: plantest.RST, Seq: 4711,
	}
	want := frameOf(reset, consumer, gatewayMAC, mac(11))
	want[14+40+14], want[14+40+15] = 0, 0 // window, whose sum the checksum has
	sum := uint32(want[14+40+16])<<8 + uint32(want[14+40+17]) + 64240
	sum = sum>>16 + sum&0xffff
	want[14+40+16], want[14+40+17] = byte(sum>>8), byte(sum)
	sameBytes(t, out.frame, want)

	p = plantest.IP{
		Source: ip(cart), Dest: ip(shelf), SourcePort: 1, DestPort: 2, Six: true, Protocol: 17, Payload: make([]byte, mtu-48),
	}
	a.workload(consumer, cart, frameOf(p, consumer, mac(11), gatewayMAC)).refused(t, ReasonForwarded)
	p.Payload = make([]byte, mtu-47)
	out = a.workload(consumer, cart, frameOf(p, consumer, mac(11), gatewayMAC))
	out.refused(t, ReasonTooBig)
	quoted := append([]byte{0, 0, mtu >> 8, mtu & 0xff}, packetOf(p, consumer)[:48]...)
	tooBig := plantest.Discovery(64, 2, 0, six(consumer, ip(shelf)), six(consumer, ip(cart)), netip.Addr{}, quoted[4:]...)
	copy(tooBig[44:], quoted[:4])
	if err := plantest.Check(out.frame[14:]); err != nil {
		t.Error(err)
	}
	tooBig[42], tooBig[43] = out.frame[14+42], out.frame[14+43]
	sameBytes(t, out.frame, plantest.Frame(mac(11), gatewayMAC, 0x86dd, tooBig))
}

// Neighbour discovery, message by message.
func TestNeighbourDiscovery(t *testing.T) {
	a, _ := pair(t)
	none, link, gateway := netip.IPv6Unspecified(), netip.MustParseAddr("fe80::44"), netip.MustParseAddr("fe80::1")
	own, other := six(consumer, ip(cart)), six(consumer, ip(shelf))
	group, routers := netip.MustParseAddr("ff02::1:ff00:5"), netip.MustParseAddr("ff02::2")
	advert := func(dest, target netip.Addr) []byte {
		b := plantest.Discovery(255, 136, 0, target, dest, target, append([]byte{2, 1}, gatewayMAC[:]...)...)
		return withFlags(b, 0xe0)
	}
	router := func(dest netip.Addr) []byte {
		options := append(append(make([]byte, 8), append([]byte{1, 1}, gatewayMAC[:]...)...), 5, 1, 0, 0, 0, 0, (mtu-28)>>8, (mtu-28)&0xff)
		b := plantest.Discovery(255, 134, 0, gateway, dest, netip.Addr{}, options...)
		b = withFlags(b, 64)
		b[46], b[47] = 0xff, 0xff
		return b
	}
	for _, c := range []struct {
		name   string
		packet []byte
		reason Reason
		answer []byte
	}{
		{"who has a neighbour", plantest.Discovery(255, 135, 0, own, group, other), ReasonAnswered, advert(own, other)},
		{"who has the gateway", plantest.Discovery(255, 135, 0, link, group, gateway), ReasonAnswered, advert(link, gateway)},
		{"is the gateway still there", plantest.Discovery(255, 135, 0, own, gateway, gateway), ReasonAnswered, advert(own, gateway)},
		{"is my address free", plantest.Discovery(255, 135, 0, none, group, own), ReasonAnswered, nil},
		{"is my link-local address free", plantest.Discovery(255, 135, 0, none, group, link), ReasonAnswered, nil},
		{"is another's address free", plantest.Discovery(255, 135, 0, none, group, other), ReasonSpoofedAddress, nil},
		{"is the gateway's free", plantest.Discovery(255, 135, 0, none, group, gateway), ReasonSpoofedAddress, nil},
		{"who has mine", plantest.Discovery(255, 135, 0, own, group, own), ReasonAnswered, nil},
		{"from another", plantest.Discovery(255, 135, 0, other, group, gateway), ReasonSpoofedAddress, nil},
		{"who has a group", plantest.Discovery(255, 135, 0, own, group, group), ReasonMalformed, nil},
		{"came through a router", plantest.Discovery(64, 135, 0, own, group, other), ReasonMalformed, nil},
		{"code", plantest.Discovery(255, 135, 1, own, group, other), ReasonMalformed, nil},
		{"no target", plantest.Discovery(255, 135, 0, own, group, netip.Addr{}), ReasonMalformed, nil},
		{"who is the router", plantest.Discovery(255, 133, 0, link, routers, netip.Addr{}), ReasonAnswered, router(link)},
		{"who is the router, asks nobody", plantest.Discovery(255, 133, 0, none, routers, netip.Addr{}), ReasonAnswered,
			router(netip.MustParseAddr("ff02::1"))},
		{"I am the router", plantest.Discovery(255, 134, 0, link, group, netip.Addr{}), ReasonSpoofedAddress, nil},
		{"go another way", plantest.Discovery(255, 137, 0, link, group, other), ReasonSpoofedAddress, nil},
		{"I have mine", plantest.Discovery(255, 136, 0, own, group, own), ReasonAnswered, nil},
		{"I have another's", plantest.Discovery(255, 136, 0, own, group, other), ReasonSpoofedAddress, nil},
		{"I have the gateway's", plantest.Discovery(255, 136, 0, link, group, gateway), ReasonSpoofedAddress, nil},
		{"listeners", plantest.Discovery(1, 143, 0, link, netip.MustParseAddr("ff02::16"), netip.Addr{}), ReasonAnswered, nil},
		{"ping of the gateway from the link", plantest.Discovery(64, 128, 0, link, gateway, netip.Addr{}), ReasonSpoofedAddress, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := a.workload(consumer, cart, plantest.Frame([6]byte{0x33, 0x33}, mac(11), 0x86dd, c.packet))
			out.refused(t, c.reason)
			if c.answer == nil {
				if out.verdict != actShot {
					t.Errorf("verdict %d, want a drop", out.verdict)
				}
				return
			}
			if err := plantest.Check(out.frame[14:]); err != nil {
				t.Error(err)
			}
			c.answer[42], c.answer[43] = out.frame[14+42], out.frame[14+43]
			sameBytes(t, out.frame, plantest.Frame(mac(11), gatewayMAC, 0x86dd, c.answer))
		})
	}
	if n := len(a.flows()); n != 0 {
		t.Errorf("%d flows were made", n)
	}
}

// withFlags sets the byte behind the checksum of an ICMPv6 message. The checksum is then for a caller to judge.
func withFlags(b []byte, flags byte) []byte {
	b[44] = flags
	return b
}
