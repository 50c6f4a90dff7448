package controlplane

import (
	"testing"

	"github.com/culvert-net/culvert/api"
)

// Behind one load balancer either all services tell targets of clients by a header, or none: a client of the other one could write it.
func TestClientIdentityOfALoadBalancer(t *testing.T) {
	l := mesh(t, nil)
	pay := l.as("pay")
	header, address := api.IdentityProxyProtocol, api.IdentityClientAddress
	refused := func(err error) {
		t.Helper()
		if e := wantCode(t, err, api.CodeInvalidCombination); e.Field != "clientIdentity" || e.Remedy == "" {
			t.Errorf("%v", e)
		}
	}
	second := api.CreateServiceRequest{Name: "second", LoadBalancers: []string{"ledger"}, ClientIdentity: header}
	before := l.s.Resources()
	_, err := pay.CreateService(l.ctx(), second)
	refused(err)
	if l.s.Resources() != before {
		t.Error("something changed")
	}
	second.ClientIdentity = address
	must(pay.CreateService(l.ctx(), second))(t)
	_, err = pay.ModifyService(l.ctx(), "ledger", api.ModifyServiceRequest{ClientIdentity: &header})
	refused(err)
	must(pay.CreateLoadBalancer(l.ctx(), api.CreateLoadBalancerRequest{VPC: "pay", Name: "own"}))(t)
	must(pay.CreateService(l.ctx(), api.CreateServiceRequest{Name: "third", LoadBalancers: []string{"own"}, ClientIdentity: header}))(t)
	_, err = pay.ModifyService(l.ctx(), "third", api.ModifyServiceRequest{AddLoadBalancers: []string{"ledger"}})
	refused(err)
}
