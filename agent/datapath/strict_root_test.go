package datapath

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/plan"
)

// A workload whose log must have every flow gets new ones only while the agent says that there is a log; those that are open go on
// all the while, and its neighbours' are let through. An agent that ends says nothing more.
func TestStrictLog(t *testing.T) {
	m := newMesh(t)
	m.generation++
	p := m.plan(m.b)
	ofWorkload("eni-shelf", func(e *plan.ENI) { e.StrictLog = true })(p)
	m.applyPlan(m.b, p)
	far := m.shelf.listenUDP(t, ":7000")
	told := func(until uint64) {
		t.Helper()
		if err := m.b.dp.SetLogReady(until); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(from, text string) *net.UDPConn {
		t.Helper()
		near := m.cart.dialUDP(t, from, "10.0.1.6:7000")
		if err := send(near, []byte(text)); err != nil {
			t.Fatal(err)
		}
		return near
	}
	arrives := func(text string) {
		t.Helper()
		if got, _, err := hear(far); err != nil || string(got) != text {
			t.Fatalf("heard %q, %v; want %q", got, err, text)
		}
	}
	refused := func(want uint64) {
		t.Helper()
		netlab.Eventually(t, patience, func() bool {
			return m.b.counter(t, bpf.HookTunnel, bpf.ReasonLogUnavailable) == want
		}, "what has no log is refused")
	}
	ask(":7101", "before anybody said anything")
	refused(1)

	now, err := BootTime()
	if err != nil {
		t.Fatal(err)
	}
	told(uint64(now + time.Hour))
	open := ask(":7102", "while there is a log")
	arrives("while there is a log")

	told(uint64(now)) // which is past by now
	ask(":7103", "after it ended")
	refused(2)
	if err := send(open, []byte("on a flow that is open")); err != nil {
		t.Fatal(err)
	}
	arrives("on a flow that is open")
	near, end := connect(t, m.cart, m.ledger, "10.0.1.200:443", ":8443")
	if err := errors.Join(send(near, []byte("x")), receive(end, []byte("x"))); err != nil {
		t.Errorf("a neighbour whose log is not strict: %v", err)
	}
}
