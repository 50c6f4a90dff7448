package tunnel

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// flow bounds what is inside the device: it wraps the interface and the sockets and counts at the four crossings.
type flow struct {
	tags tags
	out  *gate
	in   *gate
	dst  *router
}

func newFlow(mtu int) *flow {
	return &flow{tags: newTags(mtu), out: newGate(), in: newGate(), dst: newRouter()}
}

// tally sums the packets that left, per gate; packets of one batch nearly always share the epoch.
type tally struct {
	f     *flow
	count [2]int
	epoch [2]uint32
}

// add counts one packet out through the gate by which it entered.
func (t *tally) add(v tag) {
	if v.dir != outbound && v.dir != inbound {
		return
	}
	i := v.dir - outbound
	if t.count[i] > 0 && t.epoch[i] != v.epoch {
		t.f.gate(v.dir).leave(t.count[i], t.epoch[i])
		t.count[i] = 0
	}
	t.epoch[i] = v.epoch
	t.count[i]++
}

func (t *tally) done() {
	t.f.out.leave(t.count[0], t.epoch[0])
	t.f.in.leave(t.count[1], t.epoch[1])
}

func (f *flow) gate(dir direction) *gate {
	if dir == outbound {
		return f.out
	}
	return f.in
}

// reclaim counts out the packets whose buffers came back: the device dropped them.
func (f *flow) reclaim(bufs [][]byte) {
	t := tally{f: f}
	for _, buf := range bufs {
		if v, ok := f.tags.take(buf); ok {
			t.add(v)
			f.forget(v)
		}
	}
	t.done()
}

// forget takes a packet that was dropped off its peer's queue.
func (f *flow) forget(v tag) {
	if v.dir == outbound {
		f.dst.dropped(v.turn)
	}
}

// mark puts a tag on a buffer that was just filled. An old tag means that its packet was dropped.
func (f *flow) mark(buf []byte, used int, v tag) int {
	if old, ok := f.tags.take(buf); ok {
		f.gate(old.dir).leave(1, old.epoch)
		f.forget(old)
	}
	if f.tags.put(buf, used, v) {
		return 1
	}
	return 0
}

// gatedTun is the interface's side.
type gatedTun struct {
	tun.Device
	f    *flow
	link *linkWatch
	bind *gatedBind
	last int      // buffers that the last Read filled
	seqs []uint32 // of the questions among them
}

// Events reports the link's changes.
func (g *gatedTun) Events() <-chan tun.Event { return g.link.events }

// Close ends watching the link and closes the interface, which stays.
func (g *gatedTun) Close() error {
	g.link.close()
	return g.Device.Close()
}

// Read is called by one goroutine. Until the sockets open for the first time packets stay in the interface's queue: the
// device would drop them.
func (g *gatedTun) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case <-g.bind.ready:
	case <-g.link.done:
	}
	g.f.reclaim(bufs[:g.last])
	g.bind.rouse()
	g.f.out.wait()
	n, err := g.Device.Read(bufs[:len(bufs)-min(g.bind.probes.waiting(), len(bufs)-1)], sizes, offset)
	if len(g.seqs) < len(bufs) {
		g.seqs = make([]uint32, len(bufs))
	}
	clear(g.seqs[:n])
	if err == nil {
		n += g.bind.probes.fill(bufs[n:], sizes[n:], offset, g.seqs[n:])
	}
	g.last = n
	if n == 0 {
		return n, err
	}
	epoch, now, uncounted := g.f.out.enter(n), time.Now(), n
	for i := range n {
		if sizes[i] < 1 {
			continue
		}
		turn, pass := g.f.dst.admit(bufs[i][offset:offset+sizes[i]], now)
		if !pass {
			sizes[i] = 0
			continue
		}
		uncounted -= g.f.mark(bufs[i], offset+sizes[i], tag{dir: outbound, epoch: epoch, turn: turn, probe: g.seqs[i]})
	}
	g.f.out.leave(uncounted, epoch)
	return n, err
}

// Write is called by one goroutine per peer. Probes end here.
func (g *gatedTun) Write(bufs [][]byte, offset int) (int, error) {
	t := tally{f: g.f}
	keep := bufs[:0]
	for _, buf := range bufs { // before the write, which may use the buffers' free part
		if v, ok := g.f.tags.take(buf); ok {
			t.add(v)
		}
		if packet := buf[offset:]; isProbe(packet) {
			g.bind.probes.hear(packet)
		} else {
			keep = append(keep, buf)
		}
	}
	defer t.done()
	if len(keep) == 0 {
		return len(bufs), nil
	}
	n, err := g.Device.Write(keep, offset)
	return n + len(bufs) - len(keep), err
}

// gatedBind is the sockets' side.
type gatedBind struct {
	*udpBind
	f       *flow
	probes  *prober
	other   func() // has the interface's reader look
	open    atomic.Bool
	changed chan struct{} // gets a value when open changed; capacity 1
	ready   chan struct{} // closed when the sockets opened for the first time
	once    sync.Once
	refused uint16 // the port that could not be had last; calls of Open do not overlap
}

func newGatedBind(bind *udpBind, f *flow, probes *prober, other func()) *gatedBind {
	return &gatedBind{
		udpBind: bind, f: f, probes: probes, other: other, changed: make(chan struct{}, 1), ready: make(chan struct{}),
	}
}

// Open wraps the functions that receive. A device forgets a port that it could not have and would take any the next
// time; here it is remembered.
func (g *gatedBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	if port == 0 {
		port = g.refused
	}
	fns, actual, err := openRetry(g.udpBind, port)
	g.refused = 0
	if err != nil {
		g.refused = port
	}
	for i, receive := range fns {
		fns[i] = g.gated(receive)
	}
	g.set(err == nil)
	return fns, actual, err
}

// Close closes the sockets.
func (g *gatedBind) Close() error {
	g.set(false)
	return g.udpBind.Close()
}

func (g *gatedBind) set(open bool) {
	g.open.Store(open)
	if open {
		g.once.Do(func() { close(g.ready) })
	}
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

func (g *gatedBind) gated(receive conn.ReceiveFunc) conn.ReceiveFunc {
	last := 0
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		g.f.reclaim(bufs[:last])
		g.other()
		g.f.in.wait()
		n, err := receive(bufs, sizes, eps)
		last = n
		epoch, uncounted := g.f.in.enter(n), n
		for i := range n {
			if isData(bufs[i][:sizes[i]]) {
				uncounted -= g.f.mark(bufs[i], sizes[i], tag{dir: inbound, epoch: epoch})
			}
		}
		g.f.in.leave(uncounted, epoch)
		return n, err
	}
}

// isData reports whether a datagram carries a packet: a transport message that is no keepalive. All others end inside
// the device.
func isData(b []byte) bool {
	return len(b) > device.MessageKeepaliveSize && binary.LittleEndian.Uint32(b) == device.MessageTransportType
}

// Send is called by one goroutine per peer, and for handshakes. Questions about the path go out alone.
func (g *gatedBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	to, ok := ep.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	t, peer := tally{f: g.f}, noPeer
	defer t.done()
	var err error
	from, largest := 0, 0
	for i, buf := range bufs { // before the call, which may use the buffers' free part
		v, ok := g.f.tags.take(buf)
		if !ok {
			continue
		}
		t.add(v)
		if v.dir == outbound && v.peer != peer {
			peer = v.peer
			g.f.dst.sent(peer)
		}
		if v.probe == 0 {
			largest = max(largest, len(buf))
			continue
		}
		err = errors.Join(err, g.pass(bufs[from:i], to))
		if g.probes.asks(v.peer, v.probe, to.dst, len(buf)) {
			if failed := g.sendWhole(buf, to); failed != nil {
				g.probes.failed(v.peer, v.probe, failed)
			}
		}
		from = i + 1
	}
	err = errors.Join(err, g.pass(bufs[from:], to))
	if largest > device.MessageTransportSize+floorMTU {
		g.probes.seen(peer)
	}
	return err
}

func (g *gatedBind) pass(bufs [][]byte, to *endpoint) error {
	if len(bufs) == 0 {
		return nil
	}
	return g.udpBind.Send(bufs, to)
}
