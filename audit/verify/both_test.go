package verify

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
)

var shop = leg{connID, "10.0.1.5", "10.0.9.6"}

// two are a consumer's node and a provider's.
func two(t testing.TB) (w *world, c, p *sealer) {
	w = newWorld(t, false)
	return w, w.node("i-a", "boot-1", "consumer", keyOf(3)), w.node("i-b", "boot-1", "provider", keyOf(4))
}

// some is traffic of which a tenth is lost on the way there.
var some = carry{sent: 20, lost: 2, back: 10, backLost: 0}

// the newest line of the report on the connection.
func connectionOf(t testing.TB, r *Report, id string) Connection {
	t.Helper()
	for _, c := range r.Connections {
		if c.Connection == id {
			return c
		}
	}
	t.Fatalf("no connection %s in %+v", id, r.Connections)
	return Connection{}
}

// What both ends tell is compared, and what was lost between is what the tunnel lost.
func TestBothEndsOfAConnection(t *testing.T) {
	w, c, p := two(t)
	w.runFor(10, func(i int) {
		if i < 6 {
			w.cross(shop, c, p, some)
		}
	})
	r := Run(w.dir(), w.keys, Options{})
	wantFinding(t, r, "")
	got := connectionOf(t, r, connID)
	want := Connection{Connection: connID, Sent: 180, Received: 168, Lost: 12, Tunnel: 12, Measured: true, Compared: true}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if text := transcript(t, r); !strings.Contains(text, "180 packets sent, 168 received, 12 lost, its tunnels lost 12 at most; 0 are of times") {
		t.Error(text)
	}
}

// What honest nodes and servers live through makes no finding, whatever both ends then tell of different times.
func TestEndsThatHonestlyDiffer(t *testing.T) {
	years := 4 * 365 * 24 * time.Hour
	for name, c := range map[string]struct {
		do       func(w *world, c, p *sealer)
		compared bool
		mute     bool // agents tell nothing of their tunnel at first
	}{
		"a node that went away with what it had not sealed": {func(w *world, c, p *sealer) {
			w.runFor(3, func(int) { w.cross(shop, c, p, some) })
			w.nodes = w.nodes[1:]
			w.runFor(6, func(int) { w.cross(shop, c, p, some) })
		}, true, false},
		"a node whose last segments never came": {func(w *world, c, p *sealer) {
			p.away = true
			w.runFor(6, func(int) { w.cross(shop, c, p, some) })
		}, true, false},
		"a connection that the server knows no more": {func(w *world, c, p *sealer) {
			w.runFor(6, func(int) { w.cross(leg{"vpce-conn-gone", "10.0.1.5", "10.0.9.6"}, c, p, some) })
		}, true, false},
		"a consumer that lost power": {func(w *world, c, p *sealer) {
			w.runFor(3, func(int) { w.cross(shop, c, p, some) })
			w.now = w.now.Add(10 * time.Second)
			w.cross(shop, c, p, carry{sent: 1000, back: 500})
			w.now = w.now.Add(5 * time.Second)
			c.crash("boot-2")
			w.runFor(6, func(int) { w.cross(shop, c, p, some) })
		}, true, false},
		"a provider that lost power": {func(w *world, c, p *sealer) {
			w.runFor(3, func(int) { w.cross(shop, c, p, some) })
			w.now = w.now.Add(10 * time.Second)
			w.cross(shop, c, p, carry{sent: 1000, back: 500})
			p.crash("boot-2")
			w.runFor(6, func(int) { w.cross(shop, c, p, some) })
		}, true, false},
		"an agent that was killed, on both": {func(w *world, c, p *sealer) {
			w.cross(shop, c, p, carry{sent: 1000, back: 500})
			c.killed()
			w.cross(shop, c, p, carry{sent: 300, back: 700})
			p.killed()
			w.runFor(6, func(int) { w.cross(shop, c, p, some) })
		}, true, false},
		"a server whose clock was years ahead": {func(w *world, c, p *sealer) {
			w.stop()
			w.now, c.skew, p.skew = w.now.Add(years), -years, -years
			w.start()
			w.runFor(5, func(int) { w.cross(shop, c, p, some) })
			w.stop()
			w.now, c.skew, p.skew = w.now.Add(-years), 0, 0
			w.start()
			w.runFor(5, func(int) { w.cross(shop, c, p, some) })
		}, true, false},
		"clocks of nodes that are wrong, and are set": {func(w *world, c, p *sealer) {
			c.step(3 * time.Hour)
			p.step(-2 * time.Hour)
			w.runFor(5, func(int) { w.cross(shop, c, p, some) })
			c.step(-3 * time.Hour)
			w.runFor(5, func(int) { w.cross(shop, c, p, some) })
			p.step(2 * time.Hour)
			w.runFor(5, func(int) { w.cross(shop, c, p, some) })
		}, true, false},
		"what the provider's node refused": {func(w *world, c, p *sealer) {
			w.runFor(6, func(int) { w.cross(shop, c, p, carry{sent: 20, lost: 1, refused: 7, back: 3}) })
		}, true, false},
		"both ends on one node": {func(w *world, c, _ *sealer) {
			w.runFor(6, func(int) {
				w.cross(leg{"vpce-conn-1", "10.0.1.5", "10.0.1.6"}, c, c, carry{sent: 20, refused: 2, back: 3})
			})
		}, true, false},
		"agents of before, which tell nothing of their tunnel": {func(w *world, c, p *sealer) {
			w.runFor(6, func(int) { w.cross(shop, c, p, some) })
		}, true, true},
		"agents that were upgraded": {func(w *world, c, p *sealer) {
			c.mute, p.mute, c.through, p.through = false, false, nil, nil
			w.runFor(6, func(int) { w.cross(shop, c, p, some) })
		}, true, true},
		"segments disposed of": {func(w *world, c, p *sealer) {
			w.runFor(6, func(int) { w.cross(shop, c, p, some) })
			for path := range w.files {
				if strings.HasPrefix(path, segmentsDir+p.id) {
					delete(w.files, path)
				}
			}
			w.append(leaf.Leaf{Type: leaf.TypeDisposal, Disposal: &leaf.Disposal{ID: "d", Class: "segments", By: "system",
				Runs: []leaf.Run{{Node: p.id, Boot: p.boot, First: 1, Last: p.number, Line: p.previous}}}})
			w.runFor(6, func(int) { w.cross(shop, c, p, some) })
		}, true, false},
		"what a server of before said": {func(w *world, c, p *sealer) {
			w.append(leaf.Leaf{Type: leaf.TypeReconciliation, Reconciliation: &leaf.Reconciliation{Connection: connID, From: w.now, Flows: 9,
				Forward: leaf.Way{Sent: 1, Received: 900}}})
			w.runFor(6, func(int) { w.cross(shop, c, p, some) })
		}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			w, consumerNode, providerNode := two(t)
			consumerNode.mute, providerNode.mute = c.mute, c.mute
			w.runFor(6, func(int) { w.cross(shop, consumerNode, providerNode, some) })
			c.do(w, consumerNode, providerNode)
			w.tick()
			for what, o := range map[string]Options{"all": {}, "a part": {Since: time.Date(2026, 3, 1, 12, 58, 30, 0, time.UTC)}} {
				r := Run(w.dir(), w.keys, o)
				wantFinding(t, r, "")
				if got := connectionOf(t, r, connID); got.Compared != c.compared && what == "all" {
					t.Errorf("%s: %+v", what, got)
				}
			}
		})
	}
}

// What a node that lies tells does not fit what the other tells, though each of its seals is good in itself.
func TestEndsThatDoNotAgree(t *testing.T) {
	more := func(side int, sent, received int64) func(route, packets) packets {
		return func(r route, p packets) packets {
			if r.side == side {
				p.sent, p.received = uint64(int64(p.sent)+sent), uint64(int64(p.received)+received)
			}
			return p
		}
	}
	for name, c := range map[string]struct {
		do   func(w *world, c, p *sealer)
		want string
	}{
		"the provider received less": {func(w *world, c, p *sealer) { p.lie = more(provider, 0, -3) },
			"to the provider, from i-a to i-b (client 10.0.1.5, target 10.0.9.6): of what was sent until"},
		"the provider received more, within what was lost": {func(w *world, c, p *sealer) { p.lie = more(provider, 0, 300) },
			"records tell that 2881 packets were received over the connections vpce-conn-1, and only 181 came out of the tunnel"},
		"the provider received more than was sent": {func(w *world, c, p *sealer) { p.mute, p.lie = true, more(provider, 0, 3) },
			"packets were received until"},
		"the provider sent less": {func(w *world, c, p *sealer) { p.lie = more(provider, -3, 0) },
			"to the consumer, from i-b to i-a (client 10.0.1.5, target 10.0.9.6): 100 packets were received until"},
		"the consumer sent less": {func(w *world, c, p *sealer) { c.lie = more(consumer, -3, 0) }, "packets were received until"},
		"the consumer sent nothing": {func(w *world, c, p *sealer) {
			c.lie = func(_ route, p packets) packets { return packets{0, p.received} }
		}, "180 packets were received until"},
		"the consumer has no record": {func(w *world, c, p *sealer) {
			c.lie = func(_ route, _ packets) packets { return packets{} }
		}, "180 packets were received until"},
		"too little was given to the tunnel": {func(w *world, c, p *sealer) { c.hidden = 3 }, "came out of the tunnel, and only"},
		"too much came out of the tunnel":    {func(w *world, c, p *sealer) { p.pass("i-a", 0, 30) }, "came out of the tunnel, and only"},
	} {
		t.Run(name, func(t *testing.T) {
			w, consumerNode, providerNode := two(t)
			w.runFor(1, func(int) {
				w.cross(leg{connID, "10.0.1.7", "10.0.9.6"}, consumerNode, providerNode, carry{sent: 1, back: 1})
			})
			lied := false
			w.runFor(14, func(i int) {
				if i < 10 {
					w.cross(shop, consumerNode, providerNode, some)
				}
				if !lied {
					c.do(w, consumerNode, providerNode)
					lied = true
				}
			})
			wantFinding(t, Run(w.dir(), w.keys, Options{}), c.want)
		})
	}
}

// A count that goes back, and a node that is left out with all that it sealed.
func TestTunnelsThatTellOfLies(t *testing.T) {
	w, c, p := two(t)
	w.runFor(6, func(i int) {
		w.cross(shop, c, p, some)
		if i == 4 {
			c.pass("i-b", ^uint64(70), 0)
		}
	})
	wantFinding(t, Run(w.dir(), w.keys, Options{}), `what passed through the tunnel to "i-b" goes back`)

	w, c, p = two(t)
	w.nodes = w.nodes[:1]
	w.runFor(70, func(int) { w.cross(shop, c, p, some) })
	r := Run(w.dir(), w.keys, Options{})
	wantFinding(t, r, "packets came from node i-b from")
	if got := connectionOf(t, r, connID); got.Compared || !strings.Contains(strings.Join(r.Notes, "\n"), whyUnknown) {
		t.Errorf("%+v, notes %q", got, r.Notes)
	}

	w, c, p = two(t)
	c.through = map[string]seal.Passage{"i-b": {Peer: "i-b", Unknown: true}}
	w.runFor(6, func(int) {
		l := c.through
		w.cross(shop, c, p, some)
		c.through = l
		c.through["i-b"] = seal.Passage{Peer: "i-b", Unknown: true}
	})
	r = Run(w.dir(), w.keys, Options{})
	wantFinding(t, r, "")
	if got := connectionOf(t, r, connID); got.Measured || got.Lost == 0 {
		t.Errorf("%+v", got)
	}
}

// What one node may say of its tunnel is bounded, and no sum comes round to little.
func TestTunnelsAreBounded(t *testing.T) {
	b := newBooks(nil)
	a := b.node("i-a")
	for i := range maxCounts {
		if err := b.tunnel(&sealed{}, a, []seal.Passage{{Peer: "i-b", Epoch: strconv.Itoa(i), Given: 1}}); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := b.tunnel(&sealed{}, a, []seal.Passage{{Peer: "i-b", Epoch: "0", Given: 2}}); err != nil {
		t.Errorf("a count that is known: %v", err)
	}
	for _, r := range []seal.Passage{{Peer: "i-b", Epoch: "one more"}, {Peer: "i-c", Unknown: true}} {
		if err := b.tunnel(&sealed{}, a, []seal.Passage{r}); err == nil {
			t.Errorf("%v is taken", r)
		}
	}
	for _, n := range []uint64{1, sumsMost, math.MaxUint64} {
		if got := plus(n, math.MaxUint64); got != sumsMost {
			t.Errorf("%d and much more: %d", n, got)
		}
	}
	if got := plus(2, 3); got != 5 {
		t.Errorf("2 and 3: %d", got)
	}
}
