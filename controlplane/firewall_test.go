package controlplane

import (
	"github.com/culvert-net/culvert/api"
)

// badFirewalls are requests about firewall rule groups that are refused. The shop has the group bad for its VPC.
func badFirewalls(l *lab) []bad {
	have := find1(l.s.Resources().FirewallRuleGroups, "bad")
	if have == nil {
		have = must(l.as("shop").CreateFirewallRuleGroup(l.ctx(), api.CreateFirewallRuleGroupRequest{Name: "bad", VPCs: []string{"shop"}}))(l.t)
	}
	g := have.ID
	list := append(badDomainLists(l, g), []bad{
		{"create-firewall-rule-group", "shop", nil, `{"name":"Bad"}`, api.CodeInvalidParameter, "name"},
		{"create-firewall-rule-group", "shop", nil, `{"name":"bad"}`, api.CodeDuplicateName, "name"},
		{"create-firewall-rule-group", "shop", nil, `{"name":"new","vpcIds":["pay"]}`, api.CodeVPCNotFound, "vpcIds"},
		{"create-firewall-rule-group", "shop", nil, `{"name":"new","vpcIds":["shop"]}`, api.CodeFirewallInUse, "priority"},
		{"create-firewall-rule-group", "shop", nil, `{"name":"new","vpcIds":["shop"],"priority":0}`, api.CodeInvalidParameter, "priority"},
		{"create-firewall-rule-group", "shop", nil, `{"name":"new","priority":7}`, api.CodeInvalidCombination, "priority"},
		{"associate-firewall-rule-group", "shop", args(g), `{"vpcIds":["shop"],"priority":10001}`, api.CodeInvalidParameter, "priority"},
		{"get-firewall-rule-group", "pay", args(g), "", api.CodeFirewallNotFound, "id"},
		{"delete-firewall-rule-group", "pay", args("rslvr-frg-00000000000000000"), "", api.CodeFirewallNotFound, "id"},
		{"associate-firewall-rule-group", "shop", args(g), `{"vpcIds":[]}`, api.CodeMissingParameter, "vpcIds"},
		{"associate-firewall-rule-group", "shop", args(g), `{"vpcIds":["pay"]}`, api.CodeVPCNotFound, "vpcIds"},
		{"disassociate-firewall-rule-group", "shop", args(g), `{"vpcIds":["nothing"]}`, api.CodeVPCNotFound, "vpcIds"},
		{"change-firewall-rules", "pay", args(g), `{"remove":[1]}`, api.CodeFirewallNotFound, "id"},
		{"change-firewall-rules", "shop", args(g), `{}`, api.CodeMissingParameter, "put"},
		{"change-firewall-rules", "shop", args(g), `{"remove":` + many(101, `1`) + `}`, api.CodeLimitExceeded, "put"},
		{"change-firewall-rules", "shop", args(g), `{"remove":[1]}`, api.CodeFirewallRuleNotFound, "remove"},
	}...)
	for _, r := range []struct {
		rule  string
		code  api.ErrorCode
		field string
	}{
		{`{"priority":0,"action":"ALLOW","domains":["*"]}`, api.CodeInvalidParameter, "priority"},
		{`{"priority":10001,"action":"ALLOW","domains":["*"]}`, api.CodeInvalidParameter, "priority"},
		{`{"priority":1,"action":"allow","domains":["*"]}`, api.CodeInvalidParameter, "action"},
		{`{"priority":1,"action":"ALLOW","domains":[]}`, api.CodeMissingParameter, "domains"},
		{`{"priority":1,"action":"ALLOW","domains":["a.com"],"domainListId":"bad"}`, api.CodeInvalidCombination, "domainListId"},
		{`{"priority":1,"action":"ALLOW","domainListId":"nothing"}`, api.CodeDomainListNotFound, "domainListId"},
		{`{"priority":1,"action":"ALLOW","domains":["Example.com"]}`, api.CodeInvalidParameter, "domains"},
		{`{"priority":1,"action":"ALLOW","domains":["a.*.com"]}`, api.CodeInvalidParameter, "domains"},
		{`{"priority":1,"action":"ALLOW","domains":["example.com."]}`, api.CodeInvalidParameter, "domains"},
		{`{"priority":1,"action":"ALLOW","domains":["a.com,b.com"]}`, api.CodeInvalidParameter, "domains"},
		{`{"priority":1,"action":"ALLOW","domains":["*","*"]}`, api.CodeInvalidParameter, "domains"},
		{`{"priority":1,"action":"ALLOW","domains":` + many(5001, `"*"`) + `}`, api.CodeLimitExceeded, "domains"},
		{`{"priority":1,"action":"ALERT","domains":["*"],"blockResponse":"NODATA"}`, api.CodeInvalidCombination, "blockResponse"},
		{`{"priority":1,"action":"BLOCK","domains":["*"],"blockResponse":"REFUSED"}`, api.CodeInvalidParameter, "blockResponse"},
		{`{"priority":1,"action":"BLOCK","domains":["*"],"blockOverrideDomain":"x.y"}`, api.CodeInvalidCombination, "blockOverrideDomain"},
		{`{"priority":1,"action":"BLOCK","domains":["*"],"blockResponse":"OVERRIDE"}`, api.CodeMissingParameter, "blockOverrideDomain"},
		{`{"priority":1,"action":"BLOCK","domains":["*"],"blockResponse":"OVERRIDE","blockOverrideDomain":"*.y"}`, api.CodeInvalidParameter,
			"blockOverrideDomain"},
		{`{"priority":1,"action":"BLOCK","domains":["*"],"blockResponse":"OVERRIDE","blockOverrideDomain":"x.y","blockOverrideTtlSeconds":604801}`,
			api.CodeInvalidParameter, "blockOverrideTtlSeconds"},
		{`{"priority":1,"action":"ALLOW","domains":["a.com"]},{"priority":1,"action":"ALLOW","domains":["b.com"]}`, api.CodeInvalidParameter, "put"},
	} {
		list = append(list, bad{"change-firewall-rules", "shop", args(g), `{"put":[` + r.rule + `]}`, r.code, r.field})
	}
	return list
}
