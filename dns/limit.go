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

// connLimit bounds TCP connections in all, per VPC and per client.
type connLimit struct {
	mu      sync.Mutex
	total   int
	vpcs    map[uint32]int
	clients map[client]int
}

func newConnLimit() *connLimit {
	return &connLimit{vpcs: map[uint32]int{}, clients: map[client]int{}}
}

func (l *connLimit) acquire(c client) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxConns || l.vpcs[c.vpc] >= maxConnsPerVPC || l.clients[c] >= maxConnsPerClient {
		return false
	}
	l.total++
	l.vpcs[c.vpc]++
	l.clients[c]++
	return true
}

func (l *connLimit) release(c client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.vpcs[c.vpc]--; l.vpcs[c.vpc] == 0 {
		delete(l.vpcs, c.vpc)
	}
	if l.clients[c]--; l.clients[c] == 0 {
		delete(l.clients, c)
	}
}
