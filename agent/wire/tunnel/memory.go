package tunnel

import "runtime/debug"

const (
	// perPeer is what the device keeps for a peer, in bytes: its channels, and two goroutines with a batch each.
	perPeer = 25 << 10

	// slack is what may be allocated between two collections, in bytes, about, whatever the number of peers. A collection
	// empties the pools of message buffers, so frequent ones cost CPU time: with one peer a tenth to a third more at 40 %.
	slack = 10 << 20

	gcMost  = 100 // Go's default
	gcLeast = 25

	// softLimit is what the runtime may have altogether, in bytes, with few peers: a bound for a machine that leaves the collector
	// no time. The runtime counts each of the device's buffers of 64 KiB whole, though most pages of it are never touched: the
	// device's reader and receivers hold 384 of them, two full gates 512 more, which is 56 MiB, and as much may wait to be
	// collected. Closer to that it collects back to back: measured, a stream gets 1.05 of WireGuard's with 56 MiB, 1.23 with 80, 1.62
	// with 112 and with 160, and 1.66 without a limit. Resident were 40 MiB at most with
	// 160, in a run of all kinds of load at an MTU of 1500, and 67 in one without a limit.
	softLimit = 160 << 20

	// manyLimit is the same from many peers on. What they take is resident, and the process is to stay below 64 MiB with a thousand, which
	// takes some 5 MiB more than its limit on a machine that is busy: 58 to 63 with 58 MiB, 81 with 185. Such a tunnel collects nearly all
	// the time while it is full, and then carries about half of what it could.
	many      = 500
	manyLimit = 48 << 20
	room      = 22 << 20 // beside what peers take, for still more of them
)

// memoryLimit is the runtime's soft limit for so many peers, in bytes. The collector starts in time for a machine that
// is idle; of a busy one it gets too little, and who allocates outruns it, unless near the limit he works for it.
func memoryLimit(peers int) int64 {
	if peers < many {
		return softLimit + int64(peers)*perPeer
	}
	return max(manyLimit, room+int64(peers)*perPeer)
}

// gcPercent is GOGC for so many peers: the heap grows with them, and what it may grow by until it is collected does not.
func gcPercent(peers int) int { return max(gcLeast, gcMost*slack/(slack+peers*perPeer)) }

// collect sets the garbage collector for so many peers.
func (s *server) collect(peers int) {
	percent, limit := gcPercent(peers), memoryLimit(peers)
	if percent == s.gc && limit == s.limit { // setting them stops the world
		return
	}
	s.gc, s.limit = percent, limit
	debug.SetGCPercent(percent)
	debug.SetMemoryLimit(limit)
}
