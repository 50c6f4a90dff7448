package host

import (
	"errors"
	"sync"
	"time"
)

// Waiting for files of a process: a file system of a user's (FUSE), or one over the network, may answer late or never, and
// what waits for it cannot be interrupted. Nothing else of the agent's waits longer than errandPatience for it, and after
// that not again before errandRest.
const (
	errandPatience = time.Second
	errandRest     = time.Minute
)

var errCalledOff = errors.New("called off")

// errand is work that is waited for only so long. It goes on, unless it is called off; then it changes nothing any more.
type errand struct {
	of     processResolver // whom it tells; zero: nobody
	began  time.Time
	late   bool          // it was waited for in vain
	done   chan struct{} // closed when notice and err are there
	notice string
	err    error
	mu     sync.Mutex
	off    bool
}

func begin(of processResolver, work func(*errand) (notice string, err error)) *errand {
	e := &errand{of: of, began: time.Now(), done: make(chan struct{})}
	go func() {
		defer close(e.done)
		e.notice, e.err = work(e)
	}()
	return e
}

// wait is false if the work is not done in time.
func (e *errand) wait() bool {
	t := time.NewTimer(errandPatience)
	defer t.Stop()
	select {
	case <-e.done:
		return true
	case <-t.C:
		e.late = true
		return false
	}
}

func (e *errand) ended() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// callOff returns when nothing is being changed under change.
func (e *errand) callOff() {
	if e != nil {
		e.mu.Lock()
		e.off = true
		e.mu.Unlock()
	}
}

// change does what must not happen after callOff and does not wait for anybody.
func (e *errand) change(fn func() error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.off {
		return errCalledOff
	}
	return fn()
}

// answer is what came of telling a process.
func (e *errand) answer() string {
	if e.err != nil {
		return e.err.Error()
	}
	return e.notice
}

const noAnswer = "a file system that it has at its root or /etc does not answer: unmount it there"
