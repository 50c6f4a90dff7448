package gossip

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/netlab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait: a hundred times what the tests' intervals need.
const patience = 20 * time.Second

var (
	key1 = bytes.Repeat([]byte{1}, 32)
	key2 = bytes.Repeat([]byte{2}, 32)
	key3 = bytes.Repeat([]byte{3}, 16)
)

// node is one Gossip on an address of its own of the loopback network.
type node struct {
	*Gossip
	t     *testing.T
	wakes atomic.Int64
	stop  func() // ends Run and waits for it
}

func newNode(t *testing.T, number int, keys ...[]byte) *node {
	t.Helper()
	n := &node{t: t}
	n.Gossip = New(Config{
		Node: fmt.Sprintf("node-%d", number), Address: fmt.Sprintf("127.0.7.%d", number), Wake: func() { n.wakes.Add(1) },
		Log: slog.New(slog.DiscardHandler),
		tune: func(c *memberlist.Config) {
			c.ProbeInterval, c.ProbeTimeout, c.GossipInterval = 50*time.Millisecond, 25*time.Millisecond, 10*time.Millisecond
			c.SuspicionMult, c.SuspicionMaxTimeoutMult = 2, 2
			c.PushPullInterval, c.TCPTimeout = 200*time.Millisecond, time.Second
		},
	})
	if err := n.SetMembers(nil, keys); err != nil { // opens the sockets
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	stopped := false
	n.stop = func() {
		cancel()
		if stopped {
			return
		}
		stopped = true
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	}
	t.Cleanup(n.stop)
	return n
}

func (n *node) running() *session {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.session
}

// crash ends it without a word.
func (n *node) crash() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.session.end(false)
	n.session = nil
}

func (n *node) member() api.ViewMember {
	return api.ViewMember{Node: n.cfg.Node, Address: fmt.Sprintf("%s:%d", n.cfg.Address, n.running().port)}
}

func (n *node) list(keys [][]byte, of ...*node) {
	n.t.Helper()
	var members []api.ViewMember
	for _, o := range of {
		members = append(members, o.member())
	}
	if err := n.SetMembers(members, keys); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) sees(of *node) string {
	for _, s := range n.States() {
		if s.Node == of.cfg.Node {
			return s.State
		}
	}
	return "not listed"
}

func (n *node) await(of *node, state string) {
	n.t.Helper()
	netlab.Eventually(n.t, patience, func() bool { return n.sees(of) == state },
		fmt.Sprintf("%s sees %s %s", n.cfg.Node, of.cfg.Node, state))
}

// holds tells whether the library counts a node among its own.
func (n *node) holds(name string) bool {
	return slices.ContainsFunc(n.running().members.Members(), func(m *memberlist.Node) bool { return m.Name == name })
}

// three nodes that list each other.
func three(t *testing.T) (a, b, c *node) {
	keys := [][]byte{key1}
	a, b, c = newNode(t, 1, keys...), newNode(t, 2, keys...), newNode(t, 3, keys...)
	a.list(keys, b, c)
	b.list(keys, a, c)
	c.list(keys, a, b)
	for _, x := range []*node{a, b, c} {
		for _, y := range []*node{a, b, c} {
			if x != y {
				x.await(y, Alive)
			}
		}
	}
	return a, b, c
}

func TestMembersFindEachOther(t *testing.T) {
	a, b, c := three(t)
	if a.wakes.Load() < 2 {
		t.Errorf("the loop was woken %d times for two members", a.wakes.Load())
	}
	s := a.States()
	if len(s) != 2 || s[0].Node != b.cfg.Node || s[1].Node != c.cfg.Node || s[0].Address != b.member().Address {
		t.Errorf("states %+v", s)
	}
	before := a.running()
	a.list([][]byte{key1}, b, c)
	if a.running() != before || a.sees(b) != Alive {
		t.Error("the same list again was not without effect")
	}
}

func TestOneThatLeavesAndOneThatFails(t *testing.T) {
	a, b, c := three(t)
	woken := a.wakes.Load()
	b.stop()
	a.await(b, Gone)
	c.await(b, Gone)
	c.crash()
	a.await(c, Gone)
	if a.wakes.Load() < woken+2 {
		t.Error("the loop was not woken")
	}
	again := newNode(t, 2, key1)
	again.list([][]byte{key1}, a)
	if err := a.SetMembers([]api.ViewMember{again.member()}, [][]byte{key1}); err != nil {
		t.Fatal(err)
	}
	a.await(again, Alive)
	again.await(a, Alive)
}

func TestStrangerWithoutTheKey(t *testing.T) {
	a, b, _ := three(t)
	stranger := newNode(t, 9, key2)
	stranger.list([][]byte{key2}, a, b)
	a.list([][]byte{key1}, b, stranger) // even when it is listed
	b.stop()
	a.await(b, Gone) // several rounds of probing later
	if s := stranger.sees(a); s != Unknown {
		t.Errorf("without the key one sees a member %s", s)
	}
	if s := a.sees(stranger); s != Unknown || a.holds(stranger.cfg.Node) {
		t.Errorf("who has not the key is %s", s)
	}
}

// One member lists the stranger and tells of it; the others do not take it in for that.
func TestStrangerWithTheKeyWhoIsNotListed(t *testing.T) {
	a, b, c := three(t)
	stranger := newNode(t, 9, key1)
	stranger.list([][]byte{key1}, a, b, c)
	b.list([][]byte{key1}, a, c, stranger)
	b.await(stranger, Alive)
	c.stop()
	a.await(c, Gone)
	if a.holds(stranger.cfg.Node) {
		t.Error("a stranger became a member")
	}
	if s := stranger.sees(b); s != Alive {
		t.Errorf("who lists it is %s", s)
	}
	if _, err := stranger.running().members.Join([]string{a.cfg.Node + "/" + a.member().Address}); err == nil {
		t.Error("a stranger was told what a member knows")
	}
	if a.sees(b) != Alive || b.sees(a) != Alive {
		t.Error("a stranger came between two members")
	}
}

func TestRemovedFromTheList(t *testing.T) {
	a, b, c := three(t)
	a.list([][]byte{key1}, b)
	if s := a.sees(c); s != "not listed" {
		t.Errorf("a removed member is %s", s)
	}
	a.list([][]byte{key1}, b, c)
	a.await(c, Alive)
}

func TestKeyRotation(t *testing.T) {
	a, b, c := three(t)
	sessions := []*session{a.running(), b.running(), c.running()}
	all := []*node{a, b, c}
	for step, keys := range [][][]byte{{key1, key2}, {key2, key1}, {key2}} {
		for i, n := range all {
			n.list(keys, all[(i+1)%3], all[(i+2)%3])
			if n.running() != sessions[i] {
				t.Fatalf("step %d: %s started anew", step, n.cfg.Node)
			}
			if !sameKeys(n.running().ring, keys) {
				t.Fatalf("step %d: ring of %d keys", step, len(n.running().ring.GetKeys()))
			}
		}
	}
	c.stop()
	a.await(c, Gone)
	b.await(c, Gone)
	if a.sees(b) != Alive || b.sees(a) != Alive {
		t.Error("members lost each other by the rotation")
	}
}

func TestKeysThatCannotBeRotated(t *testing.T) {
	a := newNode(t, 1, key1, key2, key3)
	before := a.running()
	if err := a.SetMembers(nil, [][]byte{key1, key3}); err != nil {
		t.Fatal(err)
	}
	if a.running() == before || !sameKeys(a.running().ring, [][]byte{key1, key3}) {
		t.Error("a key in the middle of the ring is still there")
	}
	if err := a.SetMembers(nil, nil); err != nil || a.running() != nil {
		t.Errorf("without a key: running %v, %v", a.running() != nil, err)
	}
}

func TestBadInputChangesNothing(t *testing.T) {
	a, b, c := three(t)
	before := a.running()
	if err := a.SetMembers(nil, [][]byte{{1, 2, 3}}); err == nil {
		t.Error("a key of three bytes was taken")
	}
	if len(a.States()) != 2 || a.running() != before {
		t.Error("a bad key changed the list")
	}
	err := a.SetMembers([]api.ViewMember{{Node: "x", Address: "nowhere"}, b.member(), c.member()}, [][]byte{key1})
	if err == nil || len(a.States()) != 2 || a.sees(b) != Alive {
		t.Errorf("a member without an address: %v, %+v", err, a.States())
	}
}

func TestNothingBeforeAKey(t *testing.T) {
	a := newNode(t, 1)
	if a.running() != nil {
		t.Error("sockets without a key")
	}
	if err := a.SetMembers([]api.ViewMember{{Node: "node-2", Address: "127.0.7.2:7946"}}, nil); err != nil {
		t.Fatal(err)
	}
	if s := a.States(); len(s) != 1 || s[0].State != Unknown {
		t.Errorf("states %+v", s)
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.7.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g := New(Config{Node: "node-1", Address: "127.0.7.1", Port: uint16(l.Addr().(*net.TCPAddr).Port)})
	if err := g.SetMembers(nil, [][]byte{key1}); err == nil {
		t.Fatal("two at one port")
	}
	l.Close()
	if err := g.SetMembers(nil, [][]byte{key1}); err != nil {
		t.Errorf("once the port is free: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Run(ctx); err != nil {
		t.Error(err)
	}
	if err := g.SetMembers(nil, [][]byte{key1}); err != nil || g.session != nil {
		t.Errorf("started again after the end: %v", err)
	}
}
