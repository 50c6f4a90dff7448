package tunnel

import (
	"sync"
	"sync/atomic"
	"time"
)

// What a receiving tunnel is too slow for stands in its sockets, which are one queue for all: what overflows there is
// anybody's, whoever floods. So each tunnel bounds what is on its way to a peer, by a window, and what is too much stands in
// the lanes, where accounts have turns. Small packets among the others, milestones, tell what has arrived: the peer answers
// one when it comes out of its device, with the room that its socket has for this peer.
//
// A milestone or answer that is lost is made up for by the next one. Who does not answer is sent to without bound.
const (
	// datagramCost is what a datagram takes of a socket's buffer beside its bytes, at least: struct sk_buff and what data is
	// rounded up to. Those that the kernel joined take less.
	datagramCost = 512

	// roomPart is the part of a receiver's buffer that is given away. The kernel counts memory, which is up to twice the bytes.
	roomPart = 4

	// leastRoom is what a peer is taken to have room for at least, whatever it says: who lies about it holds up lanes.
	leastRoom = 256 << 10
	mostRoom  = 1 << 30 // and at most

	// stands is how long what stands at a receiver may stand. It covers the time for which a busy receiver gets no CPU.
	stands = 10 * time.Millisecond

	// stones is how many milestones a window has: so finely it is told what has arrived. stonesKept may be unanswered, on a way
	// that holds more than the receiver.
	stones     = 4
	stonesKept = 64

	// tryEvery is the time between milestones to a peer that does not say what it has room for. One that once did is asked more
	// often: its sockets overflow, and most milestones are lost there.
	tryEvery   = 200 * time.Millisecond
	tryAgainIn = 25 * time.Millisecond

	// In a window that stands closed for stoneAgain a milestone or its answer may be lost. After windowPatience another one
	// begins, and after windowTries in a row without an answer the peer is sent to without bound.
	stoneAgain     = 30 * time.Millisecond
	windowPatience = 150 * time.Millisecond
	windowTries    = 3

	// lanesWait is how long lanes wait for a window that stands closed: what they have for other peers waits as well. They wait
	// longer by lendMost in all every wayFor: for a receiver that gets no CPU for a while, and for one that is far, whose window
	// begins small and has to grow to what the way holds. Then what they have for this peer is dropped.
	lanesWait = stoneAgain
	lendMost  = time.Second

	// wayFor is how long the shortest round trip is believed in, when a longer one was measured on a way with nothing on it.
	wayFor = 10 * time.Second
)

// window bounds what is on its way to one peer: what the peer has room for, and what the way holds. The latter is by the
// delay, as in TCP Vegas: of what was under way, the part that the shortest round trip is of the last one. So what stands in
// a queue somewhere is the room, be the way short or long.
type window struct {
	closed  atomic.Bool // more is not to be sent for now, by lanes that have their part on the way
	overdue atomic.Bool // and they wait no more: what they have for the peer is dropped

	mu     sync.Mutex
	sent   uint64   // cost of what was read for the peer, ever
	passed uint64   // of it, what is known to have arrived or is lost
	parts  []uint64 // by lane: its part of what is between, more or less; nil: nothing was sent yet
	room   uint64   // what the peer has room for, at least leastRoom; 0: it did not say
	size   uint64   // what may be on its way
	sized  uint32   // the last milestone that was set before that changed

	seq     uint32 // of the last milestone
	marked  uint64 // what was sent before it
	markAt  time.Time
	kept    []stone       // by seq; nil: none was set yet
	way     time.Duration // the shortest round trip; 0: none is known
	wayAt   time.Time
	timer   *time.Timer // runs while it is closed
	closing time.Time
	lent    time.Duration // what lanes waited beyond lanesWait since lentAt
	lentAt  time.Time
	misses  int  // windows in a row without an answer
	spoke   bool // milestones were answered with room
}

// stone is a milestone that was set.
type stone struct {
	seq      uint32
	sent     uint64    // before it
	underway uint64    // then
	at       time.Time // when
}

// admits reports whether a lane may send to the peer at all.
func (w *window) admits(lane int) bool {
	if !w.overdue.Load() {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.full() || !w.sated(lane)
}

// take counts what a lane sends to the peer, and reports whether that fills the window, and whether the lane waits.
func (w *window) take(lane, bytes, datagrams int) (full, wait bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.parts == nil {
		w.parts = make([]uint64, Lanes)
	}
	cost := uint64(bytes + datagrams*datagramCost)
	w.sent += cost
	w.parts[lane] += cost
	full = w.full()
	return full, full && !w.overdue.Load() && w.sated(lane)
}

func (w *window) full() bool { return w.room > 0 && w.sent-w.passed >= w.size }

// waits reports whether lanes that have their part on the way wait for the window.
func (w *window) waits() bool { return w.closed.Load() && !w.overdue.Load() }

// sated reports whether a lane has its part of the window on the way: an equal one for each lane that has something there. Where
// the window is full, at least one has. Lane 0 never has: it carries what nodes tell each other, which is little, and no peer may
// keep that from the others.
func (w *window) sated(lane int) bool {
	if lane == 0 {
		return false
	}
	var lanes uint64
	for _, part := range w.parts {
		if part > 0 {
			lanes++
		}
	}
	return w.parts[lane]*lanes >= w.size
}

// pass notes that what was sent until then is on its way no more. Whose that was nobody counted: all lanes' parts shrink alike.
func (w *window) pass(sent uint64) {
	before, after := w.sent-w.passed, w.sent-sent
	w.passed = sent
	if before == after {
		return
	}
	for lane, part := range w.parts {
		w.parts[lane] = uint64(float64(part) * (float64(after) / float64(before)))
	}
}

// mark sets a milestone, if one is due, and returns its number; 0: none is.
func (w *window) mark(now func() time.Time) (seq uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.room > 0 && w.sent-w.marked < min(w.room, w.size)/stones {
		return 0
	}
	at := now()
	every := tryEvery
	if w.spoke {
		every = tryAgainIn
	}
	if w.room == 0 && at.Sub(w.markAt) < every {
		return 0
	}
	return w.set(at)
}

func (w *window) set(now time.Time) uint32 {
	if w.seq++; w.seq == 0 {
		w.seq = 1
	}
	if w.kept == nil {
		w.kept = make([]stone, stonesKept)
	}
	w.marked, w.markAt = w.sent, now
	w.kept[w.seq%stonesKept] = stone{seq: w.seq, sent: w.sent, underway: w.sent - w.passed, at: now}
	return w.seq
}

// answer notes that a milestone was answered, and reports whether the window is open again because of it. If it got so small
// that none which is under way can open it, the number of another one to be sent is returned.
func (w *window) answer(seq uint32, room uint64, now time.Time) (opened bool, next uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kept == nil || seq == 0 {
		return false, 0
	}
	s := &w.kept[seq%stonesKept]
	if s.seq != seq || s.sent < w.passed {
		return false, 0 // answered already, or overtaken
	}
	w.pass(s.sent)
	w.misses = 0
	rtt := max(now.Sub(s.at), time.Microsecond)
	if w.way == 0 || rtt < w.way || s.underway <= w.room/stones && now.Sub(w.wayAt) > wayFor {
		w.way, w.wayAt = rtt, now
	}
	if w.room = room; room > 0 {
		w.room, w.spoke = max(leastRoom, min(room, mostRoom)), true
	}
	w.resize(s, rtt)
	s.seq = 0
	if w.full() && w.sent-w.marked >= w.size {
		return false, w.set(now)
	}
	return w.reopen(), 0
}

// resize follows the last round trip, half of the way to what it says, as FAST TCP does; and once a round trip, or it would
// follow its own doing before that shows.
func (w *window) resize(s *stone, rtt time.Duration) {
	part := func(of time.Duration) uint64 { return uint64(float64(s.underway) * float64(of) / float64(rtt)) }
	way := part(w.way)
	most := w.room * (stonesKept/stones - 2)
	size := min(most, max(leastRoom, min(w.room, part(stands)))+way)
	switch queue := s.underway - min(way, s.underway); {
	case w.size == 0:
		w.size, w.sized = leastRoom, w.seq
	case int32(s.seq-w.sized) <= 0:
	case s.underway >= w.size/2 && queue < leastRoom/2: // nothing stands anywhere: the way holds more
		more := w.size
		if w.size >= w.room {
			more = w.size / 4
		}
		w.size, w.sized = min(most, w.size+more), w.seq
	default:
		w.size, w.sized = (w.size+size)/2, w.seq
	}
}

// reopen opens a window that is not full any more.
func (w *window) reopen() bool {
	if w.full() || !w.closed.Load() {
		return false
	}
	w.closed.Store(false)
	w.overdue.Store(false)
	w.timer.Stop()
	return true
}

// close closes a window that is full until it is answered. Meanwhile overdue is called from time to time.
func (w *window) close(now time.Time, overdue func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.full() || w.closed.Load() {
		return
	}
	w.closing = now
	w.closed.Store(true)
	if w.timer == nil {
		w.timer = time.AfterFunc(stoneAgain, overdue)
	} else {
		w.timer.Reset(stoneAgain)
	}
}

// late is what is to be done about a window that stood closed for a while: to set the milestone returned, and if opened to
// send again.
func (w *window) late(now time.Time) (seq uint32, opened bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed.Load() {
		return 0, false
	}
	if waited := now.Sub(w.closing); waited < windowPatience {
		if waited >= lanesWait && !w.overdue.Load() && !w.lend(now) {
			w.overdue.Store(true)
		}
		w.timer.Reset(stoneAgain)
		return w.set(now), false
	}
	w.pass(w.sent)
	w.size = leastRoom
	if w.misses++; w.misses == windowTries {
		w.room, w.size, w.misses = 0, 0, 0
	}
	return w.set(now), w.reopen()
}

// lend reports whether lanes wait for a closed window for another stoneAgain.
func (w *window) lend(now time.Time) bool {
	if now.Sub(w.lentAt) >= wayFor {
		w.lent, w.lentAt = 0, now
	}
	w.lent += stoneAgain
	return w.lent <= lendMost
}

// askers counts the peers that send much at a time, so that each is given its part of the buffer.
type askers struct {
	now, before map[uint32]struct{} // peers, by the period in which they asked
	since       time.Time
}

// askersFor is how long a period is.
const askersFor = 100 * time.Millisecond

// add counts a peer and returns how many there are.
func (a *askers) add(peer uint32, now time.Time) int {
	switch passed := now.Sub(a.since); {
	case passed >= 2*askersFor:
		a.now, a.before, a.since = map[uint32]struct{}{}, nil, now
	case passed >= askersFor:
		a.now, a.before, a.since = map[uint32]struct{}{}, a.now, now
	}
	a.now[peer] = struct{}{}
	return max(len(a.now), len(a.before))
}

// roomFor is what each of so many peers may have of a buffer, at least 1 if there is one.
func roomFor(buffer, peers int) uint64 { return uint64((buffer/roomPart + peers - 1) / peers) }
