package controlplane

import (
	"context"
	"time"

	"github.com/culvert-net/culvert/api"
)

const (
	// lookPause is the least time between two looks of a watch at its list; what changes meanwhile is told as one.
	lookPause = 100 * time.Millisecond
	// reportsEvery is how often a watch looks for what nodes reported.
	reportsEvery = time.Second
)

// quiet is what a watch listens to between two looks at its list.
type quiet struct {
	changes <-chan int64
	// waiter gives what is closed when something was reported that is in the list; nil: nothing in it is.
	waiter  func() <-chan struct{}
	reports *time.Ticker
	alive   *time.Ticker
	// byTime says that the list can change without a word: a node that is silent for long is not live any more.
	byTime   bool
	pause    time.Duration // at least, between two looks
	reported <-chan struct{}
	looked   time.Time
}

// listen begins to: what changes from now on is not missed.
func (w *watch[T]) listen(ctx context.Context) *quiet {
	q := &quiet{changes: w.s.store.Watch(ctx), reports: time.NewTicker(reportsEvery), alive: time.NewTicker(keepAlive),
		pause: w.s.cfg.watchPause}
	switch any((*T)(nil)).(type) {
	case *api.NodeReport:
		q.waiter, q.byTime = w.s.hub.waiter, true
	case *api.ENI:
		q.waiter = w.s.hub.attachments
	case *api.DescribedTarget:
		q.waiter, q.byTime = w.s.health.waiter, true
	default:
		q.reports.Stop()
	}
	q.look()
	return q
}

func (q *quiet) end() {
	q.reports.Stop()
	q.alive.Stop()
}

// look is said right before the list is looked at: what is reported from now on is news.
func (q *quiet) look() {
	if q.waiter != nil {
		q.reported = q.waiter()
	}
	q.looked = time.Now()
}

// next waits for one thing: that the list may have changed, that nothing was sent for a while (then both may be), or the end.
func (q *quiet) next(ctx context.Context, stopping <-chan struct{}) (look, alive, ended bool) {
	select {
	case <-q.changes:
		look = true
	case <-q.reports.C:
		select {
		case <-q.reported:
			look = true
		default:
		}
	case <-q.alive.C:
		look, alive = q.byTime, true
	case <-ctx.Done():
		ended = true
	case <-stopping:
		ended = true
	}
	if !look {
		return look, alive, ended
	}
	pause := time.NewTimer(time.Until(q.looked.Add(q.pause)))
	defer pause.Stop()
	select {
	case <-pause.C:
		q.look()
		select {
		case <-q.changes: // it will be seen
		default:
		}
	case <-ctx.Done():
		ended = true
	case <-stopping:
		ended = true
	}
	return look, alive, ended
}
