package datapath

import (
	"encoding/binary"
	"slices"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// hostileRow is one thing that a hostile node may write.
type hostileRow struct {
	reason bpf.Reason
	what   string
	told   func(*plan.Plan) // what the receiver's plan says otherwise
	first  func(*hostile)   // what it lets through before
	then   func(*hostile)   // what changes after that
	packet func(*hostile) []byte
}

var hostileRows = slices.Concat(hostileForms, hostileFragments, hostileErrors, hostileErrors6, hostileFlows, hostileGrants,
	hostileGroups, hostileBounds)

// What no honest node writes.
var hostileForms = []hostileRow{
	{reason: bpf.ReasonNoState, what: "before the receiver has a plan", then: func(h *hostile) {
		h.put(mapConfig, uint32(0), &bpf.Config{Mesh: testMesh})
	}, packet: func(h *hostile) []byte { return h.syn() }},
	{reason: bpf.ReasonViewExpired, what: "when the receiver's view is old", told: func(p *plan.Plan) { p.Config.ExpiresNS = 1 },
		packet: func(h *hostile) []byte { return h.syn() }},
	{reason: bpf.ReasonMalformed, what: "IPv4, not of the overlay", packet: func(h *hostile) []byte {
		return plantest.IP{Source: h.m.cart.address, Dest: h.m.ledger.address, Protocol: 17, SourcePort: 1, DestPort: 8443,
			Payload: []byte(stolen)}.Bytes()
	}},
	{reason: bpf.ReasonMalformed, what: "longer than the packet", packet: func(h *hostile) []byte {
		return bent(h.syn(), func(b []byte) { b[5]++ })
	}},
	{reason: bpf.ReasonMalformed, what: "a TCP header beyond its end", packet: func(h *hostile) []byte {
		return bent(h.syn(), func(b []byte) { b[40+12] = 0xf0 })
	}},
	{reason: bpf.ReasonMalformed, what: "a TCP header shorter than one", packet: func(h *hostile) []byte {
		return bent(h.syn(), func(b []byte) { b[40+12] = 0x40 })
	}},
	{reason: bpf.ReasonMalformed, what: "from port 0", packet: func(h *hostile) []byte {
		return h.datagram(func(p *plantest.IP) { p.SourcePort = 0 })
	}},
	{reason: bpf.ReasonMalformed, what: "a Fragment header on what is whole", packet: func(h *hostile) []byte {
		return withFragment(h.syn(), 0, false, 7)
	}},
	{reason: bpf.ReasonProtocol, what: "GRE", packet: func(h *hostile) []byte {
		return h.ip(47, h.at(h.m.cart, tagTCP), h.at(h.m.ledger, 0), 0)
	}},
	{reason: bpf.ReasonProtocol, what: "ICMPv6 of an IPv4 packet", packet: func(h *hostile) []byte {
		return bent(h.ip(1, h.at(h.m.cart, 0), h.at(h.m.shelf, 0), 0), func(b []byte) { b[6] = 58 })
	}},
	{reason: bpf.ReasonProtocol, what: "an ICMP redirect", packet: func(h *hostile) []byte {
		return h.ip(1, h.at(h.m.cart, 0), h.at(h.m.shelf, 0), 0, func(p *plantest.IP) { p.ICMPType = 5 })
	}},
	{reason: bpf.ReasonBadOverlay, what: "from another mesh", packet: func(h *hostile) []byte {
		return h.ip(6, plantest.InMesh(testMesh+1, shop, h.m.cart.address, tagTCP), h.at(h.m.ledger, 0), 8443)
	}},
	{reason: bpf.ReasonBadOverlay, what: "to another mesh", packet: func(h *hostile) []byte {
		return h.ip(6, h.at(h.m.cart, tagTCP), plantest.InMesh(testMesh+1, pay, h.m.ledger.address, 0), 8443)
	}},
	{reason: bpf.ReasonBadOverlay, what: "from another form of an address", packet: func(h *hostile) []byte {
		return bent(h.syn(), func(b []byte) { b[23]++ })
	}},
	{reason: bpf.ReasonBadOverlay, what: "to another form of an address", packet: func(h *hostile) []byte {
		return bent(h.syn(), func(b []byte) { b[39]++ })
	}},
	{reason: bpf.ReasonBadOverlay, what: "into another VPC without a number", packet: func(h *hostile) []byte {
		return h.ip(6, h.at(h.m.cart, 0), h.at(h.m.ledger, 0), 8443)
	}},
	{reason: bpf.ReasonBadOverlay, what: "numbers on both sides", packet: func(h *hostile) []byte {
		return h.ip(6, h.at(h.m.cart, tagTCP), h.at(h.m.ledger, tagTCP), 8443)
	}},
	{reason: bpf.ReasonBadOverlay, what: "two families", packet: func(h *hostile) []byte {
		to := h.at(h.m.ledger, 0)
		to.Tag &^= api.TagFamilyIPv4
		return h.ip(6, h.at(h.m.cart, tagTCP), to, 8443)
	}},
	{reason: bpf.ReasonBadOverlay, what: "to the receiver itself", packet: func(h *hostile) []byte {
		return h.ip(6, h.at(h.m.cart, 0), api.Overlay{Mesh: testMesh, Host: 2, Tag: api.TagFamilyIPv4}, 443)
	}},
	{reason: bpf.ReasonBadOverlay, what: "to another node than the receiver", packet: func(h *hostile) []byte {
		return h.ip(17, hostOf(1), hostOf(3), plan.NodePort, fromNodePort)
	}},
	{reason: bpf.ReasonBadOverlay, what: "from the receiver's own address", packet: func(h *hostile) []byte {
		return h.ip(17, hostOf(2), hostOf(2), plan.NodePort, fromNodePort)
	}},
	{reason: bpf.ReasonHostNotAdmitted, what: "to the receiver itself, another port than its agent's", packet: func(h *hostile) []byte {
		return h.ip(17, hostOf(1), hostOf(2), plan.ResolverPort, fromNodePort)
	}},
	{reason: bpf.ReasonHostNotAdmitted, what: "to the receiver's agent, by TCP", packet: func(h *hostile) []byte {
		return h.ip(6, hostOf(1), hostOf(2), plan.NodePort, fromNodePort)
	}},
	{reason: bpf.ReasonBadOverlay, what: "by the connection, into a VPC that is not the provider's",
		packet: func(h *hostile) []byte {
			return h.ip(6, h.at(h.m.cart, tagTCP), h.at(h.m.shelf, 0), 80)
		}},
	{reason: bpf.ReasonBadOverlay, what: "a provider's VPC that is not the flow's", first: func(h *hostile) { h.pass(h.syn(allowed)) },
		packet: func(h *hostile) []byte {
			return h.ip(6, h.at(h.m.cart, tagTCP), plantest.InMesh(testMesh, elsewhere, h.m.ledger.address, 0), 8443, ack)
		}},
	{reason: bpf.ReasonNoChecksum, what: "without a checksum, to a target of the other family, of a wrong length",
		told: ofWorkload("eni-ledger", func(e *plan.ENI) { e.Families = plan.FamilyIPv6 }), packet: func(h *hostile) []byte {
			return bent(h.datagram(func(p *plantest.IP) { p.NoChecksum = true }), func(b []byte) { b[40+5]-- })
		}},
}

// hostOf is a node's own address.
func hostOf(node uint32) api.Overlay { return api.Overlay{Mesh: testMesh, Host: node} }

func fromNodePort(p *plantest.IP) { p.SourcePort = plan.NodePort }

// withFragment puts a Fragment header with an offset in bytes into an overlay packet.
func withFragment(packet []byte, offset uint16, more bool, id uint32) []byte {
	if more {
		offset |= 1
	}
	h := binary.BigEndian.AppendUint32([]byte{packet[6], 0, byte(offset >> 8), byte(offset)}, id)
	out := slices.Concat(packet[:40], h, packet[40:])
	out[6] = 44
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
	return out
}

// pieces are the fragments of a datagram of the cart's, or from another address, all with one id.
func (h *hostile) pieces(from api.Overlay, text string) (first, later []byte) {
	b := h.ip(17, from, h.at(h.m.ledger, 0), 8443, func(p *plantest.IP) { p.Payload = slices.Repeat([]byte(text), 8) })
	const cut = 40 + 64
	head, tail := slices.Clone(b[:cut]), slices.Concat(b[:40], b[cut:])
	for _, p := range [][]byte{head, tail} {
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	}
	id := uint32(h.port)
	return withFragment(head, 0, true, id), withFragment(tail, cut-40, false, id)
}

func firstFragment(h *hostile) {
	first, _ := h.pieces(h.at(h.m.cart, tagUDP), "let through, in pieces. ")
	h.pass(first)
}

var hostileFragments = []hostileRow{
	{reason: bpf.ReasonFragment, what: "a later one of nothing", packet: func(h *hostile) []byte {
		_, later := h.pieces(h.at(h.m.cart, tagUDP), stolen)
		return later
	}},
	{reason: bpf.ReasonFragment, what: "a later one of another consumer's datagram, with its addresses, number and id",
		first: firstFragment, packet: func(h *hostile) []byte {
			_, later := h.pieces(h.foreign(tagUDP), stolen)
			return later
		}},
	{reason: bpf.ReasonFragment, what: "a later one of the datagram of another connection", first: firstFragment,
		packet: func(h *hostile) []byte {
			_, later := h.pieces(h.at(h.m.cart, tagUDP+2), stolen)
			return later
		}},
	{reason: bpf.ReasonFragment, what: "over its first one", first: firstFragment, packet: func(h *hostile) []byte {
		_, later := h.pieces(h.at(h.m.cart, tagUDP), stolen)
		return bent(later, func(b []byte) { b[43] -= 8 })
	}},
	{reason: bpf.ReasonFragment, what: "that hides the ports", packet: func(h *hostile) []byte {
		b := h.syn()[:48]
		b[5] = 8
		return withFragment(b, 0, true, 9)
	}},
	{reason: bpf.ReasonFragment, what: "that ends between two places where the next may begin", packet: func(h *hostile) []byte {
		return withFragment(h.datagram(), 0, true, 9)
	}},
	{reason: bpf.ReasonFragment, what: "beyond the longest packet", packet: func(h *hostile) []byte {
		return withFragment(h.datagram(), 65_528, false, 9)
	}},
	{reason: bpf.ReasonFragment, what: "of a connection whose target is told of its client", told: proxied,
		first: func(h *hostile) { h.pass(h.syn(allowed)) }, packet: func(h *hostile) []byte {
			return withFragment(h.syn(ack, func(p *plantest.IP) { p.Payload = append(p.Payload, make([]byte, 3)...) }), 0, true, 9)
		}},
	{reason: bpf.ReasonMalformed, what: "with an id that IPv4 has not", packet: func(h *hostile) []byte {
		return withFragment(h.datagram(), 0, true, 1<<16)
	}},
}

func proxied(p *plan.Plan) {
	granting(func(g *plan.Grant) { g.Endpoint, g.ProxyHeader = testEndpoint, g.Protocol == plan.ProtocolTCP })(p)
}

var hostileFlows = []hostileRow{
	{reason: bpf.ReasonNoFlow, what: "a provider that opens toward a consumer", packet: func(h *hostile) []byte {
		return h.ip(6, h.at(h.m.vault, 0), h.at(h.m.shelf, tagTCP), 80)
	}},
	{reason: bpf.ReasonNoFlow, what: "the middle of a connection", packet: func(h *hostile) []byte { return h.syn(ack) }},
	{reason: bpf.ReasonNoFlow, what: "the middle of a connection inside the VPC", packet: func(h *hostile) []byte {
		return h.ip(6, h.at(h.m.cart, 0), h.at(h.m.shelf, 0), 80, ack)
	}},
	{reason: bpf.ReasonNoFlow, what: "an echo reply to nobody", packet: func(h *hostile) []byte {
		return h.ip(1, h.at(h.m.cart, 0), h.at(h.m.shelf, 0), 0, func(p *plantest.IP) { p.ICMPType = 0 })
	}},
	{reason: bpf.ReasonFlowRevoked, what: "a flow whose connection was rejected", first: func(h *hostile) { h.pass(h.syn(allowed)) },
		then:   func(h *hostile) { h.told(func(p *plan.Plan) { p.Grants, p.GrantTargets = nil, nil }) },
		packet: func(h *hostile) []byte { return h.syn(ack) }},
	{reason: bpf.ReasonFlowRevoked, what: "a flow whose target is gone", first: func(h *hostile) { h.pass(h.datagram(allowed)) },
		then:   func(h *hostile) { h.told(func(p *plan.Plan) { p.GrantTargets = nil }) },
		packet: func(h *hostile) []byte { return h.complaint(h.at(h.m.cart, tagUDP), h.answer()) }},
	{reason: bpf.ReasonFlowRevoked, what: "a flow that was revoked, whose connection is there again",
		first: func(h *hostile) { h.pass(h.syn(allowed)) }, then: func(h *hostile) {
			h.told(func(p *plan.Plan) { p.Grants, p.GrantTargets = nil, nil })
			h.write(h.syn(ack))
			h.told()
		}, packet: func(h *hostile) []byte { return h.syn(ack) }},
	{reason: bpf.ReasonFlowRevoked, what: "a flow whose target has lost the family that it speaks",
		first: func(h *hostile) { h.pass(h.syn(allowed)) }, then: func(h *hostile) {
			h.told(ofWorkload("eni-ledger", func(e *plan.ENI) { e.Families = plan.FamilyIPv6 }))
		}, packet: func(h *hostile) []byte { return h.syn(ack) }},
	{reason: bpf.ReasonNotHere, what: "to an address of the VPC that is on no node", packet: func(h *hostile) []byte {
		to := h.at(h.m.shelf, 0)
		to.Host++
		return h.ip(17, h.at(h.m.cart, 0), to, 80)
	}},
	{reason: bpf.ReasonNotHere, what: "in a family that the workload does not have",
		told: ofWorkload("eni-shelf", func(e *plan.ENI) { e.Families = plan.FamilyIPv6 }), packet: func(h *hostile) []byte {
			return h.ip(17, h.at(h.m.cart, 0), h.at(h.m.shelf, 0), 80)
		}},
	{reason: bpf.ReasonNotHere, what: "to a target that is on another node", packet: func(h *hostile) []byte {
		return h.ip(6, h.at(h.m.cart, tagTCP+2), h.at(h.m.vault, 0), 8443)
	}},
}

var hostileGrants = []hostileRow{
	{reason: bpf.ReasonNoGrant, what: "a number that nobody has", packet: func(h *hostile) []byte {
		return h.ip(6, h.at(h.m.cart, 4000), h.at(h.m.ledger, 0), 8443)
	}},
	{reason: bpf.ReasonNoGrant, what: "another consumer, with the number and address of one that is let in",
		packet: func(h *hostile) []byte {
			return h.ip(6, h.foreign(tagTCP), h.at(h.m.ledger, 0), 8443)
		}},
	{reason: bpf.ReasonNoGrant, what: "another consumer on a flow of one that is let in, whose own address its target sees",
		told: func(p *plan.Plan) {
			granting(func(g *plan.Grant) { g.ClientAddress = true })(p)
		}, first: func(h *hostile) { h.pass(h.syn(allowed)) }, packet: func(h *hostile) []byte {
			return h.ip(6, h.foreign(tagTCP), h.at(h.m.ledger, 0), 8443)
		}},
	{reason: bpf.ReasonNoGrant, what: "a connection that was rejected", told: func(p *plan.Plan) { p.Grants, p.GrantTargets = nil, nil },
		packet: func(h *hostile) []byte { return h.syn() }},
	{reason: bpf.ReasonTargetNotGranted, what: "another port of the target", packet: func(h *hostile) []byte {
		return h.syn(func(p *plantest.IP) { p.DestPort = 22 })
	}},
	{reason: bpf.ReasonTargetNotGranted, what: "another workload of the provider's", packet: func(h *hostile) []byte {
		return h.ip(6, h.at(h.m.cart, tagTCP), h.at(h.m.vault, 0), 8443)
	}},
	{reason: bpf.ReasonTargetNotGranted, what: "another protocol", packet: func(h *hostile) []byte {
		return h.ip(17, h.at(h.m.cart, tagTCP), h.at(h.m.ledger, 0), 8443)
	}},
	{reason: bpf.ReasonTargetNotGranted, what: "an echo request", packet: func(h *hostile) []byte {
		return h.ip(1, h.at(h.m.cart, tagTCP), h.at(h.m.ledger, 0), 0)
	}},
	{reason: bpf.ReasonTargetNotGranted, what: "a target that drains", told: func(p *plan.Plan) {
		for i := range p.GrantTargets {
			p.GrantTargets[i].Draining = true
		}
	}, packet: func(h *hostile) []byte { return h.syn() }},
	{reason: bpf.ReasonTargetNotGranted, what: "a new flow on the port of one that ended, to a target that drains",
		first: func(h *hostile) {
			h.pass(h.syn(allowed))
			h.pass(h.syn(allowed, func(p *plantest.IP) { p.Flags = plantest.RST }))
		}, then: func(h *hostile) {
			h.told(func(p *plan.Plan) {
				for i := range p.GrantTargets {
					p.GrantTargets[i].Draining = true
				}
			})
		}, packet: func(h *hostile) []byte { return h.syn() }},
}

var hostileGroups = []hostileRow{
	{reason: bpf.ReasonGrantSource, what: "a source that the endpoint's groups do not admit",
		told: granting(func(g *plan.Grant) { g.Admitted = nobody }), packet: func(h *hostile) []byte { return h.syn() }},
	{reason: bpf.ReasonGrantSource, what: "an endpoint without groups", told: granting(func(g *plan.Grant) { g.Admitted = 0 }),
		packet: func(h *hostile) []byte { return h.datagram() }},
	{reason: bpf.ReasonLBGroupIngress, what: "a source that the load balancer's groups do not admit",
		told: granting(func(g *plan.Grant) { g.LBRules = nobody }), packet: func(h *hostile) []byte { return h.syn() }},
	{reason: bpf.ReasonLBGroupEgress, what: "a target that the load balancer's groups do not let it reach",
		told: granting(func(g *plan.Grant) { g.LBEgressRules = nobody }), packet: func(h *hostile) []byte { return h.syn() }},
	{reason: bpf.ReasonGroupIngress, what: "a target whose groups do not admit the load balancer",
		told:   ofWorkload("eni-ledger", func(e *plan.ENI) { e.IngressRules = nobody }),
		packet: func(h *hostile) []byte { return h.syn() }},
	{reason: bpf.ReasonGroupIngress, what: "a workload of its own VPC whose groups do not admit it",
		told: ofWorkload("eni-shelf", func(e *plan.ENI) { e.IngressRules = nobody }), packet: func(h *hostile) []byte {
			return h.ip(17, h.at(h.m.cart, 0), h.at(h.m.shelf, 0), 80)
		}},
	{reason: bpf.ReasonFlowRevoked, what: "a flow whose source is no longer admitted", first: func(h *hostile) { h.pass(h.syn(allowed)) },
		then:   func(h *hostile) { h.told(granting(func(g *plan.Grant) { g.Admitted = nobody })) },
		packet: func(h *hostile) []byte { return h.syn(ack) }},
}

// bitsAtOnce passes what a cap of bits lets through at once; the clock of rates stands, so nothing follows.
func bitsAtOnce(h *hostile) {
	h.Helper()
	before := h.count(bpf.ReasonCapBits)
	for n := 0; h.count(bpf.ReasonCapBits) == before; n++ {
		if n > int(bpf.ABIAbiLimitLIMIT_POLICE_BYTES)/1300 {
			h.Fatal("the cap lets everything through")
		}
		h.write(h.datagram(func(p *plantest.IP) { p.Payload = make([]byte, 1300) }))
	}
}

var hostileBounds = []hostileRow{
	{reason: bpf.ReasonFlowTableFull, what: "a full table", told: limit(plan.QuotaTable, 0, func(q *plan.Quota) { q.Ceiling = 1 }),
		packet: func(h *hostile) []byte { return h.syn() }},
	{reason: bpf.ReasonAccountFlowsFull, what: "an account that has its share",
		told:   limit(plan.QuotaAccount, 0, func(q *plan.Quota) { q.Ceiling = 1 }),
		packet: func(h *hostile) []byte { return h.syn() }},
	{reason: bpf.ReasonEndpointFlowsFull, what: "a connection that has its share",
		told:   limit(plan.QuotaReceived, 900, func(q *plan.Quota) { q.Ceiling = 1 }),
		packet: func(h *hostile) []byte { return h.syn() }},
	{reason: bpf.ReasonCapFlows, what: "more flows than the service's cap",
		told:   limit(plan.QuotaReceived, 900, func(q *plan.Quota) { q.Most = 1 }),
		packet: func(h *hostile) []byte { return h.syn() }},
	{reason: bpf.ReasonCapConnections, what: "more connections a second than the service's cap",
		told:  limit(plan.QuotaReceived, 900, func(q *plan.Quota) { q.ConnectionsPerSecond = 1 }),
		first: func(h *hostile) { h.pass(h.syn(allowed)) }, packet: func(h *hostile) []byte {
			return h.syn(func(p *plantest.IP) { p.SourcePort++ })
		}},
	{reason: bpf.ReasonCapBits, what: "more bits a second than the service's cap, on a flow that is open",
		told:  limit(plan.QuotaReceived, 900, func(q *plan.Quota) { q.BitsPerSecond = 1 }),
		first: bitsAtOnce, packet: func(h *hostile) []byte {
			return h.datagram(func(p *plantest.IP) { p.Payload = append(make([]byte, 1300), stolen...) })
		}},
	{reason: bpf.ReasonCapBits, what: "more bits a second than the service's cap, to open a flow",
		told:  limit(plan.QuotaReceived, 900, func(q *plan.Quota) { q.BitsPerSecond = 1 }),
		first: bitsAtOnce, packet: func(h *hostile) []byte {
			return h.datagram(func(p *plantest.IP) { p.SourcePort, p.Payload = p.SourcePort+1, append(make([]byte, 1300), stolen...) })
		}},
	{reason: bpf.ReasonMessageRate, what: "more to the receiver's agent than one has to say", then: func(h *hostile) {
		h.put(mapMessages, uint32(1), uint64(1)<<62) // paid for until then
	}, packet: func(h *hostile) []byte { return h.ip(17, hostOf(1), hostOf(2), plan.NodePort, fromNodePort) }},
	{reason: bpf.ReasonLogUnavailable, what: "to a target whose flow log has to have every flow, and fails",
		told: ofWorkload("eni-ledger", func(e *plan.ENI) { e.StrictLog = true }), packet: func(h *hostile) []byte { return h.syn() }},
	{reason: bpf.ReasonSNATPortsExhausted, what: "more ports than there are for the connection", told: func(p *plan.Plan) {
		for i := range p.GrantTargets {
			p.GrantTargets[i].Ports = 0
		}
	}, then: func(h *hostile) {
		h.put(mapPorts, bpf.QuotaKey{
			Kind: uint32(bpf.QuotaPool), Vpc: pay, Source: bpf.NetAddr(addr("10.0.1.9")), Target: bpf.NetAddr(h.m.ledger.address),
			Port: bpf.NetPort(8443), Protocol: 6,
		}, &bpf.Usage{Used: uint64(bpf.PoolOpen), Made: uint64(bpf.PoolOpen)})
	}, packet: func(h *hostile) []byte { return h.syn() }},
}
