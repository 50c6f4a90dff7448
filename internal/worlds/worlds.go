// Package worlds makes random meshes for tests: whole sets of resources that fit together, as the control plane would keep
// them. Equal seeds give equal worlds.
package worlds

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// Size bounds a world.
type Size struct {
	Nodes, VPCs, Workloads, Endpoints int // at most; at least one node and VPC

	// Twins adds for each connection one from another VPC to the same service, and there a workload at the address of one of the first.
	Twins bool
}

// Small is quick to walk through cell by cell.
var Small = Size{Nodes: 3, VPCs: 3, Workloads: 12, Endpoints: 4}

// Ports that rules, listeners and targets are drawn from, so that they meet.
var Ports = []uint16{53, 80, 443, 5353, 8080, 8443}

type maker struct {
	rng  *rand.Rand
	r    *api.Resources
	next map[string]int
	used map[string]map[netip.Addr]bool // by VPC
	tags map[string]uint16              // by VPC
	size Size
}

// New makes a world.
func New(rng *rand.Rand, size Size) *api.Resources {
	m := &maker{
		rng: rng, r: api.NewResources(), next: map[string]int{}, used: map[string]map[netip.Addr]bool{},
		tags: map[string]uint16{}, size: size,
	}
	m.r.Revision, m.r.Mesh = 7, api.Mesh{Number: 0x706c01, Region: "test"}
	for range 1 + rng.IntN(size.Nodes) {
		m.node()
	}
	for range 1 + rng.IntN(size.VPCs) {
		m.vpc()
	}
	for range rng.IntN(size.Workloads + 1) {
		m.workload()
	}
	for _, v := range m.sortedVPCs() {
		m.provider(v)
	}
	for range rng.IntN(size.Endpoints + 1) {
		m.endpoint()
	}
	if size.Twins {
		m.twins()
	}
	return m.r
}

func (m *maker) chance(percent int) bool { return m.rng.IntN(100) < percent }

func pick[T any](m *maker, list []T) T { return list[m.rng.IntN(len(list))] }

func (m *maker) number(kind string) int { m.next[kind]++; return m.next[kind] }

func (m *maker) meta(prefix, account string) api.Meta {
	n := m.number(prefix)
	return api.Meta{ID: fmt.Sprintf("%s%017x", prefix, n), Account: account, Name: fmt.Sprintf("n%d", n)}
}

func (m *maker) node() {
	meta := m.meta("node-", "")
	n := m.next["node-"]
	state := pick(m, []api.NodeState{api.NodeReady, api.NodeReady, api.NodeReady, api.NodeReady, api.NodeDraining, api.NodeRevoked})
	m.r.Put(&api.Node{
		Meta: meta, Number: uint32(n), State: state, Underlay: []string{fmt.Sprintf("192.0.2.%d:51820", n)},
		PublicKey: base64.StdEncoding.EncodeToString(slices.Repeat([]byte{byte(n)}, 32)),
	})
}

// vpc makes an account with one VPC of two subnets. All VPCs overlap, some are equal.
func (m *maker) vpc() {
	n := m.number("account")
	account := &api.Account{Meta: api.Meta{ID: fmt.Sprintf("%012d", n), Name: fmt.Sprintf("account%d", n)}}
	m.r.Put(account)
	v := &api.VPC{
		Meta: m.meta("vpc-", account.ID), CIDR: pick(m, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.0.0.0/23")}),
		Number: uint32(n),
	}
	if m.chance(10) {
		v.Number = ^uint32(0) - uint32(n)
	}
	m.r.Put(v)
	m.used[v.ID] = map[netip.Addr]bool{}
	for i, cidr := range []string{"10.0.0.0/26", "10.0.0.64/26"} {
		s := &api.Subnet{
			Meta: m.meta("subnet-", account.ID), VPC: v.ID, CIDR: netip.MustParsePrefix(cidr), Zone: pick(m, []string{"a", "b"}),
		}
		base := netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/28", i*64+16))
		for _, node := range m.sortedNodes() {
			if m.chance(50) && s.CIDR.Contains(base.Addr()) {
				s.Blocks = append(s.Blocks, api.Block{CIDR: base, Node: node.ID})
				base = netip.PrefixFrom(last(base).Next(), 28)
			}
		}
		m.r.Put(s)
	}
	for range 1 + m.rng.IntN(3) {
		m.r.Put(&api.SecurityGroup{Meta: m.meta("sg-", account.ID), VPC: v.ID, Number: uint32(m.number("group"))})
	}
	for _, g := range m.groups(v.ID) {
		g.Ingress, g.Egress = m.rules(v.ID, 4), m.rules(v.ID, 2)
		if m.chance(40) {
			g.Ingress = append(g.Ingress, m.allow(api.All, 0, 0))
		}
		if m.chance(70) {
			g.Egress = append(g.Egress, m.allow(api.All, 0, 0))
		}
	}
}

func last(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	b[3] |= byte(1<<(32-p.Bits()) - 1)
	return netip.AddrFrom4(b)
}

func (m *maker) allow(p api.Protocol, low, high uint16) api.Rule {
	return api.Rule{
		ID: fmt.Sprintf("sgr-%017x", m.number("sgr")), Protocol: p, FromPort: low, ToPort: high,
		CIDR: netip.MustParsePrefix("0.0.0.0/0"),
	}
}

func (m *maker) rules(vpc string, most int) []api.Rule {
	var rules []api.Rule
	for range m.rng.IntN(most + 1) {
		r := m.allow(pick(m, []api.Protocol{api.TCP, api.TCP, api.UDP, api.ICMP, api.All}), 0, 0)
		if r.Protocol == api.TCP || r.Protocol == api.UDP {
			r.FromPort = pick(m, Ports)
			r.ToPort = r.FromPort
			if m.chance(30) {
				r.FromPort, r.ToPort = 1, pick(m, []uint16{443, 65535})
			}
		}
		if r.Protocol == api.ICMP && m.chance(50) {
			r.ICMPType = api.ICMPOf(pick(m, []int{api.ICMPEchoRequest, api.ICMPEchoRequest, 3, 255}))
			r.ICMPCode = api.ICMPOf(pick(m, []int{-1, 0, 1}))
		}
		switch m.rng.IntN(3) {
		case 0:
			r.CIDR, r.Group = netip.Prefix{}, pick(m, m.groups(vpc)).ID
		case 1:
			r.CIDR = pick(m, []netip.Prefix{
				netip.MustParsePrefix("10.0.0.0/25"), netip.MustParsePrefix("10.0.0.0/26"), netip.MustParsePrefix("10.0.0.64/26"),
				netip.MustParsePrefix("10.0.0.16/28"), netip.MustParsePrefix("10.0.0.20/32"),
			})
		}
		rules = append(rules, r)
	}
	return rules
}

func (m *maker) groups(vpc string) []*api.SecurityGroup {
	return sorted(m.r.SecurityGroups, func(g *api.SecurityGroup) bool { return g.VPC == vpc })
}

func (m *maker) sortedVPCs() []*api.VPC {
	return sorted(m.r.VPCs, func(*api.VPC) bool { return true })
}

func (m *maker) sortedNodes() []*api.Node {
	return sorted(m.r.Nodes, func(*api.Node) bool { return true })
}

// sorted lists what a map of resources holds, by id.
func sorted[R any](all map[string]R, keep func(R) bool) []R {
	var ids []string
	for id, r := range all {
		if keep(r) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	var out []R
	for _, id := range ids {
		out = append(out, all[id])
	}
	return out
}

func (m *maker) someGroups(vpc string, least int) []string {
	var ids []string
	for _, g := range m.groups(vpc) {
		if m.chance(50) {
			ids = append(ids, g.ID)
		}
	}
	if len(ids) < least {
		ids = append(ids, m.groups(vpc)[0].ID)
	}
	return ids
}

// eni makes an ENI in a subnet; from its node's block there, if it has one, in most cases.
func (m *maker) eni(s *api.Subnet, typ api.ENIType, node string, groups []string) *api.ENI {
	prefix := netip.PrefixFrom(last(s.CIDR).Prev(), 32) // single addresses grow downward from the end
	for _, b := range s.Blocks {
		if b.Node == node && m.chance(70) {
			prefix = b.CIDR
		}
	}
	a, step := prefix.Addr(), netip.Addr.Prev
	if !prefix.IsSingleIP() {
		step = netip.Addr.Next
	}
	for range m.rng.IntN(6) {
		a = step(a)
	}
	for m.used[s.VPC][a] {
		a = step(a)
	}
	return m.eniAt(s, a, typ, node, groups)
}

func (m *maker) eniAt(s *api.Subnet, a netip.Addr, typ api.ENIType, node string, groups []string) *api.ENI {
	m.used[s.VPC][a] = true
	e := &api.ENI{
		Meta: m.meta("eni-", s.Account), Type: typ, VPC: s.VPC, Subnet: s.ID, Address: a, SecurityGroups: groups, Node: node,
	}
	e.Number = uint32(m.next["eni-"])
	m.r.Put(e)
	return e
}

func (m *maker) subnets(vpc string) []*api.Subnet {
	return sorted(m.r.Subnets, func(s *api.Subnet) bool { return s.VPC == vpc })
}

func (m *maker) workload() {
	v := pick(m, m.sortedVPCs())
	node := ""
	if m.chance(95) {
		node = pick(m, m.sortedNodes()).ID
	}
	m.eni(pick(m, m.subnets(v.ID)), api.ENIWorkload, node, m.someGroups(v.ID, 1))
}

// provider makes a load balancer with listeners and a service in most VPCs.
func (m *maker) provider(v *api.VPC) {
	if !m.chance(80) {
		return
	}
	workloads := sorted(m.r.ENIs, func(e *api.ENI) bool { return e.VPC == v.ID && e.Type == api.ENIWorkload })
	var groups []*api.TargetGroup
	for range 1 + m.rng.IntN(2) {
		g := &api.TargetGroup{Meta: m.meta("tg-", v.Account), VPC: v.ID, Protocol: pick(m, []api.Protocol{api.TCP, api.TCP, api.UDP}), Port: pick(m, Ports)}
		g.Number, g.HealthCheck = uint32(m.next["tg-"]), api.DefaultHealthCheck(g.Protocol)
		for _, e := range workloads {
			if m.chance(60) {
				t := api.Target{ENI: e.ID, Weight: pick(m, []uint16{100, 100, 100, 0, 1, 999})}
				if m.chance(20) {
					t.Port = pick(m, Ports)
				}
				g.Targets = append(g.Targets, t)
			} else if m.chance(20) {
				g.Draining = append(g.Draining, api.DrainingTarget{ENI: e.ID, Port: g.Port})
			}
		}
		g.Stickiness = pick(m, []string{"", "", api.SourceIP})
		m.r.Put(g)
		groups = append(groups, g)
	}
	lb := &api.LoadBalancer{Meta: m.meta("lb-", v.Account), VPC: v.ID, CrossZone: m.chance(60)}
	lb.Number = uint32(1_000_000 + m.next["lb-"]) // of the connections' space
	if m.chance(60) {
		lb.SecurityGroups = m.someGroups(v.ID, 1)
	}
	taken := map[string]bool{}
	for range 1 + m.rng.IntN(4) {
		g := pick(m, groups)
		l := api.Listener{Protocol: g.Protocol, Port: pick(m, Ports), TargetGroup: g.ID, IdleTimeoutSeconds: 350}
		if l.Protocol == api.UDP {
			l.IdleTimeoutSeconds = 120
		}
		key := fmt.Sprint(l.Protocol, l.Port)
		if taken[key] {
			continue
		}
		taken[key] = true
		l.ID = fmt.Sprintf("listener-%017x", m.number("listener"))
		lb.Listeners = append(lb.Listeners, l)
	}
	for _, s := range m.subnets(v.ID) {
		if m.chance(60) || len(lb.ENIs) == 0 {
			e := m.eni(s, api.ENILoadBalancer, "", lb.SecurityGroups)
			e.Owner = lb.ID
			lb.ENIs, lb.Subnets = append(lb.ENIs, e.ID), append(lb.Subnets, s.ID)
		}
	}
	lb.TagNumbers = m.tagNumbers(v.ID, lb.ENIs, lb.Listeners)
	m.r.Put(lb)
	s := &api.Service{
		Meta: m.meta("vpce-svc-", v.Account), State: api.ServiceAvailable, LoadBalancers: []string{lb.ID}, AllowedPrincipals: []string{"*"},
		ClientIdentity: pick(m, []api.ClientIdentity{"", api.IdentityLoadBalancer, api.IdentityProxyProtocol, api.IdentityProxyProtocol,
			api.IdentityClientAddress}),
	}
	s.SetPrivateNames(pick(m, [][]string{nil, {"svc.example.internal"}, {"*.svc.example.internal"},
		{"db.example.internal", "svc.example.internal"}}))
	m.r.Put(s)
}

// States of a drawn connection: mostly one that lets packets through.
var states = []api.ConnectionState{
	api.Available, api.Available, api.Available, api.Available, api.Available, api.Available, api.PendingAcceptance, api.Pending,
	api.Deleting, api.Rejected, api.Failed, api.Expired,
}

// tagNumbers are most of those that ENIs of a VPC need.
func (m *maker) tagNumbers(vpc string, enis []string, listeners []api.Listener) []api.TagNumber {
	var out []api.TagNumber
	for _, eni := range enis {
		for _, l := range listeners {
			if m.tags[vpc]++; m.chance(97) {
				out = append(out, api.TagNumber{ENI: eni, Listener: l.ID, Number: m.tags[vpc]})
			}
		}
	}
	return out
}

func (m *maker) endpoint() {
	services := sorted(m.r.Services, func(*api.Service) bool { return true })
	if len(services) == 0 {
		return
	}
	s, v := pick(m, services), pick(m, m.sortedVPCs())
	m.connect(s, v, pick(m, states))
}

func (m *maker) connect(s *api.Service, v *api.VPC, state api.ConnectionState) {
	lb := m.r.LoadBalancers[s.LoadBalancers[0]]
	e := &api.Endpoint{
		Meta: m.meta("vpce-", v.Account), VPC: v.ID, Service: s.ID, ServiceName: s.Account + "/" + s.Name, State: state,
		SecurityGroups: m.someGroups(v.ID, 1), PrivateDNSEnabled: m.chance(50),
	}
	c := &api.Connection{
		Meta: m.meta("vpce-con-", s.Account), Endpoint: e.ID, EndpointAccount: v.Account, EndpointVPC: v.ID, Service: s.ID,
		LoadBalancer: lb.ID, State: e.State,
	}
	c.Number = uint32(m.next["vpce-con-"])
	e.Connection, e.PrivateDNSPriority = c.ID, []uint16{0, 200, 50}[c.Number%3]
	for _, sub := range m.subnets(v.ID) {
		if !m.chance(60) && len(e.ENIs) > 0 {
			continue
		}
		eni := m.eni(sub, api.ENIEndpoint, "", e.SecurityGroups)
		eni.Owner = e.ID
		e.ENIs, e.Subnets = append(e.ENIs, eni.ID), append(e.Subnets, sub.ID)
	}
	c.TagNumbers = m.tagNumbers(v.ID, e.ENIs, lb.Listeners)
	m.r.Put(e)
	m.r.Put(c)
}

// twins are consumers that a provider could take for one another.
func (m *maker) twins() {
	for _, c := range sorted(m.r.Connections, func(c *api.Connection) bool { return c.State == api.Available }) {
		workloads := sorted(m.r.ENIs, func(e *api.ENI) bool { return e.VPC == c.EndpointVPC && e.Type == api.ENIWorkload && e.Node != "" })
		others := sorted(m.r.VPCs, func(v *api.VPC) bool { return v.ID != c.EndpointVPC })
		if len(workloads) == 0 || len(others) == 0 {
			continue
		}
		a, v := pick(m, workloads).Address, pick(m, others)
		for _, s := range m.subnets(v.ID) {
			if !s.CIDR.Contains(a) || m.used[v.ID][a] {
				continue
			}
			node := pick(m, m.sortedNodes()).ID
			for _, b := range s.Blocks {
				if b.CIDR.Contains(a) {
					node = b.Node
				}
			}
			m.eniAt(s, a, api.ENIWorkload, node, m.someGroups(v.ID, 1))
		}
		m.connect(m.r.Services[c.Service], v, api.Available)
	}
}
