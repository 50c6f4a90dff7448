package view

import (
	"cmp"
	"maps"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// poolHealth is what a consumer's node does with the health of a group's targets, nil where nobody asks them.
func poolHealth(g *api.TargetGroup) *api.ViewPoolHealth {
	if !g.HealthCheck.Enabled {
		return nil
	}
	return &api.ViewPoolHealth{
		MinimumCount: g.MinimumHealthyTargets.Count, MinimumPercentage: g.MinimumHealthyTargets.Percentage,
		SlowStartSeconds: g.SlowStartSeconds, ConnectionTermination: g.UnhealthyConnectionTermination,
		DrainingIntervalSeconds: g.UnhealthyDrainingIntervalSeconds,
	}
}

// fronts are the first load balancer, by id, with a listener to each target group, and the groups whose targets expect a PROXY
// protocol header.
func (x *Index) fronts() (front map[string]*api.LoadBalancer, proxied map[string]bool) {
	expects := map[string]bool{} // load balancers of services whose targets expect a header
	for _, s := range x.r.Services {
		for _, id := range s.LoadBalancers {
			expects[id] = expects[id] || s.ClientIdentity == api.IdentityProxyProtocol
		}
	}
	front, proxied = map[string]*api.LoadBalancer{}, map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(x.r.LoadBalancers)) {
		b := x.r.LoadBalancers[id]
		for _, l := range b.Listeners {
			if front[l.TargetGroup] == nil {
				front[l.TargetGroup] = b
			}
			proxied[l.TargetGroup] = proxied[l.TargetGroup] || expects[id] && l.Protocol == api.TCP
		}
	}
	return front, proxied
}

// healthChecks are, by node, the checks of the targets that it hosts: of target groups that a load balancer uses, the oldest
// first. What is beyond an account's share of a node is not checked, and so counts as healthy.
func (x *Index) healthChecks() map[string][]api.ViewHealthCheck {
	front, proxied := x.fronts()
	groups := slices.Collect(maps.Values(x.r.TargetGroups))
	slices.SortFunc(groups, func(a, b *api.TargetGroup) int { return cmp.Compare(a.Number, b.Number) })
	room := x.checksShare(groups, front)
	out := map[string][]api.ViewHealthCheck{}
	for _, g := range groups {
		lb := front[g.ID]
		vpc := x.r.VPCs[g.VPC]
		if lb == nil || vpc == nil || !g.HealthCheck.Enabled {
			continue
		}
		of := map[string][]api.ViewHealthTarget{} // by node
		for _, t := range x.targets(g, g.VPC) {
			source := x.source(lb, t.zone)
			key := share{t.eni.Node, g.Account}
			if t.draining || source == nil || room[key] == 0 {
				continue
			}
			room[key]--
			of[t.eni.Node] = append(of[t.eni.Node], api.ViewHealthTarget{ENI: t.eni.ID, Address: t.eni.Address, Port: t.port,
				Source: source.Address})
		}
		for node, targets := range of {
			slices.SortFunc(targets, func(a, b api.ViewHealthTarget) int {
				return cmp.Or(cmp.Compare(a.ENI, b.ENI), cmp.Compare(a.Port, b.Port))
			})
			out[node] = append(out[node], api.ViewHealthCheck{TargetGroup: g.Number, ID: g.ID, VPC: vpc.Number, Check: g.HealthCheck,
				ProxyHeader: proxied[g.ID], Targets: targets})
		}
	}
	return out
}

// share names what an account may have of a node.
type share struct{ node, account string }

// checksShare is how many targets of an account each node checks.
func (x *Index) checksShare(groups []*api.TargetGroup, front map[string]*api.LoadBalancer) map[share]int {
	wants := map[string]map[string]int{} // by node and account
	for _, g := range groups {
		lb := front[g.ID]
		if lb == nil || !g.HealthCheck.Enabled {
			continue
		}
		for _, t := range x.targets(g, g.VPC) {
			if t.draining || x.source(lb, t.zone) == nil {
				continue
			}
			if wants[t.eni.Node] == nil {
				wants[t.eni.Node] = map[string]int{}
			}
			wants[t.eni.Node][g.Account]++
		}
	}
	out := map[share]int{}
	for node, by := range wants {
		room := evenShare(by, api.MaxHealthChecksPerNodeAndAccount, api.MaxHealthChecksPerNode)
		for account := range by {
			out[share{node, account}] = room
		}
	}
	return out
}
