package view

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
)

// Each target of a group that a load balancer uses is checked once, by the node that hosts it, as one that the load balancer
// sends to; and by nobody where the check is off or no load balancer uses the group.
func TestHealthChecks(t *testing.T) {
	seen := 0
	rapid.Check(t, func(t *rapid.T) {
		r := drawWorld(t)
		used := map[string]bool{}
		for _, b := range r.LoadBalancers {
			if rapid.IntRange(0, 3).Draw(t, "unused") == 0 {
				b.Listeners = nil
			}
			for _, l := range b.Listeners {
				used[l.TargetGroup] = true
			}
		}
		for _, s := range r.Services {
			s.ClientIdentity = rapid.SampledFrom([]api.ClientIdentity{"", api.IdentityProxyProtocol}).Draw(t, "identity")
		}
		for _, g := range r.TargetGroups {
			g.HealthCheck.Enabled = rapid.IntRange(0, 3).Draw(t, "enabled") > 0
		}
		x := NewIndex(r)
		checked := map[[2]string]string{}
		for node, n := range r.Nodes {
			for _, h := range x.View(node).HealthChecks {
				g := r.TargetGroups[h.ID]
				if g.Number != h.TargetGroup || r.VPCs[g.VPC].Number != h.VPC || !h.Check.Enabled {
					t.Fatalf("%+v of %+v", h, g)
				}
				for _, target := range h.Targets {
					key := [2]string{g.ID, target.ENI}
					e := r.ENIs[target.ENI]
					if checked[key] != "" || e.Node != node || n.State == api.NodeRevoked || target.Address != e.Address || target.Port != 8443 {
						t.Fatalf("%s checks %+v, of %s, %s too", node, target, e.Node, checked[key])
					}
					checked[key] = node
					seen++
					if !fromBalancer(r, g, target, h.ProxyHeader) {
						t.Fatalf("%+v is asked from %s, proxied %t", g, target.Source, h.ProxyHeader)
					}
				}
			}
		}
		for _, g := range r.TargetGroups {
			for _, target := range g.Targets {
				hosted := x.hostOf(r.ENIs[target.ENI]) != ""
				if got := checked[[2]string{g.ID, target.ENI}] != ""; got != (hosted && used[g.ID] && g.HealthCheck.Enabled) {
					t.Fatalf("%+v of %+v is checked: %t", target, g, got)
				}
			}
		}
	})
	if seen == 0 {
		t.Error("nothing is checked")
	}
}

// fromBalancer tells whether a source is the address of a load balancer with a listener to a group, in the target's zone if it has
// one there, and whether its service's targets expect a header.
func fromBalancer(r *api.Resources, g *api.TargetGroup, target api.ViewHealthTarget, proxied bool) bool {
	for _, b := range r.LoadBalancers {
		if !slices.ContainsFunc(b.Listeners, func(l api.Listener) bool { return l.TargetGroup == g.ID }) {
			continue
		}
		expects := false
		for _, s := range r.Services {
			expects = expects || slices.Contains(s.LoadBalancers, b.ID) && s.ClientIdentity == api.IdentityProxyProtocol
		}
		for _, id := range b.ENIs {
			e := r.ENIs[id]
			if e.Address == target.Source && r.Subnets[e.Subnet].Zone == r.Subnets[r.ENIs[target.ENI].Subnet].Zone {
				return proxied == expects
			}
		}
	}
	return false
}

// What an account has beyond its share of a node is not checked; others' targets are.
func TestHealthChecksAreShared(t *testing.T) {
	w := newCrowded()
	for vpc, account := range []string{"evil", "good"} {
		vpc++
		w.vpc(vpc, account, 1)
		g := &api.TargetGroup{Meta: api.Meta{ID: id(api.KindTargetGroup, vpc), Account: account}, VPC: vpcID(vpc), Protocol: api.TCP, Port: 443,
			Number: uint32(vpc), HealthCheck: api.DefaultHealthCheck(api.TCP)}
		for range 3 {
			e := w.put(vpc, api.ENIWorkload, 1)
			for port := range uint16(500) {
				if account == "evil" || port == 0 {
					g.Targets = append(g.Targets, api.Target{ENI: e.ID, Port: 1000 + port, Weight: 1})
				}
			}
		}
		w.r.Put(g)
		w.r.Put(&api.LoadBalancer{Meta: api.Meta{ID: id(api.KindLoadBalancer, vpc), Account: account}, VPC: vpcID(vpc),
			ENIs:      []string{w.put(vpc, api.ENILoadBalancer, 0).ID},
			Listeners: []api.Listener{{ID: "l", Protocol: api.TCP, Port: 443, TargetGroup: g.ID, IdleTimeoutSeconds: 350}}})
	}
	checks := Compute(w.r, id(api.KindNode, 1)).HealthChecks
	if len(checks) != 2 || len(checks[0].Targets) != api.MaxHealthChecksPerNodeAndAccount || len(checks[1].Targets) != 3 {
		t.Errorf("%d groups", len(checks))
		for _, h := range checks {
			t.Errorf("%d targets of %s", len(h.Targets), h.ID)
		}
	}
}

// Accounts that have little take no checks from one that has many, while there is room for all.
func TestHealthChecksOfManyAccounts(t *testing.T) {
	w := newCrowded()
	want := map[string]int{}
	for vpc := 1; vpc <= 8; vpc++ {
		account, n := fmt.Sprint("small-", vpc), uint16(1)
		if vpc == 8 {
			account, n = "large", 1000
		}
		w.vpc(vpc, account, 1)
		e := w.put(vpc, api.ENIWorkload, 1)
		g := &api.TargetGroup{Meta: api.Meta{ID: id(api.KindTargetGroup, vpc), Account: account}, VPC: vpcID(vpc), Protocol: api.TCP, Port: 443,
			Number: uint32(vpc), HealthCheck: api.DefaultHealthCheck(api.TCP)}
		for port := range n {
			g.Targets = append(g.Targets, api.Target{ENI: e.ID, Port: 1000 + port, Weight: 1})
		}
		want[g.ID] = int(n)
		w.r.Put(g)
		w.r.Put(&api.LoadBalancer{Meta: api.Meta{ID: id(api.KindLoadBalancer, vpc), Account: account}, VPC: vpcID(vpc),
			ENIs:      []string{w.put(vpc, api.ENILoadBalancer, 0).ID},
			Listeners: []api.Listener{{ID: "l", Protocol: api.TCP, Port: 443, TargetGroup: g.ID, IdleTimeoutSeconds: 350}}})
	}
	got := map[string]int{}
	for _, h := range Compute(w.r, id(api.KindNode, 1)).HealthChecks {
		got[h.ID] = len(h.Targets)
	}
	if !maps.Equal(got, want) {
		t.Errorf("checked %v, want %v", got, want)
	}
}

// Targets on a draining node rest while there are others, and say that they may be called in; without others they are used.
func TestWhoLeavesMayBeCalledIn(t *testing.T) {
	r := api.NewResources()
	x := NewIndex(r)
	r.Put(&api.Node{Meta: api.Meta{ID: "stays"}, State: api.NodeReady})
	r.Put(&api.Node{Meta: api.Meta{ID: "leaves"}, State: api.NodeDraining})
	on := func(node string, port, weight uint16) target {
		return target{eni: &api.ENI{Node: node}, port: port, weight: weight}
	}
	picked, resting := x.pick([]target{on("stays", 1, 100), on("stays", 2, 0), on("leaves", 3, 7), on("leaves", 4, 0)})
	if len(picked) != 1 || picked[0].Port != 1 || len(resting) != 3 {
		t.Fatalf("%+v, %+v", picked, resting)
	}
	for _, rests := range resting {
		if leaves := rests.Port == 3; rests.Leaving != leaves || leaves && rests.Weight != 7 {
			t.Errorf("%+v", rests)
		}
	}
	if picked, resting := x.pick([]target{on("leaves", 3, 7)}); len(picked) != 1 || picked[0].Leaving || len(resting) != 0 {
		t.Errorf("%+v, %+v", picked, resting)
	}
}
