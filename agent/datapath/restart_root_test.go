package datapath

import (
	"errors"
	"maps"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/plan"
)

// innerMaps are the kernel's ids of what a map of maps holds.
func (h *meshHost) innerMaps(t *testing.T, name string) map[uint32]uint32 {
	t.Helper()
	held, err := table[uint32, uint32]{name: name, m: h.dp.coll.Maps[name]}.iterate(t.Context())
	if err != nil || len(held) == 0 {
		t.Fatalf("%s: %v, %v", name, held, err)
	}
	return held
}

// A new agent keeps the rule sets and target tables that are right, and makes those anew that are not: another's text, a table
// that is not whole, one without a mark.
func TestRestartKeepsWhatIsRight(t *testing.T) {
	m := newMesh(t)
	outers := []string{mapRuleSets, mapTargetTables}
	before := map[string]map[uint32]uint32{}
	for _, name := range outers {
		before[name] = m.a.innerMaps(t, name)
	}
	m.reopenHost(m.a)
	m.applyPlan(m.a, m.plan(m.a))
	for _, name := range outers {
		if now := m.a.innerMaps(t, name); !maps.Equal(now, before[name]) {
			t.Errorf("%s were made anew: %v, before %v", name, now, before[name])
		}
	}
	p := m.plan(m.a)
	spoil := map[string]func(words []uint64) []uint64{
		"another's": func(w []uint64) []uint64 { w[len(w)-1]++; return w },
		"half":      func(w []uint64) []uint64 { clear(w[len(w)-2:]); return w },
		"unmarked":  func(w []uint64) []uint64 { return w[:len(w)-2] },
		"empty":     func([]uint64) []uint64 { return []uint64{0} },
	}
	for name, change := range spoil {
		id := p.TargetTables[0].ID
		good := m.a.words(t, id)
		m.a.putWords(t, id, change(append([]uint64{}, good...)))
		kept := m.a.innerMaps(t, mapTargetTables)
		m.reopenHost(m.a)
		m.applyPlan(m.a, m.plan(m.a))
		now := m.a.innerMaps(t, mapTargetTables)
		for other := range kept {
			if same := now[other] == kept[other]; same != (other != id) {
				t.Errorf("%s: table %d stayed: %t", name, other, same)
			}
		}
		if got := m.a.words(t, id); len(got) != len(good) || got[len(got)-1] != good[len(good)-1] {
			t.Errorf("%s: the table was not made anew", name)
		}
	}
	id := p.RuleSets[0].ID
	var inner *ebpf.Map
	if err := m.a.dp.coll.Maps[mapRuleSets].Lookup(id, &inner); err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	if err := inner.Put(uint32(0), &bpf.RuleSet{}); err != nil {
		t.Fatal(err)
	}
	m.reopenHost(m.a)
	m.applyPlan(m.a, m.plan(m.a))
	want, err := encodeRules(p.RuleSets[0])
	if err != nil {
		t.Fatal(err)
	}
	if got, err := m.a.dp.ruleSet(id); err != nil || *got != *want {
		t.Errorf("a rule set that is not the plan's was kept: %v", err)
	}
	near, far := connect(t, m.cart, m.ledger, "10.0.1.200:443", ":8443")
	if err := errors.Join(send(near, []byte("x")), receive(far, []byte("x"))); err != nil {
		t.Error(err)
	}
}

// words are a target table as the kernel has it.
func (h *meshHost) words(t *testing.T, id uint32) []uint64 {
	t.Helper()
	var inner *ebpf.Map
	if err := h.dp.coll.Maps[mapTargetTables].Lookup(id, &inner); err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	words := make([]uint64, inner.MaxEntries())
	for i := range words {
		if err := inner.Lookup(uint32(i), &words[i]); err != nil {
			t.Fatal(err)
		}
	}
	return words
}

func (h *meshHost) putWords(t *testing.T, id uint32, words []uint64) {
	t.Helper()
	spec := h.dp.spec.Maps[mapTargetTables].InnerMap.Copy()
	spec.MaxEntries = uint32(len(words))
	inner, err := ebpf.NewMap(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	if err := errors.Join(bpf.PutTargetTable(inner, words), h.dp.coll.Maps[mapTargetTables].Put(id, uint32(inner.FD()))); err != nil {
		t.Fatal(err)
	}
}

// moved is a plan whose endpoint of the ledger leads to a port that nobody had before: the target of open flows is gone.
func (m *mesh) moved(h *meshHost) *plan.Plan {
	p := m.plan(h)
	for i := range p.TargetTables {
		p.TargetTables[i].Text = strings.Replace(p.TargetTables[i].Text, "10.0.1.5:8443", "10.0.1.5:8444", 1)
	}
	for i, g := range p.GrantTargets {
		if g.Address == m.ledger.address {
			p.GrantTargets[i].Port = 8444
		}
	}
	return p
}

// Ends of flows whose target went hear of it though they only listen, whoever was the agent when: it went while none ran, the
// one that took it away died before it told anybody, or the telling failed.
func TestTargetsGoneWithoutAnAgent(t *testing.T) {
	for name, goes := range map[string]func(*mesh, *meshHost){
		"while none ran": func(m *mesh, h *meshHost) {
			m.reopenHost(h)
			m.applyPlan(h, m.moved(h))
		},
		"killed before it told": func(m *mesh, h *meshHost) {
			p := m.moved(h)
			m.applyUntold(h, p)
			m.reopenHost(h)
			m.applyPlan(h, p)
		},
		"not told at first": func(m *mesh, h *meshHost) {
			p := m.moved(h)
			m.applyUntold(h, p)
			m.applyPlan(h, p) // nothing has changed, but somebody is owed word
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t)
			near, far := connect(t, m.cart, m.ledger, "10.0.1.200:443", ":8443")
			other, otherFar := connect(t, m.cart, m.vault, "10.0.1.201:443", ":8443")
			m.generation++
			for _, side := range []struct {
				h *meshHost
				c net.Conn
			}{{m.b, far}, {m.a, near}} {
				goes(m, side.h)
				if err := side.c.SetDeadline(time.Now().Add(patience * netlab.Slowness())); err != nil {
					t.Fatal(err)
				}
				if _, err := side.c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("a read on %s: %v, want a reset", side.c.LocalAddr(), err)
				}
			}
			if err := errors.Join(send(other, []byte("y")), receive(otherFar, []byte("y"))); err != nil {
				t.Errorf("a flow whose target is there: %v", err)
			}
		})
	}
}

// applyUntold does what Apply does until it would prompt.
func (m *mesh) applyUntold(h *meshHost, p *plan.Plan) {
	m.t.Helper()
	want, err := encode(p)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx := m.t.Context()
	sets, tables := h.dp.ruleSets(want.ruleSets), h.dp.targetTables(want.targetTables)
	steps, err := h.dp.steps(ctx, want)
	if err := errors.Join(err, sets.diff(ctx), tables.diff(ctx)); err != nil {
		m.t.Fatal(err)
	}
	h.dp.prompted = h.dp.prompted && !permissionGone(steps, tables)
	if _, err := h.dp.apply(ctx, want.config, sets, tables, steps); err != nil {
		m.t.Fatal(err)
	}
}
