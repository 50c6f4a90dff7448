package datapath

import (
	"context"
	"testing"
	"time"

	"github.com/culvert-net/culvert/internal/netlab"
)

// Both flows that ran out and flows that were cut are marked dead before they are removed; records tell them apart.
func TestOverIsNotRevoked(t *testing.T) {
	m := newMesh(t)
	ctx := context.Background()
	sweep := func(after time.Duration) []Flow {
		t.Helper()
		now, err := BootTime()
		if err != nil {
			t.Fatal(err)
		}
		gone, err := m.a.dp.Sweep(ctx, now+after)
		if err != nil {
			t.Fatal(err)
		}
		return gone
	}
	exchange(t, m.cart, m.shelf, "10.0.1.6:80", ":80", 100)
	sweep(3 * time.Minute)
	gone := sweep(3*time.Minute + 2*time.Second)
	if len(gone) == 0 {
		t.Fatal("nothing ran out")
	}
	for _, f := range gone {
		if f.record().Dead {
			t.Errorf("a flow that ran out counts as revoked: %+v", f.record())
		}
	}
	near, _ := connect(t, m.cart, m.ledger, "10.0.1.200:443", ":8443")
	m.generation++
	cut := m.plan(m.a)
	cut.Services = nil
	m.applyPlan(m.a, cut)
	netlab.Eventually(t, patience, func() bool {
		_ = send(near, []byte("x")) // refused, sooner or later
		flows, err := m.a.dp.Flows(ctx)
		return err == nil && len(flows) == 1 && flows[0].record().Dead
	}, "the flow is cut")
	sweep(0)
	gone = sweep(2 * time.Second)
	if len(gone) != 1 || !gone[0].record().Dead {
		t.Errorf("a flow that was cut: %+v", gone)
	}
}
