package bpf_test

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// hostSends is what enters and leaves by the host itself.
func (x *traffic) hostSends() error {
	switch x.rng.IntN(6) {
	case 0, 1:
		return x.tell()
	case 2, 3:
		return x.probe()
	}
	return x.hostInject()
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
	to := x.overlay()
	if x.rng.IntN(2) == 0 {
		to.Tag ^= api.TagFamilyIPv4
	}
	if n := one(x, x.r.Nodes); x.rng.IntN(2) == 0 {
		to = x.message(&ip, n)
	}
	b := plantest.Frame(x.config.DPMAC, x.config.HostMAC, 0x86dd, ip.Overlay(here, to))
	if x.rng.IntN(3) == 0 {
		b = x.spoil(b)
	}
	return x.hop(x.tested, verdict.Packet{Hook: verdict.HookHost, Bytes: b, Mark: x.mark()}, nil)
}

// message makes a packet, mostly, what the host tells another node's, and says where that is.
func (x *traffic) message(ip *plantest.IP, to *api.Node) api.Overlay {
	ip.Protocol, ip.SourcePort, ip.DestPort = 17, plan.NodePort, plan.NodePort
	ip.Payload = make([]byte, plan.MaxMessage-10+x.rng.IntN(12))
	switch x.rng.IntN(12) {
	case 0:
		ip.Protocol = 6
	case 1:
		ip.DestPort = plan.ResolverPort
	case 2:
		ip.SourcePort++
	}
	return api.Overlay{Mesh: x.r.Mesh.Number, Host: to.Number}
}

// tell puts into the tested node's tunnel what another node's host sends, or none need have sent.
func (x *traffic) tell() error {
	from, here := one(x, x.r.Nodes), x.r.Nodes[x.tested]
	ip := x.dress(plantest.IP{})
	to, source := x.message(&ip, here), api.Overlay{Mesh: x.r.Mesh.Number, Host: from.Number}
	switch x.rng.IntN(12) {
	case 0:
		to.Host++
	case 1:
		source.Tag = uint16(x.rng.IntN(2)) << 15
		to.Tag = uint16(x.rng.IntN(12))
	case 2:
		source.VPC = uint32(x.rng.IntN(2))
	}
	b := ip.Overlay(source, to)
	if x.rng.IntN(6) == 0 {
		b = x.pieces(b)[0]
	}
	if x.rng.IntN(6) == 0 {
		b = x.spoil(b)
	}
	return x.hop(x.tested, verdict.Packet{Hook: verdict.HookTunnel, Bytes: b}, nil)
}

// giveProbes lets a node probe the targets that it grants, from what their load balancer's address is, mostly.
func (x *traffic) giveProbes(p *plan.Plan) {
	vpcs, seen := map[[2]uint32]uint32{}, map[string]bool{}
	for _, g := range p.Grants {
		vpcs[[2]uint32{g.ConsumerVPC, uint32(g.Tag)}] = g.ProviderVPC
	}
	p.Probes = nil
	for i, t := range p.GrantTargets {
		row := plan.Probe{VPC: vpcs[[2]uint32{t.ConsumerVPC, uint32(t.Tag)}], Address: t.Address, Port: t.Port, Source: t.Source}
		if (i+int(x.age))%9 == 0 {
			row.Source = x.r.ENIs[slices.Sorted(maps.Keys(x.r.ENIs))[i%len(x.r.ENIs)]].Address
		}
		if !seen[row.Key()] {
			seen[row.Key()] = true
			p.Probes = append(p.Probes, row)
		}
	}
	slices.SortFunc(p.Probes, func(a, b plan.Probe) int { return cmp.Compare(a.Key(), b.Key()) })
}

// mark is that of a socket of the host's, mostly the prober's.
func (x *traffic) mark() uint32 {
	return []uint32{verdict.ProbeMark, verdict.ProbeMark, verdict.ProbeMark, 0, verdict.ProbeMark + 1}[x.rng.IntN(5)]
}

// probe is the first packet of a probe, or of something else that the host tries.
func (x *traffic) probe() error {
	probes := x.nodes[x.tested].plan.Probes
	if len(probes) == 0 {
		return nil
	}
	row := probes[x.rng.IntN(len(probes))]
	ip := plantest.IP{
		Protocol: 6, Source: netip.AddrFrom4([4]byte{}), Dest: row.Address, SourcePort: uint16(40000 + x.rng.IntN(3)), DestPort: row.Port,
		Flags: plantest.SYN,
	}
	switch x.rng.IntN(12) {
	case 0:
		ip.Protocol = 17
	case 1:
		ip.DestPort++
	case 2:
		ip.Flags = flagSets[x.rng.IntN(len(flagSets))]
	}
	here := api.Overlay{Mesh: x.r.Mesh.Number, Host: x.r.Nodes[x.tested].Number}
	to := api.Overlay{Mesh: x.r.Mesh.Number, VPC: row.VPC, Host: api.AddrHost(row.Address)}
	if x.rng.IntN(2) == 0 {
		to.Tag = api.TagFamilyIPv4
	}
	ip = x.dress(ip)
	t := talk{node: x.tested, ip: ip, over: [2]api.Overlay{here, to}, mark: x.mark()}
	x.remember(t)
	b := plantest.Frame(x.config.DPMAC, x.config.HostMAC, 0x86dd, ip.Overlay(here, to))
	return x.hop(x.tested, verdict.Packet{Hook: verdict.HookHost, Bytes: b, Mark: t.mark}, &ip)
}
