package flow

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"time"

	"github.com/culvert-net/culvert/audit/seal"
)

// chain is the log's last seal, and the lines since.
type chain struct {
	boot     string // of the seal's segment and of the lines
	number   uint64 // of the last seal of this boot; 0 none
	previous string // hash of the last seal, whatever its boot; "" none
	sealed   time.Time

	first, last uint64 // sequences of the lines since; last+1 == first: none
	lines       int
	hash        hash.Hash // of them
}

// chainState is a chain between two segments, as state.json has it.
type chainState struct {
	Boot     string    `json:"boot"`
	Number   uint64    `json:"number"`
	Previous string    `json:"previous,omitempty"`
	Sealed   time.Time `json:"sealed,omitzero"`
	Last     uint64    `json:"last"` // sequence of the newest line
}

func newChain(st *chainState) *chain {
	c := &chain{hash: sha256.New(), first: 1}
	if st != nil {
		c.boot, c.number, c.previous, c.sealed = st.Boot, st.Number, st.Previous, st.Sealed
		c.first, c.last = st.Last+1, st.Last
	}
	return c
}

func (c *chain) state() *chainState {
	return &chainState{Boot: c.boot, Number: c.number, Previous: c.previous, Sealed: c.sealed, Last: c.last}
}

// clone is c for a write that may fail.
func (c *chain) clone() (*chain, error) {
	h, ok := c.hash.(hash.Cloner)
	if !ok {
		return nil, fmt.Errorf("seal flow log: hash %T cannot be copied", c.hash)
	}
	copied, err := h.Clone()
	if err != nil {
		return nil, fmt.Errorf("seal flow log: %w", err)
	}
	out := *c
	out.hash = copied
	return &out, nil
}

// begin goes on with a boot, if it is another. No line may be open.
func (c *chain) begin(boot string) {
	if c.boot != boot {
		c.boot, c.number, c.first, c.last = boot, 0, 1, 0
	}
}

// add takes a line, with its newline.
func (c *chain) add(sequence uint64, line []byte) {
	if c.lines == 0 {
		c.first = sequence
	}
	c.last = sequence
	c.lines++
	c.hash.Write(line)
}

// skip goes on behind lines that are in no segment.
func (c *chain) skip(last uint64) {
	c.first, c.last, c.lines = last+1, last, 0
	c.hash.Reset()
}

// close fills what a seal says of its segment.
func (c *chain) close(s *seal.Seal, node string) {
	s.Version, s.Node, s.Boot, s.Number = seal.Version, node, c.boot, c.number+1
	s.First, s.Last, s.Records = c.first, c.last, c.lines
	s.Start, s.Previous, s.Hash = c.sealed, c.previous, hex.EncodeToString(c.hash.Sum(nil))
	if s.Start.IsZero() {
		s.Start = s.End
	}
}

// closed takes a seal that was written.
func (c *chain) closed(s *seal.Seal, line []byte) {
	c.boot, c.number, c.previous, c.sealed = s.Boot, s.Number, seal.HashLine(line), s.End
	c.skip(s.Last)
}
