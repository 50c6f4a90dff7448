package flow

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/api"
)

// rig is a collector in a bubble with everything around it in memory.
type rig struct {
	*Collector
	t       *testing.T
	src     *Mem
	store   *MemStore
	sink    *memSink
	stop    func()
	packets uint64 // see next
}

var bubbleBoot = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Hour)

// bootNow is the boot clock of a bubble.
func bootNow() uint64 { return uint64(time.Since(bubbleBoot)) }

func start(t *testing.T, src *Mem, store *MemStore, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, src: src, store: store, sink: &memSink{}}
	cfg := Config{
		Node: node, Source: src, Interval: time.Minute, Sink: r.sink,
		Clock: func() Clock { return Clock{Boot: bootNow(), Wall: time.Now()} },
		Log:   LogConfig{Store: store, Boot: "boot-1"},
	}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.SetView(testView())
	r.Collector = c
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	r.stop = func() { cancel(); done.Wait() }
	synctest.Wait()
	return r
}

// count sets a flow's counters; it was opened when it is first seen and had its newest packet now.
func (r *rig) count(id, packets, replies uint64) Flow {
	f := consumerFlow(id, 0)
	f.CreatedNS, f.LastNS = bootNow(), bootNow()
	f.Counts = Counts{Packets: packets, Bytes: packets * 60, ReplyPackets: replies, ReplyBytes: replies * 60}
	r.src.Set(f)
	return f
}

func (r *rig) said() []string {
	r.t.Helper()
	rs, err := r.Query(r.t.Context(), api.FlowFilter{})
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for i := range rs {
		out = append(out, describe(&rs[i]))
	}
	return out
}

func (r *rig) expect(want ...string) {
	r.t.Helper()
	if got := r.said(); !slices.Equal(got, want) {
		r.t.Errorf("got %q, want %q", got, want)
	}
}

func TestUrgentIsRecordedWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, NewMem(), NewMemStore(), nil)
		defer r.stop()
		r.count(1, 1, 0)
		r.src.Emit(Event{Kind: EventOpen, FlowID: 1})
		pass(time.Second)
		r.expect("open 1/0")

		r.count(1, 50, 40)
		pass(10 * time.Second)
		r.expect("open 1/0")
		pass(time.Minute)
		r.expect("open 1/0", "active 49/40")

		r.src.Refuse(0, Refusal{ENI: 11, Hook: HookWorkload, Reason: "NO_LISTENER", Packets: 2, Dst: ip("10.0.1.200")})
		r.src.Emit(Event{Kind: EventRefused})
		pass(time.Second)
		r.expect("open 1/0", "active 49/40", "REJECTOK 2")

		f := r.count(1, 52, 42)
		f.Closed = true
		r.src.Set(f)
		r.src.Emit(Event{Kind: EventClose, FlowID: 1})
		pass(time.Second)
		r.expect("open 1/0", "active 49/40", "REJECTOK 2", "closed 2/2")
		r.src.Remove(1)
		pass(5 * time.Minute)
		r.expect("open 1/0", "active 49/40", "REJECTOK 2", "closed 2/2")
		if s := r.Stats(); s.Flows != 0 || s.Sequence != 4 || s.Pending != 0 || s.Lost != 0 {
			t.Errorf("%+v", s)
		}
		if got := sequences(r.sink.records()); len(got) != 4 || got[3] != "boot-1/4" {
			t.Errorf("shipped %v", got)
		}
	})
}

func TestNoEventsNoUrgentReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, NewMem(), NewMemStore(), nil)
		defer r.stop()
		r.count(1, 1, 0)
		pass(30 * time.Second)
		r.expect()
		if err := r.SetInterval(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		pass(11 * time.Second)
		r.expect("open 1/0")
		if err := r.SetInterval(7 * time.Second); err == nil {
			t.Error("an interval that there is not was taken")
		}
	})
}

// Whether the agent stops or is cut off, the records of all its lives sum up to the counters, and none is written twice.
func TestRestarts(t *testing.T) {
	for _, crash := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			src, store := NewMem(), NewMemStore()
			var final Counts
			for life := range uint64(4) {
				r := start(t, src, store, func(c *Config) { c.Interval = time.Second; c.Log.SegmentBytes = 1500 })
				for i := range uint64(5) {
					pass(1100 * time.Millisecond)
					final = r.count(1, 100*life+10*i+1, 50*life+5*i).Counts
					r.count(2+life, 3, 3)
				}
				pass(2 * time.Second)
				if crash {
					store = store.Crash(0)
				}
				r.stop()
				src.Remove(2 + life) // while nobody looks
			}
			r := start(t, src, store, nil)
			src.Remove(1)
			pass(2 * time.Minute)
			rs := everything(t, r.store)
			r.stop()
			sums, closes := map[string]Counts{}, map[string]int{}
			for i := range rs {
				if rs[i].Sequence != uint64(i+1) || rs[i].Lost != 0 {
					t.Fatalf("record %d: sequence %d, lost %d", i, rs[i].Sequence, rs[i].Lost)
				}
				sums[rs[i].FlowID] = sums[rs[i].FlowID].add(countsOf(&rs[i]))
				if rs[i].State == api.FlowClosed {
					closes[rs[i].FlowID]++
				}
			}
			if sums[formatID(1)] != final {
				t.Errorf("records say %+v, counters %+v", sums[formatID(1)], final)
			}
			for id := range uint64(5) {
				if closes[formatID(id+1)] != 1 {
					t.Errorf("flow %d has %d closes", id+1, closes[formatID(id+1)])
				}
			}
			for id := uint64(2); id < 6; id++ {
				if want := (Counts{Packets: 3, Bytes: 180, ReplyPackets: 3, ReplyBytes: 180}); sums[formatID(id)] != want {
					t.Errorf("flow %d: records say %+v", id, sums[formatID(id)])
				}
			}
		})
	}
}

// While the disk takes nothing, records wait within a bound; afterwards the sums are right, and they stay right after a restart.
func TestDiskThatIsFullForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := NewMem()
		var said strings.Builder
		r := start(t, src, NewMemStore(), func(c *Config) {
			c.Interval, c.MaxPending = time.Second, 5
			c.Logger = slog.New(slog.NewTextHandler(&said, nil))
		})
		r.count(1, 1, 1)
		pass(2 * time.Second)
		r.store.Limit(10)
		var want Counts
		for i := range uint64(30) {
			want = Counts{}
			for id := range uint64(20) {
				want = want.add(r.count(id+1, 10*i+id+1, i+1).Counts)
			}
			pass(time.Second)
		}
		pass(2 * time.Second)
		if s := r.Stats(); s.Queued == 0 || s.Queued > 5 || s.Sequence != 1 {
			t.Errorf("%+v", s)
		}
		r.store.Limit(-1)
		pass(2 * time.Second)
		if got := sum(everything(t, r.store)); got != want {
			t.Errorf("records say %+v, counters %+v", got, want)
		}
		if n := strings.Count(said.String(), "write flow log"); n != 2 {
			t.Errorf("the trouble and its end were logged %d times:\n%s", n, said.String())
		}
		r.stop()
		again := start(t, src, r.store, func(c *Config) { c.Interval = time.Second })
		pass(5 * time.Second)
		again.stop()
		if got := sum(everything(t, r.store)); got != want {
			t.Errorf("after a restart records say %+v, counters %+v", got, want)
		}
	})
}

func TestSourceThatFailsForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, NewMem(), NewMemStore(), func(c *Config) { c.Interval = time.Second })
		defer r.stop()
		r.count(1, 5, 5)
		pass(2 * time.Second)
		r.src.Fail(errors.New("bpf: interrupted"))
		r.src.Refuse(3, Refusal{Reason: "NO_FLOW", Packets: 7})
		pass(10 * time.Second)
		r.expect("open 5/5")
		r.src.Fail(nil)
		r.count(1, 6, 6)
		pass(2 * time.Second)
		r.expect("open 5/5", "active 1/1 lost 3", "REJECTOK 7")
	})
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, NewMem(), NewMemStore(), func(c *Config) { c.Interval = time.Second })
		defer r.stop()
		r.count(1, 1, 1)
		pass(2 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var fresh, all []string
		follow := func(f api.FlowFilter, to *[]string) {
			wg.Go(func() {
				err := r.Follow(ctx, f, func(r api.FlowRecord) error {
					*to = append(*to, describe(&r))
					return nil
				})
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
		follow(api.FlowFilter{}, &fresh)
		follow(api.FlowFilter{Since: time.Now().Add(-time.Hour), Action: api.ActionAccept}, &all)
		synctest.Wait()
		r.count(1, 3, 1)
		r.src.Refuse(0, Refusal{Reason: "NO_FLOW", Packets: 7})
		pass(2 * time.Second)
		cancel()
		wg.Wait()
		if want := []string{"active 2/0", "REJECTOK 7"}; !slices.Equal(fresh, want) {
			t.Errorf("followed %q, want %q", fresh, want)
		}
		if want := []string{"open 1/1", "active 2/0"}; !slices.Equal(all, want) {
			t.Errorf("followed %q, want %q", all, want)
		}
		full := errors.New("client is gone")
		if err := r.Follow(t.Context(), api.FlowFilter{Since: time.Unix(0, 0)}, func(api.FlowRecord) error { return full }); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
	})
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	good := Config{
		Node: node, Source: NewMem(), Clock: func() Clock { return Clock{} }, Log: LogConfig{Store: NewMemStore(), Boot: "b"},
	}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"node":     func(c *Config) { c.Node = "" },
		"source":   func(c *Config) { c.Source = nil },
		"clock":    func(c *Config) { c.Clock = nil },
		"store":    func(c *Config) { c.Log.Store = nil },
		"boot":     func(c *Config) { c.Log.Boot = "" },
		"interval": func(c *Config) { c.Interval = 5 * time.Second },
	} {
		c := good
		spoil(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The log opens late: nothing is read from the source before, so nothing is lost.
func TestDiskThatIsNotThereAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &lateStore{MemStore: NewMemStore(), down: true}
		r := start(t, NewMem(), NewMemStore(), func(c *Config) { c.Interval, c.Log.Store = time.Second, store })
		defer r.stop()
		r.count(1, 4, 2)
		r.src.Remove(1)
		pass(10 * time.Second)
		store.up()
		pass(3 * time.Second)
		if rs := everything(t, store); len(rs) != 1 || describe(&rs[0]) != "closed 4/2" {
			t.Errorf("%+v", rs)
		}
	})
}

type lateStore struct {
	*MemStore
	guard sync.Mutex
	down  bool
}

func (s *lateStore) up() { s.guard.Lock(); defer s.guard.Unlock(); s.down = false }

func (s *lateStore) List() ([]string, error) {
	s.guard.Lock()
	defer s.guard.Unlock()
	if s.down {
		return nil, errors.New("not mounted")
	}
	return s.MemStore.List()
}
