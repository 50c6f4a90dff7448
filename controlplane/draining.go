package controlplane

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
)

// drain notes a target that leaves a group: nodes let its flows go on, and give it no new ones. At most as many drain as a
// group may have targets; the ones that began first make way. Without a delay nothing drains where flows are to be ended.
func (c *call) drain(g *api.TargetGroup, t api.Target) {
	delay := time.Duration(g.DeregistrationDelaySeconds) * time.Second
	if delay == 0 && g.ConnectionTermination {
		return
	}
	g.Draining = append(slices.Clone(g.Draining), api.DrainingTarget{ENI: t.ENI, Port: cmp.Or(t.Port, g.Port), Until: c.now.Add(delay)})
	g.Draining = g.Draining[max(0, len(g.Draining)-api.MaxTargetsPerGroup):]
}

// stillDraining are the draining targets of a group that are not registered again.
func stillDraining(g *api.TargetGroup) []api.DrainingTarget {
	return slices.DeleteFunc(slices.Clone(g.Draining), func(d api.DrainingTarget) bool {
		return slices.ContainsFunc(g.Targets, func(t api.Target) bool {
			return t.ENI == d.ENI && cmp.Or(t.Port, g.Port) == d.Port
		})
	})
}

// over: the target's delay is over in a group that ends flows then.
func over(g *api.TargetGroup, d api.DrainingTarget, now time.Time) bool {
	return g.ConnectionTermination && !now.Before(d.Until)
}

// drained reports whether there is something for endDraining to do.
func drained(r *api.Resources, now time.Time) bool {
	for _, g := range r.TargetGroups {
		if slices.ContainsFunc(g.Draining, func(d api.DrainingTarget) bool { return over(g, d, now) }) {
			return true
		}
	}
	return false
}

// endDraining forgets the targets whose delay is over in groups that end flows then, which nodes do when they hear of it. In other
// groups they stay until they are registered again or gone: nobody here knows when the last of their flows ends.
func (c *call) endDraining() error {
	left := atOnce
	for _, id := range slices.Sorted(maps.Keys(c.r.TargetGroups)) {
		old := c.r.TargetGroups[id]
		g := *old
		g.Draining = slices.DeleteFunc(slices.Clone(g.Draining), func(d api.DrainingTarget) bool { return over(old, d, c.now) })
		if len(g.Draining) == len(old.Draining) {
			continue
		}
		if err := put(c, &g, nil, nil); err != nil {
			return err
		}
		c.bySystem("end-draining", g.Account, g.ID)
		if left--; left == 0 {
			break
		}
	}
	return nil
}

// forgetDraining takes an interface that is deleted out of the groups where it drains.
func (c *call) forgetDraining(eni string) error {
	for _, id := range slices.Sorted(maps.Keys(c.r.TargetGroups)) {
		g := *c.r.TargetGroups[id]
		before := len(g.Draining)
		g.Draining = slices.DeleteFunc(slices.Clone(g.Draining), func(d api.DrainingTarget) bool { return d.ENI == eni })
		if len(g.Draining) == before {
			continue
		}
		if err := put(c, &g, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

func modifyTargetGroup(c *call, in *change[api.ModifyTargetGroupRequest]) (*api.TargetGroup, error) {
	old, err := c.targetGroup("id", in.ID, "")
	if err != nil {
		return nil, err
	}
	g := *old
	c.subject = g.ID
	if in.Body.Stickiness != nil {
		g.Stickiness = *in.Body.Stickiness
	}
	if in.Body.DeregistrationDelaySeconds != nil {
		g.DeregistrationDelaySeconds = *in.Body.DeregistrationDelaySeconds
	}
	if in.Body.ConnectionTermination != nil {
		g.ConnectionTermination = *in.Body.ConnectionTermination
	}
	in.Body.Apply(&g)
	return &g, c.putTargetGroup(&g)
}

func modifyBalancer(c *call, in *change[api.ModifyLoadBalancerRequest]) (*api.LoadBalancer, error) {
	old, err := c.balancer("id", in.ID)
	if err != nil {
		return nil, err
	}
	b := *old
	c.subject = b.ID
	if in.Body.CrossZone != nil {
		b.CrossZone = *in.Body.CrossZone
	}
	return &b, put(c, &b, nil, nil)
}
