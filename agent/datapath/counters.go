package datapath

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
)

// Counter is what one hook decided in one way for one ENI. Reason bpf.ReasonNone counts all packets that entered.
type Counter struct {
	ENI     uint32 // number, 0 unknown
	Hook    bpf.Hook
	Reason  bpf.Reason
	Packets uint64
	Bytes   uint64 // IP bytes as the workload has them
}

// Counters sums over CPUs, sorted by ENI, hook, reason. Over all ENIs they only grow, and outlive the agent; what is counted for an
// ENI becomes ENI 0's once it is gone.
func (d *Datapath) Counters() ([]Counter, error) {
	d.moving.RLock()
	defer d.moving.RUnlock()
	sums := map[bpf.CounterKey]bpf.Counter{}
	for _, m := range d.sources(mapCounters) {
		var k bpf.CounterKey
		var per []bpf.Counter
		it := m.Iterate()
		for it.Next(&k, &per) {
			sum := sums[k]
			for _, v := range per {
				sum.Packets += v.Packets
				sum.Bytes += v.Bytes
			}
			sums[k] = sum
		}
		if err := it.Err(); err != nil {
			return nil, fmt.Errorf("read %s: %w", mapCounters, err)
		}
	}
	all := make([]Counter, 0, len(sums))
	for k, v := range sums {
		all = append(all, Counter{
			ENI: k.Eni, Hook: bpf.Hook(k.Hook), Reason: bpf.Reason(k.Reason), Packets: v.Packets, Bytes: v.Bytes,
		})
	}
	slices.SortFunc(all, func(a, b Counter) int {
		return cmp.Or(cmp.Compare(a.ENI, b.ENI), cmp.Compare(a.Hook, b.Hook), cmp.Compare(a.Reason, b.Reason))
	})
	return all, nil
}

// foldCounters adds what was counted for ENIs that are no more to what is counted for none, and frees their rows: numbers are not
// given again, and a table that is full counts new ENIs' packets for none. Those of the plan before are left, a packet of theirs
// may be under way; and those whose final counts are not noted yet wherever Config.Fold keeps them.
func (d *Datapath) foldCounters(ctx context.Context, enis map[bpf.VPCAddr]bpf.ENI) error {
	if d.before != nil {
		return nil
	}
	here := map[uint32]bool{0: true}
	for _, e := range enis {
		here[e.Number] = true
	}
	former := d.former
	d.former = here
	gone, err := d.countersOf(func(eni uint32) bool { return !here[eni] && !former[eni] })
	if err != nil || len(gone) == 0 {
		return err
	}
	if d.cfg.Fold != nil {
		if gone, err = d.noted(ctx, gone); err != nil {
			return err
		}
	}
	return d.fold(gone)
}

// noted are those of the counts that are noted and did not grow after that: no packet of theirs is under way any more.
func (d *Datapath) noted(ctx context.Context, gone []Counter) (out []Counter, err error) {
	ready := map[Counter]bool{}
	for i, ok := range d.cfg.Fold(counters(gone)) {
		ready[gone[i]] = ok
	}
	if !slices.Contains(slices.Collect(maps.Values(ready)), true) {
		return nil, nil
	}
	if err := d.settle(ctx); err != nil {
		return nil, err
	}
	now, err := d.countersOf(func(eni uint32) bool { return slices.ContainsFunc(gone, func(c Counter) bool { return c.ENI == eni }) })
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(now, func(c Counter) bool { return !ready[c] }), nil
}

// countersOf reads the counters of the ENIs that take says.
func (d *Datapath) countersOf(take func(eni uint32) bool) (out []Counter, err error) {
	var k bpf.CounterKey
	var per []bpf.Counter
	it := d.coll.Maps[mapCounters].Iterate()
	for it.Next(&k, &per) {
		if !take(k.Eni) {
			continue
		}
		c := Counter{ENI: k.Eni, Hook: bpf.Hook(k.Hook), Reason: bpf.Reason(k.Reason)}
		for _, v := range per {
			c.Packets += v.Packets
			c.Bytes += v.Bytes
		}
		out = append(out, c)
	}
	return out, it.Err()
}

func (d *Datapath) fold(gone []Counter) error {
	if len(gone) == 0 {
		return nil
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("fold %s: %w", mapCounters, err)
	}
	m := d.coll.Maps[mapCounters]
	p, err := carrying{from: m, to: m, sums: 2, perCPU: true}.program()
	if err != nil {
		return err
	}
	defer p.Close()
	for _, c := range gone {
		k := bpf.CounterKey{Eni: c.ENI, Hook: uint8(c.Hook), Reason: uint16(c.Reason)}
		none := k
		none.Eni = 0
		full := false
		for cpu := range uint32(cpus) {
			result, err := carryOne(p, k, none, cpu)
			if err != nil {
				return fmt.Errorf("fold %s: %w", mapCounters, err)
			}
			full = full || result != carried
		}
		if full { // the next plan finds room
			continue
		}
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from %s: %w", mapCounters, err)
		}
	}
	return nil
}

// Losses counts what the programs could not keep, by bpf.Loss. They only grow.
func (d *Datapath) Losses() ([bpf.Losses]uint64, error) {
	var sums [bpf.Losses]uint64
	d.moving.RLock()
	defer d.moving.RUnlock()
	for _, m := range d.sources(mapLosses) {
		for i := range min(len(sums), int(m.MaxEntries())) {
			var per []uint64
			if err := m.Lookup(uint32(i), &per); err != nil {
				return sums, fmt.Errorf("read %s: %w", mapLosses, err)
			}
			for _, n := range per {
				sums[i] += n
			}
		}
	}
	return sums, nil
}
