package exchange

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-net/culvert/agent/health"
	"github.com/culvert-net/culvert/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	mesh = 7
	port = 1022
)

// network is nodes' sockets in memory. What goes to a node that is cut off, or comes from it, is lost.
type network struct {
	mu      sync.Mutex
	sockets map[netip.AddrPort]*memSocket
	cut     map[uint32]bool
	sent    int
}

type datagram struct {
	b    []byte
	from netip.AddrPort
}

type memSocket struct {
	net   *network
	at    netip.AddrPort
	in    chan datagram
	gone  chan struct{}
	once  sync.Once
	mu    sync.Mutex
	stale error
}

func newNetwork() *network {
	return &network{sockets: map[netip.AddrPort]*memSocket{}, cut: map[uint32]bool{}}
}

func address(node uint32) netip.Addr { return api.NodeAddr(mesh, node) }

func nodeOf(a netip.Addr) (uint32, bool) {
	o, ok := api.ParseOverlay(a)
	return o.Host, ok && o.Mesh == mesh && o.VPC == 0 && o.Tag == 0
}

func (n *network) listen(node uint32) func(context.Context) (Socket, error) {
	return func(context.Context) (Socket, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		at := netip.AddrPortFrom(address(node), port)
		n.sockets[at] = &memSocket{net: n, at: at, in: make(chan datagram, 1000), gone: make(chan struct{})}
		return n.sockets[at], nil
	}
}

func (n *network) set(node uint32, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[node] = cut
}

func (s *memSocket) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	select {
	case d := <-s.in:
		return copy(b, d.b), d.from, nil
	case <-s.gone:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

func (s *memSocket) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	s.net.sent++
	from, _ := nodeOf(s.at.Addr())
	target, _ := nodeOf(to.Addr())
	if peer := s.net.sockets[to]; peer != nil && !s.net.cut[from] && !s.net.cut[target] {
		peer.in <- datagram{append([]byte(nil), b...), s.at}
	}
	return len(b), nil
}

func (s *memSocket) Stale() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stale
}

func (s *memSocket) Close() error {
	s.once.Do(func() { close(s.gone) })
	return nil
}

// targets is a Prober in memory: those of a set are dead.
type targets struct {
	mu     sync.Mutex
	dead   map[health.Key]bool
	silent bool // rather than refusing
	begun  map[health.Key]int
}

func newTargets() *targets { return &targets{dead: map[health.Key]bool{}, begun: map[health.Key]int{}} }

func (p *targets) Probe(ctx context.Context, pr health.Probe) health.Outcome {
	p.mu.Lock()
	dead, silent := p.dead[pr.Check.Key], p.silent
	p.begun[pr.Check.Key]++
	p.mu.Unlock()
	if !dead {
		return health.Outcome{}
	}
	if !silent {
		return health.Outcome{Reason: health.ReasonFailed}
	}
	wait := pr.Check.Timeout
	if pr.Hurry {
		wait = 250 * time.Millisecond
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
	return health.Outcome{Reason: health.ReasonTimeout}
}

func (p *targets) kill(k health.Key, dead bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead[k] = dead
}

func key(n int) health.Key {
	return health.Key{TargetGroup: 1, Target: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(n)}), 443)}
}

const vpc = 5

// node is one node of the rig: it hosts the targets that have its number, and may send to all.
type node struct {
	*Exchange
	stop func()
}

type rig struct {
	*network
	*targets
	t     *testing.T
	nodes map[uint32]*node
}

// newRig has nodes 1 to hosts with a target each, and one more node that only sends there.
func newRig(t *testing.T, hosts uint32) *rig {
	r := &rig{newNetwork(), newTargets(), t, map[uint32]*node{}}
	for n := range hosts + 1 {
		r.begin(n+1, hosts)
	}
	r.until(5*time.Second, "all are healthy", func() bool { return r.count(health.Healthy) == int(hosts*(hosts+1)) })
	return r
}

func (r *rig) begin(number, hosts uint32) {
	x := New(Config{Node: number, Port: port, Listen: r.listen(number), Address: address, NodeOf: nodeOf, Prober: r.targets,
		Changed: func() {}, Listened: func() {}, Log: slog.New(slog.DiscardHandler)})
	var sources []health.Source
	var all []uint32
	for n := range hosts {
		sources = append(sources, health.Source{Key: key(int(n + 1)), Node: n + 1, VPC: vpc})
	}
	for n := range hosts + 1 {
		all = append(all, n+1)
	}
	checks := []health.Check{}
	if number <= hosts {
		checks = append(checks, health.Check{Key: key(int(number)), VPC: vpc, Port: 443, Config: health.Config{Protocol: health.TCP,
			Interval: 10 * time.Second, Timeout: 10 * time.Second, HealthyThreshold: 2, UnhealthyThreshold: 2}})
	}
	x.Set(checks, map[uint32][]uint32{1: all}, sources)
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = x.Run(ctx) }()
	r.nodes[number] = &node{x, func() { cancel(); <-done }}
}

func (r *rig) end() {
	for _, n := range r.nodes {
		n.stop()
	}
}

// count is over the facts of all nodes.
func (r *rig) count(s health.State) (n int) {
	for _, x := range r.nodes {
		for _, f := range x.Facts() {
			if f.State == s {
				n++
			}
		}
	}
	return n
}

// until polls, and returns how long it took.
func (r *rig) until(most time.Duration, what string, ok func() bool) time.Duration {
	r.t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > most {
			r.t.Fatalf("%s: not within %s", what, most)
		}
		<-time.After(5 * time.Millisecond)
	}
	return time.Since(begin)
}

// seen is what a node thinks of a target.
func (r *rig) seen(number uint32, k health.Key) health.Fact { return r.nodes[number].Facts()[k] }

func (r *rig) everywhere(k health.Key, s health.State) func() bool {
	return func() bool {
		for n := range r.nodes {
			if r.seen(n, k).State != s {
				return false
			}
		}
		return true
	}
}

// A dead process is out on every node within a second of the first refused connection, and one that is silent, too.
func TestDeadProcess(t *testing.T) {
	for _, silent := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 4)
			defer r.end()
			r.targets.mu.Lock()
			r.silent = silent
			r.targets.mu.Unlock()
			<-time.After(time.Minute)
			r.kill(key(2), true)
			<-time.After(100 * time.Millisecond)
			if !r.everywhere(key(2), health.Healthy)() {
				t.Fatal("out before anybody could know")
			}
			r.nodes[5].Signal(vpc, key(2).Target, silent)
			took := r.until(time.Second, "out everywhere", r.everywhere(key(2), health.Unhealthy))
			t.Logf("silent %t: out everywhere in %s", silent, took)
			if bound := 700 * time.Millisecond; took > bound {
				t.Errorf("took %s, more than %s", took, bound)
			}
			if r.count(health.Unhealthy) != 5 {
				t.Error("others are out, too")
			}
		})
	}
}

// A suspicion about a target that works does nothing, however often it comes, and costs few probes and messages.
func TestFalseSuspicion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 4)
		defer r.end()
		r.targets.mu.Lock()
		clear(r.begun)
		r.targets.mu.Unlock()
		r.network.mu.Lock()
		r.sent = 0
		r.network.mu.Unlock()
		const seconds = 10
		for range seconds * 1000 {
			r.nodes[5].Signal(vpc, key(2).Target, false)
			r.nodes[5].Signal(vpc+1, key(2).Target, false)
			<-time.After(time.Millisecond)
		}
		if r.count(health.Healthy) != 20 {
			t.Error("a target was taken away")
		}
		r.targets.mu.Lock()
		defer r.targets.mu.Unlock()
		if n := r.begun[key(2)]; n < seconds || n > seconds*11 {
			t.Errorf("%d probes in %d s", n, seconds)
		}
		r.network.mu.Lock()
		defer r.network.mu.Unlock()
		if most := seconds * (4*4*2 + 5 + 4*4); r.sent > most { // digests, messages about the target, questions after them
			t.Errorf("%d messages in %d s, more than %d", r.sent, seconds, most)
		}
	})
}

// A dead host is out within 3 s on all other nodes, and within a second and a half where somebody was not answered. It is back when
// it was heard for a second.
func TestDeadHost(t *testing.T) {
	for _, hint := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 4)
			defer r.end()
			r.set(2, true)
			bound := 2500 * time.Millisecond
			if hint {
				<-time.After(300 * time.Millisecond)
				r.nodes[5].Signal(vpc, key(2).Target, true)
				bound = 1500 * time.Millisecond
			}
			took := r.until(3*time.Second, "out on the node that sends", func() bool { return r.seen(5, key(2)).State == health.Unhealthy })
			t.Logf("hint %t: out in %s", hint, took)
			if took > bound {
				t.Errorf("took %s, more than %s", took, bound)
			}
			r.until(3*time.Second, "out on all others", func() bool { return r.count(health.Unhealthy) >= 4 })
			if f := r.seen(5, key(2)); f.Reason != health.ReasonUnreachable {
				t.Errorf("%+v", f)
			}
			r.set(2, false)
			took = r.until(3*time.Second, "back", r.everywhere(key(2), health.Healthy))
			if took < 2*health.Tick || took > 4*health.Tick {
				t.Errorf("back after %s", took)
			}
		})
	}
}

// Loss of half of all digests, and a node that is cut off from all, take nothing away elsewhere.
func TestOneNodeCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 4)
		defer r.end()
		r.set(5, true) // hosts nothing
		<-time.After(time.Minute)
		for n := uint32(1); n <= 4; n++ {
			if len(r.nodes[n].Facts()) != 4 {
				t.Fatalf("node %d: %v", n, r.nodes[n].Facts())
			}
			for k, f := range r.nodes[n].Facts() {
				if f.State != health.Healthy {
					t.Errorf("node %d: %v is %+v", n, k, f)
				}
			}
		}
		// The one that hears nobody takes away no more than half at a time.
		r.set(5, false)
		r.until(2*time.Second, "back", func() bool { return r.count(health.Healthy) == 20 })
	})
}

// An agent that is replaced is missed by nobody.
func TestAgentIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 4)
		defer r.end()
		r.nodes[2].stop()
		for range 200 {
			<-time.After(100 * time.Millisecond)
			if r.seen(5, key(2)).State != health.Healthy {
				t.Fatalf("%+v", r.seen(5, key(2)))
			}
		}
		r.begin(2, 4)
		for range 100 {
			<-time.After(100 * time.Millisecond)
			if r.seen(5, key(2)).State != health.Healthy {
				t.Fatalf("%+v", r.seen(5, key(2)))
			}
		}
		r.kill(key(2), true)
		r.nodes[5].Signal(vpc, key(2).Target, false)
		r.until(time.Second, "its successor is believed", r.everywhere(key(2), health.Unhealthy))
	})
}

// Who is no node, sends from elsewhere, or sends what nobody understands, is not heard.
func TestForeignMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.end()
		x := r.nodes[3].Exchange
		lie := health.Encode(health.Message{Kind: health.KindDigest, Digest: health.Digest{Boot: 1, Seq: 1 << 60, Reports: []health.Report{
			{Key: key(1), State: health.Unhealthy}, {Key: key(2), State: health.Unhealthy}}}})[0]
		for _, from := range []netip.AddrPort{
			netip.AddrPortFrom(api.NodeAddr(mesh+1, 1), port),
			netip.AddrPortFrom(api.Overlay{Mesh: mesh, VPC: vpc, Host: 1}.Addr(), port),
			netip.AddrPortFrom(address(1), port+1),
			netip.AddrPortFrom(address(3), port), // this node itself
			netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port),
		} {
			before := x.Counters().Foreign
			x.heard(lie, from)
			if x.Counters().Foreign != before+1 {
				t.Errorf("from %s: not counted", from)
			}
		}
		x.heard([]byte("cvh1"), netip.AddrPortFrom(address(1), port))
		x.heard(lie, netip.AddrPortFrom(address(4), port)) // a node that hosts nothing
		<-time.After(2 * turnEvery)
		if r.count(health.Unhealthy) != 0 {
			t.Error("a target was taken away")
		}
		x.heard(lie, netip.AddrPortFrom(address(1), port))
		<-time.After(2 * turnEvery)
		if f := x.Facts(); f[key(1)].State != health.Unhealthy || f[key(2)].State != health.Healthy {
			t.Errorf("of a node's own target: %+v", f)
		}
	})
}

// A node asks others to probe only what it may send to.
func TestSuspicionsOfStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.end()
		r.kill(key(1), true)
		ask := health.Encode(health.Message{Kind: health.KindSuspect, Suspect: key(1)})[0]
		r.nodes[1].heard(ask, netip.AddrPortFrom(address(9), port))
		<-time.After(time.Second)
		if n := r.nodes[1].Counters().Suspicions; n != 0 {
			t.Errorf("a stranger was heeded %d times", n)
		}
		r.nodes[1].heard(ask, netip.AddrPortFrom(address(3), port))
		r.until(time.Second, "out", r.everywhere(key(1), health.Unhealthy))
	})
}

// A socket that hears nothing any more is replaced; meanwhile nobody is taken for dead.
func TestSocketIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.end()
		x := r.nodes[3].Exchange
		r.network.mu.Lock()
		s := r.sockets[netip.AddrPortFrom(address(3), port)]
		r.network.mu.Unlock()
		s.mu.Lock()
		s.stale = errNotYet
		s.mu.Unlock()
		r.until(time.Second, "noticed", func() bool { return x.Listening() != nil })
		r.until(time.Second, "replaced", func() bool { return x.Listening() == nil })
		for range 100 {
			<-time.After(100 * time.Millisecond)
			if r.count(health.Unhealthy) != 0 {
				t.Fatal("a target was taken away")
			}
		}
	})
}

// What a node has to say to many does not depend on what happens: so many datagrams in a quiet minute, so many in a bad one.
func TestConstantWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 4)
		defer r.end()
		minute := func() int {
			r.network.mu.Lock()
			before := r.sent
			r.network.mu.Unlock()
			<-time.After(time.Minute)
			r.network.mu.Lock()
			defer r.network.mu.Unlock()
			return r.sent - before
		}
		quiet := minute()
		for n := 1; n <= 4; n++ {
			r.kill(key(n), true)
		}
		bad := minute()
		t.Log(fmt.Sprintf("%d datagrams in a quiet minute, %d in a bad one", quiet, bad))
		if bad > quiet*11/10 {
			t.Errorf("%d datagrams in a bad minute, %d in a quiet one", bad, quiet)
		}
	})
}
