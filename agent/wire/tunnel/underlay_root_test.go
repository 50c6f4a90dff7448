package tunnel_test

import (
	"net/netip"
	"testing"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/internal/tunneltest"
	"github.com/culvert-net/culvert/internal/netlab"
)

// bare starts two nodes on one wire that know nothing of each other yet.
func bare(t *testing.T) (a, b *tunneltest.Node) {
	t.Helper()
	lab := netlab.New(t)
	nsA, nsB := lab.Namespace("a"), lab.Namespace("b")
	lab.Veth(nsA, "eth0", nsB, "eth0")
	a, b = tunneltest.NewNode(t, nsA, 1), tunneltest.NewNode(t, nsB, 2)
	a.Start()
	b.Start()
	a.Up()
	b.Up()
	return a, b
}

// TestAnswersComeFromTheAddressAsked: a host with several addresses must answer from the one its peer uses, or the peer
// would take it for moved; and from another one when that is gone.
func TestAnswersComeFromTheAddressAsked(t *testing.T) {
	for _, addresses := range [][3]string{
		{"198.18.0.1/24", "198.18.0.2/24", "198.18.0.3/24"},
		{"2001:db8::1/64", "2001:db8::2/64", "2001:db8::3/64"},
	} {
		a, b := bare(t)
		own, first, second := netip.MustParsePrefix(addresses[0]), netip.MustParsePrefix(addresses[1]),
			netip.MustParsePrefix(addresses[2])
		a.AddAddress("eth0", own)
		b.AddAddress("eth0", first)
		b.AddAddress("eth0", second)
		for _, asked := range []netip.Prefix{first, second} { // the kernel by itself would always take the same
			a.Feed(b.Peer(asked.Addr()))
			b.Feed(a.Peer(netip.Addr{})) // waits for a to speak
			if !a.Reach(b.Echo(), 64, tunneltest.Patience) {
				t.Fatalf("no answer from %s", asked)
			}
			if got := a.Status(b).Underlay; got != netip.AddrPortFrom(asked.Addr(), tunneltest.Port) {
				t.Errorf("asked at %s, %s answered", asked, got)
			}
			if got := b.Status(a).Underlay; got != netip.AddrPortFrom(own.Addr(), tunneltest.Port) {
				t.Errorf("%s asked, %s is known", own, got)
			}
		}
		b.Exec("ip", "addr", "del", second.String(), "dev", "eth0")
		if !b.Reach(a.Echo(), 64, tunneltest.Patience) {
			t.Errorf("after %s is gone b cannot send", second)
		}
		if got := a.Status(b).Underlay; got != netip.AddrPortFrom(first.Addr(), tunneltest.Port) {
			t.Errorf("after %s is gone a knows %s", second, got)
		}
	}
}

// TestLinkLocalUnderlay: such addresses mean something on one interface only.
func TestLinkLocalUnderlay(t *testing.T) {
	a, b := bare(t)
	a.AddAddress("eth0", netip.MustParsePrefix("fe80::1/64"))
	b.AddAddress("eth0", netip.MustParsePrefix("fe80::2/64"))
	a.Feed(b.Peer(netip.MustParseAddr("fe80::2%eth0")))
	b.Feed(a.Peer(netip.Addr{}))
	if !a.Reach(b.Echo(), 1372, tunneltest.Patience) {
		t.Error("no traffic")
	}
	transfer(t, a, b, 4<<20)
	transfer(t, b, a, 4<<20)
}

// TestPeerMoves: a peer that speaks from another address is answered there.
func TestPeerMoves(t *testing.T) {
	a, b := bare(t)
	old, fresh := netip.MustParsePrefix("198.18.0.1/24"), netip.MustParsePrefix("2001:db8::1/64")
	a.AddAddress("eth0", old)
	b.AddAddress("eth0", netip.MustParsePrefix("198.18.0.2/24"))
	b.AddAddress("eth0", netip.MustParsePrefix("2001:db8::2/64"))
	a.Feed(b.Peer(netip.MustParseAddr("198.18.0.2")))
	b.Feed(a.Peer(old.Addr()))
	echo := b.Echo()
	if !a.Reach(echo, 64, tunneltest.Patience) {
		t.Fatal("no traffic to begin with")
	}
	a.AddAddress("eth0", fresh)
	peer := b.Peer(netip.MustParseAddr("2001:db8::2"))
	if err := a.Device.Apply(t.Context(), wire.Change{Update: []wire.Peer{peer}}); err != nil {
		t.Fatal(err)
	}
	if !a.Reach(echo, 64, tunneltest.Patience) {
		t.Error("no traffic over the other family")
	}
	if got := b.Status(a).Underlay; got != netip.AddrPortFrom(fresh.Addr(), tunneltest.Port) {
		t.Errorf("b answers to %s", got)
	}
}

// TestUnderlaySmallerThanExpected: the kernel refuses joined datagrams that do not fit; one by one it cuts them.
func TestUnderlaySmallerThanExpected(t *testing.T) {
	for _, six := range []bool{false, true} {
		a, b := tunneltest.Pair(t, six, nil)
		transfer(t, a, b, 1<<20)
		for _, n := range []*tunneltest.Node{a, b} {
			n.Exec("ip", "link", "set", "eth0", "mtu", "1300")
		}
		transfer(t, a, b, 4<<20)
		transfer(t, b, a, 4<<20)
	}
}
