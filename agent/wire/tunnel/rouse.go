package tunnel

import (
	"os"
	"sync/atomic"
	"time"
)

// waiter is a goroutine that reads a file and waits for it in the runtime's poller. The runtime asks the poller when no
// goroutine can run, and else every 10 ms only: while packets keep the process busy one way, those the other way, which
// may be the answers to them, would stand as long. So who reads one side looks after those who wait at the other.
type waiter struct {
	file  *os.File
	fd    int
	waits atomic.Bool // in the poller, or about to
}

// wake ends the wait, or the next one, with os.ErrDeadlineExceeded.
func (w *waiter) wake() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) } // fails when the file was closed
