package leaf

import "crypto/sha256"

// Recent knows the newest leaves by their keys: what is appended again is expected within that many.
type Recent struct {
	most  int
	at    map[string]Seen
	order []string // a ring
	next  int
}

// Seen is where a leaf is, and what it says.
type Seen struct {
	Index uint64
	Same  [sha256.Size]byte
}

// NewRecent remembers the newest most leaves.
func NewRecent(most int) *Recent { return &Recent{most: most, at: map[string]Seen{}} }

// Find returns what is known under a key.
func (r *Recent) Find(key string) (Seen, bool) {
	s, ok := r.at[key]
	return s, ok
}

// Add remembers a leaf and forgets the oldest.
func (r *Recent) Add(key string, s Seen) {
	if _, again := r.at[key]; again {
		r.at[key] = s
		return
	}
	if len(r.order) < r.most {
		r.order = append(r.order, key)
	} else {
		delete(r.at, r.order[r.next])
		r.order[r.next] = key
		r.next = (r.next + 1) % r.most
	}
	r.at[key] = s
}
