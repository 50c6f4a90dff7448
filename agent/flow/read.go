package flow

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"

	"github.com/culvert-net/culvert/api"
)

const (
	readChunk = 1 << 20
	// MaxQuery is how many records a query returns at most.
	MaxQuery = 100_000
)

// Read returns the flow records among the up to limit lines from pos on, and the position after those. A position whose segment is gone
// goes on with the oldest that is there. Damaged lines are passed over. The same position: the end.
func (l *Log) Read(pos Position, limit int) ([]api.FlowRecord, Position, error) {
	lines, next, err := l.Entries(pos, limit)
	var out []api.FlowRecord
	for i := range lines {
		if r, ok := parseFlow(lines[i].Raw); ok {
			out = append(out, r)
		}
	}
	return out, next, err
}

// Entries returns up to limit lines of all kinds from pos on, as Read does.
func (l *Log) Entries(pos Position, limit int) ([]Entry, Position, error) {
	var out []Entry
	for len(out) < limit {
		var ok bool
		var size int64
		if pos, size, ok = l.seek(pos); !ok {
			return out, pos, nil
		}
		lines, next, err := l.readSegment(pos, size, limit-len(out))
		if errors.Is(err, fs.ErrNotExist) {
			l.mu.Lock()
			gone := l.segments[0].number > pos.Segment
			l.mu.Unlock()
			if gone { // removed between the two steps
				continue
			}
		}
		if err != nil {
			return out, pos, err
		}
		out, pos = append(out, lines...), next
	}
	return out, pos, nil
}

// seek moves a position to where the next bytes are, and tells how far they go; not ok: there are none.
func (l *Log) seek(pos Position) (Position, int64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segments {
		if s.number < pos.Segment || s.number == pos.Segment && s.size <= pos.Offset {
			continue
		}
		if s.number > pos.Segment {
			if s.size == 0 {
				continue
			}
			pos = Position{Segment: s.number}
		}
		return pos, s.size, true
	}
	return pos, 0, false
}

// readSegment reads whole lines, at least one.
func (l *Log) readSegment(pos Position, size int64, limit int) ([]Entry, Position, error) {
	for chunk := int64(readChunk); ; chunk *= 2 {
		b := make([]byte, min(chunk, size-pos.Offset))
		n, err := l.cfg.Store.ReadAt(segmentName(pos.Segment), b, pos.Offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, pos, err
		}
		end := bytes.LastIndexByte(b[:n], '\n') + 1
		if end == 0 {
			if n < len(b) || int64(n) == size-pos.Offset {
				return nil, Position{pos.Segment, size}, nil // a file shorter than it was, or no line: nothing to be had
			}
			continue
		}
		var out []Entry
		for raw := range bytes.Lines(b[:end]) {
			if len(out) == limit {
				break
			}
			pos.Offset += int64(len(raw))
			if line, ok := parseLine(raw); ok {
				out = append(out, line)
			}
		}
		return out, pos, nil
	}
}

// Query returns the newest records in a store that the filter selects, oldest first: f.Limit of them, at most [MaxQuery].
// It needs no agent.
func Query(ctx context.Context, s Store, f api.FlowFilter) ([]api.FlowRecord, error) {
	limit := f.Limit
	if limit <= 0 || limit > MaxQuery {
		limit = MaxQuery
	}
	numbers, err := segmentNumbers(s)
	if err != nil {
		return nil, err
	}
	var out []api.FlowRecord // newest first
	for _, number := range slices.Backward(numbers) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		content, err := load(s, number, 0)
		if errors.Is(err, fs.ErrNotExist) {
			break // removed meanwhile, and so are older ones
		}
		if err != nil {
			return nil, err
		}
		var found []api.FlowRecord
		for line := range bytes.Lines(content) {
			if r, ok := parseFlow(line); ok && f.Match(&r) {
				found = append(found, r)
			}
		}
		slices.Reverse(found)
		out = append(out, found...)
		if len(out) >= limit {
			out = out[:limit]
			break
		}
	}
	slices.Reverse(out)
	return out, nil
}
