package resident

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"testing/synctest"
)

// limit is the runtime's, in bytes.
func limit() int64 { return debug.SetMemoryLimit(-1) }

// The bound is the least one as long as little is in use, follows what is, and goes with its context.
func TestBound(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	before := limit()
	const least = 64 << 20
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { Bound(ctx, least); close(ended) }()
		synctest.Wait()
		if got := limit(); got != least {
			t.Errorf("%d bytes at first, want %d", got, least)
		}
		cancel()
		<-ended
	})
	if got := limit(); got != before {
		t.Errorf("%d bytes after it ended, want %d as before", got, before)
	}
}

// Whoever sets a limit for the process knows why.
func TestBoundLeavesWhatIsSet(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "1GiB")
	before := limit()
	Bound(t.Context(), 1<<20)
	if got := limit(); got != before {
		t.Errorf("%d bytes, want %d as before", got, before)
	}
}

func TestBoundFollowsUse(t *testing.T) {
	if got := boundFor(metrics.Value{}, 7<<20); got != 7<<20 {
		t.Errorf("%d bytes where nobody knows what is in use", got)
	}
	const least = 96 << 20
	last := int64(0)
	for _, used := range []int64{0, 1 << 20, 48 << 20, 64 << 20, 100 << 20, 1 << 30} {
		got := boundOf(used, least)
		if got < least || got < used+used/boundPart || got < last || used < least/2 && got != least {
			t.Errorf("%d bytes in use: %d", used, got)
		}
		last = got
	}
}
