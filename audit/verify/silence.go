package verify

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
)

// LeastPause is from what length on a pause between two seals of a node is told: while its agent runs it seals once a minute.
const LeastPause = 2 * time.Minute

// Actions of audit events by which a node comes and goes.
const (
	actionJoin   = "join"
	actionRevoke = "revoke-node"
	actionDelete = "delete-node"
)

// Silence is the times in which a node sealed nothing. What its datapath counted then stands in the seal behind each.
type Silence struct {
	Node   string `json:"node"`
	Pauses int    `json:"pauses"`
	// Seconds are all of them together.
	Seconds int64 `json:"seconds"`
	// From and To are the longest. Open: it lasts to the end of the log.
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	Open bool      `json:"open,omitempty"`
	// Never: the node has sealed nothing at all. Keyless: nor has it told a key to seal with.
	Never   bool `json:"never,omitempty"`
	Keyless bool `json:"keyless,omitempty"`
	// Acted is how many times the audit log, and keys that it told, say that it was there meanwhile; ActedAt is the first.
	Acted   int       `json:"acted,omitempty"`
	ActedAt time.Time `json:"actedAt,omitzero"`
}

// sights are when a node was there, by what others than its seals say.
type sights struct {
	acts []time.Time // what it did, by the audit log
	came time.Time   // it joined; zero: before the log began
	gone time.Time   // it was revoked or deleted
}

// sight notes what a leaf says of a node's being there.
func (v *verifier) sight(l *leaf.Leaf) {
	switch {
	case l.NodeKey != nil:
		s := v.sightsOf(l.NodeKey.Node)
		s.acts = append(s.acts, l.At)
	case l.Event == nil:
	case l.Event.Role == api.RoleNode && l.Event.Actor != "":
		s := v.sightsOf(l.Event.Actor)
		s.acts = append(s.acts, l.Event.At)
	case l.Event.Outcome != api.OutcomeSuccess || l.Event.Resource == "":
	case l.Event.Action == actionJoin:
		s := v.sightsOf(l.Event.Resource)
		s.acts = append(s.acts, l.Event.At)
		if s.came.IsZero() {
			s.came = l.Event.At
		}
		s.gone = time.Time{}
	case l.Event.Action == actionRevoke || l.Event.Action == actionDelete:
		v.sightsOf(l.Event.Resource).gone = l.Event.At
	}
}

func (v *verifier) sightsOf(node string) *sights {
	s := v.sights[node]
	if s == nil {
		s = &sights{}
		v.sights[node] = s
	}
	return s
}

// silences tells when nodes sealed nothing, and finds pauses that are longer than the auditor takes.
func (v *verifier) silences() {
	nodes := map[string]bool{}
	for id := range v.sights {
		nodes[id] = true
	}
	for id := range v.nodes {
		nodes[id] = true
	}
	for _, id := range slices.Sorted(maps.Keys(nodes)) {
		if v.o.Node != "" && v.o.Node != id {
			continue
		}
		s := v.silence(id)
		if s.Pauses > 0 {
			v.report.Silences = append(v.report.Silences, s.Silence)
		}
	}
}

// quiet is the silence of one node while it is reckoned.
type quiet struct {
	Silence
	v    *verifier
	seen *sights
}

func (v *verifier) silence(id string) *quiet {
	q := &quiet{Silence: Silence{Node: id}, v: v, seen: v.sights[id]}
	if q.seen == nil {
		q.seen = &sights{}
	}
	n := v.nodes[id]
	q.Keyless = n == nil || len(n.given) == 0
	from := q.seen.came
	if n != nil {
		if from.IsZero() && len(n.given) > 0 {
			from = n.given[0].At
		}
		for i, s := range n.order {
			if i > 0 || !from.IsZero() && from.Before(s.End) {
				q.pause(from, s.End.Add(-s.stepped), false)
			}
			from = s.End
		}
	}
	if q.Never = n == nil || len(n.order) == 0; from.IsZero() {
		return q // the log says of it only that it went, or that it did something
	}
	end := v.report.To
	if g := q.seen.gone; !g.IsZero() && g.Before(end) {
		end = g
	}
	q.pause(from, end, true)
	return q
}

// pause takes one; open: to the end of the log.
func (q *quiet) pause(from, to time.Time, open bool) {
	d := to.Sub(from)
	if d <= LeastPause {
		return
	}
	q.Pauses++
	q.Seconds += int64(d / time.Second)
	if d > q.To.Sub(q.From) {
		q.From, q.To, q.Open = from, to, open && q.seen.gone.IsZero()
	}
	acted, at := 0, time.Time{}
	for _, a := range q.seen.acts { // near its ends it sealed, and the clocks may differ
		if a.Sub(from) > LeastPause && to.Sub(a) > LeastPause {
			if acted++; at.IsZero() {
				at = a
			}
		}
	}
	if q.Acted += acted; q.ActedAt.IsZero() {
		q.ActedAt = at
	}
	if q.v.o.Pause == 0 || d <= q.v.o.Pause || !between(to, q.v.o.Since, time.Time{}) || !between(from, time.Time{}, q.v.o.Until) {
		return
	}
	what := fmt.Sprintf("sealed nothing from %s to %s, %s", stamp(from), stamp(to), d.Round(time.Second))
	if acted > 0 {
		what += fmt.Sprintf(", and was there: the log says so %d times, first at %s", acted, stamp(at))
	}
	q.v.find(Finding{Node: q.Node, At: from, What: what})
}

// transcribeSilences tells of the nodes that were silent.
func (r *Report) transcribeSilences(line func(string, ...any)) {
	for i := range r.Silences {
		s := &r.Silences[i]
		to := stamp(s.To)
		if s.Open {
			to += ", the end of the log"
		}
		text := fmt.Sprintf("%s: sealed nothing %d times for more than %s, %s in all, longest from %s to %s", s.Node, s.Pauses, LeastPause,
			time.Duration(s.Seconds)*time.Second, stamp(s.From), to)
		switch {
		case s.Never && s.Keyless:
			text = fmt.Sprintf("%s: never told a key: what it recorded from %s to %s is no evidence", s.Node, stamp(s.From), to)
		case s.Never:
			text = fmt.Sprintf("%s: told a key and never sealed anything, from %s to %s", s.Node, stamp(s.From), to)
		}
		if s.Acted > 0 {
			text += fmt.Sprintf("; the log has it act %d times meanwhile, first at %s", s.Acted, stamp(s.ActedAt))
		}
		line("Silent     %s", text)
	}
}
