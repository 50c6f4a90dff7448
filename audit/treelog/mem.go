package treelog

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/tiles"
)

// Mem is a log in memory, for tests: what a log on a disk would be, without the disk. It signs a checkpoint when it is asked for one.
type Mem struct {
	origin  string
	signers []note.Signer
	now     func() time.Time

	mu      sync.Mutex // guards what follows
	entries [][]byte
	tree    tiles.Range
	recent  *leaf.Recent
	fail    error
}

var _ Tree = (*Mem)(nil)

// NewMem makes an empty log. now may be nil; more signers cosign.
func NewMem(origin string, now func() time.Time, signers ...note.Signer) *Mem {
	if now == nil {
		now = time.Now
	}
	return &Mem{origin: origin, signers: signers, now: now, recent: leaf.NewRecent(remembered)}
}

// Fail makes all appending fail with err, until it is nil again.
func (m *Mem) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Append is [Appender.Append].
func (m *Mem) Append(ctx context.Context, l leaf.Leaf) (uint64, error) {
	return m.AppendAll(ctx, []leaf.Leaf{l})
}

// AppendAll is [Appender.AppendAll].
func (m *Mem) AppendAll(ctx context.Context, all []leaf.Leaf) (first uint64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return 0, m.fail
	}
	for i, l := range all {
		e, err := encode(&l, m.now())
		if err != nil {
			return 0, err
		}
		was, known := m.recent.Find(e.key)
		at := was.Index
		if !known || was.Same != e.same {
			at = m.tree.Size
			m.entries = append(m.entries, e.data)
			m.tree.Append(tiles.LeafHash(e.data))
			m.recent.Add(e.key, leaf.Seen{Index: at, Same: e.same})
		}
		if i == 0 {
			first = at
		}
	}
	return first, nil
}

// Leaves is [Reader.Leaves].
func (m *Mem) Leaves(ctx context.Context, from uint64, yield func(uint64, leaf.Leaf) error) error {
	m.mu.Lock()
	entries := m.entries[min(from, uint64(len(m.entries))):]
	m.mu.Unlock()
	for i, data := range entries {
		l, err := decode(data)
		if err != nil {
			return fmt.Errorf("leaf %d: %w", from+uint64(i), err)
		}
		if err := yield(from+uint64(i), l); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Size is [Reader.Size].
func (m *Mem) Size(context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tree.Size, nil
}

// Checkpoint is over all leaves.
func (m *Mem) Checkpoint(context.Context) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return tiles.Sign(m.origin, m.tree.Size, m.tree.Root(), m.signers...)
}

// Published is at once.
func (m *Mem) Published(ctx context.Context, index uint64) ([]byte, error) {
	if size, err := m.Size(ctx); err != nil || index >= size {
		return nil, fmt.Errorf("no leaf %d in a log of %d", index, size)
	}
	return m.Checkpoint(ctx)
}

// Close does nothing.
func (m *Mem) Close() error { return nil }

// Files are the log's files, by their paths below its directory, with a checkpoint over all leaves.
func (m *Mem) Files(ctx context.Context) (map[string][]byte, error) {
	checkpoint, err := m.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	files := map[string][]byte{tiles.Checkpoint: checkpoint}
	var t tiles.Tiles
	put := func(t tiles.Tile) { files[t.Path()] = t.Bytes() }
	for _, e := range m.entries {
		t.Append(tiles.LeafHash(e), put)
	}
	for _, p := range t.Partial() {
		put(p)
	}
	rest := m.entries
	for path, n := range tiles.Bundles(m.tree.Size) {
		var b []byte
		for _, e := range rest[:n] {
			b = tiles.AppendEntry(b, e)
		}
		files[path], rest = b, rest[n:]
	}
	return files, nil
}
