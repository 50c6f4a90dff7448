package verdict

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

func parseOverlay(b []byte) (api.Overlay, bool) {
	return api.ParseOverlay(netip.AddrFrom16([16]byte(b)))
}

// open classifies the first packet of a flow that a workload opens, and makes its entries.
func (d *decision) open(eni *plan.ENI, key FlowKey, p *ip) (Flow, Reason) {
	row := d.address(eni.VPC, p.dest)
	if row == nil || row.Families&familyOf(p.six) == 0 || p.dest == eni.Address {
		return Flow{}, ReasonNoDestination
	}
	f := Flow{
		Generation: d.plan.Generation, Account: eni.Account, SourceVPC: eni.VPC, DestVPC: eni.VPC, Source: p.source, Dest: p.dest,
		SourcePort: p.sport, DestPort: p.dport, IPv6: p.six, Flags: FlowOpening, Hook: HookWorkload, ENI: eni.Number,
		Idle: idleOf(p.protocol),
	}
	other := f // the other direction's
	other.Flags, other.Next = 0, NextWorkload
	other.Source, other.SourcePort, other.Dest, other.DestPort = p.dest, p.dport, p.source, p.sport
	switch row.Type {
	case plan.AddressResolver:
		return d.openResolver(key, f, other, p)
	case plan.AddressWorkload, plan.AddressEndpoint, plan.AddressLoadBalancer:
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
		VPC: eni.VPC, Source: p.dest, Dest: p.source, SourcePort: p.dport, DestPort: p.sport, View: ViewLocal,
		IPv6: p.six, Protocol: p.protocol,
	}
	if p.protocol == p.icmp() { // the id stands in the same place in both directions
		f.Reverse.SourcePort, f.Reverse.DestPort = p.sport, 0
		other.SourcePort, other.DestPort = p.sport, 0
	}
	return d.create(key, f, other, p, keepingPort)
}

func idleOf(protocol uint8) uint32 {
	if protocol == plan.ProtocolTCP {
		return api.DefaultTCPIdleTimeout
	}
	return api.UDPIdleTimeout
}

func (d *decision) openResolver(key FlowKey, f, other Flow, p *ip) (Flow, Reason) {
	if p.protocol == p.icmp() || p.dport != 53 || p.fragment != 0 {
		return Flow{}, ReasonHostNotAdmitted
	}
	node := nodeAddr(d.plan.Config.Node)
	port := d.resolverPort()
	f.Next, f.DestVPC, f.Dest, f.DestPort = NextHost, 0, node, port
	other.SourceVPC, other.Hook = 0, HookHost
	f.Reverse = FlowKey{
		VPC: key.VPC, Source: node, Dest: p.source, SourcePort: port, View: ViewHost, IPv6: p.six, Protocol: p.protocol,
	}
	f.Reverse.DestPort = key.SourcePort
	if p.protocol == plan.ProtocolUDP {
		f.Idle, other.Idle = ResolverIdle, ResolverIdle
	}
	return d.create(key, f, other, p, searchingPort)
}

// resolverPort is where this node's resolver listens.
func (d *decision) resolverPort() uint16 { return cmp.Or(d.plan.Config.ResolverPort, 53) }

// nodeAddr is a node's number in the place of an IPv4 address.
func nodeAddr(n uint32) netip.Addr { return api.Overlay{Host: n}.HostAddr() }

func (d *decision) openEndpoint(key FlowKey, f, other Flow, p *ip, s *plan.Service) (Flow, Reason) {
	target, ok := d.pick(key, s)
	if !ok {
		return Flow{}, ReasonNoTarget
	}
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
		View: ViewConsumer, IPv6: p.six, Protocol: p.protocol,
	}
	f.Reverse.DestPort = key.SourcePort
	return d.create(key, f, other, p, searchingPort)
}

func (d *decision) hash(k FlowKey, salt uint32) uint32 {
	return plan.Hash(api.AddrHost(k.Source), api.AddrHost(k.Dest), k.SourcePort, k.DestPort, k.Protocol, k.VPC, salt)
}

// claim finds the port of the client that makes the other direction's key free: the one that is there, else one of those
// tried. The client's own is not tried where it is one of those kept for connections that have few, unless the flow had it.
func (d *decision) claim(opening FlowKey, f *Flow, other Flow, spare, held bool) bool {
	tries, first := plan.PortTries, f.Reverse.DestPort
	kept := takesPort(f.Reverse, other)
	if kept && spare {
		tries += plan.SpareTries
	}
	for try := range uint32(tries + 1) {
		switch {
		case opening.View == ViewHost && try == 0:
			continue
		case opening.View == ViewHost:
			f.Reverse.DestPort = probePort(opening, try)
		case try > 0:
			f.Reverse.DestPort = plan.SNATPort(api.AddrHost(opening.Source), api.AddrHost(opening.Dest), opening.SourcePort,
				opening.DestPort, opening.Protocol, opening.VPC, opening.Tag, try)
		case kept && !spare && !held && first >= plan.PortSpare && first < plan.PortOpen:
			continue
		}
		if there, taken := d.holder(f.Reverse, opening); !taken || adoptable(there, opening, f) {
			f.SourcePort = f.Reverse.DestPort
			return true
		}
	}
	return false
}

// adoptable is an answering entry that an earlier life of this flow left behind: the flow takes part in it, if both or
// neither have a PROXY protocol header.
func adoptable(there Flow, opening FlowKey, f *Flow) bool {
	return there.Flags&(FlowDead|FlowClosed) == 0 && there.Reverse == opening && there.Proxy == f.Proxy
}

// tooBig: toward the tunnel the program is the only one that looks at the size. IPv4 grows there, IPv6 does not.
func (d *decision) tooBig(f Flow, p *ip) bool {
	length := p.length
	if p.segment != 0 {
		length = p.segment + p.head + p.header
	}
	if p.fragment != 0 {
		length += fragmentHeader
	}
	if !p.six {
		length += overlayGrowth
	}
	d.limit = d.mtu(f)
	return f.Next == NextTunnel && length > int(d.limit)
}

// Whether create searches a source port that makes the other direction's key free.
const (
	searchingPort = true
	keepingPort   = false
)

// create puts both entries into the table, the opening one with the packet counted, if there is room for them.
func (d *decision) create(key FlowKey, f, other Flow, p *ip, search bool) (Flow, Reason) {
	f.MTU = d.flowPath(key, f)
	other.MTU = f.MTU
	if d.tooBig(f, p) {
		return Flow{}, ReasonTooBig
	}
	if !d.logTakes(key, f) {
		return Flow{}, ReasonLogUnavailable
	}
	if p.protocol == plan.ProtocolTCP {
		f.TCPState, other.TCPState = TCPSynSent, TCPSynSent
	}
	d.timeSYN(&f, &other, p)
	spare, r := d.admit(key, &f, &other)
	if r != ReasonNone {
		return Flow{}, r
	}
	held := false
	if old, ok := d.state.Flows[key]; ok && key.View == ViewProvider { // it is over and held its port for this consumer
		if held = true; f.Reverse.View != ViewClient {
			f.Reverse.DestPort = old.SourcePort
		}
		d.remove(key, old)
	}
	if search && !d.claim(key, &f, other, spare, held) {
		d.refundRates(key, f)
		return Flow{}, ReasonSNATPortsExhausted
	}
	if there, taken := d.holder(f.Reverse, key); !taken {
		other.Reverse = key
		d.put(f.Reverse, other)
	} else if !adoptable(there, key, &f) {
		d.refundRates(key, f)
		return Flow{}, ReasonFlowTableFull
	}
	f.Packets, f.Bytes, f.TCPFlags = d.packets, d.size, p.flags
	d.put(key, f)
	return f, ReasonNone
}

// logTakes says whether the flow's ENI may have a new flow: one whose log must have every flow, only while there is a log. Probes
// are in none.
func (d *decision) logTakes(key FlowKey, f Flow) bool {
	strict := slices.ContainsFunc(d.plan.ENIs, func(e plan.ENI) bool { return e.Number == f.ENI && e.StrictLog })
	return !strict || key.View == ViewHost || d.state.NowNS <= d.state.LogNS
}

// add counts a packet in its entry and follows TCP.
func (d *decision) add(key FlowKey, f *Flow, p *ip) {
	f.Packets += d.packets
	f.Bytes += d.size
	if p.protocol == plan.ProtocolTCP {
		d.measure(key, f, p)
		d.follow(f, p)
	}
	d.state.Flows[key] = *f
}

// follow is TCP's state. A RST, or a FIN of each direction, closes both entries.
func (d *decision) follow(f *Flow, p *ip) {
	seen := f.TCPFlags | p.flags
	if seen == f.TCPFlags && (f.Flags&FlowClosed != 0 || seen&(tcpFIN|tcpRST) == 0) {
		return // nothing new
	}
	f.TCPFlags = seen
	other, ok := d.state.Flows[f.Reverse]
	opener, answerer := f.TCPFlags, other.TCPFlags
	if f.Flags&FlowOpening == 0 {
		opener, answerer = answerer, opener
	}
	state := stateOf(opener, answerer)
	f.TCPState = max(f.TCPState, state)
	if state >= TCPTimeWait {
		f.Flags |= FlowClosed
	}
	if !ok {
		return
	}
	other.TCPState = max(other.TCPState, state)
	if state >= TCPTimeWait {
		other.Flags |= FlowClosed
	}
	d.state.Flows[f.Reverse] = other
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
	d.drop(key, f)
	if other, ok := d.state.Flows[f.Reverse]; ok && other.Reverse == key {
		d.drop(f.Reverse, other)
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
		if d.picksAnew(f, p) {
			d.remove(key, *f)
			return ReasonNone, true
		}
		if !d.judge(key, *f) {
			d.bury(key)
			d.bury(f.Reverse)
			return ReasonFlowRevoked, false
		}
		*f = d.state.Flows[key]
	}
	vpc, a := f.DestVPC, f.Dest
	if d.hook == HookWorkload {
		vpc, a = f.SourceVPC, key.Source
	}
	if eni := d.eniAt(vpc, a); eni == nil || eni.Number != f.ENI {
		return ReasonNotHere, false
	}
	if f.Next == NextHost && (p.fragment != 0 || p.about != 0) {
		return ReasonHostNotAdmitted, false
	}
	if f.Proxy != 0 && p.fragment != 0 { // its segments are numbered anew, whole ones
		return ReasonFragment, false
	}
	if d.tooBig(*f, p) {
		return ReasonTooBig, false
	}
	if f.Next == NextWorkload && p.cannotBecome(f.IPv6) {
		return ReasonNoChecksum, false
	}
	if p.about != 0 && p.six != f.IPv6 {
		if _, _, _, ok := errorIn(f.IPv6, p.icmpType, p.icmpCode, 0); !ok {
			return ReasonProtocol, false
		}
	}
	if p.about != 0 && d.state.Flows[f.Reverse].Packets == 0 { // about what was never sent to this end
		return ReasonNoFlow, false
	}
	if f.Flags&FlowPoliced != 0 && !d.policed(key, *f) {
		return ReasonCapBits, false
	}
	f.hold(key, p)
	d.add(key, f, p)
	return ReasonNone, false
}

// picksAnew: a SYN sent again, to a target that has not answered, is a new flow under a newer configuration. The target's node
// may have refused it, having heard earlier that it is deregistered.
func (d *decision) picksAnew(f *Flow, p *ip) bool {
	return p.protocol == plan.ProtocolTCP && f.Flags&FlowSourceTagged != 0 && p.opens() && d.state.Flows[f.Reverse].Packets == 0
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
	f.MTU = d.flowPath(opening, of)
	other.MTU = f.MTU
	d.judgePolice(key, &f, &other)
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
		return eni.Families&familyOf(key.IPv6) != 0 && d.stillSent(eni, key, f)
	case ViewLocal:
		if eni.Families&familyOf(key.IPv6) == 0 {
			return false
		}
		_, r := d.judgeLocal(eni, key.tuple())
		return r == ReasonNone
	case ViewHost:
		return d.stillProbed(eni, key, f)
	case ViewProvider:
		g := d.grant(key.VPC, key.Tag)
		if g == nil || g.Connection != f.Connection || g.ProviderVPC != f.DestVPC || g.Protocol != key.Protocol ||
			eni.Families&familyOf(f.IPv6) == 0 {
			return false
		}
		if d.grantTarget(key.VPC, key.Tag, key.Dest, key.DestPort) == nil {
			return false
		}
		front := f.Source
		if f.Reverse.View == ViewClient {
			front = f.Front
		}
		_, r := d.judgeProvider(g, eni, front, f.IPv6, key.tuple())
		return r == ReasonNone
	}
	return false
}

func (d *decision) stillSent(eni *plan.ENI, key FlowKey, f Flow) bool {
	row := d.address(key.VPC, key.Dest)
	if row == nil || row.Families&familyOf(key.IPv6) == 0 {
		return false
	}
	switch row.Type {
	case plan.AddressResolver:
		return f.Next == NextHost && f.DestPort == d.resolverPort()
	case plan.AddressWorkload:
		if f.Next == NextHost || f.Flags&FlowSourceTagged != 0 {
			return false
		}
	default:
		if f.Flags&FlowSourceTagged == 0 {
			return false
		}
	}
	_, s, r := d.judgeSend(eni, row, key.tuple())
	return r == ReasonNone && (s == nil || s.Connection == f.Connection && d.lists(s, f.Dest, f.DestPort))
}

// receive is the receive half.
func (d *decision) receive(p *ip, source, dest api.Overlay) Reason {
	key := FlowKey{
		VPC: source.VPC, Source: p.source, Dest: p.dest, SourcePort: p.sport, DestPort: p.dport,
		View: ViewLocal, IPv6: p.six, Protocol: p.flowProtocol(),
	}
	switch {
	case source.Number() != 0:
		key.View, key.Tag = ViewProvider, source.Number()
	case dest.Number() != 0:
		key.View, key.Tag, key.VPC = ViewConsumer, dest.Number(), dest.VPC
	}
	if r := d.recall(&key, p); r != ReasonNone {
		return r
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
			return d.goOn(key, f, p, r)
		}
		d.eni = 0
	}
	switch {
	case key.View == ViewConsumer || p.follows():
		return ReasonNoFlow
	case key.View == ViewLocal:
		f, r = d.admitLocal(key, p)
	default:
		f, r = d.admitProvider(key, p, dest.VPC)
	}
	return d.goOn(key, f, p, r)
}

// received are the entries of a flow that a receive half admits, before any rewrite; six says what the target gets.
func (d *decision) received(key FlowKey, p *ip, eni *plan.ENI, six bool) (f, other Flow) {
	f = Flow{
		Generation: d.plan.Generation, Account: eni.Account, SourceVPC: key.VPC, DestVPC: eni.VPC, Source: p.source, Dest: p.dest,
		SourcePort: p.sport, DestPort: p.dport, Next: NextWorkload, IPv6: six, Flags: FlowOpening, Hook: d.hook,
		ENI: eni.Number, Idle: idleOf(p.protocol),
	}
	other = f
	other.Flags, other.Hook, other.Next = 0, HookWorkload, NextTunnel
	if d.hook == HookLocal {
		other.Next = NextLocal
	}
	other.SourceVPC, other.DestVPC, other.IPv6 = f.DestVPC, f.SourceVPC, p.six
	other.Source, other.SourcePort, other.Dest, other.DestPort = p.dest, p.dport, p.source, p.sport
	f.Reverse = FlowKey{
		VPC: eni.VPC, Source: p.dest, Dest: p.source, SourcePort: p.dport, DestPort: p.sport, View: ViewWorkload,
		IPv6: six, Protocol: p.protocol,
	}
	if p.protocol == p.icmp() {
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
	if eni == nil || eni.Families&familyOf(p.six) == 0 {
		return Flow{}, ReasonNotHere
	}
	d.eni = eni.Number
	rule, r := d.judgeLocal(eni, p.tuple())
	if r != ReasonNone {
		return Flow{}, r
	}
	f, other := d.received(key, p, eni, p.six)
	f.Rule, other.Rule = rule, rule
	return d.create(key, f, other, p, keepingPort)
}

// show makes the target see the client's own overlay address, number and family bit included, instead of the load balancer's.
func (f *Flow) show(key FlowKey, front netip.Addr) {
	f.Front, f.Tag = front, key.Tag
	if !key.IPv6 {
		f.Tag |= api.TagFamilyIPv4
	}
	f.Reverse.View, f.Reverse.VPC, f.Reverse.Tag = ViewClient, key.VPC, f.Tag
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
	if t == nil || t.Draining {
		return Flow{}, ReasonTargetNotGranted
	}
	eni := d.eniAt(g.ProviderVPC, p.dest)
	if eni == nil || eni.Families == 0 {
		return Flow{}, ReasonNotHere
	}
	shown := g.ClientAddress && eni.Families&plan.FamilyIPv6 != 0
	six := p.six || shown // the client's family where the target has it, else the other
	if eni.Families&familyOf(six) == 0 {
		six = !six
	}
	d.eni = eni.Number
	rule, r := d.judgeProvider(g, eni, t.Source, six, p.tuple())
	if r != ReasonNone {
		return Flow{}, r
	}
	if g.ProxyHeader && p.protocol == plan.ProtocolTCP && p.fragment != 0 {
		return Flow{}, ReasonFragment
	}
	if p.cannotBecome(six) {
		return Flow{}, ReasonNoChecksum
	}
	f, other := d.received(key, p, eni, six)
	f.Rule, other.Rule = rule, rule
	f.Connection, other.Connection = g.Connection, g.Connection
	f.Idle, other.Idle = g.IdleSeconds, g.IdleSeconds
	f.Account, other.Account, d.guaranteedPorts = g.Account, g.Account, t.Ports
	d.proxied(g, &f, &other, p)
	other.Flags, other.Tag = FlowDestTagged, key.Tag
	if shown {
		f.show(key, t.Source)
		return d.create(key, f, other, p, keepingPort) // nobody else has that address
	}
	f.Source, f.Reverse.Dest = t.Source, t.Source
	return d.create(key, f, other, p, searchingPort)
}
