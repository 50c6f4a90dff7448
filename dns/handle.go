package dns

import (
	"context"
	"encoding/binary"
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
	st  *state
	msg miekg.Msg
	q   miekg.Question
	opt *miekg.OPT // nil: no EDNS
	log Query      // filled as the answer comes about
}

// waiting asks forwarders and returns the reply, never nil. It may take forwardTimeout.
type waiting func(ctx context.Context) []byte

// handle answers a message: out is the reply (it may lie in buf), or wait gives it later, or both are nil and nothing
// is sent.
func (s *Server) handle(st *state, p packet, buf []byte) (out []byte, wait waiting) {
	if len(p.data) < minQuery || p.data[2]&flagResponse != 0 {
		s.stats.malformed.Add(1)
		return nil, nil
	}
	s.stats.queries.Add(1)
	if rcode := checkHeader(p.data); rcode != miekg.RcodeSuccess {
		return s.bare(p, rcode, buf), nil
	}
	r := &request{packet: p, st: st}
	if rcode := r.parse(); rcode != miekg.RcodeSuccess {
		return s.bare(p, rcode, buf), nil
	}
	r.data = nil
	r.startLog()
	if rcode := r.check(); rcode != miekg.RcodeSuccess {
		return s.finish(r, r.reply(rcode), buf), nil
	}
	a := st.zone.Lookup(p.vpc, r.q.Name, r.q.Qtype)
	r.log.Endpoint = a.Endpoint
	if a.Kind != zone.Forward {
		return s.finish(r, s.local(r, a), buf), nil
	}
	return s.startForward(r, a, buf)
}

// Bits of the third octet of the header, RFC 1035 section 4.1.1.
const (
	flagResponse     = 0x80
	opcodeMask       = 0x78
	flagRecursionAsk = 0x01
)

// checkHeader looks at what can be told without reading the message; so a header that promises 65,535 records costs
// nothing.
func checkHeader(data []byte) (rcode int) {
	if data[2]&opcodeMask != miekg.OpcodeQuery<<3 {
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
func (s *Server) bare(p packet, rcode int, buf []byte) []byte {
	if rcode == miekg.RcodeFormatError {
		s.stats.malformed.Add(1)
	}
	out := append(buf[:0], p.data[:4]...)
	out[2] = flagResponse | p.data[2]&(opcodeMask|flagRecursionAsk)
	out[3] = byte(rcode)
	out = append(out, 0, 0, 0, 0, 0, 0, 0, 0)
	r := request{packet: p}
	r.startLog()
	s.emit(&r.log, rcode, 0)
	return out
}

// parse reads the message.
func (r *request) parse() (rcode int) {
	if r.msg.Unpack(r.data) != nil || len(r.msg.Question) != 1 {
		return miekg.RcodeFormatError
	}
	r.q = r.msg.Question[0]
	if len(r.msg.Ns) > 0 && r.q.Qtype != miekg.TypeIXFR {
		return miekg.RcodeFormatError
	}
	for _, rr := range r.msg.Extra {
		opt, ok := rr.(*miekg.OPT)
		if !ok {
			continue
		}
		if r.opt != nil || opt.Hdr.Name != "." {
			return miekg.RcodeFormatError
		}
		r.opt = opt
	}
	return miekg.RcodeSuccess
}

// check refuses what is well-formed but not served.
func (r *request) check() (rcode int) {
	if r.opt != nil && r.opt.Version() != 0 {
		return miekg.RcodeBadVers
	}
	if n := len(r.msg.Extra); n > 0 {
		switch r.msg.Extra[n-1].(type) {
		case *miekg.TSIG, *miekg.SIG:
			return miekg.RcodeNotAuth // no key is shared with anybody
		}
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

// reply is an empty reply.
func (r *request) reply(rcode int) *miekg.Msg {
	m := new(miekg.Msg)
	m.SetReply(&r.msg)
	m.Rcode = rcode
	m.RecursionAvailable = r.st.forwarders[r.vpc] != nil
	return m
}

// do reports whether the client asked for DNSSEC records.
func (r *request) do() bool { return r.opt != nil && r.opt.Do() }

// size is how long the reply may be.
func (r *request) size() int {
	switch {
	case r.tcp:
		return maxTCPReply
	case r.opt == nil:
		return plainUDPSize
	}
	return min(max(int(r.opt.UDPSize()), plainUDPSize), maxUDPReply)
}

// finish adds EDNS, packs the reply within its size and logs it.
func (s *Server) finish(r *request, m *miekg.Msg, buf []byte) []byte {
	rcode, answers := m.Rcode, len(m.Answer)
	if r.opt != nil {
		m.SetEdns0(maxUDPReply, r.do())
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
	s.emit(&r.log, rcode, answers)
	return out
}

func (r *request) startLog() {
	r.log = Query{Time: r.arrived, VPC: r.vpc, Client: r.addr, Name: r.q.Name, Type: r.q.Qtype, TCP: r.tcp}
}

// emit hands a query to the query log.
func (s *Server) emit(q *Query, rcode, answers int) {
	q.RCODE, q.Answers, q.Duration = rcode, answers, time.Since(q.Time)
	s.cfg.QueryLog(*q)
}

// sameName compares names as DNS does.
func sameName(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}
