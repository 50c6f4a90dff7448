package controlplane

import (
	"github.com/culvert-net/culvert/api"
)

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
