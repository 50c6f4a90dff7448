package bpf

import (
	"encoding/binary"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf/internal/frame"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

const (
	onlyTCP80 = 1001 // rule set: TCP 80 from everywhere
	tcp8443   = 1002
	fromGroup = 1003 // everything from group 55
)

func syn() frame.Packet { return frame.TCP(cart+":40000", endpoint+":443", frame.SYN) }

// toProvider is what the consumer's node makes of syn.
func toProvider() frame.Packet {
	return syn().To(ledger+":8443").Between(mesh, consumer, number, provider, 0)
}

// complaint is the ICMP error of the cart, "port unreachable", about a packet.
func complaint(about frame.Packet) frame.Packet {
	b := plantest.Complaint(about.IPv4(), 3, 3, 0, 28)
	copy(b[12:16], ip(cart).AsSlice())
	return frame.Echo(cart+":0", about.Src.Addr().String()).Payload(28).Break(func(ip []byte) { copy(ip, b) })
}

func tunneled(n *node, p frame.Packet) result { return n.run("from_tunnel", p.Overlay()) }

// Every reason there is, each with the least that brings it about.
var refusals = []struct {
	name   string
	reason Reason
	run    func(a, b *node) result
}{
	{"no configuration", ReasonNoState, func(a, _ *node) result {
		a.configure(Config{})
		return a.workload(consumer, cart, sent(syn(), 11))
	}},
	{"old view", ReasonViewExpired, func(a, _ *node) result {
		a.cfg.ExpiresNs = 1
		a.configure(a.cfg)
		return a.workload(consumer, cart, sent(syn(), 11))
	}},
	{"no ENI at the link", ReasonUnknownLink, func(a, _ *node) result {
		a.remove("links", uint32(1))
		return a.run("from_workload", sent(syn(), 11))
	}},
	{"ENI gone, link still there", ReasonNotHere, func(a, _ *node) result {
		a.link(consumer, cart)
		a.remove("enis", key(consumer, cart))
		return a.run("from_workload", sent(syn(), 11))
	}},
	{"IPv6 of an ENI that has IPv4 only", ReasonNotIP, func(a, _ *node) result {
		a.changeENI(consumer, cart, func(e *ENI) { e.Families = uint8(plan.FamilyIPv4) })
		return a.workload(consumer, cart, toProvider().MACs(mac(11), gatewayMAC).Overlay())
	}},
	{"IPv4 of an ENI that has IPv6 only", ReasonNotIP, func(a, _ *node) result {
		a.changeENI(consumer, cart, func(e *ENI) { e.Families = uint8(plan.FamilyIPv6) })
		return a.workload(consumer, cart, sent(syn(), 11))
	}},
	{"ARP of an ENI that has IPv6 only", ReasonNotIP, func(a, _ *node) result {
		a.changeENI(consumer, cart, func(e *ENI) { e.Families = uint8(plan.FamilyIPv6) })
		return a.workload(consumer, cart, frame.ARP(mac(11), 1, mac(11), cart, "10.0.1.1"))
	}},
	{"no checksum, another length, to IPv6", ReasonNoChecksum, func(_, b *node) result {
		b.changeENI(provider, ledger, func(e *ENI) { e.Families = uint8(plan.FamilyIPv6) })
		p := frame.UDP(cart+":40000", ledger+":8443").Between(mesh, consumer, number+11, provider, 0)
		p.NoChecksum = true
		return tunneled(b, p.Break(func(ip []byte) { ip[25]-- }))
	}},
	{"short header", ReasonMalformed, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(syn().Break(func(ip []byte) { ip[0] = 0x44 }), 11))
	}},
	{"longer than the frame", ReasonMalformed, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(syn().Break(func(ip []byte) { ip[3]++ }), 11))
	}},
	{"port 0", ReasonMalformed, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(frame.UDP(cart+":0", shelf+":53"), 11))
	}},
	{"to port 0", ReasonMalformed, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(frame.UDP(cart+":53", shelf+":0"), 11))
	}},
	{"multicast", ReasonNoDestination, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(frame.UDP(cart+":5353", "224.0.0.251:5353"), 11))
	}},
	{"broadcast", ReasonNoDestination, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(frame.UDP(cart+":68", "255.255.255.255:67"), 11))
	}},
	{"broadcast of the subnet", ReasonNoDestination, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(frame.UDP(cart+":9", "10.0.1.255:9"), 11))
	}},
	{"tcp header beyond the packet", ReasonMalformed, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(syn().Break(func(ip []byte) { ip[32] = 0x60 }), 11))
	}},
	{"bad ARP", ReasonMalformed, func(a, _ *node) result {
		return a.workload(consumer, cart, frame.ARP(mac(11), 3, mac(11), cart, "10.0.1.1"))
	}},
	{"an option that ends beyond all", ReasonIPOptions, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(syn().Payload(8).Break(func(ip []byte) { ip[0] = 0x46 }), 11))
	}},
	{"source route", ReasonIPOptions, func(a, _ *node) result {
		route := func(ip []byte) { ip[0] = 0x46; copy(ip[20:], []byte{131, 3, 4, 0}) }
		return a.workload(consumer, cart, sent(syn().Payload(8).Break(route), 11))
	}},
	{"first fragment with half a header", ReasonFragment, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(syn().Break(func(ip []byte) { ip[3], ip[6] = 36, 0x20 }), 11))
	}},
	{"overlapping fragment", ReasonFragment, func(a, _ *node) result {
		pieces := fragments(cart + ":40000")
		a.workload(consumer, cart, sent(pieces[0], 11)).refused(a.t, ReasonForwarded)
		b := sent(pieces[1], 11)
		b[14+7]--
		return a.workload(consumer, cart, b)
	}},
	{"fragment before its first", ReasonFragment, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(syn().Break(func(ip []byte) { ip[7] = 1 }), 11))
	}},
	{"GRE", ReasonProtocol, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(syn().Break(func(ip []byte) { ip[9] = 47 }), 11))
	}},
	{"ICMP redirect", ReasonProtocol, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(frame.Echo(cart+":7", shelf).Break(func(ip []byte) { ip[20] = 5 }), 11))
	}},
	{"ICMP error about another's packet", ReasonMalformed, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(complaint(frame.UDP(endpoint+":443", shelf+":40000")), 11))
	}},
	{"ICMP error about nothing", ReasonNoFlow, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(complaint(frame.UDP(endpoint+":443", cart+":40000")), 11))
	}},
	{"larger than the tunnel", ReasonTooBig, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(frame.UDP(cart+":40000", shelf+":80").Payload(mtu-47), 11))
	}},
	{"another's MAC", ReasonSpoofedMAC, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(syn(), 12))
	}},
	{"another's address", ReasonSpoofedAddress, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(syn().From(shelf+":40000"), 11))
	}},
	{"ARP for another", ReasonSpoofedAddress, func(a, _ *node) result {
		return a.workload(consumer, cart, frame.ARP(mac(11), 1, mac(11), shelf, "10.0.1.1"))
	}},
	{"nobody there", ReasonNoDestination, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(syn().To("10.0.1.77:443"), 11))
	}},
	{"itself", ReasonNoDestination, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(syn().To(cart+":443"), 11))
	}},
	{"a load balancer from inside, without a listener", ReasonNoListener, func(_, b *node) result {
		return b.workload(provider, ledger, sent(frame.TCP(ledger+":40000", balancer+":443", frame.SYN), 21))
	}},
	{"another interface at the target's address, and the plan not in force yet that says so", ReasonNotHere, func(_, b *node) result {
		tunneled(b, toProvider()).refused(b.t, ReasonForwarded)
		b.changeENI(provider, ledger, func(e *ENI) { e.Number++ })
		return tunneled(b, toProvider())
	}},
	{"moved away", ReasonNotHere, func(_, b *node) result {
		b.remove("enis", key(provider, ledger))
		return tunneled(b, toProvider())
	}},
	{"moved away inside the VPC", ReasonNotHere, func(_, b *node) result {
		b.remove("enis", key(consumer, shelf))
		return tunneled(b, frame.UDP(cart+":40000", shelf+":80").Between(mesh, consumer, 0, consumer, 0))
	}},
	{"port without listener", ReasonNoListener, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(syn().To(endpoint+":444"), 11))
	}},
	{"ping of an endpoint", ReasonNoListener, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(frame.Echo(cart+":7", endpoint), 11))
	}},
	{"empty pool", ReasonNoTarget, func(a, _ *node) result {
		a.put("services", ServiceKey{Vpc: consumer, Addr: NetAddr(ip(endpoint)), Port: NetPort(443), Protocol: 6},
			&Service{Connection: connection, ProviderVpc: provider, Table: 5, Tag: number})
		return a.workload(consumer, cart, sent(syn(), 11))
	}},
	{"table gone", ReasonNoTarget, func(a, _ *node) result {
		a.remove("target_tables", uint32(5))
		return a.workload(consumer, cart, sent(syn(), 11))
	}},
	{"middle of a connection", ReasonNoFlow, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(frame.TCP(cart+":40000", shelf+":80", frame.ACK), 11))
	}},
	{"answer to no question", ReasonNoFlow, func(a, _ *node) result {
		return a.workload(consumer, cart, sent(frame.EchoReply(cart, 7, shelf), 11))
	}},
	{"provider opens toward the consumer", ReasonNoFlow, func(a, _ *node) result {
		return tunneled(a, frame.TCP(ledger+":8443", cart+":22", frame.SYN).Between(mesh, provider, 0, consumer, number))
	}},
	{"number without grant", ReasonNoGrant, func(_, b *node) result {
		return tunneled(b, toProvider().Between(mesh, consumer, number+50, provider, 0))
	}},
	{"grant of another VPC", ReasonNoGrant, func(_, b *node) result {
		return tunneled(b, toProvider().Between(mesh, 3, number, provider, 0))
	}},
	{"port not granted", ReasonTargetNotGranted, func(_, b *node) result {
		return tunneled(b, toProvider().To(ledger+":22"))
	}},
	{"protocol not granted", ReasonTargetNotGranted, func(_, b *node) result {
		return tunneled(b, frame.UDP(cart+":40000", ledger+":8443").Between(mesh, consumer, number, provider, 0))
	}},
	{"host without a question", ReasonHostNotAdmitted, func(a, _ *node) result {
		p := frame.UDP("0.0.0.1:53", cart+":40000").Between(mesh, 0, 0, consumer, 0)
		p.SrcTag = 0
		return a.run("from_host", p.Overlay())
	}},
	{"another host's other ports", ReasonHostNotAdmitted, func(a, _ *node) result {
		return a.run("from_host", messageBetween(1, 2).To("0.0.0.2:22").Overlay())
	}},
	{"from a port of another host's", ReasonHostNotAdmitted, func(_, b *node) result {
		return tunneled(b, messageBetween(1, 2).From("0.0.0.1:22"))
	}},
	{"a host's message to a third", ReasonBadOverlay, func(_, b *node) result { return tunneled(b, messageBetween(1, 3)) }},
	{"a host that says more than an agent has to say", ReasonMessageRate, func(_, b *node) result {
		b.put("messages", uint32(1), uint64(1)<<62) // paid for until then
		tunneled(b, messageBetween(3, 2)).refused(b.t, ReasonNodesOwn)
		return tunneled(b, messageBetween(1, 2))
	}},
	{"resolver's other ports", ReasonHostNotAdmitted, func(a, _ *node) result {
		a.address(consumer, resolver, AddressResolver, 0)
		return a.workload(consumer, cart, sent(frame.TCP(cart+":40000", resolver+":22", frame.SYN), 11))
	}},
	{"egress rules", ReasonGroupEgress, func(a, _ *node) result {
		a.changeENI(consumer, cart, func(e *ENI) { e.EgressRules = onlyTCP80 })
		return a.workload(consumer, cart, sent(syn(), 11))
	}},
	{"no egress rules", ReasonGroupEgress, func(a, _ *node) result {
		a.changeENI(consumer, cart, func(e *ENI) { e.EgressRules = 0 })
		return a.workload(consumer, cart, sent(frame.UDP(cart+":40000", shelf+":80"), 11))
	}},
	{"ingress rules", ReasonGroupIngress, func(_, b *node) result {
		b.changeENI(consumer, shelf, func(e *ENI) { e.IngressRules = fromGroup })
		return tunneled(b, frame.UDP(cart+":40000", shelf+":80").Between(mesh, consumer, 0, consumer, 0))
	}},
	{"target's ingress rules", ReasonGroupIngress, func(_, b *node) result {
		b.changeENI(provider, ledger, func(e *ENI) { e.IngressRules = fromGroup })
		return tunneled(b, toProvider())
	}},
	{"endpoint's rules", ReasonEndpointGroup, func(a, _ *node) result {
		a.put("addresses", key(consumer, endpoint), &Address{
			Type: uint32(AddressEndpoint), Rules: fromGroup, Families: bothFamilies,
		})
		return a.workload(consumer, cart, sent(syn(), 11))
	}},
	{"source not admitted", ReasonGrantSource, func(_, b *node) result {
		b.changeGrant(func(g *Grant) { g.Admitted = onlyTCP80 })
		return tunneled(b, toProvider())
	}},
	{"load balancer's ingress", ReasonLBGroupIngress, func(_, b *node) result {
		b.changeGrant(func(g *Grant) { g.LbRules = tcp8443 }) // the port that counts is the dialled one
		return tunneled(b, toProvider())
	}},
	{"load balancer's egress", ReasonLBGroupEgress, func(_, b *node) result {
		b.changeGrant(func(g *Grant) { g.LbEgressRules = onlyTCP80 })
		return tunneled(b, toProvider())
	}},
	{"grant withdrawn", ReasonFlowRevoked, func(_, b *node) result {
		tunneled(b, toProvider()).refused(b.t, ReasonForwarded)
		b.remove("grants", GrantKey{Vpc: consumer, Tag: number})
		b.generation()
		p := toProvider()
		p.Flags = frame.ACK
		return tunneled(b, p)
	}},
	{"withdrawn, seen from the target", ReasonFlowRevoked, func(_, b *node) result {
		tunneled(b, toProvider()).refused(b.t, ReasonForwarded)
		b.remove("grants", GrantKey{Vpc: consumer, Tag: number})
		b.generation()
		return b.workload(provider, ledger, sent(frame.TCP(ledger+":8443", balancer+":40000", frame.SYN|frame.ACK), 21))
	}},
	{"another number's connection", ReasonFlowRevoked, func(_, b *node) result {
		tunneled(b, toProvider()).refused(b.t, ReasonForwarded)
		b.changeGrant(func(g *Grant) { g.Connection++ })
		b.generation()
		return tunneled(b, toProvider())
	}},
	{"no more ports", ReasonSNATPortsExhausted, func(_, b *node) result {
		taken := func(port uint16) {
			k := FlowKey{
				Vpc: provider, Saddr: NetAddr(ip(ledger)), Daddr: NetAddr(ip(balancer)), Sport: NetPort(8443),
				Dport: NetPort(port), View: uint8(ViewWorkload), Protocol: 6,
			}
			b.put("flows", k, &Flow{Id: 1, Key: k})
		}
		taken(40000)
		for try := range uint32(plan.PortTries + plan.SpareTries) {
			taken(plan.SNATPort(api.AddrHost(ip(cart)), api.AddrHost(ip(ledger)), 40000, 8443, 6, consumer, number, try+1))
		}
		return tunneled(b, toProvider())
	}},
	{"the connection's ports", ReasonSNATPortsExhausted, func(_, b *node) result {
		b.put("grant_targets", GrantTargetKey{Vpc: consumer, Tag: number, Addr: NetAddr(ip(ledger)), Port: NetPort(8443)},
			&GrantTarget{Source: NetAddr(ip(balancer)), SourceEni: 31})
		b.put("ports", QuotaKey{
			Kind: uint32(QuotaPool), Vpc: provider, Source: NetAddr(ip(balancer)), Target: NetAddr(ip(ledger)), Port: NetPort(8443),
			Protocol: 6,
		}, &Usage{Used: uint64(PoolOpen), Made: uint64(PoolOpen)})
		return tunneled(b, toProvider())
	}},
	{"the account's share", ReasonAccountFlowsFull, func(a, _ *node) result {
		a.quota(QuotaKey{Kind: uint32(QuotaAccount)}, bounds(1))
		return a.workload(consumer, cart, sent(syn(), 11))
	}},
	{"what is open to all, beyond what the account is guaranteed", ReasonAccountFlowsFull, func(a, _ *node) result {
		a.quota(QuotaKey{Kind: uint32(QuotaTable)}, QuotaLimits{Ceiling: 100, Open: 1})
		return a.workload(consumer, cart, sent(syn(), 11))
	}},
	{"the connection's share, consumer's half", ReasonEndpointFlowsFull, func(a, _ *node) result {
		a.quota(QuotaKey{Kind: uint32(QuotaSent), Id: connection}, bounds(1))
		return a.workload(consumer, cart, sent(syn(), 11))
	}},
	{"the connection's share, provider's half", ReasonEndpointFlowsFull, func(_, b *node) result {
		b.quota(QuotaKey{Kind: uint32(QuotaReceived), Id: connection}, bounds(1))
		return tunneled(b, toProvider())
	}},
	{"no row for the connection", ReasonEndpointFlowsFull, func(_, b *node) result {
		b.remove("quotas", QuotaKey{Kind: uint32(QuotaReceived), Id: connection})
		return tunneled(b, toProvider())
	}},
	{"no log, consumer's half", ReasonLogUnavailable, func(a, _ *node) result {
		a.strict(consumer, cart)
		return a.workload(consumer, cart, sent(syn(), 11))
	}},
	{"no log, provider's half", ReasonLogUnavailable, func(_, b *node) result {
		b.strict(provider, ledger)
		return tunneled(b, toProvider())
	}},
	{"no log any more, inside the VPC", ReasonLogUnavailable, func(_, b *node) result {
		b.strict(consumer, shelf)
		b.put("log_ready", uint32(0), ^uint64(0))
		tunneled(b, frame.UDP(cart+":40000", shelf+":80").Between(mesh, consumer, 0, consumer, 0)).refused(b.t, ReasonForwarded)
		b.put("log_ready", uint32(0), uint64(1)) // boot time, long past
		return tunneled(b, frame.UDP(cart+":40001", shelf+":80").Between(mesh, consumer, 0, consumer, 0))
	}},
	{"cap", ReasonCapFlows, func(_, b *node) result {
		b.quota(QuotaKey{Kind: uint32(QuotaReceived), Id: connection}, QuotaLimits{Ceiling: 100, Open: 100, Most: 2})
		tunneled(b, toProvider()).refused(b.t, ReasonForwarded)
		return tunneled(b, frame.TCP(cart+":40001", ledger+":8443", frame.SYN).Between(mesh, consumer, number, provider, 0))
	}},
	{"cap", ReasonCapConnections, func(_, b *node) result {
		b.quota(QuotaKey{Kind: uint32(QuotaReceived), Id: connection}, QuotaLimits{Ceiling: 100, Open: 100, ConnectionsPerS: 1})
		tunneled(b, toProvider()).refused(b.t, ReasonForwarded)
		return tunneled(b, frame.TCP(cart+":40001", ledger+":8443", frame.SYN).Between(mesh, consumer, number, provider, 0))
	}},
	{"cap", ReasonCapBits, func(_, b *node) result {
		tunneled(b, toProvider()).refused(b.t, ReasonForwarded)
		b.quota(QuotaKey{Kind: uint32(QuotaReceived), Id: connection}, QuotaLimits{Ceiling: 100, Open: 100, BitsPerS: 12_000})
		var q Quota
		k := QuotaKey{Kind: uint32(QuotaReceived), Id: connection}
		if err := b.coll.Maps["quotas"].Lookup(k, &q); err != nil {
			b.t.Fatal(err)
		}
		q.AnsweringNs = 1 << 62 // all is paid for, and more
		b.put("quotas", k, &q)
		b.generation() // judged again, the flow counts against the cap
		return b.workload(provider, ledger, sent(frame.TCP(ledger+":8443", balancer+":40000", frame.SYN|frame.ACK), 21))
	}},
}

// prepare makes the small world anew in two nodes that are loaded already.
func prepare(t *testing.T, a, b *node) {
	t.Helper()
	for _, n := range []*node{a, b} {
		n.t = t
		n.start()
		n.rules(onlyTCP80, Rule{Protocol: 6, PortLow: 80, PortHigh: 80, Family: 4, Id: 2})
		n.rules(tcp8443, Rule{Protocol: 6, PortLow: 8443, PortHigh: 8443, Family: 4, Id: 3})
		n.rules(fromGroup, Rule{Protocol: 256, PortHigh: 65535, Group: 55, Id: 4})
	}
	furnish(a, b)
}

func TestRefusals(t *testing.T) {
	seen := map[Reason]bool{
		ReasonNone: true, ReasonForwarded: true, ReasonAnswered: true, ReasonNodesOwn: true, // other tests
		ReasonInternal: true, // no test run makes a helper fail
		// wrong overlay forms and full tables have tests of their own below
		ReasonBadOverlay: true, ReasonFlowTableFull: true,
	}
	a, b := pair(t)
	for _, tt := range refusals {
		seen[tt.reason] = true
		t.Run(tt.reason.String()+" "+tt.name, func(t *testing.T) {
			prepare(t, a, b)
			r := tt.run(a, b)
			r.refused(t, tt.reason)
			var hits uint64
			for _, n := range []*node{a, b} {
				for hook := HookWorkload; hook <= HookHost; hook++ {
					for _, eni := range []uint32{0, 11, 12, 21} {
						hits += n.counter(eni, hook, tt.reason).Packets
					}
				}
			}
			if hits != 1 {
				t.Errorf("%d packets counted for %s, want 1", hits, tt.reason)
			}
		})
	}
	for r := range reasonNames {
		if !seen[r] {
			t.Errorf("no case brings %s about", r)
		}
	}
}

// Decision 0002: every wrong combination of addresses.
func TestBadOverlay(t *testing.T) {
	inside := frame.UDP(cart+":40000", shelf+":80")
	src := func(b []byte) []byte { return b[8:24] }
	dst := func(b []byte) []byte { return b[24:40] }
	tests := []struct {
		name string
		p    frame.Packet
	}{
		{"other mesh", inside.Between(mesh+1, consumer, 0, consumer, 0)},
		{"no tags, two VPCs", inside.Between(mesh, consumer, 0, provider, 0)},
		{"VPC 0 inside", inside.Between(mesh, 0, 0, 0, 0)},
		{"both tagged", inside.Between(mesh, consumer, number, provider, number)},
		{"both tagged, one VPC", inside.Between(mesh, consumer, number, consumer, number)},
		{"wrong sum in the source", inside.Between(mesh, consumer, 0, consumer, 0).
			BreakOverlay(func(b []byte) { src(b)[15] ^= 1 })},
		{"wrong sum in the destination", inside.Between(mesh, consumer, 0, consumer, 0).
			BreakOverlay(func(b []byte) { dst(b)[14] ^= 1 })},
		{"other form of the sum", inside.Between(mesh, consumer, 0, consumer, 0).
			BreakOverlay(func(b []byte) { binary.BigEndian.PutUint16(src(b)[14:], 0xffff) })},
		{"not fd", inside.Between(mesh, consumer, 0, consumer, 0).BreakOverlay(func(b []byte) { src(b)[0] = 0xfc })},
		{"grant's provider is another VPC", toProvider().Between(mesh, consumer, number, 3, 0)},
	}
	family := func(name string, change func(*frame.Packet)) {
		p := inside.Between(mesh, consumer, 0, consumer, 0)
		change(&p)
		tests = append(tests, struct {
			name string
			p    frame.Packet
		}{name, p})
	}
	family("source not IPv4", func(p *frame.Packet) { p.SrcTag = 0 })
	family("destination not IPv4", func(p *frame.Packet) { p.DstTag = 0 })
	family("the node itself", func(p *frame.Packet) { p.DstTag, p.DstVPC = 0, 0 })
	_, b := pair(t)
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b.t = t
			tunneled(b, tt.p).refused(t, ReasonBadOverlay)
			if n := b.counter(0, HookTunnel, ReasonBadOverlay); n.Packets != uint64(i+1) {
				t.Errorf("%d packets counted, want %d", n.Packets, i+1)
			}
			if len(b.flows()) != 0 {
				t.Error("a flow was made")
			}
		})
	}
}

// A probe of the path is the agent's, which saw it before: it is dropped, counted, and leaves no record.
func TestProbeOfThePath(t *testing.T) {
	a, b := pair(t)
	probe := frame.UDP(cart+":40000", shelf+":80").Between(mesh, 0, 0, 0, 0).BreakOverlay(func(ip []byte) { ip[6] = 253 })
	tunneled(b, probe).refused(t, ReasonAnswered)
	if n := b.counter(0, HookTunnel, ReasonAnswered); n.Packets != 1 {
		t.Errorf("%d packets counted, want 1", n.Packets)
	}
	var key, value []byte
	if b.coll.Maps["refusals"].Iterate().Next(&key, &value) {
		t.Errorf("it left the record %x", key)
	}
	a.workload(consumer, cart, sent(frame.UDP(cart+":40000", shelf+":80").Break(func(ip []byte) { ip[9] = 253 }), 11)).refused(t, ReasonProtocol)
}

// An answer that comes from another VPC than the flow's is no answer.
func TestAnswerFromAnotherVPC(t *testing.T) {
	a, _ := pair(t)
	a.workload(consumer, cart, sent(syn(), 11)).refused(t, ReasonForwarded)
	answer := frame.TCP(ledger+":8443", cart+":40000", frame.SYN|frame.ACK)
	tunneled(a, answer.Between(mesh, 3, 0, consumer, number)).refused(t, ReasonBadOverlay)
	tunneled(a, answer.Between(mesh, provider, 0, consumer, number)).refused(t, ReasonForwarded)
}

// A table without room for the second entry gives the first one back.
func TestFlowTableFull(t *testing.T) {
	a := newNode(t, 1, func(s *ebpf.CollectionSpec) { s.Maps["flows"].MaxEntries = 3 })
	a.eni(consumer, cart, 11)
	a.address(consumer, shelf, AddressWorkload, 12)
	a.workload(consumer, cart, sent(frame.UDP(cart+":40000", shelf+":80"), 11)).refused(t, ReasonForwarded)
	a.workload(consumer, cart, sent(frame.UDP(cart+":40001", shelf+":80"), 11)).refused(t, ReasonFlowTableFull)
	if n := len(a.flows()); n != 2 {
		t.Errorf("%d entries, want those of the first flow", n)
	}
	a.workload(consumer, cart, sent(frame.UDP(cart+":40000", shelf+":80"), 11)).refused(t, ReasonForwarded)
}

// Two clients with one address and port, of two VPCs, behind one load balancer address: the second gets the port that
// plan.SNATPort names, and each gets its own answers.
func TestSNATPorts(t *testing.T) {
	_, b := pair(t)
	const other = 3
	b.put("grants", GrantKey{Vpc: other, Tag: number}, &Grant{
		Connection: 901, ProviderVpc: provider, Admitted: allowAll, LbRules: allowAll, LbEgressRules: allowAll,
		DialedAddr: NetAddr(ip(endpoint)), DialedPort: NetPort(443), Protocol: 6,
	})
	b.put("grant_targets", GrantTargetKey{Vpc: other, Tag: number, Addr: NetAddr(ip(ledger)), Port: NetPort(8443)},
		&GrantTarget{Source: NetAddr(ip(balancer)), SourceEni: 31})
	b.quota(QuotaKey{Kind: uint32(QuotaReceived), Id: 901}, bounds(1<<20))
	request := syn().To(ledger + ":8443")
	in := tunneled(b, request.Between(mesh, consumer, number, provider, 0))
	in.forwarded(t, NextWorkload, 121, delivered(request.From(balancer+":40000"), 21))
	in = tunneled(b, request.Between(mesh, other, number, provider, 0))
	port := plan.SNATPort(api.AddrHost(ip(cart)), api.AddrHost(ip(ledger)), 40000, 8443, 6, other, number, 1)
	second := balancer + ":" + itoa(port)
	in.forwarded(t, NextWorkload, 121, delivered(request.From(second), 21))

	answer := frame.TCP(ledger+":8443", second, frame.SYN|frame.ACK)
	out := b.workload(provider, ledger, sent(answer, 21))
	out.tunneled(t, answer.To(cart+":40000").Between(mesh, provider, 0, other, number))
}

// One client address and port by a hundred endpoints of one VPC, all to one target: each flow gets a port.
func TestSNATPortsOfAlikeFlows(t *testing.T) {
	_, b := pair(t)
	const alike = 100
	ports := map[uint16]bool{}
	for i := range uint16(alike) {
		tag := number + 1000 + i
		b.put("grants", GrantKey{Vpc: consumer, Tag: uint32(tag)}, &Grant{
			Connection: connection, ProviderVpc: provider, Admitted: allowAll, LbRules: allowAll, LbEgressRules: allowAll,
			DialedAddr: NetAddr(ip(endpoint)), DialedPort: NetPort(443), Protocol: 6,
		})
		b.put("grant_targets", GrantTargetKey{Vpc: consumer, Tag: uint32(tag), Addr: NetAddr(ip(ledger)), Port: NetPort(8443)},
			&GrantTarget{Source: NetAddr(ip(balancer)), SourceEni: 31})
		tunneled(b, syn().To(ledger+":8443").Between(mesh, consumer, tag, provider, 0)).refused(t, ReasonForwarded)
	}
	for key := range b.flows() {
		if key.View == uint8(ViewWorkload) {
			ports[Port(key.Dport)] = true
		}
	}
	if len(ports) != alike {
		t.Errorf("%d ports for %d flows", len(ports), alike)
	}
}
