package flow

import (
	"cmp"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// maxChunk is how many records are made at a time: what is made waits in memory until it is written.
const maxChunk = 4096

// Pass is one reading of the flow table by an [Aggregator]: Observe each flow, End, and then Next until there is no more. Records are made
// only then, so that a table of any size costs no list of its flows.
type Pass struct {
	a    *Aggregator
	in   Input           // without Flows
	gone map[uint64]bool // removed in this pass and forgotten: a table that was read before may still have them
	due  []*track        // that may get records
	rest []api.FlowRecord
	told bool // what is lost was told with a record

	Unsettled int // as in Result, once there is no more
}

// Begin begins a pass. Of the input only the time matters yet.
func (a *Aggregator) Begin(in Input) *Pass {
	a.pass++
	in.Flows = nil
	return &Pass{a: a, in: in, gone: map[uint64]bool{}}
}

// Observe takes a flow as it is now.
func (p *Pass) Observe(f *Flow) {
	a := p.a
	if p.gone[f.ID] {
		return
	}
	t := a.flows[f.ID]
	if t == nil {
		t = &track{id: f.ID, live: &live{}}
		a.flows[f.ID] = t
	}
	again := t.pass == a.pass
	t.pass, t.missed = a.pass, 0
	f = t.whole(f)
	switch {
	case again && t.live != nil:
		t.live.flow = both(t.live.flow, f)
	case !t.closed():
		t.live.flow = *f
	case f.Counts != t.reported:
		if t.live == nil {
			t.live = &live{}
		}
		t.live.flow = *f
	case f.Removed:
		delete(a.flows, f.ID)
		p.gone[f.ID] = true
	}
}

// whole is a flow one entry of which is gone already, and was not when it was seen before: that one counts what it had counted, and says what
// it had said.
func (t *track) whole(f *Flow) *Flow {
	there, back := f.Packets > 0 || t.reported.Packets == 0, f.ReplyPackets > 0 || t.reported.ReplyPackets == 0
	if there && back {
		return f
	}
	g, counts := *f, f.Counts
	if t.live != nil && f.Hook == 0 && t.live.flow.Hook != 0 {
		g = t.live.flow
		g.LastNS, g.ReplyTCPFlags = max(g.LastNS, f.LastNS), g.ReplyTCPFlags|f.ReplyTCPFlags
		g.Closed, g.Dead, g.Removed = g.Closed || f.Closed, g.Dead || f.Dead, f.Removed
	}
	had := t.reported
	if t.live != nil { // which may be more
		had = t.live.flow.Counts
	}
	if !there {
		counts.Packets, counts.Bytes, counts.Retransmits = had.Packets, had.Bytes, had.Retransmits
	}
	if !back {
		counts.ReplyPackets, counts.ReplyBytes, counts.ReplyRetransmits = had.ReplyPackets, had.ReplyBytes, had.ReplyRetransmits
	}
	g.Counts = counts
	return &g
}

// Known tells whether a flow's closing record exists and says all that this entry of it has counted. Such a flow counts as seen, and needs
// not be observed.
func (p *Pass) Known(h Half) bool {
	t := p.a.flows[h.ID]
	if t == nil || !t.closed() || t.live != nil {
		return false
	}
	r := &t.reported
	said := Half{h.ID, h.Reply, r.Packets, r.Bytes, r.Retransmits}
	if h.Reply {
		said = Half{h.ID, h.Reply, r.ReplyPackets, r.ReplyBytes, r.ReplyRetransmits}
	}
	if said != h {
		return false
	}
	t.pass, t.missed = p.a.pass, 0
	return true
}

// both is what was seen of one flow twice in a pass.
func both(old Flow, f *Flow) Flow {
	if f.Removed != old.Removed {
		if f.Removed {
			return *f
		}
		return old
	}
	out := *f
	out.Counts = Counts{
		max(f.Packets, old.Packets), max(f.Bytes, old.Bytes), max(f.ReplyPackets, old.ReplyPackets), max(f.ReplyBytes, old.ReplyBytes),
		max(f.Retransmits, old.Retransmits), max(f.ReplyRetransmits, old.ReplyRetransmits),
	}
	out.LastNS = max(f.LastNS, old.LastNS)
	out.Closed, out.Dead = f.Closed || old.Closed, f.Dead || old.Dead
	out.TCPFlags |= old.TCPFlags
	out.ReplyTCPFlags |= old.ReplyTCPFlags
	return out
}

// End takes what else the input has: its time, refusals, whether the table was read whole, and what is to be recorded.
func (p *Pass) End(in Input) {
	a := p.a
	in.Flows = nil
	p.in = in
	for _, t := range a.flows {
		if t.pass != a.pass && in.Complete || t.pass == a.pass && t.live != nil {
			p.due = append(p.due, t)
		}
	}
	slices.SortFunc(p.due, func(x, y *track) int {
		if seen := x.pass == a.pass; seen != (y.pass == a.pass) {
			if seen {
				return -1
			}
			return 1
		} else if !seen {
			return cmp.Compare(x.id, y.id)
		}
		return cmp.Or(cmp.Compare(x.live.flow.CreatedNS, y.live.flow.CreatedNS), cmp.Compare(x.id, y.id))
	})
	a.lost += in.Lost
	for i := range in.Refusals {
		a.hold(&in.Refusals[i])
	}
	p.rest = a.refused(in)
	if in.Full {
		a.early = a.set.EarlyRefusals
	}
}

// Next makes up to limit records, with refusals a few more; more: there may be others.
func (p *Pass) Next(limit int) (records []api.FlowRecord, more bool) {
	a := p.a
	n := 0
	for ; n < len(p.due) && len(records) < limit; n++ {
		t := p.due[n]
		if t.pass == a.pass {
			p.seen(t, &records)
		} else {
			p.absent(t, &records)
		}
	}
	clear(p.due[:n])
	p.due = p.due[n:]
	if more = len(p.due) > 0; !more {
		records = append(records, p.rest...)
		p.rest = nil
		if a.lost > 0 && len(records) == 0 && !p.told && p.in.Full {
			now := p.in.Now.At(p.in.Now.Boot)
			records = append(records, api.FlowRecord{
				Node: a.set.Node, Boot: a.set.Boot, Start: now, End: now, LogStatus: StatusSkipped,
			})
		}
	}
	if a.lost > 0 && len(records) > 0 {
		records[0].Lost += a.lost
		a.lost = 0
		p.told = true
	}
	return records, more
}

// seen makes the record that a flow of the table is due.
func (p *Pass) seen(t *track, out *[]api.FlowRecord) {
	in, f := &p.in, &t.live.flow
	p.begin(t)
	if t.live.template != nil && f.Hook != 0 {
		t.live.template, t.live.named = nil, t.live.template
	}
	delta, ok := f.since(t.reported)
	if !ok {
		t.reported = Counts{}
		p.a.lost++
	}
	ended := f.Closed || f.Dead || f.Removed
	if ended && t.live.endedAt == 0 {
		t.live.endedAt = in.Now.Boot
	}
	switch {
	case t.closed():
		if !delta.zero() && (in.Full || f.Removed) {
			p.emit(t, delta, api.FlowLate, out)
		}
	case ended && (f.Removed || p.a.settled(in.Now.Boot, t)):
		p.emit(t, delta, api.FlowClosed, out)
	case ended:
		p.Unsettled++
		p.advance(t, delta, out)
	case !t.open():
		p.emit(t, delta, api.FlowOpen, out)
	case in.Full && !delta.zero():
		p.emit(t, delta, api.FlowActive, out)
	}
	if f.Removed {
		delete(p.a.flows, t.id)
	}
	t.rest()
}

// rest lets go of what a flow whose closing record exists needs no more.
func (t *track) rest() {
	if t.closed() && (t.live == nil || t.live.flow.Counts == t.reported) {
		t.live = nil
	}
}

// begin sets since when a flow's packets are not recorded.
func (p *Pass) begin(t *track) {
	switch {
	case t.is&byWall != 0:
		since := max(p.in.Now.Wall.UnixNano()-int64(t.until), 0)
		t.until = max(t.live.flow.CreatedNS, p.in.Now.Boot-min(uint64(since), p.in.Now.Boot))
		t.is &^= byWall
	case t.until == 0:
		t.until = t.live.flow.CreatedNS
	}
}

// advance records what a flow has counted while its closing record has to wait, if all is to be recorded.
func (p *Pass) advance(t *track, delta Counts, out *[]api.FlowRecord) {
	switch {
	case !p.in.All || delta.zero():
	case t.closed():
		p.emit(t, delta, api.FlowLate, out)
	case t.open():
		p.emit(t, delta, api.FlowActive, out)
	default:
		p.emit(t, delta, api.FlowOpen, out)
	}
}

// settled tells whether an ended flow may get its closing record.
func (a *Aggregator) settled(now uint64, t *track) bool {
	return now >= t.live.flow.LastNS+uint64(a.set.Settle) || now >= t.live.endedAt+uint64(a.set.Patience)
}

// absent closes a flow that is gone without a word. The counters that it had last are its final ones, as far as is
// known; a flow that had not ended may have counted more, which is declared as lost detail.
func (p *Pass) absent(t *track, out *[]api.FlowRecord) {
	var delta Counts
	if t.live != nil {
		p.begin(t)
		delta, _ = t.live.flow.since(t.reported)
	}
	if t.missed++; t.missed < goneAfter {
		p.Unsettled++
		p.advance(t, delta, out)
		return
	}
	delete(p.a.flows, t.id)
	switch {
	case !t.closed():
		p.emit(t, delta, api.FlowClosed, out)
		if t.live.endedAt == 0 {
			(*out)[len(*out)-1].Lost++
		}
	case !delta.zero():
		p.emit(t, delta, api.FlowLate, out)
	}
}

// record is the record of a flow without counts and times.
func (a *Aggregator) record(t *track) api.FlowRecord {
	if t.live.template != nil {
		r := *t.live.template
		r.Sequence, r.Lost = 0, 0
		return r
	}
	r := a.labels.Flow(&t.live.flow)
	if named := t.live.named; named != nil && r.Side == named.Side && r.Connection == "" {
		r.Connection, r.Endpoint, r.Service, r.ServiceName = named.Connection, named.Endpoint, named.Service, named.ServiceName
		r.Approver, r.ConsumerAccount, r.ProviderAccount = named.Approver, named.ConsumerAccount, named.ProviderAccount
		r.ConsumerVPC, r.ProviderVPC = named.ConsumerVPC, named.ProviderVPC
	}
	r.Node, r.Boot = a.set.Node, a.set.Boot
	return r
}

// emit records delta, and TCP flags that no record has told. Start and End are the first and newest packet as far as known; without packets,
// now.
func (p *Pass) emit(t *track, delta Counts, state string, out *[]api.FlowRecord) {
	now, f := p.in.Now, &t.live.flow
	r := p.a.record(t)
	delta.put(&r)
	r.State, r.TCPFlags, r.ReplyTCPFlags = state, int(f.TCPFlags&^t.flags), int(f.ReplyTCPFlags&^t.replyFlags)
	p.a.count(t, &r, delta)
	last := min(f.LastNS, now.Boot)
	if delta.zero() || f.LastNS == 0 {
		last = now.Boot
		r.Start = now.At(last)
	} else {
		r.Start = now.At(min(t.until, last))
	}
	r.End = now.At(last)
	*out = append(*out, r)
	t.reported, t.until = f.Counts, now.Boot
	t.flags, t.replyFlags = t.flags|f.TCPFlags, t.replyFlags|f.ReplyTCPFlags
	if t.is |= isOpen; state == api.FlowClosed {
		t.is |= isClosed
	}
}
