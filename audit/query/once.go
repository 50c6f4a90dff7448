package query

import (
	"slices"
	"sync"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
)

// identity are the fields that tell a line from all others of the same aggregation; the last of them tells lines of two apart.
var identity = []string{"node", "boot-id", "sequence", "reply", "log-status", "records"}

// identified tells whether a format has all of them.
func identified(has func(string) bool) bool {
	return !slices.ContainsFunc(identity, func(f string) bool { return !has(f) })
}

const (
	// chunkLines is how many sequence numbers are remembered together.
	chunkLines = 4096
	// maxRemembered bounds what is remembered, in bytes.
	maxRemembered = 512 << 20
)

// seen remembers lines, so that each counts once though several files have it: those of two flow logs, of two copies of evidence,
// of a stream that was sent again. It serves all workers.
type seen struct {
	mu   sync.Mutex
	had  map[stream]map[int64]*chunk
	size int64
}

// stream is where a sequence number stands for one line at most.
type stream struct {
	node, boot string
	kind       uint8 // bit 0: an answer; bit 1: not of packets
}

// chunk remembers lines of numbers that follow each other.
type chunk struct {
	had [chunkLines / 64]uint64
	// records is of how many records each line is made, to the last eight bits; nil: each of one.
	records *[chunkLines]uint8
}

const (
	chunkSize   = chunkLines / 8
	recordsSize = chunkLines
)

func newSeen() *seen { return &seen{had: map[stream]map[int64]*chunk{}} }

// mark takes the lines that came before out of keep, and returns how many they are. Lines without number, and those of formats that
// lack a field of the identity, cannot be told apart and stay.
func (s *seen) mark(b *batch, keep []bool) (again int64, err error) {
	if !identified(func(f string) bool { return b.columns[f] != nil }) {
		return 0, nil
	}
	node, boot, sequence := b.columns["node"], b.columns["boot-id"], b.columns["sequence"]
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, ok := range keep {
		if !ok || !sequence.IsInt() || sequence.Missing(i) || sequence.Ints[i] < 0 {
			continue
		}
		k := stream{node: text(node, i), boot: text(boot, i)}
		if number(b.columns["reply"], i) != 0 {
			k.kind = 1
		}
		if text(b.columns["log-status"], i) != format.StatusOK {
			k.kind |= 2
		}
		had, err := s.note(k, sequence.Ints[i], number(b.columns["records"], i))
		if err != nil {
			return again, err
		}
		if had {
			keep[i] = false
			again++
		}
	}
	return again, nil
}

// note remembers a line of some records, and tells whether it was known. Where lines of one number are of more and of fewer records,
// flow logs have joined them over different times: what they count in common cannot be told.
func (s *seen) note(k stream, n, records int64) (had bool, err error) {
	c, err := s.chunk(k, n/chunkLines)
	if err != nil {
		return false, err
	}
	at := n % chunkLines
	if records != 1 && c.records == nil {
		if err := s.take(recordsSize); err != nil {
			return false, err
		}
		c.records = new([chunkLines]uint8)
		for i := range c.records {
			c.records[i] = 1
		}
	}
	bit := uint64(1) << (at % 64)
	had = c.had[at/64]&bit != 0
	c.had[at/64] |= bit
	if c.records == nil {
		return had, nil
	}
	if had && c.records[at] != uint8(records) {
		return true, api.Errorf(api.CodeInvalidCombination, "--from", "ask one flow log with --flow-log ID, or give a folder that has the files of one only",
			"the files are of flow logs that joined the same records over different times, so their sums would be of neither")
	}
	c.records[at] = uint8(records)
	return had, nil
}

func (s *seen) chunk(k stream, at int64) (*chunk, error) {
	chunks := s.had[k]
	if chunks == nil {
		chunks = map[int64]*chunk{}
		s.had[k] = chunks
	}
	c := chunks[at]
	if c == nil {
		if err := s.take(chunkSize); err != nil {
			return nil, err
		}
		c = new(chunk)
		chunks[at] = c
	}
	return c, nil
}

// take refuses more memory than there is for it.
func (s *seen) take(bytes int64) error {
	if s.size += bytes; s.size <= maxRemembered {
		return nil
	}
	return api.Errorf(api.CodeLimitExceeded, "--from", "narrow the time, or ask one flow log with --flow-log ID",
		"the files are of several origins, and have more lines than can be compared in memory")
}
