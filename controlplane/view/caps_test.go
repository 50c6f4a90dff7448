package view

import (
	"testing"

	"github.com/culvert-net/culvert/api"
)

// A provider's nodes share the caps as new flows come to them: by weight, and what only keeps its flows takes nothing of others' part.
func TestPartsOfCaps(t *testing.T) {
	type on struct {
		node     int
		weight   uint16
		draining bool
	}
	full := api.Caps{MaxConnectionsPerSecond: 1000, MaxFlows: 1000, MaxBitsPerSecond: 1_000_000}
	part := func(n int, bits uint64) api.Caps {
		return api.Caps{MaxConnectionsPerSecond: uint32(n), MaxFlows: uint32(n), MaxBitsPerSecond: bits}
	}
	for name, c := range map[string]struct {
		targets []on
		leaving int // node
		want    map[int]api.Caps
	}{
		"even":    {targets: []on{{2, 100, false}, {3, 100, false}}, want: map[int]api.Caps{2: part(500, 500_000), 3: part(500, 500_000)}},
		"weights": {targets: []on{{2, 900, false}, {3, 100, false}}, want: map[int]api.Caps{2: part(900, 900_000), 3: part(100, 100_000)}},
		"deregistered": {targets: []on{{2, 100, false}, {2, 100, false}, {3, 100, true}},
			want: map[int]api.Caps{2: full, 3: part(1, 500_000)}},
		"of weight 0": {targets: []on{{2, 100, false}, {3, 0, false}, {3, 0, false}},
			want: map[int]api.Caps{2: full, 3: part(1, 1_000_000)}},
		"deregistered beside": {targets: []on{{2, 100, false}, {3, 100, false}, {3, 100, true}},
			want: map[int]api.Caps{2: part(500, 500_000), 3: part(500, 500_000)}},
		"on a node to be emptied": {targets: []on{{2, 100, false}, {3, 100, false}}, leaving: 3,
			want: map[int]api.Caps{2: full, 3: part(1, 1_000_000)}},
		"all on nodes to be emptied": {targets: []on{{2, 300, false}}, leaving: 2, want: map[int]api.Caps{2: full}},
		"all deregistered": {targets: []on{{2, 100, true}, {3, 100, true}},
			want: map[int]api.Caps{2: part(500, 500_000), 3: part(500, 500_000)}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCrowded()
			for node := 1; node <= 3; node++ {
				n := &api.Node{Meta: api.Meta{ID: id(api.KindNode, node)}, Number: uint32(node), State: api.NodeReady}
				if node == c.leaving {
					n.State = api.NodeDraining
				}
				w.r.Put(n)
			}
			g := *w.r.TargetGroups["tg-1"]
			g.Targets = nil
			for _, on := range c.targets {
				e := w.put(0, api.ENIWorkload, on.node)
				if on.draining {
					g.Draining = append(g.Draining, api.DrainingTarget{ENI: e.ID, Port: 8443})
				} else {
					g.Targets = append(g.Targets, api.Target{ENI: e.ID, Port: 8443, Weight: on.weight})
				}
			}
			w.r.Put(&g)
			s := *w.r.Services["svc-1"]
			s.Caps = full
			w.r.Put(&s)
			w.vpc(1, "evil", 1)
			w.put(1, api.ENIWorkload, 1)
			w.endpoint(1, 0, 1)
			for node, want := range c.want {
				grants := Compute(w.r, id(api.KindNode, node)).Grants
				if len(grants) != 1 || grants[0].Caps != want {
					t.Errorf("node %d: %+v, want %+v", node, grants, want)
				}
			}
		})
	}
}
