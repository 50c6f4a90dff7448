package controlplane

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/judge"
)

// mesh makes the story's accounts, networks, workloads and service; shop and pay have the same addresses.
func mesh(t *testing.T, change func(*Config)) *lab {
	l := startLab(t, change)
	l.host("host-a")
	l.host("host-b")
	shop, pay := l.as("shop"), l.as("pay")
	l.as("stranger")
	l.network(shop, "shop")
	l.network(pay, "pay")
	must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Name: "cart", Node: "host-a"}))(t)
	l.offer(pay, "pay", "ledger", "host-b", "shop")
	must(pay.AuthorizeIngress(l.ctx(), "default", []api.RuleRequest{{Protocol: api.TCP, FromPort: 443, ToPort: 8443,
		CIDR: prefix("10.0.0.0/16")}}))(t)
	return l
}

// reaches reports whether the workload cart gets through the endpoint of a name, at every one of its addresses.
func (l *lab) reaches(endpoint string, port uint16) bool {
	r := l.s.Resources()
	all := true
	for _, id := range find1(r.Endpoints, endpoint).ENIs {
		v := judge.Judge(r, judge.Packet{From: find1(r.ENIs, "cart").ID, To: r.ENIs[id].Address, Protocol: api.TCP, Port: port})
		all = all && v.Allowed
	}
	return all
}

func TestStory(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")

	offered := must(shop.Catalogue(l.ctx()))(t)
	if len(offered) != 1 || offered[0].ServiceName != "pay/ledger" || !slices.Equal(offered[0].Ports, []string{"443/tcp"}) ||
		!slices.Equal(offered[0].Zones, []string{"a", "b"}) || !offered[0].AcceptanceRequired {
		t.Errorf("catalogue %+v", offered)
	}
	if hidden := must(l.as("stranger").Catalogue(l.ctx()))(t); len(hidden) != 0 {
		t.Errorf("the stranger is offered %+v", hidden)
	}
	e := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger",
		PrivateDNSEnabled: true}))(t)
	long, rest := e.ID+"-"+api.EndpointSuffix(e.ID), "."+e.Service+".local.vpce.culvert.internal"
	if e.State != api.PendingAcceptance || len(e.ENIs) != 2 || e.ServiceName != "pay/ledger" || !slices.Equal(e.DNSNames, []string{
		e.ID + ".ledger.pay.vpce.culvert.internal", e.ID + "-a.ledger.pay.vpce.culvert.internal", e.ID + "-b.ledger.pay.vpce.culvert.internal",
		long + rest, long + "-a" + rest, long + "-b" + rest}) {
		t.Fatalf("%+v", e)
	}
	if l.reaches("ledger", 443) {
		t.Error("it works before it is accepted")
	}
	waiting := must(pay.ListConnections(l.ctx(), "ledger"))(t)
	if len(waiting) != 1 || waiting[0].Name != "ledger" || waiting[0].EndpointAccount != l.account("shop") || waiting[0].Approver != "" {
		t.Fatalf("%+v", waiting)
	}
	done := make(chan *api.Endpoint, 1)
	go func() {
		e, err := l.as("shop").WaitEndpoint(l.ctx(), e.ID)
		if err != nil {
			t.Error(err)
		}
		done <- e
	}()
	cons := must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	payKey, _, _ := strings.Cut(l.keys["pay"], ".")
	if len(cons) != 1 || cons[0].State != api.Available || cons[0].Approver != payKey || cons[0].DecidedAt.IsZero() || cons[0].Revision == 0 {
		t.Fatalf("%+v", cons)
	}
	if e = <-done; e == nil || e.State != api.Available {
		t.Fatalf("%+v", e)
	}
	if !l.reaches("ledger", 443) {
		t.Error("accepted, and it does not work")
	}
	cons = must(pay.RejectConnections(l.ctx(), "ledger", []string{e.ID}))(t)
	if cons[0].State != api.Rejected || cons[0].Approver != payKey || l.reaches("ledger", 443) {
		t.Errorf("rejected: %+v", cons[0])
	}
	_, err := shop.WaitEndpoint(l.ctx(), e.ID)
	if err == nil || !strings.Contains(err.Error(), "Rejected") {
		t.Errorf("waiting for a rejected endpoint: %v", err)
	}
	_, err = shop.ModifyEndpoint(l.ctx(), e.ID, api.ModifyEndpointRequest{})
	wantCode(t, err, api.CodeIncorrectState)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{cons[0].ID}))(t) // after all
	if !l.reaches("ledger", 443) {
		t.Error("accepted again, and it does not work")
	}
	l.check()
	_, err = pay.DeleteService(l.ctx(), "ledger")
	wantCode(t, err, api.CodeDependencyViolation)
	must(shop.DeleteEndpoint(l.ctx(), "ledger"))(t)
	must(pay.DeleteService(l.ctx(), "ledger"))(t)
	if r := l.s.Resources(); len(r.Endpoints)+len(r.Connections)+len(r.Services) != 0 || len(r.ENIs) != 4 {
		t.Errorf("left behind: %d endpoints, %d connections, %d ENIs", len(r.Endpoints), len(r.Connections), len(r.ENIs))
	}
	l.check()
}

func TestAcceptanceNotRequired(t *testing.T) {
	l := mesh(t, nil)
	no := false
	must(l.as("pay").ModifyService(l.ctx(), "ledger", api.ModifyServiceRequest{AcceptanceRequired: &no}))(t)
	e := must(l.as("shop").CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: l.account("pay") + "/ledger", Name: "ledger",
		Subnets: []string{"shop-b"}, Addresses: map[string]netip.Addr{"shop-b": netip.MustParseAddr("10.0.2.77")}}))(t)
	con := must(l.as("pay").ListConnections(l.ctx(), "ledger"))(t)[0]
	if e.State != api.Available || con.State != api.Available || con.Approver != "automatic" || e.ServiceName != "pay/ledger" || e.Revision == 0 {
		t.Errorf("%+v\n%+v", e, con)
	}
	if a := l.s.Resources().ENIs[e.ENIs[0]].Address.String(); a != "10.0.2.77" || !l.reaches("ledger", 443) {
		t.Errorf("address %s", a)
	}
}

func TestAllOrNone(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	for _, name := range []string{"one", "two"} {
		must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: name}))(t)
	}
	must(pay.RejectConnections(l.ctx(), "ledger", []string{"two"}))(t)
	before := l.s.Resources()
	_, err := pay.RejectConnections(l.ctx(), "ledger", []string{"one", "two"})
	wantCode(t, err, api.CodeIncorrectState)
	if l.s.Resources() != before {
		t.Error("half of it happened")
	}
	both := must(pay.AcceptConnections(l.ctx(), "ledger", []string{"one", "two", "one"}))(t)
	if len(both) != 2 || both[0].State != api.Available || both[1].State != api.Available || both[0].Revision != both[1].Revision {
		t.Errorf("%+v", both)
	}
	l.check()
}

func TestNamesOfEndpointsMayBeAmbiguous(t *testing.T) {
	l := mesh(t, nil)
	pay := l.as("pay")
	must(pay.AllowPrincipals(l.ctx(), "ledger", []string{"*"}))(t)
	l.network(l.as("stranger"), "stranger")
	first := must(l.as("shop").CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "mine"}))(t)
	must(l.as("stranger").CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "stranger", Service: "pay/ledger", Name: "mine"}))(t)
	_, err := pay.AcceptConnections(l.ctx(), "ledger", []string{"mine"})
	if e := wantCode(t, err, api.CodeAmbiguousName); !strings.Contains(e.Remedy, first.ID) {
		t.Errorf("%v", e)
	}
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{first.ID}))(t)
}

func TestListenersComeAndGo(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	before := must(pay.ListConnections(l.ctx(), "ledger"))(t)[0].TagNumbers
	b := must(pay.CreateListener(l.ctx(), "ledger", api.ListenerRequest{Protocol: api.TCP, Port: 8443, TargetGroup: "ledger"}))(t)
	l.check()
	after := must(pay.ListConnections(l.ctx(), "ledger"))(t)[0].TagNumbers
	if len(before) != 2 || len(after) != 4 {
		t.Fatalf("%v, then %v", before, after)
	}
	for _, n := range before {
		if !slices.Contains(after, n) {
			t.Errorf("the tag number %v moved", n)
		}
	}
	if !l.reaches("ledger", 443) || !l.reaches("ledger", 8443) {
		t.Error("a listener is not reached")
	}
	must(pay.DeleteListener(l.ctx(), "ledger", b.Listeners[0].ID))(t)
	l.check()
	if l.reaches("ledger", 443) || !l.reaches("ledger", 8443) {
		t.Error("443 should be gone, 8443 not")
	}
	// A number rests before it is given again.
	must(pay.CreateListener(l.ctx(), "ledger", api.ListenerRequest{Protocol: api.TCP, Port: 443, TargetGroup: "ledger"}))(t)
	l.check()
	for _, n := range must(pay.ListConnections(l.ctx(), "ledger"))(t)[0].TagNumbers {
		if n.Number == before[0].Number || n.Number == before[1].Number {
			t.Errorf("the number %d came back at once", n.Number)
		}
	}
}

func TestConsumerOutOfNumbersDoesNotHoldTheProviderUp(t *testing.T) {
	l := mesh(t, func(c *Config) { c.Tick = 50 * time.Millisecond })
	shop, pay := l.as("shop"), l.as("pay")
	e := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	// As after tens of endpoints: all numbers of the VPC are taken, by a connection that the test can give up.
	crowd := &api.Connection{Meta: api.Meta{ID: newID(api.KindConnection.Prefix()), Account: l.account("pay")}, EndpointVPC: e.VPC,
		State: api.Available, EndpointAccount: l.account("shop"), Endpoint: noEndpoint, Service: noService, LoadBalancer: noBalancer}
	used := map[uint16]bool{}
	for _, n := range must(pay.ListConnections(l.ctx(), "ledger"))(t)[0].TagNumbers {
		used[n.Number] = true
	}
	for n := uint16(1); n <= api.MaxTagNumber; n++ {
		if !used[n] {
			crowd.TagNumbers = append(crowd.TagNumbers, api.TagNumber{Number: n})
		}
	}
	l.txn(func(tx *store.Tx) { tx.Put(crowd) })

	_, err := shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger"})
	wantCode(t, err, api.CodeOutOfNumbers)
	must(pay.CreateListener(l.ctx(), "ledger", api.ListenerRequest{Protocol: api.TCP, Port: 8443, TargetGroup: "ledger"}))(t)
	e = must(shop.GetEndpoint(l.ctx(), e.ID))(t)
	if e.State != api.Available || e.Message != tooFewNumbers || !l.reaches("ledger", 443) || l.reaches("ledger", 8443) {
		t.Errorf("%s, %q", e.State, e.Message)
	}
	l.txn(func(tx *store.Tx) { tx.Remove(crowd) })
	l.eventually("the numbers to be completed", func() bool {
		return must(shop.GetEndpoint(l.ctx(), e.ID))(t).Message == "" && l.reaches("ledger", 8443)
	})
	l.check()
}

func TestAcceptanceExpires(t *testing.T) {
	l := mesh(t, func(c *Config) { c.Tick, c.AcceptanceTimeout = 20*time.Millisecond, 200*time.Millisecond })
	shop := l.as("shop")
	e := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	_, err := shop.WaitEndpoint(l.ctx(), e.ID)
	if err == nil || !strings.Contains(err.Error(), "Expired") {
		t.Fatal(err)
	}
	_, err = l.as("pay").AcceptConnections(l.ctx(), "ledger", []string{"ledger"})
	wantCode(t, err, api.CodeIncorrectState)
	events := must(l.as("pay").ListAudit(l.ctx()))(t)
	if i := slices.IndexFunc(events, func(a api.AuditEvent) bool { return a.Action == "expire-connection" }); i < 0 || events[i].Actor != "system" {
		t.Errorf("no event of it in %v", events)
	}
	l.check()
}

func TestWithdrawnService(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	e := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(pay.RejectConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	must(pay.DeleteService(l.ctx(), "ledger"))(t)
	e = must(shop.GetEndpoint(l.ctx(), e.ID))(t)
	if e.State != api.Rejected || e.Message == "" {
		t.Errorf("%+v", e)
	}
	_, err := shop.ModifyEndpoint(l.ctx(), e.ID, api.ModifyEndpointRequest{})
	wantCode(t, err, api.CodeIncorrectState)
	l.check()
	must(shop.DeleteEndpoint(l.ctx(), e.ID))(t)
	must(pay.DeleteLoadBalancer(l.ctx(), "ledger"))(t)
	l.check()
}

func TestModifyEndpoint(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	e := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	g := must(shop.CreateSecurityGroup(l.ctx(), api.CreateSecurityGroupRequest{VPC: "shop", Name: "closed"}))(t)
	yes := true
	e = must(shop.ModifyEndpoint(l.ctx(), "ledger", api.ModifyEndpointRequest{SecurityGroups: &[]string{"closed"}, PrivateDNSEnabled: &yes}))(t)
	if !slices.Equal(e.SecurityGroups, []string{g.ID}) || !e.PrivateDNSEnabled || e.State != api.Available {
		t.Errorf("%+v", e)
	}
	if l.reaches("ledger", 443) {
		t.Error("the new group admits nothing")
	}
	l.check()
	// Without a private name there is nothing to turn on.
	none := ""
	must(pay.ModifyService(l.ctx(), "ledger", api.ModifyServiceRequest{PrivateDNSName: &none}))(t)
	_, err := shop.ModifyEndpoint(l.ctx(), "ledger", api.ModifyEndpointRequest{PrivateDNSEnabled: &yes})
	if e := wantCode(t, err, api.CodeInvalidParameter); e.Field != "privateDnsEnabled" {
		t.Errorf("%v", e)
	}
}

func TestServiceMovesToAnotherBalancer(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	must(pay.CreateLoadBalancer(l.ctx(), api.CreateLoadBalancerRequest{Name: "second", Subnets: []string{"pay-b"},
		Listeners: []api.ListenerRequest{{Protocol: api.TCP, Port: 443, TargetGroup: "ledger"}}}))(t)
	s := must(pay.ModifyService(l.ctx(), "ledger", api.ModifyServiceRequest{AddLoadBalancers: []string{"second"},
		RemoveLoadBalancers: []string{"ledger"}}))(t)
	if len(s.LoadBalancers) != 1 || s.State != api.ServiceAvailable {
		t.Errorf("%+v", s)
	}
	must(pay.ModifyService(l.ctx(), "ledger", api.ModifyServiceRequest{AddLoadBalancers: []string{"ledger"}}))(t)
	// The one that shares most zones serves an endpoint.
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	con := must(pay.ListConnections(l.ctx(), "ledger"))(t)[0]
	if con.LoadBalancer != find1(l.s.Resources().LoadBalancers, "ledger").ID {
		t.Errorf("served by %s", con.LoadBalancer)
	}
	must(pay.ModifyService(l.ctx(), "ledger", api.ModifyServiceRequest{RemoveLoadBalancers: []string{"second"}}))(t)
	l.check()
}

func TestTargets(t *testing.T) {
	l := mesh(t, nil)
	pay := l.as("pay")
	g := must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "ledger", Port: 443}, {ENI: "ledger"}}))(t)
	if len(g.Targets) != 1 {
		t.Errorf("the group's own port is another target: %v", g.Targets)
	}
	g = must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "ledger", Port: 444}}))(t)
	if len(g.Targets) != 2 {
		t.Errorf("%v", g.Targets)
	}
	g = must(pay.DeregisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "ledger", Port: 443}}))(t)
	if len(g.Targets) != 1 || g.Targets[0].Port != 444 {
		t.Errorf("%v", g.Targets)
	}
	must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "ledger"}}))(t)
	if g = must(pay.DeregisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "ledger"}}))(t); len(g.Targets) != 0 {
		t.Errorf("port 0 stands for every port: %v", g.Targets)
	}
}

// A target is named by its address, too, which must be a workload's in the group's VPC.
func TestTargetsByAddress(t *testing.T) {
	l := mesh(t, nil)
	pay := l.as("pay")
	e := must(pay.GetENI(l.ctx(), "ledger"))(t)
	g := must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: e.Address.String(), Port: 444}}))(t)
	if len(g.Targets) != 2 || g.Targets[1].ENI != e.ID || g.Targets[1].Port != 444 {
		t.Errorf("%v", g.Targets)
	}
	g = must(pay.DeregisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: e.Address.String(), Port: 444}}))(t)
	if len(g.Targets) != 1 {
		t.Errorf("%v", g.Targets)
	}
	front := must(pay.GetENI(l.ctx(), must(pay.GetLoadBalancer(l.ctx(), "ledger"))(t).ENIs[0]))(t)
	for _, bad := range []string{"10.99.0.1", "fd00::1", front.Address.String()} {
		_, err := pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: bad}})
		var e *api.Error
		if !errors.As(err, &e) || e.Field != "eniId" || e.Remedy == "" {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// Who has all tags of a group when that is made, or is made with them later, is its target, in its VPC only.
func TestTargetsByTags(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	tags := map[string]string{"app": "ledger", "tier": "front"}
	eni := func(c *client.Client, vpc, name string, tags map[string]string) string {
		t.Helper()
		return must(c.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: vpc + "-a", Name: name, Tags: tags}))(t).ID
	}
	first := eni(pay, "pay", "first", tags)
	eni(pay, "pay", "half", map[string]string{"app": "ledger"})
	eni(pay, "pay", "other", map[string]string{"app": "ledger", "tier": "back"})
	g := must(pay.CreateTargetGroup(l.ctx(), api.CreateTargetGroupRequest{VPC: "pay", Name: "tagged", Protocol: api.TCP, Port: 443, TargetTags: tags}))(t)
	want := []api.Target{{ENI: first, Weight: api.DefaultTargetWeight}}
	if !reflect.DeepEqual(g.Targets, want) || !reflect.DeepEqual(g.TargetTags, tags) {
		t.Errorf("those that are there: %+v", g)
	}
	eni(shop, "shop", "stranger", tags)
	eni(pay, "pay", "plain", nil)
	more := map[string]string{"app": "ledger", "tier": "front", "release": "7"}
	want = append(want, api.Target{ENI: eni(pay, "pay", "second", more), Weight: api.DefaultTargetWeight})
	if g = must(pay.GetTargetGroup(l.ctx(), "tagged"))(t); !reflect.DeepEqual(g.Targets, want) {
		t.Errorf("those that came: %+v", g.Targets)
	}
	must(pay.DeregisterTargets(l.ctx(), "tagged", []api.TargetRequest{{ENI: "first"}}))(t)
	want = append(want[1:], api.Target{ENI: eni(pay, "pay", "third", tags), Weight: api.DefaultTargetWeight})
	if g = must(pay.GetTargetGroup(l.ctx(), "tagged"))(t); !reflect.DeepEqual(g.Targets, want) {
		t.Errorf("who was deregistered stays so: %+v", g.Targets)
	}
	_, err := pay.CreateTargetGroup(l.ctx(), api.CreateTargetGroupRequest{VPC: "pay", Protocol: api.TCP, Port: 443, TargetTags: map[string]string{"": "x"}})
	var e *api.Error
	if !errors.As(err, &e) || e.Field != "targetTags" {
		t.Errorf("no tag: %v", err)
	}
	l.check()
}
