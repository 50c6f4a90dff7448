package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/dns/zone"
	"github.com/culvert-net/culvert/plan"
)

// bench is an agent on a host in memory. Every edge writes what it was told to do into one list, so that order shows.
type bench struct {
	t      *testing.T
	agent  *Agent
	host   *host.Mem
	spaces *memSpaces
	health *memHealth
	wire   *wire.Mem
	priv   ed25519.PrivateKey
	id     *state.Identity
	dir    state.Dir
	cp     ControlPlane  // nil: none is called
	step   time.Duration // of the wall clock

	mu         sync.Mutex
	log        []string
	pressure   []Charge
	limited    []flow.Limited
	unwritten  error // of flow records
	generation uint32
	applied    *plan.Plan
	names      []plan.Name
	naming     plan.Naming
	refuse     error // of Apply
	deaf       error // of Listening
}

func (b *bench) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = append(b.log, fmt.Sprintf(format, args...))
}

// Secure implements Datapath.
func (b *bench) Secure(ifindex int, place Place) error {
	links, err := b.host.Workloads()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Ifindex == ifindex && l.Up {
			b.note("still up: %s", l.ENI)
		}
	}
	b.note("secure %d", place)
	return nil
}

// Repairs implements Datapath.
func (b *bench) Repairs() []string { return nil }

// Apply implements Datapath.
func (b *bench) Apply(_ context.Context, p *plan.Plan) (bool, error) {
	b.note("apply %d enis, %d services", len(p.ENIs), len(p.Services))
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		return false, b.refuse
	}
	b.generation, b.applied = p.Generation, p
	return true, nil
}

// Generation implements Datapath.
func (b *bench) Generation() (uint32, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.generation, nil
}

// Counters implements Datapath.
func (b *bench) Counters() ([]Count, error) {
	return []Count{{ENI: 11, Hook: "workload", Reason: "FORWARDED", Packets: 3}}, nil
}

// Flows implements Datapath.
func (b *bench) Flows() (int, error) { return 7, nil }

// FlowEntries implements Datapath.
func (b *bench) FlowEntries() int { return 1 << 16 }

// Pressure implements Datapath.
func (b *bench) Pressure() []Charge { return b.pressure }

// Set implements Names.
func (b *bench) Set(naming plan.Naming, _ []netip.Addr) {
	names := naming.Names
	b.note("names %d", len(names))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.names, b.naming = names, naming
}

// Zone implements Names.
func (b *bench) Zone() *zone.Zone {
	b.mu.Lock()
	defer b.mu.Unlock()
	z, _ := zoneOf(b.naming, zone.Reach{})
	return z
}

// Listening implements Names.
func (b *bench) Listening() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.deaf
}

// Problems implements Names.
func (b *bench) Problems() []error { return nil }

// SetMembers implements Members.
func (b *bench) SetMembers([]api.ViewMember, [][]byte) error { return nil }

// States implements Members.
func (b *bench) States() []local.MemberStatus { return nil }

// Plan implements Recorder.
func (b *bench) Plan(_ *api.View, p *plan.Plan) { b.note("name generation %d", p.Generation) }

// Query implements Recorder.
func (b *bench) Query(context.Context, api.FlowFilter, bool, func(*api.FlowRecord) error) error {
	return nil
}

// Pending implements Recorder.
func (b *bench) Pending() (int, uint64) { return 0, 0 }

// Limited implements Recorder.
func (b *bench) Problem() error { return b.unwritten }

func (b *bench) Limited() []flow.Limited { return b.limited }

func newBench(t *testing.T) *bench {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, host: host.NewMem(), wire: &wire.Mem{}, health: &memHealth{}, priv: priv, dir: state.Dir(t.TempDir())}
	b.spaces = &memSpaces{host: b.host, boot: "boot-1", others: map[string]bool{}, cookies: map[uint64]uint64{}}
	b.host.AddLink("culvert0")
	b.host.AddNamespace("/run/netns/cart")
	keyPEM, certPEM := selfSigned(t)
	b.id = &state.Identity{Node: "node-1", Name: "a", Number: 1, Mesh: 7, ViewKey: pub, KeyPEM: keyPEM, CertificatePEM: certPEM}
	if err := b.dir.SaveIdentity(b.id); err != nil {
		t.Fatal(err)
	}
	b.start()
	return b
}

// start is a process start: what only memory held is gone.
func (b *bench) start() {
	b.t.Helper()
	b.agent = New(Config{DataDir: string(b.dir), Log: slog.New(slog.DiscardHandler)}, Edges{
		Host: b.host, Wire: b.wire, Datapath: b, Names: b, Members: b, Recorder: b, Health: b.health, Namespaces: b.spaces,
		Dial: func(*state.Identity, func() (*tls.Certificate, error)) (ControlPlane, error) {
			return b.cp, nil
		},
		BootTime: func() time.Duration { return time.Hour },
		Now:      func() time.Time { return time.Now().Add(b.step) },
	})
	if err := b.agent.load(); err != nil {
		b.t.Fatal(err)
	}
}

// stop ends the process.
func (b *bench) stop() {
	b.t.Helper()
	if err := b.agent.release(); err != nil {
		b.t.Fatal(err)
	}
	if n := b.spaces.open.Load(); n != 0 {
		b.t.Fatalf("%d namespaces are still open", n)
	}
}

// hear puts a view into the inbox as the stream would.
func (b *bench) hear(v *api.View) {
	b.t.Helper()
	s, err := state.SignView(b.priv, v)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.agent.box.put(s, time.Now()); err != nil {
		b.t.Fatal(err)
	}
}

// round runs one and returns what happened in it.
func (b *bench) round() (log []string, errs []error) {
	b.mu.Lock()
	b.log = nil
	b.mu.Unlock()
	errs = b.agent.round(b.t.Context())
	b.agent.finishRound(errs)
	return b.log, errs
}

func (b *bench) mustRound() []string {
	b.t.Helper()
	log, errs := b.round()
	if len(errs) > 0 {
		b.t.Fatalf("round: %v", errs)
	}
	return log
}

const eni = "eni-00000000000000001"

func testView(revision int64) *api.View {
	vpc := netip.MustParsePrefix("10.0.0.0/16")
	sub := netip.MustParsePrefix("10.0.1.0/24")
	all := []api.Rule{{ID: "sgr-1", Protocol: api.All, CIDR: netip.MustParsePrefix("0.0.0.0/0")}}
	return &api.View{
		Revision: revision, IssuedAt: time.Now(), MaxAgeSeconds: 3600, Mesh: api.Mesh{Number: 7, Region: "r"},
		Node: api.ViewNode{ID: "node-1", Name: "a", Number: 1, State: api.NodeReady},
		VPCs: []api.ViewVPC{{ID: "vpc-1", Account: "1", Number: 5, CIDR: vpc, Local: true,
			Subnets: []api.ViewSubnet{{ID: "subnet-1", CIDR: sub, Zone: "z"}}}},
		ENIs: []api.ViewENI{{ID: eni, Account: "1", Number: 11, VPC: 5, VPCID: "vpc-1", Subnet: "subnet-1", CIDR: sub,
			Address: netip.MustParseAddr("10.0.1.5"), Groups: []string{"sg-1"}}},
		Addresses: []api.ViewAddress{{VPC: 5, Address: netip.MustParseAddr("10.0.1.5"), Type: api.ENIWorkload, ENI: eni,
			Number: 11, Groups: []string{"sg-1"}}},
		Groups: []api.ViewGroup{{ID: "sg-1", Number: 3, Ingress: all, Egress: all}},
		Names: []api.ViewName{{VPC: 5, Name: "ledger.pay.internal", Address: netip.MustParseAddr("10.0.1.200"),
			Endpoint: "vpce-1"}},
	}
}

func (b *bench) attach() {
	b.t.Helper()
	b.attachIn("/run/netns/cart")
}

func (b *bench) attachIn(path string) {
	b.t.Helper()
	ns, err := b.spaces.Open(path)
	if err != nil {
		b.t.Fatal(err)
	}
	att := plan.Attachment{ENI: eni, Netns: path, Interface: "eni0", Namespace: ns.Namespace}
	if _, _, err := b.agent.setAttachment(att, ns); err != nil {
		b.t.Fatal(err)
	}
}

func index(log []string, prefix string) int {
	return slices.IndexFunc(log, func(s string) bool { return strings.HasPrefix(s, prefix) })
}

func TestNothingOpensBeforeItIsSecured(t *testing.T) {
	b := newBench(t)
	if _, errs := b.round(); len(errs) == 0 {
		t.Fatal("a round without a view must say so")
	}
	b.hear(testView(1))
	b.attach()
	log := b.mustRound()
	if i := index(log, "still up"); i >= 0 {
		t.Errorf("an interface was up before its program was there: %v", log)
	}
	if s, a, n := index(log, "secure 1"), index(log, "apply 1"), index(log, "names 1"); s < 0 || a < s || n < a {
		t.Errorf("order is %v, want the program, then the tables, then the names", log)
	}
	ws, err := b.host.Workloads()
	if err != nil || len(ws) != 1 || !ws[0].Up || !ws[0].Closed {
		t.Errorf("workloads %+v, %v", ws, err)
	}
	if b.generation == 0 {
		t.Error("the datapath is still closed")
	}
}

// What has the tunnel's name, but cannot be it, is another's: no program of ours cuts it off.
func TestAnothersLinkIsNotSecured(t *testing.T) {
	b := newBench(t)
	b.host.DeleteLink(host.DefaultTunnel)
	b.host.AddBridge(host.DefaultTunnel)
	for _, hear := range []func(){func() {}, func() { b.hear(testView(1)) }} {
		hear()
		log, errs := b.round()
		l, err := b.host.Link(host.DefaultTunnel)
		if err != nil || l.Closed || l.Up || len(errs) == 0 || index(log, fmt.Sprintf("secure %d", AtTunnel)) >= 0 {
			t.Errorf("%+v, %v: %v, %v", l, err, log, errs)
		}
	}
}

func TestNamesAreWithdrawnFirst(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.attach()
	b.mustRound()
	gone := testView(2)
	gone.Names = nil
	b.hear(gone)
	log := b.mustRound()
	if n, a := index(log, "names 0"), index(log, "apply"); n < 0 || n > a {
		t.Errorf("order is %v, want the name gone before the tables change", log)
	}
}

func TestNamesWaitForTheTables(t *testing.T) {
	b := newBench(t)
	b.refuse = errors.New("map is full")
	b.hear(testView(1))
	log, errs := b.round()
	if len(errs) == 0 || index(log, "names 1") >= 0 || b.agent.lastPlan() != nil {
		t.Errorf("after a failed apply: %v, %v: the name must not resolve, the plan is not in force", log, errs)
	}
}

// Records of a new generation's first flow must find the names of its numbers.
func TestNumbersAreNamedBeforeTheyAreInForce(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	log := b.mustRound()
	if n, a := index(log, "name generation 1"), index(log, "apply"); n < 0 || n > a {
		t.Errorf("order is %v, want the names of the numbers before the tables", log)
	}
	if log := b.mustRound(); index(log, "name generation") >= 0 {
		t.Errorf("nothing changed, and yet: %v", log)
	}
	b.attach()
	if log := b.mustRound(); index(log, "name generation 2") < 0 {
		t.Errorf("a new generation: %v", log)
	}
}

func TestGenerationMovesOnlyWhenRulesDo(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.attach()
	b.mustRound()
	first := b.generation
	b.hear(testView(2))
	b.mustRound()
	if b.generation != first {
		t.Errorf("same rules: generation %d → %d", first, b.generation)
	}
	closed := testView(3)
	closed.Groups[0].Ingress = nil
	b.hear(closed)
	b.mustRound()
	if b.generation != first+1 {
		t.Errorf("other rules: generation %d → %d", first, b.generation)
	}
}

// A plan that was applied in part may have let flows in that the one before it, in force again, refuses.
func TestGenerationMovesAfterAFailure(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.attach()
	b.mustRound()
	first := b.generation
	other := testView(2)
	other.Groups[0].Ingress = nil
	b.hear(other)
	b.refuse = errors.New("map is full")
	if _, errs := b.round(); len(errs) == 0 {
		t.Fatal("the plan was applied")
	}
	b.refuse = nil
	b.hear(testView(3))
	b.mustRound()
	if b.generation != first+1 {
		t.Errorf("the first plan again: generation %d → %d", first, b.generation)
	}
	b.mustRound()
	if b.generation != first+1 {
		t.Errorf("nothing changed: generation %d → %d", first+1, b.generation)
	}
}

func TestRevokedNodeCloses(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.attach()
	b.mustRound()
	revoked := testView(2)
	revoked.Node.State = api.NodeRevoked
	b.hear(revoked)
	if _, errs := b.round(); len(errs) > 0 {
		t.Fatal(errs)
	}
	if b.generation != 0 || len(b.names) != 0 {
		t.Errorf("generation %d, names %v after revocation", b.generation, b.names)
	}
}

func TestUnusableViewLeavesEverything(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.attach()
	b.mustRound()
	before := b.applied
	bad := testView(2)
	bad.ENIs[0].Number = 0
	b.hear(bad)
	log, errs := b.round()
	log = slices.DeleteFunc(log, func(s string) bool { // what is there is secured all the same
		return strings.HasPrefix(s, "secure ") || strings.HasPrefix(s, "still up: ")
	})
	if len(errs) != 1 || len(log) != 0 || b.applied != before {
		t.Errorf("a view that does not compile: %v, %v", log, errs)
	}
}

func TestWorksFromDiskAfterARestart(t *testing.T) {
	b := newBench(t)
	b.hear(testView(4))
	b.attach()
	b.mustRound()
	b.start()
	log := b.mustRound()
	if index(log, "apply 1") < 0 || b.agent.lastPlan().Revision != 4 {
		t.Errorf("from disk: %v", log)
	}
	s, err := state.SignView(b.priv, testView(3))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.agent.box.put(s, time.Now()); !errors.Is(err, state.ErrOlderView) {
		t.Errorf("a replayed view: %v", err)
	}
}

func TestTunnelThatRestartedIsFedAgain(t *testing.T) {
	b := newBench(t)
	v := testView(1)
	peerKey, err := wire.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	v.Peers = []api.ViewPeer{{Node: "node-2", Name: "b", Number: 2, PublicKey: peerKey.Public().String(),
		Underlay: []string{"192.0.2.2:51820"}, AllowedIPs: []netip.Prefix{netip.PrefixFrom(api.NodeAddr(7, 2), 128)}}}
	b.hear(v)
	b.mustRound()
	b.wire.Restart()
	b.mustRound()
	got, err := b.wire.Observe(t.Context())
	if err != nil || len(got.Peers) != 1 || got.Peers[0].PublicKey != peerKey.Public() || b.wire.Kicks() != 2 {
		t.Errorf("after a restart: %+v, kicks %d, %v", got, b.wire.Kicks(), err)
	}
}

// Whichever of two nodes hears of the other last starts the session: the first one's initiation was lost on it.
func TestNewPeersAreGreetedAtOnce(t *testing.T) {
	b := newBench(t)
	v := testView(1)
	for i := range 2 {
		key, err := wire.NewPrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		v.Revision++
		v.Peers = append(v.Peers, api.ViewPeer{Node: fmt.Sprintf("node-%d", 2+i), Name: "b", Number: uint32(2 + i),
			PublicKey: key.Public().String(), Underlay: []string{fmt.Sprintf("192.0.2.%d:51820", 2+i)},
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(api.NodeAddr(7, uint32(2+i)), 128)}})
		b.hear(v)
		b.mustRound()
		b.mustRound() // nothing new
		if got := b.wire.Kicks(); got != i+1 {
			t.Errorf("with %d peers: %d kicks", i+1, got)
		}
	}
}

func TestAttachIsRefusedWithoutTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.hear(testView(1))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.agent.loop(ctx) }()
		for _, c := range []struct {
			name  string
			req   local.AttachRequest
			field string
		}{
			{"no ENI", local.AttachRequest{Netns: "/run/netns/cart"}, "eniId"},
			{"relative path", local.AttachRequest{ENI: eni, Netns: "cart"}, "netns"},
			{"interface name", local.AttachRequest{ENI: eni, Netns: "/run/netns/cart", Interface: "a/b"}, "interface"},
			{"not of this node", local.AttachRequest{ENI: "eni-9", Netns: "/run/netns/cart"}, "eniId"},
			{"no such namespace", local.AttachRequest{ENI: eni, Netns: "/run/netns/none"}, "netns"},
		} {
			_, err := b.agent.Attach(ctx, c.req)
			var e *api.Error
			if !errors.As(err, &e) || e.Field != c.field || e.Remedy == "" {
				t.Errorf("%s: %v", c.name, err)
			}
			if as, err := b.dir.LoadAttachments(); err != nil || len(as) != 0 {
				t.Errorf("%s: left %v, %v", c.name, as, err)
			}
		}
		resp, err := b.agent.Attach(ctx, local.AttachRequest{ENI: eni, Netns: "/run/netns/cart"})
		if err != nil || resp.Address != netip.MustParseAddr("10.0.1.5") || resp.Interface != "eni0" {
			t.Errorf("attach: %+v, %v", resp, err)
		}
		if err := b.agent.Detach(ctx, local.DetachRequest{ENI: eni}); err != nil {
			t.Error(err)
		}
		if ws, err := b.host.Workloads(); err != nil || len(ws) != 0 {
			t.Errorf("after detach: %v, %v", ws, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Who attaches what was made while the node did not hear from the server waits until it does, for a while, and is told which of both
// it was.
func TestAttachWaitsForTheServer(t *testing.T) {
	for _, c := range []struct {
		away time.Duration // until the server is heard
		eni  string
		want api.ErrorCode // "": it is attached
		took time.Duration // at least; at most a tick more
	}{
		{attachWait/2 - 3*time.Second, eni, "", attachWait/2 - 3*time.Second},
		{attachWait/2 - 3*time.Second, "eni-9", api.CodeENINotFound, attachWait/2 - 3*time.Second},
		{0, "eni-9", api.CodeENINotFound, attachWait / 4},
		{time.Hour, eni, api.CodeUnavailable, attachWait / 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			before := testView(1)
			before.ENIs = nil
			b.hear(before)
			if c.away > 0 {
				b.agent.box.lost(errors.New("connection refused"))
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- b.agent.loop(ctx) }()
			heard := time.AfterFunc(c.away, func() { b.hear(testView(2)) })
			defer heard.Stop()
			began := time.Now()
			_, err := b.agent.Attach(ctx, local.AttachRequest{ENI: c.eni, Netns: "/run/netns/cart"})
			var e *api.Error
			if errors.As(err, &e); c.want == "" && err != nil || c.want != "" && (e == nil || e.Code != c.want || e.Remedy == "") {
				t.Errorf("%s, away for %s: %v, want %q", c.eni, c.away, err, c.want)
			}
			if took := time.Since(began); took < c.took || took > c.took+2*b.agent.cfg.Tick {
				t.Errorf("%s, away for %s: it took %s, want %s", c.eni, c.away, took, c.took)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestExplainNamesTheStage(t *testing.T) {
	b := newBench(t)
	b.hear(testView(1))
	b.attach()
	b.mustRound()
	for _, c := range []struct {
		to     string
		port   uint16
		stage  string
		reason string
	}{
		{"10.0.9.9", 80, "destination", "NO_DESTINATION"},
		{"nowhere.example", 80, "name", "NXDOMAIN"},
		{"10.0.0.2", 53, "resolver", ""},
		{"10.0.0.2", 80, "resolver", "HOST_NOT_ADMITTED"},
		{"10.0.1.5", 80, "ingress", ""},
	} {
		x, err := b.agent.Explain(t.Context(), local.ExplainRequest{From: eni, To: c.to, Port: c.port})
		if err != nil {
			t.Fatal(err)
		}
		last := x.Stages[len(x.Stages)-1]
		if last.Name != c.stage || last.Reason != c.reason || x.Allowed != (c.reason == "") {
			t.Errorf("%s:%d: %+v", c.to, c.port, x)
		}
		if !x.Allowed && last.Remedy == "" {
			t.Errorf("%s:%d: no remedy", c.to, c.port)
		}
	}
}
