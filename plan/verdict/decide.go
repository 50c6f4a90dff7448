package verdict

import (
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// decision is one packet on its way.
type decision struct {
	plan  *plan.Plan
	state *State
	v     Verdict

	segment int    // of an offloaded packet
	limit   uint16 // bytes of an overlay packet of this flow
	hook    Hook
	seenAs  uint32 // ENI of the entry count
	eni     uint32 // ENI of the final count
	lane    uint8  // of a workload that sends
	packets uint64 // on the wire
	// guaranteedPorts are what the connection of a new flow is guaranteed toward its target.
	guaranteedPorts uint32
	size            uint64 // bytes of all of them
}

// Decide says what becomes of a packet and changes the state accordingly. The packet's bytes are not changed.
func Decide(p *plan.Plan, s *State, packet Packet) Verdict {
	if s.Flows == nil {
		s.Flows = map[FlowKey]Flow{}
	}
	if s.Used == nil {
		s.Used, s.Paid = map[QuotaKey]int64{}, map[PaidKey]uint64{}
	}
	d := &decision{plan: p, state: s, segment: packet.Segment, packets: 1, v: Verdict{Action: Drop, Counters: map[CounterKey]Count{}}}
	packet.Bytes = append([]byte(nil), packet.Bytes...)
	var r Reason
	switch packet.Hook {
	case HookWorkload:
		r = d.workload(packet)
	case HookTunnel:
		r = d.tunnel(packet)
	case HookHost:
		r = d.host(packet)
	}
	d.leave(r)
	return d.v
}

// enter begins a hook. eni is 0 where it is not known yet.
func (d *decision) enter(h Hook, size int, eni uint32) {
	d.hook, d.size, d.eni, d.seenAs = h, uint64(max(size, 0)), eni, eni
}

func (d *decision) count(eni uint32, r Reason) {
	key := CounterKey{ENI: eni, Reason: r, Hook: d.hook}
	c := d.v.Counters[key]
	d.v.Counters[key] = Count{c.Packets + d.packets, c.Bytes + d.size}
}

// parse takes the part behind the addresses apart; an offloaded packet counts from here on as what it is on the wire.
func (d *decision) parse(p *ip) Reason {
	p.segment = d.segment
	if r := p.parseRest(); r != ReasonNone {
		return r
	}
	var growth uint64
	d.packets, growth = p.onWire()
	d.size += growth
	return ReasonNone
}

// leave ends a hook with its one reason; the packet is counted as seen and as what became of it.
func (d *decision) leave(r Reason) {
	d.count(d.seenAs, ReasonNone)
	d.count(d.eni, r)
	d.v.Reason = r
	d.v.Stages = append(d.v.Stages, Stage{Hook: d.hook, Reason: r, ENI: d.eni})
}

func (d *decision) closed() Reason {
	if d.plan.Generation == 0 {
		return ReasonNoState
	}
	if c := d.plan.Config; c.ExpiresNS != 0 && d.state.NowNS > c.ExpiresNS {
		return ReasonViewExpired
	}
	return ReasonNone
}

// answer sends bytes back where the packet came from.
func (d *decision) answer(ifindex uint32, bytes []byte) {
	d.v.Action, d.v.Next, d.v.Ifindex, d.v.Bytes = Redirect, NextNone, ifindex, bytes
}

func (d *decision) redirect(next Next, ifindex uint32, bytes []byte) Reason {
	d.v.Action, d.v.Next, d.v.Ifindex, d.v.Bytes = Redirect, next, ifindex, bytes
	return ReasonForwarded
}

// workload is from_workload.
func (d *decision) workload(packet Packet) Reason {
	var eni *plan.ENI
	for i := range d.plan.ENIs {
		if d.plan.ENIs[i].Ifindex == packet.Ifindex {
			eni = &d.plan.ENIs[i]
		}
	}
	number := uint32(0)
	if eni != nil {
		number, d.lane = eni.Number, eni.Lane
	}
	d.enter(HookWorkload, len(packet.Bytes)-linkHeader, number)
	if r := d.closed(); r != ReasonNone {
		return r
	}
	if eni == nil {
		return ReasonUnknownLink
	}
	b := packet.Bytes
	if len(b) < linkHeader {
		return ReasonMalformed
	}
	if [6]byte(b[6:12]) != eni.MAC {
		return ReasonSpoofedMAC
	}
	switch be16(b[12:]) {
	case typeIPv6:
		if eni.Families&plan.FamilyIPv6 == 0 {
			return ReasonNotIP
		}
		return d.workloadIPv6(eni, b)
	case typeARP:
		if eni.Families&plan.FamilyIPv4 == 0 {
			return ReasonNotIP
		}
		r, answer := arp(b, eni)
		if answer != nil {
			d.answer(eni.Ifindex, answer)
		}
		return r
	case typeIPv4:
		if eni.Families&plan.FamilyIPv4 == 0 {
			return ReasonNotIP
		}
		return d.workloadIPv4(eni, b[linkHeader:])
	}
	return ReasonNotIP
}

func (d *decision) workloadIPv4(eni *plan.ENI, b []byte) Reason {
	p, r := parseHeader(b)
	if r != ReasonNone {
		return r
	}
	if p.source != eni.Address {
		return ReasonSpoofedAddress
	}
	if r := d.strip(p); r != ReasonNone {
		return r
	}
	if r := d.parse(p); r != ReasonNone {
		return r
	}
	return d.sendOrAnswer(eni, p)
}

// sendOrAnswer is the send half after parsing, with the answer to the workload when that refuses.
func (d *decision) sendOrAnswer(eni *plan.ENI, p *ip) Reason {
	asked := *p
	asked.b = append([]byte(nil), p.b...)
	r := d.send(eni, p)
	gateway := func(packet []byte) []byte { return frame(eni.MAC, eni.GatewayMAC, asked.etherType(), packet) }
	switch {
	case d.hook != HookWorkload || p.later: // the receive half never answers, and nobody a fragment but the first
	case r == ReasonTooBig:
		d.answer(eni.Ifindex, gateway(tooBigOf(&asked, d.limit)))
	case (r == ReasonNoFlow || r == ReasonFlowRevoked) && asked.protocol == plan.ProtocolTCP && asked.flags&tcpRST == 0:
		if d.resetAllowed(eni.Number) {
			d.answer(eni.Ifindex, gateway(resetOf(&asked)))
		}
	}
	return r
}

// send is the send half after parsing.
func (d *decision) send(eni *plan.ENI, p *ip) Reason {
	key := FlowKey{
		VPC: eni.VPC, Source: p.source, Dest: p.dest, SourcePort: p.sport, DestPort: p.dport,
		View: ViewWorkload, IPv6: p.six, Protocol: p.flowProtocol(),
	}
	if c := p.client; c.VPC != 0 {
		key.View, key.VPC, key.Tag = ViewClient, c.VPC, c.Tag
	}
	if r := d.recall(&key, p); r != ReasonNone {
		return r
	}
	if key.View == ViewClient {
		if f, ok := d.state.Flows[key]; !ok || f.SourceVPC != eni.VPC { // none, or of another VPC's target of this address
			return ReasonNoFlow
		}
	}
	f, ok, r := d.find(key, p)
	if r != ReasonNone {
		return r
	}
	if ok {
		r, absent := d.established(key, &f, p)
		if !absent {
			return d.goOn(key, f, p, r)
		}
	}
	if !p.opens() || key.View == ViewClient {
		return ReasonNoFlow
	}
	f, r = d.open(eni, key, p)
	return d.goOn(key, f, p, r)
}

// goOn forwards what may, and remembers it where more of its datagram is to follow.
func (d *decision) goOn(key FlowKey, f Flow, p *ip, r Reason) Reason {
	if r == ReasonNone {
		r = d.remember(key, f, p)
	}
	if r != ReasonNone {
		return r
	}
	return d.forward(key, p, f)
}

// forward rewrites a packet as its entry says and hands it on.
func (d *decision) forward(key FlowKey, p *ip, f Flow) Reason {
	c := d.plan.Config
	if d.hook == HookWorkload {
		p.clampMSS(d.mtu(f))
		if f.Proxy != 0 && p.about == 0 {
			d.proxyAnswer(key, f, p)
		}
	}
	source := api.Overlay{Mesh: c.Mesh, VPC: f.SourceVPC, Host: api.AddrHost(f.Source)}
	dest := api.Overlay{Mesh: c.Mesh, VPC: f.DestVPC, Host: api.AddrHost(f.Dest)}
	if !f.IPv6 {
		source.Tag, dest.Tag = api.TagFamilyIPv4, api.TagFamilyIPv4
	}
	if f.Flags&FlowSourceTagged != 0 {
		source.Tag |= f.Tag
	}
	if f.Flags&FlowDestTagged != 0 {
		dest.Tag |= f.Tag
	}
	if f.Next == NextHost {
		dest.Tag = 0
	}
	d.rewrite(p, f, source, dest)
	p.takeID()
	switch f.Next {
	case NextTunnel:
		d.v.Lane = d.lane
		return d.redirect(NextTunnel, c.TunnelIfindex, p.toOverlay(source, dest))
	case NextHost:
		reason := d.redirect(NextHost, c.HostIfindex, frame(c.HostMAC, c.DPMAC, typeIPv6, p.toOverlay(source, dest)))
		if f.Flags&FlowOpening == 0 {
			reason = ReasonNodesOwn // the answer to a probe
		}
		return reason
	case NextWorkload:
		if d.hook == HookTunnel {
			p.clampMSS(d.mtu(f)) // what the workload sends takes the path back
		}
		if f.Proxy != 0 && p.about == 0 {
			if r := d.proxyRequest(key, f, p); r != ReasonNone {
				return r
			}
		}
		eni := d.eniAt(f.DestVPC, f.Dest)
		return d.redirect(NextWorkload, eni.Ifindex, frame(eni.MAC, eni.GatewayMAC, p.etherType(), p.onLink()))
	case NextLocal:
		d.leave(ReasonForwarded)
		return d.local(p, source, dest)
	}
	return ReasonInternal
}

// rewrite makes a packet what its entry says, in the family that the entry says. source and dest are its overlay addresses.
func (d *decision) rewrite(p *ip, f Flow, source, dest api.Overlay) {
	if p.about != 0 && p.six != f.IPv6 {
		p.changeError(f.IPv6)
	}
	if p.about != 0 && !f.IPv6 {
		p.rewriteQuote(f, f.Source, f.Dest)
	}
	if !p.six && !f.IPv6 {
		if p.source != f.Source || p.sport != f.SourcePort {
			p.rewrite(12, f.Source, f.SourcePort)
		}
		if p.dest != f.Dest || p.dport != f.DestPort {
			p.rewrite(16, f.Dest, f.DestPort)
		}
		return
	}
	from, to := f.Source, f.Dest
	if f.IPv6 {
		from, to = source.Addr(), dest.Addr()
		if f.Next == NextWorkload { // both are addresses of its VPC, or the source is the client's own
			from, to = d.in(true, f.DestVPC, f.Source), d.in(true, f.DestVPC, f.Dest)
			if f.Reverse.View == ViewClient {
				source.Tag = f.Tag
				from = source.Addr()
			}
		}
	}
	if p.about != 0 && f.IPv6 {
		p.rewriteQuote(f, from, to)
	}
	p.readdress(f, from, to)
}

// local is receive_local: what the send half would have put into the tunnel, on the same node.
func (d *decision) local(sent *ip, source, dest api.Overlay) Reason {
	d.enter(HookLocal, len(sent.onLink()), 0)
	if r := d.closed(); r != ReasonNone {
		return r
	}
	p, r := parseEither(sent.b, source, dest)
	if r == ReasonNone {
		p.setFragment(sent.fragment, sent.id)
		r = d.parse(p)
	}
	if r != ReasonNone {
		return r
	}
	return d.receive(p, source, dest)
}

// tunnel is from_tunnel.
func (d *decision) tunnel(packet Packet) Reason {
	d.enter(HookTunnel, len(packet.Bytes)-overlayGrowth, 0)
	if r := d.closed(); r != ReasonNone {
		return r
	}
	b := packet.Bytes
	if len(b) < ipv6Header || b[0]>>4 != 6 || int(be16(b[4:])) > min(len(b)-ipv6Header, maxIPv4-ipv4Header) {
		return ReasonMalformed
	}
	fragment, id, ok := uint16(0), uint32(0), true
	if b[6] == nextFragment {
		if b, fragment, id, ok = unwrapped(b); !ok || fragment == 0 {
			return ReasonMalformed
		}
	}
	if n := b[6]; n == protocolProbe {
		return ReasonAnswered
	} else if n != plan.ProtocolTCP && n != plan.ProtocolUDP && !isICMP(n) {
		return ReasonProtocol
	}
	source, ok1 := d.overlay(b[8:24])
	dest, ok2 := d.overlay(b[24:40])
	if ok1 && ok2 && source.VPC == 0 && dest.VPC == 0 {
		return d.message(packet.Bytes, b, fragment != 0, source, dest)
	}
	if !ok1 || !ok2 || (source.Tag^dest.Tag)&api.TagFamilyIPv4 != 0 {
		return ReasonBadOverlay
	}
	switch s, t := source.Number(), dest.Number(); {
	case s != 0 && t != 0, s == 0 && t == 0 && (source.VPC != dest.VPC || source.VPC == 0):
		return ReasonBadOverlay
	}
	p, r := d.fromTunnel(b, source, dest)
	switch {
	case r != ReasonNone:
		return r
	case isICMP(p.protocol) && p.protocol != p.icmp():
		return ReasonProtocol
	case fragment != 0 && !p.six && id >= fragmentIDSpace:
		return ReasonMalformed
	}
	p.segment = d.segment
	p.setFragment(fragment, id)
	if fragment != 0 && !p.six && p.parseFragment() == ReasonNone {
		d.size -= fragmentHeader
	}
	if r := d.parse(p); r != ReasonNone {
		return r
	}
	return d.receive(p, source, dest)
}

// host is from_host.
func (d *decision) host(packet Packet) Reason {
	d.enter(HookHost, len(packet.Bytes)-linkHeader-overlayGrowth, 0)
	if r := d.closed(); r != ReasonNone {
		return r
	}
	b := packet.Bytes
	if len(b) < linkHeader+ipv6Header || be16(b[12:]) != typeIPv6 {
		return ReasonHostNotAdmitted
	}
	b = b[linkHeader:]
	if b[0]>>4 != 6 || int(be16(b[4:])) > min(len(b)-ipv6Header, maxIPv4-ipv4Header) ||
		b[6] != plan.ProtocolTCP && b[6] != plan.ProtocolUDP {
		return ReasonHostNotAdmitted
	}
	source, ok1 := d.overlay(b[8:24])
	dest, ok2 := d.overlay(b[24:40])
	here := api.Overlay{Mesh: d.plan.Config.Mesh, Host: d.plan.Config.Node}
	if !ok1 || !ok2 || source != here || dest.Number() != 0 || dest.VPC == 0 && !betweenNodes(source, dest) {
		return ReasonHostNotAdmitted
	}
	p, r := d.fromTunnel(b, source, dest)
	if r != ReasonNone || d.parse(p) != ReasonNone {
		return ReasonHostNotAdmitted
	}
	if dest.VPC == 0 {
		return d.sendMessage(p)
	}
	key := FlowKey{
		VPC: dest.VPC, Source: p.source, Dest: p.dest, SourcePort: p.sport, DestPort: p.dport,
		View: ViewHost, IPv6: p.six, Protocol: p.protocol,
	}
	f, ok, _ := d.find(key, p) // holds no port
	if ok {
		d.eni = f.ENI
		r, absent := d.established(key, &f, p)
		if !absent {
			if r != ReasonNone {
				return r
			}
			return d.forward(key, p, f)
		}
		d.eni = 0
	}
	if packet.Mark != ProbeMark {
		return ReasonHostNotAdmitted
	}
	if f, r = d.openProbe(key, p); r != ReasonNone {
		return r
	}
	return d.forward(key, p, f)
}

func (d *decision) overlay(b []byte) (api.Overlay, bool) {
	o, ok := parseOverlay(b)
	return o, ok && o.Mesh == d.plan.Config.Mesh
}
