package verdict_test

import (
	"bytes"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// messageOf is what the agent of a node tells another's.
func messageOf(from, to uint32, change func(*plantest.IP, *api.Overlay, *api.Overlay)) []byte {
	ip := plantest.IP{Protocol: 17, SourcePort: plan.NodePort, DestPort: plan.NodePort, Payload: []byte("alive"), TTL: 64}
	source, dest := api.Overlay{Mesh: plantest.Mesh, Host: from}, api.Overlay{Mesh: plantest.Mesh, Host: to}
	if change != nil {
		change(&ip, &source, &dest)
	}
	return ip.Overlay(source, dest)
}

// What agents tell each other goes from host to host as it is, without a flow.
func TestMessages(t *testing.T) {
	a, b := newNode(t, 1, plantest.Workloads()), newNode(t, 2, plantest.Workloads())
	message := messageOf(1, 2, nil)
	out := a.host(plantest.Frame([6]byte{}, [6]byte{}, 0x86dd, message))
	want(t, out, verdict.NextTunnel, verdict.ReasonNodesOwn)
	if out.Lane != 0 || !bytes.Equal(out.Bytes, message) {
		t.Errorf("lane %d, packet % x", out.Lane, out.Bytes)
	}
	in := b.tunnel(message)
	want(t, in, verdict.NextHost, verdict.ReasonNodesOwn)
	if in.Ifindex != 4 || !bytes.Equal(in.Bytes[14:], message) {
		t.Errorf("interface %d, frame % x", in.Ifindex, in.Bytes)
	}
	if len(a.state.Flows)+len(b.state.Flows) != 0 {
		t.Errorf("flows %v, %v", a.state.Flows, b.state.Flows)
	}
}

// Nothing else passes between hosts, nor from one to its own address.
func TestOnlyMessagesPassBetweenHosts(t *testing.T) {
	type change = func(*plantest.IP, *api.Overlay, *api.Overlay)
	for name, c := range map[string]struct {
		change  change
		out, in verdict.Reason
	}{
		"another port": {func(ip *plantest.IP, _, _ *api.Overlay) { ip.DestPort = plan.ResolverPort },
			verdict.ReasonHostNotAdmitted, verdict.ReasonHostNotAdmitted},
		"from another port": {func(ip *plantest.IP, _, _ *api.Overlay) { ip.SourcePort++ },
			verdict.ReasonHostNotAdmitted, verdict.ReasonHostNotAdmitted},
		"TCP": {func(ip *plantest.IP, _, _ *api.Overlay) { ip.Protocol, ip.Flags = 6, plantest.SYN },
			verdict.ReasonHostNotAdmitted, verdict.ReasonHostNotAdmitted},
		"from itself": {func(_ *plantest.IP, from, to *api.Overlay) { from.Host = to.Host }, verdict.ReasonHostNotAdmitted, verdict.ReasonBadOverlay},
		"to a third":  {func(_ *plantest.IP, _, to *api.Overlay) { to.Host = 3 }, verdict.ReasonNodesOwn, verdict.ReasonBadOverlay},
		"numbered":    {func(_ *plantest.IP, from, _ *api.Overlay) { from.Tag = 5 }, verdict.ReasonHostNotAdmitted, verdict.ReasonBadOverlay},
		"of IPv4": {func(_ *plantest.IP, from, to *api.Overlay) { from.Tag, to.Tag = api.TagFamilyIPv4, api.TagFamilyIPv4 },
			verdict.ReasonHostNotAdmitted, verdict.ReasonBadOverlay},
		"from nobody": {func(_ *plantest.IP, from, _ *api.Overlay) { from.Host = 0 }, verdict.ReasonHostNotAdmitted, verdict.ReasonBadOverlay},
		"the longest": {func(ip *plantest.IP, _, _ *api.Overlay) { ip.Payload = make([]byte, plan.MaxMessage) },
			verdict.ReasonNodesOwn, verdict.ReasonNodesOwn},
		"longer": {func(ip *plantest.IP, _, _ *api.Overlay) { ip.Payload = make([]byte, plan.MaxMessage+1) },
			verdict.ReasonTooBig, verdict.ReasonNodesOwn},
	} {
		a, b := newNode(t, 1, plantest.Workloads()), newNode(t, 2, plantest.Workloads())
		packet := messageOf(1, 2, c.change)
		if v := a.host(plantest.Frame([6]byte{}, [6]byte{}, 0x86dd, packet)); v.Reason != c.out {
			t.Errorf("%s: leaves the host with %s, want %s", name, v.Reason, c.out)
		}
		if v := b.tunnel(packet); v.Reason != c.in {
			t.Errorf("%s: arrives with %s, want %s", name, v.Reason, c.in)
		}
	}
}
