package tunnel

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/culvert-net/culvert/internal/logkey"
)

// logEvery is the least time between two lines of one kind: the device may complain about each packet.
const logEvery = time.Second

// maxKinds bounds the kinds remembered; the device has fewer than a hundred formats.
const maxKinds = 256

// deviceLog turns the device's lines into records. Its errors are things that happen on a network, so they are
// warnings here.
func deviceLog(log *slog.Logger) *device.Logger {
	l := &limiter{last: make(map[string]*kind)}
	debug := func(format string, args ...any) { log.Debug("device", logkey.Line, fmt.Sprintf(format, args...)) }
	if !log.Enabled(context.Background(), slog.LevelDebug) {
		debug = device.DiscardLogf // called for each packet of some kinds
	}
	return &device.Logger{
		Verbosef: debug,
		Errorf: func(format string, args ...any) {
			if suppressed, ok := l.allow(format, time.Now()); ok {
				log.Warn("device", logkey.Line, fmt.Sprintf(format, args...), logkey.Suppressed, suppressed)
			}
		},
	}
}

// limiter lets one line per kind and logEvery through.
type limiter struct {
	mu   sync.Mutex
	last map[string]*kind
}

type kind struct {
	at         time.Time
	suppressed int
}

// allow reports whether a line may be written, and how many of its kind were not since the last that was.
func (l *limiter) allow(name string, now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.last[name]
	if k == nil {
		if len(l.last) >= maxKinds {
			clear(l.last)
		}
		k = &kind{}
		l.last[name] = k
	} else if now.Sub(k.at) < logEvery {
		k.suppressed++
		return 0, false
	}
	suppressed, k.at, k.suppressed = k.suppressed, now, 0
	return suppressed, true
}
