package tunnel_test

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/internal/tunneltest"
	"github.com/culvert-net/culvert/internal/netlab"
)

// Two nodes that learn of each other at the same moment both begin, and their initiations may cross. A session must come
// about all the same, long before the protocol's own next try at 5 s.
func TestBothBeginAtOnce(t *testing.T) {
	a, b := tunneltest.Pair(t, false, nil)
	underlay := map[*tunneltest.Node]netip.Addr{} // as Pair gave them
	for _, n := range []*tunneltest.Node{a, b} {
		other := map[*tunneltest.Node]*tunneltest.Node{a: b, b: a}[n]
		underlay[n] = other.Status(n).Underlay.Addr()
	}
	var took []time.Duration
	for range 12 {
		for _, n := range []*tunneltest.Node{a, b} { // a peer that goes takes its session along
			have, err := n.Device.Observe(t.Context())
			if err != nil || len(have.Peers) != 1 {
				t.Fatalf("%+v, %v", have, err)
			}
			if err := n.Device.Apply(t.Context(), wire.Change{Remove: []wire.PublicKey{have.Peers[0].PublicKey}}); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		var both sync.WaitGroup
		for _, pair := range [][2]*tunneltest.Node{{a, b}, {b, a}} {
			both.Go(func() {
				pair[0].Feed(pair[1].Peer(underlay[pair[1]]))
				if err := pair[0].Device.Kick(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		tick := time.NewTicker(5 * time.Millisecond)
		for a.Status(b).LastHandshake.IsZero() || b.Status(a).LastHandshake.IsZero() {
			if time.Since(began) > tunneltest.Patience {
				t.Fatal("no session")
			}
			<-tick.C
		}
		tick.Stop()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("n=%d: %v", len(took), took)
	if took[len(took)/2] > 4*time.Second*netlab.Slowness() {
		t.Errorf("it took as long as without a kick: %v", took)
	}
}
