package tunnel

import (
	"math/rand/v2"
	"testing"
	"time"
)

// way is a simulated tunnel: senders that always have something, the network, and a receiver with one queue for all.
type way struct {
	send, take float64       // bytes a second that a sender can send, and the receiver take in
	delay      time.Duration // each way
	buffer     int           // the receiver's, as it says; it holds half as many bytes
	lose       float64       // the part of milestones and answers that is lost
	deaf       func(time.Duration) bool
	tell       uint64 // what the receiver says it has room for, if not the truth

	now     time.Time
	senders []*simulated
	queue   []parcel // sent, in the order of arrival
	answers []parcel
	budget  float64
	asking  askers
	dropped int
	random  *rand.Rand
}

type simulated struct {
	window
	budget     float64
	got        int
	milestones int
	shut       time.Duration // how long its window was closed
	lost       time.Duration // and of that what was for the peer was dropped
}

type parcel struct {
	from int
	at   time.Time
	cost int
	seq  uint32 // of a milestone or its answer
	room uint64
}

const (
	step       = 100 * time.Microsecond
	readBytes  = 64 << 10
	readPieces = 47
)

func (x *way) run(senders int, within time.Duration) {
	x.random = rand.New(rand.NewPCG(1, 2))
	x.now = time.Unix(1000, 0)
	for range senders {
		x.senders = append(x.senders, &simulated{})
	}
	x.more(within)
}

func (x *way) more(within time.Duration) {
	for end := x.now.Add(within); x.now.Before(end); x.now = x.now.Add(step) {
		for i, s := range x.senders {
			x.feed(i, s)
		}
		x.drain()
		for len(x.answers) > 0 && !x.answers[0].at.After(x.now) {
			a := x.answers[0]
			x.answers = x.answers[1:]
			if _, next := x.senders[a.from].answer(a.seq, a.room, x.now); next != 0 {
				x.milestone(a.from, next)
			}
		}
	}
}

// feed lets a sender send for a step.
func (x *way) feed(i int, s *simulated) {
	if s.closed.Load() {
		s.shut += step
		if s.overdue.Load() {
			s.lost += step
		}
		if x.now.Sub(s.closing) >= stoneAgain && x.now.Sub(s.closing)%stoneAgain < step {
			if seq, _ := s.late(x.now); seq != 0 {
				x.milestone(i, seq)
			}
		}
	}
	for s.budget = min(s.budget+x.send*step.Seconds(), 4*readBytes); s.budget > 0 && !s.closed.Load(); s.budget -= readBytes {
		full, _ := s.take(1, readBytes, readPieces)
		x.queue = append(x.queue, parcel{from: i, at: x.now.Add(x.delay), cost: readBytes})
		if seq := s.mark(func() time.Time { return x.now }); seq != 0 {
			x.milestone(i, seq)
		}
		if full {
			s.close(x.now, func() {})
		}
	}
}

func (x *way) milestone(i int, seq uint32) {
	x.senders[i].milestones++
	if x.random.Float64() >= x.lose {
		x.queue = append(x.queue, parcel{from: i, at: x.now.Add(x.delay), seq: seq})
	}
}

// drain lets the receiver work for a step; what has arrived and finds no room is dropped.
func (x *way) drain() {
	x.budget = min(x.budget+x.take*step.Seconds(), 4*readBytes)
	held := 0
	for _, p := range x.queue {
		if p.at.After(x.now) {
			break
		}
		held += p.cost
	}
	for held > x.buffer/2 {
		for i, p := range x.queue {
			if p.cost > 0 {
				held -= p.cost
				x.queue = append(x.queue[:i], x.queue[i+1:]...)
				x.dropped++
				break
			}
		}
	}
	for len(x.queue) > 0 && x.budget > 0 && !x.queue[0].at.After(x.now) {
		p := x.queue[0]
		x.queue = x.queue[1:]
		x.budget -= float64(p.cost)
		x.senders[p.from].got += p.cost
		if p.seq == 0 || x.random.Float64() < x.lose || x.deaf != nil && x.deaf(x.now.Sub(time.Unix(1000, 0))) {
			continue
		}
		room := roomFor(x.buffer, x.asking.add(uint32(p.from), x.now))
		if x.tell != 0 {
			room = x.tell
		}
		x.answers = append(x.answers, parcel{from: p.from, at: x.now.Add(x.delay), seq: p.seq, room: room})
	}
}

const memory = 2 * socketBuffer // as the kernel says it: twice what was asked for

// A receiver that is slower than who sends to it is kept busy, whatever the way, and drops nothing.
func TestWindowKeepsTheReceiverBusy(t *testing.T) {
	for _, c := range []struct {
		name    string
		x       way
		senders int
		settle  time.Duration
	}{
		{"near", way{delay: 50 * time.Microsecond}, 1, time.Second},
		{"far", way{delay: 50 * time.Millisecond}, 1, 3 * time.Second},
		{"milestones are lost", way{delay: 50 * time.Microsecond, lose: 0.02}, 1, time.Second},
		{"three send", way{delay: time.Millisecond}, 3, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := c.x
			x.send, x.take, x.buffer = 600e6, 300e6, memory
			x.run(c.senders, c.settle)
			before := make([]int, c.senders)
			for i, s := range x.senders {
				before[i] = s.got
			}
			first := x.dropped
			x.more(time.Second)
			if x.dropped != first {
				t.Errorf("%d reads of 64 KiB were dropped", x.dropped-first)
			}
			for i, s := range x.senders {
				if got, want := float64(s.got-before[i]), x.take/float64(c.senders); got < 0.8*want || got > 1.2*want {
					t.Errorf("sender %d gets %.0f MB/s, want %.0f", i, got/1e6, want/1e6)
				}
				if s.lost != 0 {
					t.Errorf("sender %d dropped for %v what was for it", i, s.lost)
				}
				if s.milestones > 2000 {
					t.Errorf("sender %d set %d milestones", i, s.milestones)
				}
			}
		})
	}
}

// Who does not know milestones is sent to as if there were none, and is asked now and then.
func TestWindowOfAPeerThatIsSilent(t *testing.T) {
	x := way{send: 100e6, take: 200e6, buffer: memory, deaf: func(time.Duration) bool { return true }}
	x.run(1, 5*time.Second)
	if s := x.senders[0]; s.shut != 0 || s.got < 490e6 || s.milestones == 0 || s.milestones > 26 {
		t.Errorf("closed for %v, %d bytes arrived, %d milestones", s.shut, s.got, s.milestones)
	}
}

// Who falls silent holds up nobody for long, and is believed again once it speaks.
func TestWindowOfAPeerThatFallsSilent(t *testing.T) {
	x := way{
		send: 200e6, take: 100e6, buffer: memory,
		deaf: func(since time.Duration) bool { return since > time.Second && since < 3*time.Second },
	}
	x.run(1, time.Second)
	before := x.senders[0].shut
	x.more(2 * time.Second)
	if shut := x.senders[0].shut - before; shut > windowTries*(windowPatience+2*stoneAgain) {
		t.Errorf("closed for %v of 2 s", shut)
	}
	x.more(2 * time.Second)
	first := x.dropped
	x.more(time.Second)
	if x.dropped != first || x.senders[0].room == 0 {
		t.Errorf("%d reads dropped after the peer spoke again, room %d", x.dropped-first, x.senders[0].room)
	}
}

// What a peer says of its room is believed within bounds: it can neither stop a sender nor make it count wrong.
func TestWindowOfAPeerThatLies(t *testing.T) {
	for _, told := range []uint64{1, 1 << 63, ^uint64(0)} {
		x := way{send: 200e6, take: 100e6, buffer: memory, tell: told}
		x.run(1, time.Second)
		if s := x.senders[0]; s.got < 80e6 {
			t.Errorf("%d bytes arrive at a peer that has room for %d", s.got, told)
		}
	}
	var w window
	for range 100 {
		w.take(1, readBytes, readPieces)
	}
	seq := w.set(time.Unix(1000, 0))
	for _, wrong := range []uint32{0, seq + 1, seq + stonesKept, ^uint32(0)} {
		if w.answer(wrong, 1<<20, time.Unix(1001, 0)); w.passed != 0 || w.room != 0 {
			t.Errorf("milestone %d was never set, and is taken for answered", wrong)
		}
	}
	if w.answer(seq, 1<<20, time.Unix(1001, 0)); w.passed != w.sent {
		t.Errorf("%d of %d bytes have passed", w.passed, w.sent)
	}
}

// sharedWindow is a window of leastRoom, of a peer that says it has no more.
func sharedWindow(now time.Time) *window {
	w := &window{}
	w.answer(w.set(now), 1, now)
	return w
}

// Lanes wait for a window when they have their part of it on the way, and not for what others have there; lane 0 does not wait.
func TestLanesShareAWindow(t *testing.T) {
	now := time.Unix(1000, 0)
	w := sharedWindow(now)
	const bytes = 4096 - datagramCost
	fill := func(lane int) (reads int) {
		for reads = 1; reads < 1000; reads++ {
			if _, wait := w.take(lane, bytes, 1); wait {
				break
			}
		}
		return reads
	}
	if got := fill(1); got != leastRoom/4096 {
		t.Errorf("a lane that is alone waits after %d reads, want %d", got, leastRoom/4096)
	}
	if full, wait := w.take(2, bytes, 1); !full || wait {
		t.Errorf("a lane that has nothing on the way: full %v, waits %v", full, wait)
	}
	if got := 1 + fill(2); got != leastRoom/4096/2 {
		t.Errorf("the second lane waits after %d reads, want %d", got, leastRoom/4096/2)
	}
	if got := fill(0); got != 1000 {
		t.Errorf("lane 0 waits after %d reads", got)
	}
	now = now.Add(time.Millisecond)
	first := w.set(now)
	w.take(3, bytes, 1)
	w.answer(first, 1, now.Add(time.Millisecond))
	var sum uint64
	for _, part := range w.parts {
		sum += part
	}
	if way := w.sent - w.passed; way != 4096 || sum > way || sum < way-Lanes {
		t.Errorf("%d bytes are on the way, of lanes %d", way, sum)
	}
}

// Lanes that all have more than goes to a peer get the same of its window, who comes later as well.
func TestManyLanesShareAWindow(t *testing.T) {
	const bytes, lanes, late, settled, rounds = 2048 - datagramCost, 8, 100, 200, 400
	w := sharedWindow(time.Unix(1000, 0))
	var got [1 + lanes]int
	for round := range rounds {
		var waits [1 + lanes]bool
		for waiting := 0; waiting < lanes; {
			for lane := 1; lane <= lanes; lane++ {
				if waits[lane] {
					continue
				}
				if lane == lanes && round < late {
					waits[lane] = true
				} else if _, waits[lane] = w.take(lane, bytes, 1); round >= settled {
					got[lane]++
				}
				if waits[lane] {
					waiting++
				}
			}
		}
		most := uint64(leastRoom + 2*lanes*2048) // each has a read more than its part, and what was rounded off
		if round >= late && round < settled {
			most += leastRoom / lanes // who comes has its part at once
		}
		if way := w.sent - w.passed; way > most {
			t.Fatalf("round %d: %d bytes are on the way, want %d at most", round, way, most)
		}
		w.pass(w.passed + (w.sent-w.passed)/4)
	}
	for lane := 2; lane <= lanes; lane++ {
		if d := got[lane] - got[1]; d > rounds-settled || d < settled-rounds {
			t.Errorf("of reads lane 1 has %d, lane %d %d", got[1], lane, got[lane])
		}
	}
}

// A peer that answers late, be it near or seem far, holds up lanes for lanesWait a time, and for lendMost in all every wayFor.
func TestWindowThatIsAnsweredLate(t *testing.T) {
	for _, c := range []struct {
		name string
		way  time.Duration
		lent time.Duration // at most: 100 windows take 12 and 22 s
	}{
		{"near", time.Millisecond, 2 * lendMost},
		{"far", 100 * time.Millisecond, 3 * lendMost},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Unix(1000, 0)
			w := &window{}
			seq := w.set(now)
			now = now.Add(c.way)
			w.answer(seq, 1, now)
			var waited time.Duration
			for range 100 {
				for full := false; !full; {
					full, _ = w.take(1, readBytes, readPieces)
				}
				w.close(now, func() {})
				seq := w.set(now)
				for range 4 { // and then the answer comes, before the window is given up
					if w.waits() {
						waited += stoneAgain
					}
					now = now.Add(stoneAgain)
					if _, opened := w.late(now); opened {
						t.Fatal("it was given up")
					}
				}
				if opened, _ := w.answer(seq, 1, now); !opened || w.overdue.Load() {
					t.Fatal("it is closed after the answer")
				}
				now = now.Add(c.way)
			}
			if least, most := 100*lanesWait+c.lent/2, 100*lanesWait+c.lent; waited < least || waited > most {
				t.Errorf("lanes waited for %v, want %v to %v", waited, least, most)
			}
		})
	}
}

// Lanes whose packets a peer has no room for wait for it, and others do not.
func TestLaneWaitsForItsPeer(t *testing.T) {
	s, slow := lanes{all: make([]lane, Lanes)}, &window{}
	for i := range 3 {
		s.fill(i)
	}
	slow.closed.Store(true)
	s.all[0].held, s.all[1].held = slow, slow
	for range 100 {
		if i := s.next(); i != 2 {
			t.Fatalf("lane %d is served", i)
		}
		s.pay(2, 65_000, 47)
	}
	s.drain(2)
	if i := s.next(); i != -1 {
		t.Fatalf("lane %d is served while its peer has no room", i)
	}
	slow.closed.Store(false)
	served := [2]int{}
	for range 1000 {
		i := s.next()
		bytes, segments := 1200, 1
		if i == 0 {
			bytes, segments = 65_000, 47
		}
		s.pay(i, bytes, segments)
		served[i] += costOf(bytes, segments)
	}
	if d := served[0] - served[1]; d > 4*quantum || d < -4*quantum {
		t.Errorf("afterwards they are served %v", served)
	}
}
