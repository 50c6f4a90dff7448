package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// listensOnceNamed is a resolver that begins with its first names, as the real one does.
type listensOnceNamed struct{ *bench }

// Set implements Names.
func (l listensOnceNamed) Set(naming plan.Naming, mesh []netip.Addr) {
	l.bench.Set(naming, mesh)
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
	if s := b.told(); len(s.Errors) != 1 || !strings.Contains(s.Errors[0], "in use") {
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

// What a node is not made to ask for its tenants is known from its identity, from the view and from its operator; the
// problem is the VPC's alone, and status names it.
func TestForwardersOutOfReach(t *testing.T) {
	id := &state.Identity{Mesh: 7, Number: 1, Servers: []string{"https://198.18.0.5:7443", "https://culvert.example:7443"},
		Underlay: []string{"198.18.0.6", "[2a00::6]:51820"}}
	r := newResolver(id, []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("2a00::/16")}, resolverEdges{},
		slog.New(slog.DiscardHandler))
	close(r.named) // nobody runs it here
	r.once.Do(func() {})
	v := testView(1)
	v.Peers = []api.ViewPeer{{Underlay: []string{"198.18.0.7:51820", "[2a00::7]:51820"}}}
	v.Members = []api.ViewMember{{Address: "198.18.0.8:7946"}, {Address: "elsewhere:7946"}}
	cidr := netip.MustParsePrefix("10.0.0.0/16")
	refused := []string{"198.18.0.5", "198.18.0.6", "198.18.0.7", "198.18.0.8", "tls://2a00::6", "tls://2a00::7",
		"tls://" + api.NodeAddr(7, 2).String(), "10.99.0.10:9999", "tls://9.9.9.9:22", "127.0.0.1"}
	var zones []plan.Zone
	for i, f := range refused {
		zones = append(zones, plan.Zone{VPC: uint32(i) + 1, ID: fmt.Sprintf("vpc-%d", i+1), CIDR: cidr, Forwarders: f + ",tls://9.9.9.9", Plain: true})
	}
	good := uint32(len(zones)) + 1
	zones = append(zones, plan.Zone{VPC: good, Account: "7", CIDR: cidr, Forwarders: "198.18.0.9:5353,tls://2a00::9,9.9.9.9", Plain: true})
	r.Set(plan.Naming{Zones: zones}, underlay(v))
	for i, f := range refused {
		if got := r.server.Zone().Forwarders(uint32(i) + 1); len(got) != 1 || got[0].String() != "tls://9.9.9.9:853" {
			t.Errorf("with %s the node asks %v", f, got)
		}
		if i >= len(r.Problems()) || !strings.Contains(r.Problems()[i].Error(), fmt.Sprintf("vpc-%d: forwarder", i+1)) {
			t.Errorf("%s is not among the problems %v", f, r.Problems())
		}
	}
	if got := r.server.Zone().Forwarders(good); len(got) != 3 {
		t.Errorf("allowed and asked: %v", got)
	}
	if got := r.server.Zone().Account(good); got != "7" {
		t.Errorf("the VPC counts towards account %q", got)
	}
	for i := range zones {
		zones[i].Forwarders = "127.0.0.1"
	}
	r.Set(plan.Naming{Zones: zones}, nil)
	if p := r.Problems(); len(p) != maxProblems+1 || p[maxProblems].Error() != "1 more" {
		t.Errorf("problems %v", p)
	}
	r.Set(plan.Naming{Zones: zones[:0]}, nil)
	if p := r.Problems(); len(p) != 0 {
		t.Errorf("problems that are gone: %v", p)
	}
}

// withProblems is a resolver that left something out.
type withProblems struct{ *bench }

// Problems implements Names.
func (withProblems) Problems() []error { return []error{errors.New("vpc 5: forwarder refused")} }

func TestLeftOutNamesAreErrorsOfTheNode(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.agent.edges.Names = withProblems{b}
	if _, errs := b.round(); len(errs) != 1 || errs[0].Error() != "names: vpc 5: forwarder refused" {
		t.Errorf("errors %v", errs)
	}
	if b.agent.lastPlan() == nil || len(b.names) != 1 {
		t.Error("the rest is not in force")
	}
}
