package dns

import "sync/atomic"

// Stats are counts since New.
type Stats struct {
	Queries          uint64 // that came from a client served here, within its rate
	NotClient        uint64 // dropped: the source is no workload of a VPC served here
	RateLimited      uint64 // dropped, by the server or by its Guard
	Malformed        uint64 // dropped, or answered FORMERR
	ConnsRefused     uint64 // TCP connections over a limit, or from no client
	Forwarded        uint64 // queries that a forwarder was asked for
	ForwardsRefused  uint64 // SERVFAIL because too many wait already
	CacheHits        uint64
	Stale            uint64 // expired answers given because no forwarder answered
	UpstreamFailures uint64 // a forwarder gave no usable answer
	Blocked          uint64 // by the query firewall
	Alerted          uint64 // by the query firewall, which let them pass
	Panics           uint64 // queries dropped by a fault in the server
}

type counters struct {
	queries, notClient, rateLimited, malformed, connsRefused       atomic.Uint64
	forwarded, forwardsRefused, cacheHits, stale, upstreamFailures atomic.Uint64
	blocked, alerted, panics                                       atomic.Uint64
}

// Stats returns the counts.
func (s *Server) Stats() Stats {
	c := &s.stats
	return Stats{
		Queries:          c.queries.Load(),
		NotClient:        c.notClient.Load(),
		RateLimited:      c.rateLimited.Load() + s.cfg.GuardDropped(),
		Malformed:        c.malformed.Load(),
		ConnsRefused:     c.connsRefused.Load(),
		Forwarded:        c.forwarded.Load(),
		ForwardsRefused:  c.forwardsRefused.Load(),
		CacheHits:        c.cacheHits.Load(),
		Stale:            c.stale.Load(),
		UpstreamFailures: c.upstreamFailures.Load(),
		Blocked:          c.blocked.Load(),
		Alerted:          c.alerted.Load(),
		Panics:           c.panics.Load(),
	}
}
