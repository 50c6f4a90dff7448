package flow

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
)

// recover finds segments, sequence, baselines, ledger, last seal and shipping position, and cuts off a line that was not written whole.
func (l *Log) recover() (*Recovery, error) {
	kept := replayed{}
	st, damaged, err := readState(l.cfg.Store, kept.put)
	if err != nil {
		return nil, err
	}
	if l.cfg.Boot, err = bootName(l.cfg, st.Boot); err != nil {
		return nil, err
	}
	if damaged || st.Boot != l.cfg.Boot {
		kept = replayed{}
	}
	for _, t := range st.Trimmed { // declared already
		if err := l.cfg.Store.Remove(segmentName(t.Segment)); err != nil {
			return nil, err
		}
	}
	numbers, err := segmentNumbers(l.cfg.Store)
	if err != nil {
		return nil, err
	}
	if _, err := getJSON(l.cfg.Store, cursorName, &l.shipped); err != nil {
		return nil, err // sent twice is harmless, so damage is too
	}
	l.shipped.Offset = max(l.shipped.Offset, 0)
	b := newReplay(l.cfg, &st, damaged)
	b.flows = kept
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
		if number >= st.Segment {
			b.links(content)
		}
	}
	fresh := b.chained(l, &st)
	return b.result(), l.resume(newest, st, fresh, kept.each)
}

// bootName is how the log names the host's boot: as what is here of it does, of state.json or else of the newest line; logs from before
// there were words have none until the next boot.
func bootName(cfg LogConfig, kept string) (string, error) {
	same := func(name string) bool { return name == cfg.Boot || strings.HasPrefix(name, cfg.Boot+".") }
	if same(kept) {
		return kept, nil
	}
	numbers, err := segmentNumbers(cfg.Store)
	if err != nil {
		return "", err
	}
	for _, number := range slices.Backward(numbers) {
		content, err := load(cfg.Store, number, 0)
		if err != nil {
			return "", err
		}
		if name := bootOf(content, ""); same(name) {
			return name, nil
		} else if name != "" {
			break
		}
	}
	if cfg.Word == nil {
		return cfg.Boot, nil
	}
	return cfg.Boot + "." + cfg.Word(), nil
}

// resume makes the segment that is written to: the newest, unless it is of another boot or from before the state. fresh: the state has to
// say that there are seals from here on.
func (l *Log) resume(newest string, st state, fresh bool, flows iter.Seq[api.FlowRecord]) error {
	l.endBoot()
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
	switch {
	case st.Boot != l.cfg.Boot && newest != l.cfg.Boot:
		err := l.keepState(&state{Boot: l.cfg.Boot, Segment: number}, func(func(api.FlowRecord) bool) {})
		return errors.Join(err, l.closeFile())
	case fresh: // what is here keeps its meaning
		return l.keepState(&st, flows)
	}
	return nil
}

// closeFile lets go of a segment that is not written to any more.
func (l *Log) closeFile() error {
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
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
		if line, ok := parseLine(content[i:]); ok {
			return line.Boot
		}
		content = content[:i]
	}
	return before
}

// replay adds up what lines say of flows, of the ledger, and of the chain of seals.
type replay struct {
	boot     string
	flows    replayed
	sequence uint64
	known    bool // sequence is that of the record before
	lost     uint64
	ledger   *ledger // nil: no seals
	chain    *chain
	trimmed  []trimmed
	met      bool // a seal
}

func newReplay(cfg LogConfig, st *state, damaged bool) *replay {
	p := &replay{boot: cfg.Boot}
	if damaged {
		p.lost++
	}
	if cfg.Key == nil {
		return p
	}
	p.ledger, p.chain, p.trimmed = newLedger(), newChain(st.Chain), st.Trimmed
	p.ledger.rebased = damaged
	return p
}

func (p *replay) begin(st state) {
	p.sequence, p.known = st.Sequence, true
	if p.ledger != nil {
		p.ledger.restore(st.Ledger)
	}
}

func (p *replay) segment(content []byte) {
	for line := range bytes.Lines(content) {
		if kindOf(line) == KindSeal {
			p.seal(line)
			continue
		}
		n, r, ok := p.parse(line)
		if !ok || n.Boot != p.boot || n.Sequence <= p.sequence && p.known {
			continue
		}
		if p.known {
			p.lost += n.Sequence - p.sequence - 1
		}
		p.sequence, p.known = n.Sequence, true
		if r == nil {
			continue
		}
		if p.ledger != nil {
			p.ledger.tally.Record(r)
		}
		p.flows.add(r)
	}
}

// parse reads a numbered line; r is nil where it is no flow record.
func (p *replay) parse(line []byte) (n numbered, r *api.FlowRecord, ok bool) {
	if kindOf(line) == KindQuery {
		l, ok := parseLine(line)
		return numbered{l.Node, l.Boot, l.Sequence, l.End}, nil, ok
	}
	record, ok := parseFlow(line)
	return numbered{record.Node, record.Boot, record.Sequence, record.End}, &record, ok
}

// seal takes a seal of this boot into the ledger.
func (p *replay) seal(line []byte) {
	s, _, err := seal.Parse(line)
	if err == nil && s.Boot == p.boot && p.ledger != nil {
		p.ledger.replay(s)
	}
}

// links follows the chain of seals, of all boots.
func (p *replay) links(content []byte) {
	if p.chain == nil {
		return
	}
	for line := range bytes.Lines(content) {
		l, ok := parseLine(line)
		if !ok {
			continue
		}
		if l.Kind != KindSeal {
			p.chain.begin(l.Boot)
			p.chain.add(l.Sequence, line)
			continue
		}
		s, _, _ := seal.Parse(line)
		p.met = true
		p.chain.closed(s, line)
		p.trimmed = slices.DeleteFunc(p.trimmed, func(t trimmed) bool { return declares(s, &t) })
	}
}

// declares says whether a seal declares that a segment of the disk was removed.
func declares(s *seal.Seal, t *trimmed) bool {
	first := t.Gaps[0]
	return slices.ContainsFunc(s.Declared, func(g seal.Gap) bool {
		return g.Cause == first.Cause && g.Hook == "" && g.FirstSeal <= first.FirstSeal && g.LastSeal >= first.LastSeal &&
			g.FirstSequence <= first.FirstSequence && cmp.Or(g.Boot, s.Boot) == cmp.Or(first.Boot, s.Boot)
	})
}

// chained hands the chain to the log. fresh: there were no seals before. What is in the log then is in no segment, and the next seal says
// so; after a crash in a segment's middle the next seal closes it, and says that something may be missing.
func (p *replay) chained(l *Log, st *state) (fresh bool) {
	if p.chain == nil {
		return false
	}
	l.chain, l.trimmed = p.chain, p.trimmed
	fresh = st.Chain == nil && !p.met
	switch {
	case fresh:
		c := p.chain
		if c.boot == p.boot && c.last > 0 {
			l.owed = append(l.owed, seal.Gap{Cause: seal.CauseUnsealed, FirstSequence: 1, LastSequence: c.last, Records: uint64(c.lines)})
			c.skip(c.last)
		} else {
			*c = *newChain(nil)
		}
		c.boot = p.boot
		p.ledger = newLedger()
	case p.chain.boot == p.boot:
		l.owed = append(l.owed, seal.Gap{Cause: seal.CauseRestart, From: p.chain.sealed, To: l.cfg.Now()})
	}
	if p.ledger.rebased {
		l.owed = append(l.owed, seal.Gap{Cause: seal.CauseDamaged})
	}
	l.open, l.sealed = p.chain.lines, p.chain.sealed
	return fresh
}

func (p *replay) result() *Recovery {
	return &Recovery{Sequence: p.sequence, Lost: p.lost, ledger: p.ledger, flows: p.flows}
}

// replayed is what is recorded of flows, by id.
type replayed map[uint64]*recordedFlow

// recordedFlow is the sum of a flow's records. Of one whose closing record exists only counts matter, and the end.
type recordedFlow struct {
	counts Counts
	end    int64           // of the newest record, nanoseconds of the wall clock; 0 unknown
	rest   *api.FlowRecord // nil: closed
}

// put sets what is recorded of a flow.
func (m replayed) put(r *api.FlowRecord) {
	id, ok := parseID(r.FlowID)
	if !ok {
		return
	}
	f := &recordedFlow{counts: countsOf(r)}
	if !r.End.IsZero() {
		f.end = r.End.UnixNano()
	}
	if r.State != api.FlowClosed && r.State != api.FlowLate {
		rest := *r
		rest.Sequence, rest.Lost = 0, 0
		f.rest = &rest
	}
	m[id] = f
}

// add adds a record.
func (m replayed) add(r *api.FlowRecord) {
	id, ok := parseID(r.FlowID)
	if !ok {
		return
	}
	before := m[id]
	if before != nil {
		before.counts.add(countsOf(r)).put(r)
		if before.rest == nil {
			r.State = api.FlowClosed
		} else {
			r.TCPFlags |= before.rest.TCPFlags
			r.ReplyTCPFlags |= before.rest.ReplyTCPFlags
		}
	}
	m.put(r)
}

// each yields the baselines, sorted by id.
func (m replayed) each(yield func(api.FlowRecord) bool) {
	for _, id := range slices.Sorted(maps.Keys(m)) {
		f := m[id]
		r := api.FlowRecord{FlowID: formatID(id), State: api.FlowClosed}
		if f.end != 0 {
			r.End = time.Unix(0, f.end).UTC()
		}
		if f.rest != nil {
			r = *f.rest
		}
		f.counts.put(&r)
		if !yield(r) {
			return
		}
	}
}

// Baselines are what is recorded of the flows of this boot; for [NewAggregator].
func (r *Recovery) Baselines() []api.FlowRecord { return slices.Collect(r.flows.each) }
