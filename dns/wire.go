package dns

import (
	"encoding/binary"

	miekg "github.com/miekg/dns"
)

// Bits of the header's flags, RFC 1035 section 4.1.1 and RFC 4035 section 3.
const (
	flagResponse     = 1 << 15
	flagAA           = 1 << 10
	flagTC           = 1 << 9
	flagRD           = 1 << 8
	flagRA           = 1 << 7
	flagAD           = 1 << 5
	flagCD           = 1 << 4
	opcodeMask       = 0xf << 11
	flagsOfQuestions = opcodeMask | flagRD // those that a reply of the header alone gives back
)

// Sizes in bytes and limits of names and records in wire form, RFC 1035 and RFC 6891.
const (
	headerSize    = 12
	maxWireName   = 255
	maxWireLabel  = 63
	pointerMark   = 0xc0
	maxPointerOff = 0x3fff
	recordFixed   = 10 // type, class, TTL and length of the data
	optSize       = 11
	ednsDO        = 1 << 15
)

// edns is what an OPT record says.
type edns struct {
	present bool
	size    uint16 // of UDP datagrams that the client takes, bytes
	version uint8
	do      bool // DNSSEC records are wanted
}

// readName reads a name that is not compressed, as the first one of a message cannot be. It returns the name as people
// write it, with trailing dot and with escapes where they are needed, and where the name ends.
func readName(data []byte, off int) (name string, next int, ok bool) {
	var text [4 * maxWireName]byte
	out, start := text[:0], off
	for {
		if off >= len(data) {
			return "", 0, false
		}
		n := int(data[off])
		off++
		if n == 0 {
			break
		}
		if n > maxWireLabel || off+n > len(data) || off+n-start >= maxWireName {
			return "", 0, false
		}
		for _, c := range data[off : off+n] {
			out = appendEscaped(out, c)
		}
		out = append(out, '.')
		off += n
	}
	if len(out) == 0 {
		out = append(out, '.')
	}
	return string(out), off, true
}

// appendEscaped appends a byte of a label as zone files write it, RFC 1035 section 5.1; the same bytes are escaped as by
// the library that reads forwarders' answers.
func appendEscaped(out []byte, c byte) []byte {
	switch {
	case c < ' ' || c > '~':
		return append(out, '\\', '0'+c/100, '0'+c/10%10, '0'+c%10)
	case c == '.' || c == '\\' || c == '"' || c == '\'' || c == '@' || c == ';' || c == '(' || c == ')' || c == ' ':
		return append(out, '\\', c)
	}
	return append(out, c)
}

// label reads the label that begins at off of a name as people write it: its bytes are appended to out, next is where
// the one after it begins.
func label(out []byte, name string, off int) (_ []byte, next int) {
	for off < len(name) {
		c := name[off]
		off++
		switch {
		case c == '.':
			return out, off
		case c != '\\':
			out = append(out, c)
		case off+2 < len(name) && isDigit(name[off]) && isDigit(name[off+1]) && isDigit(name[off+2]):
			out = append(out, (name[off]-'0')*100+(name[off+1]-'0')*10+name[off+2]-'0')
			off += 3
		case off < len(name):
			out = append(out, name[off])
			off++
		}
	}
	return out, off
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// rawRecord is a record of a query; its data is not read.
type rawRecord struct {
	root   bool // its name is "."
	rrtype uint16
	class  uint16
	ttl    uint32
	data   []byte
}

// readRecord reads the record at off. A pointer in its name must lead back, and is not followed.
func readRecord(data []byte, off int) (rr rawRecord, next int, ok bool) {
	start := off
	for {
		if off >= len(data) {
			return rr, 0, false
		}
		n := int(data[off])
		off++
		if n == 0 {
			break
		}
		if n >= pointerMark {
			if off >= len(data) || n&^pointerMark<<8|int(data[off]) >= start {
				return rr, 0, false
			}
			off++
			break
		}
		if off += n; n > maxWireLabel || off-start >= maxWireName {
			return rr, 0, false
		}
	}
	if off+recordFixed > len(data) {
		return rr, 0, false
	}
	rr = rawRecord{
		root: off == start+1, rrtype: binary.BigEndian.Uint16(data[off:]), class: binary.BigEndian.Uint16(data[off+2:]),
		ttl: binary.BigEndian.Uint32(data[off+4:]),
	}
	length := int(binary.BigEndian.Uint16(data[off+8:]))
	if off += recordFixed; off+length > len(data) {
		return rr, 0, false
	}
	rr.data = data[off : off+length]
	return rr, off + length, true
}

// edns reads an OPT record; its options are framed well or it is none.
func (rr *rawRecord) edns() (e edns, ok bool) {
	const optionHeader = 4
	for rest := rr.data; len(rest) > 0; {
		if len(rest) < optionHeader {
			return e, false
		}
		n := optionHeader + int(binary.BigEndian.Uint16(rest[2:]))
		if n > len(rest) {
			return e, false
		}
		rest = rest[n:]
	}
	return edns{present: true, size: rr.class, version: uint8(rr.ttl >> 16), do: rr.ttl&ednsDO != 0}, rr.root
}

// encoder writes a reply.
type encoder struct {
	out       []byte
	qname     string
	limit     int // of out, bytes, without the room that OPT needs
	counts    [3]uint16
	truncated bool
	last      string // the name that was written in full last, and where
	lastAt    int
}

// The sections of a reply behind its question.
const (
	sectionAnswer = iota
	sectionAuthority
	sectionAdditional
)

// begin writes a header to be filled in by end, and the question as it was asked.
func (e *encoder) begin(r *request, buf []byte) {
	e.out = append(append(buf[:0], r.data[:headerSize]...), r.data[headerSize:r.questionEnd]...)
	e.qname, e.limit = r.q.Name, r.size()
	if r.edns.present {
		e.limit -= optSize
	}
}

// end writes OPT and the header. rcode may have the 12 bits of EDNS when the query had it.
func (e *encoder) end(r *request, rcode int, flags uint16) []byte {
	if r.edns.present {
		ttl := uint32(rcode>>4) << 24
		if r.edns.do {
			ttl |= ednsDO
		}
		e.out = append(e.out, 0)
		e.out = binary.BigEndian.AppendUint16(e.out, miekg.TypeOPT)
		e.out = binary.BigEndian.AppendUint16(e.out, maxUDPReply)
		e.out = binary.BigEndian.AppendUint32(e.out, ttl)
		e.out = append(e.out, 0, 0)
		e.counts[sectionAdditional]++
	}
	flags |= flagResponse | r.flags&(flagRD|flagCD) | uint16(rcode&0xf)
	if e.truncated {
		flags |= flagTC
	}
	binary.BigEndian.PutUint16(e.out[2:], flags)
	binary.BigEndian.PutUint16(e.out[4:], 1)
	for i, n := range e.counts {
		binary.BigEndian.PutUint16(e.out[6+2*i:], n)
	}
	return e.out
}

// record writes what precedes a record's data; finish must follow with what this returns.
func (e *encoder) record(owner string, rrtype uint16, ttl uint32) (start, data int) {
	start = len(e.out)
	e.name(owner)
	e.out = binary.BigEndian.AppendUint16(e.out, rrtype)
	e.out = binary.BigEndian.AppendUint16(e.out, miekg.ClassINET)
	e.out = binary.BigEndian.AppendUint32(e.out, ttl)
	e.out = append(e.out, 0, 0)
	return start, len(e.out)
}

// finish notes the length of the data. A record that makes the reply too long is taken out again, and all that would
// follow stays out.
func (e *encoder) finish(section, start, data int) {
	if e.truncated || len(e.out) > e.limit {
		e.out, e.truncated = e.out[:start], true
		if e.lastAt >= start {
			e.last = ""
		}
		return
	}
	binary.BigEndian.PutUint16(e.out[data-2:], uint16(len(e.out)-data))
	e.counts[section]++
}

// name writes a name, compressed where it ends like the question's or is the last one that was written in full.
func (e *encoder) name(name string) {
	if name == e.qname {
		e.out = append(e.out, pointerMark, headerSize)
		return
	}
	if name == e.last {
		e.out = binary.BigEndian.AppendUint16(e.out, uint16(pointerMark)<<8|uint16(e.lastAt))
		return
	}
	at := len(e.out)
	for off := 0; off < len(name) && name != "."; {
		if to, ok := e.suffix(name[off:]); ok {
			e.out = binary.BigEndian.AppendUint16(e.out, uint16(pointerMark)<<8|uint16(to))
			e.remember(name, at)
			return
		}
		length := len(e.out)
		e.out, off = label(append(e.out, 0), name, off)
		e.out[length] = byte(len(e.out) - length - 1)
	}
	e.out = append(e.out, 0)
	e.remember(name, at)
}

func (e *encoder) remember(name string, at int) {
	if at <= maxPointerOff && len(name) > 1 {
		e.last, e.lastAt = name, at
	}
}

// suffix finds where in the message the question's name ends in this one.
func (e *encoder) suffix(name string) (at int, ok bool) {
	cut := len(e.qname) - len(name)
	if cut < 0 || !sameName(e.qname[cut:], name) {
		return 0, false
	}
	at = headerSize
	for off := 0; off < cut; at += int(e.out[at]) + 1 {
		off = afterLabel(e.qname, off)
		if off > cut {
			return 0, false // it ends within a label of the question
		}
	}
	return at, true
}

// afterLabel is where the label behind the one at off begins.
func afterLabel(name string, off int) int {
	for ; off < len(name); off++ {
		switch name[off] {
		case '.':
			return off + 1
		case '\\':
			if off++; off < len(name) && isDigit(name[off]) {
				off += 2
			}
		}
	}
	return off
}
