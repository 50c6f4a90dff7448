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
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/culvert-net/culvert/api"
)

// DefaultLimit is how many records a query without a limit gives at most, the newest.
const DefaultLimit = 1000

// MaxLimit bounds what one query may ask for.
const MaxLimit = 1_000_000

// idleLines is after how many lines a reader of files looks up: some milliseconds.
const idleLines = 4096

// stored is a record with its place, so that equal times keep their order.
type stored struct {
	e     api.FlowEnvelope
	order int
}

// Query calls each for the newest q.Limit records that match, oldest first; with q.Follow it goes on with new ones until
// ctx ends or each fails. An empty account sees every record. idle is called now and then while files are read, whenever a
// follower has caught up, and at every tick of the caller's choice through wake.
func (l *Log) Query(ctx context.Context, account string, q api.FlowQuery, each func(api.FlowEnvelope) error,
	idle func() error, wake <-chan struct{}) error {
	return l.read(ctx, q, sieve{wordsOf(account, q.FlowFilter), shower(account, q)}, each, idle, wake)
}

// sieve selects lines: only those with all the words are decoded, and show decides and gives what the reader may see.
type sieve struct {
	words [][]byte
	show  func(api.FlowEnvelope) (api.FlowEnvelope, bool)
}

// read is Query with a sieve; of q it looks at the times, Limit and Follow.
func (l *Log) read(ctx context.Context, q api.FlowQuery, by sieve, each func(api.FlowEnvelope) error, idle func() error,
	wake <-chan struct{}) error {
	limit := min(q.Limit, MaxLimit)
	if limit <= 0 {
		limit = DefaultLimit
	}
	var r *reader
	var bell chan struct{}
	if q.Follow {
		q.Until = time.Time{}
		bell, r = l.subscribe()
		defer l.unsubscribe(bell)
	}
	sent := map[source]*spans{} // what the files gave, so that the live part does not give it again
	found, err := l.newest(q, limit, by.words, by.show, idle)
	if err != nil {
		return err
	}
	for _, s := range found {
		k := source{s.e.Node, s.e.Boot}
		if sent[k] == nil {
			sent[k] = &spans{}
		}
		sent[k].add(s.e.Seq)
		if err := each(s.e); err != nil {
			return err
		}
	}
	if !q.Follow {
		return nil
	}
	return l.follow(ctx, r, bell, wake, idle, func(e api.FlowEnvelope) error {
		if s := sent[source{e.Node, e.Boot}]; s != nil && s.has(e.Seq) {
			return nil
		}
		if e, ok := by.show(e); ok {
			return each(e)
		}
		return nil
	})
}

func (l *Log) follow(ctx context.Context, r *reader, bell, wake <-chan struct{}, idle func() error,
	each func(api.FlowEnvelope) error) error {
	for {
		l.mu.Lock()
		batch, lost := r.pending, r.lost
		r.pending = nil
		l.mu.Unlock()
		for _, e := range batch {
			if err := each(e); err != nil {
				return err
			}
		}
		if lost > 0 {
			return ErrBehind
		}
		if err := idle(); err != nil {
			return err
		}
		select {
		case <-bell:
		case <-wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// newest reads the files of the days asked for. Only lines with all the words are decoded.
func (l *Log) newest(q api.FlowQuery, limit int, words [][]byte, show func(api.FlowEnvelope) (api.FlowEnvelope, bool),
	idle func() error) ([]stored, error) {
	days, err := l.days()
	if err != nil {
		return nil, err
	}
	var found []stored
	for _, day := range slices.Backward(days) { // newest day first, until enough
		if !q.Until.IsZero() && day > q.Until.UTC().Format(dayFormat) {
			continue
		}
		if !q.Since.IsZero() && day < q.Since.UTC().Format(dayFormat) {
			break
		}
		var today []stored
		lines := 0
		may := func(line []byte) (bool, error) {
			if lines++; lines%idleLines == 0 {
				if err := idle(); err != nil {
					return false, err
				}
			}
			return !slices.ContainsFunc(words, func(w []byte) bool { return !bytes.Contains(line, w) }), nil
		}
		err := l.scan(day, may, func(e api.FlowEnvelope) error {
			if e, ok := show(e); ok {
				today = append(today, stored{e, len(today)})
			}
			if len(today) >= 2*limit+1024 { // keep memory bounded: records come nearly in order
				slices.SortFunc(today, compareEnd)
				today = slices.Delete(today, 0, len(today)-limit)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		slices.SortFunc(today, compareEnd)
		found = append(today, found...)
		if len(found) >= limit {
			break
		}
	}
	return found[max(0, len(found)-limit):], nil
}

// shower decides by the envelope, and by the record where the query asks for more, and gives what the account may see of it. What
// it may not see does not decide: an answer would tell it.
func shower(account string, q api.FlowQuery) func(api.FlowEnvelope) (api.FlowEnvelope, bool) {
	// The envelope's End decides about time here, as documented; the rest is the record's.
	detailed := q.FlowFilter
	detailed.Limit, detailed.Since, detailed.Until = 0, time.Time{}, time.Time{}
	needsRecord := account != "" || detailed != api.FlowFilter{}
	return func(e api.FlowEnvelope) (api.FlowEnvelope, bool) {
		if e.Kind != api.KindOfFlow || account != "" && !slices.Contains(e.Accounts, account) {
			return e, false
		}
		if !q.Since.IsZero() && e.End.Before(q.Since) || !q.Until.IsZero() && !e.End.Before(q.Until) {
			return e, false
		}
		if !needsRecord {
			return e, true
		}
		e, r, ok := redact(account, e)
		return e, ok && detailed.Match(&r)
	}
}

// wordsOf are what the line of a record that is selected has in it. Ids, reasons and addresses need no escapes in JSON.
func wordsOf(account string, f api.FlowFilter) (words [][]byte) {
	for _, s := range []string{account, f.Action, f.Interface, f.Endpoint, f.Connection, f.Service, f.Reason, f.VPC, f.Address} {
		if s != "" {
			words = append(words, strconv.AppendQuote(nil, s))
		}
	}
	return words
}

// scan calls each for every whole line of a day that may be decoded; a nil may takes all.
func (l *Log) scan(day string, may func(line []byte) (bool, error), each func(api.FlowEnvelope) error) error {
	f, err := os.Open(l.path(day))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("flow log: %w", err)
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 2*MaxRecord)
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return nil // what has no newline yet is being written
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue // not a record of ours
		}
		if err != nil {
			return fmt.Errorf("flow log: read %s: %w", day, err)
		}
		if may != nil {
			if ok, err := may(line); err != nil {
				return err
			} else if !ok {
				continue
			}
		}
		var e api.FlowEnvelope
		if json.Unmarshal(line, &e) != nil {
			continue // cut short by a crash
		}
		e.Record = bytes.Clone(e.Record)
		if err := each(e); err != nil {
			return err
		}
	}
}

func (l *Log) subscribe() (chan struct{}, *reader) {
	bell, r := make(chan struct{}, 1), &reader{}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readers[bell] = r
	return bell, r
}

func (l *Log) unsubscribe(bell chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.readers, bell)
}

// tell hands new records to followers; the lock is held.
func (l *Log) tell(fresh []api.FlowEnvelope) {
	if len(fresh) == 0 {
		return
	}
	for bell, r := range l.readers {
		if len(r.pending)+len(fresh) > maxPending {
			r.lost += len(fresh)
		} else {
			r.pending = append(r.pending, fresh...)
		}
		select {
		case bell <- struct{}{}:
		default:
		}
	}
}
