package bpf_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// heard is a packet as a workload got it.
type heard struct {
	eni, node string
	packet    []byte // IPv4
}

// hears remembers what was delivered, for its receiver to complain about later, or at once; changed: its family did.
func (x *traffic) hears(id string, v verdict.Verdict, changed bool) error {
	for _, e := range x.nodes[id].plan.ENIs {
		if e.Ifindex != v.Ifindex {
			continue
		}
		h := heard{eni: e.ID, node: id, packet: v.Bytes[14:]}
		if len(x.heard) < 50 {
			x.heard = append(x.heard, h)
		} else {
			x.heard[x.rng.IntN(len(x.heard))] = h
		}
		if x.rng.IntN(6) == 0 || changed && x.rng.IntN(2) == 0 {
			return x.complain(h)
		}
	}
	return nil
}

// kinds of packets that must have passed.
var kinds = []string{
	"with options", "first fragment", "later fragment", "later fragment with another id", "ICMP error", "ICMP error translated",
	"later fragment with an IPv6 header", "ICMPv6 error", "ICMP error that changes its family", "message to a node",
	"message of a node", "probe", "probe that changes its family", "answer to a probe", "in a connection with a timed handshake",
	"in a connection with timed round trips", "in a connection with bytes sent again",
}

// pass notes of what kinds a packet is that went on.
func (x *traffic) pass(p verdict.Packet, v verdict.Verdict) {
	in, out := p.Bytes, v.Bytes
	switch p.Hook {
	case verdict.HookWorkload:
		in = in[14:]
	case verdict.HookHost:
		x.passHost(in, v)
		return
	}
	if p.Hook == verdict.HookTunnel && v.Next == verdict.NextHost {
		x.passed["message of a node"]++
		return
	}
	if to := out[14:]; v.Next == verdict.NextHost && to[6] == 6 && !slices.Contains([]uint16{53, plan.ResolverPort}, binary.BigEndian.Uint16(to[42:])) {
		x.passed["answer to a probe"]++
	}
	if v.Next == verdict.NextWorkload {
		out = out[14:]
	}
	if p.Hook == verdict.HookWorkload && taken(p.Bytes) {
		x.passed["with options"]++
		return
	}
	was, id := fragmentOf(in)
	switch _, now := fragmentOf(out); {
	case was == 0:
		x.passError(in, out)
	case was == plantest.MoreFragments:
		x.passed["first fragment"]++
	default:
		x.passed["later fragment"]++
		if in[0]>>4 == 6 {
			x.passed["later fragment with an IPv6 header"]++
		}
		if id != now {
			x.passed["later fragment with another id"]++
		}
	}
}

// passHost notes of a packet of the host's that it went on.
func (x *traffic) passHost(in []byte, v verdict.Verdict) {
	switch {
	case v.Next == verdict.NextTunnel:
		x.passed["message to a node"]++
	case len(v.Created) > 0:
		x.passed["probe"]++
		if changed(in[14:], v.Bytes[14:]) {
			x.passed["probe that changes its family"]++
		}
	}
}

// fragmentOf is what makes a packet a fragment, as IPv4 has it, and of which datagram.
func fragmentOf(b []byte) (bits uint16, id uint32) {
	switch {
	case b[0]>>4 == 4:
		return binary.BigEndian.Uint16(b[6:]) & 0x3fff, uint32(binary.BigEndian.Uint16(b[4:]))
	case b[6] == 44:
		at := binary.BigEndian.Uint16(b[42:])
		return at>>3 | at&1<<13, binary.BigEndian.Uint32(b[44:])
	}
	return 0, 0
}

// passError notes of an ICMP error that it went on, and that its quote was translated.
func (x *traffic) passError(in, out []byte) {
	icmp := func(b []byte) []byte {
		if b[0]>>4 == 6 {
			return b[40:]
		}
		return b[20:]
	}
	if in[0]>>4 == 6 && in[6] == 58 && out[0]>>4 == 4 || in[0]>>4 == 4 && out[0]>>4 == 6 && out[6] == 58 ||
		in[0]>>4 == 6 && in[6] == 1 && out[0]>>4 == 6 && out[6] == 58 || in[0]>>4 == 6 && in[6] == 58 && icmp(in)[0] < 128 && out[6] == 1 {
		x.passed["ICMP error that changes its family"]++
		return
	}
	kind, from, to := "ICMP error", 8+12, 8+24 // addresses and ports that are quoted
	switch {
	case in[0]>>4 == 4 && in[9] == 1, in[0]>>4 == 6 && in[6] == 1:
		if icmp(in)[0] == 0 || icmp(in)[0] == 8 {
			return
		}
	case in[0]>>4 == 6 && in[6] == 58 && icmp(in)[0] < 128:
		kind, from, to = "ICMPv6 error", 8+40, 8+44
	default:
		return
	}
	x.passed[kind]++
	if !bytes.Equal(icmp(in)[from:to], icmp(out)[from:to]) {
		x.passed[kind+" translated"]++
	}
}

// complain lets a workload send an ICMP error about something that it got, or nearly.
func (x *traffic) complain(h heard) error {
	kinds := [][2]uint8{{3, 3}, {3, 4}, {3, 1}, {11, 0}, {11, 1}, {12, 0}, {4, 0}, {5, 1}, {3, 16}, {11, 2}, {12, 3}}
	most := []int{28, 28, 40, 48, 64, 27, 1212, 1213}[x.rng.IntN(8)]
	if h.packet[0]>>4 == 6 {
		kinds = [][2]uint8{{1, 4}, {1, 0}, {2, 0}, {3, 0}, {3, 1}, {4, 1}, {1, 6}, {1, 7}, {2, 1}, {3, 2}, {4, 3}, {0, 0}}
		most = []int{48, 48, 60, 56, 68, 76, 47, 1232, 1233}[x.rng.IntN(9)]
	}
	kind := kinds[x.rng.IntN(len(kinds))]
	about := h.packet
	if x.rng.IntN(8) == 0 { // about another packet, sent or never sent
		about = x.spoil(append(make([]byte, 14), about...))[14:]
		if len(about) < 40 {
			return nil
		}
	}
	return x.workload(h.eni, plantest.Complaint(about, kind[0], kind[1], x.rng.Uint32(), most), nil)
}

// workload lets an ENI send a packet as it is; known: what it is, where its answers are to be followed.
func (x *traffic) workload(id string, packet []byte, known *plantest.IP) error {
	e := x.r.ENIs[id]
	if e == nil || x.nodes[e.Node] == nil {
		return nil
	}
	kind := uint16(0x0800)
	if packet[0]>>4 == 6 {
		kind = 0x86dd
	}
	b := plantest.Frame(plantest.GatewayMAC, plantest.MAC(e.Number), kind, packet)
	if x.rng.IntN(10) == 0 {
		b, known = x.spoil(b), nil
	}
	return x.hop(e.Node, verdict.Packet{Hook: verdict.HookWorkload, Ifindex: 100 + e.Number, Bytes: b}, known)
}

// pieces are the fragments of a packet of either family, mostly all and in order, under one of few ids, so that datagrams meet.
func (x *traffic) pieces(packet []byte) [][]byte {
	id := uint32(x.rng.IntN(100))
	if x.rng.IntN(4) == 0 {
		id = x.rng.Uint32() >> (16 * x.rng.IntN(2))
	}
	all := plantest.Fragments(packet, 8*(1+x.rng.IntN(max(1, len(packet)/16))), id)
	for len(all) > 6 {
		i := 1 + x.rng.IntN(len(all)-1)
		all = append(all[:i], all[i+1:]...)
	}
	switch x.rng.IntN(8) {
	case 0:
		x.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	case 1:
		all = append(all, all[x.rng.IntN(len(all))])
	case 2:
		b := all[x.rng.IntN(len(all))] // one that lies elsewhere, longer or not the last
		at := 6
		if b[0]>>4 == 6 {
			at = 42
		}
		binary.BigEndian.PutUint16(b[at:], binary.BigEndian.Uint16(b[at:])^1<<x.rng.IntN(16))
	}
	return all
}

// adorned is a packet with options or extension headers, right ones mostly.
func (x *traffic) adorned(packet []byte) []byte {
	if packet[0]>>4 == 4 {
		return plantest.WithOptions(packet, x.ipOptions())
	}
	var headers []plantest.Extension
	for len(headers) == 0 || x.rng.IntN(2) == 0 {
		h := []plantest.Extension{
			{Kind: 0, Options: []byte{5, 2, 0, 0}}, {Kind: 60, Options: []byte{1, 2, 0, 0}}, {Kind: 60, Options: []byte{0, 0, 4, 1, 1}},
			{Kind: 43, Options: []byte{4, 0}}, {Kind: 60, Options: []byte{30, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 20}},
			{Kind: 43, Options: []byte{byte(x.rng.IntN(4)), byte(x.rng.IntN(2))}}, {Kind: 60, Options: make([]byte, 4*x.rng.IntN(12))},
			{Kind: []uint8{0, 60, 60, 51, 135}[x.rng.IntN(5)], Options: []byte{byte(x.rng.IntN(256)), byte(x.rng.IntN(12))}},
		}[x.rng.IntN(8)]
		if h.Kind == 0 && len(headers) > 0 && x.rng.IntN(4) > 0 {
			h.Kind = 60
		}
		headers = append(headers, h)
	}
	if x.rng.IntN(10) == 0 {
		return plantest.Fragments(packet, 1<<16, x.rng.Uint32())[0] // a whole packet with a Fragment header
	}
	return plantest.WithExtensions(packet, headers...)
}

// ipOptions are IPv4's, right ones mostly.
func (x *traffic) ipOptions() []byte {
	var b []byte
	for len(b) == 0 || x.rng.IntN(2) == 0 && len(b) < 28 {
		b = append(b, [][]byte{
			{1}, {1, 1, 1}, {0}, {148, 4, 0, 0}, {7, 7, 4, 0, 0, 0, 0}, {68, 8, 5, 0, 0, 0, 0, 0}, {131, 3, 4}, {137, 7, 4, 10, 0, 0, 1},
			{byte(x.rng.IntN(256)), byte(x.rng.IntN(12))},
		}[x.rng.IntN(9)]...)
	}
	for len(b)%4 != 0 {
		b = append(b, byte(x.rng.IntN(2)))
	}
	return b
}

// compareFragments checks what is remembered of datagrams.
func (k *kernel) compareFragments(s *verdict.State) error {
	var key bpf.FragmentKey
	var f bpf.Fragment
	seen := 0
	it := k.coll.Maps[bpf.ABIMapFragments].Iterate()
	for it.Next(&key, &f) {
		at := verdict.FragmentKey{
			VPC: key.Vpc, Source: bpf.Addr(key.Saddr), Dest: bpf.Addr(key.Daddr), ID: key.Id, Tag: key.Tag,
			View: verdict.View(key.View &^ bpf.KeyIPv6), IPv6: key.View&bpf.KeyIPv6 != 0, Protocol: key.Protocol,
		}
		got := verdict.Fragment{
			SinceNS: s.Fragments[at].SinceNS, ID: f.Id, SourcePort: bpf.Port(f.Sport), DestPort: bpf.Port(f.Dport), End: f.End,
		}
		if want, ok := s.Fragments[at]; !ok || got != want || f.Key != key {
			return fmt.Errorf("fragment %+v:\n%+v; the oracle (%t):\n%+v", at, got, ok, want)
		}
		seen++
	}
	if err := it.Err(); err != nil || seen != len(s.Fragments) {
		return fmt.Errorf("%d datagrams in fragments (%v); the oracle has %d", seen, err, len(s.Fragments))
	}
	return k.compareIDs(s)
}

// compareIDs checks until when ids of fragments are paid for.
func (k *kernel) compareIDs(s *verdict.State) error {
	got := map[verdict.PaidKey]uint64{}
	at := func(p bpf.FragmentPair, connection uint32) verdict.PaidKey {
		return verdict.PaidKey{Rate: verdict.RateIDs, Quota: verdict.QuotaKey{
			ID: connection, VPC: p.Vpc, Source: bpf.Addr(p.Saddr), Target: bpf.Addr(p.Daddr),
		}}
	}
	var pair bpf.FragmentPair
	var ids bpf.FragmentIDs
	it := k.coll.Maps[bpf.ABIMapFragmentPairs].Iterate()
	for it.Next(&pair, &ids) {
		got[at(pair, 0)] = ids.OpenNs
	}
	err := it.Err()
	var share bpf.FragmentShare
	var paid uint64
	it = k.coll.Maps[bpf.ABIMapFragmentShares].Iterate()
	for it.Next(&share, &paid) {
		got[at(share.Pair, share.Connection)] = paid
	}
	if err = errors.Join(err, it.Err()); err != nil {
		return err
	}
	for key, until := range got {
		if s.Paid[key] != until {
			return fmt.Errorf("ids of %+v are paid for until %d; the oracle: %d", key.Quota, until, s.Paid[key])
		}
	}
	for key, until := range s.Paid {
		if key.Rate == verdict.RateIDs && got[key] != until {
			return fmt.Errorf("ids of %+v are paid for until %d; the oracle: %d", key.Quota, got[key], until)
		}
	}
	return nil
}

// taken says whether options or extension headers may be taken out of a frame.
func taken(frame []byte) bool {
	if len(frame) < 14+20 {
		return false
	}
	switch b := frame[14:]; b[0] >> 4 {
	case 4:
		return b[0]&15 > 5
	case 6:
		return b[6] == 0 || b[6] == 43 || b[6] == 44 || b[6] == 60
	}
	return false
}

// changed says whether a packet from the tunnel was delivered in another family than the overlay says.
func changed(overlay, delivered []byte) bool {
	o, ok := api.ParseOverlay(netip.AddrFrom16([16]byte(overlay[24:40])))
	return ok && (o.Tag&api.TagFamilyIPv4 != 0) != (delivered[0]>>4 == 4)
}

// countMeasured looks what the flows that are left know of their connections.
func (x *traffic) countMeasured() {
	for _, f := range x.nodes[x.tested].state.Flows {
		for kind, n := range map[string]uint32{
			"a timed handshake": f.Measured.Handshake, "timed round trips": f.Measured.RTT, "bytes sent again": f.Measured.Retransmits,
		} {
			if n > 0 {
				x.passed["in a connection with "+kind]++
			}
		}
	}
}
