package datapath

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
)

// Flow is both entries of one flow at one half. An entry whose Id is 0 is missing, as happens in the moment between the
// making of the two, and after a program was stopped there.
type Flow struct {
	Opening bpf.Flow
	Reply   bpf.Flow
	// Half: a packet removed the other entry at the same moment as Sweep this one, and an event tells its counters.
	Half bool
}

// ID is what both entries have.
func (f *Flow) ID() uint64 { return cmp.Or(f.Opening.Id, f.Reply.Id) }

// LastNS is the boot time of the newest packet of either direction.
func (f *Flow) LastNS() uint64 { return max(f.Opening.LastNs, f.Reply.LastNs) }

// Flags of both entries.
func (f *Flow) Flags() bpf.FlowFlag { return bpf.FlowFlag(f.Opening.Flags | f.Reply.Flags) }

// TCPState is how far the connection is; it only grows.
func (f *Flow) TCPState() bpf.TCPState {
	return bpf.TCPState(max(f.Opening.TcpState, f.Reply.TcpState))
}

func (f *Flow) entry() *bpf.Flow {
	if f.Opening.Id != 0 {
		return &f.Opening
	}
	return &f.Reply
}

// probe says whether the node itself opened the flow, to see whether a target is alive.
func (f *Flow) probe() bool {
	return f.Opening.Key.SideOf() == bpf.ViewHost || bpf.View(f.Reply.ReverseView&^bpf.KeyIPv6) == bpf.ViewHost
}

// set puts an entry where it belongs.
func (f *Flow) set(e *bpf.Flow) {
	if bpf.FlowFlag(e.Flags)&bpf.FlowOpening != 0 {
		f.Opening = *e
	} else {
		f.Reply = *e
	}
}

// Flows reads the whole table, joined and sorted by id.
func (d *Datapath) Flows(ctx context.Context) ([]Flow, error) {
	expect := int(d.flows.Load()) // spares growing
	flows, at := make([]Flow, 0, expect), make(map[uint64]int, expect)
	if err := d.eachFlow(ctx, func(e *bpf.Flow) {
		i, ok := at[e.Id]
		if !ok {
			i = len(flows)
			at[e.Id] = i
			flows = append(flows, Flow{})
		}
		flows[i].set(e)
	}); err != nil {
		return nil, err
	}
	slices.SortFunc(flows, func(a, b Flow) int { return cmp.Compare(a.ID(), b.ID()) })
	return flows, nil
}

// joined visits the table, both entries of a flow together, but for flows of whose entries skip says true; visit must not keep what it gets.
// What is without its pair comes last.
func (d *Datapath) joined(ctx context.Context, skip func(e *bpf.Flow) bool, visit func(f *Flow)) error {
	half, skipped := map[uint64]bpf.Flow{}, false
	err := d.eachFlow(ctx, func(e *bpf.Flow) {
		if skip(e) {
			skipped = true
			return
		}
		pair, met := half[e.Id]
		if !met {
			half[e.Id] = *e
			return
		}
		delete(half, e.Id)
		var f Flow
		f.set(&pair)
		f.set(e)
		visit(&f)
	})
	if err != nil {
		return err
	}
	for _, e := range half {
		var f Flow
		f.set(&e)
		if skipped { // the pair, perhaps
			if err := d.complete(&f, &e); err != nil {
				return err
			}
		}
		visit(&f)
	}
	return nil
}

// complete looks up the other entry of a flow, if there is one.
func (d *Datapath) complete(f *Flow, e *bpf.Flow) error {
	var pair bpf.Flow
	reverse := e.ReverseKey()
	err := d.coll.Maps[mapFlows].Lookup(reverse, &pair)
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read %s: %w", mapFlows, err)
	}
	if pair.Id == e.Id && pair.Key == reverse {
		f.set(&pair)
	}
	return nil
}
