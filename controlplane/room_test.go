package controlplane

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/controlplane/view"
	"github.com/culvert-net/culvert/plan"
)

// crowd puts interfaces of a type into a VPC behind the server's back, on a node unless that is "".
func (l *lab) crowd(vpc, node string, typ api.ENIType, n int) {
	l.t.Helper()
	v := find1(l.s.Resources().VPCs, vpc)
	used := map[netip.Addr]bool{}
	for _, e := range l.s.Resources().ENIs {
		used[e.Address] = used[e.Address] || e.VPC == v.ID
	}
	address := netip.MustParseAddr("10.0.16.0") // none of the subnets
	l.txn(func(tx *store.Tx) {
		for range n {
			for address = address.Next(); used[address]; address = address.Next() {
			}
			e := &api.ENI{Meta: api.Meta{ID: newID("eni-"), Account: v.Account}, Type: typ, VPC: v.ID, Address: address,
				Subnet: find1(tx.Resources().Subnets, vpc+"-a").ID, SecurityGroups: []string{}}
			if node != "" {
				e.Node = find1(tx.Resources().Nodes, node).ID
			}
			e.Number, _ = tx.Number(api.KindENI)
			tx.Put(e)
		}
	})
}

// ofNodes is what a tenant is not to learn of nodes: their names and how much they hold. As words, for ids may have such digits in them.
var ofNodes = regexp.MustCompile(`host-|\b(256|2048)\b`)

// full checks a refusal for want of room: its field, and that its message says how many there may be.
func full(t *testing.T, err error, field, says string) {
	t.Helper()
	if e := wantCode(t, err, api.CodeLimitExceeded); e.Field != field || !strings.Contains(e.Message, says) || e.Remedy == "" {
		t.Errorf("got %v, want the field %q and %q", e, field, says)
	}
}

func TestAnAccountHasAShareOfANode(t *testing.T) {
	l := mesh(t, nil)
	shop, pay, admin := l.as("shop"), l.as("pay"), l.client(l.adminKey, "shop")
	on := func(c *client.Client, subnet, node string) error {
		_, err := c.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: subnet, Node: node})
		return err
	}
	l.crowd("shop", "host-a", api.ENIWorkload, api.MaxENIsPerNodeAndAccount-2) // cart is there too
	if err := on(shop, "shop-b", "host-a"); err != nil {
		t.Fatal(err)
	}
	before := l.s.Resources()
	full(t, on(shop, "shop-b", "host-a"), "nodeId", "share of a node is 256")
	if l.s.Resources() != before {
		t.Error("something changed")
	}
	// Nor by the other door; others have their share; the account has room elsewhere; an administrator may go beyond.
	other := must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-b", Node: "host-b"}))(t)
	_, err := shop.BindENI(l.ctx(), other.ID, "host-a")
	full(t, err, "nodeId", "share of a node is 256")
	if err := on(pay, "pay-b", "host-a"); err != nil {
		t.Error(err)
	}
	if err := on(admin, "shop-b", "host-a"); err != nil {
		t.Error(err)
	}
}

func TestANodeIsNotFilledBeyondWhatItHolds(t *testing.T) {
	l := mesh(t, nil)
	l.crowd("shop", "host-a", api.ENIWorkload, plan.MaxENIs-1)
	_, err := l.client(l.adminKey, "pay").CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Node: "host-a"})
	full(t, err, "nodeId", "holds at most 1024")
	if _, err := l.as("pay").CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Node: "host-b"}); err != nil {
		t.Error(err)
	}
}

func TestAddressesOfANodesVPCs(t *testing.T) {
	l := mesh(t, nil)
	shop := l.as("shop")
	l.network(shop, "large")
	l.crowd("large", "", api.ENIWorkload, api.MaxAddressesPerNodeAndAccount-1)
	// To bring the large VPC to the node that hosts a part of another is too much; so is growing one that is there.
	_, err := shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "large-a", Address: netip.MustParseAddr("10.0.1.200"), Node: "host-a"})
	full(t, err, "nodeId", "share of a node is 16384")
	r := l.s.Resources()
	l.crowd("large", "host-b", api.ENIWorkload, 1)
	if find1(r.VPCs, "large") == nil {
		t.Fatal("no VPC")
	}
	_, err = shop.CreateLoadBalancer(l.ctx(), api.CreateLoadBalancerRequest{VPC: "large"})
	full(t, err, "", "16384") // the VPC itself is full
	l.txn(func(tx *store.Tx) {
		gone := 0
		for _, e := range tx.Resources().ENIs {
			if gone < 8 && e.VPC == find1(r.VPCs, "large").ID && e.Node == "" {
				tx.Remove(e)
				gone++
			}
		}
	})
	l.crowd("shop", "host-b", api.ENIWorkload, 8)
	_, err = shop.CreateLoadBalancer(l.ctx(), api.CreateLoadBalancerRequest{VPC: "large"})
	full(t, err, "subnetIds", "share of a node is 16384")
	_, err = shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "large-b"})
	full(t, err, "subnetId", "share of a node is 16384")
}

// busy makes Available connections of shop's VPC to pay's service, each with as many addresses as shop's endpoint, that count as
// those of a consumer: to others like it too, where it is more than one consumer may have to one.
func (l *lab) busy(consumer string, n int) {
	r := l.s.Resources()
	e, con := find1(r.Endpoints, "ledger"), find1(r.Connections, "ledger")
	l.txn(func(tx *store.Tx) {
		s := *find1(tx.Resources().Services, "ledger")
		for i := range n {
			if i%100 == 99 {
				s.ID, s.Name = newID("vpce-svc-"), ""
				other := s
				tx.Put(&other)
			}
			e, con := *e, *con
			e.Service, con.Service = s.ID, s.ID
			e.ID, con.ID = newID("vpce-"), newID("vpce-con-")
			e.Account, con.EndpointAccount = l.account(consumer), l.account(consumer)
			e.State, con.State = api.Available, api.Available
			e.Connection, con.Endpoint, e.Name, con.Name, con.TagNumbers = con.ID, e.ID, "", "", nil
			tx.Put(&e)
			tx.Put(&con)
		}
	})
}

// asked makes shop's endpoints "ledger" and "second" at pay's service, which wait for acceptance.
func (l *lab) asked() {
	for _, name := range []string{"ledger", "second"} {
		must(l.as("shop").CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: name}))(l.t)
	}
	l.txn(func(tx *store.Tx) { // shop's workload goes elsewhere, so that its nodes have no part in this
		e := *find1(tx.Resources().ENIs, "cart")
		e.Node = ""
		tx.Put(&e)
	})
}

// One consumer does not keep the others from a provider, neither with what was accepted nor with what waits.
func TestAConsumersPartOfAProvidersNode(t *testing.T) {
	l := mesh(t, nil)
	shop, pay, admin := l.as("shop"), l.as("pay"), l.client(l.adminKey, "pay")
	l.asked()
	l.network(shop, "other")
	l.busy("shop", api.MaxGrantsPerNodeAndAccount/4/2) // two addresses each
	before := l.s.Resources()
	_, err := pay.AcceptConnections(l.ctx(), "ledger", []string{"second"})
	full(t, err, "endpointIds", "a consumer has at most 2048")
	if l.s.Resources() != before {
		t.Error("something changed")
	}
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "other", Service: "pay/ledger", Name: "third"}))(t) // it waits
	// Without acceptance it is the consumer who is refused, and learns nothing of the nodes.
	l.txn(func(tx *store.Tx) {
		s := *find1(tx.Resources().Services, "ledger")
		s.AcceptanceRequired = false
		tx.Put(&s)
	})
	_, err = shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "other", Service: "pay/ledger"})
	full(t, err, "service", "a consumer's part")
	if ofNodes.MatchString(err.Error()) {
		t.Errorf("the consumer learns %v", err)
	}
	must(admin.AcceptConnections(l.ctx(), "ledger", []string{"second"}))(t)
	l.busy("stranger", 1) // others have room
	c := &call{s: l.s, r: l.s.Resources(), who: &caller{key: &api.APIKey{}}, account: l.account("pay")}
	for _, con := range c.r.Connections {
		if con.EndpointAccount == l.account("stranger") {
			if err := c.roomForConnection(con, "a", "b"); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestGrantsOfAProvidersNode(t *testing.T) {
	l := mesh(t, nil)
	pay := l.as("pay")
	l.asked()
	for consumer, less := range map[string]int{"stranger": 0, "c": 0, "d": 0, "e": 1} { // with its own VPC's the share is full
		l.as(consumer)
		l.busy(consumer, api.MaxGrantsPerNodeAndAccount/4/2-less)
	}
	before := l.s.Resources()
	_, err := pay.AcceptConnections(l.ctx(), "ledger", []string{"second"})
	full(t, err, "endpointIds", "share of a node is 8192")
	_, err = pay.CreateListener(l.ctx(), "ledger", api.ListenerRequest{Protocol: api.TCP, Port: 8443, TargetGroup: "ledger"})
	full(t, err, "targetGroupId", "share of a node is 8192")
	if l.s.Resources() != before {
		t.Error("something changed")
	}
	third := must(pay.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "third", Node: "host-a"}))(t)
	must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: third.ID}}))(t) // as many grants on the other node
	for port := uint16(1); port < 4; port++ {
		must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: third.ID, Port: port}}))(t)
	}
	_, err = pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: third.ID, Port: 4}})
	full(t, err, "targets", "share of a node is 32768")
}

func TestTheOtherSideIsFull(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "second"}))(t)
	must(pay.RejectConnections(l.ctx(), "ledger", []string{"second"}))(t)
	l.network(shop, "other")
	var second api.Connection
	for _, con := range must(pay.ListConnections(l.ctx(), "ledger"))(t) {
		if con.Name == "second" {
			second = con
		}
	}
	c := &call{s: l.s, r: l.s.Resources(), who: &caller{key: &api.APIKey{}}, account: l.account("pay")}
	if err := c.roomForConnection(&second, "a", "b"); err != nil {
		t.Fatal(err)
	}
	l.busy("stranger", api.MaxServicesPerNodeAndAccount/2+1) // more than shop's share of host-a, less than pay's share of host-b
	c.r = l.s.Resources()
	err := c.roomForConnection(&second, "a", "b")
	full(t, err, "a", second.Endpoint)
	if ofNodes.MatchString(err.Error()) {
		t.Errorf("the provider learns %v", err)
	}
	c.account = l.account("shop")
	full(t, c.roomForConnection(&second, "vpcId", "b"), "vpcId", "share of a node is 4096")
}

// What the server counts is what the node's view holds.
func TestLoadsAreThoseOfTheView(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	must(pay.CreateListener(l.ctx(), "ledger", api.ListenerRequest{Protocol: api.TCP, Port: 8443, TargetGroup: "ledger"}))(t)
	must(pay.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "third", Node: "host-a"}))(t)
	must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "third"}, {ENI: "third", Port: 99}}))(t)
	must(pay.DeregisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "third", Port: 99}}))(t) // drains
	for _, name := range []string{"one", "two"} {
		must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: name, PrivateDNSEnabled: name == "one"}))(t)
		must(pay.AcceptConnections(l.ctx(), "ledger", []string{name}))(t)
	}
	r := l.s.Resources()
	counted := newLoads(r)
	for _, n := range r.Nodes {
		var all load
		for _, o := range counted.of(n.ID) {
			all.add(o)
		}
		v := view.Compute(r, n.ID)
		want := load{enis: len(v.ENIs), addresses: len(v.Addresses), grants: len(v.Grants) + len(v.LoadBalancerGrants), names: all.names}
		for _, e := range slices.Concat(v.Endpoints, v.LoadBalancers) {
			want.services += len(e.ENIs) * len(e.Listeners)
		}
		for _, g := range slices.Concat(v.Grants, v.LoadBalancerGrants) {
			want.targets += len(g.Targets) + len(g.Draining)
		}
		if all != want || all.names < len(v.Names) {
			t.Errorf("%s: counted %+v, its view holds %+v and %d names", n.Name, all, want, len(v.Names))
		}
	}
}

// listeners are as many as a load balancer may have, all for one target group.
func listeners(group string) []api.ListenerRequest {
	var out []api.ListenerRequest
	for i := range api.MaxListenersPerLB {
		out = append(out, api.ListenerRequest{Protocol: api.TCP, Port: uint16(i + 1), TargetGroup: group})
	}
	return out
}

// Load balancers are something to their own VPC, also while no endpoint leads to them.
func TestLoadBalancersShareOfANode(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	must(shop.CreateTargetGroup(l.ctx(), api.CreateTargetGroupRequest{VPC: "shop", Name: "none", Protocol: api.TCP, Port: 1}))(t)
	many := func(n int) error {
		_, err := shop.CreateLoadBalancer(l.ctx(), api.CreateLoadBalancerRequest{VPC: "shop", Listeners: listeners("none")[:n]})
		return err
	}
	const two = 2 // interfaces, one in each zone
	for range api.MaxServicesPerNodeAndAccount / api.MaxListenersPerLB / two {
		if err := many(api.MaxListenersPerLB); err != nil {
			t.Fatal(err)
		}
	}
	before := l.s.Resources()
	full(t, many(api.MaxListenersPerLB), "listeners", "share of a node is 4096")
	if l.s.Resources() != before {
		t.Error("something changed")
	}
	if err := many(api.MaxServicesPerNodeAndAccount/two%api.MaxListenersPerLB - 1); err != nil {
		t.Fatal(err)
	}
	last := must(shop.CreateLoadBalancer(l.ctx(), api.CreateLoadBalancerRequest{VPC: "shop", Name: "last", Listeners: listeners("none")[:1]}))(t)
	_, err := shop.CreateListener(l.ctx(), last.ID, api.ListenerRequest{Protocol: api.TCP, Port: 99, TargetGroup: "none"})
	full(t, err, "targetGroupId", "share of a node is 4096")
	must(pay.CreateLoadBalancer(l.ctx(), api.CreateLoadBalancerRequest{VPC: "pay", Listeners: listeners("ledger")}))(t)
}

// A group of many targets behind many listeners fills neither the grants of its node nor the view, which every tenant of a node needs.
func TestTargetsOfLoadBalancers(t *testing.T) {
	l := mesh(t, nil)
	pay := l.as("pay")
	for at := 0; at < api.MaxTargetsPerGroup; at += api.MaxItemsPerRequest {
		var more []api.TargetRequest
		for port := range api.MaxItemsPerRequest - 1 {
			more = append(more, api.TargetRequest{ENI: "ledger", Port: uint16(1000 + at + port)})
		}
		must(pay.RegisterTargets(l.ctx(), "ledger", more))(t)
	}
	_, err := pay.CreateLoadBalancer(l.ctx(), api.CreateLoadBalancerRequest{VPC: "pay", Listeners: listeners("ledger")})
	full(t, err, "listeners", "share of a node is 32768")
}

// What an account has beyond its share by another's doing takes nothing from the rest.
func TestServicesBeyondAShare(t *testing.T) {
	l := mesh(t, nil)
	shop, pay, stranger := l.as("shop"), l.as("pay"), l.as("stranger")
	l.offer(pay, "pay", "small", "host-b", "stranger")
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	l.txn(func(tx *store.Tx) { // shop's node would hold no more services
		b := *find1(tx.Resources().LoadBalancers, "ledger")
		for port := uint16(1000); len(b.Listeners) <= plan.MaxServices/2; port++ {
			b.Listeners = append(b.Listeners, api.Listener{ID: newID(api.PrefixListener), Protocol: api.TCP, Port: port, TargetGroup: "none"})
		}
		tx.Put(&b)
	})
	l.network(stranger, "other")
	must(stranger.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "other-a", Node: "host-a"}))(t)
	must(stranger.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "other", Service: "pay/small", Name: "small"}))(t)
	must(pay.AcceptConnections(l.ctx(), "small", []string{"small"}))(t)
}

// A service's names are its consumers' too: giving it more is refused where they would have more of a node than their share.
func TestNamesOfAServiceShareOfANode(t *testing.T) {
	l := mesh(t, nil)
	shop, pay, admin := l.as("shop"), l.as("pay"), l.client(l.adminKey, "pay")
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	const each = 2 * (4 + 1) // two addresses
	l.busy("shop", api.MaxNamesPerNodeAndAccount/each-2)
	names := func(n int) *[]string {
		list := []string{}
		for i := range n {
			list = append(list, string(rune('a'+i))+".pay.internal")
		}
		return &list
	}
	give := func(c *client.Client, n int) error {
		_, err := c.ModifyService(l.ctx(), "ledger", api.ModifyServiceRequest{PrivateDNSNames: names(n)})
		return err
	}
	before := l.s.Resources()
	err := give(pay, api.MaxPrivateNamesPerService)
	full(t, err, "privateDnsNames", "would have more names than its VPC's nodes hold")
	if ofNodes.MatchString(err.Error()) || strings.Contains(err.Error(), "16384") {
		t.Errorf("the provider learns %v", err)
	}
	if l.s.Resources() != before {
		t.Error("something changed")
	}
	for _, n := range []int{0, 1} {
		if err := give(pay, n); err != nil {
			t.Errorf("%d names: %v", n, err)
		}
	}
	if err := give(admin, api.MaxPrivateNamesPerService); err != nil {
		t.Error(err)
	}
	if err := give(pay, api.MaxPrivateNamesPerService-1); err != nil {
		t.Errorf("fewer names are refused: %v", err)
	}
}

// What an account has of names beyond its share, by a provider's doing, takes nothing from the rest.
func TestNamesBeyondAShare(t *testing.T) {
	l := mesh(t, nil)
	shop, pay, stranger := l.as("shop"), l.as("pay"), l.as("stranger")
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	l.txn(func(tx *store.Tx) {
		s := *find1(tx.Resources().Services, "ledger")
		s.PrivateDNSNames = slices.Repeat([]string{"ledger.pay.internal"}, plan.MaxNames/2)
		tx.Put(&s)
	})
	l.network(stranger, "other")
	must(stranger.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "other-a", Node: "host-a"}))(t)
}

// One consumer has a quarter of a service's connections, whatever became of them, so that others find room.
func TestConnectionsOfAService(t *testing.T) {
	l := mesh(t, nil)
	shop, pay, stranger := l.as("shop"), l.as("pay"), l.as("stranger")
	must(pay.AllowPrincipals(l.ctx(), "ledger", []string{"*"}))(t)
	l.network(stranger, "other")
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(pay.RejectConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	l.txn(func(tx *store.Tx) { // of other VPCs of shop's
		con := find1(tx.Resources().Connections, "ledger")
		for range api.MaxConnectionsPerService/4 - 1 {
			n := *con
			n.ID, n.TagNumbers, n.EndpointVPC = newID("vpce-con-"), nil, newID("vpc-")
			tx.Put(&n)
		}
	})
	before := l.s.Resources()
	_, err := shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger"})
	full(t, err, "service", "at most 500 are allowed")
	if l.s.Resources() != before {
		t.Error("something changed")
	}
	must(stranger.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "other", Service: "pay/ledger"}))(t)
}
