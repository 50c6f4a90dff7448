package agree

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
)

// Established flows never move: while targets come, go and get other weights, and groups and load balancers become sticky, or
// mind zones, or do not, each packet of a flow arrives where the first one did, from the same address and port. A target that is deregistered
// keeps its flows; where the next flow from there would go has changed meanwhile, or this shows nothing.
func TestFlowsNeverMove(t *testing.T) {
	kept, moved := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		r := drawWorld(rt)
		m := newMesh(t, r)
		flows := m.establish(rt)
		for generation := range uint32(rapid.IntRange(1, 4).Draw(rt, "changes")) {
			drawTargets(rt, r)
			m.renew(t, generation+2)
			for _, f := range flows {
				p := f.sent
				p.Flags = plantest.ACK | plantest.PSH
				got, err := m.send(f.cell.src, p)
				if err != nil {
					rt.Fatal(err)
				}
				if got.eni != f.got.eni || !sameEnds(got.packet, f.got.packet) {
					rt.Fatalf("%s from %d went to %s as %+v; after change %d to %s as %+v: %s", f.cell, p.SourcePort, f.got.eni, f.got.packet,
						generation+1, got.eni, got.packet, got.reason)
				}
				kept++
			}
		}
		fresh := newMesh(t, r)
		for _, f := range flows {
			again, ok, err := fresh.open(f.cell, f.sent.SourcePort)
			if err != nil {
				rt.Fatal(err)
			}
			if ok && again.got.eni != f.got.eni {
				moved++
			}
		}
	})
	t.Logf("%d packets of established flows arrived where their flow had begun; %d flows would begin elsewhere now", kept, moved)
	if kept == 0 || moved == 0 {
		t.Error("the changes are too poor to show anything")
	}
}

// sameEnds: two packets are from the same address and port to the same.
func sameEnds(a, b plantest.IP) bool {
	return a.Source == b.Source && a.Dest == b.Dest && a.SourcePort == b.SourcePort && a.DestPort == b.DestPort && a.Protocol == b.Protocol
}

// establish opens flows to load balancers, each of which is answered.
func (m *mesh) establish(rt *rapid.T) (flows []opened) {
	seen := map[string]bool{}
	for _, c := range drawCells(rt, m.r, 60) {
		port := uint16(40000 + rapid.IntRange(0, 3).Draw(rt, "port"))
		name := fmt.Sprint(c, port)
		if seen[name] || c.protocol == api.ICMP || c.protocol == api.ICMPv6 {
			continue
		}
		seen[name] = true
		f, ok, err := m.open(c, port)
		if err == nil && ok {
			err = m.answer(f.cell, f.sent, f.got)
		}
		if err != nil {
			rt.Fatal(err)
		}
		if ok && f.got.packet.Dest != f.sent.Dest {
			flows = append(flows, f)
		}
	}
	return flows
}

// drawTargets changes all that a new flow's target depends on.
func drawTargets(rt *rapid.T, r *api.Resources) {
	for _, id := range slices.Sorted(maps.Keys(r.TargetGroups)) {
		g := r.TargetGroups[id]
		listed := map[string]bool{}
		for _, x := range g.Draining {
			listed[x.ENI] = true
		}
		var targets []api.Target
		for _, x := range g.Targets {
			listed[x.ENI] = true
			switch rapid.IntRange(0, 3).Draw(rt, "what") {
			case 0: // deregistered
				port := x.Port
				if port == 0 {
					port = g.Port
				}
				g.Draining = append(slices.Clone(g.Draining), api.DrainingTarget{ENI: x.ENI, Port: port})
				continue
			case 1:
				x.Weight = rapid.SampledFrom([]uint16{0, 1, api.DefaultTargetWeight, api.MaxTargetWeight}).Draw(rt, "weight")
			}
			targets = append(targets, x)
		}
		for _, id := range slices.Sorted(maps.Keys(r.ENIs)) {
			e := r.ENIs[id]
			if e.VPC == g.VPC && e.Type == api.ENIWorkload && !listed[id] && rapid.IntRange(0, 3).Draw(rt, "joins") == 0 {
				targets = append(targets, api.Target{ENI: id, Weight: api.DefaultTargetWeight})
			}
		}
		g.Targets = targets
		g.Stickiness = rapid.SampledFrom([]string{"", api.SourceIP}).Draw(rt, "stickiness")
	}
	for _, id := range slices.Sorted(maps.Keys(r.LoadBalancers)) {
		r.LoadBalancers[id].CrossZone = rapid.Bool().Draw(rt, "cross-zone")
	}
}
