// Package tunneltest runs tunnel processes in network namespaces for tests. The process is the test's own binary, which
// must call [Main] first in TestMain. Only tests import it; it needs root.
package tunneltest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/tunnel"
	"github.com/culvert-net/culvert/internal/netlab"
)

// childArg as first argument makes the test binary a tunnel process; its configuration follows as JSON.
const childArg = "culvert-tunnel-test-process"

// Port is the UDP port of every node.
const Port = 51820

// readyWithin bounds a process's start on a busy machine.
const readyWithin = 60 * time.Second

// Patience bounds the wait for a first answer: longer than 5 s, after which the protocol tries a handshake again. It has
// [netlab.Slowness] in it, so it is none of netlab.Eventually's bounds.
var Patience = 60 * time.Second * netlab.Slowness()

// Body is what a process runs; tests may put another in its place for the "Body" named in a child's arguments.
type Body func(context.Context, tunnel.Config) error

// Main runs the tunnel and ends the process if this one was started as a tunnel.
func Main(bodies map[string]Body) {
	if len(os.Args) < 4 || os.Args[1] != childArg {
		return
	}
	var cfg tunnel.Config
	if err := json.Unmarshal([]byte(os.Args[3]), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	body := Body(tunnel.Run)
	if other := bodies[os.Args[2]]; other != nil {
		body = other
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := body(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Node is a tunnel process in a namespace, or the kernel's WireGuard there.
type Node struct {
	*netlab.Namespace
	Config  tunnel.Config
	Body    string // of Main's bodies; empty: tunnel.Run
	Program string // empty: the test's own
	Kernel  bool   // no process: the kernel's WireGuard
	Device  *wire.UAPI
	Key     wire.PrivateKey
	Overlay netip.Addr // its address inside the tunnel
	Process *netlab.Process

	meter wire.PathMeter
	t     testing.TB
}

// NewNode describes a node; nothing runs yet. Overlay addresses are fd00::N.
func NewNode(t testing.TB, ns *netlab.Namespace, n byte) *Node {
	t.Helper()
	key, err := wire.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "cvt-") // short: a socket's path is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cfg := tunnel.Config{
		Interface: tunnel.DefaultInterface,
		Socket:    filepath.Join(dir, "sock"),
		ReadyFile: filepath.Join(dir, "ready"),
	}
	return &Node{
		Namespace: ns, Config: cfg, Device: wire.NewUAPI(cfg.Socket), Key: key,
		Overlay: netip.AddrFrom16([16]byte{0: 0xfd, 15: n}), t: t,
	}
}

// Launch starts the process without waiting for it.
func (n *Node) Launch() *netlab.Process {
	n.t.Helper()
	exe := n.Program
	if exe == "" {
		var err error
		if exe, err = os.Executable(); err != nil {
			n.t.Fatal(err)
		}
	}
	cfg := n.Config
	cfg.Log = nil
	text, err := json.Marshal(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	p := n.Namespace.Start(exe, childArg, n.Body, string(text))
	n.t.Cleanup(p.Stop)
	return p
}

// Wire is the node's device, whichever it is.
func (n *Node) Wire() wire.Device {
	if n.Kernel {
		return wire.NewKernel(n.Config.Interface, n.Namespace.Path())
	}
	return n.Device
}

// Meter measures the node's paths: its process, or for a device that cannot a meter, which runs from the first call on.
func (n *Node) Meter() wire.PathMeter {
	n.t.Helper()
	if n.meter == nil && !n.Kernel && n.Body != "stock" {
		n.meter = n.Device
	}
	if n.meter != nil {
		return n.meter
	}
	m := tunnel.NewMeter(n.Wire(), n.Config.Interface, slog.New(slog.NewTextHandler(n.t.Output(), nil)))
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Namespace.Do(func() error { return m.Run(ctx) }) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
	})
	n.meter = m
	return m
}

// Start starts the process and waits until its socket answers, or makes the kernel's link.
func (n *Node) Start() {
	n.t.Helper()
	if n.Kernel {
		n.Namespace.Exec("ip", "link", "add", n.Config.Interface, "type", "wireguard")
		n.Namespace.Exec("ip", "link", "set", n.Config.Interface, "mtu", strconv.Itoa(cmp.Or(n.Config.MTU, tunnel.DefaultMTU)))
		return
	}
	n.Process = n.Launch()
	n.AwaitReady(n.Process)
}

// AwaitReady waits for the ready file of a process.
func (n *Node) AwaitReady(p *netlab.Process) {
	n.t.Helper()
	want := fmt.Sprintln(p.Pid())
	netlab.Eventually(n.t, readyWithin, func() bool {
		select {
		case <-p.Done():
			n.t.Fatalf("tunnel ended: %v\n%s", p.Wait(), p.Output())
		default:
		}
		text, _ := os.ReadFile(n.Config.ReadyFile)
		return string(text) == want
	}, "tunnel is not ready")
}

// Kill ends the process as a crash would.
func (n *Node) Kill() {
	n.t.Helper()
	if err := n.Process.Signal(syscall.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	<-n.Process.Done()
}

// Up gives the interface the node's address and sets it up, as the agent does once its programs are attached.
func (n *Node) Up() {
	n.t.Helper()
	n.Namespace.Exec("ip", "-6", "addr", "add", n.Overlay.String()+"/64", "dev", n.Config.Interface, "nodad")
	n.Namespace.Exec("ip", "link", "set", n.Config.Interface, "up")
	n.Namespace.AwaitAddress(n.Overlay)
}

// Feed gives the device its key and its peer, as the agent does.
func (n *Node) Feed(peers ...wire.Peer) {
	n.t.Helper()
	if err := n.Wire().SetKey(n.t.Context(), n.Key, Port); err != nil {
		n.t.Fatal(err)
	}
	if err := n.Wire().Apply(n.t.Context(), wire.Change{Add: peers}); err != nil {
		n.t.Fatal(err)
	}
}

// Peer is the node as others see it at an underlay address; the zero address makes it one that must speak first.
func (n *Node) Peer(underlay netip.Addr) wire.Peer {
	p := wire.Peer{PublicKey: n.Key.Public(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(n.Overlay, 128)}}
	if underlay.IsValid() {
		p.Underlay = netip.AddrPortFrom(underlay, Port)
	}
	return p
}

// Status returns what the node knows of a peer.
func (n *Node) Status(peer *Node) wire.PeerStatus {
	n.t.Helper()
	state, err := n.Wire().Observe(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, p := range state.Peers {
		if p.PublicKey == peer.Key.Public() {
			return p
		}
	}
	n.t.Fatalf("peer %s is unknown", peer.Key.Public())
	return wire.PeerStatus{}
}

// Echo answers UDP datagrams at the node's overlay address until the test ends, and returns the address.
func (n *Node) Echo() netip.AddrPort {
	n.t.Helper()
	c := n.UDP(netip.AddrPort{})
	n.t.Cleanup(func() { c.Close() })
	go func() {
		for buf := make([]byte, 1<<16); ; {
			size, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteToUDPAddrPort(buf[:size], from)
			}
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Reach sends one datagram of the size to an echo and reports whether it came back within the time.
func (n *Node) Reach(echo netip.AddrPort, size int, within time.Duration) bool {
	n.t.Helper()
	c := n.UDP(echo)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(within))
	sent, got := make([]byte, size), make([]byte, size+1)
	_, _ = rand.Read(sent)
	if _, err := c.Write(sent); err != nil {
		return false
	}
	m, err := c.Read(got)
	return err == nil && bytes.Equal(got[:m], sent)
}

// UDP opens a socket at the node's overlay address, connected when a peer is given.
func (n *Node) UDP(peer netip.AddrPort) *net.UDPConn {
	n.t.Helper()
	return n.UDPAt(n.Overlay, peer)
}

// UDPAt opens a socket at an address of the node, connected when a peer is given.
func (n *Node) UDPAt(at netip.Addr, peer netip.AddrPort) *net.UDPConn {
	n.t.Helper()
	local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0))
	var c *net.UDPConn
	if err := n.Do(func() (err error) {
		if peer.IsValid() {
			c, err = net.DialUDP("udp", local, net.UDPAddrFromAddrPort(peer))
			return err
		}
		c, err = net.ListenUDP("udp", local)
		return err
	}); err != nil {
		n.t.Fatal(err)
	}
	return c
}

// LinkFlags returns the flags of the node's interface (IFF_*), or 0 when it does not exist.
func (n *Node) LinkFlags() (flags uint16) {
	n.t.Helper()
	err := n.Namespace.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		ifr, err := unix.NewIfreq(n.Config.Interface)
		if err != nil {
			return err
		}
		if unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr) == nil {
			flags = ifr.Uint16()
		}
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return flags
}

// Pair starts two nodes that know each other over an underlay of their own, IPv4 or IPv6, with their interfaces up.
func Pair(t testing.TB, six bool, configure func(*Node)) (a, b *Node) {
	t.Helper()
	lab := netlab.New(t)
	nsA, nsB := lab.Namespace("a"), lab.Namespace("b")
	lab.Veth(nsA, "eth0", nsB, "eth0")
	underlays := [2]netip.Prefix{netip.MustParsePrefix("198.18.0.1/24"), netip.MustParsePrefix("198.18.0.2/24")}
	if six {
		underlays = [2]netip.Prefix{netip.MustParsePrefix("2001:db8::1/64"), netip.MustParsePrefix("2001:db8::2/64")}
	}
	a, b = NewNode(t, nsA, 1), NewNode(t, nsB, 2)
	for i, n := range []*Node{a, b} {
		n.AddAddress("eth0", underlays[i])
		if configure != nil {
			configure(n)
		}
		n.Start()
		n.Up()
	}
	a.Feed(b.Peer(underlays[1].Addr()))
	b.Feed(a.Peer(underlays[0].Addr()))
	return a, b
}
