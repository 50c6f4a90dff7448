package dns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	miekg "github.com/miekg/dns"
	"golang.org/x/sync/singleflight"

	"github.com/culvert-net/culvert/dns/zone"
	"github.com/culvert-net/culvert/internal/logkey"
)

// route is whom a question goes to: a rule's forwarders, or with "" those of the VPC.
type route struct {
	vpc  uint32
	rule string
}

// forwarder asks the forwarders of one route.
type forwarder struct {
	account   string // whose VPC it is
	rule      string
	list      []zone.Forwarder
	upstreams []*upstream
	cache     *cache
	flight    singleflight.Group // equal questions wait for one answer: also, no birthday attack on ids
}

func (s *Server) newForwarder(to route, account string, list []zone.Forwarder) *forwarder {
	f := &forwarder{account: account, rule: to.rule, list: list, cache: newCache(maxCache)}
	for _, u := range list {
		f.upstreams = append(f.upstreams, s.newUpstream(to.vpc, account, u))
	}
	return f
}

func (f *forwarder) same(account string, list []zone.Forwarder) bool {
	return f.account == account && slices.Equal(f.list, list)
}

func (f *forwarder) close() {
	for _, u := range f.upstreams {
		u.close()
	}
}

// forwarder is that of a rule of a VPC, as a zone's answer numbers them, or nil.
func (st *state) forwarder(vpc uint32, rule int) *forwarder {
	if rule < 0 {
		return st.forwarders[route{vpc: vpc}]
	}
	rules := st.zone.Rules(vpc)
	if rule >= len(rules) {
		return nil
	}
	return st.forwarders[route{vpc, rules[rule].ID}]
}

// startForward answers a question that needs a forwarder: at once when it can.
func (s *Server) startForward(query request, at place, buf []byte) ([]byte, waiting) {
	r := &query
	switch {
	case r.flags&flagRD == 0 && len(at.chain) > 0:
		at.Answer = zone.Answer{Kind: zone.Found} // the aliases are an answer as far as it goes
		return s.local(r, at, buf), nil
	case r.flags&flagRD == 0 || r.recursion() == 0:
		return s.refuse(r, miekg.RcodeRefused, buf), nil
	case r.q.Qtype == miekg.TypeANY:
		return s.refuse(r, miekg.RcodeNotImplemented, buf), nil
	}
	r.log.Forwarded = true
	log, overridden := r.log, r.overridden
	if m := s.assemble(r, at, r.kept); m != nil {
		s.stats.cacheHits.Add(1)
		r.log.CacheHit = true
		return s.finish(r, m, buf), nil
	}
	r.log, r.overridden = log, overridden // the second attempt begins where the first one did, and judges what it passes itself
	account := r.st.zone.Account(r.vpc)
	if !s.forwards.acquire(account) {
		s.stats.forwardsRefused.Add(1)
		return s.refuse(r, miekg.RcodeServerFailure, buf), nil
	}
	r.data = nil // is the next query's by then
	return nil, func(ctx context.Context) (out []byte) {
		defer s.forwards.release(account)
		ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
		defer cancel()
		r.turn = func(work func()) bool { return s.reading.do(ctx, account, work) }
		m := s.assemble(r, at, func(f *forwarder, k question) (*entry, bool) { return s.fetch(ctx, r, f, k) })
		if m != nil && !r.forwarded {
			s.stats.cacheHits.Add(1)
			r.log.CacheHit = true
		}
		if m != nil && r.turn(func() { out = s.finish(r, m, nil) }) {
			return out
		}
		return s.finish(r, r.reply(miekg.RcodeServerFailure), nil)
	}
}

// kept is the source that only has what the cache holds and costs little to take apart.
func (r *request) kept(f *forwarder, k question) (e *entry, stale bool) {
	if e = f.cache.get(k); e != nil && e.fresh(r.arrived) && !e.long {
		return e, false
	}
	return nil, false
}

// inTurn does work on a forwarder's answer when it is the account's turn; what is given at once is little and does not wait. It reports
// whether that came in time.
func (r *request) inTurn(work func()) bool {
	if r.turn != nil {
		return r.turn(work)
	}
	work()
	return true
}

// fetch is the source that asks the forwarders; when none answers, an answer that expired lately is better than none.
func (s *Server) fetch(ctx context.Context, r *request, f *forwarder, k question) (e *entry, stale bool) {
	if e := f.cache.get(k); e != nil && e.fresh(r.arrived) {
		return e, false
	}
	if !r.forwarded {
		r.forwarded = true
		s.stats.forwarded.Add(1)
	}
	v, err, _ := f.flight.Do(fmt.Sprintf("%q %d %t %t", k.name, k.qtype, k.do, k.cd), func() (any, error) {
		e, err := s.ask(ctx, f, k)
		if err == nil {
			f.cache.put(k, e)
		}
		return e, err
	})
	if err == nil {
		return v.(*entry), false
	}
	if e := f.cache.get(k); e != nil && e.usable(time.Now()) {
		s.stats.stale.Add(1)
		r.log.CacheHit = true
		return e, true
	}
	return nil, false
}

var errNoForwarder = errors.New("no forwarder answered")

// ask tries one forwarder after another, those that failed last.
func (s *Server) ask(ctx context.Context, f *forwarder, k question) (*entry, error) {
	order := slices.Clone(f.upstreams)
	slices.SortStableFunc(order, func(a, b *upstream) int { return a.rank() - b.rank() })
	for _, u := range order {
		m, err := u.ask(ctx, k)
		if err == nil {
			u.succeeded()
			var e *entry
			if !s.reading.do(ctx, f.account, func() { e, err = newEntry(m, k, time.Now()) }) {
				return nil, errNoForwarder
			}
			if err == nil {
				e.from = u.name
			}
			return e, err
		}
		if ctx.Err() != nil || errors.Is(err, errTurn) { // no time left, or the server stops: not this forwarder's fault
			return nil, errNoForwarder
		}
		s.stats.upstreamFailures.Add(1)
		if u.failed(time.Now()) {
			s.cfg.Log.Warn("dns forwarder fails", logkey.VPC, u.vpc, logkey.Forwarder, u.to.String(), logkey.Error, err)
		}
	}
	return nil, errNoForwarder
}

// newEntry keeps of a forwarder's reply what clients get.
func newEntry(m *miekg.Msg, k question, now time.Time) (*entry, error) {
	m.Id, m.Compress = 0, true
	m.Extra = nil
	m.Answer = keepINET(m.Answer)
	m.Ns = keepINET(m.Ns)
	if len(m.Answer) > 0 && !k.do {
		m.Ns = nil
	}
	ttl := answerTTL(m)
	wire, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack forwarder's answer: %w", err)
	}
	m.Compress = false
	return &entry{wire: wire, stored: now, ttl: time.Duration(ttl) * time.Second, long: m.Len() > maxAtOnce}, nil
}

// keepINET keeps records of class IN and bounds their TTL; one with the top bit set counts as 0, RFC 2181 section 8.
func keepINET(list []miekg.RR) []miekg.RR {
	return slices.DeleteFunc(list, func(rr miekg.RR) bool {
		h := rr.Header()
		if h.Ttl > 1<<31-1 {
			h.Ttl = 0
		}
		h.Ttl = min(h.Ttl, maxTTL)
		return h.Class != miekg.ClassINET || h.Rrtype == miekg.TypeOPT
	})
}

// answerTTL is how long an answer may be kept, in seconds: its shortest TTL; for a negative one what its SOA says, and
// without SOA 0.
func answerTTL(m *miekg.Msg) uint32 {
	ttl := uint32(maxTTL)
	for _, rr := range m.Answer {
		ttl = min(ttl, rr.Header().Ttl)
	}
	if m.Rcode == miekg.RcodeSuccess && len(m.Answer) > 0 {
		return ttl
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*miekg.SOA); ok {
			return min(ttl, soa.Hdr.Ttl, soa.Minttl, maxNegative)
		}
	}
	return 0
}

func age(h *miekg.RR_Header, e *entry, stale bool) {
	passed := uint32(max(time.Since(e.stored)/time.Second, 0))
	switch {
	case stale:
		h.Ttl = staleTTL
	case passed >= h.Ttl:
		h.Ttl = 0
	default:
		h.Ttl -= passed
	}
}
