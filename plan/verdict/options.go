package verdict

import "encoding/binary"

// Options of IPv4.
const (
	optionEnd         = 0
	optionNop         = 1
	optionLooseRoute  = 131
	optionStrictRoute = 137
)

// strip takes the options out of a packet, whatever they say; but one that asks for a route is refused.
func (d *decision) strip(p *ip) Reason {
	n := int(p.b[0]&15) * 4
	options := p.b[ipv4Header:n]
	for len(options) > 0 && options[0] != optionEnd {
		switch {
		case options[0] == optionNop:
			options = options[1:]
			continue
		case options[0] == optionLooseRoute, options[0] == optionStrictRoute, len(options) < 2, options[1] < 2,
			int(options[1]) > len(options):
			return ReasonIPOptions
		}
		options = options[options[1]:]
	}
	if n == ipv4Header {
		return ReasonNone
	}
	p.b = append(append([]byte(nil), p.b[:ipv4Header]...), p.b[n:]...)
	p.length -= n - ipv4Header
	d.size -= uint64(n - ipv4Header)
	p.b[0] = 0x45
	binary.BigEndian.PutUint16(p.b[2:], uint16(p.length))
	binary.BigEndian.PutUint16(p.b[10:], 0)
	binary.BigEndian.PutUint16(p.b[10:], folded(sum16(p.b[:ipv4Header])))
	return ReasonNone
}
