package plan

import (
	"cmp"
	"container/heap"
	"math"
	"math/bits"
	"slices"
	"sync"
)

// TableSlots is how many slots every target table has, whatever its targets, so that none moves because the table grew.
// It is a prime, and 3 does not divide the prime less one: so cubes permute the slots. 1,000 targets have 65 slots each.
const TableSlots = 65_537

// spread gives each slot to one of the targets, by their weights. Decision 0014 says why so and what it keeps to.
//
// Each pair of a slot and a target has a score, which depends on nothing else. Slots want the target of lowest score,
// targets the slots of lowest score, and no target more than its quota. As both sides go by one score there is exactly one
// assignment in which no slot and target would rather have each other (Gale and Shapley, "College admissions and the
// stability of marriage", 1962), and it is found here: first as if there were no quotas, then each slot that is
// too many asks on. The result is exactly even, and when a target leaves hardly a slot moves that was not its own.
func spread(targets []TableTarget) []uint16 {
	s := newSpreader(targets)
	if len(s.bidders) == 0 {
		return nil
	}
	if len(s.bidders) == 1 {
		return slices.Repeat([]uint16{s.bidders[0].target}, TableSlots)
	}
	s.quotas()
	s.firstChoice()
	s.hold()
	s.settle()
	for slot, bidder := range s.owner {
		s.owner[slot] = s.bidders[bidder].target
	}
	return s.owner
}

// bidder is a target that takes new flows. Its order of the slots: slot s is at position (cube(s + shift) − offset) × back,
// all in the field of TableSlots elements. The cube keeps the orders of two targets from being alike where their steps are.
type bidder struct {
	target        uint16 // index
	shift, offset uint64
	step, back    uint64 // step × back = 1
	weight        uint64
	factor        uint64 // of costs: weightScale / weight
	luck          uint64 // 32 bits
	quota         int    // slots
	bound         uint64 // it takes what scores less: all while it has room, then less than its worst
	held          holding
}

type spreader struct {
	t       *spreadTable
	bidders []bidder
	weights uint64   // sum
	score   []uint64 // of each slot with its owner
	owner   []uint16 // of each slot: index of a bidder, and of its target in the end
	asking  []uint32 // slots that are nobody's yet
}

// costScale is 1.0 in costs and weightScale that of 1 / weight: the largest score, 11.7 × 2^59, fits 63 bits.
const (
	costScale   = 1 << 32
	weightScale = 1 << 27
)

type spreadTable struct {
	// cost of a position n: the mean of the (n+1)th smallest of TableSlots exponentially distributed numbers, so that which
	// target has the least cost / weight goes by the weights. Integers: the same on every machine.
	cost       [TableSlots]uint64
	cube, root [TableSlots]uint32
}

var spreadTables = sync.OnceValue(func() *spreadTable {
	t, sum := new(spreadTable), uint64(0)
	for n := range uint64(TableSlots) {
		sum += costScale / (TableSlots - n)
		t.cost[n] = sum
		cube := n * n % TableSlots * n % TableSlots
		t.cube[n], t.root[cube] = uint32(cube), uint32(n)
	}
	return t
})

func newSpreader(targets []TableTarget) *spreader {
	s := &spreader{score: make([]uint64, TableSlots), owner: make([]uint16, TableSlots), t: spreadTables()}
	for i, t := range targets {
		if t.Weight == 0 {
			continue
		}
		name := t.AddrPort.String()
		draw := func(what string) uint64 { return uint64(mix32(textHash(what + " " + name))) }
		b := bidder{
			target: uint16(i), shift: draw("shift") % TableSlots, offset: draw("offset") % TableSlots,
			step: draw("step")%(TableSlots-1) + 1, factor: weightScale / uint64(t.Weight), weight: uint64(t.Weight),
			luck: draw("luck"), bound: math.MaxUint64,
		}
		b.back = inverse(b.step)
		s.bidders = append(s.bidders, b)
		s.weights += b.weight
	}
	return s
}

// inverse of x in the field of TableSlots elements (Fermat's little theorem).
func inverse(x uint64) uint64 {
	y := uint64(1)
	for n := uint64(TableSlots - 2); n > 0; n >>= 1 {
		if n&1 == 1 {
			y = y * x % TableSlots
		}
		x = x * x % TableSlots
	}
	return y
}

// quotas gives each bidder one slot and its share of the others, rounded down, and what remains to those with the largest
// remainders, luck added so that with equal weights few quotas change when the number of targets does.
func (s *spreader) quotas() {
	n := uint64(len(s.bidders))
	left, order := TableSlots, make([]int, n)
	rank := make([]uint64, n)
	for i := range s.bidders {
		b := &s.bidders[i]
		share := (TableSlots - n) * b.weight
		b.quota = 1 + int(share/s.weights)
		left -= b.quota
		order[i], rank[i] = i, share%s.weights<<32/s.weights+b.luck
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(rank[b], rank[a]), cmp.Compare(a, b)) })
	for _, i := range order[:left] {
		s.bidders[i].quota++
	}
}

// slot is what a bidder has at a position of its order.
func (s *spreader) slot(b *bidder, position uint64) uint32 {
	x := uint64(s.t.root[(b.offset+position*b.step)%TableSlots]) + TableSlots - b.shift
	return uint32(x % TableSlots)
}

func (s *spreader) scoreOf(b *bidder, slot uint32) uint64 {
	x := uint64(s.t.cube[(uint64(slot)+b.shift)%TableSlots]) + TableSlots - b.offset
	return s.t.cost[x*b.back%TableSlots] * b.factor
}

// take gives a slot to whom it would rather have than its owner; of equal scores the first bidder's wins.
func (s *spreader) take(slot uint32, bidder int, score uint64) {
	if score < s.score[slot] {
		s.score[slot], s.owner[slot] = score, uint16(bidder)
	}
}

// firstChoice gives each slot to the bidder it likes best. Each bidder asks its first slots, up to a score at which most
// have been asked; what is left over asks all bidders.
func (s *spreader) firstChoice() {
	for i := range s.score {
		s.score[i] = math.MaxUint64
	}
	// Every slot has then been asked by bits.Len / 2 bidders in the mean.
	limit := uint64(bits.Len(uint(len(s.bidders)))) * costScale / 2 * weightScale / s.weights
	for i := range s.bidders {
		b := &s.bidders[i]
		for n := range uint64(TableSlots) {
			score := s.t.cost[n] * b.factor
			if score > limit {
				break
			}
			s.take(s.slot(b, n), i, score)
		}
	}
	for slot := range uint32(TableSlots) {
		if s.score[slot] != math.MaxUint64 {
			continue
		}
		for i := range s.bidders {
			s.take(slot, i, s.scoreOf(&s.bidders[i], slot))
		}
	}
}

// hold lets every bidder keep the best of what it was given, up to its quota; the others ask on.
func (s *spreader) hold() {
	for i := range s.bidders {
		s.bidders[i].held.score = s.score
	}
	for slot := range uint32(TableSlots) {
		h := &s.bidders[s.owner[slot]].held
		h.slots = append(h.slots, slot)
	}
	for i := range s.bidders {
		b := &s.bidders[i]
		if len(b.held.slots) < b.quota {
			continue
		}
		heap.Init(&b.held)
		for len(b.held.slots) > b.quota {
			s.asking = append(s.asking, heap.Pop(&b.held).(uint32))
		}
		b.bound = s.score[b.held.slots[0]]
	}
}

// settle lets each slot that is nobody's go to the best bidder that takes it, and ask anew who is put out by that.
func (s *spreader) settle() {
	for len(s.asking) > 0 {
		slot := s.asking[len(s.asking)-1]
		s.asking = s.asking[:len(s.asking)-1]
		s.score[slot] = math.MaxUint64
		for i := range s.bidders {
			if score := s.scoreOf(&s.bidders[i], slot); score < s.bidders[i].bound {
				s.take(slot, i, score)
			}
		}
		b := &s.bidders[s.owner[slot]]
		b.held.slots = append(b.held.slots, slot)
		switch n := len(b.held.slots); {
		case n < b.quota:
			continue
		case n == b.quota:
			heap.Init(&b.held)
		default:
			heap.Fix(&b.held, n-1)
			s.asking = append(s.asking, heap.Pop(&b.held).(uint32))
		}
		b.bound = s.score[b.held.slots[0]]
	}
}

// holding is a heap of slots, the one with the highest score first.
type holding struct {
	slots []uint32
	score []uint64 // of all slots
}

func (h *holding) Len() int           { return len(h.slots) }
func (h *holding) Less(i, j int) bool { return h.score[h.slots[i]] > h.score[h.slots[j]] }
func (h *holding) Swap(i, j int)      { h.slots[i], h.slots[j] = h.slots[j], h.slots[i] }
func (h *holding) Push(slot any)      { h.slots = append(h.slots, slot.(uint32)) }

func (h *holding) Pop() any {
	last := len(h.slots) - 1
	slot := h.slots[last]
	h.slots = h.slots[:last]
	return slot
}
