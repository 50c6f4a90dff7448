package verdict

import (
	"cmp"
	"net/netip"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

func parseOverlay(b []byte) (api.Overlay, bool) {
	return api.ParseOverlay(netip.AddrFrom16([16]byte(b)))
}

// open classifies the first packet of a flow that a workload opens, and makes its entries.
func (d *decision) open(eni *plan.ENI, key FlowKey, p *ip) (Flow, Reason) {
	row := d.address(eni.VPC, p.dest)
	if row == nil || p.dest == eni.Address {
		return Flow{}, ReasonNoDestination
	}
	f := Flow{
		Generation: d.plan.Generation, SourceVPC: eni.VPC, DestVPC: eni.VPC, Source: p.source, Dest: p.dest,
		SourcePort: p.sport, DestPort: p.dport, Flags: FlowOpening, Hook: HookWorkload, ENI: eni.Number, Idle: idleOf(p.protocol),
	}
	other := f // the other direction's
	other.Flags, other.Next = 0, NextWorkload
	other.Source, other.SourcePort, other.Dest, other.DestPort = p.dest, p.dport, p.source, p.sport
	switch row.Type {
	case plan.AddressResolver:
		return d.openResolver(key, f, other, p)
	case plan.AddressWorkload, plan.AddressEndpoint:
	default:
		return Flow{}, ReasonNoDestination
	}
	rule, s, r := d.judgeSend(eni, row, p.tuple())
	if r != ReasonNone {
		return Flow{}, r
	}
	f.Rule, other.Rule = rule, rule
	if s != nil {
		return d.openEndpoint(key, f, other, p, s)
	}
	f.Next, other.Hook = NextTunnel, HookTunnel
	if d.eniAt(eni.VPC, p.dest) != nil {
		f.Next, other.Hook = NextLocal, HookLocal
	}
	f.Reverse = FlowKey{
		VPC: eni.VPC, Source: p.dest, Dest: p.source, SourcePort: p.dport, DestPort: p.sport, View: ViewLocal, Protocol: p.protocol,
	}
	if p.protocol == plan.ProtocolICMP { // the id stands in the same place in both directions
		f.Reverse.SourcePort, f.Reverse.DestPort = p.sport, 0
		other.SourcePort, other.DestPort = p.sport, 0
	}
	return d.create(key, f, other, p)
}

func idleOf(protocol uint8) uint32 {
	if protocol == plan.ProtocolTCP {
		return api.DefaultTCPIdleTimeout
	}
	return api.UDPIdleTimeout
}

func (d *decision) openResolver(key FlowKey, f, other Flow, p *ip) (Flow, Reason) {
	if p.protocol == plan.ProtocolICMP || p.dport != 53 {
		return Flow{}, ReasonHostNotAdmitted
	}
	node := nodeAddr(d.plan.Config.Node)
	port := d.resolverPort()
	f.Next, f.DestVPC, f.Dest, f.DestPort = NextHost, 0, node, port
	other.SourceVPC, other.Hook = 0, HookHost
	f.Reverse = FlowKey{VPC: key.VPC, Source: node, Dest: p.source, SourcePort: port, View: ViewHost, Protocol: p.protocol}
	if !d.claim(key, &f.Reverse, key.SourcePort) {
		return Flow{}, ReasonSNATPortsExhausted
	}
	f.SourcePort = f.Reverse.DestPort
	return d.create(key, f, other, p)
}

// resolverPort is where this node's resolver listens.
func (d *decision) resolverPort() uint16 { return cmp.Or(d.plan.Config.ResolverPort, 53) }

// nodeAddr is a node's number in the place of an IPv4 address.
func nodeAddr(n uint32) netip.Addr { return api.Overlay{Host: n}.HostAddr() }

func (d *decision) openEndpoint(key FlowKey, f, other Flow, p *ip, s *plan.Service) (Flow, Reason) {
	if s.TableSize == 0 {
		return Flow{}, ReasonNoTarget
	}
	slot := d.hash(key, 0) % s.TableSize
	slots := d.state.slotsOf(d.plan, s.Table)
	if int(slot) >= len(slots) {
		return Flow{}, ReasonNoTarget
	}
	target := slots[slot]
	f.Next, other.Hook = NextTunnel, HookTunnel
	if d.eniAt(s.ProviderVPC, target.Addr()) != nil {
		f.Next, other.Hook = NextLocal, HookLocal
	}
	f.DestVPC, f.Dest, f.DestPort = s.ProviderVPC, target.Addr(), target.Port()
	f.Tag, f.Flags = s.Tag, f.Flags|FlowSourceTagged
	other.SourceVPC = s.ProviderVPC
	f.Connection, other.Connection = s.Connection, s.Connection
	f.Idle, other.Idle = s.IdleSeconds, s.IdleSeconds
	f.Reverse = FlowKey{
		VPC: key.VPC, Source: target.Addr(), Dest: p.source, SourcePort: target.Port(), Tag: s.Tag,
		View: ViewConsumer, Protocol: p.protocol,
	}
	if f.Next == NextTunnel && d.tooBig(p) { // before a port is searched
		return Flow{}, ReasonTooBig
	}
	if !d.claim(key, &f.Reverse, key.SourcePort) {
		return Flow{}, ReasonSNATPortsExhausted
	}
	f.SourcePort = f.Reverse.DestPort
	return d.create(key, f, other, p)
}

func (d *decision) hash(k FlowKey, salt uint32) uint32 {
	return plan.Hash(api.AddrHost(k.Source), api.AddrHost(k.Dest), k.SourcePort, k.DestPort, k.Protocol, k.VPC, salt)
}

// claim finds the port of the client that makes the other direction's key free: first, else one of PortTries.
func (d *decision) claim(opening FlowKey, reverse *FlowKey, first uint16) bool {
	for try := range uint32(PortTries + 1) {
		reverse.DestPort = first
		if try > 0 {
			reverse.DestPort = plan.SNATPort(api.AddrHost(opening.Source), api.AddrHost(opening.Dest), opening.SourcePort,
				opening.DestPort, opening.Protocol, opening.VPC, try)
		}
		if there, taken := d.holder(*reverse, opening); !taken || adoptable(there, opening) {
			return true
		}
	}
	return false
}

// adoptable is an answering entry that an earlier life of this flow left behind: the flow takes part in it.
func adoptable(there Flow, opening FlowKey) bool {
	return there.Flags&(FlowDead|FlowClosed) == 0 && there.Reverse == opening
}

func (d *decision) tooBig(p *ip) bool {
	length := p.length
	if p.segment != 0 {
		length = p.segment + ipv4Header + p.header
	}
	return length+overlayGrowth > int(d.plan.Config.TunnelMTU)
}

// create puts both entries into the table, the opening one with the packet counted.
func (d *decision) create(key FlowKey, f, other Flow, p *ip) (Flow, Reason) {
	if f.Next == NextTunnel && d.tooBig(p) {
		return Flow{}, ReasonTooBig
	}
	if there, taken := d.holder(f.Reverse, key); !taken {
		other.Reverse = key
		d.state.Flows[f.Reverse] = other
		d.v.Created = append(d.v.Created, f.Reverse)
	} else if !adoptable(there, key) {
		return Flow{}, ReasonFlowTableFull
	}
	d.state.Flows[key] = f
	d.v.Created = append(d.v.Created, key)
	d.add(key, &f, p)
	return f, ReasonNone
}

// add counts a packet in its entry and follows TCP.
func (d *decision) add(key FlowKey, f *Flow, p *ip) {
	f.Packets += d.packets
	f.Bytes += d.size
	f.TCPFlags |= p.flags
	other, ok := d.state.Flows[f.Reverse]
	if p.flags&tcpRST != 0 || ok && f.TCPFlags&other.TCPFlags&tcpFIN != 0 {
		f.Flags |= FlowClosed
		if ok {
			other.Flags |= FlowClosed
			d.state.Flows[f.Reverse] = other
		}
	}
	d.state.Flows[key] = *f
}

// find is the entry of a packet. One whose time is over is as good as absent, it goes with its pair; but where it holds a
// port it stays until a packet may open the flow anew, and refuses all others.
func (d *decision) find(key FlowKey, p *ip) (f Flow, ok bool, r Reason) {
	f, ok = d.state.Flows[key]
	if !ok || f.Flags&FlowExpired == 0 {
		return f, ok, ReasonNone
	}
	switch {
	case !holdsPort(key, f):
		d.remove(key, f)
	case !reopens(key, f, p):
		return Flow{}, false, ReasonNoFlow
	}
	return Flow{}, false, ReasonNone
}

// holder is the entry that an answering key belongs to. One whose time is over holds none, but another flow's port.
func (d *decision) holder(key, opening FlowKey) (Flow, bool) {
	f, ok := d.state.Flows[key]
	if ok && f.Flags&FlowExpired != 0 && (!holdsPort(key, f) || f.Reverse == opening) {
		d.remove(key, f)
		return Flow{}, false
	}
	return f, ok
}

// holdsPort: a provider's flow that nobody closed may leave an open socket at the target, which is met by what holds the
// port. So the port stays taken, though the flow's time be over or its permission gone, until the agent removes the entry.
func holdsPort(key FlowKey, f Flow) bool {
	return f.Flags&FlowClosed == 0 && (f.Flags&FlowDestTagged != 0 || key.View == ViewProvider)
}

// reopens says whether a packet opens a flow that is over anew. Where a port is held only its own consumer's does.
func reopens(key FlowKey, f Flow, p *ip) bool {
	return p.opens() && (f.Flags&FlowOpening != 0 || !holdsPort(key, f))
}

// remove takes out a flow, both entries.
func (d *decision) remove(key FlowKey, f Flow) {
	delete(d.state.Flows, key)
	if other, ok := d.state.Flows[f.Reverse]; ok && other.Reverse == key {
		delete(d.state.Flows, f.Reverse)
	}
}

// established handles a packet whose entry exists. absent: it does not any more, the packet may open a new flow.
func (d *decision) established(key FlowKey, f *Flow, p *ip) (r Reason, absent bool) {
	if f.Flags&(FlowDead|FlowClosed) != 0 && (p.protocol == plan.ProtocolTCP || holdsPort(key, *f)) && reopens(key, *f, p) {
		if !holdsPort(key, *f) {
			d.remove(key, *f)
		}
		return ReasonNone, true
	}
	if f.Flags&FlowDead != 0 {
		return ReasonFlowRevoked, false
	}
	if f.Generation != d.plan.Generation {
		if !d.judge(key, *f) {
			d.bury(key)
			d.bury(f.Reverse)
			return ReasonFlowRevoked, false
		}
		*f = d.state.Flows[key]
	}
	vpc, a := f.DestVPC, f.Dest
	if d.hook == HookWorkload {
		vpc, a = key.VPC, key.Source
	}
	if eni := d.eniAt(vpc, a); eni == nil || eni.Number != f.ENI {
		return ReasonNotHere, false
	}
	if f.Next == NextTunnel && d.tooBig(p) {
		return ReasonTooBig, false
	}
	d.add(key, f, p)
	return ReasonNone, false
}

func (d *decision) bury(key FlowKey) {
	if f, ok := d.state.Flows[key]; ok {
		f.Flags |= FlowDead
		d.state.Flows[key] = f
	}
}

// judge decides again about a flow that an older generation let through; both entries get the new one when it passes.
func (d *decision) judge(key FlowKey, f Flow) bool {
	other, ok := d.state.Flows[f.Reverse]
	if !ok {
		return false
	}
	opening, of := key, f
	if f.Flags&FlowOpening == 0 {
		opening, of = f.Reverse, other
	}
	if !d.stillAllowed(opening, of) {
		return false
	}
	f.Generation, other.Generation = d.plan.Generation, d.plan.Generation
	d.state.Flows[f.Reverse] = other
	d.state.Flows[key] = f
	return true
}

// stillAllowed asks every check of the half that made the opening entry, but chooses nothing.
func (d *decision) stillAllowed(key FlowKey, f Flow) bool {
	vpc, a := f.DestVPC, f.Dest
	if key.View == ViewWorkload {
		vpc, a = key.VPC, key.Source
	}
	eni := d.eniAt(vpc, a)
	if eni == nil || eni.Number != f.ENI {
		return false
	}
	switch key.View {
	case ViewWorkload:
		return d.stillSent(eni, key, f)
	case ViewLocal:
		_, r := d.judgeLocal(eni, key.tuple())
		return r == ReasonNone
	case ViewProvider:
		g := d.grant(key.VPC, key.Tag)
		if g == nil || g.Connection != f.Connection || g.ProviderVPC != f.DestVPC || g.Protocol != key.Protocol {
			return false
		}
		_, r := d.judgeProvider(g, eni, f.Source, key.tuple())
		return r == ReasonNone
	}
	return false
}

func (d *decision) stillSent(eni *plan.ENI, key FlowKey, f Flow) bool {
	row := d.address(key.VPC, key.Dest)
	want := plan.AddressWorkload
	if f.Next == NextHost {
		want = plan.AddressResolver
	} else if f.Flags&FlowSourceTagged != 0 {
		want = plan.AddressEndpoint
	}
	if row == nil || row.Type != want {
		return false
	}
	if want == plan.AddressResolver {
		return f.DestPort == d.resolverPort()
	}
	_, s, r := d.judgeSend(eni, row, key.tuple())
	return r == ReasonNone && (s == nil || s.Connection == f.Connection)
}

// receive is the receive half.
func (d *decision) receive(p *ip, source, dest api.Overlay) Reason {
	key := FlowKey{
		VPC: source.VPC, Source: p.source, Dest: p.dest, SourcePort: p.sport, DestPort: p.dport,
		View: ViewLocal, Protocol: p.protocol,
	}
	switch {
	case source.Number() != 0:
		key.View, key.Tag = ViewProvider, source.Number()
	case dest.Number() != 0:
		key.View, key.Tag, key.VPC = ViewConsumer, dest.Number(), dest.VPC
	}
	f, ok, r := d.find(key, p)
	if r != ReasonNone {
		return r
	}
	if ok {
		if f.SourceVPC != source.VPC || f.DestVPC != dest.VPC {
			return ReasonBadOverlay
		}
		d.eni = f.ENI
		r, absent := d.established(key, &f, p)
		if !absent {
			if r != ReasonNone {
				return r
			}
			return d.forward(p, f)
		}
		d.eni = 0
	}
	switch key.View {
	case ViewConsumer:
		return ReasonNoFlow
	case ViewLocal:
		f, r = d.admitLocal(key, p)
	case ViewProvider:
		f, r = d.admitProvider(key, p, dest.VPC)
	}
	if r != ReasonNone {
		return r
	}
	return d.forward(p, f)
}

// received are the entries of a flow that a receive half admits, before any rewrite.
func (d *decision) received(key FlowKey, p *ip, eni *plan.ENI) (f, other Flow) {
	f = Flow{
		Generation: d.plan.Generation, SourceVPC: key.VPC, DestVPC: eni.VPC, Source: p.source, Dest: p.dest,
		SourcePort: p.sport, DestPort: p.dport, Next: NextWorkload, Flags: FlowOpening, Hook: d.hook, ENI: eni.Number,
		Idle: idleOf(p.protocol),
	}
	other = f
	other.Flags, other.Hook, other.Next = 0, HookWorkload, NextTunnel
	if d.hook == HookLocal {
		other.Next = NextLocal
	}
	other.SourceVPC, other.DestVPC = f.DestVPC, f.SourceVPC
	other.Source, other.SourcePort, other.Dest, other.DestPort = p.dest, p.dport, p.source, p.sport
	f.Reverse = FlowKey{
		VPC: eni.VPC, Source: p.dest, Dest: p.source, SourcePort: p.dport, DestPort: p.sport, View: ViewWorkload, Protocol: p.protocol,
	}
	if p.protocol == plan.ProtocolICMP {
		f.Reverse.SourcePort, f.Reverse.DestPort = p.sport, 0
		other.SourcePort, other.DestPort = p.sport, 0
	}
	return f, other
}

func (d *decision) admitLocal(key FlowKey, p *ip) (Flow, Reason) {
	if !p.opens() {
		return Flow{}, ReasonNoFlow
	}
	eni := d.eniAt(key.VPC, p.dest)
	if eni == nil {
		return Flow{}, ReasonNotHere
	}
	d.eni = eni.Number
	rule, r := d.judgeLocal(eni, p.tuple())
	if r != ReasonNone {
		return Flow{}, r
	}
	f, other := d.received(key, p, eni)
	f.Rule, other.Rule = rule, rule
	return d.create(key, f, other, p)
}

func (d *decision) admitProvider(key FlowKey, p *ip, destVPC uint32) (Flow, Reason) {
	g := d.grant(key.VPC, key.Tag)
	switch {
	case g == nil:
		return Flow{}, ReasonNoGrant
	case g.ProviderVPC != destVPC:
		return Flow{}, ReasonBadOverlay
	case g.Protocol != p.protocol:
		return Flow{}, ReasonTargetNotGranted
	case !p.opens():
		return Flow{}, ReasonNoFlow
	}
	t := d.grantTarget(key.VPC, key.Tag, p.dest, p.dport)
	if t == nil {
		return Flow{}, ReasonTargetNotGranted
	}
	eni := d.eniAt(g.ProviderVPC, p.dest)
	if eni == nil {
		return Flow{}, ReasonNotHere
	}
	d.eni = eni.Number
	rule, r := d.judgeProvider(g, eni, t.Source, p.tuple())
	if r != ReasonNone {
		return Flow{}, r
	}
	f, other := d.received(key, p, eni)
	f.Rule, other.Rule = rule, rule
	f.Connection, other.Connection = g.Connection, g.Connection
	f.Idle, other.Idle = g.IdleSeconds, g.IdleSeconds
	f.Source = t.Source
	f.Reverse.Dest = t.Source
	port := key.SourcePort
	if old, ok := d.state.Flows[key]; ok { // it is over and held its port for this consumer
		port = old.SourcePort
		d.remove(key, old)
	}
	if !d.claim(key, &f.Reverse, port) {
		return Flow{}, ReasonSNATPortsExhausted
	}
	f.SourcePort = f.Reverse.DestPort
	other.Flags, other.Tag = FlowDestTagged, key.Tag
	return d.create(key, f, other, p)
}
