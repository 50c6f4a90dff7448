package view

import (
	"cmp"
	"fmt"
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

// caps are a provider's node's part of a connection's caps: that of the weights of its targets in all that take new flows. What
// only keeps flows has no part in new ones; of bits it has an average target's, or its flows would stand still.
func (x *Index) caps(l *link, node string) api.Caps {
	here, all := 0, 0 // weights that take new flows
	resting, others, active := 0, 0, 0
	for _, p := range l.pools {
		last := !slices.ContainsFunc(p.targets, func(t target) bool { return t.weight > 0 && !x.leaving(t) })
		for _, t := range p.targets {
			mine := t.eni.Node == node
			switch takes := t.weight > 0 && (last || !x.leaving(t)); {
			case takes && mine:
				here += int(t.weight)
				fallthrough
			case takes:
				all, active = all+int(t.weight), active+1
			case mine:
				resting++
			default:
				others++
			}
		}
	}
	c := api.CapsOf(l.service, l.conn)
	if active == 0 {
		return c.Share(resting, resting+others)
	}
	part := c.Share(here, all)
	if here == 0 {
		part.MaxBitsPerSecond = c.Share(min(resting, active), active).MaxBitsPerSecond
	}
	return part
}

// leaving says whether a target's node is to be emptied.
func (x *Index) leaving(t target) bool { return x.r.Nodes[t.eni.Node].State == api.NodeDraining }

// grantTargets are a pool's targets on a node, and those of them that drain.
func (x *Index) grantTargets(l *link, p pool, node string) (targets, draining []api.ViewGrantTarget) {
	for _, t := range p.targets {
		source := x.source(l.lb, t.zone)
		if t.eni.Node != node || source == nil {
			continue
		}
		list := &targets
		if t.draining {
			list = &draining
		}
		*list = append(*list, api.ViewGrantTarget{ENI: t.eni.ID, Address: t.eni.Address, Port: t.port, Source: source.Address,
			SNATENI: source.ID})
	}
	for _, list := range [][]api.ViewGrantTarget{targets, draining} {
		slices.SortFunc(list, func(a, b api.ViewGrantTarget) int {
			return cmp.Or(cmp.Compare(a.ENI, b.ENI), cmp.Compare(a.Port, b.Port))
		})
	}
	return targets, draining
}

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

// addBalancers adds a node's part of load balancers for their own VPCs.
func (x *Index) addBalancers(v *api.View, node string, local map[string]bool) {
	for _, l := range x.inside {
		if local[l.consumer.ID] && len(l.pools) > 0 {
			v.LoadBalancers = append(v.LoadBalancers, x.endpoint(l))
		}
		if l.targetNodes[node] {
			v.LoadBalancerGrants = append(v.LoadBalancerGrants, x.grants(l, node)...)
		}
	}
}

// shareTargets leaves out of a view the listeners of an account's newest endpoints and load balancers whose targets are beyond
// its share, so that none fills it for the others.
func (x *Index) shareTargets(v *api.View) {
	type user struct {
		*api.ViewEndpoint
		account string
		targets int
	}
	var users []user
	accounts, wants := map[string]int{}, map[string]int{} // targets so far, and all
	add := func(e *api.ViewEndpoint, account string) {
		u := user{ViewEndpoint: e, account: account}
		for _, l := range u.Listeners {
			u.targets += len(l.Targets) + len(l.Resting)
		}
		wants[account] += u.targets
		users = append(users, u)
	}
	for i := range v.Endpoints {
		add(&v.Endpoints[i], x.r.Endpoints[v.Endpoints[i].ID].Account)
	}
	for i := range v.LoadBalancers {
		add(&v.LoadBalancers[i], x.r.LoadBalancers[v.LoadBalancers[i].ID].Account)
	}
	share := evenShare(wants, api.MaxListedTargetsPerNodeAndAccount, api.MaxListedTargetsPerNode)
	slices.SortFunc(users, func(a, b user) int { return cmp.Compare(a.ConnectionNumber, b.ConnectionNumber) })
	for _, u := range users {
		if accounts[u.account]+u.targets > share {
			u.Listeners = nil
			u.LeftOut = fmt.Sprintf("a node has room for %d targets behind the listeners that an account uses", share)
			continue
		}
		accounts[u.account] += u.targets
	}
}
