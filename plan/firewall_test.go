package plan_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// viewed are rules as a view has them, of one group.
func viewed(rules ...api.FirewallRule) (out []api.ViewFirewallRule) {
	for _, r := range rules {
		out = append(out, api.ViewFirewallRule{FirewallRule: r})
	}
	return out
}

func TestFirewallRows(t *testing.T) {
	v := plantest.View(1, plantest.Workloads())
	local := []uint32{v.Names[0].VPC}
	good := api.ViewFirewall{ID: "rslvr-frg-1", Account: "1", VPCs: local, Rules: viewed([]api.FirewallRule{
		{Priority: 1, Action: api.FirewallAllow, Domains: []string{"corp.internal", "*.corp.internal"}},
		{Priority: 2, Action: api.FirewallBlock, Domains: []string{"*.example.net"}, BlockResponse: api.BlockOverride,
			BlockOverrideDomain: "blocked.corp.internal", BlockOverrideTTLSeconds: 60},
		{Priority: 3, Action: api.FirewallAlert, Domains: []string{"x_y.example.com"}},
		{Priority: 9, Action: api.FirewallBlock, Domains: []string{"*"}, BlockResponse: api.BlockNXDomain},
	}...)}
	good.Rules[3].Rule = "rslvr-frg-7/2" // of another group that comes after
	left := api.ViewFirewall{ID: "rslvr-frg-2", VPCs: local, LeftOut: "no room"}
	v.Firewalls = []api.ViewFirewall{left}
	p := compiled(t, v)
	if len(p.Firewalls) != 1 || !p.Firewalls[0].Closed || !strings.Contains(strings.Join(p.Problems, "\n"), "rslvr-frg-2") {
		t.Errorf("%+v, problems %v", p.Firewalls, p.Problems)
	}
	v.Firewalls[0] = good
	p = compiled(t, v)
	if len(p.Firewalls) != 1 || p.Firewalls[0].Closed || len(p.Problems) != 0 {
		t.Fatalf("%+v, problems %v", p.Firewalls, p.Problems)
	}
	back, err := p.Firewalls[0].Rules()
	want := slices.Clone(good.Rules)
	for i := range want[:3] {
		want[i].Rule = fmt.Sprintf("rslvr-frg-1/%d", want[i].Priority)
	}
	if err != nil || !reflect.DeepEqual(back, want) || !reflect.DeepEqual(p.Firewalls[0].Numbers(), good.VPCs) {
		t.Errorf("read back: %+v, %v, VPCs %v", back, err, p.Firewalls[0].Numbers())
	}
	if want := fmt.Sprintf("[firewalls]\nrslvr-frg-1 vpcs %d closed false", local[0]); !strings.Contains(p.Dump(), want) {
		t.Errorf("the dump does not have them:\n%s", p.Dump())
	}
	n := p.Naming()
	if n.Firewalls = nil; n.Equal(p.Naming()) {
		t.Error("firewalls make no difference")
	}
	for _, text := range []string{"x ALLOW - - 0 * a/1\n", "1 ALLOW - - x * a/1\n", "1 ALLOW - - 0 *\n"} {
		if _, err := (plan.Firewall{ID: "rslvr-frg-1", Text: text}).Rules(); err == nil {
			t.Errorf("%q is read", text)
		}
	}
	for name, change := range map[string]func(*api.ViewFirewall){
		"id":             func(g *api.ViewFirewall) { g.ID = "" },
		"foreign VPC":    func(g *api.ViewFirewall) { g.VPCs = []uint32{4_000_000} },
		"no VPC":         func(g *api.ViewFirewall) { g.VPCs = nil },
		"twice in a VPC": func(g *api.ViewFirewall) {},
		"id twice":       func(g *api.ViewFirewall) { g.ID = left.ID },
	} {
		bad := good
		change(&bad)
		v.Firewalls = []api.ViewFirewall{left, bad}
		if _, err := plan.Compile(v, plantest.Facts(v)); err == nil || !strings.Contains(err.Error(), "firewalls") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*api.ViewFirewall){
		"action": func(g *api.ViewFirewall) {
			g.Rules = viewed(api.FirewallRule{Priority: 1, Action: "DROP", Domains: []string{"*"}})
		},
		"two in one": func(g *api.ViewFirewall) {
			g.Rules = viewed(api.FirewallRule{Priority: 1, Action: "ALLOW", Domains: []string{"a,b"}})
		},
		"lines": func(g *api.ViewFirewall) {
			g.Rules = viewed(api.FirewallRule{Priority: 1, Action: "ALLOW", Domains: []string{"a\nb"}})
		},
		"list": func(g *api.ViewFirewall) {
			g.Rules = viewed(api.FirewallRule{Priority: 1, Action: "BLOCK", BlockResponse: "NODATA", DomainList: "rslvr-fdl-00000000000000000"})
		},
		"name": func(g *api.ViewFirewall) {
			g.Rules = []api.ViewFirewallRule{good.Rules[0]}
			g.Rules[0].Rule = "a b/1"
		},
		"name without priority": func(g *api.ViewFirewall) {
			g.Rules = []api.ViewFirewallRule{good.Rules[0]}
			g.Rules[0].Rule = "rslvr-frg-7/"
		},
		"order":    func(g *api.ViewFirewall) { g.Rules = []api.ViewFirewallRule{good.Rules[1], good.Rules[0]} },
		"left out": func(g *api.ViewFirewall) { g.LeftOut = "no room" },
	} {
		bad := good
		change(&bad)
		v.Firewalls = []api.ViewFirewall{bad}
		p := compiled(t, v)
		if len(p.Firewalls) != 1 || !p.Firewalls[0].Closed || p.Firewalls[0].Text != "" || !strings.Contains(strings.Join(p.Problems, "\n"), bad.ID) {
			t.Errorf("%s: %+v, problems %v", name, p.Firewalls, p.Problems)
		}
	}
}
