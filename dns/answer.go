package dns

import (
	"encoding/binary"
	"net/netip"

	miekg "github.com/miekg/dns"

	"github.com/culvert-net/culvert/dns/zone"
)

// Fields of the SOA record of private names. Nobody transfers or refreshes them; only the negative TTL is used.
const (
	soaMailbox = "nobody.invalid."
	soaSerial  = 1
	soaRefresh = 3600
	soaRetry   = 600
	soaExpire  = 86400
)

// local is the reply to a question that the zone answers.
func (s *Server) local(r *request, at place, buf []byte) []byte {
	var e encoder
	e.begin(r, buf)
	a := at.Answer
	r.log.Endpoint, r.log.Hosted = a.Endpoint, a.Hosted
	rcode, answers, flags := miekg.RcodeSuccess, len(at.chain), r.recursion()
	if (a.Private || answers > 0) && !r.overridden {
		flags |= flagAA
	}
	for _, l := range at.chain {
		start, data := e.record(l.owner, l.record.Type, l.record.TTL)
		e.data(l.record)
		e.finish(sectionAnswer, start, data)
	}
	switch a.Kind {
	case zone.Refused:
		rcode = miekg.RcodeRefused
	case zone.Found:
		answers += s.encode(r, &e, at.name, a)
	case zone.NXDomain:
		rcode = miekg.RcodeNameError
		e.soa(sectionAuthority, a)
	case zone.NoData:
		switch {
		case r.q.Qtype == miekg.TypeSOA && a.Private && sameName(at.name, a.Apex):
			e.soa(sectionAnswer, a)
			answers++
		case r.q.Qtype == miekg.TypeANY && a.Private:
			start, data := e.record(r.q.Name, miekg.TypeHINFO, zone.TTL)
			e.out = append(e.out, minimalAny...)
			e.finish(sectionAnswer, start, data)
			answers++
		default:
			e.soa(sectionAuthority, a)
		}
	}
	out := e.end(r, rcode, flags)
	s.emit(r, rcode, answers)
	return out
}

// minimalAny is the data of the HINFO record that ANY gets: CPU "RFC8482", no system.
const minimalAny = "\x07RFC8482\x00"

// encode writes the records of a found name and returns how many there are. Several addresses begin with another one each
// time, which spreads clients that use the first.
func (s *Server) encode(r *request, e *encoder, owner string, a zone.Answer) int {
	n := len(a.Addresses)
	first := s.firstOf(n)
	for i := range n {
		address := a.Addresses[(first+i)%n]
		rrtype := miekg.TypeAAAA
		if address.Is4() {
			rrtype = miekg.TypeA
		}
		start, data := e.record(owner, rrtype, a.TTL)
		if b := address.As16(); address.Is4() {
			e.out = append(e.out, b[12:]...)
		} else {
			e.out = append(e.out, b[:]...)
		}
		e.finish(sectionAnswer, start, data)
		r.note(address, a.TTL)
	}
	for _, p := range a.Pointers {
		start, data := e.record(owner, miekg.TypePTR, a.TTL)
		e.name(p + ".")
		e.finish(sectionAnswer, start, data)
	}
	m := len(a.Records)
	first = s.firstOf(m)
	for i := range m {
		rr := a.Records[(first+i)%m]
		start, data := e.record(owner, rr.Type, rr.TTL)
		e.data(rr)
		e.finish(sectionAnswer, start, data)
		if rr.Type == zone.TypeA || rr.Type == zone.TypeAAAA {
			if address, ok := netip.AddrFromSlice(rr.Data); ok {
				r.note(address, rr.TTL)
			}
		}
	}
	return n + len(a.Pointers) + m
}

// data writes a record's data. An alias's is a name, which is compressed: a chain of aliases has to fit into the 512 bytes of a client that
// knows neither EDNS nor TCP, as musl before 1.2.4.
func (e *encoder) data(rr zone.Record) {
	if rr.Type == miekg.TypeCNAME {
		if target, _, ok := readName(rr.Data, 0); ok {
			e.name(target)
			return
		}
	}
	e.out = append(e.out, rr.Data...)
}

// firstOf says which of n addresses comes first this time.
func (s *Server) firstOf(n int) int {
	if n < 2 {
		return 0
	}
	return int(s.rotation.Add(1) % uint32(n))
}

// soa writes the record that says how long a negative answer holds, RFC 2308.
func (e *encoder) soa(section int, a zone.Answer) {
	apex := a.Apex + "."
	start, data := e.record(apex, miekg.TypeSOA, zone.NegativeTTL)
	e.name(apex)
	e.name(soaMailbox)
	for _, n := range [...]uint32{soaSerial, soaRefresh, soaRetry, soaExpire, zone.NegativeTTL} {
		e.out = binary.BigEndian.AppendUint32(e.out, n)
	}
	e.finish(section, start, data)
}

// records are the records of a found name that an alias from a forwarder leads to.
func (s *Server) records(owner string, a zone.Answer) []miekg.RR {
	list := make([]miekg.RR, 0, len(a.Addresses)+len(a.Pointers))
	n := len(a.Addresses)
	first := s.firstOf(n)
	for i := range n {
		list = append(list, addressRecord(owner, a.Addresses[(first+i)%n], a.TTL))
	}
	for _, p := range a.Pointers {
		list = append(list, &miekg.PTR{Hdr: header(owner, miekg.TypePTR, a.TTL), Ptr: p + "."})
	}
	for _, r := range a.Records {
		list = append(list, unpacked(owner, r)...)
	}
	return list
}

func header(name string, rrtype uint16, ttl uint32) miekg.RR_Header {
	return miekg.RR_Header{Name: name, Rrtype: rrtype, Class: miekg.ClassINET, Ttl: ttl}
}

func addressRecord(owner string, address netip.Addr, ttl uint32) miekg.RR {
	if address.Is4() {
		return &miekg.A{Hdr: header(owner, miekg.TypeA, ttl), A: address.AsSlice()}
	}
	return &miekg.AAAA{Hdr: header(owner, miekg.TypeAAAA, ttl), AAAA: address.AsSlice()}
}

// soa is the same record for a forwarded question.
func soa(a zone.Answer) miekg.RR {
	apex := a.Apex + "."
	return &miekg.SOA{
		Hdr: header(apex, miekg.TypeSOA, zone.NegativeTTL), Ns: apex, Mbox: soaMailbox, Serial: soaSerial,
		Refresh: soaRefresh, Retry: soaRetry, Expire: soaExpire, Minttl: zone.NegativeTTL,
	}
}
