package flow

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// recover finds segments, sequence, baselines and shipping position, and cuts off a line that was not written whole.
func (l *Log) recover() (*Recovery, error) {
	numbers, err := segmentNumbers(l.cfg.Store)
	if err != nil {
		return nil, err
	}
	var st state
	damaged, err := getJSON(l.cfg.Store, stateName, &st)
	if err != nil {
		return nil, err
	}
	if _, err := getJSON(l.cfg.Store, cursorName, &l.shipped); err != nil {
		return nil, err // sent twice is harmless, so damage is too
	}
	l.shipped.Offset = max(l.shipped.Offset, 0)
	b := &replay{boot: l.cfg.Boot, flows: map[string]api.FlowRecord{}}
	if damaged {
		b.lost++
	}
	from := uint64(0)
	if st.Boot == l.cfg.Boot {
		b.begin(st)
		from = st.Segment
	}
	newest := ""
	for i, number := range numbers {
		content, err := l.load(number, 0)
		if err != nil {
			return nil, err
		}
		whole := bytes.LastIndexByte(content, '\n') + 1
		if whole < len(content) && i == len(numbers)-1 {
			if err := l.cut(number, int64(whole)); err != nil {
				return nil, err
			}
			b.lost++
		}
		content = content[:whole]
		s := segment{number: number, size: int64(whole), records: bytes.Count(content, []byte{'\n'})}
		l.segments = append(l.segments, s)
		l.pending += l.unshipped(s, content)
		newest = bootOf(content, newest)
		if number >= from && (st.Boot == l.cfg.Boot || newest == l.cfg.Boot) {
			b.segment(content)
		}
	}
	return b.result(), l.resume(newest, st)
}

// resume makes the segment that is written to: the newest, unless it is of another boot or from before the state.
func (l *Log) resume(newest string, st state) error {
	number := uint64(1)
	if n := len(l.segments); n > 0 {
		number = l.segments[n-1].number
		if newest != "" && newest != l.cfg.Boot {
			number++
		}
	}
	if st.Boot == l.cfg.Boot {
		number = max(number, st.Segment)
	}
	if n := len(l.segments); n == 0 || l.segments[n-1].number < number {
		l.segments = append(l.segments, segment{number: number})
	}
	// A position beyond the end is of a log that is gone; what is here was not shipped.
	end := l.segments[len(l.segments)-1]
	if l.shipped.Segment > end.number || l.shipped.Segment == end.number && l.shipped.Offset > end.size {
		l.shipped = Position{}
		l.pending = 0
		for _, s := range l.segments {
			l.pending += s.records
		}
	}
	if st.Boot == l.cfg.Boot || newest == l.cfg.Boot {
		return nil
	}
	return l.putJSON(stateName, state{Boot: l.cfg.Boot, Segment: number})
}

func (l *Log) unshipped(s segment, content []byte) int {
	switch {
	case s.number < l.shipped.Segment:
		return 0
	case s.number > l.shipped.Segment || l.shipped.Offset > int64(len(content)):
		return s.records
	}
	return bytes.Count(content[l.shipped.Offset:], []byte{'\n'})
}

func (l *Log) cut(number uint64, size int64) error {
	f, err := l.cfg.Store.Open(segmentName(number))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("cut off damaged record: %w", err)
	}
	return f.Sync()
}

// bootOf is the boot of a segment's newest record that can be read, or before when there is none.
func bootOf(content []byte, before string) string {
	for len(content) > 0 {
		i := bytes.LastIndexByte(content[:len(content)-1], '\n') + 1
		var r struct {
			Boot string `json:"boot"`
		}
		if json.Unmarshal(content[i:], &r) == nil && r.Boot != "" {
			return r.Boot
		}
		content = content[:i]
	}
	return before
}

// replay adds up what records say of flows.
type replay struct {
	boot     string
	flows    map[string]api.FlowRecord
	sequence uint64
	known    bool // sequence is that of the record before
	lost     uint64
}

func (p *replay) begin(st state) {
	p.sequence, p.known = st.Sequence, true
	for _, r := range st.Flows {
		p.flows[r.FlowID] = r
	}
}

func (p *replay) segment(content []byte) {
	for line := range bytes.Lines(content) {
		var r api.FlowRecord
		if json.Unmarshal(line, &r) != nil || r.Boot != p.boot || r.Sequence <= p.sequence && p.known {
			continue
		}
		if p.known {
			p.lost += r.Sequence - p.sequence - 1
		}
		p.sequence, p.known = r.Sequence, true
		if r.FlowID == "" {
			continue
		}
		if before, ok := p.flows[r.FlowID]; ok {
			countsOf(&before).add(countsOf(&r)).put(&r)
			if before.State == api.FlowClosed {
				r.State = api.FlowClosed
			}
		}
		p.flows[r.FlowID] = r
	}
}

func (p *replay) result() *Recovery {
	r := &Recovery{Sequence: p.sequence, Lost: p.lost}
	for _, id := range slices.Sorted(maps.Keys(p.flows)) {
		f := p.flows[id]
		f.Sequence, f.Lost = 0, 0
		r.Baselines = append(r.Baselines, f)
	}
	return r
}
