package controlplane

import (
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/judge"
)

// meant is the endpoint that answers a name in the shop's VPC, "" when none does.
func (l *lab) meant(name string) string {
	r := l.s.Resources()
	for _, m := range judge.Resolve(r, find1(r.VPCs, "shop").ID, name) {
		return m.Endpoint
	}
	return ""
}

// A service's names lead to one endpoint of a VPC; which one its owner says, and changes in one step.
func TestSeveralNamesAndPriorities(t *testing.T) {
	l := mesh(t, nil)
	shop, pay, ctx := l.as("shop"), l.as("pay"), l.ctx()
	no, one, none := false, "only.pay.internal", ""
	names := []string{"ledger.pay.internal", "*.ledger.pay.internal"}
	s := must(pay.ModifyService(ctx, "ledger", api.ModifyServiceRequest{PrivateDNSNames: &names, AcceptanceRequired: &no}))(t)
	if s.PrivateDNSName != names[0] || !slices.Equal(s.PrivateDNSNames, names) {
		t.Errorf("%+v", s)
	}
	if c := must(shop.Catalogue(ctx))(t); c[0].PrivateDNSName != names[0] || !slices.Equal(c[0].PrivateDNSNames, names) {
		t.Errorf("catalogue: %+v", c)
	}
	_, err := pay.ModifyService(ctx, "ledger", api.ModifyServiceRequest{PrivateDNSName: &one})
	wantCode(t, err, api.CodeInvalidCombination) // who knows of one name only would take the other away

	next := must(pay.CreateService(ctx, api.CreateServiceRequest{Name: "ledger-2", LoadBalancers: []string{"ledger"},
		AllowedPrincipals: []string{"shop"}, PrivateDNSNames: names[:1]}))(t)
	old := must(shop.CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "old",
		PrivateDNSEnabled: true}))(t)
	request := api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger-2", Name: "new", PrivateDNSEnabled: true}
	_, err = shop.CreateEndpoint(ctx, request)
	e := wantCode(t, err, api.CodeConflictingDomain)
	for _, part := range []string{old.ID, "(old)", "pay/ledger", names[0], "100"} {
		if !strings.Contains(e.Message, part) {
			t.Errorf("the conflict does not name %s: %v", part, e)
		}
	}
	request.PrivateDNSPriority = 200
	moved := must(shop.CreateEndpoint(ctx, request))(t)
	if got := l.meant(names[0]); got != old.ID {
		t.Errorf("%s is answered by %s, want the one of priority 100", names[0], got)
	}
	first, equal := uint16(50), uint16(api.DefaultPrivateDNSPriority)
	must(shop.ModifyEndpoint(ctx, moved.ID, api.ModifyEndpointRequest{PrivateDNSPriority: &first}))(t)
	if a, b := l.meant(names[0]), l.meant("x."+names[0]); a != moved.ID || b != old.ID {
		t.Errorf("after the move: %s, and below it %s; want %s, and %s, which alone has the wildcard", a, b, moved.ID, old.ID)
	}
	_, err = shop.ModifyEndpoint(ctx, moved.ID, api.ModifyEndpointRequest{PrivateDNSPriority: &equal})
	wantCode(t, err, api.CodeConflictingDomain)
	must(pay.ModifyService(ctx, next.ID, api.ModifyServiceRequest{PrivateDNSName: &none}))(t)
	if got := l.meant(names[0]); got != old.ID {
		t.Errorf("%s is answered by %q when the other service has the name no more, want %s", names[0], got, old.ID)
	}
	l.check()
}

// Endpoints of before get the names that endpoints have since, and services of before keep the name that they have.
func TestNamesOfRecordsOfBefore(t *testing.T) {
	l := mesh(t, nil)
	shop, ctx := l.as("shop"), l.ctx()
	made := must(shop.CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	if _, err := l.s.store.Txn(ctx, func(tx *store.Tx) error {
		e := *made
		e.DNSNames = made.DNSNames[:1]
		tx.Put(&e)
		s := *find1(tx.Resources().Services, "ledger")
		s.PrivateDNSNames = nil
		tx.Put(&s)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := l.s.expire(ctx); err != nil {
		t.Fatal(err)
	}
	if e := must(shop.GetEndpoint(ctx, "ledger"))(t); !slices.Equal(e.DNSNames, made.DNSNames) {
		t.Errorf("names %q, want %q", e.DNSNames, made.DNSNames)
	}
	if s := must(l.as("pay").GetService(ctx, "ledger"))(t); !slices.Equal(s.PrivateNames(), []string{"ledger.pay.internal"}) {
		t.Errorf("the service has the names %q", s.PrivateNames())
	}
}
