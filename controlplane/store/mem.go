package store

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Mem is the in-memory twin of Etcd, for tests. What it holds survives Run, so that restarts can be tested with it.
type Mem struct {
	state
	txn  sync.Mutex // one transaction at a time
	open atomic.Bool
	kvMu sync.Mutex
	kv   map[string][]byte
	rev  int64
	// Filled is what Fill answers, in percent.
	Filled atomic.Int64
	// Freed, in percent, is what MakeRoom takes off that.
	Freed atomic.Int64
}

// NewMem makes an empty store.
func NewMem() *Mem {
	m := &Mem{kv: map[string][]byte{}}
	m.init()
	return m
}

// Run implements Store.
func (m *Mem) Run(ctx context.Context, ready func()) error {
	m.open.Store(true)
	defer m.open.Store(false)
	ready()
	<-ctx.Done()
	return nil
}

// Txn implements Store.
func (m *Mem) Txn(ctx context.Context, f func(*Tx) error) (int64, error) {
	if !m.open.Load() {
		return 0, ErrNotReady
	}
	m.txn.Lock()
	defer m.txn.Unlock()
	snap, head, _ := m.current()
	tx := newTx(snap, &head, func(key string) ([]byte, error) { return m.Get(ctx, key) })
	if err := f(tx); err != nil {
		return 0, err
	}
	writes, err := tx.writes()
	if err != nil || writes == nil {
		return snap.Revision, err
	}
	m.kvMu.Lock()
	m.rev++
	rev := m.rev
	for _, w := range writes {
		if w.value == nil {
			delete(m.kv, w.key)
		} else {
			m.kv[w.key] = w.value
		}
	}
	m.kvMu.Unlock()
	if err := m.apply(rev, writes); err != nil {
		return 0, err
	}
	tx.committed(rev)
	return rev, nil
}

// Get implements Store.
func (m *Mem) Get(_ context.Context, key string) ([]byte, error) {
	m.kvMu.Lock()
	defer m.kvMu.Unlock()
	return bytes.Clone(m.kv[key]), nil
}

// Put implements Store.
func (m *Mem) Put(_ context.Context, key string, value []byte) error {
	m.kvMu.Lock()
	defer m.kvMu.Unlock()
	m.kv[key] = bytes.Clone(value)
	return nil
}

// Delete implements Store.
func (m *Mem) Delete(_ context.Context, key string) error {
	m.kvMu.Lock()
	defer m.kvMu.Unlock()
	delete(m.kv, key)
	return nil
}

// List implements Store.
func (m *Mem) List(_ context.Context, prefix, after string, limit int) ([]KV, error) {
	m.kvMu.Lock()
	defer m.kvMu.Unlock()
	var out []KV
	for _, key := range slices.Sorted(maps.Keys(m.kv)) {
		if len(key) > len(prefix) && key[:len(prefix)] == prefix && key > after && len(out) < limit {
			out = append(out, KV{key, bytes.Clone(m.kv[key])})
		}
	}
	return out, nil
}

// Fill implements Store.
func (m *Mem) Fill(context.Context) (float64, error) { return float64(m.Filled.Load()) / 100, nil }

// MakeRoom implements Store.
func (m *Mem) MakeRoom(context.Context) error {
	m.Filled.Add(-m.Freed.Load())
	return nil
}

var _ Store = (*Mem)(nil)
