package tunnel

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// sizes of what three lanes hold: one large packets, one small ones, one anything.
var sizes = []func(*rand.Rand) (bytes, segments int){
	func(*rand.Rand) (int, int) { return 65_000, 47 },
	func(*rand.Rand) (int, int) { return 112, 1 },
	func(r *rand.Rand) (int, int) { n := 1 + r.IntN(47); return 1380*n + 80, n },
}

func costOf(bytes, segments int) int { return bytes + costRead + segments*costSegment }

// Lanes that always have packets are served alike, whatever they hold; and one that is empty again after each packet gets no
// more than they.
func TestLanesAreServedAlike(t *testing.T) {
	for _, rare := range []bool{false, true} {
		t.Run(fmt.Sprint("one is mostly empty: ", rare), func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			s, served := lanes{all: make([]lane, Lanes)}, [3]int{}
			for i := range served {
				s.fill(i)
			}
			for range 100_000 {
				i := s.next()
				bytes, segments := sizes[i](r)
				s.pay(i, bytes, segments)
				served[i] += costOf(bytes, segments)
				if i == 0 && rare {
					s.drain(0)
					_ = s.next()
					s.fill(0)
				}
			}
			const slack = 4 * quantum // a packet of each, and the turn that is not over
			for i, cost := range served {
				if d := cost - served[1]; d > slack || d < -slack && !(rare && i == 0) {
					t.Errorf("lane %d was served %d, lane 1 %d", i, cost, served[1])
				}
			}
			if rare && served[0] < served[1]/2 {
				t.Errorf("the lane that is mostly empty was served %d, the others %d", served[0], served[1])
			}
		})
	}
}

// A lane that is alone is served at once, and owes nothing afterwards.
func TestLaneAlone(t *testing.T) {
	s := lanes{all: make([]lane, Lanes)}
	if s.next() != -1 {
		t.Fatal("a lane without packets is served")
	}
	s.fill(3)
	for range 1000 {
		if i := s.next(); i != 3 {
			t.Fatalf("lane %d is served, want 3", i)
		}
		s.pay(3, 65_000, 47)
	}
	s.drain(3)
	if s.next() != -1 {
		t.Fatal("a lane without packets is served")
	}
	s.fill(5)
	s.fill(3)
	s.fill(3)
	for _, want := range []int{5, 3, 5, 3} {
		if i := s.next(); i != want {
			t.Fatalf("lane %d is served, want %d", i, want)
		}
		s.pay(want, quantum, 0)
	}
}
