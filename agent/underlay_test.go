package agent

import (
	"net/netip"
	"strings"
	"testing"
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

func TestNarrowUnderlayIsNamed(t *testing.T) {
	b := newBench(t)
	v := testView(1)
	near, _ := peerAt(t, "b", "192.0.2.2:51820")
	v.Peers = []api.ViewPeer{near}
	b.host.SetPath(netip.MustParsePrefix("192.0.2.0/24"), host.Path{Interface: "ppp0", MTU: 1454})
	b.hear(v)
	const want = "the underlay's MTU to node b is 1454 (ppp0), which is too small for a tunnel of 1420: raise that interface's " +
		"MTU to 1480, or run culvert tunnel and culvert agent of every node with --mtu 1394"
	if got := b.roundErrors(); got != want {
		t.Errorf("got %q", got)
	}
	if b.agent.lastPlan() == nil {
		t.Error("the plan was not applied")
	}
	b.host.SetPath(netip.MustParsePrefix("192.0.2.0/24"), host.Path{Interface: "eth0", MTU: 1480})
	v = testView(2)
	v.Peers = []api.ViewPeer{near}
	b.hear(v)
	if got := b.roundErrors(); got != "" {
		t.Errorf("wide enough: %q", got)
	}
	far, _ := peerAt(t, "c", "198.51.100.2:51820")
	v = testView(3)
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
