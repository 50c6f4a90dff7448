package dns

import (
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
func (s *Server) local(r *request, a zone.Answer) *miekg.Msg {
	m := r.reply(miekg.RcodeSuccess)
	m.Authoritative = a.Private
	switch a.Kind {
	case zone.Refused:
		m.Rcode = miekg.RcodeRefused
	case zone.Found:
		m.Answer = s.records(r.q.Name, a)
	case zone.NXDomain:
		m.Rcode = miekg.RcodeNameError
		m.Ns = []miekg.RR{soa(a)}
	case zone.NoData:
		switch {
		case r.q.Qtype == miekg.TypeSOA && a.Private && sameName(r.q.Name, a.Apex):
			m.Answer = []miekg.RR{soa(a)}
		case r.q.Qtype == miekg.TypeANY && a.Private:
			m.Answer = []miekg.RR{&miekg.HINFO{Hdr: header(r.q.Name, miekg.TypeHINFO, zone.TTL), Cpu: "RFC8482"}}
		default:
			m.Ns = []miekg.RR{soa(a)}
		}
	}
	return m
}

func header(name string, rrtype uint16, ttl uint32) miekg.RR_Header {
	return miekg.RR_Header{Name: name, Rrtype: rrtype, Class: miekg.ClassINET, Ttl: ttl}
}

// records are the records of a found name. Several addresses begin with another one each time, which spreads clients
// that use the first.
func (s *Server) records(owner string, a zone.Answer) []miekg.RR {
	list := make([]miekg.RR, 0, len(a.Addresses)+len(a.Pointers))
	if n := len(a.Addresses); n > 0 {
		first := 0
		if n > 1 {
			first = int(s.rotation.Add(1) % uint32(n))
		}
		for i := range n {
			list = append(list, addressRecord(owner, a.Addresses[(first+i)%n], a.TTL))
		}
	}
	for _, p := range a.Pointers {
		list = append(list, &miekg.PTR{Hdr: header(owner, miekg.TypePTR, a.TTL), Ptr: p + "."})
	}
	return list
}

func addressRecord(owner string, address netip.Addr, ttl uint32) miekg.RR {
	if address.Is4() {
		return &miekg.A{Hdr: header(owner, miekg.TypeA, ttl), A: address.AsSlice()}
	}
	return &miekg.AAAA{Hdr: header(owner, miekg.TypeAAAA, ttl), AAAA: address.AsSlice()}
}

// soa says how long a negative answer holds, RFC 2308.
func soa(a zone.Answer) miekg.RR {
	apex := a.Apex + "."
	return &miekg.SOA{
		Hdr: header(apex, miekg.TypeSOA, zone.NegativeTTL), Ns: apex, Mbox: soaMailbox, Serial: soaSerial,
		Refresh: soaRefresh, Retry: soaRetry, Expire: soaExpire, Minttl: zone.NegativeTTL,
	}
}
