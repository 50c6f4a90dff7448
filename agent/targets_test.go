package agent

import (
	"maps"
	"slices"
	"sync"

	"github.com/culvert-net/culvert/agent/health"
	"github.com/culvert-net/culvert/agent/health/exchange"
)

// memHealth is a Health in memory, whose facts a test sets.
type memHealth struct {
	mu          sync.Mutex
	facts       map[health.Key]health.Fact
	statuses    []health.Status
	transitions []health.Transition
	checks      []health.Check
	subscribers map[uint32][]uint32
	sources     []health.Source
	received    map[uint32]uint64
	deaf        error
}

func (m *memHealth) Set(checks []health.Check, subscribers map[uint32][]uint32, sources []health.Source) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checks, m.subscribers, m.sources = checks, subscribers, sources
}

func (m *memHealth) Facts() map[health.Key]health.Fact {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.facts)
}

func (m *memHealth) Statuses() []health.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.statuses)
}

func (m *memHealth) Transitions(after uint64, most int) []health.Transition {
	m.mu.Lock()
	defer m.mu.Unlock()
	rest := m.transitions[min(int(after), len(m.transitions)):]
	return rest[:min(most, len(rest))]
}

func (m *memHealth) Ask(uint32)                  {}
func (m *memHealth) Counters() exchange.Counters { return exchange.Counters{} }

func (m *memHealth) Received(bytes map[uint32]uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.received = bytes
}

func (m *memHealth) Listening() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.deaf
}
