package plan_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// A node of a large mesh: 20,000 addresses in its VPCs and 500 endpoints with 20 targets each.
func BenchmarkCompile(b *testing.B) {
	v := plantest.View(1, plantest.OnNode(1))
	for i := range 20_000 {
		v.Addresses = append(v.Addresses, api.ViewAddress{
			VPC: plantest.Shop, Address: netip.AddrFrom4([4]byte{10, 0, byte(2 + i/256), byte(i)}), Type: api.ENIWorkload,
			ENI: fmt.Sprintf("eni-%d", i), Number: uint32(1000 + i), Groups: []string{"sg-shop"},
		})
	}
	for i := range 500 {
		e := v.Endpoints[0]
		e.ID, e.ConnectionNumber = fmt.Sprintf("vpce-b%d", i), uint32(1000+i)
		a := netip.AddrFrom4([4]byte{10, 0, byte(200 + i/256), byte(i)})
		e.ENIs = []api.ViewEndpointENI{{ENI: "eni-" + e.ID, Number: uint32(50_000 + i), Address: a}}
		v.Addresses = append(v.Addresses, api.ViewAddress{
			VPC: plantest.Shop, Address: a, Type: api.ENIEndpoint, ENI: "eni-" + e.ID, Number: uint32(50_000 + i), Groups: []string{"sg-vpce"},
		})
		l := e.Listeners[0]
		l.TargetGroup, l.Targets = uint32(1000+i), nil
		l.TagNumbers = []api.TagNumber{{ENI: "eni-" + e.ID, Listener: l.Listener, Number: uint16(1000 + i)}}
		for j := range 20 {
			l.Targets = append(l.Targets, api.ViewTarget{Address: netip.AddrFrom4([4]byte{10, 0, 9, byte(j)}), Port: 8443})
		}
		e.Listeners = []api.ViewListenerPool{l}
		v.Endpoints = append(v.Endpoints, e)
	}
	f := plantest.Facts(v)
	for b.Loop() {
		if _, err := plan.Compile(v, f); err != nil {
			b.Fatal(err)
		}
	}
}

// The largest table of a target group, and the usual one.
func BenchmarkSlots(b *testing.B) {
	for _, n := range []int{3, api.MaxTargetsPerGroup} {
		b.Run(fmt.Sprintf("%d targets", n), func(b *testing.B) {
			table := plan.TargetTable{Width: map[bool]uint8{true: 2, false: 16}[n == 3]}
			for i := range n {
				table.Text += fmt.Sprintf("10.0.%d.%d:8443 100\n", i/256, i%256)
			}
			for b.Loop() {
				if _, _, err := table.Slots(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
