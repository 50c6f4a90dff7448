package tunnel

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/wire"
)

// memLink is an interface in memory whose packets come out at another one.
type memLink struct {
	*memWire
	once   sync.Once
	closed chan struct{}
}

// memWire is one side of a path.
type memWire struct {
	other        *memWire
	in           chan []byte
	mtu, carries atomic.Int64
	down         atomic.Bool
	mu           sync.Mutex
	link         *memLink // opened last
}

func (w *memWire) open() (packetLink, error) {
	if w.down.Load() {
		return nil, unix.ENODEV
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.link = &memLink{memWire: w, closed: make(chan struct{})}
	return w.link, nil
}

// replace puts another interface of the name in the place of the one that is open.
func (w *memWire) replace() {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.link.Close()
}

func (l *memLink) Read(b []byte) (int, error) {
	select {
	case packet := <-l.in:
		return copy(b, packet), nil
	case <-l.closed:
		return 0, os.ErrClosed
	}
}

func (l *memLink) Write(b []byte) error {
	switch {
	case len(b) > int(l.mtu.Load()):
		return unix.EMSGSIZE
	case wireSize(len(b), int(l.mtu.Load())) > int(l.carries.Load()):
		return nil
	}
	select {
	case l.other.in <- append([]byte(nil), b...):
	default:
	}
	return nil
}

func (l *memLink) MTU() (int, error) {
	if l.down.Load() {
		return 0, unix.ENODEV
	}
	return int(l.mtu.Load()), nil
}

func (l *memLink) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// memDevice is wire.Mem with one peer to which traffic goes.
type memDevice struct {
	wire.Mem
	busy atomic.Bool
	sent atomic.Uint64
}

// Observe implements wire.Device.
func (d *memDevice) Observe(ctx context.Context) (wire.State, error) {
	s, err := d.Mem.Observe(ctx)
	if d.busy.Load() {
		d.sent.Add(100_000)
	}
	for i := range s.Peers {
		s.Peers[i].TxBytes = d.sent.Load()
	}
	return s, err
}

// meteredNode is a device in memory with a meter.
type meteredNode struct {
	device *memDevice
	wire   *memWire
	meter  *Meter
	self   netip.Addr
	key    wire.PublicKey // its peer's
}

// meteredPair is two such nodes on a path of so many bytes.
func meteredPair(t *testing.T, mtu, carries int) (a, b *meteredNode) {
	t.Helper()
	nodes := [2]*meteredNode{}
	for i := range nodes {
		n := &meteredNode{device: &memDevice{}, wire: &memWire{in: make(chan []byte, 256)}, self: netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i + 1)})}
		n.wire.mtu.Store(int64(mtu))
		n.wire.carries.Store(int64(carries))
		n.meter = NewMeter(n.device, "", slog.New(slog.DiscardHandler))
		n.meter.open = n.wire.open
		nodes[i] = n
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); wg.Wait() })
	for i, n := range nodes {
		peer := nodes[1-i]
		n.wire.other = peer.wire
		key, err := wire.NewPrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		n.key = key.Public()
		if err := n.device.Apply(ctx, wire.Change{Add: []wire.Peer{{PublicKey: n.key, Underlay: netip.MustParseAddrPort("192.0.2.1:1"),
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(peer.self, 128)}}}}); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { _ = n.meter.Run(ctx) })
	}
	return nodes[0], nodes[1]
}

// awaits waits until the node holds the path to its peer to want.
func (n *meteredNode) awaits(t *testing.T, want int, within time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for since, last := uint64(wire.NoVersion), 0; ; {
		paths, err := n.meter.PathMTUs(ctx, n.self, since)
		if last = paths.MTU[n.key]; err == nil && last == want {
			return
		}
		if err != nil {
			t.Fatalf("path MTU is %d after %s, want %d", last, within, want)
		}
		since = paths.Version
	}
}

const meterPatience = 50 * time.Second

// TestMeter: a device that measures nothing learns what its paths carry, each way for itself, and follows them.
func TestMeter(t *testing.T) {
	t.Parallel()
	a, b := meteredPair(t, 1420, 1420)
	b.wire.carries.Store(1300)
	go func() { _, _ = b.meter.PathMTUs(t.Context(), b.self, wire.NoVersion) }() // who was not told its address does not answer
	a.awaits(t, 1420, meterPatience)
	b.awaits(t, 1296, meterPatience)
	a.wire.carries.Store(1250)
	a.device.busy.Store(true)
	a.awaits(t, 1248, meterPatience)
	a.wire.carries.Store(1420)
	a.device.Touch(a.key, time.Now(), netip.MustParseAddrPort("192.0.2.7:1")) // it moved: at once, and not by the timer
	a.awaits(t, 1420, raiseFirst-time.Second)
}

// TestMeterOfAnotherInterface: one that comes late, that grows and that is replaced.
func TestMeterOfAnotherInterface(t *testing.T) {
	t.Parallel()
	a, b := meteredPair(t, 1420, 9000)
	a.wire.down.Store(true)
	go func() { _, _ = b.meter.PathMTUs(t.Context(), b.self, wire.NoVersion) }()
	if paths, err := a.meter.PathMTUs(t.Context(), a.self, wire.NoVersion); err != nil || len(paths.MTU) != 0 {
		t.Errorf("without an interface: %+v, %v", paths, err)
	}
	a.wire.down.Store(false)
	a.awaits(t, 1420, meterPatience)
	b.awaits(t, 1420, meterPatience)
	a.wire.mtu.Store(8920)
	a.awaits(t, 8920, meterPatience)
	a.wire.replace()
	a.wire.mtu.Store(1280)
	a.awaits(t, 1280, meterPatience)
}

// TestMeterTellsBusyPeers: its own probes are no traffic, nor is what a device forgets.
func TestMeterTellsBusyPeers(t *testing.T) {
	a, _ := meteredPair(t, 1420, 1420)
	m := NewMeter(a.device, "", slog.New(slog.DiscardHandler))
	status := func(sent uint64) wire.PeerStatus {
		return wire.PeerStatus{Peer: wire.Peer{PublicKey: a.key}, TxBytes: sent}
	}
	m.takeOver([]wire.PeerStatus{status(1000)})
	for _, c := range []struct {
		step string
		own  uint64
		sent uint64
		want bool
	}{
		{"nothing", 0, 1000, false},
		{"small packets", 0, 1000 + largeBytes - 1, false},
		{"large packets", 0, 1000 + 2*largeBytes, true},
		{"probes", 3 * largeBytes, 1000 + 5*largeBytes, false},
		{"probes that are counted later", 2 * largeBytes, 1000 + 5*largeBytes, false},
		{"they are", 0, 1000 + 7*largeBytes, false},
		{"both", largeBytes, 1000 + 9*largeBytes, true},
		{"a device made anew", 0, 10, false},
	} {
		m.peers[a.key].own += c.own
		if _, got := m.large(status(c.sent)); got != c.want {
			t.Errorf("%s: %t", c.step, got)
		}
	}
	if m.takeOver([]wire.PeerStatus{status(9)}) || !m.takeOver(nil) {
		t.Error("a change of peers is not told from counters")
	}
}
