package controlplane

import (
	"testing"

	"github.com/culvert-net/culvert/api"
)

func TestStory(t *testing.T) {
	l := startLab(t, nil)
	l.host("host-a")
	l.host("host-b")
	shop, pay := l.as("shop"), l.as("pay")
	l.network(shop, "shop")
	l.network(pay, "pay")
	must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Name: "cart", Node: "host-a"}))(t)
	l.offer(pay, "pay", "ledger", "host-b", "shop")

	e := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger",
		PrivateDNSEnabled: true}))(t)
	if e.State != api.PendingAcceptance || len(e.ENIs) != 2 || len(e.DNSNames) != 3 || e.ServiceName != "pay/ledger" {
		t.Fatalf("%+v", e)
	}
	cons := must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	if len(cons) != 1 || cons[0].State != api.Available || cons[0].Approver == "" || cons[0].Revision == 0 {
		t.Fatalf("%+v", cons)
	}
	if e = must(shop.WaitEndpoint(l.ctx(), e.ID))(t); e.State != api.Available {
		t.Fatalf("%+v", e)
	}
	must(pay.RejectConnections(l.ctx(), "ledger", []string{e.ID}))(t)
	if e = must(shop.GetEndpoint(l.ctx(), "ledger"))(t); e.State != api.Rejected {
		t.Fatalf("%+v", e)
	}
	must(shop.DeleteEndpoint(l.ctx(), "ledger"))(t)
	must(pay.DeleteService(l.ctx(), "ledger"))(t)
}
