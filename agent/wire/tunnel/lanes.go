package tunnel

// Accounts share the tunnel by lanes: the interface has a queue for each lane, and the datapath puts an account's packets
// into the account's own (decision 0018). What a lane has no room for the kernel drops, and nobody else's. Here lanes are
// served in turns, each for a part of the tunnel's time.
const (
	// Lanes is how many an interface has. The first is for packets that name none.
	Lanes = 64

	// LaneMark is the mark of a packet of lane 0; lane n's is LaneMark ^ n. The datapath's MARK_TUNNEL.
	LaneMark = 0x43554c56

	// What a packet costs, in bytes: a byte is copied and encrypted, and each read of the interface and each segment takes
	// what so many bytes do. Measured as CPU time of the sending process: 0.43 ns a byte, 0.8 µs a read, 0.8 µs a segment.
	costRead    = 1800
	costSegment = 1900

	// quantum is what a lane gets each turn: most of a read of 64 KiB, so that what goes to one peer in one datagram stays
	// together.
	quantum = 128 << 10
)

// lane is one queue of the interface.
type lane struct {
	fd     int
	credit int  // what it may take before the next lane's turn; negative: what it took too much
	queued bool // it stands in the order of turns
	filled bool // there may be packets

	held *window // it waits for this one, while that has it wait; never lane 0
}

// ready reports whether a lane may be served.
func (l *lane) ready() bool {
	if l.held != nil && !l.held.waits() {
		l.held = nil
	}
	return l.filled && l.held == nil
}

// lanes is who is served next: deficit round robin (Shreedhar and Varghese, 1996), where what a packet costs is known once it
// is read. So a lane is served while it has credit and pays afterwards, with coming turns if it must, empty or not.
type lanes struct {
	all    []lane
	turns  []int // lanes in the order of their turns, the first one's is now
	filled int   // how many are
}

// fill notes that a lane may have packets.
func (s *lanes) fill(i int) {
	l := &s.all[i]
	if l.filled {
		return
	}
	l.filled = true
	s.filled++
	if !l.queued {
		l.queued, l.credit = true, quantum
		s.turns = append(s.turns, i)
	}
}

// drain notes that a lane has none.
func (s *lanes) drain(i int) {
	s.all[i].filled = false
	s.filled--
}

// pay takes from a lane what a packet of so many bytes and segments costs.
func (s *lanes) pay(i, bytes, segments int) {
	s.all[i].credit -= bytes + costRead + segments*costSegment
}

// next is the lane whose turn it is, or -1 when none may be served. One that is held keeps what it had of its turn.
func (s *lanes) next() int {
	if s.filled == 0 { // nobody waited for what others took
		for _, i := range s.turns {
			s.all[i].queued = false
		}
		s.turns = s.turns[:0]
		return -1
	}
	for held := 0; held < len(s.turns); {
		i := s.turns[0]
		l := &s.all[i]
		if l.ready() && l.credit > 0 {
			return i
		}
		n := copy(s.turns, s.turns[1:])
		s.turns = s.turns[:n]
		if l.held != nil && l.filled {
			s.turns = append(s.turns, i)
			held++
			continue
		}
		held = 0
		if !l.filled && l.credit >= 0 {
			l.queued = false
			continue
		}
		l.credit += quantum
		s.turns = append(s.turns, i)
	}
	return -1
}
