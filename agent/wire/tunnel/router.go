package tunnel

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/culvert-net/culvert/agent/wire"
)

// The device keeps up to 128 batches of packets for a peer with which it has no session: 1 GiB for one peer that does
// not answer, gate or no gate. So packets for such a peer are counted by destination before the device sees them, and
// beyond a small budget they are dropped; now and then the ones that wait are replaced by fresh ones.
const (
	budgetAll = 1024 // packets that may wait for sessions, all peers together
	budgetMax = 32   // the largest share of one peer
	budgetMin = 1    // the smallest, with very many peers

	// Packets that wait are replaced first after flushFirst, then after twice the time each, up to flushEvery. The
	// first is short, for packets taken before a peer's start do not wait but are lost, and nothing tells.
	flushFirst = 10 * time.Millisecond
	flushEvery = 160 * time.Millisecond

	// lostAfter is how many packets in a row a peer with a session may take without one being sent. A full gate holds
	// gateMax of them, so more means that the session is gone. When all peers together took lostAll, many sessions
	// ended at once, and each peer is held to its budget.
	lostAfter = 2 * gateMax
	lostAll   = 2 * budgetAll

	// sweepEvery is how often, while that many wait, it is looked whose packets do: who sent none from one time to the next
	// lost its session, and what waits for it is dropped, so that the others are held to budgets for no longer.
	sweepEvery = 50 * time.Millisecond

	noPeer = ^uint32(0)
)

// queue is what is known of one peer's way out.
type queue struct {
	key   wire.PublicKey
	since atomic.Int64  // packets admitted since one was sent, and not seen to be dropped
	live  atomic.Bool   // a packet was sent, and none was seen to get stuck since
	row   atomic.Uint32 // of the packets that wait now

	reachable atomic.Bool // an underlay address is known, or was heard from
	large     atomic.Bool // a datagram was sent that not every path carries, since this one was asked about

	moved atomic.Bool // a packet was sent since the last sweep

	window window // of what is on its way

	passed atomic.Pointer[pass] // counts what passes; nil: nobody does

	// Owned by the reader of the interface.
	waits   bool          // packets waited at the last sweep
	flushed time.Time     // when those that wait began to
	flushIn time.Duration // after which time they are replaced
}

// router finds a packet's peer as the device will, from a copy of its table of allowed addresses.
type router struct {
	table atomic.Pointer[table]
	flush func(wire.PublicKey) // drops what waits for a peer's session

	assign func(*table) // gives peers what counts for them; nil: nothing does

	pending atomic.Int64  // sum of the queues' since
	refused atomic.Uint64 // packets dropped for want of a session, ever

	// The last packet's answer: packets come in runs. Owned by the reader of the interface.
	lastTable *table
	lastDst   [16]byte
	lastPeer  uint32

	swept time.Time // owned likewise
}

type table struct {
	queues  []*queue
	budget  int64
	lengths []int // of IPv6 prefixes, longest first
	owner   map[netip.Prefix]uint32
	first   []netip.Addr // the lowest address of each queue's peer: the tunnel's own; invalid: it has none of its own
}

func newRouter() *router {
	r := &router{flush: func(wire.PublicKey) {}}
	r.table.Store(&table{})
	return r
}

// update takes the peers over. A peer that stays keeps its index and what is known of it.
func (r *router) update(peers []wire.PeerStatus) {
	old := r.table.Load()
	known := make(map[wire.PublicKey]int, len(old.queues))
	for i, q := range old.queues {
		if q != nil {
			known[q.key] = i
		}
	}
	t := &table{
		queues: make([]*queue, len(old.queues)),
		budget: int64(min(budgetMax, max(budgetMin, budgetAll/max(1, len(peers))))),
		owner:  make(map[netip.Prefix]uint32),
	}
	var fresh []*queue
	for _, p := range peers {
		if i, ok := known[p.PublicKey]; ok {
			t.queues[i] = old.queues[i]
		} else {
			fresh = append(fresh, &queue{key: p.PublicKey})
		}
	}
	for i := range t.queues {
		if t.queues[i] == nil && len(fresh) > 0 {
			t.queues[i], fresh = fresh[0], fresh[1:]
		}
	}
	t.queues = append(t.queues, fresh...)
	index := make(map[wire.PublicKey]uint32, len(peers))
	for i, q := range t.queues {
		if q != nil {
			index[q.key] = uint32(i)
		}
	}
	t.first = make([]netip.Addr, len(t.queues))
	for _, p := range peers {
		if p.Underlay.IsValid() {
			t.queues[index[p.PublicKey]].reachable.Store(true)
		}
		for _, prefix := range p.AllowedIPs {
			if !prefix.Addr().Is6() {
				continue // nothing but IPv6 is sent through the tunnel
			}
			if at := &t.first[index[p.PublicKey]]; prefix.IsSingleIP() && (!at.IsValid() || prefix.Addr().Less(*at)) {
				*at = prefix.Addr()
			}
			t.owner[prefix] = index[p.PublicKey]
			if !slices.Contains(t.lengths, prefix.Bits()) {
				t.lengths = append(t.lengths, prefix.Bits())
			}
		}
	}
	slices.SortFunc(t.lengths, func(a, b int) int { return b - a })
	if r.assign != nil {
		r.assign(t)
	}
	r.table.Store(t)
	r.pending.Store(t.pending())
}

func (t *table) pending() (n int64) {
	for _, q := range t.queues {
		if q != nil {
			n += q.since.Load()
		}
	}
	return n
}

func (t *table) lookup(dst [16]byte) uint32 {
	addr := netip.AddrFrom16(dst)
	for _, bits := range t.lengths {
		prefix, _ := addr.Prefix(bits)
		if i, ok := t.owner[prefix]; ok {
			return i
		}
	}
	return noPeer
}

// admit reports whether a packet may enter the device, and for which peer's queue. A packet of no peer may: the device
// drops it at once.
func (r *router) admit(packet []byte, now time.Time) (turn, bool) {
	if len(packet) < 40 || packet[0]>>4 != 6 {
		return turn{peer: noPeer}, true
	}
	t := r.table.Load()
	if dst := [16]byte(packet[24:40]); t != r.lastTable || dst != r.lastDst {
		r.lastTable, r.lastDst, r.lastPeer = t, dst, t.lookup(dst)
	}
	if r.lastPeer == noPeer {
		return turn{peer: noPeer}, true
	}
	q := t.queues[r.lastPeer]
	pass := r.room(q, t.budget, now)
	return turn{peer: r.lastPeer, row: q.row.Load()}, pass
}

// room counts a packet into a peer's queue, or refuses it.
func (r *router) room(q *queue, budget int64, now time.Time) bool {
	many := r.pending.Load() >= lostAll
	if many && now.Sub(r.swept) >= sweepEvery {
		r.sweep(now)
		many = r.pending.Load() >= lostAll
	}
	limit, since := budget, q.since.Load()
	if q.live.Load() && !many {
		limit = lostAfter
	} else if since == 0 {
		q.flushed, q.flushIn = now, flushFirst // the first to wait, and it shall for a while
	}
	if since >= limit {
		q.live.Store(false)
		if now.Sub(q.flushed) < q.flushIn {
			r.refused.Add(1)
			return false
		}
		q.flushed, q.flushIn = now, min(2*q.flushIn, flushEvery)
		r.drop(q)
	}
	q.since.Add(1)
	r.pending.Add(1)
	return true
}

// drop drops what waits for a peer.
func (r *router) drop(q *queue) {
	r.flush(q.key)
	q.row.Add(1)
	r.pending.Add(-q.since.Swap(0))
}

// sweep drops what waits for peers that sent nothing since the sweep before.
func (r *router) sweep(now time.Time) {
	again := now.Sub(r.swept) < 2*sweepEvery
	r.swept = now
	for _, q := range r.table.Load().queues {
		if q == nil {
			continue
		}
		if q.since.Load() == 0 {
			q.waits = false
			continue
		}
		if again && q.waits && !q.moved.Load() {
			q.live.Store(false)
			q.flushed, q.flushIn, q.waits = now, flushFirst, false
			r.drop(q)
			continue
		}
		q.waits = true
		q.moved.Store(false)
	}
}

// dropped notes that the device dropped a packet of a peer's queue: it waits no more.
func (r *router) dropped(w turn) {
	t := r.table.Load()
	if w.peer >= uint32(len(t.queues)) || t.queues[w.peer] == nil || t.queues[w.peer].row.Load() != w.row {
		return
	}
	q := t.queues[w.peer]
	for n := q.since.Load(); n > 0; n = q.since.Load() {
		if q.since.CompareAndSwap(n, n-1) {
			r.pending.Add(-1)
			return
		}
	}
}

// queue is the one of that index, nil when there is none.
func (r *router) queue(peer uint32) *queue {
	t := r.table.Load()
	if peer >= uint32(len(t.queues)) {
		return nil
	}
	return t.queues[peer]
}

// sent notes that a packet of a peer's queue was handed to the socket: there is a session.
func (r *router) sent(peer uint32) {
	t := r.table.Load()
	if peer >= uint32(len(t.queues)) || t.queues[peer] == nil {
		return
	}
	q := t.queues[peer]
	if !q.moved.Load() {
		q.moved.Store(true)
	}
	if q.since.Load() != 0 {
		r.pending.Add(-q.since.Swap(0))
	}
	if !q.live.Load() {
		q.live.Store(true)
		q.reachable.Store(true)
	}
}
