package flow

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
)

// LogConfig configures a [Log]. Zero values are replaced by the defaults.
type LogConfig struct {
	Store Store
	// Boot names the boot of the host. Sequence numbers start at 1 with each, and flows of another boot are gone.
	Boot string
	// Word makes a word that is added to Boot in a directory that has nothing of this boot: one that was emptied has sequences begin anew,
	// and its lines are not those that a reader knows. None: nothing is added. [Log.Boot] is the result.
	Word         func() string
	SegmentBytes int64         // a segment of this size is full; default 8 MiB
	SegmentAge   time.Duration // as is one of this age; default 10 min
	MaxBytes     int64         // of all segments together; default 256 MiB
	// Shipping: removing what was not shipped is a loss, and declared. Else the log is all there is, and the oldest goes.
	Shipping bool
	Now      func() time.Time // default time.Now
	// Key signs seals, which name Node. None: the log has no seals.
	Key  ed25519.PrivateKey
	Node string
}

const (
	defaultSegmentBytes = 8 << 20
	defaultSegmentAge   = 10 * time.Minute
	defaultMaxBytes     = 256 << 20

	segmentSuffix = ".jsonl"
	stateName     = "state.json"
	cursorName    = "cursor.json"
)

// Position is a place in the log: before the line that starts at Offset of the segment.
type Position struct {
	Segment uint64 `json:"segment"`
	Offset  int64  `json:"offset"`
}

// Log keeps records in files of JSON lines, one record a line, and seals, which close the lines before them (decision 0024). Write returns
// when they are on the disk. Reading and shipping never make it wait for more than a short lock.
//
// Files: NUMBER.jsonl are the segments of the disk, state.json is what was recorded of every live flow before the newest began, with the
// ledger and the last seal, cursor.json is how far they are shipped.
type Log struct {
	cfg LogConfig

	write sync.Mutex // serializes Write and Rotate
	file  File
	chain *chain       // nil: no seals
	spare bytes.Buffer // what the batch before was made in

	mu       sync.Mutex // guards what follows; never held over I/O, but for reading a segment that is removed
	segments []segment  // oldest first, the last is written to
	opened   time.Time  // of the last segment
	sequence uint64     // of the newest record of this boot
	lost     uint64     // to be declared in the next record
	allLost  uint64
	shipped  Position
	pending  int // lines not shipped
	changed  chan struct{}
	trimmed  []trimmed  // to be declared in the next seal
	owed     []seal.Gap // likewise: what was found when the log was opened
	open     int        // lines since the last seal
	sealed   time.Time  // when that was made

	cursor sync.Mutex // serializes writes of cursor.json
}

type segment struct {
	number  uint64
	size    int64 // bytes that are whole and synced
	records int   // lines
	broken  bool  // bytes beyond size could not be taken back: nothing more is written to it
}

func (s segment) name() string { return segmentName(s.number) }

func segmentName(n uint64) string { return fmt.Sprintf("%020d%s", n, segmentSuffix) }

// Recovery is what a log found when it was opened.
type Recovery struct {
	Sequence uint64 // of the newest record of this boot
	Lost     uint64 // records that are damaged; declared in the next one

	flows  replayed
	ledger *ledger // nil: the log has no seals
}

// state is the first line of state.json. A line for each flow follows, and one with their number.
type state struct {
	Boot     string           `json:"boot"`
	Sequence uint64           `json:"sequence"`
	Segment  uint64           `json:"segment"`         // whose records come after
	Flows    []api.FlowRecord `json:"flows,omitempty"` // of a build before 0024, which had one line
	Chain    *chainState      `json:"chain,omitempty"`
	Ledger   *ledgerState     `json:"ledger,omitempty"`
	Trimmed  []trimmed        `json:"trimmed,omitempty"` // removed, or about to be, and not declared yet
}

// OpenLog opens a log and mends what a crash has left: a line that was not written whole goes and is declared as lost.
func OpenLog(cfg LogConfig) (*Log, *Recovery, error) {
	if cfg.Store == nil || cfg.Boot == "" {
		return nil, nil, errors.New("open flow log: store and boot id are required")
	}
	if cfg.Key != nil && (len(cfg.Key) != ed25519.PrivateKeySize || cfg.Node == "") {
		return nil, nil, errors.New("open flow log: seals need an Ed25519 key and a node id")
	}
	cfg.SegmentBytes = cmp.Or(cfg.SegmentBytes, defaultSegmentBytes)
	cfg.SegmentAge = cmp.Or(cfg.SegmentAge, defaultSegmentAge)
	cfg.MaxBytes = cmp.Or(cfg.MaxBytes, defaultMaxBytes)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &Log{cfg: cfg, changed: make(chan struct{})}
	r, err := l.recover()
	if err != nil {
		return nil, nil, fmt.Errorf("open flow log: %w", err)
	}
	l.sequence, l.lost, l.allLost = r.Sequence, r.Lost, r.Lost
	l.opened = cfg.Now()
	return l, r, nil
}

// Boot is the boot as lines and seals name it.
func (l *Log) Boot() string { return l.cfg.Boot }

// Batch is what is written at once.
type Batch struct {
	Records []api.FlowRecord
	Others  []LineFunc
	// Seal closes the lines before and in this batch: it says when it is made, the clock, counters, and what is missing; the rest is
	// added. nil: none.
	Seal *seal.Seal
}

// LineFunc makes a line of another kind than a flow record once its place is known: one JSON object, without a newline.
type LineFunc func(node, boot string, sequence uint64) ([]byte, error)

// Append writes records.
func (l *Log) Append(records []api.FlowRecord) error { return l.Write(Batch{Records: records}) }

// Write gives the lines their sequence and writes them. On an error none of them was written.
func (l *Log) Write(batch Batch) error {
	if len(batch.Records) == 0 && len(batch.Others) == 0 && batch.Seal == nil {
		return nil
	}
	l.write.Lock()
	defer l.write.Unlock()
	l.mu.Lock()
	last, lost := l.segments[len(l.segments)-1], l.lost
	l.mu.Unlock()
	if last.broken {
		if err := l.next(); err != nil {
			return fmt.Errorf("append to flow log: %w", err)
		}
		last = segment{number: last.number + 1}
	}
	w, err := l.encode(batch)
	if err == nil {
		err = l.put(last, w.bytes.Bytes())
		l.keep(w)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.segments[len(l.segments)-1]
	if err != nil {
		s.broken = errors.Is(err, errBroken)
		return fmt.Errorf("append to flow log: %w", err)
	}
	s.size += int64(w.bytes.Len())
	s.records += w.lines
	l.pending += w.lines
	l.sequence = w.sequence
	if len(batch.Records) > 0 {
		l.lost -= lost
	}
	l.took(w)
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// maxSpare bounds the memory that is kept from one batch to the next, in bytes.
const maxSpare = 4 << 20

// keep keeps the memory that a batch was made in for the next one; the caller holds write.
func (l *Log) keep(w *writing) {
	if w.bytes.Cap() <= maxSpare {
		l.spare = w.bytes
		l.spare.Reset()
	}
}

// writing is a batch as bytes, and the log's state once they are written.
type writing struct {
	bytes    bytes.Buffer
	lines    int
	sequence uint64
	chain    *chain
	declared int // of l.owed and l.trimmed, with the batch's seal
	trimmed  int
}

// encode makes the lines of a batch; the caller holds write.
func (l *Log) encode(batch Batch) (*writing, error) {
	l.mu.Lock()
	w, lost := &writing{sequence: l.sequence, bytes: l.spare}, l.lost
	l.mu.Unlock()
	l.spare = bytes.Buffer{}
	if l.chain != nil {
		var err error
		if w.chain, err = l.chain.clone(); err != nil {
			return nil, err
		}
		if err := l.closeBoot(w); err != nil {
			return nil, err
		}
	}
	enc := json.NewEncoder(&w.bytes)
	enc.SetEscapeHTML(false)
	for i := range batch.Records {
		r := batch.Records[i]
		w.sequence++
		r.Boot, r.Sequence = l.cfg.Boot, w.sequence
		if i == 0 {
			r.Lost += lost
		}
		from := w.bytes.Len()
		if err := enc.Encode(&r); err != nil {
			return nil, fmt.Errorf("record %d: %w", r.Sequence, err)
		}
		w.line(from)
	}
	for _, line := range batch.Others {
		w.sequence++
		b, err := line(l.cfg.Node, l.cfg.Boot, w.sequence)
		if err != nil || bytes.ContainsRune(b, '\n') || kindOf(b) == KindSeal {
			return nil, fmt.Errorf("line %d: %w", w.sequence, cmp.Or(err, errNoLine))
		}
		from := w.bytes.Len()
		w.bytes.Write(append(b, '\n'))
		w.line(from)
	}
	if batch.Seal == nil || w.chain == nil {
		return w, nil
	}
	s := *batch.Seal
	l.mu.Lock()
	w.declared = len(l.owed)
	s.Declared = append(slices.Clone(l.owed), s.Declared...)
	for n := holes(s.Declared); w.trimmed < len(l.trimmed); w.trimmed++ {
		gaps := l.trimmed[w.trimmed].Gaps
		if n += holes(gaps); n > maxHoles && w.trimmed > 0 {
			break
		}
		s.Declared = append(s.Declared, gaps...)
	}
	l.mu.Unlock()
	s.Declared = joined(s.Declared)
	return w, l.seal(w, &s)
}

// line takes the line that begins at from, of the newest sequence.
func (w *writing) line(from int) {
	w.lines++
	if w.chain != nil {
		w.chain.add(w.sequence, w.bytes.Bytes()[from:])
	}
}

// took makes a batch's state the log's own; with mu.
func (l *Log) took(w *writing) {
	if w.chain == nil {
		return
	}
	l.chain = w.chain
	l.open, l.sealed = w.chain.lines, w.chain.sealed
	l.owed, l.trimmed = l.owed[w.declared:], l.trimmed[w.trimmed:]
}

var errNoLine = errors.New("not one line of a record")

var errBroken = errors.New("segment is left with a part of a record")

// put writes to the current segment and takes back what it cannot write whole.
func (l *Log) put(s segment, b []byte) error {
	if l.file == nil {
		f, err := l.cfg.Store.Open(s.name())
		if err != nil {
			return err
		}
		l.file = f
	}
	_, err := l.file.Write(b)
	if err == nil {
		err = l.file.Sync()
	}
	if err == nil {
		return nil
	}
	if back := errors.Join(l.file.Truncate(s.size), l.file.Sync()); back != nil {
		return errors.Join(err, back, errBroken)
	}
	return err
}

// next begins a new segment; the caller holds write.
func (l *Log) next() error {
	if l.file != nil {
		if err := l.file.Close(); err != nil {
			return fmt.Errorf("close flow log segment: %w", err)
		}
		l.file = nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = append(l.segments, segment{number: l.segments[len(l.segments)-1].number + 1})
	l.opened = l.cfg.Now()
	return nil
}

// Due tells whether the segment is full or old enough for [Log.Rotate].
func (l *Log) Due() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.segments[len(l.segments)-1]
	return s.records > 0 && (s.size >= l.cfg.SegmentBytes || l.cfg.Now().Sub(l.opened) >= l.cfg.SegmentAge)
}

// Rotate begins a new segment and removes old ones beyond the bound. baselines is what the records up to here say of every
// live flow: an opened log adds to it only the records after it.
func (l *Log) Rotate(baselines []api.FlowRecord) error {
	return l.rotate(slices.Values(baselines), nil)
}

// rotate keeps the ledger too. Of a log with seals no line may be open.
func (l *Log) rotate(baselines iter.Seq[api.FlowRecord], books *ledgerState) error {
	l.write.Lock()
	defer l.write.Unlock()
	l.mu.Lock()
	st := state{
		Boot: l.cfg.Boot, Sequence: l.sequence, Segment: l.segments[len(l.segments)-1].number + 1, Ledger: books,
	}
	l.mu.Unlock()
	if err := l.keepState(&st, baselines); err != nil {
		return fmt.Errorf("rotate flow log: %w", err)
	}
	if err := l.next(); err != nil {
		return fmt.Errorf("rotate flow log: %w", err)
	}
	if err := l.trim(&st, baselines); err != nil {
		return fmt.Errorf("rotate flow log: %w", err)
	}
	return nil
}

// SetShipped says that the n records before pos, after the position of the last call, have arrived.
func (l *Log) SetShipped(pos Position, n int) error {
	l.cursor.Lock()
	defer l.cursor.Unlock()
	l.mu.Lock()
	if pos.Segment > l.shipped.Segment || pos.Segment == l.shipped.Segment && pos.Offset > l.shipped.Offset {
		l.shipped = pos
		l.pending = max(l.pending-n, 0)
	}
	if end := l.segments[len(l.segments)-1]; l.shipped == (Position{end.number, end.size}) {
		l.pending = 0 // damaged lines count too
	}
	pos = l.shipped
	l.mu.Unlock()
	if err := l.putJSON(cursorName, pos); err != nil {
		return fmt.Errorf("keep shipping position: %w", err)
	}
	return nil
}

// Shipped is the position up to which records have arrived.
func (l *Log) Shipped() Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shipped
}

// End is the position of the next record.
func (l *Log) End() Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.segments[len(l.segments)-1]
	return Position{s.number, s.size}
}

// Changed is closed by the next Append. Take it before reading, so that nothing is missed.
func (l *Log) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// LogStats is a log in figures.
type LogStats struct {
	Sequence uint64 // of the newest record
	Pending  int    // records not shipped
	Lost     uint64 // records lost since the log was opened
	Bytes    int64
	Segments int
}

// Stats returns the figures of now.
func (l *Log) Stats() LogStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := LogStats{Sequence: l.sequence, Pending: l.pending, Lost: l.allLost, Segments: len(l.segments)}
	for _, seg := range l.segments {
		s.Bytes += seg.size
	}
	return s
}

// Close closes the file. The log must not be appended to after that.
func (l *Log) Close() error {
	l.write.Lock()
	defer l.write.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

func (l *Log) putJSON(name string, v any) error { return putJSON(l.cfg.Store, name, v) }

func putJSON(s Store, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return s.Put(name, b)
}

// getJSON leaves v zero when the file is missing or damaged: it is what a fresh log has then.
func getJSON[V any](s Store, name string, v *V) (damaged bool, err error) {
	b, err := s.Get(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if json.Unmarshal(b, v) != nil {
		var zero V
		*v = zero
		return true, nil
	}
	return false, nil
}

// load reads a segment from an offset to its end.
func (l *Log) load(number uint64, off int64) ([]byte, error) { return load(l.cfg.Store, number, off) }

func load(s Store, number uint64, off int64) ([]byte, error) {
	name := segmentName(number)
	var all []byte
	for b := make([]byte, 1<<20); ; {
		n, err := s.ReadAt(name, b, off)
		all = append(all, b[:n]...)
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// segmentNumbers lists the segments of a store, oldest first.
func segmentNumbers(s Store) ([]uint64, error) {
	names, err := s.List()
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, segmentSuffix)
		if n, err := strconv.ParseUint(digits, 10, 64); ok && err == nil && segmentName(n) == name {
			numbers = append(numbers, n)
		}
	}
	return numbers, nil
}
