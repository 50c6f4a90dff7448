package controlplane

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/controlplane/view"
)

// rulesSeen are the resolver rules of the node of the shop's workload.
func (l *lab) rulesSeen() []api.ViewResolverRule {
	r := l.s.Resources()
	return view.Compute(r, find1(r.ENIs, "cart").Node).ResolverRules
}

// A rule reaches the nodes of the VPCs that it is associated with, and no others; a VPC has one rule for a domain.
func TestResolverRules(t *testing.T) {
	l := mesh(t, nil)
	shop, ctx := l.as("shop"), l.ctx()
	servers := []string{"tls://9.9.9.9"}
	r := must(shop.CreateResolverRule(ctx, api.CreateResolverRuleRequest{Domain: "corp.example.com", Forwarders: servers}))(t)
	if !strings.HasPrefix(r.ID, "rslvr-rr-") || len(r.VPCs) != 0 || len(l.rulesSeen()) != 0 {
		t.Fatalf("%+v, seen %v", r, l.rulesSeen())
	}
	must(l.as("pay").CreateResolverRule(ctx, api.CreateResolverRuleRequest{Domain: "corp.example.com", VPCs: []string{"pay"},
		Forwarders: servers}))(t)
	must(shop.AssociateResolverRule(ctx, "corp.example.com", []string{"shop"}))(t)
	must(shop.AssociateResolverRule(ctx, r.ID, []string{"shop"}))(t) // once more
	number := find1(l.s.Resources().VPCs, "shop").Number
	if got := l.rulesSeen(); len(got) != 1 || got[0].ID != r.ID || got[0].Domain != "corp.example.com" ||
		!slices.Equal(got[0].Forwarders, servers) || !slices.Equal(got[0].VPCs, []uint32{number}) || got[0].LeftOut != "" {
		t.Errorf("the node sees %+v", got)
	}
	second := must(shop.CreateResolverRule(ctx, api.CreateResolverRuleRequest{Domain: "corp.example.com", Forwarders: servers}))(t)
	_, err := shop.AssociateResolverRule(ctx, second.ID, []string{"shop"})
	if e := wantCode(t, err, api.CodeConflictingDomain); !strings.Contains(e.Message, r.ID) || e.Field != "vpcIds" {
		t.Errorf("the conflict does not name the other rule: %v", e)
	}
	_, err = shop.GetResolverRule(ctx, "corp.example.com")
	wantCode(t, err, api.CodeAmbiguousName)
	l.network(shop, "club")
	must(shop.AssociateResolverRule(ctx, second.ID, []string{"club"}))(t)
	other := []string{"tls://1.1.1.1", "tls://2620:fe::fe"}
	must(shop.ModifyResolverRule(ctx, r.ID, api.ModifyResolverRuleRequest{Forwarders: &other}))(t)
	if got := l.rulesSeen(); len(got) != 1 || !slices.Equal(got[0].Forwarders, other) {
		t.Errorf("the node sees %+v", got)
	}
	must(shop.DisassociateResolverRule(ctx, r.ID, []string{"shop"}))(t)
	must(shop.AssociateResolverRule(ctx, second.ID, []string{"shop"}))(t)
	if got := l.rulesSeen(); len(got) != 1 || got[0].ID != second.ID || !slices.Equal(got[0].Forwarders, servers) {
		t.Errorf("the node sees %+v, want the second rule alone", got)
	}
	for _, s := range []string{"club-a", "club-b"} {
		must(shop.DeleteSubnet(ctx, s))(t)
	}
	must(shop.DeleteVPC(ctx, "club"))(t)
	if got := must(shop.GetResolverRule(ctx, second.ID))(t); len(got.VPCs) != 1 || got.VPCs[0] != find1(l.s.Resources().VPCs, "shop").ID {
		t.Errorf("after its VPC is deleted: %+v", got)
	}
	must(shop.DeleteResolverRule(ctx, second.ID))(t)
	if got := l.rulesSeen(); len(got) != 0 {
		t.Errorf("the node sees %v of a rule that is gone", got)
	}
	l.check()
}

// Nodes ask from their own network, so what a rule of a tenant's may name is what its VPC may.
func TestForwardersOfRules(t *testing.T) {
	l := mesh(t, nil)
	shop, admin, ctx := l.as("shop"), l.client(l.adminKey, "shop"), l.ctx()
	r := must(shop.CreateResolverRule(ctx, api.CreateResolverRuleRequest{Domain: "corp.example.com", VPCs: []string{"shop"},
		Forwarders: []string{"tls://9.9.9.9"}}))(t)
	for _, c := range []struct {
		list  []string
		plain bool
		field string
	}{
		{[]string{"10.99.0.10"}, true, "plainForwarders"}, {[]string{"tls://9.9.9.9"}, true, "plainForwarders"},
		{[]string{"tls://10.99.0.10"}, false, "forwarders"}, {[]string{"tls://9.9.9.9", "tls://127.0.0.1"}, false, "forwarders"},
		{[]string{"tls://9.9.9.9:443"}, false, "forwarders"},
	} {
		before := l.s.Resources()
		_, err := shop.CreateResolverRule(ctx, api.CreateResolverRuleRequest{Domain: "new.example.com", Forwarders: c.list, PlainForwarders: c.plain})
		if e := wantCode(t, err, api.CodeUnauthorized); e.Field != c.field || e.Remedy == "" {
			t.Errorf("%v: %v", c, e)
		}
		_, err = shop.ModifyResolverRule(ctx, r.ID, api.ModifyResolverRuleRequest{Forwarders: &c.list, PlainForwarders: &c.plain})
		if e := wantCode(t, err, api.CodeUnauthorized); e.Field != c.field {
			t.Errorf("%v: %v", c, e)
		}
		if l.s.Resources() != before {
			t.Errorf("%v: something changed", c)
		}
	}
	must(shop.CreateResolverRule(ctx, api.CreateResolverRuleRequest{Domain: "16.172.in-addr.arpa", Forwarders: []string{"tls://9.9.9.9"}}))(t)
	// What an administrator set stays, also when the account takes the rule to another of its VPCs.
	own, plain := []string{"10.99.0.10"}, true
	must(admin.ModifyResolverRule(ctx, r.ID, api.ModifyResolverRuleRequest{Forwarders: &own, PlainForwarders: &plain}))(t)
	l.network(shop, "club")
	must(shop.AssociateResolverRule(ctx, r.ID, []string{"club"}))(t)
	more := []string{"tls://9.9.9.9", own[0]}
	if got := must(shop.ModifyResolverRule(ctx, r.ID, api.ModifyResolverRuleRequest{Forwarders: &more}))(t); !slices.Equal(got.Forwarders, more) {
		t.Errorf("%+v", got)
	}
	if got := l.rulesSeen(); len(got) != 1 || !got[0].PlainForwarders || !slices.Equal(got[0].Forwarders, more) {
		t.Errorf("the node sees %+v", got)
	}
}

// An account's rules are bounded, and a node takes of each account its share; of the others it asks nobody.
func TestResolverRulesAreBounded(t *testing.T) {
	l := mesh(t, nil)
	shop, ctx := l.as("shop"), l.ctx()
	create := func(n int) error {
		_, err := shop.CreateResolverRule(ctx, api.CreateResolverRuleRequest{Domain: fmt.Sprintf("r%d.example.com", n), VPCs: []string{"shop"},
			Forwarders: []string{"tls://9.9.9.9"}})
		return err
	}
	if err := create(0); err != nil {
		t.Fatal(err)
	}
	first := *find1(l.s.Resources().ResolverRules, "r0.example.com")
	l.txn(func(tx *store.Tx) {
		for n := 1; n < api.MaxResolverRulesPerAccount; n++ {
			r := first
			r.ID, r.Name = fmt.Sprintf("rslvr-rr-%017d", n), fmt.Sprintf("r%d.example.com", n)
			r.CreatedAt = r.CreatedAt.Add(time.Duration(n) * time.Second)
			tx.Put(&r)
		}
	})
	wantCode(t, create(api.MaxResolverRulesPerAccount), api.CodeLimitExceeded)
	if got := l.rulesSeen(); len(got) != api.MaxResolverRulesPerAccount || slices.ContainsFunc(got, func(r api.ViewResolverRule) bool {
		return r.LeftOut != ""
	}) {
		t.Errorf("of an account that is alone the node sees %d rules: %+v", len(got), got)
	}
	// Neighbours take nothing away while there is room; without it each account has as much as the others.
	r := *l.s.Resources()
	r.CloneKind(api.KindResolverRule)
	const accounts = 60
	for _, each := range []int{1, api.MaxResolverRulesPerAccount - 1} {
		for i := range (accounts - 1) * each {
			other := first
			other.ID, other.Account = fmt.Sprintf("rslvr-rr-%016da", i), fmt.Sprintf("%012d", i%(accounts-1))
			other.Name = fmt.Sprintf("r%d.example.com", i/(accounts-1))
			other.CreatedAt = first.CreatedAt.Add(time.Duration(i) * time.Second)
			r.Put(&other)
		}
		want, share, kept := len(r.ResolverRules), api.MaxRuleRoutesPerNode/accounts, 0
		if each > 1 {
			want = share * accounts
		}
		for _, seen := range view.Compute(&r, find1(r.ENIs, "cart").Node).ResolverRules {
			n := 0
			if _, err := fmt.Sscanf(seen.Domain, "r%d.", &n); err != nil || (seen.LeftOut == "") != (len(seen.Forwarders) > 0) ||
				seen.LeftOut != "" && n < share {
				t.Errorf("%+v, %v: want the newest left out, without forwarders", seen, err)
			}
			if seen.LeftOut == "" {
				kept++
			}
		}
		if kept != want {
			t.Errorf("%d rules of each neighbour: %d have forwarders, want %d", each, kept, want)
		}
	}
}

// badRules are requests about resolver rules that are refused. The shop has the rule bad.example.com.
func badRules(l *lab) []bad {
	have := find1(l.s.Resources().ResolverRules, "bad.example.com")
	if have == nil {
		have = must(l.as("shop").CreateResolverRule(l.ctx(), api.CreateResolverRuleRequest{Domain: "bad.example.com", VPCs: []string{"shop"},
			Forwarders: []string{"tls://9.9.9.9"}}))(l.t)
	}
	r := have.ID
	create := func(fields string) string { return `{"domainName":"new.example.com",` + fields + `}` }
	const one = `"forwarders":["tls://9.9.9.9"]`
	return []bad{
		{"create-resolver-rule", "shop", nil, `{"domainName":"Corp.internal",` + one + `}`, api.CodeInvalidParameter, "domainName"},
		{"create-resolver-rule", "shop", nil, `{"domainName":"*.internal",` + one + `}`, api.CodeInvalidParameter, "domainName"},
		{"create-resolver-rule", "shop", nil, `{"domainName":"culvert.internal",` + one + `}`, api.CodeInvalidParameter, "domainName"},
		{"create-resolver-rule", "shop", nil, `{"domainName":"arpa",` + one + `}`, api.CodeInvalidParameter, "domainName"},
		{"create-resolver-rule", "shop", nil, `{"domainName":"8.d.f.ip6.arpa",` + one + `}`, api.CodeInvalidParameter, "domainName"},
		{"create-resolver-rule", "shop", nil, create(`"forwarders":[]`), api.CodeMissingParameter, "forwarders"},
		{"create-resolver-rule", "shop", nil, create(`"forwarders":` + many(5, `"tls://9.9.9.9"`)), api.CodeLimitExceeded, "forwarders"},
		{"create-resolver-rule", "shop", nil, create(`"forwarders":` + many(2, `"tls://9.9.9.9"`)), api.CodeInvalidParameter, "forwarders"},
		{"create-resolver-rule", "shop", nil, create(`"forwarders":["9.9.9.9"]`), api.CodeInvalidParameter, "forwarders"},
		{"create-resolver-rule", "shop", nil, create(`"forwarders":["tls://dns.example"]`), api.CodeInvalidParameter, "forwarders"},
		{"create-resolver-rule", "shop", nil, create(`"forwarders":["tls://10.0.0.53"]`), api.CodeUnauthorized, "forwarders"},
		{"create-resolver-rule", "shop", nil, create(one + `,"plainForwarders":true`), api.CodeUnauthorized, "plainForwarders"},
		{"create-resolver-rule", "shop", nil, create(one + `,"vpcIds":["pay"]`), api.CodeVPCNotFound, "vpcIds"},
		{"create-resolver-rule", "shop", nil, `{"domainName":"bad.example.com","vpcIds":["shop"],` + one + `}`, api.CodeConflictingDomain, "vpcIds"},
		{"get-resolver-rule", "pay", args(r), "", api.CodeResolverRuleNotFound, "id"},
		{"modify-resolver-rule", "shop", args(r), `{"forwarders":[]}`, api.CodeMissingParameter, "forwarders"},
		{"modify-resolver-rule", "shop", args(r), `{"forwarders":["tcp://9.9.9.9"]}`, api.CodeInvalidParameter, "forwarders"},
		{"modify-resolver-rule", "pay", args(r), `{}`, api.CodeResolverRuleNotFound, "id"},
		{"delete-resolver-rule", "pay", args("rslvr-rr-00000000000000000"), "", api.CodeResolverRuleNotFound, "id"},
		{"associate-resolver-rule", "shop", args(r), `{"vpcIds":[]}`, api.CodeMissingParameter, "vpcIds"},
		{"associate-resolver-rule", "shop", args(r), `{"vpcIds":["pay"]}`, api.CodeVPCNotFound, "vpcIds"},
		{"disassociate-resolver-rule", "shop", args(r), `{"vpcIds":["nothing"]}`, api.CodeVPCNotFound, "vpcIds"},
		{"disassociate-resolver-rule", "shop", args(r), `{"vpcIds":` + many(101, `"shop"`) + `}`, api.CodeLimitExceeded, "vpcIds"},
	}
}

// A rule may name servers inside its VPCs. It is for those VPCs only: in another one nodes would ask in their own network.
func TestForwardersInsideOfRules(t *testing.T) {
	l := mesh(t, nil)
	shop, admin, ctx := l.as("shop"), l.client(l.adminKey, "shop"), l.ctx()
	must(shop.CreateVPC(ctx, api.CreateVPCRequest{Name: "apart", CIDR: prefix("10.7.0.0/16")}))(t)
	l.network(shop, "club") // with the shop's addresses
	request := api.CreateResolverRuleRequest{Domain: "corp.example.com", Forwarders: []string{"10.0.1.9", "tls://9.9.9.9"}, PlainForwarders: true}
	_, err := shop.CreateResolverRule(ctx, request)
	wantCode(t, err, api.CodeUnauthorized) // it is for no VPC that the server could be in
	request.VPCs = []string{"shop", "apart"}
	_, err = shop.CreateResolverRule(ctx, request)
	wantCode(t, err, api.CodeUnauthorized)
	request.VPCs = request.VPCs[:1]
	r := must(shop.CreateResolverRule(ctx, request))(t)
	if !r.Inside {
		t.Errorf("%+v", r)
	}
	must(shop.AssociateResolverRule(ctx, r.ID, []string{"club"}))(t)
	refused := func() {
		t.Helper()
		_, err := shop.AssociateResolverRule(ctx, r.ID, []string{"apart"})
		if e := wantCode(t, err, api.CodeInvalidCombination); e.Field != "vpcIds" || !strings.Contains(e.Message, "10.0.1.9") {
			t.Errorf("%v", e)
		}
	}
	refused()
	must(shop.DisassociateResolverRule(ctx, r.ID, []string{"shop", "club"}))(t)
	refused() // also without any other
	must(shop.AssociateResolverRule(ctx, r.ID, []string{"shop"}))(t)
	list := []string{"10.7.1.9"}
	_, err = shop.ModifyResolverRule(ctx, r.ID, api.ModifyResolverRuleRequest{Forwarders: &list})
	wantCode(t, err, api.CodeUnauthorized)
	list[0] = "10.0.1.2"
	_, err = shop.ModifyResolverRule(ctx, r.ID, api.ModifyResolverRuleRequest{Forwarders: &list})
	wantCode(t, err, api.CodeInvalidParameter) // the resolver itself
	list[0] = "10.7.1.9"
	if got := must(admin.ModifyResolverRule(ctx, r.ID, api.ModifyResolverRuleRequest{Forwarders: &list}))(t); got.Inside {
		t.Errorf("what an administrator set: %+v", got)
	}
	must(shop.AssociateResolverRule(ctx, r.ID, []string{"apart"}))(t)
	l.check()
}
