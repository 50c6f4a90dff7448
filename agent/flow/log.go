package flow

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
)

// LogConfig configures a [Log]. Zero values are replaced by the defaults.
type LogConfig struct {
	Store Store
	// Boot names the boot of the host. Sequence numbers start at 1 with each, and flows of another boot are gone.
	Boot         string
	SegmentBytes int64         // a segment of this size is full; default 8 MiB
	SegmentAge   time.Duration // as is one of this age; default 10 min
	MaxBytes     int64         // of all segments together; default 256 MiB
	// Shipping: removing what was not shipped is a loss, and declared. Else the log is all there is, and the oldest goes.
	Shipping bool
	Now      func() time.Time // default time.Now
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

// Log keeps records in segments of JSON lines, one record a line. Append returns when they are on the disk. Reading and
// shipping never make Append wait for more than a short lock.
//
// Files: NUMBER.jsonl are the segments, state.json is what was recorded of every live flow before the newest segment began,
// cursor.json is how far they are shipped.
type Log struct {
	cfg LogConfig

	write sync.Mutex // serializes Append and Rotate
	file  File

	mu       sync.Mutex // guards what follows; never held over I/O, but for reading a segment that is removed
	segments []segment  // oldest first, the last is written to
	opened   time.Time  // of the last segment
	sequence uint64     // of the newest record of this boot
	lost     uint64     // to be declared in the next record
	allLost  uint64
	shipped  Position
	pending  int // records not shipped
	changed  chan struct{}

	cursor sync.Mutex // serializes writes of cursor.json
}

type segment struct {
	number  uint64
	size    int64 // bytes that are whole and synced
	records int
	broken  bool // bytes beyond size could not be taken back: nothing more is written to it
}

func (s segment) name() string { return segmentName(s.number) }

func segmentName(n uint64) string { return fmt.Sprintf("%020d%s", n, segmentSuffix) }

// Recovery is what a log found when it was opened.
type Recovery struct {
	Baselines []api.FlowRecord // what is recorded of the flows of this boot; for [NewAggregator]
	Sequence  uint64           // of the newest record of this boot
	Lost      uint64           // records that are damaged; declared in the next one
}

// state is the content of state.json.
type state struct {
	Boot     string           `json:"boot"`
	Sequence uint64           `json:"sequence"`
	Segment  uint64           `json:"segment"` // whose records come after
	Flows    []api.FlowRecord `json:"flows"`
}

// OpenLog opens a log and mends what a crash has left: a line that was not written whole goes and is declared as lost.
func OpenLog(cfg LogConfig) (*Log, *Recovery, error) {
	if cfg.Store == nil || cfg.Boot == "" {
		return nil, nil, errors.New("open flow log: store and boot id are required")
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

// Append gives the records their sequence and writes them. On an error none of them was written.
func (l *Log) Append(records []api.FlowRecord) error {
	if len(records) == 0 {
		return nil
	}
	l.write.Lock()
	defer l.write.Unlock()
	l.mu.Lock()
	last, sequence, lost := l.segments[len(l.segments)-1], l.sequence, l.lost
	l.mu.Unlock()
	if last.broken {
		if err := l.next(); err != nil {
			return fmt.Errorf("append to flow log: %w", err)
		}
		last = segment{number: last.number + 1}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for i := range records {
		r := records[i]
		r.Boot, r.Sequence = l.cfg.Boot, sequence+uint64(i)+1
		if i == 0 {
			r.Lost += lost
		}
		if err := enc.Encode(&r); err != nil {
			return fmt.Errorf("append to flow log: record %d: %w", r.Sequence, err)
		}
	}
	err := l.put(last, b.Bytes())
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.segments[len(l.segments)-1]
	if err != nil {
		s.broken = errors.Is(err, errBroken)
		return fmt.Errorf("append to flow log: %w", err)
	}
	s.size += int64(b.Len())
	s.records += len(records)
	l.sequence += uint64(len(records))
	l.lost -= lost
	l.pending += len(records)
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

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
	l.write.Lock()
	defer l.write.Unlock()
	l.mu.Lock()
	st := state{
		Boot: l.cfg.Boot, Sequence: l.sequence, Segment: l.segments[len(l.segments)-1].number + 1, Flows: baselines,
	}
	l.mu.Unlock()
	if err := l.putJSON(stateName, st); err != nil {
		return fmt.Errorf("rotate flow log: %w", err)
	}
	if err := l.next(); err != nil {
		return fmt.Errorf("rotate flow log: %w", err)
	}
	if err := l.trim(); err != nil {
		return fmt.Errorf("rotate flow log: %w", err)
	}
	return nil
}

// trim removes the oldest segments until the rest is within the bound. Shipped ones are older than others, so they go first.
func (l *Log) trim() error {
	for {
		l.mu.Lock()
		var total int64
		for _, s := range l.segments {
			total += s.size
		}
		oldest, shipped, n := l.segments[0], l.shipped, len(l.segments)
		l.mu.Unlock()
		if total <= l.cfg.MaxBytes || n == 1 {
			return nil
		}
		unsent := 0
		if l.cfg.Shipping && shipped.Segment <= oldest.number {
			unsent = oldest.records
			if shipped.Segment == oldest.number && shipped.Offset > 0 {
				b, err := l.load(oldest.number, shipped.Offset)
				if err != nil {
					return err
				}
				unsent = bytes.Count(b, []byte{'\n'})
			}
		}
		if err := l.cfg.Store.Remove(oldest.name()); err != nil {
			return err
		}
		l.mu.Lock()
		l.segments = l.segments[1:]
		l.lost += uint64(unsent)
		l.allLost += uint64(unsent)
		l.pending -= unsent
		if l.shipped.Segment <= oldest.number {
			l.shipped = Position{Segment: oldest.number + 1}
		}
		l.mu.Unlock()
	}
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

func (l *Log) putJSON(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return l.cfg.Store.Put(name, b)
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
