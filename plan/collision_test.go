package plan_test

import (
	"fmt"
	"hash/fnv"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// collidingGroups are two numbers of target groups whose tables get the same hash: what follows the number in the text moves equal
// states of FNV-1a alike.
func collidingGroups(t *testing.T) (a, b uint32) {
	t.Helper()
	seen := map[uint32]uint32{}
	for n := uint32(1); n < 1_000_000; n++ {
		h := fnv.New32a()
		fmt.Fprintf(h, "target group %d", n)
		if m, ok := seen[h.Sum32()]; ok {
			return m, n
		}
		seen[h.Sum32()] = n
	}
	t.Fatal("no two numbers collide")
	return 0, 0
}

// Two target groups whose hashes are equal have a table each, and each node finds its own targets there.
func TestCollidingTargetGroups(t *testing.T) {
	a, b := collidingGroups(t)
	v := plantest.View(1, plantest.Workloads())
	l := v.Endpoints[0].Listeners
	l[0].TargetGroup, l[1].TargetGroup = a, b
	l[1].Targets = append([]api.ViewTarget{}, l[0].Targets[1:]...)
	p := compiled(t, v)
	texts := map[uint32]string{}
	for _, table := range p.TargetTables {
		texts[table.ID] = table.Text
	}
	var of []plan.Service
	for _, s := range p.Services {
		if s.Port == l[0].Port || s.Port == l[1].Port {
			of = append(of, s)
		}
	}
	if len(of) != 2 || of[0].Table == of[1].Table || len(texts) != 2 || max(of[0].Table, of[1].Table)-min(of[0].Table, of[1].Table) != 1 {
		t.Fatalf("target groups %d and %d: services %+v of tables %v", a, b, of, texts)
	}
	for _, s := range of {
		want := l[0].Targets
		if s.Port == l[1].Port {
			want = l[1].Targets
		}
		list, err := plan.TargetTable{Text: texts[s.Table]}.Targets()
		if err != nil || len(list) != len(want) {
			t.Errorf("port %d has the targets %v, want %v: %v", s.Port, list, want, err)
		}
	}
}
