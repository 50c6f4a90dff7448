package datapath

import (
	"errors"
	"slices"
	"syscall"
	"testing"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/plan"
)

// A plan that takes a grant away and has more rows than the kernel has room for: what it took away holds for live flows as it
// does for new ones, and what it left goes on.
func TestRevocationWithoutRoom(t *testing.T) {
	m := newMesh(t)
	near, far := connect(t, m.cart, m.ledger, "10.0.1.200:443", ":8443")
	other, otherFar := connect(t, m.cart, m.shelf, "10.0.1.6:7000", ":7000")
	if err := errors.Join(send(near, []byte("before")), receive(far, []byte("before"))); err != nil {
		t.Fatal(err)
	}
	m.generation++
	p := m.plan(m.b)
	p.Grants = slices.DeleteFunc(p.Grants, func(g plan.Grant) bool { return g.Connection == 900 })
	for i := range 2 * m.b.cfg.Sizes.Services {
		p.Services = append(p.Services, plan.Service{
			VPC: shop, Address: addr("10.0.1.200"), Protocol: 6, Port: uint16(1000 + i), Tag: uint16(1000 + i), Connection: 900,
			ProviderVPC: pay, Table: 500, TableWidth: 1, EndpointENI: 30, IdleSeconds: 350,
		})
	}
	for range 2 { // the agent tries again
		if err := m.b.Do(func() error { _, err := m.b.dp.Apply(t.Context(), p); return err }); !errors.Is(err, syscall.E2BIG) {
			t.Fatalf("a plan of too many rows: %v", err)
		}
	}
	if err := send(near, []byte("after")); err != nil {
		t.Fatal(err)
	}
	if err := send(far, []byte("back")); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Read(make([]byte, 8)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the target of a flow whose grant is gone reads: %v", err)
	}
	if n := m.b.counter(t, bpf.HookTunnel, bpf.ReasonFlowRevoked) + m.b.counter(t, bpf.HookWorkload, bpf.ReasonFlowRevoked); n == 0 {
		t.Error("nothing was refused as revoked")
	}
	if err := errors.Join(send(other, []byte("on")), receive(otherFar, []byte("on"))); err != nil {
		t.Errorf("a flow that the plan leaves: %v", err)
	}
	m.apply()
	before, err := m.b.dp.Generation()
	if err != nil || before != m.generation {
		t.Errorf("generation %d, %v: want %d", before, err, m.generation)
	}
	if err := errors.Join(send(otherFar, []byte("still")), receive(other, []byte("still"))); err != nil {
		t.Errorf("after a plan that fits: %v", err)
	}
}
