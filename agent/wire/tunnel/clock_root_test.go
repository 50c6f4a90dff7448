package tunnel_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/internal/tunneltest"
)

// A peer that has seen a later time from a key ignores what that key begins now, as after the node's clock went back; with
// another key there is a session at once.
func TestAClockThatWentBackNeedsAnotherKey(t *testing.T) {
	a, b := tunneltest.Pair(t, false, nil)
	underlayA, underlayB := b.Status(a).Underlay.Addr(), a.Status(b).Underlay.Addr()
	echo := b.Echo()
	begin := func(within time.Duration) bool {
		t.Helper()
		if err := a.Device.Kick(t.Context()); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(within); time.Now().Before(end); {
			if a.Reach(echo, 100, 250*time.Millisecond) {
				return true
			}
		}
		return false
	}

	// An earlier time is no obstacle, so that what follows is due to the time and to nothing else of the message.
	initiateAt(t, a, b, time.Now().Add(-time.Hour))
	if !begin(tunneltest.Patience) {
		t.Fatal("no session after an initiation of an earlier time")
	}

	// The node boots with its clock an hour back.
	a.Kill()
	initiateAt(t, a, b, time.Now().Add(time.Hour))
	a.Start()
	a.Feed(b.Peer(underlayB))
	if begin(8 * time.Second) { // past the kicks and the protocol's own next try at 5 s
		t.Fatal("the peer takes initiations of an earlier time: is this still WireGuard?")
	}

	next, err := wire.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	old := a.Key.Public()
	a.Key = next
	if err := b.Device.Apply(t.Context(), wire.Change{Remove: []wire.PublicKey{old}, Add: []wire.Peer{a.Peer(underlayA)}}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := a.Device.SetKey(t.Context(), a.Key, tunneltest.Port); err != nil {
		t.Fatal(err)
	}
	if !begin(tunneltest.Patience) {
		t.Fatal("no session with another key")
	}
	t.Logf("with another key it took %s", time.Since(began))
}

// initiateAt sends a node's initiation of another time until the peer takes it: it takes only so many a second.
func initiateAt(t *testing.T, from, to *tunneltest.Node, at time.Time) {
	t.Helper()
	underlay := netip.MustParseAddr("198.18.0.2") // as Pair gives it
	before := to.Status(from).RxBytes
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(tunneltest.Patience); to.Status(from).RxBytes == before; <-tick.C {
		if time.Now().After(end) {
			t.Fatal("the peer does not take the initiation")
		}
		from.InitiateAt(to, underlay, at)
	}
}
