package datapath

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
)

// Flow is both entries of one flow at one half. An entry whose Id is 0 is missing, as happens in the moment between the
// making of the two, and after a program was stopped there.
type Flow struct {
	Opening bpf.Flow
	Reply   bpf.Flow
	// Over: it was marked dead because its time was over, not because its permission is gone. Set by Sweep.
	Over bool
}

// ID is what both entries have.
func (f *Flow) ID() uint64 { return cmp.Or(f.Opening.Id, f.Reply.Id) }

// LastNS is the boot time of the newest packet of either direction.
func (f *Flow) LastNS() uint64 { return max(f.Opening.LastNs, f.Reply.LastNs) }

// Flags of both entries.
func (f *Flow) Flags() bpf.FlowFlag { return bpf.FlowFlag(f.Opening.Flags | f.Reply.Flags) }

func (f *Flow) entry() *bpf.Flow {
	if f.Opening.Id != 0 {
		return &f.Opening
	}
	return &f.Reply
}

// Flows reads the whole table, joined and sorted by id.
func (d *Datapath) Flows(ctx context.Context) ([]Flow, error) {
	entries, err := table[bpf.FlowKey, bpf.Flow]{mapFlows, d.coll.Maps[mapFlows]}.observe(ctx)
	if err != nil {
		return nil, err
	}
	byID := make(map[uint64]*Flow, len(entries)/2)
	for k, e := range entries {
		if e.Key != k || e.Id == 0 { // being written this very moment
			continue
		}
		f := byID[e.Id]
		if f == nil {
			f = &Flow{}
			byID[e.Id] = f
		}
		if bpf.FlowFlag(e.Flags)&bpf.FlowOpening != 0 {
			f.Opening = e
		} else {
			f.Reply = e
		}
	}
	flows := make([]Flow, 0, len(byID))
	for _, f := range byID {
		flows = append(flows, *f)
	}
	slices.SortFunc(flows, func(a, b Flow) int { return cmp.Compare(a.ID(), b.ID()) })
	return flows, nil
}

// marking is when a flow was first seen dead, and whether its time was over then.
type marking struct {
	since time.Duration
	over  bool
}

// Sweep removes flows whose time is over: it marks them dead, and takes out with their final counters those that have
// been dead for the grace period. now is boot time. Each removed flow is returned once. What it returns beside an error
// is valid.
func (d *Datapath) Sweep(ctx context.Context, now time.Duration) (removed []Flow, err error) {
	d.sweepMu.Lock()
	defer d.sweepMu.Unlock()
	flows, err := d.Flows(ctx)
	if err != nil {
		return nil, err
	}
	marked := make(map[uint64]marking, len(d.marked))
	var mark []bpf.FlowMark
	for i := range flows {
		f := &flows[i]
		dead := f.Flags()&bpf.FlowDead != 0
		m, seen := d.marked[f.ID()]
		over := d.over(f, now)
		switch {
		case dead && seen && now-m.since >= d.cfg.Timeouts.Grace:
			final, gone, err := d.removeFlow(f)
			if err != nil {
				return removed, err
			}
			if gone {
				final.Over = m.over
				removed = append(removed, final)
				continue
			}
			marked[f.ID()] = m
		case dead && seen:
			marked[f.ID()] = m
		case dead || over:
			marked[f.ID()] = marking{now, over}
		}
		if over || dead && !f.bothDead() {
			mark = append(mark, f.marks()...)
		}
	}
	d.marked = marked
	return removed, d.mark(mark)
}

func (f *Flow) bothDead() bool {
	dead := func(e bpf.Flow) bool { return e.Id == 0 || bpf.FlowFlag(e.Flags)&bpf.FlowDead != 0 }
	return dead(f.Opening) && dead(f.Reply)
}

// over says whether a flow's time is over.
func (d *Datapath) over(f *Flow, now time.Duration) bool {
	e := f.entry()
	limit := time.Duration(e.IdleS) * time.Second
	if limit == 0 {
		limit = 2 * time.Minute
	}
	const tcp = 6
	switch {
	case f.Flags()&bpf.FlowClosed != 0 && bpf.View(f.Opening.Key.View) == bpf.ViewProvider:
		limit = d.cfg.Timeouts.ClosedProvider
	case f.Flags()&bpf.FlowClosed != 0:
		limit = d.cfg.Timeouts.Closed
	case e.Key.Protocol == tcp && f.Reply.Packets == 0:
		limit = min(limit, d.cfg.Timeouts.Handshake)
	}
	return now-time.Duration(f.LastNS()) > limit
}

func (f *Flow) marks() []bpf.FlowMark {
	var marks []bpf.FlowMark
	for _, e := range [...]bpf.Flow{f.Opening, f.Reply} {
		if e.Id != 0 {
			marks = append(marks, bpf.FlowMark{Key: e.Key, Id: e.Id})
		}
	}
	return marks
}

// mark sets FLOW_DEAD in place, by a program that is run here.
func (d *Datapath) mark(marks []bpf.FlowMark) error {
	p := d.coll.Programs[bpf.ABIProgMarkFlows]
	for batch := range slices.Chunk(marks, bpf.MaxMarks) {
		data := make([]byte, bpf.MarkStart)
		for _, m := range batch {
			var err error
			if data, err = binary.Append(data, binary.NativeEndian, m); err != nil {
				return fmt.Errorf("mark flows: %w", err)
			}
		}
		if _, err := p.Run(&ebpf.RunOptions{Data: data}); err != nil {
			return fmt.Errorf("mark flows: %w", err)
		}
	}
	return nil
}

// removeFlow reads the final counters and deletes, the reply's entry first: as long as the opening one is there and
// dead, no packet makes the flow anew.
func (d *Datapath) removeFlow(f *Flow) (final Flow, gone bool, err error) {
	m := d.coll.Maps[mapFlows]
	read := func(e, into *bpf.Flow) error {
		if e.Id == 0 {
			return nil
		}
		var now bpf.Flow
		if err := m.Lookup(e.Key, &now); err != nil {
			if errors.Is(err, ebpf.ErrKeyNotExist) {
				return nil
			}
			return fmt.Errorf("read %s: %w", mapFlows, err)
		}
		if now.Id == e.Id {
			*into = now
		}
		return nil
	}
	if err := errors.Join(read(&f.Opening, &final.Opening), read(&f.Reply, &final.Reply)); err != nil {
		return final, false, err
	}
	if final.ID() == 0 || !final.bothDead() {
		return final, false, nil
	}
	for _, e := range [...]*bpf.Flow{&final.Reply, &final.Opening} {
		if e.Id == 0 {
			continue
		}
		if err := m.Delete(e.Key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return final, false, fmt.Errorf("delete from %s: %w", mapFlows, err)
		}
	}
	return final, true, nil
}
