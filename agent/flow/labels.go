package flow

import (
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// LabelGenerations is how many plans a [Labeler] remembers. A flow is judged again as soon as it has a packet under a newer
// plan, so only idle flows have an older generation; numbers are not reused within a quarantine, so newer labels fit them too.
const LabelGenerations = 4

// Labeler puts ids to the datapath's numbers. The zero value knows none and leaves ids empty. It is not safe for
// concurrent use.
type Labeler struct {
	known []*labels // newest first
	// past are connections by number that no known generation has any more: flows that were idle since are recorded late. At most maxPast.
	past map[uint32]*connLabel
}

const maxPast = 4096

// Add makes the labels of a generation known and forgets the oldest beyond [LabelGenerations].
func (l *Labeler) Add(v api.View, p plan.Plan) {
	l.known = slices.DeleteFunc(l.known, func(k *labels) bool { return k.generation == p.Generation })
	l.known = slices.Insert(l.known, 0, newLabels(v, p))
	for ; len(l.known) > LabelGenerations; l.known = l.known[:len(l.known)-1] {
		l.keep(l.known[len(l.known)-1])
	}
}

// keep keeps the connections of a generation that is forgotten.
func (l *Labeler) keep(k *labels) {
	if l.past == nil {
		l.past = map[uint32]*connLabel{}
	}
	for n, c := range k.conns {
		if len(l.past) < maxPast {
			l.past[n] = c
		}
	}
	for n := range l.past { // is it still one, or another?
		if l.current(n) {
			delete(l.past, n)
		}
	}
}

func (l *Labeler) current(connection uint32) bool {
	return slices.ContainsFunc(l.known[:len(l.known)-1], func(k *labels) bool { return k.conns[connection] != nil })
}

type eniLabel struct{ id, account, vpc, subnet string }

type vpcLabel struct{ id, account string }

// connLabel is what a node knows of one connection.
type connLabel struct {
	id, endpoint, service, serviceName, approver string
	consumerAccount, providerAccount             string
	consumerVPC, providerVPC                     string
	provider                                     uint32 // number of its VPC
}

type tagKey struct {
	vpc uint32 // consumer's
	tag uint16
}

type addrKey struct {
	vpc  uint32
	addr netip.Addr
}

type labels struct {
	generation uint32
	mesh       uint32
	enis       map[uint32]eniLabel
	vpcs       map[uint32]vpcLabel
	rules      map[uint32]string
	conns      map[uint32]*connLabel
	tags       map[tagKey]*connLabel
	dialed     map[addrKey]*connLabel // ENIs of endpoints and of load balancers
}

func newLabels(v api.View, p plan.Plan) *labels {
	l := &labels{
		generation: p.Generation, mesh: p.Config.Mesh,
		enis: map[uint32]eniLabel{}, vpcs: map[uint32]vpcLabel{}, rules: map[uint32]string{},
		conns: map[uint32]*connLabel{}, tags: map[tagKey]*connLabel{}, dialed: map[addrKey]*connLabel{},
	}
	for _, vpc := range v.VPCs {
		l.vpcs[vpc.Number] = vpcLabel{vpc.ID, vpc.Account}
	}
	for _, e := range v.ENIs {
		l.enis[e.Number] = eniLabel{e.ID, e.Account, e.VPCID, e.Subnet}
	}
	for _, a := range v.Addresses {
		if _, own := l.enis[a.Number]; !own {
			vpc := l.vpcs[a.VPC]
			l.enis[a.Number] = eniLabel{a.ENI, vpc.account, vpc.id, ""}
		}
	}
	for _, set := range p.RuleSets {
		// A set that does not parse has no names; its rules' records say so by an empty id.
		rules, err := plan.ParseRules(set.Text)
		if err != nil {
			continue
		}
		for _, r := range rules {
			l.rules[r.ID] = r.Name
		}
	}
	for i := range v.Endpoints {
		l.addEndpoint(&v.Endpoints[i])
	}
	for i := range v.Grants {
		l.addGrant(&v.Grants[i])
	}
	// A load balancer that is reached inside its VPC is a connection without endpoint and service.
	for _, b := range v.LoadBalancers {
		b.ID = ""
		l.addEndpoint(&b)
	}
	for _, g := range v.LoadBalancerGrants {
		g.Endpoint = ""
		l.addGrant(&g)
	}
	return l
}

func (l *labels) addEndpoint(e *api.ViewEndpoint) {
	consumer, provider := l.vpcs[e.VPC], l.vpcs[e.ProviderVPC]
	c := l.conn(e.ConnectionNumber, connLabel{
		id: e.Connection, endpoint: e.ID, service: e.Service, serviceName: e.ServiceName, approver: e.Approver,
		consumerAccount: consumer.account, providerAccount: provider.account,
		consumerVPC: consumer.id, providerVPC: provider.id, provider: e.ProviderVPC,
	})
	for _, eni := range e.ENIs {
		l.dialed[addrKey{e.VPC, eni.Address}] = c
	}
	for _, listener := range e.Listeners {
		for _, n := range listener.TagNumbers {
			l.tags[tagKey{e.VPC, n.Number}] = c
		}
	}
}

func (l *labels) addGrant(g *api.ViewGrant) {
	consumer, provider := l.vpcs[g.ConsumerVPC], l.vpcs[g.ProviderVPC]
	l.tags[tagKey{g.ConsumerVPC, g.Tag}] = l.conn(g.ConnectionNumber, connLabel{
		id: g.Connection, endpoint: g.Endpoint, service: g.Service, serviceName: g.ServiceName, approver: g.Approver,
		consumerAccount: g.ConsumerAccount, providerAccount: provider.account,
		consumerVPC: consumer.id, providerVPC: provider.id, provider: g.ProviderVPC,
	})
}

// conn keeps one label per connection: a node may know it both as its endpoint and as its grants.
func (l *labels) conn(number uint32, c connLabel) *connLabel {
	have := l.conns[number]
	if have == nil {
		l.conns[number] = &c
		return &c
	}
	fill := func(to *string, from string) {
		if *to == "" {
			*to = from
		}
	}
	fill(&have.approver, c.approver)
	fill(&have.consumerAccount, c.consumerAccount)
	fill(&have.providerAccount, c.providerAccount)
	fill(&have.consumerVPC, c.consumerVPC)
	fill(&have.providerVPC, c.providerVPC)
	return have
}

// find asks the given generation first, then all from the newest on.
func find[V any](l *Labeler, generation uint32, get func(*labels) (V, bool)) V {
	for _, k := range l.known {
		if k.generation == generation {
			if v, ok := get(k); ok {
				return v
			}
		}
	}
	for _, k := range l.known {
		if v, ok := get(k); ok {
			return v
		}
	}
	var none V
	return none
}

func lookup[K comparable, V any](l *Labeler, generation uint32, table func(*labels) map[K]V, key K) V {
	return find(l, generation, func(k *labels) (V, bool) {
		v, ok := table(k)[key]
		return v, ok
	})
}

func (l *Labeler) eni(generation, n uint32) eniLabel {
	return lookup(l, generation, func(k *labels) map[uint32]eniLabel { return k.enis }, n)
}

func (l *Labeler) mesh() uint32 {
	return find(l, 0, func(k *labels) (uint32, bool) { return k.mesh, k.mesh != 0 })
}

func (l *Labeler) vpc(generation, n uint32) vpcLabel {
	return lookup(l, generation, func(k *labels) map[uint32]vpcLabel { return k.vpcs }, n)
}

// Flow fills the parts of a record that say what a flow is: everything but counts, times, TCP flags, state and sequence.
func (l *Labeler) Flow(f *Flow) api.FlowRecord {
	g := f.Generation
	r := api.FlowRecord{
		Action: api.ActionAccept, LogStatus: StatusOK, Reason: ReasonForwarded,
		Stage: f.Hook.String(), Protocol: int(f.Protocol), Generation: g, FlowID: formatID(f.ID),
		TCPState: f.TCPState, HandshakeMicros: micros(f.Handshake), RTTMicros: micros(f.RTT),
	}
	r.Tuple, r.Translated = l.tuples(f)
	if f.Dead {
		r.Reason = ReasonRevoked
	}
	if f.ReplyHook == HookHost {
		r.ReplyStage = HookHost.String()
	}
	if f.Rule != 0 {
		r.Rule = lookup(l, g, func(k *labels) map[uint32]string { return k.rules }, f.Rule)
	}
	home := f.DestVPC
	r.Direction = DirectionIngress
	if f.Hook == HookWorkload {
		home, r.Direction = f.SourceVPC, DirectionEgress
	}
	l.owner(&r, g, f.ENI, home)
	if f.Connection != 0 {
		r.Side = SideProvider
		if f.Hook == HookWorkload {
			r.Side = SideConsumer
		}
		c := lookup(l, g, func(k *labels) map[uint32]*connLabel { return k.conns }, f.Connection)
		if c == nil {
			c = l.past[f.Connection]
		}
		l.connection(&r, g, c, f.SourceVPC, f.DestVPC)
	}
	return r
}

// tuples are a flow's before and after this node's translation. Before it, a workload's packet is within its own VPC; behind it,
// what a provider's node delivers is within the provider's.
func (l *Labeler) tuples(f *Flow) (opening, rewritten api.FlowTuple) {
	mesh, source, dest := l.mesh(), f.SourceVPC, f.DestVPC
	if f.Hook == HookWorkload {
		return f.Opening.record(mesh, source, source), f.Rewritten.record(mesh, source, dest)
	}
	return f.Opening.record(mesh, source, dest), f.Rewritten.record(mesh, dest, dest)
}

// Refusal makes the whole record of a refusal, but for its times and sequence.
func (l *Labeler) Refusal(f *Refusal) api.FlowRecord {
	var g uint32
	if len(l.known) > 0 {
		g = l.known[0].generation
	}
	dest := f.DestVPC
	if f.Tag == 0 && (f.Hook == HookWorkload || f.Hook == 0) { // with a tag it is to a client's own address
		dest = f.VPC
	}
	t := Tuple{f.IPv6, f.Src, f.SrcPort, f.Dst, f.DstPort}.record(l.mesh(), f.VPC, dest)
	r := api.FlowRecord{
		Action: api.ActionReject, LogStatus: StatusOK, Reason: f.Reason, Stage: f.Hook.String(), Generation: g,
		Protocol: int(f.Protocol), Tuple: t, Translated: t, Packets: f.Packets, Bytes: f.Bytes,
	}
	home := f.DestVPC
	r.Direction = DirectionIngress
	if f.Hook == HookWorkload || f.Hook == 0 {
		home, r.Direction = f.VPC, DirectionEgress
	}
	l.owner(&r, g, f.ENI, home)
	switch {
	case f.Tag != 0:
		l.tagged(&r, g, f)
	case f.Hook == HookWorkload:
		c := lookup(l, g, func(k *labels) map[addrKey]*connLabel { return k.dialed }, addrKey{f.VPC, f.Dst})
		if c != nil {
			r.Side = SideConsumer
			l.connection(&r, g, c, f.VPC, 0)
		}
	}
	return r
}

// tagged names the connection of a refused packet that carries a number. Whoever sent it wrote that: a workload chooses the VPC and
// the number of a client's address. So a connection is named only where both VPCs are its own, and to its own sides.
func (l *Labeler) tagged(r *api.FlowRecord, g uint32, f *Refusal) {
	number := f.Tag &^ api.TagFamilyIPv4
	of := func(consumer, provider uint32) *connLabel {
		return find(l, g, func(k *labels) (*connLabel, bool) {
			c := k.tags[tagKey{consumer, number}]
			return c, c != nil && c.provider == provider
		})
	}
	// Of a packet on its way to the provider the source has the number, which no workload's own packet has.
	if c := of(f.VPC, f.DestVPC); c != nil && f.Hook != HookWorkload {
		r.Side = SideProvider
		l.connection(r, g, c, f.VPC, f.DestVPC)
	} else if c := of(f.DestVPC, f.VPC); c != nil {
		r.Side = SideConsumer // an answer on its way back
		if f.Hook == HookWorkload {
			r.Side = SideProvider
		}
		l.connection(r, g, c, f.DestVPC, f.VPC)
	}
}

// owner names the local ENI; where the datapath knew none, the VPC's owner is to see the record.
func (l *Labeler) owner(r *api.FlowRecord, g, eni, vpc uint32) {
	var e eniLabel
	if eni != 0 {
		e = l.eni(g, eni)
	}
	r.Interface, r.Account, r.VPC, r.Subnet = e.id, e.account, e.vpc, e.subnet
	if e.id == "" {
		v := l.vpc(g, vpc)
		r.Account, r.VPC = v.account, v.id
	}
}

func (l *Labeler) connection(r *api.FlowRecord, g uint32, c *connLabel, consumer, provider uint32) {
	if c == nil {
		return
	}
	r.Connection, r.Endpoint, r.Service, r.ServiceName = c.id, c.endpoint, c.service, c.serviceName
	r.Approver, r.ConsumerAccount, r.ProviderAccount = c.approver, c.consumerAccount, c.providerAccount
	r.ConsumerVPC, r.ProviderVPC = c.consumerVPC, c.providerVPC
	if r.ConsumerVPC == "" {
		r.ConsumerVPC = l.vpc(g, consumer).id
	}
	if r.ProviderVPC == "" {
		r.ProviderVPC = l.vpc(g, provider).id
	}
}
