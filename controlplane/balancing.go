package controlplane

import (
	"cmp"
	"maps"
	"net/http"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
)

func (s *Server) registerBalancing() {
	writing(s, operation{http.MethodPost, "/v1/target-groups", "create-target-group", "Make a target group", aUser}, createTargetGroup)
	listing(s, operation{http.MethodGet, "/v1/target-groups", "list-target-groups", "Target groups", aUser},
		func(c *call, in *inVPC) (*api.List[api.TargetGroup], error) {
			vpc, err := c.vpcFilter(in.VPC)
			return list(c, c.r.TargetGroups, func(g *api.TargetGroup) bool { return vpc == "" || g.VPC == vpc }), err
		})
	reading(s, operation{http.MethodGet, "/v1/target-groups/{id}", "get-target-group", "One target group", aUser},
		func(c *call, in *ByID) (*api.TargetGroup, error) { return c.targetGroup("id", in.ID, "") })
	reading(s, operation{http.MethodGet, "/v1/target-groups/{id}/health", "get-target-health", "How a group's targets are", aUser},
		describeTargetHealth)
	listing(s, operation{http.MethodGet, "/v1/target-health", "list-target-health", "Targets, and how they are", aUser}, listTargetHealth)
	writing(s, operation{http.MethodDelete, "/v1/target-groups/{id}", "delete-target-group", "Remove an unused target group", aUser},
		deleteTargetGroup)
	writing(s, operation{http.MethodPost, "/v1/target-groups/{id}/register", "register-targets", "Add targets", aUser}, registerTargets)
	writing(s, operation{http.MethodPost, "/v1/target-groups/{id}/deregister", "deregister-targets", "Remove targets", aUser},
		deregisterTargets)
	writing(s, operation{http.MethodPatch, "/v1/target-groups/{id}", "modify-target-group", "Change a target group", aUser},
		modifyTargetGroup)
	writing(s, operation{http.MethodPatch, "/v1/load-balancers/{id}", "modify-load-balancer", "Change a load balancer", aUser},
		modifyBalancer)
	writing(s, operation{http.MethodPost, "/v1/load-balancers", "create-load-balancer", "Make a load balancer", aUser}, createBalancer)
	listing(s, operation{http.MethodGet, "/v1/load-balancers", "list-load-balancers", "Load balancers", aUser},
		func(c *call, in *inVPC) (*api.List[api.LoadBalancer], error) {
			vpc, err := c.vpcFilter(in.VPC)
			return list(c, c.r.LoadBalancers, func(b *api.LoadBalancer) bool { return vpc == "" || b.VPC == vpc }), err
		})
	reading(s, operation{http.MethodGet, "/v1/load-balancers/{id}", "get-load-balancer", "One load balancer", aUser},
		func(c *call, in *ByID) (*api.LoadBalancer, error) { return c.balancer("id", in.ID) })
	writing(s, operation{http.MethodDelete, "/v1/load-balancers/{id}", "delete-load-balancer", "Remove an unused load balancer", aUser},
		deleteBalancer)
	writing(s, operation{http.MethodPost, "/v1/load-balancers/{id}/listeners", "create-listener", "Add a listener", aUser}, createListener)
	writing(s, operation{http.MethodDelete, "/v1/load-balancers/{id}/listeners/{listener}", "delete-listener", "Remove a listener", aUser},
		deleteListener)
}

// targetGroup finds a target group; vpc, unless empty, is where it must be.
func (c *call) targetGroup(field, ref, vpc string) (*api.TargetGroup, error) {
	in := func(g *api.TargetGroup) bool { return vpc == "" || g.VPC == vpc }
	g, err := find(c, c.r.TargetGroups, api.KindTargetGroup, field, ref, in)
	if err == nil && !in(g) {
		return nil, api.Errorf(api.CodeInvalidParameter, field, "name a target group of the same VPC",
			"the target group %s is in the VPC %s, not in %s", g.ID, g.VPC, vpc)
	}
	return g, err
}

func (c *call) balancer(field, ref string) (*api.LoadBalancer, error) {
	return find(c, c.r.LoadBalancers, api.KindLoadBalancer, field, ref, nil)
}

// putTargetGroup writes a target group; names are unique in a VPC.
func (c *call) putTargetGroup(g *api.TargetGroup) error {
	return put(c, g, c.r.TargetGroups, func(o *api.TargetGroup) bool { return o.VPC == g.VPC })
}

func createTargetGroup(c *call, in *creation[api.CreateTargetGroupRequest]) (*api.TargetGroup, error) {
	v, err := find(c, c.r.VPCs, api.KindVPC, "vpcId", in.Body.VPC, nil)
	if err != nil {
		return nil, err
	}
	if err := limit(c.r.TargetGroups, api.MaxTargetGroupsPerAccount, "target groups",
		func(g *api.TargetGroup) bool { return g.Account == v.Account }); err != nil {
		return nil, err
	}
	g := &api.TargetGroup{Meta: c.meta(api.KindTargetGroup, v.Account, in.Body.Name, in.Body.Tags), VPC: v.ID,
		Protocol: in.Body.Protocol, Port: in.Body.Port, Targets: []api.Target{}, Stickiness: in.Body.Stickiness,
		TargetTags:                 in.Body.TargetTags,
		DeregistrationDelaySeconds: api.DefaultDeregistrationDelay, ConnectionTermination: in.Body.ConnectionTermination,
		HealthCheck: api.DefaultHealthCheck(in.Body.Protocol), UnhealthyConnectionTermination: true,
		MinimumHealthyTargets: api.MinimumHealthy{Count: 1}}
	if in.Body.DeregistrationDelaySeconds != nil {
		g.DeregistrationDelaySeconds = *in.Body.DeregistrationDelaySeconds
	}
	if in.Body.HealthCheck != nil && in.Body.HealthCheck.Enabled == nil {
		g.HealthCheck.Enabled = true // who says how to ask wants it
	}
	in.Body.Apply(g)
	if g.Number, err = c.tx.Number(api.KindTargetGroup); err != nil {
		return nil, err
	}
	if len(in.Body.Targets) > 0 {
		if g.Targets, err = c.addTargets(g, in.Body.Targets); err != nil {
			return nil, err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.r.ENIs)) {
		g.Targets = withTagged(g, c.r.ENIs[id])
	}
	return g, c.putTargetGroup(g)
}

// withTagged are a group's targets, and an interface that is one by its tags.
func withTagged(g *api.TargetGroup, e *api.ENI) []api.Target {
	if len(g.TargetTags) == 0 || e.VPC != g.VPC || e.Type != api.ENIWorkload ||
		slices.ContainsFunc(g.Targets, func(t api.Target) bool { return t.ENI == e.ID }) {
		return g.Targets
	}
	for k, want := range g.TargetTags {
		if got, ok := e.Tags[k]; !ok || got != want {
			return g.Targets
		}
	}
	return append(slices.Clone(g.Targets), api.Target{ENI: e.ID, Weight: api.DefaultTargetWeight})
}

// registerTagged makes a new interface a target of the groups whose tags it has.
func (c *call) registerTagged(e *api.ENI) error {
	for _, id := range slices.Sorted(maps.Keys(c.r.TargetGroups)) {
		g := *c.r.TargetGroups[id]
		before := len(g.Targets)
		if g.Targets = withTagged(&g, e); len(g.Targets) == before {
			continue
		}
		err := c.putTargetGroup(&g)
		if err == nil {
			err = c.roomForTargets("tags", &g)
		}
		if err != nil {
			return onField(err, "tags", "targets")
		}
	}
	return nil
}

// addTargets returns a group's targets with more; who is one already, at the same port, gets the weight if one is given.
func (c *call) addTargets(g *api.TargetGroup, more []api.TargetRequest) ([]api.Target, error) {
	if err := atMost("targets", len(more)); err != nil {
		return nil, err
	}
	targets := slices.Clone(g.Targets)
	for _, t := range more {
		e, err := c.eniOf(g.VPC, t.ENI)
		if err != nil {
			return nil, err
		}
		if e.Type != api.ENIWorkload {
			return nil, api.Errorf(api.CodeInvalidParameter, "eniId", "name a workload's network interface",
				"the network interface %s belongs to %s", e.ID, e.Owner)
		}
		same := func(o api.Target) bool {
			return o.ENI == e.ID && cmp.Or(o.Port, g.Port) == cmp.Or(t.Port, g.Port)
		}
		i := slices.IndexFunc(targets, same)
		if i < 0 {
			i = len(targets)
			targets = append(targets, api.Target{ENI: e.ID, Port: t.Port, Weight: api.DefaultTargetWeight})
		}
		if t.Weight != nil {
			targets[i].Weight = *t.Weight
		}
	}
	return targets, nil
}

// eniOf finds an interface that must be in a VPC, by id, name or address.
func (c *call) eniOf(vpc, ref string) (*api.ENI, error) {
	if a, err := netip.ParseAddr(ref); err == nil {
		return c.eniAt(vpc, a)
	}
	in := func(e *api.ENI) bool { return e.VPC == vpc }
	e, err := find(c, c.r.ENIs, api.KindENI, "eniId", ref, in)
	if err == nil && !in(e) {
		return nil, api.Errorf(api.CodeInvalidParameter, "eniId", "name a network interface of the same VPC",
			"the network interface %s is in the VPC %s, not in %s", e.ID, e.VPC, vpc)
	}
	return e, err
}

// eniAt finds the interface that has an address in a VPC.
func (c *call) eniAt(vpc string, a netip.Addr) (*api.ENI, error) {
	for _, e := range c.r.ENIs {
		if e.VPC == vpc && (e.Address == a && e.IPAddressType.HasIPv4() || e.IPv6Address.IsValid() && e.IPv6Address == a) {
			return e, nil
		}
	}
	return nil, api.Errorf(api.CodeENINotFound, "eniId", "name an address that a workload's network interface has",
		"no network interface of the VPC %s has the address %s", vpc, a)
}

func registerTargets(c *call, in *change[api.TargetsRequest]) (*api.TargetGroup, error) {
	old, err := c.targetGroup("id", in.ID, "")
	if err != nil {
		return nil, err
	}
	g := *old
	c.subject = g.ID
	if g.Targets, err = c.addTargets(old, in.Body.Targets); err != nil {
		return nil, err
	}
	g.Draining = stillDraining(&g)
	if err := c.putTargetGroup(&g); err != nil {
		return nil, err
	}
	return &g, c.roomForTargets("targets", &g)
}

// roomForTargets is an error where a group has more targets than fit what stands before it.
func (c *call) roomForTargets(field string, g *api.TargetGroup) error {
	l := newLoads(c.r)
	for _, id := range slices.Sorted(maps.Keys(c.r.LoadBalancers)) {
		b := c.r.LoadBalancers[id]
		if slices.ContainsFunc(b.Listeners, func(l api.Listener) bool { return l.TargetGroup == g.ID }) {
			if err := c.roomForProvider(l, field, b); err != nil {
				return err
			}
		}
	}
	return nil
}

func deregisterTargets(c *call, in *change[api.TargetsRequest]) (*api.TargetGroup, error) {
	old, err := c.targetGroup("id", in.ID, "")
	if err != nil {
		return nil, err
	}
	g := *old
	c.subject = g.ID
	if err := atMost("targets", len(in.Body.Targets)); err != nil {
		return nil, err
	}
	g.Targets = slices.Clone(g.Targets)
	for _, t := range in.Body.Targets {
		e, err := c.eniOf(g.VPC, t.ENI)
		if err != nil {
			return nil, err
		}
		if t.Weight != nil {
			return nil, api.Errorf(api.CodeInvalidCombination, "weight", "leave it out", "a target that is deregistered has no weight")
		}
		before := len(g.Targets)
		g.Targets = slices.DeleteFunc(g.Targets, func(o api.Target) bool {
			gone := o.ENI == e.ID && (t.Port == 0 || cmp.Or(o.Port, g.Port) == t.Port)
			if gone {
				c.drain(&g, o)
			}
			return gone
		})
		if len(g.Targets) == before {
			return nil, api.Errorf(api.CodeTargetNotFound, "targets", "look at GET /v1/target-groups/{id}",
				"the target group %s has no target %s port %d", g.ID, e.ID, cmp.Or(t.Port, g.Port))
		}
	}
	return &g, c.putTargetGroup(&g)
}

func deleteTargetGroup(c *call, in *Removal) (*api.Result, error) {
	g, err := c.targetGroup("id", in.ID, "")
	if err != nil {
		return nil, err
	}
	c.subject = g.ID
	var d dependents
	for _, b := range c.r.LoadBalancers {
		for _, l := range b.Listeners {
			if l.TargetGroup == g.ID {
				d.add(b.ID, b.Name)
			}
		}
	}
	if err := d.refuse(api.KindTargetGroup, g.ID); err != nil {
		return nil, err
	}
	c.tx.Remove(g)
	return &api.Result{}, nil
}

// spread resolves the subnets of a load balancer or an endpoint: those named, at most one of a zone, or one of each zone of the
// VPC. An empty vpc is the first subnet's.
func (c *call) spread(vpc string, refs []string) ([]*api.Subnet, error) {
	if len(refs) == 0 {
		return c.oneOfEachZone(vpc)
	}
	var out []*api.Subnet
	zones := map[string]string{}
	for _, ref := range refs {
		in := func(s *api.Subnet) bool { return vpc == "" || s.VPC == vpc }
		s, err := find(c, c.r.Subnets, api.KindSubnet, "subnetIds", ref, in)
		if err != nil {
			return nil, err
		}
		if !in(s) {
			return nil, api.Errorf(api.CodeInvalidParameter, "subnetIds", "name subnets of one VPC",
				"the subnet %s is in the VPC %s, not in %s", s.ID, s.VPC, vpc)
		}
		if other := zones[s.Zone]; other != "" {
			return nil, api.Errorf(api.CodeInvalidParameter, "subnetIds", "name one subnet of each zone",
				"the subnets %s and %s are both in the zone %s", other, s.ID, s.Zone)
		}
		vpc, zones[s.Zone] = s.VPC, s.ID
		out = append(out, s)
	}
	return out, nil
}

// oneOfEachZone takes the subnet with the lowest addresses in each zone.
func (c *call) oneOfEachZone(vpc string) ([]*api.Subnet, error) {
	byZone := map[string]*api.Subnet{}
	for _, s := range c.r.Subnets {
		if s.VPC != vpc {
			continue
		}
		if o := byZone[s.Zone]; o == nil || s.CIDR.Addr().Less(o.CIDR.Addr()) {
			byZone[s.Zone] = s
		}
	}
	if len(byZone) == 0 {
		return nil, api.Errorf(api.CodeMissingParameter, "subnetIds", "make a subnet first", "the VPC %s has no subnet", vpc)
	}
	var out []*api.Subnet
	for _, s := range byZone {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *api.Subnet) int { return cmp.Compare(a.Zone, b.Zone) })
	return out, nil
}

// ownedENI makes an interface of a load balancer or an endpoint, which takes both families; the call is still about its owner.
func (c *call) ownedENI(s *api.Subnet, typ api.ENIType, owner string, groups []string, address netip.Addr) (*api.ENI, error) {
	subject := c.subject
	e := &api.ENI{Meta: c.meta(api.KindENI, s.Account, "", nil), Type: typ, Owner: owner, SecurityGroups: groups, Address: address,
		IPAddressType: api.DualStack}
	c.subject = subject
	return e, c.newENI(s, e)
}

func createBalancer(c *call, in *creation[api.CreateLoadBalancerRequest]) (*api.LoadBalancer, error) {
	vpc := ""
	if in.Body.VPC != "" || len(in.Body.Subnets) == 0 {
		v, err := find(c, c.r.VPCs, api.KindVPC, "vpcId", in.Body.VPC, nil)
		if err != nil {
			return nil, err
		}
		vpc = v.ID
	}
	subnets, err := c.spread(vpc, in.Body.Subnets)
	if err != nil {
		return nil, err
	}
	v := c.r.VPCs[subnets[0].VPC]
	inSame := func(b *api.LoadBalancer) bool { return b.VPC == v.ID }
	if err := limit(c.r.LoadBalancers, api.MaxLoadBalancersPerVPC, "load balancers in the VPC", inSame); err != nil {
		return nil, err
	}
	b := &api.LoadBalancer{Meta: c.meta(api.KindLoadBalancer, v.Account, in.Body.Name, in.Body.Tags), VPC: v.ID,
		Listeners: []api.Listener{}, CrossZone: in.Body.CrossZone == nil || *in.Body.CrossZone}
	if b.SecurityGroups, err = c.groups(v.ID, in.Body.SecurityGroups); err != nil {
		return nil, err
	}
	for _, r := range in.Body.Listeners {
		l, err := c.listener(v.ID, r)
		if err != nil {
			return nil, err
		}
		b.Listeners = append(b.Listeners, l)
	}
	for _, s := range subnets {
		e, err := c.ownedENI(s, api.ENILoadBalancer, b.ID, b.SecurityGroups, netip.Addr{})
		if err != nil {
			return nil, onField(err, "subnetIds", "subnetId")
		}
		b.Subnets, b.ENIs = append(b.Subnets, s.ID), append(b.ENIs, e.ID)
	}
	if b.Number, err = c.tx.Number(api.KindConnection); err != nil {
		return nil, err
	}
	newTagger(c).retagBalancer(b)
	if err := put(c, b, c.r.LoadBalancers, inSame); err != nil {
		return nil, err
	}
	if err := c.roomForAddresses(newLoads(c.r), "subnetIds", c.r.ENIs[b.ENIs[0]]); err != nil {
		return nil, err
	}
	return b, c.roomForListeners("listeners", b)
}

// onField says the same of the request's field, where a check further down called it by one of the other names.
func onField(err error, field string, names ...string) error {
	if e, ok := err.(*api.Error); ok && slices.Contains(names, e.Field) { //nolint:errorlint // checks do not wrap
		n := *e
		n.Field = field
		return &n
	}
	return err
}

func deleteBalancer(c *call, in *Removal) (*api.Result, error) {
	b, err := c.balancer("id", in.ID)
	if err != nil {
		return nil, err
	}
	c.subject = b.ID
	var d dependents
	for _, s := range c.r.Services {
		if slices.Contains(s.LoadBalancers, b.ID) {
			d.add(s.ID, s.Name)
		}
	}
	if err := d.refuse(api.KindLoadBalancer, b.ID); err != nil {
		return nil, err
	}
	for _, id := range b.ENIs {
		c.tx.Remove(c.r.ENIs[id])
	}
	c.tx.Remove(b)
	return &api.Result{}, nil
}

// listener makes one for a load balancer in a VPC.
func (c *call) listener(vpc string, r api.ListenerRequest) (api.Listener, error) {
	l := api.Listener{ID: newID(api.PrefixListener), Protocol: r.Protocol, Port: r.Port, IdleTimeoutSeconds: r.IdleTimeoutSeconds}
	g, err := c.targetGroup("targetGroupId", r.TargetGroup, vpc)
	if err != nil {
		return l, err
	}
	l.TargetGroup = g.ID
	if l.IdleTimeoutSeconds == 0 {
		l.IdleTimeoutSeconds = api.DefaultTCPIdleTimeout
		if l.Protocol == api.UDP {
			l.IdleTimeoutSeconds = api.UDPIdleTimeout
		}
	}
	if err := l.Validate(); err != nil {
		return l, err
	}
	if l.Protocol != g.Protocol {
		return l, api.Errorf(api.CodeInvalidParameter, "protocol", "give the same protocol, or name another target group",
			"the listener is %s, the target group %s is %s", l.Protocol, g.ID, g.Protocol)
	}
	return l, nil
}

func createListener(c *call, in *change[api.ListenerRequest]) (*api.LoadBalancer, error) {
	old, err := c.balancer("id", in.ID)
	if err != nil {
		return nil, err
	}
	b := *old
	c.subject = b.ID
	l, err := c.listener(b.VPC, in.Body)
	if err != nil {
		return nil, err
	}
	b.Listeners = append(slices.Clone(b.Listeners), l)
	newTagger(c).retagBalancer(&b)
	if err := put(c, &b, nil, nil); err != nil {
		return nil, err
	}
	// Where it is too much for another's node, that does without it: a provider's change must not fail by a consumer's doing.
	if err := c.roomForListeners("targetGroupId", &b); err != nil {
		return nil, err
	}
	return &b, c.retagAll(&b)
}

type listenerRemoval struct {
	Removal
	Listener string `path:"listener" doc:"Id of the listener"`
}

func deleteListener(c *call, in *listenerRemoval) (*api.LoadBalancer, error) {
	old, err := c.balancer("id", in.ID)
	if err != nil {
		return nil, err
	}
	b := *old
	c.subject = b.ID
	b.Listeners = slices.DeleteFunc(slices.Clone(b.Listeners), func(l api.Listener) bool { return l.ID == in.Listener })
	if len(b.Listeners) == len(old.Listeners) {
		return nil, api.Errorf(api.CodeListenerNotFound, "listener", "look at GET /v1/load-balancers/{id}",
			"the load balancer %s has no listener %q", b.ID, in.Listener)
	}
	newTagger(c).retagBalancer(&b)
	if err := put(c, &b, nil, nil); err != nil {
		return nil, err
	}
	return &b, c.retagAll(&b)
}
