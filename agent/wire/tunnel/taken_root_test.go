package tunnel

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/netlab"
)

// The kernel counts what tenants give to each peer before a lane that is full drops it, and joined packets as those that they will be; what
// nodes tell each other it does not count.
func TestGivenBeforeTheLaneDrops(t *testing.T) {
	ns := netlab.New(t).Namespace("a")
	var counts *taken
	if err := ns.Do(func() error {
		fds, err := openInterface("given0", DefaultMTU)
		if err != nil {
			return err
		}
		t.Cleanup(func() { closeFiles(fds) })
		if err := lengthenQueues("given0"); err != nil {
			return err
		}
		// As the tunnel does: below Linux 6.11 nobody sends joined datagrams through an interface that takes no partial checksums.
		if err := unix.IoctlSetInt(fds[0], unix.TUNSETOFFLOAD, offloadTCP); err != nil {
			return err
		}
		if counts, err = makeTaken(); err != nil {
			return err
		}
		return steer(fds[0], counts)
	}); err != nil {
		t.Fatal(err)
	}
	defer counts.close()
	own := netip.MustParseAddr("fd00:0:0:1::5")
	ns.Exec("ip", "link", "set", "given0", "up")
	ns.Exec("ip", "-6", "addr", "add", own.String()+"/128", "dev", "given0", "nodad")
	ns.Exec("ip", "-6", "route", "add", "fd00::/32", "dev", "given0")
	ns.AwaitAddress(own)
	find := func(want map[string]uint32) {
		t.Helper()
		prefixes := map[netip.Prefix]uint32{}
		for text, slot := range want {
			prefixes[netip.MustParsePrefix(text)] = slot
		}
		if err := counts.find(prefixes); err != nil {
			t.Fatal(err)
		}
	}
	send := func(to string, packets, segment int) {
		t.Helper()
		if err := ns.Do(func() error {
			c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(own, 0)),
				net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), 9)))
			if err != nil {
				return err
			}
			defer c.Close()
			if segment > 0 {
				oob := make([]byte, sizeSegment)
				putSegment(oob, segment)
				_, _, err = c.WriteMsgUDP(make([]byte, packets*segment), oob, nil)
				return err
			}
			for range packets {
				if _, err := c.Write([]byte{0}); err != nil && !errors.Is(err, unix.ENOBUFS) {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	given := func(what string, three, four, last uint64) {
		t.Helper()
		if a, b, c := counts.of(3).Load(), counts.of(4).Load(), counts.of(8191).Load(); a != three || b != four || c != last {
			t.Errorf("%s: %d, %d and %d are given, want %d, %d and %d", what, a, b, c, three, four, last)
		}
	}
	find(map[string]uint32{"fd00:0:0:2::/64": 3, "fd00:0:0:2:9::/96": 4, "fd00:0:0:3::/92": 8191, "fd00::2/128": 3})
	send("fd00:0:0:2::1", queueLen+100, 0)
	given("more than a lane has room for", queueLen+100, 0, 0)
	send("fd00:0:0:2:9::1", 2, 0)
	send("fd00:0:0:3:0:f::1", 1, 0)
	given("what is behind longer prefixes", queueLen+100, 2, 1)
	send("fd00::2", 5, 0)
	send("fd00:0:0:4::1", 5, 0)
	given("to a node, and to nobody", queueLen+100, 2, 1)
	send("fd00:0:0:3::1", 20, 1200)
	given("joined", queueLen+100, 2, 21)
	find(map[string]uint32{"fd00:0:0:2::/64": 4})
	send("fd00:0:0:2:9::1", 1, 0)
	send("fd00:0:0:3::1", 1, 0)
	given("other prefixes", queueLen+100, 3, 21)

	prefixes, numbers, err := counts.keep()
	if err != nil {
		t.Fatal(err)
	}
	next, err := inheritTaken(prefixes, numbers)
	if err != nil {
		t.Fatal(err)
	}
	defer next.close()
	if err := next.find(map[netip.Prefix]uint32{netip.MustParsePrefix("fd00:0:0:2::/64"): 4}); err != nil {
		t.Fatal(err)
	}
	send("fd00:0:0:2::1", 1, 0)
	if n := next.of(4).Load(); n != 4 || !next.inherited {
		t.Errorf("who took over sees %d given, want 4", n)
	}
}
