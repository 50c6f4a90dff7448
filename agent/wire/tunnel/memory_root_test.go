package tunnel_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/internal/tunneltest"
	"github.com/culvert-net/culvert/internal/netlab"
)

// TestMemoryWithManyPeers: with 1,000 peers, of which half never answer, a flood to all of them and answers from those
// that live leave the process below its bound.
func TestMemoryWithManyPeers(t *testing.T) {
	const (
		living = 500
		dead   = 500
		group  = 20 // that shake hands at a time: beyond 128 the device asks for cookies
	)
	lab := netlab.New(t)
	nsA, nsB := lab.Namespace("a"), lab.Namespace("b")
	lab.Veth(nsA, "eth0", nsB, "eth0")
	nsA.AddAddress("eth0", netip.MustParsePrefix("198.18.0.1/24"))
	nsB.AddAddress("eth0", netip.MustParsePrefix("198.18.0.2/24"))
	a := tunneltest.NewNode(t, nsA, 1)
	a.Start()
	a.Up()
	echoes := make([]*echoPeer, living)
	var peers []wire.Peer
	var to []netip.AddrPort
	add := func(i int, key wire.PublicKey, underlay netip.AddrPort) {
		overlay := netip.AddrFrom16([16]byte{0: 0xfd, 13: 1, 14: byte(i >> 8), 15: byte(i)})
		to = append(to, netip.AddrPortFrom(overlay, 9))
		peers = append(peers, wire.Peer{
			PublicKey: key, Underlay: underlay, AllowedIPs: []netip.Prefix{netip.PrefixFrom(overlay, 128)},
		})
	}
	for i := range living {
		echoes[i] = newEchoPeer(t, nsB, a)
		add(i, echoes[i].key.Public(), echoes[i].at)
	}
	for i := range dead {
		key, err := wire.NewPrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		add(living+i, key.Public(), netip.MustParseAddrPort("198.18.0.99:9"))
	}
	a.Feed(peers...)
	t.Logf("with %d peers, idle: %d MiB", len(peers), peakMemory(t, a)>>20)

	from := a.UDP(netip.AddrPort{})
	defer from.Close()
	block := make([]byte, 1200)
	send := func(i int) { _, _ = from.WriteToUDPAddrPort(block, to[i]) }
	for first := 0; first < living; first += group {
		for i := first; i < first+group; i++ {
			netlab.Eventually(t, tunneltest.Patience, func() bool {
				send(i)
				return echoes[i].got.Load() > 0
			}, "a packet at a living peer")
		}
	}
	before := make([]uint64, living)
	for i, e := range echoes {
		before[i] = e.got.Load()
	}
	for start := time.Now(); time.Since(start) < 2*time.Second; {
		for i := range living {
			send(i)
			send(living + i)
		}
	}
	for i, e := range echoes {
		netlab.Eventually(t, tunneltest.Patience, func() bool {
			send(i)
			return e.got.Load() > before[i]
		}, "a packet after the flood")
	}
	checkMemory(t, a)
}

// echoPeer is a WireGuard device of the library's with no interface: it sends back what it gets. It handles one packet
// at a time, so that hundreds fit into one process.
type echoPeer struct {
	key    wire.PrivateKey
	at     netip.AddrPort
	c      *net.UDPConn
	got    atomic.Uint64
	back   chan []byte
	closed chan struct{}
	once   sync.Once
}

func newEchoPeer(t *testing.T, ns *netlab.Namespace, a *tunneltest.Node) *echoPeer {
	t.Helper()
	p := &echoPeer{back: make(chan []byte, 1), closed: make(chan struct{})}
	var err error
	if p.key, err = wire.NewPrivateKey(); err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() (err error) {
		p.c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(198, 18, 0, 2)})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	p.at = p.c.LocalAddr().(*net.UDPAddr).AddrPort()
	dev := device.NewDevice(echoTun{p}, &echoBind{p: p}, device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(dev.Close)
	own := a.Key.Public()
	text := fmt.Sprintf("private_key=%x\npublic_key=%x\nallowed_ip=%s/128\n", p.key[:], own[:], a.Overlay)
	if err := dev.IpcSet(text); err != nil {
		t.Fatal(err)
	}
	if err := dev.Up(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *echoPeer) close() { p.once.Do(func() { close(p.closed) }) }

// echoTun turns packets round.
type echoTun struct{ p *echoPeer }

func (e echoTun) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case b := <-e.p.back:
		sizes[0] = copy(bufs[0][offset:], b)
		return 1, nil
	case <-e.p.closed:
		return 0, os.ErrClosed
	}
}

func (e echoTun) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		e.p.got.Add(1)
		b = append([]byte(nil), b[offset:]...)
		var src [16]byte
		copy(src[:], b[8:24])
		copy(b[8:24], b[24:40])
		copy(b[24:40], src[:])
		port := binary.BigEndian.Uint16(b[40:])
		copy(b[40:42], b[42:44])
		binary.BigEndian.PutUint16(b[42:], port)
		select {
		case e.p.back <- b:
		default:
		}
	}
	return len(bufs), nil
}

func (e echoTun) File() *os.File           { return nil }
func (e echoTun) MTU() (int, error)        { return tunnelMTU, nil }
func (e echoTun) Name() (string, error)    { return "echo", nil }
func (e echoTun) Events() <-chan tun.Event { return nil }
func (e echoTun) BatchSize() int           { return 1 }
func (e echoTun) Close() error             { e.p.close(); return nil }

const tunnelMTU = device.DefaultMTU

// echoBind is one socket, one datagram at a time.
type echoBind struct {
	p    *echoPeer
	open atomic.Bool
}

func (b *echoBind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	receive := func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, from, err := b.p.c.ReadFromUDPAddrPort(bufs[0])
		if err != nil {
			return 0, net.ErrClosed
		}
		sizes[0], eps[0] = n, &conn.StdNetEndpoint{AddrPort: from}
		return 1, nil
	}
	b.open.Store(true)
	return []conn.ReceiveFunc{receive}, b.p.at.Port(), nil
}

func (b *echoBind) Send(bufs [][]byte, to conn.Endpoint) error {
	for _, buf := range bufs {
		if _, err := b.p.c.WriteToUDPAddrPort(buf, to.(*conn.StdNetEndpoint).AddrPort); err != nil {
			return err
		}
	}
	return nil
}

func (b *echoBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	at, err := netip.ParseAddrPort(s)
	return &conn.StdNetEndpoint{AddrPort: at}, err
}

// Close is called before Open too.
func (b *echoBind) Close() error {
	if b.open.Swap(false) {
		return b.p.c.Close()
	}
	return nil
}

func (b *echoBind) SetMark(uint32) error { return nil }
func (b *echoBind) BatchSize() int       { return 1 }
