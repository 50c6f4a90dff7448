package verdict

import (
	"encoding/binary"
	"net/netip"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// Sizes in bytes.
const (
	linkHeader = 14
	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20
	arpPacket  = 28
)

// Types of Ethernet frames.
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeIPv6 = 0x86dd
)

// TCP flags.
const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// ICMP types and codes.
const (
	icmpEchoReply    = 0
	icmpUnreachable  = 3
	icmpEcho         = 8
	icmpFragNeeded   = 4
	icmpHeader       = 8
	quotedBytes      = 8
	maxIPv4          = 65535
	mssOption        = 2
	mssOptionLength  = 4
	overlayGrowth    = ipv6Header - ipv4Header
	defaultAnswerTTL = 64
)

func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }

func addr4(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }

// ip is a packet taken apart; b holds it from its header on, with whatever follows it in the frame. Addresses are IPv4 forms.
type ip struct {
	b            []byte
	six          bool // IPv6: of a workload, or in overlay form
	head         int  // bytes of the IP header
	length       int  // with the header
	source, dest netip.Addr
	client       api.Overlay // the destination, where it is a client's own address
	protocol     uint8
	sport, dport uint16 // ICMP echo: id and 0
	flags        uint8  // TCP
	icmpType     uint8
	icmpCode     uint8 // of an error
	bareSYN      bool
	header       int    // bytes of the transport header
	fragment     uint16 // MF and offset, 0: whole
	id           uint32
	later        bool   // a fragment without transport header: the ports are those of its first one
	fresh        uint32 // fragment: the id that it leaves with
	about        uint8  // ICMP error: protocol of the packet quoted, whose ports turned round are sport and dport
	segment      int    // bytes of payload per wire packet; 0: not offloaded
}

// parseHeader checks the header as far as the source address.
func parseHeader(b []byte) (*ip, Reason) {
	if len(b) < ipv4Header || b[0]>>4 != 4 {
		return nil, ReasonMalformed
	}
	ihl := int(b[0]&15) * 4
	length := int(be16(b[2:]))
	if ihl < ipv4Header || length < ihl || length > len(b) {
		return nil, ReasonMalformed
	}
	return &ip{
		b: b, head: ipv4Header, length: length, source: addr4(b[12:]), dest: addr4(b[16:]), protocol: b[9], id: uint32(be16(b[4:])),
		fragment: be16(b[6:]) & (fragmentMore | fragmentOffset),
	}, ReasonNone
}

// parseRest checks everything after the addresses of a header without options.
func (p *ip) parseRest() Reason {
	if r := p.parseFragment(); r != ReasonNone {
		return r
	}
	cut := ReasonMalformed
	if p.fragment != 0 {
		cut = ReasonFragment
	}
	l4 := p.transport()
	if p.later {
		if p.protocol != plan.ProtocolTCP && p.protocol != plan.ProtocolUDP && p.protocol != p.icmp() {
			return ReasonProtocol
		}
		return ReasonNone
	}
	switch p.protocol {
	case plan.ProtocolTCP:
		switch {
		case len(l4) < tcpHeader:
			return cut
		case l4[12]>>4 < 5:
			return ReasonMalformed
		case int(l4[12]>>4)*4 > len(l4):
			return cut
		}
		p.header, p.flags = int(l4[12]>>4)*4, l4[13]
		p.bareSYN = p.flags&(tcpSYN|tcpACK|tcpFIN|tcpRST) == tcpSYN
	case plan.ProtocolUDP:
		if p.header = 8; len(l4) < 8 {
			return cut
		}
	case p.icmp():
		if len(l4) < icmpHeader {
			return cut
		}
		if p.isError(l4[0], l4[1]) {
			return p.parseError(l4)
		}
		if p.icmpType = l4[0]; l4[1] != 0 || !p.echo() && !p.echoReply() {
			return ReasonProtocol
		}
		p.sport = be16(l4[4:])
		if p.segment != 0 {
			return ReasonMalformed
		}
		return ReasonNone
	default:
		return ReasonProtocol
	}
	p.sport, p.dport = be16(l4), be16(l4[2:])
	if p.sport == 0 || p.dport == 0 || p.segment != 0 && p.length != len(p.b) {
		return ReasonMalformed
	}
	if n, _ := p.onWire(); n > MaxSegments {
		return ReasonMalformed
	}
	return ReasonNone
}

// onWire is how many packets an offloaded one becomes, and how many bytes of headers that adds.
func (p *ip) onWire() (packets, growth uint64) {
	payload := p.length - p.head - p.header
	if p.segment == 0 || payload <= p.segment {
		return 1, 0
	}
	n := (payload + p.segment - 1) / p.segment
	return uint64(n), uint64((n - 1) * (p.head + p.header))
}

// opens reports whether the packet may open a flow.
func (p *ip) opens() bool {
	if p.follows() {
		return false
	}
	switch p.protocol {
	case plan.ProtocolTCP:
		return p.bareSYN
	case p.icmp():
		return p.echo()
	}
	return true
}

// checksumAt is where the transport's checksum stands; 0: addresses and ports are not in it.
func (p *ip) checksumAt() int {
	if p.later {
		return 0
	}
	switch p.protocol {
	case plan.ProtocolTCP:
		return p.head + 16
	case plan.ProtocolUDP:
		return p.head + 6
	}
	return 0
}

// updated is a checksum after words of what it covers changed from old to now (RFC 1624, equation 3).
func updated(sum uint16, old, now []byte) uint16 {
	total := uint64(0xffff0000) | uint64(^sum)
	for i := 0; i < len(old); i += 2 {
		total += uint64(^be16(old[i:]))
	}
	for i := 0; i < len(now); i += 2 {
		total += uint64(be16(now[i:]))
	}
	for total>>16 != 0 {
		total = total>>16 + total&0xffff
	}
	return ^uint16(total)
}

// updateTransport updates the transport checksum. UDP: 0 means none and stays; what becomes 0 is sent as 0xffff.
func (p *ip) updateTransport(old, now []byte) {
	at := p.checksumAt()
	if at == 0 {
		return
	}
	sum := be16(p.b[at:])
	if p.protocol == plan.ProtocolUDP && sum == 0 {
		return
	}
	sum = updated(sum, old, now)
	if p.protocol == plan.ProtocolUDP && sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(p.b[at:], sum)
}

// rewrite replaces one side's address and port in an IPv4 packet; at is 12 for the source and 16 for the destination.
func (p *ip) rewrite(at int, a netip.Addr, port uint16) {
	now := a.As4()
	old := [4]byte(p.b[at : at+4])
	binary.BigEndian.PutUint16(p.b[10:], updated(be16(p.b[10:]), old[:], now[:]))
	p.updateTransport(old[:], now[:])
	copy(p.b[at:], now[:])
	if p.protocol == plan.ProtocolICMP || p.later {
		return
	}
	portAt := ipv4Header + (at-12)/2
	oldPort := [2]byte(p.b[portAt : portAt+2])
	nowPort := [2]byte{byte(port >> 8), byte(port)}
	p.updateTransport(oldPort[:], nowPort[:])
	copy(p.b[portAt:], nowPort[:])
}

// clampMSS lowers every MSS option of a packet with SYN to what a full packet of a link holds.
func (p *ip) clampMSS(tunnelMTU uint16) {
	most := tunnelMTU - plan.WorkloadMTUReserve - uint16(p.head) - tcpHeader
	if p.protocol != plan.ProtocolTCP || p.flags&tcpSYN == 0 {
		return
	}
	options := p.b[p.head+tcpHeader : p.head+p.header]
	for i := 0; i < len(options); {
		switch kind := options[i]; {
		case kind == 0:
			return
		case kind == 1:
			i++
			continue
		case i+1 >= len(options) || options[i+1] < 2 || i+int(options[i+1]) > len(options):
			return
		case kind == mssOption && options[i+1] == mssOptionLength && be16(options[i+2:]) > most:
			old := [2]byte(options[i+2 : i+4])
			now := [2]byte{byte(most >> 8), byte(most)}
			if i%2 == 0 {
				p.updateTransport(old[:], now[:])
			} else { // the value straddles two words of the checksum
				p.updateTransport([]byte{old[1], old[0]}, []byte{now[1], now[0]})
			}
			copy(options[i+2:], now[:])
		}
		i += int(options[i+1])
	}
}

// sum16 is the one's complement sum of b, padded with a zero byte.
func sum16(b []byte) uint64 {
	total := uint64(0)
	for i := 0; i < len(b); i += 2 {
		total += uint64(b[i]) << 8
		if i+1 < len(b) {
			total += uint64(b[i+1])
		}
	}
	return total
}

func folded(total uint64) uint16 {
	for total>>16 != 0 {
		total = total>>16 + total&0xffff
	}
	return ^uint16(total)
}

// toOverlay makes the IPv6 packet of an IPv4 one; source and dest are overlay addresses. What is IPv6 has them already.
func (p *ip) toOverlay(source, dest api.Overlay) []byte {
	if p.six {
		return p.withFragmentHeader(p.b)
	}
	out := make([]byte, ipv6Header, ipv6Header+len(p.b))
	label := uint32(be16(p.b[4:]))
	if be16(p.b[6:])&0x4000 != 0 { // DF
		label |= 1 << 16
	}
	binary.BigEndian.PutUint32(out, 6<<28|uint32(p.b[1])<<20|label)
	binary.BigEndian.PutUint16(out[4:], uint16(p.length-ipv4Header))
	out[6], out[7] = p.protocol, p.b[8]
	s, d := source.Addr().As16(), dest.Addr().As16()
	copy(out[8:], s[:])
	copy(out[24:], d[:])
	return p.withFragmentHeader(append(out, p.b[ipv4Header:]...))
}

// fromOverlay makes the IPv4 packet of an IPv6 one whose payload fits.
func fromOverlay(b []byte, source, dest api.Overlay) []byte {
	out := make([]byte, ipv4Header, len(b))
	first := be32(b)
	out[0], out[1] = 0x45, byte(first>>20)
	binary.BigEndian.PutUint16(out[2:], be16(b[4:])+ipv4Header)
	binary.BigEndian.PutUint16(out[4:], uint16(first))
	if first&(1<<16) != 0 {
		out[6] = 0x40
	}
	out[8], out[9] = b[7], b[6]
	binary.BigEndian.PutUint32(out[12:], source.Host)
	binary.BigEndian.PutUint32(out[16:], dest.Host)
	binary.BigEndian.PutUint16(out[10:], folded(sum16(out)))
	return append(out, b[ipv6Header:]...)
}

// frame puts an Ethernet header before an IP packet.
func frame(dest, source [6]byte, kind uint16, packet []byte) []byte {
	out := make([]byte, 0, linkHeader+len(packet))
	out = append(append(out, dest[:]...), source[:]...)
	out = binary.BigEndian.AppendUint16(out, kind)
	return append(out, packet...)
}
