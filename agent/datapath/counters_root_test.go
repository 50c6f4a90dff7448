package datapath

import (
	"errors"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/plan"
)

// What was counted for ENIs that are gone is counted for none, packet by packet, and their rows are free for others.
func TestCountersOfFormerENIs(t *testing.T) {
	m := newMesh(t)
	near, far := connect(t, m.cart, m.shelf, "10.0.1.6:7000", ":7000")
	if err := errors.Join(send(near, []byte("counted")), receive(far, []byte("counted"))); err != nil {
		t.Fatal(err)
	}
	near.Close()
	far.Close()
	m.a.Exec("ip", "link", "set", "cvcart", "down")
	type kind struct {
		hook   bpf.Hook
		reason bpf.Reason
	}
	read := func() (sums map[kind]Counter, rows int) {
		t.Helper()
		counters, err := m.a.dp.Counters()
		if err != nil {
			t.Fatal(err)
		}
		sums = map[kind]Counter{}
		for _, c := range counters {
			if c.ENI == m.cart.number {
				rows++
			} else if c.ENI != 0 {
				continue // others' may ask for routers at any time
			}
			s := sums[kind{c.Hook, c.Reason}]
			s.Packets += c.Packets
			s.Bytes += c.Bytes
			sums[kind{c.Hook, c.Reason}] = s
		}
		return sums, rows
	}
	before, rows := read()
	if rows < 3 {
		t.Fatalf("%d rows of the cart: its packets are not counted", rows)
	}
	for round, want := range []int{rows, 0, 0} { // the first plan without it leaves them
		m.generation++
		p := m.plan(m.a)
		p.ENIs = slices.DeleteFunc(p.ENIs, func(e plan.ENI) bool { return e.Number == m.cart.number })
		m.applyPlan(m.a, p)
		after, left := read()
		if left != want {
			t.Errorf("%d rows of the cart after %d plans without it, want %d", left, round+1, want)
		}
		for k, c := range before {
			if after[k] != c {
				t.Errorf("%s %s: %+v, before %+v", k.hook, k.reason, after[k], c)
			}
		}
	}
}
