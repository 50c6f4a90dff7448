package tunnel

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// wireSize is what a packet inside becomes before the underlay's headers: padded, but not over the tunnel's MTU.
func wireSize(size, top int) int { return min(top, (size+grid-1)/grid*grid) }

// simPath is a path as the measurement meets it.
type simPath struct {
	*pathMTU
	now     time.Time
	carries int     // the largest padded packet
	local   int     // the largest that this host sends; 0: any
	loss    float64 // of each direction
	rtt     time.Duration
	down    bool
	random  *rand.Rand
	rounds  int
	sent    int // bytes
}

func newSimPath(top, carries int) *simPath {
	now := time.Unix(1000, 0)
	return &simPath{pathMTU: newPathMTU(top, now), now: now, carries: carries, rtt: 5 * time.Millisecond,
		random: rand.New(rand.NewPCG(1, 2))}
}

// run lets the time pass until the given one. busy: large packets are sent all the while.
func (s *simPath) run(busy bool, until time.Time) {
	for !s.now.After(until) {
		s.settle(s.now)
		if s.wanted(s.now, busy) {
			s.rounds++
			for _, shot := range slices.Clone(s.begin(s.now)) {
				s.sent += shot.size
				size := wireSize(shot.size, s.top)
				switch {
				case s.local != 0 && size > s.local:
					s.refused(shot.seq)
				case s.down || size > s.carries || s.random.Float64() < s.loss || s.random.Float64() < s.loss:
				default:
					s.answer(shot.seq, s.rtt, s.now.Add(s.rtt))
				}
			}
		}
		s.now = s.now.Add(time.Millisecond)
		if next := s.next(); !busy && next.After(s.now) {
			s.now = next
		} else if !busy && next.IsZero() {
			s.now = until.Add(1)
		}
	}
}

// expected is the largest size of the grid that a path carries.
func expected(top, carries int) int {
	best := floorMTU
	for size := floorMTU; size <= top; size = above(size, top) {
		if wireSize(size, top) <= carries {
			best = size
		}
		if size == top {
			break
		}
	}
	return best
}

func TestPathMTUIsFound(t *testing.T) {
	for _, c := range []struct{ top, carries, want int }{
		{1420, 1420, 1420}, {1420, 1419, 1408}, {1420, 1340, 1328}, {1420, 1320, 1312}, {1420, 1220, 1216}, {1420, 1200, 1200},
		{1420, 900, floorMTU}, {8920, 8920, 8920}, {8920, 1420, 1408}, {8920, 1440, 1440}, {8920, 4000, 4000}, {1280, 1280, 1280},
	} {
		s := newSimPath(c.top, c.carries)
		s.run(false, s.now.Add(time.Second))
		if s.mtu != c.want {
			t.Errorf("tunnel of %d over %d: found %d, want %d", c.top, c.carries, s.mtu, c.want)
		}
		if s.carries >= c.top && s.rounds != 2 {
			t.Errorf("tunnel of %d over %d took %d rounds: want a greeting and one", c.top, c.carries, s.rounds)
		}
	}
}

// TestPathMTUProperty: what is found is exact whatever the path, within the time that a connection can wait, and 3 % of
// loss each way hide nothing of it but for a moment.
func TestPathMTUProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		top := rapid.IntRange(1280, 9000).Draw(t, "top")
		s := newSimPath(top, rapid.IntRange(floorMTU, 9000).Draw(t, "carries"))
		s.run(false, s.now.Add(time.Second))
		if want := expected(top, s.carries); s.mtu != want {
			t.Fatalf("found %d after %d rounds, want %d", s.mtu, s.rounds, want)
		}
		s.carries = rapid.IntRange(floorMTU, s.carries).Draw(t, "narrowed")
		began := s.now
		want := expected(top, s.carries)
		for s.mtu != want && s.now.Sub(began) < 10*time.Second {
			s.run(true, s.now)
		}
		if took := s.now.Sub(began); took > 600*time.Millisecond {
			t.Fatalf("narrowing to %d was noticed after %s: mtu is %d", s.carries, took, s.mtu)
		}
		s.loss = 0.03
		s.random = rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		s.run(true, s.now.Add(10*time.Second))
		s.loss = 0
		s.run(true, s.now.Add(2*raiseMost))
		if s.mtu != want {
			t.Fatalf("after loss %d, want %d", s.mtu, want)
		}
	})
}

// TestPathMTUOfAPathThatIsDown: silence says nothing of sizes, and costs little.
func TestPathMTUOfAPathThatIsDown(t *testing.T) {
	s := newSimPath(1420, 1420)
	s.down = true
	s.run(true, s.now.Add(10*time.Minute))
	if s.mtu != 0 || s.rounds > 20 {
		t.Errorf("without an answer: mtu %d after %d rounds", s.mtu, s.rounds)
	}
	s.down = false
	s.answer(s.seq, 0, s.now) // what waited for a session
	s.run(false, s.now.Add(time.Second))
	if s.mtu != 1420 {
		t.Errorf("a late answer began no round: mtu %d", s.mtu)
	}
	s.down = true
	s.run(true, s.now.Add(time.Minute))
	if s.mtu != 1420 {
		t.Errorf("a path that is down counts as one of %d", s.mtu)
	}
	s.down, s.carries = false, 1300
	s.run(true, s.now.Add(5*time.Second))
	if s.mtu != 1296 {
		t.Errorf("after it is back: %d", s.mtu)
	}
}

// TestPathMTUWidens: by the timer, and at once when the peer moved or the tunnel's MTU grew.
func TestPathMTUWidens(t *testing.T) {
	s := newSimPath(1420, 1300)
	s.run(false, s.now.Add(time.Second))
	s.carries = 1420
	s.run(false, s.now.Add(raiseFirst))
	if s.mtu != 1420 {
		t.Errorf("by the timer: %d", s.mtu)
	}
	s = newSimPath(1420, 1300)
	s.run(false, s.now.Add(time.Hour))
	if s.rounds > 20 {
		t.Errorf("an idle path cost %d rounds in an hour", s.rounds)
	}
	s.carries = 1420
	s.moved(s.now)
	s.run(false, s.now.Add(100*time.Millisecond))
	if s.mtu != 1420 {
		t.Errorf("after a move: %d", s.mtu)
	}
	s.carries = 9000
	s.setTop(8920, s.now)
	s.run(false, s.now.Add(100*time.Millisecond))
	if s.mtu != 8920 {
		t.Errorf("after the tunnel's MTU grew: %d", s.mtu)
	}
	if !s.setTop(1280, s.now) || s.mtu != 1280 {
		t.Errorf("after it shrank: %d", s.mtu)
	}
}

// A peer that seems to move and lets large packets through only until they are used makes few changes, and ever fewer.
func TestPathMTUOfAFickleWay(t *testing.T) {
	s := newSimPath(1420, 1420)
	changes := 0
	hour := func() int {
		before := changes
		for end := s.now.Add(time.Hour); s.now.Before(end); {
			mtu := s.mtu
			s.run(true, s.now.Add(time.Second))
			if s.mtu != mtu {
				changes++
				s.carries = 1420 + 1300 - s.carries
			}
			s.moved(s.now)
		}
		return changes - before
	}
	if first, second := hour(), hour(); first > 30 || second > 15 || second == 0 {
		t.Errorf("%d changes in an hour and %d in the next", first, second)
	}
}

// The first round of a way that takes longer than a round waits tells how long that is.
func TestPathMTUOfALongWay(t *testing.T) {
	s := newSimPath(1420, 1420)
	s.begin(s.now)
	s.now = s.now.Add(silenceMin)
	s.settle(s.now)
	if s.answer(s.seq, time.Second, s.now.Add(time.Second)); !s.wanted(s.now.Add(time.Second), false) {
		t.Fatal("the late answer is not heeded")
	}
	s.now = s.now.Add(time.Second)
	if s.begin(s.now); s.end().Sub(s.now) < 2*time.Second {
		t.Errorf("the next round waits for %v", s.end().Sub(s.now))
	}
}

// TestPathMTUOfThisHostsInterface: what this host does not send needs no losses to be known.
func TestPathMTUOfThisHostsInterface(t *testing.T) {
	s := newSimPath(1420, 1420)
	s.local = 1340
	s.run(false, s.now.Add(100*time.Millisecond))
	if s.mtu != 1328 || s.rounds > 3 {
		t.Errorf("found %d in %d rounds", s.mtu, s.rounds)
	}
}

// TestConfirmationsAreFew: they cost a connection next to nothing.
func TestConfirmationsAreFew(t *testing.T) {
	s := newSimPath(1420, 1420)
	s.run(true, s.now.Add(10*time.Second))
	if s.sent > 10*8000 {
		t.Errorf("%d bytes of probes in 10 s", s.sent)
	}
}
