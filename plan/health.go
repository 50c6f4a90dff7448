package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// HealthKey names a target of a target group by what a consumer's node knows of it.
type HealthKey struct {
	TargetGroup uint32         // number
	Target      netip.AddrPort // in the provider's VPC, IPv4
}

// HealthState is what is known of a target's health.
type HealthState uint8

// Health states. What nobody says anything of is used: a node whose agent is of before, or starts anew, is not ill.
const (
	HealthUnknown HealthState = iota
	HealthInitial             // new, not asked yet: used only where the others do not do
	HealthHealthy
	HealthUnhealthy
)

// HealthFact is what is known of one target.
type HealthFact struct {
	State  HealthState
	Weight uint16 // per mille of its share, while it starts slowly; 0: all of it
	Ended  bool   // it is unhealthy, and its flows are to be ended
}

// wholeShare is a share that is not reduced, in HealthFact.Weight's unit.
const wholeShare = 1000

// pool are a listener's targets, with what is known of the health of each.
type pool struct {
	targets []zonedTarget
	facts   []HealthFact // of each target
	minimum api.ViewPoolHealth
}

// pool looks up the health of a listener's targets, if anybody asks for it.
func (c *compiler) pool(l *api.ViewListenerPool, targets []zonedTarget) pool {
	p := pool{targets: targets, facts: make([]HealthFact, len(targets))}
	if l.Health != nil {
		p.minimum = *l.Health
		for i, t := range targets {
			p.facts[i] = c.facts.Health[HealthKey{l.TargetGroup, t.AddrPort}]
		}
	}
	return p
}

// takes tells whether a target takes new flows: it is not known to be ill, and was asked if it had to be.
func (p *pool) takes(i int, zone string) bool {
	s := p.facts[i].State
	return p.in(i, zone) && (s == HealthUnknown || s == HealthHealthy)
}

// in tells whether a target would take new flows if all were well; zone "" is every zone.
func (p *pool) in(i int, zone string) bool {
	return p.targets[i].Weight > 0 && (zone == "" || p.targets[i].zone == zone)
}

// enough tells whether so many targets of a zone take new flows that the others may be left out. Those that nobody has asked yet
// are not counted, or a group that grows would bring in what is ill.
func (p *pool) enough(zone string) bool {
	takes, all := 0, 0
	for i := range p.targets {
		switch {
		case p.takes(i, zone):
			takes, all = takes+1, all+1
		case p.in(i, zone) && p.facts[i].State != HealthInitial:
			all++
		}
	}
	return api.MinimumHealthy{Count: p.minimum.MinimumCount, Percentage: p.minimum.MinimumPercentage}.Enough(takes, all)
}

// alive tells whether an endpoint ENI of a zone is to be among what names answer: its zone's targets are well, or those of all where the
// zone has none. As choose does it counts those on draining nodes where the others do not do.
func (p *pool) alive(zone string) bool {
	q := *p
	if !q.enough("") {
		q.callIn()
	}
	none := !slices.ContainsFunc(q.targets, func(t zonedTarget) bool { return t.Weight > 0 && t.zone == zone })
	return q.enough(zone) || none && q.enough("")
}

// well tells whether new flows get to targets that are well, of whatever zone: choose does not open.
func (p *pool) well() bool {
	q := *p
	return q.enough("") || q.callIn()
}

// ill tells whether a target is known to be ill, and hope whether one is left that is not: then nobody knows that the service is down.
func (p *pool) ill() (ill, hope bool) {
	for i, t := range p.targets {
		if p.facts[i].State == HealthUnhealthy {
			ill = true
		} else if t.Weight > 0 || t.reserve > 0 {
			hope = true
		}
	}
	return ill, hope
}

// choose says what share of new flows each target gets at an endpoint ENI of a zone; what gets none keeps its flows, and what is not
// listed loses them. The zone's own targets go first where the listener is zonal, then those of all, then those on draining nodes too: used is the
// zone, or "". Where
// too few are well all are used as if nothing were known (open): then it may be the check that is ill.
func (p *pool) choose(zone string) (chosen []TableTarget, used string, open bool) {
	whole := p.enough("") || p.callIn()
	switch {
	case p.enough(zone):
	case whole:
		zone = ""
	default:
		open = true
		if !slices.ContainsFunc(p.targets, func(t zonedTarget) bool { return t.Weight > 0 && t.zone == zone }) {
			zone = ""
		}
	}
	for i, t := range p.targets {
		switch {
		case p.facts[i].Ended && whole && !open:
			continue
		case !open && !p.takes(i, zone) || open && !p.in(i, zone):
			t.Weight = 0
		case !open:
			t.Weight = slowed(t.Weight, p.facts[i].Weight)
		}
		chosen = append(chosen, t.TableTarget)
	}
	return chosen, zone, open
}

// callIn lets targets on draining nodes take new flows if there are enough that are well with them, or there are no others.
func (p *pool) callIn() bool {
	with := *p
	with.targets = slices.Clone(p.targets)
	for i := range with.targets {
		t := &with.targets[i]
		t.Weight = max(t.Weight, t.reserve)
	}
	enough := with.enough("")
	if enough || !slices.ContainsFunc(p.targets, func(t zonedTarget) bool { return t.Weight > 0 }) {
		p.targets = with.targets
	}
	return enough
}

// slowed is the weight of a target that gets a part of its share, per mille: one at least.
func slowed(weight, part uint16) uint16 {
	if part == 0 || part >= wholeShare {
		return weight
	}
	return uint16(max(1, uint32(weight)*uint32(part)/wholeShare))
}

// HealthSource is a target whose health a node needs to know, and the number of the node that hosts it.
type HealthSource struct {
	Key  HealthKey
	VPC  uint32 // of the target, number
	Node uint32
}

// HealthSources are the targets of a view whose health matters here, sorted by key. Who hosts one is who speaks for its address in the tunnel:
// only that node's word counts. A target that nobody speaks for is left out.
func HealthSources(v *api.View) []HealthSource {
	hosts := newHosts(v)
	var out []HealthSource
	for _, e := range slices.Concat(v.Endpoints, v.LoadBalancers) {
		for _, l := range e.Listeners {
			if l.Health == nil || len(l.TagNumbers) == 0 {
				continue // nobody asks, or it has no number yet and is closed
			}
			for _, t := range slices.Concat(l.Targets, l.Resting) {
				key := HealthKey{l.TargetGroup, netip.AddrPortFrom(t.Address, t.Port)}
				if node := hosts.of(e.ProviderVPC, t.Address); node != 0 {
					out = append(out, HealthSource{key, e.ProviderVPC, node})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b HealthSource) int {
		return cmp.Or(cmp.Compare(a.Key.TargetGroup, b.Key.TargetGroup), a.Key.Target.Compare(b.Key.Target), cmp.Compare(a.Node, b.Node))
	})
	return slices.CompactFunc(out, func(a, b HealthSource) bool { return a.Key == b.Key })
}

// hosts knows which node speaks for an address.
type hosts struct {
	mesh, own uint32
	here      map[vpcAddr]bool
	prefixes  map[netip.Prefix]uint32
	bits      []int // lengths that prefixes have, the longest first
}

func newHosts(v *api.View) *hosts {
	h := &hosts{mesh: v.Mesh.Number, own: v.Node.Number, here: map[vpcAddr]bool{}, prefixes: map[netip.Prefix]uint32{}}
	for _, e := range v.ENIs {
		h.here[vpcAddr{e.VPC, e.Address}] = true
	}
	for _, p := range v.Peers {
		for _, prefix := range p.AllowedIPs {
			h.prefixes[prefix] = p.Number
			if !slices.Contains(h.bits, prefix.Bits()) {
				h.bits = append(h.bits, prefix.Bits())
			}
		}
	}
	slices.SortFunc(h.bits, func(a, b int) int { return b - a })
	return h
}

// of is the number of the node, 0 if none speaks for the address.
func (h *hosts) of(vpc uint32, a netip.Addr) uint32 {
	if !a.Is4() {
		return 0
	}
	if h.here[vpcAddr{vpc, a}] {
		return h.own
	}
	one := api.OverlayPrefix(h.mesh, vpc, netip.PrefixFrom(a, 32)).Addr()
	for _, bits := range h.bits {
		if prefix, err := one.Prefix(bits); err == nil && h.prefixes[prefix] != 0 {
			return h.prefixes[prefix]
		}
	}
	return 0
}

// HealthSubscribers are, for each target group that a node has to check, the numbers of the nodes that need to hear of it: those with workloads
// in the VPCs that its grants lead from. Sorted.
func HealthSubscribers(v *api.View) map[uint32][]uint32 {
	checked := map[uint32]bool{}
	for _, h := range v.HealthChecks {
		checked[h.TargetGroup] = true
	}
	groups := map[uint32][]uint32{} // by VPC
	for _, g := range slices.Concat(v.Grants, v.LoadBalancerGrants) {
		if checked[g.TargetGroup] && !slices.Contains(groups[g.ConsumerVPC], g.TargetGroup) {
			groups[g.ConsumerVPC] = append(groups[g.ConsumerVPC], g.TargetGroup)
		}
	}
	out := map[uint32][]uint32{}
	for _, p := range v.Peers {
		told := map[uint32]bool{}
		for _, prefix := range p.AllowedIPs {
			for _, group := range groups[prefixVPC(AllowedIP{Prefix: prefix})] {
				if !told[group] {
					told[group] = true
					out[group] = append(out[group], p.Number)
				}
			}
		}
	}
	for _, nodes := range out {
		slices.Sort(nodes)
	}
	return out
}
