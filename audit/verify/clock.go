package verify

import (
	"fmt"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/tiles"
)

// clock follows the times of the log: that it is never silent, and that no leaf waits for a checkpoint.
type clock struct {
	last    time.Time // of the newest leaf
	before  time.Time // of the one before
	back    int       // leaves that are dated before the one before
	run     string    // of the server; "" before the first start and after a stop
	stopped bool      // the newest of start and stop is a stop
	elapsed time.Duration
	ticked  time.Time // of the newest tick or start of this run
	waiting []waiting // ticks that no checkpoint covers yet
}

type waiting struct {
	index uint64
	since time.Duration
}

// leaf takes the time of a leaf.
func (c *clock) leaf(v *verifier, at time.Time) {
	if v.report.From.IsZero() {
		v.report.From = at
	}
	if at.Before(c.last.Add(-time.Second)) {
		c.back++
	}
	c.before, c.last, v.report.To = c.last, at, at
}

func (c *clock) start(v *verifier, s *leaf.Server, at time.Time) {
	if !c.before.IsZero() {
		v.report.Away = append(v.report.Away, Away{From: c.before, To: at, Clean: c.stopped})
	}
	c.run, c.stopped, c.ticked, c.waiting = s.ID, false, at, nil
}

func (c *clock) stop() { c.stopped, c.run = true, "" }

// tick takes a tick, with the size that its checkpoint covers.
func (c *clock) tick(v *verifier, index uint64, t *leaf.Tick, at time.Time, covered uint64) {
	if t.Server != c.run {
		v.leafBad(index, at, "is a tick of the server's run %s, which is not the one that was started last", t.Server)
	}
	pause := at.Sub(c.ticked) - time.Duration(t.SteppedMicros)*time.Microsecond
	switch {
	case pause > MaxSilence && t.Reason != "": // as an absence, which a start tells
		v.report.Away = append(v.report.Away, Away{From: c.ticked, To: at, Reason: t.Reason})
		c.waiting = nil
	case pause > MaxSilence:
		v.leafBad(index, at, "no checkpoint was kept between %s and %s, %s", c.ticked.Format(time.RFC3339), at.Format(time.RFC3339),
			pause.Round(time.Second))
	}
	c.elapsed += max(pause, 0)
	c.ticked = at
	for len(c.waiting) > 0 && c.waiting[0].index < covered {
		c.waiting = c.waiting[1:]
	}
	if len(c.waiting) > 0 && c.elapsed-c.waiting[0].since > MaxSilence {
		v.leafBad(c.waiting[0].index, at, "was under no checkpoint for %s", (c.elapsed - c.waiting[0].since).Round(time.Second))
		c.waiting = nil
	}
	c.waiting = append(c.waiting, waiting{index, c.elapsed})
}

// end judges what is behind the newest tick.
func (c *clock) end(v *verifier) {
	if c.back > 0 {
		v.note("%d leaves are dated before the one before them: the server's clock was set back, or events waited", c.back)
	}
	if c.ticked.IsZero() {
		c.ticked = v.report.From
	}
	if pause := c.last.Sub(c.ticked); !c.stopped && pause > MaxSilence {
		v.logBad(logDir+tiles.Checkpoint, "no checkpoint was kept after %s, %s before the newest leaf", c.ticked.Format(time.RFC3339),
			pause.Round(time.Second))
	}
}

func (v *verifier) note(format string, args ...any) {
	v.report.Notes = append(v.report.Notes, fmt.Sprintf(format, args...))
}

// kept judges the checkpoint that a tick keeps, and returns its size.
func (v *verifier) kept(index uint64, t *leaf.Tick, at time.Time) uint64 {
	c, err := tiles.ParseSigned([]byte(t.Checkpoint))
	if err != nil {
		v.leafBad(index, at, "keeps no checkpoint: %s", err)
		return 0
	}
	by, bad := v.signatures(c)
	for _, what := range bad {
		v.leafBad(index, at, "the checkpoint that it keeps %s", what)
	}
	for i := range v.report.Witnesses {
		if _, has := by[v.report.Witnesses[i].Name]; has {
			v.report.Witnesses[i].Checkpoints++
		}
	}
	root, ok := v.log.reach(c.Size)
	switch {
	case !ok:
		v.leafBad(index, at, "keeps a checkpoint of %d leaves, which is none of the past", c.Size)
		return 0
	case root != c.Root:
		v.leafBad(index, at, "keeps a checkpoint of %d leaves, of which the entries here have another root", c.Size)
	}
	v.report.Checkpoints++
	return c.Size
}
