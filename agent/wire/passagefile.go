package wire

import (
	"sync/atomic"
)

// What passes by peer is counted in a file that processes share as memory: the counts outlive the one that counts, and who reads them
// need not ask it. Numbers are in the machine's byte order.
const (

	// PassageSlots is how many keys of peers have a count. A node has 8,192 peers at most; a key that changed, and a peer that is gone,
	// keeps its own until that is settled.
	PassageSlots = 8192
)

// PassageSlot counts for one peer. One process counts; any may read.
type PassageSlot struct {
	key   PublicKey
	epoch [2]atomic.Uint64 // all zero: the slot is free
	given atomic.Uint64
	came  atomic.Uint64

	// What is written down elsewhere, of the epoch whose first half this is: of another one nothing is.
	settled                   atomic.Uint64
	settledGiven, settledCame atomic.Uint64

	node [32]byte // whose key it is; zero: nobody said

	base atomic.Uint64 // what is given beyond what stands elsewhere, modulo 2^64
}

// Give counts packets that were taken for the peer. A slot that is nil counts nothing.
func (s *PassageSlot) Give(packets uint64) {
	if s != nil {
		s.given.Add(packets)
	}
}

// GivenElsewhere takes over what was given as far as it is counted elsewhere, where so much stands.
func (s *PassageSlot) GivenElsewhere(stands uint64) {
	if s == nil {
		return
	}
	given := s.base.Load() + stands
	for had := s.given.Load(); had < given && !s.given.CompareAndSwap(had, given); had = s.given.Load() {
	}
}
