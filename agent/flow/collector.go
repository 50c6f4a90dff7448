package flow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
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
	// MaxPending bounds the records that wait in memory while the disk does not take them; see [Compact]. Default 65536.
	MaxPending int
	Logger     *slog.Logger
}

// Collector reads the source, keeps the log and ships it.
type Collector struct {
	cfg      Config
	interval chan time.Duration
	ready    chan struct{} // closed when log is set

	mu     sync.Mutex // guards what follows
	labels Labeler
	agg    *Aggregator
	log    *Log
	queued int    // records that the disk has not taken
	merged uint64 // whose detail is gone since the disk did not take them; declared in what they became

	// of the goroutine of Run
	pending    []api.FlowRecord
	checkpoint bool // the log does not say all that was recorded: rotate as soon as possible
	troubles   map[string]string
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
	cfg.Settings.Node, cfg.Settings.Boot = cfg.Node, cfg.Log.Boot
	if cfg.Settings.MaxRefusals == 0 {
		// Under a scan every kind of refusal becomes a record each interval: short intervals hold fewer kinds.
		cfg.Settings.MaxRefusals = min(max(int(cfg.Interval/time.Second)*128, 256), defaultMaxRefusals)
	}
	cfg.Log.Shipping = cfg.Sink != nil
	return &Collector{
		cfg: cfg, interval: make(chan time.Duration, 1), ready: make(chan struct{}), troubles: map[string]string{},
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
	c.loop(ctx)
	final, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalGrace)
	defer cancel()
	c.collect(final, true)
	shipping.Wait()
	return c.log.Close()
}

// open opens the log, again and again until it works.
func (c *Collector) open(ctx context.Context) bool {
	for ctx.Err() == nil {
		l, found, err := OpenLog(c.cfg.Log)
		c.trouble("open flow log", err)
		if err != nil {
			wait(ctx, nil, prompt)
			continue
		}
		if found.Lost > 0 {
			c.cfg.Logger.Warn("flow log was damaged", logkey.LostRecords, found.Lost)
		}
		c.mu.Lock()
		c.log = l
		c.agg = NewAggregator(c.cfg.Settings, &c.labels, found.Baselines)
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
	run(true)
	for {
		select {
		case <-ctx.Done():
			return
		case interval = <-c.interval:
			tick.Reset(interval)
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
	var flows []Flow
	err := c.cfg.Source.Flows(ctx, func(f Flow) bool {
		flows = append(flows, f)
		return true
	})
	c.trouble("read flows", err)
	refusals, lost, drainErr := c.cfg.Source.DrainRefusals(ctx)
	c.trouble("read refusals", drainErr)
	failpoint.Here("flow.drained")
	in := Input{
		Now: c.cfg.Clock(), Flows: flows, Complete: err == nil, Refusals: refusals, Lost: lost, Full: full,
	}
	c.mu.Lock()
	res := c.agg.Collect(in)
	c.mu.Unlock()
	c.record(res.Records)
	return res.Unsettled
}

// record writes records, or keeps them until the disk takes them.
func (c *Collector) record(records []api.FlowRecord) {
	c.pending = append(c.pending, records...)
	if len(c.pending) > c.cfg.MaxPending {
		var merged bool
		before := declared(c.pending)
		c.pending, merged = Compact(c.pending, c.cfg.MaxPending)
		c.checkpoint = c.checkpoint || merged
		c.mu.Lock()
		c.merged += declared(c.pending) - before
		c.mu.Unlock()
	}
	err := c.log.Append(c.pending)
	c.trouble("write flow log", err)
	failpoint.Here("flow.appended")
	if err == nil {
		c.pending = nil
		if c.checkpoint || c.log.Due() {
			c.mu.Lock()
			baselines := c.agg.Baselines()
			c.mu.Unlock()
			err := c.log.Rotate(baselines)
			c.trouble("rotate flow log", err)
			c.checkpoint = c.checkpoint && err != nil
		}
	}
	c.mu.Lock()
	c.queued = len(c.pending)
	c.mu.Unlock()
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
	Flows  int // that have not ended
	Queued int // records that the disk has not taken
}

// Stats returns the figures of now; zero before the log is open.
func (c *Collector) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.log == nil {
		return Stats{}
	}
	s := Stats{LogStats: c.log.Stats(), Flows: c.agg.Len(), Queued: c.queued}
	s.Lost += c.merged
	return s
}
