package treelog

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	cosign "github.com/transparency-dev/formats/note"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/tiles"
	"github.com/culvert-net/culvert/internal/logkey"
)

// tick appends a leaf now and then, with the newest checkpoint in it, and looks in between how far the log is signed for.
func (l *Log) tick(ctx context.Context) {
	look := time.NewTicker(min(l.cfg.Interval, l.cfg.Tick))
	defer look.Stop()
	due := time.NewTicker(l.cfg.Tick)
	defer due.Stop()
	t := ticker{log: l, steps: stepper{now: l.cfg.Now, last: l.cfg.Now()}, number: 1}
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			l.look(ctx)
		case <-due.C:
			t.tick(ctx)
		}
	}
}

// ticker appends ticks.
type ticker struct {
	log    *Log
	steps  stepper
	number uint64
	since  time.Time // when the first tick failed that no other followed; zero: none did
	why    string    // it
}

// maxReason bounds the reason of a tick, in bytes.
const maxReason = 300

func (t *ticker) tick(ctx context.Context) {
	l := t.log
	checkpoint, err := l.Checkpoint(ctx)
	if err == nil {
		t.steps.look()
		one := leaf.Tick{Server: l.run, Number: t.number, Checkpoint: string(checkpoint), SteppedMicros: t.steps.sum.Microseconds()}
		if !t.since.IsZero() {
			one.Reason = fmt.Sprintf("could not be written from %s on: %s", t.since.UTC().Format(time.RFC3339), t.why)
		}
		_, err = l.Append(ctx, leaf.Leaf{Type: leaf.TypeTick, Tick: &one})
	}
	switch {
	case err == nil:
		t.number++
		t.steps.sum, t.since = 0, time.Time{}
	case ctx.Err() == nil && t.since.IsZero():
		l.cfg.Logger.Error("merkle log", logkey.Step, "tick", logkey.Error, err)
		t.since, t.why = l.cfg.Now(), strings.ToValidUTF8(err.Error()[:min(len(err.Error()), maxReason)], "")
	}
}

// look learns how far the log is signed for, and by whom.
func (l *Log) look(ctx context.Context) {
	data, err := l.Checkpoint(ctx)
	if err != nil {
		return
	}
	c, err := tiles.ParseSigned(data)
	if err != nil {
		return
	}
	by := 0
	for _, w := range l.cfg.Witnesses {
		var v note.Verifier
		if v, err = cosign.NewVerifierForCosignatureV1(w.Key); err == nil {
			if _, valid := c.SignedBy(v); valid {
				by++
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Published = c.Size
	if c.Size >= l.newest {
		l.waits = time.Time{}
		if l.status.Size > c.Size { // the oldest that waits came since; this is late by an interval at most
			l.waits, l.newest = l.cfg.Now(), l.status.Size
		}
	}
	if by == len(l.cfg.Witnesses) && by > 0 {
		l.status.Cosignature = l.cfg.Now()
	}
}

// stepper finds how far a clock was set, by the clock that cannot be set.
type stepper struct {
	now  func() time.Time
	last time.Time
	sum  time.Duration // since it was told
}

// least is what counts as a step: less is the clock being steered, and what two readings need.
const least = 100 * time.Millisecond

func (s *stepper) look() {
	now := s.now()
	step := now.Round(0).Sub(s.last.Round(0)) - now.Sub(s.last)
	if step >= least || step <= -least {
		s.sum += step
	}
	s.last = now
}
