package verify

import (
	"fmt"
	"time"

	"github.com/culvert-net/culvert/audit/seal"
)

// uncounted is what may have come out of a tunnel without being counted, where its process was killed: up to 128 packets each time
// (decision 0038), of which eight times are let pass.
const uncounted = 8 * 128

// maxCounts bounds what is kept of one node's tunnel: peers, and epochs of each. A new epoch begins with a boot, or a peer's new key.
const maxCounts = 1 << 16

// sumsMost is what sums do not go beyond, whatever a node says: two of them still add up.
const sumsMost = 1 << 62

func plus(a, b uint64) uint64 { return min(a, sumsMost) + min(b, sumsMost-min(a, sumsMost)) }

// passages are what one node tells of its tunnel to a peer.
type passages struct {
	epochs      map[string][]passed
	unknown     bool // it does not count
	first, last time.Time
}

// passed is how far one count had come at a seal, which was made after so many cuts, and before the others.
type passed struct {
	after, until int
	given, came  uint64
}

// tunnel takes what a seal tells of the tunnel.
func (b *books) tunnel(known *sealed, a *account, rows []seal.Passage) error {
	var err error
	for _, r := range rows {
		p := a.peers[r.Peer]
		if p == nil || !r.Unknown && p.epochs[r.Epoch] == nil {
			if a.counts++; a.counts > maxCounts {
				return fmt.Errorf("what passed through its tunnel has more than %d counts by now", maxCounts)
			}
		}
		if p == nil {
			p = &passages{epochs: map[string][]passed{}}
			a.peers[r.Peer] = p
		}
		p.unknown = p.unknown || r.Unknown
		if r.Unknown {
			continue
		}
		now := passed{b.after(known.made()), b.until(known.came()), r.Given, r.Came}
		have := p.epochs[r.Epoch]
		n := len(have)
		if n > 0 && (have[n-1].given > now.given || have[n-1].came > now.came) {
			err = fmt.Errorf("what passed through the tunnel to %q goes back from %d given and %d that came to %d and %d", r.Peer,
				have[n-1].given, have[n-1].came, now.given, now.came)
		}
		if r.Came > 0 && (n == 0 || r.Came > have[n-1].came) {
			if p.first.IsZero() {
				p.first = known.at
			}
			p.last = known.at
		}
		if n > 1 && have[n-1].after == now.after && have[n-1].until == now.until && have[n-2].after == now.after && have[n-2].until == now.until {
			have = have[:n-1]
		}
		p.epochs[r.Epoch] = append(have, now)
	}
	return err
}

// most is what passed during a span at most; false: where a count began is not known.
func (p *passages) most(w view) (given, came uint64, known bool) {
	known = true
	for _, rows := range p.epochs {
		from, to := passed{}, rows[len(rows)-1]
		based := w.begin == ever || w.base
		for i := len(rows) - 1; i >= 0 && w.begin != ever; i-- {
			if rows[i].until <= w.before {
				from, based = rows[i], true
				break
			}
		}
		for _, r := range rows {
			if r.after >= w.behind {
				to = r
				break
			}
		}
		known = known && based
		given, came = given+to.given-from.given, came+to.came-from.came
	}
	return given, came, known
}

// least is what came during a span at least.
func (p *passages) least(w view) (came uint64) {
	for _, rows := range p.epochs {
		from, to, begun := uint64(0), uint64(0), false
		for _, r := range rows {
			if w.begin != ever && (r.after < w.after || !begun) {
				from, begun = r.came, r.after >= w.after
			}
			if r.until <= w.until {
				to = r.came
			}
		}
		came += to - min(from, to)
	}
	return came
}

// passage is what passed from one node to another during a span.
type passage struct {
	given    uint64 // at most
	arrived  uint64 // that came, at least
	came     uint64 // at most
	short    uint64 // that left for the sender's tunnel and was not given to it, at most, for whichever peer
	measured bool
}

// passage tells what both nodes say of the tunnel between them.
func (b *books) passage(from, to string, w view) passage {
	s, r := b.node(from), b.node(to)
	out := passage{measured: s.tells && r.tells && w.tells}
	if p := s.peers[to]; p != nil {
		var known bool
		out.given, _, known = p.most(w)
		out.measured = out.measured && known && !p.unknown
	}
	if p := r.peers[from]; p != nil {
		var known bool
		_, out.came, known = p.most(w)
		out.arrived = p.least(w)
		out.measured = out.measured && known && !p.unknown
	}
	out.short = s.short
	return out
}

// leaving is what left a node for its tunnel, by its own counters, and what was given to that.
type leaving struct {
	tells       bool  // what passed through the tunnel
	left, given int64 // since the node tells that, or since its evidence begins
	short       uint64
}

// add takes a full seal. What passed through the tunnel is read after the counters, and before the next ones: so what the seal before told
// was given by then, and what is short of what left was not given, at most. to is what left for the host, by records.
func (a *leaving) add(s *seal.Seal, to uint64, peers map[string]*passages, ever bool) {
	before := a.left
	a.left -= int64(to)
	for _, c := range s.Counters {
		n := int64(c.To.Minus(c.From).Packets)
		switch {
		case c.Hook == hookWorkload && c.Reason == forwarded:
			a.left += n
		case c.Hook == hookLocal && c.Reason == "NONE": // it stays on the node
			a.left -= n
		}
	}
	if !a.tells && len(s.Tunnel) > 0 && before > 0 { // an agent of before told nothing
		a.tells, a.left, a.given = true, 0, 0
		return
	}
	a.tells = a.tells || len(s.Tunnel) > 0
	if a.tells {
		a.short = uint64(max(a.left-a.given, 0))
	}
	for _, r := range s.Tunnel {
		var rows []passed
		if p := peers[r.Peer]; p != nil {
			rows = p.epochs[r.Epoch]
		}
		if n := len(rows); n > 0 {
			a.given += int64(r.Given - min(r.Given, rows[n-1].given))
		} else if ever {
			a.given += int64(r.Given)
		}
	}
}
