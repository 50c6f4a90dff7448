package seal

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// Row is what records and counters are compared by. Of refused packets Hook is where they entered; of forwarded ones it is [Out],
// from the interface, or [In], to it: a record tells both directions of a flow, each of which entered somewhere else.
type Row struct{ ENI, Hook, Reason string }

// Directions of forwarded packets.
const (
	Out = "out"
	In  = "in"
)

const (
	forwarded    = "FORWARDED"
	hookWorkload = "workload"
	hookHost     = "host"
)

// unrecorded are the reasons of packets that leave no record: entry, answered by a program, the node's own, not IP.
var unrecorded = map[string]bool{"NONE": true, "ANSWERED": true, "NODES_OWN": true, "NOT_IP": true}

// RowOf is the row that a counter of the datapath belongs to; false: its packets leave no record. What enters at the host is the
// node's own: queries' answers and probes of targets, of which no interface's records tell all.
func RowOf(eni, hook, reason string) (Row, bool) {
	switch {
	case hook == hookHost || unrecorded[reason]:
		return Row{}, false
	case reason != forwarded:
		return Row{eni, hook, reason}, true
	case hook == hookWorkload:
		return Row{eni, Out, reason}, true
	}
	return Row{eni, In, reason}, true
}

// Plus is c + d.
func (c Count) Plus(d Count) Count { return Count{c.Packets + d.Packets, c.Bytes + d.Bytes} }

// Minus is c - d, and 0 where d is more.
func (c Count) Minus(d Count) Count {
	return Count{c.Packets - min(c.Packets, d.Packets), c.Bytes - min(c.Bytes, d.Bytes)}
}

// Least is the smaller of each.
func (c Count) Least(d Count) Count { return Count{min(c.Packets, d.Packets), min(c.Bytes, d.Bytes)} }

// Zero says that nothing was counted.
func (c Count) Zero() bool { return c == Count{} }

// Sum is what one boot's lines tell of one row.
type Sum struct {
	Told Count `json:"told"` // by records, and declared as lost
	Over Count `json:"over"` // of that, declared as told too much
	// Doubt is how much less it may be: lines before the first that is seen told at most what was counted up to the first full seal, and
	// its slack less at least.
	Doubt Count `json:"doubt,omitzero"`
}

// Tally adds up what the lines of one boot tell, and compares it with the counters of its seals. The zero value begins with the
// boot; use it in the order of the log. It is not safe for concurrent use.
type Tally struct {
	// Partial: lines of this boot before the first that is seen are not here. The first position of each row is believed then.
	Partial bool

	sums  map[Row]Sum
	seen  map[Row]bool       // compared once
	to    map[Position]Count // of the last full seal, by the position's name
	holes bool               // seals are gone: positions may have moved without a word

	number   uint64 // of the last seal
	expected []Gap  // of segments that were trimmed
}

// name of a position: what identifies it.
func (p Position) name() Position { return Position{ENI: p.ENI, Hook: p.Hook, Reason: p.Reason} }

func (t *Tally) ready() {
	if t.sums == nil {
		t.sums, t.seen, t.to = map[Row]Sum{}, map[Row]bool{}, map[Position]Count{}
	}
}

// Add adds packets that lines tell of a row.
func (t *Tally) Add(r Row, c Count) {
	if c.Zero() {
		return
	}
	t.ready()
	s := t.sums[r]
	s.Told = s.Told.Plus(c)
	t.sums[r] = s
}

// Record adds a flow record.
func (t *Tally) Record(r *api.FlowRecord) {
	there, back := Count{r.Packets, r.Bytes}, Count{r.ReplyPackets, r.ReplyBytes}
	if r.Action == api.ActionReject {
		if r.Stage != hookHost {
			t.Add(Row{r.Interface, r.Stage, r.Reason}, there)
		}
		return
	}
	switch r.Stage {
	case hookWorkload:
		t.Add(Row{r.Interface, Out, forwarded}, there)
		if r.ReplyStage != hookHost {
			t.Add(Row{r.Interface, In, forwarded}, back)
		}
	case "tunnel", "local":
		t.Add(Row{r.Interface, In, forwarded}, there)
		t.Add(Row{r.Interface, Out, forwarded}, back)
	}
}

// Line adds a line that is no seal. Lines that are no flow records tell nothing of packets.
func (t *Tally) Line(line []byte) error {
	if IsQuery(line) {
		return nil
	}
	var r api.FlowRecord
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("flow record: %w", err)
	}
	t.Record(&r)
	return nil
}

// IsQuery says whether a line is the record of a DNS query.
func IsQuery(line []byte) bool { return bytes.HasPrefix(line, []byte(`{"query":`)) }

// Expect takes all gaps about this boot before the first line: what was trimmed is declared later than it is missed.
func (t *Tally) Expect(gaps ...Gap) {
	for _, g := range gaps {
		if g.trimmed() && g.Hook != "" {
			t.expected = append(t.expected, g)
		}
	}
}

// trimmed says that whole segments are gone.
func (g *Gap) trimmed() bool { return g.Cause == CauseTrimmed && g.FirstSeal > 0 }

// jump goes on with a seal before which others may be gone.
func (t *Tally) jump(to uint64) {
	from := t.number
	t.number = to
	if to == from+1 || from == 0 && t.Partial {
		return
	}
	t.holes = true
	for _, g := range t.expected {
		if g.FirstSeal > from && g.FirstSeal < to {
			t.Add(Row{g.ENI, g.Hook, g.Reason}, Count{g.Packets, g.Bytes})
		}
	}
}

// Declare adds what a seal declares, but for segments that were trimmed.
func (t *Tally) Declare(gaps ...Gap) {
	for _, g := range gaps {
		if g.Boot != "" || g.trimmed() {
			continue
		}
		if g.Cause == CauseDamaged && g.Hook == "" && g.FirstSequence == 0 {
			t.ready()
			t.Partial = true
			clear(t.sums)
			clear(t.seen)
			t.holes = true
		}
		r, c := Row{g.ENI, g.Hook, g.Reason}, Count{g.Packets, g.Bytes}
		switch {
		case g.Hook == "":
		case g.Cause == CauseOver:
			t.ready()
			s := t.sums[r]
			s.Over = s.Over.Plus(c)
			t.sums[r] = s
		default:
			t.Add(r, c)
		}
	}
}

// Seal compares a seal with the lines before it, which were added, and adds what it declares. The errors name what does not fit.
func (t *Tally) Seal(s *Seal) []error {
	t.ready()
	t.jump(s.Number)
	t.Declare(s.Declared...)
	if !s.Full {
		return nil
	}
	var errs []error
	for i := range s.Counters {
		p := &s.Counters[i]
		if last := t.to[p.name()]; p.From != last && !t.holes && !(t.Partial && last.Zero()) {
			errs = append(errs, fmt.Errorf("the counter of %s begins at %s, the seal before left it at %s", p.name().text(), p.From, last))
		}
		if p.From.Least(p.To) != p.From {
			errs = append(errs, fmt.Errorf("the counter of %s goes back from %s to %s", p.name().text(), p.From, p.To))
		}
		t.late(p)
	}
	t.holes = false
	rows, gone := t.move(s.Counters)
	for _, r := range slices.SortedFunc(maps.Keys(rows), compareRows) {
		if err := t.compare(r, rows[r]); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, t.invented(rows)...)
	t.leave(gone)
	return errs
}

// late believes where a counter began that did not move since the lines that are seen begin, and whose row was compared by another one.
func (t *Tally) late(p *Position) {
	if _, known := t.to[p.name()]; known || !t.Partial {
		return
	}
	if row, ok := RowOf(p.ENI, p.Hook, p.Reason); ok && t.seen[row] {
		t.Add(row, p.From)
	}
}

// invented names the rows of which lines tell more than was ever counted, though no counter has moved.
func (t *Tally) invented(moved map[Row]bounds) (errs []error) {
	for _, r := range SortedRows(t.sums) {
		if _, was := moved[r]; was || t.Partial && !t.seen[r] {
			continue
		}
		told, to := t.Told(r).Minus(t.sums[r].Doubt), t.at(r)
		if told.Packets > to.Packets || told.Bytes > to.Bytes {
			errs = append(errs, fmt.Errorf("of %s records and declared losses tell %s, counters only %s", r.text(), told, to))
		}
	}
	return errs
}

// leave forgets the rows of positions that were final.
func (t *Tally) leave(gone []Position) {
	for _, p := range gone {
		delete(t.to, p)
	}
	for _, p := range gone {
		if r, ok := RowOf(p.ENI, p.Hook, p.Reason); ok && t.at(r).Zero() {
			t.Forget(r)
		}
	}
}

// bounds of what lines tell of a row.
type bounds struct{ least, most Count }

// move takes the positions of a full seal. Rows are those that they belong to; of a row some of whose positions have not moved
// those are where they were.
func (t *Tally) move(positions []Position) (rows map[Row]bounds, gone []Position) {
	slack := map[Row]Count{}
	for i := range positions {
		p := &positions[i]
		t.to[p.name()] = p.To
		if p.Folded {
			gone = append(gone, p.name())
		}
		if r, ok := RowOf(p.ENI, p.Hook, p.Reason); ok {
			slack[r] = slack[r].Plus(p.Slack)
		}
	}
	rows = make(map[Row]bounds, len(slack))
	for r, s := range slack {
		to := t.at(r)
		rows[r] = bounds{to.Minus(s), to}
	}
	return rows, gone
}

// at is where the counters of a row are.
func (t *Tally) at(r Row) (c Count) {
	if r.Reason != forwarded {
		return t.to[Position{ENI: r.ENI, Hook: r.Hook, Reason: r.Reason}]
	}
	hooks := []string{hookWorkload}
	if r.Hook == In {
		hooks = []string{"tunnel", "local"}
	}
	for _, h := range hooks {
		c = c.Plus(t.to[Position{ENI: r.ENI, Hook: h, Reason: r.Reason}])
	}
	return c
}

func (t *Tally) compare(r Row, b bounds) error {
	most, s := t.Told(r), t.sums[r]
	if t.Partial && !t.seen[r] {
		t.seen[r] = true
		s.Told = s.Told.Plus(b.most.Minus(most))
		s.Over = s.Over.Plus(most.Minus(b.most))
		s.Doubt = b.most.Minus(b.least)
		t.sums[r] = s
		return nil
	}
	t.seen[r] = true
	if b := b.least; most.Packets < b.Packets || most.Bytes < b.Bytes {
		return fmt.Errorf("of %s records and declared losses tell %s, counters at least %s", r.text(), most, b)
	}
	least := most.Minus(s.Doubt)
	if least.Packets > b.most.Packets || least.Bytes > b.most.Bytes {
		return fmt.Errorf("of %s records and declared losses tell %s, counters only %s", r.text(), least, b.most)
	}
	if !s.Doubt.Zero() { // what would not fit is ruled out
		s.Over = s.Over.Plus(most.Minus(b.most))
		s.Doubt = most.Least(b.most).Minus(least.Plus(b.least.Minus(least)))
		t.sums[r] = s
	}
	return nil
}

// Told is what records and declared losses tell of a row.
func (t *Tally) Told(r Row) Count {
	s := t.sums[r]
	return s.Told.Minus(s.Over)
}

// Sums are a copy of what was added up; [Tally.Restore] takes it.
func (t *Tally) Sums() map[Row]Sum { return maps.Clone(t.sums) }

// Restore begins from sums of before.
func (t *Tally) Restore(sums map[Row]Sum) {
	t.ready()
	t.sums = maps.Clone(sums)
	if t.sums == nil {
		t.sums = map[Row]Sum{}
	}
}

// Forget forgets a row of an interface that is gone.
func (t *Tally) Forget(r Row) {
	delete(t.sums, r)
	delete(t.seen, r)
}

// SortedRows are the rows of sums.
func SortedRows(sums map[Row]Sum) []Row { return slices.SortedFunc(maps.Keys(sums), compareRows) }

// Short is what lines tell of a row less than least, over what they tell more than most.
func (t *Tally) Short(r Row, least, most Count) (short, over Count) {
	told := t.Told(r)
	return least.Minus(told), told.Minus(most)
}

func compareRows(a, b Row) int {
	return cmp.Or(cmp.Compare(a.ENI, b.ENI), cmp.Compare(a.Hook, b.Hook), cmp.Compare(a.Reason, b.Reason))
}

func (r Row) text() string {
	return fmt.Sprintf("%s %s %s", cmp.Or(r.ENI, "no interface"), r.Hook, r.Reason)
}

func (p Position) text() string { return Row{p.ENI, p.Hook, p.Reason}.text() }

// String is the count as messages tell it.
func (c Count) String() string { return fmt.Sprintf("%d packets of %d bytes", c.Packets, c.Bytes) }
