package view

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// Compute returns the view of one node, nil when there is no such node. Who sends it fills in IssuedAt, MaxAgeSeconds and
// GossipKeys.
func Compute(r *api.Resources, node string) *api.View { return NewIndex(r).View(node) }

// View returns the view of one node, as Compute does.
func (x *Index) View(node string) *api.View {
	n := x.r.Nodes[node]
	if n == nil {
		return nil
	}
	v := &api.View{Revision: x.r.Revision, Mesh: x.r.Mesh,
		Node: api.ViewNode{ID: n.ID, Name: n.Name, Number: n.Number, State: n.State, PublicKey: n.PublicKey,
			BehindNAT: n.BehindNAT}}
	local := map[string]bool{}  // VPCs that the node hosts a workload of
	remote := map[string]bool{} // VPCs that it exchanges packets with
	for _, e := range x.hosted[node] {
		local[e.VPC] = true
		v.ENIs = append(v.ENIs, x.eni(e))
	}
	for _, l := range x.links {
		if local[l.consumer.ID] {
			v.Endpoints = append(v.Endpoints, x.endpoint(l))
			names, standby := x.names(l)
			v.Names, v.StandbyNames = append(v.Names, names...), append(v.StandbyNames, standby...)
			remote[l.provider.ID] = true
		}
		if l.targetNodes[node] {
			if grants := x.grants(l, node); len(grants) > 0 {
				v.Grants = append(v.Grants, grants...)
				v.Admitted = append(v.Admitted, l.admitted())
			}
			remote[l.consumer.ID] = true
		}
	}
	x.addBalancers(v, node, local)
	v.HealthChecks = x.checks[node]
	x.shareTargets(v)
	for _, id := range slices.Sorted(maps.Keys(local)) {
		delete(remote, id)
		x.addLocalVPC(v, id, node)
	}
	for _, id := range slices.Sorted(maps.Keys(remote)) {
		p := x.r.VPCs[id]
		v.VPCs = append(v.VPCs, api.ViewVPC{ID: p.ID, Account: p.Account, Number: p.Number, CIDR: p.CIDR})
	}
	x.addHostedZones(v, local)
	x.addResolverRules(v, local)
	x.addFirewalls(v, local)
	x.shareRules(v)
	x.addGroups(v)
	x.addPeers(v, node, local)
	sortView(v)
	return v
}

func (x *Index) eni(e *api.ENI) api.ViewENI {
	out := api.ViewENI{ID: e.ID, Account: e.Account, Name: e.Name, Number: e.Number, VPCID: e.VPC, Subnet: e.Subnet,
		Address: e.Address, IPAddressType: viewType(e), Groups: sorted(e.SecurityGroups)}
	out.StrictLog = slices.ContainsFunc(x.strict, func(f *api.FlowLog) bool { return f.Covers(e) })
	if p := x.r.VPCs[e.VPC]; p != nil {
		out.VPC = p.Number
	}
	if s := x.r.Subnets[e.Subnet]; s != nil {
		out.CIDR = s.CIDR
	}
	return out
}

// addLocalVPC adds a VPC of which the node hosts a workload, with the addresses in it.
func (x *Index) addLocalVPC(v *api.View, id, node string) {
	p := x.r.VPCs[id]
	if p == nil {
		return
	}
	out := api.ViewVPC{ID: p.ID, Account: p.Account, Number: p.Number, CIDR: p.CIDR, Local: true,
		Forwarders: slices.Clone(p.Forwarders), PlainForwarders: p.PlainForwarders, QueryLog: x.logged[id]}
	for _, s := range x.subnets[id] {
		out.Subnets = append(out.Subnets, api.ViewSubnet{ID: s.ID, CIDR: s.CIDR, Zone: s.Zone})
		for _, b := range s.Blocks {
			if b.Node == node {
				out.Blocks = append(out.Blocks, b.CIDR)
			}
		}
	}
	slices.SortFunc(out.Blocks, comparePrefix)
	v.VPCs = append(v.VPCs, out)
	for _, e := range x.byVPC[id] {
		v.Addresses = append(v.Addresses, api.ViewAddress{VPC: p.Number, Address: e.Address, Type: e.Type, ENI: e.ID,
			Number: e.Number, IPAddressType: viewType(e), Groups: sorted(e.SecurityGroups)})
	}
}

// viewType leaves out what goes without saying: IPv4 of a workload, both families of others.
func viewType(e *api.ENI) api.IPAddressType {
	if e.Type != api.ENIWorkload || !e.IPAddressType.HasIPv6() {
		return ""
	}
	return e.IPAddressType
}

// addGroups adds the groups that the view names. Only those that the node judges packets by have their rules: those of the
// workloads that it hosts, and of endpoints and load balancers. Of others it knows the number, which rules and packets name.
func (x *Index) addGroups(v *api.View) {
	judging, named := map[string]bool{}, map[string]bool{}
	mark := func(set map[string]bool, ids []string) {
		for _, id := range ids {
			set[id] = true
		}
	}
	for _, e := range v.ENIs {
		mark(judging, e.Groups)
	}
	for _, a := range v.Addresses {
		if a.Type != api.ENIWorkload {
			mark(judging, a.Groups)
		}
		mark(named, a.Groups)
	}
	for _, g := range v.Grants {
		mark(judging, g.LoadBalancerGroups)
	}
	for _, g := range x.inOrder(judging) {
		v.Groups = append(v.Groups, api.ViewGroup{ID: g.ID, Number: g.Number, Ingress: bare(g.Ingress), Egress: bare(g.Egress)})
	}
	x.shareGroupRules(v)
	for _, g := range v.Groups {
		for _, r := range slices.Concat(g.Ingress, g.Egress) {
			if r.Group != "" {
				named[r.Group] = true
			}
		}
	}
	for id := range named {
		if g := x.r.SecurityGroups[id]; g != nil && !judging[id] {
			v.Groups = append(v.Groups, api.ViewGroup{ID: g.ID, Number: g.Number})
		}
	}
}

// inOrder are groups of a set, the oldest first.
func (x *Index) inOrder(ids map[string]bool) []*api.SecurityGroup {
	var out []*api.SecurityGroup
	for id := range ids {
		if g := x.r.SecurityGroups[id]; g != nil {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b *api.SecurityGroup) int { return cmp.Compare(a.Number, b.Number) })
	return out
}

// shareGroupRules leaves out of a view's groups, which are in order, the rules of an account's newest beyond its share.
func (x *Index) shareGroupRules(v *api.View) {
	accounts, wants := map[string]int{}, map[string]int{} // rules so far, and all
	for _, g := range v.Groups {
		wants[x.r.SecurityGroups[g.ID].Account] += len(g.Ingress) + len(g.Egress)
	}
	share := evenShare(wants, api.MaxGroupRulesPerNodeAndAccount, api.MaxGroupRulesPerNode)
	for i := range v.Groups {
		g := &v.Groups[i]
		owner, rules := x.r.SecurityGroups[g.ID].Account, len(g.Ingress)+len(g.Egress)
		if accounts[owner]+rules > share {
			g.Ingress, g.Egress = nil, nil
			g.LeftOut = fmt.Sprintf("a node has room for %d rules of an account's groups", share)
			continue
		}
		accounts[owner] += rules
	}
}

// bare are rules without their descriptions, which no node needs.
func bare(list []api.Rule) []api.Rule {
	out := slices.Clone(list)
	for i := range out {
		out[i].Description = ""
	}
	return out
}

// endpoint is a connection as its consumer's nodes see it.
func (x *Index) endpoint(l *link) api.ViewEndpoint {
	out := api.ViewEndpoint{ID: l.endpoint.ID, Connection: l.conn.ID, ConnectionNumber: l.conn.Number,
		Service: l.service.ID, ServiceName: l.endpoint.ServiceName, VPC: l.consumer.Number, ProviderVPC: l.provider.Number,
		Approver: l.conn.Approver, Groups: sorted(l.endpoint.SecurityGroups),
		Caps: api.CapsOf(l.service, l.conn).Share(1, len(x.nodesOf[l.consumer.ID]))}
	for _, id := range sorted(l.endpoint.ENIs) {
		if e := x.r.ENIs[id]; e != nil {
			out.ENIs = append(out.ENIs, api.ViewEndpointENI{ENI: e.ID, Number: e.Number, Address: e.Address, Zone: x.zone(e.Subnet)})
		}
	}
	for _, p := range l.pools {
		lp := api.ViewListenerPool{Listener: p.listener.ID, Protocol: p.listener.Protocol, Port: p.listener.Port,
			IdleTimeoutSeconds: p.listener.IdleTimeoutSeconds, TargetGroup: p.group.Number, Zonal: !l.lb.CrossZone,
			Sticky: p.group.Stickiness == api.SourceIP, Health: poolHealth(p.group)}
		lp.Targets, lp.Resting = x.pick(p.targets)
		for _, t := range l.conn.TagNumbers {
			if t.Listener == p.listener.ID {
				lp.TagNumbers = append(lp.TagNumbers, t)
			}
		}
		slices.SortFunc(lp.TagNumbers, func(a, b api.TagNumber) int { return cmp.Compare(a.ENI, b.ENI) })
		out.Listeners = append(out.Listeners, lp)
	}
	slices.SortFunc(out.Listeners, func(a, b api.ViewListenerPool) int { return cmp.Compare(a.Listener, b.Listener) })
	return out
}

// grants lets a connection reach the targets of one node: one per endpoint ENI and listener.
func (x *Index) grants(l *link, node string) []api.ViewGrant {
	var out []api.ViewGrant
	caps := x.caps(l, node)
	for _, p := range l.pools {
		targets, draining := x.grantTargets(l, p, node)
		if len(targets)+len(draining) == 0 {
			continue
		}
		for _, t := range l.conn.TagNumbers {
			dialed := x.r.ENIs[t.ENI]
			if t.Listener != p.listener.ID || dialed == nil {
				continue
			}
			out = append(out, api.ViewGrant{
				ConsumerVPC: l.consumer.Number, Tag: t.Number, Connection: l.conn.ID, ConnectionNumber: l.conn.Number,
				Endpoint: l.endpoint.ID, Service: l.service.ID, ServiceName: l.endpoint.ServiceName,
				ConsumerAccount: l.endpoint.Account, Approver: l.conn.Approver, ProviderVPC: l.provider.Number,
				DialedAddress: dialed.Address, Protocol: p.listener.Protocol, Port: p.listener.Port,
				IdleTimeoutSeconds: p.listener.IdleTimeoutSeconds, LoadBalancerGroups: sorted(l.lb.SecurityGroups), Targets: targets,
				Draining: draining, Caps: caps, TargetGroup: p.group.Number,
				ClientIdentity: l.service.ClientIdentity,
			})
		}
	}
	return out
}

// source is the load balancer's ENI in a zone, else its first by id.
func (x *Index) source(lb *api.LoadBalancer, zone string) *api.ENI {
	var first *api.ENI
	for _, id := range sorted(lb.ENIs) {
		e := x.r.ENIs[id]
		if e == nil {
			continue
		}
		if x.zone(e.Subnet) == zone {
			return e
		}
		if first == nil {
			first = e
		}
	}
	return first
}

// addPeers adds whom the node exchanges packets with, and in which VPCs.
func (x *Index) addPeers(v *api.View, node string, local map[string]bool) {
	common := map[string]map[string]bool{} // by peer: VPCs in which it speaks to this node
	add := func(peer, vpc string) {
		if peer == node {
			return
		}
		if common[peer] == nil {
			common[peer] = map[string]bool{}
		}
		common[peer][vpc] = true
	}
	for vpc := range local {
		for peer := range x.nodesOf[vpc] {
			add(peer, vpc)
		}
	}
	for _, l := range x.links {
		if local[l.consumer.ID] {
			for peer := range l.targetNodes {
				add(peer, l.provider.ID)
			}
		}
		if l.targetNodes[node] {
			for peer := range x.nodesOf[l.consumer.ID] {
				add(peer, l.consumer.ID)
			}
		}
	}
	for peer, vpcs := range common {
		n := x.r.Nodes[peer]
		p := api.ViewPeer{Node: n.ID, Name: n.Name, Number: n.Number, PublicKey: n.PublicKey,
			Underlay: slices.Clone(n.Underlay), BehindNAT: n.BehindNAT,
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(api.NodeAddr(x.r.Mesh.Number, n.Number), 128)}}
		for id := range vpcs {
			vpc := x.r.VPCs[id]
			if vpc == nil {
				continue
			}
			for _, prefix := range x.Prefixes(peer, id) {
				p.AllowedIPs = append(p.AllowedIPs, api.OverlayPrefix(x.r.Mesh.Number, vpc.Number, prefix))
			}
		}
		slices.SortFunc(p.AllowedIPs, comparePrefix)
		v.Peers = append(v.Peers, p)
		if addr, ok := gossipAddress(n); ok {
			v.Members = append(v.Members, api.ViewMember{Node: n.ID, Address: addr})
		}
	}
}

func gossipAddress(n *api.Node) (string, bool) {
	if n.GossipPort == 0 || len(n.Underlay) == 0 {
		return "", false
	}
	a, err := netip.ParseAddrPort(n.Underlay[0])
	if err != nil {
		return "", false
	}
	return netip.AddrPortFrom(a.Addr(), n.GossipPort).String(), true
}

func sortView(v *api.View) {
	slices.SortFunc(v.Peers, func(a, b api.ViewPeer) int { return cmp.Compare(a.Node, b.Node) })
	slices.SortFunc(v.Members, func(a, b api.ViewMember) int { return cmp.Compare(a.Node, b.Node) })
	slices.SortFunc(v.VPCs, func(a, b api.ViewVPC) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(v.ENIs, func(a, b api.ViewENI) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(v.Addresses, func(a, b api.ViewAddress) int {
		return cmp.Or(cmp.Compare(a.VPC, b.VPC), a.Address.Compare(b.Address))
	})
	slices.SortFunc(v.Groups, func(a, b api.ViewGroup) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(v.Endpoints, func(a, b api.ViewEndpoint) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(v.Admitted, func(a, b api.ViewAdmitted) int { return cmp.Compare(a.Endpoint, b.Endpoint) })
	slices.SortFunc(v.Grants, func(a, b api.ViewGrant) int {
		return cmp.Or(cmp.Compare(a.ConsumerVPC, b.ConsumerVPC), cmp.Compare(a.Tag, b.Tag))
	})
	slices.SortFunc(v.LoadBalancers, func(a, b api.ViewEndpoint) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(v.LoadBalancerGrants, func(a, b api.ViewGrant) int {
		return cmp.Or(cmp.Compare(a.ConsumerVPC, b.ConsumerVPC), cmp.Compare(a.Tag, b.Tag))
	})
	byName := func(a, b api.ViewName) int {
		return cmp.Or(cmp.Compare(a.VPC, b.VPC), cmp.Compare(a.Name, b.Name), a.Address.Compare(b.Address))
	}
	slices.SortFunc(v.Names, byName)
	slices.SortFunc(v.StandbyNames, byName)
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }
