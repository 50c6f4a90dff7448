package verdict

import (
	"encoding/binary"
	"net/netip"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// Next headers of IPv6 that are looked at (IANA).
const (
	nextHopByHop   = 0
	nextRouting    = 43
	nextFragment   = 44
	protocolProbe  = 253 // of the path, by the tunnel or the agent; no program has to do with one
	nextDestOption = 60
)

// Types of ICMPv6.
const (
	icmp6TooBig    = 2
	icmp6Echo      = 128
	icmp6EchoReply = 129
)

func familyOf(six bool) plan.Families {
	if six {
		return plan.FamilyIPv6
	}
	return plan.FamilyIPv4
}

func isICMP(protocol uint8) bool {
	return protocol == plan.ProtocolICMP || protocol == plan.ProtocolICMPv6
}

// icmp is the number of ICMP in the packet's family.
func (p *ip) icmp() uint8 {
	if p.six {
		return plan.ProtocolICMPv6
	}
	return plan.ProtocolICMP
}

func (p *ip) echo() bool {
	if p.six {
		return p.icmpType == icmp6Echo
	}
	return p.icmpType == icmpEcho
}

func (p *ip) echoReply() bool {
	if p.six {
		return p.icmpType == icmp6EchoReply
	}
	return p.icmpType == icmpEchoReply
}

func (p *ip) etherType() uint16 {
	if p.six {
		return typeIPv6
	}
	return typeIPv4
}

// transport is what is behind the IP header, without what is behind the IP packet.
func (p *ip) transport() []byte { return p.b[p.head:p.length] }

// addresses are the source's and the destination's bytes.
func (p *ip) addresses() []byte {
	if p.six {
		return p.b[8:ipv6Header]
	}
	return p.b[12:ipv4Header]
}

// pseudo is the sum of a pseudo header of the packet's family, for so many bytes.
func (p *ip) pseudo(protocol uint8, length int) uint64 {
	return sum16(p.addresses()) + uint64(protocol) + uint64(length)
}

// parse6 takes an IPv6 packet apart that has no extension headers and whose payload fits. Addresses are IPv4 forms.
func parse6(b []byte, source, dest netip.Addr) *ip {
	return &ip{
		b: b, six: true, head: ipv6Header, length: ipv6Header + int(be16(b[4:])), source: source, dest: dest, protocol: b[6],
	}
}

// parseEither takes apart what a send half hands to the receive half of its node.
func parseEither(b []byte, source, dest api.Overlay) (*ip, Reason) {
	if b[0]>>4 == 6 {
		return parse6(b, source.HostAddr(), dest.HostAddr()), ReasonNone
	}
	return parseHeader(b)
}

// fromTunnel takes an overlay packet apart. One of IPv6 is on the wire what the workload has, one of IPv4 is longer.
func (d *decision) fromTunnel(b []byte, source, dest api.Overlay) (*ip, Reason) {
	if dest.Tag&api.TagFamilyIPv4 != 0 {
		return parseHeader(fromOverlay(b, source, dest))
	}
	d.size += overlayGrowth
	return parse6(b, source.HostAddr(), dest.HostAddr()), ReasonNone
}

// workloadIPv6 is an IPv6 packet of a workload, in its frame.
func (d *decision) workloadIPv6(eni *plan.ENI, whole []byte) Reason {
	b := whole[linkHeader:]
	if len(b) < ipv6Header || b[0]>>4 != 6 || int(be16(b[4:])) > min(len(b)-ipv6Header, maxIPv4-ipv4Header) {
		return ReasonMalformed
	}
	own := api.IPv6Address(d.plan.Config.Mesh, eni.VPC, eni.Address)
	source, dest := addr16(b[8:]), addr16(b[24:])
	if b[6] == plan.ProtocolICMPv6 {
		if r, answer, ok := d.discovery(b, eni, own); ok {
			if answer != nil {
				d.answer(eni.Ifindex, frame(eni.MAC, eni.GatewayMAC, typeIPv6, answer))
			}
			return r
		}
	}
	if source != own {
		if multicast(dest) && (source.IsUnspecified() || linkLocal(source)) {
			return ReasonAnswered // the link's own noise
		}
		return ReasonSpoofedAddress
	}
	b, fragment, id, r := d.bare6(b)
	if r != ReasonNone {
		return r
	}
	mesh, vpc, to, ok := api.IPv4Form(dest)
	c, overlay := d.overlay(b[24:40])
	client := overlay && c.VPC != 0 && c.Number() != 0 // as targets see one that are shown their clients
	if client {
		to = c.HostAddr()
	} else if !ok || mesh != d.plan.Config.Mesh || vpc != eni.VPC {
		return ReasonNoDestination
	}
	p := parse6(b, eni.Address, to)
	if client {
		p.client = c
	}
	p.setFragment(fragment, id)
	if r := d.parse(p); r != ReasonNone {
		return r
	}
	return d.sendOrAnswer(eni, p)
}

// linkLocal and multicast look at the bytes: netip counts IPv4 in IPv6 among them.
func linkLocal(a netip.Addr) bool {
	b := a.As16()
	return b[0] == 0xfe && b[1]&0xc0 == 0x80
}

func multicast(a netip.Addr) bool { return a.As16()[0] == 0xff }

func addr16(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b[:16])) }

// cannotBecome: IPv6 has no UDP without checksum, and none can be made for several datagrams at once, nor for one whose
// length is not the packet's.
func (p *ip) cannotBecome(six bool) bool {
	return six && p.bare() && (p.segment != 0 || p.fragment != 0 || int(be16(p.transport()[4:])) != len(p.transport()))
}

// bare is an IPv4 datagram without checksum.
func (p *ip) bare() bool {
	return !p.six && p.protocol == plan.ProtocolUDP && !p.later && be16(p.b[p.checksumAt():]) == 0
}

// readdress gives a packet the addresses from and to, which are of the family that it becomes, and the entry's ports. Its
// checksum changes where a port does or an address's IPv4 form: all else of an IPv6 form sums to nothing (decision 0002).
func (p *ip) readdress(f Flow, from, to netip.Addr) {
	old, now := append([]byte(nil), p.addresses()...), append(from.AsSlice(), to.AsSlice()...)
	if !isICMP(p.protocol) && !p.later {
		ports := p.b[p.head : p.head+4]
		old = append(old, ports...)
		now = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(now, f.SourcePort), f.DestPort)
		if p.source != f.Source || p.dest != f.Dest || p.sport != f.SourcePort || p.dport != f.DestPort {
			p.updateTransport(old, now)
		}
		copy(ports, now[len(now)-4:])
	}
	bare := p.bare()
	switch {
	case p.six && !f.IPv6:
		p.toIPv4()
	case !p.six && f.IPv6:
		p.toIPv6()
	}
	copy(p.addresses(), now)
	if !p.six {
		binary.BigEndian.PutUint16(p.b[10:], folded(sum16(p.b[:ipv4Header])))
	} else if bare && f.Next == NextWorkload {
		sum := folded(p.pseudo(p.protocol, p.length-p.head) + sum16(p.transport()))
		if sum == 0 {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(p.b[p.checksumAt():], sum)
	}
}

// toIPv4 replaces an IPv6 header: no id, and not to be fragmented. Addresses and checksum are still to come.
func (p *ip) toIPv4() {
	h := make([]byte, ipv4Header, len(p.b))
	h[0], h[1] = 0x45, byte(be32(p.b)>>20)
	binary.BigEndian.PutUint16(h[2:], uint16(p.length-ipv6Header+ipv4Header))
	if p.fragment == 0 {
		h[6] = 0x40 // DF
	}
	h[8], h[9] = p.b[7], p.protocol
	p.b = append(h, p.b[ipv6Header:]...)
	p.six, p.head, p.length = false, ipv4Header, p.length-overlayGrowth
}

// toIPv6 replaces an IPv4 header: no flow label. Addresses are still to come.
func (p *ip) toIPv6() {
	h := make([]byte, ipv6Header, len(p.b)+overlayGrowth)
	binary.BigEndian.PutUint32(h, 6<<28|uint32(p.b[1])<<20)
	binary.BigEndian.PutUint16(h[4:], uint16(p.length-ipv4Header))
	h[6], h[7] = p.protocol, p.b[8]
	p.b = append(h, p.b[ipv4Header:]...)
	p.six, p.head, p.length = true, ipv6Header, p.length+overlayGrowth
}

// answerHeader6 is the IPv6 header of an answer to a packet.
func answerHeader6(p *ip, payload int, next uint8) []byte {
	return header6(payload, next, defaultAnswerTTL, addr16(p.b[24:]), addr16(p.b[8:]))
}

func header6(payload int, next, hopLimit uint8, source, dest netip.Addr) []byte {
	b := make([]byte, ipv6Header, ipv6Header+payload)
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(payload))
	b[6], b[7] = next, hopLimit
	copy(b[8:], source.AsSlice())
	copy(b[24:], dest.AsSlice())
	return b
}

// icmp6 is an ICMPv6 packet with its checksum.
func icmp6(hopLimit uint8, source, dest netip.Addr, message []byte) []byte {
	b := header6(len(message), plan.ProtocolICMPv6, hopLimit, source, dest)
	sum := sum16(b[8:]) + uint64(plan.ProtocolICMPv6) + uint64(len(message)) + sum16(message)
	binary.BigEndian.PutUint16(message[2:], folded(sum))
	return append(b, message...)
}

// tooBig6Of is the ICMPv6 packet-too-big that answers a packet: what is IPv6 does not grow in the tunnel.
func tooBig6Of(p *ip, tunnelMTU uint16) []byte {
	quoted := ipv6Header + quotedBytes
	if p.protocol == plan.ProtocolTCP {
		quoted = ipv6Header + tcpHeader
	}
	m := make([]byte, icmpHeader, icmpHeader+quoted)
	m[0] = icmp6TooBig
	binary.BigEndian.PutUint16(m[6:], tunnelMTU)
	return icmp6(defaultAnswerTTL, addr16(p.b[24:]), addr16(p.b[8:]), append(m, p.b[:quoted]...))
}
