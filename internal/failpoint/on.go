//go:build failpoints

package failpoint

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

var (
	dir   = os.Getenv(Env)
	mu    sync.Mutex
	since = map[string]int{} // passings while armed
)

// Here is a point. Its name is a constant, and stands at one place only.
func Here(name string) {
	if dir == "" {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	base := filepath.Join(dir, name)
	if f, err := os.OpenFile(base+Passed, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		_, _ = f.WriteString(".")
		_ = f.Close()
	}
	text, err := os.ReadFile(base + Armed)
	if err != nil {
		since[name] = 0
		return
	}
	at, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if since[name]++; err != nil || since[name] < at || os.Remove(base+Armed) != nil {
		return
	}
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {} // the signal is on its way
}

// Now is the wall clock as DIR/clock sets it. As long as that sets anything there is no monotonic reading: of that no step may show.
func Now() time.Time {
	now := time.Now()
	if dir == "" {
		return now
	}
	text, err := os.ReadFile(filepath.Join(dir, ClockFile))
	if err != nil {
		return now
	}
	ahead, err := time.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil {
		panic(err)
	}
	return now.Round(0).Add(ahead)
}
