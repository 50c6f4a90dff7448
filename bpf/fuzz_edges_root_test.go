package bpf

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/bpf/internal/frame"
)

// The two programs that make nothing of a packet: the guard in front of the tunnel and the limit of queries at the resolver's
// socket. FuzzFromWorkload and the others have those that do.

// loadQueries loads the limit of queries: one each interval, and as many at once as fit into burst.
func loadQueries(t testing.TB, interval, burst time.Duration) *ebpf.Collection {
	t.Helper()
	needRoot(t)
	spec, err := LoadQueries()
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]time.Duration{"query_interval": interval, "query_burst": burst} {
		if err := spec.Variables[name].Set(uint64(value)); err != nil {
			t.Fatal(err)
		}
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("load: %+v", err)
	}
	t.Cleanup(coll.Close)
	return coll
}

// edges are packets that mean something, and what is left when they are cut; that is not said to be IPv6.
func edges() (packets [][]byte) {
	for _, p := range []frame.Packet{
		frame.TCP(cart+":40000", shelf+":80", frame.SYN), frame.UDP(cart+":40000", shelf+":53"),
	} {
		whole := p.Between(mesh, consumer, 0, consumer, 0).Overlay()
		packets = append(packets, whole)
		for _, size := range []int{14 + 40, 14 + 24, 14 + 23, 14 + 1} {
			cut := slices.Clone(whole[:size])
			packets = append(packets, append(cut[:12:12], append([]byte{0x88, 0xb5}, cut[14:]...)...))
		}
	}
	return packets
}

// longestRun is how much of a packet a test run takes, with what the kernel needs besides.
const longestRun = 2000

// FuzzGuard: whatever the packet is, it passes with the mark of a lane and only with such, unchanged; and each that does not is
// counted.
func FuzzGuard(f *testing.F) {
	const skbLen, skbMark = 192, 8 // struct __sk_buff
	n := newNode(f, 1)
	for i, data := range edges() {
		f.Add(uint32(TunnelMark)^uint32(i), data)
		f.Add(uint32(i), data)
	}
	f.Fuzz(func(t *testing.T, mark uint32, data []byte) {
		if len(data) <= 14 || len(data) > longestRun || short(data) {
			return
		}
		n.t = t
		ctx := make([]byte, skbLen)
		binary.NativeEndian.PutUint32(ctx[skbMark:], mark)
		refused := n.counter(0, HookHost, ReasonHostNotAdmitted).Packets
		r := n.run(ABIProgGuard, slices.Clone(data), ctx)
		want, kept := uint32(actOK), uint64(0)
		if mark^uint32(TunnelMark) >= uint32(Lanes) {
			want, kept = actShot, 1
		}
		if r.verdict != want || !bytes.Equal(r.frame, data) {
			t.Errorf("mark %#x: verdict %d, want %d; the packet is the same: %t", mark, r.verdict, want, bytes.Equal(r.frame, data))
		}
		if got := n.counter(0, HookHost, ReasonHostNotAdmitted).Packets - refused; got != kept {
			t.Errorf("mark %#x: %d packets are counted as refused, want %d", mark, got, kept)
		}
	})
}

// short: the kernel's test run refuses frames that say that they are of IP and hold no header.
func short(data []byte) bool {
	switch binary.BigEndian.Uint16(data[12:]) {
	case 0x0800:
		return len(data) < 14+20
	case 0x86dd:
		return len(data) < 14+40
	}
	return false
}

// FuzzLimitQueries: a source gets as many datagrams into the queue as its burst has, whatever they are, and takes nothing of what
// another has; what is too short to have a source is left to the server.
func FuzzLimitQueries(f *testing.F) {
	const sourceAt, burst = 14 + 8, 3
	coll := loadQueries(f, time.Hour, burst*time.Hour)
	run := func(t *testing.T, data []byte) bool {
		t.Helper()
		kept, err := coll.Programs[QueriesProgLimitQueries].Run(&ebpf.RunOptions{Data: data})
		if err != nil {
			t.Fatal(err)
		}
		return kept != 0
	}
	for _, data := range edges() {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) <= 14 || len(data) > longestRun || short(data) {
			return
		}
		if len(data) < sourceAt+16 {
			for range burst + 2 {
				if !run(t, data) {
					t.Fatal("a datagram without a source is dropped")
				}
			}
			return
		}
		other := slices.Clone(data)
		other[sourceAt+15] ^= 1
		for _, packet := range [][]byte{data, other} {
			defer coll.Maps["query_full"].Delete(packet[sourceAt : sourceAt+16])
		}
		for i := range burst + 2 {
			if kept := run(t, data); kept != (i < burst) {
				t.Fatalf("datagram %d of a source is kept: %t", i, kept)
			}
		}
		for i := range burst + 1 {
			if kept := run(t, other); kept != (i < burst) {
				t.Fatalf("datagram %d of another source is kept: %t", i, kept)
			}
		}
	})
}
