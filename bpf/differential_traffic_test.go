package bpf_test

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/controlplane/view"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/internal/worlds"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// traffic is a world whose nodes are oracles, but one is the kernel as well: whatever reaches that one is asked twice.
type traffic struct {
	t        testing.TB
	rng      *rand.Rand
	r        *api.Resources
	kernel   *kernel
	tested   string // node id
	nodes    map[string]*oracle
	detached map[string]bool // ENIs whose link is gone
	config   plan.Config
	age      uint32 // generation
	resolver uint16 // port
	talks    []talk
	asked    int
	reasons  map[verdict.Reason]int
	saw      func(verdict.Packet) // nil, or called with each packet of the tested node
}

type oracle struct {
	plan  *plan.Plan
	state *verdict.State
}

// talk is a flow as one of its ends sends it: a workload, or the host of a node.
type talk struct {
	eni  string // "" for a node's host
	node string
	ip   plantest.IP
	over [2]api.Overlay // of the host: from and to
}

func newTraffic(t testing.TB, rng *rand.Rand, k *kernel) *traffic {
	t.Helper()
	size := worlds.Small
	size.Nodes, size.Workloads = 1+rng.IntN(3), 16
	x := &traffic{
		t: t, rng: rng, r: worlds.New(rng, size), kernel: k, nodes: map[string]*oracle{}, detached: map[string]bool{}, age: 1,
		reasons: map[verdict.Reason]int{}, resolver: plan.ResolverPort,
	}
	ids := slices.Sorted(maps.Keys(x.r.Nodes))
	x.tested = ids[rng.IntN(len(ids))]
	if n := x.r.Nodes[x.tested]; n.State == api.NodeRevoked && rng.IntN(10) > 0 {
		n.State = api.NodeReady
	}
	for _, id := range ids {
		x.nodes[id] = &oracle{state: &verdict.State{NowNS: 2}}
	}
	x.config = plan.Config{
		TunnelIfindex: 3, TunnelMTU: uint16(1280 + rng.IntN(200)), HostIfindex: 4,
		HostMAC: [6]byte{2, 0, 0, 0, 1, 1}, DPMAC: [6]byte{2, 0, 0, 0, 1, 2}, ExpiresNS: []uint64{0, 1 << 62}[rng.IntN(2)],
	}
	if rng.IntN(40) == 0 {
		x.config.ExpiresNS = 1
	}
	k.forget()
	x.replan()
	return x
}

// replan computes every node's plan anew, under the next generation.
func (x *traffic) replan() {
	x.t.Helper()
	index := view.NewIndex(x.r)
	for id, n := range x.nodes {
		v := index.View(id)
		f := plantest.Facts(*v)
		f.Generation, f.Config = x.age, x.config
		f.Ready = slices.DeleteFunc(f.Ready, func(r plan.ReadyLink) bool { return x.detached[r.ENI] })
		p, err := plan.Compile(*v, f)
		if err != nil {
			x.t.Fatal(err)
		}
		p.Config.ResolverPort = x.resolver
		n.plan = p
	}
	x.kernel.apply(x.nodes[x.tested].plan)
}

// change is something that an operator or a user does; flows live on and are judged again.
func (x *traffic) change() {
	x.t.Helper()
	if x.rng.IntN(6) == 0 {
		x.resolver = []uint16{0, 53, plan.ResolverPort}[x.rng.IntN(3)]
	}
	switch x.rng.IntN(6) {
	case 0:
		if c := one(x, x.r.Connections); c != nil {
			c.State = []api.ConnectionState{api.Available, api.Rejected}[x.rng.IntN(2)]
		}
	case 1, 2:
		g, egress := one(x, x.r.SecurityGroups), 4
		if lb := one(x, x.r.LoadBalancers); lb != nil && len(lb.SecurityGroups) > 0 && x.rng.IntN(3) == 0 {
			g, egress = x.r.SecurityGroups[lb.SecurityGroups[0]], 2
		}
		if g != nil {
			rules := &g.Ingress
			if x.rng.IntN(egress) == 0 {
				rules = &g.Egress
			}
			if len(*rules) > 0 {
				*rules = (*rules)[1:]
			} else {
				*rules = []api.Rule{{ID: "sgr-new", Protocol: api.All, CIDR: netip.MustParsePrefix("0.0.0.0/0")}}
			}
		}
	case 3:
		if g := one(x, x.r.TargetGroups); g != nil && len(g.Targets) > 0 {
			g.Targets = g.Targets[1:]
		}
	case 4:
		if e := one(x, x.r.ENIs); e != nil && e.Type == api.ENIWorkload {
			x.detached[e.ID] = !x.detached[e.ID]
		}
	case 5:
		if e := one(x, x.r.ENIs); e != nil && e.Type == api.ENIWorkload {
			e.Number += 1000 // another one at the same address
		}
	}
	x.age++
	x.replan()
}

// expire marks a flow of the tested node, as over or as revoked, as the agent's sweep does, or tries to when a packet came
// since it looked. Half of them are a provider's, if there are any.
func (x *traffic) expire() {
	x.t.Helper()
	flows := x.nodes[x.tested].state.Flows
	if len(flows) == 0 {
		return
	}
	keys := slices.SortedFunc(maps.Keys(flows), compareKeys)
	if ports := slices.DeleteFunc(slices.Clone(keys), func(k verdict.FlowKey) bool {
		return k.View != verdict.ViewProvider
	}); len(ports) > 0 && x.rng.IntN(2) == 0 {
		keys = ports
	}
	key, flag := keys[x.rng.IntN(len(keys))], verdict.FlowExpired
	if x.rng.IntN(4) == 0 {
		flag = verdict.FlowDead
	}
	late := flag == verdict.FlowExpired && x.rng.IntN(5) == 0
	x.kernel.expire(key, bpf.FlowFlag(flag), late)
	if late {
		return
	}
	for _, k := range []verdict.FlowKey{key, flows[key].Reverse} {
		if f, ok := flows[k]; ok {
			f.Flags |= uint8(flag)
			flows[k] = f
		}
	}
}

func compareKeys(a, b verdict.FlowKey) int {
	return cmp.Or(cmp.Compare(a.VPC, b.VPC), a.Source.Compare(b.Source), a.Dest.Compare(b.Dest),
		cmp.Compare(a.SourcePort, b.SourcePort), cmp.Compare(a.DestPort, b.DestPort), cmp.Compare(a.Tag, b.Tag),
		cmp.Compare(a.View, b.View), cmp.Compare(a.Protocol, b.Protocol))
}

func one[R any](x *traffic, all map[string]R) R {
	var none R
	if len(all) == 0 {
		return none
	}
	ids := slices.Sorted(maps.Keys(all))
	return all[ids[x.rng.IntN(len(ids))]]
}

// step sends one packet and follows it. An error is a disagreement.
func (x *traffic) step() error {
	switch n := x.rng.IntN(100); {
	case n < 45 && len(x.talks) > 0:
		return x.goOn(x.talks[x.rng.IntN(len(x.talks))])
	case n < 78:
		return x.begin()
	case n < 94:
		return x.inject()
	case n < 97:
		return x.arp()
	}
	return x.hostInject()
}

// hop is one packet at one node: asked twice at the tested one, and followed to where it goes.
func (x *traffic) hop(id string, p verdict.Packet, known *plantest.IP) error {
	n := x.nodes[id]
	if x.rng.IntN(10) == 0 {
		p.Segment = 1 + x.rng.IntN(1500)
	}
	v := verdict.Decide(n.plan, n.state, p)
	if id == x.tested && runnable(p) {
		x.asked++
		if x.saw != nil {
			x.saw(p)
		}
		for _, s := range v.Stages {
			x.reasons[s.Reason]++
		}
		if err := x.kernel.run(n.plan, p, v); err != nil {
			return fmt.Errorf("hook %d, interface %d, packet\n% x\n%w", p.Hook, p.Ifindex, p.Bytes, err)
		}
	}
	switch v.Next {
	case verdict.NextTunnel:
		dest := netip.AddrFrom16([16]byte(v.Bytes[24:40]))
		for _, a := range n.plan.AllowedIPs {
			if !a.Prefix.Contains(dest) {
				continue
			}
			for peer, node := range x.r.Nodes {
				if node.PublicKey == a.PublicKey {
					return x.hop(peer, verdict.Packet{Hook: verdict.HookTunnel, Bytes: v.Bytes}, known)
				}
			}
		}
	case verdict.NextWorkload:
		if known != nil {
			x.answerable(id, v, *known)
		}
	case verdict.NextHost:
		if known == nil {
			return nil
		}
		from, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(v.Bytes[22:38])))
		to, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(v.Bytes[38:54])))
		ip := *known
		ip.SourcePort, ip.DestPort = binary.BigEndian.Uint16(v.Bytes[56:]), binary.BigEndian.Uint16(v.Bytes[54:])
		x.remember(talk{node: id, ip: ip, over: [2]api.Overlay{to, from}})
	}
	return nil
}

// answerable remembers the receiver's end of a flow.
func (x *traffic) answerable(id string, v verdict.Verdict, sent plantest.IP) {
	for _, e := range x.nodes[id].plan.ENIs {
		if e.Ifindex != v.Ifindex {
			continue
		}
		b := v.Bytes[14:]
		ip := sent
		ip.Source, ip.Dest = netip.AddrFrom4([4]byte(b[16:20])), netip.AddrFrom4([4]byte(b[12:16]))
		ip.SourcePort, ip.DestPort = uint16(b[22])<<8|uint16(b[23]), uint16(b[20])<<8|uint16(b[21])
		ip.ICMPType = 8 - ip.ICMPType
		x.remember(talk{eni: e.ID, node: id, ip: ip})
	}
}

func (x *traffic) remember(t talk) {
	if len(x.talks) < 200 {
		x.talks = append(x.talks, t)
		return
	}
	x.talks[x.rng.IntN(len(x.talks))] = t
}

// dress gives a packet what varies.
func (x *traffic) dress(ip plantest.IP) plantest.IP {
	ip.TTL, ip.TOS, ip.ID, ip.DF = uint8(1+x.rng.IntN(255)), uint8(x.rng.IntN(256)), uint16(x.rng.IntN(65536)), x.rng.IntN(2) == 0
	ip.Seq, ip.Ack = x.rng.Uint32(), x.rng.Uint32()
	switch x.rng.IntN(10) {
	case 0, 1, 2:
		ip.Payload = make([]byte, x.rng.IntN(40))
	case 3:
		ip.Payload = make([]byte, int(x.config.TunnelMTU)-60+x.rng.IntN(40))
	case 4:
		ip.Payload = make([]byte, 1500)
	}
	for i := range ip.Payload {
		ip.Payload[i] = byte(x.rng.Uint32())
	}
	ip.NoChecksum = x.rng.IntN(8) == 0
	if ip.Protocol == 6 && x.rng.IntN(3) == 0 {
		ip.Options = x.options()
	}
	return ip
}

// options are TCP options, right ones mostly, MSS among them at any place.
func (x *traffic) options() []byte {
	var b []byte
	for range x.rng.IntN(5) {
		switch x.rng.IntN(6) {
		case 0:
			b = append(b, 1)
		case 1, 2:
			b = append(b, 2, 4, byte(x.rng.IntN(16)), byte(x.rng.IntN(256)))
		case 3:
			b = append(b, 3, 3, 7)
		case 4:
			b = append(b, 4, 2)
		case 5:
			b = append(b, byte(x.rng.IntN(256)), byte(x.rng.IntN(12)))
		}
	}
	b = b[:min(len(b), 40)]
	for len(b)%4 != 0 {
		b = append(b, byte(x.rng.IntN(2)))
	}
	return b
}

var flagSets = []uint8{
	plantest.SYN, plantest.SYN | plantest.ACK, plantest.ACK, plantest.ACK, plantest.ACK | plantest.PSH, plantest.ACK | plantest.PSH,
	plantest.FIN | plantest.ACK, plantest.RST, plantest.RST | plantest.ACK, 0, plantest.SYN | 0xc0,
}

func (x *traffic) goOn(t talk) error {
	t.ip.Flags = flagSets[x.rng.IntN(len(flagSets))]
	if x.rng.IntN(20) == 0 {
		t.ip.Flags = uint8(x.rng.IntN(256))
	}
	if x.rng.IntN(20) == 0 {
		t.ip.ICMPType = 8 - t.ip.ICMPType
	}
	ip := x.dress(t.ip)
	if t.eni == "" {
		b := plantest.Frame(x.config.DPMAC, x.config.HostMAC, 0x86dd, ip.Overlay(t.over[0], t.over[1]))
		return x.hop(t.node, verdict.Packet{Hook: verdict.HookHost, Bytes: x.spoil(b)}, nil)
	}
	return x.from(t.eni, ip)
}

// from lets a workload send; one packet in ten is spoilt.
func (x *traffic) from(id string, ip plantest.IP) error {
	e := x.r.ENIs[id]
	if x.nodes[e.Node] == nil {
		return nil
	}
	b := ip.Workload(e.Number)
	known := &ip
	if x.rng.IntN(10) == 0 {
		b, known = x.spoil(b), nil
	}
	return x.hop(e.Node, verdict.Packet{Hook: verdict.HookWorkload, Ifindex: 100 + e.Number, Bytes: b}, known)
}

// begin opens a flow, from few ports to what exists, so that flows meet.
func (x *traffic) begin() error {
	e := one(x, x.r.ENIs)
	if e == nil || e.Type != api.ENIWorkload {
		return nil
	}
	ip := plantest.IP{
		Source: e.Address, Dest: x.dest(e.VPC), Protocol: []uint8{6, 6, 17, 1}[x.rng.IntN(4)], ICMPType: 8,
		ICMPID: uint16(x.rng.IntN(4)), SourcePort: []uint16{40000, 40001, 443, 8443}[x.rng.IntN(4)],
		DestPort: worlds.Ports[x.rng.IntN(len(worlds.Ports))], Flags: plantest.SYN,
	}
	if x.rng.IntN(12) == 0 {
		ip.Flags = flagSets[x.rng.IntN(len(flagSets))]
	}
	if x.rng.IntN(10) == 0 {
		ip.SourcePort = uint16(1 + x.rng.IntN(65535))
	}
	ip = x.dress(ip)
	x.remember(talk{eni: e.ID, node: e.Node, ip: ip})
	return x.from(e.ID, ip)
}

func (x *traffic) dest(vpc string) netip.Addr {
	switch x.rng.IntN(10) {
	case 0:
		return plan.LinkLocalResolver
	case 1:
		return []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.66")}[x.rng.IntN(2)]
	case 2:
		if e := one(x, x.r.ENIs); e != nil {
			return e.Address
		}
	}
	for range 20 { // bounded search for one of the VPC, endpoints first
		e := one(x, x.r.ENIs)
		if e != nil && e.VPC == vpc && (e.Type == api.ENIEndpoint || x.rng.IntN(3) == 0) {
			return e.Address
		}
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(x.rng.IntN(256))})
}

// spoil makes a packet nearly right: some bytes changed, cut or longer.
func (x *traffic) spoil(b []byte) []byte {
	b = slices.Clone(b)
	switch x.rng.IntN(4) {
	case 0:
		b = b[:14+x.rng.IntN(len(b)-13)]
	case 1:
		b = append(b, make([]byte, x.rng.IntN(20))...)
	default:
		for range 1 + x.rng.IntN(3) {
			i := x.rng.IntN(min(len(b), 74))
			if x.rng.IntN(2) == 0 {
				b[i] ^= 1 << x.rng.IntN(8)
			} else {
				b[i] = byte(x.rng.IntN(256))
			}
		}
	}
	return b
}

// inject puts an overlay packet into the tested node's tunnel that no honest peer need have sent.
func (x *traffic) inject() error {
	from, to := x.overlay(), x.overlay()
	switch x.rng.IntN(3) {
	case 0:
		to.VPC = from.VPC
	case 1:
		if grants := x.nodes[x.tested].plan.Grants; len(grants) > 0 {
			g := grants[x.rng.IntN(len(grants))]
			from.VPC, from.Tag, to.VPC = g.ConsumerVPC, api.TagFamilyIPv4|g.Tag, g.ProviderVPC
		}
	}
	ip := plantest.IP{
		Protocol: []uint8{6, 6, 17, 1}[x.rng.IntN(4)], SourcePort: 40000, DestPort: worlds.Ports[x.rng.IntN(len(worlds.Ports))],
		Flags: flagSets[x.rng.IntN(len(flagSets))], ICMPType: 8, ICMPID: uint16(x.rng.IntN(4)),
	}
	if x.rng.IntN(2) == 0 {
		ip.Flags = plantest.SYN
	}
	if targets := x.nodes[x.tested].plan.GrantTargets; len(targets) > 0 && x.rng.IntN(3) == 0 {
		x.granted(&from, &to, &ip)
	}
	ip = x.dress(ip)
	b := ip.Overlay(from, to)
	if x.rng.IntN(4) == 0 {
		b = x.spoil(b)
	}
	return x.hop(x.tested, verdict.Packet{Hook: verdict.HookTunnel, Bytes: b}, nil)
}

// granted makes a packet one that a grant admits, but for its source, which is a random one.
func (x *traffic) granted(from, to *api.Overlay, ip *plantest.IP) {
	p := x.nodes[x.tested].plan
	t := p.GrantTargets[x.rng.IntN(len(p.GrantTargets))]
	for _, g := range p.Grants {
		if g.ConsumerVPC == t.ConsumerVPC && g.Tag == t.Tag {
			from.Mesh, from.VPC, from.Tag = x.r.Mesh.Number, g.ConsumerVPC, api.TagFamilyIPv4|g.Tag
			*to = api.Overlay{Mesh: x.r.Mesh.Number, VPC: g.ProviderVPC, Host: api.AddrHost(t.Address), Tag: api.TagFamilyIPv4}
			ip.Protocol, ip.DestPort = g.Protocol, t.Port
		}
	}
}

func (x *traffic) overlay() api.Overlay {
	o := api.Overlay{Mesh: x.r.Mesh.Number, Tag: api.TagFamilyIPv4, Host: api.AddrHost(x.dest(""))}
	if v := one(x, x.r.VPCs); v != nil {
		o.VPC = v.Number
	}
	if e := one(x, x.r.ENIs); e != nil {
		o.Host = api.AddrHost(e.Address)
	}
	if x.rng.IntN(4) == 0 {
		o.Tag |= uint16(x.rng.IntN(12))
	}
	switch x.rng.IntN(40) {
	case 0:
		o.Tag = uint16(x.rng.IntN(65536))
	case 1:
		o.VPC = uint32(x.rng.IntN(3))
	case 2:
		o.Mesh ^= 1 << x.rng.IntN(24)
	}
	return o
}

func (x *traffic) arp() error {
	enis := x.nodes[x.tested].plan.ENIs
	if len(enis) == 0 {
		return nil
	}
	e := enis[x.rng.IntN(len(enis))]
	sender := []netip.Addr{e.Address, e.Address, netip.IPv4Unspecified(), x.dest("")}[x.rng.IntN(4)]
	target := []netip.Addr{e.Address, x.dest(""), x.dest("")}[x.rng.IntN(3)]
	b := plantest.ARP(uint16(1+x.rng.IntN(2)), e.MAC, e.MAC, sender, target)
	if x.rng.IntN(5) == 0 {
		b = x.spoil(b)
	}
	return x.hop(x.tested, verdict.Packet{Hook: verdict.HookWorkload, Ifindex: e.Ifindex, Bytes: b}, nil)
}

// hostInject sends from the tested node's host what no flow has asked for.
func (x *traffic) hostInject() error {
	here := api.Overlay{Mesh: x.r.Mesh.Number, Host: x.r.Nodes[x.tested].Number}
	if x.rng.IntN(10) == 0 {
		here = x.overlay()
	}
	ip := x.dress(plantest.IP{Protocol: []uint8{17, 6, 1}[x.rng.IntN(3)], SourcePort: 53, DestPort: 40000})
	if x.rng.IntN(2) == 0 {
		ip.SourcePort = plan.ResolverPort
	}
	b := plantest.Frame(x.config.DPMAC, x.config.HostMAC, 0x86dd, ip.Overlay(here, x.overlay()))
	if x.rng.IntN(3) == 0 {
		b = x.spoil(b)
	}
	return x.hop(x.tested, verdict.Packet{Hook: verdict.HookHost, Bytes: b}, nil)
}
