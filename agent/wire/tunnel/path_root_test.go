package tunnel_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/internal/tunneltest"
	"github.com/culvert-net/culvert/internal/netlab"
)

// narrow is two nodes with two routers between them, whose link can be made narrow.
type narrow struct {
	a, b    *tunneltest.Node
	routers [2]*netlab.Namespace
}

// apart starts the nodes on links of so many bytes, with a tunnel of mtu, apart by routers that may be narrow, and mute.
func apart(t *testing.T, six bool, link, far, mtu int, mute bool, configure ...func(a, b *tunneltest.Node)) narrow {
	t.Helper()
	lab := netlab.New(t)
	nsA, nsB := lab.Namespace("a"), lab.Namespace("b")
	n := narrow{routers: [2]*netlab.Namespace{lab.Namespace("r"), lab.Namespace("s")}}
	lab.Veth(nsA, "eth0", n.routers[0], "near")
	lab.Veth(nsB, "eth0", n.routers[1], "near")
	lab.Veth(n.routers[0], "far", n.routers[1], "far")
	at := addressesOf("198.18.%d.%d/24", "0.0.0.0/0")
	if six {
		at = addressesOf("2001:db8:%d::%d/64", "::/0")
	}
	n.a, n.b = tunneltest.NewNode(t, nsA, 1), tunneltest.NewNode(t, nsB, 2)
	for _, f := range configure {
		f(n.a, n.b)
	}
	for i, node := range []*tunneltest.Node{n.a, n.b} {
		r := n.routers[i]
		r.Exec("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
		r.AddAddress("near", at.near[i])
		r.AddAddress("far", at.far[i])
		r.AddRoute(at.all, at.far[1-i].Addr(), "far")
		node.AddAddress("eth0", at.node[i])
		node.AddRoute(at.all, at.near[i].Addr(), "eth0")
		node.Exec("ip", "link", "set", "eth0", "mtu", strconv.Itoa(link))
		r.Exec("ip", "link", "set", "near", "mtu", strconv.Itoa(link))
	}
	n.far(far)
	if mute {
		n.mute()
		n.cutNothing()
	}
	for _, node := range []*tunneltest.Node{n.a, n.b} {
		node.Config.MTU = mtu
		node.Start()
		node.Up()
	}
	n.a.Feed(n.b.Peer(at.node[1].Addr()))
	n.b.Feed(n.a.Peer(netip.Addr{}))                    // waits for a: initiations that cross cost 5 s
	for _, node := range []*tunneltest.Node{n.a, n.b} { // who was not told its address does not answer
		if _, err := node.Meter().PathMTUs(t.Context(), node.Overlay, wire.NoVersion); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// addresses of the three networks.
type addresses struct {
	all             netip.Prefix
	node, near, far [2]netip.Prefix
}

func addressesOf(format, all string) addresses {
	of := func(network, host int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf(format, network, host)) }
	return addresses{
		all: netip.MustParsePrefix(all), node: [2]netip.Prefix{of(1, 1), of(2, 1)}, near: [2]netip.Prefix{of(1, 9), of(2, 9)},
		far: [2]netip.Prefix{of(3, 1), of(3, 2)},
	}
}

// far sets the MTU of the link between the routers.
func (n narrow) far(mtu int) {
	for _, r := range n.routers {
		r.Exec("ip", "link", "set", "far", "mtu", strconv.Itoa(mtu))
	}
}

// mute keeps the routers from reporting what is too large.
func (n narrow) mute() {
	for _, r := range n.routers {
		r.Exec("nft", "add table inet mute; add chain inet mute out { type filter hook output priority 0; };"+
			"add rule inet mute out meta l4proto icmp drop; add rule inet mute out icmpv6 type packet-too-big drop")
	}
}

// cutNothing makes each router drop the fragments of the other.
func (n narrow) cutNothing() {
	for _, r := range n.routers {
		r.Exec("nft", "add table inet cut; add chain inet cut in { type filter hook prerouting priority -450; };"+
			"add rule inet cut in iifname far ip frag-off & 0x3fff != 0 drop; add rule inet cut in exthdr frag exists drop")
	}
}

// measured waits until one node knows what the path to the other carries, and returns how long that took.
func measured(t *testing.T, from, to *tunneltest.Node, want int, within time.Duration) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	began, last := time.Now(), 0
	for since := uint64(0); ; {
		paths, err := from.Meter().PathMTUs(ctx, from.Overlay, since)
		if err != nil {
			t.Fatalf("path MTU is %d after %s, want %d: %v", last, time.Since(began), want, err)
		}
		since, last = paths.Version, paths.MTU[to.Key.Public()]
		if last == want {
			return time.Since(began)
		}
		if ctx.Err() != nil {
			t.Fatalf("path MTU is %d after %s, want %d", last, within, want)
		}
	}
}

// TestPathIsMeasured: both families, common underlays, with and without a word from the router.
func TestPathIsMeasured(t *testing.T) {
	for _, c := range []struct {
		six       bool
		link, far int
		mtu, want int
	}{
		{false, 1500, 1500, 1420, 1420},
		{false, 1500, 1400, 1420, 1328}, // 1400 - 60, in steps of 16
		{false, 1500, 1280, 1420, 1216},
		{true, 1500, 1400, 1420, 1312},
		{true, 1500, 1280, 1420, 1200},
		{false, 9000, 9000, 8920, 8920},
		{false, 9000, 1500, 8920, 1440},
		{true, 9000, 1500, 8920, 1408},
	} {
		for _, mute := range []bool{false, true} {
			if mute && (c.far == c.link || c.far == 1400) {
				continue
			}
			n := apart(t, c.six, c.link, c.far, c.mtu, mute)
			measured(t, n.b, n.a, c.want, tunneltest.Patience)
			took := measured(t, n.a, n.b, c.want, tunneltest.Patience)
			t.Logf("IPv6 %t, links %d, narrow %d, mute %t: %d, after the other's %s", c.six, c.link, c.far, mute, c.want, took)
		}
	}
}

// TestPathIsMeasuredByBothKinds: a device that measures nothing has a meter, here the library's tunnel and where there is one
// the kernel's WireGuard. It measures the way to a process, the process the way to it, and two of them do.
func TestPathIsMeasuredByBothKinds(t *testing.T) {
	stock := func(n *tunneltest.Node) { n.Body = "stock" }
	kernel := func(n *tunneltest.Node) { n.Kernel = true }
	kinds := map[string]func(*tunneltest.Node){"library": stock}
	if os.Getenv("CULVERT_KERNEL_WIREGUARD") != "" {
		kinds["kernel"] = kernel
	}
	for name, kind := range kinds {
		one := func(a, _ *tunneltest.Node) { kind(a) }
		both := func(a, b *tunneltest.Node) { kind(a); kind(b) }
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct {
				six       bool
				far, want int
				mute      bool
				kinds     func(a, b *tunneltest.Node)
			}{
				{false, 1500, 1420, false, one},
				{false, 1400, 1328, true, one},
				{true, 1280, 1200, true, one},
				{true, 1400, 1312, true, both},
				{false, 1280, 1216, true, both},
			} {
				n := apart(t, c.six, 1500, c.far, 1420, c.mute, c.kinds)
				measured(t, n.a, n.b, c.want, tunneltest.Patience)
				measured(t, n.b, n.a, c.want, tunneltest.Patience)
			}
			if name != "kernel" {
				return
			}
			// The kernel lets routers cut, so what arrives in fragments counts; a process knows better.
			n := apart(t, false, 1500, 1400, 1420, false, one)
			measured(t, n.a, n.b, 1420, tunneltest.Patience)
			measured(t, n.b, n.a, 1328, tunneltest.Patience)
		})
	}
}

// TestPathNarrowsAndWidens under traffic. Narrowing is noticed within a second, though nobody says a word.
func TestPathNarrowsAndWidens(t *testing.T) {
	for _, six := range []bool{false, true} {
		n := apart(t, six, 9000, 9000, 8920, false)
		measured(t, n.a, n.b, 8920, tunneltest.Patience)
		measured(t, n.b, n.a, 8920, tunneltest.Patience)
		n.mute()
		n.cutNothing()
		stop := flood(t, n.a, n.b)
		n.far(1500)
		want := 1440
		if six {
			want = 1408
		}
		took := measured(t, n.a, n.b, want, tunneltest.Patience)
		t.Logf("IPv6 %t: noticed after %s", six, took)
		if took > 5*time.Second*netlab.Slowness() { // a second is promised
			t.Errorf("IPv6 %t: narrowing was noticed after %s, want a second", six, took)
		}
		stop()
		if !six { // the timer takes 10 s
			n.far(9000)
			measured(t, n.a, n.b, 8920, 2*tunneltest.Patience)
		}
	}
}

// flood sends a large datagram per millisecond until the returned function is called.
func flood(t *testing.T, from, to *tunneltest.Node) (stop func()) {
	t.Helper()
	c := from.UDP(netip.AddrPortFrom(to.Overlay, 9))
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for buf := make([]byte, 8000); ; <-tick.C {
			if _, err := c.Write(buf); err != nil && c.SetDeadline(time.Time{}) != nil {
				return
			}
		}
	}()
	return func() {
		c.Close()
		<-done
	}
}

// TestCutWhereThePathIsNarrow: packets larger than the path go in fragments over IPv4, whatever routers report.
func TestCutWhereThePathIsNarrow(t *testing.T) {
	n := apart(t, false, 1500, 1280, 1420, false)
	n.mute()
	measured(t, n.a, n.b, 1216, tunneltest.Patience)
	measured(t, n.b, n.a, 1216, tunneltest.Patience)
	if !n.a.Reach(n.b.Echo(), 1372, tunneltest.Patience) {
		t.Error("a packet of 1420 does not pass")
	}
	transfer(t, n.a, n.b, 4<<20)
}
