package flow

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
)

var sealKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

// proof is what an auditor finds in a log that is all here.
type proof struct {
	seals    []*seal.Seal
	declared []seal.Gap
	open     int // lines behind the last seal
}

// prove checks every line: numbers, hashes, signatures, the chain, and the balance of each boot. The errors are what does not fit.
func prove(lines []Entry) (p proof, errs []error) {
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	tallies := map[string]*seal.Tally{}
	next, number := map[string]uint64{}, map[string]uint64{}
	gaps := map[string][]seal.Gap{}
	for i := range lines {
		if s, ok, err := seal.Parse(lines[i].Raw); ok && err == nil {
			for _, g := range s.Declared {
				boot := cmp.Or(g.Boot, s.Boot)
				gaps[boot] = append(gaps[boot], g)
			}
		}
	}
	over := func(boot string, seals bool, from, to uint64) bool { // whether gaps cover a hole
		for from < to {
			reached := from
			for _, g := range gaps[boot] {
				first, last := g.FirstSequence, g.LastSequence
				if seals {
					first, last = g.FirstSeal, g.LastSeal
				}
				if first > 0 && first <= from && last >= from {
					reached = max(reached, last+1)
				}
			}
			if reached == from {
				return false
			}
			from = reached
		}
		return from == to
	}
	previous := ""
	var segment [][]byte
	for i := range lines {
		l := &lines[i]
		if tallies[l.Boot] == nil {
			tallies[l.Boot], next[l.Boot], number[l.Boot] = &seal.Tally{}, 1, 1
			tallies[l.Boot].Expect(gaps[l.Boot]...)
		}
		raw := append(slices.Clone(l.Raw), '\n')
		if l.Kind != KindSeal {
			segment = append(segment, raw)
			if err := tallies[l.Boot].Line(l.Raw); err != nil {
				fail("line %d: %v", i, err)
			}
			continue
		}
		s, _, err := seal.Parse(l.Raw)
		if err == nil {
			err = s.Check(sealKey.Public().(ed25519.PublicKey))
		}
		if err != nil {
			fail("line %d: %v", i, err)
			continue
		}
		p.seals, p.declared = append(p.seals, s), append(p.declared, s.Declared...)
		switch {
		case s.Number != number[s.Boot] && !over(s.Boot, true, number[s.Boot], s.Number):
			fail("seal %d of %s, want %d", s.Number, s.Boot, number[s.Boot])
		case s.First != next[s.Boot] && !over(s.Boot, false, next[s.Boot], s.First):
			fail("seal %d of %s begins at %d, want %d", s.Number, s.Boot, s.First, next[s.Boot])
		case s.Records != len(segment) || s.Hash != seal.HashLines(segment...):
			fail("seal %d of %s: %d lines, hash %s", s.Number, s.Boot, len(segment), s.Hash)
		case s.Previous != previous && s.Number == number[s.Boot] && number[s.Boot] > 1:
			fail("seal %d of %s does not follow the one before", s.Number, s.Boot)
		}
		for _, err := range tallies[s.Boot].Seal(s) {
			fail("seal %d of %s: %v", s.Number, s.Boot, err)
		}
		next[s.Boot], number[s.Boot], previous, segment = s.Last+1, s.Number+1, seal.HashLine(raw), nil
	}
	p.open = len(segment)
	return p, errs
}

// proven demands that all fits.
func proven(t *testing.T, lines []Entry) proof {
	t.Helper()
	p, errs := prove(lines)
	for _, err := range errs {
		t.Error(err)
	}
	return p
}

// linesOf reads a store's lines.
func linesOf(t *testing.T, s Store) (lines []Entry) {
	t.Helper()
	numbers, err := segmentNumbers(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range numbers {
		content, err := load(s, n, 0)
		if err != nil {
			t.Fatal(err)
		}
		for raw := range bytes.Lines(content) {
			l, ok := parseLine(raw)
			if !ok {
				t.Fatalf("segment %d: %q", n, raw)
			}
			lines = append(lines, l)
		}
	}
	return lines
}

func sealed(c *Config) { c.Log.Key, c.Interval = sealKey, time.Second }

// carry lets a flow of the cart have so many packets, which the datapath counts.
func (r *rig) carry(id, packets, replies uint64) Flow {
	before, _ := r.src.get(id)
	f := r.count(id, packets, replies)
	r.src.Count(Counter{11, "workload", "FORWARDED", packets - before.Packets, 60 * (packets - before.Packets)})
	r.src.Count(Counter{11, "tunnel", "FORWARDED", replies - before.ReplyPackets, 60 * (replies - before.ReplyPackets)})
	return f
}

func (m *Mem) get(id uint64) (Flow, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.flows[id]
	return f, ok
}

// refuse refuses packets of the cart.
func (r *rig) refuse(packets uint64) {
	r.src.Count(Counter{11, "workload", "NO_LISTENER", packets, 40 * packets})
	r.src.Refuse(0, Refusal{
		ENI: 11, Hook: HookWorkload, Reason: "NO_LISTENER", Packets: packets, Bytes: 40 * packets, Dst: ip("10.0.1.200"), FirstNS: bootNow(),
		LastNS: bootNow(),
	})
}

// sumOf adds up what gaps of a cause declare.
func sumOf(gaps []seal.Gap, cause string) (n seal.Count) {
	for _, g := range gaps {
		if g.Cause == cause {
			n = n.Plus(seal.Count{Packets: g.Packets, Bytes: g.Bytes})
		}
	}
	return n
}

// Every line is in a segment within ten seconds, an empty one ends within a minute, and what the counters have the records say.
func TestSegmentsAreSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, NewMem(), NewMemStore(), sealed)
		for i := range uint64(60) {
			r.carry(1, 10*i+1, 5*i)
			if i%7 == 0 {
				r.refuse(i + 1)
			}
			pass(time.Second)
		}
		pass(3 * time.Minute)
		r.stop()
		p := proven(t, linesOf(t, r.store))
		if p.open != 0 || len(p.declared) != 0 {
			t.Errorf("%d lines are open, declared: %+v", p.open, p.declared)
		}
		for i, s := range p.seals[1:] {
			if d := s.End.Sub(p.seals[i].End); d > 10*time.Second && s.Records > 0 || d > time.Minute {
				t.Errorf("seal %d with %d records came %s after the one before", s.Number, s.Records, d)
			}
			if !s.Full {
				t.Errorf("seal %d is not full", s.Number)
			}
		}
		if last := p.seals[len(p.seals)-1]; last.Records != 0 || last.First != last.Last+1 {
			t.Errorf("last seal %+v", last)
		}
		if got := linesOf(t, r.store); len(r.sink.lines) != len(got)-1 { // the last one is made when shipping has ended
			t.Errorf("%d of %d lines were shipped", len(r.sink.lines), len(got))
		}
	})
}

// Between two readings of a minute segments are closed without counters.
func TestLongIntervalsAreSealedInBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, NewMem(), NewMemStore(), func(c *Config) { c.Log.Key = sealKey })
		for i := range uint64(120) {
			r.carry(i+1, 1, 0)
			r.src.Emit(Event{Kind: EventOpen, FlowID: i + 1})
			pass(time.Second)
		}
		if err := r.SetInterval(10 * time.Minute); err != nil {
			t.Fatal(err)
		}
		for i := range uint64(700) {
			r.carry(i+200, 1, 0)
			r.src.Emit(Event{Kind: EventOpen, FlowID: i + 200})
			pass(time.Second)
		}
		r.stop()
		p := proven(t, linesOf(t, r.store))
		full := 0
		for i, s := range p.seals {
			if s.Full {
				full++
			}
			if i > 0 && s.End.Sub(p.seals[i-1].End) > 11*time.Second {
				t.Errorf("seal %d came %s after the one before", s.Number, s.End.Sub(p.seals[i-1].End))
			}
		}
		if full < 4 || full > 6 || len(p.seals) < 70 {
			t.Errorf("%d seals, %d full", len(p.seals), full)
		}
	})
}

// killed is a rig that ends as by SIGKILL: what it has read and not written is lost.
func (r *rig) killed(keep int) *MemStore {
	left := r.store.Crash(keep)
	r.store.Limit(0)
	r.stop()
	return left
}

// An agent that dies in the middle of a segment: the next one closes it, and declares what it had read and not written, exactly.
func TestKilledInTheMiddleOfASegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := NewMem()
		r := start(t, src, NewMemStore(), sealed)
		pass(500 * time.Millisecond) // between two readings
		for i := range uint64(25) {
			r.carry(1, 10*(i+1), i)
			r.refuse(1)
			pass(time.Second)
		}
		written := everything(t, r.store)
		r.store.Limit(0) // what it reads now it takes with it
		r.refuse(7)
		r.carry(1, 1000, 30)
		pass(2 * time.Second)
		r.store.Limit(-1)
		store := r.killed(0)

		again := start(t, src, store, sealed)
		again.refuse(2)
		again.carry(1, 1001, 31)
		pass(5 * time.Second)
		again.stop()
		lines := linesOf(t, store)
		p := proven(t, lines)
		if got := sumOf(p.declared, seal.CauseLost); got != (seal.Count{Packets: 7, Bytes: 280}) {
			t.Errorf("declared as lost: %+v, want the 7 refusals: %+v", got, p.declared)
		}
		restarts := slices.DeleteFunc(slices.Clone(p.declared), func(g seal.Gap) bool { return g.Cause != seal.CauseRestart })
		if len(restarts) != 1 || restarts[0].From.IsZero() || restarts[0].To.Before(restarts[0].From) {
			t.Errorf("restarts %+v", restarts)
		}
		if got := everything(t, store); !slices.Equal(got[:len(written)], written) {
			t.Error("acknowledged records are not what they were")
		}
	})
}

// What the datapath counted for a flow and refused after that is declared as told too much.
func TestToldTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, NewMem(), NewMemStore(), sealed)
		r.carry(1, 10, 0)
		r.count(1, 12, 0) // two more, which no counter has as forwarded
		pass(20 * time.Second)
		r.stop()
		p := proven(t, linesOf(t, r.store))
		if got := sumOf(p.declared, seal.CauseOver); got != (seal.Count{Packets: 2, Bytes: 120}) {
			t.Errorf("declared %+v", p.declared)
		}
	})
}

// A boot that ended in the middle of a segment is closed by the next one, whose numbers begin anew; the chain goes on.
func TestSealsAcrossBoots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, NewMem(), NewMemStore(), sealed)
		r.carry(1, 10, 5)
		pass(12 * time.Second)
		r.carry(1, 20, 9)
		pass(2 * time.Second)
		store := r.killed(0)
		again := start(t, NewMem(), store, func(c *Config) { sealed(c); c.Log.Boot = "boot-2" })
		again.carry(2, 3, 0)
		pass(12 * time.Second)
		again.stop()
		p := proven(t, linesOf(t, store))
		if !slices.ContainsFunc(p.seals, func(s *seal.Seal) bool {
			return s.Boot == "boot-1" && len(s.Declared) == 1 && s.Declared[0].Cause == seal.CauseBoot && s.Records > 0
		}) {
			t.Errorf("no seal closes the first boot: %+v", p.declared)
		}
		if last := p.seals[len(p.seals)-1]; last.Boot != "boot-2" || last.Number < 2 {
			t.Errorf("last seal %+v", last)
		}
	})
}

// Records of before there were seals are in no segment: that is declared, and counters and records meet from there on.
func TestLogFromBeforeSeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := NewMem()
		r := start(t, src, NewMemStore(), func(c *Config) { c.Interval = time.Second })
		r.carry(1, 10, 5)
		r.refuse(3)
		pass(5 * time.Second)
		store := r.killed(0)
		again := start(t, src, store, sealed)
		again.carry(1, 11, 5)
		pass(5 * time.Second)
		again.stop()
		lines := linesOf(t, store)
		first := slices.IndexFunc(lines, func(l Entry) bool { return l.Sequence > 2 || l.Kind == KindSeal })
		p := proven(t, lines[first:])
		if g := p.seals[0].Declared[0]; g.Cause != seal.CauseUnsealed || g.FirstSequence != 1 || g.LastSequence != 2 || p.seals[0].Number != 1 {
			t.Errorf("first seal %+v", p.seals[0])
		}
		if got := sumOf(p.declared, seal.CauseLost); got.Packets != 18 {
			t.Errorf("declared %+v, want the 18 packets of before", p.declared)
		}
	})
}

// Times that jump change neither numbers nor the chain, and each seal says how far.
func TestClockStepsAreSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var step time.Duration
		r := start(t, NewMem(), NewMemStore(), func(c *Config) {
			sealed(c)
			c.Clock = func() Clock {
				mu.Lock()
				defer mu.Unlock()
				return Clock{Boot: bootNow(), Wall: time.Now().Add(step)}
			}
		})
		var want []int64
		for i, d := range []time.Duration{0, 3 * time.Hour, -72 * time.Hour, 40 * 24 * time.Hour, 20 * time.Millisecond} {
			mu.Lock()
			step += d
			mu.Unlock()
			if d.Abs() > time.Second {
				want = append(want, d.Microseconds())
			}
			for range 20 {
				r.carry(uint64(i+1), r.next(), 0)
				pass(time.Second)
			}
		}
		r.stop()
		p := proven(t, linesOf(t, r.store))
		var got []int64
		for _, s := range p.seals {
			if s.Clock.SteppedMicros != 0 {
				got = append(got, s.Clock.SteppedMicros)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("steps %v, want %v", got, want)
		}
		if len(p.declared) != 0 {
			t.Errorf("declared %+v", p.declared)
		}
	})
}

// next is a number that grows.
func (r *rig) next() uint64 { r.packets++; return r.packets }

// While the disk is full nothing is sealed; then the log says all, with the counters, and Problem and Ready follow.
func TestSealsOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ready atomic.Uint64
		r := start(t, NewMem(), NewMemStore(), func(c *Config) {
			sealed(c)
			c.MaxPending = 5
			c.Ready = func(until uint64) error { ready.Store(until); return nil }
		})
		traffic := func(n uint64) {
			for range n {
				for id := range uint64(20) {
					r.carry(id+1, r.next(), 0)
				}
				r.refuse(1)
				pass(time.Second)
			}
		}
		traffic(15)
		if r.Problem() != nil || ready.Load() < bootNow()+uint64(8*time.Second) {
			t.Fatalf("problem %v, ready until %d, now %d", r.Problem(), ready.Load(), bootNow())
		}
		r.store.Limit(100)
		traffic(3)
		if err := r.Problem(); err == nil || !strings.Contains(err.Error(), "no space left") || !strings.Contains(err.Error(), "make room") ||
			!r.Stats().Failing {
			t.Errorf("problem %v", err)
		}
		traffic(12)
		if ready.Load() != 0 {
			t.Errorf("ready until %d, now %d", ready.Load(), bootNow())
		}
		r.store.Limit(-1)
		traffic(3)
		if r.Problem() != nil || ready.Load() < bootNow()+uint64(8*time.Second) || r.Stats().Failing {
			t.Errorf("problem %v, ready until %d, now %d", r.Problem(), ready.Load(), bootNow())
		}
		r.stop()
		p := proven(t, linesOf(t, r.store))
		if len(p.declared) != 0 { // its detail went, its packets did not
			t.Errorf("declared %+v", p.declared)
		}
	})
}

// A log that is about to remove what was not shipped promises nothing, says so, and promises again when the server has taken it.
func TestFullLogIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ready atomic.Uint64
		r := start(t, NewMem(), NewMemStore(), func(c *Config) {
			sealed(c)
			c.Log.MaxBytes, c.Log.SegmentBytes = 64<<10, 8<<10
			c.Ready = func(until uint64) error { ready.Store(until); return nil }
		})
		r.sink.set(errors.New("no server"))
		full := false
		for i := range 600 {
			r.carry(uint64(i%20)+1, r.next(), 0)
			pass(time.Second)
			now := r.log.waiting() > 56<<10
			if now != (r.Problem() != nil) {
				t.Fatalf("%d bytes wait: %v", r.log.waiting(), r.Problem())
			}
			if r.Stats().Lost > 0 && !full {
				t.Fatal("records went while new flows might open")
			}
			if full = full || now; now {
				break
			}
		}
		pass(2 * time.Second)
		if err := r.Problem(); !full || err == nil || !strings.Contains(err.Error(), "wait for the server") || ready.Load() != 0 {
			t.Fatalf("full %v, problem %v, ready until %d", full, err, ready.Load())
		}
		r.sink.set(nil)
		pass(time.Minute)
		if r.Problem() != nil || ready.Load() < bootNow() {
			t.Errorf("after the server has taken all: problem %v, ready until %d, now %d", r.Problem(), ready.Load(), bootNow())
		}
		r.stop()
	})
}

// stuckStore takes a write and does not return.
type stuckStore struct {
	*MemStore
	gate chan struct{}
}

type gatedFile struct {
	File
	gate chan struct{}
}

func (f gatedFile) Sync() error { <-f.gate; return f.File.Sync() }

func (s stuckStore) Open(name string) (File, error) {
	f, err := s.MemStore.Open(name)
	return gatedFile{f, s.gate}, err
}

func TestDiskThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ready atomic.Uint64
		gate := make(chan struct{})
		r := start(t, NewMem(), NewMemStore(), func(c *Config) {
			sealed(c)
			c.Log.Store = stuckStore{c.Log.Store.(*MemStore), gate}
			c.Ready = func(until uint64) error { ready.Store(until); return nil }
		})
		r.carry(1, 1, 0)
		pass(10 * time.Second)
		if err := r.Problem(); err == nil || !strings.Contains(err.Error(), "has not taken a write") {
			t.Errorf("problem %v", err)
		}
		if ready.Load() != 0 {
			t.Errorf("ready until %d, now %d", ready.Load(), bootNow())
		}
		close(gate)
		pass(3 * time.Second)
		if r.Problem() != nil || ready.Load() < bootNow() {
			t.Errorf("problem %v, ready until %d", r.Problem(), ready.Load())
		}
		r.stop()
	})
}

// An interface that goes: its counters become nobody's, not before that is written down, and its row ends with its final count.
func TestFoldedCounters(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprint("crash ", crash), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := NewMem()
				r := start(t, src, NewMemStore(), sealed)
				r.carry(1, 10, 5)
				r.refuse(3)
				src.Count(Counter{0, "workload", "NO_LISTENER", 2, 80})
				src.Refuse(0, Refusal{Hook: HookWorkload, Reason: "NO_LISTENER", Packets: 2, Bytes: 80, Dst: ip("10.0.1.200")})
				pass(10 * time.Second)
				fold := func() (n int) {
					var rows []Counter
					for _, c := range src.Counters() {
						if c.ENI == 11 {
							rows = append(rows, c)
						}
					}
					for i, ok := range r.Fold(rows) {
						if ok {
							src.Fold(11, rows[i].Hook, rows[i].Reason)
							n++
						}
					}
					return n
				}
				if n := fold(); n != 0 {
					t.Fatalf("%d rows were folded before that was written down", n)
				}
				src.Remove(1)
				pass(60 * time.Second)
				if n := fold(); n != 3 {
					t.Fatalf("%d rows were folded, want 3", n)
				}
				if crash {
					r = start(t, src, r.killed(0), sealed)
					r.store = r.cfg.Log.Store.(*MemStore)
				}
				pass(60 * time.Second)
				r.carry(2, 4, 0) // it is attached again
				pass(20 * time.Second)
				r.stop()
				p := proven(t, linesOf(t, r.store))
				folded := 0
				for _, s := range p.seals {
					for _, c := range s.Counters {
						if c.Folded {
							folded++
						}
						if c.ENI == "" && c.To.Packets != 2 {
							t.Errorf("of no interface: %+v", c)
						}
					}
				}
				if folded != 3 || sumOf(p.declared, seal.CauseLost).Packets+sumOf(p.declared, seal.CauseOver).Packets != 0 {
					t.Errorf("%d rows are final, declared %+v", folded, p.declared)
				}
			})
		})
	}
}

// What is trimmed before it was shipped is declared: sequences, seals, and packets by row, so that what has arrived proves itself.
func TestTrimmedIsDeclared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := NewMem()
		small := func(c *Config) {
			sealed(c)
			c.Log.SegmentBytes, c.Log.MaxBytes = 4<<10, 40<<10
		}
		r := start(t, src, NewMemStore(), small)
		traffic := func(n int) {
			for range n {
				for id := range uint64(5) {
					r.carry(id+1, r.next(), 0)
				}
				pass(time.Second)
			}
		}
		traffic(20)
		r.sink.set(errors.New("no route to host"))
		traffic(100)
		arrived := slices.Clone(r.sink.lines)
		r.sink.set(nil)
		pass(time.Minute)
		store := r.killed(0)
		arrived = append(arrived, r.sink.lines[len(arrived):]...)
		again := start(t, src, store, small)
		again.packets = r.packets
		again.carry(1, again.next(), 0)
		pass(time.Minute)
		again.stop()
		if again.Stats().Lost == 0 && r.Stats().Lost == 0 {
			t.Fatal("nothing was trimmed")
		}
		arrived = append(arrived, again.sink.lines...)
		p, errs := prove(whole(arrived))
		if len(errs) > 0 {
			t.Errorf("what arrived does not fit: %v", errs)
		}
		if n := sumOf(p.declared, seal.CauseTrimmed); n.Packets == 0 {
			t.Errorf("declared %+v", p.declared)
		}
	})
}

// whole leaves out lines that came twice, and lines whose seal was trimmed.
func whole(lines []Entry) (out []Entry) {
	seen := map[string]bool{}
	for _, l := range lines {
		if key := fmt.Sprint(l.Kind, l.Boot, l.Sequence, string(l.Raw)); !seen[key] {
			seen[key] = true
			out = append(out, l)
		}
	}
	var segment, all []Entry
	for _, l := range out {
		if segment = append(segment, l); l.Kind != KindSeal {
			continue
		}
		s, _, _ := seal.Parse(l.Raw)
		all = append(all, slices.DeleteFunc(segment, func(l Entry) bool { return l.Kind != KindSeal && l.Sequence < s.First })...)
		segment = nil
	}
	return all
}

// A removal that was noted and not done is done by the next start, and declared once.
func TestTrimIsFinishedAfterACrash(t *testing.T) {
	store := NewMemStore()
	cfg := LogConfig{Store: store, Boot: "boot-1", Node: node, Key: sealKey, Shipping: true, MaxBytes: 1}
	l, _ := openLog(t, cfg)
	end := func() *seal.Seal { return &seal.Seal{End: epoch} }
	for range 2 {
		if err := l.Write(Batch{Records: []api.FlowRecord{counted(3)}, Seal: end()}); err != nil {
			t.Fatal(err)
		}
	}
	noted := &crashStore{MemStore: store}
	l.cfg.Store = noted
	if err := l.Rotate(nil); !errors.Is(err, errNoRemoval) {
		t.Fatal(err)
	}
	again, _ := openLog(t, LogConfig{Store: store.Crash(0), Boot: "boot-1", Node: node, Key: sealKey, Shipping: true})
	if err := again.Write(Batch{Records: []api.FlowRecord{counted(4)}, Seal: end()}); err != nil {
		t.Fatal(err)
	}
	lines := linesOf(t, again.cfg.Store)
	p := proven(t, lines)
	if len(lines) != 2 || len(p.seals) != 1 || p.seals[0].Number != 3 || p.seals[0].First != 3 {
		t.Fatalf("%d lines, seals %+v", len(lines), p.seals)
	}
	trimmed := sumOf(p.declared, seal.CauseTrimmed)
	if last := p.declared[len(p.declared)-1]; trimmed.Packets != 6 || last.FirstSeal != 1 || last.LastSeal != 2 {
		t.Errorf("declared %+v", p.declared)
	}
	third, _ := openLog(t, LogConfig{Store: again.cfg.Store, Boot: "boot-1", Node: node, Key: sealKey, Shipping: true})
	if len(third.trimmed) != 0 {
		t.Errorf("it would be declared again: %+v", third.trimmed)
	}
}

func counted(packets uint64) api.FlowRecord {
	r := rec(1, api.FlowActive, packets)
	r.Stage = "workload"
	return r
}

var errNoRemoval = errors.New("no removal")

type crashStore struct{ *MemStore }

func (*crashStore) Remove(string) error { return errNoRemoval }

// Lines of other kinds share sequence, segments and shipping, and tell nothing of packets; who asks for flow records gets those alone.
func TestOtherLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, NewMem(), NewMemStore(), sealed)
		question := func(node, boot string, sequence uint64) ([]byte, error) {
			return fmt.Appendf(nil, `{"query":{"node":%q,"boot":%q,"sequence":%d,"end":%q}}`, node, boot, sequence, time.Now().Format(time.RFC3339)), nil
		}
		for i := range uint64(15) {
			r.carry(1, i+1, 0)
			if err := r.Append([]LineFunc{question, question}); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
		}
		for name, bad := range map[string]LineFunc{
			"a seal":    func(string, string, uint64) ([]byte, error) { return []byte(`{"seal":{}}`), nil },
			"two lines": func(string, string, uint64) ([]byte, error) { return []byte("{}\n{}"), nil },
		} {
			if err := r.Append([]LineFunc{question, bad}); err == nil {
				t.Errorf("%s is taken", name)
			}
		}
		w, err := r.AppendQueries([]api.QueryRecord{{Name: "<a>.example.", Start: time.Now(), End: time.Now()}})
		if err != nil {
			t.Fatal(err)
		}
		if len(w.Sizes) != 1 || w.Sizes[0] < 100 || w.End.Offset < int64(w.Sizes[0]) {
			t.Errorf("a line is at %+v", w)
		}
		var told []api.QueryRecord
		tell := func(r *api.QueryRecord) { told = append(told, *r) }
		from := w.End
		from.Offset -= int64(w.Sizes[0])
		if err := r.QueriesFrom(from, tell); err != nil || len(told) != 1 || told[0].Name != "<a>.example." || told[0].Sequence != w.Last {
			t.Errorf("from %+v on there are %+v, %v, want the last one, number %d", from, told, err, w.Last)
		}
		if err := r.QueriesFrom(Position{}, tell); err != nil || len(told) != 1+31 {
			t.Errorf("in the whole log there are %d, %v", len(told)-1, err)
		}
		r.stop()
		if err := r.Append([]LineFunc{question}); !errors.Is(err, errEnded) {
			t.Errorf("after the end: %v", err)
		}
		lines := linesOf(t, r.store)
		proven(t, lines)
		var last api.QueryLine
		for _, l := range lines {
			if l.Kind == KindQuery {
				last = api.QueryLine{}
				if err := json.Unmarshal(l.Raw, &last); err != nil {
					t.Fatal(err)
				}
			}
		}
		if last.Query.Name != "<a>.example." || last.Query.Node != node || last.Query.Boot != "boot-1" || last.Query.Sequence == 0 {
			t.Errorf("last question %+v", last)
		}
		queries := slices.DeleteFunc(slices.Clone(lines), func(l Entry) bool { return l.Kind != KindQuery })
		records := everything(t, r.store)
		if len(queries) != 31 || queries[0].Node != node || queries[29].Sequence <= queries[28].Sequence || len(records) < 5 {
			t.Errorf("%d queries, %d records", len(queries), len(records))
		}
		again, found := openLog(t, LogConfig{Store: r.store, Boot: "boot-1", Node: node, Key: sealKey})
		if all := uint64(len(queries) + len(records)); found.Sequence != all || again.Stats().Sequence != all || found.Lost != 0 {
			t.Errorf("found %+v", found)
		}
	})
}
