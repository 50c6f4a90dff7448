package verdict

import (
	"encoding/binary"
	"net/netip"

	"github.com/culvert-net/culvert/plan"
)

// answerHeader is the IPv4 header of an answer that a program makes itself.
func answerHeader(length int, protocol uint8, source, dest netip.Addr) []byte {
	b := make([]byte, ipv4Header, length)
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(length))
	b[6] = 0x40 // DF
	b[8], b[9] = defaultAnswerTTL, protocol
	s, d := source.As4(), dest.As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	binary.BigEndian.PutUint16(b[10:], folded(sum16(b)))
	return b
}

// resetOf is the RST that answers a TCP packet.
func resetOf(p *ip) []byte {
	in := p.transport()
	t := make([]byte, tcpHeader)
	copy(t, in[2:4])
	copy(t[2:], in[0:2])
	t[12], t[13] = 5<<4, tcpRST
	if p.flags&tcpACK != 0 {
		copy(t[4:8], in[8:12])
	} else {
		ack := be32(in[4:]) + uint32(len(in)-int(in[12]>>4)*4)
		if p.flags&tcpSYN != 0 {
			ack++
		}
		if p.flags&tcpFIN != 0 {
			ack++
		}
		binary.BigEndian.PutUint32(t[8:], ack)
		t[13] |= tcpACK
	}
	binary.BigEndian.PutUint16(t[16:], folded(p.pseudo(plan.ProtocolTCP, tcpHeader)+sum16(t)))
	if p.six {
		return append(answerHeader6(p, tcpHeader, plan.ProtocolTCP), t...)
	}
	return append(answerHeader(ipv4Header+tcpHeader, plan.ProtocolTCP, p.dest, p.source), t...)
}

// tooBigOf is the packet-too-big that answers a packet. IPv4 grows in the tunnel, and leaves room for a fragment header.
func tooBigOf(p *ip, tunnelMTU uint16) []byte {
	if p.six {
		return tooBig6Of(p, tunnelMTU)
	}
	mtu := tunnelMTU - plan.WorkloadMTUReserve
	quoted := ipv4Header + quotedBytes
	if p.protocol == plan.ProtocolTCP {
		quoted = ipv4Header + tcpHeader
	}
	m := make([]byte, icmpHeader, icmpHeader+quoted)
	m[0], m[1] = icmpUnreachable, icmpFragNeeded
	binary.BigEndian.PutUint16(m[6:], mtu)
	m = append(m, p.b[:quoted]...)
	binary.BigEndian.PutUint16(m[2:], folded(sum16(m)))
	return append(answerHeader(ipv4Header+len(m), plan.ProtocolICMP, p.dest, p.source), m...)
}

// arp decides about an ARP packet of an ENI; the answer is nil unless there is one.
func arp(b []byte, eni *plan.ENI) (Reason, []byte) {
	if len(b) < linkHeader+arpPacket {
		return ReasonMalformed, nil
	}
	a := b[linkHeader:]
	op := be16(a[6:])
	if be16(a) != 1 || be16(a[2:]) != typeIPv4 || a[4] != 6 || a[5] != 4 || op != 1 && op != 2 {
		return ReasonMalformed, nil
	}
	sender, target := addr4(a[14:]), addr4(a[24:])
	if [6]byte(a[8:14]) != eni.MAC || sender != eni.Address && !sender.IsUnspecified() {
		return ReasonSpoofedAddress, nil
	}
	if op == 2 || target == eni.Address {
		return ReasonAnswered, nil
	}
	if sender != eni.Address {
		return ReasonSpoofedAddress, nil
	}
	out := append([]byte(nil), b...)
	copy(out, eni.MAC[:])
	copy(out[6:], eni.GatewayMAC[:])
	r := out[linkHeader:]
	r[7] = 2
	copy(r[8:], eni.GatewayMAC[:])
	copy(r[14:], a[24:28])
	copy(r[18:], eni.MAC[:])
	copy(r[24:], a[14:18])
	return ReasonAnswered, out
}
