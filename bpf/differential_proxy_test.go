package bpf_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// near is a sequence number about the PROXY protocol header of the flow that a packet is being made for, or any.
func (x *traffic) near() uint32 {
	switch first := x.isn + 1; x.rng.IntN(8) {
	case 0:
		return first
	case 1, 2:
		return first + x.header
	case 3:
		return first + uint32(x.rng.IntN(int(x.header)+1))
	case 4:
		return first + x.header + uint32(x.rng.IntN(3000))
	case 5:
		return first - uint32(x.rng.IntN(3))
	}
	return x.rng.Uint32()
}

// proxied goes on with a flow whose target is told of the client: either end sends what it might, as the tested node knows
// the flow. There may be none.
func (x *traffic) proxied() error {
	flows := x.nodes[x.tested].state.Flows
	keys := slices.DeleteFunc(slices.SortedFunc(maps.Keys(flows), compareKeys), func(k verdict.FlowKey) bool {
		return flows[k].Proxy == 0 && k.View != verdict.ViewClient && flows[k].Reverse.View != verdict.ViewClient
	})
	if len(keys) == 0 || x.rng.IntN(8) == 0 {
		return x.openProxied()
	}
	key := keys[x.rng.IntN(len(keys))]
	f := flows[key]
	x.isn, x.header = f.ISN, uint32(f.Proxy)
	defer func() { x.isn, x.header = 0, 0 }()
	ip := x.dress(plantest.IP{Source: key.Source, Dest: key.Dest, Protocol: key.Protocol, SourcePort: key.SourcePort, DestPort: key.DestPort})
	if ip.Flags = plantest.ACK; x.rng.IntN(3) == 0 {
		ip.Flags = flagSets[x.rng.IntN(len(flagSets))]
	}
	if key.View == verdict.ViewProvider {
		family := api.TagFamilyIPv4
		if key.IPv6 {
			family = 0
		}
		from := api.Overlay{Mesh: x.r.Mesh.Number, VPC: key.VPC, Host: api.AddrHost(key.Source), Tag: family | key.Tag}
		to := api.Overlay{Mesh: x.r.Mesh.Number, VPC: f.DestVPC, Host: api.AddrHost(key.Dest), Tag: family}
		return x.hop(x.tested, verdict.Packet{Hook: verdict.HookTunnel, Bytes: ip.Overlay(from, to)}, nil)
	}
	for _, e := range x.nodes[x.tested].plan.ENIs {
		if key.View == verdict.ViewClient {
			ip.To = api.Overlay{Mesh: x.r.Mesh.Number, VPC: key.VPC, Host: api.AddrHost(key.Dest), Tag: key.Tag}.Addr()
			if e.Address == key.Source && (e.VPC == f.SourceVPC || x.rng.IntN(4) == 0) { // another's target, perhaps
				b := x.toClient(ip, e.Number, e.VPC)
				return x.hop(x.tested, verdict.Packet{Hook: verdict.HookWorkload, Ifindex: e.Ifindex, Bytes: b}, nil)
			}
			continue
		}
		if e.VPC == key.VPC && e.Address == key.Source && key.IPv6 {
			b := ip.FrameIPv6(e.Number, x.r.Mesh.Number, key.VPC)
			return x.hop(x.tested, verdict.Packet{Hook: verdict.HookWorkload, Ifindex: e.Ifindex, Bytes: b}, nil)
		}
		if e.VPC == key.VPC && e.Address == key.Source {
			return x.hop(x.tested, verdict.Packet{Hook: verdict.HookWorkload, Ifindex: e.Ifindex, Bytes: ip.Workload(e.Number)}, nil)
		}
	}
	return nil
}

// toClient is a frame of a workload to a client's own address.
func (x *traffic) toClient(ip plantest.IP, number, vpc uint32) []byte {
	b := ip.IPv6(api.IPv6Address(x.r.Mesh.Number, vpc, ip.Source), x.bent(ip.To))
	return plantest.Frame(plantest.GatewayMAC, plantest.MAC(number), 0x86dd, b)
}

// bent is a client's own address, or nearly one.
func (x *traffic) bent(a netip.Addr) netip.Addr {
	o, _ := api.ParseOverlay(a)
	switch x.rng.IntN(50) {
	case 0:
		o.VPC ^= 1 << x.rng.IntN(4)
	case 1:
		o.Tag ^= 1 << x.rng.IntN(16)
	case 2:
		o.Mesh ^= 1
	case 3:
		o.Host++
	}
	return o.Addr()
}

// openProxied sends a SYN that a grant with a header admits, if there is one, from some workload of the consumer's.
func (x *traffic) openProxied() error {
	p := x.nodes[x.tested].plan
	grants := slices.DeleteFunc(slices.Clone(p.Grants), func(g plan.Grant) bool { return !g.ProxyHeader && !g.ClientAddress })
	if len(grants) == 0 {
		return x.begin()
	}
	g := grants[x.rng.IntN(len(grants))]
	targets := slices.DeleteFunc(slices.Clone(p.GrantTargets), func(t plan.GrantTarget) bool {
		return t.ConsumerVPC != g.ConsumerVPC || t.Tag != g.Tag
	})
	var from []netip.Addr
	for _, id := range slices.Sorted(maps.Keys(x.r.ENIs)) {
		if e := x.r.ENIs[id]; e.Type == api.ENIWorkload && x.r.VPCs[e.VPC].Number == g.ConsumerVPC {
			from = append(from, e.Address)
		}
	}
	if len(targets) == 0 || len(from) == 0 {
		return x.begin()
	}
	t := targets[x.rng.IntN(len(targets))]
	ip := x.dress(plantest.IP{Protocol: g.Protocol, SourcePort: uint16(40000 + x.rng.IntN(3)), DestPort: t.Port, Flags: plantest.SYN})
	family := []uint16{api.TagFamilyIPv4, 0}[x.rng.IntN(2)]
	source := api.Overlay{Mesh: x.r.Mesh.Number, VPC: g.ConsumerVPC, Host: api.AddrHost(from[x.rng.IntN(len(from))]),
		Tag: family | g.Tag}
	dest := api.Overlay{Mesh: x.r.Mesh.Number, VPC: g.ProviderVPC, Host: api.AddrHost(t.Address), Tag: family}
	return x.hop(x.tested, verdict.Packet{Hook: verdict.HookTunnel, Bytes: ip.Overlay(source, dest)}, nil)
}

// countProxied looks what became of a packet for a target that is told of its clients.
func (x *traffic) countProxied(v verdict.Verdict) {
	b := v.Bytes[14:]
	key := verdict.FlowKey{View: verdict.ViewWorkload, Protocol: 6, IPv6: b[0]>>4 == 6}
	var protocol uint8
	if key.IPv6 {
		from, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(b[8:24])))
		to, _ := api.ParseOverlay(netip.AddrFrom16([16]byte(b[24:40])))
		key.Source, key.Dest, protocol, b = to.HostAddr(), from.HostAddr(), b[6], b[40:]
		if from.Number() != 0 {
			x.passed["client's own address"]++
		}
	} else {
		key.Source, key.Dest, protocol = netip.AddrFrom4([4]byte(b[16:20])), netip.AddrFrom4([4]byte(b[12:16])), b[9]
		b = b[20:]
	}
	if protocol != 6 || len(b) < 20 {
		return
	}
	if at := int(b[12]>>4) * 4; at < len(b) && bytes.HasPrefix(b[at:], []byte("\r\n\r\n\x00\r\nQUIT\n")) {
		x.headers++
		if b[at+13] == 0x21 {
			x.passed["header with IPv6 addresses"]++
		}
	}
	key.SourcePort, key.DestPort = binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint16(b)
	for _, e := range x.nodes[x.tested].plan.ENIs {
		if e.Ifindex != v.Ifindex {
			continue
		}
		key.VPC = e.VPC
		if f := x.nodes[x.tested].state.Flows[key]; f.ProxyDone && b[13]&plantest.SYN == 0 {
			x.shifted++
		}
	}
}
