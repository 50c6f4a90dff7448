package flow

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/culvert-net/culvert/audit/seal"
)

// Mem is a [Source] in memory. Use [NewMem].
type Mem struct {
	mu       sync.Mutex
	flows    map[uint64]Flow
	removed  []Flow
	refusals []Refusal
	counters map[rowKey]seal.Count
	lost     uint64
	fail     error
	events   chan Event
}

var (
	_ Source     = (*Mem)(nil)
	_ Accountant = (*Mem)(nil)
)

// NewMem makes an empty source.
func NewMem() *Mem {
	return &Mem{flows: map[uint64]Flow{}, counters: map[rowKey]seal.Count{}, events: make(chan Event, 1024)}
}

// Set puts a flow into the table or replaces it, without an event.
func (m *Mem) Set(f Flow) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flows[f.ID] = f
}

// Remove takes a flow out of the table; its counters are handed over once more, as final.
func (m *Mem) Remove(id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f, ok := m.flows[id]; ok {
		f.Removed = true
		m.removed = append(m.removed, f)
		delete(m.flows, id)
	}
}

// Forget takes a flow out of the table without a word, as the datapath does when a closed port pair is used anew.
func (m *Mem) Forget(id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.flows, id)
}

// Refuse adds refusals for the next drain; lost counts packets whose detail is gone.
func (m *Mem) Refuse(lost uint64, rs ...Refusal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusals = append(m.refusals, rs...)
	m.lost += lost
}

// Count adds to a counter.
func (m *Mem) Count(c Counter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counters[c.key()] = m.counters[c.key()].Plus(c.count())
}

// Fold counts a row for no interface, as the datapath does where one is gone.
func (m *Mem) Fold(eni uint32, hook, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, none := rowKey{eni, hook, reason}, rowKey{0, hook, reason}
	m.counters[none] = m.counters[none].Plus(m.counters[k])
	delete(m.counters, k)
}

// Counters are sorted by nothing.
func (m *Mem) Counters() (all []Counter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, n := range m.counters {
		all = append(all, Counter{k.ENI, k.Hook, k.Reason, n.Packets, n.Bytes})
	}
	return all
}

// Account implements [Accountant].
func (m *Mem) Account(ctx context.Context, yield func(Flow) bool) (*Account, error) {
	a := &Account{Before: m.Counters()}
	err := m.Flows(ctx, yield)
	if err != nil {
		return nil, err
	}
	if a.Refusals, a.Lost, err = m.DrainRefusals(ctx); err != nil {
		return nil, err
	}
	a.After = append([]Counter{}, m.Counters()...)
	return a, nil
}

// Emit sends an event, or loses it when the channel is full, as the kernel does.
func (m *Mem) Emit(e Event) {
	select {
	case m.events <- e:
	default:
	}
}

// Fail makes further calls fail with err; nil ends that.
func (m *Mem) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Flows implements [Source].
func (m *Mem) Flows(ctx context.Context, yield func(Flow) bool) error {
	m.mu.Lock()
	if err := errors.Join(m.fail, ctx.Err()); err != nil {
		m.mu.Unlock()
		return err
	}
	var all []Flow
	for _, id := range slices.Sorted(maps.Keys(m.flows)) {
		all = append(all, m.flows[id])
	}
	all = append(all, m.removed...)
	m.removed = nil
	m.mu.Unlock()
	for _, f := range all {
		if !yield(f) {
			return nil
		}
	}
	return nil
}

// DrainRefusals implements [Source].
func (m *Mem) DrainRefusals(ctx context.Context) ([]Refusal, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.fail, ctx.Err()); err != nil {
		return nil, 0, err
	}
	rs, lost := m.refusals, m.lost
	m.refusals, m.lost = nil, 0
	return rs, lost, nil
}

// Events implements [Source].
func (m *Mem) Events() <-chan Event { return m.events }
