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
	links        map[uint32]bpf.VPCAddr
	enis         map[bpf.VPCAddr]bpf.ENI
	addresses    map[bpf.VPCAddr]bpf.Address
	services     map[bpf.ServiceKey]bpf.Service
	grants       map[bpf.GrantKey]bpf.Grant
	grantTargets map[bpf.GrantTargetKey]bpf.GrantTarget
	ruleSets     map[uint32]plan.RuleSet
	targetTables map[uint32]plan.TargetTable
}

func (r *rows) equal(x *rows) bool {
	return r.config == x.config && maps.Equal(r.links, x.links) && maps.Equal(r.enis, x.enis) &&
		maps.Equal(r.addresses, x.addresses) && maps.Equal(r.services, x.services) && maps.Equal(r.grants, x.grants) &&
		maps.Equal(r.grantTargets, x.grantTargets) && maps.Equal(r.ruleSets, x.ruleSets) &&
		maps.Equal(r.targetTables, x.targetTables)
}

// encode makes rows of a plan. An error names what cannot be expressed; nothing is applied then.
func encode(p *plan.Plan) (*rows, error) {
	r := &rows{
		config: encodeConfig(p), links: map[uint32]bpf.VPCAddr{}, enis: map[bpf.VPCAddr]bpf.ENI{},
		addresses: map[bpf.VPCAddr]bpf.Address{}, services: map[bpf.ServiceKey]bpf.Service{},
		grants: map[bpf.GrantKey]bpf.Grant{}, grantTargets: map[bpf.GrantTargetKey]bpf.GrantTarget{},
		ruleSets: map[uint32]plan.RuleSet{}, targetTables: map[uint32]plan.TargetTable{},
	}
	for _, e := range p.ENIs {
		r.links[e.Ifindex] = vpcAddr(e.VPC, e.Address)
		r.enis[vpcAddr(e.VPC, e.Address)] = bpf.ENI{
			Number: e.Number, Ifindex: e.Ifindex, IngressRules: e.IngressRules, EgressRules: e.EgressRules,
			Groups: e.Groups, Mac: e.MAC, GatewayMac: e.GatewayMAC,
		}
	}
	for _, a := range p.Addresses {
		r.addresses[vpcAddr(a.VPC, a.Address)] = bpf.Address{
			Type: uint32(a.Type), Number: a.Number, Rules: a.Rules, EgressRules: a.EgressRules, Groups: a.Groups,
		}
	}
	for _, s := range p.Services {
		k := bpf.ServiceKey{Vpc: s.VPC, Addr: bpf.NetAddr(s.Address), Port: bpf.NetPort(s.Port), Protocol: s.Protocol}
		r.services[k] = bpf.Service{
			Connection: s.Connection, ProviderVpc: s.ProviderVPC, Table: s.Table, TableSize: s.TableSize,
			EndpointEni: s.EndpointENI, IdleS: s.IdleSeconds, Tag: s.Tag,
		}
	}
	for _, g := range p.Grants {
		r.grants[bpf.GrantKey{Vpc: g.ConsumerVPC, Tag: uint32(g.Tag)}] = bpf.Grant{
			Connection: g.Connection, ProviderVpc: g.ProviderVPC, Admitted: g.Admitted, LbRules: g.LBRules,
			LbEgressRules: g.LBEgressRules, DialedAddr: bpf.NetAddr(g.DialedAddress), DialedPort: bpf.NetPort(g.DialedPort),
			Protocol: g.Protocol, IdleS: g.IdleSeconds,
		}
	}
	for _, t := range p.GrantTargets {
		k := bpf.GrantTargetKey{
			Vpc: t.ConsumerVPC, Tag: uint32(t.Tag), Addr: bpf.NetAddr(t.Address), Port: bpf.NetPort(t.Port),
		}
		r.grantTargets[k] = bpf.GrantTarget{Source: bpf.NetAddr(t.Source), SourceEni: t.SourceENI}
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

func encodeConfig(p *plan.Plan) bpf.Config {
	c := p.Config
	return bpf.Config{
		ExpiresNs: c.ExpiresNS, Generation: p.Generation, Mesh: c.Mesh, Node: c.Node, TunnelIfindex: c.TunnelIfindex,
		HostIfindex: c.HostIfindex, TunnelMtu: c.TunnelMTU, HostMac: c.HostMAC, DpMac: c.DPMAC,
		ResolverPort: c.ResolverPort,
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
		out := bpf.Rule{Group: r.Group, PortLow: r.PortLow, PortHigh: r.PortHigh, Protocol: r.Protocol, Id: r.ID}
		if r.Group == 0 {
			if !r.Prefix.IsValid() || !r.Prefix.Addr().Is4() {
				return nil, fmt.Errorf("rule set %d: rule %s has neither group nor IPv4 prefix", s.ID, r.Name)
			}
			out.Addr, out.Mask = bpf.NetAddr(r.Prefix.Masked().Addr()), netMask(r.Prefix.Bits())
		}
		set.Rules[i] = out
	}
	return set, nil
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

// encodeTargets are the slots of a target table.
func encodeTargets(t plan.TargetTable) ([]bpf.Target, error) {
	slots, err := t.Slots()
	if err != nil {
		return nil, err
	}
	out := make([]bpf.Target, len(slots))
	for i, s := range slots {
		out[i] = bpf.Target{Addr: bpf.NetAddr(s.Addr()), Port: bpf.NetPort(s.Port())}
	}
	return out, nil
}
