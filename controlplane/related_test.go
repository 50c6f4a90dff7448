package controlplane

import (
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// A node may write records of the load balancers that its view has for their own VPC, as one account's with itself, and of no
// other load balancer.
func TestRecordsOfLoadBalancersInside(t *testing.T) {
	r := api.NewResources()
	for _, id := range []string{"lb-1", "lb-2"} {
		r.Put(&api.LoadBalancer{Meta: api.Meta{ID: id, Account: "pay"}, VPC: "vpc-pay"})
	}
	v := &api.View{
		Revision:           1,
		VPCs:               []api.ViewVPC{{ID: "vpc-pay", Account: "pay", Number: 2, Local: true}},
		ENIs:               []api.ViewENI{{ID: "eni-1", Account: "pay", VPC: 2, VPCID: "vpc-pay"}},
		LoadBalancerGrants: []api.ViewGrant{{Connection: "lb-1", ConsumerVPC: 2, ProviderVPC: 2}},
	}
	x := newRelated()
	x.take(v, r, time.Now(), time.Now())
	good := api.FlowRecord{Account: "pay", Interface: "eni-1", VPC: "vpc-pay", Action: api.ActionAccept, Side: sideProvider, Connection: "lb-1",
		ConsumerAccount: "pay", ProviderAccount: "pay", ConsumerVPC: "vpc-pay", ProviderVPC: "vpc-pay"}
	if accounts, why := x.accountsOf(&good, 0); why != "" || len(accounts) != 1 || accounts[0] != "pay" {
		t.Errorf("accounts %v, %q", accounts, why)
	}
	for what, spoil := range map[string]func(*api.FlowRecord){
		"another load balancer": func(r *api.FlowRecord) { r.Connection = "lb-2" },
		"another consumer":      func(r *api.FlowRecord) { r.ConsumerAccount = "shop" },
		"an endpoint":           func(r *api.FlowRecord) { r.Endpoint = "vpce-1" },
		"another VPC":           func(r *api.FlowRecord) { r.ConsumerVPC = "vpc-shop" },
	} {
		bad := good
		spoil(&bad)
		if accounts, why := x.accountsOf(&bad, 0); why == "" {
			t.Errorf("%s: a record for %v is taken", what, accounts)
		}
	}
}
