package view

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/culvert-net/culvert/api"
)

// Index is a picture prepared for computing the views of many nodes. It is read only and safe for concurrent use.
type Index struct {
	r       *api.Resources
	byVPC   map[string][]*api.ENI            // ENIs of a VPC, by id
	hosted  map[string][]*api.ENI            // workload ENIs of a live node, by id
	nodesOf map[string]map[string]bool       // by VPC id: live nodes that host a workload in it
	subnets map[string][]*api.Subnet         // by VPC id, by id
	members map[string]func() []netip.Prefix // by group: its workloads' addresses, computed once
	links   []*link                          // by connection id
	inside  []*link                          // load balancers for their own VPC, by id
	checks  map[string][]api.ViewHealthCheck // by the node that makes them
	strict  []*api.FlowLog                   // that have flows refused which cannot be recorded
	// answering is by private name: who goes first stands first.
	answering map[privateName][]*link
	logged    map[string]bool // VPCs whose questions are recorded
}

// link is an Available connection with everything that it needs.
type link struct {
	conn               *api.Connection
	endpoint           *api.Endpoint
	service            *api.Service
	lb                 *api.LoadBalancer
	consumer, provider *api.VPC
	pools              []pool                  // one per listener
	targetNodes        map[string]bool         // live nodes that host a target
	admitted           func() api.ViewAdmitted // whom the endpoint lets in, computed once
}

// pool is a listener with the targets that live on some node.
type pool struct {
	listener *api.Listener
	group    *api.TargetGroup
	targets  []target
}

// NewIndex prepares a picture.
func NewIndex(r *api.Resources) *Index {
	x := &Index{r: r, members: newMembers(r), byVPC: map[string][]*api.ENI{}, hosted: map[string][]*api.ENI{},
		nodesOf: map[string]map[string]bool{}, subnets: map[string][]*api.Subnet{}, logged: map[string]bool{}}
	for _, f := range r.FlowLogs {
		if f.OnLoss == api.LossRefuse {
			x.strict = append(x.strict, f)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(r.ENIs)) {
		e := r.ENIs[id]
		x.byVPC[e.VPC] = append(x.byVPC[e.VPC], e)
		if node := x.hostOf(e); node != "" {
			x.hosted[node] = append(x.hosted[node], e)
			if x.nodesOf[e.VPC] == nil {
				x.nodesOf[e.VPC] = map[string]bool{}
			}
			x.nodesOf[e.VPC][node] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(r.Subnets)) {
		s := r.Subnets[id]
		x.subnets[s.VPC] = append(x.subnets[s.VPC], s)
	}
	for _, id := range slices.Sorted(maps.Keys(r.Connections)) {
		if l := x.link(r.Connections[id]); l != nil {
			x.links = append(x.links, l)
		}
	}
	x.answering = answering(x.links)
	for _, q := range r.QueryLogs {
		for _, vpc := range q.VPCs {
			x.logged[vpc] = true
		}
	}
	x.inside = x.balancers()
	x.checks = x.healthChecks()
	return x
}

// hostOf is the node that hosts a workload ENI, "" when none does. A revoked node hosts nothing any more.
func (x *Index) hostOf(e *api.ENI) string {
	if e.Type != api.ENIWorkload || e.Node == "" {
		return ""
	}
	if n := x.r.Nodes[e.Node]; n == nil || n.State == api.NodeRevoked {
		return ""
	}
	return e.Node
}

// link returns nil unless the connection is Available and all that it names exists.
func (x *Index) link(c *api.Connection) *link {
	l := &link{conn: c, endpoint: x.r.Endpoints[c.Endpoint], service: x.r.Services[c.Service],
		lb: x.r.LoadBalancers[c.LoadBalancer], consumer: x.r.VPCs[c.EndpointVPC], targetNodes: map[string]bool{}}
	if c.State != api.Available || l.endpoint == nil || l.service == nil || l.lb == nil || l.consumer == nil {
		return nil
	}
	return x.complete(l)
}

// complete gives a link its provider and targets; nil when there is no such VPC.
func (x *Index) complete(l *link) *link {
	if l.provider = x.r.VPCs[l.lb.VPC]; l.provider == nil {
		return nil
	}
	for i := range l.lb.Listeners {
		p := pool{listener: &l.lb.Listeners[i], group: x.r.TargetGroups[l.lb.Listeners[i].TargetGroup]}
		if p.group == nil {
			continue
		}
		p.targets = x.targets(p.group, l.provider.ID)
		for _, t := range p.targets {
			l.targetNodes[t.eni.Node] = true
		}
		l.pools = append(l.pools, p)
	}
	l.admitted = sync.OnceValue(func() api.ViewAdmitted { return x.admitted(l) })
	return l
}

func (x *Index) zone(subnet string) string {
	if s := x.r.Subnets[subnet]; s != nil {
		return s.Zone
	}
	return ""
}

// Prefixes is what a node speaks for in a VPC: its blocks without the addresses that it does not host, and the addresses
// that it hosts outside of them. Sorted, disjoint, IPv4.
func (x *Index) Prefixes(node, vpc string) []netip.Prefix {
	var blocks, out []netip.Prefix
	for _, s := range x.subnets[vpc] {
		for _, b := range s.Blocks {
			if b.Node == node {
				blocks = append(blocks, b.CIDR)
			}
		}
	}
	var foreign []netip.Addr
	for _, e := range x.byVPC[vpc] {
		inside := slices.ContainsFunc(blocks, func(b netip.Prefix) bool { return b.Contains(e.Address) })
		switch mine := x.hostOf(e) == node; {
		case inside && !mine:
			foreign = append(foreign, e.Address)
		case mine && !inside:
			out = append(out, netip.PrefixFrom(e.Address, 32))
		}
	}
	for _, b := range blocks {
		out = append(out, Split(b, foreign)...)
	}
	slices.SortFunc(out, comparePrefix)
	return out
}

// Split returns the fewest prefixes that cover an IPv4 prefix without the given addresses, in order.
func Split(p netip.Prefix, without []netip.Addr) []netip.Prefix {
	if !slices.ContainsFunc(without, p.Contains) {
		return []netip.Prefix{p}
	}
	if p.Bits() == 32 {
		return nil
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	b := p.Addr().As4()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	high := netip.PrefixFrom(netip.AddrFrom4(b), p.Bits()+1)
	return append(Split(low, without), Split(high, without)...)
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
