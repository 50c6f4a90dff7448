package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// A part that fails is started again, until it is told to end; the others do not hear of it.
func TestPartsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{log: slog.New(slog.DiscardHandler)}
		var mu sync.Mutex
		var starts int
		ended := false
		stop := m.background(t.Context(), map[string]part{
			"bad": func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				starts++
				return errors.New("broken")
			},
			"good": func(ctx context.Context) error {
				<-ctx.Done()
				ended = true
				return nil
			},
		})
		<-time.After(10*partRetry + partRetry/2)
		mu.Lock()
		if starts != 11 {
			t.Errorf("started %d times in eleven intervals", starts)
		}
		mu.Unlock()
		stop()
		if !ended {
			t.Error("stop did not wait for a part")
		}
	})
}

// sent keeps what the collector ships.
type sent struct {
	mu      sync.Mutex
	records []api.FlowRecord
}

func (s *sent) Send(_ context.Context, lines []flow.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range lines {
		var r api.FlowRecord
		if err := json.Unmarshal(lines[i].Raw, &r); err != nil {
			return err
		}
		s.records = append(s.records, r)
	}
	return nil
}

// Flows that were there before the agent knew anything are recorded once it can say whose they are, and what came last is
// recorded at the end.
func TestRecorderWaitsForNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, sink, store := flow.NewMem(), &sent{}, flow.NewMemStore()
		collector, err := flow.New(flow.Config{Node: "node-1", Source: source, Sink: sink, Interval: time.Minute,
			Clock: func() flow.Clock { return flow.Clock{Boot: uint64(time.Hour), Wall: time.Now()} },
			Log:   flow.LogConfig{Store: store, Boot: "boot"}})
		if err != nil {
			t.Fatal(err)
		}
		f := flow.Flow{ID: 1, Hook: flow.HookWorkload, Protocol: plan.ProtocolTCP, SourceVPC: 5, ENI: 11, Generation: 1,
			Opening:   flow.Tuple{Src: netip.MustParseAddr("10.0.1.5"), SrcPort: 40000, Dst: netip.MustParseAddr("10.0.1.6"), DstPort: 80},
			Counts:    flow.Counts{Packets: 3, Bytes: 300},
			CreatedNS: uint64(time.Minute), LastNS: uint64(time.Minute)}
		source.Set(f)
		r := newRecorder(collector, newQueryLog(collector, slog.New(slog.DiscardHandler)))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.run(ctx) }()
		<-time.After(time.Hour)
		if names, err := store.List(); err != nil || len(names) != 0 {
			t.Fatalf("before any plan: %v, %v", names, err)
		}
		v := testView(1)
		r.Plan(v, &plan.Plan{Generation: 1})
		r.Plan(v, &plan.Plan{Generation: 2}) // again, to see that it can be
		<-time.After(2 * time.Minute)
		sink.mu.Lock()
		if len(sink.records) == 0 || sink.records[0].Interface != eni || sink.records[0].Account != "1" || sink.records[0].Packets != 3 {
			t.Errorf("records %+v", sink.records)
		}
		sink.mu.Unlock()
		f.Packets, f.LastNS = 5, uint64(2*time.Minute)
		source.Set(f)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		last, err := collector.Query(t.Context(), api.FlowFilter{Limit: 1})
		if err != nil || len(last) != 1 || last[0].Packets != 2 {
			t.Errorf("what came last: %+v, %v", last, err)
		}
	})
}

func TestPartsEndBeforeTheirFirstPlan(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	collector, err := newCollector(Config{DataDir: t.TempDir(), FlowInterval: time.Second}, &state.Identity{Node: "node-1"}, flow.NewMem(),
		newPassages(&wire.Mem{}), nil, func(context.Context, []api.FlowEnvelope) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := newRecorder(collector, newQueryLog(collector, slog.New(slog.DiscardHandler))).run(ctx); err != nil {
		t.Error(err)
	}
	r := newResolver(&state.Identity{Mesh: 7, Number: 1}, nil, resolverEdges{}, slog.New(slog.DiscardHandler))
	if err := r.run(ctx); err != nil {
		t.Error(err)
	}
}
