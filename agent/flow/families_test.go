package flow

import (
	"testing"

	"github.com/culvert-net/culvert/api"
)

// A record has the addresses that packets have: a workload's packet is within its VPC, what a provider's node delivers within
// the provider's, in the family that each side speaks.
func TestRecordsOfIPv6(t *testing.T) {
	const mesh = 0x123456
	v, p := testView()
	p.Config.Mesh = mesh
	var l Labeler
	l.Add(v, p)
	six := func(vpc uint32, a string) string { return api.IPv6Address(mesh, vpc, ip(a)).String() }
	consumer := consumerFlow(1, 1)
	consumer.Opening.IPv6, consumer.Rewritten.IPv6 = true, true
	provider := providerFlow(2, 1)
	provider.Opening.IPv6 = true // the target speaks IPv4
	local := Flow{ID: 3, Hook: HookLocal, Protocol: 58, SourceVPC: 1, DestVPC: 1,
		Opening: Tuple{true, ip("10.0.1.5"), 7, ip("10.0.1.6"), 0}, Rewritten: Tuple{true, ip("10.0.1.5"), 7, ip("10.0.1.6"), 0}}
	for name, c := range map[string]struct {
		flow             *Flow
		tuple, rewritten api.FlowTuple
	}{
		"consumer": {&consumer, api.FlowTuple{SrcAddr: six(1, "10.0.1.5"), SrcPort: 40001, DstAddr: six(1, "10.0.1.200"), DstPort: 443},
			api.FlowTuple{SrcAddr: six(1, "10.0.1.5"), SrcPort: 40001, DstAddr: six(2, "10.0.1.6"), DstPort: 8443}},
		"provider": {&provider, api.FlowTuple{SrcAddr: six(1, "10.0.1.5"), SrcPort: 40002, DstAddr: six(2, "10.0.1.6"), DstPort: 8443},
			api.FlowTuple{SrcAddr: "10.0.1.9", SrcPort: 40002, DstAddr: "10.0.1.6", DstPort: 8443}},
		"inside": {&local, api.FlowTuple{SrcAddr: six(1, "10.0.1.5"), SrcPort: 7, DstAddr: six(1, "10.0.1.6")},
			api.FlowTuple{SrcAddr: six(1, "10.0.1.5"), SrcPort: 7, DstAddr: six(1, "10.0.1.6")}},
	} {
		if r := l.Flow(c.flow); r.Tuple != c.tuple || r.Translated != c.rewritten {
			t.Errorf("%s:\n%+v\n%+v, want\n%+v\n%+v", name, r.Tuple, r.Translated, c.tuple, c.rewritten)
		}
	}
	r := l.Refusal(&Refusal{IPv6: true, VPC: 1, ENI: 11, Hook: HookWorkload, Src: ip("10.0.1.5"), Dst: ip("0.0.0.0"), DstPort: 80})
	if want := (api.FlowTuple{SrcAddr: six(1, "10.0.1.5"), DstPort: 80}); r.Tuple != want {
		t.Errorf("to outside the VPC: %+v, want %+v", r.Tuple, want)
	}
	r = l.Refusal(&Refusal{IPv6: true, VPC: 1, DestVPC: 2, ENI: 21, Hook: HookTunnel, Src: ip("10.0.1.5"), Dst: ip("10.0.1.6"), Tag: 7})
	if want := (api.FlowTuple{SrcAddr: six(1, "10.0.1.5"), DstAddr: six(2, "10.0.1.6")}); r.Tuple != want {
		t.Errorf("by the provider: %+v, want %+v", r.Tuple, want)
	}
}
