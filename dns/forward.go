package dns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	miekg "github.com/miekg/dns"
	"golang.org/x/sync/singleflight"

	"github.com/culvert-net/culvert/dns/zone"
	"github.com/culvert-net/culvert/internal/logkey"
)

// forwarder asks the forwarders of one VPC.
type forwarder struct {
	account   string // whose VPC it is
	list      []zone.Forwarder
	upstreams []*upstream
	cache     *cache
	flight    singleflight.Group // equal questions wait for one answer: also, no birthday attack on ids
}

func (s *Server) newForwarder(vpc uint32, account string, list []zone.Forwarder) *forwarder {
	f := &forwarder{account: account, list: list, cache: newCache(maxCache)}
	for _, to := range list {
		f.upstreams = append(f.upstreams, s.newUpstream(vpc, to))
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

// startForward answers a question that is not private: at once when it can.
func (s *Server) startForward(r *request, a zone.Answer, buf []byte) ([]byte, waiting) {
	f := r.st.forwarders[r.vpc]
	switch {
	case f == nil || !r.msg.RecursionDesired:
		return s.finish(r, r.reply(miekg.RcodeRefused), buf), nil
	case r.q.Qtype == miekg.TypeANY:
		return s.finish(r, r.reply(miekg.RcodeNotImplemented), buf), nil
	}
	r.log.Forwarded = true
	k := question{strings.ToLower(r.q.Name), r.q.Qtype, r.do(), r.msg.CheckingDisabled}
	if e := f.cache.get(k); e != nil && e.fresh(r.arrived) {
		s.stats.cacheHits.Add(1)
		r.log.CacheHit = true
		return s.finish(r, s.render(r, a, e), buf), nil
	}
	if !s.forwards.acquire(f.account) {
		s.stats.forwardsRefused.Add(1)
		return s.finish(r, r.reply(miekg.RcodeServerFailure), buf), nil
	}
	s.stats.forwarded.Add(1)
	return nil, func(ctx context.Context) []byte {
		defer s.forwards.release(f.account)
		return s.finish(r, s.forward(ctx, r, a, f, k), nil)
	}
}

// forward asks the forwarders; when none answers, an answer that expired lately is better than none.
func (s *Server) forward(ctx context.Context, r *request, a zone.Answer, f *forwarder, k question) *miekg.Msg {
	v, err, _ := f.flight.Do(fmt.Sprintf("%q %d %t %t", k.name, k.qtype, k.do, k.cd), func() (any, error) {
		ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
		defer cancel()
		e, err := s.ask(ctx, f, k)
		if err == nil {
			f.cache.put(k, e)
		}
		return e, err
	})
	if err == nil {
		return s.render(r, a, v.(*entry))
	}
	if e := f.cache.get(k); e != nil && e.usable(time.Now()) {
		s.stats.stale.Add(1)
		r.log.CacheHit, r.log.Stale = true, true
		return s.render(r, a, e)
	}
	return r.reply(miekg.RcodeServerFailure)
}

var errNoForwarder = errors.New("no forwarder answered")

// ask tries one forwarder after another, those that failed lately last.
func (s *Server) ask(ctx context.Context, f *forwarder, k question) (*entry, error) {
	now := time.Now()
	order := slices.Clone(f.upstreams)
	slices.SortStableFunc(order, func(a, b *upstream) int { return a.rank(now) - b.rank(now) })
	for _, u := range order {
		m, err := u.ask(ctx, k)
		if err == nil {
			u.succeeded()
			return newEntry(m, k, time.Now())
		}
		if ctx.Err() != nil { // no time left, or the server stops: not this forwarder's fault
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
	return &entry{wire: wire, stored: now, ttl: time.Duration(ttl) * time.Second}, nil
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

// render makes the reply from a forwarder's answer.
func (s *Server) render(r *request, a zone.Answer, e *entry) *miekg.Msg {
	var up miekg.Msg
	if err := up.Unpack(e.wire); err != nil {
		s.cfg.Log.Error("dns cache entry cannot be read", logkey.Name, r.q.Name, logkey.Error, err)
		return r.reply(miekg.RcodeServerFailure)
	}
	m := r.reply(up.Rcode)
	m.AuthenticatedData = up.AuthenticatedData && (r.msg.AuthenticatedData || r.do())
	if a.Ancestor && m.Rcode == miekg.RcodeNameError {
		m.Rcode = miekg.RcodeSuccess
	}
	m.Answer, m.Ns = up.Answer, up.Ns
	for _, section := range [][]miekg.RR{m.Answer, m.Ns} {
		for _, rr := range section {
			age(rr.Header(), e, r.log.Stale)
			if strings.EqualFold(rr.Header().Name, r.q.Name) {
				rr.Header().Name = r.q.Name // a forwarder was asked in random case
			}
		}
	}
	s.localizePrivate(r, m)
	return m
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

// maxAliases bounds how many CNAME records are followed.
const maxAliases = 16

// localizePrivate takes out what a forwarder says about private names, and answers for them when an alias leads there.
func (s *Server) localizePrivate(r *request, m *miekg.Msg) {
	z := r.st.zone
	m.Answer = slices.DeleteFunc(m.Answer, func(rr miekg.RR) bool { return z.Private(r.vpc, rr.Header().Name) })
	name := r.q.Name
	for range maxAliases {
		i := slices.IndexFunc(m.Answer, func(rr miekg.RR) bool {
			return rr.Header().Rrtype == miekg.TypeCNAME && strings.EqualFold(rr.Header().Name, name)
		})
		if i < 0 {
			return
		}
		name = m.Answer[i].(*miekg.CNAME).Target
		if a := z.Lookup(r.vpc, name, r.q.Qtype); a.Private {
			m.Rcode = miekg.RcodeSuccess
			m.Ns = nil
			switch a.Kind {
			case zone.Found:
				m.Answer = append(m.Answer, s.records(name, a)...)
			case zone.NXDomain:
				m.Rcode, m.Ns = miekg.RcodeNameError, []miekg.RR{soa(a)}
			default:
				m.Ns = []miekg.RR{soa(a)}
			}
			r.log.Endpoint = a.Endpoint
			return
		}
	}
}
