package resident

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	boundEvery = time.Second

	// boundRoom is what may be in memory beside what was in use when the collector last looked, in parts of it and in bytes.
	boundPart = 8
	boundRoom = 16 << 20
)

// Bound keeps what the process has in memory below least bytes where it can, until ctx ends. The collector lets a heap double before
// it collects; from least on it does so as often as it takes. Where more than that is in use the bound moves, for a collector
// that finds nothing takes half of all CPU time. Where the environment says GOMEMLIMIT, that counts.
func Bound(ctx context.Context, least int64) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(least))
	used := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(boundEvery)
	defer tick.Stop()
	for limit := least; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(used)
		if next := boundFor(used[0].Value, least); next != limit {
			limit = next
			debug.SetMemoryLimit(limit)
		}
	}
}

// boundFor is the bound while what the collector found in use is so much.
func boundFor(used metrics.Value, least int64) int64 {
	if used.Kind() != metrics.KindUint64 {
		return least
	}
	return boundOf(int64(used.Uint64()), least)
}

// boundOf is the bound while so many bytes are in use, in whole MiB.
func boundOf(used, least int64) int64 { return max(least, (used+used/boundPart+boundRoom)>>20<<20) }
