package flow

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/culvert-net/culvert/audit/seal"
)

// Counter is a counter of the datapath, since the host's boot.
type Counter struct {
	ENI     uint32 // number; 0 none, or unknown
	Hook    string // as records have it
	Reason  string
	Packets uint64
	Bytes   uint64
}

func (c *Counter) count() seal.Count { return seal.Count{Packets: c.Packets, Bytes: c.Bytes} }

// Account is all that the datapath has counted, read so that it can be compared. What Before has was counted in the flows that were read
// with it and in Refusals, or handed over earlier; what these have is counted in After.
type Account struct {
	Refusals      []Refusal
	Lost          uint64 // as of DrainRefusals
	Before, After []Counter
}

// rowKey is a counter without what it counted.
type rowKey struct {
	ENI    uint32 `json:"eni"`
	Hook   string `json:"hook"`
	Reason string `json:"reason"`
}

func (c *Counter) key() rowKey { return rowKey{c.ENI, c.Hook, c.Reason} }

// place is what identifies a position.
type place struct {
	ENI    string `json:"eni,omitempty"`
	Hook   string `json:"hook"`
	Reason string `json:"reason"`
}

func placeOf(p *seal.Position) place { return place{p.ENI, p.Hook, p.Reason} }

// stand is where a position was at the last full seal.
type stand struct {
	place
	To    seal.Count `json:"to"`
	Slack seal.Count `json:"slack"`
}

// ledger compares what records tell with what the datapath counted. Of the collector's goroutine.
type ledger struct {
	tally seal.Tally
	last  map[place]stand
	short map[seal.Row]seal.Count // what records told too little at the last full seal
	owed  []seal.Gap              // declared, and not written
	// closed are the final positions that were sealed, and that the books may not know of yet.
	closed  map[place]bool
	rebased bool // what was added up is lost: what the counters have is believed once
}

// ledgerState is a ledger between two segments of the disk.
type ledgerState struct {
	Sums   []ledgerSum `json:"sums"`
	Last   []stand     `json:"last"`
	Closed []place     `json:"closed,omitempty"`
}

type ledgerSum struct {
	place
	seal.Sum
}

func newLedger() *ledger {
	return &ledger{last: map[place]stand{}, short: map[seal.Row]seal.Count{}, closed: map[place]bool{}}
}

func (k *ledger) state() *ledgerState {
	st := &ledgerState{}
	sums := k.tally.Sums()
	for _, row := range seal.SortedRows(sums) {
		st.Sums = append(st.Sums, ledgerSum{place(row), sums[row]})
	}
	for _, s := range k.last {
		st.Last = append(st.Last, s)
	}
	slices.SortFunc(st.Last, func(a, b stand) int { return comparePlaces(a.place, b.place) })
	for p := range k.closed {
		st.Closed = append(st.Closed, p)
	}
	slices.SortFunc(st.Closed, comparePlaces)
	return st
}

func (k *ledger) restore(st *ledgerState) {
	if st == nil {
		return
	}
	sums := make(map[seal.Row]seal.Sum, len(st.Sums))
	for _, s := range st.Sums {
		sums[seal.Row(s.place)] = s.Sum
	}
	k.tally.Restore(sums)
	for _, s := range st.Last {
		k.last[s.place] = s
	}
	for _, p := range st.Closed {
		k.closed[p] = true
	}
}

// replay takes a seal that is in the log. What was trimmed had been added when it was written.
func (k *ledger) replay(s *seal.Seal) {
	k.tally.Declare(slices.DeleteFunc(slices.Clone(s.Declared), func(g seal.Gap) bool {
		return g.Cause == seal.CauseTrimmed || g.Cause == seal.CauseDamaged
	})...)
	if s.Full {
		k.take(s.Counters)
	}
}

// take makes sealed positions the last ones.
func (k *ledger) take(positions []seal.Position) {
	for i := range positions {
		p := &positions[i]
		at := placeOf(p)
		if !p.Folded {
			k.last[at] = stand{at, p.To, p.Slack}
			continue
		}
		delete(k.last, at)
		k.closed[at] = true
		if row, ok := seal.RowOf(p.ENI, p.Hook, p.Reason); ok {
			k.tally.Forget(row)
			delete(k.short, row)
		}
	}
}

// count is a position while it is compared.
type count struct {
	before, after seal.Count
	final         bool
}

// closing is a full seal that is not written yet.
type closing struct {
	positions []seal.Position
	short     map[seal.Row]seal.Count
}

// close compares the books with the records so far, which were all told to the tally. What records do not tell is declared when two full
// seals in a row found it: the first time it may be in a table that changed while it was read, and stands in the position's slack. What
// they tell too much is declared at once.
func (k *ledger) close(counts map[place]count, from, to time.Time) *closing {
	c := &closing{short: map[seal.Row]seal.Count{}}
	rows := map[seal.Row]count{}
	for p, n := range counts {
		if was := k.last[p].To; n.after.Packets < was.Packets || n.after.Bytes < was.Bytes {
			n = count{was, was, n.final} // a counter that began anew
			counts[p] = n
		}
		if row, ok := seal.RowOf(p.ENI, p.Hook, p.Reason); ok {
			sum := rows[row]
			sum.before, sum.after = sum.before.Plus(n.before), sum.after.Plus(n.after)
			sum.final = sum.final || n.final
			rows[row] = sum
		}
	}
	for row := range k.tally.Sums() {
		if _, counted := rows[row]; !counted {
			rows[row] = count{}
		}
	}
	slack, declared := map[seal.Row]seal.Count{}, map[seal.Row]bool{}
	for _, row := range slices.SortedFunc(maps.Keys(rows), func(a, b seal.Row) int { return comparePlaces(place(a), place(b)) }) {
		n := rows[row]
		if k.rebased {
			k.tally.Add(row, n.after.Minus(k.tally.Told(row)))
		}
		declared[row] = k.declare(row, n, c, from, to)
		told := k.tally.Told(row)
		slack[row] = n.after.Minus(told).Minus(n.after.Minus(n.before))
	}
	for p, n := range counts {
		row, compared := seal.RowOf(p.ENI, p.Hook, p.Reason)
		was, sealed := k.last[p]
		more := seal.Count{}
		if compared {
			more = slack[row]
		}
		if (sealed || n.after.Zero()) && n.after == was.To && was.Slack.Zero() && n.before == n.after && more.Zero() && !declared[row] && !n.final {
			continue
		}
		delete(slack, row) // stands in one position of the row
		c.positions = append(c.positions, seal.Position{
			ENI: p.ENI, Hook: p.Hook, Reason: p.Reason, From: was.To, To: n.after, Slack: n.after.Minus(n.before).Plus(more), Folded: n.final,
		})
	}
	slices.SortFunc(c.positions, func(a, b seal.Position) int { return comparePlaces(placeOf(&a), placeOf(&b)) })
	return c
}

// declare declares what is amiss with a row, and notes what the next full seal has to look at.
func (k *ledger) declare(row seal.Row, n count, c *closing, from, to time.Time) bool {
	short, over := k.tally.Short(row, n.before, n.after)
	lost := short
	if !n.final {
		lost = short.Least(k.short[row])
	}
	if rest := short.Minus(lost); !rest.Zero() {
		c.short[row] = rest
	}
	said := false
	for _, g := range []seal.Gap{
		{Cause: seal.CauseLost, Packets: lost.Packets, Bytes: lost.Bytes}, {Cause: seal.CauseOver, Packets: over.Packets, Bytes: over.Bytes},
	} {
		if g.Packets == 0 && g.Bytes == 0 {
			continue
		}
		g.ENI, g.Hook, g.Reason, g.From, g.To = row.ENI, row.Hook, row.Reason, from, to
		k.tally.Declare(g)
		k.owed = append(k.owed, g)
		said = true
	}
	return said
}

// closed takes what was written.
func (k *ledger) written(c *closing) {
	k.owed = nil
	if c == nil {
		return
	}
	k.rebased = false
	k.short = c.short
	k.take(c.positions)
}

func comparePlaces(a, b place) int {
	return cmp.Or(cmp.Compare(a.ENI, b.ENI), cmp.Compare(a.Hook, b.Hook), cmp.Compare(a.Reason, b.Reason))
}
