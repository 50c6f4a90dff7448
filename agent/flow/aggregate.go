package flow

import (
	"cmp"
	"maps"
	"slices"
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
	refusals map[refusalKey]*heldRefusal
	early    int
	lost     uint64
	traffic  traffic
}

// track is what is known of one flow.
type track struct {
	flow     Flow            // as seen last
	template *api.FlowRecord // of a flow known from the log only
	reported Counts
	until    uint64 // boot time up to which its packets are recorded
	endedAt  uint64 // boot time when the end was seen first
	open     bool   // an opening record exists
	closed   bool   // the closing record exists
	missed   int
	sum      *Traffic // what it counts in
	active   bool     // counted there as one that has not ended
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
	s.Settle = cmp.Or(s.Settle, defaultSettle)
	s.Patience = cmp.Or(s.Patience, defaultPatience)
	s.MaxRefusals = cmp.Or(s.MaxRefusals, defaultMaxRefusals)
	s.EarlyRefusals = cmp.Or(s.EarlyRefusals, defaultEarlyRefusals)
	a := &Aggregator{
		set: s, labels: l, early: s.EarlyRefusals,
		flows: map[uint64]*track{}, refusals: map[refusalKey]*heldRefusal{}, traffic: traffic{},
	}
	for i := range baselines {
		id, ok := parseID(baselines[i].FlowID)
		if !ok {
			continue
		}
		r := baselines[i]
		t := &track{
			flow: Flow{ID: id, Counts: countsOf(&r)}, template: &r, reported: countsOf(&r),
			open: true, closed: r.State == api.FlowClosed || r.State == api.FlowLate,
		}
		a.count(t, &r, Counts{})
		a.flows[id] = t
	}
	return a
}

// Len is the number of flows that have not ended.
func (a *Aggregator) Len() int {
	n := 0
	for _, t := range a.flows {
		if !t.closed {
			n++
		}
	}
	return n
}

// Baselines is what is recorded of every flow that is still known, as records with the sums of all their counts; state
// closed where the closing record was made. Sorted by flow id.
func (a *Aggregator) Baselines() []api.FlowRecord {
	var out []api.FlowRecord
	for _, id := range slices.Sorted(maps.Keys(a.flows)) {
		t := a.flows[id]
		if !t.open && !t.closed {
			continue
		}
		r := a.record(t)
		t.reported.put(&r)
		r.State = api.FlowActive
		if t.closed {
			r.State = api.FlowClosed
		}
		out = append(out, r)
	}
	return out
}

// Collect makes the records that are due.
func (a *Aggregator) Collect(in Input) Result {
	var res Result
	seen := merge(in.Flows)
	for _, f := range seen {
		a.observe(in, f, &res)
	}
	if in.Complete {
		a.absent(in, seen, &res)
	}
	a.lost += in.Lost
	for i := range in.Refusals {
		a.hold(&in.Refusals[i])
	}
	a.refused(in, &res)
	if a.lost > 0 && len(res.Records) == 0 && in.Full {
		now := in.Now.At(in.Now.Boot)
		res.Records = append(res.Records, api.FlowRecord{
			Node: a.set.Node, Boot: a.set.Boot, Start: now, End: now, LogStatus: StatusSkipped,
		})
	}
	if a.lost > 0 && len(res.Records) > 0 {
		res.Records[0].Lost += a.lost
		a.lost = 0
	}
	if in.Full {
		a.early = a.set.EarlyRefusals
	}
	return res
}

// merge joins what was seen of one flow more than once, and sorts by creation.
func merge(flows []Flow) []Flow {
	byID := make(map[uint64]int, len(flows))
	out := make([]Flow, 0, len(flows))
	for _, f := range flows {
		i, dup := byID[f.ID]
		if !dup {
			byID[f.ID] = len(out)
			out = append(out, f)
			continue
		}
		old := out[i]
		if f.Removed != old.Removed {
			if f.Removed {
				out[i] = f
			}
			continue
		}
		f.Counts = Counts{
			max(f.Packets, old.Packets), max(f.Bytes, old.Bytes),
			max(f.ReplyPackets, old.ReplyPackets), max(f.ReplyBytes, old.ReplyBytes),
		}
		f.LastNS = max(f.LastNS, old.LastNS)
		f.Closed, f.Dead = f.Closed || old.Closed, f.Dead || old.Dead
		f.TCPFlags |= old.TCPFlags
		f.ReplyTCPFlags |= old.ReplyTCPFlags
		out[i] = f
	}
	slices.SortFunc(out, func(x, y Flow) int {
		return cmp.Or(cmp.Compare(x.CreatedNS, y.CreatedNS), cmp.Compare(x.ID, y.ID))
	})
	return out
}

func (a *Aggregator) observe(in Input, f Flow, res *Result) {
	t := a.flows[f.ID]
	if t == nil {
		t = &track{}
		a.flows[f.ID] = t
	}
	if t.until == 0 {
		t.until = f.CreatedNS
		if t.template != nil {
			since := in.Now.Wall.Sub(t.template.End)
			t.until = max(f.CreatedNS, in.Now.Boot-min(uint64(max(since, 0)), in.Now.Boot))
		}
	}
	t.flow, t.template, t.missed = f, nil, 0
	delta, ok := f.since(t.reported)
	if !ok {
		t.reported = Counts{}
		a.lost++
	}
	ended := f.Closed || f.Dead || f.Removed
	if ended && t.endedAt == 0 {
		t.endedAt = in.Now.Boot
	}
	switch {
	case t.closed:
		if !delta.zero() && (in.Full || f.Removed) {
			a.emit(in, t, delta, api.FlowLate, res)
		}
	case ended && (f.Removed || a.settled(in.Now.Boot, t)):
		a.emit(in, t, delta, api.FlowClosed, res)
	case ended:
		res.Unsettled++
	case !t.open:
		a.emit(in, t, delta, api.FlowOpen, res)
	case in.Full && !delta.zero():
		a.emit(in, t, delta, api.FlowActive, res)
	}
	if f.Removed {
		delete(a.flows, f.ID)
	}
}

// settled tells whether an ended flow may get its closing record.
func (a *Aggregator) settled(now uint64, t *track) bool {
	return now >= t.flow.LastNS+uint64(a.set.Settle) || now >= t.endedAt+uint64(a.set.Patience)
}

// absent closes the flows that are gone without a word. The counters that they had last are their final ones, as far as is
// known; a flow that had not ended may have counted more, which is declared as lost detail.
func (a *Aggregator) absent(in Input, seen []Flow, res *Result) {
	here := make(map[uint64]bool, len(seen))
	for _, f := range seen {
		here[f.ID] = true
	}
	for _, id := range slices.Sorted(maps.Keys(a.flows)) {
		t := a.flows[id]
		if here[id] {
			continue
		}
		if t.missed++; t.missed < goneAfter {
			res.Unsettled++
			continue
		}
		delete(a.flows, id)
		delta, _ := t.flow.since(t.reported)
		switch {
		case !t.closed:
			a.emit(in, t, delta, api.FlowClosed, res)
			if t.endedAt == 0 {
				res.Records[len(res.Records)-1].Lost++
			}
		case !delta.zero():
			a.emit(in, t, delta, api.FlowLate, res)
		}
	}
}

// record is the record of a flow without counts and times.
func (a *Aggregator) record(t *track) api.FlowRecord {
	if t.template != nil {
		r := *t.template
		r.Sequence, r.Lost = 0, 0
		return r
	}
	r := a.labels.Flow(&t.flow)
	r.Node, r.Boot = a.set.Node, a.set.Boot
	return r
}

// emit records delta. Start and End are the first and newest packet as far as known; without packets, now.
func (a *Aggregator) emit(in Input, t *track, delta Counts, state string, res *Result) {
	r := a.record(t)
	delta.put(&r)
	r.State = state
	a.count(t, &r, delta)
	last := min(t.flow.LastNS, in.Now.Boot)
	if delta.zero() || t.flow.LastNS == 0 {
		last = in.Now.Boot
		r.Start = in.Now.At(last)
	} else {
		r.Start = in.Now.At(min(t.until, last))
	}
	r.End = in.Now.At(last)
	res.Records = append(res.Records, r)
	t.reported, t.until, t.open = t.flow.Counts, in.Now.Boot, true
	if state == api.FlowClosed {
		t.closed = true
	}
}

// hold adds a refusal to those not recorded yet.
func (a *Aggregator) hold(f *Refusal) {
	k := refusalKey{f.VPC, f.DestVPC, f.ENI, Tuple{Src: f.Src, Dst: f.Dst, DstPort: f.DstPort}, f.Tag, f.Reason, f.Protocol, f.Hook}
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
			h.Src, h.Dst, h.DstPort = k.tuple.Src, k.tuple.Dst, 0
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
func (a *Aggregator) refused(in Input, res *Result) {
	if len(a.refusals) == 0 || !in.Full && len(a.refusals) > a.early {
		return
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
		res.Records = append(res.Records, r)
	}
	clear(a.refusals)
}
