package controlplane

import (
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// Each way in which a flow may be refused is told to the consumer, with whose it is to change that.
func TestExplain(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	ask := func(to string, port uint16, reason, remedy string) {
		t.Helper()
		x := must(shop.Explain(l.ctx(), "cart", to, port, api.TCP))(t)
		if len(x.Stages) != 1 {
			t.Fatalf("%+v", x)
		}
		s := x.Stages[0]
		if x.Allowed != (reason == "") || s.OK != x.Allowed || s.Reason != reason || !strings.Contains(s.Remedy, remedy) {
			t.Errorf("%s:%d: %+v, want %q and the remedy %q", to, port, s, reason, remedy)
		}
	}
	const name = "ledger.pay.internal"
	if _, err := l.admin().AddDomain(l.ctx(), "pay", "pay.internal"); err != nil {
		t.Fatal(err)
	}
	private := name
	must(pay.ModifyService(l.ctx(), "ledger", api.ModifyServiceRequest{PrivateDNSName: &private}))(t)
	ask(name, 443, "NXDOMAIN", "culvert endpoint create")
	ask("10.0.0.77", 443, "NO_DESTINATION", "REASONS")
	ask("2001:db8::1", 443, "NOT_IP", "--ip-address-type dualstack")

	e := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	address := l.s.Resources().ENIs[e.ENIs[0]].Address.String()
	ask(e.DNSNames[0], 443, "NO_LISTENER", "the provider has to accept")
	ask(address, 443, "NO_LISTENER", "the provider has to accept")
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{e.ID}))(t)
	ask(name, 443, "NXDOMAIN", "culvert endpoint modify")
	on := true
	must(shop.ModifyEndpoint(l.ctx(), "ledger", api.ModifyEndpointRequest{PrivateDNSEnabled: &on}))(t)
	ask(name, 443, "NOT_HERE", "the provider has to attach one")
	for _, n := range l.s.Resources().ENIs {
		if n.Node != "" {
			l.s.hub.report(api.NodeStatus{Node: n.Node, Attached: []string{n.ID}, SeenAt: time.Now()})
		}
	}
	ask(name, 443, "", "")
	v6, v4 := api.IPv6Only, api.IPv4Only
	must(shop.ModifyEndpoint(l.ctx(), "ledger", api.ModifyEndpointRequest{IPAddressType: &v6}))(t)
	ask(name, 443, "NODATA", "culvert endpoint modify "+e.ID+" --ip-address-type dualstack")
	must(shop.ModifyENI(l.ctx(), "cart", api.ModifyENIRequest{IPAddressType: &v6}))(t)
	ask(name, 443, "LB_GROUP_INGRESS", "the provider") // its rules are for IPv4
	must(shop.ModifyENI(l.ctx(), "cart", api.ModifyENIRequest{IPAddressType: &v4}))(t)
	must(shop.ModifyEndpoint(l.ctx(), "ledger", api.ModifyEndpointRequest{IPAddressType: &v4}))(t)
	ask(address, 444, "NO_LISTENER", "REASONS")

	g := must(pay.GetSecurityGroup(l.ctx(), "default"))(t)
	for _, r := range g.Ingress {
		if r.CIDR.IsValid() {
			must(pay.RevokeRule(l.ctx(), "default", r.ID))(t)
		}
	}
	ask(name, 443, "LB_GROUP_INGRESS", "the provider")
	must(pay.RejectConnections(l.ctx(), "ledger", []string{e.ID}))(t)
	ask(name, 443, "NO_LISTENER", "may accept it after all")

	if _, err := l.as("stranger").Explain(l.ctx(), must(shop.GetENI(l.ctx(), "cart"))(t).ID, name, 443, api.TCP); err == nil {
		t.Error("another account's interface is explained")
	}
	_, err := shop.Explain(l.ctx(), "cart", name, 443, "sctp")
	wantCode(t, err, api.CodeInvalidParameter)
}
