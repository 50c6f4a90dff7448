package flow

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
)

// trimmed is a segment of the disk that was removed before all of it was shipped.
type trimmed struct {
	Segment uint64     `json:"segment"`
	Gaps    []seal.Gap `json:"gaps"`
}

// maxHoles bounds the gaps of one seal that name lines or seals that are gone. Its leaf in the Merkle log repeats them, and has room for some
// 250. The seals after it declare the rest.
const maxHoles = 100

// isHole tells whether a gap names lines or seals; what rows lost with them is said by gaps of their own behind it.
func isHole(g *seal.Gap) bool { return g.Hook == "" && (g.FirstSeal != 0 || g.FirstSequence != 0) }

func holes(gaps []seal.Gap) (n int) {
	for i := range gaps {
		if isHole(&gaps[i]) {
			n++
		}
	}
	return n
}

// split makes parts of what is gone with a segment of the disk that are few enough for one seal. Each begins with a hole.
func split(number uint64, gaps []seal.Gap) (out []trimmed) {
	const most = maxHoles / 2
	for n, i, from := 0, 0, 0; i < len(gaps); i++ {
		if isHole(&gaps[i]) {
			n++
		}
		if i+1 == len(gaps) || n == most && isHole(&gaps[i+1]) {
			out = append(out, trimmed{number, gaps[from : i+1]})
			n, from = 0, i+1
		}
	}
	return out
}

// note notes on the disk that a segment is about to be removed. What could not be noted is not declared: the segment stays.
func (l *Log) note(st *state, flows iter.Seq[api.FlowRecord], number uint64, gaps []seal.Gap) error {
	l.mu.Lock()
	before := len(l.trimmed)
	l.trimmed = append(l.trimmed, split(number, gaps)...)
	l.mu.Unlock()
	err := l.keepState(st, flows)
	if err != nil {
		l.mu.Lock()
		l.trimmed = l.trimmed[:before]
		l.mu.Unlock()
	}
	return err
}

// trim removes the oldest segments until the rest is within the bound. Shipped ones are older than others, so they go first. What is
// lost with one is noted in state.json before: the next seal declares it, also after a crash in between.
func (l *Log) trim(st *state, flows iter.Seq[api.FlowRecord]) error {
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
		unsent, noted := 0, false
		if l.cfg.Shipping && shipped.Segment <= oldest.number {
			lines, gaps, err := l.unsent(oldest, shipped)
			if err != nil {
				return err
			}
			if unsent = lines; len(gaps) > 0 {
				if err := l.note(st, flows, oldest.number, gaps); err != nil {
					return err
				}
				noted = true
			}
		}
		removed := l.cfg.Store.Remove(oldest.name())
		if removed != nil && !noted {
			return removed
		}
		// What is noted as gone is not shipped any more, nor noted again, also where its file could not be removed.
		l.mu.Lock()
		l.segments = l.segments[1:]
		l.lost += uint64(unsent)
		l.allLost += uint64(unsent)
		l.pending -= unsent
		if l.shipped.Segment <= oldest.number {
			l.shipped = Position{Segment: oldest.number + 1}
		}
		l.mu.Unlock()
		if removed != nil {
			return removed
		}
	}
}

// Of the bytes that a log may have so many may wait to be shipped: beyond them it may remove some that do, for it does when a segment ends.
const fullFrom, fullOf int64 = 7, 8

// waiting is how many bytes were not shipped.
func (l *Log) waiting() (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segments {
		switch {
		case s.number > l.shipped.Segment:
			n += s.size
		case s.number == l.shipped.Segment:
			n += s.size - l.shipped.Offset
		}
	}
	return n
}

// full says that lines which were not shipped are removed, or about to be.
func (l *Log) full() error {
	if n := l.waiting(); l.cfg.Shipping && n > l.cfg.MaxBytes/fullOf*fullFrom {
		return fmt.Errorf("%d MiB of flow records wait for the server, of %d that the node keeps: the oldest are removed, and declared: "+
			"mend the way to the server", n>>20, l.cfg.MaxBytes>>20)
	}
	return nil
}

// unsent reads what was not shipped of a segment: how many lines, and what the next seal has to declare.
func (l *Log) unsent(s segment, shipped Position) (lines int, gaps []seal.Gap, err error) {
	if shipped.Segment < s.number {
		shipped = Position{Segment: s.number}
	}
	if l.chain == nil && shipped.Offset == 0 {
		return s.records, nil, nil
	}
	if shipped.Offset == s.size {
		return 0, nil, nil
	}
	var lost []*losing
	size, err := eachLine(l.cfg.Store, s.number, func(raw []byte, end int64) {
		left := end > shipped.Offset
		if left && raw[len(raw)-1] == '\n' {
			lines++
		}
		if l.chain == nil {
			return
		}
		line, ok := parseLine(raw)
		if !ok {
			return
		}
		if n := len(lost); n == 0 || lost[n-1].boot != line.Boot {
			lost = append(lost, &losing{boot: line.Boot})
		}
		lost[len(lost)-1].take(&line, left)
	})
	if err != nil {
		return 0, nil, err
	}
	if shipped.Offset > size {
		return 0, nil, fmt.Errorf("flow log segment %d is shorter than what was shipped of it", s.number)
	}
	if lines == 0 {
		return 0, nil, nil
	}
	for _, g := range lost {
		g.segment() // what is left has its seal elsewhere
		gaps = append(gaps, g.gaps(l.cfg.Boot)...)
	}
	return lines, gaps, nil
}

// eachLine reads a segment line by line, and returns its size. A line is overwritten by the next ones; end is where it ends.
func eachLine(s Store, number uint64, visit func(raw []byte, end int64)) (size int64, err error) {
	b, held := make([]byte, readChunk), 0
	for {
		n, err := s.ReadAt(segmentName(number), b[held:], size)
		if err != nil && !errors.Is(err, io.EOF) {
			return size, err
		}
		size, held = size+int64(n), held+n
		rest, last := b[:held], err != nil
		for len(rest) > 0 {
			end := bytes.IndexByte(rest, '\n') + 1
			if end == 0 && !last {
				break
			}
			if end == 0 {
				end = len(rest)
			}
			visit(rest[:end], size-int64(len(rest)-end))
			rest = rest[end:]
		}
		if last {
			return size, nil
		}
		if held = copy(b, rest); held == len(b) { // a line that is longer
			b = append(b, make([]byte, len(b))...)
		}
	}
}

// losing is what goes with a segment of the disk, of one boot: whole segments of the log, since half of one proves nothing.
type losing struct {
	boot     string
	open     part // lines whose seal was not met yet
	lost     part
	seals    [2]uint64 // first and last number
	declared []seal.Gap
}

// part is a run of lines.
type part struct {
	tally       seal.Tally
	first, last uint64
	records     uint64
	from, to    time.Time
}

func (p *part) until(first, last, records uint64, from, to time.Time) {
	if records > 0 {
		p.first, p.last, p.records = cmp.Or(p.first, first), last, p.records+records
	}
	if p.from.IsZero() {
		p.from = from
	}
	p.to = to
}

// take takes a line; unsent says that it was not shipped whole.
func (g *losing) take(line *Entry, unsent bool) {
	if line.Kind != KindSeal {
		g.open.until(line.Sequence, line.Sequence, 1, line.End, line.End)
		if r, ok := parseFlow(line.Raw); ok {
			g.open.tally.Record(&r)
		}
		return
	}
	s, _, err := seal.Parse(line.Raw)
	if err != nil || !unsent {
		g.open = part{}
		return
	}
	g.seals = [2]uint64{cmp.Or(g.seals[0], s.Number), s.Number}
	for _, d := range s.Declared {
		if d.Hook == "" || d.Cause == seal.CauseTrimmed {
			g.declared = append(g.declared, d)
		} else {
			g.open.tally.Declare(d)
		}
	}
	g.open.until(0, 0, 0, s.Start, s.End)
	g.segment()
}

// segment loses what is open.
func (g *losing) segment() {
	p := &g.open
	if p.to.IsZero() {
		return
	}
	g.lost.until(p.first, p.last, p.records, p.from, p.to)
	for row := range p.tally.Sums() {
		g.lost.tally.Add(row, p.tally.Told(row))
	}
	g.open = part{}
}

// gaps are what a seal of this boot has to declare.
func (g *losing) gaps(boot string) []seal.Gap {
	if g.lost.to.IsZero() {
		return nil
	}
	of := g.boot
	if of == boot {
		of = ""
	}
	out := []seal.Gap{{
		Cause: seal.CauseTrimmed, Boot: of, Records: g.lost.records, FirstSequence: g.lost.first, LastSequence: g.lost.last,
		FirstSeal: g.seals[0], LastSeal: g.seals[1], From: g.lost.from, To: g.lost.to,
	}}
	out = append(out, trimmedRows(&g.lost.tally, of, g.seals[0], g.seals[1])...)
	for _, d := range g.declared {
		d.Boot = cmp.Or(d.Boot, of)
		out = append(out, d)
	}
	return out
}

// joined makes one of gaps whose seals follow each other: while nothing is shipped for long, one gap after the other is trimmed with the
// seal that declared it.
func joined(gaps []seal.Gap) []seal.Gap {
	var spans, out []seal.Gap
	for _, g := range gaps {
		if g.Cause == seal.CauseTrimmed && g.FirstSeal > 0 && g.Hook == "" {
			spans = append(spans, g)
		} else if g.Cause != seal.CauseTrimmed || g.FirstSeal == 0 {
			out = append(out, g)
		}
	}
	slices.SortStableFunc(spans, func(a, b seal.Gap) int {
		return cmp.Or(cmp.Compare(a.Boot, b.Boot), cmp.Compare(a.FirstSeal, b.FirstSeal))
	})
	var merged []seal.Gap
	for _, g := range spans {
		if n := len(merged); n > 0 && merged[n-1].Boot == g.Boot && merged[n-1].LastSeal+1 == g.FirstSeal {
			m := &merged[n-1]
			m.FirstSequence, m.LastSequence = cmp.Or(m.FirstSequence, g.FirstSequence), cmp.Or(g.LastSequence, m.LastSequence)
			m.LastSeal, m.To, m.Records = g.LastSeal, g.To, m.Records+g.Records
			continue
		}
		merged = append(merged, g)
	}
	for i := range merged {
		m := &merged[i]
		out = append(out, *m)
		var rows seal.Tally
		for _, g := range gaps {
			if g.Cause == seal.CauseTrimmed && g.Hook != "" && g.Boot == m.Boot && g.FirstSeal >= m.FirstSeal && g.LastSeal <= m.LastSeal {
				rows.Add(seal.Row{ENI: g.ENI, Hook: g.Hook, Reason: g.Reason}, seal.Count{Packets: g.Packets, Bytes: g.Bytes})
			}
		}
		out = append(out, trimmedRows(&rows, m.Boot, m.FirstSeal, m.LastSeal)...)
	}
	return out
}

func trimmedRows(t *seal.Tally, boot string, first, last uint64) (out []seal.Gap) {
	for _, row := range seal.SortedRows(t.Sums()) {
		c := t.Told(row)
		out = append(out, seal.Gap{
			Cause: seal.CauseTrimmed, Boot: boot, ENI: row.ENI, Hook: row.Hook, Reason: row.Reason, Packets: c.Packets, Bytes: c.Bytes,
			FirstSeal: first, LastSeal: last,
		})
	}
	return out
}
