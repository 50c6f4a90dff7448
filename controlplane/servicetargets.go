package controlplane

import (
	"cmp"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// serviceTargets lists what is behind a service, for its owner.
func serviceTargets(c *call, in *ByID) (*api.ServiceTargets, error) {
	s, err := c.service(in.ID)
	if err != nil {
		return nil, err
	}
	out := &api.ServiceTargets{Service: s.ID, ClientIdentity: cmp.Or(s.ClientIdentity, api.IdentityLoadBalancer),
		Targets: []api.ServiceTarget{}}
	for _, id := range s.LoadBalancers {
		b := c.r.LoadBalancers[id]
		if b == nil {
			continue
		}
		for i := range b.Listeners {
			out.Targets = append(out.Targets, c.targetsOf(s, b, &b.Listeners[i])...)
		}
	}
	slices.SortFunc(out.Targets, func(a, b api.ServiceTarget) int {
		return cmp.Or(cmp.Compare(a.LoadBalancer, b.LoadBalancer), cmp.Compare(a.ListenerPort, b.ListenerPort),
			cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.ENI, b.ENI), cmp.Compare(a.Port, b.Port))
	})
	return out, nil
}

// targetsOf are those of one listener.
func (c *call) targetsOf(s *api.Service, b *api.LoadBalancer, l *api.Listener) (out []api.ServiceTarget) {
	group := c.r.TargetGroups[l.TargetGroup]
	if group == nil {
		return nil
	}
	add := func(eni string, port uint16, draining bool) {
		e := c.r.ENIs[eni]
		if e == nil {
			return
		}
		t := api.ServiceTarget{LoadBalancer: b.ID, Listener: l.ID, Protocol: l.Protocol, ListenerPort: l.Port, ENI: e.ID, ENIName: e.Name,
			Address: e.Address, IPAddressType: cmp.Or(e.IPAddressType, api.IPv4Only), Port: cmp.Or(port, group.Port), Draining: draining}
		t.Sees, t.Reason = s.SeenBy(e, l.Protocol)
		out = append(out, t)
	}
	for _, t := range group.Targets {
		add(t.ENI, t.Port, false)
	}
	for _, t := range group.Draining {
		add(t.ENI, t.Port, true)
	}
	return out
}
