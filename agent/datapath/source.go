package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	// The flow table is swept every two seconds, less often when that would take more than 2 % of a CPU, but every ten
	// seconds at least: what is over for longer stands in nobody's way, but takes room.
	sweepEvery = 2 * time.Second
	sweepShare = 50
	sweepMost  = 10 * time.Second
	// A crowded table is swept as soon as another flow comes, with at most a fifth of a CPU.
	crowdedEvery = 250 * time.Millisecond
	crowdedShare = 5
	// maxRemoved bounds the removed flows that nobody has asked for yet.
	maxRemoved = 65_536
	// The programs wake the reader of events only when many are unread (WAKE_BYTES): so it looks by itself, and after it was
	// woken lets some gather before it looks again.
	eventsLate   = 100 * time.Millisecond
	eventsGather = 20 * time.Millisecond
)

// Source is the datapath as package flow reads it. Run sweeps the flow table and reads events; without it nothing ends.
type Source struct {
	d       *Datapath
	events  chan flow.Event
	entries atomic.Int64  // of the flow table: those that the last sweep left, and those made since
	much    int64         // entries from which on the table is crowded
	crowd   chan struct{} // holds one when it is
	signals *signals      // of the reader of events

	mu       sync.Mutex
	known    func(flow.Half) bool // of whoever reads flows; nil: nothing is known
	removed  []flow.Flow
	expected int             // how many, as many as last time and a quarter more: spares growing
	partial  map[uint64]Flow // removed flows of which one entry was seen
	lostBase uint64          // refused packets without detail, as of the last drain
	reader   *eventReader    // nil: nobody reads events
}

// eventReader reads events until done is closed. It closes what it gets by flushes when it has taken all that was there then.
type eventReader struct {
	r       *ringbuf.Reader
	flushes chan chan struct{}
	done    chan struct{}
}

var _ flow.Source = (*Source)(nil)

// NewSource makes a source; it reads nothing yet.
func NewSource(d *Datapath) *Source {
	return &Source{
		d: d, events: make(chan flow.Event, 1024), crowd: make(chan struct{}, 1), partial: map[uint64]Flow{}, signals: newSignals(d),
		much: int64(d.FlowEntries() / 4),
	}
}

// Run works until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	if _, err := s.lost(); err != nil { // the counter's past is not ours
		return err
	}
	reader, err := ringbuf.NewReader(s.d.coll.Maps[mapEvents])
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	events := &eventReader{reader, make(chan chan struct{}), make(chan struct{})}
	s.setReader(events)
	go func() {
		defer close(events.done)
		s.read(ctx, events)
	}()
	stop := context.AfterFunc(ctx, func() { reader.Close() })
	defer stop()
	s.sweep(ctx)
	reader.Close()
	<-events.done
	s.setReader(nil)
	return nil
}

func (s *Source) setReader(r *eventReader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reader = r
}

func (s *Source) sweep(ctx context.Context) {
	runtime.LockOSThread() // whose time is measured: on a busy machine the clock says little of what a sweep costs
	defer runtime.UnlockOSThread()
	var cost time.Duration
	for s.rest(ctx, cost) {
		start := threadTime()
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.d.log.Error("sweep flows", logkey.Error, err)
		}
		cost = threadTime() - start
	}
}

// rest waits until it is time for a sweep, after one that cost so much; false: ctx has ended.
func (s *Source) rest(ctx context.Context, cost time.Duration) bool {
	least, most := pauses(cost)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(least):
	}
	select {
	case <-ctx.Done():
		return false
	case <-s.crowd:
	case <-time.After(most - least):
	}
	return true
}

// pauses are how long to wait after a sweep, while the table is crowded and else.
func pauses(cost time.Duration) (crowded, quiet time.Duration) {
	within := func(share int, least time.Duration) time.Duration {
		return min(max(time.Duration(share)*cost, least), sweepMost)
	}
	return within(crowdedShare, crowdedEvery), within(sweepShare, sweepEvery)
}

// threadTime is the CPU time of the calling thread.
func threadTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &u) // cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// crowded asks for a sweep soon.
func (s *Source) crowded() {
	select {
	case s.crowd <- struct{}{}:
	default:
	}
}

// Sweep removes flows whose time is over; Run calls it.
func (s *Source) Sweep(ctx context.Context) error {
	now, err := BootTime()
	if err != nil {
		return err
	}
	_, err = s.sweepAt(ctx, now)
	return err
}

func (s *Source) sweepAt(ctx context.Context, now time.Duration) (Swept, error) {
	select {
	case <-s.crowd: // by what this sweep sees
	default:
	}
	swept, err := s.d.Sweep(ctx, now)
	s.entries.Store(int64(swept.Left))
	if swept.More {
		s.crowded()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range swept.Removed {
		if f := &swept.Removed[i]; f.Half {
			s.joinLocked(f)
		} else {
			s.queueLocked(f)
		}
	}
	return swept, err
}

// queueLocked drops what nobody asks for: the flow is absent then, which package flow notices.
func (s *Source) queueLocked(f *Flow) {
	if len(s.removed) >= maxRemoved || f.probe() {
		return
	}
	if s.removed == nil {
		s.removed = make([]flow.Flow, 0, s.expected)
	}
	r := f.record()
	r.Removed = true
	s.removed = append(s.removed, r)
}

// joinLocked waits for the other half of a removed flow, or joins the two.
func (s *Source) joinLocked(half *Flow) {
	id := half.ID()
	f := s.partial[id]
	for _, e := range [...]*bpf.Flow{&half.Opening, &half.Reply} {
		if e.Id != 0 {
			f.set(e)
		}
	}
	if f.Opening.Id != 0 && f.Reply.Id != 0 {
		delete(s.partial, id)
		s.queueLocked(&f)
		return
	}
	if len(s.partial) >= maxRemoved {
		clear(s.partial)
	}
	s.partial[id] = f
}

func (s *Source) read(ctx context.Context, events *eventReader) {
	reader := events.r
	var asked chan struct{}
	var rec ringbuf.Record
	var failed uint64
	trouble := func(err error) {
		if failed++; failed&(failed-1) == 0 { // programs of another build would fill the log
			s.d.log.Error("read event", logkey.Error, err)
		}
	}
	for late := eventsLate; ; {
		reader.SetDeadline(time.Now().Add(late))
		err := reader.ReadInto(&rec)
		for err == nil {
			if bad := s.record(rec.RawSample); bad != nil {
				trouble(bad)
			}
			reader.SetDeadline(time.Now()) // what is there, and no more
			err = reader.ReadInto(&rec)
		}
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, ringbuf.ErrFlushed) {
			trouble(err)
		}
		if asked != nil { // before this pass
			close(asked)
			asked = nil
		}
		if now, err := BootTime(); err != nil {
			trouble(err)
		} else if err := s.signals.look(now); err != nil {
			trouble(err)
		}
		select {
		case <-ctx.Done():
			return
		case asked = <-events.flushes:
			late = 0
		case <-time.After(eventsGather):
			late = eventsLate
		}
	}
}

// record takes one record of the ring buffer. What the programs of this build do not write is refused: those of another may
// have left it.
func (s *Source) record(raw []byte) error {
	e, err := bpf.ParseEvent(raw)
	if err != nil {
		return err
	}
	switch bpf.EventKind(e.Kind) {
	case bpf.EventOpen, bpf.EventClose, bpf.EventRemoved:
		if e.FlowId == 0 {
			return fmt.Errorf("an event of kind %d about no flow", e.Kind)
		}
	case bpf.EventRefused:
	default:
		return fmt.Errorf("an event of unknown kind %d: programs and agent are of different builds", e.Kind)
	}
	s.event(e)
	return nil
}

func (s *Source) event(e *bpf.Event) {
	s.signals.event(e)
	out := flow.Event{Kind: flow.EventKind(e.Kind), FlowID: e.FlowId, TimeNS: e.TimeNs}
	switch bpf.EventKind(e.Kind) {
	case bpf.EventOpen:
		if s.entries.Add(2) > s.much {
			s.crowded()
		}
	case bpf.EventRefused:
		switch bpf.Reason(e.Reason) {
		case bpf.ReasonFlowTableFull, bpf.ReasonAccountFlowsFull, bpf.ReasonEndpointFlowsFull, bpf.ReasonSNATPortsExhausted:
			s.crowded()
		}
	case bpf.EventRemoved:
		s.entries.Add(-1)
		s.removedEntry(e)
		out.Kind = flow.EventClose
	}
	select {
	case s.events <- out:
	default: // an event only wakes
	}
}

// removedEntry is the last word of a flow, one entry of two, that made way for a packet.
func (s *Source) removedEntry(e *bpf.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var half Flow
	key := e.FlowKey()
	half.set(&bpf.Flow{
		Id: e.FlowId, LastNs: e.TimeNs, Packets: e.Packets, Bytes: e.Bytes, Key: key, Generation: e.Generation,
		PeerVpc: key.PeerVPC(e.SourceVpc, e.DestVpc), Saddr: e.Saddr, Daddr: e.Daddr,
		Sport: e.Sport, Dport: e.Dport, Flags: e.Flags, TcpFlags: e.TcpFlags, TcpState: e.TcpState, Hook: e.Hook, Eni: e.Eni,
		Connection: e.Connection, Rule: e.Rule, ReverseView: e.ReverseView,
		Retransmits: e.Retransmits, Handshake: e.Handshake, Rtt: e.Rtt,
	})
	s.joinLocked(&half)
}

// Flows implements flow.Source.
func (s *Source) Flows(ctx context.Context, yield func(flow.Flow) bool) error {
	more := true
	if err := s.live(ctx, func(f flow.Flow) bool {
		more = more && yield(f)
		return more
	}); err != nil || !more {
		return err
	}
	s.yieldRemoved(yield)
	return nil
}

// live yields the flows of the table. Those of probes are nobody's traffic: what came of them stands in the target's health.
func (s *Source) live(ctx context.Context, yield func(flow.Flow) bool) error {
	more := true
	return s.d.joined(ctx, s.skips(), func(f *Flow) {
		if more && !f.probe() {
			more = yield(f.record())
		}
	})
}

// Skip implements flow.Skipper.
func (s *Source) Skip(known func(flow.Half) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = known
}

// skips is which entries need not be read on. While flows are the predecessor's, all of them are: a pair cannot be looked up there.
func (s *Source) skips() func(e *bpf.Flow) bool {
	s.mu.Lock()
	known := s.known
	s.mu.Unlock()
	s.d.moving.RLock()
	defer s.d.moving.RUnlock()
	if known == nil || s.d.waiting() {
		return func(*bpf.Flow) bool { return false }
	}
	return func(e *bpf.Flow) bool {
		return bpf.FlowFlag(e.Flags)&(bpf.FlowClosed|bpf.FlowExpired|bpf.FlowDead) != 0 && known(flow.Half{
			ID: e.Id, Reply: bpf.FlowFlag(e.Flags)&bpf.FlowOpening == 0,
			Packets: e.Packets, Bytes: e.Bytes, Retransmits: uint64(e.Retransmits),
		})
	}
}

// yieldRemoved hands over what was removed; what is not taken comes again.
func (s *Source) yieldRemoved(yield func(flow.Flow) bool) {
	s.mu.Lock()
	removed := s.removed
	s.removed, s.expected = nil, min(len(removed)+len(removed)/4, maxRemoved)
	s.mu.Unlock()
	for i, f := range removed {
		if !yield(f) {
			s.giveBack(removed[i+1:])
			return
		}
	}
}

func (s *Source) giveBack(flows []flow.Flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed = append(flows, s.removed...)
}

// lost is how many refused packets without detail there were since the last call.
func (s *Source) lost() (uint64, error) {
	losses, err := s.d.Losses()
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := losses[bpf.LossRefusals] - s.lostBase
	s.lostBase = losses[bpf.LossRefusals]
	return n, nil
}

// DrainRefusals implements flow.Source.
func (s *Source) DrainRefusals(ctx context.Context) ([]flow.Refusal, uint64, error) {
	drained, err := s.d.DrainRefusals(ctx)
	out := make([]flow.Refusal, len(drained))
	for i, r := range drained {
		k, v := r.Key, r.Value
		out[i] = flow.Refusal{
			VPC: k.Vpc, DestVPC: k.DestVpc, ENI: k.Eni, Src: bpf.Addr(k.Saddr), SrcPort: bpf.Port(v.Sport),
			Dst: bpf.Addr(k.Daddr), DstPort: bpf.Port(k.Dport), Tag: k.Tag, Reason: bpf.Reason(k.Reason).String(),
			Protocol: k.Protocol, Hook: flow.Hook(k.Hook &^ bpf.KeyIPv6), Packets: v.Packets, Bytes: v.Bytes, FirstNS: v.FirstNs,
			LastNS: v.LastNs, IPv6: k.Hook&bpf.KeyIPv6 != 0,
		}
	}
	lost, err2 := s.lost()
	return out, lost, errors.Join(err, err2)
}

// Events implements flow.Source. The channel is never closed.
func (s *Source) Events() <-chan flow.Event { return s.events }

// Signals are of targets that flows tell of while Run works: each target at most a few times a second, the rest dropped. The channel is
// never closed.
func (s *Source) Signals() <-chan Signal { return s.signals.out }

// record is the flow as package flow has it.
func (f *Flow) record() flow.Flow {
	e, r := f.Opening, f.Reply
	if e.Id == 0 { // what the answering entry tells about the other
		e = bpf.Flow{
			Id: r.Id, Key: r.ReverseKey(), Generation: r.Generation, Saddr: r.Key.Daddr, Daddr: r.Key.Saddr,
			Sport: r.Key.Dport, Dport: r.Key.Sport, Eni: r.Eni, Connection: r.Connection, Rule: r.Rule,
		}
		e.ReverseView = r.Key.View
		e.PeerVpc = e.Key.PeerVPC(r.DestVPC(), r.SourceVPC())
	}
	k := e.Key
	return flow.Flow{
		ID: e.Id, Hook: flow.Hook(e.Hook), View: flow.View(k.SideOf()), Protocol: k.Protocol, VPC: k.Vpc,
		SourceVPC: e.SourceVPC(), DestVPC: e.DestVPC(), Tag: e.Key.Tag | e.Tag | r.Key.Tag | r.Tag,
		Opening:   tuple(k.View, k.Saddr, k.Sport, k.Daddr, k.Dport),
		Rewritten: tuple(e.ReverseView, e.Saddr, e.Sport, e.Daddr, e.Dport),
		Counts: flow.Counts{
			Packets: e.Packets, Bytes: e.Bytes, ReplyPackets: r.Packets, ReplyBytes: r.Bytes,
			Retransmits: uint64(e.Retransmits), ReplyRetransmits: uint64(r.Retransmits),
		},
		Handshake: bpf.Ticks(e.Handshake), RTT: bpf.Ticks(r.Rtt) / 8,
		CreatedNS: e.CreatedNS(), LastNS: f.LastNS(), TCPFlags: e.TcpFlags, ReplyTCPFlags: r.TcpFlags,
		TCPState: f.TCPState().String(), ENI: e.Eni,
		Connection: e.Connection, Rule: e.Rule, Generation: e.Generation, ReplyHook: flow.Hook(r.Hook),
		Closed: f.Flags()&(bpf.FlowClosed|bpf.FlowExpired) != 0, Dead: f.Flags()&bpf.FlowDead != 0,
	}
}

// tuple takes the view byte for the packets' family.
func tuple(view uint8, saddr uint32, sport uint16, daddr uint32, dport uint16) flow.Tuple {
	return flow.Tuple{IPv6: view&bpf.KeyIPv6 != 0, Src: bpf.Addr(saddr), SrcPort: bpf.Port(sport), Dst: bpf.Addr(daddr), DstPort: bpf.Port(dport)}
}
