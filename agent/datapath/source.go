package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/bpf"
)

const (
	// sweepEvery is how often the flow table is swept at most; a sweep takes 2 % of the time at most.
	sweepEvery = 2 * time.Second
	sweepShare = 50
	// maxRemoved bounds the removed flows that nobody has asked for yet.
	maxRemoved = 65_536
)

// Source is the datapath as package flow reads it. Run sweeps the flow table and reads events; without it nothing ends.
type Source struct {
	d      *Datapath
	events chan flow.Event

	mu       sync.Mutex
	removed  []flow.Flow
	partial  map[uint64]Flow // removed flows of which one entry was seen
	lostBase uint64          // refused packets without detail, as of the last drain
}

var _ flow.Source = (*Source)(nil)

// NewSource makes a source; it reads nothing yet.
func NewSource(d *Datapath) *Source {
	return &Source{d: d, events: make(chan flow.Event, 1024), partial: map[uint64]Flow{}}
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
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.read(reader)
	}()
	stop := context.AfterFunc(ctx, func() { reader.Close() })
	defer stop()
	s.sweep(ctx)
	reader.Close()
	<-done
	return nil
}

func (s *Source) sweep(ctx context.Context) {
	wait := sweepEvery
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		start := time.Now()
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.d.log.Error("sweep flows", "error", err)
		}
		wait = max(sweepEvery, sweepShare*time.Since(start))
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
	swept, err := s.d.Sweep(ctx, now)
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
	if len(s.removed) >= maxRemoved {
		return
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

func (s *Source) read(reader *ringbuf.Reader) {
	var rec ringbuf.Record
	for {
		err := reader.ReadInto(&rec)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		var e bpf.Event
		if err == nil {
			_, err = binary.Decode(rec.RawSample, binary.NativeEndian, &e)
		}
		if err != nil {
			s.d.log.Error("read event", "error", err)
			continue
		}
		s.event(&e)
	}
}

func (s *Source) event(e *bpf.Event) {
	out := flow.Event{Kind: flow.EventKind(e.Kind), FlowID: e.FlowId, TimeNS: e.TimeNs}
	if bpf.EventKind(e.Kind) == bpf.EventRemoved {
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
	half.set(&bpf.Flow{
		Id: e.FlowId, CreatedNs: e.FlowId >> 8, LastNs: e.TimeNs, Packets: e.Packets, Bytes: e.Bytes, Key: e.FlowKey(),
		Generation: e.Generation, SourceVpc: e.SourceVpc, DestVpc: e.DestVpc, Saddr: e.Saddr, Daddr: e.Daddr,
		Sport: e.Sport, Dport: e.Dport, Flags: e.Flags, TcpFlags: e.TcpFlags, Hook: e.Hook, Eni: e.Eni,
		Connection: e.Connection, Rule: e.Rule,
	})
	s.joinLocked(&half)
}

// Flows implements flow.Source.
func (s *Source) Flows(ctx context.Context, yield func(flow.Flow) bool) error {
	live, err := s.d.Flows(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	removed := s.removed
	s.removed = nil
	s.mu.Unlock()
	for i, f := range removed {
		if !yield(f) {
			s.giveBack(removed[i+1:])
			return nil
		}
	}
	for i := range live {
		if !yield(live[i].record()) {
			return nil
		}
	}
	return nil
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
			Protocol: k.Protocol, Hook: flow.Hook(k.Hook), Packets: v.Packets, Bytes: v.Bytes, FirstNS: v.FirstNs,
			LastNS: v.LastNs,
		}
	}
	lost, err2 := s.lost()
	return out, lost, errors.Join(err, err2)
}

// Events implements flow.Source. The channel is never closed.
func (s *Source) Events() <-chan flow.Event { return s.events }

// record is the flow as package flow has it.
func (f *Flow) record() flow.Flow {
	e, r := f.Opening, f.Reply
	if e.Id == 0 { // what the answering entry tells about the other
		e = bpf.Flow{
			Id: r.Id, CreatedNs: r.CreatedNs, Key: r.Reverse, Generation: r.Generation, SourceVpc: r.DestVpc,
			DestVpc: r.SourceVpc, Saddr: r.Key.Daddr, Daddr: r.Key.Saddr, Sport: r.Key.Dport, Dport: r.Key.Sport,
			Eni: r.Eni, Connection: r.Connection, Rule: r.Rule,
		}
	}
	k := e.Key
	return flow.Flow{
		ID: e.Id, Hook: flow.Hook(e.Hook), View: flow.View(k.View), Protocol: k.Protocol, VPC: k.Vpc,
		SourceVPC: e.SourceVpc, DestVPC: e.DestVpc, Tag: e.Key.Tag | e.Tag | r.Key.Tag | r.Tag, Opening: tuple(k.Saddr, k.Sport, k.Daddr, k.Dport),
		Rewritten: tuple(e.Saddr, e.Sport, e.Daddr, e.Dport),
		Counts:    flow.Counts{Packets: e.Packets, Bytes: e.Bytes, ReplyPackets: r.Packets, ReplyBytes: r.Bytes},
		CreatedNS: e.CreatedNs, LastNS: f.LastNS(), TCPFlags: e.TcpFlags | r.TcpFlags, ENI: e.Eni,
		Connection: e.Connection, Rule: e.Rule, Generation: e.Generation,
		Closed: f.Flags()&bpf.FlowClosed != 0, Dead: f.Flags()&bpf.FlowDead != 0,
	}
}

func tuple(saddr uint32, sport uint16, daddr uint32, dport uint16) flow.Tuple {
	return flow.Tuple{Src: bpf.Addr(saddr), SrcPort: bpf.Port(sport), Dst: bpf.Addr(daddr), DstPort: bpf.Port(dport)}
}
