package netlab

import (
	"testing"
	"time"
)

// pollInterval is how often Eventually looks.
const pollInterval = 5 * time.Millisecond

// Eventually looks until cond holds and stops the test with msg when it does not within the deadline.
func Eventually(t testing.TB, deadline time.Duration, cond func() bool, msg string) {
	t.Helper()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	end := time.NewTimer(deadline)
	defer end.Stop()
	for {
		if cond() {
			return
		}
		select {
		case <-tick.C:
		case <-end.C:
			if cond() {
				return
			}
			t.Fatalf("not within %v: %s", deadline, msg)
		}
	}
}
