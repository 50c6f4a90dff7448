package controlplane

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/alloc"
	"github.com/culvert-net/culvert/controlplane/store"
)

// check fails the test on what must never be, whatever was asked for.
func (l *lab) check() {
	l.t.Helper()
	for _, p := range problems(l.s.Resources()) {
		l.t.Error(p)
	}
}

// txn changes the store behind the server's back.
func (l *lab) txn(f func(*store.Tx)) {
	l.t.Helper()
	if _, err := l.s.store.Txn(l.ctx(), func(tx *store.Tx) error {
		f(tx)
		return nil
	}); err != nil {
		l.t.Fatal(err)
	}
}

// eventually waits for a condition.
func (l *lab) eventually(what string, holds func() bool) {
	l.t.Helper()
	deadline := time.After(75 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			l.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// problems lists what must not be in a picture.
func problems(r *api.Resources) []string {
	p := &prober{r: r}
	for _, k := range api.Kinds {
		r.Each(k, func(res api.Resource) bool {
			if v, ok := res.(interface{ Validate() error }); !ok {
				p.say("%s cannot be validated", k)
			} else if err := v.Validate(); err != nil {
				p.say("%s: %v", res.GetMeta().ID, err)
			}
			if a := res.GetMeta().Account; a != "" && r.Accounts[a] == nil {
				p.say("%s belongs to %s, which is gone", res.GetMeta().ID, a)
			}
			return true
		})
	}
	p.numbers()
	p.networks()
	p.addresses()
	p.balancing()
	p.connections()
	p.nodes()
	return p.found
}

type prober struct {
	r     *api.Resources
	found []string
}

func (p *prober) say(format string, args ...any) {
	p.found = append(p.found, fmt.Sprintf(format, args...))
}

// unique says so when a thing is there twice.
func unique[K comparable](p *prober, seen map[K]string, key K, id string) {
	if other, ok := seen[key]; ok {
		p.say("%v belongs to %s and to %s", key, other, id)
	}
	seen[key] = id
}

func (p *prober) numbers() {
	type number struct {
		kind api.Kind
		n    uint32
	}
	seen := map[number]string{}
	add := func(res api.Resource, n uint32) {
		if n == 0 {
			p.say("%s has no number", res.GetMeta().ID)
		}
		unique(p, seen, number{res.Kind(), n}, res.GetMeta().ID)
	}
	for _, v := range p.r.VPCs {
		add(v, v.Number)
	}
	for _, e := range p.r.ENIs {
		add(e, e.Number)
	}
	for _, g := range p.r.SecurityGroups {
		add(g, g.Number)
	}
	for _, g := range p.r.TargetGroups {
		add(g, g.Number)
	}
	for _, c := range p.r.Connections {
		add(c, c.Number)
	}
	for _, n := range p.r.Nodes {
		add(n, n.Number)
	}
}

func (p *prober) networks() {
	defaults := map[string]string{}
	for _, g := range p.r.SecurityGroups {
		if p.r.VPCs[g.VPC] == nil {
			p.say("%s is in a VPC that is gone", g.ID)
		}
		if g.Default {
			unique(p, defaults, g.VPC, g.ID)
		}
		for _, rule := range append(slices.Clone(g.Ingress), g.Egress...) {
			if o := p.r.SecurityGroups[rule.Group]; rule.Group != "" && (o == nil || o.VPC != g.VPC) {
				p.say("%s names the group %s", g.ID, rule.Group)
			}
		}
	}
	for _, v := range p.r.VPCs {
		if defaults[v.ID] == "" {
			p.say("%s has no default group", v.ID)
		}
	}
	for _, s := range p.r.Subnets {
		v := p.r.VPCs[s.VPC]
		if v == nil || !v.CIDR.Overlaps(s.CIDR) || v.CIDR.Bits() > s.CIDR.Bits() {
			p.say("%s is not within its VPC", s.ID)
		}
		for _, o := range p.r.Subnets {
			if o.ID < s.ID && o.VPC == s.VPC && o.CIDR.Overlaps(s.CIDR) {
				p.say("%s and %s overlap", o.ID, s.ID)
			}
		}
		for i, b := range s.Blocks {
			if p.r.Nodes[b.Node] == nil || b.CIDR.Bits() != api.BlockBits || !s.CIDR.Contains(b.CIDR.Addr()) {
				p.say("%s has the block %v", s.ID, b)
			}
			for _, o := range s.Blocks[:i] {
				if o.CIDR.Overlaps(b.CIDR) {
					p.say("%s has overlapping blocks %v and %v", s.ID, o, b)
				}
			}
			if !slices.ContainsFunc(p.enisOf(s.ID), func(e *api.ENI) bool { return e.Node == b.Node && b.CIDR.Contains(e.Address) }) {
				p.say("%s lends the idle block %v", s.ID, b)
			}
		}
	}
}

func (p *prober) enisOf(subnet string) (out []*api.ENI) {
	for _, e := range p.r.ENIs {
		if e.Subnet == subnet {
			out = append(out, e)
		}
	}
	return out
}

func (p *prober) addresses() {
	type place struct {
		vpc  string
		addr netip.Addr
	}
	seen := map[place]string{}
	for _, e := range p.r.ENIs {
		unique(p, seen, place{e.VPC, e.Address}, e.ID)
		s := p.r.Subnets[e.Subnet]
		if s == nil || s.VPC != e.VPC || !s.CIDR.Contains(e.Address) || alloc.Reserved(s.CIDR, e.Address) {
			p.say("%s has the address %s of %s", e.ID, e.Address, e.Subnet)
		}
		p.inVPC(e.ID, e.VPC, e.SecurityGroups)
		if e.Node != "" && p.r.Nodes[e.Node] == nil {
			p.say("%s is bound to %s, which is gone", e.ID, e.Node)
		}
		var owned []string
		switch e.Type {
		case api.ENIEndpoint:
			if o := p.r.Endpoints[e.Owner]; o != nil {
				owned = o.ENIs
			}
		case api.ENILoadBalancer:
			if o := p.r.LoadBalancers[e.Owner]; o != nil {
				owned = o.ENIs
			}
		default:
			continue
		}
		if !slices.Contains(owned, e.ID) {
			p.say("%s says that it belongs to %s, which says otherwise", e.ID, e.Owner)
		}
	}
}

func (p *prober) inVPC(id, vpc string, groups []string) {
	for _, g := range groups {
		if o := p.r.SecurityGroups[g]; o == nil || o.VPC != vpc {
			p.say("%s has the group %s", id, g)
		}
	}
}

// spread checks that there is one interface of an owner in each of its subnets, in different zones.
func (p *prober) spread(id, vpc string, subnets, enis, groups []string) {
	zones := map[string]string{}
	p.inVPC(id, vpc, groups)
	if len(subnets) != len(enis) {
		p.say("%s has %d interfaces in %d subnets", id, len(enis), len(subnets))
		return
	}
	for i, eni := range enis {
		e, s := p.r.ENIs[eni], p.r.Subnets[subnets[i]]
		if e == nil || s == nil || e.Subnet != s.ID || s.VPC != vpc || e.Owner != id || !slices.Equal(e.SecurityGroups, groups) {
			p.say("%s: interface %s in %s does not fit", id, eni, subnets[i])
			continue
		}
		unique(p, zones, s.Zone, s.ID)
	}
}

func (p *prober) balancing() {
	for _, g := range p.r.TargetGroups {
		for _, t := range g.Targets {
			if e := p.r.ENIs[t.ENI]; e == nil || e.VPC != g.VPC || e.Type != api.ENIWorkload {
				p.say("%s has the target %s", g.ID, t.ENI)
			}
		}
	}
	listeners := map[string]string{}
	for _, b := range p.r.LoadBalancers {
		p.spread(b.ID, b.VPC, b.Subnets, b.ENIs, b.SecurityGroups)
		for _, l := range b.Listeners {
			unique(p, listeners, l.ID, b.ID)
			if g := p.r.TargetGroups[l.TargetGroup]; g == nil || g.VPC != b.VPC || g.Protocol != l.Protocol {
				p.say("%s has the listener %s with the target group %s", b.ID, l.ID, l.TargetGroup)
			}
		}
	}
	for _, s := range p.r.Services {
		for _, id := range s.LoadBalancers {
			if b := p.r.LoadBalancers[id]; b == nil || b.Account != s.Account {
				p.say("%s has the load balancer %s", s.ID, id)
			}
		}
		for _, name := range s.PrivateNames() {
			said := false // also if the proof is gone
			for _, d := range p.r.Domains {
				said = said || d.Account == s.Account && api.WithinDomain(name, d.Name)
			}
			if !said && !slices.ContainsFunc(p.r.Accounts[s.Account].Domains, func(d string) bool { return api.WithinDomain(name, d) }) {
				p.say("%s has the name %s", s.ID, name)
			}
		}
	}
}

func (p *prober) connections() {
	type tag struct {
		vpc string
		n   uint16
	}
	tags := map[tag]string{}
	for _, c := range p.r.Connections {
		e, s, b := p.r.Endpoints[c.Endpoint], p.r.Services[c.Service], p.r.LoadBalancers[c.LoadBalancer]
		if e == nil || s == nil || b == nil || e.Connection != c.ID || e.Service != s.ID || e.VPC != c.EndpointVPC ||
			e.Account != c.EndpointAccount || s.Account != c.Account || e.State != c.State || !slices.Contains(s.LoadBalancers, b.ID) {
			p.say("%s does not fit its endpoint, service or load balancer", c.ID)
			continue
		}
		if (c.State == api.PendingAcceptance) != (c.Approver == "") && c.State != api.Expired {
			p.say("%s is %s, decided by %q", c.ID, c.State, c.Approver)
		}
		pairs := map[[2]string]string{}
		for _, t := range c.TagNumbers {
			unique(p, tags, tag{c.EndpointVPC, t.Number}, c.ID)
			unique(p, pairs, [2]string{t.ENI, t.Listener}, c.ID)
			if !slices.Contains(e.ENIs, t.ENI) || !slices.ContainsFunc(b.Listeners, func(l api.Listener) bool { return l.ID == t.Listener }) {
				p.say("%s has a number for (%s, %s)", c.ID, t.ENI, t.Listener)
			}
		}
		if len(pairs) != len(e.ENIs)*len(b.Listeners) {
			p.say("%s has %d numbers for %d interfaces and %d listeners", c.ID, len(pairs), len(e.ENIs), len(b.Listeners))
		}
	}
	for _, e := range p.r.Endpoints {
		p.spread(e.ID, e.VPC, e.Subnets, e.ENIs, e.SecurityGroups)
		s := p.r.Services[e.Service]
		if s == nil != (p.r.Connections[e.Connection] == nil) {
			p.say("%s has a connection without service, or the other way round", e.ID)
		}
	}
}

func (p *prober) nodes() {
	names, keys := map[string]string{}, map[string]string{}
	for _, n := range p.r.Nodes {
		unique(p, keys, n.PublicKey, n.ID)
		if n.State != api.NodeRevoked {
			unique(p, names, n.Name, n.ID)
		}
	}
	used := map[string]string{}
	for _, t := range p.r.JoinTokens {
		if t.UsedBy != "" {
			unique(p, used, t.UsedBy, t.ID)
		}
	}
}
