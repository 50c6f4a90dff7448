package tunnel

// Accounts share the tunnel by lanes: the interface has a queue for each lane, and the datapath puts an account's packets
// into the account's own (decision 0018). What a lane has no room for the kernel drops, and nobody else's. Here lanes are
// served in turns, each for a part of the tunnel's time.
const (
	// Lanes is how many an interface has. The first is for packets that name none.
	Lanes = 64
)

// lane is one queue of the interface.
type lane struct {
	fd     int
	credit int  // what it may take before the next lane's turn; negative: what it took too much
	queued bool // it stands in the order of turns
	filled bool // there may be packets

	held *window // it waits for this one, while that has it wait; never lane 0
}

// lanes is who is served next: deficit round robin (Shreedhar and Varghese, 1996), where what a packet costs is known once it
// is read. So a lane is served while it has credit and pays afterwards, with coming turns if it must, empty or not.
type lanes struct {
	all    []lane
	turns  []int // lanes in the order of their turns, the first one's is now
	filled int   // how many are
}
