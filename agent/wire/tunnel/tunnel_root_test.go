package tunnel_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/internal/tunneltest"
	"github.com/culvert-net/culvert/agent/wire/tunnel"
	"github.com/culvert-net/culvert/internal/netlab"
)

func TestMain(m *testing.M) {
	loadMain()
	tunneltest.Main(map[string]tunneltest.Body{"stock": tunneltest.Stock})
	os.Exit(m.Run())
}

func TestTraffic(t *testing.T) {
	for name, c := range map[string]struct {
		six       bool
		configure func(*tunneltest.Node)
	}{
		"over IPv4": {false, nil},
		"over IPv6": {true, nil},
		"without checksums": {false, func(n *tunneltest.Node) {
			n.Config.PartialChecksums = true
		}},
		"with the library's tunnel": {true, func(n *tunneltest.Node) {
			if strings.HasSuffix(n.Name, "-b") {
				n.Body = "stock"
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := tunneltest.Pair(t, c.six, c.configure)
			checkTraffic(t, a, b)
		})
	}
}

func checkTraffic(t *testing.T, a, b *tunneltest.Node) {
	t.Helper()
	echo := b.Echo()
	for _, size := range []int{0, 1, 64, 1372, 1373, 9000, 60000} { // the last three go in fragments
		if !a.Reach(echo, size, tunneltest.Patience) {
			t.Errorf("no answer to a datagram of %d bytes", size)
		}
	}
	transfer(t, a, b, 64<<20)
	transfer(t, b, a, 16<<20)
	datagrams(t, a, b, 200, 1200)
	for _, n := range []*tunneltest.Node{a, b} {
		checkNoBadChecksums(t, n)
		checkMemory(t, n)
	}
	if s := a.Status(b); s.RxBytes < 16<<20 || s.TxBytes < 64<<20 || s.LastHandshake.IsZero() {
		t.Errorf("status of the peer: %+v", s)
	}
}

// transfer sends pseudo-random bytes by TCP through the tunnel and compares both ends' digests.
func transfer(t *testing.T, from, to *tunneltest.Node, total int64) {
	t.Helper()
	l := listenTCP(t, to)
	defer l.Close()
	got := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- err.Error()
			return
		}
		defer c.Close()
		h := sha256.New()
		n, err := io.Copy(h, c)
		got <- fmt.Sprintf("%d bytes, %x, %v", n, h.Sum(nil), err)
	}()
	c := dialTCP(t, from, l.Addr().String())
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	h, block := sha256.New(), make([]byte, 1<<20)
	for sent := int64(0); sent < total; sent += int64(len(block)) {
		for i := 0; i < len(block); i += 4096 {
			block[i] = byte(sent>>20) ^ byte(i>>12)
			block[i+7]++
		}
		h.Write(block)
		if _, err := c.Write(block); err != nil {
			t.Fatalf("after %d bytes: %v", sent, err)
		}
	}
	c.Close()
	want := fmt.Sprintf("%d bytes, %x, <nil>", total, h.Sum(nil))
	select {
	case g := <-got:
		if g != want {
			t.Errorf("received %s\nsent %s", g, want)
		}
	case <-time.After(20 * time.Second):
		t.Error("the receiver did not end")
	}
}

func listenTCP(t testing.TB, n *tunneltest.Node) net.Listener {
	t.Helper()
	var l net.Listener
	if err := n.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(n.Overlay, 0).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return l
}

func dialTCP(t testing.TB, n *tunneltest.Node, address string) net.Conn {
	t.Helper()
	var c net.Conn
	if err := n.Do(func() (err error) {
		c, err = net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return c
}

// datagrams sends UDP datagrams, in super-packets of the kernel's making, and demands all of them in order.
func datagrams(t *testing.T, from, to *tunneltest.Node, count, size int) {
	t.Helper()
	receiver := to.UDP(netip.AddrPort{})
	defer receiver.Close()
	sender := from.UDP(receiver.LocalAddr().(*net.UDPAddr).AddrPort())
	defer sender.Close()
	const perCall = 20
	oob := segmentControl(uint16(size))
	for sent := 0; sent < count; sent += perCall {
		var super []byte
		for i := range perCall {
			super = append(super, bytes.Repeat([]byte{byte(sent + i)}, size)...)
		}
		if _, _, err := sender.WriteMsgUDP(super, oob, nil); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2*size)
		for i := range perCall {
			_ = receiver.SetReadDeadline(time.Now().Add(30 * time.Second))
			n, err := receiver.Read(buf)
			if err != nil || n != size || buf[0] != byte(sent+i) || buf[n-1] != byte(sent+i) {
				t.Fatalf("datagram %d: %d bytes of %d, %v", sent+i, n, buf[0], err)
			}
		}
	}
}

func segmentControl(size uint16) []byte {
	oob := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(ptr(oob))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	*(*uint16)(ptr(oob[unix.CmsgLen(0):])) = size
	return oob
}

// checkNoBadChecksums reads the receiving kernel's own counters.
func checkNoBadChecksums(t *testing.T, n *tunneltest.Node) {
	t.Helper()
	for _, line := range strings.Split(n.Exec("nstat", "-asz"), "\n") {
		f := strings.Fields(line)
		if len(f) >= 2 && strings.Contains(f[0], "Csum") && strings.Contains(f[0], "Err") && f[1] != "0" {
			t.Errorf("%s is %s: want 0", f[0], f[1])
		}
	}
}

// checkMemory bounds what a process ever held: about four times what is usual.
func checkMemory(t *testing.T, n *tunneltest.Node) {
	t.Helper()
	rss := peakMemory(t, n)
	t.Logf("peak memory %d MiB", rss>>20)
	if n.Body == "" && !raceEnabled && rss > 64<<20 {
		t.Errorf("peak memory is %d MiB: want at most 64", rss>>20)
	}
}

// peakMemory returns a process's largest resident set in bytes.
func peakMemory(t testing.TB, n *tunneltest.Node) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Process.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

func TestInterfaceIsMadeDownAndOutlivesTheProcess(t *testing.T) {
	lab := netlab.New(t)
	n := tunneltest.NewNode(t, lab.Namespace("a"), 1)
	n.Start()
	if flags := n.LinkFlags(); flags == 0 || flags&unix.IFF_UP != 0 {
		t.Fatalf("fresh interface has flags %#x: want it to exist and be down", flags)
	}
	if err := n.Do(func() error { return tunnel.Delete(n.Config.Interface) }); err == nil ||
		!strings.Contains(err.Error(), "another process holds it") {
		t.Errorf("Delete under a running tunnel: %v", err)
	}
	n.Up()
	n.Process.Stop()
	if err := n.Process.Wait(); err != nil {
		t.Errorf("clean stop: %v\n%s", err, n.Process.Output())
	}
	for _, path := range []string{n.Config.Socket, n.Config.ReadyFile} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left after a clean stop", path)
		}
	}
	if flags := n.LinkFlags(); flags&unix.IFF_UP == 0 {
		t.Errorf("after a clean stop the interface has flags %#x: want it up", flags)
	}
	n.Start() // attaches again, and leaves it as it is
	if flags := n.LinkFlags(); flags&unix.IFF_UP == 0 || flags&unix.IFF_RUNNING == 0 {
		t.Errorf("after a restart the interface has flags %#x: want it up and running", flags)
	}
	n.Process.Stop()
	for range 2 { // the second time it is absent
		if err := n.Do(func() error { return tunnel.Delete(n.Config.Interface) }); err != nil {
			t.Errorf("Delete: %v", err)
		}
	}
	if flags := n.LinkFlags(); flags != 0 {
		t.Errorf("after Delete the interface has flags %#x", flags)
	}
}

func TestControlSocketHasOneOwner(t *testing.T) {
	lab := netlab.New(t)
	n := tunneltest.NewNode(t, lab.Namespace("a"), 1)
	n.Start()
	if info, err := os.Stat(n.Config.Socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v: want mode 0600", info.Mode(), err)
	}
	other := *n
	other.Config.Interface = "culvert1"
	second := other.Launch()
	if err := second.Wait(); err == nil || !strings.Contains(second.Output(), "another tunnel runs with it") {
		t.Errorf("second tunnel on the socket: %v\n%s", err, second.Output())
	}
	if _, err := n.Device.Observe(t.Context()); err != nil {
		t.Errorf("the first tunnel suffered: %v", err)
	}
	other.Config.Interface, other.Config.Socket = n.Config.Interface, n.Config.Socket+"2"
	third := other.Launch()
	if err := third.Wait(); err == nil || !strings.Contains(third.Output(), "another process holds it") {
		t.Errorf("second tunnel on the interface: %v\n%s", err, third.Output())
	}
	n.Kill()
	if _, err := os.Lstat(n.Config.Socket); err != nil {
		t.Fatalf("a killed process leaves no stale socket: %v", err)
	}
	n.Start()
	if _, err := n.Device.Observe(t.Context()); err != nil {
		t.Errorf("after a stale socket: %v", err)
	}
}

func TestRunRefusesBadConfig(t *testing.T) {
	good := tunnel.Config{Interface: "x", Socket: filepath.Join(t.TempDir(), "s")}
	for want, edit := range map[string]func(*tunnel.Config){
		"socket: must be set":        func(c *tunnel.Config) { c.Socket = "" },
		"path has 200 bytes":         func(c *tunnel.Config) { c.Socket = "/" + strings.Repeat("s", 199) },
		"MTU 1279":                   func(c *tunnel.Config) { c.MTU = 1279 },
		"MTU 65536":                  func(c *tunnel.Config) { c.MTU = 65536 },
		`interface "a/b"`:            func(c *tunnel.Config) { c.Interface = "a/b" },
		`interface "tun%d"`:          func(c *tunnel.Config) { c.Interface = "tun%d" },
		`interface "0123456789abcde`: func(c *tunnel.Config) { c.Interface = "0123456789abcdef" },
	} {
		cfg := good
		edit(&cfg)
		if err := tunnel.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v: want one with %q", err, want)
		}
	}
	if _, err := os.Lstat(good.Socket + ".lock"); !os.IsNotExist(err) {
		t.Errorf("a refused configuration left a lock: %v", err)
	}
}

func TestDeviceComesUpWithTheLink(t *testing.T) {
	lab := netlab.New(t)
	n := tunneltest.NewNode(t, lab.Namespace("a"), 1)
	n.Start()
	n.Feed()
	if portTaken(t, n) {
		t.Error("the UDP port is open while the link is down")
	}
	n.Up()
	netlab.Eventually(t, 5*time.Second, func() bool { return portTaken(t, n) }, "the port opens with the link")
	n.Exec("ip", "link", "set", n.Config.Interface, "down")
	netlab.Eventually(t, 5*time.Second, func() bool { return !portTaken(t, n) }, "the port closes with the link")
	n.DeleteLink(n.Config.Interface)
	if err := n.Process.Wait(); err == nil || !strings.Contains(n.Process.Output(), "removed or failed") {
		t.Errorf("process whose interface was removed: %v\n%s", err, n.Process.Output())
	}
}

func portTaken(t *testing.T, n *tunneltest.Node) bool {
	t.Helper()
	err := n.Do(func() error {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: tunneltest.Port})
		if err == nil {
			c.Close()
		}
		return err
	})
	return err != nil
}

func TestPortIsAwaited(t *testing.T) {
	lab := netlab.New(t)
	n := tunneltest.NewNode(t, lab.Namespace("a"), 1)
	var holder *net.UDPConn
	if err := n.Do(func() (err error) {
		holder, err = net.ListenUDP("udp4", &net.UDPAddr{Port: tunneltest.Port})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	n.Start()
	n.Feed()
	n.Up()
	time.AfterFunc(300*time.Millisecond, func() { holder.Close() })
	netlab.Eventually(t, 5*time.Second, func() bool {
		state, err := n.Device.Observe(t.Context())
		return err == nil && state.ListenPort == tunneltest.Port && portTaken(t, n)
	}, "the tunnel takes the port once it is free")
}

func TestRestartAfterKill(t *testing.T) {
	a, b := tunneltest.Pair(t, false, nil)
	echo := map[*tunneltest.Node]netip.AddrPort{a: a.Echo(), b: b.Echo()}
	if !a.Reach(echo[b], 64, tunneltest.Patience) {
		t.Fatal("no traffic to begin with")
	}
	for _, victim := range []*tunneltest.Node{a, b} {
		other := map[*tunneltest.Node]*tunneltest.Node{a: b, b: a}[victim]
		peer := victim.Status(other).Peer
		victim.Kill()
		victim.Start()
		victim.Feed(peer)
		if err := victim.Device.Kick(t.Context()); err != nil {
			t.Fatal(err)
		}
		// The other side has a session with the dead process, and would go on using it for 15 s.
		netlab.Eventually(t, 5*time.Second, func() bool {
			return other.Reach(echo[victim], 64, 200*time.Millisecond)
		}, "traffic towards a restarted tunnel")
	}
}

// TestFloodToDeadPeers: peers that do not answer take neither memory nor the others' traffic. Junk at the port, and
// packets with sources that are not the sender's, do as little.
func TestFloodToDeadPeers(t *testing.T) {
	a, b := tunneltest.Pair(t, false, nil)
	echo := b.Echo()
	var dead []wire.Peer
	var sockets []*net.UDPConn
	for i := range 20 {
		key, err := wire.NewPrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		address := netip.AddrFrom16([16]byte{0: 0xfd, 14: 1, 15: byte(i)})
		dead = append(dead, wire.Peer{
			PublicKey: key.Public(), Underlay: netip.MustParseAddrPort("198.18.0.99:9"),
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(address, 128)},
		})
		sockets = append(sockets, a.UDP(netip.AddrPortFrom(address, 9)))
	}
	junk := a.UDPAt(netip.MustParseAddr("198.18.0.1"), netip.MustParseAddrPort("198.18.0.2:51820"))
	sockets = append(sockets, junk)
	if err := a.Device.Apply(t.Context(), wire.Change{Add: dead}); err != nil {
		t.Fatal(err)
	}
	// Of b's addresses a knows one; what b sends from another one must not arrive.
	b.Exec("ip", "-6", "addr", "add", "fd00::bad/64", "dev", b.Config.Interface, "nodad")
	forged := b.UDPAt(netip.MustParseAddr("fd00::bad"), netip.AddrPortFrom(a.Overlay, 9))
	sockets = append(sockets, forged)
	if !a.Reach(echo, 64, tunneltest.Patience) {
		t.Fatal("no traffic to begin with")
	}

	stop, sent := make(chan struct{}), 0
	var flood sync.WaitGroup
	flood.Go(func() {
		block := make([]byte, 1200)
		block[0] = 4 // of junk: a transport message, of no session
		for ; ; sent++ {
			select {
			case <-stop:
				return
			default:
				_, _ = sockets[sent%len(sockets)].Write(block)
			}
		}
	})
	answered, tries := 0, 0
	for start := time.Now(); time.Since(start) < 1500*time.Millisecond || answered < 20 && time.Since(start) < tunneltest.Patience; tries++ {
		if a.Reach(echo, 1200, 100*time.Millisecond) {
			answered++
		}
	}
	close(stop)
	flood.Wait()
	for _, c := range sockets {
		c.Close()
	}
	t.Logf("%d of %d answered", answered, tries)
	// The flood fills the interface's own queue too. With nothing else to do nearly all are answered.
	if !raceEnabled && (answered < 20 || answered < tries/5) {
		t.Errorf("%d of %d requests to a living peer were answered", answered, tries)
	}
	c, err := a.Device.Counters(t.Context())
	// A peer may have some 200 packets per second wait in turn; what a fast machine sends is far beyond. The interface's own
	// queue drops what a slow process does not fetch.
	fetched := fetched(t, a)
	if err != nil || c.Malformed != 0 || fetched > 30_000 && c.NoSession < uint64(fetched)/2 {
		t.Errorf("of %d packets, %d of them fetched, counters are %+v, %v: want most dropped for want of a session",
			sent, fetched, c, err)
	}
	checkMemory(t, a)
	checkMemory(t, b)
}

// fetched is how many packets the process has taken from its interface.
func fetched(t *testing.T, n *tunneltest.Node) int {
	t.Helper()
	packets, _ := queued(t, n)
	return packets
}

// queued is how many packets a node's interface had room for, and how many not.
func queued(t *testing.T, n *tunneltest.Node) (packets, dropped int) {
	t.Helper()
	var links []struct {
		Stats struct {
			TX struct{ Packets, Dropped int } `json:"tx"`
		} `json:"stats64"`
	}
	text := n.Exec("ip", "-j", "-s", "link", "show", "dev", n.Config.Interface)
	if err := json.Unmarshal([]byte(text), &links); err != nil || len(links) != 1 {
		t.Fatalf("statistics: %v: %s", err, text)
	}
	return links[0].Stats.TX.Packets, links[0].Stats.TX.Dropped
}
