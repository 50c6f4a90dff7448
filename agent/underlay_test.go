package agent

import (
	"context"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
)

// peerAt is a view's peer that is reached at an address.
func peerAt(t *testing.T, name, underlay string) (api.ViewPeer, wire.PublicKey) {
	t.Helper()
	key, err := wire.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return api.ViewPeer{Node: "node-" + name, Name: name, Number: 2, PublicKey: key.Public().String(),
		Underlay: []string{underlay}, AllowedIPs: []netip.Prefix{netip.PrefixFrom(api.NodeAddr(7, 2), 128)}}, key.Public()
}

// roundErrors are what a round says, as status shows it.
func (b *bench) roundErrors() string {
	_, errs := b.round()
	var texts []string
	for _, e := range errs {
		texts = append(texts, e.Error())
	}
	return strings.Join(texts, "\n")
}

func TestUnderlayThatIsNone(t *testing.T) {
	b := newBench(t)
	v := testView(1)
	near, _ := peerAt(t, "b", "192.0.2.2:51820")
	v.Peers = []api.ViewPeer{near}
	b.host.SetPath(netip.MustParsePrefix("192.0.2.0/24"), host.Path{Interface: "ppp0", MTU: 1000})
	b.hear(v)
	const want = "the underlay's MTU to node b is 1000 (ppp0), less than the 1280 that every network has to carry: raise that interface's MTU"
	if got := b.roundErrors(); got != want {
		t.Errorf("got %q", got)
	}
	if b.agent.lastPlan() == nil {
		t.Error("the plan was not applied")
	}
	v = testView(3)
	far, _ := peerAt(t, "c", "198.51.100.2:51820")
	v.Peers = []api.ViewPeer{far}
	b.hear(v)
	if got := b.roundErrors(); got != "there is no route to node c at 198.51.100.2: add one" {
		t.Errorf("without a route: %q", got)
	}
}

func TestPeersBehindNATOnBothSides(t *testing.T) {
	now := time.Now()
	peer, key := peerAt(t, "b", "203.0.113.9:51820")
	for _, c := range []struct {
		name       string
		here, they bool
		heard      time.Time
		running    time.Duration
		want       bool
	}{
		{"both, never heard", true, true, time.Time{}, time.Minute, true},
		{"both, silent for long", true, true, now.Add(-time.Hour), time.Minute, true},
		{"both, and it works", true, true, now.Add(-time.Minute), time.Minute, false},
		{"both, just started", true, true, time.Time{}, time.Second, false},
		{"only here", true, false, time.Time{}, time.Minute, false},
		{"only there", false, true, time.Time{}, time.Minute, false},
	} {
		v := testView(1)
		v.Node.BehindNAT, peer.BehindNAT = c.here, c.they
		v.Peers = []api.ViewPeer{peer}
		got := unreachable(v, wire.State{Peers: []wire.PeerStatus{{Peer: wire.Peer{PublicKey: key}, LastHandshake: c.heard}}}, c.running, now)
		if (len(got) == 1) != c.want || len(got) > 1 {
			t.Errorf("%s: %q", c.name, got)
		}
		if c.want && got[0] != "this node and node b are both behind NAT, so neither reaches the other: forward a UDP port "+
			"to one of them, and join it again with --underlay-address ADDRESS:PORT" {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

// meter is a tunnel that measured something.
type meter struct {
	*wire.Mem
	mtu  map[wire.PublicKey]int
	self netip.Addr
	deaf bool
}

// PathMTUs implements wire.PathMeter.
func (m *meter) PathMTUs(_ context.Context, self netip.Addr, _ uint64) (wire.PathMTUs, error) {
	if m.deaf {
		return wire.PathMTUs{}, fs.ErrNotExist
	}
	m.self = self
	return wire.PathMTUs{Version: 1, MTU: m.mtu}, nil
}

// flutter is a tunnel that has measured something else whenever it is asked.
type flutter struct {
	*wire.Mem
	asked uint64
}

// PathMTUs implements wire.PathMeter.
func (f *flutter) PathMTUs(context.Context, netip.Addr, uint64) (wire.PathMTUs, error) {
	f.asked++
	return wire.PathMTUs{Version: f.asked}, nil
}

// A path that is another all the time wakes the loop at once, and then now and then.
func TestPathsThatFlutter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.hear(testView(1))
		f := &flutter{Mem: b.wire}
		b.agent.edges.Wire = f
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		woken := 0
		go func() {
			for ctx.Err() == nil {
				select {
				case <-b.agent.wake:
					woken++
				case <-ctx.Done():
				}
			}
		}()
		if err := b.agent.watchPaths(ctx); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if woken < 2 || woken > 21 {
			t.Errorf("woken %d times in 10 s", woken)
		}
	})
}

// TestPathMTUs: what was measured counts, also while the tunnel starts anew; before that what routes say, and no more than
// is usual.
func TestPathMTUs(t *testing.T) {
	b := newBench(t)
	near, key := peerAt(t, "b", "192.0.2.2:51820")
	near.AllowedIPs = append(near.AllowedIPs, api.OverlayPrefix(7, 9, netip.MustParsePrefix("10.0.1.5/32")))
	m := &meter{Mem: b.wire, mtu: map[wire.PublicKey]int{}}
	b.agent.edges.Wire = m
	revision := int64(0)
	check := func(step string, inForce, row uint16) {
		t.Helper()
		revision++
		v := testView(revision)
		v.Peers = []api.ViewPeer{near}
		b.hear(v)
		if got := b.roundErrors(); got != "" {
			t.Errorf("%s: %s", step, got)
		}
		got := uint16(0)
		for _, p := range b.agent.lastPlan().Paths {
			got = p.MTU
		}
		if b.agent.pathMTU[near.PublicKey] != inForce || got != row {
			t.Errorf("%s: path MTU %d, row %d, want %d and %d", step, b.agent.pathMTU[near.PublicKey], got, inForce, row)
		}
	}
	check("not measured", 1420, 0)
	if want := api.NodeAddr(7, 1); m.self != want {
		t.Errorf("the tunnel was told it is %s, want %s", m.self, want)
	}
	b.host.SetPath(netip.MustParsePrefix("192.0.2.0/24"), host.Path{Interface: "ppp0", MTU: 1400})
	check("by the route", 1328, 1328)
	m.mtu[key] = 1312
	check("measured", 1312, 1312)
	generation := b.agent.lastPlan().Generation
	m.deaf = true
	check("the tunnel is away", 1312, 1312)
	if got := b.agent.lastPlan().Generation; got != generation {
		t.Errorf("generation moved from %d to %d", generation, got)
	}
	m.deaf, m.mtu[key] = false, 1420
	check("wider", 1420, 0)
	if got := b.agent.lastPlan().Generation; got == generation {
		t.Error("live flows did not hear of it")
	}
	b.agent.cfg.TunnelMTU, b.agent.measured = 8920, nil
	m.mtu = nil
	b.host.SetPath(netip.MustParsePrefix("192.0.2.0/24"), host.Path{Interface: "eth0", MTU: 9000})
	check("jumbo, not measured", 1420, 1420)
	m.mtu = map[wire.PublicKey]int{key: 8920}
	b.host.SetPath(netip.MustParsePrefix("192.0.2.0/24"), host.Path{Interface: "eth0", MTU: 1500})
	check("a process knows better than routes", 8920, 0)
	b.agent.cfg.KernelTunnel = true // the host in memory has no such link: that part of the round fails
	b.agent.routes = underlayCheck{}
	b.roundErrors()
	if got := b.agent.pathMTU[near.PublicKey]; got != 1440 {
		t.Errorf("the kernel's tunnel, which cuts what is larger than the route: path MTU %d", got)
	}
}
