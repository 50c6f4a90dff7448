package tunnel

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lanesTo is an interface with lanes whose packets go to peers that fd00::1 and so on are, which have room for leastRoom each.
type lanesTo struct {
	t      *testing.T
	iface  *vnetTun
	kernel []int
	probes *prober
	dst    *router
	peers  []*queue
	bufs   [][]byte
	sizes  []int
}

func newLanesTo(t *testing.T, lanes, peers int) *lanesTo {
	x := &lanesTo{t: t, bufs: make([][]byte, 128), sizes: make([]int, 128)}
	x.iface, x.kernel = pipeLanes(t, lanes)
	p := proberOf(t, peers)
	p.wake = x.iface.wake
	d := &debtor{probes: p}
	x.iface.owes, x.iface.told = d.sends, d.tell
	x.probes, x.dst = p, p.dst
	x.peers = p.dst.table.Load().queues
	now := time.Now()
	for _, q := range x.peers {
		q.window.answer(q.window.set(now), 1, now.Add(time.Microsecond))
		q.window.timer = time.AfterFunc(time.Hour, func() {}) // time passes when the test says so
	}
	for i := range x.bufs {
		x.bufs[i] = make([]byte, 2048)
	}
	return x
}

// put has the kernel put packets to a peer into a lane. They carry the lane.
func (x *lanesTo) put(lane, peer, packets int) {
	x.t.Helper()
	x.send(lane, netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(peer)}), packets)
}

// send has it put packets to an address into a lane.
func (x *lanesTo) send(lane int, to netip.Addr, packets int) {
	x.t.Helper()
	b := make([]byte, vnetLen+1280)
	ip := b[vnetLen:]
	ip[0], ip[ip6Len] = 0x60, byte(lane)
	copy(ip[24:], to.AsSlice())
	for range packets {
		if _, err := unix.Write(x.kernel[lane], b); err != nil {
			x.t.Fatal(err)
		}
	}
}

// got is how many packets are read of each lane to each peer, in one call, which is woken if it waits.
func (x *lanesTo) got() map[[2]int]int {
	x.t.Helper()
	x.iface.wake()
	n, err := x.iface.Read(x.bufs, x.sizes, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	got := map[[2]int]int{}
	for i := range n {
		got[[2]int{int(x.bufs[i][ip6Len]), int(x.bufs[i][39])}]++
	}
	return got
}

// flood has a lane send to a peer until the lane waits for it.
func (x *lanesTo) flood(lane, peer int) {
	x.t.Helper()
	for range leastRoom / 1280 {
		if x.iface.in.all[lane].held != nil {
			return
		}
		x.put(lane, peer, 1)
		x.got()
	}
	x.t.Fatal("the lane does not wait")
}

// late lets a peer's window stand closed for as long as lanes wait for it.
func (x *lanesTo) late(peer int) {
	w := &x.peers[peer-1].window
	w.mu.Lock()
	since := w.closing
	w.lent, w.lentAt = lendMost, since
	w.mu.Unlock()
	w.late(since.Add(lanesWait))
}

// A peer whose window is full, and which says nothing, keeps what nodes tell each other from nobody, nor what another account
// sends; who filled the window waits, and then loses what is for that peer and nothing else.
func TestAFullWindowHoldsWhoFilledIt(t *testing.T) {
	x := newLanesTo(t, 3, 2)
	x.flood(1, 1)
	for lane := range 3 {
		x.put(lane, 1, 2)
		x.put(lane, 2, 1)
	}
	if got := x.got(); got[[2]int{0, 1}] != 2 || got[[2]int{0, 2}] != 1 {
		t.Errorf("of what nodes tell each other is read: %v", got)
	} else if got[[2]int{2, 1}] != 2 || got[[2]int{2, 2}] != 1 {
		t.Errorf("of another account's is read: %v", got)
	} else if len(got) != 4 {
		t.Errorf("who filled the window does not wait: %v", got)
	}
	x.late(1)
	if got := x.got(); got[[2]int{1, 2}] != 1 || len(got) != 1 || x.iface.full.Load() != 2 {
		t.Errorf("of who filled the window is read: %v, and %d packets dropped", got, x.iface.full.Load())
	}
}

// A flood to a peer that says nothing is dropped, and meanwhile the reader comes back to what probes have to say.
func TestDroppedFloodKeepsNoReader(t *testing.T) {
	x := newLanesTo(t, 2, 1)
	x.flood(1, 1)
	x.late(1)
	const flood = 2 * readMore
	x.put(1, 1, flood)
	if got := x.got(); len(got) != 0 {
		t.Errorf("%v is read of what is to be dropped", got)
	}
	if n := x.iface.full.Load(); n <= readMore/2 || n >= flood {
		t.Errorf("one call dropped %d packets of %d", n, flood)
	}
	x.got()
	if n := x.iface.full.Load(); n != flood {
		t.Errorf("%d packets of %d were dropped", n, flood)
	}
}
