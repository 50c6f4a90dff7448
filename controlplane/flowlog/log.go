package flowlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
)

const (
	suffix    = ".ndjson"
	dayFormat = "2006-01-02"
	// MaxRecord bounds one record on disk, in bytes.
	MaxRecord = 64 << 10
	// memoryDays is how many days of files are read at start to know duplicates again.
	memoryDays = 3
)

// Log is a directory of flow records. It is safe for concurrent use.
type Log struct {
	dir string

	mu      sync.Mutex
	seen    map[source]*spans
	files   map[string]*dayFile // by day, open for appending
	readers map[chan struct{}]*reader
}

// dayFile is a day's file, open for appending. Nobody else writes to it.
type dayFile struct {
	*os.File
	size int64 // bytes of records that were taken
	torn bool  // there may be more behind them, of a batch that was refused
}

// source numbers its records without gaps.
type source struct{ node, boot string }

// reader is who follows; it takes what came since it last looked.
type reader struct {
	pending []api.FlowEnvelope
	lost    int
}

// maxPending bounds what waits for one reader; beyond it the reader is told that it fell behind.
const maxPending = 100_000

// ErrBehind tells a follower that it read too slowly.
var ErrBehind = errors.New("flow log: the reader fell behind and records were left out; ask again with since")

// Open reads enough of a directory to know what it holds.
func Open(dir string, now time.Time) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("flow log: %w", err)
	}
	l := &Log{dir: dir, seen: map[source]*spans{}, files: map[string]*dayFile{}, readers: map[chan struct{}]*reader{}}
	days, err := l.days()
	if err != nil {
		return nil, err
	}
	oldest := now.AddDate(0, 0, -memoryDays).UTC().Format(dayFormat)
	for _, day := range days {
		if day < oldest {
			continue
		}
		err := l.scan(day, nil, func(e api.FlowEnvelope) error {
			l.spansOf(e).add(e.Seq)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%w: see to the disk, or move %s elsewhere and start without that day's records", err, l.path(day))
		}
	}
	return l, nil
}

// Close closes the files.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for day, f := range l.files {
		errs = append(errs, f.Close())
		delete(l.files, day)
	}
	return errors.Join(errs...)
}

func (l *Log) spansOf(e api.FlowEnvelope) *spans {
	k := source{e.Node, e.Boot}
	if l.seen[k] == nil {
		l.seen[k] = &spans{}
	}
	return l.seen[k]
}

// Append stores the records that are new, on disk before it returns, and says how many those were. After an error the records of
// some days may be stored; of the others there is nothing, and all can be sent again.
func (l *Log) Append(records []api.FlowEnvelope) (stored int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	byDay, err := l.fresh(records)
	if err != nil {
		return 0, err
	}
	for _, day := range slices.Sorted(maps.Keys(byDay)) {
		b := byDay[day]
		if err := l.write(day, b.lines.Bytes()); err != nil {
			return stored, err
		}
		for _, e := range b.records {
			l.spansOf(e).add(e.Seq)
		}
		l.tell(b.records)
		stored += len(b.records)
	}
	return stored, nil
}

// dayBatch is what of a batch belongs into one day's file.
type dayBatch struct {
	lines   bytes.Buffer
	records []api.FlowEnvelope
}

// fresh are the records that are not stored yet, by day.
func (l *Log) fresh(records []api.FlowEnvelope) (map[string]*dayBatch, error) {
	byDay := map[string]*dayBatch{}
	batch := map[source]map[uint64]bool{}
	for _, e := range records {
		k := source{e.Node, e.Boot}
		if batch[k] == nil {
			batch[k] = map[uint64]bool{}
		}
		if batch[k][e.Seq] || l.spansOf(e).has(e.Seq) {
			continue
		}
		batch[k][e.Seq] = true
		line, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("flow log: encode record %d of %s: %w", e.Seq, e.Node, err)
		}
		if len(line) > MaxRecord {
			return nil, fmt.Errorf("flow log: record %d of %s has %d bytes, at most %d are allowed", e.Seq, e.Node, len(line), MaxRecord)
		}
		day := e.End.UTC().Format(dayFormat)
		if byDay[day] == nil {
			byDay[day] = new(dayBatch)
		}
		byDay[day].lines.Write(append(line, '\n'))
		byDay[day].records = append(byDay[day].records, e)
	}
	return byDay, nil
}

// write adds whole lines to a day's file, or nothing: half a line would swallow the beginning of the next batch.
func (l *Log) write(day string, data []byte) error {
	f := l.files[day]
	if f == nil {
		var err error
		if f, err = l.openDay(day); err != nil {
			return err
		}
	}
	if f.torn {
		if err := f.takeBack(); err != nil {
			return fmt.Errorf("flow log: take back what was refused: %w", err)
		}
	}
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("flow log: append: %w", errors.Join(err, f.takeBack()))
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("flow log: sync: %w", errors.Join(err, f.takeBack()))
	}
	f.size += int64(len(data))
	return nil
}

// takeBack cuts off what is behind the records that were taken. Until that is done nothing more is.
func (f *dayFile) takeBack() error {
	err := f.Truncate(f.size)
	f.torn = err != nil
	return err
}

// openDay opens a day's file for appending; a line that a crash cut short is ended, and readers skip it.
func (l *Log) openDay(day string) (*dayFile, error) {
	const maxOpen = 8
	if len(l.files) >= maxOpen {
		if err := l.closeWhole(); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(l.path(day), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("flow log: open: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && size > 0 {
		last := make([]byte, 1)
		if _, err = f.ReadAt(last, size-1); err == nil && last[0] != '\n' {
			_, err = f.Write([]byte{'\n'})
			size++
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("flow log: open: %w", err)
	}
	l.files[day] = &dayFile{File: f, size: size}
	return l.files[day], nil
}

// closeWhole closes the files, but for those that still have something to take back.
func (l *Log) closeWhole() error {
	for day, f := range l.files {
		if f.torn {
			continue
		}
		delete(l.files, day)
		if err := f.Close(); err != nil {
			return fmt.Errorf("flow log: close: %w", err)
		}
	}
	return nil
}

func (l *Log) path(day string) string { return filepath.Join(l.dir, day+suffix) }

// days lists the days there are files of, oldest first.
func (l *Log) days() ([]string, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, fmt.Errorf("flow log: %w", err)
	}
	var days []string
	for _, e := range entries {
		if day, ok := strings.CutSuffix(e.Name(), suffix); ok && !e.IsDir() {
			if _, err := time.Parse(dayFormat, day); err == nil {
				days = append(days, day)
			}
		}
	}
	slices.Sort(days)
	return days, nil
}
