package flow

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/culvert-net/culvert/api"
)

// others are lines of another kind than flow records that wait to be written.
type others struct {
	lines  []LineFunc
	answer chan error
}

var (
	errNotOpen = errors.New("append to flow log: it is not open yet")
	errEnded   = errors.New("append to flow log: it is closed")
)

// Append writes lines of another kind than flow records, which share their sequence. They are on the disk when it returns nil, and not in
// the log otherwise; it waits for the disk. Before the log is open it is an error.
func (c *Collector) Append(lines []LineFunc) error {
	select {
	case <-c.ready:
	default:
		return errNotOpen
	}
	o := others{lines, make(chan error, 1)}
	select { // who closes segments writes them, so that no line comes between a seal and the next file
	case c.others <- o:
		return <-o.answer
	case <-c.ended:
		return errEnded
	}
}

// Written says where lines are in the log.
type Written struct {
	Sizes []int    // in bytes
	Last  uint64   // the sequence of the last one
	End   Position // behind them
}

// AppendQueries writes records of DNS questions as Append does; node, boot and sequence are filled in.
func (c *Collector) AppendQueries(records []api.QueryRecord) (w Written, err error) {
	lines := make([]LineFunc, len(records))
	w.Sizes = make([]int, len(records))
	for i, r := range records {
		lines[i] = func(node, boot string, sequence uint64) ([]byte, error) {
			r.Node, r.Boot, r.Sequence = node, boot, sequence
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			err := enc.Encode(api.QueryLine{Query: r})
			w.Sizes[i], w.Last = b.Len(), sequence
			return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), err
		}
	}
	if err := c.Append(lines); err != nil {
		return Written{}, err
	}
	w.End = c.log.End()
	return w, nil
}

// QueriesFrom gives the records of DNS questions of this boot that are in the log from a position on. Before it is open it is an error.
func (c *Collector) QueriesFrom(pos Position, each func(*api.QueryRecord)) error {
	const atOnce = 4096
	c.mu.Lock()
	l := c.log
	c.mu.Unlock()
	if l == nil {
		return errNotOpen
	}
	for {
		lines, next, err := l.Entries(pos, atOnce)
		if err != nil {
			return fmt.Errorf("read flow log: %w", err)
		}
		for i := range lines {
			if lines[i].Kind != KindQuery || lines[i].Boot != l.Boot() {
				continue
			}
			var line api.QueryLine
			if json.Unmarshal(lines[i].Raw, &line) == nil { // what is damaged is declared as such
				each(&line.Query)
			}
		}
		if next == pos {
			return nil
		}
		pos = next
	}
}

// Shipped is how far the log has arrived, or was removed; the zero position before it is open.
func (c *Collector) Shipped() Position {
	c.mu.Lock()
	l := c.log
	c.mu.Unlock()
	if l == nil {
		return Position{}
	}
	return l.Shipped()
}

// MaxBytes is how large the log may be.
func (c *Collector) MaxBytes() int64 { return cmp.Or(c.cfg.Log.MaxBytes, defaultMaxBytes) }
