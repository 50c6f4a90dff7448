package verdict_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

var ledger = netip.MustParseAddr("10.0.1.6") // eni-ledger-2, number 22, on node 2

// probing is a packet of node 2's own to its target.
func probing(port uint16, flags uint8) []byte {
	ip := plantest.IP{Protocol: 6, SourcePort: port, DestPort: 8443, Flags: flags, TTL: 64}
	return plantest.Frame([6]byte{}, [6]byte{}, 0x86dd, ip.Overlay(api.Overlay{Mesh: plantest.Mesh, Host: 2}, plantest.At(plantest.Pay, ledger, 0)))
}

func (n *node) probe(b []byte) verdict.Verdict {
	return n.decide(verdict.Packet{Hook: verdict.HookHost, Bytes: b, Mark: verdict.ProbeMark})
}

// A probe reaches the target from the load balancer's address and a port that no client gets, and the answer the host.
func TestProbe(t *testing.T) {
	b := newNode(t, 2, plantest.Workloads())
	v := b.probe(probing(40000, plantest.SYN))
	want(t, v, verdict.NextWorkload, verdict.ReasonForwarded)
	got := delivered(t, v, 22)
	if got.Source != lb || got.SourcePort >= plan.PortSpare || got.Dest != ledger || got.DestPort != 8443 {
		t.Errorf("the target sees %+v", got)
	}
	answer := plantest.IP{Source: ledger, Dest: lb, Protocol: 6, SourcePort: 8443, DestPort: got.SourcePort, Flags: plantest.SYN | plantest.ACK}
	back := b.from(22, answer.Workload(22))
	want(t, back, verdict.NextHost, verdict.ReasonNodesOwn)
	source, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(back.Bytes[22:38])))
	dest, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(back.Bytes[38:54])))
	if source != plantest.At(plantest.Pay, ledger, 0) || dest != (api.Overlay{Mesh: plantest.Mesh, Host: 2}) ||
		binary.BigEndian.Uint16(back.Bytes[56:]) != 40000 {
		t.Errorf("the host is answered from %+v to %+v", source, dest)
	}
	want(t, b.host(probing(40000, plantest.ACK)), verdict.NextWorkload, verdict.ReasonForwarded) // of an open flow, whatever the mark
}

// A probe is refused where a packet of the load balancer's would be, and whatever else the host sends.
func TestProbesThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*plan.Plan)
		mark   uint32
		packet []byte
		want   verdict.Reason
	}{
		"another's socket": {nil, 0, probing(40000, plantest.SYN), verdict.ReasonHostNotAdmitted},
		"the middle":       {nil, verdict.ProbeMark, probing(40000, plantest.ACK), verdict.ReasonHostNotAdmitted},
		"no check": {func(p *plan.Plan) { p.Probes = nil }, verdict.ProbeMark, probing(40000, plantest.SYN),
			verdict.ReasonHostNotAdmitted},
		"gone": {func(p *plan.Plan) { p.ENIs = nil }, verdict.ProbeMark, probing(40000, plantest.SYN), verdict.ReasonNotHere},
		"groups": {func(p *plan.Plan) {
			for i := range p.ENIs {
				p.ENIs[i].IngressRules = 0
			}
		}, verdict.ProbeMark, probing(40000, plantest.SYN), verdict.ReasonGroupIngress},
		"load balancer's groups": {func(p *plan.Plan) {
			for i := range p.Addresses {
				p.Addresses[i].EgressRules = 0
			}
		}, verdict.ProbeMark, probing(40000, plantest.SYN), verdict.ReasonLBGroupEgress},
		"a source that is none": {func(p *plan.Plan) {
			for i := range p.Probes {
				p.Probes[i].Source = ledger
			}
		}, verdict.ProbeMark, probing(40000, plantest.SYN), verdict.ReasonHostNotAdmitted},
	} {
		b := newNode(t, 2, plantest.Workloads())
		if c.change != nil {
			c.change(b.plan)
		}
		v := b.decide(verdict.Packet{Hook: verdict.HookHost, Bytes: c.packet, Mark: c.mark})
		if v.Reason != c.want || len(b.state.Flows) != 0 {
			t.Errorf("%s: %s, %d flows; want %s and none", name, v.Reason, len(b.state.Flows), c.want)
		}
	}
}

// A probe is judged again as every flow is.
func TestProbeIsRevoked(t *testing.T) {
	b := newNode(t, 2, plantest.Workloads())
	want(t, b.probe(probing(40000, plantest.SYN)), verdict.NextWorkload, verdict.ReasonForwarded)
	b.plan.Generation++
	want(t, b.probe(probing(40000, plantest.ACK)), verdict.NextWorkload, verdict.ReasonForwarded)
	b.plan.Probes = nil
	b.plan.Generation++
	want(t, b.probe(probing(40000, plantest.ACK)), verdict.NextNone, verdict.ReasonFlowRevoked)
}
