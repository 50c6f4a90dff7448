// Package underlay looks at what crosses an underlay and says whether every packet is what Culvert may send there:
// WireGuard, TLS, encrypted gossip, and what Ethernet and IP need to find each other and to say that nobody listens
// (invariant I3).
package underlay

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Class is what a packet was recognised as.
type Class string

// Classes. Everything but Unknown and Clear is allowed on an underlay.
const (
	ARP       Class = "arp"
	WireGuard Class = "wireguard"
	TLS       Class = "tls"
	TCPEmpty  Class = "tcp without data"
	Gossip    Class = "encrypted gossip"
	Neighbour Class = "neighbour discovery"
	Groups    Class = "group membership"
	ICMPError Class = "icmp error"
	Unknown   Class = "unknown"
	Clear     Class = "clear text"
)

// Ports say where what is expected. UDP unless said otherwise.
type Ports struct {
	WireGuard uint16
	Gossip    uint16 // UDP and TCP
	Server    uint16 // TCP
}

// clearRun is how many printable bytes in a row count as text in what should be ciphertext: by chance one packet in 10^8.
const clearRun = 24

// Classifier recognises packets. TLS is followed record by record, so text hidden behind the right port does not pass.
type Classifier struct {
	Ports   Ports
	Markers [][]byte // byte strings that must not occur anywhere
	streams map[streamKey]*stream
}

type streamKey struct {
	src, dst     [16]byte
	sport, dport uint16
}

// stream follows the TLS records of one direction.
type stream struct {
	next   uint32 // sequence number that is expected
	left   int    // bytes of the record under way that are still to come
	synced bool
	head   []byte // beginning of a record header that was cut by a segment
}

// Classify looks at one Ethernet frame. The text says more about what is not allowed.
func (c *Classifier) Classify(frame []byte) (Class, string) {
	for _, m := range c.Markers {
		if bytes.Contains(frame, m) {
			return Clear, fmt.Sprintf("holds the marker %q", m)
		}
	}
	if len(frame) < 14 {
		return Unknown, "short frame"
	}
	switch t := binary.BigEndian.Uint16(frame[12:]); t {
	case 0x0806:
		return ARP, ""
	case 0x0800:
		return c.ipv4(frame[14:])
	case 0x86dd:
		return c.ipv6(frame[14:])
	default:
		return Unknown, fmt.Sprintf("EtherType %#04x", t)
	}
}

func (c *Classifier) ipv4(p []byte) (Class, string) {
	if len(p) < 20 || p[0]>>4 != 4 {
		return Unknown, "broken IPv4"
	}
	ihl, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
	if ihl < 20 || total < ihl || total > len(p) {
		return Unknown, "broken IPv4"
	}
	var k streamKey
	copy(k.src[12:], p[12:16])
	copy(k.dst[12:], p[16:20])
	return c.transport(p[9], p[ihl:total], k)
}

func (c *Classifier) ipv6(p []byte) (Class, string) {
	if len(p) < 40 {
		return Unknown, "broken IPv6"
	}
	var k streamKey
	copy(k.src[:], p[8:24])
	copy(k.dst[:], p[24:40])
	if p[6] == 58 || p[6] == 0 { // ICMPv6, and MLD behind a hop-by-hop header
		return Neighbour, ""
	}
	return c.transport(p[6], p[40:min(len(p), 40+int(binary.BigEndian.Uint16(p[4:])))], k)
}

func (c *Classifier) transport(proto byte, p []byte, k streamKey) (Class, string) {
	if len(p) < 8 {
		return Unknown, "short packet"
	}
	k.sport, k.dport = binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:])
	on := func(port uint16) bool { return k.sport == port || k.dport == port }
	switch {
	case proto == 1:
		return c.icmp(p)
	case proto == 2:
		return quiet(Groups, p)
	case proto == 17 && on(c.Ports.WireGuard):
		return wireGuard(p[8:])
	case proto == 17 && on(c.Ports.Gossip):
		return gossip(p[8:])
	case proto == 6 && len(p) >= 20:
		off := int(p[12]>>4) * 4
		if off < 20 || off > len(p) {
			return Unknown, "broken TCP"
		}
		data := p[off:]
		if len(data) == 0 {
			return TCPEmpty, ""
		}
		if on(c.Ports.Gossip) {
			return gossip(data)
		}
		if on(c.Ports.Server) {
			return c.tls(k, binary.BigEndian.Uint32(p[4:]), data)
		}
	}
	return Unknown, fmt.Sprintf("protocol %d, ports %d and %d", proto, k.sport, k.dport)
}

// wireGuard checks a message's form: https://www.wireguard.com/protocol/ (types 1 to 4, three reserved zero bytes, lengths).
func wireGuard(p []byte) (Class, string) {
	if len(p) < 4 || p[1]|p[2]|p[3] != 0 {
		return Unknown, "not a WireGuard message on WireGuard's port"
	}
	switch n := len(p); {
	case p[0] == 1 && n == 148, p[0] == 2 && n == 92, p[0] == 3 && n == 64, p[0] == 4 && n >= 32:
		return WireGuard, ""
	default:
		return Unknown, fmt.Sprintf("WireGuard type %d of %d bytes", p[0], n)
	}
}

func gossip(p []byte) (Class, string) { return quiet(Gossip, p) }

// quiet is the class, unless there is text in it.
func quiet(class Class, p []byte) (Class, string) {
	if run := printable(p); run >= clearRun {
		return Clear, fmt.Sprintf("%d printable bytes in a row in %s", run, class)
	}
	return class, ""
}

// icmp lets pass what a host's kernel says about a packet that could not be delivered (a process that restarts), as long
// as the packet that it quotes is one of ours.
func (c *Classifier) icmp(p []byte) (Class, string) {
	const unreachable, exceeded = 3, 11
	quoted := p[8:]
	if p[0] != unreachable && p[0] != exceeded || len(quoted) < 28 || quoted[0] != 0x45 {
		return Unknown, fmt.Sprintf("ICMP type %d", p[0])
	}
	sport, dport := binary.BigEndian.Uint16(quoted[20:]), binary.BigEndian.Uint16(quoted[22:])
	on := func(port uint16) bool { return sport == port || dport == port }
	switch {
	case quoted[9] == 17 && on(c.Ports.WireGuard) && len(quoted) >= 32 && quoted[29]|quoted[30]|quoted[31] == 0,
		quoted[9] == 17 && on(c.Ports.Gossip), quoted[9] == 6 && (on(c.Ports.Gossip) || on(c.Ports.Server)):
		return quiet(ICMPError, quoted)
	}
	return Unknown, fmt.Sprintf("ICMP about protocol %d, ports %d and %d", quoted[9], sport, dport)
}

// printable is the longest run of printable ASCII.
func printable(p []byte) (longest int) {
	n := 0
	for _, b := range p {
		n++
		if b < 0x20 || b > 0x7e {
			n = 0
		}
		longest = max(longest, n)
	}
	return longest
}

// tls follows records (RFC 8446, 5.1: type 20..23, version 3.1 to 3.3, length up to 2^14 + 256). A connection that was open before
// is followed from the first segment that begins with a record.
func (c *Classifier) tls(k streamKey, seq uint32, data []byte) (Class, string) {
	if c.streams == nil {
		c.streams = map[streamKey]*stream{}
	}
	s := c.streams[k]
	if s == nil {
		s = &stream{}
		c.streams[k] = s
	}
	if !s.synced {
		if _, ok := record(data); !ok {
			if run := printable(data); run >= clearRun {
				return Clear, "text before the first TLS record"
			}
			return TLS, "middle of a record"
		}
		*s = stream{next: seq, synced: true}
	}
	if skip := s.next - seq; seq != s.next && int32(skip) > 0 && int(skip) < len(data) { // partly repeated
		data, seq = data[skip:], s.next
	}
	if seq != s.next {
		if int32(seq-s.next) > 0 { // a segment is missing from the capture: find a record again
			s.synced = false
		}
		return TLS, "repeated or out of order"
	}
	s.next += uint32(len(data))
	data = append(s.head, data...)
	s.head = nil
	for len(data) > 0 {
		if s.left > 0 {
			n := min(s.left, len(data))
			s.left, data = s.left-n, data[n:]
			continue
		}
		if len(data) < 5 {
			s.head = bytes.Clone(data)
			break
		}
		n, ok := record(data)
		if !ok {
			return Clear, fmt.Sprintf("% x where a TLS record should begin", data[:5])
		}
		s.left, data = n, data[5:]
	}
	return TLS, ""
}

// record reads a TLS record header; n is the length of what follows.
func record(p []byte) (n int, ok bool) {
	if len(p) < 5 || p[0] < 20 || p[0] > 23 || p[1] != 3 || p[2] < 1 || p[2] > 3 {
		return 0, false
	}
	n = int(binary.BigEndian.Uint16(p[3:]))
	return n, n > 0 && n <= 1<<14+256
}
