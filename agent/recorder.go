package agent

import (
	"context"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// recorder is the flow collector as the agent's Recorder.
type recorder struct{ collector *flow.Collector }

// Plan implements Recorder.
func (r recorder) Plan(v *api.View, p *plan.Plan) { r.collector.SetView(*v, *p) }

// Query implements Recorder.
func (r recorder) Query(ctx context.Context, f api.FlowFilter, follow bool, fn func(*api.FlowRecord) error) error {
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

// Pending implements Recorder.
func (r recorder) Pending() (records int, lost uint64) {
	s := r.collector.Stats()
	return s.Queued + s.Pending, s.Lost
}
