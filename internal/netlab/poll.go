package netlab

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// pollInterval is how often Eventually looks.
const pollInterval = 5 * time.Millisecond

// Slowness is how many times longer things may take than on a machine with processors of its own. CULVERT_SLOWNESS says it, in
// guests of scripts/test-kernels.
func Slowness() time.Duration {
	if n, err := strconv.Atoi(os.Getenv("CULVERT_SLOWNESS")); err == nil && n > 0 {
		return time.Duration(n)
	}
	return 1
}

// slack is how many times as long as it takes at most, on a machine with nothing else to do, may be waited for anything.
const slack = 5

// Eventually looks until cond holds and stops the test with msg when it does not, though it is waited for five times as long as
// it takes, times [Slowness]. Nothing is shown by how long that was.
func Eventually(t testing.TB, takes time.Duration, cond func() bool, msg string) {
	t.Helper()
	deadline := slack * takes * Slowness()
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
