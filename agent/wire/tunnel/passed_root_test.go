package tunnel_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/internal/tunneltest"
	"github.com/culvert-net/culvert/internal/netlab"
)

// tenants gives two nodes a workload's address each, which is the one that tests use from then on.
func tenants(t testing.TB, a, b *tunneltest.Node) {
	t.Helper()
	nodes := [2]*tunneltest.Node{a, b}
	for i, n := range nodes {
		own := netip.AddrFrom16([16]byte{0: 0xfd, 7: byte(i + 1), 11: 5})
		n.Exec("ip", "-6", "addr", "add", own.String()+"/128", "dev", n.Config.Interface, "nodad")
		n.Exec("ip", "-6", "route", "add", fmt.Sprintf("fd00:0:0:%d::/64", 2-i), "dev", n.Config.Interface, "src", own.String())
		n.Namespace.AwaitAddress(own)
		n.Overlay = own
	}
	for i, n := range nodes {
		allow(t, n, nodes[1-i])
	}
}

// allow has a node let its peer speak for its VPC.
func allow(t testing.TB, n, peer *tunneltest.Node) {
	t.Helper()
	p := n.Status(peer).Peer
	vpc, _ := peer.Overlay.Prefix(64)
	p.AllowedIPs = append(p.AllowedIPs, vpc)
	if err := n.Device.Apply(t.Context(), wire.Change{Update: []wire.Peer{p}}); err != nil {
		t.Fatal(err)
	}
}

// passedTo is what a node has counted for its only peer.
func passedTo(t *testing.T, n *tunneltest.Node) wire.Passage {
	t.Helper()
	out, err := n.Device.Passages(t.Context(), func(wire.PublicKey) string { return "" })
	if err != nil || len(out) != 1 {
		t.Fatalf("%+v, %v: want one peer", out, err)
	}
	return out[0]
}

// lostBetween is what is lost on the way from one node to the other, since both began to count.
func lostBetween(t *testing.T, from, to *tunneltest.Node) int64 {
	t.Helper()
	return int64(passedTo(t, from).Given) - int64(passedTo(t, to).Came)
}

const large = 900 // bytes of datagrams that the underlay of TestLostIsGivenLessCame does not carry

// lossy is two nodes and what is known to be lost between them, from the first to the second and back.
type lossy struct {
	t    *testing.T
	a, b *tunneltest.Node
	lost [2]int64
}

func (x *lossy) now() [2]int64 {
	return [2]int64{lostBetween(x.t, x.a, x.b), lostBetween(x.t, x.b, x.a)}
}

// loses demands that so many more are lost.
func (x *lossy) loses(what string, there, back int64) {
	x.t.Helper()
	x.lost = [2]int64{x.lost[0] + there, x.lost[1] + back}
	defer func() {
		if x.t.Failed() {
			x.t.Logf("%s: lost %v, want %v", what, x.now(), x.lost)
		}
	}()
	netlab.Eventually(x.t, 30*time.Second, func() bool { return x.now() == x.lost }, what+": what is lost is what was dropped")
}

// settle waits until both ends have a session by which they send and nothing is on its way. What was lost until then, for want of
// a session, is known from then on.
func (x *lossy) settle(what string) {
	x.t.Helper()
	for from, to := range map[*tunneltest.Node]*tunneltest.Node{x.a: x.b, x.b: x.a} {
		echo := to.Echo()
		netlab.Eventually(x.t, 15*time.Second, func() bool { return from.Reach(echo, 64, 200*time.Millisecond*netlab.Slowness()) }, what+": traffic")
	}
	last, since := x.now(), time.Now()
	given := passedTo(x.t, x.a)
	netlab.Eventually(x.t, 30*time.Second, func() bool {
		if now, g := x.now(), passedTo(x.t, x.a); now != last || g != given {
			last, given, since = now, g, time.Now()
		}
		return time.Since(since) > time.Second
	}, what+": the tunnels are quiet")
	if last[0] < x.lost[0] || last[1] < x.lost[1] {
		x.t.Errorf("%s: lost %v, and before it were %v", what, last, x.lost)
	}
	x.lost = last
}

// round sends datagrams to somebody who does not answer, of which some are dropped.
func (x *lossy) round(what string, to netip.AddrPort) {
	x.t.Helper()
	x.settle(what)
	before := passedTo(x.t, x.a).Given
	sendMany(x.t, x.a, to, 30, 100)
	x.loses(what, 0, 0)
	x.b.Exec("nft", "add rule inet lossy in udp dport 51820 meta length > 800 drop")
	sendMany(x.t, x.a, to, 20, large)
	x.loses(what, 20, 0)
	x.b.Exec("nft", "flush chain inet lossy in")
	if given := passedTo(x.t, x.a).Given - before; given != 50 {
		x.t.Errorf("%s: %d given, 50 were sent", what, given)
	}
}

// TestLostIsGivenLessCame drops packets on the underlay while tunnels are replaced and killed: what one node gave for the other, less what
// the other has from it, is what was dropped, to the packet.
func TestLostIsGivenLessCame(t *testing.T) {
	a, b := tunneltest.Pair(t, false, nil)
	tenants(t, a, b)
	x := &lossy{t: t, a: a, b: b}
	sink := b.UDP(netip.AddrPort{})
	defer sink.Close()
	to := sink.LocalAddr().(*net.UDPAddr).AddrPort()
	b.Exec("nft", "add table inet lossy; add chain inet lossy in { type filter hook input priority 0; }")
	x.round("at first", to)
	epochs := [2]wire.Epoch{passedTo(t, a).Epoch, passedTo(t, b).Epoch}
	for what, n := range map[string]*tunneltest.Node{"the sender is replaced": a, "the receiver is replaced": b} {
		if err := n.Device.Upgrade(t.Context()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		x.round(what, to)
	}
	for what, n := range map[string]*tunneltest.Node{"the sender is killed": a, "the receiver is killed": b} {
		other := map[*tunneltest.Node]*tunneltest.Node{a: b, b: a}[n]
		peer, before := n.Status(other).Peer, passedTo(t, n)
		n.Kill()
		if dead := passedTo(t, n); dead != before {
			t.Errorf("%s: %+v, and it was %+v", what, dead, before)
		}
		n.Start()
		n.Feed(peer)
		if after := passedTo(t, n); after.Epoch != before.Epoch || after.Given < before.Given || after.Came < before.Came {
			t.Errorf("%s: once it runs again: %+v, and it was %+v", what, after, before)
		}
		if err := n.Device.Kick(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.round(what, to)
	}
	if now := [2]wire.Epoch{passedTo(t, a).Epoch, passedTo(t, b).Epoch}; now != epochs {
		t.Errorf("epochs were %v and are %v", epochs, now)
	}
	x.settle("at the end")
	transfer(t, a, b, 1<<20) // joined segments count as those that they are, at both ends
	datagrams(t, a, b, 200, 1200)
	x.loses("joined packets", 0, 0)
	x.crowd(to)
	x.forge()
}

// crowd sends more than a queue of the interface has room for while nobody reads it: what the kernel drops there was given, too.
func (x *lossy) crowd(to netip.AddrPort) {
	x.t.Helper()
	const crowd = 2000 // twice as many
	before := passedTo(x.t, x.a).Given
	_, dropped := queued(x.t, x.a)
	if err := x.a.Process.Signal(unix.SIGSTOP); err != nil {
		x.t.Fatal(err)
	}
	netlab.Eventually(x.t, 10*time.Second, func() bool { return stopped(x.t, x.a.Process.Pid()) }, "the tunnel stands still")
	sendMany(x.t, x.a, to, crowd, 100)
	if err := x.a.Process.Signal(unix.SIGCONT); err != nil {
		x.t.Fatal(err)
	}
	_, now := queued(x.t, x.a)
	if now -= dropped; now < crowd/4 {
		x.t.Fatalf("the interface dropped %d of %d", now, crowd)
	}
	x.loses("more than a lane has room for", int64(now), 0)
	if given := passedTo(x.t, x.a).Given - before; given != crowd {
		x.t.Errorf("%d were given of a crowd of %d", given, crowd)
	}
}

// stopped reports whether all threads of a process stand still: the signal only asks one of them.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads of %d: %d, %v", pid, len(threads), err)
	}
	return !slices.ContainsFunc(threads, func(path string) bool {
		text, err := os.ReadFile(path)
		_, state, _ := strings.Cut(string(text), ") ") // the name before may have anything in it
		return err == nil && !strings.HasPrefix(state, "T")
	})
}

func sendMany(t *testing.T, from *tunneltest.Node, to netip.AddrPort, count, size int) {
	t.Helper()
	c := from.UDP(to)
	defer c.Close()
	for range count {
		if _, err := c.Write(make([]byte, size)); err != nil && !errors.Is(err, unix.ENOBUFS) {
			t.Fatal(err)
		}
	}
}

// forge has the second node send from an address that is not its own: its tunnel takes that, and the other one hands nothing of it on.
func (x *lossy) forge() {
	x.t.Helper()
	forged := netip.MustParseAddr("fd00:0:0:7::7")
	x.b.Exec("ip", "-6", "addr", "add", forged.String()+"/128", "dev", x.b.Config.Interface, "nodad")
	x.b.Namespace.AwaitAddress(forged)
	sink := x.a.UDP(netip.AddrPort{})
	defer sink.Close()
	to := sink.LocalAddr().(*net.UDPAddr).AddrPort()
	c := x.b.UDPAt(forged, to)
	defer c.Close()
	came := passedTo(x.t, x.a).Came
	for range 5 {
		if _, err := c.Write([]byte("x")); err != nil {
			x.t.Fatal(err)
		}
	}
	sendMany(x.t, x.b, to, 1, 100) // comes behind them
	x.loses("a source that is not the peer's", 0, 5)
	if now := passedTo(x.t, x.a).Came; now != came+1 {
		x.t.Errorf("%d came, one has the peer's source", now-came)
	}
}
