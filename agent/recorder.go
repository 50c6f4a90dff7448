package agent

import (
	"context"
	"sync"
	"time"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// recorder is the flow collector as the agent's Recorder. It records from the first plan on: before, nobody could say
// whose a flow is, and the counters wait in the kernel.
type recorder struct {
	collector *flow.Collector
	queries   *queryLog
	passed    *passages // nil: nobody asks what passed through the tunnel
	once      sync.Once
	named     chan struct{} // closed by the first plan
}

func newRecorder(c *flow.Collector, q *queryLog) *recorder {
	return &recorder{collector: c, queries: q, named: make(chan struct{})}
}

// run records until ctx ends, and then once more.
func (r *recorder) run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-r.named:
	}
	return r.collector.Run(ctx)
}

// Plan implements Recorder.
func (r *recorder) Plan(v *api.View, p *plan.Plan) {
	r.collector.SetView(*v, *p)
	r.queries.know(v)
	if r.passed != nil {
		r.passed.know(v)
	}
	r.once.Do(func() { close(r.named) })
}

// Query implements Recorder.
func (r *recorder) Query(ctx context.Context, f api.FlowFilter, follow bool, fn func(*api.FlowRecord) error) error {
	if follow {
		return r.collector.Follow(ctx, f, func(rec api.FlowRecord) error { return fn(&rec) })
	}
	records, err := r.collector.Query(ctx, f)
	if err != nil {
		return err
	}
	for i := range records {
		if err := fn(&records[i]); err != nil {
			return err
		}
	}
	return nil
}

// Limited implements Recorder.
func (r *recorder) Limited() []flow.Limited { return r.collector.Limited() }

// Problem implements Recorder.
func (r *recorder) Problem() error { return r.collector.Problem() }

// fold is which final counts the datapath may count for no interface.
func (r *recorder) fold(final []flow.Counter) (ready []bool) { return r.collector.Fold(final) }

// Pending implements Recorder.
func (r *recorder) Pending() (records int, lost uint64) {
	s := r.collector.Stats()
	return s.Queued + s.Pending, s.Lost
}

// recorderTexts are what a recorder has to say: that records are not written, and who was refused at a limit of late.
func recorderTexts(r Recorder, now time.Time) []string {
	texts := limitTexts(r.Limited(), now)
	if err := r.Problem(); err != nil {
		texts = append(texts, err.Error())
	}
	return texts
}
