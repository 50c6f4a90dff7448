package datapath

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
)

// fragmentTime is how long a first fragment counts; FRAGMENT_NS of bpf/lib/frag.h.
const fragmentTime = 30 * time.Second

// sweepFragments takes out what the programs remember of datagrams in fragments and look at no more: they only pass over it.
// A row that a packet takes up at this very moment costs that packet its datagram at worst. What accounts have of the rows
// is counted anew; a row that comes meanwhile may be missing in the count until the next sweep.
func (d *Datapath) sweepFragments(ctx context.Context, now time.Duration) error {
	counts := map[bpf.FragmentCount]uint64{}
	count := func(rows bpf.FragmentRows, account uint32) {
		counts[bpf.FragmentCount{Rows: uint32(rows), Account: account}]++
		counts[bpf.FragmentCount{Rows: uint32(rows | bpf.RowsAll)}]++
	}
	m := d.coll.Maps
	if err := errors.Join(
		sweepStale[bpf.FragmentKey](ctx, m[mapFragments], now, func(f *bpf.Fragment) uint64 { return f.SinceNs },
			func(*bpf.Fragment) {}),
		sweepStale[bpf.FragmentSource](ctx, m[mapFragmentRings], now, func(r *bpf.FragmentRing) uint64 { return r.LastNs },
			func(r *bpf.FragmentRing) { count(bpf.RowsRings, r.Account) }),
		sweepStale[bpf.FragmentPair](ctx, m[mapFragmentPairs], now, func(i *bpf.FragmentIDs) uint64 { return i.LastNs },
			func(i *bpf.FragmentIDs) {
				if i.Counts != 0 {
					count(bpf.RowsPairs, i.Account)
				}
			}),
		sweepStale[bpf.FragmentShare](ctx, m[mapFragmentShares], now, func(paid *uint64) uint64 { return *paid }, func(*uint64) {}),
	); err != nil {
		return err
	}
	change, err := placed[bpf.FragmentCount](d, mapFragmentCounts, bpf.RowFragmentCount, sameCount).diff(ctx, counts)
	return errors.Join(err, change.removeAll(), change.putAll())
}

// sweepStale deletes the rows of a map that were last used longer than fragmentTime before now, and passes the others on.
func sweepStale[K, V any](ctx context.Context, m *ebpf.Map, now time.Duration, last func(*V) uint64, stays func(*V)) error {
	const piece = 256
	keys, values := make([]K, piece), make([]V, piece)
	var cursor ebpf.MapBatchCursor
	var stale []K
	for done := false; !done; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if done = errors.Is(err, ebpf.ErrKeyNotExist); err != nil && !done {
			return fmt.Errorf("read %s: %w", m, err)
		}
		for i := range n {
			if now-time.Duration(last(&values[i])) > fragmentTime {
				stale = append(stale, keys[i])
			} else {
				stays(&values[i])
			}
		}
	}
	for _, k := range stale {
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from %s: %w", m, err)
		}
	}
	return nil
}
