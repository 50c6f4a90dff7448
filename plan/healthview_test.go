package plan_test

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/view"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/internal/worlds"
	"github.com/culvert-net/culvert/plan"
)

// What one node is to hear of a target is what the target's node is to tell it, and the other way round.
func TestHealthGoesWhereItIsNeeded(t *testing.T) {
	heard := 0
	rapid.Check(t, func(t *rapid.T) {
		r := worlds.New(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "world"), 0)), worlds.Small)
		index := view.NewIndex(r)
		views := map[uint32]*api.View{}
		told := map[uint32]map[uint32][]uint32{}
		for id, n := range r.Nodes {
			views[n.Number] = index.View(id)
			told[n.Number] = plan.HealthSubscribers(views[n.Number])
		}
		needs := map[[3]uint32]bool{} // listener, teller, target group
		for number, v := range views {
			for _, s := range plan.HealthSources(v) {
				host := views[s.Node]
				if !slices.ContainsFunc(host.ENIs, func(e api.ViewENI) bool { return e.VPC == s.VPC && e.Address == s.Key.Target.Addr() }) {
					t.Fatalf("node %d takes node %d for the host of %s of VPC %d", number, s.Node, s.Key.Target, s.VPC)
				}
				if s.Node == number {
					continue
				}
				heard++
				needs[[3]uint32{number, s.Node, s.Key.TargetGroup}] = true
				checked := slices.ContainsFunc(host.HealthChecks, func(h api.ViewHealthCheck) bool {
					return h.TargetGroup == s.Key.TargetGroup && h.VPC == s.VPC
				})
				if checked && !slices.Contains(told[s.Node][s.Key.TargetGroup], number) {
					t.Fatalf("node %d does not tell node %d of target group %d", s.Node, number, s.Key.TargetGroup)
				}
			}
		}
		for teller, groups := range told {
			for group, nodes := range groups {
				for _, n := range nodes {
					if !needs[[3]uint32{n, teller, group}] {
						t.Fatalf("node %d tells node %d of target group %d, which it need not know", teller, n, group)
					}
				}
			}
		}
	})
	if heard == 0 {
		t.Error("no node needs to hear of another's targets: the worlds are too small")
	}
}

// The same facts give the same tables, and none those that there were before there was health.
func TestHealthInPlans(t *testing.T) {
	v := plantest.View(1, plantest.Workloads())
	before := compiled(t, v)
	l := &v.Endpoints[0].Listeners[0]
	l.Health = &api.ViewPoolHealth{MinimumCount: 1}
	if got := compiled(t, v); !reflect.DeepEqual(got, before) {
		t.Errorf("nothing is known, and the plan differs: %+v", got.TargetTables)
	}
	f := plantest.Facts(v)
	f.Health = map[plan.HealthKey]plan.HealthFact{}
	set := func(i int, fact plan.HealthFact) {
		f.Health[plan.HealthKey{TargetGroup: l.TargetGroup, Target: netip.AddrPortFrom(l.Targets[i].Address, l.Targets[i].Port)}] = fact
	}
	table := func() string {
		p, err := plan.Compile(v, f)
		if err != nil {
			t.Fatal(err)
		}
		again := v
		again.Endpoints = slices.Clone(v.Endpoints)
		again.Endpoints[0].Listeners = slices.Clone(v.Endpoints[0].Listeners)
		first := &again.Endpoints[0].Listeners[0]
		first.Targets = slices.Clone(first.Targets)
		slices.Reverse(first.Targets)
		if q, err := plan.Compile(again, f); err != nil || !reflect.DeepEqual(p, q) {
			t.Fatalf("another order of the targets, another plan: %v", err)
		}
		for _, s := range p.Services {
			for _, table := range p.TargetTables {
				if s.Port == 443 && table.ID == s.Table {
					return table.Text
				}
			}
		}
		return ""
	}
	const a, b = "10.0.1.5:8443 ", "10.0.1.6:8443 "
	set(0, plan.HealthFact{State: plan.HealthUnhealthy})
	if got := table(); got != a+"0\n"+b+"100\n" {
		t.Errorf("one is ill: %q", got)
	}
	set(0, plan.HealthFact{State: plan.HealthUnhealthy, Ended: true})
	if got := table(); got != b+"100\n" {
		t.Errorf("its flows are ended: %q", got)
	}
	set(1, plan.HealthFact{State: plan.HealthUnhealthy})
	if got := table(); got != a+"100\n"+b+"100\n" {
		t.Errorf("both are ill: %q", got)
	}
	set(1, plan.HealthFact{State: plan.HealthHealthy, Weight: 300})
	if got := table(); got != b+"30\n" {
		t.Errorf("the other has just come: %q", got)
	}
	l.Health = nil
	if got := table(); got != a+"100\n"+b+"100\n" {
		t.Errorf("nobody asks any more: %q", got)
	}
}
