package tunnel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/agent/wire/tunnel/internal/stock"
)

// slowSum is RFC 1071 as it stands there.
func slowSum(b []byte) uint16 {
	var acc uint32
	for i := 0; i+1 < len(b); i += 2 {
		acc += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		acc += uint32(b[len(b)-1]) << 8
	}
	for acc > 0xffff {
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc)
}

func TestSumKnownAnswer(t *testing.T) {
	// The example of RFC 1071, section 3.
	if got := fold(sum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}, 0)); got != 0xddf2 {
		t.Errorf("sum is %#04x: want 0xddf2", got)
	}
}

func FuzzSum(f *testing.F) {
	f.Add([]byte{1}, []byte{2, 3})
	f.Add(bytes.Repeat([]byte{0xff}, 1500), bytes.Repeat([]byte{0xff}, 64))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if len(a) > 65536 || len(b) > 65536 {
			return
		}
		if got, want := fold(sum(a, 0)), slowSum(a); got != want {
			t.Errorf("sum of %x is %#04x: want %#04x", a, got, want)
		}
		if got, want := fold(sum(a, 0)), stock.Checksum(a); got != want {
			t.Errorf("sum of %x is %#04x, the library's is %#04x", a, got, want)
		}
		if len(a)%2 == 0 { // sums are added in pairs of bytes
			if got, want := fold(sum(b, sum(a, 0))), slowSum(slices.Concat(a, b)); got != want {
				t.Errorf("sum of %x and %x is %#04x: want %#04x", a, b, got, want)
			}
		}
	})
}

// flowSpec is one flow's headers.
type flowSpec struct {
	proto   uint8
	port    uint16
	options int // bytes of TCP options, a multiple of 4
	class   byte
	hops    byte
	four    bool // an IPv4 workload's packet
}

// makePacket builds an IPv6 packet with a right checksum.
func makePacket(s flowSpec, label uint32, seq uint32, flags byte, payload []byte) []byte {
	length := udpLen
	if s.proto == unix.IPPROTO_TCP {
		length = tcpLen + s.options
	}
	p := make([]byte, ip6Len+length, ip6Len+length+len(payload))
	binary.BigEndian.PutUint32(p, 6<<28|uint32(s.class)<<20|label)
	binary.BigEndian.PutUint16(p[4:], uint16(length+len(payload)))
	p[6], p[7] = s.proto, s.hops
	p[8], p[23], p[24], p[39] = 0xfd, 1, 0xfd, 2
	if s.four {
		p[familyAt], p[familyAt+16] = familyIPv4, familyIPv4
	}
	l4 := p[ip6Len:]
	binary.BigEndian.PutUint16(l4, s.port)
	binary.BigEndian.PutUint16(l4[2:], 443)
	if s.proto == unix.IPPROTO_TCP {
		binary.BigEndian.PutUint32(l4[tcpSeq:], seq)
		binary.BigEndian.PutUint32(l4[8:], 77)
		l4[tcpOff], l4[tcpFlag] = byte(length/4)<<4, flags
		binary.BigEndian.PutUint16(l4[14:], 512)
		for i := range s.options {
			l4[tcpLen+i] = byte(i)
		}
	} else {
		binary.BigEndian.PutUint16(l4[udpSize:], uint16(length+len(payload)))
	}
	p = append(p, payload...)
	setChecksum(p, s.proto)
	return p
}

func setChecksum(p []byte, proto uint8) {
	at := ip6Len + tcpSum
	if proto == unix.IPPROTO_UDP {
		at = ip6Len + udpSum
	}
	p[at], p[at+1] = 0, 0
	total := ^fold(sum(p[ip6Len:], pseudoSum(p[8:ip6Len], proto, len(p)-ip6Len)))
	if total == 0 && proto == unix.IPPROTO_UDP {
		total = 0xffff
	}
	binary.BigEndian.PutUint16(p[at:], total)
}

// splitAll cuts with our splitter.
func splitAll(in []byte, mark bool) (packets [][]byte, err error) {
	var s splitter
	if err := s.load(in, mark); err != nil {
		return nil, err
	}
	out := make([]byte, len(in))
	for s.pending {
		size := s.next(out)
		if size == 0 {
			return nil, fmt.Errorf("no room")
		}
		packets = append(packets, slices.Clone(out[:size]))
	}
	return packets, nil
}

// normal clears what may differ from the library: it sends a UDP checksum that comes out as 0 as it is.
func normal(packets [][]byte) [][]byte {
	for _, p := range packets {
		if len(p) >= ip6Len+udpLen && p[0]>>4 == 6 && p[6] == unix.IPPROTO_UDP {
			if p[ip6Len+udpSum] == 0xff && p[ip6Len+udpSum+1] == 0xff {
				p[ip6Len+udpSum], p[ip6Len+udpSum+1] = 0, 0
			}
		}
	}
	return packets
}

// FuzzSplit demands that we cut as the library does, byte for byte, what the library takes.
func FuzzSplit(f *testing.F) {
	vnet := func(flags, gso byte, numbers ...uint16) []byte {
		b := []byte{flags, gso}
		for _, n := range numbers {
			b = binary.NativeEndian.AppendUint16(b, n)
		}
		return b
	}
	payload := bytes.Repeat([]byte("payload "), 1000)
	tcp := makePacket(flowSpec{proto: unix.IPPROTO_TCP, options: 12, hops: 64}, 7, 100, flagACK|flagPSH, payload)
	udp := makePacket(flowSpec{proto: unix.IPPROTO_UDP, hops: 64}, 7, 0, 0, payload)
	tcp4 := append([]byte{0x45, 0, 0x1f, 0x40, 0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, tcp[ip6Len:]...)
	udp4 := append([]byte{0x45, 0, 0x1f, 0x40, 0, 9, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, udp[ip6Len:]...)
	f.Add(append(vnet(1, unix.VIRTIO_NET_HDR_GSO_TCPV6, 0, 1388, 40, 16), tcp...))
	f.Add(append(vnet(1, unix.VIRTIO_NET_HDR_GSO_UDP_L4, 0, 1000, 40, 6), udp...))
	f.Add(append(vnet(1, unix.VIRTIO_NET_HDR_GSO_TCPV4, 0, 1388, 20, 16), tcp4...))
	f.Add(append(vnet(1, unix.VIRTIO_NET_HDR_GSO_UDP_L4, 0, 1388, 20, 6), udp4...))
	f.Add(append(vnet(1, 0, 0, 0, 40, 16), tcp...))
	f.Add(append(vnet(0, 0, 0, 0, 0, 0), udp...))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > readLen {
			return
		}
		ours, err := splitAll(slices.Clone(in), false)
		if len(in) < vnetLen+ip6Len || !sane(in) {
			return // the library trusts the kernel here; we must merely live
		}
		theirs, wrong := stock.Split(slices.Clone(in))
		if err != nil && wrong == nil {
			t.Fatalf("we refuse what the library takes: %v", err)
		}
		if err == nil && wrong == nil && !reflect.DeepEqual(normal(ours), normal(theirs)) {
			t.Fatalf("we give %d packets, the library %d:\n%x\n%x", len(ours), len(theirs), ours, theirs)
		}
	})
}

// sane tells what a kernel gives for packets of its own: the checksum is that of TCP or UDP, all that the header speaks of is
// inside, and the kinds of segmentation are the ones asked for.
func sane(in []byte) bool {
	l4 := int(binary.NativeEndian.Uint16(in[vnetCsumStart:]))
	at := l4 + int(binary.NativeEndian.Uint16(in[vnetCsumOffset:]))
	p := in[vnetLen:]
	if in[vnetGSOType] == 0 {
		return in[0]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM == 0 || sumOf(p, l4, at)
	}
	ipLen, proto := int(p[0]&0xf)*4, p[9]
	if p[0]>>4 == 6 {
		ipLen, proto = ip6Len, p[6]
	}
	want, sumAt := uint8(unix.IPPROTO_TCP), tcpSum
	if in[vnetGSOType] == unix.VIRTIO_NET_HDR_GSO_UDP_L4 {
		want, sumAt = unix.IPPROTO_UDP, udpSum
	}
	if proto != want || at != l4+sumAt || l4 != ipLen || ipLen < ip4Len || len(p) <= l4+tcpMax {
		return false
	}
	return binary.NativeEndian.Uint16(in[vnetGSOSize:]) > 0
}

// TestSplitForeignChecksums: a workload's packet socket says where the checksum is, and the kernel hands that on. No place
// but that of TCP or UDP is written to.
func TestSplitForeignChecksums(t *testing.T) {
	// What Linux 6.18 gave for a UDP datagram in IPv4 whose sender named byte 20 of its frame, and 4 behind it: the address
	// to which the packet goes, after it was checked.
	foreign := []byte{1, 0, 0, 0, 0, 0, 26, 0, 4, 0}
	binary.NativeEndian.PutUint16(foreign[vnetCsumStart:], 26)
	binary.NativeEndian.PutUint16(foreign[vnetCsumOffset:], 4)
	p := makePacket(flowSpec{proto: unix.IPPROTO_UDP, hops: 64}, 1<<16, 0, 0, []byte("hellohello"))
	if got, err := splitAll(append(slices.Clone(foreign), p...), false); err == nil {
		t.Errorf("a checksum inside the destination address is written: %x", got)
	}
	right := map[uint8]uint16{unix.IPPROTO_TCP: tcpSum, unix.IPPROTO_UDP: udpSum}
	for proto, sumAt := range right {
		p := makePacket(flowSpec{proto: proto, hops: 64}, 1<<16, 0, flagACK, []byte("hellohello"))
		for start := range uint16(len(p)) {
			for at := range uint16(len(p)) - start {
				in := append([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0}, p...)
				binary.NativeEndian.PutUint16(in[vnetCsumStart:], start)
				binary.NativeEndian.PutUint16(in[vnetCsumOffset:], at)
				_, err := splitAll(in, false)
				if ok := start == ip6Len && at == sumAt; ok != (err == nil) {
					t.Fatalf("protocol %d, checksum from %d on at %d: %v", proto, start, at, err)
				}
			}
		}
		for _, gso := range []byte{unix.VIRTIO_NET_HDR_GSO_TCPV6, unix.VIRTIO_NET_HDR_GSO_UDP_L4} {
			for _, start := range []uint16{ip6Len, ip6Len + 4} {
				in := append([]byte{1, gso, 0, 0, 0, 0, 0, 0, 0, 0}, append(p, make([]byte, 200)...)...)
				binary.NativeEndian.PutUint16(in[vnetGSOSize:], 50)
				binary.NativeEndian.PutUint16(in[vnetCsumStart:], start)
				binary.NativeEndian.PutUint16(in[vnetCsumOffset:], sumAt)
				_, err := splitAll(in, false)
				want := start == ip6Len && (gso == unix.VIRTIO_NET_HDR_GSO_TCPV6) == (proto == unix.IPPROTO_TCP)
				if want != (err == nil) {
					t.Errorf("protocol %d, segmentation %d, transport at %d: %v", proto, gso, start, err)
				}
			}
		}
	}
}

// TestSplitMarks checks that with marks only the mark and the checksum differ.
func TestSplitMarks(t *testing.T) {
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		gso, sumAt := byte(unix.VIRTIO_NET_HDR_GSO_TCPV6), uint16(tcpSum)
		if proto == unix.IPPROTO_UDP {
			gso, sumAt = unix.VIRTIO_NET_HDR_GSO_UDP_L4, udpSum
		}
		p := makePacket(flowSpec{proto: proto, hops: 9}, 0xfffff, 1, flagACK, make([]byte, 5000))
		for _, joined := range []bool{true, false} {
			in := append([]byte{1, gso}, make([]byte, 8)...)
			binary.NativeEndian.PutUint16(in[vnetGSOSize:], 1400)
			binary.NativeEndian.PutUint16(in[vnetCsumStart:], ip6Len)
			binary.NativeEndian.PutUint16(in[vnetCsumOffset:], sumAt)
			if !joined {
				in[vnetGSOType] = 0
			}
			in = append(in, p...)
			if !joined {
				at := vnetLen + ip6Len + int(sumAt)
				binary.BigEndian.PutUint16(in[at:], fold(pseudoSum(p[8:ip6Len], proto, len(p)-ip6Len)))
			}
			plain, err := splitAll(slices.Clone(in), false)
			if err != nil {
				t.Fatal(err)
			}
			marked, err := splitAll(slices.Clone(in), true)
			if err != nil || len(marked) != len(plain) {
				t.Fatalf("%d packets of %d, %v", len(marked), len(plain), err)
			}
			for i := range plain {
				if marked[i][1]&markPartial == 0 {
					t.Fatal("a packet without checksum is not marked")
				}
				marked[i][1], plain[i][1] = 0, 0
				setChecksum(marked[i], proto)
				setChecksum(plain[i], proto)
				if !bytes.Equal(marked[i], plain[i]) {
					t.Fatalf("segment %d differs:\n%x\n%x", i, marked[i], plain[i])
				}
			}
		}
	}
}

// TestSplitClearsForeignMarks: the bit belongs to the tunnel once marks are in use.
func TestSplitClearsForeignMarks(t *testing.T) {
	p := makePacket(flowSpec{proto: unix.IPPROTO_TCP}, 0xfffff, 1, flagACK, []byte("x"))
	got, err := splitAll(append(make([]byte, vnetLen), p...), true)
	if err != nil || len(got) != 1 || got[0][1]&markPartial != 0 {
		t.Errorf("a packet with a checksum is marked: %v", err)
	}
	if got, _ := splitAll(append(make([]byte, vnetLen), p...), false); !bytes.Equal(got[0], p) {
		t.Error("without marks the packet changes")
	}
}

// joinAll joins with our joiner and returns what would be written, each in one piece.
func joinAll(packets [][]byte, marks bool) (out [][]byte) {
	j := joiner{udp: true, marks: marks}
	for range 2 { // the second time over used memory
		j.reset()
		out = nil
		for _, p := range packets {
			j.add(append(make([]byte, vnetLen, vnetLen+len(p)), p...))
		}
		for i := range j.runs {
			r := &j.runs[i]
			r.finish()
			out = append(out, slices.Concat(append([][]byte{r.buf}, r.rest...)...))
		}
	}
	return out
}

// drawPackets draws a batch: segments of few flows, in order and not, with all kinds of differences.
func drawPackets(t *rapid.T) [][]byte {
	flows := []flowSpec{
		{proto: unix.IPPROTO_TCP, port: 1, hops: 64}, {proto: unix.IPPROTO_TCP, port: 2, options: 12, hops: 64, four: true},
		{proto: unix.IPPROTO_UDP, port: 1, hops: 64}, {proto: unix.IPPROTO_UDP, port: 3, hops: 64, four: true},
	}
	seqs := make([]uint32, len(flows))
	seqs[0] = ^uint32(0) - 3000 // wraps
	seed := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "payload"), 1))
	var packets [][]byte
	for range rapid.IntRange(0, 60).Draw(t, "count") {
		i := rapid.IntRange(0, len(flows)-1).Draw(t, "flow")
		f := flows[i]
		payload := make([]byte, rapid.SampledFrom([]int{1388, 1388, 1388, 1388, 1400, 700, 1, 0}).Draw(t, "size"))
		for k := range payload {
			payload[k] = byte(seed.Uint32())
		}
		flags := rapid.SampledFrom([]byte{flagACK, flagACK, flagACK, flagACK, flagACK | flagPSH, flagACK | flagFIN, 0xd0}).
			Draw(t, "flags")
		label := rapid.SampledFrom([]uint32{5, 5, 5, 6, labelDF<<16 | 1, labelDF<<16 | 2}).Draw(t, "label")
		change := rapid.IntRange(0, 40).Draw(t, "change")
		switch change {
		case 1:
			f.hops--
		case 2:
			f.class = 0xb8
		case 3:
			seqs[i] += 7
		}
		p := makePacket(f, label, seqs[i], flags, payload)
		seqs[i] += uint32(len(payload))
		switch change {
		case 4: // a wrong checksum must stay one
			p[len(p)-1] ^= 0x40
		case 5: // shorter than it says
			p = p[:len(p)-min(len(payload), 3)]
		case 6: // another protocol
			p[6] = 44
		case 7:
			p = p[:rapid.IntRange(1, len(p)).Draw(t, "cut")]
		case 8: // another window
			p[ip6Len+min(15, len(p)-ip6Len-1)]++
		}
		packets = append(packets, p)
	}
	return packets
}

// TestJoinLosesNothing: cut again, what was joined is what came, and each flow's packets are in order. The library's
// own cutting is the judge. Ids of IPv4 packets that say "don't fragment" may differ.
func TestJoinLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		packets := drawPackets(t)
		var back [][]byte
		for _, joined := range joinAll(packets, false) {
			parts, err := stock.Split(joined)
			if err != nil {
				t.Fatalf("the library refuses %x: %v", joined, err)
			}
			back = append(back, parts...)
		}
		got, want := byFlow(normal(back)), byFlow(normal(clonePackets(packets)))
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %x\nwant %x", got, want)
		}
	})
}

func clonePackets(packets [][]byte) [][]byte {
	out := make([][]byte, len(packets))
	for i, p := range packets {
		out[i] = slices.Clone(p)
	}
	return out
}

// byFlow groups packets by addresses, protocol and ports, and blanks the ids that mean nothing.
func byFlow(packets [][]byte) map[string][][]byte {
	m := make(map[string][][]byte)
	for _, p := range packets {
		key := "short"
		if len(p) >= ip6Len+4 {
			key = fmt.Sprint(wellFormed(p), p[6]) + fmt.Sprintf("%x", p[8:ip6Len+4])
			if p[1]&labelDF != 0 && p[familyAt]&familyIPv4 != 0 {
				p[2], p[3] = 0, 0
			}
		}
		m[key] = append(m[key], p)
	}
	return m
}

// wellFormed tells packets that have a place in a flow from those that only look alike.
func wellFormed(p []byte) bool {
	if p[0]>>4 != 6 || int(binary.BigEndian.Uint16(p[4:])) != len(p)-ip6Len {
		return false
	}
	l4 := p[ip6Len:]
	if p[6] == unix.IPPROTO_TCP {
		return len(l4) >= 20 && l4[12]>>4 >= 5 && int(l4[12]>>4)*4 <= len(l4)
	}
	return p[6] == unix.IPPROTO_UDP && len(l4) >= 8 && int(binary.BigEndian.Uint16(l4[4:])) == len(l4)
}

// TestJoinIsAsGoodAsTheLibrary: of a plain transfer it makes no more packets.
func TestJoinIsAsGoodAsTheLibrary(t *testing.T) {
	var packets [][]byte
	for i := range uint32(120) { // three flows in turn
		s := flowSpec{proto: unix.IPPROTO_TCP, port: uint16(i % 3), options: 12, hops: 64}
		packets = append(packets, makePacket(s, 1, 1000*(i/3), flagACK, bytes.Repeat([]byte{byte(i)}, 1000)))
	}
	theirs, err := stock.Join(clonePackets(packets))
	if err != nil {
		t.Fatal(err)
	}
	if ours := joinAll(packets, false); len(ours) != 3 || len(theirs) < len(ours) {
		t.Errorf("%d packets, the library makes %d: want 3", len(ours), len(theirs))
	}
}

// TestJoinMarked: packets that say so are joined without looking at their checksum, and never with others.
func TestJoinMarked(t *testing.T) {
	s := flowSpec{proto: unix.IPPROTO_TCP, port: 1, hops: 64}
	var packets [][]byte
	for i := range uint32(6) {
		p := makePacket(s, 1, 1000*i, flagACK, bytes.Repeat([]byte{byte(i)}, 1000))
		if i < 4 {
			p[1] |= markPartial
			p[ip6Len+tcpSum] ^= 0xff // nobody computed it
		}
		packets = append(packets, p)
	}
	out := joinAll(packets, true)
	if len(out) != 2 {
		t.Fatalf("%d packets: want 2", len(out))
	}
	var back [][]byte
	for _, joined := range out {
		parts, err := stock.Split(joined)
		if err != nil {
			t.Fatal(err)
		}
		back = append(back, parts...)
	}
	for i, p := range packets {
		p[1] &^= markPartial
		setChecksum(p, s.proto)
		if !bytes.Equal(p, back[i]) {
			t.Errorf("packet %d comes back as %x: want %x", i, back[i], p)
		}
	}
	alone := joinAll([][]byte{func() []byte {
		p := makePacket(flowSpec{proto: unix.IPPROTO_UDP}, 1, 0, 0, []byte("x"))
		p[1] |= markPartial
		p[ip6Len+udpSum], p[ip6Len+udpSum+1] = 0, 0
		return p
	}()}, true)
	parts, err := stock.Split(alone[0])
	if err != nil || len(parts) != 1 || !checksumRight(parts[0], unix.IPPROTO_UDP) || parts[0][1]&markPartial != 0 {
		t.Errorf("a marked datagram alone: %x, %v", parts, err)
	}
}

// FuzzJoin feeds packets that are anything; the kernel must get what came.
func FuzzJoin(f *testing.F) {
	s := flowSpec{proto: unix.IPPROTO_TCP, port: 1, hops: 64}
	a := makePacket(s, 1, 0, flagACK, []byte("12345678"))
	f.Add(a, makePacket(s, 1, 8, flagACK, []byte("12345678")), true)
	f.Add(a, makePacket(flowSpec{proto: unix.IPPROTO_UDP}, 1, 8, flagACK, []byte("12345678")), false)
	f.Fuzz(func(t *testing.T, a, b []byte, marks bool) {
		if len(a) == 0 || len(b) == 0 || len(a) > 9000 || len(b) > 9000 {
			return
		}
		out := joinAll([][]byte{a, b, a, b}, marks)
		if marks {
			return // checksums change then; living is enough
		}
		var back [][]byte
		for _, joined := range out {
			parts, err := [][]byte{joined[vnetLen:]}, error(nil)
			if joined[vnetGSOType] != 0 {
				parts, err = stock.Split(joined)
			}
			if err != nil {
				t.Fatalf("the library refuses %x: %v", joined, err)
			}
			back = append(back, parts...)
		}
		want := byFlow(normal(clonePackets([][]byte{a, b, a, b})))
		if got := byFlow(normal(back)); !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %x\nwant %x", got, want)
		}
	})
}
