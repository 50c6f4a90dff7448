package dns

import (
	"slices"
	"strings"

	miekg "github.com/miekg/dns"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/dns/zone"
)

// maxAliases bounds how many CNAME records are followed for one question, whoever gave them.
const maxAliases = 16

// place is how far a question has got: the aliases of the zone that were followed from the one before, and what is known of the
// name that they lead to.
type place struct {
	chain []alias
	name  string // with trailing dot
	zone.Answer
	hops   int  // aliases so far, of the zone and of forwarders
	failed bool // it gets SERVFAIL: there were too many, or the query firewall does not know
	fresh  bool // what was found before does not count
}

// alias is a CNAME record of the zone, or of the query firewall.
type alias struct {
	owner  string // with trailing dot
	record zone.Record
}

// begin looks up the question's name.
func (r *request) begin() place {
	if v, blocked := r.judge(r.q.Name); blocked {
		return r.instead(v)
	}
	return r.follow(place{name: r.q.Name})
}

// judge asks the query firewall about a name, and notes a rule that says something.
func (r *request) judge(name string) (v zone.Verdict, blocked bool) {
	if r.overridden {
		return v, false
	}
	v = r.st.zone.Firewall(r.vpc, name)
	if v.Rule != "" && (r.log.FirewallRule == "" || v.Action != zone.Allow) {
		r.log.FirewallRule, r.log.Firewall = v.Rule, v.Action
	}
	return v, v.Action == zone.Block
}

// instead is what a blocked question gets. Where the firewall leads elsewhere, it does not look at that.
func (r *request) instead(v zone.Verdict) place {
	at := place{name: r.q.Name, fresh: true, Answer: zone.Answer{Kind: zone.NoData, TTL: zone.NegativeTTL}}
	switch v.Response {
	case zone.BlockNXDomain:
		at.Kind = zone.NXDomain
	case zone.BlockFailure:
		at.failed = true
	case zone.BlockOverride:
		data, err := api.PackRecord("CNAME", v.Override)
		if err != nil {
			return at // the zone holds no such name; no answer is better than the blocked one
		}
		r.overridden = true
		at.chain = []alias{{r.q.Name, zone.Record{Type: miekg.TypeCNAME, TTL: v.TTL, Data: data}}}
		if r.q.Qtype == miekg.TypeCNAME || r.q.Qtype == miekg.TypeANY {
			at.Answer = zone.Answer{Kind: zone.Found}
			return at
		}
		at.name, _, _ = readName(data, 0) // as it is packed, which knows more ways to write it
		return r.follow(at)
	}
	return at
}

// follow looks a name up, and those that aliases of the zone lead to.
func (r *request) follow(at place) place {
	for {
		at.Answer = r.st.zone.Lookup(r.vpc, at.name, r.q.Qtype)
		if at.Alias == "" || r.q.Qtype == miekg.TypeANY {
			return at
		}
		if at.hops++; at.hops > maxAliases {
			at.failed = true
			return at
		}
		at.chain = append(at.chain, alias{at.name, at.Records[0]})
		at.name = at.Alias + "."
		if v, blocked := r.judge(at.name); blocked {
			return r.instead(v)
		}
	}
}

// source gives a forwarder's answer, nil when it has none.
type source func(f *forwarder, k question) (e *entry, stale bool)

// assemble makes the reply to a question that needs forwarders; nil when one gives no answer.
func (s *Server) assemble(r *request, at place, from source) *miekg.Msg {
	m := r.reply(miekg.RcodeSuccess)
	for {
		if at.fresh {
			m.Answer = nil
		}
		for _, l := range at.chain {
			m.Answer = append(m.Answer, unpacked(l.owner, l.record)...)
		}
		if at.failed {
			return r.reply(miekg.RcodeServerFailure)
		}
		if at.Kind != zone.Forward {
			s.complete(r, m, at)
			return m
		}
		f := r.st.forwarder(r.vpc, at.Rule)
		if f == nil {
			return r.reply(miekg.RcodeServerFailure)
		}
		r.log.Rule = f.rule
		e, stale := from(f, question{strings.ToLower(at.name), r.q.Qtype, r.edns.do, r.flags&flagCD != 0})
		if e == nil {
			return nil
		}
		r.log.Stale, r.log.Upstream = r.log.Stale || stale, e.from
		var more bool
		if !r.inTurn(func() { at, more = s.take(r, m, at, e, stale) }) {
			return nil
		}
		if !more {
			return m
		}
	}
}

// complete adds what the zone answers at the end of aliases.
func (s *Server) complete(r *request, m *miekg.Msg, at place) {
	r.log.Endpoint = at.Endpoint
	switch at.Kind {
	case zone.Found:
		m.Answer = append(m.Answer, s.records(at.name, at.Answer)...)
	case zone.NXDomain:
		m.Rcode, m.Ns = miekg.RcodeNameError, []miekg.RR{soa(at.Answer)}
	default:
		m.Ns = []miekg.RR{soa(at.Answer)}
	}
}

// take adds a forwarder's answer to the reply. What it says about private names is left out, and so is what it says about names
// that another forwarder is to be asked for: when one of its aliases leads to such a name, that is where to go on.
func (s *Server) take(r *request, m *miekg.Msg, at place, e *entry, stale bool) (next place, more bool) {
	var up miekg.Msg
	if up.Unpack(e.wire) != nil {
		return place{name: at.name, failed: true}, true // was packed here: it cannot be
	}
	for _, section := range [][]miekg.RR{up.Answer, up.Ns} {
		for _, rr := range section {
			age(rr.Header(), e, stale)
			if strings.EqualFold(rr.Header().Name, at.name) {
				rr.Header().Name = at.name // a forwarder was asked in random case
			}
		}
	}
	z, passed := r.st.zone, []string{at.name}
	up.Answer = slices.DeleteFunc(up.Answer, func(rr miekg.RR) bool { return z.Private(r.vpc, rr.Header().Name) })
	for {
		name := passed[len(passed)-1]
		i := slices.IndexFunc(up.Answer, func(rr miekg.RR) bool {
			return rr.Header().Rrtype == miekg.TypeCNAME && strings.EqualFold(rr.Header().Name, name)
		})
		if i < 0 || r.q.Qtype == miekg.TypeCNAME {
			break
		}
		if at.hops++; at.hops > maxAliases {
			return place{name: name, failed: true}, true
		}
		name = up.Answer[i].(*miekg.CNAME).Target
		if v, blocked := r.judge(name); blocked {
			return r.instead(v), true
		}
		if a := z.Lookup(r.vpc, name, r.q.Qtype); a.Kind != zone.Forward || a.Rule != at.Rule {
			for _, rr := range up.Answer {
				if slices.ContainsFunc(passed, func(p string) bool { return strings.EqualFold(rr.Header().Name, p) }) {
					m.Answer = append(m.Answer, rr)
				}
			}
			return r.follow(place{name: name, hops: at.hops}), true
		}
		passed = append(passed, name)
	}
	m.Rcode = up.Rcode
	if at.Ancestor && m.Rcode == miekg.RcodeNameError {
		m.Rcode = miekg.RcodeSuccess
	}
	m.AuthenticatedData = up.AuthenticatedData && len(m.Answer) == 0 && (r.flags&flagAD != 0 || r.edns.do)
	m.Answer, m.Ns = append(m.Answer, up.Answer...), up.Ns
	return at, false
}

// unpacked is a record of the zone as the library has it.
func unpacked(owner string, r zone.Record) []miekg.RR {
	h := header(owner, r.Type, r.TTL)
	h.Rdlength = uint16(len(r.Data))
	rr, _, err := miekg.UnpackRRWithHeader(h, r.Data, 0)
	if err != nil {
		return nil // the zone packed it
	}
	return []miekg.RR{rr}
}
