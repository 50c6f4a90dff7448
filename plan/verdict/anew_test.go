package verdict_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan/verdict"
)

// rest makes a target of the TCP listener one that keeps its flows and gets no new ones.
func rest(t *testing.T, v api.View, target netip.Addr) api.View {
	t.Helper()
	l := &v.Endpoints[0].Listeners[0]
	for _, x := range l.Targets {
		if x.Address == target {
			l.Resting = append(l.Resting, x)
		}
	}
	l.Targets = slices.DeleteFunc(slices.Clone(l.Targets), func(x api.ViewTarget) bool { return x.Address == target })
	if len(l.Resting) != 1 || len(l.Targets) == 0 {
		t.Fatalf("%s is not one of several targets", target)
	}
	return v
}

// The target's node hears first that its target is deregistered and refuses a SYN; the SYN sent again goes to another target once
// the consumer's node has heard too, not before. What was answered stays where it is.
func TestUnansweredSYNPicksAnew(t *testing.T) {
	a := newNode(t, 1, plantest.Workloads())
	to := func(v verdict.Verdict) netip.Addr {
		t.Helper()
		want(t, v, verdict.NextTunnel, verdict.ReasonForwarded)
		o, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(v.Bytes[24:40])))
		return o.HostAddr()
	}
	send := func(port uint16, flags uint8) verdict.Verdict {
		return a.from(cartID, tcp(cart, vip, port, 443, flags).Workload(cartID))
	}
	target := to(send(40000, plantest.SYN))
	answered := uint16(40001) // another flow to the same target
	for to(send(answered, plantest.SYN)) != target {
		answered++
	}
	want(t, a.tunnel(tcp(target, cart, 8443, answered, plantest.SYN|plantest.ACK).
		Overlay(plantest.At(plantest.Pay, target, 0), plantest.At(plantest.Shop, cart, plantest.TagTCP))),
		verdict.NextWorkload, verdict.ReasonForwarded)

	a.plan = compile(t, rest(t, plantest.View(1, plantest.Workloads()), target), a.plan.Generation)
	if got := to(send(40000, plantest.SYN)); got != target {
		t.Errorf("under the same configuration the SYN went to %s, the first to %s", got, target)
	}
	a.plan = compile(t, rest(t, plantest.View(1, plantest.Workloads()), target), a.plan.Generation+1)
	entries := len(a.state.Flows)
	if got := to(send(40000, plantest.SYN)); got == target {
		t.Errorf("the SYN sent again went to %s, which gets no new flows", got)
	}
	if len(a.state.Flows) != entries {
		t.Errorf("%d entries, there were %d", len(a.state.Flows), entries)
	}
	for _, flags := range []uint8{plantest.SYN, plantest.ACK} {
		if got := to(send(answered, flags)); got != target {
			t.Errorf("a flow that was answered moved to %s from %s", got, target)
		}
	}
}
