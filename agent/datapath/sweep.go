package datapath

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/bpf"
)

// maxSwept bounds the flows that one sweep marks or removes, and with them its memory.
const maxSwept = 65_536

// maxRemovals is how many flows are asked for at a time.
const maxRemovals = 2048

// While the table is nearly full, what is closed or never was answered goes early. A packet that comes for it all the same
// finds none: a SYN opens a new flow, which it may on a closed one too.
const (
	// pressedClosed outlasts the retransmission of what was sent before a FIN.
	pressedClosed = time.Second
	// pressedUnanswered outlasts the pause before the third SYN, and what asks for an answer by UDP.
	pressedUnanswered = 5 * time.Second
)

// Swept is what a sweep did.
type Swept struct {
	Removed []Flow // with their final counters
	Left    int    // entries that remain
	More    bool   // there may be more to remove than one sweep takes
}

// Sweep removes the flows that were revoked and those whose time is over, at now, which is boot time. Each removed flow is
// returned once. What it returns beside an error is valid.
//
// It looks, marks, waits until every packet that is under way has been counted, and removes with the final counters. A
// packet that comes before the mark keeps its flow; one that comes after it finds the flow revoked or as good as absent, and
// may remove it first. Flows that hold a port stay in quarantine between mark and removal.
func (d *Datapath) Sweep(ctx context.Context, now time.Duration) (swept Swept, err error) {
	d.sweepMu.Lock()
	defer d.sweepMu.Unlock()
	if d.takesOver() {
		return Swept{}, nil // the programs of before go on, as they do without an agent
	}
	before, err := d.readLedger(ctx)
	if err != nil {
		return Swept{}, err
	}
	l, err := d.look(ctx, now, d.pressed, before)
	if err == nil && !d.pressed && d.nearlyFull(l.entries) {
		d.recounted = 0
		l, err = d.look(ctx, now, true, before)
	}
	if err != nil {
		return Swept{}, err
	}
	after, err := d.readLedger(ctx)
	if err == nil {
		d.notePressure(after)
		err = d.balance(ctx, before, after, l.counted)
	}
	if err != nil {
		return Swept{}, err
	}
	swept.Left, swept.More = l.entries, l.full()
	d.expected = min(len(l.over)+len(l.over)/4, maxSwept)
	defer func() {
		d.pressed = d.nearlyFull(swept.Left)
		d.flows.Store(int64(swept.Left / 2))
	}()
	d.quarantines = l.quarantines
	if marks := l.marks(); len(marks) > 0 {
		err = d.mark(marks)
	}
	if err == nil {
		err = d.promptRefused(l.over)
	}
	if err == nil && len(l.over) > 0 {
		if err = d.settle(ctx); err == nil {
			err = d.remove(l.over, &swept)
		}
	}
	return swept, errors.Join(err, d.sweepFragments(ctx, now), d.promptTargets(ctx, append(l.prompts, unconfirmed(swept.Removed)...)))
}

func (d *Datapath) nearlyFull(entries int) bool { return entries > d.FlowEntries()/4*3 }

// look is one reading of the table in search of flows that are over.
type look struct {
	d       *Datapath
	now     time.Duration
	pressed bool     // the table is nearly full
	short   Timeouts // of flows of those who have nearly all that they may
	tight   map[bpf.QuotaKey]bool
	entries int
	half    map[uint64]bpf.Flow // by id: entries that are ripe, whose pair was not met yet
	over    []Flow              // to be marked and removed
	hold    []Flow              // to be marked: their quarantine begins
	err     error
	counted map[bpf.QuotaKey]int64 // whom entries are charged to; nil: this look does not count
	keys    []bpf.QuotaKey

	quarantines map[uint64]quarantine // by id: those that were met
	prompts     []bpf.Flow            // answering entries whose targets are to be prompted
}

func (d *Datapath) look(ctx context.Context, now time.Duration, pressed bool, charged ledger) (*look, error) {
	l := &look{
		d: d, now: now, pressed: pressed, short: d.cfg.Timeouts, half: map[uint64]bpf.Flow{},
		over: make([]Flow, 0, d.expected), quarantines: map[uint64]quarantine{}, tight: charged.tight(), counted: d.counting(now, charged),
	}
	l.short.Closed = min(l.short.Closed, pressedClosed)
	l.short.ClosedProvider = min(l.short.ClosedProvider, pressedClosed)
	l.short.Handshake = min(l.short.Handshake, pressedUnanswered)
	err := d.eachFlow(ctx, l.visit)
	for _, e := range l.half {
		if l.full() {
			break
		}
		l.alone(&e)
	}
	return l, errors.Join(err, l.err)
}

func (l *look) visit(e *bpf.Flow) {
	l.entries++
	l.count(e)
	if l.quarantined(e) || l.full() || !l.ripe(e) {
		return
	}
	pair, met := l.half[e.Id]
	switch {
	case met:
		delete(l.half, e.Id)
		var f Flow
		f.set(e)
		f.set(&pair)
		l.consider(f)
	case len(l.half) < maxSwept:
		l.half[e.Id] = *e
	default:
		l.alone(e)
	}
}

// alone considers an entry whose pair was not met. An answering entry speaks only for a flow without an opening one.
func (l *look) alone(e *bpf.Flow) {
	if f := l.complete(e); f.Reply.Id == 0 || f.Opening.Id == 0 || bpf.FlowFlag(e.Flags)&bpf.FlowOpening != 0 {
		l.consider(f)
	}
}

// ripe says whether an entry's flow may be over, from this entry alone.
func (l *look) ripe(e *bpf.Flow) bool {
	answered := bpf.FlowFlag(e.Flags)&bpf.FlowOpening == 0 && e.Packets > 0
	return l.ended(e, bpf.FlowFlag(e.Flags), e.LastNs, answered, bpf.TCPState(e.TcpState), l.pressedBy(e))
}

// complete looks up the other entry of a flow, if there is one.
func (l *look) complete(e *bpf.Flow) (f Flow) {
	f.set(e)
	if err := l.d.complete(&f, e); err != nil {
		l.err = err
	}
	return f
}

func (l *look) consider(f Flow) {
	switch {
	case !l.ended(f.entry(), f.Flags(), f.LastNS(), f.Reply.Packets > 0, f.TCPState(), l.pressedBy(&f.Opening, &f.Reply)):
	case holdsPort(&f.Reply) && !marked(&f.Reply):
		l.hold = append(l.hold, f)
	case !l.quarantined(&f.Reply):
		l.over = append(l.over, f)
	}
}

// full: the rest is only counted.
func (l *look) full() bool { return len(l.over)+len(l.hold) >= maxSwept }

// ended says whether a flow is revoked or its time is over; e is either entry, last the newest packet's boot time. pressed:
// its owner has nearly all that there is, or that it may have.
func (l *look) ended(e *bpf.Flow, flags bpf.FlowFlag, last uint64, answered bool, state bpf.TCPState, pressed bool) bool {
	if flags&(bpf.FlowDead|bpf.FlowExpired) != 0 { // any quarantine aside
		return true
	}
	opening := e.Key
	if bpf.FlowFlag(e.Flags)&bpf.FlowOpening == 0 {
		opening = e.ReverseKey()
	}
	limit := time.Duration(e.IdleS) * time.Second
	if limit == 0 {
		limit = 2 * time.Minute
	}
	limits := &l.d.cfg.Timeouts
	if pressed {
		limits = &l.short
	}
	halfOpen := state == bpf.TCPSynSent || state == bpf.TCPSynReceived
	switch {
	case flags&bpf.FlowClosed != 0 && (opening.SideOf() == bpf.ViewProvider || opening.SideOf() == bpf.ViewHost):
		limit = limits.ClosedProvider
	case flags&bpf.FlowClosed != 0:
		limit = limits.Closed
	case halfOpen || pressed && !answered && e.Key.Protocol != unix.IPPROTO_TCP:
		limit = min(limit, limits.Handshake)
	}
	return l.now-time.Duration(last) > limit
}

// marks are what the flows that are over have to be marked with.
func (l *look) marks() []bpf.FlowMark {
	marks := make([]bpf.FlowMark, 0, len(l.over)+len(l.hold))
	for _, flows := range [...][]Flow{l.over, l.hold} {
		for i := range flows {
			f, flag := &flows[i], bpf.FlowExpired
			if f.Flags()&bpf.FlowDead != 0 { // of one entry only, if a program was stopped there
				flag = bpf.FlowDead
			}
			marks = append(marks, f.mark(flag))
		}
	}
	return marks
}

func (f *Flow) mark(flag bpf.FlowFlag) bpf.FlowMark {
	return bpf.FlowMark{Key: f.entry().Key, Id: f.ID(), Flag: uint32(flag), LastNs: f.LastNS()}
}

func (d *Datapath) mark(marks []bpf.FlowMark) error {
	_, err := bpf.MarkFlows(d.coll.Programs[bpf.ABIProgMarkFlows], marks)
	return err
}

// settle waits until no packet is under way that saw its flow before it was marked. Programs run within RCU's read sides,
// whose end membarrier waits for. A kernel with CPUs kept free of interrupts (nohz_full) cannot: then time has to do.
func (d *Datapath) settle(ctx context.Context) error {
	const global = 1 // MEMBARRIER_CMD_GLOBAL, linux/membarrier.h
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d.cfg.Timeouts.Grace):
		return nil
	}
}

// remove takes out the flows that got their mark, with their final counters. Those that were removed take the list's place.
func (d *Datapath) remove(flows []Flow, swept *Swept) error {
	swept.Removed = flows[:0]
	var errs []error
	removals := make([]bpf.FlowRemoval, 0, 2*min(len(flows), maxRemovals))
	for chunk := range slices.Chunk(flows, maxRemovals) {
		removals = removals[:0]
		for i := range chunk {
			for _, e := range [...]*bpf.Flow{&chunk[i].Opening, &chunk[i].Reply} {
				removals = append(removals, bpf.FlowRemoval{Key: e.Key, Id: e.Id}) // Id 0 removes nothing
			}
		}
		errs = append(errs, bpf.RemoveFlows(d.coll.Programs[bpf.ABIProgRemoveFlows], removals))
		for i := range chunk {
			f := chunk[i]
			both := f.Opening.Id != 0 && f.Reply.Id != 0
			n := finish(&f.Opening, &removals[2*i]) + finish(&f.Reply, &removals[2*i+1])
			if n == 0 {
				continue
			}
			f.Half = both && n == 1
			swept.Removed = append(swept.Removed, f)
			swept.Left -= n
		}
	}
	return errors.Join(errs...)
}

// finish gives an entry its final values and returns 1, or empties it and returns 0.
func finish(e *bpf.Flow, r *bpf.FlowRemoval) int {
	if r.Removed == 0 {
		*e = bpf.Flow{}
		return 0
	}
	e.LastNs, e.Packets, e.Bytes, e.Flags, e.TcpFlags, e.TcpState = r.LastNs, r.Packets, r.Bytes, r.Flags, r.TcpFlags, r.TcpState
	e.Retransmits, e.Handshake, e.Rtt = r.Retransmits, r.Handshake, r.Rtt
	return 1
}
