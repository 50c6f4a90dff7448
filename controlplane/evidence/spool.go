package evidence

import (
	"hash"
	"os"
	"time"

	"github.com/culvert-net/culvert/audit/seal"
)

// spool is a file of lines of one boot that are not in their place yet: segments that were not settled, and lines without a seal.
type spool struct {
	boot   string
	path   string
	file   *os.File
	size   int64  // bytes that are whole and synced
	marks  int64  // of what is noted of lines that the server did not take
	last   uint64 // sequence number of the newest line that ever came
	number uint64 // of the newest good seal that came
	tail   tail
	used   time.Time // when lines of it came
	over   bool      // it is not remembered, and what came of it is kept: nothing new comes any more
}

// tail is the lines that have no seal yet.
type tail struct {
	from        int64 // where they begin in the file
	sum         hash.Hash
	records     int
	first, last uint64
	refused     refused // of these lines
}

// segment is lines with their seal.
type segment struct {
	sp       *spool
	from, to int64 // in the file
	seal     *seal.Seal
	line     []byte // the seal's, without newline
	flaw     error  // why it is no good seal
	tail     tail   // its lines
}
