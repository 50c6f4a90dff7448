package delivery

import (
	"sync"
)

// Room bounds what stands in the accounts' directories of the server. The zero value bounds nothing.
type Room struct {
	// Dir has a directory for each account.
	Dir string
	// PerAccount is how many bytes of files each may have; 0: any.
	PerAccount int64
	// Reserve is how much of the file system stays free; 0: none.
	Reserve int64

	mu   sync.Mutex
	used map[string]int64 // by account, once it was counted
}

// Recount has all counted anew when it is needed next: files may be removed by hand.
func (r *Room) Recount() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used = nil
}
