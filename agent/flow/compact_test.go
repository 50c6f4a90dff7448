package flow

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
)

// Whatever the bound, no packet disappears, no flow gets a second close, and flows whose detail goes are counted.
func TestCompactKeepsTheSums(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in []api.FlowRecord
		closes := map[string]int{}
		for range rapid.IntRange(0, 60).Draw(t, "records") {
			id := rapid.Uint64Range(1, 12).Draw(t, "flow")
			if rapid.Bool().Draw(t, "refused") {
				in = append(in, labeler().Refusal(&Refusal{
					ENI: 11, VPC: 1, Hook: HookWorkload, Dst: ip("10.0.9.9"), DstPort: uint16(id), Reason: "NO_LISTENER",
					Packets: rapid.Uint64Range(1, 50).Draw(t, "packets"),
				}))
				continue
			}
			r := labeler().Flow(ptr(consumerFlow(id, 1)))
			r.Packets, r.ReplyBytes = rapid.Uint64Range(0, 50).Draw(t, "packets"), 7
			r.State = api.FlowActive
			if closes[r.FlowID] == 0 && rapid.IntRange(0, 3).Draw(t, "close") == 0 {
				r.State = api.FlowClosed
				closes[r.FlowID]++
			}
			in = append(in, r)
		}
		limit := rapid.IntRange(0, 30).Draw(t, "limit")
		out, merged := Compact(in, limit)
		if sum(in) != sum(out) {
			t.Fatalf("%+v became %+v", sum(in), sum(out))
		}
		if len(out) > max(limit, 2) {
			t.Fatalf("%d records for a limit of %d", len(out), limit)
		}
		kinds := map[string]bool{}
		for i := range in {
			kinds[in[i].FlowID+"/"+string(rune(in[i].Tuple.DstPort))] = true
		}
		detailed, lost := 0, uint64(0)
		for i := range out {
			r := &out[i]
			if r.FlowID != "" && closes[r.FlowID] > 0 != (r.State == api.FlowClosed) {
				t.Fatalf("flow %s with %d closes is %s", r.FlowID, closes[r.FlowID], r.State)
			}
			if r.Lost == 0 {
				detailed++
			}
			lost += r.Lost
		}
		if detailed+int(lost) != len(kinds) {
			t.Fatalf("%d flows and kinds: %d kept, %d declared", len(kinds), detailed, lost)
		}
		if !merged && len(kinds) > 0 && lost > 0 && len(out) > limit {
			t.Fatal("flows lost their detail and nobody is told")
		}
	})
}
