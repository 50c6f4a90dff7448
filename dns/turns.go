package dns

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

// turns divides the time in which forwarders' answers are read and written among accounts, whose forwarders choose what that costs. Of
// those who wait the account that has used the least goes next (start-time fair queueing), so that each has an even share however
// long its answers take; who waits alone waits for nobody.
type turns struct {
	now func() time.Time

	mu       sync.Mutex
	free     int
	places   int
	floor    time.Duration // what the account that began last had used: who comes back is owed no more than that
	accounts map[string]*turn
}

// turn is an account's.
type turn struct {
	used    time.Duration
	waiting []chan struct{} // closed when it is that one's turn, oldest first
}

// readingPlaces is half of the CPUs: the rest is left to names that no forwarder is asked for, and to the tunnel.
func readingPlaces() int { return max(runtime.GOMAXPROCS(0)/2, 1) }

func newTurns(places int) *turns {
	return &turns{now: time.Now, free: places, places: places, accounts: map[string]*turn{}}
}

// do does the work when it is the account's turn. It reports whether that came before ctx ended.
func (t *turns) do(ctx context.Context, account string, work func()) bool {
	if !t.begin(ctx, account) {
		return false
	}
	began := t.now()
	defer func() { t.end(account, t.now().Sub(began)) }()
	work()
	return true
}

func (t *turns) begin(ctx context.Context, account string) bool {
	t.mu.Lock()
	a := t.accounts[account]
	if a == nil {
		a = &turn{}
		t.accounts[account] = a
	}
	if len(a.waiting) == 0 {
		a.used = max(a.used, t.floor)
	}
	if t.free > 0 {
		t.free--
		t.floor = max(t.floor, a.used)
		t.mu.Unlock()
		return true
	}
	mine := make(chan struct{})
	a.waiting = append(a.waiting, mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return true
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(a.waiting, mine); i >= 0 {
		a.waiting = slices.Delete(a.waiting, i, i+1)
		return false
	}
	return true // it came at the same moment
}

// end hands the place to who has used the least. When nobody is left, all begin anew.
func (t *turns) end(account string, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.accounts[account].used += max(took, 0)
	var next *turn
	for _, a := range t.accounts {
		if len(a.waiting) > 0 && (next == nil || a.used < next.used) {
			next = a
		}
	}
	if next != nil {
		t.floor = max(t.floor, next.used)
		close(next.waiting[0])
		next.waiting = slices.Delete(next.waiting, 0, 1)
		return
	}
	if t.free++; t.free == t.places {
		clear(t.accounts)
		t.floor = 0
	}
}

// waits is how many of an account wait.
func (t *turns) waits(account string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.accounts[account]; a != nil {
		return len(a.waiting)
	}
	return 0
}
