package dns

import (
	"hash/maphash"
	"maps"
	"net/netip"
	"sync"
	"time"
)

// client is who asks.
type client struct {
	vpc  uint32
	addr netip.Addr
}

// Sizes of the rate limit. Only a workload's own address reaches the server, so there are as many clients as interfaces on
// the node: some hundreds.
const (
	rateShards   = 64
	maxRateShard = 1024 // clients that a shard knows
)

// rateLimit is a token bucket for each client, of one second's queries: nobody's queries count towards another's.
type rateLimit struct {
	interval time.Duration // between queries; 0: no limit
	start    time.Time
	seed     maphash.Seed
	shards   [rateShards]rateShard
}

// rateShard holds for each client when its bucket is full again, since start. Who is not in it has a full bucket.
type rateShard struct {
	mu   sync.Mutex
	full map[client]time.Duration
}

// newRateLimit makes one for so many queries a second and client; not more than 0: no limit.
func newRateLimit(perSecond int) *rateLimit {
	r := &rateLimit{start: time.Now(), seed: maphash.MakeSeed()}
	if perSecond > 0 {
		r.interval = time.Second / time.Duration(perSecond)
	}
	for i := range r.shards {
		r.shards[i].full = map[client]time.Duration{}
	}
	return r
}

func (r *rateLimit) allow(c client, now time.Time) bool {
	if r.interval == 0 {
		return true
	}
	since := now.Sub(r.start)
	s := &r.shards[maphash.Comparable(r.seed, c)%rateShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	full, known := s.full[c]
	full = max(full, since) + r.interval
	if full-since > max(time.Second, r.interval) || !known && !s.room(since) {
		return false
	}
	s.full[c] = full
	return true
}

// room forgets clients whose buckets are full when the shard has no place for another. It reports whether there is one.
func (s *rateShard) room(since time.Duration) bool {
	if len(s.full) < maxRateShard {
		return true
	}
	maps.DeleteFunc(s.full, func(_ client, full time.Duration) bool { return full <= since })
	return len(s.full) < maxRateShard
}

// shares divides places among accounts. An account gets one more only while it has fewer than are free. So one account
// alone gets half of them, n accounts get 1/(n+1) each, and whoever comes next always finds some.
type shares struct {
	mu       sync.Mutex
	free     int
	accounts map[string]int
}

func newShares(places int) *shares { return &shares{free: places, accounts: map[string]int{}} }

func (s *shares) acquire(account string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accounts[account] >= s.free {
		return false
	}
	s.free--
	s.accounts[account]++
	return true
}

func (s *shares) release(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	if s.accounts[account]--; s.accounts[account] == 0 {
		delete(s.accounts, account)
	}
}

// connLimit bounds TCP connections per account and per client.
type connLimit struct {
	shares  *shares
	mu      sync.Mutex
	clients map[client]int
}

func newConnLimit() *connLimit {
	return &connLimit{shares: newShares(maxConns), clients: map[client]int{}}
}

func (l *connLimit) acquire(account string, c client) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients[c] >= maxConnsPerClient || !l.shares.acquire(account) {
		return false
	}
	l.clients[c]++
	return true
}

func (l *connLimit) release(account string, c client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shares.release(account)
	if l.clients[c]--; l.clients[c] == 0 {
		delete(l.clients, c)
	}
}
