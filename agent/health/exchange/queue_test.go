package exchange

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/agent/health"
)

func probeOf(account string, id uint64, hurry bool) health.Probe {
	return health.Probe{ID: id, Check: health.Check{Account: account}, Hurry: hurry}
}

// An account gets half of the room while it is alone, and what others ask for is there for them: at once their own probes, and
// their part of the room as probes end.
func TestAccountsShareTheRoom(t *testing.T) {
	q := newQueue()
	running := map[string][]health.Probe{}
	start := func() {
		for p, ok := q.next(); ok; p, ok = q.next() {
			running[p.Check.Account] = append(running[p.Check.Account], p)
		}
	}
	many := func(account string) {
		for i := range 1000 {
			q.add(probeOf(account, uint64(i), false))
		}
		start()
	}
	if many("a"); len(running["a"]) != maxProbes/2 {
		t.Fatalf("alone: %d", len(running["a"]))
	}
	if many("b"); len(running["b"]) != maxProbes/4 {
		t.Fatalf("the second: %d", len(running["b"]))
	}
	for i := range 200 { // each ends one in turn
		account := []string{"a", "b"}[i%2]
		q.done(running[account][0])
		running[account] = running[account][1:]
		start()
	}
	if a, b := len(running["a"]), len(running["b"]); a < b-1 || a > b+2 || a+b > maxProbes {
		t.Errorf("two that want all: %d and %d", a, b)
	}
	for i := range 50 {
		account := fmt.Sprint(i)
		if many(account); len(running[account]) < ownProbes {
			t.Fatalf("number %d: %d, want %d of its own", i, len(running[account]), ownProbes)
		}
	}
	for len(q.accounts) > 0 {
		for _, account := range slices.Sorted(maps.Keys(running)) {
			for _, p := range running[account] {
				q.done(p)
			}
			running[account] = nil
		}
		start()
	}
	if q.free != maxProbes || len(q.turns) != 0 {
		t.Errorf("in the end: %d free, turns %v", q.free, q.turns)
	}
}

// Of an account's probes those of suspected targets come first, and others in the order in which they were due.
func TestSuspectedFirst(t *testing.T) {
	q := newQueue()
	for i := range 4 {
		q.add(probeOf("a", uint64(i), i >= 2))
	}
	var order []uint64
	for p, ok := q.next(); ok; p, ok = q.next() {
		order = append(order, p.ID)
	}
	if !slices.Equal(order, []uint64{2, 3, 0, 1}) {
		t.Errorf("order %v", order)
	}
}

// crowd is a Prober in memory that counts how many probes run. Targets of an account whose name is "silent" never answer.
type crowd struct {
	mu            sync.Mutex
	running, most int
	begun         map[string]int // by account
}

func (c *crowd) Probe(ctx context.Context, p health.Probe) health.Outcome {
	c.mu.Lock()
	c.begun[p.Check.Account]++
	c.running++
	c.most = max(c.most, c.running)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.running--
	}()
	if p.Check.Account != "silent" {
		return health.Outcome{}
	}
	select {
	case <-time.After(p.Check.Timeout):
	case <-ctx.Done():
	}
	return health.Outcome{Reason: health.ReasonTimeout}
}

// An account whose thousand targets are all silent, and which has them suspected besides, keeps nobody's probes waiting, nor the
// node's memory full.
func TestSilentTargetsOfAnAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{begun: map[string]int{}}
		x := New(Config{Node: 1, Port: port, Listen: newNetwork().listen(1), Address: address, NodeOf: nodeOf, Prober: c,
			Changed: func() {}, Listened: func() {}, Log: slog.New(slog.DiscardHandler)})
		config := health.Config{Protocol: health.TCP, Interval: time.Second, Timeout: time.Second, HealthyThreshold: 2, UnhealthyThreshold: 10}
		const silent = 1000
		var checks []health.Check
		for i := range silent + 1 {
			at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 443)
			checks = append(checks, health.Check{Key: health.Key{TargetGroup: 1, Target: at}, Account: "silent", VPC: vpc, Port: 443, Config: config})
		}
		checks[silent].Account = "other"
		x.Set(checks, nil, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = x.Run(ctx) }()
		const seconds = 60
		for i := range seconds * 10 {
			x.Signal(vpc, checks[i%silent].Target, true)
			<-time.After(100 * time.Millisecond)
		}
		cancel()
		<-done
		if n := c.begun["other"]; n < seconds-2 {
			t.Errorf("the other account's target was probed %d times in %d s", n, seconds)
		}
		if c.most > maxProbes/2+1 {
			t.Errorf("%d probes ran at the same time", c.most)
		}
		if s := x.queue.accounts["silent"]; len(s.waiting) > silent || len(s.hurried) > silent {
			t.Errorf("%d probes wait, and %d of bursts", len(s.waiting), len(s.hurried))
		}
	})
}
