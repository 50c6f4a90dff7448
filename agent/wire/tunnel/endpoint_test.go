package tunnel

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseEndpoint(t *testing.T) {
	for text, want := range map[string]struct {
		dst   string
		scope uint32
	}{
		"192.0.2.1:51820":          {"192.0.2.1:51820", 0},
		"[::ffff:192.0.2.1]:51820": {"192.0.2.1:51820", 0},
		"[2001:db8::1]:1":          {"[2001:db8::1]:1", 0},
		"[fe80::1%7]:1":            {"[fe80::1%7]:1", 7},
		"[fe80::1%lo]:1":           {"[fe80::1%lo]:1", 1},
	} {
		e, err := parseEndpoint(text)
		if err != nil || e.DstToString() != want.dst || e.scope != want.scope {
			t.Errorf("%s: %v, %v", text, e, err)
		}
	}
	for _, bad := range []string{"", "192.0.2.1", "host:1", "[fe80::1%nowhere]:1", "192.0.2.1:65536"} {
		if _, err := parseEndpoint(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestSockaddr goes there and back.
func TestSockaddr(t *testing.T) {
	for _, text := range []string{"192.0.2.1:51820", "[2001:db8::1]:1", "[fe80::1%7]:65535"} {
		e, err := parseEndpoint(text)
		if err != nil {
			t.Fatal(err)
		}
		var s sockaddr
		for i := range s {
			s[i] = 0xee
		}
		if n := s.put(e); e.dst.Addr().Is4() != (n == unix.SizeofSockaddrInet4) {
			t.Errorf("%s: %d bytes", text, n)
		}
		if dst, scope := s.get(e.dst.Addr().Is6()); dst != e.dst || scope != e.scope {
			t.Errorf("%s comes back as %s, %d", text, dst, scope)
		}
	}
}

func TestControlMessages(t *testing.T) {
	for _, text := range []string{"192.0.2.7", "2001:db8::7"} {
		var b [controlLen]byte
		src := netip.MustParseAddr(text)
		n := putSource(b[:], src, 3)
		n += putSegment(b[n:], 1472)
		messages, err := unix.ParseSocketControlMessage(b[:n])
		if err != nil || len(messages) != 2 || messages[1].Header.Type != unix.UDP_SEGMENT {
			t.Errorf("%s: the system's parser finds %+v, %v", text, messages, err)
		}
		if _, got := parseControl(b[:n]); src.Is6() && netip.AddrFrom16(got) != src ||
			src.Is4() && netip.AddrFrom4([4]byte(got[:4])) != src {
			t.Errorf("%s comes back as %v", text, got)
		}
	}
	var b [controlLen]byte
	data := cmsg(b[:], unix.SOL_UDP, unix.UDP_GRO, 4) // the kernel gives an int
	data[0], data[1] = 0xc0, 0x05
	if segment, _ := parseControl(b[:]); segment != 0x05c0 {
		t.Errorf("segment is %d", segment)
	}
}

func FuzzParseControl(f *testing.F) {
	var b [controlLen]byte
	n := putSource(b[:], netip.MustParseAddr("2001:db8::7"), 3)
	n += putSegment(b[n:], 1472)
	f.Add(b[:n])
	f.Fuzz(func(_ *testing.T, b []byte) { parseControl(b) })
}

func TestHeardSharesAndForgets(t *testing.T) {
	var h heard
	e, err := parseEndpoint("192.0.2.1:51820")
	if err != nil {
		t.Fatal(err)
	}
	var from sockaddr
	from.put(e)
	own := [16]byte{198, 18, 0, 1}
	first := h.endpoint(&from, own, false)
	if first.dst != e.dst || first.SrcIP() != netip.MustParseAddr("198.18.0.1") {
		t.Errorf("heard %s at %s", first.dst, first.SrcIP())
	}
	if h.endpoint(&from, own, false) != first {
		t.Error("the same sender is another endpoint")
	}
	if h.endpoint(&from, [16]byte{198, 18, 0, 2}, false) == first {
		t.Error("another own address is the same endpoint")
	}
	second := h.endpoint(&from, own, false)
	second.ClearSrc()
	if second.SrcIP().IsValid() {
		t.Error("the source is not forgotten")
	}
	if third := h.endpoint(&from, own, false); third == second || !third.SrcIP().IsValid() {
		t.Error("a source heard anew is still forgotten")
	}
	if unknown := h.endpoint(&from, [16]byte{}, false); unknown.SrcIP().IsValid() {
		t.Error("an own address comes from nowhere")
	}
	if n := testing.AllocsPerRun(100, func() { h.endpoint(&from, own, false) }); n != 0 {
		t.Errorf("a known sender costs %v allocations", n)
	}
}

// TestRefusedJoinsAreOfASize: what the kernel refused to join goes one by one for a while, smaller datagrams go on joined.
func TestRefusedJoinsAreOfASize(t *testing.T) {
	e, err := parseEndpoint("198.18.0.1:51820")
	if err != nil {
		t.Fatal(err)
	}
	bufs := make([][]byte, 0, 8)
	for _, n := range []int{1452, 1452, 1452, 100, 100, 100} {
		bufs = append(bufs, make([]byte, n))
	}
	messages := func() (counts []int) {
		s := newSender(&udpSide{gso: true})
		s.bufs, s.to = bufs, e
		s.build(0)
		for i := range s.n {
			counts = append(counts, int(s.msgs[i].Iovlen))
		}
		return counts
	}
	for _, c := range []struct {
		refused int // -1: nothing
		want    []int
	}{
		{-1, []int{4, 2}}, // one smaller may end a row
		{1452, []int{1, 1, 1, 3}},
		{4000, []int{1, 1, 1, 3}}, // 1452 stays refused
		{0, []int{1, 1, 1, 1, 1, 1}},
	} {
		if c.refused >= 0 {
			e.refuse(c.refused, time.Now())
		}
		if got := messages(); !slices.Equal(got, c.want) {
			t.Errorf("after %d was refused datagrams go as %v, want %v", c.refused, got, c.want)
		}
	}
	e.plain.Store(time.Now().Add(-time.Second).UnixNano())
	if got := messages(); !slices.Equal(got, []int{4, 2}) {
		t.Errorf("later datagrams go as %v", got)
	}
}
