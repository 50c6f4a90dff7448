package verify

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// unheard is for how long packets may come from a node of which the log has no seal: it seals every minute, and its seals have to come.
const unheard = 10 * time.Minute

const (
	whyFound   = "other findings come first"
	whyUnknown = "no record is of the other end, and nothing tells which node that is"
)

// comparison holds what one end of each connection tells against what the other does.
type comparison struct {
	v          *verifier
	b          *books
	places     map[place][]string
	pairs      map[pair]*crossing
	connection *Connection   // that is compared
	counted    map[pair]bool // ways between its nodes
}

// place is an address at one side of a connection.
type place struct {
	connection string
	side       int
	address    string
}

// pair is the way from one node to another during a span.
type pair struct {
	from, to string
	span     span
}

// crossing is what passed from one node to the other, and what both tell of it.
type crossing struct {
	passage
	lost        uint64 // of connections, at least
	received    uint64 // likewise
	unsent      uint64 // received and not sent, likewise
	connections []string
	found       bool // so much of one of them that it is a finding already
}

// way is one direction of a leg.
type way struct {
	leg
	name             string
	from, to         []*end    // what is told
	maybe            [2][]*end // what strays at sender and receiver
	sender, receiver []string
}

// compare compares all connections, and reports them.
func (v *verifier) compare() {
	c := &comparison{v: v, b: v.books, places: map[place][]string{}, pairs: map[pair]*crossing{}}
	for l, sides := range c.b.legs {
		for side, ends := range sides {
			at := l.place(side)
			c.places[at] = union(c.places[at], nodesOf(ends))
		}
	}
	clean := len(v.findings) == 0
	reports := map[string]*Connection{}
	for _, l := range slices.SortedFunc(maps.Keys(c.b.legs), compareLegs) {
		if c.connection = reports[l.connection]; c.connection == nil {
			c.connection, c.counted = &Connection{Connection: l.connection, Compared: true, Measured: true}, map[pair]bool{}
			reports[l.connection] = c.connection
		}
		c.sum(l)
		why := whyFound
		if clean {
			why = c.leg(l)
		}
		if why != "" {
			c.connection.Compared, c.connection.Measured = false, false
			c.connection.Why = union(c.connection.Why, []string{why})
		}
	}
	if clean {
		c.tunnels()
		c.once()
		c.leftOut()
	}
	for _, id := range slices.Sorted(maps.Keys(reports)) {
		v.report.Connections = append(v.report.Connections, *reports[id])
	}
	v.notCompared()
}

func compareLegs(a, b leg) int {
	return cmp.Or(cmp.Compare(a.connection, b.connection), cmp.Compare(a.client, b.client), cmp.Compare(a.target, b.target))
}

func (l leg) place(side int) place {
	if side == consumer {
		return place{l.connection, side, l.client}
	}
	return place{l.connection, side, l.target}
}

// sum adds what is told of a leg to the report.
func (c *comparison) sum(l leg) {
	for _, ends := range c.b.legs[l] {
		for _, e := range ends {
			t := e.total()
			c.connection.Sent, c.connection.Received = c.connection.Sent+t.sent, c.connection.Received+t.received
		}
	}
}

// leg compares both ends of one, and returns why it cannot.
func (c *comparison) leg(l leg) (why string) {
	sides := c.b.legs[l]
	var nodes [2][]string
	for side := range sides {
		if nodes[side] = nodesOf(sides[side]); len(nodes[side]) == 0 {
			if nodes[side], why = c.elsewhere(l, side); why != "" {
				return why
			}
		}
	}
	var all [][]span
	for _, id := range union(nodes[consumer], nodes[provider]) {
		all = append(all, c.b.spans[id])
	}
	spans := common(all...)
	if len(spans) == 0 {
		return "there is no time of which " + strings.Join(union(nodes[consumer], nodes[provider]), " and ") + " have told all here"
	}
	for i, name := range []string{"to the provider", "to the consumer"} {
		w := &way{leg: l, name: name, from: sides[i], to: sides[1-i], sender: nodes[i], receiver: nodes[1-i]}
		w.maybe = [2][]*end{c.b.strays(l, i, nodes[i]), c.b.strays(l, 1-i, nodes[1-i])}
		c.way(w, spans)
	}
	return ""
}

// elsewhere tells which nodes are at the side of a leg of which no record is here: where that address is by other records of the
// connection, else each of which the tunnel of the other end has or gets packets.
func (c *comparison) elsewhere(l leg, side int) (nodes []string, why string) {
	if nodes = c.places[l.place(side)]; len(nodes) > 0 {
		return nodes, ""
	}
	for _, e := range c.b.legs[l][1-side] {
		if e.local || side == provider {
			nodes = union(nodes, []string{e.node})
		}
		if e.local {
			continue
		}
		a := c.b.node(e.node)
		if !a.tells {
			return nil, whyUnknown
		}
		for peer, p := range a.peers {
			if n := c.v.nodes[peer]; peer != "" && (p.unknown || p.any(side)) {
				if n == nil || len(n.order) == 0 {
					return nil, whyUnknown
				}
				nodes = union(nodes, []string{peer})
			}
		}
	}
	if len(nodes) == 0 {
		why = whyUnknown
	}
	return nodes, why
}

// any tells whether packets were given to the peer, which is the provider, or came from it.
func (p *passages) any(side int) bool {
	for _, rows := range p.epochs {
		if last := rows[len(rows)-1]; side == provider && last.given > 0 || side == consumer && last.came > 0 {
			return true
		}
	}
	return false
}

// way compares what was sent with what was received.
func (c *comparison) way(w *way, spans []span) {
	var told, compared packets
	for _, e := range w.from {
		told.sent += e.total().sent
	}
	for _, e := range w.to {
		told.received += e.total().received
	}
	for _, s := range spans {
		at := c.b.view(s)
		sentLeast, sentMost := within(w.from, at)
		gotLeast, gotMost := within(w.to, at)
		compared.add(packets{sentLeast.sent, gotLeast.received})
		_, strayed := within(w.maybe[0], at)
		sentMost.add(strayed)
		_, strayed = within(w.maybe[1], at)
		gotMost.add(strayed)
		c.unsentOf(w, at, gotLeast.received, sentMost.sent)
		lost := sentLeast.sent - min(sentLeast.sent, gotMost.received)
		c.connection.Lost += lost
		c.loss(w, at, lost, gotLeast.received)
	}
	c.connection.Slack += told.sent - compared.sent + told.received - compared.received
}

// unsentOf judges what was received and not sent, and adds it to that of the two nodes.
func (c *comparison) unsentOf(w *way, at view, received, sent uint64) {
	unsent := received - min(received, sent)
	lost, over := c.unsent(w, at)
	c.connection.Excused += plus(lost, over)
	if unsent > plus(lost, over) {
		c.find(at.span, "%s: %d packets were received until %s and only %d sent%s%s%s", w, received, at.span.until(), sent,
			also(lost, "declared as lost by the sender's node"), also(over, "declared as told too much by the receiver's"), segmentsOf(w))
	}
	if p := c.alone(w, at); p != nil && unsent > 0 {
		p.unsent = plus(p.unsent, unsent)
		p.connections = union(p.connections, []string{w.connection})
		p.found = p.found || unsent > plus(lost, over)
	}
}

// alone is the crossing of a way of which both nodes are known; else nil.
func (c *comparison) alone(w *way, at view) *crossing {
	if len(w.sender) != 1 || len(w.receiver) != 1 {
		return nil
	}
	return c.crossing(w.sender[0], w.receiver[0], at)
}

// loss judges what was sent and not received, and adds it to what was lost between the two nodes.
func (c *comparison) loss(w *way, at view, lost, received uint64) {
	tunnel, measured := uint64(0), true
	for _, from := range w.sender {
		for _, to := range w.receiver {
			p := c.crossing(from, to, at)
			tunnel, measured = plus(tunnel, p.loss()), measured && p.measured
			if key := (pair{from, to, at.span}); p.measured && !c.counted[key] {
				c.connection.Tunnel += p.loss()
				c.counted[key] = true
			}
		}
	}
	if p := c.alone(w, at); p != nil {
		p.lost, p.received = p.lost+lost, p.received+received
		p.connections = union(p.connections, []string{w.connection})
	}
	c.connection.Measured = c.connection.Measured && measured
	refused, told := c.unreceived(w, at)
	c.connection.Excused += plus(refused, told)
	if !measured || lost <= plus(plus(tunnel, refused), told) {
		return
	}
	for _, p := range c.pairs {
		p.found = p.found || slices.Contains(p.connections, w.connection)
	}
	c.find(at.span, "%s: of what was sent until %s, %d packets were not received, and the tunnel lost %d at most%s%s%s", w, at.span.until(), lost, tunnel,
		also(refused, "refused where they arrived"), also(told, "declared"), segmentsOf(w))
}

// find is about what lies in a span.
func (c *comparison) find(s span, format string, args ...any) {
	c.v.find(Finding{At: time.Unix(s.end, 0).UTC(), What: fmt.Sprintf(format, args...)})
}

func (s span) until() string { return stamp(time.Unix(s.end, 0)) }

// crossing finds what passed from one node to another.
func (c *comparison) crossing(from, to string, at view) *crossing {
	key := pair{from, to, at.span}
	p := c.pairs[key]
	if p == nil {
		p = &crossing{passage: passage{measured: true}}
		if from != to {
			p.passage = c.b.passage(from, to, at)
		}
		c.pairs[key] = p
	}
	return p
}

// loss is what was lost at most between the programs of one node and the tunnel's interface of the other.
func (p *passage) loss() uint64 { return plus(p.given-min(p.given, p.arrived), p.short) }

// tunnels judges what passed between each two nodes, of all connections together.
func (c *comparison) tunnels() {
	for id, a := range c.b.nodes {
		for peer := range a.peers {
			for _, s := range common(c.b.spans[id], c.b.spans[peer]) {
				c.crossing(id, peer, c.b.view(s))
				c.crossing(peer, id, c.b.view(s))
			}
		}
	}
	for _, key := range c.ways() {
		c.tunnelOf(key)
	}
}

// ways are all crossings, in order.
func (c *comparison) ways() []pair {
	return slices.SortedFunc(maps.Keys(c.pairs), func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), cmp.Compare(a.span.begin, b.span.begin))
	})
}

func (c *comparison) tunnelOf(key pair) {
	p, at := c.pairs[key], c.b.view(key.span)
	find := func(format string, args ...any) {
		c.find(key.span, "from %s to %s, until %s: %s", key.from, key.to, key.span.until(), fmt.Sprintf(format, args...))
	}
	w := &way{sender: []string{key.from}, receiver: []string{key.to}}
	if lost, over := c.unsent(w, at); !p.found && p.unsent > plus(lost, over) {
		p.found = true
		find("%d packets were received and not sent over the connections %s%s%s", p.unsent, strings.Join(p.connections, ", "),
			also(lost, "declared as lost by the sender's node"), also(over, "declared as told too much by the receiver's"))
	}
	if !p.measured {
		return
	}
	local := key.from == key.to
	if !local && p.arrived > p.given {
		find("%d packets came out of the tunnel, and only %d were given to it", p.arrived, p.given)
	}
	if !local && p.received > p.came+uncounted {
		find("records tell that %d packets were received over the connections %s, and only %d came out of the tunnel", p.received,
			strings.Join(p.connections, ", "), p.came)
	}
	refused, told := c.unreceived(w, at)
	if lost := p.loss(); !p.found && p.lost > plus(plus(lost, refused), told) {
		p.found = true
		find("%d packets were sent and not received over the connections %s, and the tunnel lost %d at most%s%s", p.lost,
			strings.Join(p.connections, ", "), lost, also(refused, "refused where they arrived"), also(told, "declared"))
	}
}

// leftOut names nodes of which packets came and no seal is in the log.
func (c *comparison) leftOut() {
	for _, id := range slices.Sorted(maps.Keys(c.b.nodes)) {
		peers := c.b.node(id).peers
		for _, peer := range slices.Sorted(maps.Keys(peers)) {
			p, n := peers[peer], c.v.nodes[peer]
			if (n == nil || len(n.order) == 0) && p.last.Sub(p.first) > unheard && c.v.o.Node == "" {
				c.v.find(Finding{Node: id, At: p.last, What: fmt.Sprintf("packets came from node %s from %s to %s, and the log has no seal of it", peer,
					stamp(p.first), stamp(p.last))})
			}
		}
	}
}

// notCompared says of how many connections not all is proven, and why.
func (v *verifier) notCompared() {
	why := map[string]int{}
	unmeasured := 0
	for _, c := range v.report.Connections {
		for _, w := range c.Why {
			why[w]++
		}
		if c.Compared && !c.Measured {
			unmeasured++
		}
	}
	for _, w := range slices.Sorted(maps.Keys(why)) {
		v.note("%d connections are not compared, or not wholly: %s", why[w], w)
	}
	if unmeasured > 0 {
		v.note("of %d connections what was lost is not measured: a tunnel between their nodes does not count what passes", unmeasured)
	}
}

func (w *way) String() string {
	return fmt.Sprintf("connection %s, %s, from %s to %s (client %s, target %s)", w.connection, w.name, strings.Join(w.sender, " or "),
		strings.Join(w.receiver, " or "), w.client, w.target)
}

// segmentsOf names the segments that tell of it.
func segmentsOf(w *way) string {
	var out []string
	for _, e := range slices.Concat(w.from, w.to) {
		out = append(out, fmt.Sprintf("%s %s/%d to %s/%d", e.node, e.first.Boot, e.first.Number, e.last.Boot, e.last.Number))
	}
	return "; segments " + strings.Join(out, ", ")
}

func also(n uint64, what string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d are %s", n, what)
}

func nodesOf(ends []*end) (ids []string) {
	for _, e := range ends {
		ids = append(ids, e.node)
	}
	return union(nil, ids)
}

// union is both lists, sorted, each word once.
func union(a, b []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
}
