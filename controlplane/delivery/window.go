package delivery

import (
	"time"

	"github.com/culvert-net/culvert/api"
)

const (
	// fileWindow is over how much time a file goes; AWS's.
	fileWindow = 5 * time.Minute
	// streamWindow is likewise for a stream.
	streamWindow = 10 * time.Second
	// patience is how long a window waits for nodes that have not told past its end. They tell at least once a minute.
	patience = 75 * time.Second
)

// windowOf is the length of a flow log's windows; they begin at multiples of it since 1970.
func windowOf(f *api.FlowLog) time.Duration {
	if f.DestinationType == api.DestinationStream {
		return max(streamWindow, f.Interval())
	}
	return max(fileWindow, f.Interval())
}

// endOf is the end of the window that a moment is in.
func endOf(at time.Time, window time.Duration) time.Time {
	return at.UTC().Truncate(window).Add(window)
}

// closed is the end of the newest window that may be closed: all nodes have told past its end, or it has waited long enough.
func closed(f *api.FlowLog, nodes []string, told toldTimes, now time.Time) time.Time {
	window := windowOf(f)
	end := now.UTC().Truncate(window)
	if f.DestinationType == api.DestinationStream || now.Sub(end) >= patience {
		return end // late records go by the next batch
	}
	for _, n := range nodes {
		if told[n].Before(end) {
			return now.Add(-patience).UTC().Truncate(window)
		}
	}
	return end
}
