package verdict

import (
	"bytes"
	"encoding/binary"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// What the PROXY protocol, version 2, and TCP options have: proxy-protocol.txt 2.2, IANA's registry, RFC 7413.
const (
	proxyFixed      = 16 // signature, version, family, length
	proxyIPv4       = 12 // addresses and ports
	proxyIPv6       = 36
	proxyTLV        = 4 // type, length and AWS's subtype
	nopOption       = 1
	sackOption      = 5
	mptcpOption     = 30
	fastOpenOption  = 34
	experiment      = 254
	fastOpenMagic   = 0xf989
	proxySignature  = "\r\n\r\n\x00\r\nQUIT\n"
	tcpPSH          = 0x08
	tcpSequence     = 4 // places in the header
	tcpAcknowledged = 8
)

func proxyAddresses(six bool) int {
	if six {
		return proxyIPv6
	}
	return proxyIPv4
}

// proxied gives a new flow what it takes to tell its target of the client.
func (d *decision) proxied(g *plan.Grant, f, other *Flow, p *ip) {
	if !g.ProxyHeader || p.protocol != plan.ProtocolTCP {
		return
	}
	f.Proxy = uint8(proxyFixed + proxyAddresses(p.six) + proxyTLV + len(g.Endpoint))
	f.ISN = be32(p.transport()[tcpSequence:])
	other.Proxy, other.ISN = f.Proxy, f.ISN
}

// hold takes a FIN for not sent that does not reach the target: the packet will be the header.
func (f *Flow) hold(key FlowKey, p *ip) {
	if f.Proxy != 0 && !f.ProxyDone && key.View == ViewProvider && p.flags&(tcpSYN|tcpRST) == 0 {
		p.flags &^= tcpFIN
	}
}

// unshifted is a sequence number of the target's side as the client has it.
func (f *Flow) unshifted(seq uint32) uint32 {
	first := f.ISN + 1
	switch past := int32(seq - first); {
	case f.ProxyDone, past >= int32(f.Proxy):
		return seq - uint32(f.Proxy)
	case past <= 0:
		return seq
	}
	return first
}

// renumber replaces a sequence number at a place of the TCP header.
func (p *ip) renumber(at int, seq uint32) {
	var now [4]byte
	binary.BigEndian.PutUint32(now[:], seq)
	t := p.transport()[at:]
	p.updateTransport(t[:4], now[:])
	copy(t, now[:])
}

// changeOptions lets a function change each option of the TCP header; it gets the option with kind and length.
func (p *ip) changeOptions(change func(option []byte)) {
	options := p.b[p.head+tcpHeader : p.head+p.header]
	before := append([]byte(nil), options...)
	for i := 0; i < len(options); {
		switch kind := options[i]; {
		case kind == 0:
			i = len(options)
			continue
		case kind == nopOption:
			i++
			continue
		case i+1 >= len(options) || options[i+1] < 2 || i+int(options[i+1]) > len(options):
			i = len(options)
			continue
		}
		n := int(options[i+1])
		change(options[i : i+n])
		i += n
	}
	if !bytes.Equal(before, options) {
		p.updateTransport(before, options)
	}
}

// plainSYN takes out of a SYN what would let data pass outside of what is counted here.
func plainSYN(option []byte) {
	switch kind := option[0]; {
	case kind == mptcpOption, kind == fastOpenOption:
	case kind == experiment && len(option) >= 4 && be16(option[2:]) == fastOpenMagic:
	default:
		return
	}
	for i := range option {
		option[i] = nopOption
	}
}

// proxyRequest is a packet of the client to a target that is told of it.
func (d *decision) proxyRequest(key FlowKey, f Flow, p *ip) Reason {
	seq := be32(p.transport()[tcpSequence:])
	switch flags := p.b[p.head+13]; {
	case flags&tcpSYN != 0:
		p.changeOptions(plainSYN)
		if p.length > p.head+p.header {
			p.onlyWith(nil, seq, flags)
		}
	case f.ProxyDone:
		p.renumber(tcpSequence, seq+uint32(f.Proxy))
	case flags&tcpRST != 0:
	default:
		g := d.grant(key.VPC, key.Tag)
		if g == nil || g.Connection != f.Connection {
			return ReasonNoGrant
		}
		header := d.proxyHeader(g, key)
		if len(header) != int(f.Proxy) {
			return ReasonNoGrant
		}
		p.onlyWith(header, f.ISN+1, flags&tcpACK|tcpPSH)
	}
	return ReasonNone
}

// proxyHeader says who the client is, what it dialled and by which endpoint, in the client's family.
func (d *decision) proxyHeader(g *plan.Grant, key FlowKey) []byte {
	family, source, dest := byte(0x11), key.Source, g.DialedAddress // TCP over IPv4
	if key.IPv6 {
		mesh := d.plan.Config.Mesh
		family, source, dest = 0x21, api.IPv6Address(mesh, key.VPC, source), api.IPv6Address(mesh, key.VPC, dest)
	}
	b := append([]byte(proxySignature), 0x21, family) // version 2, PROXY
	b = binary.BigEndian.AppendUint16(b, uint16(proxyAddresses(key.IPv6)+proxyTLV+len(g.Endpoint)))
	b = append(append(b, source.AsSlice()...), dest.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, key.SourcePort)
	b = binary.BigEndian.AppendUint16(b, g.DialedPort)
	b = append(b, 0xea) // PP2_TYPE_AWS
	b = binary.BigEndian.AppendUint16(b, uint16(1+len(g.Endpoint)))
	b = append(b, 0x01) // PP2_SUBTYPE_AWS_VPCE_ID
	return append(b, g.Endpoint...)
}

// onlyWith makes the packet a segment with this data, number and these flags; its checksum is computed anew.
func (p *ip) onlyWith(data []byte, seq uint32, flags uint8) {
	p.b = append(append([]byte(nil), p.b[:p.head+p.header]...), data...)
	p.length = len(p.b)
	if p.six {
		binary.BigEndian.PutUint16(p.b[4:], uint16(p.length-p.head))
	} else {
		length := [2]byte(p.b[2:4])
		binary.BigEndian.PutUint16(p.b[2:], uint16(p.length))
		binary.BigEndian.PutUint16(p.b[10:], updated(be16(p.b[10:]), length[:], p.b[2:4]))
	}
	t := p.transport()
	binary.BigEndian.PutUint32(t[4:], seq)
	t[13] = flags
	t[16], t[17], t[18], t[19] = 0, 0, 0, 0 // checksum, urgent pointer
	binary.BigEndian.PutUint16(t[16:], folded(p.pseudo(plan.ProtocolTCP, len(t))+sum16(t)))
}

// proxyAnswer is a packet of such a target. A SYN-ACK begins anew: a later connection's SYN may have the number of the one before.
func (d *decision) proxyAnswer(key FlowKey, f Flow, p *ip) {
	ack := be32(p.transport()[tcpAcknowledged:])
	if p.flags&tcpSYN != 0 {
		if p.flags&tcpACK != 0 && (f.ProxyDone || ack != f.ISN+1) {
			f.ISN, f.ProxyDone = ack-1, false
			d.proxyRemember(key, f)
		}
		p.changeOptions(plainSYN)
		return
	}
	if p.flags&tcpACK == 0 {
		return
	}
	if to := f.unshifted(ack); to != ack {
		p.renumber(tcpAcknowledged, to)
	}
	p.changeOptions(func(option []byte) {
		for i := 2; option[0] == sackOption && i+4 <= len(option); i += 4 {
			binary.BigEndian.PutUint32(option[i:], f.unshifted(be32(option[i:])))
		}
	})
	if !f.ProxyDone && int32(ack-(f.ISN+1+uint32(f.Proxy))) >= 0 {
		f.ProxyDone = true
		d.proxyRemember(key, f)
	}
}

// proxyRemember gives both entries the state of the answering one.
func (d *decision) proxyRemember(key FlowKey, f Flow) {
	for _, k := range [...]FlowKey{key, f.Reverse} {
		if e, ok := d.state.Flows[k]; ok {
			e.ISN, e.ProxyDone = f.ISN, f.ProxyDone
			d.state.Flows[k] = e
		}
	}
}
