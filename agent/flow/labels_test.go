package flow

import (
	"slices"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

func TestLabelsOfAFlow(t *testing.T) {
	want := api.FlowRecord{
		Action: "ACCEPT", LogStatus: "OK", Reason: "FORWARDED", Protocol: 6, Generation: 3,
		Endpoint: "vpce-1", Connection: "vpce-conn-1", Service: "vpce-svc-1", ServiceName: "payments/ledger", Approver: "key-9",
		ConsumerAccount: "111111111111", ProviderAccount: "222222222222", ConsumerVPC: "vpc-shop", ProviderVPC: "vpc-pay",
	}
	consumer := want
	consumer.FlowID, consumer.Account, consumer.Interface = "0000000000000001", "111111111111", "eni-cart"
	consumer.VPC, consumer.Subnet, consumer.Stage, consumer.Side = "vpc-shop", "subnet-shop", "workload", "consumer"
	consumer.Direction, consumer.Rule = "egress", "sgr-out"
	consumer.Tuple = api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 40001, DstAddr: "10.0.1.200", DstPort: 443}
	consumer.Translated = api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 40001, DstAddr: "10.0.1.6", DstPort: 8443}
	provider := want
	provider.FlowID, provider.Account, provider.Interface = "0000000000000002", "222222222222", "eni-ledger"
	provider.VPC, provider.Subnet, provider.Stage, provider.Side = "vpc-pay", "subnet-pay", "tunnel", "provider"
	provider.Direction, provider.Rule = "ingress", "sgr-in"
	provider.Tuple = api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 40002, DstAddr: "10.0.1.6", DstPort: 8443}
	provider.Translated = api.FlowTuple{SrcAddr: "10.0.1.9", SrcPort: 40002, DstAddr: "10.0.1.6", DstPort: 8443}

	l := labeler()
	timed := consumerFlow(1, 1)
	timed.Handshake, timed.RTT = 1500*time.Microsecond, 800*time.Microsecond+400
	consumer.HandshakeMicros, consumer.RTTMicros = 1500, 800
	if got := l.Flow(&timed); got != consumer {
		t.Errorf("consumer\n got %+v\nwant %+v", got, consumer)
	}
	if got := l.Flow(ptr(providerFlow(2, 1))); got != provider {
		t.Errorf("provider\n got %+v\nwant %+v", got, provider)
	}
}

// Each node knows its own side only; what it needs for the record it finds there.
func TestLabelsOfOneSide(t *testing.T) {
	v, p := testView()
	consumer, provider := v, v
	consumer.ENIs, consumer.Grants = v.ENIs[:1], nil
	provider.ENIs, provider.Endpoints = v.ENIs[1:], nil
	for name, c := range map[string]struct {
		view api.View
		flow Flow
	}{"consumer": {consumer, consumerFlow(1, 1)}, "provider": {provider, providerFlow(1, 1)}} {
		var l Labeler
		l.Add(c.view, p)
		r := l.Flow(&c.flow)
		if r.Side != name || r.ServiceName != "payments/ledger" || r.Approver != "key-9" || r.Interface == "" ||
			!slices.Equal(Accounts(&r), []string{"111111111111", "222222222222"}) || r.ConsumerVPC != "vpc-shop" || r.ProviderVPC != "vpc-pay" {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// A provider that consumes something itself may have the same number there.
func TestLabelsOfEqualNumbers(t *testing.T) {
	v, p := testView()
	other := v.Endpoints[0]
	other.ID, other.Connection, other.ConnectionNumber, other.VPC, other.ProviderVPC = "vpce-2", "vpce-conn-2", 6, 2, 4
	v.Endpoints = append(v.Endpoints, other)
	var l Labeler
	l.Add(v, p)
	for want, in := range map[string]Refusal{
		"vpce-conn-1": {VPC: 2, DestVPC: 1, Tag: 7, Hook: HookTunnel, Reason: "NO_FLOW"},
		"vpce-conn-2": {VPC: 4, DestVPC: 2, Tag: 7, Hook: HookTunnel, Reason: "NO_FLOW"},
	} {
		if r := l.Refusal(&in); r.Connection != want || r.Side != SideConsumer {
			t.Errorf("from VPC %d to %d: connection %q of the %s, want %s of the consumer", in.VPC, in.DestVPC, r.Connection, r.Side, want)
		}
	}
}

func TestLabelsOfARefusal(t *testing.T) {
	for name, c := range map[string]struct {
		in       Refusal
		stage    string
		eni      string
		account  string
		side     string
		conn     string
		accounts []string
	}{
		"nothing there": {
			Refusal{VPC: 1, ENI: 11, Hook: HookWorkload, Dst: ip("10.0.1.99"), Reason: "NO_DESTINATION"},
			"workload", "eni-cart", "111111111111", "", "", []string{"111111111111"},
		},
		"to an endpoint": {
			Refusal{VPC: 1, ENI: 11, Hook: HookWorkload, Dst: ip("10.0.1.200"), Reason: "NO_LISTENER"},
			"workload", "eni-cart", "111111111111", "consumer", "vpce-conn-1", []string{"111111111111", "222222222222"},
		},
		"the same address in another VPC": {
			Refusal{VPC: 2, ENI: 21, Hook: HookWorkload, Dst: ip("10.0.1.200"), Reason: "NO_DESTINATION"},
			"workload", "eni-ledger", "222222222222", "", "", []string{"222222222222"},
		},
		"at the provider, by its tag": {
			Refusal{VPC: 1, DestVPC: 2, ENI: 0, Tag: 7, Hook: HookTunnel, Dst: ip("10.0.1.6"), Reason: "TARGET_NOT_GRANTED"},
			"tunnel", "", "222222222222", "provider", "vpce-conn-1", []string{"111111111111", "222222222222"},
		},
		"at the provider, unknown tag": {
			Refusal{VPC: 1, DestVPC: 2, Tag: 8, Hook: HookTunnel, Dst: ip("10.0.1.6"), Reason: "NO_GRANT"},
			"tunnel", "", "222222222222", "", "", []string{"222222222222"},
		},
		"an answer that nobody asked for": {
			Refusal{VPC: 2, DestVPC: 1, Tag: 7, Hook: HookTunnel, Dst: ip("10.0.1.5"), Reason: "NO_FLOW"},
			"tunnel", "", "111111111111", "consumer", "vpce-conn-1", []string{"111111111111", "222222222222"},
		},
		"to a client's own address": {
			Refusal{VPC: 2, DestVPC: 1, ENI: 21, Tag: 7 | api.TagFamilyIPv4, Hook: HookWorkload, IPv6: true, Reason: "NO_FLOW"},
			"workload", "eni-ledger", "222222222222", "provider", "vpce-conn-1", []string{"111111111111", "222222222222"},
		},
		"to a client of others": {
			Refusal{VPC: 3, DestVPC: 1, Tag: 7, Hook: HookWorkload, IPv6: true, Reason: "NO_FLOW"}, "workload", "", "", "", "", nil,
		},
		"to a client of its own VPC, by somebody who provides nothing": {
			Refusal{VPC: 1, DestVPC: 1, ENI: 11, Tag: 7, Hook: HookWorkload, IPv6: true, Reason: "NO_FLOW"},
			"workload", "eni-cart", "111111111111", "", "", []string{"111111111111"},
		},
		"an answer from a VPC that is not the provider's": {
			Refusal{VPC: 3, DestVPC: 1, Tag: 7, Hook: HookTunnel, Dst: ip("10.0.1.5"), Reason: "NO_FLOW"},
			"tunnel", "", "111111111111", "", "", []string{"111111111111"},
		},
		"no interface at all": {
			Refusal{Hook: HookWorkload, Reason: "UNKNOWN_LINK"}, "workload", "", "", "", "", nil,
		},
	} {
		c.in.Packets, c.in.Bytes = 3, 180
		r := labeler().Refusal(&c.in)
		if r.Action != "REJECT" || r.Reason != c.in.Reason || r.Packets != 3 || r.Bytes != 180 || r.Generation != 3 || r.Stage != c.stage ||
			r.Interface != c.eni || r.Account != c.account || r.Side != c.side || r.Connection != c.conn ||
			!slices.Equal(Accounts(&r), c.accounts) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestLabelsFollowTheGeneration(t *testing.T) {
	var l Labeler
	for g := uint32(1); g <= LabelGenerations+2; g++ {
		v, p := testView()
		p.Generation = g
		v.Endpoints[0].Approver = "key-" + string(rune('a'+g))
		v.Grants = nil
		l.Add(v, p)
	}
	for _, c := range []struct {
		generation uint32
		want       string
	}{{6, "key-g"}, {4, "key-e"}, {3, "key-d"}, {1, "key-g"}, {99, "key-g"}} {
		f := consumerFlow(1, 1)
		f.Generation = c.generation
		if r := l.Flow(&f); r.Approver != c.want {
			t.Errorf("generation %d: %s, want %s", c.generation, r.Approver, c.want)
		}
	}
	if len(l.known) != LabelGenerations {
		t.Errorf("%d generations kept", len(l.known))
	}
	// What only an older generation knows is still found: the interface was taken away.
	l.Add(api.View{}, plan.Plan{Generation: 7})
	f := consumerFlow(1, 1)
	f.Generation = 7
	if r := l.Flow(&f); r.Interface != "eni-cart" || r.ServiceName != "payments/ledger" {
		t.Errorf("%+v", r)
	}
	l.Add(api.View{}, plan.Plan{Generation: 7})
	if len(l.known) != LabelGenerations || l.known[1].generation != 6 {
		t.Error("the same generation twice is one")
	}
}

// A connection that is gone is named in what its flows have left to tell, however many plans came since; its number may be another's then.
func TestLabelsOfAConnectionThatIsGone(t *testing.T) {
	l := labeler()
	f := consumerFlow(1, 1)
	for g := uint32(4); g < 12; g++ {
		l.Add(api.View{}, plan.Plan{Generation: g})
		if r := l.Flow(&f); r.Connection != "vpce-conn-1" || r.Side != SideConsumer {
			t.Fatalf("at generation %d: %+v", g, r)
		}
	}
	v, p := testView()
	v.Endpoints[0].Connection, v.Grants, p.Generation = "vpce-conn-2", nil, 12
	l.Add(v, p)
	if r := l.Flow(&f); r.Connection != "vpce-conn-2" || len(l.past) != 0 {
		t.Errorf("%+v, %v", r, l.past)
	}
	for g := range uint32(maxPast + 9) {
		v.Endpoints[0].ConnectionNumber, p.Generation = 100+g, 13+g
		l.Add(v, p)
	}
	if len(l.past) != maxPast {
		t.Errorf("%d are kept", len(l.past))
	}
}

// A flow to a load balancer inside its VPC is of that load balancer, on both nodes; no endpoint or service has to do with it.
func TestLabelsOfALoadBalancerInside(t *testing.T) {
	v, p := testView()
	lb := api.ViewEndpoint{
		ID: "lb-1", Connection: "lb-1", ConnectionNumber: 6, VPC: 2, ProviderVPC: 2,
		ENIs: []api.ViewEndpointENI{{ENI: "eni-lb", Number: 22, Address: ip("10.0.1.9")}},
		Listeners: []api.ViewListenerPool{{
			Listener: "listener-1", TagNumbers: []api.TagNumber{{ENI: "eni-lb", Listener: "listener-1", Number: 9}},
		}},
	}
	grant := api.ViewGrant{ConsumerVPC: 2, Tag: 9, Connection: "lb-1", ConnectionNumber: 6, Endpoint: "lb-1",
		ConsumerAccount: "222222222222", ProviderVPC: 2}
	client, target := v, v
	client.LoadBalancers, target.LoadBalancerGrants = []api.ViewEndpoint{lb}, []api.ViewGrant{grant}
	sent, received := consumerFlow(1, 1), providerFlow(1, 1)
	for _, f := range []*Flow{&sent, &received} {
		f.VPC, f.SourceVPC, f.DestVPC, f.ENI, f.Tag, f.Connection = 2, 2, 2, 21, 9, 6
	}
	for _, c := range []struct {
		side    string
		view    api.View
		flow    Flow
		refusal Refusal
	}{
		{"consumer", client, sent, Refusal{VPC: 2, ENI: 21, Hook: HookWorkload, Dst: ip("10.0.1.9"), Reason: "LB_GROUP_INGRESS"}},
		{"provider", target, received, Refusal{VPC: 2, DestVPC: 2, Tag: 9, Hook: HookTunnel, Dst: ip("10.0.1.6"), Reason: "GROUP_INGRESS"}},
	} {
		var l Labeler
		l.Add(c.view, p)
		for _, r := range []api.FlowRecord{l.Flow(&c.flow), l.Refusal(&c.refusal)} {
			if r.Side != c.side || r.Connection != "lb-1" || r.Endpoint+r.Service+r.ServiceName+r.Approver != "" ||
				r.ConsumerVPC != "vpc-pay" || r.ProviderVPC != "vpc-pay" || !slices.Equal(Accounts(&r), []string{"222222222222"}) {
				t.Errorf("%s: %+v", c.side, r)
			}
		}
	}
}
