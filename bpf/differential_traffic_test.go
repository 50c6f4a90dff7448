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
	detached map[string]bool          // ENIs whose link is gone
	families map[string]plan.Families // of workload ENIs
	old      bool                     // all have IPv4 only
	config   plan.Config
	age      uint32            // generation
	resolver uint16            // port
	paths    map[string]uint16 // MTUs by public key
	shares   plan.Shares
	talks    []talk
	heard    []heard
	asked    int
	reasons  map[verdict.Reason]int
	passed   map[string]int       // kinds of packets that went on, which decision 0012 is about
	isn      uint32               // of the flow that a packet is being made for, if its target is told of the client
	header   uint32               // how long that is told
	headers  int                  // packets that became a PROXY protocol header
	shifted  int                  // packets of which a sequence number was shifted behind one
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
	mark uint32         // of the host's socket
}

func newTraffic(t testing.TB, rng *rand.Rand, k *kernel) *traffic {
	t.Helper()
	size := worlds.Small
	size.Nodes, size.Workloads = 1+rng.IntN(3), 16
	x := &traffic{
		t: t, rng: rng, r: worlds.New(rng, size), kernel: k, nodes: map[string]*oracle{}, detached: map[string]bool{}, age: 1,
		reasons: map[verdict.Reason]int{}, passed: map[string]int{}, resolver: plan.ResolverPort,
		paths: map[string]uint16{}, families: map[string]plan.Families{},
	}
	ids := slices.Sorted(maps.Keys(x.r.Nodes))
	x.tested = ids[rng.IntN(len(ids))]
	if n := x.r.Nodes[x.tested]; n.State == api.NodeRevoked && rng.IntN(10) > 0 {
		n.State = api.NodeReady
	}
	for _, id := range ids {
		x.nodes[id] = &oracle{state: &verdict.State{NowNS: 2, Used: map[verdict.QuotaKey]int64{}, Paid: map[verdict.PaidKey]uint64{}}}
	}
	x.config = plan.Config{
		TunnelIfindex: 3, TunnelMTU: uint16(1280 + rng.IntN(200)), HostIfindex: 4,
		HostMAC: [6]byte{2, 0, 0, 0, 1, 1}, DPMAC: [6]byte{2, 0, 0, 0, 1, 2}, ExpiresNS: []uint64{0, 1 << 62}[rng.IntN(2)],
	}
	if rng.IntN(40) == 0 {
		x.config.ExpiresNS = 1
	}
	for _, id := range ids {
		if rng.IntN(3) == 0 {
			x.paths[x.r.Nodes[id].PublicKey] = uint16(1100 + rng.IntN(400))
		}
	}
	x.old = rng.IntN(3) == 0
	x.shares.Entries = []uint32{0, 60, 200, 600}[rng.IntN(4)]
	x.cap()
	k.forget()
	k.put(bpf.ABIMapLogReady, uint32(0), uint64(0))
	x.advance()
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
		f.Generation, f.Config, f.PathMTU, f.Shares = x.age, x.config, x.paths, x.shares
		f.Ready = slices.DeleteFunc(f.Ready, func(r plan.ReadyLink) bool { return x.detached[r.ENI] })
		p, err := plan.Compile(*v, f)
		if err != nil {
			x.t.Fatal(err)
		}
		p.Config.ResolverPort = x.resolver
		x.giveProbes(p)
		x.giveFamilies(p)
		for i := range p.ENIs {
			p.ENIs[i].StrictLog = (p.ENIs[i].Number+x.age)%5 == 0
		}
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
	if n := one(x, x.r.Nodes); n != nil && x.rng.IntN(3) == 0 {
		x.paths[n.PublicKey] = uint16(1100 + x.rng.IntN(400))
	}
	if s := one(x, x.r.Services); s != nil && x.rng.IntN(6) == 0 {
		s.ClientIdentity = []api.ClientIdentity{"", api.IdentityProxyProtocol, api.IdentityClientAddress}[x.rng.IntN(3)]
	}
	switch x.rng.IntN(7) {
	case 6:
		x.cap()
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
		x.rebalance()
	case 4:
		if e := one(x, x.r.ENIs); e != nil && e.Type == api.ENIWorkload {
			x.detached[e.ID] = !x.detached[e.ID]
		}
	case 5:
		if e := one(x, x.r.ENIs); e != nil && e.Type == api.ENIWorkload {
			e.Number += 1000 // another one at the same address
			x.families[e.ID] = plan.Families(1 + x.rng.IntN(3))
		}
	}
	x.age++
	x.replan()
}

// rebalance changes a target group or a load balancer: a target drains, ends to drain, or gets another weight.
func (x *traffic) rebalance() {
	g := one(x, x.r.TargetGroups)
	if g == nil {
		return
	}
	switch n := x.rng.IntN(5); {
	case n < 2 && len(g.Targets) > 0:
		t := g.Targets[0]
		g.Targets = g.Targets[1:]
		g.Draining = append(g.Draining, api.DrainingTarget{ENI: t.ENI, Port: cmp.Or(t.Port, g.Port)})
	case n == 2 && len(g.Draining) > 0:
		g.Draining = g.Draining[1:]
	case n == 3 && len(g.Targets) > 0:
		g.Targets = slices.Clone(g.Targets)
		g.Targets[x.rng.IntN(len(g.Targets))].Weight = uint16(x.rng.IntN(3))
	default:
		g.Stickiness = []string{"", api.SourceIP}[x.rng.IntN(2)]
		if lb := one(x, x.r.LoadBalancers); lb != nil {
			lb.CrossZone = !lb.CrossZone
		}
	}
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
			f.Flags |= uint16(flag)
			flows[k] = f
		}
	}
}

// cap gives some services caps, and takes those of others.
func (x *traffic) cap() {
	for _, id := range slices.Sorted(maps.Keys(x.r.Services)) {
		x.r.Services[id].Caps = api.Caps{
			MaxConnectionsPerSecond: []uint32{0, 0, 3, 40}[x.rng.IntN(4)], MaxFlows: []uint32{0, 0, 2, 10}[x.rng.IntN(4)],
			MaxBitsPerSecond: []uint64{0, 0, 12_000, 500_000, 10_000_000_000}[x.rng.IntN(5)],
		}
	}
}

// advance lets time pass, for rates: little, or so much that all is paid. Some ENIs have had their RSTs, some connections
// what their caps let them have.
func (x *traffic) advance() {
	step := uint64(x.rng.IntN(100_000))
	if x.rng.IntN(200) == 0 {
		step = uint64(x.rng.IntN(1_000_000_000_000))
	}
	for _, n := range x.nodes {
		n.state.RatesNS += step
	}
	now := x.nodes[x.tested].state.RatesNS
	x.kernel.clock(now)
	if n := x.nodes[x.tested]; x.rng.IntN(50) == 0 && n.plan != nil && len(n.plan.ENIs) > 0 {
		eni := n.plan.ENIs[x.rng.IntN(len(n.plan.ENIs))].Number
		n.state.Paid[verdict.PaidKey{Rate: verdict.RateResets, ENI: eni}] = now + 2_000_000_000
		x.kernel.put(bpf.ABIMapResets, eni, now+2_000_000_000)
	}
	if n := one(x, x.r.Nodes); n != nil && x.rng.IntN(50) == 0 {
		x.nodes[x.tested].state.Paid[verdict.PaidKey{Rate: verdict.RateMessages, Node: n.Number}] = now + 2_000_000_000
		x.kernel.put(bpf.ABIMapMessages, n.Number, now+2_000_000_000)
	}
	if n := x.nodes[x.tested]; x.rng.IntN(20) == 0 && n.plan != nil && len(n.plan.Quotas) > 0 {
		if q := n.plan.Quotas[x.rng.IntN(len(n.plan.Quotas))]; q.BitsPerSecond != 0 || q.ConnectionsPerSecond != 0 {
			x.kernel.paid(n.state, q, now+1<<(20+x.rng.IntN(20)))
		}
	}
	if n := x.nodes[x.tested]; x.rng.IntN(50) == 0 { // the log fails more rarely than it works again
		n.state.LogNS = []uint64{0, 1 << 62, 1 << 62}[x.rng.IntN(3)]
		x.kernel.put(bpf.ABIMapLogReady, uint32(0), n.state.LogNS)
	}
	if x.rng.IntN(100) == 0 {
		x.kernel.idsPaid(x.nodes[x.tested].state, x.rng, now+3_000_000_000)
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
	x.advance()
	switch n := x.rng.IntN(100); {
	case n < 40 && len(x.talks) > 0:
		return x.goOn(x.talks[x.rng.IntN(len(x.talks))])
	case n < 66:
		return x.begin()
	case n < 75:
		return x.proxied()
	case n < 91:
		return x.inject()
	case n < 94:
		if len(x.heard) > 0 {
			return x.complain(x.heard[x.rng.IntN(len(x.heard))])
		}
		return nil
	case n < 96:
		return x.arp()
	case n < 98:
		return x.discover()
	}
	return x.hostSends()
}

// hop is one packet at one node: asked twice at the tested one, and followed to where it goes.
func (x *traffic) hop(id string, p verdict.Packet, known *plantest.IP) error {
	n := x.nodes[id]
	// A test run's offload has no kind, and the kernel takes nothing out of such a packet.
	if x.rng.IntN(10) == 0 && !(p.Hook == verdict.HookWorkload && taken(p.Bytes)) {
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
		if v.Reason == verdict.ReasonForwarded || v.Reason == verdict.ReasonNodesOwn {
			x.pass(p, v)
		}
		x.crossing(p, v)
		if err := x.kernel.run(n.plan, p, v); err != nil {
			return fmt.Errorf("hook %d, interface %d, packet\n% x\n%w", p.Hook, p.Ifindex, p.Bytes, err)
		}
	}
	if id == x.tested && v.Next == verdict.NextWorkload {
		x.countProxied(v)
	}
	switch v.Next {
	case verdict.NextTunnel:
		if x.rng.IntN(25) == 0 {
			v.Bytes, known = x.spoil(v.Bytes), nil
		}
		if len(v.Bytes) < 40 {
			return nil
		}
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
		return x.hears(id, v, p.Hook == verdict.HookTunnel && changed(p.Bytes, v.Bytes[14:]))
	case verdict.NextHost:
		if known == nil {
			return nil
		}
		from, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(v.Bytes[22:38])))
		to, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(v.Bytes[38:54])))
		ip := *known
		ip.Protocol = v.Bytes[20]
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
		if ip.Six = b[0]>>4 == 6; ip.Six {
			from, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(b[8:24])))
			to, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(b[24:40])))
			ip.Source, ip.Dest = to.HostAddr(), from.HostAddr()
			if from.Number() != 0 {
				ip.To = netip.AddrFrom16([16]byte(b[8:24]))
			}
			b = b[20:]
		} else {
			ip.Source, ip.Dest = netip.AddrFrom4([4]byte(b[16:20])), netip.AddrFrom4([4]byte(b[12:16]))
		}
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
	ip.Seq, ip.Ack, ip.Label = x.near(), x.near(), x.rng.Uint32()
	if ip.Flags&plantest.SYN != 0 && x.rng.IntN(4) > 0 {
		ip.Seq = x.isn
	}
	switch x.rng.IntN(10) {
	case 0, 1, 2:
		ip.Payload = make([]byte, x.rng.IntN(40))
	case 3:
		limit := int(x.config.TunnelMTU)
		if n := one(x, x.r.Nodes); n != nil && x.paths[n.PublicKey] != 0 {
			limit = max(1200, int(x.paths[n.PublicKey]))
		}
		ip.Payload = make([]byte, limit-60+x.rng.IntN(40))
	case 4:
		ip.Payload = make([]byte, 1500)
	}
	for i := range ip.Payload {
		ip.Payload[i] = byte(x.rng.Uint32())
	}
	ip.NoChecksum = x.rng.IntN(8) == 0 || ip.Protocol == 17 && ip.Flags == withoutChecksum
	if ip.Protocol == 6 && x.rng.IntN(3) == 0 {
		ip.Options = x.options()
	}
	return ip
}

// options are TCP options, right ones mostly, MSS among them at any place.
func (x *traffic) options() []byte {
	var b []byte
	for range x.rng.IntN(5) {
		switch x.rng.IntN(8) {
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
		case 6: // Fast Open, as today and of old, and Multipath TCP
			b = append(b, [][]byte{{34, 2}, {34, 6, 1, 2, 3, 4}, {254, 4, 0xf9, 0x89}, {254, 5, 0xf9, 0x88, 1}, {30, 4, 1, 1}}[x.rng.IntN(5)]...)
		case 7:
			n := 1 + x.rng.IntN(2)
			b = append(b, 5, byte(2+8*n))
			for range 2 * n {
				b = binary.BigEndian.AppendUint32(b, x.near())
			}
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
		if x.rng.IntN(2) == 0 {
			b = x.spoil(b)
		}
		return x.hop(t.node, verdict.Packet{Hook: verdict.HookHost, Bytes: b, Mark: t.mark}, nil)
	}
	return x.from(t.eni, ip)
}

// from lets a workload send; one packet in ten is spoilt.
func (x *traffic) from(id string, ip plantest.IP) error {
	packet, known := ip.Bytes(), &ip
	if e := x.r.ENIs[id]; ip.Six {
		mesh, vpc := x.r.Mesh.Number, x.r.VPCs[e.VPC].Number
		to := api.IPv6Address(mesh, vpc, ip.Dest)
		if ip.To.IsValid() {
			to = x.bent(ip.To)
		}
		packet = ip.IPv6(api.IPv6Address(mesh, vpc, ip.Source), to)
	}
	if x.rng.IntN(8) > 0 {
		if x.rng.IntN(12) == 0 {
			packet = x.adorned(packet)
		}
		return x.workload(id, packet, known)
	}
	for _, piece := range x.pieces(packet) {
		if plantest.IsLater(piece) {
			known = nil
		}
		if x.rng.IntN(20) == 0 {
			piece = x.adorned(piece)
		}
		if err := x.workload(id, piece, known); err != nil {
			return err
		}
	}
	return nil
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
	ip = x.inFamily(ip, x.families[e.ID])
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
		if e != nil && e.VPC == vpc && (e.Type == api.ENIEndpoint || x.rng.IntN(3) == 0 || e.Type == api.ENILoadBalancer && x.rng.IntN(2) == 0) {
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
	if targets := x.nodes[x.tested].plan.GrantTargets; len(targets) > 0 && x.rng.IntN(3) > 0 {
		x.granted(&from, &to, &ip)
	}
	if ip.Protocol == 17 && x.rng.IntN(2) == 0 {
		ip.Flags = withoutChecksum
	}
	if x.rng.IntN(2) == 0 {
		from.Tag, to.Tag = from.Tag^api.TagFamilyIPv4, to.Tag^api.TagFamilyIPv4
		if ip.Protocol == 1 && x.rng.IntN(10) > 0 {
			ip.Protocol = 58
		}
	}
	ip = x.dress(ip)
	b := ip.Overlay(from, to)
	if ip.Protocol == 17 && ip.NoChecksum && x.rng.IntN(4) == 0 {
		b[40+5] ^= 1 // another length than the packet's
	}
	pieces := [][]byte{b}
	if x.rng.IntN(6) == 0 {
		pieces = x.pieces(b)
	}
	for _, piece := range pieces {
		if x.rng.IntN(4) == 0 {
			piece = x.spoil(piece)
		}
		if err := x.hop(x.tested, verdict.Packet{Hook: verdict.HookTunnel, Bytes: piece}, nil); err != nil {
			return err
		}
	}
	return nil
}

// granted makes a packet one that a grant admits, but for its source, which is a random one.
func (x *traffic) granted(from, to *api.Overlay, ip *plantest.IP) {
	p, protocol := x.nodes[x.tested].plan, ip.Protocol
	for range 16 { // an admitted datagram for a target that has IPv6 alone is rare: it draws until one is
		t := p.GrantTargets[x.rng.IntN(len(p.GrantTargets))]
		i := slices.IndexFunc(p.Grants, func(g plan.Grant) bool { return g.ConsumerVPC == t.ConsumerVPC && g.Tag == t.Tag })
		if i >= 0 {
			g := p.Grants[i]
			from.Mesh, from.VPC, from.Tag = x.r.Mesh.Number, g.ConsumerVPC, api.TagFamilyIPv4|g.Tag
			*to = api.Overlay{Mesh: x.r.Mesh.Number, VPC: g.ProviderVPC, Host: api.AddrHost(t.Address), Tag: api.TagFamilyIPv4}
			ip.Protocol, ip.DestPort = g.Protocol, t.Port
			six := slices.ContainsFunc(p.ENIs, func(e plan.ENI) bool {
				return e.VPC == g.ProviderVPC && e.Address == t.Address && e.Families == plan.FamilyIPv6
			})
			if protocol != 17 || g.Protocol == 17 && six {
				return
			}
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
