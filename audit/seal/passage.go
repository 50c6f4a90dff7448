package seal

import (
	"cmp"
	"errors"
	"fmt"
)

// MaxPassages bounds the rows of a seal that tell what passed through the tunnel. Rows beyond it are in the next full seal.
const MaxPassages = 1 << 14

// maxPassed is more than any count reaches, in packets, and leaves room to add.
const maxPassed = 1 << 62

// Passage is how many packets of tenants passed through the tunnel to a peer and from it, counted from the begin of an epoch: IP packets
// inside the tunnel, joined ones as those that they are on the wire. What was given to the tunnel here for a peer, and did not come from
// this node's tunnel there, was lost on its way, whatever the cause. What nodes tell each other, and the tunnel's own packets, are not
// among them.
type Passage struct {
	Peer string `json:"peer"` // node id
	// Epoch names one count, which begins at 0. Another begins with the host's boot, with another key of the peer, and where what was
	// counted is lost. At most 64 bytes.
	Epoch string `json:"epoch,omitempty"`
	Given uint64 `json:"given"` // below 2^62, as Came; to the tunnel for this peer, before anything that may drop it
	Came  uint64 `json:"came"`  // from this peer: authentic, from an address of its own, and handed to the host
	// Unknown: nobody counts here (the kernel's WireGuard); then there is no epoch, and both numbers say nothing.
	Unknown bool `json:"unknown,omitempty"`
}

// ComparePassages is the order of rows in a seal.
func ComparePassages(a, b Passage) int {
	return cmp.Or(cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Epoch, b.Epoch))
}

// soundPassages checks what rows must be whoever made them.
func soundPassages(rows []Passage) error {
	if len(rows) > MaxPassages {
		return fmt.Errorf("%d rows tell what passed through the tunnel, more than %d", len(rows), MaxPassages)
	}
	for i, p := range rows {
		switch {
		case p.Peer == "":
			return errors.New("a passage names no peer")
		case len(p.Peer) > maxID || len(p.Epoch) > maxID:
			return fmt.Errorf("peer or epoch of a passage has more than %d bytes", maxID)
		case i > 0 && ComparePassages(rows[i-1], p) >= 0:
			return fmt.Errorf("the passages of peer %.40q are not in their order, or there twice", p.Peer)
		case p.Unknown && (p.Epoch != "" || p.Given != 0 || p.Came != 0):
			return fmt.Errorf("the passage of peer %.40q is unknown and says something", p.Peer)
		case p.Given >= maxPassed || p.Came >= maxPassed:
			return fmt.Errorf("the passage of peer %.40q has %d packets given and %d that came, not below 2^62", p.Peer, p.Given, p.Came)
		case !p.Unknown && p.Epoch == "":
			return fmt.Errorf("the passage of peer %.40q has no epoch", p.Peer)
		}
	}
	return nil
}
