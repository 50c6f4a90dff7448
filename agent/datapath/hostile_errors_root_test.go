package datapath

import (
	"net/netip"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// complaint is the cart's "port unreachable" about a packet that the ledger would have sent it, from an address.
func (h *hostile) complaint(from api.Overlay, quoted plantest.IP) []byte {
	return h.quoting(from, quoted.Bytes(), 3, 60)
}

// quoting is an error of the cart's, "unreachable", with so many bytes of a packet as they are.
func (h *hostile) quoting(from api.Overlay, packet []byte, code uint8, most int) []byte {
	b := plantest.Complaint(packet, 3, code, 0, most)
	return plantest.Overlay(plantest.Sealed(b), from, h.at(h.m.ledger, 0))
}

// answer is such a packet.
func (h *hostile) answer() plantest.IP {
	return plantest.IP{Source: h.m.ledger.address, Dest: h.m.cart.address, Protocol: 17, SourcePort: 8443, DestPort: h.port,
		Payload: []byte(stolen)}
}

var hostileErrors = []hostileRow{
	{reason: bpf.ReasonNoFlow, what: "an error about a packet of no flow", packet: func(h *hostile) []byte {
		return h.complaint(h.at(h.m.cart, tagUDP), h.answer())
	}},
	{reason: bpf.ReasonNoFlow, what: "an error about a packet that the target never sent",
		first: func(h *hostile) { h.pass(h.datagram(allowed)) }, packet: func(h *hostile) []byte {
			return h.complaint(h.at(h.m.cart, tagUDP), h.answer())
		}},
	{reason: bpf.ReasonNoFlow, what: "an error about another consumer's flow, with its addresses, number and ports",
		first: func(h *hostile) { h.pass(h.datagram(allowed)) }, packet: func(h *hostile) []byte {
			return h.complaint(h.foreign(tagUDP), h.answer())
		}},
	{reason: bpf.ReasonMalformed, what: "an error about a packet of others", packet: func(h *hostile) []byte {
		q := h.answer()
		q.Dest = q.Dest.Next()
		return h.complaint(h.at(h.m.cart, tagUDP), q)
	}},
	{reason: bpf.ReasonProtocol, what: "an error about another protocol", packet: func(h *hostile) []byte {
		q := h.answer()
		q.Protocol = 47
		return h.complaint(h.at(h.m.cart, tagUDP), q)
	}},
	{reason: bpf.ReasonFragment, what: "an error about a later fragment", packet: func(h *hostile) []byte {
		q := h.answer().Bytes()
		q[7] = 8
		return h.quoting(h.at(h.m.cart, tagUDP), plantest.Sealed(q), 3, 60)
	}},
	{reason: bpf.ReasonFragment, what: "an error in fragments", packet: func(h *hostile) []byte {
		return withFragment(h.quoting(h.at(h.m.cart, tagUDP), h.answer().Bytes(), 3, 32), 0, true, 9)
	}},
	{reason: bpf.ReasonMalformed, what: "an error that quotes too little", packet: func(h *hostile) []byte {
		return h.quoting(h.at(h.m.cart, tagUDP), h.answer().Bytes(), 3, 27)
	}},
	{reason: bpf.ReasonMalformed, what: "an error that is longer than errors are", packet: func(h *hostile) []byte {
		q := h.answer()
		q.Payload = append(q.Payload, make([]byte, 1300)...)
		return h.quoting(h.at(h.m.cart, tagUDP), q.Bytes(), 3, 1300)
	}},
	{reason: bpf.ReasonMalformed, what: "an error about a packet from port 0", packet: func(h *hostile) []byte {
		q := h.answer()
		q.SourcePort = 0
		return h.complaint(h.at(h.m.cart, tagUDP), q)
	}},
	{reason: bpf.ReasonProtocol, what: "an error about an error", packet: func(h *hostile) []byte {
		return h.quoting(h.at(h.m.cart, tagUDP), h.answeredBy(1, 3), 3, 60)
	}},
	{reason: bpf.ReasonProtocol, what: "an error that has no form in the family of the flow's target",
		told:  ofWorkload("eni-ledger", func(e *plan.ENI) { e.Families = plan.FamilyIPv6 }),
		first: func(h *hostile) { h.pass(h.datagram(allowed)) }, packet: func(h *hostile) []byte {
			return h.quoting(h.at(h.m.cart, tagUDP), h.answer().Bytes(), 14, 60)
		}},
}

// answeredBy is an ICMP message of the ledger's to the cart, of a type.
func (h *hostile) answeredBy(protocol, kind uint8) []byte {
	return plantest.IP{Source: h.m.ledger.address, Dest: h.m.cart.address, Protocol: protocol, ICMPType: kind, ICMPID: h.port,
		Payload: []byte(stolen)}.Bytes()
}

// at6 is the overlay address of a workload in IPv6.
func (h *hostile) at6(w *workload, number uint16) netip.Addr {
	o := plantest.InMesh(testMesh, w.vpc, w.address, number)
	o.Tag &^= api.TagFamilyIPv4
	return o.Addr()
}

// quoting6 is the same in IPv6: of a packet of the ledger's to the cart, which is changed.
func (h *hostile) quoting6(q plantest.IP, most int, change func([]byte) []byte) []byte {
	b := q.IPv6(h.at6(h.m.ledger, 0), h.at6(h.m.cart, tagUDP))
	if change != nil {
		b = change(b)
	}
	return plantest.Complaint(b, 1, 4, 0, most)
}

var hostileErrors6 = []hostileRow{
	{reason: bpf.ReasonNoFlow, what: "an ICMPv6 error about a packet of no flow", packet: func(h *hostile) []byte {
		return h.quoting6(h.answer(), 80, nil)
	}},
	{reason: bpf.ReasonFragment, what: "an ICMPv6 error in fragments", packet: func(h *hostile) []byte {
		return withFragment(h.quoting6(h.answer(), 64, nil), 0, true, 9)
	}},
	{reason: bpf.ReasonMalformed, what: "an ICMPv6 error that quotes too little", packet: func(h *hostile) []byte {
		return h.quoting6(h.answer(), 47, nil)
	}},
	{reason: bpf.ReasonMalformed, what: "an ICMPv6 error that is longer than errors are", packet: func(h *hostile) []byte {
		q := h.answer()
		q.Payload = append(q.Payload, make([]byte, 1300)...)
		return h.quoting6(q, 1300, nil)
	}},
	{reason: bpf.ReasonMalformed, what: "an ICMPv6 error about a packet of others", packet: func(h *hostile) []byte {
		b := h.quoting6(h.answer(), 80, nil)
		return bent(b, func(b []byte) { b[40+8+8]++ })
	}},
	{reason: bpf.ReasonMalformed, what: "an ICMPv6 error that quotes too little of a fragment", packet: func(h *hostile) []byte {
		return h.quoting6(h.answer(), 50, func(b []byte) []byte { return withFragment(b, 0, true, 9) })
	}},
	{reason: bpf.ReasonFragment, what: "an ICMPv6 error about a later fragment", packet: func(h *hostile) []byte {
		return h.quoting6(h.answer(), 80, func(b []byte) []byte { return withFragment(b, 1280, false, 9) })
	}},
	{reason: bpf.ReasonProtocol, what: "an ICMPv6 error about an error", packet: func(h *hostile) []byte {
		return h.quoting6(h.answer(), 80, func(b []byte) []byte {
			return bent(b, func(b []byte) { b[6], b[40], b[41] = 58, 1, 0 })
		})
	}},
	{reason: bpf.ReasonMalformed, what: "an ICMPv6 error about a packet from port 0", packet: func(h *hostile) []byte {
		q := h.answer()
		q.SourcePort = 0
		return h.quoting6(q, 80, nil)
	}},
	{reason: bpf.ReasonProtocol, what: "an ICMPv6 error about another protocol", packet: func(h *hostile) []byte {
		return h.quoting6(h.answer(), 80, func(b []byte) []byte { return bent(b, func(b []byte) { b[6] = 47 }) })
	}},
}
