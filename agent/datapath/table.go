package datapath

import (
	"context"
	"errors"
	"fmt"

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
	over   map[K]V // to be written over rows that are there
	add    map[K]V
}

func (t table[K, V]) diff(ctx context.Context, want map[K]V) (change[K, V], error) {
	c := change[K, V]{table: t, over: map[K]V{}, add: map[K]V{}}
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
		old, ok := have[k]
		switch {
		case ok && old == v:
		case !ok || t.place == nil || t.place.same == nil:
			c.add[k] = v
		case t.place.same(old, v):
			c.over[k] = v
		default:
			c.remove = append(c.remove, k)
			c.add[k] = v
		}
	}
	return c, nil
}

func (c change[K, V]) size() int { return len(c.remove) + len(c.over) + len(c.add) }

func (c change[K, V]) removeAll() error {
	for _, k := range c.remove {
		if err := c.m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from %s: %w", c.name, err)
		}
		failpoint.Here("apply.row-removed")
	}
	return nil
}

func (c change[K, V]) removes() bool { return c.place != nil && len(c.remove) > 0 }

func (c change[K, V]) adds() bool { return c.place != nil && len(c.add) > 0 }

func (c change[K, V]) putAll() error {
	if err := c.putOver(); err != nil {
		return err
	}
	for k, v := range c.add {
		if err := c.m.Put(k, v); err != nil {
			return fmt.Errorf("write %s (%d rows, room for %d): %w", c.name, len(c.add), c.m.MaxEntries(), err)
		}
		failpoint.Here("apply.row-put")
	}
	return nil
}

// putOver writes rows over those that are there. One that somebody else took away meanwhile is an error; the next plan puts it.
func (c change[K, V]) putOver() error {
	if len(c.over) == 0 {
		return nil
	}
	orders := make([]bpf.RowOrder, 0, len(c.over))
	for k, v := range c.over {
		o, err := bpf.NewRowOrder(c.place.table, k, v)
		if err != nil {
			return fmt.Errorf("write %s: %w", c.name, err)
		}
		orders = append(orders, o)
	}
	if err := bpf.SetRows(c.place.d.coll.Programs[bpf.ABIProgSetRows], orders); err != nil {
		return fmt.Errorf("write %s: %w", c.name, err)
	}
	for i := range orders {
		if orders[i].Done != 1 {
			return fmt.Errorf("write %s (%d rows): a row is gone that was there", c.name, len(orders))
		}
	}
	return nil
}

// step is a change of any table.
type step interface {
	size() int
	removes() bool // rows, whose elements the kernel then has for others
	adds() bool    // rows, in elements that others may have had
	removeAll() error
	putAll() error
}
