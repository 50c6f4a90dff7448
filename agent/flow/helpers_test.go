package flow

import (
	"net/netip"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

const (
	second = uint64(time.Second)
	node   = "node-a"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) // wall time of boot time 0

// at is the clock at a boot time in seconds.
func at(s float64) Clock {
	ns := uint64(s * float64(second))
	return Clock{Boot: ns, Wall: epoch.Add(time.Duration(ns))}
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// consumerFlow is a workload's flow to an endpoint, of the view that testView makes.
func consumerFlow(id uint64, created float64) Flow {
	ns := at(created).Boot
	return Flow{
		ID: id, Hook: HookWorkload, View: ViewWorkload, Protocol: 6, VPC: 1, SourceVPC: 1, DestVPC: 2, Tag: 7,
		Opening:   Tuple{false, ip("10.0.1.5"), 40000 + uint16(id), ip("10.0.1.200"), 443},
		Rewritten: Tuple{false, ip("10.0.1.5"), 40000 + uint16(id), ip("10.0.1.6"), 8443},
		Counts:    Counts{Packets: 1, Bytes: 60}, CreatedNS: ns, LastNS: ns,
		TCPFlags: tcpSYN, ENI: 11, Connection: 5, Rule: plan.RuleNumber("sgr-out"), Generation: 3,
	}
}

// providerFlow is the same at the provider.
func providerFlow(id uint64, created float64) Flow {
	f := consumerFlow(id, created)
	f.Hook, f.View, f.ENI, f.Rule = HookTunnel, ViewProvider, 21, plan.RuleNumber("sgr-in")
	f.Opening = f.Rewritten
	f.Rewritten = Tuple{false, ip("10.0.1.9"), f.Opening.SrcPort, ip("10.0.1.6"), 8443}
	return f
}

func testView() (api.View, plan.Plan) {
	rule := func(name string) string {
		return plan.Rule{Name: name, Protocol: 6, PortHigh: 65535, Prefix: netip.MustParsePrefix("0.0.0.0/0")}.String() + "\n"
	}
	v := api.View{
		VPCs: []api.ViewVPC{
			{ID: "vpc-shop", Account: "111111111111", Number: 1, Local: true},
			{ID: "vpc-pay", Account: "222222222222", Number: 2, Local: true},
		},
		ENIs: []api.ViewENI{
			{ID: "eni-cart", Account: "111111111111", Number: 11, VPC: 1, VPCID: "vpc-shop", Subnet: "subnet-shop"},
			{ID: "eni-ledger", Account: "222222222222", Number: 21, VPC: 2, VPCID: "vpc-pay", Subnet: "subnet-pay"},
		},
		Endpoints: []api.ViewEndpoint{{
			ID: "vpce-1", Connection: "vpce-conn-1", ConnectionNumber: 5, Service: "vpce-svc-1",
			ServiceName: "payments/ledger", VPC: 1, ProviderVPC: 2, Approver: "key-9",
			ENIs: []api.ViewEndpointENI{{ENI: "eni-ep", Number: 12, Address: ip("10.0.1.200")}},
			Listeners: []api.ViewListenerPool{{
				Listener: "listener-1", TagNumbers: []api.TagNumber{{ENI: "eni-ep", Listener: "listener-1", Number: 7}},
			}},
		}},
		Grants: []api.ViewGrant{{
			ConsumerVPC: 1, Tag: 7, Connection: "vpce-conn-1", ConnectionNumber: 5, Endpoint: "vpce-1",
			Service: "vpce-svc-1", ServiceName: "payments/ledger", ConsumerAccount: "111111111111", Approver: "key-9",
			ProviderVPC: 2,
		}},
	}
	p := plan.Plan{Generation: 3, RuleSets: []plan.RuleSet{{ID: 1, Text: rule("sgr-out")}, {ID: 2, Text: rule("sgr-in")}}}
	return v, p
}

func labeler() *Labeler {
	var l Labeler
	l.Add(testView())
	return &l
}

func newAggregator(baselines []api.FlowRecord) *Aggregator {
	return NewAggregator(Settings{Node: node, Boot: "boot-1"}, labeler(), baselines)
}

func sum(records []api.FlowRecord) (c Counts) {
	for i := range records {
		c = c.add(countsOf(&records[i]))
	}
	return c
}
