package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/failpoint"
)

// table is one map of comparable rows.
type table[K, V comparable] struct {
	name string
	m    *ebpf.Map
	// place writes rows over those that are there, for tables where the kernel would put another element in their place and give
	// the old one to the next row, while programs read it (decision 0019). nil: the kernel waits for programs by itself.
	place *placing[V]
}

// placing is how rows are written in place.
type placing[V comparable] struct {
	d     *Datapath
	table bpf.RowTable
	// same says that the new row may be written beneath programs that read the old one: it is about the same thing, so that a mixture
	// of both is what they may meet anyway between two rows of a plan. A row that is not goes, and the new one comes like others. nil:
	// nobody cares.
	same func(was, is V) bool
}

// observe reads the whole map.
func (t table[K, V]) observe(ctx context.Context) (map[K]V, error) {
	have := map[K]V{}
	var cursor ebpf.MapBatchCursor
	size := uint32(1024)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		keys, values := make([]K, size), make([]V, size)
		n, err := t.m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			have[keys[i]] = values[i]
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return have, nil
		case errors.Is(err, ebpf.ErrNotSupported):
			return t.iterate(ctx)
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", t.name, err)
		}
	}
}

// iterate is observe one by one.
func (t table[K, V]) iterate(ctx context.Context) (map[K]V, error) {
	have := map[K]V{}
	var k K
	var v V
	it := t.m.Iterate()
	for it.Next(&k, &v) {
		have[k] = v
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", t.name, err)
	}
	return have, nil
}

// change is what is to be done to a table.
type change[K, V comparable] struct {
	table[K, V]
	remove []K
	put    map[K]V
}

func (t table[K, V]) diff(ctx context.Context, want map[K]V) (change[K, V], error) {
	c := change[K, V]{table: t, put: map[K]V{}}
	have, err := t.observe(ctx)
	if err != nil {
		return c, err
	}
	for k := range have {
		if _, ok := want[k]; !ok {
			c.remove = append(c.remove, k)
		}
	}
	for k, v := range want {
		if old, ok := have[k]; !ok || old != v {
			c.put[k] = v
		}
	}
	return c, nil
}

func (c change[K, V]) size() int { return len(c.remove) + len(c.put) }

func (c change[K, V]) removeAll() error {
	for _, k := range c.remove {
		if err := c.m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from %s: %w", c.name, err)
		}
		failpoint.Here("apply.row-removed")
	}
	return nil
}

func (c change[K, V]) putAll() error {
	for k, v := range maps.All(c.put) {
		if err := c.m.Put(k, v); err != nil {
			return fmt.Errorf("write %s (%d rows, room for %d): %w", c.name, len(c.put), c.m.MaxEntries(), err)
		}
		failpoint.Here("apply.row-put")
	}
	return nil
}

// step is a change of any table.
type step interface {
	size() int
	removeAll() error
	putAll() error
}
