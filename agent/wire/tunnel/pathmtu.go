package tunnel

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// Sizes here are bytes of the packet inside the tunnel; on the underlay a packet takes 60 more over IPv4 and 80 over IPv6
// (RFC 8200's header or RFC 791's, UDP's, and WireGuard's 32).
const (
	// grid is the step between sizes: WireGuard pads to it, so no size between differs on the wire.
	grid = device.PaddingMultiple

	// floorMTU is the least that is looked for, RFC 8899's BASE_PLPMTU: what IPv6's least underlay of 1280 leaves.
	floorMTU = 1200

	// helloSize is a probe that passes everywhere: it tells a path that is narrow from one that is down.
	helloSize = 64

	// ladder is how many sizes are tried at once: two rounds find one of the 484 between 1200 and 8920.
	ladder = 22

	// losses is how often a size must be lost, while smaller ones sent later arrive, to count as too large: RFC 8899's
	// MAX_PROBES. With one packet in 30 lost at random it is wrong once in 27,000 times, and then not for long.
	losses = 3
)

// landmarks are what is left of 1500, Ethernet's: over IPv6 and over IPv4.
var landmarks = []int{1408, 1440}

const (
	// confirmEvery is the time between two confirmations of a size in use. It bounds how long a path that narrowed
	// without a word swallows packets, and costs 7 kB/s at Ethernet's 1500.
	confirmEvery = 200 * time.Millisecond

	// Answers come in the order of the probes but for a path that reorders: so long after the newest answer a probe sent
	// before is taken for lost. Half a round trip, within these bounds.
	graceMin = 20 * time.Millisecond
	graceMax = 200 * time.Millisecond

	// Without any answer a round is over after four round trips, within these bounds.
	silenceMin = 300 * time.Millisecond
	silenceMax = 3 * time.Second

	// A peer that answers nothing is asked again after quietFirst, then after twice the time each, up to quietMost.
	quietFirst = 500 * time.Millisecond
	quietMost  = time.Minute

	// Larger sizes than the one found are tried after raiseFirst, then after twice the time each, up to raiseMost, RFC
	// 8899's PMTU_RAISE_TIMER. The first is short, for a size that was taken for too large by mistake.
	raiseFirst = 10 * time.Second
	raiseMost  = 10 * time.Minute
)

// shot is one probe of a round.
type shot struct {
	seq      uint32
	size     int
	answered bool
	refused  bool // by this host: its interface is smaller
}

// pathMTU measures what one peer's path carries: datagram packetization layer path MTU discovery (RFC 8899). Time is
// handed in, nothing is sent here. A round is a row of probes, the largest first, with a small one at the end, which all
// go out at once; sizes that come back are proven, and those that do not, while smaller ones do, are counted.
type pathMTU struct {
	top int // the tunnel's MTU, the largest size that is looked for
	mtu int // the largest that the path was seen to carry, and at least floorMTU; 0: not measured yet

	proven    bool // something came back from the peer's underlay address; before, only small probes go there
	greeting  bool // the round under way is one such
	searching bool
	raising   bool        // the search is for more than mtu, by a timer
	low, high int         // of the search: a size that is carried, and one that is not
	rungs     []int       // sizes of this level of the search, descending
	lost      map[int]int // by size

	seq   uint32    // of the newest probe; random, so that nobody answers who does not get it
	shots []shot    // of the round; empty: none is under way
	began time.Time // the round
	heard time.Time // the newest answer of the round; zero: none
	rtt   time.Duration

	quiet   int       // rounds in a row that nothing answered
	raises  int       // upward searches in a row that found nothing, or nothing that lasted
	raised  time.Time // when one found more; zero: none did
	movedAt time.Time // when the peer moved last; zero: never
	due     time.Time // of the next round; zero: when there is traffic
	raiseAt time.Time // of the next upward search; zero: none
	last    time.Time // when a round began, for confirmations
}

func newPathMTU(top int, now time.Time) *pathMTU {
	return &pathMTU{top: top, due: now, lost: map[int]int{}}
}

// setTop takes another MTU of the tunnel over.
func (p *pathMTU) setTop(top int, now time.Time) (changed bool) {
	if top == p.top {
		return false
	}
	grew := top > p.top
	p.top, p.shots, p.searching, p.greeting = top, nil, false, false
	if p.mtu == 0 || !p.proven {
		p.due = now
	}
	switch {
	case p.mtu == 0:
	case p.mtu > top:
		p.mtu, changed = top, true
	case grew:
		p.raiseAt = now
	}
	return changed
}

// moved is told when the peer has another underlay address: the way there may be another. The address is the peer's word, or that of
// whoever sends its packets on: what is measured begins again once something came back from there. A peer that moves all the time is
// tried for more no earlier than one that stays.
func (p *pathMTU) moved(now time.Time) {
	p.proven, p.greeting, p.searching, p.raising, p.shots, p.rungs = false, false, false, false, nil, nil
	p.due = now.Add(p.patience())
	if p.movedAt.IsZero() || now.Sub(p.movedAt) >= raiseFirst {
		p.raises, p.due = 0, now
		if p.mtu != 0 && p.mtu < p.top {
			p.raiseAt = now
		}
	}
	if p.mtu != 0 && p.mtu < p.top && p.raiseAt.IsZero() { // one was under way
		p.raiseAt = now.Add(raiseFirst)
	}
	p.movedAt = now
}

// patience is the time until a peer that answers nothing is asked again.
func (p *pathMTU) patience() time.Duration {
	return min(quietMost, quietFirst<<min(max(0, p.quiet-1), 16))
}

// next is when something is to be done; zero: when told.
func (p *pathMTU) next() time.Time {
	if len(p.shots) > 0 {
		return p.end()
	}
	if p.proven && (p.due.IsZero() || !p.raiseAt.IsZero() && p.raiseAt.Before(p.due)) {
		return p.raiseAt
	}
	return p.due
}

// wanted reports whether a round shall begin. busy: large packets are on their way to the peer.
func (p *pathMTU) wanted(now time.Time, busy bool) bool {
	if len(p.shots) > 0 {
		return false
	}
	if !p.due.IsZero() && !now.Before(p.due) {
		return true
	}
	if !p.proven {
		return false
	}
	if !p.raiseAt.IsZero() && !now.Before(p.raiseAt) {
		return true
	}
	return busy && p.mtu != 0 && !now.Before(p.confirmAt())
}

// confirmAt is when the size in use may be tried again: seldom while nothing answers.
func (p *pathMTU) confirmAt() time.Time {
	return p.last.Add(confirmEvery << min(p.quiet, 4))
}

// begin starts a round and returns its probes in the order in which they go out.
func (p *pathMTU) begin(now time.Time) []shot {
	var sizes []int
	switch {
	case !p.proven:
		p.greeting = true
	case p.searching:
	case p.mtu == 0:
		p.search(0, p.top+1, []int{p.top})
	case !p.raiseAt.IsZero() && !now.Before(p.raiseAt):
		p.raising, p.raiseAt = true, time.Time{}
		p.search(p.mtu, p.top+1, nil)
	default:
		p.search(0, p.mtu+1, []int{p.mtu})
	}
	if p.proven {
		sizes = p.open()
	}
	p.due, p.began, p.last, p.heard = time.Time{}, now, now, time.Time{}
	for _, size := range append(sizes, helloSize) {
		p.seq = 1 + rand.Uint32N(math.MaxUint32)
		p.shots = append(p.shots, shot{seq: p.seq, size: size})
	}
	return p.shots
}

// search begins one between two sizes, with given sizes or a ladder.
func (p *pathMTU) search(low, high int, first []int) {
	p.searching, p.low, p.high, p.rungs = true, low, high, first
	clear(p.lost)
}

// open are the sizes of this level that are neither carried nor too large; when none is left, those of the next level.
func (p *pathMTU) open() []int {
	undecided := func() []int {
		return slices.DeleteFunc(slices.Clone(p.rungs), func(s int) bool { return s <= p.low || s >= p.high })
	}
	left := undecided()
	if len(left) == 0 {
		p.rungs = rungs(p.low, p.high, p.top)
		left = undecided()
	}
	return left
}

// above is the smallest size of the grid over another one; more than top when there is none.
func above(size, top int) int {
	next := max(floorMTU, size-size%grid+grid)
	if size < top {
		return min(next, top)
	}
	return next
}

// below is the largest size of the grid under another one.
func below(size, top int) int {
	if size > top {
		return top
	}
	return (size - 1) - (size-1)%grid
}

// rungs are up to about ladder sizes between two, evenly, the largest possible among them, descending.
func rungs(low, high, top int) []int {
	first, last := above(low, top), below(high, top)
	if first > last {
		return nil
	}
	step := grid * max(1, (last-first+grid*ladder-1)/(grid*ladder))
	out := []int{last}
	for s := first; s < last; s += step {
		out = append(out, s)
	}
	for _, s := range landmarks {
		if s > first && s < last {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b int) int { return b - a })
	return slices.Compact(out)
}

// refused notes that this host would not send a probe: the size is too large for its interface.
func (p *pathMTU) refused(seq uint32) {
	for i := range p.shots {
		if p.shots[i].seq == seq {
			p.shots[i].refused = true
		}
	}
}

// answer notes that a probe came back, rtt after it was sent to where the peer is now (0: it was not).
func (p *pathMTU) answer(seq uint32, rtt time.Duration, now time.Time) {
	p.proven = p.proven || rtt > 0
	for i := range p.shots {
		if s := &p.shots[i]; s.seq == seq && !s.answered {
			s.answered, p.heard = true, now
			if p.rtt == 0 {
				p.rtt = rtt
			} else if rtt > 0 {
				p.rtt += (rtt - p.rtt) / 8
			}
			return
		}
	}
	// One of an earlier round, which waited for a session, or for longer than a round does that knows no round trip.
	if p.rtt == 0 {
		p.rtt = rtt
	}
	if p.quiet > 0 && len(p.shots) == 0 {
		p.quiet, p.due = 0, now
	}
}

// end is when the round is over, whatever is missing.
func (p *pathMTU) end() time.Time {
	missing := false
	for _, s := range p.shots {
		missing = missing || !s.answered && !s.refused
	}
	switch {
	case !missing:
		return p.heard
	case p.heard.IsZero():
		return p.began.Add(min(silenceMax, max(silenceMin, 4*p.rtt)))
	}
	return p.heard.Add(min(graceMax, max(graceMin, p.rtt/2)))
}

// settle ends the round when it is over, and reports whether the path's MTU is another now.
func (p *pathMTU) settle(now time.Time) (changed bool) {
	if len(p.shots) == 0 || now.Before(p.end()) {
		return false
	}
	shots := p.shots
	p.shots = nil
	best := 0
	for _, s := range shots {
		if s.answered {
			best = max(best, s.size)
		}
		if s.refused {
			p.high = min(p.high, s.size)
		}
	}
	greeting := p.greeting
	if p.greeting = false; best == 0 {
		p.silent(now, greeting)
		return false
	}
	if p.quiet = 0; greeting {
		if p.mtu == 0 {
			p.due = now
		}
		return false
	}
	p.low = max(p.low, best)
	if p.low >= p.high { // carried after all
		p.high = p.top + 1
	}
	for _, s := range shots {
		if s.answered || s.size <= best {
			continue
		}
		if p.lost[s.size]++; p.lost[s.size] >= losses {
			p.high = min(p.high, s.size)
		}
	}
	return p.conclude(now)
}

// silent is a round that nothing answered: it says nothing of sizes.
func (p *pathMTU) silent(now time.Time, greeting bool) {
	p.quiet++
	if !greeting && p.mtu != 0 && !p.raising && len(p.rungs) == 1 { // a confirmation
		p.searching = false
		return
	}
	p.due = now.Add(p.patience())
}

// conclude goes on with the search, or ends it.
func (p *pathMTU) conclude(now time.Time) (changed bool) {
	fruitless := p.raising && p.low == p.mtu
	if !fruitless && p.low < p.top && above(p.low, p.top) < p.high {
		p.due = now
		return false
	}
	found := max(floorMTU, p.low)
	switch {
	case fruitless || found < p.mtu && !p.raised.IsZero() && now.Sub(p.raised) < raiseMost:
		p.raises++
	case found < p.mtu:
		p.raises = 0
	case found > p.mtu && p.mtu != 0:
		p.raised = now
	}
	again := p.raising || found != p.mtu
	changed, p.mtu = found != p.mtu, found
	p.searching, p.raising, p.rungs = false, false, nil
	if found == p.top {
		p.raiseAt = time.Time{}
	} else if again || p.raiseAt.IsZero() {
		p.raiseAt = now.Add(min(raiseMost, raiseFirst<<min(p.raises, 16)))
	}
	return changed
}
