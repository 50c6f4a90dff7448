package flow

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
)

// Clock is one moment on both clocks.
type Clock struct {
	Boot uint64 // nanoseconds since boot, CLOCK_BOOTTIME
	Wall time.Time
}

// At is the wall time of a boot time, in UTC.
func (c Clock) At(boot uint64) time.Time {
	return c.Wall.Add(-time.Duration(int64(c.Boot - boot))).UTC()
}

// Input of [Aggregator.Collect].
type Input struct {
	Now   Clock
	Flows []Flow // in any order; of several with one id the larger counters count
	// Complete: Flows is the whole table, a flow that is not there is gone.
	Complete bool
	Refusals []Refusal
	Lost     uint64 // refused packets without detail
	// Full: the interval is over, all counters are to be recorded. Else only what is urgent: opened, closed, refused.
	Full bool
	// All: what was counted so far is to be recorded to the last packet, also of flows whose closing record has to wait. With Full.
	All bool
}

// Result of [Aggregator.Collect].
type Result struct {
	Records []api.FlowRecord // without Sequence
	// Unsettled flows have ended but may still count a last packet; collect again within a second.
	Unsettled int
}

// Settings of an [Aggregator]. Zero values are replaced by the defaults.
type Settings struct {
	Node string // node id, put into every record
	Boot string
	// Settle is how long after its newest packet an ended flow gets its closing record, so that the last
	// acknowledgement is counted in it. Default 250 ms.
	Settle time.Duration
	// Patience is when a flow that ended and goes on counting gets its closing record all the same. Default 2 s.
	Patience time.Duration
	// MaxRefusals bounds the kinds of refusals held between two records; more are merged by interface and reason.
	// Default 4096.
	MaxRefusals int
	// EarlyRefusals bounds the records of refusals that urgent collections may make in one interval; beyond that refusals wait for
	// the end of the interval. Default 1024.
	EarlyRefusals int
}

const (
	defaultSettle        = 250 * time.Millisecond
	defaultPatience      = 2 * time.Second
	defaultMaxRefusals   = 4096
	defaultEarlyRefusals = 1024
	// A flow is taken for gone after it was absent from this many complete tables in a row: a table that is read while
	// it changes may miss one.
	goneAfter = 2
)

// Aggregator makes records out of counters. It is pure: the same inputs give the same records. Not safe for concurrent use.
//
// For every flow, the counts of its records sum up to its counters; exactly one of its records has the state closed once
// it has ended or gone; refused packets sum up to what was drained.
type Aggregator struct {
	set      Settings
	labels   *Labeler
	flows    map[uint64]*track
	pass     uint32 // the newest
	refusals map[refusalKey]*heldRefusal
	early    int
	lost     uint64
	traffic  traffic
	limits   limits
}

// track is what is known of one flow. Most flows of a busy table have ended: of those it is all there is.
type track struct {
	id       uint64
	reported Counts
	until    uint64 // boot time up to which its packets are recorded; of a record of before its end, wall time
	live     *live  // nil: the closing record exists, and nothing was counted since
	pass     uint32 // that met it last
	missed   uint8
	is       condition
	// TCP flags that records have told, of the opening direction and of the answers.
	flags, replyFlags uint8
}

// condition is what holds of a flow: a set.
type condition uint8

const (
	isOpen   condition = 1 << iota // an opening record exists
	isClosed                       // the closing record exists
	byWall                         // until is nanoseconds of the wall clock
)

func (t *track) open() bool   { return t.is&isOpen != 0 }
func (t *track) closed() bool { return t.is&isClosed != 0 }

// live is what a record of a flow still needs.
type live struct {
	flow     Flow            // as seen last
	template *api.FlowRecord // of a flow known from the log only
	named    *api.FlowRecord // what that was, once it was seen: its connection may be gone since
	endedAt  uint64          // boot time when the end was seen first
	sum      *Traffic        // what it counts in
	active   bool            // counted there as one that has not ended
}

type refusalKey struct {
	vpc, destVPC, eni uint32
	tuple             Tuple // without SrcPort
	tag               uint16
	reason            string
	protocol          uint8
	hook              Hook
}

type heldRefusal struct {
	Refusal
	merged uint64 // refusals whose detail is lost in it
}

// NewAggregator starts from what is recorded already: baselines are [Aggregator.Baselines] of before, or nil.
func NewAggregator(s Settings, l *Labeler, baselines []api.FlowRecord) *Aggregator {
	return resumeAggregator(s, l, slices.Values(baselines))
}

func resumeAggregator(s Settings, l *Labeler, baselines iter.Seq[api.FlowRecord]) *Aggregator {
	s.Settle = cmp.Or(s.Settle, defaultSettle)
	s.Patience = cmp.Or(s.Patience, defaultPatience)
	s.MaxRefusals = cmp.Or(s.MaxRefusals, defaultMaxRefusals)
	s.EarlyRefusals = cmp.Or(s.EarlyRefusals, defaultEarlyRefusals)
	a := &Aggregator{
		set: s, labels: l, early: s.EarlyRefusals,
		flows: map[uint64]*track{}, refusals: map[refusalKey]*heldRefusal{}, traffic: traffic{}, limits: limits{},
	}
	for r := range baselines {
		id, ok := parseID(r.FlowID)
		if !ok {
			continue
		}
		t := &track{id: id, reported: countsOf(&r), is: isOpen, flags: uint8(r.TCPFlags), replyFlags: uint8(r.ReplyTCPFlags)}
		if !r.End.IsZero() {
			t.until = uint64(r.End.UnixNano())
			t.is |= byWall
		}
		if r.State == api.FlowClosed || r.State == api.FlowLate {
			t.is |= isClosed
			t.flags, t.replyFlags = 0xff, 0xff // which ones were told nobody knows any more: none is twice
		} else {
			t.live = &live{flow: Flow{ID: id, Counts: t.reported}, template: &r}
			a.count(t, &r, Counts{})
		}
		a.flows[id] = t
	}
	return a
}

// Len is the number of flows that have not ended.
func (a *Aggregator) Len() int {
	n := 0
	for _, t := range a.flows {
		if !t.closed() {
			n++
		}
	}
	return n
}

// Baselines is what is recorded of every flow that is still known, as records with the sums of all their counts; state
// closed where the closing record was made, of which nothing else is told. Sorted by flow id.
func (a *Aggregator) Baselines() []api.FlowRecord { return slices.Collect(a.recorded(&sync.Mutex{})) }

// recorded are the baselines one by one; each is made under the lock, if there is one.
func (a *Aggregator) recorded(lock sync.Locker) iter.Seq[api.FlowRecord] {
	return func(yield func(api.FlowRecord) bool) {
		for _, id := range slices.Sorted(maps.Keys(a.flows)) {
			lock.Lock()
			r, ok := a.baseline(a.flows[id])
			lock.Unlock()
			if ok && !yield(r) {
				return
			}
		}
	}
}

func (a *Aggregator) baseline(t *track) (r api.FlowRecord, ok bool) {
	switch {
	case t.closed():
		r = api.FlowRecord{Boot: a.set.Boot, FlowID: formatID(t.id), State: api.FlowClosed}
	case t.open():
		r = a.record(t)
		r.State, r.TCPFlags, r.ReplyTCPFlags = api.FlowActive, int(t.flags), int(t.replyFlags)
	default:
		return r, false
	}
	t.reported.put(&r)
	return r, true
}

// Collect makes the records that are due.
func (a *Aggregator) Collect(in Input) (res Result) {
	p := a.Begin(in)
	for i := range in.Flows {
		p.Observe(&in.Flows[i])
	}
	p.End(in)
	for more := true; more; {
		var records []api.FlowRecord
		records, more = p.Next(maxChunk)
		res.Records = append(res.Records, records...)
	}
	res.Unsettled = p.Unsettled
	return res
}

// hold adds a refusal to those not recorded yet.
func (a *Aggregator) hold(f *Refusal) {
	t := Tuple{IPv6: f.IPv6, Src: f.Src, Dst: f.Dst, DstPort: f.DstPort}
	k := refusalKey{f.VPC, f.DestVPC, f.ENI, t, f.Tag, f.Reason, f.Protocol, f.Hook}
	h := a.refusals[k]
	var merged uint64
	if h == nil && len(a.refusals) >= a.set.MaxRefusals {
		// Interfaces, reasons and hooks are few, so this is bounded too.
		k = refusalKey{eni: f.ENI, reason: f.Reason, hook: f.Hook}
		h, merged = a.refusals[k], 1
	}
	if h == nil {
		h = &heldRefusal{Refusal: *f}
		if merged > 0 {
			h.VPC, h.DestVPC, h.Tag, h.Protocol, h.SrcPort = 0, 0, 0, 0, 0
			h.IPv6, h.Src, h.Dst, h.DstPort = false, k.tuple.Src, k.tuple.Dst, 0
		}
		h.merged = merged
		a.refusals[k] = h
		return
	}
	h.merged += merged
	h.Packets += f.Packets
	h.Bytes += f.Bytes
	h.FirstNS = min(h.FirstNS, f.FirstNS)
	h.LastNS = max(h.LastNS, f.LastNS)
}

// refused records what is held: all at the end of an interval, before that within the interval's allowance.
func (a *Aggregator) refused(in Input) (records []api.FlowRecord) {
	if len(a.refusals) == 0 || !in.Full && len(a.refusals) > a.early {
		return nil
	}
	a.early -= len(a.refusals)
	held := slices.SortedFunc(maps.Values(a.refusals), func(x, y *heldRefusal) int {
		return cmp.Or(cmp.Compare(x.FirstNS, y.FirstNS), cmp.Compare(x.ENI, y.ENI), x.Dst.Compare(y.Dst),
			cmp.Compare(x.DstPort, y.DstPort), x.Src.Compare(y.Src), cmp.Compare(x.Reason, y.Reason),
			cmp.Compare(x.Hook, y.Hook), cmp.Compare(x.Protocol, y.Protocol), cmp.Compare(x.Tag, y.Tag),
			cmp.Compare(x.VPC, y.VPC), cmp.Compare(x.DestVPC, y.DestVPC))
	})
	for _, h := range held {
		r := a.labels.Refusal(&h.Refusal)
		a.traffic.of(&r).Dropped += h.Packets
		r.Node, r.Boot, r.Lost = a.set.Node, a.set.Boot, h.merged
		r.Start, r.End = in.Now.At(min(h.FirstNS, in.Now.Boot)), in.Now.At(min(h.LastNS, in.Now.Boot))
		a.limits.add(&r)
		records = append(records, r)
	}
	clear(a.refusals)
	return records
}
