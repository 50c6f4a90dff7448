package dns

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// client is who asks.
type client struct {
	vpc  uint32
	addr netip.Addr
}

// rateSlots is a power of two. Clients that fall into one slot share its budget; a node hosts some hundreds at most.
const rateSlots = 8192

// rateLimit counts queries per client and second in constant memory. A slot is the second (upper half) and the count in
// it.
type rateLimit struct {
	perSecond uint32 // 0: no limit
	seed      maphash.Seed
	slots     [rateSlots]atomic.Uint64
}

func newRateLimit(perSecond int) *rateLimit {
	return &rateLimit{perSecond: uint32(max(perSecond, 0)), seed: maphash.MakeSeed()}
}

func (r *rateLimit) allow(c client, now time.Time) bool {
	if r.perSecond == 0 {
		return true
	}
	slot := &r.slots[maphash.Comparable(r.seed, c)%rateSlots]
	second := uint64(uint32(now.Unix())) << 32
	for {
		old := slot.Load()
		next := second + 1
		if old&^0xffffffff == second {
			if uint32(old) >= r.perSecond {
				return false
			}
			next = old + 1
		}
		if slot.CompareAndSwap(old, next) {
			return true
		}
	}
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
