package tunnel

import (
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/wire"
)

// pipeTun is an interface of one lane whose kernel's side is the socket returned.
func pipeTun(t *testing.T) (*vnetTun, int) {
	t.Helper()
	iface, kernel := pipeLanes(t, 1)
	return iface, kernel[0]
}

// pipeLanes is one of several.
func pipeLanes(t *testing.T, lanes int) (iface *vnetTun, kernel []int) {
	t.Helper()
	var own []int
	for range lanes {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		own, kernel = append(own, fds[0]), append(kernel, fds[1])
	}
	iface = &vnetTun{name: "pipe", file: os.NewFile(uintptr(own[0]), "pipe")}
	var err error
	if iface.raw, err = iface.file.SyscallConn(); err != nil {
		t.Fatal(err)
	}
	if iface.in, err = newQueues(own); err != nil {
		t.Fatal(err)
	}
	iface.rd.buf, iface.rd.step = make([]byte, readLen), iface.readStep
	t.Cleanup(func() {
		iface.Close()
		closeFiles(kernel)
	})
	return iface, kernel
}

// A peer whose probes wake the reader all the time keeps nobody's packets in the interface.
func TestPacketsAreReadBetweenProbes(t *testing.T) {
	iface, kernel := pipeTun(t)
	bufs, sizes := make([][]byte, 128), make([]int, 128)
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	for round := range 10 {
		if _, err := unix.Write(kernel, make([]byte, vnetLen+100)); err != nil {
			t.Fatal(err)
		}
		iface.wake()
		if n, err := iface.Read(bufs, sizes, 16); n != 1 || err != nil || sizes[0] != 100 {
			t.Fatalf("round %d: %d packets, %v: want one of 100 bytes", round, n, err)
		}
	}
	iface.wake()
	if n, err := iface.Read(bufs, sizes, 16); n != 0 || err != nil {
		t.Fatalf("%d packets, %v: want none, at once", n, err)
	}
}

const maxProbed = 8920 // the tunnel's MTU

// proberOf has the peers given, at fd00::1 and so on; it is fd00::100 itself.
func proberOf(t *testing.T, peers int) *prober {
	t.Helper()
	r := newRouter()
	var list []wire.PeerStatus
	for i := range peers {
		a := netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i + 1)})
		p := wire.PeerStatus{}
		p.PublicKey = wire.PublicKey{byte(i + 1)}
		p.AllowedIPs = []netip.Prefix{netip.PrefixFrom(a, 128), netip.PrefixFrom(tenant(byte(i+1)), 64).Masked()}
		p.Underlay = netip.MustParseAddrPort("192.0.2.1:51820")
		list = append(list, p)
	}
	r.update(list)
	p := newProber(r, func() (int, error) { return maxProbed, nil }, func() {}, slog.New(slog.DiscardHandler))
	if err := p.setSelf(netip.MustParseAddr("fd00::100")); err != nil {
		t.Fatal(err)
	}
	return p
}

// A peer that asks without end gets as many answers as a round may have, and takes no other peer's place.
func TestAFloodOfQuestions(t *testing.T) {
	p := proberOf(t, 2)
	hostile, other := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	b := make([]byte, helloSize)
	flood := func(from netip.Addr, n int) {
		for seq := range n {
			probe{from: from, to: p.self, kind: probeAsk, size: helloSize, seq: uint32(seq)}.put(b)
			p.hear(b)
		}
	}
	count := func(to netip.Addr, kind uint8) (n int) {
		for _, x := range p.queued {
			if x.to == to && x.kind == kind {
				n++
			}
		}
		return n
	}
	flood(hostile, 2*maxQueued)
	flood(other, 3)
	p.look(time.Now())
	if n := count(other, probeAnswer); n != 3 {
		t.Errorf("%d answers to the other peer, want 3", n)
	}
	for _, to := range []netip.Addr{hostile, other} {
		if n := count(to, probeAsk); n == 0 {
			t.Errorf("%s is asked nothing", to)
		}
	}
	if n := count(hostile, probeAnswer); n < ladder+len(landmarks)+1 {
		t.Errorf("%d answers to a round", n)
	}
	bufs, sizes, seqs := make([][]byte, 4096), make([]int, 4096), make([]uint32, 4096)
	for i := range bufs {
		bufs[i] = make([]byte, maxProbed)
	}
	p.fill(bufs, sizes, 0, seqs)
	if len(p.answering) != 0 {
		t.Errorf("%d peers are still being answered after all was sent", len(p.answering))
	}
	flood(hostile, 1)
	if n := count(hostile, probeAnswer); n != 1 {
		t.Errorf("%d answers after the flood, want 1", n)
	}
}

// wireEnd is the network as a prober meets it: everybody is at one address.
type wireEnd struct {
	p    *prober
	now  time.Time
	at   netip.AddrPort
	buf  []byte
	sent int // bytes of questions as datagrams
	last uint32
}

// round lets time pass and returns the numbers of the questions that went out.
func (w *wireEnd) round() (asked []uint32) {
	w.now = w.now.Add(silenceMax)
	w.p.look(w.now)
	sizes, seqs := make([]int, 1), make([]uint32, 1)
	for w.p.fill([][]byte{w.buf}, sizes, 0, seqs) > 0 {
		size := 32 + sizes[0]
		if seqs[0] != 0 && w.p.asks(w.p.dst.table.Load().lookup([16]byte(w.buf[24:40])), seqs[0], w.at, size) {
			w.sent += size + 28
			w.last = seqs[0]
			asked = append(asked, seqs[0])
		}
	}
	return asked
}

// answer comes from fd00::1 and returns its bytes as a datagram.
func (w *wireEnd) answer(seq uint32) int {
	b := make([]byte, helloSize)
	probe{from: netip.MustParseAddr("fd00::1"), to: w.p.self, kind: probeAnswer, size: maxProbed, seq: seq}.put(b)
	w.p.hear(b)
	return len(b) + 32 + 28
}

// A peer that lets its packets come from a stranger's address has that stranger flooded by nobody: it gets no more than thrice the
// bytes that were sent in its name, whatever the peer pretends to have got there.
func TestAStrangerIsNotFlooded(t *testing.T) {
	w := wireEnd{p: proberOf(t, 1), now: time.Now(), at: netip.MustParseAddrPort("192.0.2.1:1"), buf: make([]byte, maxProbed)}
	for range 4 {
		for _, seq := range w.round() {
			w.answer(seq)
		}
	}
	if known := w.p.known(); len(known.MTU) != 1 {
		t.Fatalf("the peer is not measured: %v, after %d bytes", known, w.sent)
	}
	w.at, w.sent = netip.MustParseAddrPort("198.51.100.1:1"), 0
	w.p.mu.Lock()
	for _, x := range w.p.paths {
		x.pathMTU.mtu, x.raiseAt = floorMTU, w.now // a search is due
	}
	w.p.mu.Unlock()
	received := 0
	for range 100 {
		before := w.last
		w.round()
		for i := range uint32(3) { // guesses at what was asked
			received += w.answer(before + i + 1)
		}
	}
	if w.sent == 0 || w.sent > 3*received || w.sent > 100*(helloSize+60)*2 {
		t.Errorf("%d bytes were sent to a stranger, for %d in its name", w.sent, received)
	}
	w.sent = 0
	for range 6 { // it is the peer, after all
		for _, seq := range w.round() {
			w.answer(seq)
		}
	}
	if known := w.p.known(); w.sent < maxProbed || slices.Collect(maps.Values(known.MTU))[0] != maxProbed {
		t.Errorf("an address that answers is not measured: %v, %d bytes", known, w.sent)
	}
}
