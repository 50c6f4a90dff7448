package datapath

import (
	"testing"
	"time"
)

// A sweep that costs much is made less often, up to a bound: what a busy machine makes of ten seconds does not count.
func TestPauses(t *testing.T) {
	for cost, want := range map[time.Duration][2]time.Duration{
		0:                      {250 * time.Millisecond, 2 * time.Second},
		40 * time.Millisecond:  {250 * time.Millisecond, 2 * time.Second},
		100 * time.Millisecond: {500 * time.Millisecond, 5 * time.Second},
		time.Second:            {5 * time.Second, 10 * time.Second},
		time.Hour:              {10 * time.Second, 10 * time.Second},
	} {
		if crowded, quiet := pauses(cost); [2]time.Duration{crowded, quiet} != want {
			t.Errorf("after %s: %s while crowded, %s else; want %s", cost, crowded, quiet, want)
		}
	}
}
