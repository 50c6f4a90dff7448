package datapath

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/plan"
)

// rows are a plan as the maps hold it.
type rows struct {
	config       bpf.Config
	links        map[uint32]bpf.Link
	enis         map[bpf.VPCAddr]bpf.ENI
	addresses    map[bpf.VPCAddr]bpf.Address
	services     map[bpf.ServiceKey]bpf.Service
	grants       map[bpf.GrantKey]bpf.Grant
	grantTargets map[bpf.GrantTargetKey]bpf.GrantTarget
	probes       map[bpf.ProbeKey]bpf.Probe
	paths        map[bpf.PathKey]bpf.Path
	quotas       map[bpf.QuotaKey]bpf.QuotaLimits
	ruleSets     map[uint32]plan.RuleSet
	targetTables map[uint32]plan.TargetTable
}

func (r *rows) equal(x *rows) bool {
	return r.config == x.config && maps.Equal(r.links, x.links) && maps.Equal(r.enis, x.enis) &&
		maps.Equal(r.addresses, x.addresses) && maps.Equal(r.services, x.services) && maps.Equal(r.grants, x.grants) &&
		maps.Equal(r.grantTargets, x.grantTargets) && maps.Equal(r.probes, x.probes) && maps.Equal(r.paths, x.paths) &&
		maps.Equal(r.quotas, x.quotas) && maps.Equal(r.ruleSets, x.ruleSets) && maps.Equal(r.targetTables, x.targetTables)
}

// encode makes rows of a plan. An error names what cannot be expressed; nothing is applied then.
func encode(p *plan.Plan) (*rows, error) {
	r := &rows{
		config: encodeConfig(p), links: map[uint32]bpf.Link{}, enis: map[bpf.VPCAddr]bpf.ENI{},
		addresses: map[bpf.VPCAddr]bpf.Address{}, services: map[bpf.ServiceKey]bpf.Service{},
		grants: map[bpf.GrantKey]bpf.Grant{}, grantTargets: map[bpf.GrantTargetKey]bpf.GrantTarget{},
		probes: map[bpf.ProbeKey]bpf.Probe{}, paths: map[bpf.PathKey]bpf.Path{},
		quotas: encodeQuotas(p), ruleSets: map[uint32]plan.RuleSet{}, targetTables: map[uint32]plan.TargetTable{},
	}
	for _, e := range p.ENIs {
		at, row := vpcAddr(e.VPC, e.Address), encodeENI(e)
		r.links[e.Ifindex] = bpf.Link{At: at, Eni: row}
		r.enis[at] = row
	}
	for _, a := range p.Addresses {
		r.addresses[vpcAddr(a.VPC, a.Address)] = bpf.Address{
			Type: uint32(a.Type), Number: a.Number, Rules: a.Rules, EgressRules: a.EgressRules, Groups: a.Groups,
			Families: uint8(a.Families),
		}
	}
	for _, s := range p.Services {
		k := bpf.ServiceKey{Vpc: s.VPC, Addr: bpf.NetAddr(s.Address), Port: bpf.NetPort(s.Port), Protocol: s.Protocol}
		r.services[k] = encodeService(s)
	}
	for _, g := range p.Grants {
		r.grants[bpf.GrantKey{Vpc: g.ConsumerVPC, Tag: uint32(g.Tag)}] = encodeGrant(g)
	}
	for _, t := range p.GrantTargets {
		k := bpf.GrantTargetKey{
			Vpc: t.ConsumerVPC, Tag: uint32(t.Tag), Addr: bpf.NetAddr(t.Address), Port: bpf.NetPort(t.Port),
		}
		row := bpf.GrantTarget{Source: bpf.NetAddr(t.Source), SourceEni: t.SourceENI, Ports: t.Ports}
		if t.Draining {
			row.Flags = uint8(bpf.GrantTargetDraining)
		}
		r.grantTargets[k] = row
	}
	for _, x := range p.Probes {
		k := bpf.ProbeKey{Vpc: x.VPC, Addr: bpf.NetAddr(x.Address), Port: bpf.NetPort(x.Port)}
		r.probes[k] = bpf.Probe{Source: bpf.NetAddr(x.Source)}
	}
	for _, x := range p.Paths {
		r.paths[pathKey(x.Prefix)] = bpf.Path{Mtu: x.MTU}
	}
	for _, s := range p.RuleSets {
		if _, err := encodeRules(s); err != nil {
			return nil, err
		}
		r.ruleSets[s.ID] = s
	}
	for _, t := range p.TargetTables {
		if _, err := t.Targets(); err != nil {
			return nil, err
		}
		r.targetTables[t.ID] = t
	}
	return r, nil
}

func encodeENI(e plan.ENI) bpf.ENI {
	row := bpf.ENI{
		Number: e.Number, Ifindex: e.Ifindex, IngressRules: e.IngressRules, EgressRules: e.EgressRules,
		Groups: e.Groups, Mac: e.MAC, GatewayMac: e.GatewayMAC, Families: uint8(e.Families), Account: e.Account, Lane: e.Lane,
	}
	if e.StrictLog {
		row.Flags = uint8(bpf.ENIStrictLog)
	}
	return row
}

func encodeService(s plan.Service) bpf.Service {
	row := bpf.Service{
		Connection: s.Connection, ProviderVpc: s.ProviderVPC, Table: s.Table, TableWidth: s.TableWidth,
		EndpointEni: s.EndpointENI, IdleS: s.IdleSeconds, Tag: s.Tag,
	}
	if s.Sticky {
		row.Flags |= bpf.ServiceSticky
	}
	return row
}

// encodeGrant is the value of a grant. The endpoint's id is there for the header only.
func encodeGrant(g plan.Grant) bpf.Grant {
	out := bpf.Grant{
		Connection: g.Connection, ProviderVpc: g.ProviderVPC, Admitted: g.Admitted, LbRules: g.LBRules,
		LbEgressRules: g.LBEgressRules, DialedAddr: bpf.NetAddr(g.DialedAddress), DialedPort: bpf.NetPort(g.DialedPort),
		Protocol: g.Protocol, IdleS: g.IdleSeconds, Account: g.Account,
	}
	if len(g.Endpoint) <= bpf.MaxEndpointID {
		out.EndpointLen = uint8(copy(out.Endpoint[:], g.Endpoint))
	}
	if g.ProxyHeader {
		out.Flags |= uint8(bpf.GrantProxy)
	}
	if g.Inside {
		out.Flags |= uint8(bpf.GrantInside)
	}
	if g.ClientAddress {
		out.Flags |= uint8(bpf.GrantClient)
	}
	return out
}

func encodeConfig(p *plan.Plan) bpf.Config {
	c := p.Config
	return bpf.Config{
		ExpiresNs: c.ExpiresNS, Generation: p.Generation, Mesh: c.Mesh, Node: c.Node, TunnelIfindex: c.TunnelIfindex,
		HostIfindex: c.HostIfindex, TunnelMtu: c.TunnelMTU, HostMac: c.HostMAC, DpMac: c.DPMAC,
		ResolverPort: c.ResolverPort,
	}
}

// pathKey is an overlay prefix by the VPC and the address that are in it: bits 32 to 96 (decision 0002).
func pathKey(p netip.Prefix) bpf.PathKey {
	b := p.Masked().Addr().As16()
	return bpf.PathKey{
		Prefix: uint32(min(p.Bits(), 96) - 32), Vpc: binary.NativeEndian.Uint32(b[4:]), Addr: binary.NativeEndian.Uint32(b[8:]),
	}
}

func vpcAddr(vpc uint32, a netip.Addr) bpf.VPCAddr {
	return bpf.VPCAddr{Vpc: vpc, Addr: bpf.NetAddr(a)}
}

// encodeRules is the value of a rule set's inner map.
func encodeRules(s plan.RuleSet) (*bpf.RuleSet, error) {
	rules, err := plan.ParseRules(s.Text)
	if err != nil {
		return nil, fmt.Errorf("rule set %d: %w", s.ID, err)
	}
	if len(rules) > bpf.MaxRules {
		return nil, fmt.Errorf("rule set %d has %d rules, at most %d fit", s.ID, len(rules), bpf.MaxRules)
	}
	set := &bpf.RuleSet{Count: uint32(len(rules))}
	for i, r := range rules {
		set.Rules[i] = encodeRule(r)
	}
	return set, nil
}

func encodeRule(r plan.Rule) bpf.Rule {
	out := bpf.Rule{
		Group: r.Group, PortLow: r.PortLow, PortHigh: r.PortHigh, Protocol: r.Protocol, Family: r.Family(), Id: r.ID,
	}
	if r.Group == 0 {
		vpc, peers := r.Match()
		out.Vpc, out.Addr, out.Mask = vpc, bpf.NetAddr(peers.Addr()), netMask(peers.Bits())
	}
	return out
}

// netMask is the mask of a prefix length as a "net" field.
func netMask(bits int) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], ^uint32(0)<<(32-bits))
	if bits == 0 {
		return 0
	}
	return binary.NativeEndian.Uint32(b[:])
}

// encodeTargets is a target table as its inner map holds it.
func encodeTargets(t plan.TargetTable) ([]uint64, error) {
	listed, slots, err := t.Slots()
	if err != nil {
		return nil, err
	}
	targets := make([]bpf.Target, len(listed))
	for i, x := range listed {
		targets[i] = bpf.Target{Addr: bpf.NetAddr(x.Addr()), Port: bpf.NetPort(x.Port())}
	}
	return bpf.TargetTable(t.Width, slots, targets), nil
}
