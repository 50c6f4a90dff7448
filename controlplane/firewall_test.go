package controlplane

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/view"
)

// firewallsSeen are the rule groups of the node of the shop's workload.
func (l *lab) firewallsSeen() []api.ViewFirewall {
	r := l.s.Resources()
	return view.Compute(r, find1(r.ENIs, "cart").Node).Firewalls
}

// inVPCs associates at the priority that is there, or the default.
func inVPCs(vpcs ...string) api.AssociateFirewallRuleGroupRequest {
	return api.AssociateFirewallRuleGroupRequest{VPCs: vpcs}
}

// Rules reach the nodes of the VPCs that their group is associated with, by priority; two groups of a VPC have not the same.
func TestFirewallRuleGroups(t *testing.T) {
	l := mesh(t, nil)
	shop, ctx := l.as("shop"), l.ctx()
	g := must(shop.CreateFirewallRuleGroup(ctx, api.CreateFirewallRuleGroupRequest{Name: "shop"}))(t)
	if !strings.HasPrefix(g.ID, "rslvr-frg-") || len(g.Rules) != 0 || len(l.firewallsSeen()) != 0 {
		t.Fatalf("%+v, seen %v", g, l.firewallsSeen())
	}
	must(l.as("pay").CreateFirewallRuleGroup(ctx, api.CreateFirewallRuleGroupRequest{Name: "shop", VPCs: []string{"pay"}}))(t)
	must(shop.AssociateFirewallRuleGroup(ctx, "shop", inVPCs("shop")))(t)
	must(shop.AssociateFirewallRuleGroup(ctx, g.ID, inVPCs("shop")))(t) // once more
	block := api.FirewallRule{Priority: 20, Action: api.FirewallBlock, Domains: []string{"*"}}
	allow := api.FirewallRule{Priority: 10, Action: api.FirewallAllow, Domains: []string{"corp.internal", "*.corp.internal"}}
	must(shop.ChangeFirewallRules(ctx, "shop", api.ChangeFirewallRulesRequest{Put: []api.FirewallRule{block, allow}}))(t)
	number := find1(l.s.Resources().VPCs, "shop").Number
	seen := func() string {
		got := l.firewallsSeen()
		if len(got) != 1 || !slices.Equal(got[0].VPCs, []uint32{number}) || got[0].LeftOut != "" {
			t.Fatalf("the node sees %+v", got)
		}
		var out []string
		for _, r := range got[0].Rules {
			out = append(out, fmt.Sprintf("%d %s %v %s", r.Priority, r.Action, r.Domains, r.BlockResponse))
		}
		return strings.Join(out, "; ")
	}
	if got, want := seen(), "10 ALLOW [corp.internal *.corp.internal] ; 20 BLOCK [*] NODATA"; got != want {
		t.Errorf("the node sees %s, want %s", got, want)
	}
	// One call moves a rule and replaces another: at no revision everything passes.
	block.Priority, block.BlockResponse = 30, api.BlockNXDomain
	allow.Domains = []string{"corp.internal"}
	must(shop.ChangeFirewallRules(ctx, g.ID, api.ChangeFirewallRulesRequest{Put: []api.FirewallRule{block, allow}, Remove: []uint32{20}}))(t)
	if got, want := seen(), "10 ALLOW [corp.internal] ; 30 BLOCK [*] NXDOMAIN"; got != want {
		t.Errorf("the node sees %s, want %s", got, want)
	}
	second := must(shop.CreateFirewallRuleGroup(ctx, api.CreateFirewallRuleGroupRequest{Name: "second"}))(t)
	_, err := shop.AssociateFirewallRuleGroup(ctx, "second", inVPCs("shop"))
	if e := wantCode(t, err, api.CodeFirewallInUse); !strings.Contains(e.Message, g.ID) || e.Field != "priority" {
		t.Errorf("the conflict does not name the other group: %v", e)
	}
	_, err = shop.CreateFirewallRuleGroup(ctx, api.CreateFirewallRuleGroupRequest{Name: "second"})
	wantCode(t, err, api.CodeDuplicateName)
	must(shop.DisassociateFirewallRuleGroup(ctx, g.ID, []string{"shop"}))(t)
	l.network(shop, "club")
	must(shop.AssociateFirewallRuleGroup(ctx, "second", inVPCs("shop", "club")))(t)
	if got := seen(); got != "" {
		t.Errorf("the node sees %s of a group without rules", got)
	}
	for _, s := range []string{"club-a", "club-b"} {
		must(shop.DeleteSubnet(ctx, s))(t)
	}
	must(shop.DeleteVPC(ctx, "club"))(t)
	if got := must(shop.GetFirewallRuleGroup(ctx, second.ID))(t); len(got.VPCs) != 1 {
		t.Errorf("after its VPC is deleted: %+v", got)
	}
	must(shop.DeleteFirewallRuleGroup(ctx, second.ID))(t)
	if got := l.firewallsSeen(); len(got) != 0 {
		t.Errorf("the node sees %v of a group that is gone", got)
	}
	l.check()
}

// An account's rules are bounded, and a node takes of each account its share; of the rest it answers nothing.
func TestFirewallsAreBounded(t *testing.T) {
	l := mesh(t, nil)
	shop, ctx := l.as("shop"), l.ctx()
	must(shop.CreateFirewallRuleGroup(ctx, api.CreateFirewallRuleGroupRequest{Name: "big", VPCs: []string{"shop"}}))(t)
	label := strings.Repeat("a", 50)
	var err error
	rules := 0
	for ; err == nil && rules < 10; rules++ {
		r := api.FirewallRule{Priority: uint32(rules) + 1, Action: api.FirewallBlock}
		for i := range 1000 {
			r.Domains = append(r.Domains, fmt.Sprintf("n%d.%s", i, label))
		}
		_, err = shop.ChangeFirewallRules(ctx, "big", api.ChangeFirewallRulesRequest{Put: []api.FirewallRule{r}})
	}
	if e := wantCode(t, err, api.CodeLimitExceeded); rules != 5 || e.Field != "put" {
		t.Errorf("%d rules of 57 KiB, then %v", rules, e)
	}
	if got := l.firewallsSeen(); len(got) != 1 || len(got[0].Rules) != rules-1 {
		t.Errorf("of an account that is alone the node sees %d groups", len(got))
	}
	// Neighbours take nothing away while there is room; without it accounts take turns.
	r := *l.s.Resources()
	r.CloneKind(api.KindFirewallRuleGroup)
	r.CloneKind(api.KindVPC)
	r.CloneKind(api.KindENI)
	big := *find1(r.FirewallRuleGroups, "big")
	const accounts = 20
	for _, rules := range []int{1, len(big.Rules)} {
		for i := range accounts - 1 {
			g := big
			g.ID, g.Account, g.Rules = fmt.Sprintf("rslvr-frg-%017d", i), fmt.Sprintf("%012d", i), big.Rules[:rules]
			g.CreatedAt = g.CreatedAt.Add(time.Duration(i) * time.Second)
			v, e := *find1(r.VPCs, "shop"), *find1(r.ENIs, "cart") // each has a VPC of its own on the node
			v.ID, v.Name, v.Number, v.Account = fmt.Sprintf("vpc-%d", i), "", uint32(1000+i), g.Account
			e.ID, e.Name, e.VPC, g.VPCs = fmt.Sprintf("eni-%d", i), "", v.ID, []string{v.ID}
			r.Put(&v)
			r.Put(&e)
			r.Put(&g)
		}
		bytes, left := 0, 0
		for _, g := range view.Compute(&r, find1(r.ENIs, "cart").Node).Firewalls {
			for i := range g.Rules {
				bytes += g.Rules[i].Size()
			}
			if g.LeftOut != "" {
				left++
			}
			if (g.LeftOut != "") != (len(g.Rules) == 0) {
				t.Errorf("%s has %d rules, and is left out: %q", g.ID, len(g.Rules), g.LeftOut)
			}
		}
		if bytes > api.MaxFirewallBytesPerNode || rules == 1 && left > 0 || rules > 1 && left != accounts-api.MaxFirewallBytesPerNode/big.Size() {
			t.Errorf("%d rules of each account: %d bytes, %d groups are left out", rules, bytes, left)
		}
	}
}

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
