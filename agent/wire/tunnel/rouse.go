package tunnel

import (
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// waiter is a goroutine that reads a file and waits for it in the runtime's poller. The runtime asks the poller when no
// goroutine can run, and else every 10 ms only: while packets keep the process busy one way, those the other way, which
// may be the answers to them, would stand as long. So who reads one side looks after those who wait at the other.
type waiter struct {
	file  *os.File
	fd    int
	waits atomic.Bool // in the poller, or about to
}

// rouse wakes the goroutine if it waits and there is something to read. Anybody may call it.
func (w *waiter) rouse() {
	if w.waits.Load() && readable(w.fd) && w.waits.CompareAndSwap(true, false) {
		w.wake()
	}
}

// wake ends the wait, or the next one, with os.ErrDeadlineExceeded.
func (w *waiter) wake() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) } // fails when the file was closed

// awake lets the goroutine wait again.
func (w *waiter) awake() error { return w.file.SetReadDeadline(time.Time{}) }

// readable asks the kernel, and is not to be relied upon: another file may have the descriptor's number by now.
func readable(fd int) bool {
	p, now := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}, unix.Timespec{}
	// It does not block, so the scheduler need not know of the call.
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return errno == 0 && n > 0
}
