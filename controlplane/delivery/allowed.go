package delivery

import (
	"github.com/culvert-net/culvert/audit/bucket"
)

// Allowed is where the operator lets flow logs go.
type Allowed struct {
	// Local has a directory for each account.
	Local string
	// Room bounds what is written into directories; nil: nothing does.
	Room *Room
	// Dirs are absolute directories that any account may name, or what is below them.
	Dirs []string
	// Streams are HOST:PORT that any account may send to.
	Streams []string
	// Buckets say themselves who may use them.
	Buckets bucket.Set
}
