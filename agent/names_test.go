package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/dns/zone"
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

// A name that goes from one endpoint to another is answered while the datapath changes; what has no path in both plans is not.
func TestNamesBetweenPlans(t *testing.T) {
	row := func(name, endpoint, address string) plan.Name {
		return plan.Name{VPC: 7, Name: name, Address: netip.MustParseAddr(address), Endpoint: endpoint}
	}
	const a, b = "10.0.1.1", "10.0.1.2"
	own := func(endpoint, address string) plan.Name {
		return row(endpoint+".vpce.culvert.internal", endpoint, address)
	}
	for name, c := range map[string]struct{ old, next, want []plan.Name }{
		"nothing changes": {
			[]plan.Name{own("a", a), row("x", "a", a)}, []plan.Name{own("a", a), row("x", "a", a)},
			[]plan.Name{own("a", a), row("x", "a", a)}},
		"to one that is there": {
			[]plan.Name{own("a", a), own("b", b), row("x", "a", a)}, []plan.Name{own("a", a), own("b", b), row("x", "b", b)},
			[]plan.Name{own("a", a), own("b", b), row("x", "b", b)}},
		"to one that is there, and the old one goes": {
			[]plan.Name{own("a", a), own("b", b), row("x", "a", a)}, []plan.Name{own("b", b), row("x", "b", b)},
			[]plan.Name{own("b", b), row("x", "b", b)}},
		"to one that comes": {
			[]plan.Name{own("a", a), row("x", "a", a)}, []plan.Name{own("a", a), own("b", b), row("x", "b", b)},
			[]plan.Name{own("a", a), row("x", "a", a)}},
		"to one that comes, and the old one goes": {
			[]plan.Name{own("a", a), row("x", "a", a)}, []plan.Name{own("b", b), row("x", "b", b)}, nil},
		"a name goes":  {[]plan.Name{own("a", a), row("x", "a", a)}, []plan.Name{own("a", a)}, []plan.Name{own("a", a)}},
		"a name comes": {[]plan.Name{own("a", a)}, []plan.Name{own("a", a), row("x", "a", a)}, []plan.Name{own("a", a)}},
		"an address goes": {
			[]plan.Name{own("a", a), own("a", b), row("x", "a", a), row("x", "a", b)}, []plan.Name{own("a", a), row("x", "a", a)},
			[]plan.Name{own("a", a), row("x", "a", a)}},
		"the same address in another VPC": {
			[]plan.Name{row("x", "a", a)}, []plan.Name{{VPC: 8, Name: "x", Address: netip.MustParseAddr(a), Endpoint: "a"}}, nil},
	} {
		if got := between(c.old, c.next); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// A plan's hosted zones are what the resolver answers from; what has not changed is not built again.
func TestHostedZonesAreAnswered(t *testing.T) {
	r := newResolver(&state.Identity{Mesh: 7, Number: 1}, nil, resolverEdges{}, slog.New(slog.DiscardHandler))
	r.tried <- struct{}{} // nobody runs it, so nobody is waited for
	naming := plan.Naming{
		Zones: []plan.Zone{{VPC: 1, CIDR: netip.MustParsePrefix("10.0.0.0/16")}, {VPC: 2, CIDR: netip.MustParsePrefix("10.0.0.0/16")}},
		HostedZones: []plan.HostedZone{
			{ID: "hz-1", Domain: "corp.internal", VPCs: "1", Text: "www.corp.internal 60 A 10.0.1.5\nwww.corp.internal 60 A 10.0.1.6\n"},
			{ID: "hz-2", Domain: "bad.internal", VPCs: "2", Text: "www.bad.internal x A 10.0.1.5\n"}},
	}
	r.Set(naming, nil)
	z := r.server.Zone()
	if a := z.Lookup(1, "www.corp.internal", 1); len(a.Records) != 2 || a.TTL != 60 || a.Hosted != "hz-1" {
		t.Errorf("%+v", a)
	}
	if a := z.Lookup(2, "www.corp.internal", 1); len(a.Records) != 0 {
		t.Errorf("another VPC is answered %+v", a)
	}
	if p := r.Problems(); len(p) != 1 || !strings.Contains(p[0].Error(), "hz-2") {
		t.Errorf("problems %v", p)
	}
	if r.Set(naming, nil); r.server.Zone() != z {
		t.Error("the zone was built again, and nothing has changed")
	}
	naming.HostedZones = nil
	if r.Set(naming, nil); r.server.Zone() == z {
		t.Error("the zone was not built again")
	}
}

// A plan's resolver rules are those of the VPCs that they are for. One that may ask nobody keeps the domain from other forwarders.
func TestResolverRulesAreFollowed(t *testing.T) {
	r := newResolver(&state.Identity{Mesh: 7, Number: 1}, nil, resolverEdges{}, slog.New(slog.DiscardHandler))
	r.tried <- struct{}{} // nobody runs it, so nobody is waited for
	cidr := netip.MustParsePrefix("10.0.0.0/16")
	naming := plan.Naming{
		Zones: []plan.Zone{{VPC: 1, CIDR: cidr, Forwarders: "tls://9.9.9.9"}, {VPC: 2, CIDR: cidr, Forwarders: "tls://9.9.9.9"}},
		Rules: []plan.ResolverRule{
			{ID: "rslvr-rr-1", Domain: "corp.example.com", VPCs: "1,2", Forwarders: "tls://1.1.1.1,tls://8.8.8.8"},
			{ID: "rslvr-rr-2", Domain: "example.net", VPCs: "1"},
			{ID: "rslvr-rr-3", Domain: "example.org", VPCs: "1", Forwarders: "10.99.0.1", Plain: true}}}
	r.Set(naming, nil)
	z := r.server.Zone()
	for _, c := range []struct {
		vpc        uint32
		name, rule string
		forwarders int
	}{
		{1, "www.corp.example.com", "rslvr-rr-1", 2}, {2, "corp.example.com", "rslvr-rr-1", 2}, {1, "example.com", "", 0},
		{1, "www.example.net", "rslvr-rr-2", 0}, {2, "www.example.net", "", 0}, {1, "example.org", "rslvr-rr-3", 0},
	} {
		a := z.Lookup(c.vpc, c.name, 1)
		if a.Kind != zone.Forward {
			t.Errorf("%s in VPC %d is not forwarded: %+v", c.name, c.vpc, a)
			continue
		}
		got := zone.CompiledRule{}
		if a.Rule >= 0 {
			got = z.Rules(c.vpc)[a.Rule]
		}
		if got.ID != c.rule || len(got.Forwarders) != c.forwarders {
			t.Errorf("%s in VPC %d goes by %+v, want %q with %d forwarders", c.name, c.vpc, got, c.rule, c.forwarders)
		}
	}
	if p := r.Problems(); len(p) != 1 || !strings.Contains(p[0].Error(), "rslvr-rr-3") { // not allowed on this node
		t.Errorf("problems %v", p)
	}
	naming.Rules = naming.Rules[:2:2]
	if r.Set(naming, nil); r.server.Zone() == z {
		t.Error("the zone was not built again")
	}
}

// A plan's firewalls are those of the VPCs that they decide for. Where rules are not known nothing is answered.
func TestFirewallsAreFollowed(t *testing.T) {
	r := newResolver(&state.Identity{Mesh: 7, Number: 1}, nil, resolverEdges{}, slog.New(slog.DiscardHandler))
	r.tried <- struct{}{} // nobody runs it, so nobody is waited for
	cidr := netip.MustParsePrefix("10.0.0.0/16")
	var naming plan.Naming
	for vpc := range uint32(5) {
		naming.Zones = append(naming.Zones, plan.Zone{VPC: vpc + 1, CIDR: cidr})
	}
	naming.Firewalls = []plan.Firewall{
		{ID: "a", VPCs: "1,2", Text: "10 ALLOW - - 0 ok.test a/10\n20 BLOCK OVERRIDE to.test 60 gone.test a/20\n" +
			"30 ALERT - - 0 watch.test a/30\n40 BLOCK NXDOMAIN - 0 * other/4\n"},
		{ID: "b", VPCs: "3", Closed: true}, {ID: "c", VPCs: "4", Text: "nonsense\n"}}
	r.Set(naming, nil)
	z := r.server.Zone()
	override := zone.Verdict{Action: zone.Block, Rule: "a/20", Response: zone.BlockOverride, Override: "to.test", TTL: 60}
	for _, c := range []struct {
		vpc  uint32
		name string
		want zone.Verdict
	}{
		{1, "ok.test", zone.Verdict{Rule: "a/10"}}, {2, "gone.test", override}, {1, "watch.test", zone.Verdict{Action: zone.Alert, Rule: "a/30"}},
		{2, "other.test", zone.Verdict{Action: zone.Block, Rule: "other/4", Response: zone.BlockNXDomain}},
		{3, "ok.test", zone.Verdict{Action: zone.Block, Rule: "b", Response: zone.BlockFailure}},
		{4, "ok.test", zone.Verdict{Action: zone.Block, Rule: "c", Response: zone.BlockFailure}}, {5, "other.test", zone.Verdict{}},
	} {
		if got := z.Firewall(c.vpc, c.name); got != c.want {
			t.Errorf("%s in VPC %d: %+v, want %+v", c.name, c.vpc, got, c.want)
		}
	}
	if p := r.Problems(); len(p) != 1 || !strings.Contains(p[0].Error(), "rule group c") {
		t.Errorf("problems %v", p)
	}
	naming.Firewalls = naming.Firewalls[:1:1]
	if r.Set(naming, nil); r.server.Zone() == z {
		t.Error("the zone was not built again")
	}
}
