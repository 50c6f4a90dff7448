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

	segment int // of an offloaded packet
	hook    Hook
	seenAs  uint32 // ENI of the entry count
	eni     uint32 // ENI of the final count
	packets uint64 // on the wire
	size    uint64 // bytes of all of them
}

// Decide says what becomes of a packet and changes the state accordingly. The packet's bytes are not changed.
func Decide(p *plan.Plan, s *State, packet Packet) Verdict {
	if s.Flows == nil {
		s.Flows = map[FlowKey]Flow{}
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
		number = eni.Number
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
	case typeARP:
		r, answer := arp(b, eni)
		if answer != nil {
			d.answer(eni.Ifindex, answer)
		}
		return r
	case typeIPv4:
		return d.workloadIPv4(eni, b[linkHeader:])
	}
	return ReasonNotIPv4
}

func (d *decision) workloadIPv4(eni *plan.ENI, b []byte) Reason {
	p, r := parseHeader(b)
	if r != ReasonNone {
		return r
	}
	if p.source != eni.Address {
		return ReasonSpoofedAddress
	}
	if r := d.parse(p); r != ReasonNone {
		return r
	}
	original := append([]byte(nil), b...)
	r = d.send(eni, p)
	asked := *p
	asked.b = original
	gateway := func(packet []byte) []byte { return frame(eni.MAC, eni.GatewayMAC, typeIPv4, packet) }
	switch {
	case d.hook != HookWorkload: // the receive half never answers
	case r == ReasonTooBig:
		d.answer(eni.Ifindex, gateway(tooBigOf(&asked, d.plan.Config.TunnelMTU-plan.WorkloadMTUReserve)))
	case (r == ReasonNoFlow || r == ReasonFlowRevoked) && p.protocol == plan.ProtocolTCP && p.flags&tcpRST == 0:
		d.answer(eni.Ifindex, gateway(resetOf(&asked)))
	}
	return r
}

// send is the send half after parsing.
func (d *decision) send(eni *plan.ENI, p *ip) Reason {
	key := FlowKey{
		VPC: eni.VPC, Source: p.source, Dest: p.dest, SourcePort: p.sport, DestPort: p.dport,
		View: ViewWorkload, Protocol: p.protocol,
	}
	f, ok, r := d.find(key, p)
	if r != ReasonNone {
		return r
	}
	if ok {
		r, absent := d.established(key, &f, p)
		if !absent {
			if r != ReasonNone {
				return r
			}
			return d.forward(p, f)
		}
	}
	if !p.opens() {
		return ReasonNoFlow
	}
	f, r = d.open(eni, key, p)
	if r != ReasonNone {
		return r
	}
	return d.forward(p, f)
}

// forward rewrites a packet as its entry says and hands it on.
func (d *decision) forward(p *ip, f Flow) Reason {
	if d.hook == HookWorkload {
		p.clampMSS(d.plan.Config.TunnelMTU - mssBelowTunnel)
	}
	if p.source != f.Source || p.sport != f.SourcePort {
		p.rewrite(12, f.Source, f.SourcePort)
	}
	if p.dest != f.Dest || p.dport != f.DestPort {
		p.rewrite(16, f.Dest, f.DestPort)
	}
	c := d.plan.Config
	source := api.Overlay{Mesh: c.Mesh, VPC: f.SourceVPC, Host: api.AddrHost(f.Source), Tag: api.TagFamilyIPv4}
	dest := api.Overlay{Mesh: c.Mesh, VPC: f.DestVPC, Host: api.AddrHost(f.Dest), Tag: api.TagFamilyIPv4}
	if f.Flags&FlowSourceTagged != 0 {
		source.Tag |= f.Tag
	}
	if f.Flags&FlowDestTagged != 0 {
		dest.Tag |= f.Tag
	}
	switch f.Next {
	case NextTunnel:
		return d.redirect(NextTunnel, c.TunnelIfindex, p.toOverlay(source, dest))
	case NextHost:
		dest.Tag = 0
		return d.redirect(NextHost, c.HostIfindex, frame(c.HostMAC, c.DPMAC, typeIPv6, p.toOverlay(source, dest)))
	case NextWorkload:
		eni := d.eniAt(f.DestVPC, f.Dest)
		return d.redirect(NextWorkload, eni.Ifindex, frame(eni.MAC, eni.GatewayMAC, typeIPv4, p.b))
	case NextLocal:
		d.leave(ReasonForwarded)
		return d.local(p.b, source, dest)
	}
	return ReasonInternal
}

// local is receive_local: what the send half would have put into the tunnel, on the same node.
func (d *decision) local(b []byte, source, dest api.Overlay) Reason {
	d.enter(HookLocal, len(b), 0)
	if r := d.closed(); r != ReasonNone {
		return r
	}
	p, r := parseHeader(b)
	if r == ReasonNone {
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
	if n := b[6]; n != plan.ProtocolTCP && n != plan.ProtocolUDP && n != plan.ProtocolICMP {
		return ReasonProtocol
	}
	source, ok1 := d.overlay(b[8:24])
	dest, ok2 := d.overlay(b[24:40])
	if !ok1 || !ok2 || source.Tag&dest.Tag&api.TagFamilyIPv4 == 0 {
		return ReasonBadOverlay
	}
	switch s, t := source.Number(), dest.Number(); {
	case s != 0 && t != 0, s == 0 && t == 0 && (source.VPC != dest.VPC || source.VPC == 0):
		return ReasonBadOverlay
	}
	p, r := parseHeader(fromOverlay(b, source, dest))
	if r == ReasonNone {
		r = d.parse(p)
	}
	if r != ReasonNone {
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
	if !ok1 || !ok2 || source != here || dest.VPC == 0 || dest.Tag != api.TagFamilyIPv4 {
		return ReasonHostNotAdmitted
	}
	p, r := parseHeader(fromOverlay(b, source, dest))
	if r != ReasonNone || d.parse(p) != ReasonNone {
		return ReasonHostNotAdmitted
	}
	key := FlowKey{
		VPC: dest.VPC, Source: p.source, Dest: p.dest, SourcePort: p.sport, DestPort: p.dport,
		View: ViewHost, Protocol: p.protocol,
	}
	f, ok, _ := d.find(key, p) // holds no port
	if !ok {
		return ReasonHostNotAdmitted
	}
	d.eni = f.ENI
	r, absent := d.established(key, &f, p)
	if absent {
		d.eni = 0
		return ReasonHostNotAdmitted
	}
	if r != ReasonNone {
		return r
	}
	return d.forward(p, f)
}

func (d *decision) overlay(b []byte) (api.Overlay, bool) {
	o, ok := parseOverlay(b)
	return o, ok && o.Mesh == d.plan.Config.Mesh
}
