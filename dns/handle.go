package dns

import (
	"context"
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/culvert-net/culvert/dns/zone"
	"github.com/culvert-net/culvert/internal/logkey"
)

// packet is one message as it arrived.
type packet struct {
	client
	arrived time.Time
	tcp     bool
	data    []byte // valid until handle returns
}

// request is a well-formed query.
type request struct {
	packet
	st          *state
	id, flags   uint16 // of the header
	questionEnd int    // where in data the question ends
	q           miekg.Question
	edns        edns
	signed      bool                   // by a key
	overridden  bool                   // the query firewall leads elsewhere
	asked       bool                   // the VPC has a query log
	logged      bool                   // what is found out is noted: it may have to be recorded
	log         Query                  // filled as the answer comes about
	forwarded   bool                   // a forwarder is asked, or somebody else's answer waited for
	turn        func(work func()) bool // where answers are taken apart in turns; nil: at once
}

// waiting asks forwarders and returns the reply, never nil. It may take forwardTimeout.
type waiting func(ctx context.Context) []byte

// handle answers a message: out is the reply (it may lie in buf), or wait gives it later, or both are nil and nothing
// is sent.
func (s *Server) handle(st *state, p packet, buf []byte) (out []byte, wait waiting) {
	if len(p.data) < headerSize || binary.BigEndian.Uint16(p.data[2:])&flagResponse != 0 {
		s.stats.malformed.Add(1)
		return nil, nil
	}
	s.stats.queries.Add(1)
	if rcode := checkHeader(p.data); rcode != miekg.RcodeSuccess {
		return s.bare(st, p, rcode, buf), nil
	}
	r := request{packet: p, st: st}
	if rcode := r.parse(); rcode != miekg.RcodeSuccess {
		return s.bare(st, p, rcode, buf), nil
	}
	r.startLog()
	if rcode := r.check(); rcode != miekg.RcodeSuccess {
		return s.refuse(&r, rcode, buf), nil
	}
	at := r.begin()
	switch {
	case at.failed:
		return s.refuse(&r, miekg.RcodeServerFailure, buf), nil
	case at.Kind == zone.Forward:
		return s.startForward(r, at, buf)
	}
	return s.local(&r, at, buf), nil
}

// checkHeader looks at what can be told without reading the message; so a header that promises 65,535 records costs
// nothing.
func checkHeader(data []byte) (rcode int) {
	if binary.BigEndian.Uint16(data[2:])&opcodeMask != miekg.OpcodeQuery {
		return miekg.RcodeNotImplemented
	}
	questions, answers := binary.BigEndian.Uint16(data[4:]), binary.BigEndian.Uint16(data[6:])
	authority, additional := binary.BigEndian.Uint16(data[8:]), binary.BigEndian.Uint16(data[10:])
	// One authority record is what IXFR sends; OPT and a signature are the additional ones that have a meaning.
	if questions != 1 || answers != 0 || authority > 1 || additional > 2 {
		return miekg.RcodeFormatError
	}
	return miekg.RcodeSuccess
}

// bare is a reply of the header alone, for messages whose question cannot be trusted to be one. It is never longer than
// the query.
func (s *Server) bare(st *state, p packet, rcode int, buf []byte) []byte {
	if rcode == miekg.RcodeFormatError {
		s.stats.malformed.Add(1)
	}
	flags := flagResponse | binary.BigEndian.Uint16(p.data[2:])&flagsOfQuestions | uint16(rcode)
	out := binary.BigEndian.AppendUint16(append(buf[:0], p.data[:2]...), flags)
	out = append(out, 0, 0, 0, 0, 0, 0, 0, 0)
	r := request{packet: p, st: st}
	r.startLog()
	s.emit(&r, rcode, 0)
	return out
}

// parse reads the message.
func (r *request) parse() (rcode int) {
	name, off, ok := readName(r.data, headerSize)
	if !ok || off+4 > len(r.data) {
		return miekg.RcodeFormatError
	}
	r.id, r.flags = binary.BigEndian.Uint16(r.data), binary.BigEndian.Uint16(r.data[2:])
	r.q.Name = name
	r.q.Qtype, r.q.Qclass = binary.BigEndian.Uint16(r.data[off:]), binary.BigEndian.Uint16(r.data[off+2:])
	r.questionEnd = off + 4
	authority, additional := binary.BigEndian.Uint16(r.data[8:]), binary.BigEndian.Uint16(r.data[10:])
	if authority > 0 && r.q.Qtype != miekg.TypeIXFR {
		return miekg.RcodeFormatError
	}
	off = r.questionEnd
	for i := range authority + additional {
		var rr rawRecord
		if rr, off, ok = readRecord(r.data, off); !ok {
			return miekg.RcodeFormatError
		}
		if i < authority {
			continue
		}
		r.signed = rr.rrtype == miekg.TypeTSIG || rr.rrtype == miekg.TypeSIG // counts when it is the last record
		if rr.rrtype != miekg.TypeOPT {
			continue
		}
		if r.edns.present {
			return miekg.RcodeFormatError
		}
		if r.edns, ok = rr.edns(); !ok {
			return miekg.RcodeFormatError
		}
	}
	return miekg.RcodeSuccess
}

// check refuses what is well-formed but not served.
func (r *request) check() (rcode int) {
	if r.edns.version != 0 {
		return miekg.RcodeBadVers
	}
	if r.signed {
		return miekg.RcodeNotAuth // no key is shared with anybody
	}
	switch t := r.q.Qtype; {
	case r.q.Qclass != miekg.ClassINET:
		return miekg.RcodeRefused
	case t == miekg.TypeANY:
	case t == miekg.TypeNone, t == miekg.TypeOPT, t >= firstMetaType && t <= lastMetaType: // AXFR and IXFR too
		return miekg.RcodeRefused
	}
	return miekg.RcodeSuccess
}

// Types that are no data, RFC 6895 section 3.1.
const (
	firstMetaType = 128
	lastMetaType  = 255
)

// recursion is the reply's flag that says whether names that are not private are looked for.
func (r *request) recursion() uint16 {
	if r.st.recursive[r.vpc] {
		return flagRA
	}
	return 0
}

// refuse is the reply that says why there is no answer.
func (s *Server) refuse(r *request, rcode int, buf []byte) []byte {
	var e encoder
	e.begin(r, buf)
	out := e.end(r, rcode, r.recursion())
	s.emit(r, rcode, 0)
	return out
}

// reply is an empty reply, of a forwarded question.
func (r *request) reply(rcode int) *miekg.Msg {
	m := new(miekg.Msg)
	m.Id = r.id
	m.Response, m.Rcode, m.Question = true, rcode, []miekg.Question{r.q}
	m.RecursionDesired, m.CheckingDisabled = r.flags&flagRD != 0, r.flags&flagCD != 0
	m.RecursionAvailable = r.recursion() != 0
	return m
}

// size is how long the reply may be.
func (r *request) size() int {
	switch {
	case r.tcp:
		return maxTCPReply
	case !r.edns.present:
		return plainUDPSize
	}
	return min(max(int(r.edns.size), plainUDPSize), maxUDPReply)
}

// finish adds EDNS, packs the reply to a forwarded question within its size and logs it.
func (s *Server) finish(r *request, m *miekg.Msg, buf []byte) []byte {
	rcode, answers := m.Rcode, len(m.Answer)
	if r.edns.present {
		m.SetEdns0(maxUDPReply, r.edns.do)
	}
	m.Compress = true
	out, err := m.PackBuffer(buf)
	if err == nil && len(out) > r.size() {
		m.Truncate(r.size())
		out, err = m.PackBuffer(buf)
	}
	if err != nil {
		s.cfg.Log.Error("dns reply cannot be packed", logkey.Name, r.q.Name, logkey.Type, TypeString(r.q.Qtype), logkey.Error, err)
		rcode, answers = miekg.RcodeServerFailure, 0
		out, _ = r.reply(miekg.RcodeServerFailure).PackBuffer(buf) // the question came from a message, so it packs
	}
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *miekg.A:
			r.note(netip.AddrFrom4([4]byte(rr.A.To4())), rr.Hdr.Ttl)
		case *miekg.AAAA:
			r.note(netip.AddrFrom16([16]byte(rr.AAAA)), rr.Hdr.Ttl)
		}
	}
	s.emit(r, rcode, answers)
	return out
}

// note keeps an address of the answer for the query log, and for how many seconds it may be used.
func (r *request) note(a netip.Addr, ttl uint32) {
	if !r.logged || len(r.log.Addresses) == maxLogged {
		return
	}
	if len(r.log.Addresses) == 0 || ttl < r.log.TTL {
		r.log.TTL = ttl
	}
	r.log.Addresses = append(r.log.Addresses, a)
}

func (r *request) startLog() {
	r.asked = r.st.zone.QueryLog(r.vpc)
	r.logged = r.asked || r.st.zone.Watches(r.vpc)
	r.log = Query{Time: r.arrived, VPC: r.vpc, Client: r.addr, Name: r.q.Name, Type: r.q.Qtype, Class: r.q.Qclass, TCP: r.tcp}
}

// emit counts what the query firewall did, and hands a query to the query log: of a VPC that has one, or if BLOCK or ALERT decided.
func (s *Server) emit(r *request, rcode, answers int) {
	switch r.log.Firewall {
	case zone.Block:
		s.stats.blocked.Add(1)
	case zone.Alert:
		s.stats.alerted.Add(1)
	}
	if r.log.Decided = !r.asked && r.log.Firewall != zone.Allow; !r.asked && !r.log.Decided {
		return
	}
	r.log.RCODE, r.log.Answers, r.log.Duration = rcode, answers, time.Since(r.arrived)
	s.cfg.QueryLog(r.log)
}

// sameName compares names as DNS does.
func sameName(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}
