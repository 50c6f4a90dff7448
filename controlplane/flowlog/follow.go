package flowlog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// Position is how far a log was read: bytes of each day's file. Days that it does not name were not begun, or are gone.
type Position map[string]int64

// Clone is a position of its own.
func (p Position) Clone() Position { return maps.Clone(p) }

// End is behind all records that are stored.
func (l *Log) End() (Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	days, err := l.days()
	if err != nil {
		return nil, err
	}
	end := Position{}
	for _, day := range days {
		if f := l.files[day]; f != nil {
			end[day] = f.size
			continue
		}
		info, err := os.Stat(l.path(day))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("flow log: %w", err)
		}
		end[day] = info.Size()
	}
	return end, nil
}

// Behind is how many bytes a position is behind another one.
func (p Position) Behind(end Position) int64 {
	var n int64
	for day, size := range end {
		n += max(0, size-p[day])
	}
	return n
}

// ReadFrom calls each for the records between two positions that an account may see (an empty one: all), as it may see them, in the
// order in which they came within a day, until most bytes were read; it says where it got to. Days that are gone meanwhile have no records.
func (l *Log) ReadFrom(ctx context.Context, from, to Position, account string, most int64, each func(*api.FlowRecord) error) (Position, error) {
	at := Position{}
	for _, day := range slices.Sorted(maps.Keys(to)) {
		at[day] = from[day]
		if most <= 0 || from[day] >= to[day] {
			continue
		}
		n, err := l.readDay(ctx, day, from[day], min(to[day], from[day]+most), account, each)
		if err != nil {
			return nil, err
		}
		at[day] += n
		most -= n
	}
	return at, nil
}

// readDay reads whole lines; the last one may end behind the bound. A file that is gone counts as read.
func (l *Log) readDay(ctx context.Context, day string, from, to int64, account string, each func(*api.FlowRecord) error) (int64, error) {
	f, err := os.Open(l.path(day))
	if errors.Is(err, fs.ErrNotExist) {
		return to - from, nil
	}
	if err != nil {
		return 0, fmt.Errorf("flow log: %w", err)
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return 0, fmt.Errorf("flow log: %w", err)
	}
	r := bufio.NewReaderSize(f, 2*MaxRecord)
	var n int64
	for from+n < to {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		line, err := r.ReadSlice('\n')
		n += int64(len(line))
		switch {
		case errors.Is(err, io.EOF): // not a whole line: a crash cut it short, and the next batch ends it
			return n - int64(len(line)), nil
		case errors.Is(err, bufio.ErrBufferFull):
			continue // not a record of ours
		case err != nil:
			return n, fmt.Errorf("flow log: read %s: %w", day, err)
		}
		if err := visible(line, account, each); err != nil {
			return n, err
		}
	}
	return n, nil
}

// visible hands on what an account may see of a line.
func visible(line []byte, account string, each func(*api.FlowRecord) error) error {
	if !bytes.Contains(line, []byte(account)) { // most lines of a mesh are others': they need not be decoded
		return nil
	}
	var e api.FlowEnvelope
	if json.Unmarshal(line, &e) != nil || e.Kind != api.KindOfFlow || account != "" && !slices.Contains(e.Accounts, account) {
		return nil
	}
	_, r, ok := redact(account, e)
	if !ok {
		return nil
	}
	return each(&r)
}
