package verify

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
)

// moments verifies the evidence as it is after each seal of a time.
func (w *world) moments(n int, do func(i int)) {
	w.t.Helper()
	w.runFor(n, func(i int) {
		do(i)
		w.ends(fmt.Sprint("before seal ", i))
	})
	w.ends("at the end")
}

// ends demands that nothing is found.
func (w *world) ends(when string) {
	w.t.Helper()
	if r := Run(w.dir(), w.keys, Options{}); !r.OK {
		w.t.Fatalf("%s: %s", when, transcript(w.t, r))
	}
}

// Whenever the evidence is taken, it is good: an agent that is killed declares what it lost at its second full seal, one that is killed again
// before that does so later, and until then nothing is demanded of that time.
func TestLossesThatAreNotDeclaredYet(t *testing.T) {
	for name, kills := range map[string][]int{"once": {3}, "again at once": {3, 4}, "again and again": {3, 4, 5, 6}, "now and then": {3, 5, 6, 9}} {
		for side, lost := range map[string]carry{"consumer": {sent: 1000}, "provider": {back: 1000}} {
			t.Run(name+" at the "+side, func(t *testing.T) {
				w, c, p := two(t)
				w.moments(16, func(i int) {
					for _, at := range kills {
						if i == at {
							w.cross(shop, c, p, lost)
							map[string]*sealer{"consumer": c, "provider": p}[side].killed()
						}
					}
					w.cross(shop, c, p, some)
				})
				r := Run(w.dir(), w.keys, Options{})
				got := connectionOf(t, r, connID)
				if want := uint64(1000 * len(kills)); !got.Compared || got.Excused != want {
					t.Errorf("%d packets are excused, want %d: %+v", got.Excused, want, got)
				}
			})
		}
	}
}

// What a node told too much was not received.
func TestWhatIsToldTooMuch(t *testing.T) {
	w, c, p := two(t)
	for _, s := range w.nodes {
		s.books = true
	}
	w.moments(10, func(i int) {
		w.cross(shop, c, p, some)
		for _, s := range []*sealer{p, c} {
			if r := (route{shop, provider, false}); i == 5 { // once more than it was
				if s == c {
					r.side = consumer
				}
				s.pending[r].received += 40
			}
		}
	})
	if got := connectionOf(t, Run(w.dir(), w.keys, Options{}), connID); got.Excused != 80 {
		t.Errorf("%+v", got)
	}
}

// Nobody looks at the clock while no agent lives, and a machine may come up with any: what was recorded before and sealed behind that has its
// times by another clock than its seal. The other end tells nothing any more meanwhile, or goes on.
func TestClocksThatNobodyLooksAt(t *testing.T) {
	for name, step := range map[string]time.Duration{"back": -40 * time.Second, "far back": -time.Hour, "forward": time.Hour, "not": 0} {
		for what, die := range map[string]func(s *sealer){
			"killed": func(s *sealer) { s.killed() }, "cut off": func(s *sealer) { s.ended("boot-2") },
		} {
			for _, away := range []bool{false, true} {
				for _, dead := range []int{consumer, provider} {
					t.Run(fmt.Sprint(what, " ", sideNames[dead], ", set ", name, ", the other one away: ", away), func(t *testing.T) {
						w, c, p := two(t)
						dead, alive := w.nodes[dead], w.nodes[1-dead]
						w.moments(4, func(int) { w.cross(shop, c, p, some) })
						alive.away = away
						w.now = w.now.Add(2 * time.Second)
						w.cross(shop, c, p, carry{sent: 500, back: 400})
						dead.read() // and has not sealed that
						w.nodes = []*sealer{alive}
						w.moments(6, func(int) {
							if what == "killed" {
								w.cross(shop, c, p, some)
							}
							w.tick()
						})
						w.nodes = []*sealer{dead, alive}
						dead.skew += step
						if dead.clock().Before(dead.sealed) { // which it sees
							dead.stepped = dead.clock().Sub(dead.sealed)
						}
						flows := maps.Clone(dead.pending)
						die(dead)
						if what == "killed" { // but the flows are in the kernel
							dead.pending = flows
						}
						w.moments(8, func(int) { w.cross(shop, c, p, some) })
					})
				}
			}
		}
	}
}

// Records of a connection whose name the node did not know any more may be of any between their addresses.
func TestRecordsWithoutAName(t *testing.T) {
	w, c, p := two(t)
	w.moments(10, func(i int) {
		l := shop
		if w.cross(shop, c, p, some); i == 4 {
			l.connection = ""
		}
		c.rename(shop, l)
	})
	if got := connectionOf(t, Run(w.dir(), w.keys, Options{}), connID); got.Sent != 280 || got.Received != 270 || !got.Compared {
		t.Errorf("%+v", got)
	}
	other := leg{"", shop.client, "10.0.9.7"} // to another target
	w.runFor(8, func(int) { w.cross(shop, c, p, some); c.rename(shop, other) })
	wantFinding(t, Run(w.dir(), w.keys, Options{}), "packets were received until")
}

// rename has what was counted for a leg be recorded for another.
func (s *sealer) rename(from, to leg) {
	if a, b := (route{from, consumer, false}), (route{to, consumer, false}); a != b && s.pending[a] != nil {
		s.pending[b] = s.pending[a]
		delete(s.pending, a)
	}
}

// Lines that the server did not take are no word about the connection that they name. Of its own ones they still excuse the node.
func TestClaimsAreNotCompared(t *testing.T) {
	for name, c := range map[string]struct {
		told bool   // by the server
		who  string // claims
		want string
	}{
		"of a connection that is not the node's":             {true, "i-c", ""},
		"which the server took":                              {false, "i-c", "packets were received until"},
		"of a node's own connection, by a server of another": {true, "i-a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w, a, p := two(t)
			x := w.node("i-c", "boot-1", "consumer", keyOf(5))
			w.runFor(12, func(i int) {
				if i == 11 {
					return
				}
				w.cross(shop, a, p, some)
				if i == 3 && c.who == "i-c" {
					x.tell(route{shop, consumer, false}, packets{received: 5000})
				}
				if i == 3 && c.told {
					s := map[string]*sealer{"i-a": a, "i-c": x}[c.who]
					first := s.sequence + 1
					s.read()
					last := s.sequence
					number := s.seal(true).Number
					w.append(leaf.Leaf{Type: leaf.TypeRefused, Refused: &leaf.Refused{Node: s.id, Boot: s.boot, Number: number, Lines: last + 1 - first,
						Ranges: []leaf.Range{{First: first, Last: last}}}})
				}
			})
			r := Run(w.dir(), w.keys, Options{})
			wantFinding(t, r, c.want)
			if got := connectionOf(t, r, connID); c.want == "" && (!got.Compared || got.Received > 400) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// A packet that is declared, or refused, excuses one difference: not one in each time, on each connection, and to each node.
func TestAnExcuseCountsOnce(t *testing.T) {
	all := carry{sent: 20, back: 10}
	second := leg{"vpce-conn-2", shop.client, shop.target}
	for name, c := range map[string]struct {
		once, twice func(w *world, c, p *sealer)
		want        string
		before      bool // twice comes first
	}{
		"on another connection": {
			func(w *world, c, p *sealer) {
				w.cross(shop, c, p, carry{sent: 50})
				c.unrecord(shop, packets{sent: 50}, true)
			},
			func(w *world, c, p *sealer) {
				w.cross(second, c, p, carry{sent: 50})
				c.unrecord(second, packets{sent: 50}, false)
			},
			"100 packets were received and not sent over the connections vpce-conn-1, vpce-conn-2, 50 are declared", false},
		"in another time": {
			func(w *world, c, p *sealer) {
				w.cross(shop, c, p, carry{sent: 50})
				c.unrecord(shop, packets{sent: 50}, true)
			},
			func(w *world, c, p *sealer) {
				w.runFor(4, func(int) {})
				c.declare = append(c.declare, seal.Gap{Cause: seal.CauseDamaged}) // a new span begins
				w.runFor(4, func(int) { w.cross(shop, c, p, all) })
				w.cross(shop, c, p, carry{sent: 50})
				c.unrecord(shop, packets{sent: 50}, false)
			}, "100 packets that it sent were received, and are in none of its records, 50 are declared as lost there", false},
		"in a time before": {
			func(w *world, c, p *sealer) {
				c.declare = append(c.declare, seal.Gap{Cause: seal.CauseDamaged})
				w.runFor(6, func(int) {})
				w.cross(shop, c, p, carry{sent: 50})
				c.unrecord(shop, packets{sent: 50}, true)
			},
			func(w *world, c, p *sealer) {
				w.cross(shop, c, p, carry{sent: 50})
				c.unrecord(shop, packets{sent: 50}, false)
				w.runFor(4, func(int) {})
			}, "packets were received until", true},
		"in a time before, which it may be of": {
			func(w *world, c, p *sealer) {
				c.declare = append(c.declare, seal.Gap{Cause: seal.CauseDamaged})
				w.runFor(1, func(int) {})
				w.now = w.now.Add(2 * margin * time.Second)
				w.cross(shop, c, p, carry{sent: 50})
				c.unrecord(shop, packets{sent: 50}, true)
			},
			func(w *world, c, p *sealer) {
				w.cross(shop, c, p, carry{sent: 50})
				c.unrecord(shop, packets{sent: 50}, false)
				w.runFor(4, func(int) {})
			}, "100 packets that it sent were received, and are in none of its records, 50 are declared as lost there", true},
		"what was received and is not told": {
			func(w *world, c, p *sealer) {
				w.cross(shop, c, p, carry{sent: 50})
				p.unrecord(shop, packets{received: 50}, true)
			},
			func(w *world, c, p *sealer) {
				w.cross(second, c, p, carry{sent: 50})
				p.unrecord(second, packets{received: 50}, false)
			},
			"100 packets were sent and not received", false},
		"what was refused": {
			func(w *world, c, p *sealer) { w.cross(shop, c, p, carry{sent: 50, refused: 50}) },
			func(w *world, c, p *sealer) {
				w.cross(second, c, p, carry{sent: 50})
				p.unrecord(second, packets{received: 50}, false)
			},
			"100 packets were sent and not received", false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, both := range []bool{false, true} {
				w, consumerNode, providerNode := two(t)
				w.runFor(4, func(int) {
					w.cross(shop, consumerNode, providerNode, all)
					w.cross(second, consumerNode, providerNode, all)
				})
				want, all := "", []func(w *world, c, p *sealer){c.once}
				if both {
					all, want = append(all, c.twice), c.want
				}
				if both && c.before {
					slices.Reverse(all)
				}
				for _, f := range all {
					f(w, consumerNode, providerNode)
				}
				w.runFor(8, func(int) {})
				wantFinding(t, Run(w.dir(), w.keys, Options{}), want)
			}
		})
	}
}

// unrecord has packets be in no record, and declares them or hides that they were.
func (s *sealer) unrecord(l leg, n packets, declare bool) {
	side := consumer
	if s.side == "provider" {
		side = provider
	}
	r := route{l, side, false}
	s.pending[r].sent -= n.sent
	s.pending[r].received -= n.received
	for hook, packets := range map[string]uint64{seal.Out: n.sent, seal.In: n.received} {
		at := seal.Position{ENI: r.eni(), Hook: map[string]string{seal.Out: hookWorkload, seal.In: hookTunnel}[hook], Reason: forwarded}
		switch {
		case packets == 0:
		case declare:
			s.declare = append(s.declare, seal.Gap{Cause: seal.CauseLost, ENI: r.eni(), Hook: hook, Reason: forwarded, Packets: packets, Bytes: 100 * packets})
		default:
			n := s.to[at]
			s.to[at] = seal.Count{Packets: n.Packets - packets, Bytes: n.Bytes - 100*packets}
		}
	}
}
