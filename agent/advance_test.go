package agent

import "testing"

func TestFlowTableInAdvance(t *testing.T) {
	const table, gib = DefaultFlowEntries * 200, 1 << 30
	for _, c := range []struct {
		when     Advance
		memory   uint64
		onDemand bool
	}{
		{AdvanceAuto, 2 * gib, false},
		{AdvanceAuto, gib, true},
		{AdvanceAuto, 16 * table, false},
		{AdvanceAuto, 16*table - 16, true},
		{AdvanceAlways, gib, false},
		{AdvanceNever, 64 * gib, true},
	} {
		if got := c.when.onDemand(table, c.memory); got != c.onDemand {
			t.Errorf("%s with %d bytes: on demand %v", c.when, c.memory, got)
		}
	}
}
