package exchange

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/culvert-net/culvert/agent/health"
	"github.com/culvert-net/culvert/internal/logkey"
)

// Prober probes a target; it returns within the check's timeout, or when ctx ends.
type Prober interface {
	Probe(ctx context.Context, p health.Probe) health.Outcome
}

// retryListen is the time between two tries to listen, and between two looks whether the socket is still good.
const retryListen = 500 * time.Millisecond

// suspectEvery is the least time between two messages that a target is suspect; more are not sent, or not heeded.
const suspectEvery = 200 * time.Millisecond

// turnEvery is the least time between two looks at what is due, at all targets: however much comes, it costs so much and no more.
const turnEvery = 10 * time.Millisecond

// digestEvery is the least time between two digests. One that a change causes waits for it, with all changes until then.
const digestEvery = 100 * time.Millisecond

// answerEvery is the least time between two answers to a node.
const answerEvery = 50 * time.Millisecond

// unableEvery is the least time between two words in the log about probes that came to nothing.
const unableEvery = time.Minute

// Config of an exchange; all is required.
type Config struct {
	Node uint32 // this node's number
	Port uint16 // UDP, of all nodes
	// Listen opens the socket at this node's host address and that port.
	Listen func(ctx context.Context) (Socket, error)
	// Address is another node's host address; NodeOf tells the number of the node that has one.
	Address func(node uint32) netip.Addr
	NodeOf  func(a netip.Addr) (node uint32, ok bool)
	Prober  Prober
	// Changed is called, from any goroutine, when Facts or Statuses have changed, and Listened when Listening has. They must not
	// block.
	Changed, Listened func()
	Log               *slog.Logger
}

// Socket is a UDP socket.
type Socket interface {
	ReadFromUDPAddrPort(b []byte) (n int, from netip.AddrPort, err error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (n int, err error)
	// Stale says why the socket does not hear any more, as when its interface was made anew; nil: it does.
	Stale() error
	Close() error
}

// Exchange is a node's part. It probes and tells only while it runs.
type Exchange struct {
	cfg  Config
	boot uint64
	wake chan struct{}
	gate gate

	mu          sync.Mutex
	monitor     health.Monitor
	queue       queue // probes that are due
	judgement   *health.Judgement
	subscribers map[uint32]map[uint32]bool // target groups that each node hears of
	changes     uint64                     // of facts, that Changed was called for
	seq         uint64
	digestAt    time.Time // of the next
	digested    time.Time // the last
	socket      Socket
	deaf        error
	suspected   map[health.Key]time.Time // last message about it, to its host
	answered    map[uint32]time.Time
	unableAt    time.Time // when it was logged last
	counters    Counters
}

// Counters are of this run.
type Counters struct {
	Probes      uint64 // that ended
	Failed      uint64 // of those
	Untried     uint64 // that came to nothing, because of this node; not of those
	DigestsIn   uint64
	DigestsOut  uint64
	Foreign     uint64 // datagrams that were not understood, or of no node
	Excess      uint64 // datagrams that were not read: a node sent too many
	Suspicions  uint64 // that made this node probe
	Unreachable uint64 // targets that were taken away with their host
}

// New makes an exchange that knows no targets.
func New(cfg Config) *Exchange {
	return &Exchange{cfg: cfg, boot: rand.Uint64() | 1, wake: make(chan struct{}, 1), queue: newQueue(),
		judgement: health.NewJudgement(cfg.Node), deaf: errNotYet,
		suspected: map[health.Key]time.Time{}, answered: map[uint32]time.Time{}}
}

var errNotYet = errors.New("it has not begun to listen")

// Set replaces what this node hosts, the nodes that hear of each target group (by their numbers, by the group's), and what this
// node may send to.
func (x *Exchange) Set(checks []health.Check, subscribers map[uint32][]uint32, sources []health.Source) {
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.subscribers = map[uint32]map[uint32]bool{}
	for group, nodes := range subscribers {
		for _, node := range nodes {
			if x.subscribers[node] == nil {
				x.subscribers[node] = map[uint32]bool{}
			}
			x.subscribers[node][group] = true
		}
	}
	changed := x.monitor.Set(now, checks)
	x.judgement.Set(now, sources)
	maps.DeleteFunc(x.suspected, func(k health.Key, _ time.Time) bool { _, ok := x.judgement.Node(k); return !ok })
	maps.DeleteFunc(x.answered, func(_ uint32, at time.Time) bool { return now.Sub(at) > time.Minute })
	x.gate.forget(now)
	x.judgement.Own(now, x.monitor.Statuses())
	x.judgement.Settle(now)
	x.settled(now, changed)
	x.kick()
}

// Signal says that a target, seen from this node, refused a connection, or was silent. Its host is told, which may be this node.
// Of a silent one the host is asked whether it is there, too.
func (x *Exchange) Signal(vpc uint32, target netip.AddrPort, silent bool) {
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	used, hosted := x.judgement.Find(vpc, target), x.monitor.Find(vpc, target)
	for _, k := range used {
		node, _ := x.judgement.Node(k)
		if silent {
			x.judgement.Ask(now, node)
		}
		if node == x.cfg.Node {
			x.suspect(now, k)
		} else if x.due(now, k) {
			x.send(node, health.Message{Kind: health.KindSuspect, Suspect: k})
		}
	}
	for _, k := range hosted { // this node may not send there itself
		x.suspect(now, k)
	}
	if len(used)+len(hosted) > 0 {
		x.kick()
	}
}

// due bounds the messages about a target.
func (x *Exchange) due(now time.Time, k health.Key) bool {
	if last, ok := x.suspected[k]; ok && now.Sub(last) < suspectEvery {
		return false
	}
	x.suspected[k] = now
	return true
}

func (x *Exchange) suspect(now time.Time, k health.Key) bool {
	heeded := x.monitor.Suspect(now, k)
	if heeded {
		x.counters.Suspicions++
	}
	return heeded
}

// Ask has a node asked whether it is there, because something hints that it is not.
func (x *Exchange) Ask(node uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.judgement.Ask(time.Now(), node)
	x.kick()
}

// Received says how many bytes the tunnel has brought of each node.
func (x *Exchange) Received(bytes map[uint32]uint64) {
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	for node, n := range bytes {
		x.judgement.Received(now, node, n)
	}
	x.judgement.Settle(now)
	x.settled(now, false)
}

// Facts are for the tables.
func (x *Exchange) Facts() map[health.Key]health.Fact {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.judgement.Facts()
}

// Statuses are those of this node's targets.
func (x *Exchange) Statuses() []health.Status {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.monitor.Statuses()
}

// Transitions are the oldest changes of this node's targets after the one with that serial number, so many at most.
func (x *Exchange) Transitions(after uint64, most int) []health.Transition {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.monitor.Transitions(after, most)
}

// Counters of this run.
func (x *Exchange) Counters() Counters {
	x.mu.Lock()
	defer x.mu.Unlock()
	c := x.counters
	c.Excess, c.Unreachable = x.gate.refused(), x.judgement.Unreachable()
	return c
}

// Listening is nil while other nodes are heard; else it says why not.
func (x *Exchange) Listening() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.deaf
}

func (x *Exchange) kick() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// settled tells that facts changed, and has all subscribers told at once when this node's own targets did. With x.mu.
func (x *Exchange) settled(now time.Time, own bool) {
	if own {
		x.digestAt = now
		if least := x.digested.Add(digestEvery); now.Before(least) {
			x.digestAt = least
		}
		x.kick()
	}
	if changes := x.judgement.Changes(); own || changes != x.changes {
		x.changes = changes
		x.cfg.Changed()
	}
}

// Run takes part until ctx ends; then it tells the others that an agent ends, whose successor will be heard.
func (x *Exchange) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { x.listen(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last time.Time
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-timer.C:
		case <-x.wake:
			if wait := turnEvery - time.Since(last); wait > 0 {
				timer.Reset(wait)
				continue
			}
		}
		last = time.Now()
		timer.Reset(x.turn(ctx, &wg, last))
	}
	wg.Wait()
	return nil
}

// turn does what is due, and says how long nothing will be.
func (x *Exchange) turn(ctx context.Context, wg *sync.WaitGroup, now time.Time) time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range x.monitor.Due(now) {
		x.queue.add(p)
	}
	for p, ok := x.queue.next(); ok; p, ok = x.queue.next() {
		wg.Go(func() { x.probe(ctx, p) })
	}
	if !x.digestAt.After(now) {
		x.digests(now, false)
		x.digested, x.digestAt = now, now.Add(health.Tick)
	}
	next := x.digestAt
	if x.deaf == nil { // who does not listen hears no answers, which says nothing of others
		for _, node := range x.judgement.Due(now) {
			x.send(node, health.Message{Kind: health.KindQuestion, Nonce: x.boot})
		}
		if at, ok := x.judgement.Next(now); ok && at.Before(next) {
			next = at
		}
	}
	if at, ok := x.monitor.Next(); ok && at.Before(next) {
		next = at
	}
	x.settled(now, false)
	return max(turnEvery, next.Sub(now))
}

func (x *Exchange) probe(ctx context.Context, p health.Probe) {
	o := x.cfg.Prober.Probe(ctx, p)
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.queue.done(p)
	if o.Untried {
		x.unable(now, o.Detail)
	} else {
		x.counters.Probes++
	}
	if o.Reason != health.ReasonNone {
		x.counters.Failed++
	}
	changed := x.monitor.Done(now, p.ID, o)
	if s, ok := x.monitor.Status(p.Check.Key); ok && changed {
		x.judgement.Own(now, []health.Status{s})
		x.judgement.Settle(now)
	}
	x.settled(now, changed)
	x.kick() // for what waits: another probe of the target, or another target
}

// unable logs, now and then, that this node keeps targets from being probed. With x.mu.
func (x *Exchange) unable(now time.Time, why string) {
	x.counters.Untried++
	if why != "" && now.Sub(x.unableAt) > unableEvery {
		x.unableAt = now
		x.cfg.Log.Warn("targets cannot be probed, and stay as they were", logkey.Error, why)
	}
}

// digests tells every subscriber what it hears of. With x.mu.
func (x *Exchange) digests(now time.Time, leaving bool) {
	x.seq++
	statuses := x.monitor.Statuses()
	for _, node := range slices.Sorted(maps.Keys(x.subscribers)) {
		x.digest(now, node, statuses, leaving)
	}
}

func (x *Exchange) digest(now time.Time, node uint32, statuses []health.Status, leaving bool) {
	d := health.Digest{Boot: x.boot, Seq: x.seq, Leaving: leaving}
	for _, s := range statuses {
		if x.subscribers[node][s.TargetGroup] {
			d.Reports = append(d.Reports,
				health.Report{Key: s.Key, State: s.State, Reason: s.Reason, Age: now.Sub(s.Since), Doubt: s.Doubt})
		}
	}
	if node != x.cfg.Node {
		x.counters.DigestsOut++
		x.send(node, health.Message{Kind: health.KindDigest, Digest: d})
	}
}

// send is best effort: all that is sent is sent again. With x.mu.
func (x *Exchange) send(node uint32, m health.Message) {
	if x.socket == nil {
		return
	}
	to := netip.AddrPortFrom(x.cfg.Address(node), x.cfg.Port)
	for _, b := range health.Encode(m) {
		if _, err := x.socket.WriteToUDPAddrPort(b, to); err != nil {
			return
		}
	}
}

// listen keeps a socket open and reads it until ctx ends.
func (x *Exchange) listen(ctx context.Context) {
	for ctx.Err() == nil {
		s, err := x.cfg.Listen(ctx)
		if err == nil {
			err = x.serve(ctx, s)
		}
		if ctx.Err() != nil {
			return
		}
		x.listening(nil, err)
		t := time.NewTimer(retryListen)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// serve reads a socket until it fails, is stale or ctx ends.
func (x *Exchange) serve(ctx context.Context, s Socket) error {
	x.listening(s, nil)
	done := make(chan error, 1)
	go func() { done <- x.read(s) }()
	tick := time.NewTicker(retryListen)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return errors.Join(err, s.Close())
		case <-ctx.Done():
			x.mu.Lock()
			x.digests(time.Now(), true)
			x.mu.Unlock()
			x.listening(nil, ctx.Err())
			err := s.Close()
			<-done
			return err
		case <-tick.C:
			if err := s.Stale(); err != nil {
				x.listening(nil, err)
				_ = s.Close()
				<-done
				return err
			}
		}
	}
}

func (x *Exchange) listening(s Socket, deaf error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	same := (x.deaf == nil) == (deaf == nil)
	x.socket, x.deaf = s, deaf
	if !same {
		if deaf == nil {
			x.judgement.Listening(time.Now())
		}
		x.kick()
		x.cfg.Listened()
	}
}

func (x *Exchange) read(s Socket) error {
	b := make([]byte, health.MaxMessage+1)
	for {
		n, from, err := s.ReadFromUDPAddrPort(b)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		x.heard(b[:n], from)
	}
}

// heard takes a datagram. Its source address is proved by the tunnel. Facts follow with the next turn: none of what a node sends
// has all targets looked at.
func (x *Exchange) heard(b []byte, from netip.AddrPort) {
	now := time.Now()
	node, ok := x.cfg.NodeOf(from.Addr())
	if !ok {
		node = nobody
	}
	if !x.gate.admits(now, node) {
		return
	}
	m, err := health.Parse(b)
	x.mu.Lock()
	defer x.mu.Unlock()
	if !ok || node == x.cfg.Node || from.Port() != x.cfg.Port || err != nil {
		x.counters.Foreign++
		x.cfg.Log.Debug("a message about health was dropped", logkey.Address, from, logkey.Error, err)
		return
	}
	x.judgement.Alive(now, node)
	suspected := false
	switch m.Kind {
	case health.KindDigest:
		x.counters.DigestsIn++
		x.judgement.Hear(now, node, &m.Digest)
	case health.KindQuestion:
		x.answer(now, node, m.Nonce)
	case health.KindSuspect:
		suspected = x.subscribers[node][m.Suspect.TargetGroup] && x.suspect(now, m.Suspect)
	}
	if suspected || x.judgement.Stale() {
		x.kick()
	}
}

// answer says that this node is there, and what it has to tell.
func (x *Exchange) answer(now time.Time, node uint32, nonce uint64) {
	if last, ok := x.answered[node]; ok && now.Sub(last) < answerEvery {
		return
	}
	x.answered[node] = now
	x.send(node, health.Message{Kind: health.KindAnswer, Nonce: nonce})
	if x.subscribers[node] != nil {
		x.seq++
		x.digest(now, node, x.monitor.Statuses(), false)
	}
}
