package datapath

import (
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
