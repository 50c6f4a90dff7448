package tunnel

import (
	"net/netip"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/wire"
)

// counted has the peers of a router counted, and returns what counts by key.
func counted(t *testing.T, r *router) func() map[wire.PublicKey]wire.Passage {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "sock")
	f, err := wire.CountPassages(socket, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r.assign = (&passes{file: f}).assign
	r.assign(r.table.Load())
	return func() map[wire.PublicKey]wire.Passage {
		t.Helper()
		list, err := wire.NewUAPI(socket).Passages(t.Context(), func(wire.PublicKey) string { return "" })
		if err != nil {
			t.Fatal(err)
		}
		out := map[wire.PublicKey]wire.Passage{}
		for _, p := range list {
			out[p.Key] = p
		}
		return out
	}
}

// tenant is an address in the VPC that is all behind one peer of proberOf: number 1 behind the first.
func tenant(peer byte) netip.Addr { return netip.AddrFrom16([16]byte{0: 0xfd, 7: peer, 11: 5}) }

// Packets of workloads are counted as given whatever becomes of them: dropped because the peer has no room, or for want of a session.
// Those between nodes are not.
func TestWhatIsDroppedWasGiven(t *testing.T) {
	x := newLanesTo(t, 2, 2)
	passed := counted(t, x.dst)
	one, two := x.peers[0].key, x.peers[1].key
	x.flood(1, 1) // of the node itself
	x.late(1)
	if p := passed()[one]; p.Given != 0 {
		t.Errorf("packets of the node itself are counted: %+v", p)
	}
	x.send(1, tenant(1), 3)
	x.send(1, tenant(2), 2)
	x.send(1, tenant(9), 1) // to nobody
	if got := x.got(); len(got) != 1 || got[[2]int{1, 0}] != 3 {
		t.Errorf("%v is read", got)
	}
	if full := x.iface.full.Load(); full != 3 {
		t.Errorf("%d packets were dropped, want 3", full)
	}
	if p := passed(); p[one].Given != 3 || p[two].Given != 2 || len(p) != 2 {
		t.Errorf("%+v", p)
	}

	f := newFlow(1420)
	f.dst = x.dst
	ready := make(chan struct{})
	close(ready)
	g := &gatedTun{Device: x.iface, f: f, link: &linkWatch{done: make(chan struct{})},
		bind: &gatedBind{udpBind: newUDPBind(nil), f: f, probes: x.probes, ready: ready}}
	const sent = budgetMax + 20
	x.send(0, tenant(2), sent)
	for n, err := 1, error(nil); n > 0; { // probes are among them
		x.iface.wake()
		if n, err = g.Read(x.bufs, x.sizes, 16); err != nil {
			t.Fatal(err)
		}
	}
	if f.dst.refused.Load() == 0 {
		t.Errorf("all of %d packets to a peer without session are admitted", sent)
	}
	if p := passed()[two]; p.Given != 2+sent || p.Came != 0 {
		t.Errorf("%+v: want %d given", p, 2+sent)
	}
}

// Packets that the interface took are counted for the peer whose source they have, each of those that went as one; others are not, nor
// those that it did not take.
func TestWhatIsWrittenCame(t *testing.T) {
	iface, kernel := pipeTun(t)
	iface.wr.join, iface.wr.step = joiner{udp: true}, iface.writeStep
	p := proberOf(t, 2)
	passed := counted(t, p.dst)
	iface.came = (&arrivals{dst: p.dst}).came
	from := func(src netip.Addr, seq uint32) []byte {
		packet := makePacket(flowSpec{proto: unix.IPPROTO_TCP}, 0, seq, flagACK, make([]byte, 100))
		copy(packet[8:], src.AsSlice())
		setChecksum(packet, unix.IPPROTO_TCP)
		return append(make([]byte, vnetLen), packet...)
	}
	write := func(src netip.Addr, packets int) (n int) {
		t.Helper()
		var bufs [][]byte
		for i := range packets {
			bufs = append(bufs, from(src, uint32(100*i)))
		}
		n, _ = iface.Write(bufs, vnetLen)
		return n
	}
	buf, joined := make([]byte, 1<<16), 0
	write(tenant(1), 5)
	write(tenant(2), 1)
	write(netip.MustParseAddr("fd00::1"), 4) // a node
	write(tenant(9), 3)                      // nobody's
	for n, err := unix.Read(kernel, buf); n > 0 && err == nil; n, err = unix.Read(kernel, buf) {
		joined++
	}
	if joined != 4 {
		t.Errorf("the kernel got %d, want one a call", joined)
	}
	want := func(one, two uint64) {
		t.Helper()
		got := passed()
		if got[wire.PublicKey{1}].Came != one || got[wire.PublicKey{2}].Came != two || got[wire.PublicKey{1}].Given != 0 {
			t.Errorf("%+v: want %d and %d", got, one, two)
		}
	}
	want(5, 1)
	p.dst.update(nil) // a peer that is gone, and comes back
	write(tenant(1), 1)
	want(5, 1)
	again := proberOf(t, 2)
	again.dst.assign = p.dst.assign
	again.dst.assign(again.dst.table.Load())
	iface.came = (&arrivals{dst: again.dst}).came
	write(tenant(1), 1)
	want(6, 1)
	unix.Close(kernel)
	if n := write(tenant(1), 3); n != 0 {
		t.Errorf("%d packets were written to nobody", n)
	}
	want(6, 1)
}

// Nothing is read or written while the process is replaced: else it would be in no count.
func TestFrozenInterface(t *testing.T) {
	x := newLanesTo(t, 1, 1)
	passed := counted(t, x.dst)
	thaw := x.iface.freeze()
	x.send(0, tenant(1), 1)
	read := make(chan int)
	go func() {
		x.iface.wake()
		n, _ := x.iface.Read(x.bufs, x.sizes, 0)
		read <- n
	}()
	buf := make([]byte, 4096)
	if n, err := unix.Read(x.iface.in.all[0].fd, buf); n <= 0 {
		t.Errorf("the packet was read: %d, %v", n, err)
	}
	if p := passed()[x.peers[0].key]; p.Given != 0 {
		t.Errorf("%+v", p)
	}
	thaw()
	x.send(0, tenant(1), 2)
	total := <-read
	for total < 2 {
		x.iface.wake()
		n, err := x.iface.Read(x.bufs, x.sizes, 0)
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if p := passed()[x.peers[0].key]; p.Given != 2 {
		t.Errorf("%+v: want 2 given", p)
	}
}
