package datapath

import (
	"context"
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
