package oracle

import (
	"fmt"
	"slices"
	"time"
)

// Times are durations of one kind of event.
type Times []time.Duration

// Quantile by nearest rank; 0 of none.
func (x Times) Quantile(q float64) time.Duration {
	if len(x) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(x))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// Max is the longest; 0 of none.
func (x Times) Max() time.Duration { return x.Quantile(1) }

// String tells the distribution.
func (x Times) String() string {
	round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("n=%d p50=%v p99=%v max=%v", len(x), round(x.Quantile(0.5)), round(x.Quantile(0.99)), round(x.Max()))
}
