package dev

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// foothold is what a compromised host knows and has: a workload of a consumer's, and the connection that this may use.
type foothold struct {
	mesh, from, to uint32 // VPC numbers
	own, target    netip.Addr
	number         uint16 // of the connection, TCP port 443
	node           uint32 // number of the target's node
}

const (
	headerTCP      = 6
	headerUDP      = 17
	headerICMP     = 1
	headerGRE      = 47
	headerFragment = 44
	flagSYN        = 0x02
	flagACK        = 0x10
)

// forge makes one attempt per right that the host does not have, and per way to write what no honest node writes. Sources are
// addresses that the host has, so that WireGuard lets them through, unless it says otherwise.
func forge(f foothold) []Attempt {
	src := api.Overlay{Mesh: f.mesh, VPC: f.from, Host: api.AddrHost(f.own), Tag: api.TagFamilyIPv4}
	dst := api.Overlay{Mesh: f.mesh, VPC: f.to, Host: api.AddrHost(f.target), Tag: api.TagFamilyIPv4}
	by := numbered(src, f.number)
	none := numbered(src, f.number^0x4000)
	node := api.Overlay{Mesh: f.mesh, Host: f.node}
	neighbour, foreign := by, by
	neighbour.Host ^= 0x0000ff00 // an address of the consumer's VPC that this host does not have
	foreign.VPC ^= 0x00ffff00    // a VPC that it has nothing to do with
	tcp := func(from, to api.Overlay, port uint16, flags byte) func(uint16) []byte {
		return func(sport uint16) []byte {
			return overlay(from.Addr(), to.Addr(), headerTCP, segment(sport, port, flags))
		}
	}
	by443 := func(header byte, l4 func(sport uint16) []byte) func(uint16) []byte {
		return func(sport uint16) []byte { return overlay(by.Addr(), dst.Addr(), header, l4(sport)) }
	}
	return []Attempt{
		{What: "straight into the provider's VPC, without a connection", Reason: "BAD_OVERLAY", packet: tcp(src, dst, 443, flagSYN)},
		{What: "with a number on both sides", Reason: "BAD_OVERLAY", packet: tcp(by, numbered(dst, f.number), 443, flagSYN)},
		{What: "with a different family on each side", Reason: "BAD_OVERLAY", packet: tcp(by, ipv6Form(dst), 443, flagSYN)},
		{What: "with a source that is not canonical", Reason: "BAD_OVERLAY", packet: func(sport uint16) []byte {
			return overlay(odd(by.Addr()), dst.Addr(), headerTCP, segment(sport, 443, flagSYN))
		}},
		{What: "to the provider's node itself", Reason: "BAD_OVERLAY", packet: tcp(src, node, 443, flagSYN)},
		{What: "by the connection, to the provider's node itself", Reason: "BAD_OVERLAY", packet: tcp(by, node, 443, flagSYN)},
		{What: "by a connection that does not exist", Reason: "NO_GRANT", packet: tcp(none, dst, 443, flagSYN)},
		{What: "in IPv6, by a connection that does not exist", Reason: "NO_GRANT",
			packet: tcp(ipv6Form(none), ipv6Form(dst), 443, flagSYN)},
		{What: "by the connection it has, to a port that is not offered", Reason: "TARGET_NOT_GRANTED", packet: tcp(by, dst, 22, flagSYN)},
		{What: "by the connection it has, in another protocol", Reason: "TARGET_NOT_GRANTED",
			packet: by443(headerUDP, func(sport uint16) []byte { return datagram(sport, 443) })},
		{What: "by the connection it has, an echo request", Reason: "TARGET_NOT_GRANTED",
			packet: by443(headerICMP, func(id uint16) []byte { return echo(8, id) })},
		{What: "as an answer to a connection nobody opened", Reason: "NO_FLOW", packet: tcp(src, numbered(dst, f.number), 443, flagSYN)},
		{What: "an acknowledgment in the middle of no connection", Reason: "NO_FLOW", packet: tcp(by, dst, 443, flagACK)},
		{What: "by the connection it has, an echo reply", Reason: "TARGET_NOT_GRANTED",
			packet: by443(headerICMP, func(id uint16) []byte { return echo(0, id) })},
		{What: "an ICMP error about a packet that was never sent", Reason: "NO_FLOW",
			packet: by443(headerICMP, func(sport uint16) []byte { return complaint(f.target, f.own, sport) })},
		{What: "an ICMP error about somebody else's packet", Reason: "MALFORMED",
			packet: by443(headerICMP, func(sport uint16) []byte { return complaint(f.target, f.own.Next(), sport) })},
		{What: "a later fragment of nothing", Reason: "FRAGMENT",
			packet: by443(headerFragment, func(sport uint16) []byte { return fragment(sport, 8, false, make([]byte, 32)) })},
		{What: "a first fragment that hides the ports", Reason: "FRAGMENT",
			packet: by443(headerFragment, func(sport uint16) []byte { return fragment(sport, 0, true, segment(sport, 443, flagSYN)[:8]) })},
		{What: "a fragment beyond the longest packet", Reason: "FRAGMENT",
			packet: by443(headerFragment, func(sport uint16) []byte { return fragment(sport, 65528, false, make([]byte, 64)) })},
		{What: "half a TCP header", Reason: "MALFORMED",
			packet: by443(headerTCP, func(sport uint16) []byte { return segment(sport, 443, flagSYN)[:12] })},
		{What: "to port 0", Reason: "MALFORMED", packet: tcp(by, dst, 0, flagSYN)},
		{What: "another protocol", Reason: "PROTOCOL", packet: by443(headerGRE, func(uint16) []byte { return make([]byte, 20) })},
		{What: "from another address of its own VPC", packet: tcp(neighbour, dst, 443, flagSYN)},
		{What: "from a VPC that it does not host", packet: tcp(foreign, dst, 443, flagSYN)},
	}
}

func numbered(o api.Overlay, n uint16) api.Overlay {
	o.Tag = api.TagFamilyIPv4 | n
	return o
}

func ipv6Form(o api.Overlay) api.Overlay {
	o.Tag &^= api.TagFamilyIPv4
	return o
}

// odd changes the word that makes an overlay address canonical.
func odd(a netip.Addr) netip.Addr {
	b := a.As16()
	b[15] ^= 1
	return netip.AddrFrom16(b)
}

// overlay is a packet in the tunnel. Its checksum is right where the packet's header has one that covers addresses.
func overlay(src, dst netip.Addr, header byte, l4 []byte) []byte {
	p := slices.Concat([]byte{0x60, 0, 0, 0, byte(len(l4) >> 8), byte(len(l4)), header, 64}, src.AsSlice(), dst.AsSlice(), l4)
	at := map[byte]int{headerTCP: 40 + 16, headerUDP: 40 + 6}[header]
	if at > 0 && at+2 <= len(p) {
		binary.BigEndian.PutUint16(p[at:], checksum(uint32(len(l4))+uint32(header), p[8:]))
	}
	return p
}

func checksum(sum uint32, b []byte) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// segment is a TCP header without options, its checksum still to come.
func segment(sport, dport uint16, flags byte) []byte {
	t := make([]byte, 20)
	binary.BigEndian.PutUint16(t, sport)
	binary.BigEndian.PutUint16(t[2:], dport)
	binary.BigEndian.PutUint32(t[4:], 1)
	t[12], t[13] = 5<<4, flags
	binary.BigEndian.PutUint16(t[14:], 65535)
	return t
}

func datagram(sport, dport uint16) []byte {
	u := make([]byte, 16)
	binary.BigEndian.PutUint16(u, sport)
	binary.BigEndian.PutUint16(u[2:], dport)
	binary.BigEndian.PutUint16(u[4:], 16)
	return u
}

func echo(kind byte, id uint16) []byte {
	e := make([]byte, 16)
	e[0] = kind
	binary.BigEndian.PutUint16(e[4:], id)
	binary.BigEndian.PutUint16(e[2:], checksum(0, e))
	return e
}

// complaint is an ICMP "port unreachable" that quotes a packet from one address to another.
func complaint(from, to netip.Addr, sport uint16) []byte {
	quoted := slices.Concat([]byte{0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, headerTCP, 0, 0}, from.AsSlice(), to.AsSlice(),
		segment(443, sport, flagACK))
	binary.BigEndian.PutUint16(quoted[10:], checksum(0, quoted[:20]))
	e := append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, quoted...)
	binary.BigEndian.PutUint16(e[2:], checksum(0, e))
	return e
}

// fragment is a Fragment header of TCP with a part of a packet; offset in bytes.
func fragment(id, offset uint16, more bool, part []byte) []byte {
	if more {
		offset |= 1
	}
	h := []byte{headerTCP, 0, byte(offset >> 8), byte(offset), 0, 0, byte(id >> 8), byte(id)}
	return append(h, part...)
}
