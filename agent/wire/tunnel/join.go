package tunnel

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

const (
	maxPacket   = 65535 // bytes of a joined packet
	maxDatagram = 64    // datagrams in one; the kernel's UDP_MAX_SEGMENTS of old

	// labelDF is the flow label's bit, in the packet's second byte, under which the data path carries IPv4's "don't
	// fragment"; the 16 bits below it carry IPv4's id (decision 0002). An id means nothing under DF (RFC 6864), so it
	// keeps no two packets apart. The flow label of an IPv6 workload's packet is its own.
	labelDF = 0x01

	// familyIPv4 is the family bit of an overlay address (decision 0011), familyAt where the source has it in a packet.
	familyIPv4 = 0x80
	familyAt   = 8 + 12
)

// run is a row of packets of one flow that can go to the kernel as one: their payloads follow each other, and all but
// the last are of one size.
type run struct {
	hash  uint64
	first []byte   // the packet with the headers; its buffer has room for a virtio header before it
	rest  [][]byte // payloads of the others
	buf   []byte   // first's buffer, from the virtio header on
	proto uint8    // 0: not of a kind that can be joined
	head  int      // bytes of headers
	size  int      // payload of one packet
	total int      // bytes of first and rest
	next  uint32   // TCP: the sequence number that continues the run
	open  bool     // more can follow
	mark  bool     // checksums were not computed
	valid bool     // first's checksum was verified
}

// joiner finds runs in a batch of packets from one peer. Only IPv6 is joined: the overlay knows nothing else.
//
// A packet that is joined gets its checksum from the kernel, so it must have had a right one: either it says that none
// was computed, or it is verified here.
type joiner struct {
	runs  []run
	udp   bool // the kernel takes joined datagrams
	marks bool // packets may say that no checksum was computed
}

func (j *joiner) reset() {
	for i := range j.runs {
		j.runs[i].rest = j.runs[i].rest[:0]
	}
	j.runs = j.runs[:0]
}

// grow returns a fresh run that keeps the memory of an old one.
func (j *joiner) grow() *run {
	if len(j.runs) < cap(j.runs) {
		j.runs = j.runs[:len(j.runs)+1]
	} else {
		j.runs = append(j.runs, run{})
	}
	r := &j.runs[len(j.runs)-1]
	*r = run{rest: r.rest[:0]}
	return r
}

// add takes the next packet, which stands in buf behind room for a virtio header.
func (j *joiner) add(buf []byte) {
	p := buf[vnetLen:]
	c := run{first: p, buf: buf, total: len(p)}
	if j.marks && len(p) > ip6Len && p[0]>>4 == 6 {
		c.mark = p[1]&markPartial != 0
		p[1] &^= markPartial
	}
	if !c.classify(j.udp) {
		r := j.grow()
		c.rest = r.rest
		*r = c
		return
	}
	// The latest run of the flow decides: joining an earlier one would change the order.
	for i := len(j.runs) - 1; i >= 0; i-- {
		r := &j.runs[i]
		if r.hash == c.hash && r.proto == c.proto && sameFlow(r.first, p) {
			if r.takes(&c) {
				return
			}
			break
		}
	}
	r := j.grow()
	c.rest = r.rest
	*r = c
}

// classify fills in what the headers say and reports whether the packet belongs to a flow that can be joined.
func (c *run) classify(udp bool) bool {
	p := c.first
	if len(p) < ip6Len+udpLen || p[0]>>4 != 6 || int(binary.BigEndian.Uint16(p[4:])) != len(p)-ip6Len {
		return false
	}
	l4 := p[ip6Len:]
	switch {
	case p[6] == unix.IPPROTO_TCP && len(l4) >= tcpLen:
		length := int(l4[tcpOff]>>4) * 4
		if length < tcpLen || length > len(l4) {
			return false
		}
		c.proto, c.head = unix.IPPROTO_TCP, ip6Len+length
		c.size = len(p) - c.head
		c.next = binary.BigEndian.Uint32(l4[tcpSeq:]) + uint32(c.size)
		// Only plain data can be followed by more; anything else still marks the flow's order.
		c.open = c.size > 0 && l4[tcpFlag] == flagACK
	case p[6] == unix.IPPROTO_UDP && udp && int(binary.BigEndian.Uint16(l4[udpSize:])) == len(l4):
		c.proto, c.head = unix.IPPROTO_UDP, ip6Len+udpLen
		c.size = len(p) - c.head
		c.open = c.size > 0
	default:
		return false
	}
	c.hash = flowHash(p)
	return true
}

// flowHash is quick and not strong: a collision costs a comparison.
func flowHash(p []byte) uint64 {
	h := binary.NativeEndian.Uint64(p[16:]) ^ binary.NativeEndian.Uint64(p[32:])
	h ^= uint64(binary.NativeEndian.Uint32(p[ip6Len:])) << 32
	h ^= binary.NativeEndian.Uint64(p[8:]) * 3
	return h ^ binary.NativeEndian.Uint64(p[24:])*5
}

// sameFlow compares addresses and ports.
func sameFlow(a, b []byte) bool { return bytes.Equal(a[8:ip6Len+4], b[8:ip6Len+4]) }

// takes joins the packet to the run if that changes nothing but the number of packets.
func (r *run) takes(c *run) bool {
	if !r.open || c.size == 0 || c.size > r.size || r.mark != c.mark || r.total+c.size > maxPacket ||
		!sameHeaders(r, c) {
		return false
	}
	if r.proto == unix.IPPROTO_UDP && len(r.rest)+1 >= maxDatagram {
		return false
	}
	if !r.mark {
		if !r.valid && !checksumRight(r.first, r.proto) {
			r.open = false
			return false
		}
		r.valid = true
		if !checksumRight(c.first, c.proto) {
			return false
		}
	}
	r.rest = append(r.rest, c.first[c.head:])
	r.total += c.size
	r.next = c.next
	pushed := r.proto == unix.IPPROTO_TCP && c.first[ip6Len+tcpFlag]&flagPSH != 0
	if pushed {
		r.first[ip6Len+tcpFlag] |= flagPSH // the kernel leaves it to the last when it cuts
	}
	r.open = c.size == r.size && !pushed
	return true
}

// sameHeaders compares what must be equal beside addresses and ports.
func sameHeaders(r, c *run) bool {
	a, b := r.first, c.first
	if a[0] != b[0] || a[1]>>4 != b[1]>>4 || a[7] != b[7] || r.head != c.head { // class, hop limit
		return false
	}
	label := a[1]&0xf == b[1]&0xf && a[2] == b[2] && a[3] == b[3]
	atomic := a[familyAt]&familyIPv4 != 0 && a[1]&b[1]&labelDF != 0 && a[1]&0xe == b[1]&0xe
	if !label && !atomic {
		return false
	}
	if r.proto == unix.IPPROTO_UDP {
		return true
	}
	x, y := a[ip6Len:r.head], b[ip6Len:c.head]
	if y[tcpFlag] != flagACK && y[tcpFlag] != flagACK|flagPSH {
		return false
	}
	return binary.BigEndian.Uint32(y[tcpSeq:]) == r.next &&
		bytes.Equal(x[8:tcpFlag], y[8:tcpFlag]) && // acknowledgement, length of header
		bytes.Equal(x[14:tcpSum], y[14:tcpSum]) && // window
		bytes.Equal(x[18:], y[18:]) // urgent pointer, options
}

func checksumRight(p []byte, proto uint8) bool {
	if proto == unix.IPPROTO_UDP && p[ip6Len+udpSum] == 0 && p[ip6Len+udpSum+1] == 0 {
		return false // IPv6 does not know datagrams without checksum
	}
	return fold(sum(p[ip6Len:], pseudoSum(p[8:ip6Len], proto, len(p)-ip6Len))) == 0xffff
}

// finish writes the virtio header and, in a run of several, the headers of the joined packet.
func (r *run) finish() {
	vnet := r.buf[:vnetLen]
	clear(vnet)
	joined := len(r.rest) > 0
	sumAt, gso := tcpSum, byte(unix.VIRTIO_NET_HDR_GSO_TCPV6)
	if r.proto == unix.IPPROTO_UDP {
		sumAt, gso = udpSum, unix.VIRTIO_NET_HDR_GSO_UDP_L4
	}
	if !joined && !(r.mark && markable(r.first, ip6Len, ip6Len+r.markSum())) {
		return
	}
	if joined {
		binary.BigEndian.PutUint16(r.first[4:], uint16(r.total-ip6Len))
		if r.proto == unix.IPPROTO_UDP {
			binary.BigEndian.PutUint16(r.first[ip6Len+udpSize:], uint16(r.total-ip6Len))
		}
		vnet[vnetGSOType] = gso
		binary.NativeEndian.PutUint16(vnet[vnetHdrLen:], uint16(r.head))
		binary.NativeEndian.PutUint16(vnet[vnetGSOSize:], uint16(r.size))
	} else {
		sumAt = r.markSum()
	}
	vnet[vnetFlags] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
	binary.NativeEndian.PutUint16(vnet[vnetCsumStart:], ip6Len)
	binary.NativeEndian.PutUint16(vnet[vnetCsumOffset:], uint16(sumAt))
	pseudo := fold(pseudoSum(r.first[8:ip6Len], r.first[6], r.total-ip6Len))
	binary.BigEndian.PutUint16(r.first[ip6Len+sumAt:], pseudo)
}

// markSum is where the checksum of a marked packet stands behind its IPv6 header.
func (r *run) markSum() int {
	if r.first[6] == unix.IPPROTO_UDP {
		return udpSum
	}
	return tcpSum
}
