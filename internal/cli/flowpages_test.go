package cli

import (
	"slices"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// TestEveryFlowIsRead of a server that gives some at a time, also where several end at once; too many that end at once are an error, never
// fewer.
func TestEveryFlowIsRead(t *testing.T) {
	begin := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	var stored []api.FlowEnvelope // by end, as the server orders them
	for i := range 40 {
		stored = append(stored, api.FlowEnvelope{Node: "node-a", Boot: "b", Seq: uint64(i), End: begin.Add(time.Duration(i/3) * time.Second)})
	}
	page := func(f api.FlowFilter, each func(api.FlowEnvelope) error) error {
		var found []api.FlowEnvelope
		for _, e := range stored {
			if !e.End.Before(f.Since) && (f.Until.IsZero() || e.End.Before(f.Until)) {
				found = append(found, e)
			}
		}
		for _, e := range found[max(0, len(found)-f.Limit):] {
			if err := each(e); err != nil {
				return err
			}
		}
		return nil
	}
	for _, limit := range []int{4, 7, 39, 40, 41} {
		var have []uint64
		err := everyFlow(page, api.FlowFilter{Limit: limit}, func(e api.FlowEnvelope) error {
			have = append(have, e.Seq)
			return nil
		})
		slices.Sort(have)
		if err != nil || len(have) != len(stored) || len(slices.Compact(have)) != len(stored) {
			t.Errorf("%d at a time: %v %v", limit, have, err)
		}
	}
	err := everyFlow(page, api.FlowFilter{Limit: 2}, func(api.FlowEnvelope) error { return nil })
	if err == nil {
		t.Error("three that end at once are read by two")
	}
}
