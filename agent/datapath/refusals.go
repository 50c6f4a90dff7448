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

// Refusal is one kind of refused packets since the last drain.
type Refusal struct {
	Key   bpf.RefusalKey
	Value bpf.Refusal
}

// DrainRefusals takes the refusals out of the kernel, sorted by the time of the first. What it returns beside an error is
// valid and will not come again.
func (d *Datapath) DrainRefusals(ctx context.Context) ([]Refusal, error) {
	var all []Refusal
	var cursor ebpf.MapBatchCursor
	m := d.coll.Maps[mapRefusals]
	sorted := func(err error) ([]Refusal, error) {
		slices.SortFunc(all, func(a, b Refusal) int { return cmp.Compare(a.Value.FirstNs, b.Value.FirstNs) })
		return all, err
	}
	keys, values := make([]bpf.RefusalKey, 512), make([]bpf.Refusal, 512)
	for {
		if err := ctx.Err(); err != nil {
			return sorted(err)
		}
		n, err := m.BatchLookupAndDelete(&cursor, keys, values, nil)
		for i := range n {
			all = append(all, Refusal{keys[i], values[i]})
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return sorted(nil)
		}
		if err != nil {
			return sorted(fmt.Errorf("drain %s: %w", mapRefusals, err))
		}
	}
}
