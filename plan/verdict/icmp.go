package verdict

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/culvert-net/culvert/plan"
)

const (
	icmpTimeExceeded     = 11
	icmpParameterProblem = 12
	maxICMPv6Error       = 1280                             // bytes of the packet; RFC 4443, 2.4
	maxICMPError         = maxICMPv6Error - 2*overlayGrowth // what that is in the other family
	quotedLeast          = ipv4Header + quotedBytes

	icmp6Unreachable      = 1
	icmp6TimeExceeded     = 3
	icmp6ParameterProblem = 4
)

// isError: the errors that pass.
func (p *ip) isError(kind, code uint8) bool {
	most, ok := map[uint8]uint8{icmpUnreachable: 15, icmpTimeExceeded: 1, icmpParameterProblem: 2}[kind]
	if p.six {
		most, ok = map[uint8]uint8{icmp6Unreachable: 6, icmp6TooBig: 0, icmp6TimeExceeded: 1, icmp6ParameterProblem: 2}[kind]
	}
	return ok && code <= most
}

// parseError reads the packet that an ICMP error quotes: it must be one that its receiver sent to its sender. The ports
// become those of its flow in the error's direction.
func (p *ip) parseError(l4 []byte) Reason {
	if p.fragment != 0 {
		return ReasonFragment
	}
	q, head, most := l4[icmpHeader:], ipv4Header, maxICMPError
	if p.six {
		head, most = ipv6Header, maxICMPv6Error
	}
	if p.segment != 0 || len(q) < head+quotedBytes || p.length > most {
		return ReasonMalformed
	}
	quoted, r := p.quoted(q)
	if r != ReasonNone {
		return r
	}
	t := q[quoted.head:]
	switch quoted.protocol {
	case p.icmp():
		if quoted.icmpType = t[0]; t[1] != 0 || !quoted.echo() && !quoted.echoReply() {
			return ReasonProtocol
		}
		p.sport = be16(t[4:])
	case plan.ProtocolTCP, plan.ProtocolUDP:
		if p.sport, p.dport = be16(t[2:]), be16(t); p.sport == 0 || p.dport == 0 {
			return ReasonMalformed
		}
	default:
		return ReasonProtocol
	}
	p.icmpType, p.icmpCode, p.header, p.about = l4[0], l4[1], icmpHeader, quoted.protocol
	return ReasonNone
}

// quoted is the packet in an error, whose addresses must be the error's own, turned round.
func (p *ip) quoted(q []byte) (*ip, Reason) {
	n := len(p.addresses()) / 2
	turned := append(append([]byte(nil), p.addresses()[n:]...), p.addresses()[:n]...)
	if !p.six {
		if q[0] != 0x45 || be16(q[2:]) < quotedLeast || !bytes.Equal(q[12:ipv4Header], turned) {
			return nil, ReasonMalformed
		}
		if be16(q[6:])&fragmentOffset != 0 {
			return nil, ReasonFragment
		}
		return &ip{b: q, head: ipv4Header, length: len(q), protocol: q[9]}, ReasonNone
	}
	if q[0]>>4 != 6 || be16(q[4:]) < quotedBytes || be16(q[4:]) > maxIPv4-ipv4Header || !bytes.Equal(q[8:ipv6Header], turned) {
		return nil, ReasonMalformed
	}
	quoted := &ip{b: q, six: true, head: ipv6Header, length: len(q), protocol: q[6]}
	if quoted.protocol == nextFragment {
		quoted.head += fragmentHeader
		if len(q) < quoted.head+quotedBytes || be16(q[4:]) < fragmentHeader+quotedBytes {
			return nil, ReasonMalformed
		}
		if be16(q[ipv6Header+2:])&^7 != 0 {
			return nil, ReasonFragment
		}
		quoted.protocol = q[ipv6Header]
	}
	return quoted, ReasonNone
}

// rewriteQuote translates what an ICMP error quotes, as the packet was before it was translated: the error's addresses, which
// are those that it leaves with, and the entry's ports, turned round.
func (p *ip) rewriteQuote(f Flow, from, to netip.Addr) {
	l4 := p.transport()
	was := append([]byte(nil), l4[icmpHeader:]...)
	q := l4[icmpHeader:]
	now := ip{b: q, six: f.IPv6, head: ipv4Header, length: len(q), protocol: p.about}
	if f.IPv6 {
		if now.head = ipv6Header; q[6] == nextFragment {
			now.head += fragmentHeader
		}
	}
	now.later = now.protocol == plan.ProtocolTCP && len(q) < now.head+tcpHeader // the checksum is not in the quote
	if now.protocol == plan.ProtocolTCP && f.Proxy != 0 && f.Flags&FlowDestTagged != 0 {
		now.renumber(tcpSequence, f.unshifted(be32(now.transport()[tcpSequence:]))) // the target's number
	}
	ports := q[now.head : now.head+4]
	old := append(append(append([]byte(nil), p.dest.AsSlice()...), p.source.AsSlice()...), ports...)
	turned := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, f.DestPort), f.SourcePort)
	if isICMP(p.about) {
		turned = ports
	}
	now.updateTransport(old, append(append(f.Dest.AsSlice(), f.Source.AsSlice()...), turned...))
	copy(ports, turned)
	if f.IPv6 {
		n := len(from.AsSlice())
		copy(q[8:], to.AsSlice())
		copy(q[8+n:], from.AsSlice())
		l4[2], l4[3] = 0, 0
		sum := sum16(from.AsSlice()) + sum16(to.AsSlice()) + uint64(p.protocol) + uint64(len(l4)) + sum16(l4)
		binary.BigEndian.PutUint16(l4[2:], folded(sum))
		return
	}
	now.setHeader(12, be16(to.AsSlice()))
	now.setHeader(14, be16(to.AsSlice()[2:]))
	now.setHeader(16, be16(from.AsSlice()))
	now.setHeader(18, be16(from.AsSlice()[2:]))
	n := len(was) &^ 1
	binary.BigEndian.PutUint16(l4[2:], updated(be16(l4[2:]), was[:n], q[:n]))
}

// errorIn is the type and code of an error in the other family (RFC 7915, 4.2 and 5.2), and what the four bytes behind the
// checksum become. Not ok: it has none there.
func errorIn(six bool, kind, code uint8, rest uint32) (k, c uint8, r uint32, ok bool) {
	if six {
		switch kind {
		case icmpTimeExceeded:
			return icmp6TimeExceeded, code, 0, true
		case icmpUnreachable:
			switch code {
			case 2: // protocol
				return icmp6ParameterProblem, 1, 6, true // the next header, at 6
			case 3: // port
				return icmp6Unreachable, 4, 0, true
			case icmpFragNeeded:
				return icmp6TooBig, 0, max(rest&0xffff+overlayGrowth, 1280), true
			case 9, 10, 13, 15: // prohibited
				return icmp6Unreachable, 1, 0, true
			case 14:
				return 0, 0, 0, false
			}
			return icmp6Unreachable, 0, 0, true
		}
		return 0, 0, 0, false
	}
	switch kind {
	case icmp6TimeExceeded:
		return icmpTimeExceeded, code, 0, true
	case icmp6TooBig:
		return icmpUnreachable, icmpFragNeeded, min(max(rest, 68+overlayGrowth)-overlayGrowth, 0xffff), true
	case icmp6Unreachable:
		switch code {
		case 4:
			return icmpUnreachable, 3, 0, true
		case 1, 5, 6:
			return icmpUnreachable, 10, 0, true
		}
		return icmpUnreachable, 1, 0, true
	case icmp6ParameterProblem:
		return icmpUnreachable, 2, 0, code == 1
	}
	return 0, 0, 0, false
}

// changeError makes an ICMP error and its quote those of the other family; the packet's own header is yet to come. What is
// quoted has IPv4 forms of its addresses, or none.
func (p *ip) changeError(six bool) {
	l4 := p.transport()
	kind, code, rest, _ := errorIn(six, l4[0], l4[1], be32(l4[4:]))
	out := binary.BigEndian.AppendUint32([]byte{kind, code, 0, 0}, rest)
	q := l4[icmpHeader:]
	if six {
		h := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(q[1])<<20)
		h = binary.BigEndian.AppendUint16(h, be16(q[2:])-ipv4Header)
		out = append(append(append(out, h...), p.about, q[8]), make([]byte, 32)...)
		out = append(out, q[ipv4Header:]...)
		p.protocol = plan.ProtocolICMPv6
	} else {
		h, head := make([]byte, ipv4Header), ipv6Header
		h[0], h[1] = 0x45, byte(be32(q)>>20)
		length := be16(q[4:]) + ipv4Header
		h[6] = 0x40 // DF
		if q[6] == nextFragment {
			head += fragmentHeader
			length -= fragmentHeader
			h[6] = q[ipv6Header+3] & 1 << 5
			copy(h[4:6], q[ipv6Header+6:])
		}
		binary.BigEndian.PutUint16(h[2:], length)
		h[8], h[9] = q[7], p.about
		if p.about == plan.ProtocolICMPv6 {
			h[9] = plan.ProtocolICMP
		}
		s, d := p.dest.As4(), p.source.As4()
		copy(h[12:], s[:])
		copy(h[16:], d[:])
		binary.BigEndian.PutUint16(h[10:], folded(sum16(h)))
		out = append(append(out, h...), q[head:]...)
		binary.BigEndian.PutUint16(out[2:], folded(sum16(out)))
		p.protocol = plan.ProtocolICMP
	}
	p.b = append(append(append([]byte(nil), p.b[:p.head]...), out...), p.b[p.length:]...)
	p.length += len(out) - len(l4)
	if p.six {
		binary.BigEndian.PutUint16(p.b[4:], uint16(p.length-ipv6Header))
		p.b[6] = p.protocol
	} else {
		p.setHeader(2, uint16(p.length))
		p.b[9] = p.protocol
	}
}
