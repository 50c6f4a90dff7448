package delivery

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// claims are the lines at the destination that say that there was nothing, or that something is missing.
func (b *bench) claims() []string {
	b.t.Helper()
	var out []string
	for _, lines := range b.files() {
		for _, l := range lines {
			if strings.HasSuffix(l, "DATA") {
				out = append(out, l)
			}
		}
	}
	slices.Sort(out)
	return out
}

// What is written ahead of a window's end, because too much waits, is traffic of its window all the same, also over a restart.
func TestBacklogIsNoSilence(t *testing.T) {
	b := newBench(t)
	b.settled()
	for w := range 4 {
		for i := range 50 {
			b.add(b.flow("eni-1", time.Duration(w)*5*time.Minute+time.Duration(i)*time.Second))
		}
		if w != 2 {
			b.add(b.flow("eni-2", time.Duration(w)*5*time.Minute+time.Minute))
		}
	}
	end, err := b.store.End()
	if err != nil {
		t.Fatal(err)
	}
	b.d.chunk = end["2026-03-04"] / 3
	b.mu.Lock()
	b.now = noon.Add(4 * time.Minute) // the windows are open: what exceeds a chunk is written
	b.mu.Unlock()
	before := b.settled()
	if before.Objects < 2 || !before.CoveredUntil.Equal(noon) {
		t.Fatalf("nothing was written ahead: %+v", before)
	}
	b.d.endAll()
	b.open()
	b.at(20*time.Minute + 2*time.Second)
	b.until("all windows are closed", func(s *api.FlowLogDelivery) bool {
		return s.CoveredUntil.Equal(noon.Add(20*time.Minute)) && s.Waiting == 0
	})
	if got := b.claims(); len(got) != 1 || !strings.Contains(got[0], " eni-2 ") || !strings.HasSuffix(got[0], "1772626200 1772626500 - NODATA") {
		t.Errorf("lines of interfaces without traffic: %q", got)
	}
}

// A seal that comes while a round is under way, with records behind the store's end as the round knows it, closes no window.
func TestRecordsThatComeInARoundAreNoSilence(t *testing.T) {
	b := newBench(t)
	b.settled()
	b.mu.Lock()
	b.now = noon.Add(5*time.Minute + 2*time.Second)
	b.mu.Unlock()
	picture, calls := b.d.cfg.Resources, 0
	end := b.d.cfg.Store.End
	before, err := end()
	if err != nil {
		t.Fatal(err)
	}
	b.d.cfg.Resources = func() *api.Resources {
		if calls++; calls == 3 { // of the round, of what it knows, and of the flow log's scope, behind the store's end
			b.add(b.flow("eni-1", time.Minute), b.flow("eni-2", time.Minute))
			b.at(5*time.Minute + 2*time.Second)
		}
		return picture()
	}
	b.d.round(t.Context())
	if after, err := end(); err != nil || before.Behind(after) == 0 {
		t.Fatal("nothing came in the round", err)
	}
	if s := b.settled(); !s.CoveredUntil.Equal(noon.Add(5 * time.Minute)) {
		t.Errorf("covered until %s", s.CoveredUntil)
	}
	if got := b.claims(); len(got) != 0 || len(b.files()) != 1 {
		t.Errorf("%q in %d files", got, len(b.files()))
	}
}

// Traffic of the other type is no silence, and what is lost beside it is told.
func TestOtherTrafficIsNoSilence(t *testing.T) {
	b := newBench(t, func(f *api.FlowLog) { f.TrafficType = api.TrafficReject; f.LogFormat += " ${lost}" })
	b.settled()
	b.add(b.flow("eni-1", time.Minute, func(r *api.FlowRecord) { r.Lost = 9 }))
	b.at(5*time.Minute + 2*time.Second)
	b.until("the window is closed", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 && s.Waiting == 0 })
	var got []string
	for _, lines := range b.files() {
		got = append(got, lines...)
	}
	slices.Sort(got)
	if len(got) != 2 || !strings.Contains(got[0], "eni-1") || !strings.HasSuffix(got[0], "SKIPDATA 9") || !strings.Contains(got[1], "eni-2") ||
		!strings.Contains(got[1], "NODATA") {
		t.Errorf("%q", got)
	}
}

// A record is counted once, whatever lines it has.
func TestRecordsOfAnObject(t *testing.T) {
	b := newBench(t)
	b.settled()
	b.add(b.flow("eni-1", time.Minute, func(r *api.FlowRecord) { r.Packets, r.Bytes, r.ReplyPackets, r.ReplyBytes = 0, 0, 5, 500 }),
		b.flow("eni-2", time.Minute, func(r *api.FlowRecord) { r.ReplyPackets, r.ReplyBytes = 5, 500 }))
	b.at(5*time.Minute + 2*time.Second)
	b.until("the window is closed", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 && s.Waiting == 0 })
	if o := b.recorded[0]; o.Records != 2 || o.Lines != 3 || o.Destination != "local:logs" {
		t.Errorf("%+v", o)
	}
}

// What is disposed of before a flow log has read it is counted, declared, and no silence.
func TestDisposalBeforeDelivery(t *testing.T) {
	b := newBench(t)
	b.settled()
	if ready, err := b.d.LetGo(t.Context(), "2026-03-04"); ready || err != nil {
		t.Fatal("before the first round is over", ready, err)
	}
	b.d.ran = true
	for i := range 50 {
		b.add(b.flow("eni-1", time.Duration(i)*time.Second))
	}
	if ready, err := b.d.LetGo(t.Context(), "2026-03-04"); !ready || err != nil {
		t.Fatal(ready, err)
	}
	days, err := b.store.Days()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range days {
		if err := b.store.Remove(d); err != nil {
			t.Fatal(err)
		}
	}
	b.at(5*time.Minute + 2*time.Second)
	s := b.until("the window is closed", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 && s.Waiting == 0 })
	if got := b.claims(); s.LostRecords != 50 || len(got) != 2 || !strings.HasSuffix(got[0], "SKIPDATA") || !strings.Contains(got[1], "eni-2") {
		t.Errorf("lost %d, %q", s.LostRecords, got)
	}
}

// What was read, held back for the window that is open, and disposed of before that is closed is counted, declared, and no silence: once, and so is what is
// given up for a destination that takes nothing.
func TestDisposalOfWhatIsHeldBack(t *testing.T) {
	for what, lose := range map[string]func(*bench) error{
		"disposed of": func(b *bench) error {
			for range 2 { // a disposal that failed is tried again
				if ready, err := b.d.LetGo(t.Context(), "2026-03-04"); !ready || err != nil {
					return fmt.Errorf("%t, %w", ready, err)
				}
			}
			return nil
		},
		"given up": func(b *bench) error {
			a := b.d.all["fl-1"]
			a.mu.Lock()
			defer a.mu.Unlock()
			defer a.show()
			end, err := b.store.End()
			if err != nil {
				return err
			}
			return b.d.giveUp(t.Context(), a, end, noon.Add(72*time.Hour))
		},
	} {
		t.Run(what, func(t *testing.T) {
			b := newBench(t)
			b.settled()
			b.d.ran = true
			b.add(b.flow("eni-1", time.Minute), b.flow("eni-2", time.Minute))
			for i := range 50 {
				b.add(b.flow("eni-1", 5*time.Minute+time.Duration(i)*time.Second))
			}
			b.at(5*time.Minute + 2*time.Second)
			b.until("the first window is closed", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 && s.Waiting == 0 })
			b.add(b.flow("eni-1", 5*time.Minute), b.flow("eni-1", 11*time.Minute)) // not read yet
			if err := lose(b); err != nil {
				t.Fatal(err)
			}
			b.at(10*time.Minute + 2*time.Second) // before the day is removed, as a round may come
			b.until("the second window is closed", func(s *api.FlowLogDelivery) bool { return s.Objects == 2 && s.Waiting == 0 })
			s := b.d.State("fl-1")
			got := b.claims()
			slices.SortFunc(got, func(x, y string) int { return strings.Compare(y[len(y)-8:], x[len(x)-8:]) })
			if s.LostRecords != 52 || s.Lines != 4 || len(got) != 2 || !strings.HasSuffix(got[0], "SKIPDATA") || !strings.Contains(got[1], "eni-2") ||
				!strings.HasSuffix(got[1], "NODATA") {
				t.Errorf("lost %d, %d lines, %q", s.LostRecords, s.Lines, got)
			}
		})
	}
}
