package judge_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/judge"
)

var all = netip.MustParsePrefix("0.0.0.0/0")

// shop and pay have the same addresses. cart and till are shop's workloads, ledger is pay's; shop has an endpoint at
// 10.0.1.200 to pay's service at 10.0.1.9.
func mesh() *api.Resources {
	r := api.NewResources()
	r.Mesh.Number = 0x6a7564
	meta := func(id, account string) api.Meta {
		return api.Meta{ID: id, Account: account, Name: id, CreatedAt: time.Unix(0, 0)}
	}
	r.Put(&api.Node{Meta: meta("node-a", ""), State: api.NodeReady})
	r.Put(&api.Node{Meta: meta("node-b", ""), State: api.NodeReady})
	for i, name := range []string{"shop", "pay"} {
		r.Put(&api.Account{Meta: meta("account-"+name, "")})
		r.Put(&api.VPC{Meta: meta("vpc-"+name, "account-"+name), CIDR: netip.MustParsePrefix("10.0.0.0/16"), Number: uint32(i + 1)})
		r.Put(&api.Subnet{Meta: meta("subnet-"+name, ""), VPC: "vpc-" + name, CIDR: netip.MustParsePrefix("10.0.1.0/24"), Zone: "a"})
	}
	group := func(id, vpc string, in ...api.Rule) {
		r.Put(&api.SecurityGroup{Meta: meta(id, ""), VPC: vpc, Ingress: in, Egress: []api.Rule{{ID: "out", Protocol: api.All, CIDR: all}}})
	}
	group("sg-shop", "vpc-shop", api.Rule{ID: "self", Protocol: api.All, Group: "sg-shop"})
	group("sg-vpce", "vpc-shop", api.Rule{ID: "https", Protocol: api.TCP, FromPort: 443, ToPort: 443, Group: "sg-shop"})
	group("sg-ledger", "vpc-pay", api.Rule{ID: "from-lb", Protocol: api.TCP, FromPort: 8443, ToPort: 8443, Group: "sg-lb"})
	group("sg-lb", "vpc-pay", api.Rule{ID: "lb", Protocol: api.TCP, FromPort: 443, ToPort: 443, CIDR: all})
	eni := func(id string, typ api.ENIType, name, address, group, node, owner string) {
		r.Put(&api.ENI{
			Meta: meta(id, ""), Type: typ, VPC: "vpc-" + name, Subnet: "subnet-" + name, Address: netip.MustParseAddr(address),
			SecurityGroups: []string{group}, Node: node, Owner: owner,
		})
	}
	eni("cart", api.ENIWorkload, "shop", "10.0.1.5", "sg-shop", "node-a", "")
	eni("till", api.ENIWorkload, "shop", "10.0.1.7", "sg-shop", "node-b", "")
	eni("ledger", api.ENIWorkload, "pay", "10.0.1.5", "sg-ledger", "node-b", "")
	eni("vpce", api.ENIEndpoint, "shop", "10.0.1.200", "sg-vpce", "", "vpce-1")
	eni("front", api.ENILoadBalancer, "pay", "10.0.1.9", "sg-lb", "", "lb-1")
	r.Put(&api.TargetGroup{Meta: meta("tg-1", ""), VPC: "vpc-pay", Protocol: api.TCP, Port: 8443, Targets: []api.Target{{ENI: "ledger", Weight: 100}}})
	r.Put(&api.LoadBalancer{
		Meta: meta("lb-1", ""), VPC: "vpc-pay", SecurityGroups: []string{"sg-lb"}, ENIs: []string{"front"},
		Listeners: []api.Listener{{ID: "l-1", Protocol: api.TCP, Port: 443, TargetGroup: "tg-1"}},
		CrossZone: true, Number: 9, TagNumbers: []api.TagNumber{{ENI: "front", Listener: "l-1", Number: 3}},
	})
	r.Put(&api.Service{
		Meta: meta("ledger-svc", "account-pay"), LoadBalancers: []string{"lb-1"}, PrivateDNSName: "*.pay.internal", State: api.ServiceAvailable,
	})
	r.Put(&api.Endpoint{
		Meta: meta("vpce-1", "account-shop"), VPC: "vpc-shop", Service: "ledger-svc", ENIs: []string{"vpce"}, Connection: "con-1",
		State: api.Available, PrivateDNSEnabled: true, SecurityGroups: []string{"sg-vpce"},
	})
	r.Put(&api.Connection{
		Meta: meta("con-1", "account-pay"), Endpoint: "vpce-1", EndpointVPC: "vpc-shop", Service: "ledger-svc", LoadBalancer: "lb-1",
		State: api.Available, TagNumbers: []api.TagNumber{{ENI: "vpce", Listener: "l-1", Number: 5}},
	})
	return r
}

var viaEndpoint = judge.Packet{From: "cart", To: netip.MustParseAddr("10.0.1.200"), Protocol: api.TCP, Port: 443}

func TestTruthTable(t *testing.T) {
	to := func(from, address string, p api.Protocol, port uint16) judge.Packet {
		return judge.Packet{From: from, To: netip.MustParseAddr(address), Protocol: p, Port: port}
	}
	cases := map[string]struct {
		change func(*api.Resources)
		packet judge.Packet
		reason string
	}{
		"endpoint":           {nil, viaEndpoint, judge.Forwarded},
		"neighbour":          {nil, to("cart", "10.0.1.7", api.TCP, 22), judge.Forwarded},
		"ping":               {nil, to("cart", "10.0.1.7", api.ICMP, 0), judge.Forwarded},
		"resolver":           {nil, to("cart", "10.0.0.2", api.UDP, 53), judge.Forwarded},
		"subnet's resolver":  {nil, to("cart", "10.0.1.2", api.TCP, 53), judge.Forwarded},
		"link-local":         {nil, to("ledger", "169.254.169.253", api.UDP, 53), judge.Forwarded},
		"resolver's port":    {nil, to("cart", "10.0.0.2", api.UDP, 123), judge.HostNotAdmitted},
		"resolver's ping":    {nil, to("cart", "10.0.0.2", api.ICMP, 0), judge.HostNotAdmitted},
		"node":               {nil, to("node-a", "10.0.1.5", api.TCP, 443), judge.HostNotAdmitted},
		"nobody":             {nil, to("ghost", "10.0.1.5", api.TCP, 443), judge.UnknownLink},
		"endpoint as source": {nil, to("vpce", "10.0.1.5", api.TCP, 443), judge.UnknownLink},
		"unknown protocol":   {nil, to("cart", "10.0.1.7", "sctp", 443), judge.Protocol},
		"itself":             {nil, to("cart", "10.0.1.5", api.TCP, 443), judge.NoDestination},
		"nowhere":            {nil, to("cart", "10.0.1.99", api.TCP, 443), judge.NoDestination},
		"other VPC's LB":     {nil, to("cart", "10.0.1.9", api.TCP, 443), judge.NoDestination},
		"own LB":             {nil, to("ledger", "10.0.1.9", api.TCP, 443), judge.Forwarded},
		"own LB's port":      {nil, to("ledger", "10.0.1.9", api.TCP, 444), judge.LBGroupIngress},
		"own LB, no groups": {func(r *api.Resources) { r.LoadBalancers["lb-1"].SecurityGroups = nil }, to("ledger", "10.0.1.9", api.TCP, 444),
			judge.NoListener},
		"own LB, no egress": {func(r *api.Resources) { r.SecurityGroups["sg-ledger"].Egress = nil }, to("ledger", "10.0.1.9", api.TCP, 443),
			judge.GroupEgress},
		"own LB, by group": {func(r *api.Resources) {
			r.SecurityGroups["sg-lb"].Ingress = []api.Rule{{ID: "self", Protocol: api.All, Group: "sg-ledger"}}
		}, to("ledger", "10.0.1.9", api.TCP, 443), judge.Forwarded},
		"own LB, other group": {func(r *api.Resources) {
			r.SecurityGroups["sg-lb"].Ingress = []api.Rule{{ID: "self", Protocol: api.All, Group: "sg-lb"}}
		}, to("ledger", "10.0.1.9", api.TCP, 443), judge.LBGroupIngress},
		"own LB, no number": {func(r *api.Resources) { r.LoadBalancers["lb-1"].Number = 0 }, to("ledger", "10.0.1.9", api.TCP, 443),
			judge.NoListener},
		"own LB that tells": {func(r *api.Resources) { r.Services["ledger-svc"].ClientIdentity = api.IdentityProxyProtocol },
			to("ledger", "10.0.1.9", api.TCP, 443), judge.NoListener},
		"weight 0":         {func(r *api.Resources) { r.TargetGroups["tg-1"].Targets[0].Weight = 0 }, viaEndpoint, judge.NoTarget},
		"provider to shop": {nil, to("ledger", "10.0.1.7", api.TCP, 443), judge.NoDestination},
		"provider to vpce": {nil, to("ledger", "10.0.1.200", api.TCP, 443), judge.NoDestination},
		"other port":       {nil, to("cart", "10.0.1.200", api.TCP, 444), judge.EndpointGroup},
		"udp":              {nil, to("cart", "10.0.1.200", api.UDP, 443), judge.EndpointGroup},
		"unbound source":   {func(r *api.Resources) { r.ENIs["cart"].Node = "" }, viaEndpoint, judge.UnknownLink},
		"revoked source":   {func(r *api.Resources) { r.Nodes["node-a"].State = api.NodeRevoked }, viaEndpoint, judge.NoState},
		"draining source":  {func(r *api.Resources) { r.Nodes["node-a"].State = api.NodeDraining }, viaEndpoint, judge.Forwarded},
		"revoked target":   {func(r *api.Resources) { r.Nodes["node-b"].State = api.NodeRevoked }, viaEndpoint, judge.NoTarget},
		"revoked neighbour": {func(r *api.Resources) { r.Nodes["node-b"].State = api.NodeRevoked }, to("cart", "10.0.1.7", api.TCP, 22),
			judge.NotHere},
		"no egress":       {func(r *api.Resources) { r.SecurityGroups["sg-shop"].Egress = nil }, viaEndpoint, judge.GroupEgress},
		"no ingress":      {func(r *api.Resources) { r.SecurityGroups["sg-ledger"].Ingress = nil }, viaEndpoint, judge.GroupIngress},
		"neighbour's":     {func(r *api.Resources) { r.SecurityGroups["sg-shop"].Ingress = nil }, to("cart", "10.0.1.7", api.TCP, 22), judge.GroupIngress},
		"LB ingress":      {func(r *api.Resources) { r.SecurityGroups["sg-lb"].Ingress = nil }, viaEndpoint, judge.LBGroupIngress},
		"LB egress":       {func(r *api.Resources) { r.SecurityGroups["sg-lb"].Egress = nil }, viaEndpoint, judge.LBGroupEgress},
		"LB no groups":    {func(r *api.Resources) { r.LoadBalancers["lb-1"].SecurityGroups = nil }, viaEndpoint, judge.Forwarded},
		"no listener":     {func(r *api.Resources) { r.LoadBalancers["lb-1"].Listeners = nil }, viaEndpoint, judge.NoListener},
		"no number":       {func(r *api.Resources) { r.Connections["con-1"].TagNumbers = nil }, viaEndpoint, judge.NoListener},
		"no target":       {func(r *api.Resources) { r.TargetGroups["tg-1"].Targets = nil }, viaEndpoint, judge.NoTarget},
		"foreign target":  {func(r *api.Resources) { r.TargetGroups["tg-1"].Targets[0].ENI = "till" }, viaEndpoint, judge.NoTarget},
		"no front":        {func(r *api.Resources) { r.LoadBalancers["lb-1"].ENIs = nil }, viaEndpoint, judge.TargetNotGranted},
		"other endpoint":  {func(r *api.Resources) { r.Connections["con-1"].Endpoint = "vpce-2" }, viaEndpoint, judge.NoListener},
		"other VPC's":     {func(r *api.Resources) { r.Connections["con-1"].EndpointVPC = "vpc-pay" }, viaEndpoint, judge.NoListener},
		"other service's": {func(r *api.Resources) { r.Connections["con-1"].Service = "svc-2" }, viaEndpoint, judge.NoListener},
		"no owner":        {func(r *api.Resources) { r.ENIs["vpce"].Owner = "" }, viaEndpoint, judge.NoListener},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := mesh()
			if c.change != nil {
				c.change(r)
			}
			v := judge.Judge(r, c.packet)
			if v.Reason != c.reason || v.Allowed != (c.reason == judge.Forwarded) {
				t.Errorf("%+v, want %s", v, c.reason)
			}
		})
	}
}

func TestOnlyAvailableConnectionsCarry(t *testing.T) {
	for _, state := range api.ConnectionStates {
		r := mesh()
		r.Connections["con-1"].State = state
		v := judge.Judge(r, viaEndpoint)
		if v.Allowed != (state == api.Available) {
			t.Errorf("%s: %+v", state, v)
		}
		if names := judge.Resolve(r, "vpc-shop", "a.pay.internal"); (len(names) > 0) != (state == api.Available) {
			t.Errorf("%s: %+v", state, names)
		}
	}
}

func TestWhatAVerdictTells(t *testing.T) {
	r := mesh()
	v := judge.Judge(r, viaEndpoint)
	if v.Via != "vpce-1" || v.Connection != "con-1" || v.Rule != "from-lb" || v.To != "ledger" || v.Port != 8443 ||
		v.Source != netip.MustParseAddr("10.0.1.9") || len(v.Targets) != 1 {
		t.Errorf("%+v", v)
	}
	// A second target that lets nobody in: one of the two can be reached, and each has its own verdict.
	second := *r.ENIs["ledger"]
	second.ID, second.Address, second.SecurityGroups = "books", netip.MustParseAddr("10.0.1.6"), nil
	r.Put(&second)
	r.TargetGroups["tg-1"].Targets = append(r.TargetGroups["tg-1"].Targets, api.Target{ENI: "books", Port: 9, Weight: 100})
	if v = judge.Judge(r, viaEndpoint); !v.Allowed || v.To != "ledger" || len(v.Targets) != 2 {
		t.Errorf("%+v", v)
	}
	asked := viaEndpoint
	asked.Target = "books"
	if v = judge.Judge(r, asked); v.Allowed || v.Reason != judge.LBGroupEgress && v.Reason != judge.GroupIngress || v.Port != 9 {
		t.Errorf("%+v", v)
	}
	// Draining nodes get new flows only when there are no others.
	r.Put(&api.Node{Meta: api.Meta{ID: "node-c"}, State: api.NodeDraining})
	r.ENIs["ledger"].Node = "node-c"
	if v = judge.Judge(r, viaEndpoint); len(v.Targets) != 1 || v.Targets[0].To != "books" {
		t.Errorf("%+v", v)
	}
}

func TestNames(t *testing.T) {
	r := mesh()
	vip := []netip.Addr{netip.MustParseAddr("10.0.1.200")}
	regional := "vpce-1.ledger-svc.account-pay." + api.ReservedDomain
	for name, want := range map[string]bool{
		regional: true, "VPCE-1-a.Ledger-svc.account-pay.vpce.culvert.internal.": true, "a.pay.internal": true, "b.a.pay.internal": true,
		"pay.internal": false, "internal": false, "a.repay.internal": false, "x." + regional: false, "vpce-1-b" + regional[6:]: false,
	} {
		got := judge.Resolve(r, "vpc-shop", name)
		if want != (len(got) == 1 && got[0].Endpoint == "vpce-1" && slices.Equal(got[0].Addresses, vip)) || !want && len(got) > 0 {
			t.Errorf("%s: %+v, want an answer: %t", name, got, want)
		}
		if other := judge.Resolve(r, "vpc-pay", name); len(other) != 0 {
			t.Errorf("%s means %+v in the provider's VPC", name, other)
		}
	}
	r.Services["ledger-svc"].PrivateDNSName = "pay.internal"
	if got := judge.Resolve(r, "vpc-shop", "pay.internal"); len(got) != 1 || got[0].Wildcard {
		t.Errorf("%+v", got)
	}
	if got := judge.Resolve(r, "vpc-shop", "a.pay.internal"); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	r.Endpoints["vpce-1"].PrivateDNSEnabled = false
	if got := judge.Resolve(r, "vpc-shop", "pay.internal"); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

// Nothing given, nothing allowed: any part taken out of the picture never lets a packet through that the whole refuses.
func TestLessNeverAllowsMore(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		whole, part := mesh(), mesh()
		for range rapid.IntRange(1, 4).Draw(rt, "parts") {
			take(rt, part)
		}
		p := judge.Packet{
			From:     rapid.SampledFrom([]string{"cart", "till", "ledger", "vpce", "front", "node-a"}).Draw(rt, "from"),
			To:       netip.AddrFrom4([4]byte{10, 0, 1, rapid.SampledFrom([]byte{2, 5, 6, 7, 9, 200}).Draw(rt, "to")}),
			Protocol: rapid.SampledFrom([]api.Protocol{api.TCP, api.UDP, api.ICMP}).Draw(rt, "protocol"),
			Port:     rapid.SampledFrom([]uint16{0, 53, 443, 8443}).Draw(rt, "port"),
		}
		if v := judge.Judge(part, p); v.Allowed && !judge.Judge(whole, p).Allowed {
			rt.Fatalf("%+v: %+v", p, v)
		}
		if v := judge.Judge(api.NewResources(), p); v.Allowed {
			rt.Fatalf("%+v without any resources: %+v", p, v)
		}
	})
}

func take(rt *rapid.T, r *api.Resources) {
	switch rapid.IntRange(0, 7).Draw(rt, "kind") {
	case 0:
		drop(rt, r.ENIs)
	case 1:
		drop(rt, r.SecurityGroups)
	case 2:
		drop(rt, r.Nodes)
	case 3:
		drop(rt, r.Connections)
	case 4:
		drop(rt, r.Services)
	case 5:
		drop(rt, r.TargetGroups)
	case 6:
		drop(rt, r.Endpoints)
	case 7:
		drop(rt, r.VPCs)
	}
}

func drop[R any](rt *rapid.T, all map[string]R) {
	var ids []string
	for id := range all {
		ids = append(ids, id)
	}
	if slices.Sort(ids); len(ids) > 0 {
		delete(all, rapid.SampledFrom(ids).Draw(rt, "dropped"))
	}
}
