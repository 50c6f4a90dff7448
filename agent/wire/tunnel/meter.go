package tunnel

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	// meterPause is the time between two looks at a device that is not busy, and before a lost interface is opened anew.
	meterPause = time.Second

	// meterShare bounds the time that looking takes: one part in so many.
	meterShare = 50

	// largeBytes is what goes to a peer between two looks when large packets are among it. Less may be a connection that
	// begins, or many small packets, which no path is too narrow for.
	largeBytes = 4 * floorMTU

	// hearMost bounds what is taken in during hearEvery, so that a peer which floods probes costs the agent a few per cent of
	// a processor. What is over waits in the socket, and is lost when that is full: its asker asks again.
	hearMost  = 512
	hearEvery = 50 * time.Millisecond

	// maxOwn bounds the bytes of probes that the device may still have to count: those to a peer without a session may never be.
	maxOwn = 1 << 16
)

// Meter measures the paths of a device that does not measure them: the kernel's WireGuard. Questions and answers are those
// of the tunnel process, so both kinds of node measure the way to both. They go through the device's interface like other
// packets, and past its programs. What is measured is what arrives: the kernel lets its datagrams be cut, so over IPv4 a
// size that arrives in fragments counts as carried.
type Meter struct {
	device wire.Device
	open   func() (packetLink, error)
	log    *slog.Logger

	dst    *router
	probes *prober
	ready  chan struct{} // there is something to send; capacity 1
	top    atomic.Int64  // the interface's MTU when it was seen last

	mu    sync.Mutex
	peers map[wire.PublicKey]*meterPeer
}

// meterPeer is what the last look found of a peer.
type meterPeer struct {
	index    uint32 // of its queue
	at       netip.AddrPort
	prefixes []netip.Prefix
	sent     uint64 // bytes that the device counted
	own      uint64 // bytes of probes that are or will be among those it counts from now on
}

var _ wire.PathMeter = (*Meter)(nil)

// packetLink takes out the probes that come in by an interface, and puts packets in.
type packetLink interface {
	Read(packet []byte) (int, error)
	Write(packet []byte) error // unix.EMSGSIZE: it is larger than the interface's MTU
	MTU() (int, error)
	Close() error
}

// NewMeter returns a meter for a device and its interface. It does nothing before [Meter.Run].
func NewMeter(d wire.Device, ifname string, log *slog.Logger) *Meter {
	m := &Meter{
		device: d, open: func() (packetLink, error) { return openPackets(ifname) }, log: log,
		dst: newRouter(), ready: make(chan struct{}, 1), peers: map[wire.PublicKey]*meterPeer{},
	}
	m.top.Store(DefaultMTU)
	m.probes = newProber(m.dst, func() (int, error) { return int(m.top.Load()), nil }, m.wake, log)
	return m
}

// PathMTUs implements [wire.PathMeter].
func (m *Meter) PathMTUs(ctx context.Context, self netip.Addr, since uint64) (wire.PathMTUs, error) {
	if err := m.probes.setSelf(self); err != nil {
		return wire.PathMTUs{}, err
	}
	m.probes.await(ctx, since)
	return m.probes.known(), ctx.Err()
}

// Run measures until the context ends, and then returns nil. The interface is one of the caller's network namespace. One
// that is missing or down, or that was replaced, is opened when it is there.
func (m *Meter) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.probes.run(ctx) })
	told := ""
	for {
		err := m.serve(ctx) // opens the interface here: threads may be in different namespaces
		if ctx.Err() != nil {
			return nil
		}
		if gone(err) {
			told = ""
		} else if err.Error() != told {
			told = err.Error()
			m.log.Warn("paths are not measured", logkey.Error, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(meterPause):
		}
	}
}

// gone says that the interface is missing or down, for which others have words.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENXIO) || errors.Is(err, fs.ErrNotExist)
}

func (m *Meter) wake() {
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

// serve measures through the interface as long as it is the same one.
func (m *Meter) serve(ctx context.Context) error {
	link, err := m.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer link.Close()
	defer cancel(nil)
	wg.Go(func() { cancel(m.hear(ctx, link)) })
	wg.Go(func() { m.send(ctx, link) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
		began := time.Now()
		busy, err := m.look(ctx, link)
		if err != nil {
			return err
		}
		pause := meterPause
		if busy {
			pause = confirmEvery
		}
		timer.Reset(max(pause, meterShare*time.Since(began)))
	}
}

// hear takes in what peers send, until the interface fails.
func (m *Meter) hear(ctx context.Context, link packetLink) error {
	buf := make([]byte, device.MaxContentSize)
	for {
		began := time.Now()
		for range hearMost {
			n, err := link.Read(buf)
			if err != nil {
				return err
			}
			m.probes.hear(buf[:n])
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(hearEvery - time.Since(began)):
		}
	}
}

// send puts into the interface what the prober has to say.
func (m *Meter) send(ctx context.Context, link packetLink) {
	bufs, sizes, seqs := [][]byte{make([]byte, device.MaxContentSize)}, []int{0}, []uint32{0}
	for {
		for m.probes.fill(bufs, sizes, 0, seqs) > 0 {
			m.put(link, bufs[0][:sizes[0]], seqs[0])
		}
		select {
		case <-ctx.Done():
			return
		case <-m.ready:
		}
	}
}

// put sends one packet; seq is a question's. A packet that finds no room is lost, as on a network. Where the peer is the device tells
// at each look only: so long a round may go to an address that has answered nothing.
func (m *Meter) put(link packetLink, packet []byte, seq uint32) {
	peer := m.dst.table.Load().lookup([16]byte(packet[24:40]))
	q := m.dst.queue(peer)
	if q == nil {
		return // the device has it no more
	}
	size := device.MessageTransportSize + (len(packet)+grid-1)/grid*grid
	if seq != 0 && !m.probes.asks(peer, seq, m.at(q.key), size) {
		return
	}
	if err := link.Write(packet); err != nil {
		if seq != 0 {
			m.probes.failed(peer, seq, err)
		}
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if x := m.peers[q.key]; x != nil {
		x.own = min(maxOwn, x.own+uint64(size))
	}
}

// at is where a peer was at the last look; invalid: that was not known.
func (m *Meter) at(key wire.PublicKey) netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	if x := m.peers[key]; x != nil {
		return x.at
	}
	return netip.AddrPort{}
}

// look takes over the interface's MTU and the device's peers, and tells the prober to which of them large packets go.
func (m *Meter) look(ctx context.Context, link packetLink) (busy bool, err error) {
	top, err := link.MTU()
	if err != nil {
		return false, err
	}
	state, err := m.device.Observe(ctx)
	if err != nil {
		return false, err
	}
	if m.top.Swap(int64(top)) != int64(top) {
		m.probes.nudge()
	}
	if m.takeOver(state.Peers) {
		m.probes.nudge()
	}
	for _, p := range state.Peers {
		if index, large := m.large(p); large {
			m.probes.seen(index)
			busy = true
		}
	}
	return busy, nil
}

// takeOver follows the device's peers and reports whether they changed.
func (m *Meter) takeOver(peers []wire.PeerStatus) (changed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed = len(peers) != len(m.peers)
	for _, p := range peers {
		x := m.peers[p.PublicKey]
		changed = changed || x == nil || x.at != p.Underlay || !slices.Equal(x.prefixes, p.AllowedIPs)
	}
	if !changed {
		return false
	}
	m.dst.update(peers)
	before := m.peers
	m.peers = make(map[wire.PublicKey]*meterPeer, len(peers))
	for _, p := range peers {
		x := before[p.PublicKey]
		if x == nil {
			x = &meterPeer{sent: p.TxBytes}
		}
		x.at, x.prefixes = p.Underlay, p.AllowedIPs
		m.peers[p.PublicKey] = x
	}
	for i, q := range m.dst.table.Load().queues {
		if q != nil {
			m.peers[q.key].index = uint32(i)
		}
	}
	return true
}

// large reports whether large packets went to a peer since the last look. The device also counts probes.
func (m *Meter) large(p wire.PeerStatus) (index uint32, large bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.peers[p.PublicKey]
	grown := p.TxBytes - min(x.sent, p.TxBytes) // a device that was made anew counts from 0
	x.sent = p.TxBytes
	theirs := grown - min(grown, x.own)
	x.own -= min(grown, x.own)
	return x.index, theirs >= largeBytes
}
