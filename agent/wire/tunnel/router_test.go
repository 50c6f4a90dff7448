package tunnel

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/agent/wire"
)

func peerOf(n byte, prefixes ...string) wire.PeerStatus {
	p := wire.PeerStatus{Peer: wire.Peer{PublicKey: wire.PublicKey{n}}}
	for _, text := range prefixes {
		p.AllowedIPs = append(p.AllowedIPs, netip.MustParsePrefix(text))
	}
	return p
}

func packetTo(dst string) []byte {
	p := make([]byte, 48)
	p[0] = 0x60
	a := netip.MustParseAddr(dst).As16()
	copy(p[24:], a[:])
	return p
}

// admitAll counts how many of n packets are admitted at once.
func admitAll(r *router, packet []byte, n int, now time.Time) (admitted int) {
	for range n {
		if _, ok := r.admit(packet, now); ok {
			admitted++
		}
	}
	return admitted
}

func TestPeerWithoutSessionGetsABudget(t *testing.T) {
	r, flushed := newRouter(), 0
	r.flush = func(k wire.PublicKey) {
		if k != (wire.PublicKey{1}) {
			t.Errorf("flush of %s", k)
		}
		flushed++
	}
	r.update([]wire.PeerStatus{peerOf(1, "fd00::/64"), peerOf(2, "fd01::/64")})
	now, dead := time.Unix(1000, 0), packetTo("fd00::9")
	if got := admitAll(r, dead, 10000, now); got != budgetMax || flushed != 0 {
		t.Errorf("admitted %d, flushed %d times: want %d and none", got, flushed, budgetMax)
	}
	refused := 10000 - budgetMax
	for i, wait := range []time.Duration{flushFirst, 2 * flushFirst, 4 * flushFirst, 8 * flushFirst, flushEvery, flushEvery} {
		if got := admitAll(r, dead, 10000, now.Add(wait-1)); got != 0 {
			t.Errorf("round %d: admitted %d before the time", i, got)
		}
		now = now.Add(wait)
		if got := admitAll(r, dead, 10000, now); got != budgetMax || flushed != i+1 {
			t.Errorf("round %d: admitted %d, flushed %d times: want %d", i, got, flushed, budgetMax)
		}
		refused += 20000 - budgetMax
	}
	if got := r.refused.Load(); got != uint64(refused) {
		t.Errorf("counted %d refused: want %d", got, refused)
	}
	if got := admitAll(r, packetTo("fd01::9"), budgetMax, now); got != budgetMax {
		t.Errorf("another peer is admitted %d", got)
	}
	if got := admitAll(r, packetTo("fd02::9"), 10000, now); got != 10000 {
		t.Errorf("of packets for nobody %d are admitted: the device drops them itself", got)
	}
}

func TestPeerWithSessionIsFree(t *testing.T) {
	r := newRouter()
	r.update([]wire.PeerStatus{peerOf(1, "fd00::/64")})
	now, packet := time.Unix(1000, 0), packetTo("fd00::9")
	first, _ := r.admit(packet, now)
	index := first.peer
	for range 100 {
		r.sent(index)
		if got := admitAll(r, packet, lostAfter, now); got != lostAfter {
			t.Fatalf("admitted %d of %d", got, lostAfter)
		}
	}
	// Then nothing is sent any more: the session is gone.
	if got := admitAll(r, packet, 10000, now.Add(flushEvery)); got != budgetMax {
		t.Errorf("without a session %d are admitted: want %d", got, budgetMax)
	}
	r.sent(index)
	if got := admitAll(r, packet, lostAfter, now); got != lostAfter {
		t.Errorf("with a session again %d are admitted", got)
	}
}

func TestManySessionsLostAtOnce(t *testing.T) {
	r := newRouter()
	var peers []wire.PeerStatus
	for i := range 250 {
		peers = append(peers, peerOf(byte(i+1), fmt.Sprintf("fd00:%x::/64", i)))
	}
	r.update(peers)
	now, total := time.Unix(1000, 0), 0
	for i := range peers {
		w, _ := r.admit(packetTo(fmt.Sprintf("fd00:%x::1", i)), now)
		r.sent(w.peer)
	}
	for i := range peers {
		total += admitAll(r, packetTo(fmt.Sprintf("fd00:%x::1", i)), lostAfter, now)
	}
	if most := lostAll + lostAfter + len(peers)*int(r.table.Load().budget); total > most {
		t.Errorf("%d packets wait: want at most %d", total, most)
	}
	if pending := r.pending.Load(); pending > lostAll+int64(len(peers))*r.table.Load().budget {
		t.Errorf("%d counted as waiting", pending)
	}
}

// Peers that died with packets waiting, to which nobody sends any more, do not hold those that live to a budget for good.
func TestPeersThatDiedHoldNobodyUp(t *testing.T) {
	r := newRouter()
	flushed := map[byte]int{}
	r.flush = func(k wire.PublicKey) { flushed[k[0]]++ }
	const alive, dead = 1, 4
	r.update([]wire.PeerStatus{peerOf(alive, "fd01::/64"), peerOf(2, "fd02::/64"), peerOf(3, "fd03::/64"), peerOf(dead, "fd04::/64"),
		peerOf(5, "fd05::/64")})
	now := time.Unix(1000, 0)
	for n := alive; n <= 5; n++ {
		w, _ := r.admit(packetTo(fmt.Sprintf("fd0%d::1", n)), now)
		r.sent(w.peer)
	}
	for n := alive + 1; n <= 5; n++ {
		admitAll(r, packetTo(fmt.Sprintf("fd0%d::1", n)), lostAfter, now)
	}
	if r.pending.Load() < lostAll {
		t.Fatal("too few wait")
	}
	refused := 0
	for range 300 { // 300 ms, a read of 128 packets each
		now = now.Add(time.Millisecond)
		refused = 0
		for range 128 {
			if _, pass := r.admit(packetTo("fd01::1"), now); !pass {
				refused++
			}
		}
		r.sent(0)
	}
	if refused != 0 || r.pending.Load() >= lostAll {
		t.Errorf("of 128 packets to the peer that lives %d are refused, %d wait", refused, r.pending.Load())
	}
	if flushed[dead] != 1 {
		t.Errorf("what waits for a dead peer is dropped %d times", flushed[dead])
	}
}

func TestUpdateKeepsWhatIsKnown(t *testing.T) {
	r := newRouter()
	r.update([]wire.PeerStatus{peerOf(1, "fd01::/64"), peerOf(2, "fd02::/64"), peerOf(3, "fd03::/64")})
	now := time.Unix(1000, 0)
	second, _ := r.admit(packetTo("fd02::1"), now)
	two := second.peer
	r.sent(two)
	admitAll(r, packetTo("fd01::1"), 5, now)
	r.update([]wire.PeerStatus{peerOf(4, "fd04::/64"), peerOf(2, "fd01::/64")})
	if w, _ := r.admit(packetTo("fd01::1"), now); w.peer != two {
		t.Errorf("a peer that stays moves from %d to %d", two, w.peer)
	}
	if !r.table.Load().queues[two].live.Load() {
		t.Error("its session is forgotten")
	}
	if r.pending.Load() != 1 {
		t.Errorf("%d waiting: want 1, without those of peers that went", r.pending.Load())
	}
	for _, gone := range []string{"fd02::1", "fd03::1"} {
		if w, ok := r.admit(packetTo(gone), now); w.peer != noPeer || !ok {
			t.Errorf("%s belongs to %d", gone, w.peer)
		}
	}
	r.sent(99) // of a peer that went
	r.sent(noPeer)
}

// TestDroppedPacketsWaitNoMore: those that the device threw away make room, but for those already replaced.
func TestDroppedPacketsWaitNoMore(t *testing.T) {
	r := newRouter()
	r.update([]wire.PeerStatus{peerOf(1, "fd00::/64")})
	now, packet := time.Unix(1000, 0), packetTo("fd00::9")
	first, _ := r.admit(packet, now)
	admitAll(r, packet, 10000, now)
	for range 5 {
		r.dropped(first)
	}
	if got := admitAll(r, packet, 10000, now); got != 5 {
		t.Errorf("after 5 were dropped %d are admitted", got)
	}
	now = now.Add(flushEvery)
	admitAll(r, packet, 10000, now)
	for range 100 {
		r.dropped(first) // their buffers come back only now
	}
	if got := admitAll(r, packet, 10000, now); got != 0 {
		t.Errorf("after those replaced came back %d are admitted", got)
	}
	second, _ := r.admit(packet, now.Add(flushEvery))
	for range 100 {
		r.dropped(second)
	}
	r.dropped(turn{peer: 99})
	if r.pending.Load() != 0 || r.table.Load().queues[0].since.Load() != 0 {
		t.Errorf("%d wait", r.pending.Load())
	}
}

// TestRouterFindsTheLongest compares with a plain search.
func TestRouterFindsTheLongest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		owner := make(map[netip.Prefix]byte)
		addr := rapid.Custom(func(t *rapid.T) netip.Addr {
			b := [16]byte{0: 0xfd}
			b[1], b[14], b[15] = rapid.Byte().Draw(t, "b")&1, rapid.Byte().Draw(t, "b")&3, rapid.Byte().Draw(t, "b")&3
			return netip.AddrFrom16(b)
		})
		for range rapid.IntRange(0, 20).Draw(t, "prefixes") {
			bits := rapid.SampledFrom([]int{0, 8, 16, 112, 118, 119, 120, 126, 127, 128}).Draw(t, "bits")
			prefix, err := addr.Draw(t, "address").Prefix(bits)
			if err != nil {
				t.Fatal(err)
			}
			owner[prefix] = byte(rapid.IntRange(1, 4).Draw(t, "peer"))
		}
		byPeer := make(map[byte]wire.PeerStatus)
		for prefix, n := range owner {
			p := byPeer[n]
			p.PublicKey = wire.PublicKey{n}
			p.AllowedIPs = append(p.AllowedIPs, prefix)
			byPeer[n] = p
		}
		var peers []wire.PeerStatus
		for _, p := range byPeer {
			peers = append(peers, p)
		}
		r := newRouter()
		r.update(peers)
		dst := addr.Draw(t, "destination")
		var want byte
		longest := -1
		for prefix, n := range owner {
			if prefix.Contains(dst) && prefix.Bits() > longest {
				want, longest = n, prefix.Bits()
			}
		}
		var got byte
		if w, _ := r.admit(packetTo(dst.String()), time.Now()); w.peer != noPeer {
			got = r.table.Load().queues[w.peer].key[0]
		}
		if got != want {
			t.Fatalf("%s is of peer %d: want %d", dst, got, want)
		}
	})
}

func TestLimiter(t *testing.T) {
	l := &limiter{last: make(map[string]*kind)}
	now := time.Unix(1000, 0)
	for i, c := range []struct {
		kind       string
		after      time.Duration
		suppressed int
		ok         bool
	}{
		{"a", 0, 0, true}, {"a", 1, 0, false}, {"b", 1, 0, true}, {"a", logEvery - 1, 0, false},
		{"a", logEvery, 2, true}, {"a", 2 * logEvery, 0, true},
	} {
		if suppressed, ok := l.allow(c.kind, now.Add(c.after)); suppressed != c.suppressed || ok != c.ok {
			t.Errorf("line %d: %d, %v: want %d, %v", i, suppressed, ok, c.suppressed, c.ok)
		}
	}
	for i := range 10 * maxKinds {
		l.allow(fmt.Sprint(i), now)
	}
	if len(l.last) > maxKinds {
		t.Errorf("%d kinds are remembered", len(l.last))
	}
}

func TestDeviceLog(t *testing.T) {
	var text strings.Builder
	l := deviceLog(slog.New(slog.NewTextHandler(&text, nil)))
	for range 1000 {
		l.Errorf("peer %d is %s", 1, "late")
		l.Verbosef("nothing %d", 1)
	}
	if got := text.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "peer 1 is late") {
		t.Errorf("log is\n%s", got)
	}
}

func TestConcerns(t *testing.T) {
	message := func(kind uint16, index uint32) []byte {
		b := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg+3)
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(b, make([]byte, 10+4)...)
		b = binary.NativeEndian.AppendUint32(b, index)
		return append(b, make([]byte, 8+4)...) // 3 bytes of attributes, 1 of padding
	}
	mine, other := message(unix.RTM_NEWLINK, 7), message(unix.RTM_NEWLINK, 8)
	for name, c := range map[string]struct {
		messages []byte
		want     bool
	}{
		"mine":           {mine, true},
		"deleted":        {message(unix.RTM_DELLINK, 7), true},
		"other":          {other, false},
		"an address":     {message(unix.RTM_NEWADDR, 7), false},
		"mine is second": {append(append([]byte(nil), other...), mine...), true},
		"cut":            {mine[:20], false},
		"none":           {nil, false},
		"length of zero": {make([]byte, 64), false},
	} {
		if got := concerns(c.messages, 7); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
