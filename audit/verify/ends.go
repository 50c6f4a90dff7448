package verify

import (
	"math"
	"slices"
	"sort"

	"github.com/culvert-net/culvert/api"
)

const (
	forwarded    = "FORWARDED"
	hookWorkload = "workload"
	hookTunnel   = "tunnel"
	hookLocal    = "local"
	hookHost     = "host"
)

// sides of a connection.
const (
	consumer = iota
	provider
)

var sideNames = [2]string{"consumer", "provider"}

// leg is the way between a client and a target over a connection. Both nodes call it so: the tuple behind the consumer's translation is the
// tuple before the provider's.
type leg struct{ connection, client, target string }

// packets are what one node tells of one side of a leg.
type packets struct{ sent, received uint64 }

func (p *packets) add(q packets) { p.sent, p.received = p.sent+q.sent, p.received+q.received }

// unit is what records of a segment tell alike: of one side of a leg, over the same seconds since 1970.
type unit struct {
	leg      // without a connection: the node knew its name no more
	side     int
	eni      string
	local    bool // of a provider: the client is on the same node
	claim    bool // the server did not take it as the node's word
	from, to int64
}

// unitOf is what a flow record tells of a connection; false: nothing.
func unitOf(f *api.FlowRecord) (unit, packets, bool) {
	side := slices.Index(sideNames[:], f.Side)
	if side < 0 || f.Action != api.ActionAccept {
		return unit{}, packets{}, false
	}
	u := unit{side: side, eni: f.Interface, from: f.Start.Unix(), to: ceil(f.End)}
	t, p := &f.Translated, packets{f.Packets, f.ReplyPackets}
	if side == provider {
		t, p = &f.Tuple, packets{f.ReplyPackets, f.Packets}
		u.local = f.Stage == hookLocal
	}
	u.leg = leg{f.Connection, t.SrcAddr, t.DstAddr}
	return u, p, true
}

// end is what one interface of one node tells of one side of a leg.
type end struct {
	node, eni   string
	local       bool
	first, last *sealed
	parts       []portion
}

// portion is what was told of a time between two cuts: after is how many cuts lie before all of it, until how many lie before its end.
type portion struct {
	after, until int
	packets
}

// total is all that is told.
func (e *end) total() (sum packets) {
	for i := range e.parts {
		sum.add(e.parts[i].packets)
	}
	return sum
}

// books are what all segments tell of connections, and of what may explain a difference between their ends.
type books struct {
	spans map[string][]span
	cuts  []int64
	legs  map[leg]*[2][]*end
	stray map[leg]*[2][]*end // what is no word of a connection, and may be of one: of no name, or not taken by the server
	nodes map[string]*account
}

// account is what one node tells of itself.
type account struct {
	lost, over excuses // packets that it declares, of forwarded ones
	refused    excuses // that came to it and went no further; Reason is empty
	peers      map[string]*passages
	counts     int // of peers, and of epochs with them
	leaving
	host   uint64 // packets that went to the host since the last full seal
	oldest int    // cuts before all that records told since then
}

func newBooks(spans map[string][]span) *books {
	return &books{
		spans: spans, cuts: cuts(spans), legs: map[leg]*[2][]*end{}, stray: map[leg]*[2][]*end{}, nodes: map[string]*account{},
	}
}

// after is how many cuts are at t or before it.
func (b *books) after(t int64) int {
	return sort.Search(len(b.cuts), func(i int) bool { return b.cuts[i] > t })
}

// until is how many cuts are before t.
func (b *books) until(t int64) int {
	return sort.Search(len(b.cuts), func(i int) bool { return b.cuts[i] >= t })
}

func (b *books) node(id string) *account {
	a := b.nodes[id]
	if a == nil {
		a = &account{lost: excuses{}, over: excuses{}, refused: excuses{}, peers: map[string]*passages{}, oldest: len(b.cuts)}
		b.nodes[id] = a
	}
	return a
}

// take takes a segment that was found good.
func (b *books) take(known *sealed, s *segment) error {
	a := b.node(known.Node)
	for u, p := range s.units {
		a.oldest = min(a.oldest, b.unit(known, u, *p))
	}
	a.excuse(b, known, s.seal)
	a.host += s.host
	if s.seal.Full {
		spans := b.spans[known.Node]
		a.add(s.seal, a.host, a.peers, len(spans) > 0 && spans[0].begin == ever)
		a.host, a.oldest = 0, len(b.cuts)
	}
	return b.tunnel(known, a, s.seal.Tunnel)
}

// unit adds what records tell. Their times are of the node's clock, which was not ahead of the server's by more than is known: so they were
// not before from-ahead, and not later than the segment's seal came, less what was between the two on the node. It returns how many cuts
// lie before all of it.
func (b *books) unit(known *sealed, u unit, p packets) (after int) {
	from, to := u.from-known.ahead, u.to+ceilOf(known.at.Sub(known.End))
	if !known.dated() {
		from, to = ever, known.came()
	}
	legs := b.legs
	if u.claim || u.connection == "" {
		legs = b.stray
	}
	sides := legs[u.leg]
	if sides == nil {
		sides = &[2][]*end{}
		legs[u.leg] = sides
	}
	i := slices.IndexFunc(sides[u.side], func(e *end) bool { return e.node == known.Node && e.eni == u.eni && e.local == u.local })
	if i < 0 {
		i = len(sides[u.side])
		sides[u.side] = append(sides[u.side], &end{node: known.Node, eni: u.eni, local: u.local, first: known})
	}
	e := sides[u.side][i]
	e.last = known
	after, until := b.after(from), b.until(to)
	e.add(portion{after, until, p})
	return after
}

// add adds packets to those of the same time.
func (e *end) add(p portion) {
	for j := len(e.parts) - 1; j >= 0; j-- {
		if e.parts[j].after == p.after && e.parts[j].until == p.until {
			e.parts[j].packets.add(p.packets)
			return
		}
	}
	e.parts = append(e.parts, p)
}

// strays are what nodes tell that may be of a side of a leg, and is no word of its connection.
func (b *books) strays(l leg, side int, nodes []string) (out []*end) {
	for _, at := range []leg{l, {client: l.client, target: l.target}} {
		if sides := b.stray[at]; sides != nil {
			out = append(out, slices.DeleteFunc(slices.Clone(sides[side]), func(e *end) bool { return !slices.Contains(nodes, e.node) })...)
		}
	}
	return out
}

// view is a span as cuts count: what lies surely within its margins, and what lies surely outside.
type view struct {
	span
	after, until   int // within: at least after, at most until
	before, behind int // outside: until at most before, or after at least behind
}

func (b *books) view(s span) view {
	w := view{span: s, until: b.until(s.end - margin), behind: b.after(s.end), before: -1}
	if s.begin != ever {
		w.after, w.before = b.after(s.begin+margin), b.until(s.begin)
	}
	return w
}

// touches tells whether some of what lies behind so many cuts and before others may lie in it.
func (w *view) touches(after, until int) bool { return until > w.before && after < w.behind }

// always is all time.
var always = view{before: -1, behind: math.MaxInt}

// within is what ends tell at least of a span, and at most.
func within(ends []*end, w view) (least, most packets) {
	for _, e := range ends {
		for i := range e.parts {
			p := &e.parts[i]
			if p.after >= w.after && p.until <= w.until {
				least.add(p.packets)
			}
			if w.touches(p.after, p.until) {
				most.add(p.packets)
			}
		}
	}
	return least, most
}
