package tunnel

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	// maxQueued bounds the probes and answers that wait to be read by the device; what is over is lost, as on a network.
	maxQueued = 4096

	// maxAnswers bounds the answers to one peer among them: two rounds of questions, and some more. A peer that asks
	// without end gets no more, and leaves room for others' and for our own questions.
	maxAnswers = 64

	// maxFill is how much of a read, of 128 packets, the interface leaves to probes that wait.
	maxFill = 32

	// pathsPatience is how long a question for changes waits for one, well below what its asker waits for an answer.
	pathsPatience = 5 * time.Second
)

// prober measures the path to every peer and answers the probes of others. It stands between the interface and the
// device: what it sends is read by the device as if it came from the interface, so that it is encrypted and goes the way
// of all packets; what it is sent is taken out before the interface.
type prober struct {
	dst  *router
	wake func() // ends a wait for packets of the interface
	mtu  func() (int, error)
	log  *slog.Logger
	poke chan struct{} // something happened; capacity 1
	done chan struct{}

	mu      sync.Mutex
	self    netip.Addr // of this tunnel; invalid: not told, nothing is measured or answered
	table   *table     // as of which paths are
	paths   map[wire.PublicKey]*peerPath
	queued  []probe // to be read by the device
	version uint64
	changed chan struct{} // closed when version grows

	answering map[netip.Addr]int // answers among those queued, by peer

	buffer func() int // of the sockets, in bytes; nil: windows are not for this device
	asking askers
}

// peerPath is the path to one peer.
type peerPath struct {
	*pathMTU
	q    *queue
	to   netip.Addr // the peer's address in the tunnel
	at   netip.AddrPort
	sent map[uint32]time.Time // questions on their way
}

// where names the peer by its underlay address, or where that is not known by the one in the tunnel.
func (x *peerPath) where() string {
	if x.at.IsValid() {
		return x.at.String()
	}
	return x.to.String()
}

func newProber(dst *router, mtu func() (int, error), wake func(), log *slog.Logger) *prober {
	return &prober{
		dst: dst, wake: wake, mtu: mtu, log: log, poke: make(chan struct{}, 1), done: make(chan struct{}),
		paths: make(map[wire.PublicKey]*peerPath), changed: make(chan struct{}),
		version:   uint64(time.Now().UnixNano()), // no other process's
		answering: make(map[netip.Addr]int),
	}
}

// nudge makes run look.
func (p *prober) nudge() {
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// run measures until the context ends.
func (p *prober) run(ctx context.Context) {
	defer close(p.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if next := p.look(time.Now()); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(time.Millisecond, time.Until(next)))
		}
		select {
		case <-ctx.Done():
			return
		case <-p.poke:
		case <-timer.C:
		}
	}
}

// look ends and begins rounds and returns when to look again; zero: when nudged.
func (p *prober) look(now time.Time) (next time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.self.IsValid() {
		return time.Time{}
	}
	p.follow(now)
	top, err := p.mtu()
	if err != nil {
		p.log.Warn("paths are not measured", logkey.Error, err)
		return now.Add(quietFirst)
	}
	earlier := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	changed := false
	for _, x := range p.paths {
		changed = x.setTop(top, now) || changed
		if before := x.pathMTU.mtu; x.settle(now) {
			changed = true
			if max(before, x.pathMTU.mtu) != top || before > x.pathMTU.mtu {
				p.log.Info("path measured", logkey.Peer, x.where(), logkey.MTU, x.pathMTU.mtu)
			}
		}
		busy := x.q.large.Load()
		if !x.q.reachable.Load() {
			continue // nobody knows where to send to; the peer speaks first
		}
		if x.wanted(now, busy) {
			p.ask(x, now)
		} else if busy {
			earlier(x.confirmAt())
		}
		earlier(x.next())
	}
	if changed {
		p.publish()
	}
	if len(p.queued) > 0 {
		p.wake()
	}
	return next
}

// follow takes over the peers that the device has now.
func (p *prober) follow(now time.Time) {
	t := p.dst.table.Load()
	if t == p.table {
		return
	}
	p.table = t
	gone, changed := p.paths, false
	p.paths = make(map[wire.PublicKey]*peerPath, len(gone))
	for i, q := range t.queues {
		if q == nil || !t.first[i].IsValid() {
			continue
		}
		x := gone[q.key]
		if x == nil || x.q != q || x.to != t.first[i] {
			top, _ := p.mtu()
			x = &peerPath{pathMTU: newPathMTU(top, now), q: q, to: t.first[i], sent: make(map[uint32]time.Time)}
		}
		p.paths[q.key] = x
	}
	for key, x := range gone {
		changed = changed || x.pathMTU.mtu != 0 && p.paths[key] != x
	}
	if changed { // else nothing that is known is another, wherever peers are now
		p.publish()
	}
}

func (p *prober) publish() {
	p.version++
	close(p.changed)
	p.changed = make(chan struct{})
}

// ask sends a round of questions.
func (p *prober) ask(x *peerPath, now time.Time) {
	x.q.large.Store(false)
	clear(x.sent)
	for _, s := range x.begin(now) {
		p.enqueue(probe{from: p.self, to: x.to, kind: probeAsk, size: s.size, seq: s.seq})
	}
}

func (p *prober) enqueue(x probe) {
	if len(p.queued) < maxQueued {
		p.queued = append(p.queued, x)
	}
}

// answer queues the answer to a question.
func (p *prober) answer(ask probe) {
	p.reply(probe{from: p.self, to: ask.from, kind: probeAnswer, size: ask.size, seq: ask.seq})
}

func (p *prober) reply(x probe) {
	if len(p.queued) >= maxQueued || p.answering[x.to] >= maxAnswers {
		return
	}
	p.answering[x.to]++
	p.enqueue(x)
	p.wake()
}

// waiting is how many packets fill has for the device, at most maxFill.
func (p *prober) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(len(p.queued), maxFill)
}

// fill hands what is queued to the device and returns how many packets that were. seqs gets the number of each question,
// 0 for answers.
func (p *prober) fill(bufs [][]byte, sizes []int, offset int, seqs []uint32) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n < len(bufs) && len(p.queued) > 0 {
		x := p.queued[0]
		p.queued = p.queued[1:]
		if x.kind == probeAnswer || x.kind == probeRoom {
			if p.answering[x.to]--; p.answering[x.to] == 0 {
				delete(p.answering, x.to)
			}
		}
		if sizes[n] = x.put(bufs[n][offset:]); sizes[n] == 0 {
			continue
		}
		if seqs[n] = 0; x.kind == probeAsk {
			seqs[n] = x.seq
		}
		n++
	}
	if len(p.queued) > 0 {
		p.wake() // the rest, next time
	}
	return n
}

// hear takes a probe that a peer sent. Its source was proven by the device; only the first of a peer's addresses speaks
// for its tunnel.
func (p *prober) hear(packet []byte) {
	x, ok := parseProbe(packet)
	if !ok {
		return
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.dst.table.Load()
	i := t.lookup(x.from.As16())
	if x.to != p.self || i == noPeer || t.first[i] != x.from {
		return
	}
	if !t.queues[i].reachable.Swap(true) {
		p.nudge()
	}
	switch x.kind {
	case probeAsk:
		p.answer(x)
		return
	case probeStone:
		if p.buffer != nil {
			room := roomFor(p.buffer(), p.asking.add(i, now))
			p.reply(probe{from: p.self, to: x.from, kind: probeRoom, seq: x.seq, room: room})
		}
		return
	case probeRoom:
		opened, next := t.queues[i].window.answer(x.seq, x.room, now)
		if next != 0 {
			p.enqueue(probe{from: p.self, to: x.from, kind: probeStone, seq: next})
		}
		if opened || next != 0 {
			p.wake()
		}
		return
	}
	path := p.paths[t.queues[i].key]
	if path == nil {
		return
	}
	var rtt time.Duration
	if at, ok := path.sent[x.seq]; ok {
		rtt = max(1, now.Sub(at)) // 0 is for questions that are not known
	}
	path.answer(x.seq, rtt, now)
	p.nudge()
}

// asks is told before a question goes out to an underlay address, with its size as a WireGuard message, and reports whether it may.
// To an address that has answered nothing yet only a small one goes: the source of what a peer sends is anybody's choice, and an
// address that never asked for it would get thousands of times what was sent in its name (RFC 9000, section 8.1, allows thrice).
func (p *prober) asks(peer, seq uint32, at netip.AddrPort, size int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.dst.queue(peer)
	if q == nil || p.paths[q.key] == nil {
		return false
	}
	x, now := p.paths[q.key], time.Now()
	if x.at != at {
		if x.at.IsValid() {
			clear(x.sent)
			x.moved(now)
			p.nudge()
		}
		x.at = at
	}
	if !x.proven && size > device.MessageTransportSize+helloSize {
		return false
	}
	x.sent[seq] = now
	return true
}

// failed notes that a question did not go out; this host refuses it for its size, perhaps.
func (p *prober) failed(peer, seq uint32, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.dst.queue(peer)
	if q == nil || p.paths[q.key] == nil {
		return
	}
	x := p.paths[q.key]
	delete(x.sent, seq)
	if isTooLong(err) {
		x.refused(seq)
		p.nudge()
	}
}

// list answers the command "paths": lines "self=ADDRESS", this tunnel's own address among its peers, and "since=VERSION",
// which waits a while for another version.
func (p *prober) list(body string) (string, error) {
	var since uint64
	for line := range strings.Lines(body) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		var err error
		switch key {
		case "self":
			var a netip.Addr
			if a, err = netip.ParseAddr(value); err == nil {
				err = p.setSelf(a)
			}
		case "since":
			since, err = strconv.ParseUint(value, 10, 64)
		default:
			err = fmt.Errorf("want self or since")
		}
		if err != nil {
			return "", fmt.Errorf("paths: %s=%s: %w: %w", key, value, err, unix.EINVAL)
		}
	}
	p.await(context.Background(), since)
	return p.text(), nil
}

// await returns when the version is another than since, after pathsPatience, or when the context or the prober ends.
func (p *prober) await(ctx context.Context, since uint64) {
	p.mu.Lock()
	version, changed := p.version, p.changed
	p.mu.Unlock()
	if version != since {
		return
	}
	timer := time.NewTimer(pathsPatience)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
	case <-p.done:
	}
}

// seen notes that a large datagram went to a peer.
func (p *prober) seen(peer uint32) {
	if q := p.dst.queue(peer); q != nil && !q.large.Load() {
		q.large.Store(true)
		p.nudge()
	}
}

func (p *prober) setSelf(a netip.Addr) error {
	if !a.Is6() || a.Is4In6() {
		return fmt.Errorf("want an IPv6 address")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.self != a {
		p.self = a
		p.nudge()
	}
	return nil
}

func (p *prober) text() string {
	known := p.known()
	var b strings.Builder
	fmt.Fprintf(&b, "version=%d\n", known.Version)
	for _, key := range slices.SortedFunc(maps.Keys(known.MTU), wire.PublicKey.Compare) {
		fmt.Fprintf(&b, "public_key=%x\nmtu=%d\n", key[:], known.MTU[key])
	}
	return b.String()
}

// known is what was measured so far.
func (p *prober) known() wire.PathMTUs {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := wire.PathMTUs{Version: p.version, MTU: make(map[wire.PublicKey]int, len(p.paths))}
	for key, x := range p.paths {
		if x.pathMTU.mtu != 0 {
			out.MTU[key] = x.pathMTU.mtu
		}
	}
	return out
}
