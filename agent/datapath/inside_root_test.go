package datapath

import (
	"context"
	"net/netip"
	"testing"

	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// inside makes the load balancer of VPC pay one that its own workloads reach: port 443 leads to ledger, 444 to vault (decision 0014).
func inside(p *plan.Plan, targets ...*workload) *plan.Plan {
	const all, connection, tag = 1000, 950, 40
	lb := addr("10.0.1.9")
	for i, target := range targets {
		port := uint16(443 + i)
		for j, protocol := range []uint8{plan.ProtocolTCP, plan.ProtocolUDP} {
			number := uint16(tag + 2*i + j)
			p.Services = append(p.Services, plan.Service{
				VPC: pay, Address: lb, Protocol: protocol, Port: port, Tag: number, Connection: connection, ProviderVPC: pay,
				Table: uint32(500 + i), TableWidth: 1, EndpointENI: 31, IdleSeconds: 350,
			})
			p.Grants = append(p.Grants, plan.Grant{
				ConsumerVPC: pay, Tag: number, Connection: connection, ProviderVPC: pay, Inside: true, LBRules: all, LBEgressRules: all,
				DialedAddress: lb, DialedPort: port, Protocol: protocol, IdleSeconds: 350,
			})
			p.GrantTargets = append(p.GrantTargets, plan.GrantTarget{
				ConsumerVPC: pay, Tag: number, Address: target.address, Port: 8443, Source: lb, SourceENI: 31,
			})
		}
	}
	plantest.Unbounded(p)
	return p
}

// Workloads reach a load balancer of their own VPC on real sockets: from another node, from the target's, and the target itself;
// in IPv4 and IPv6. The target sees the load balancer, also where it is the client.
func TestLoadBalancerInside(t *testing.T) {
	m := newMesh(t)
	books := m.workload(m.b, "books", pay, "10.0.1.8", 23)
	m.generation++
	for _, h := range []*meshHost{m.a, m.b} {
		m.applyPlan(h, inside(m.plan(h), m.ledger, m.vault))
	}
	for _, w := range []*workload{m.vault, m.ledger, books} {
		w.dual()
		w.Exec("ip", "-6", "route", "replace", "default", "via", "fe80::1", "dev", "eni0")
	}
	for _, c := range []struct {
		why            string
		client, target *workload
		port           uint16
	}{
		{"from another node", m.vault, m.ledger, 443},
		{"on one node", books, m.ledger, 443},
		{"to the client itself", m.ledger, m.ledger, 443},
		{"of the other node to the client itself", m.vault, m.vault, 444},
	} {
		for family, a := range map[string]netip.Addr{"IPv4": addr("10.0.1.9"), "IPv6": six(pay, "10.0.1.9")} {
			t.Run(c.why+", "+family, func(t *testing.T) {
				seen := transfer(t, c.client, c.target, at(a, c.port), ":8443", 1<<20)
				got, err := netip.ParseAddrPort(seen.String())
				if err != nil || got.Addr().Unmap() != a {
					t.Errorf("the target sees %s, want the load balancer %s (%v)", seen, a, err)
				}
			})
		}
	}
	flows, err := m.b.dp.Flows(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for i := range flows {
		if o := &flows[i].Opening; o.Connection != 950 {
			t.Errorf("a flow of connection %d: %+v", o.Connection, o)
		}
	}
}
