package flow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/api"
)

// memSink collects what is sent and fails on demand.
type memSink struct {
	mu       sync.Mutex
	got      []api.FlowRecord
	lines    []Entry
	attempts []time.Time
	fail     error
	after    error // fail after the records have arrived
}

func (s *memSink) Send(_ context.Context, lines []Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts = append(s.attempts, time.Now())
	if s.fail != nil {
		return s.fail
	}
	s.lines = append(s.lines, lines...)
	for i := range lines {
		if r, ok := parseFlow(lines[i].Raw); ok {
			s.got = append(s.got, r)
		}
	}
	err := s.after
	s.after = nil
	return err
}

func (s *memSink) set(fail error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func (s *memSink) records() []api.FlowRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func (s *memSink) tries() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.attempts)
}

func TestShipperWithAFailingSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l, _ := openLog(t, LogConfig{Store: NewMemStore(), Shipping: true})
		sink := &memSink{fail: errors.New("no route to host")}
		var done sync.WaitGroup
		done.Go(func() { NewShipper(ShipperConfig{Log: l, Sink: sink, Batch: 4}).Run(ctx) })

		began := time.Now()
		for range 10 { // the recorder does not wait
			appendAll(t, l, rec(1, api.FlowActive, 1))
		}
		if d := time.Since(began); d != 0 {
			t.Errorf("appending took %v", d)
		}
		pass(10 * time.Minute)
		tries := sink.tries()
		if len(tries) < 20 || len(tries) > 60 {
			t.Errorf("%d attempts in 10 minutes, want about one every 15 to 30 s", len(tries))
		}
		for i := 10; i < len(tries); i++ {
			if gap := tries[i].Sub(tries[i-1]); gap < 15*time.Second || gap > 30*time.Second {
				t.Errorf("attempt %d after %v", i, gap)
			}
		}
		if l.Stats().Pending != 10 {
			t.Errorf("%d pending", l.Stats().Pending)
		}
		sink.set(nil)
		pass(time.Minute)
		appendAll(t, l, rec(1, api.FlowActive, 1))
		synctest.Wait() // new records go at once
		if got := sequences(sink.records()); len(got) != 11 || got[10] != "boot-1/11" || l.Stats().Pending != 0 {
			t.Errorf("arrived %v, %d pending", got, l.Stats().Pending)
		}
		cancel()
		done.Wait()
	})
}

// An answer that is lost makes the records come again; none is missing, and nothing is out of order.
func TestShipperIsAtLeastOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewMemStore()
		sink := &memSink{after: errors.New("connection reset")}
		for i := range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			l, _ := openLog(t, LogConfig{Store: s, Shipping: true})
			var done sync.WaitGroup
			done.Go(func() { NewShipper(ShipperConfig{Log: l, Sink: sink}).Run(ctx) })
			appendAll(t, l, rec(1, api.FlowActive, 1), rec(1, api.FlowActive, 1))
			if i > 0 {
				pass(time.Minute)
			}
			synctest.Wait()
			cancel()
			done.Wait()
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		var next uint64
		for _, r := range sink.records() {
			if r.Sequence > next+1 {
				t.Fatalf("%v", sequences(sink.records()))
			}
			next = max(next, r.Sequence)
		}
		if next != 6 || len(sink.records()) <= 6 {
			t.Errorf("arrived %v", sequences(sink.records()))
		}
	})
}

func TestEnvelopeSink(t *testing.T) {
	var got []api.FlowEnvelope
	sink := EnvelopeSink(func(_ context.Context, es []api.FlowEnvelope) error {
		got = append(got, es...)
		return nil
	})
	r := labeler().Flow(ptr(consumerFlow(1, 1)))
	r.Node, r.Boot, r.Sequence = node, "boot-1", 42
	raw, err := json.Marshal(&r)
	if err != nil {
		t.Fatal(err)
	}
	line, ok := parseLine(append(raw, '\n'))
	if err := sink.Send(t.Context(), []Entry{line}); err != nil || len(got) != 1 || !ok {
		t.Fatal(err, got)
	}
	e := got[0]
	if !bytes.Equal(e.Record, raw) || e.Kind != "" || !e.End.Equal(r.End) {
		t.Errorf("%+v", e)
	}
	if e.Node != node || e.Boot != "boot-1" || e.Seq != 42 || !slices.Equal(e.Accounts, []string{"111111111111", "222222222222"}) {
		t.Errorf("%+v", e)
	}
}

func ptr[T any](v T) *T { return &v }

// pass lets time pass in a bubble, where the clock is not the real one.
func pass(d time.Duration) { <-time.After(d) }
