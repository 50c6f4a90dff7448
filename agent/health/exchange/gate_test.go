package exchange

import (
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/agent/health"
)

// A node that sends as much as it can has others heard as ever, and one that changes its mind all the time has this node's facts
// follow so often and no more.
func TestFloodOfANode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.end()
		x, flooding, other := r.nodes[3].Exchange, netip.AddrPortFrom(address(1), port), netip.AddrPortFrom(address(2), port)
		answer := health.Encode(health.Message{Kind: health.KindAnswer})[0]
		const times = 10
		for range times * nodeBurst {
			x.heard(answer, flooding)
		}
		if n := x.Counters().Excess; n < (times-1)*nodeBurst {
			t.Errorf("of %d datagrams at once all but %d were read", times*nodeBurst, n)
		}
		seq := uint64(0)
		word := func(k health.Key, s health.State) []byte {
			seq++
			return health.Encode(health.Message{Kind: health.KindDigest, Digest: health.Digest{Boot: 1, Seq: seq,
				Reports: []health.Report{{Key: k, State: s}}}})[0]
		}
		x.heard(word(key(2), health.Unhealthy), other)
		r.until(2*turnEvery, "the other node was heard", func() bool { return r.seen(3, key(2)).State == health.Unhealthy })

		<-time.After(time.Second)
		changed := 0
		x.mu.Lock()
		x.cfg.Changed = func() { changed++ }
		x.mu.Unlock()
		const steps = 1000
		for i := range steps {
			x.heard(word(key(2), health.Unhealthy-health.State(i%2)), other)
			<-time.After(time.Millisecond)
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		if most := int(steps * time.Millisecond / turnEvery); changed == 0 || changed > most+1 {
			t.Errorf("facts changed %d times in a second, want %d at most", changed, most)
		}
	})
}

// A node that has been quiet is as new, and what is kept of nodes does not grow.
func TestQuietNodesAreForgotten(t *testing.T) {
	var g gate
	now := time.Now()
	for node := range uint32(100) {
		for range 1 + node {
			if !g.admits(now, node) {
				t.Fatal("refused")
			}
		}
	}
	if g.forget(now); len(g.nodes) != 100 {
		t.Errorf("%d nodes are left at once", len(g.nodes))
	}
	if g.forget(now.Add(50500 * time.Millisecond / nodeRate)); len(g.nodes) != 50 {
		t.Errorf("%d nodes are left later", len(g.nodes))
	}
}

// What a datagram costs has nothing to do with how many targets there are.
func TestDatagramsCostLittle(t *testing.T) {
	x := New(Config{Node: 1, Port: port, Address: address, NodeOf: nodeOf, Changed: func() {}, Log: slog.New(slog.DiscardHandler)})
	const targets = 10_000
	var sources []health.Source
	d := health.Digest{Boot: 1, Seq: 1}
	for i := range targets {
		k := health.Key{TargetGroup: uint32(i), Target: key(1).Target}
		sources = append(sources, health.Source{Key: k, Node: 2, VPC: uint32(i)})
		d.Reports = append(d.Reports, health.Report{Key: k, State: health.Healthy})
	}
	x.Set(nil, nil, sources)
	x.judgement.Hear(time.Now(), 2, &d)
	x.judgement.Settle(time.Now())
	if n := len(x.Facts()); n != targets {
		t.Fatalf("%d facts", n)
	}
	d.Reports = d.Reports[:60]
	for name, m := range map[string]health.Message{"an answer": {Kind: health.KindAnswer}, "a digest": {Kind: health.KindDigest, Digest: d}} {
		b := health.Encode(m)[0]
		if n := testing.AllocsPerRun(100, func() { x.heard(b, netip.AddrPortFrom(address(2), port)) }); n > 20 {
			t.Errorf("%s takes %.0f allocations", name, n)
		}
	}
	if n := testing.AllocsPerRun(100, func() { x.Signal(targets-1, key(1).Target, false) }); n > 20 {
		t.Errorf("a signal takes %.0f allocations", n)
	}
}
