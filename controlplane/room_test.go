package controlplane

import (
	"net/netip"
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
// those of a consumer.
func (l *lab) busy(consumer string, n int) {
	r := l.s.Resources()
	e, con := find1(r.Endpoints, "ledger"), find1(r.Connections, "ledger")
	l.txn(func(tx *store.Tx) {
		for range n {
			e, con := *e, *con
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
	if strings.Contains(err.Error(), "host-") || strings.Contains(err.Error(), "2048") {
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
	for _, consumer := range []string{"stranger", "c", "d", "e"} { // the share of grants is full
		l.as(consumer)
		l.busy(consumer, api.MaxGrantsPerNodeAndAccount/4/2)
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
	if e := err.(*api.Error); strings.Contains(e.Error(), "host-a") || strings.Contains(e.Error(), "256") { //nolint:errorlint // room makes it
		t.Errorf("the provider learns %v", e)
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
		want := load{enis: len(v.ENIs), addresses: len(v.Addresses), grants: len(v.Grants), names: all.names}
		for _, e := range v.Endpoints {
			want.services += len(e.ENIs) * len(e.Listeners)
		}
		for _, g := range v.Grants {
			want.targets += len(g.Targets)
		}
		if all != want || all.names < len(v.Names) {
			t.Errorf("%s: counted %+v, its view holds %+v and %d names", n.Name, all, want, len(v.Names))
		}
	}
}
