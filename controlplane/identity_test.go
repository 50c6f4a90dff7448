package controlplane

import (
	"errors"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/view"
)

// What targets learn of clients is chosen with the service, changed later, and reaches the views of the targets' nodes.
func TestClientIdentity(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	if s := must(pay.GetService(l.ctx(), "ledger"))(t); s.ClientIdentity != api.IdentityLoadBalancer {
		t.Fatalf("by default %q", s.ClientIdentity)
	}
	e := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger"}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{e.ID}))(t)
	granted := func(want api.ClientIdentity) {
		t.Helper()
		n := 0
		r := l.s.Resources()
		for id := range r.Nodes {
			for _, g := range view.NewIndex(r).View(id).Grants {
				if n++; g.ClientIdentity != want || g.Endpoint != e.ID {
					t.Errorf("grant %+v, want %q", g, want)
				}
			}
		}
		if n == 0 {
			t.Error("no grant")
		}
	}
	granted(api.IdentityLoadBalancer)
	for _, c := range []struct{ give, want api.ClientIdentity }{
		{api.IdentityProxyProtocol, api.IdentityProxyProtocol}, {"", api.IdentityLoadBalancer},
	} {
		s := must(pay.ModifyService(l.ctx(), "ledger", api.ModifyServiceRequest{ClientIdentity: &c.give}))(t)
		if s.ClientIdentity != c.want {
			t.Errorf("%q gives %q", c.give, s.ClientIdentity)
		}
		granted(c.want)
	}
	bad := api.ClientIdentity("ident")
	_, err := pay.ModifyService(l.ctx(), "ledger", api.ModifyServiceRequest{ClientIdentity: &bad})
	var ae *api.Error
	if !errors.As(err, &ae) || ae.Code != api.CodeInvalidParameter || ae.Field != "clientIdentity" || ae.Remedy == "" {
		t.Errorf("%v", err)
	}
	granted(api.IdentityLoadBalancer)
}

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
