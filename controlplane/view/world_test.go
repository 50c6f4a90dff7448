package view

import (
	"fmt"
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/alloc"
)

// secret stands in the descriptions of rules.
const secret = "the bank"

// id makes a readable id of the right form.
func id(k api.Kind, n int) string {
	if k == api.KindAccount {
		return fmt.Sprintf("%012d", 100_000_000_000+n)
	}
	return fmt.Sprintf("%s%017x", k.Prefix(), n)
}

// world draws meshes: accounts with overlapping VPCs, workloads on nodes (some moved out of their block, some unbound),
// services, and connections in every state.
type world struct {
	t       *rapid.T
	r       *api.Resources
	subnets map[string]*alloc.Subnet
	next    map[api.Kind]int
}

func drawWorld(t *rapid.T) *api.Resources {
	w := &world{t: t, r: api.NewResources(), subnets: map[string]*alloc.Subnet{}, next: map[api.Kind]int{}}
	w.r.Mesh = api.Mesh{Number: 0xabcdef, Region: "test"}
	w.r.Revision = 7
	for range rapid.IntRange(1, 4).Draw(t, "nodes") {
		w.node()
	}
	for range rapid.IntRange(1, 4).Draw(t, "vpcs") {
		w.vpc()
	}
	for range rapid.IntRange(0, 5).Draw(t, "connections") {
		w.connection()
	}
	return w.r
}

func (w *world) meta(k api.Kind, account string) api.Meta {
	w.next[k]++
	return api.Meta{ID: id(k, w.next[k]), Account: account, Name: fmt.Sprintf("n%d", w.next[k])}
}

func (w *world) node() {
	m := w.meta(api.KindNode, "")
	w.r.Put(&api.Node{Meta: m, Number: uint32(w.next[api.KindNode]), PublicKey: "key-of-" + m.ID, GossipPort: 7946,
		Underlay: []string{fmt.Sprintf("192.0.2.%d:51820", w.next[api.KindNode])},
		State:    rapid.SampledFrom([]api.NodeState{api.NodeReady, api.NodeReady, api.NodeDraining, api.NodeRevoked}).Draw(w.t, "state")})
}

// someNode draws a node's id, or "" for an unbound ENI.
func (w *world) someNode() string {
	n := rapid.IntRange(0, len(w.r.Nodes)).Draw(w.t, "node")
	if n == 0 {
		return ""
	}
	return id(api.KindNode, n)
}

func (w *world) vpc() {
	acc := &api.Account{Meta: w.meta(api.KindAccount, "")}
	w.r.Put(acc)
	v := &api.VPC{Meta: w.meta(api.KindVPC, acc.ID), CIDR: netip.MustParsePrefix("10.0.0.0/24"),
		Number: uint32(10 + w.next[api.KindVPC])}
	w.r.Put(v)
	g := &api.SecurityGroup{Meta: w.meta(api.KindSecurityGroup, acc.ID), VPC: v.ID, Number: uint32(w.next[api.KindSecurityGroup])}
	g.Ingress = []api.Rule{{ID: "sgr-1", Protocol: api.All, Group: g.ID, Description: "from " + secret},
		{ID: "sgr-0", Protocol: api.TCP, FromPort: 443, ToPort: 443, CIDR: netip.MustParsePrefix("10.0.0.0/25")}}
	w.r.Put(g)
	spare := &api.SecurityGroup{Meta: w.meta(api.KindSecurityGroup, acc.ID), VPC: v.ID, // nobody is in it
		Number: uint32(w.next[api.KindSecurityGroup]), Ingress: slices.Clone(g.Ingress)}
	spare.Name = "spare"
	w.r.Put(spare)
	var subnets []*api.Subnet
	for i, cidr := range []string{"10.0.0.0/26", "10.0.0.64/26"} {
		s := &api.Subnet{Meta: w.meta(api.KindSubnet, acc.ID), VPC: v.ID, CIDR: netip.MustParsePrefix(cidr),
			Zone: string(rune('a' + i))}
		w.subnets[s.ID] = &alloc.Subnet{CIDR: s.CIDR, Used: map[netip.Addr]bool{}}
		w.r.Put(s)
		subnets = append(subnets, s)
	}
	group := &api.TargetGroup{Meta: w.meta(api.KindTargetGroup, acc.ID), VPC: v.ID, Protocol: api.TCP, Port: 8443,
		Number: uint32(w.next[api.KindTargetGroup]), HealthCheck: api.DefaultHealthCheck(api.TCP)}
	for range rapid.IntRange(0, 6).Draw(w.t, "workloads") {
		s := rapid.SampledFrom(subnets).Draw(w.t, "subnet")
		born := w.someNode()
		e := w.eni(s, g, api.ENIWorkload, born)
		e.Node = born
		e.IPAddressType = someType(w.t)
		if rapid.IntRange(0, 3).Draw(w.t, "moved") == 0 {
			e.Node = w.someNode()
		}
		if rapid.Bool().Draw(w.t, "target") {
			group.Targets = append(group.Targets, api.Target{ENI: e.ID, Weight: api.DefaultTargetWeight})
		}
	}
	w.r.Put(group)
	w.loadBalancer(v, g, group, subnets)
}

func someType(t *rapid.T) api.IPAddressType {
	return rapid.SampledFrom([]api.IPAddressType{"", api.IPv4Only, api.DualStack, api.IPv6Only}).Draw(t, "families")
}

func (w *world) eni(s *api.Subnet, g *api.SecurityGroup, typ api.ENIType, node string) *api.ENI {
	a := w.subnets[s.ID]
	addr, block, err := netip.Addr{}, (*api.Block)(nil), error(nil)
	if node == "" {
		addr, err = a.Single()
	} else {
		addr, block, err = a.ForNode(node)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	a.Take(addr, block)
	s.Blocks = a.Blocks
	m := w.meta(api.KindENI, s.Account)
	e := &api.ENI{Meta: m, Type: typ, VPC: s.VPC, Subnet: s.ID, Address: addr, SecurityGroups: []string{g.ID},
		Number: uint32(w.next[api.KindENI])}
	w.r.Put(e)
	return e
}

func (w *world) loadBalancer(v *api.VPC, g *api.SecurityGroup, tg *api.TargetGroup, subnets []*api.Subnet) {
	lb := &api.LoadBalancer{Meta: w.meta(api.KindLoadBalancer, v.Account), VPC: v.ID, SecurityGroups: []string{g.ID}}
	for i := range rapid.IntRange(1, 2).Draw(w.t, "listeners") {
		w.next["listener"]++
		lid := fmt.Sprintf("listener-%017x", w.next["listener"])
		lb.Listeners = append(lb.Listeners, api.Listener{ID: lid, Protocol: api.TCP,
			Port: uint16(443 + i), TargetGroup: tg.ID, IdleTimeoutSeconds: 350})
	}
	for _, s := range subnets {
		e := w.eni(s, g, api.ENILoadBalancer, "")
		e.Owner = lb.ID
		lb.ENIs, lb.Subnets = append(lb.ENIs, e.ID), append(lb.Subnets, s.ID)
	}
	w.r.Put(lb)
	w.r.Put(&api.Service{Meta: w.meta(api.KindService, v.Account), State: api.ServiceAvailable,
		LoadBalancers: []string{lb.ID}, PrivateDNSName: fmt.Sprintf("svc%d.internal", w.next[api.KindService])})
}

// connection draws a consumer VPC and a service, which may be its own.
func (w *world) connection() {
	n := len(w.r.VPCs)
	v := w.r.VPCs[id(api.KindVPC, rapid.IntRange(1, n).Draw(w.t, "consumer"))]
	s := w.r.Services[id(api.KindService, rapid.IntRange(1, n).Draw(w.t, "service"))]
	lb := w.r.LoadBalancers[s.LoadBalancers[0]]
	c := &api.Connection{Meta: w.meta(api.KindConnection, s.Account), EndpointAccount: v.Account, EndpointVPC: v.ID,
		Service: s.ID, LoadBalancer: lb.ID, Number: uint32(w.next[api.KindConnection]),
		State: rapid.SampledFrom(append(api.ConnectionStates, api.Available, api.Available, api.Available)).Draw(w.t, "state")}
	p := &api.Endpoint{Meta: w.meta(api.KindEndpoint, v.Account), VPC: v.ID, Service: s.ID, Connection: c.ID, State: c.State,
		ServiceName: s.Account + "/" + s.Name, PrivateDNSEnabled: rapid.Bool().Draw(w.t, "private DNS"),
		IPAddressType: someType(w.t)}
	c.Endpoint = p.ID
	for _, g := range w.r.SecurityGroups {
		if g.VPC == v.ID && g.Name != "spare" {
			p.SecurityGroups = []string{g.ID}
		}
	}
	for i := range 2 * len(w.r.VPCs) {
		sub := w.r.Subnets[id(api.KindSubnet, i+1)]
		if sub.VPC != v.ID {
			continue
		}
		e := w.eni(sub, w.r.SecurityGroups[p.SecurityGroups[0]], api.ENIEndpoint, "")
		e.Owner = p.ID
		p.ENIs, p.Subnets = append(p.ENIs, e.ID), append(p.Subnets, sub.ID)
		for _, l := range lb.Listeners {
			w.next["tag"]++
			c.TagNumbers = append(c.TagNumbers, api.TagNumber{ENI: e.ID, Listener: l.ID, Number: uint16(w.next["tag"])})
		}
	}
	w.r.Put(c)
	w.r.Put(p)
}
