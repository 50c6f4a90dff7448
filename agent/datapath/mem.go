package datapath

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/culvert-net/culvert/plan"
)

// Tables is the datapath as an agent's loop uses it. Datapath is the kernel's, Mem its twin.
type Tables interface {
	// Secure makes sure that the place's programs are attached to the interface and run before all others.
	Secure(ifindex int, place Place) error
	// Detach takes the place's programs off the interface, which may be gone already.
	Detach(ifindex int, place Place) error
	// Attached lists what is attached to interfaces that exist.
	Attached() ([]Attachment, error)
	// Apply moves the tables to the plan and reports whether anything differed.
	Apply(ctx context.Context, p *plan.Plan) (changed bool, err error)
	// Generation is the one in force; 0 when nothing passes.
	Generation() (uint32, error)
	// Counters are sorted by ENI, hook, reason.
	Counters() ([]Counter, error)
	// SetLogReady says until when the node's flow log takes records: boot time, ns. Later, ENIs whose log must have every flow have no
	// new ones (LOG_UNAVAILABLE); 0: as of now. It holds when the agent ends, so it should lie a few seconds ahead, no more.
	SetLogReady(untilNS uint64) error
}

var (
	_ Tables = (*Datapath)(nil)
	_ Tables = (*Mem)(nil)
)

// Mem is a datapath in memory: it keeps encoded tables and forwards nothing. Use NewMem.
type Mem struct {
	mu       sync.Mutex
	rows     *rows
	attached map[Attachment]bool
	counters []Counter
	logReady uint64
	fail     error
}

// NewMem makes an empty one: no state, generation 0.
func NewMem() *Mem { return &Mem{attached: map[Attachment]bool{}} }

// Fail makes further calls fail with err; nil ends that.
func (m *Mem) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// SetCounters is what Counters will answer.
func (m *Mem) SetCounters(c []Counter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counters = slices.Clone(c)
}

// Secure implements Tables.
func (m *Mem) Secure(ifindex int, place Place) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	hs, ok := hooks[place]
	if !ok {
		return fmt.Errorf("attach to interface %d: unknown place %q", ifindex, place)
	}
	for _, h := range hs {
		m.attached[Attachment{place, ifindex, h.egress(), true}] = true
	}
	return nil
}

// Detach implements Tables.
func (m *Mem) Detach(ifindex int, place Place) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range hooks[place] {
		delete(m.attached, Attachment{place, ifindex, h.egress(), true})
	}
	return m.fail
}

// Attached implements Tables.
func (m *Mem) Attached() ([]Attachment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Attachment
	for a := range m.attached {
		all = append(all, a)
	}
	slices.SortFunc(all, compareAttachments)
	return all, m.fail
}

func compareAttachments(a, b Attachment) int {
	if a.Ifindex != b.Ifindex {
		return a.Ifindex - b.Ifindex
	}
	return strings.Compare(fmt.Sprint(a.Place, a.Egress), fmt.Sprint(b.Place, b.Egress))
}

// Apply implements Tables.
func (m *Mem) Apply(ctx context.Context, p *plan.Plan) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.fail, ctx.Err()); err != nil {
		return false, err
	}
	want, err := encode(p)
	if err != nil {
		return false, fmt.Errorf("encode the plan: %w", err)
	}
	changed := m.rows == nil || !m.rows.equal(want)
	m.rows = want
	return changed, nil
}

// Generation implements Tables.
func (m *Mem) Generation() (uint32, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rows == nil {
		return 0, m.fail
	}
	return m.rows.config.Generation, m.fail
}

// Counters implements Tables.
func (m *Mem) Counters() ([]Counter, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.counters), m.fail
}

// SetLogReady implements Tables.
func (m *Mem) SetLogReady(untilNS uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		m.logReady = untilNS
	}
	return m.fail
}

// LogReady is what SetLogReady was told last.
func (m *Mem) LogReady() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.logReady
}
