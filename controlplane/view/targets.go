package view

import (
	"cmp"
	"maps"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// target is a receiver of a target group that lives on some node.
type target struct {
	eni      *api.ENI
	port     uint16
	zone     string
	weight   uint16
	draining bool // deregistered
}

// targets are those of a group in a VPC, each address and port once.
func (x *Index) targets(g *api.TargetGroup, vpc string) []target {
	type place struct {
		eni  string
		port uint16
	}
	var out []target
	seen := map[place]bool{} // port 0 and the group's own port name the same target
	add := func(eni string, port, weight uint16, draining bool) {
		e := x.r.ENIs[eni]
		if e == nil || e.VPC != vpc || x.hostOf(e) == "" || seen[place{eni, port}] {
			return
		}
		seen[place{eni, port}] = true
		out = append(out, target{eni: e, port: port, zone: x.zone(e.Subnet), weight: weight, draining: draining})
	}
	for _, t := range g.Targets {
		add(t.ENI, cmp.Or(t.Port, g.Port), t.Weight, false)
	}
	for _, t := range g.Draining {
		add(t.ENI, t.Port, 0, true)
	}
	return out
}

// pick tells where new flows may go, and which targets only keep theirs: those of weight 0, those that are deregistered, and
// those on draining nodes unless there are no others.
func (x *Index) pick(targets []target) (picked, resting []api.ViewTarget) {
	var last []api.ViewTarget // on draining nodes
	for _, t := range targets {
		vt := api.ViewTarget{Address: t.eni.Address, Port: t.port, Zone: t.zone}
		if t.weight != api.DefaultTargetWeight {
			vt.Weight = t.weight
		}
		switch {
		case t.weight == 0:
			resting = append(resting, vt)
		case x.leaving(t):
			last = append(last, vt)
		default:
			picked = append(picked, vt)
		}
	}
	if len(picked) == 0 {
		picked = last
	} else {
		for _, vt := range last {
			vt.Leaving = true
			resting = append(resting, vt)
		}
	}
	for _, list := range [][]api.ViewTarget{picked, resting} {
		slices.SortFunc(list, func(a, b api.ViewTarget) int {
			return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
		})
	}
	return picked, resting
}

// leaving says whether a target's node is to be emptied.
func (x *Index) leaving(t target) bool { return x.r.Nodes[t.eni.Node].State == api.NodeDraining }

// balancers are the load balancers as workloads of their own VPC use them: as connections of the VPC with itself, which no
// endpoint's groups admit to. One whose service's targets expect to be told the client has none: its targets would take for
// that what a client writes.
func (x *Index) balancers() []*link {
	tells := map[string]bool{}
	for _, s := range x.r.Services {
		for _, id := range s.LoadBalancers {
			tells[id] = tells[id] || s.ClientIdentity != "" && s.ClientIdentity != api.IdentityLoadBalancer
		}
	}
	var out []*link
	for _, id := range slices.Sorted(maps.Keys(x.r.LoadBalancers)) {
		b := x.r.LoadBalancers[id]
		vpc := x.r.VPCs[b.VPC]
		if b.Number == 0 || vpc == nil || tells[id] {
			continue
		}
		meta := api.Meta{ID: b.ID, Account: b.Account}
		out = append(out, x.complete(&link{
			conn:     &api.Connection{Meta: meta, Number: b.Number, TagNumbers: b.TagNumbers},
			endpoint: &api.Endpoint{Meta: meta, ENIs: b.ENIs, SecurityGroups: b.SecurityGroups},
			service:  &api.Service{}, lb: b, consumer: vpc, targetNodes: map[string]bool{},
		}))
	}
	return out
}
