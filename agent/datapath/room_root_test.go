package datapath

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/culvert-net/culvert/plan"
)

// Two plans that fill every rule set and target table, and share none, follow one another: else what the second revokes
// would stay.
func TestFullPlanFollowsFullPlan(t *testing.T) {
	d, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	for n := range uint32(2) {
		p := fullPlan(n)
		if changed, err := d.Apply(t.Context(), p); err != nil || !changed {
			t.Fatalf("plan %d: changed %v, %v", n, changed, err)
		}
		if changed, err := d.Apply(t.Context(), p); err != nil || changed {
			t.Fatalf("plan %d again: changed %v, %v", n, changed, err)
		}
	}
}

func fullPlan(n uint32) *plan.Plan {
	p := &plan.Plan{Generation: n + 1, Config: plan.Config{Mesh: testMesh, Node: 1, HostAddress: netip.IPv6Unspecified()}}
	for i := range uint32(plan.MaxRuleSets) {
		id := 1 + n*plan.MaxRuleSets + i
		p.RuleSets = append(p.RuleSets, plan.RuleSet{ID: id, Text: fmt.Sprintf("sgr-%d 6 443-443 0.0.0.0/0\n", id)})
		p.TargetTables = append(p.TargetTables, plan.TargetTable{ID: id, Width: 1, Text: "10.0.1.6:8443 100\n"})
	}
	return p
}
