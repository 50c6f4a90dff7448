package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/plan"
)

// listensOnceNamed is a resolver that begins with its first names, as the real one does.
type listensOnceNamed struct{ *bench }

// Set implements Names.
func (l listensOnceNamed) Set(zones []plan.Zone, names []plan.Name) {
	l.bench.Set(zones, names)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deaf = nil
}

// The mesh reaches the resolver's port as long as the resolver has it. Without it the door is closed, and the node says why.
func TestQueriesReachNobodyButTheResolver(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	open := func() uint16 {
		t.Helper()
		h, err := b.host.HostLink()
		if err != nil || !h.Host.Up || !h.Host.Closed {
			t.Fatalf("host link %+v, %v", h, err)
		}
		return h.ResolverPort
	}
	b.deaf = errors.New("not yet")
	b.agent.edges.Names = listensOnceNamed{b}
	b.mustRound()
	if open() != resolverPort {
		t.Errorf("after the first round port %d is open, want %d", open(), resolverPort)
	}

	b.agent.edges.Names = b
	b.deaf = errors.New("address already in use")
	for range 2 {
		_, errs := b.round()
		if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), "resolver: address already in use") {
			t.Errorf("errors %v", errs)
		}
		if open() != 0 {
			t.Errorf("port %d is open, and nobody of ours listens", open())
		}
	}
	if s, err := b.agent.Status(t.Context()); err != nil || len(s.Errors) == 0 || !strings.Contains(s.Errors[0], "in use") {
		t.Errorf("status %v, %v", s.Errors, err)
	}
	if s := b.agent.nodeStatus(); len(s.Errors) != 1 || !strings.Contains(s.Errors[0], "in use") {
		t.Errorf("what the server is told: %v", s.Errors)
	}

	b.deaf = nil
	b.mustRound()
	if open() != resolverPort {
		t.Errorf("port %d is open, want %d", open(), resolverPort)
	}
	b.refuse = errors.New("no room")
	b.deaf = errors.New("gone")
	if _, errs := b.round(); len(errs) != 2 || open() != 0 {
		t.Errorf("while the datapath fails, too: %v, port %d", errs, open())
	}
}
