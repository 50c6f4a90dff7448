package datapath

import (
	"cmp"
	"fmt"
	"slices"

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

// Counters sums over CPUs, sorted by ENI, hook, reason. They only grow, and outlive the agent.
func (d *Datapath) Counters() ([]Counter, error) {
	var all []Counter
	var k bpf.CounterKey
	var per []bpf.Counter
	it := d.coll.Maps[mapCounters].Iterate()
	for it.Next(&k, &per) {
		c := Counter{ENI: k.Eni, Hook: bpf.Hook(k.Hook), Reason: bpf.Reason(k.Reason)}
		for _, v := range per {
			c.Packets += v.Packets
			c.Bytes += v.Bytes
		}
		all = append(all, c)
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", mapCounters, err)
	}
	slices.SortFunc(all, func(a, b Counter) int {
		return cmp.Or(cmp.Compare(a.ENI, b.ENI), cmp.Compare(a.Hook, b.Hook), cmp.Compare(a.Reason, b.Reason))
	})
	return all, nil
}

// Losses counts what the programs could not keep, by bpf.Loss. They only grow.
func (d *Datapath) Losses() ([bpf.Losses]uint64, error) {
	var sums [bpf.Losses]uint64
	for i := range sums {
		var per []uint64
		if err := d.coll.Maps[mapLosses].Lookup(uint32(i), &per); err != nil {
			return sums, fmt.Errorf("read %s: %w", mapLosses, err)
		}
		for _, n := range per {
			sums[i] += n
		}
	}
	return sums, nil
}
