package verify

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/culvert-net/culvert/audit/seal"
)

const (
	// aheadShown is how far a node's clock may be ahead of the log's before that is told.
	aheadShown = 5 * time.Minute
	// maxAhead is how far a seal may be dated after the log got it: the server takes no records of later times.
	maxAhead = 24 * time.Hour
	// backShown is what two readings of a clock that is steered may differ by.
	backShown = time.Second
)

// Dates is how a node dated its seals, beside when the log got them: which hour's file a segment is in, and so which copy, goes by that.
type Dates struct {
	Node string `json:"node"`
	// Ahead are the seals that are dated more than five minutes after the log got them, AheadSeconds the furthest.
	Ahead        int   `json:"ahead,omitempty"`
	AheadSeconds int64 `json:"aheadSeconds,omitempty"`
	// LateSeconds is how long after its date the latest seal came: of a node that was cut off.
	LateSeconds int64 `json:"lateSeconds"`
	// Back are the seals that are dated before the one before them: the node's clock was set back.
	Back int `json:"back,omitempty"`
}

// Slack is by how much a node's counters may differ from its records, as it says itself: what came while both were read.
type Slack struct {
	Node    string `json:"node"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	// Counted are the packets that its counters moved by at the same seals.
	Counted uint64 `json:"counted"`
	// Wide are seals where the slack of a row was more than all that it counted since the full seal before the last.
	Wide int `json:"wide,omitempty"`
}

// slackOf is a node's slack while it is reckoned.
type slackOf struct {
	Slack
	boot string
	last map[seal.Row]uint64 // packets that a row counted up to the last full seal, since the one before
}

// dated takes from a segment what its leaf does not say: steps of the node's clock, and slack.
func (b *walkBoot) dated(s *segment, known *sealed) {
	known.read, known.stepped = true, time.Duration(s.seal.Clock.SteppedMicros)*time.Microsecond
	if !s.seal.Full {
		return
	}
	v := b.v
	k := v.slack[s.seal.Node]
	if k == nil {
		k = &slackOf{Slack: Slack{Node: s.seal.Node}}
		v.slack[s.seal.Node] = k
	}
	if k.boot != s.seal.Boot {
		k.boot, k.last = s.seal.Boot, nil
	}
	moved, slack := map[seal.Row]uint64{}, map[seal.Row]uint64{}
	for i := range s.seal.Counters {
		p := &s.seal.Counters[i]
		row, compared := seal.RowOf(p.ENI, p.Hook, p.Reason)
		if !compared {
			continue
		}
		d := p.To.Minus(p.From).Packets
		moved[row] += d
		slack[row] += p.Slack.Packets
		k.Packets, k.Bytes, k.Counted = k.Packets+p.Slack.Packets, k.Bytes+p.Slack.Bytes, k.Counted+d
	}
	for row, n := range slack {
		if n > moved[row]+k.last[row] {
			k.Wide++
			break
		}
	}
	k.last = moved
}

// dates judges how nodes dated their seals, and tells it.
func (v *verifier) dates() {
	for _, id := range slices.Sorted(maps.Keys(v.nodes)) {
		n := v.nodes[id]
		if len(n.order) == 0 || v.o.Node != "" && v.o.Node != id {
			continue
		}
		d := Dates{Node: id}
		var last *sealed
		for _, s := range n.order {
			v.date(&d, last, s)
			last = s
		}
		v.report.Dates = append(v.report.Dates, d)
		if k := v.slack[id]; k != nil {
			v.report.Slack = append(v.report.Slack, k.Slack)
		}
	}
}

func (v *verifier) date(d *Dates, last, s *sealed) {
	ahead := s.End.Sub(s.at)
	d.AheadSeconds = max(d.AheadSeconds, int64(ahead/time.Second))
	d.LateSeconds = max(d.LateSeconds, int64(-ahead/time.Second))
	if ahead > aheadShown {
		d.Ahead++
	}
	if ahead > maxAhead {
		v.sealBad(s.index, &s.Seal, "is dated %s, %s after the log got it", stamp(s.End), ahead.Round(time.Second))
	}
	if last == nil || s.Previous != last.Line || !s.End.Before(last.End.Add(-backShown)) {
		return
	}
	d.Back++
	if s.read && s.stepped == 0 {
		v.sealBad(s.index, &s.Seal, "is dated %s, before the seal that it follows, %s, and says of no step of the clock", stamp(s.End), stamp(last.End))
	}
}

// transcribeDates tells how nodes dated their seals, where that is odd, and their slack.
func (r *Report) transcribeDates(line func(string, ...any)) {
	for i := range r.Dates {
		d := &r.Dates[i]
		if d.Ahead == 0 && d.Back == 0 && time.Duration(d.LateSeconds)*time.Second <= aheadShown {
			continue
		}
		text := fmt.Sprintf("came up to %s after their date", time.Duration(d.LateSeconds)*time.Second)
		if d.Ahead > 0 {
			text += fmt.Sprintf("; %d are dated after the log got them, up to %s", d.Ahead, time.Duration(d.AheadSeconds)*time.Second)
		}
		if d.Back > 0 {
			text += fmt.Sprintf("; %d are dated before the one before", d.Back)
		}
		line("Dates      %s: seals %s", d.Node, text)
	}
	for _, s := range r.Slack {
		if s.Packets == 0 {
			continue
		}
		text := fmt.Sprintf("%s: %d packets of %d counted came while counters and flows were read, as it says", s.Node, s.Packets, s.Counted)
		if s.Wide > 0 {
			text += fmt.Sprintf("; at %d seals more than was counted since the full seal before the last", s.Wide)
		}
		line("Slack      %s", text)
	}
}
