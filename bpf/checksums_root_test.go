package bpf_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"

	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// Datagrams of every length that fits, and TCP segments of many, cross a connection in each pair of families with right
// checksums, and with one where IPv6 demands it of a datagram that had none.
func TestChecksumsOfEveryLength(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	const longest = plantest.TunnelMTU - 48 // payload of a datagram in IPv6
	k := newKernel(t)
	rng := rand.New(rand.NewPCG(1, 1))
	cart, target := netip.MustParseAddr("10.0.1.5"), netip.MustParseAddr("10.0.1.6")
	v := plantest.View(2, plantest.Workloads())
	for _, family := range []plan.Families{plan.FamilyIPv4, plan.FamilyIPv6} {
		p, err := plan.Compile(v, plantest.Facts(v))
		if err != nil {
			t.Fatal(err)
		}
		for i := range p.ENIs {
			p.ENIs[i].Families = family
		}
		for i := range p.RuleSets {
			p.RuleSets[i].Text = "sgr-all 256 0-65535 0.0.0.0/0\nsgr-all 256 0-65535 ::/0\n"
		}
		for _, six := range []bool{false, true} {
			k.forget()
			k.apply(p)
			state := &verdict.State{NowNS: 2, Used: map[verdict.QuotaKey]int64{}, Paid: map[verdict.PaidKey]uint64{}}
			for size := range longest + 1 {
				ip := plantest.IP{Protocol: 17, SourcePort: 40000, DestPort: 8443, Payload: make([]byte, size), NoChecksum: size%3 == 0 && !six}
				for i := range ip.Payload {
					ip.Payload[i] = byte(rng.Uint32())
				}
				tag := uint16(plantest.TagUDP)
				if size%5 == 0 && size < longest-12 {
					ip.Protocol, ip.Flags, tag = 6, plantest.SYN, plantest.TagTCP
				}
				from, to := plantest.At(plantest.Shop, cart, tag), plantest.At(plantest.Pay, target, 0)
				if six {
					from, to = plantest.At6(plantest.Shop, cart, tag), plantest.At6(plantest.Pay, target, 0)
				}
				packet := verdict.Packet{Hook: verdict.HookTunnel, Bytes: ip.Overlay(from, to)}
				got := verdict.Decide(p, state, packet)
				name := fmt.Sprintf("%d bytes of protocol %d, IPv6 %t, to %s", size, ip.Protocol, six, family)
				if got.Next != verdict.NextWorkload {
					t.Fatalf("%s: %s", name, got.Reason)
				}
				if err := k.run(p, packet, got); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if err := plantest.Check(got.Bytes[14:]); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
		}
	}
}
