package flow

import (
	"context"
	"fmt"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	beatEvery = time.Second
	// A segment is closed before its oldest record is ten seconds old, an empty one within a minute: both with a beat to spare.
	sealEvery = 9 * time.Second
	sealIdle  = 55 * time.Second
	sealLate  = 2 * time.Second // a full seal that is expected may be so late

	// readyFor is how long new flows may open after the log took records last, where they may only with a log.
	readyFor = 10 * time.Second
	// writeLate is when a write that did not return is called a fault.
	writeLate = 5 * time.Second
)

// Accountant is a [Source] that can be compared with what the datapath counted.
type Accountant interface {
	// Account calls yield for each flow as Source.Flows does, and returns the rest. Without After it cannot be compared; after an error what
	// was yielded is valid.
	Account(ctx context.Context, yield func(Flow) bool) (*Account, error)
}

// Tunnel counts what passes between this node and others.
type Tunnel interface {
	// Passages returns the counts that are not as they were settled last, in the order of a seal, seal.MaxPassages at most.
	Passages() ([]seal.Passage, error)
	// Settled tells that a seal with these counts is on the disk.
	Settled(rows []seal.Passage)
}

// sealing is when seals were made, of the goroutine of Run.
type sealing struct {
	interval time.Duration
	full     bool      // one was made since the start
	last     time.Time // monotonic
	fullAt   time.Time // wall clock of the last full one
	offset   time.Duration
	seen     bool // offset is known
}

// account reads all that was counted, if a full seal is due; nil: it is not, or cannot be read now.
func (c *Collector) account(ctx context.Context, full bool, yield func(Flow) bool) *Account {
	source, ok := c.cfg.Source.(Accountant)
	if !ok || !full || c.ledger == nil || !c.due() {
		return nil
	}
	a, err := source.Account(ctx, yield)
	c.trouble("read counters", err)
	if err != nil {
		return nil
	}
	return a
}

// due says whether it is time for a full seal. Where all counters are read only every ten seconds or more, each reading is sealed.
func (c *Collector) due() bool {
	s := &c.sealing
	since := time.Since(s.last)
	open, _ := c.log.Open()
	return !s.full || s.interval > prompt || len(c.ledger.short) > 0 || since >= sealEvery && open > 0 || since >= sealIdle
}

// beat closes a segment between two full readings, and renews what the log promises.
func (c *Collector) beat() {
	if c.pending != nil {
		c.record(nil, nil)
	}
	if s := &c.sealing; c.ledger != nil && c.pending == nil {
		after := sealEvery
		if s.interval <= 10*time.Second { // a full one is about to come
			after += sealLate
		}
		since := time.Since(s.last)
		if open, _ := c.log.Open(); since >= after && open > 0 || since >= sealIdle+sealLate {
			_ = c.write(Batch{Seal: c.seal()}, nil) // the next beat tries again
		}
	}
	c.promise()
}

// promise says until when records will be taken for sure: not from now on where the log takes none, or is about to remove what was
// not shipped.
func (c *Collector) promise() {
	if c.cfg.Ready == nil {
		return
	}
	until := uint64(0)
	if c.Problem() == nil {
		until = c.cfg.Clock().Boot + uint64(readyFor)
	}
	c.trouble("promise to keep records", c.cfg.Ready(until))
}

// tell adds records to the ledger, before they are written: should that fail they wait, and their sums stay.
func (c *Collector) tell(records []api.FlowRecord) {
	if c.ledger == nil {
		return
	}
	for i := range records {
		c.ledger.tally.Record(&records[i])
	}
}

// write writes a batch; with an account it ends with a full seal.
func (c *Collector) write(batch Batch, account *Account) error {
	var cl *closing
	if account != nil {
		batch.Seal, cl = c.close(account)
	}
	if len(batch.Records) == 0 && len(batch.Others) == 0 && batch.Seal == nil {
		return nil
	}
	c.began(time.Now())
	err := c.log.Write(batch)
	c.trouble("write flow log", err)
	c.note(err)
	if err != nil {
		c.promise()
	}
	if err != nil || batch.Seal == nil {
		return err
	}
	failpoint.Here("flow.sealed")
	c.ledger.written(cl)
	c.books.settle(c.ledger.closed)
	s := &c.sealing
	s.last = time.Now()
	if cl != nil {
		s.full, s.fullAt = true, batch.Seal.End
		if c.cfg.Tunnel != nil {
			c.cfg.Tunnel.Settled(batch.Seal.Tunnel)
		}
	}
	c.mu.Lock()
	c.health.seals++
	c.mu.Unlock()
	return nil
}

// seal begins a seal that is not full.
func (c *Collector) seal() *seal.Seal {
	now := c.cfg.Clock()
	s := &seal.Seal{End: now.Wall, Declared: c.ledger.owed}
	if c.cfg.Kernel != nil {
		s.Clock = c.cfg.Kernel()
	}
	offset := now.Wall.Round(0).Sub(time.Unix(0, int64(now.Boot)))
	if z := &c.sealing; z.seen {
		s.Clock.SteppedMicros = stepped(offset - z.offset)
	}
	c.sealing.offset, c.sealing.seen = offset, true
	return s
}

// stepped is a difference between the clocks in microseconds, and 0 where the clock only ran a little faster or slower: by 500 millionths
// at most, of the minute between two seals.
func stepped(d time.Duration) int64 {
	const slewed = 50 * time.Millisecond
	if d.Abs() < slewed {
		return 0
	}
	return d.Microseconds()
}

// close makes a full seal of an account whose records were told. If whose the counters are cannot be kept, it is a plain one.
func (c *Collector) close(account *Account) (*seal.Seal, *closing) {
	if account.After == nil {
		return c.seal(), nil
	}
	err := c.books.keep(account.After, func(n uint32) string {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.labels.eni(0, n).id
	})
	c.trouble("keep counters' names", err)
	if err != nil {
		return c.seal(), nil
	}
	clear(c.ledger.closed)
	s := c.seal()
	cl := c.ledger.close(c.books.read(account.Before, account.After), c.sealing.fullAt, s.End)
	s.Full, s.Counters, s.Declared = true, cl.positions, c.ledger.owed
	if c.cfg.Tunnel != nil {
		s.Tunnel, err = c.cfg.Tunnel.Passages()
		c.trouble("read what passed through the tunnel", err)
	}
	return s, cl
}

// Fold tells the datapath which of these final counts of interfaces that are gone it may count for none. It does not wait; before the
// log is open, none.
func (c *Collector) Fold(final []Counter) (ready []bool) {
	c.mu.Lock()
	b := c.books
	c.mu.Unlock()
	if b != nil {
		return b.Fold(final)
	}
	ready = make([]bool, len(final))
	for i := range ready {
		ready[i] = c.cfg.Log.Key == nil && c.cfg.Key == nil
	}
	return ready
}

// health is whether the log takes records.
type health struct {
	failed error     // of the last write
	since  time.Time // when it began to fail
	began  time.Time // of a write that has not returned; zero: none
	seals  uint64
}

func (h *health) problem(now time.Time) error {
	switch {
	case h.failed != nil:
		return h.failed
	case !h.began.IsZero() && now.Sub(h.began) > writeLate:
		return fmt.Errorf("the disk has not taken a write for %s", now.Sub(h.began).Round(time.Second))
	}
	return nil
}

func (c *Collector) began(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.health.began = now
}

// note ends a write.
func (c *Collector) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.health.failed == nil {
		c.health.since = time.Now()
	}
	c.health.failed, c.health.began = err, time.Time{}
}

// Problem says that the log takes no records, or removes what was not shipped, and what to do; nil: neither. It never waits.
func (c *Collector) Problem() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.health.problem(time.Now())
	if err == nil && c.log != nil {
		return c.log.full()
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("flow records are not written (%d wait in memory, where what does not fit is merged and declared): %w: "+
		"make room or mend the disk", c.queued, err)
}

// watch says in the log that a write does not return: who waits for it cannot.
func (c *Collector) watch(ctx context.Context) {
	stuck := false
	for ctx.Err() == nil {
		wait(ctx, nil, beatEvery)
		c.mu.Lock()
		h := c.health
		c.mu.Unlock()
		now := h.failed == nil && h.problem(time.Now()) != nil
		switch {
		case now && !stuck:
			c.cfg.Logger.Error("flow records are not written: the disk does not answer")
			if c.cfg.Ready != nil { // who does so otherwise waits for the disk
				if err := c.cfg.Ready(0); err != nil {
					c.cfg.Logger.Error("new flows that must be recorded are not refused", logkey.Error, err)
				}
			}
		case !now && stuck:
			c.cfg.Logger.Info("the disk of flow records answers again", logkey.Step, "write flow log")
		}
		stuck = now
	}
}
