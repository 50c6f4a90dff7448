package wire

import ()

// What passes by peer is counted in a file that processes share as memory: the counts outlive the one that counts, and who reads them
// need not ask it. Numbers are in the machine's byte order.
const (

	// PassageSlots is how many keys of peers have a count. A node has 8,192 peers at most; a key that changed, and a peer that is gone,
	// keeps its own until that is settled.
	PassageSlots = 8192
)
