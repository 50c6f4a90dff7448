package agent

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/agent/health"
	"github.com/culvert-net/culvert/agent/health/exchange"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
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

// report sets what this node's targets are.
func (m *memHealth) report(s ...health.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.statuses = s
}

// change adds changes of a target.
func (m *memHealth) change(k health.Key, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range n {
		i := len(m.transitions)
		m.transitions = append(m.transitions, health.Transition{Key: k, Serial: uint64(i + 1), At: time.Now().Add(time.Duration(i)),
			To: health.Healthy + health.State(i%2)})
	}
}

// say sets what is known of a target, without a word to the agent.
func (m *memHealth) say(k health.Key, s health.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.facts == nil {
		m.facts = map[health.Key]health.Fact{}
	}
	m.facts[k] = health.Fact{State: s}
}

// targetKey is a target of the group of healthView.
func targetKey(last byte) health.Key {
	return health.Key{TargetGroup: 21, Target: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, last}), 443)}
}

// healthView has an endpoint in VPC 5 to two targets of VPC 6 that node 2 hosts, and a target of another group here.
func healthView(t *testing.T, revision int64) *api.View {
	v := testView(revision)
	key, err := wire.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	prefix := func(s string) netip.Prefix { return api.OverlayPrefix(7, 6, netip.MustParsePrefix(s)) }
	v.Peers = []api.ViewPeer{{Node: "node-2", Name: "b", Number: 2, PublicKey: key.Public().String(),
		AllowedIPs: []netip.Prefix{prefix("10.0.2.0/28")}}}
	v.VPCs = append(v.VPCs, api.ViewVPC{ID: "vpc-2", Account: "2", Number: 6, CIDR: netip.MustParsePrefix("10.0.0.0/16")})
	address := netip.MustParseAddr("10.0.1.200")
	v.Addresses = append(v.Addresses, api.ViewAddress{VPC: 5, Address: address, Type: api.ENIEndpoint, ENI: "eni-ep", Number: 12,
		Groups: []string{"sg-1"}}, api.ViewAddress{VPC: 5, Address: netip.MustParseAddr("10.0.1.9"), Type: api.ENILoadBalancer, ENI: "eni-lb",
		Number: 13, Groups: []string{"sg-1"}})
	target := func(last byte) api.ViewTarget {
		return api.ViewTarget{Address: targetKey(last).Target.Addr(), Port: 443, Zone: "z"}
	}
	v.Endpoints = []api.ViewEndpoint{{ID: "vpce-1", Connection: "vpce-con-1", ConnectionNumber: 9, Service: "vpce-svc-1", VPC: 5,
		ProviderVPC: 6, Groups: []string{"sg-1"}, ENIs: []api.ViewEndpointENI{{ENI: "eni-ep", Number: 12, Address: address, Zone: "z"}},
		Listeners: []api.ViewListenerPool{{Listener: "listener-1", Protocol: api.TCP, Port: 443, IdleTimeoutSeconds: 350, TargetGroup: 21,
			Targets: []api.ViewTarget{target(5), target(6)}, TagNumbers: []api.TagNumber{{ENI: "eni-ep", Listener: "listener-1", Number: 3}},
			Health: &api.ViewPoolHealth{MinimumCount: 1, SlowStartSeconds: 30, ConnectionTermination: true, DrainingIntervalSeconds: 60}}}}}
	check := api.DefaultHealthCheck(api.TCP)
	check.Port, check.TimeoutSeconds, check.IntervalSeconds = "8080", 20, 5
	v.HealthChecks = []api.ViewHealthCheck{{TargetGroup: 22, ID: "tg-2", VPC: 5, Check: check,
		Targets: []api.ViewHealthTarget{{ENI: eni, Address: netip.MustParseAddr("10.0.1.5"), Port: 443, Source: netip.MustParseAddr("10.0.1.9")}}}}
	return v
}

// drain empties the list of what happened.
func (b *bench) drain() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	log := b.log
	b.log = nil
	return log
}

// weights are those of the one table in force, in the order of addresses.
func (b *bench) weights() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.applied == nil || len(b.applied.TargetTables) != 1 {
		return "no table"
	}
	return strings.TrimSuffix(strings.ReplaceAll(b.applied.TargetTables[0].Text, "\n", ", "), ", ")
}

func TestTablesFollowHealth(t *testing.T) {
	inLoop(t, func(t *testing.T, b *bench) {
		b.hear(healthView(t, 1))
		synctest.Wait()
		if got := b.weights(); got != "10.0.2.5:443 100, 10.0.2.6:443 100" {
			t.Fatalf("at first: %s", got)
		}
		rounds, generation := b.rounds(), b.generation
		b.drain()
		b.health.say(targetKey(5), health.Unhealthy)
		b.health.say(targetKey(6), health.Healthy)
		b.agent.Ill()
		synctest.Wait()
		if got := b.weights(); got != "10.0.2.5:443 0, 10.0.2.6:443 100" {
			t.Errorf("one is ill: %s", got)
		}
		if b.generation != generation+1 || b.rounds() != rounds {
			t.Errorf("generation %d after %d, %d rounds after %d", b.generation, generation, b.rounds(), rounds)
		}
		for _, l := range b.drain() {
			if strings.HasPrefix(l, "secure") {
				t.Errorf("a whole round was made: %s", l)
			}
		}
		b.agent.Ill() // nothing has changed
		synctest.Wait()
		if log := b.drain(); len(log) != 0 || b.generation != generation+1 {
			t.Errorf("without a change: %v, generation %d", log, b.generation)
		}
		b.agent.Wake()
		synctest.Wait()
		if b.generation != generation+1 {
			t.Errorf("a round that finds the same is generation %d", b.generation)
		}
	})
}

// A hostile node can have its own targets change as often as it likes: that costs so much and no more, and nothing is forgotten.
func TestHealthIsPaced(t *testing.T) {
	inLoop(t, func(t *testing.T, b *bench) {
		b.hear(healthView(t, 1))
		b.health.say(targetKey(6), health.Healthy)
		synctest.Wait()
		before := b.generation
		for i := range 10_000 {
			b.health.say(targetKey(5), health.Healthy+health.State(i%2))
			b.agent.Ill()
			<-time.After(time.Millisecond)
		}
		if n := b.generation - before; n < 10 || n > 40 {
			t.Errorf("%d changes of the tables in ten seconds", n)
		}
		b.health.say(targetKey(5), health.Unhealthy)
		b.agent.Ill()
		<-time.After(tablesEvery)
		synctest.Wait()
		if got := b.weights(); got != "10.0.2.5:443 0, 10.0.2.6:443 100" {
			t.Errorf("in the end: %s", got)
		}
	})
}

// What the tables cannot follow by themselves, a round does: a view that came meanwhile, or a datapath that refused.
func TestTablesLeaveTheRestToARound(t *testing.T) {
	inLoop(t, func(t *testing.T, b *bench) {
		b.hear(healthView(t, 1))
		b.health.say(targetKey(6), health.Healthy)
		synctest.Wait()
		b.mu.Lock()
		b.refuse = errors.New("full")
		b.mu.Unlock()
		b.health.say(targetKey(5), health.Unhealthy)
		b.agent.Ill()
		synctest.Wait()
		if got := strings.Join(b.agent.problems(), "; "); !strings.Contains(got, "full") {
			t.Errorf("problems %q", got)
		}
		b.mu.Lock()
		b.refuse = nil
		b.mu.Unlock()
		rounds := b.rounds()
		b.agent.Ill()
		synctest.Wait()
		if got := b.weights(); got != "10.0.2.5:443 0, 10.0.2.6:443 100" || b.rounds() != rounds+1 {
			t.Errorf("afterwards: %s, %d rounds", got, b.rounds()-rounds)
		}
	})
}

// What the view says is asked for as it stands there.
func TestViewIsChecked(t *testing.T) {
	b := newBench(t)
	v := healthView(t, 1)
	b.hear(v)
	b.mustRound()
	want := health.Check{Key: health.Key{TargetGroup: 22, Target: netip.MustParseAddrPort("10.0.1.5:443")}, Account: "1", VPC: 5, Port: 8080,
		Config: health.Config{Protocol: health.TCP, Interval: 5 * time.Second, Timeout: 5 * time.Second, HealthyThreshold: 2,
			UnhealthyThreshold: 2}}
	if got := b.health.checks; len(got) != 1 || got[0] != want {
		t.Errorf("checks %+v", got)
	}
	source := health.Source{Key: targetKey(5), Node: 2, VPC: 6, SlowStart: 30 * time.Second, End: true, EndAfter: time.Minute}
	if got := b.health.sources; len(got) != 2 || got[0] != source {
		t.Errorf("sources %+v", got)
	}
	b.mustRound() // now the tunnel has its peers
	if _, ok := b.health.received[2]; !ok {
		t.Error("nobody was told what the tunnel brought")
	}
}

// The doors of the host are open while there is somebody behind them.
func TestDoorsOfHealth(t *testing.T) {
	b := newBench(t)
	b.health.deaf = errors.New("no socket")
	b.hear(healthView(t, 1))
	b.mustRound()
	door := func() (uint16, bool) {
		l, err := b.host.HostLink()
		if err != nil {
			t.Fatal(err)
		}
		return l.NodePort, l.Probes
	}
	if port, probes := door(); port != 0 || !probes {
		t.Errorf("deaf: port %d, probes %t", port, probes)
	}
	b.health.mu.Lock()
	b.health.deaf = nil
	b.health.mu.Unlock()
	b.mustRound()
	if port, _ := door(); port != plan.NodePort {
		t.Errorf("port %d", port)
	}
	b.hear(testView(2))
	b.mustRound()
	if _, probes := door(); probes {
		t.Error("answers to probes come in though none are made")
	}
}

func TestHealthInStatus(t *testing.T) {
	b := newBench(t)
	b.hear(healthView(t, 1))
	b.mustRound()
	b.health.statuses = []health.Status{{State: health.Healthy}, {State: health.Unhealthy}}
	b.health.say(targetKey(5), health.Unhealthy)
	b.health.say(targetKey(6), health.Healthy)
	s, err := b.agent.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if g := s.Targets; g.Checked != 2 || g.Unhealthy != 1 || g.Watched != 2 || g.Down != 1 {
		t.Errorf("%+v", g)
	}
}

// No target is asked before links, programs and doors are there, and the plan in force names it.
func TestTargetsAreAskedWhenThereIsAWay(t *testing.T) {
	b := newBench(t)
	asked := func() (way bool, checks int) {
		b.health.mu.Lock()
		defer b.health.mu.Unlock()
		return b.agent.probes(5, netip.MustParseAddrPort("10.0.1.5:8080")), len(b.health.checks)
	}
	b.refuse = errors.New("full")
	b.hear(healthView(t, 1))
	for range 2 {
		if _, errs := b.round(); len(errs) == 0 {
			t.Fatal("the plan is in force")
		}
		if way, n := asked(); way || n != 0 {
			t.Errorf("without a plan: %d checks, a way %t", n, way)
		}
	}
	b.refuse = nil
	b.mustRound()
	if way, n := asked(); !way || n != 1 {
		t.Errorf("with a plan: %d checks, a way %t", n, way)
	}
	for _, at := range []string{"10.0.1.5:443", "10.0.1.6:8080"} {
		if b.agent.probes(5, netip.MustParseAddrPort(at)) || b.agent.probes(6, hosted.Target) {
			t.Errorf("%s is probed", at)
		}
	}
	other := healthView(t, 2)
	other.HealthChecks[0].Check.Port = "8081"
	b.hear(other)
	b.refuse = errors.New("full")
	b.round()
	if b.agent.probes(5, netip.MustParseAddrPort("10.0.1.5:8081")) || len(b.health.checks) != 1 || b.health.checks[0].Port != 8081 {
		t.Errorf("a plan that is not in force: %+v", b.health.checks)
	}
}

// A probe without a way to its target comes to nothing: no packet is sent, and the target is not to blame.
func TestProbeWithoutAWay(t *testing.T) {
	b := newBench(t)
	c := exchangeConfig(b.id, b.agent.probes, func() {}, func() {}, b.agent.log)
	o := c.Prober.Probe(t.Context(), health.Probe{Check: health.Check{Key: hosted, VPC: 5, Port: 8080, Config: health.Config{Timeout: time.Second}}})
	if o != (health.Outcome{Untried: true}) {
		t.Errorf("%+v", o)
	}
}
