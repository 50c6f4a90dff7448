package datapath

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/culvert-net/culvert/internal/netlab"
)

// Both the client's node and the target's notice a target that refuses and one that is silent, within half a second and a little.
func TestSignals(t *testing.T) {
	m := newMesh(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sources := map[string]*Source{"client": NewSource(m.a.dp), "target": NewSource(m.b.dp)}
	ended := make(chan error, len(sources))
	for _, s := range sources {
		go func() { ended <- s.Run(ctx) }()
	}
	attempt := func(to string) { // and give up
		_ = m.cart.Do(func() error {
			c, err := (&net.Dialer{Timeout: 10 * time.Millisecond}).DialContext(ctx, "tcp4", to)
			if err == nil {
				c.Close()
			}
			return err
		})
	}
	expect := func(what string, kind SignalKind, dialed string, target *workload, nodes ...string) {
		t.Helper()
		want := Signal{VPC: pay, Target: netip.AddrPortFrom(target.address, 8443), Kind: kind}
		netlab.Eventually(t, patience, func() bool {
			attempt(dialed)
			nodes = slices.DeleteFunc(nodes, func(n string) bool { return slices.Contains(takenFrom(sources[n].signals), want) })
			return len(nodes) == 0
		}, what+" is noticed")
	}
	expect("a target that refuses", SignalRefused, "10.0.1.200:443", m.ledger, "client", "target")
	m.ledger.Exec("ip", "link", "set", "eni0", "down")
	expect("a target that is silent", SignalSilent, "10.0.1.200:443", m.ledger, "client", "target")
	m.vault.Exec("nft", "add table inet wall; add chain inet wall in { type filter hook input priority 0; };"+
		"add rule inet wall in tcp dport 8443 reject with icmpx admin-prohibited")
	expect("a target whose host says that it is out of reach", SignalSilent, "10.0.1.201:443", m.vault, "client")
	cancel()
	for range sources {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
