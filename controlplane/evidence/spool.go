package evidence

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
)

// spool is a file of lines of one boot that are not in their place yet: segments that were not settled, and lines without a seal.
type spool struct {
	boot   string
	path   string
	file   *os.File
	size   int64  // bytes that are whole and synced
	marks  int64  // of what is noted of lines that the server did not take
	last   uint64 // sequence number of the newest line that ever came
	number uint64 // of the newest good seal that came
	tail   tail
	used   time.Time // when lines of it came
	over   bool      // it is not remembered, and what came of it is kept: nothing new comes any more
}

// maxSpools bounds the boots of a node whose lines wait for seals. A node seals what a boot left before it goes on with the next one.
const maxSpools = 4

// tail is the lines that have no seal yet.
type tail struct {
	from        int64 // where they begin in the file
	sum         hash.Hash
	records     int
	first, last uint64
	refused     refused // of these lines
}

func newTail(from int64) tail { return tail{from: from, sum: sha256.New()} }

// segment is lines with their seal.
type segment struct {
	sp       *spool
	from, to int64 // in the file
	seal     *seal.Seal
	line     []byte // the seal's, without newline
	flaw     error  // why it is no good seal
	tail     tail   // its lines
}

func (g *segment) hash() string { return hex.EncodeToString(g.tail.sum.Sum(nil)) }

// draft is what a batch adds to a spool. Nothing counts before commit.
type draft struct {
	*spool
	b      *book
	text   bytes.Buffer
	next   spool // what the spool will be
	sealed []*segment
	replay bool    // what is read stands in the file already
	others int64   // bytes of the node's other spools
	marked refused // of the lines that are added
}

// open gives the spool of a boot, reading what it holds.
func (b *book) open(boot string) (*spool, error) {
	if sp := b.spools[boot]; sp != nil {
		return sp, nil
	}
	known, remembered := b.state.Boots[boot]
	sp := &spool{boot: boot, path: b.spoolPath(boot), last: known.Last, number: known.Number, tail: newTail(0)}
	if !remembered && len(b.state.Boots) >= keptBoots {
		_, err := os.Stat(filepath.Join(b.segmentsDir(), boot))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("evidence: %w", err)
		}
		if sp.over = err == nil; sp.over {
			sp.last, sp.number = math.MaxUint64, math.MaxUint64
		}
	}
	if err := os.MkdirAll(filepath.Dir(sp.path), 0o700); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	f, err := os.OpenFile(sp.path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	sp.file = f
	if err := b.replay(sp); err != nil {
		return nil, errors.Join(fmt.Errorf("evidence: read %s: %w", sp.path, err), f.Close())
	}
	b.spools[boot] = sp
	return sp, nil
}

// makeRoom closes the spools that were used least, until those of the boots that come have their place. Nothing is ready to be settled.
func (b *book) makeRoom(boots map[string]bool) error {
	idle := slices.DeleteFunc(slices.Collect(maps.Values(b.spools)), func(sp *spool) bool { return boots[sp.boot] })
	slices.SortFunc(idle, func(x, y *spool) int { return cmp.Or(x.used.Compare(y.used), cmp.Compare(x.boot, y.boot)) })
	for _, sp := range idle[:max(0, min(len(idle), len(idle)+len(boots)-maxSpools))] {
		if err := b.drop(sp); err != nil {
			return fmt.Errorf("evidence: %w", err)
		}
	}
	return nil
}

// drop gives up a spool. Lines in it are kept aside: their seal, should it still come, finds them missing.
func (b *book) drop(sp *spool) error {
	if sp.size > 0 {
		g := &segment{sp: sp, to: sp.size, tail: sp.tail}
		f := Finding{Node: b.node, Boot: sp.boot, At: b.s.cfg.Now().UTC(),
			Reason: fmt.Sprintf("%d lines have no seal, and lines of %d other boots came after them", sp.tail.records, maxSpools)}
		if err := b.keepAside(&judged{f, g}); err != nil {
			return err
		}
		b.found(f)
	}
	delete(b.spools, sp.boot)
	if err := os.Remove(sp.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, sp.close())
	}
	return errors.Join(sp.remark(nil), sp.close())
}

func (sp *spool) close() error { return sp.file.Close() }

// replay reads a spool as its lines came, and takes back what a crash cut short.
func (b *book) replay(sp *spool) error {
	d := b.draft(sp)
	d.replay = true
	whole := int64(0)
	marked, err := sp.marked()
	if err != nil {
		return err
	}
	if err := eachLine(sp.file, func(line []byte) error {
		whole += int64(len(line)) + 1
		_, sealed, _ := seal.Parse(line)
		seq := uint64(0)
		if !sealed {
			seq = Sequence(line)
		}
		if d.settled(line, sealed, seq) {
			d.pass(len(line) + 1)
			return nil
		}
		return d.add(Line{Boot: sp.boot, Seq: seq, Seal: sealed, Data: line, Refused: !sealed && marked.has(seq)})
	}); err != nil {
		return err
	}
	if err := sp.file.Truncate(whole); err != nil { // what a crash cut short
		return err
	}
	d.adopt(whole)
	return sp.remark(d.marked)
}

// Sequence is the number of a line: of a flow record, or of a query's, which stands one deeper.
func Sequence(line []byte) uint64 {
	type numbered struct {
		Sequence uint64 `json:"sequence"`
	}
	var l struct {
		numbered
		Query numbered `json:"query"`
	}
	if json.Unmarshal(line, &l) != nil {
		return 0
	}
	return max(l.Sequence, l.Query.Sequence)
}

// settled tells whether a line of a spool is in its place already: the crash came before the spool was emptied.
func (d *draft) settled(line []byte, sealed bool, seq uint64) bool {
	if !sealed {
		return seq <= d.b.state.Boots[d.boot].Last
	}
	g, _, err := seal.Parse(line)
	return err == nil && g.Number <= d.b.state.Boots[d.boot].Number
}

// pass leaves out bytes that the file has already.
func (d *draft) pass(n int) {
	d.next.size += int64(n)
	d.next.tail = newTail(d.next.size)
}

func (b *book) draft(sp *spool) *draft {
	d := &draft{spool: sp, b: b, next: *sp}
	d.next.used = b.s.cfg.Now()
	d.next.tail.refused = slices.Clone(sp.tail.refused)
	for _, o := range b.spools {
		if o != sp {
			d.others += o.size
		}
	}
	if c, ok := sp.tail.sum.(hash.Cloner); ok {
		if sum, err := c.Clone(); err == nil {
			d.next.tail.sum = sum
		}
	}
	return d
}

// add puts a line behind the others, unless it came before.
func (d *draft) add(l Line) error {
	if l.Seal {
		return d.addSeal(l.Data)
	}
	t := &d.next.tail
	if l.Seq <= d.next.last || !d.replay && d.others+d.next.size-t.from+int64(len(l.Data)) >= maxUnsealed {
		return nil
	}
	d.put(l.Data)
	if t.records == 0 {
		t.first = l.Seq
	}
	t.records, t.last, d.next.last = t.records+1, l.Seq, l.Seq
	t.sum.Write(l.Data)
	t.sum.Write([]byte{'\n'})
	if l.Refused {
		t.refused, d.marked = t.refused.add(l.Seq), d.marked.add(l.Seq)
	}
	return nil
}

func (d *draft) put(line []byte) {
	if !d.replay {
		d.text.Write(line)
		d.text.WriteByte('\n')
	}
	d.next.size += int64(len(line)) + 1
}

// addSeal closes the lines before it. A seal that came before closes nothing.
func (d *draft) addSeal(line []byte) error {
	g := &segment{sp: d.spool, from: d.next.tail.from, line: bytes.Clone(line)}
	g.seal, _, g.flaw = seal.Parse(line)
	if g.flaw == nil {
		g.flaw = d.b.check(d.boot, g.seal)
	}
	if errors.Is(g.flaw, ErrUnknownKey) && !d.replay {
		return g.flaw
	}
	if g.flaw == nil && g.seal.Number <= d.next.number {
		same, err := d.cameBefore(g)
		if same || err != nil {
			return err
		}
		g.flaw = fmt.Errorf("another segment has the number %d already", g.seal.Number)
		if d.over {
			g.flaw = fmt.Errorf("%d boots came after its own, and what is kept of that has no such segment", keptBoots)
		}
	}
	d.put(line)
	g.to, g.tail = d.next.size, d.next.tail
	d.next.tail = newTail(d.next.size)
	if g.flaw == nil { // what it does not speak of was none of the node's lines, whatever numbers it had
		d.next.number, d.next.last = g.seal.Number, g.seal.Last
	}
	d.sealed = append(d.sealed, g)
	return nil
}

// cameBefore looks for a seal among those that came.
func (d *draft) cameBefore(g *segment) (same bool, err error) {
	sum := seal.HashLine(g.line)
	for _, o := range slices.Concat(d.b.ready, d.sealed) {
		if o.sp.boot == d.boot && o.flaw == nil && o.seal.Number == g.seal.Number {
			return seal.HashLine(o.line) == sum, nil
		}
	}
	if known := d.b.state.Boots[d.boot]; known.Number == g.seal.Number {
		return known.Hash == sum, nil
	}
	return d.b.holds(hourFile(d.boot, g.seal.End), g.seal.Number, sum)
}

// check judges a seal by itself.
func (b *book) check(boot string, g *seal.Seal) error {
	switch {
	case g.Node != b.node:
		return fmt.Errorf("it is of another node, %s", g.Node)
	case g.Boot != boot:
		return fmt.Errorf("it is of another boot, %s", g.Boot)
	}
	key := b.s.cfg.Key(b.node, g.Key)
	if key == nil {
		return ErrUnknownKey
	}
	if err := g.Check(key); err != nil {
		return err
	}
	l := leaf.OfSeal(b.s.cfg.Now(), g, nil)
	_, err := l.Encode() // what the Merkle log cannot take would be in the way of all that comes after it
	return err
}

// commit writes what was added, or nothing.
func (d *draft) commit() error {
	if d.text.Len() == 0 {
		return nil
	}
	if err := d.mark(d.marked); err != nil {
		return err
	}
	_, err := d.file.WriteAt(d.text.Bytes(), d.size)
	if err == nil {
		err = d.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("evidence: %w", errors.Join(err, d.file.Truncate(d.size), d.unmark()))
	}
	d.next.marks += int64(len(d.marked.text()))
	d.adopt(d.next.size)
	return nil
}

// adopt makes the draft what is.
func (d *draft) adopt(size int64) {
	*d.spool = d.next
	d.spool.size = size
	d.b.ready = append(d.b.ready, d.sealed...)
}

// spool adds lines to the spools of their boots.
func (b *book) spool(lines []Line) error {
	drafts := map[string]*draft{}
	for _, l := range lines {
		d := drafts[l.Boot]
		if d == nil {
			if !goodName(l.Boot) {
				return fmt.Errorf("evidence: %q is no boot id", l.Boot)
			}
			sp, err := b.open(l.Boot)
			if err != nil {
				return err
			}
			d = b.draft(sp)
			drafts[l.Boot] = d
		}
		if err := d.add(l); err != nil {
			return err
		}
	}
	for _, boot := range slices.Sorted(maps.Keys(drafts)) {
		if err := drafts[boot].commit(); err != nil {
			return err
		}
	}
	b.inOrder()
	return nil
}

// empty takes out what is in its place.
func (sp *spool) empty() error {
	if sp.tail.from == 0 {
		return nil
	}
	rest := make([]byte, sp.size-sp.tail.from)
	if _, err := sp.file.ReadAt(rest, sp.tail.from); err != nil {
		return err
	}
	if len(rest) == 0 {
		if err := sp.file.Truncate(0); err != nil { // not synced: what comes back is known to be in its place
			return err
		}
		sp.size, sp.tail.from = 0, 0
		return sp.remark(nil)
	}
	if err := replaceFile(sp.path, rest); err != nil {
		return err
	}
	f, err := os.OpenFile(sp.path, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	_ = sp.file.Close()
	sp.file, sp.size, sp.tail.from = f, int64(len(rest)), 0
	return sp.remark(sp.tail.refused)
}
