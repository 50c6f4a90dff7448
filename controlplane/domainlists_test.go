package controlplane

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/view"
)

// Several groups decide for a VPC, each at its place there; rules of all share a list, and follow it.
func TestFirewallGroupsAndListsOfAVPC(t *testing.T) {
	l := mesh(t, nil)
	shop, ctx := l.as("shop"), l.ctx()
	first, second := uint32(100), uint32(200)
	list := must(shop.CreateFirewallDomainList(ctx, api.CreateFirewallDomainListRequest{Name: "trackers", Domains: []string{"b.test", "a.test"}}))(t)
	own := must(shop.CreateFirewallRuleGroup(ctx, api.CreateFirewallRuleGroupRequest{Name: "own", VPCs: []string{"shop"}, Priority: &second}))(t)
	base := must(shop.CreateFirewallRuleGroup(ctx, api.CreateFirewallRuleGroupRequest{Name: "base", VPCs: []string{"shop"}, Priority: &first}))(t)
	rule := func(priority uint32, action api.FirewallAction, list string, domains ...string) api.FirewallRule {
		return api.FirewallRule{Priority: priority, Action: action, DomainList: list, Domains: domains}
	}
	put := func(group string, rules ...api.FirewallRule) *api.FirewallRuleGroup {
		return must(shop.ChangeFirewallRules(ctx, group, api.ChangeFirewallRulesRequest{Put: rules}))(t)
	}
	put("own", rule(5, api.FirewallBlock, "trackers"), rule(7, api.FirewallAllow, "", "*"))
	if got := put("base", rule(9, api.FirewallAlert, list.ID)); got.Rules[0].DomainList != list.ID || len(got.Rules[0].Domains) != 0 {
		t.Errorf("a rule with a list: %+v", got.Rules[0])
	}
	seen := func() string {
		var out []string
		for _, w := range l.firewallsSeen() {
			for i, r := range w.Rules {
				if r.Priority != uint32(i+1) && len(w.Rules) > 1 {
					t.Errorf("the rule %+v is number %d", r, i)
				}
				out = append(out, fmt.Sprintf("%s %s %v", r.Rule, r.Action, r.Domains))
			}
		}
		return strings.Join(out, "; ")
	}
	want := fmt.Sprintf("%s/9 ALERT [a.test b.test]; %s/5 BLOCK [a.test b.test]; %s/7 ALLOW [*]", base.ID, own.ID, own.ID)
	if got := seen(); got != want {
		t.Errorf("the node sees\n%s, want\n%s", got, want)
	}
	update := func(op api.DomainsOperation, domains ...string) {
		must(shop.ChangeFirewallDomains(ctx, "trackers", api.ChangeFirewallDomainsRequest{Operation: op, Domains: domains}))(t)
	}
	update(api.DomainsAdd, "c.test", "a.test")
	update(api.DomainsRemove, "b.test")
	if got, want := seen(), strings.ReplaceAll(want, "a.test b.test", "a.test c.test"); got != want {
		t.Errorf("after the list has changed the node sees\n%s, want\n%s", got, want)
	}
	// The other way round, and a list without domains: its rules match nothing.
	third := uint32(300)
	got := must(shop.AssociateFirewallRuleGroup(ctx, "base", api.AssociateFirewallRuleGroupRequest{VPCs: []string{"shop"}, Priority: &third}))(t)
	if vpc := find1(l.s.Resources().VPCs, "shop").ID; got.PriorityIn(vpc) != third {
		t.Errorf("%+v", got)
	}
	if !strings.HasPrefix(seen(), own.ID+"/5 BLOCK") {
		t.Errorf("the node sees %s first", seen())
	}
	update(api.DomainsReplace)
	if got, want := seen(), own.ID+"/7 ALLOW [*]"; got != want {
		t.Errorf("of an empty list the node sees %s, want %s", got, want)
	}
	_, err := shop.DeleteFirewallDomainList(ctx, list.ID)
	if e := wantCode(t, err, api.CodeDependencyViolation); !strings.Contains(e.Message, "rslvr-frg-") {
		t.Errorf("it does not say where the list is in use: %v", e)
	}
	for _, g := range []string{"own", "base"} {
		must(shop.DeleteFirewallRuleGroup(ctx, g))(t)
	}
	must(shop.DeleteFirewallDomainList(ctx, list.ID))(t)
	l.check()
}

// A VPC has five groups at most. Lists are bounded by what an account stores and by what each group tells nodes with them.
func TestFirewallListsAreBounded(t *testing.T) {
	l := mesh(t, nil)
	shop, ctx := l.as("shop"), l.ctx()
	var err error
	groups := 0
	for ; err == nil && groups < 10; groups++ {
		priority := uint32(10 - groups)
		_, err = shop.CreateFirewallRuleGroup(ctx, api.CreateFirewallRuleGroupRequest{Name: fmt.Sprintf("g%d", groups), VPCs: []string{"shop"},
			Priority: &priority})
	}
	if e := wantCode(t, err, api.CodeLimitExceeded); groups != api.MaxFirewallRuleGroupsPerVPC+1 || e.Field != "vpcIds" {
		t.Errorf("%d groups, then %v", groups, e)
	}
	many := func(list, n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("n%d.l%d.%s", i, list, strings.Repeat("a", 40)))
		}
		return out
	}
	must(shop.CreateFirewallDomainList(ctx, api.CreateFirewallDomainListRequest{Name: "big", Domains: many(0, 2000)}))(t) // 100 KiB
	var rules []api.FirewallRule
	for i := range 3 {
		rules = append(rules, api.FirewallRule{Priority: uint32(i) + 1, Action: api.FirewallAlert, DomainList: "big"})
	}
	must(shop.ChangeFirewallRules(ctx, "g0", api.ChangeFirewallRulesRequest{Put: rules[:2]}))(t)
	_, err = shop.ChangeFirewallRules(ctx, "g0", api.ChangeFirewallRulesRequest{Put: rules})
	if e := wantCode(t, err, api.CodeLimitExceeded); e.Field != "put" || !strings.Contains(e.Message, "with the domains of its lists") {
		t.Errorf("three times 100 KiB in one group: %v", e)
	}
	_, err = shop.ChangeFirewallDomains(ctx, "big", api.ChangeFirewallDomainsRequest{Operation: api.DomainsAdd, Domains: many(1, 1000)})
	if e := wantCode(t, err, api.CodeLimitExceeded); e.Field != "domains" || !strings.Contains(e.Message, "with the domains of its lists") {
		t.Errorf("the list grows beneath the group: %v", e)
	}
	for _, g := range []string{"g1", "g2", "g3", "g4"} { // in other groups once more: the account stores the list once
		must(shop.ChangeFirewallRules(ctx, g, api.ChangeFirewallRulesRequest{Put: rules[:2]}))(t)
	}
	if got := l.firewallsSeen(); len(got) != 1 || len(got[0].Rules) != 10 || len(got[0].ID) > 128 || !slices.IsSortedFunc(got[0].Rules,
		func(a, b api.ViewFirewallRule) int { return int(a.Priority) - int(b.Priority) }) {
		t.Errorf("the node sees %d rule groups", len(got))
	}
	must(shop.CreateFirewallDomainList(ctx, api.CreateFirewallDomainListRequest{Name: "more", Domains: many(2, 2000)}))(t)
	_, err = shop.CreateFirewallDomainList(ctx, api.CreateFirewallDomainListRequest{Name: "most", Domains: many(3, 2000)})
	if e := wantCode(t, err, api.CodeLimitExceeded); e.Field != "domains" || !strings.Contains(e.Message, "the account's") {
		t.Errorf("three lists of 100 KiB: %v", e)
	}
	l.check()
}

// A list that is not there leaves its group's VPCs without answers, rather than unjudged.
func TestFirewallWithoutItsList(t *testing.T) {
	l := mesh(t, nil)
	shop, ctx := l.as("shop"), l.ctx()
	must(shop.CreateFirewallDomainList(ctx, api.CreateFirewallDomainListRequest{Name: "trackers", Domains: []string{"a.test"}}))(t)
	must(shop.CreateFirewallRuleGroup(ctx, api.CreateFirewallRuleGroupRequest{Name: "own", VPCs: []string{"shop"}}))(t)
	must(shop.ChangeFirewallRules(ctx, "own", api.ChangeFirewallRulesRequest{Put: []api.FirewallRule{
		{Priority: 1, Action: api.FirewallBlock, DomainList: "trackers"}}}))(t)
	r := *l.s.Resources()
	r.FirewallDomainLists = nil
	got := view.Compute(&r, find1(r.ENIs, "cart").Node).Firewalls
	if len(got) != 1 || got[0].LeftOut == "" || len(got[0].Rules) != 0 {
		t.Errorf("the node sees %+v", got)
	}
}

// badDomainLists are requests about domain lists that are refused; the shop gets the list bad, which the group's rule 2 names.
func badDomainLists(l *lab, group string) []bad {
	have := find1(l.s.Resources().FirewallDomainLists, "bad")
	if have == nil {
		have = must(l.as("shop").CreateFirewallDomainList(l.ctx(), api.CreateFirewallDomainListRequest{Name: "bad", Domains: []string{"a.test"}}))(l.t)
		must(l.as("shop").ChangeFirewallRules(l.ctx(), group, api.ChangeFirewallRulesRequest{Put: []api.FirewallRule{
			{Priority: 2, Action: api.FirewallAllow, DomainList: "bad"}}}))(l.t)
	}
	update := func(body string, code api.ErrorCode, field string) bad {
		return bad{"change-firewall-domains", "shop", args(have.ID), body, code, field}
	}
	return []bad{
		{"create-firewall-domain-list", "shop", nil, `{"name":"Bad"}`, api.CodeInvalidParameter, "name"},
		{"create-firewall-domain-list", "shop", nil, `{"name":"bad"}`, api.CodeDuplicateName, "name"},
		{"create-firewall-domain-list", "shop", nil, `{"name":"new","domains":["A.test"]}`, api.CodeInvalidParameter, "domains"},
		{"create-firewall-domain-list", "shop", nil, `{"name":"new","domains":["a.test","a.test"]}`, api.CodeInvalidParameter, "domains"},
		{"create-firewall-domain-list", "shop", nil, `{"name":"new","domains":` + many(5001, `"a.test"`) + `}`, api.CodeLimitExceeded, "domains"},
		{"get-firewall-domain-list", "pay", args(have.ID), "", api.CodeDomainListNotFound, "id"},
		{"delete-firewall-domain-list", "shop", args(have.ID), "", api.CodeDependencyViolation, "id"},
		{"delete-firewall-domain-list", "pay", args("nothing"), "", api.CodeDomainListNotFound, "id"},
		{"change-firewall-domains", "pay", args(have.ID), `{"operation":"ADD","domains":["b.test"]}`, api.CodeDomainListNotFound, "id"},
		update(`{"operation":"ADD","domains":[]}`, api.CodeMissingParameter, "domains"),
		update(`{"operation":"ADD","domains":["b..test"]}`, api.CodeInvalidParameter, "domains"),
		update(`{"operation":"REMOVE","domains":["b.test"]}`, api.CodeInvalidParameter, "domains"),
		update(`{"operation":"REMOVE","domains":["a.test","a.test"]}`, api.CodeInvalidParameter, "domains"),
		update(`{"operation":"add","domains":["b.test"]}`, api.CodeInvalidParameter, "operation"),
		update(`{"operation":"REPLACE","domains":`+many(5001, `"a.test"`)+`}`, api.CodeLimitExceeded, "domains"),
	}
}
