package flow

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/logkey"
	"github.com/culvert-net/culvert/plan"
)

// Intervals are the aggregation intervals there are. AWS has 60 and 600 s.
var Intervals = []time.Duration{time.Second, 10 * time.Second, time.Minute, 10 * time.Minute}

// DefaultInterval is the aggregation interval where none is set.
const DefaultInterval = time.Second

const (
	urgentMin  = 250 * time.Millisecond
	urgentMax  = 10 * time.Second // after reading a table so big that it took a second
	prompt     = time.Second      // an interval up to this needs no reading in between
	finalGrace = 2 * time.Second
)

// Config configures a [Collector].
type Config struct {
	Node     string // node id
	Source   Source
	Clock    func() Clock
	Log      LogConfig     // Store and Boot are required; Shipping follows from Sink
	Sink     Sink          // nil: records stay here
	Shipper  ShipperConfig // Log, Sink and Logger are set by the collector
	Settings Settings      // Node and Boot are set by the collector
	Interval time.Duration // one of Intervals; default DefaultInterval
	// Key is asked for the key that signs seals, in place of Log.Key, each time that the log is to be opened.
	Key func() (ed25519.PrivateKey, error)
	// What a log with seals says in them, besides what Source counts if it is an [Accountant]: the clock, and what passed through the
	// tunnel. Both may be nil.
	Kernel func() seal.Clock
	Tunnel Tunnel
	// Ready is told each second until when, in boot time, new records will be taken for sure, as far as is known; not while the log
	// takes none. May be nil.
	Ready func(untilNS uint64) error
	// MaxPending bounds the records that wait in memory while the disk does not take them; see [Compact]. Default 65536.
	MaxPending int
	Logger     *slog.Logger
}

// Collector reads the source, keeps the log and ships it.
type Collector struct {
	cfg      Config
	interval chan time.Duration
	ready    chan struct{} // closed when log is set
	others   chan others
	ended    chan struct{} // closed when nothing more is taken

	mu     sync.Mutex // guards what follows
	labels Labeler
	agg    *Aggregator
	log    *Log
	queued int    // records that the disk has not taken
	books  *books // nil: no seals, or the log is not open
	health health
	merged uint64 // whose detail is gone since the disk did not take them; declared in what they became

	// of the goroutine of Run
	pending    []api.FlowRecord
	checkpoint bool // the log does not say all that was recorded: rotate as soon as possible
	troubles   map[string]string
	ledger     *ledger // nil: no seals
	sealing    sealing
}

// New checks the configuration; it does no I/O.
func New(cfg Config) (*Collector, error) {
	cfg.Interval = cmp.Or(cfg.Interval, DefaultInterval)
	cfg.MaxPending = cmp.Or(cfg.MaxPending, 1<<16)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Node == "":
		return nil, errors.New("flow collector: node id is required")
	case cfg.Source == nil || cfg.Clock == nil || cfg.Log.Store == nil || cfg.Log.Boot == "":
		return nil, errors.New("flow collector: source, clock, store and boot id are required")
	}
	if err := checkInterval(cfg.Interval); err != nil {
		return nil, err
	}
	cfg.Settings.Node = cfg.Node
	if cfg.Settings.MaxRefusals == 0 {
		// Under a scan every kind of refusal becomes a record each interval: short intervals hold fewer kinds.
		cfg.Settings.MaxRefusals = min(max(int(cfg.Interval/time.Second)*128, 256), defaultMaxRefusals)
	}
	cfg.Log.Shipping, cfg.Log.Node = cfg.Sink != nil, cfg.Node
	return &Collector{
		cfg: cfg, interval: make(chan time.Duration, 1), ready: make(chan struct{}), troubles: map[string]string{},
		others: make(chan others), ended: make(chan struct{}),
	}, nil
}

func checkInterval(d time.Duration) error {
	if !slices.Contains(Intervals, d) {
		return fmt.Errorf("aggregation interval %s: use one of %v", d, Intervals)
	}
	return nil
}

// SetView makes the numbers of a generation known. The agent calls it before it stamps the generation into the datapath.
func (c *Collector) SetView(v api.View, p plan.Plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.labels.Add(v, p)
}

// SetInterval changes the aggregation interval.
func (c *Collector) SetInterval(d time.Duration) error {
	if err := checkInterval(d); err != nil {
		return err
	}
	for {
		select {
		case c.interval <- d:
			return nil
		default:
		}
		select {
		case <-c.interval:
		default:
		}
	}
}

// Run records until ctx ends, then once more, and returns when all its goroutines have. It goes on through every trouble of
// source, disk and sink; the counters wait in the kernel.
func (c *Collector) Run(ctx context.Context) error {
	if !c.open(ctx) {
		return nil
	}
	var shipping sync.WaitGroup
	if c.cfg.Sink != nil {
		s := c.cfg.Shipper
		s.Log, s.Sink, s.Logger = c.log, c.cfg.Sink, c.cfg.Logger
		shipping.Go(func() { NewShipper(s).Run(ctx) })
	}
	shipping.Go(func() { c.watch(ctx) })
	c.loop(ctx)
	close(c.ended)
	c.sealing.full = false // the last reading is sealed
	final, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalGrace)
	defer cancel()
	c.collect(final, true)
	shipping.Wait()
	return c.log.Close()
}

func (c *Collector) openLog() (*Log, *Recovery, error) {
	cfg := c.cfg.Log
	if c.cfg.Key != nil {
		var err error
		if cfg.Key, err = c.cfg.Key(); err != nil {
			return nil, nil, err
		}
	}
	return OpenLog(cfg)
}

// open opens the log, again and again until it works.
func (c *Collector) open(ctx context.Context) bool {
	for ctx.Err() == nil {
		l, found, err := c.openLog()
		var b *books
		if err == nil && found.ledger != nil {
			if b, err = openBooks(c.cfg.Log.Store, c.cfg.Log.Boot); err != nil {
				err = errors.Join(err, l.Close())
			} else {
				b.settle(found.ledger.closed)
			}
		}
		c.trouble("open flow log", err)
		c.note(err)
		if err != nil {
			wait(ctx, nil, prompt)
			continue
		}
		if found.Lost > 0 {
			c.cfg.Logger.Warn("flow log was damaged", logkey.LostRecords, found.Lost)
		}
		c.ledger = found.ledger
		c.mu.Lock()
		c.log, c.books = l, b
		set := c.cfg.Settings
		set.Boot = l.Boot()
		c.agg = resumeAggregator(set, &c.labels, found.flows.each)
		c.mu.Unlock()
		close(c.ready)
		return true
	}
	return false
}

func (c *Collector) loop(ctx context.Context) {
	interval := c.cfg.Interval
	tick := time.NewTicker(interval)
	defer tick.Stop()
	urgent := time.NewTimer(time.Hour)
	urgent.Stop()
	defer urgent.Stop()
	armed := false
	pause := urgentMin
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	events := c.cfg.Source.Events()
	run := func(full bool) {
		began := time.Now()
		unsettled := c.collect(ctx, full)
		// A big table is not read so often that reading it becomes the load.
		pause = min(max(10*time.Since(began), urgentMin), urgentMax)
		urgent.Stop()
		if armed = unsettled > 0 && interval > prompt; armed {
			urgent.Reset(pause)
		}
	}
	c.sealing.interval = interval
	run(true)
	c.beat()
	for {
		select {
		case <-ctx.Done():
			return
		case interval = <-c.interval:
			tick.Reset(interval)
			c.sealing.interval = interval
		case <-beat.C:
			c.beat()
		case o := <-c.others:
			o.answer <- c.write(Batch{Others: o.lines}, nil)
		case <-tick.C:
			run(true)
		case <-urgent.C:
			run(false)
		case _, ok := <-events:
			if !ok {
				events = nil
			} else if !armed && interval > prompt {
				armed = true
				urgent.Reset(pause)
			}
		}
	}
}

// collect reads the source once and writes what is due; it returns the number of flows that are worth another look soon.
func (c *Collector) collect(ctx context.Context, full bool) int {
	c.mu.Lock()
	p := c.agg.Begin(Input{Full: full})
	c.mu.Unlock()
	yield := func(f Flow) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		p.Observe(&f)
		return true
	}
	if s, ok := c.cfg.Source.(Skipper); ok {
		s.Skip(func(h Half) bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return p.Known(h)
		})
	}
	in := Input{Full: full}
	account := c.account(ctx, full, yield)
	if account != nil {
		in.Refusals, in.Lost, in.Complete, in.All = account.Refusals, account.Lost, true, true
	} else {
		err := c.cfg.Source.Flows(ctx, yield)
		c.trouble("read flows", err)
		in.Complete = err == nil
		in.Refusals, in.Lost, err = c.cfg.Source.DrainRefusals(ctx)
		c.trouble("read refusals", err)
	}
	failpoint.Here("flow.drained")
	in.Now = c.cfg.Clock()
	c.mu.Lock()
	p.End(in)
	c.mu.Unlock()
	for {
		c.mu.Lock()
		records, more := p.Next(maxChunk)
		c.mu.Unlock()
		if !more {
			c.record(records, account)
			return p.Unsettled
		}
		c.record(records, nil)
	}
}

// record writes records, or keeps them until the disk takes them; with an account, or when it is time, it closes the segment.
func (c *Collector) record(records []api.FlowRecord, account *Account) {
	c.tell(records)
	if c.pending == nil {
		c.pending = records
	} else {
		c.pending = append(c.pending, records...)
	}
	if len(c.pending) > c.cfg.MaxPending {
		var merged bool
		before := declared(c.pending)
		c.pending, merged = Compact(c.pending, c.cfg.MaxPending)
		c.checkpoint = c.checkpoint || merged
		c.mu.Lock()
		c.merged += declared(c.pending) - before
		c.mu.Unlock()
	}
	err := c.write(Batch{Records: c.pending}, account)
	failpoint.Here("flow.appended")
	if err == nil {
		c.pending = nil
		if c.checkpoint || c.log.Due() {
			err := c.rotate()
			c.trouble("rotate flow log", err)
			c.checkpoint = c.checkpoint && err != nil
		}
	}
	c.mu.Lock()
	c.queued = len(c.pending)
	c.mu.Unlock()
}

// rotate begins a new segment of the disk, with a segment of the log.
func (c *Collector) rotate() error {
	var books *ledgerState
	if c.ledger != nil {
		if lines, _ := c.log.Open(); lines > 0 {
			if err := c.write(Batch{Seal: c.seal()}, nil); err != nil {
				return err
			}
		}
		books = c.ledger.state()
	}
	return c.log.rotate(c.agg.recorded(&c.mu), books)
}

// declared is how much records say was lost.
func declared(records []api.FlowRecord) (lost uint64) {
	for i := range records {
		lost += records[i].Lost
	}
	return lost
}

// trouble logs an error when it is new, and its end.
func (c *Collector) trouble(what string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	before := c.troubles[what]
	c.troubles[what] = text
	switch {
	case text == before:
	case text != "":
		c.cfg.Logger.Error("flow collector", logkey.Step, what, logkey.Error, err)
	default:
		c.cfg.Logger.Info("flow collector recovered", logkey.Step, what)
	}
}

// Query returns the newest records here that the filter selects, oldest first. It works without Run, too.
func (c *Collector) Query(ctx context.Context, f api.FlowFilter) ([]api.FlowRecord, error) {
	return Query(ctx, c.cfg.Log.Store, f)
}

// Follow calls fn for every record that the filter selects as it is written, until ctx ends or fn returns an error, which it returns. With
// f.Since set it begins with the oldest record here, else with the next. Limit is not looked at.
func (c *Collector) Follow(ctx context.Context, f api.FlowFilter, fn func(api.FlowRecord) error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ready:
	}
	var pos Position
	if f.Since.IsZero() {
		pos = c.log.End()
	}
	for {
		changed := c.log.Changed()
		records, next, err := c.log.Read(pos, 1000)
		if err != nil {
			return fmt.Errorf("follow flow log: %w", err)
		}
		for i := range records {
			if !f.Match(&records[i]) {
				continue
			}
			if err := fn(records[i]); err != nil {
				return err
			}
		}
		if next == pos {
			wait(ctx, changed, 0)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		pos = next
	}
}

// Stats is a collector in figures.
type Stats struct {
	LogStats
	Flows   int    // that have not ended
	Queued  int    // records that the disk has not taken
	Seals   uint64 // made since the agent's start
	Failing bool   // the log takes no records
}

// Stats returns the figures of now; zero before the log is open.
func (c *Collector) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	failing := c.health.problem(time.Now()) != nil
	if c.log == nil {
		return Stats{Failing: failing}
	}
	s := Stats{LogStats: c.log.Stats(), Flows: c.agg.Len(), Queued: c.queued, Seals: c.health.seals, Failing: failing}
	s.Lost += c.merged
	return s
}
