package wire_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/internal/tunneltest"
	"github.com/culvert-net/culvert/agent/wire/tunnel"
	"github.com/culvert-net/culvert/internal/netlab"
)

// refusalTime is how long what must not arrive is waited for: twice the time of a handshake on a machine that is
// emulated.
const refusalTime = 2 * time.Second

// TestTraffic demands the same of every tunnel: two processes, and where there is one the kernel's WireGuard, with
// itself and with a process.
func TestTraffic(t *testing.T) {
	type kinds struct{ a, b bool }
	pairs := map[string]kinds{"processes": {}}
	if kernelToo() {
		pairs["kernel"], pairs["kernel and process"] = kinds{true, true}, kinds{true, false}
	}
	for name, k := range pairs {
		t.Run(name, func(t *testing.T) {
			kernel := []bool{k.a, k.b}
			a, b := tunneltest.Pair(t, false, func(n *tunneltest.Node) {
				n.Kernel, kernel = kernel[0], kernel[1:]
			})
			x := &traffic{t: t, a: a, b: b, echo: b.Echo()}
			x.reaches()
			t.Run("observed", x.observed)
			t.Run("full-size packets", x.fullSize)
			t.Run("every byte arrives", x.bulk)
			t.Run("MTU", x.mtu)
			t.Run("a prefix is taken and given", x.prefix)
			t.Run("a peer is removed and added", x.removal)
			t.Run("a wrong key", x.wrongKey)
			t.Run("roaming", x.roam)
		})
	}
}

// traffic is a pair whose second node answers.
type traffic struct {
	t    *testing.T
	a, b *tunneltest.Node
	echo netip.AddrPort
}

func (x *traffic) reaches() {
	x.t.Helper()
	if !x.a.Reach(x.echo, 100, tunneltest.Patience) && !x.a.Reach(x.echo, 100, tunneltest.Patience) {
		x.t.Fatal("nothing comes back")
	}
}

func (x *traffic) observed(t *testing.T) {
	before := x.a.Status(x.b)
	const packets, size = 5, 1000
	for range packets {
		if !x.a.Reach(x.echo, size, tunneltest.Patience) {
			t.Fatal("nothing comes back")
		}
	}
	s := x.a.Status(x.b)
	if age := time.Since(s.LastHandshake); s.LastHandshake.IsZero() || age < 0 || age > time.Minute {
		t.Errorf("last handshake %s", s.LastHandshake)
	}
	if s.RxBytes-before.RxBytes < packets*size || s.TxBytes-before.TxBytes < packets*size {
		t.Errorf("bytes went from %d and %d to %d and %d", before.RxBytes, before.TxBytes, s.RxBytes, s.TxBytes)
	}
	if s.Underlay != x.b.Peer(netip.MustParseAddr("198.18.0.2")).Underlay {
		t.Errorf("underlay %s", s.Underlay)
	}
}

// overhead of IPv6 and UDP in bytes.
const overhead = 48

func (x *traffic) fullSize(t *testing.T) {
	for _, size := range []int{1, tunnel.DefaultMTU - overhead, tunnel.DefaultMTU - overhead + 1, 9000, 60_000} {
		if !x.a.Reach(x.echo, size, tunneltest.Patience) {
			t.Errorf("%d bytes do not come back as they went", size)
		}
	}
}

// bulk sends a stream that the kernel cuts and joins (GSO, GRO) both ways, and compares sums.
func (x *traffic) bulk(t *testing.T) {
	const size = 4 << 20
	var l net.Listener
	if err := x.b.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(x.b.Overlay, 0).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c)
	}()
	var c net.Conn
	if err := x.a.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", l.Addr().String(), tunneltest.Patience)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	sent := make([]byte, size)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(sent)
	go func() {
		_, _ = c.Write(sent)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(sent) {
		t.Errorf("%d of %d bytes came back, equal: %v, %v", len(got), size, bytes.Equal(got, sent), err)
	}
}

func (x *traffic) mtu(t *testing.T) {
	const mtu = 1300
	x.a.Exec("ip", "link", "set", x.a.Config.Interface, "mtu", strconv.Itoa(mtu))
	defer x.a.Exec("ip", "link", "set", x.a.Config.Interface, "mtu", strconv.Itoa(tunnel.DefaultMTU))
	c := x.a.UDP(x.echo)
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1)
	}); errors.Join(e, err) != nil {
		t.Fatal(errors.Join(e, err))
	}
	if _, err := c.Write(make([]byte, mtu-overhead)); err != nil {
		t.Errorf("a packet of the MTU: %v", err)
	}
	if _, err := c.Write(make([]byte, mtu-overhead+1)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("a packet beyond the MTU: %v", err)
	}
	if !x.a.Reach(x.echo, mtu-overhead, tunneltest.Patience) {
		t.Error("a packet of the MTU does not come back")
	}
}

// prefix moves a second address of b away and back, while packets of the first go on without loss.
func (x *traffic) prefix(t *testing.T) {
	second := netip.MustParseAddr("fd00::22")
	x.b.Exec("ip", "-6", "addr", "add", second.String()+"/64", "dev", x.b.Config.Interface, "nodad")
	defer x.b.Exec("ip", "-6", "addr", "del", second.String()+"/64", "dev", x.b.Config.Interface)
	c := x.b.UDPAt(second, netip.AddrPort{})
	defer c.Close()
	go func() {
		for buf := make([]byte, 1<<11); ; {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	echo := c.LocalAddr().(*net.UDPAddr).AddrPort()
	one := x.b.Peer(netip.Addr{})
	both := one
	both.AllowedIPs = append(slices.Clone(one.AllowedIPs), netip.PrefixFrom(second, 128))
	if x.a.Reach(echo, 10, refusalTime/4) {
		t.Fatal("an address that is nobody's answers")
	}
	for range 3 {
		change(t, x.a, wire.Change{Update: []wire.Peer{both}})
		if !x.a.Reach(echo, 10, tunneltest.Patience) {
			t.Error("the prefix that was given does not answer")
		}
		if lost := x.lossDuring(func() { change(t, x.a, wire.Change{Update: []wire.Peer{one}}) }); lost != 0 {
			t.Errorf("%d packets of the prefix that stays were lost", lost)
		}
		if x.a.Reach(echo, 10, refusalTime/4) {
			t.Error("the prefix that was taken answers")
		}
	}
	// Now somebody else has it.
	other := wire.Peer{PublicKey: testKey(t), AllowedIPs: []netip.Prefix{netip.PrefixFrom(second, 128)}}
	change(t, x.a, wire.Change{Update: []wire.Peer{both}})
	change(t, x.a, wire.Change{Add: []wire.Peer{other}})
	if x.a.Reach(echo, 10, refusalTime/4) {
		t.Error("the prefix that moved to another peer answers")
	}
	change(t, x.a, wire.Change{Remove: []wire.PublicKey{other.PublicKey}})
	x.reaches()
}

// lossDuring sends packets one after the other while fn runs and returns how many of them did not come back.
func (x *traffic) lossDuring(fn func()) (lost int) {
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			if !x.a.Reach(x.echo, 64, tunneltest.Patience) {
				n++
			}
			select {
			case <-stop:
				done <- n
				return
			default:
			}
		}
	}()
	fn()
	close(stop)
	return <-done
}

func (x *traffic) removal(t *testing.T) {
	change(t, x.a, wire.Change{Remove: []wire.PublicKey{x.b.Key.Public()}})
	if x.a.Reach(x.echo, 10, refusalTime) {
		t.Error("a peer that was removed answers")
	}
	if s, err := x.a.Wire().Observe(t.Context()); err != nil || len(s.Peers) != 0 {
		t.Errorf("it holds %+v, %v", s, err)
	}
	change(t, x.a, wire.Change{Add: []wire.Peer{x.b.Peer(netip.MustParseAddr("198.18.0.2"))}})
	x.reaches()
}

// wrongKey has a take somebody else's key for b's.
func (x *traffic) wrongKey(t *testing.T) {
	right := x.b.Peer(netip.MustParseAddr("198.18.0.2"))
	wrong := right
	wrong.PublicKey = testKey(t)
	change(t, x.a, wire.Change{Remove: []wire.PublicKey{right.PublicKey}, Add: []wire.Peer{wrong}})
	if x.a.Reach(x.echo, 10, refusalTime) {
		t.Error("b answers to a key that it does not have")
	}
	s, err := x.a.Wire().Observe(t.Context())
	if err != nil || len(s.Peers) != 1 || !s.Peers[0].LastHandshake.IsZero() {
		t.Errorf("state %+v, %v", s, err)
	}
	change(t, x.a, wire.Change{Remove: []wire.PublicKey{wrong.PublicKey}, Add: []wire.Peer{right}})
	x.reaches()
}

// roam moves b to another underlay address: a learns it from b's next packet.
func (x *traffic) roam(t *testing.T) {
	from, to := netip.MustParsePrefix("198.18.0.2/24"), netip.MustParsePrefix("198.18.0.3/24")
	x.b.AddAddress("eth0", to)
	x.b.Exec("ip", "addr", "del", from.String(), "dev", "eth0") // 198.18.0.3 goes with it: it is secondary
	x.b.AddAddress("eth0", to)
	echo := x.a.Echo()
	if !x.b.Reach(echo, 100, tunneltest.Patience) && !x.b.Reach(echo, 100, tunneltest.Patience) {
		t.Fatal("nothing comes back to who moved")
	}
	netlab.Eventually(t, tunneltest.Patience, func() bool {
		return x.a.Status(x.b).Underlay == netip.AddrPortFrom(to.Addr(), tunneltest.Port)
	}, "a has not learnt b's new address")
	x.reaches()
}

func change(t *testing.T, n *tunneltest.Node, c wire.Change) {
	t.Helper()
	if err := n.Wire().Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}
