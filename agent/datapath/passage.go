package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
)

// passage is the way of what is kept from one schema of the pinned maps to another: decision 0017. Tables are not kept, a
// plan fills them.
type passage struct {
	from, to uint32
	flows    mover
	refusals carrier
	events   func(raw []byte) ([]byte, error)
	// now reads flow entries of the schema before as this build has them; nil on the way back, where nobody asks.
	now func(ctx context.Context, m *ebpf.Map, visit func(*bpf.Flow)) error
}

// passages are what this build offers: from the last schema of before, and back. Counters and losses have one layout in all of
// them.
var passages = []passage{
	{
		from: 2, to: bpf.Version, flows: conversion[bpf.FlowKey, flow2, bpf.FlowKey, bpf.Flow](flow2Up),
		refusals: conversion[bpf.RefusalKey, bpf.Refusal, bpf.RefusalKey, bpf.Refusal](refusal2), events: converted(event2Up),
		now: conversion[bpf.FlowKey, flow2, bpf.FlowKey, bpf.Flow](flow2Up).flows,
	},
	{
		from: bpf.Version, to: 2, flows: conversion[bpf.FlowKey, bpf.Flow, bpf.FlowKey, flow2](flow2Down),
		refusals: conversion[bpf.RefusalKey, bpf.Refusal, bpf.RefusalKey, bpf.Refusal](refusal2), events: converted(event2Down),
	},
}

// conversion makes an entry of another schema. What the other cannot say is not ok.
type conversion[FK, FV, TK, TV comparable] func(k *FK, v *FV) (TK, TV, bool)

// mover copies a map that nobody else reads meanwhile, again and again until both have the same.
type mover interface {
	move(ctx context.Context, from, to *ebpf.Map, c *copied) error
}

// carrier hands over the entries of a map one by one.
type carrier interface {
	carry(ctx context.Context, from *ebpf.Map, one func(from, to, value any) error) error
}

// copied is what a mover remembers between two rounds: sums of the values that are in the other map, by sums of their keys. A
// sum that two keys share costs a write that was not needed.
type copied struct {
	seed maphash.Seed
	sums map[uint64]uint64
	left int // entries of the last round that the other schema has no words for
}

// piece is how many entries one system call reads or writes.
const piece = 4096

// each visits every entry of a map; visit must not keep what it gets.
func each[K, V any](ctx context.Context, m *ebpf.Map, visit func(k *K, v *V) error) error {
	keys, values := make([]K, piece), make([]V, piece)
	var cursor ebpf.MapBatchCursor
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			if err := visit(&keys[i], &values[i]); err != nil {
				return err
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", m, err)
		}
	}
}

// flows visits entries that are this build's flow entries once converted.
func (f conversion[FK, FV, TK, TV]) flows(ctx context.Context, m *ebpf.Map, visit func(*bpf.Flow)) error {
	return each(ctx, m, func(k *FK, v *FV) error {
		if _, value, ok := f(k, v); ok {
			visit(any(&value).(*bpf.Flow))
		}
		return nil
	})
}

// move implements mover. An entry that it could not write for sure it writes again in the next round.
func (f conversion[FK, FV, TK, TV]) move(ctx context.Context, from, to *ebpf.Map, c *copied) error {
	there := make(map[uint64]uint64, len(c.sums))
	b := batch[TK, TV]{m: to}
	c.left = 0
	err := each(ctx, from, func(k *FK, v *FV) error {
		key, value, ok := f(k, v)
		if !ok {
			c.left++
			return nil
		}
		at, sum := maphash.Comparable(c.seed, key), maphash.Comparable(c.seed, value)
		before, known := c.sums[at]
		there[at] = sum
		if known && before == sum {
			return nil
		}
		return b.put(key, value)
	})
	if err == nil {
		err = b.flush()
	}
	if err != nil {
		for at, sum := range there {
			c.sums[at] = ^sum
		}
		return err
	}
	gone := 0
	for at := range c.sums {
		if _, ok := there[at]; !ok {
			gone++
		}
	}
	if gone > 0 {
		if err := dropOthers[TK, TV](ctx, to, c.seed, there); err != nil {
			return err
		}
	}
	c.sums = there
	return nil
}

// batch collects entries for one map.
type batch[K, V any] struct {
	m      *ebpf.Map
	keys   []K
	values []V
}

func (b *batch[K, V]) put(k K, v V) error {
	b.keys, b.values = append(b.keys, k), append(b.values, v)
	if len(b.keys) < piece {
		return nil
	}
	return b.flush()
}

func (b *batch[K, V]) flush() error {
	if len(b.keys) == 0 {
		return nil
	}
	if _, err := b.m.BatchUpdate(b.keys, b.values, nil); err != nil {
		return fmt.Errorf("write %s (room for %d): %w", b.m, b.m.MaxEntries(), err)
	}
	b.keys, b.values = b.keys[:0], b.values[:0]
	return nil
}

// dropOthers deletes the entries whose keys are not among those that stay.
func dropOthers[K comparable, V any](ctx context.Context, m *ebpf.Map, seed maphash.Seed, stay map[uint64]uint64) error {
	var others []K
	if err := each(ctx, m, func(k *K, _ *V) error {
		if _, ok := stay[maphash.Comparable(seed, *k)]; !ok {
			others = append(others, *k)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, k := range others {
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from %s: %w", m, err)
		}
	}
	return nil
}

// carry implements carrier. What the other schema cannot say is left behind.
func (f conversion[FK, FV, TK, TV]) carry(ctx context.Context, from *ebpf.Map, one func(from, to, value any) error) error {
	return each(ctx, from, func(k *FK, v *FV) error {
		if key, value, ok := f(k, v); ok {
			return one(*k, key, value)
		}
		return nil
	})
}

// converted makes an event of another schema of one, both in bytes; nothing when the other has no words for it.
func converted[F, T any](f func(*F) (T, bool)) func([]byte) ([]byte, error) {
	return func(raw []byte) ([]byte, error) {
		var e F
		if _, err := binary.Decode(raw, binary.NativeEndian, &e); err != nil {
			return nil, fmt.Errorf("event of another schema: %w", err)
		}
		out, ok := f(&e)
		if !ok {
			return nil, nil
		}
		return binary.Append(nil, binary.NativeEndian, &out)
	}
}
