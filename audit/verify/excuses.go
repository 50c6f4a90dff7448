package verify

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/culvert-net/culvert/audit/seal"
)

// excuse is packets that a node says something of, which were counted between two cuts.
type excuse struct {
	after, until int
	packets      uint64
}

// excuses are those of one kind, by row.
type excuses map[seal.Row][]excuse

// add adds one, in the order of seals.
func (x excuses) add(row seal.Row, e excuse) {
	have := x[row]
	if n := len(have); n > 0 && have[n-1].after == e.after && have[n-1].until == e.until {
		have[n-1].packets = plus(have[n-1].packets, e.packets)
		return
	}
	x[row] = append(have, e)
}

// excuse takes what a seal declares, and what its counters refused. What is told too much is in records since the full seal before, unless
// nobody knows that one. What is declared as lost excuses later times, too: should it be recorded after all, in an interval in which as much of
// its row is lost, the node sees no difference and declares nothing.
func (a *account) excuse(b *books, known *sealed, s *seal.Seal) {
	until, oldest := b.until(known.came()), a.oldest
	if known.moved == ever {
		oldest = 0
	}
	for _, g := range s.Declared {
		row := seal.Row{ENI: g.ENI, Hook: g.Hook}
		switch {
		case g.Reason != forwarded || g.Cause == seal.CauseTrimmed: // what was trimmed is in no span
		case g.Cause == seal.CauseOver:
			a.over.add(row, excuse{oldest, until, g.Packets})
		default:
			a.lost.add(row, excuse{b.after(known.untold), math.MaxInt, g.Packets})
		}
	}
	for _, c := range s.Counters {
		if c.Hook != hookTunnel && c.Hook != hookLocal || slices.Contains([]string{forwarded, "NONE", "NODES_OWN", "NOT_IP"}, c.Reason) {
			continue
		}
		a.refused.add(seal.Row{ENI: c.ENI, Hook: c.Hook}, excuse{b.after(known.moved), until, c.To.Minus(c.From).Packets})
	}
}

// lost, over and refused choose one kind.
func lost(a *account) excuses    { return a.lost }
func over(a *account) excuses    { return a.over }
func refused(a *account) excuses { return a.refused }

// excused adds up what nodes say of a time, of rows of an interface that may be of these ends.
func (c *comparison) excused(of func(*account) excuses, at view, nodes []string, ends []*end, hooks ...string) (sum uint64) {
	for _, id := range nodes {
		for row, all := range of(c.b.node(id)) {
			if !slices.Contains(hooks, row.Hook) || !concerned(row.ENI, ends) {
				continue
			}
			for _, e := range all {
				if at.touches(e.after, e.until) {
					sum = plus(sum, e.packets)
				}
			}
		}
	}
	return sum
}

// concerned tells whether what is said of an interface may be of these ends: where nothing is told of them, of any.
func concerned(eni string, ends []*end) bool {
	return eni == "" || len(ends) == 0 || slices.ContainsFunc(ends, func(e *end) bool { return e.eni == eni })
}

// unsent is what excuses that more was received than sent: lost of the sender's records, told too much by the receiver's.
func (c *comparison) unsent(w *way, at view) (lostThere, overHere uint64) {
	return c.excused(lost, at, w.sender, w.from, seal.Out), c.excused(over, at, w.receiver, w.to, seal.In)
}

// unreceived is what excuses that less was received than sent and lost on the way: refused where it arrived, lost of the receiver's records or
// told too much by the sender's.
func (c *comparison) unreceived(w *way, at view) (refusedThere, declared uint64) {
	for _, id := range w.receiver {
		var hooks []string
		local := slices.Contains(w.sender, id)
		if local {
			hooks = append(hooks, hookLocal)
		}
		if !local || len(w.sender) > 1 {
			hooks = append(hooks, hookTunnel)
		}
		refusedThere = plus(refusedThere, c.excused(refused, at, []string{id}, w.to, hooks...))
	}
	return refusedThere, plus(c.excused(lost, at, w.receiver, w.to, seal.In), c.excused(over, at, w.sender, w.from, seal.Out))
}

// balance is what differs over all times and connections of a node, and what excuses it. No packet excuses two differences, so all that is
// said of one node's packets bounds all that differs.
type balance struct {
	from, to         []string
	differs, excused uint64
	found            bool
	until            int64
}

// once judges what differs of each node in all.
func (c *comparison) once() {
	sent, got := map[string]*balance{}, map[string]*balance{}
	for _, key := range c.ways() {
		p := c.pairs[key]
		sum(sent, key.from, key, p.unsent, 0, p.found)
		if p.measured {
			sum(got, key.to, key, p.lost, p.given-min(p.given, p.arrived), p.found)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(sent)) {
		b := sent[id]
		lost, over := c.unsent(&way{sender: b.from, receiver: b.to}, always)
		if !b.found && b.differs > plus(lost, over) {
			what := fmt.Sprintf("%d packets that it sent were received, and are in none of its records%s%s", b.differs,
				also(lost, "declared as lost there, in all"), also(over, "declared as told too much by receivers"))
			c.v.find(Finding{Node: id, At: time.Unix(b.until, 0).UTC(), What: what})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(got)) {
		b := got[id]
		refused, told := c.unreceived(&way{sender: b.from, receiver: b.to}, always)
		for _, from := range b.from {
			if from != id {
				b.excused = plus(b.excused, c.b.node(from).short)
			}
		}
		if !b.found && b.differs > plus(b.excused, plus(refused, told)) {
			what := fmt.Sprintf("%d packets that were sent to it are in none of its records, and tunnels lost %d of them at most%s%s",
				b.differs, b.excused, also(refused, "refused there, in all"), also(told, "declared, in all"))
			c.v.find(Finding{Node: id, At: time.Unix(b.until, 0).UTC(), What: what})
		}
	}
}

// sum adds what differs between two nodes in a span.
func sum(all map[string]*balance, id string, key pair, differs, excused uint64, found bool) {
	b := all[id]
	if b == nil {
		b = &balance{}
		all[id] = b
	}
	b.from, b.to = union(b.from, []string{key.from}), union(b.to, []string{key.to})
	b.differs, b.excused, b.found = plus(b.differs, differs), plus(b.excused, excused), b.found || found
	b.until = max(b.until, key.span.end)
}
