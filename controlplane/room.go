package controlplane

import (
	"maps"
	"slices"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// What a node holds is bounded, and all accounts share it. So that none takes it from the others, each has a share of every
// node; a request that would need more of a node than there is, or than the account's share, is refused. What cannot be counted
// without compiling the view (rule sets, target tables) is the agent's to leave out, with a problem that names it.

// load is what one account takes of one node, as rows of the node's plan.
type load struct{ enis, addresses, services, names, grants, targets int }

func (l *load) add(o load) {
	l.enis += o.enis
	l.addresses += o.addresses
	l.services += o.services
	l.names += o.names
	l.grants += o.grants
	l.targets += o.targets
}

// bound is one of a load's parts with its limits.
type bound struct {
	what        string
	of          func(*load) int
	node, share int
	// passive: an account's part also grows by what others do, so of more than its share only that counts against the rest.
	passive bool
}

var (
	boundENIs = bound{"network interfaces", func(l *load) int { return l.enis },
		plan.MaxENIs, api.MaxENIsPerNodeAndAccount, false}
	boundAddresses = bound{"addresses in the VPCs with a network interface there", func(l *load) int { return l.addresses },
		plan.MaxAddresses, api.MaxAddressesPerNodeAndAccount, false}
	boundServices = bound{"pairs of an endpoint's or load balancer's address and a listener", func(l *load) int { return l.services },
		plan.MaxServices, api.MaxServicesPerNodeAndAccount, true}
	boundNames = bound{"private DNS names", func(l *load) int { return l.names },
		plan.MaxNames, api.MaxNamesPerNodeAndAccount, true}
	boundGrants = bound{"grants to consumers", func(l *load) int { return l.grants },
		plan.MaxGrants, api.MaxGrantsPerNodeAndAccount, false}
	boundTargets = bound{"targets of grants to consumers", func(l *load) int { return l.targets },
		plan.MaxGrantTargets, api.MaxGrantTargetsPerNodeAndAccount, false}

	// What one consumer may take of what its provider has of a node.
	boundsOfOneConsumer = []bound{boundGrants.quarter(), boundTargets.quarter()}

	boundsOfConsumer = []bound{boundAddresses, boundServices, boundNames}
	boundsOfProvider = []bound{boundGrants, boundTargets}
	boundsOfENI      = slices.Concat([]bound{boundENIs}, boundsOfConsumer, boundsOfProvider)
)

// ofAll is what all accounts have together, as one of them has to reckon with it.
func (b bound) ofAll(by map[string]load, account string) (sum int) {
	for owner, o := range by {
		n := b.of(&o)
		if b.passive && owner != account {
			n = min(n, b.share)
		}
		sum += n
	}
	return sum
}

// quarter is the bound with a quarter of the account's share.
func (b bound) quarter() bound {
	b.share /= 4
	return b
}

// loads counts what each account takes of each node. A connection that waits for its provider takes nothing yet: else who asks
// would fill a node that he was never let to. Accepting it needs the room.
type loads struct {
	r      *api.Resources
	nodeOf map[string]string          // by workload ENI: the live node that hosts it
	vpcs   map[string]map[string]int  // by node and VPC: workload ENIs
	brings map[string]load            // what a VPC brings to every node that hosts a part of it
	dialed map[string]map[string]int  // by load balancer and consuming account: endpoint ENIs of its connections
	grants map[string]map[string]load // by node and providing account
	each   map[granted]load           // the same, of each consumer
	parts  map[string]map[string]load // by node: what of has told
}

// granted is what a consumer has of a provider on a node; the latter are accounts.
type granted struct{ node, provider, consumer string }

// newLoads looks at everything once.
func newLoads(r *api.Resources) *loads {
	l := &loads{r: r, nodeOf: map[string]string{}, vpcs: map[string]map[string]int{}, brings: map[string]load{},
		dialed: map[string]map[string]int{}, grants: map[string]map[string]load{}, each: map[granted]load{}, parts: map[string]map[string]load{}}
	for _, e := range r.ENIs {
		v := l.brings[e.VPC]
		v.addresses++
		l.brings[e.VPC] = v
		if n := r.Nodes[e.Node]; e.Type != api.ENIWorkload || n == nil || n.State == api.NodeRevoked {
			continue
		}
		l.nodeOf[e.ID] = e.Node
		if l.vpcs[e.Node] == nil {
			l.vpcs[e.Node] = map[string]int{}
		}
		l.vpcs[e.Node][e.VPC]++
	}
	for _, con := range r.Connections {
		if e := r.Endpoints[con.Endpoint]; e != nil && mayCarry(con.State) {
			l.addConnection(con, e)
		}
	}
	for _, b := range r.LoadBalancers {
		l.addInside(b)
	}
	for id := range l.dialed {
		l.addBalancer(r.LoadBalancers[id])
	}
	return l
}

// mayCarry reports whether a connection carries traffic or comes to without being decided on.
func mayCarry(s api.ConnectionState) bool { return s == api.Available || s == api.Pending }

func (l *loads) addConnection(con *api.Connection, e *api.Endpoint) {
	private := 1 // where that is turned on
	if s := l.r.Services[e.Service]; s != nil {
		private = max(private, len(s.PrivateNames()))
	}
	brings := load{names: (4 + private) * len(e.ENIs)} // regional and zonal, in two forms each, and private
	if e.IPAddressType == api.DualStack {
		brings.names *= 2
	}
	if b := l.r.LoadBalancers[con.LoadBalancer]; b != nil {
		brings.services = len(e.ENIs) * len(b.Listeners)
		if l.dialed[b.ID] == nil {
			l.dialed[b.ID] = map[string]int{}
		}
		l.dialed[b.ID][e.Account] += len(e.ENIs)
	}
	v := l.brings[con.EndpointVPC]
	v.add(brings)
	l.brings[con.EndpointVPC] = v
}

// addInside counts what a load balancer is to its own VPC at most: one whose targets are told the client is nothing to it.
func (l *loads) addInside(b *api.LoadBalancer) {
	if b.Number == 0 {
		return
	}
	v := l.brings[b.VPC]
	v.services += len(b.ENIs) * len(b.Listeners)
	l.brings[b.VPC] = v
	if l.dialed[b.ID] == nil {
		l.dialed[b.ID] = map[string]int{}
	}
	l.dialed[b.ID][b.Account] += len(b.ENIs)
}

// addBalancer counts the grants that a load balancer needs on the nodes of its targets.
func (l *loads) addBalancer(b *api.LoadBalancer) {
	for _, listener := range b.Listeners {
		for node, targets := range l.targets(listener.TargetGroup) {
			if l.grants[node] == nil {
				l.grants[node] = map[string]load{}
			}
			all := l.grants[node][b.Account]
			for consumer, dialed := range l.dialed[b.ID] {
				adds, key := load{grants: dialed, targets: dialed * targets}, granted{node, b.Account, consumer}
				one := l.each[key]
				one.add(adds)
				all.add(adds)
				l.each[key] = one
			}
			l.grants[node][b.Account] = all
		}
	}
}

// targets counts the targets of a group by the node that hosts them.
func (l *loads) targets(group string) map[string]int {
	out := map[string]int{}
	if g := l.r.TargetGroups[group]; g != nil {
		for _, t := range g.Targets {
			if node := l.nodeOf[t.ENI]; node != "" {
				out[node]++
			}
		}
		for _, t := range g.Draining {
			if node := l.nodeOf[t.ENI]; node != "" {
				out[node]++
			}
		}
	}
	return out
}

// of tells what each account takes of a node. The caller does not change it.
func (l *loads) of(node string) map[string]load {
	if have := l.parts[node]; have != nil {
		return have
	}
	out := maps.Clone(l.grants[node])
	if out == nil {
		out = map[string]load{}
	}
	for vpc, enis := range l.vpcs[node] {
		if v := l.r.VPCs[vpc]; v != nil {
			sum := out[v.Account]
			sum.add(l.brings[vpc])
			sum.enis += enis
			out[v.Account] = sum
		}
	}
	l.parts[node] = out
	return out
}

// hosts lists the nodes that host a part of a VPC, in order.
func (l *loads) hosts(vpc string) []string {
	var out []string
	for _, node := range slices.Sorted(maps.Keys(l.vpcs)) {
		if l.vpcs[node][vpc] > 0 {
			out = append(out, node)
		}
	}
	return out
}

// behind lists the nodes that host targets of a load balancer, in order.
func (l *loads) behind(b *api.LoadBalancer) []string {
	nodes := map[string]bool{}
	for _, listener := range b.Listeners {
		for node := range l.targets(listener.TargetGroup) {
			nodes[node] = true
		}
	}
	return slices.Sorted(maps.Keys(nodes))
}

// room refuses when one of the nodes has too much to hold now, or of the account more than its share; only an administrator may
// let an account have more than that. The call's own changes count.
func (c *call) room(l *loads, field, account string, nodes []string, bounds []bound) error {
	for _, id := range nodes {
		by := l.of(id)
		mine, name := by[account], c.r.Nodes[id].Name
		for _, b := range bounds {
			if have := b.ofAll(by, account); have > b.node {
				return api.Errorf(api.CodeLimitExceeded, field, "use another node, or delete what is not needed",
					"the node %s would have %d %s, it holds at most %d", name, have, b.what, b.node)
			}
			if have := b.of(&mine); have > b.share && !c.who.admin() {
				return api.Errorf(api.CodeLimitExceeded, field,
					"use another node, delete what is not needed, or ask an administrator, who may go beyond an account's share",
					"the node %s would have %d %s of the account, whose share of a node is %d", name, have, b.what, b.share)
			}
		}
	}
	return nil
}

// roomForENI checks the nodes that a new or moved interface concerns: where it is, and all that host a part of its VPC.
func (c *call) roomForENI(e *api.ENI) error {
	l := newLoads(c.r)
	if e.Node != "" {
		if err := c.room(l, "nodeId", e.Account, []string{e.Node}, boundsOfENI); err != nil {
			return err
		}
	}
	return c.roomForAddresses(l, "subnetId", e)
}

// roomForAddresses checks the nodes that host a part of the VPC of a new interface.
func (c *call) roomForAddresses(l *loads, field string, e *api.ENI) error {
	return c.room(l, field, e.Account, l.hosts(e.VPC), []bound{boundAddresses})
}

// roomForListeners checks the nodes of a load balancer's targets, and those that host a part of a VPC of its own account which
// uses it: its own and those of endpoints.
func (c *call) roomForListeners(field string, b *api.LoadBalancer) error {
	l := newLoads(c.r)
	if err := c.roomForProvider(l, field, b); err != nil {
		return err
	}
	users := map[string]bool{b.VPC: true}
	for _, con := range c.r.Connections {
		if con.LoadBalancer == b.ID && con.EndpointAccount == b.Account && mayCarry(con.State) {
			users[con.EndpointVPC] = true
		}
	}
	for _, vpc := range slices.Sorted(maps.Keys(users)) {
		if err := c.room(l, field, b.Account, l.hosts(vpc), []bound{boundServices}); err != nil {
			return err
		}
	}
	return nil
}

// roomForConnection checks the nodes of a connection's both sides. Each side's field is where the caller can do something about
// it; of the other side it learns only that it is full.
func (c *call) roomForConnection(con *api.Connection, consumerField, providerField string) error {
	l := newLoads(c.r)
	mine := func(account string) bool { return c.account == "" || c.account == account }
	err := c.room(l, consumerField, con.EndpointAccount, l.hosts(con.EndpointVPC), boundsOfConsumer)
	if err != nil && !mine(con.EndpointAccount) {
		return api.Errorf(api.CodeLimitExceeded, consumerField, "ask its consumer to make room",
			"the endpoint %s is more than its VPC's nodes hold", con.Endpoint)
	}
	if err != nil {
		return err
	}
	if err := c.roomOfConsumer(l, providerField, con); err != nil {
		return err
	}
	err = c.roomForProvider(l, providerField, c.r.LoadBalancers[con.LoadBalancer])
	if err != nil && !mine(con.Account) {
		return api.Errorf(api.CodeLimitExceeded, providerField, "ask its provider to make room",
			"the endpoint service %s has as many endpoint connections as its nodes hold", con.Service)
	}
	return err
}

// roomForNames checks the nodes that know a service's private names, which have become more: of each account that has an endpoint.
// Of others' a provider learns only that they are full.
func (c *call) roomForNames(s *api.Service) error {
	l := newLoads(c.r)
	seen := map[[2]string]bool{} // by node and account
	for _, id := range slices.Sorted(maps.Keys(c.r.Connections)) {
		con := c.r.Connections[id]
		if con.Service != s.ID || !mayCarry(con.State) {
			continue
		}
		for _, node := range l.hosts(con.EndpointVPC) {
			key := [2]string{node, con.EndpointAccount}
			if seen[key] {
				continue
			}
			seen[key] = true
			err := c.room(l, "privateDnsNames", con.EndpointAccount, []string{node}, []bound{boundNames})
			if err != nil && c.account != "" && c.account != con.EndpointAccount {
				return api.Errorf(api.CodeLimitExceeded, "privateDnsNames", "give the service fewer names, ask the endpoint's owner to make "+
					"room, or reject it", "the endpoint %s would have more names than its VPC's nodes hold", con.Endpoint)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// roomOfConsumer refuses when the consumer would have more than a quarter of the provider's share of a node, so that none keeps
// the others from a service. An account's use of its own services is its own matter. Figures would tell the consumer of targets.
func (c *call) roomOfConsumer(l *loads, field string, con *api.Connection) error {
	b := c.r.LoadBalancers[con.LoadBalancer]
	if b == nil || con.EndpointAccount == con.Account || c.who.admin() {
		return nil
	}
	for _, node := range l.behind(b) {
		have := l.each[granted{node, con.Account, con.EndpointAccount}]
		for _, o := range boundsOfOneConsumer {
			if n := o.of(&have); n > o.share {
				remedy := "delete endpoints to this provider's services, give them fewer zones, or ask an administrator, who may go beyond"
				if c.account != "" && c.account != con.Account {
					return api.Errorf(api.CodeLimitExceeded, field, remedy,
						"the account would have more than a consumer's part of what the nodes of the endpoint service %s hold", con.Service)
				}
				return api.Errorf(api.CodeLimitExceeded, field, remedy,
					"the node %s would have %d %s for the account %s, a consumer has at most %d", c.r.Nodes[node].Name, n, o.what,
					con.EndpointAccount, o.share)
			}
		}
	}
	return nil
}

// roomForProvider checks the nodes that host the targets of a load balancer, if there is one.
func (c *call) roomForProvider(l *loads, field string, b *api.LoadBalancer) error {
	if b == nil {
		return nil
	}
	return c.room(l, field, b.Account, l.behind(b), boundsOfProvider)
}
