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

func TestResolverRuleRows(t *testing.T) {
	v := plantest.View(1, plantest.Workloads())
	number := uint32(0)
	for _, p := range v.VPCs {
		if p.Local {
			number = p.Number
		}
	}
	good := api.ViewResolverRule{ID: "rslvr-rr-1", Account: "1", Domain: "corp.example.com", VPCs: []uint32{number},
		Forwarders: []string{"tls://9.9.9.9", "10.0.0.53"}, PlainForwarders: true}
	left := api.ViewResolverRule{ID: "rslvr-rr-2", Domain: "example.net", VPCs: []uint32{number}, LeftOut: "no room"}
	long := good
	long.ID, long.Domain, long.Forwarders = "rslvr-rr-3", "example.org", slices.Repeat(good.Forwarders, plan.MaxForwarders)
	v.ResolverRules = []api.ViewResolverRule{left, good, long}
	p := compiled(t, v)
	want := []plan.ResolverRule{
		{ID: "rslvr-rr-1", Domain: "corp.example.com", VPCs: fmt.Sprint(number), Forwarders: "tls://9.9.9.9,10.0.0.53", Plain: true},
		{ID: "rslvr-rr-2", Domain: "example.net", VPCs: fmt.Sprint(number)},
		{ID: "rslvr-rr-3", Domain: "example.org", VPCs: fmt.Sprint(number), Plain: true,
			Forwarders: strings.Join(long.Forwarders[:plan.MaxForwarders], ",")},
	}
	if !reflect.DeepEqual(p.Rules, want) || !reflect.DeepEqual(p.Rules[0].Numbers(), good.VPCs) {
		t.Errorf("%+v", p.Rules)
	}
	if problems := strings.Join(p.Problems, "\n"); !strings.Contains(problems, "rslvr-rr-2") || !strings.Contains(problems, "rslvr-rr-3") {
		t.Errorf("problems %v", p.Problems)
	}
	if !strings.Contains(p.Dump(), "[resolver-rules]\nrslvr-rr-1 corp.example.com vpcs ") {
		t.Errorf("the dump does not have them:\n%s", p.Dump())
	}
	n := p.Naming()
	if n.Rules = nil; n.Equal(p.Naming()) {
		t.Error("rules make no difference")
	}
	for name, change := range map[string]func(*api.ViewResolverRule){
		"id":          func(r *api.ViewResolverRule) { r.ID = "" },
		"id twice":    func(r *api.ViewResolverRule) { r.ID = left.ID },
		"foreign VPC": func(r *api.ViewResolverRule) { r.VPCs = []uint32{4_000_000} },
		"no VPC":      func(r *api.ViewResolverRule) { r.VPCs = nil },
	} {
		bad := good
		change(&bad)
		v.ResolverRules = []api.ViewResolverRule{bad, left}
		if _, err := plan.Compile(v, plantest.Facts(v)); err == nil || !strings.Contains(err.Error(), "resolverRules") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		change     func(*api.ViewResolverRule)
		rules      int
		forwarders string
	}{
		"domain":         {func(r *api.ViewResolverRule) { r.Domain = "Corp.example.com" }, 1, ""},
		"wildcard":       {func(r *api.ViewResolverRule) { r.Domain = "*.example.com" }, 1, ""},
		"twice in a VPC": {func(r *api.ViewResolverRule) { r.ID, r.Domain = "rslvr-rr-4", "example.net" }, 1, ""},
		"not allowed":    {func(r *api.ViewResolverRule) { r.PlainForwarders = false }, 2, "tls://9.9.9.9"},
		"two in one":     {func(r *api.ViewResolverRule) { r.Forwarders = []string{"tls://9.9.9.9,tls://1.1.1.1"} }, 2, ""},
	} {
		bad := good
		c.change(&bad)
		v.ResolverRules = []api.ViewResolverRule{left, bad}
		p := compiled(t, v)
		if len(p.Rules) != c.rules || !strings.Contains(strings.Join(p.Problems, "\n"), bad.ID) || c.rules == 2 && p.Rules[0].Forwarders != c.forwarders {
			t.Errorf("%s: %+v, problems %v", name, p.Rules, p.Problems)
		}
	}
}
