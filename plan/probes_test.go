package plan_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// A node may probe its own targets, at the port of the check, from the load balancer's address; the least of several.
func TestProbes(t *testing.T) {
	v := plantest.View(2, plantest.Workloads())
	one, other := netip.MustParseAddr("10.0.1.5"), netip.MustParseAddr("10.0.1.6")
	second := v.HealthChecks[0]
	second.ID, second.Check.Port = "tg-2", "8080"
	third := v.HealthChecks[0]
	third.ID, third.Targets = "tg-3", slices.Clone(third.Targets)
	const greater = "10.0.1.19"
	v.Addresses = append(v.Addresses, api.ViewAddress{
		VPC: plantest.Pay, Address: netip.MustParseAddr(greater), ENI: "eni-lb-2", Number: 99, Type: api.ENILoadBalancer,
	})
	for i := range third.Targets {
		third.Targets[i].Source = netip.MustParseAddr(greater)
	}
	v.HealthChecks = append(v.HealthChecks, second, third)
	p, err := plan.Compile(v, plantest.Facts(v))
	if err != nil {
		t.Fatal(err)
	}
	var want []plan.Probe
	for _, a := range []netip.Addr{one, other} {
		for _, port := range []uint16{8080, 8443} {
			want = append(want, plan.Probe{VPC: plantest.Pay, Address: a, Port: port, Source: plantest.LoadBalancer})
		}
	}
	if !slices.Equal(p.Probes, want) {
		t.Errorf("probes %v, want %v", p.Probes, want)
	}
}

// What a view lets a node probe must be its own, from an address of a load balancer of that VPC.
func TestProbesThatAreRefused(t *testing.T) {
	for name, change := range map[string]func(*api.ViewHealthTarget){
		"another's address": func(x *api.ViewHealthTarget) { x.Address = netip.MustParseAddr("10.0.1.77") },
		"another ENI":       func(x *api.ViewHealthTarget) { x.ENI = "eni-cart" },
		"no port":           func(x *api.ViewHealthTarget) { x.Port = 0 },
		"a workload's":      func(x *api.ViewHealthTarget) { x.Source = netip.MustParseAddr("10.0.1.6") },
		"nobody's address":  func(x *api.ViewHealthTarget) { x.Source = netip.MustParseAddr("10.0.1.78") },
	} {
		v := plantest.View(2, plantest.Workloads())
		change(&v.HealthChecks[0].Targets[0])
		if _, err := plan.Compile(v, plantest.Facts(v)); err == nil || !strings.Contains(err.Error(), `healthChecks["tg-1"].targets`) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
