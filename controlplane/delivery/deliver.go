package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/flowlog"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	// collectEvery is how often it is looked what is due.
	collectEvery = time.Second
	// stallAfter is how long a destination may take nothing before the delivery counts as failed, and is tried anew.
	stallAfter = 8 * time.Second
	// retryMost is the longest pause before a delivery is tried again.
	retryMost = 30 * time.Second
)

// Destination is where objects go.
type Destination interface {
	// Put stores an object as a whole or not at all. It may be called again for one that is there already.
	Put(ctx context.Context, o Object, body *Body) error
}

// Config says what a Deliverer works with.
type Config struct {
	Dir       string // for its own files, one directory per flow log
	Store     *flowlog.Log
	Resources func() *api.Resources
	// Notes are where creations and edits left what has to be known of them; nil: nowhere.
	Notes Notes
	// Told is until when a node has told all its records, as far as is known.
	Told func(node string) time.Time
	// Open makes a flow log's destination, or says why that is none.
	Open func(f *api.FlowLog) (Destination, error)
	// Record notes that an object was delivered; delivery waits for it. Nil: nowhere.
	Record func(context.Context, Object) error
	// MaxLag is for how long records wait for a destination that takes nothing; the store keeps them longer.
	MaxLag func() time.Duration
	// Free refuses while the disk that Dir is on is nearly full; nil: it never is. Records wait in the store then.
	Free func() error
	Now  func() time.Time
	Log  *slog.Logger
}

// Deliverer delivers. Make it with New; Run does the work.
type Deliverer struct {
	cfg   Config
	chunk int64 // the constant, but for tests

	mu  sync.Mutex
	all map[string]*active
	ran bool // a round: what is delivered is known
}

// active is one flow log that is delivered.
type active struct {
	id   string
	bell chan struct{} // rung when there is something to send, or it may go another way now
	end  context.CancelFunc
	done chan struct{}

	mu     sync.Mutex // held while records are read and files are written
	flow   *api.FlowLog
	v      *progress
	edited []Note // edits that have not taken effect, oldest first
	noted  int64  // revision of the flow log that edited is known of

	seen  sync.Mutex          // held for moments
	state api.FlowLogDelivery // how it goes, without what failed
	// problem is of the last try; "" when it went well.
	problem string
	// unread: the problem is that records are not collected.
	unread bool
}

// show makes progress what is told of the delivery; a.mu is held.
func (a *active) show() {
	v := a.v
	a.seen.Lock()
	defer a.seen.Unlock()
	a.state = api.FlowLogDelivery{DeliveredAt: v.DeliveredAt, Objects: v.Objects, Lines: v.Lines, Waiting: len(v.Queue), LostRecords: v.Lost,
		CoveredUntil: v.Until}
}

// New prepares a deliverer.
func New(cfg Config) *Deliverer {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Free == nil {
		cfg.Free = func() error { return nil }
	}
	if cfg.Record == nil {
		cfg.Record = func(context.Context, Object) error { return nil }
	}
	return &Deliverer{cfg: cfg, chunk: chunk, all: map[string]*active{}}
}

// Run delivers until ctx ends, and returns when all that it started has ended.
func (d *Deliverer) Run(ctx context.Context) {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	defer d.endAll()
	for {
		d.round(ctx)
		d.mu.Lock()
		d.ran = true
		d.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (d *Deliverer) endAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.all {
		a.end()
		<-a.done
	}
}

// round follows what flow logs there are, and collects what is due.
func (d *Deliverer) round(ctx context.Context) {
	flows := d.cfg.Resources().FlowLogs
	d.dropGone(flows)
	if len(flows) == 0 {
		return
	}
	k, err := d.known()
	if err != nil {
		d.cfg.Log.Error("flow logs are not collected", logkey.Error, err)
		return
	}
	for _, id := range slices.Sorted(maps.Keys(flows)) {
		if ctx.Err() != nil {
			return
		}
		a, err := d.follow(ctx, flows[id])
		if err == nil {
			err = d.cfg.Free()
		}
		if err == nil {
			err = a.collect(ctx, d, k)
		}
		if err != nil && ctx.Err() == nil {
			d.cfg.Log.Error("flow log is not collected", logkey.FlowLog, id, logkey.Error, err)
			if a != nil {
				a.fail(fmt.Errorf("not collected: %w", err))
				a.collects(false)
			}
		} else if a != nil {
			a.collects(true)
		}
	}
}

// toldTimes are until when nodes have told all their records.
type toldTimes map[string]time.Time

// known is what a round goes by: all that nodes have told until then is in the store before its end.
type known struct {
	told  toldTimes
	store flowlog.Position
}

// known asks what nodes have told first: records that come with their seal right behind the store's end are of a window that stays open.
func (d *Deliverer) known() (*known, error) {
	k := &known{told: toldTimes{}}
	for _, e := range d.cfg.Resources().ENIs {
		if _, have := k.told[e.Node]; !have && e.Node != "" {
			k.told[e.Node] = d.cfg.Told(e.Node)
		}
	}
	var err error
	k.store, err = d.cfg.Store.End()
	return k, err
}

// dropGone ends the delivery of flow logs that were deleted: what waits is not delivered any more.
func (d *Deliverer) dropGone(flows map[string]*api.FlowLog) {
	d.mu.Lock()
	var gone []*active
	for id, a := range d.all {
		if flows[id] == nil {
			gone = append(gone, a)
			delete(d.all, id)
		}
	}
	d.mu.Unlock()
	for _, a := range gone {
		a.end()
		<-a.done
		if err := d.place(a.id).forget(); err != nil {
			d.cfg.Log.Warn("files of a deleted flow log stay", logkey.FlowLog, a.id, logkey.Error, err)
		}
	}
}

// follow is the flow log's delivery, begun if it is new.
func (d *Deliverer) follow(ctx context.Context, f *api.FlowLog) (*active, error) {
	d.mu.Lock()
	a := d.all[f.ID]
	d.mu.Unlock()
	if a != nil {
		return a, nil
	}
	p := d.place(f.ID)
	if err := p.dir.Make(); err != nil {
		return nil, err
	}
	v, err := p.load()
	if err != nil {
		return nil, err
	}
	if v == nil {
		if v, err = d.begin(ctx, f, d.cfg.Now()); err == nil {
			err = p.save(v)
		}
		if err != nil {
			return nil, err
		}
	}
	a = &active{id: f.ID, bell: make(chan struct{}, 1), done: make(chan struct{}), flow: f, v: v}
	a.show()
	sending, end := context.WithCancel(ctx)
	a.end = end
	d.mu.Lock()
	d.all[f.ID] = a
	d.mu.Unlock()
	go func() {
		defer close(a.done)
		d.send(sending, a)
	}()
	return a, nil
}

func (a *active) ring() {
	select {
	case a.bell <- struct{}{}:
	default:
	}
}

// take goes by what the flow log says now; a.mu is held.
func (a *active) take(f *api.FlowLog) {
	changed := a.flow.Revision != f.Revision
	a.flow = f
	if changed {
		a.ring()
	}
}

// pass writes what is due in one form, and tells whether there is more; a.mu is held. The flow log is looked at behind the store's end that
// the round goes by: so what comes after an edit was acknowledged is not collected by what it was before.
func (a *active) pass(ctx context.Context, d *Deliverer, k *known) (more bool, err error) {
	r := d.cfg.Resources()
	f := r.FlowLogs[a.id]
	if f == nil {
		return false, nil // the next round ends it
	}
	a.take(f)
	if err := d.edits(ctx, a); err != nil {
		return false, err
	}
	if len(a.edited) > 0 {
		return d.cut(ctx, r, a, k)
	}
	return d.collect(ctx, r, a, k)
}

func (a *active) collect(ctx context.Context, d *Deliverer, k *known) error {
	for more := true; more; {
		a.mu.Lock()
		var err error
		more, err = a.pass(ctx, d, k)
		waiting := len(a.v.Queue)
		a.show()
		a.mu.Unlock()
		if err != nil {
			return err
		}
		if waiting > 0 {
			a.ring()
		}
	}
	return nil
}

// send delivers what waits, in order, until ctx ends.
func (d *Deliverer) send(ctx context.Context, a *active) {
	fails := 0
	for ctx.Err() == nil {
		a.mu.Lock()
		flow, waiting := a.flow, len(a.v.Queue) > 0
		var o Object
		if waiting {
			o = a.v.Queue[0]
		}
		a.mu.Unlock()
		if !waiting {
			wait(ctx, a.bell, 0)
			continue
		}
		err := d.deliver(ctx, a, flow, o)
		if err == nil {
			err = d.arrived(a, o)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			if fails > 0 {
				d.cfg.Log.Info("flow log is delivered again", logkey.FlowLog, a.id, logkey.Failures, fails)
			}
			fails = 0
			continue
		}
		a.fail(err)
		if fails == 0 {
			d.cfg.Log.Warn("flow log is not delivered, it is tried again", logkey.FlowLog, a.id, logkey.Error, err)
		}
		wait(ctx, a.bell, min(retryMost, time.Second<<min(fails, 5)))
		fails++
	}
}

// deliver hands one object to its destination, and notes it.
func (d *Deliverer) deliver(ctx context.Context, a *active, f *api.FlowLog, o Object) error {
	to, err := d.cfg.Open(f)
	if err != nil {
		return err
	}
	file, err := os.Open(d.place(a.id).dir.Path(o.File))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the file %s that waited for delivery is gone: delete the flow log and make it anew", o.File)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	ctx, body := newBody(ctx, file, o.Size, a.fail)
	defer body.end()
	o.Destination = string(f.DestinationType) + ":" + f.Destination // where it goes now: the flow log may say another place soon
	if err := to.Put(ctx, o, body); err != nil {
		return cmp.Or(stalled(ctx), err)
	}
	return d.cfg.Record(ctx, o)
}

// arrived takes an object off the queue.
func (d *Deliverer) arrived(a *active, o Object) error {
	p := d.place(a.id)
	a.mu.Lock()
	next := *a.v
	next.Queue = slices.DeleteFunc(slices.Clone(next.Queue), func(q Object) bool { return q.File == o.File })
	next.Objects++
	next.Lines += uint64(o.Lines)
	next.DeliveredAt = d.cfg.Now().UTC()
	err := p.save(&next)
	if err == nil {
		a.v = &next
		a.show()
		a.well()
	}
	a.mu.Unlock()
	if err != nil {
		return err
	}
	if err := os.Remove(p.dir.Path(o.File)); err != nil {
		d.cfg.Log.Warn("a delivered file stays", logkey.FlowLog, a.id, logkey.Error, err)
	}
	return nil
}

// maxProblem bounds what is told of a failure, in bytes.
const maxProblem = 300

func (a *active) fail(err error) {
	text := err.Error()
	a.seen.Lock()
	defer a.seen.Unlock()
	a.problem = text[:min(len(text), maxProblem)]
}

func (a *active) well() {
	a.seen.Lock()
	defer a.seen.Unlock()
	a.problem, a.unread = "", false
}

// collects notes whether records are collected; once they are again, that they were not is no problem any more.
func (a *active) collects(well bool) {
	a.seen.Lock()
	defer a.seen.Unlock()
	if well && a.unread {
		a.problem = ""
	}
	a.unread = !well
}

// State is how the delivery of a flow log goes; nil where nothing is known of it. It waits for no disk.
func (d *Deliverer) State(id string) *api.FlowLogDelivery {
	d.mu.Lock()
	a := d.all[id]
	d.mu.Unlock()
	if a == nil {
		return nil
	}
	a.seen.Lock()
	defer a.seen.Unlock()
	out := a.state
	out.ErrorMessage = a.problem
	switch {
	case a.problem != "":
		out.Status = api.DeliverFailed
	case out.Objects > 0:
		out.Status = api.DeliverSuccess
	}
	return &out
}

// wait returns when ctx ends, the bell rings or, if it is not 0, the time has passed.
func wait(ctx context.Context, bell <-chan struct{}, d time.Duration) {
	var after <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		after = t.C
	}
	select {
	case <-ctx.Done():
	case <-bell:
	case <-after:
	}
}
