package verify

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
)

// trace is what a mesh lives through. Played twice it gives the same evidence, but for a lie.
type trace struct {
	nodes []traceNode
	steps []traceStep
	// disposed segments of the first node; how much of the time a copy has, in per cent.
	disposed    int
	since, till int
}

type traceNode struct {
	skew time.Duration
	late bool // its segments may wait, and its clock is not set
	mute bool
}

type traceStep struct {
	wait    time.Duration
	crosses []traceCross
	events  []traceEvent
	seals   []int // of each node: nothing, a reading, a seal, a full seal
}

type traceCross struct {
	from, to int
	carry
	slow bool // arrives with the next step, if that is soon
}

type traceEvent struct {
	node int
	what string
}

// lie is what one node does at one step, once or from then on.
type lie struct {
	kind   string
	step   int
	amount uint64
	cross  traceCross // whose
}

func drawTrace(t *rapid.T) trace {
	n := rapid.IntRange(2, 3).Draw(t, "nodes")
	tr := trace{disposed: rapid.SampledFrom([]int{0, 0, 0, 5}).Draw(t, "disposed"), till: 100}
	if rapid.Bool().Draw(t, "copy") {
		tr.since, tr.till = rapid.IntRange(0, 40).Draw(t, "since"), rapid.IntRange(60, 100).Draw(t, "till")
	}
	for range n {
		node := traceNode{late: rapid.Bool().Draw(t, "late"), mute: rapid.IntRange(0, 4).Draw(t, "mute") == 0}
		seconds := rapid.IntRange(-2, 2)
		if !node.late {
			seconds = rapid.OneOf(seconds, rapid.IntRange(-9000, 9000))
		}
		node.skew = time.Duration(seconds.Draw(t, "skew")) * time.Second
		tr.nodes = append(tr.nodes, node)
	}
	for range rapid.IntRange(10, 40).Draw(t, "steps") {
		s := traceStep{wait: time.Duration(rapid.IntRange(1, 15).Draw(t, "wait")) * time.Second}
		for range rapid.IntRange(0, 3).Draw(t, "crosses") {
			c := traceCross{from: rapid.IntRange(0, n-1).Draw(t, "from"), to: rapid.IntRange(0, n-1).Draw(t, "to"), slow: rapid.Bool().Draw(t, "slow")}
			c.sent, c.back = rapid.Uint64Range(0, 50).Draw(t, "sent"), rapid.Uint64Range(0, 50).Draw(t, "back")
			if c.from != c.to {
				c.lost, c.backLost = rapid.Uint64Range(0, c.sent/4).Draw(t, "lost"), rapid.Uint64Range(0, c.back/4).Draw(t, "backLost")
			}
			c.refused = rapid.Uint64Range(0, (c.sent-c.lost)/4).Draw(t, "refused")
			s.crosses = append(s.crosses, c)
		}
		if rapid.IntRange(0, 5).Draw(t, "event") == 0 {
			s.events = append(s.events, traceEvent{rapid.IntRange(0, n-1).Draw(t, "whose"),
				rapid.SampledFrom([]string{"killed", "crash", "gone", "away", "back", "step", "set while dead", "upgrade"}).Draw(t, "what")})
		}
		for range n {
			s.seals = append(s.seals, rapid.SampledFrom([]int{0, 1, 2, 3, 3, 3}).Draw(t, "seal"))
		}
		tr.steps = append(tr.steps, s)
	}
	return tr
}

func (c *traceCross) leg() leg {
	return leg{fmt.Sprint("vpce-conn-", c.to), fmt.Sprintf("10.0.%d.5", c.from), fmt.Sprintf("10.0.%d.6", c.to)}
}

// play makes the evidence.
func (tr *trace) play(t testing.TB, lied *lie) (*world, Options) {
	w := newWorld(t, false)
	begin := w.now
	for i, n := range tr.nodes {
		s := w.node(fmt.Sprint("i-", i), "boot-1", "", keyOf(byte(10+i)))
		s.skew, s.mute = n.skew, n.mute
		s.sealed = s.clock()
	}
	alive := slices.Clone(w.nodes)
	var slow []func()
	boots := 1
	for i, step := range tr.steps {
		w.now = w.now.Add(step.wait)
		for _, f := range slow {
			f()
		}
		slow = nil
		for _, e := range step.events {
			s := w.nodes[e.node]
			if !slices.Contains(alive, s) {
				continue
			}
			late := tr.nodes[e.node].late
			switch {
			case e.what == "killed":
				s.killed()
			case e.what == "crash":
				boots++
				s.crash(fmt.Sprint("boot-", boots))
			case e.what == "gone":
				alive = slices.DeleteFunc(alive, func(o *sealer) bool { return o == s })
			case e.what == "away" && late:
				s.away = true
			case e.what == "back":
				s.away = false
			case e.what == "step" && !late && tr.since == 0 && tr.till == 100: // copies go by the dates of seals
				s.step(time.Duration(e.node*7000-5000) * time.Second)
			case e.what == "set while dead" && !late && tr.since == 0 && tr.till == 100:
				s.killed()
				if s.skew += time.Duration(e.node*700-500) * time.Second; s.clock().Before(s.sealed) { // it sees that
					s.stepped += s.clock().Sub(s.sealed)
				}
			case e.what == "upgrade" && s.mute:
				s.mute, s.through = false, nil
			}
		}
		for _, c := range step.crosses {
			from, to := w.nodes[c.from], w.nodes[c.to]
			if !slices.Contains(alive, from) || !slices.Contains(alive, to) {
				continue
			}
			soon := i+1 < len(tr.steps) && tr.steps[i+1].wait <= 4*time.Second && len(tr.steps[i+1].events) == 0
			if late := w.travel(c, from, to, lied, i); c.slow && soon && from != to {
				slow = append(slow, late)
			} else {
				late()
			}
		}
		for j, s := range w.nodes {
			if kind := step.seals[j]; kind > 0 && slices.Contains(alive, s) {
				if kind != 2 {
					s.read()
				}
				if kind > 1 {
					s.seal(kind == 3)
				}
			}
		}
		w.tick()
	}
	if tr.disposed > 0 {
		w.dispose(w.nodes[0], tr.disposed)
	}
	w.tick()
	span := w.now.Sub(begin)
	var o Options
	if tr.since > 0 {
		o.Since = begin.Add(span * time.Duration(tr.since) / 100)
	}
	if tr.till < 100 {
		o.Until = begin.Add(span * time.Duration(tr.till) / 100)
	}
	return w, o
}

// travel has packets leave, and returns what has them arrive.
func (w *world) travel(c traceCross, from, to *sealer, lied *lie, step int) (arrive func()) {
	l, local := c.leg(), from == to
	sent := c.sent
	arrived := c.sent - c.lost
	received := arrived - c.refused
	if lied != nil && lied.cross.leg() == l && step >= lied.step {
		switch lied.kind {
		case "sent less":
			sent = 0
		case "received less":
			received = 0
		case "received more":
			if step == lied.step {
				received += lied.amount
			}
		}
	}
	from.tell(route{l, consumer, local}, packets{sent: sent})
	if !local {
		from.pass(to.id, c.sent, 0)
	}
	there := route{l, provider, local}
	hook := hookTunnel
	if local {
		hook = hookLocal
	}
	return func() {
		to.tell(there, packets{received: received})
		if c.refused > 0 {
			to.count(there.eni(), hook, "GROUP_INGRESS", c.refused)
		}
		to.tell(there, packets{sent: c.back})
		from.tell(route{l, consumer, local}, packets{received: c.back - c.backLost})
		if !local {
			to.pass(from.id, c.back, arrived)
			from.pass(to.id, 0, c.back-c.backLost)
		}
		if c.refused > 0 {
			to.refusal(there, hook, c.refused)
		}
	}
}

// dispose removes the first segments of a node's first boot, as many as came up to n.
func (w *world) dispose(s *sealer, n int) {
	path := ""
	last, line := uint64(0), ""
	for _, p := range slices.Sorted(func(yield func(string) bool) {
		for p := range w.files {
			if !yield(p) {
				return
			}
		}
	}) {
		if strings.HasPrefix(p, segmentsDir+s.id+"/boot-1/") {
			path = p
			break
		}
	}
	var rest []byte
	for l := range bytes.Lines(w.files[path]) {
		one, is, err := seal.Parse(l)
		if rest = append(rest, l...); is && err == nil && one.Number == last+1 && int(one.Number) <= n {
			last, line, rest = one.Number, seal.HashLine(l), nil
		}
	}
	if last == 0 {
		return
	}
	if w.files[path] = rest; len(rest) == 0 {
		delete(w.files, path)
	}
	w.append(leaf.Leaf{Type: leaf.TypeDisposal, Disposal: &leaf.Disposal{ID: "d", Class: "segments", By: "system",
		Runs: []leaf.Run{{Node: s.id, Boot: "boot-1", First: 1, Last: last, Line: line}}}})
}

// Whatever honest nodes live through, and wherever a copy begins and ends, there is no finding. Of a node that lies each lie is found that
// is larger than what the report itself says may differ.
func TestAnyTraffic(t *testing.T) {
	found, hidden := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		tr := drawTrace(rt)
		w, o := tr.play(t, nil)
		honest := Run(w.dir(), w.keys, o)
		if !honest.OK {
			rt.Fatalf("honest evidence: %s", transcript(t, honest))
		}
		var all []lie
		for i, step := range tr.steps {
			for _, c := range step.crosses {
				all = append(all, lie{step: i, cross: c})
			}
		}
		if len(all) == 0 {
			return
		}
		l := rapid.SampledFrom(all).Draw(rt, "lie")
		l.kind = rapid.SampledFrom([]string{"sent less", "received less", "received more"}).Draw(rt, "kind")
		l.amount = rapid.Uint64Range(1, 400).Draw(rt, "amount")
		lying, _ := tr.play(t, &l)
		r := Run(lying.dir(), w.keys, o)
		if !r.OK {
			found++
			return
		}
		hidden++
		l.mayHide(rt, honest, r)
	})
	t.Logf("%d lies are found, %d are as small as what may differ", found, hidden)
	if found == 0 {
		t.Error("no lie is found")
	}
}

// mayHide demands that a lie which is not found is one that the report leaves room for.
func (l *lie) mayHide(rt *rapid.T, honest, r *Report) {
	of := func(r *Report) (c Connection) {
		if at := slices.IndexFunc(r.Connections, func(c Connection) bool { return c.Connection == l.cross.leg().connection }); at >= 0 {
			c = r.Connections[at]
		}
		return c
	}
	before, now := of(honest), of(r)
	room := max(now.Lost+now.Slack+now.Excused, before.Lost+before.Slack+before.Excused) + max(now.Tunnel, before.Tunnel)
	told := func(c Connection) int64 { return int64(c.Sent + c.Received) }
	size, measured := max(told(before)-told(now), told(now)-told(before)), l.kind == "received less"
	if before.Compared && (!measured || before.Measured) && size > int64(room) {
		rt.Fatalf("%s over %v from step %d on: %d packets are not found, and there is room for %d only: %+v, honest %+v", l.kind, l.cross.leg(),
			l.step, size, room, now, before)
	}
}
