package verify

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
)

const (
	segmentsDir  = "segments/"
	plainSuffix  = ".ndjson"
	packedSuffix = ".ndjson.gz"
	hourFormat   = "2006-01-02T15"
)

// segments judges all segments that are here, and names those that are not.
func (v *verifier) segments() {
	here := map[string]map[string][]string{} // node, boot: hours
	v.walk(strings.TrimSuffix(segmentsDir, "/"), func(p string) {
		parts := strings.Split(p, "/")
		hour, ok := hourOf(path.Base(p))
		if len(parts) != 4 || !ok {
			v.find(Finding{File: p, What: "is no file of segments, which are at segments/NODE/BOOT/HOUR" + plainSuffix})
			return
		}
		if here[parts[1]] == nil {
			here[parts[1]] = map[string][]string{}
		}
		if hours := here[parts[1]][parts[2]]; !slices.Contains(hours, hour) {
			here[parts[1]][parts[2]] = append(hours, hour)
		}
	})
	for id := range here {
		v.node(id)
	}
	v.survey(here)
	v.sortClaims()
	for _, id := range slices.Sorted(maps.Keys(v.nodes)) {
		n := v.nodes[id]
		boots := slices.Clone(n.boots)
		for _, b := range slices.Sorted(maps.Keys(here[id])) {
			if n.seals[b] == nil {
				boots = append(boots, b)
			}
		}
		w := &walkNode{v: v, id: id, node: n, late: n.trimmed}
		for _, b := range boots {
			w.boot(b, here[id][b])
		}
		w.end()
	}
}

func hourOf(name string) (string, bool) {
	hour, plain := strings.CutSuffix(name, plainSuffix)
	if !plain {
		hour, _ = strings.CutSuffix(name, packedSuffix)
	}
	t, err := time.Parse(hourFormat, hour)
	return hour, err == nil && t.Format(hourFormat) == hour && hour != name
}

// walkNode is the judging of one node's segments.
type walkNode struct {
	v      *verifier
	id     string
	node   *node
	report NodeReport
	// late: what was trimmed is declared behind where it is missed, so all segments are read before any is compared with counters.
	late  bool
	gaps  map[string][]seal.Gap // by boot
	boots []*walkBoot
}

// walkBoot is that of one boot's.
type walkBoot struct {
	*walkNode
	id    string
	boot  *boot // nil: the log knows none of it
	tally seal.Tally
	order []uint64            // numbers of the log's seals
	next  int                 // in order: whose turn it is
	held  map[uint64]*segment // that wait for theirs
	files map[uint64]string   // where they were
}

func (w *walkNode) boot(id string, hours []string) {
	b := &walkBoot{walkNode: w, id: id, boot: w.node.seals[id], held: map[uint64]*segment{}, files: map[uint64]string{}}
	b.begin()
	slices.Sort(hours)
	for _, h := range hours {
		start, _ := time.Parse(hourFormat, h)
		if o := w.v.o; o.Node != "" && o.Node != w.id || !o.Until.IsZero() && !start.Before(o.Until) ||
			!o.Since.IsZero() && !start.Add(time.Hour).After(o.Since) {
			continue
		}
		b.hour(h)
	}
	b.missing()
	if w.late {
		w.boots = append(w.boots, b)
		return
	}
	b.drain(true)
}

// begin finds the first segment that is meant to be here: where it is not the boot's first, what was counted before it is not known.
func (b *walkBoot) begin() {
	if b.boot == nil {
		return
	}
	b.order = slices.Sorted(maps.Keys(b.boot.seals))
	b.next = max(slices.IndexFunc(b.order, func(n uint64) bool { return b.v.meant(b.boot.seals[n]) }), 0)
	b.tally.Partial = b.next > 0
}

// hour judges a file, or both of an hour that is being compressed.
func (b *walkBoot) hour(h string) {
	base := segmentsDir + b.walkNode.id + "/" + b.id + "/" + h
	name := base + plainSuffix
	_, errPlain := fs.Stat(b.v.fsys, name)
	_, errPacked := fs.Stat(b.v.fsys, base+packedSuffix)
	if errPlain != nil {
		name = base + packedSuffix
	} else if errPacked == nil {
		b.twins(name, base+packedSuffix)
	}
	last := uint64(0)
	err := b.v.scan(name, func(s *segment) {
		if s.seal == nil && s.bad == nil {
			b.bad(name, s, s.line, "%d lines are behind the last seal", s.records)
			return
		}
		if s.bad != nil {
			b.bad(name, s, s.line+s.records, "%s", s.bad)
			return
		}
		if s.seal.Number <= last {
			b.bad(name, s, s.line, "comes behind segment %d", last)
		}
		last = s.seal.Number
		b.segment(name, h, s)
	})
	if err != nil {
		start, _ := time.Parse(hourFormat, h)
		b.v.find(Finding{File: name, Node: b.walkNode.id, Boot: b.id, At: start, What: reason(err).Error()})
	}
}

// twins compares an hour's two files.
func (b *walkBoot) twins(plain, packed string) {
	var sums [2][]string
	for i, name := range []string{plain, packed} {
		if err := b.v.scan(name, func(s *segment) { sums[i] = append(sums[i], s.hash+s.sealed) }); err != nil {
			b.v.find(Finding{File: name, Node: b.walkNode.id, Boot: b.id, What: reason(err).Error()})
		}
	}
	if !slices.Equal(sums[0], sums[1]) {
		b.v.find(Finding{File: packed, Node: b.walkNode.id, Boot: b.id, What: "has other content than the same hour's file that is not compressed"})
	}
}

func (b *walkBoot) bad(file string, s *segment, line int, format string, args ...any) {
	f := Finding{File: file, Line: line, Node: b.walkNode.id, Boot: b.id, What: fmt.Sprintf(format, args...)}
	if s.seal != nil {
		f.Segment, f.At = s.seal.Number, s.seal.End
	} else if hour, ok := hourOf(path.Base(file)); ok {
		f.At, _ = time.Parse(hourFormat, hour)
	}
	b.v.find(f)
}

// segment judges one that has a seal.
func (b *walkBoot) segment(file, hour string, s *segment) {
	at := s.line + s.records // the seal's line
	if s.seal.Node != b.walkNode.id || s.seal.Boot != b.id || s.seal.End.UTC().Format(hourFormat) != hour {
		b.bad(file, s, at, "belongs to %s%s/%s/%s", segmentsDir, s.seal.Node, s.seal.Boot, s.seal.End.UTC().Format(hourFormat))
		return
	}
	var known *sealed
	if b.boot != nil {
		known = b.boot.seals[s.seal.Number]
	}
	if known == nil {
		b.bad(file, s, at, "the log does not have its seal")
		return
	}
	if known.found {
		b.bad(file, s, at, "is here a second time")
		return
	}
	known.found = true
	if !b.v.manifest.within(known) {
		b.bad(file, s, at, "is not of the part that the manifest says this copy to be")
	}
	if s.sealed != known.Line || s.same != known.same {
		b.bad(file, s, at, "its seal is not the one in the log: its hash is %s, leaf %d says %s", s.sealed, known.index, known.Line)
		return
	}
	if !b.content(file, s) || !b.v.asked(s.seal.Node, s.seal.End) {
		return
	}
	if err := b.v.checkSeal(s.seal, b.node.keys[s.seal.Key]); err != nil {
		b.bad(file, s, at, "%s", err)
		return
	}
	b.dated(s, known)
	b.held[s.seal.Number], b.files[s.seal.Number] = s, file
	b.count(s)
	b.drain(false)
}

// content compares a segment's lines with what its seal says.
func (b *walkBoot) content(file string, s *segment) bool {
	line, what := s.line, ""
	switch {
	case s.hash != s.seal.Hash:
		what = fmt.Sprintf("its %d records have the hash %s, its seal says %s", s.records, s.hash, s.seal.Hash)
	case s.records != s.seal.Records:
		what = fmt.Sprintf("has %d records, its seal says %d", s.records, s.seal.Records)
	case s.worst != 0:
		line, what = s.worst, s.why
	default:
		line, what = s.holes()
	}
	if what == "" {
		return true
	}
	if s.worst != 0 && line == s.line {
		line, what = s.worst, what+"; this line "+s.why
	}
	b.bad(file, s, line, "%s", what)
	return false
}

// holes names the first sequences that are neither here nor declared as gone.
func (s *segment) holes() (line int, what string) {
	first, last, behind := s.seal.First, s.seal.Last, s.line+s.records
	if s.records > 0 && (s.first < first || s.last > last) {
		return s.line, fmt.Sprintf("has records %d to %d, its seal says %d to %d", s.first, s.last, first, last)
	}
	var holes []hole
	switch {
	case s.records == 0:
		holes = []hole{{behind, first, last}}
	default:
		holes = append([]hole{{s.line, first, s.first - 1}}, s.holesWithin...)
		holes = append(holes, hole{behind, s.last + 1, last})
	}
	var declared []leaf.Jump
	for _, g := range s.seal.Declared {
		declared = append(declared, leaf.Jump{FirstSequence: g.FirstSequence, LastSequence: g.LastSequence})
	}
	for _, h := range holes {
		if h.first <= h.last && !jumped(declared, h.first, h.last, true) {
			return h.line, fmt.Sprintf("records %d to %d are missing before this line and not declared", h.first, h.last)
		}
	}
	return 0, ""
}

// count adds a segment to the report.
func (b *walkBoot) count(s *segment) {
	r := &b.report
	r.Segments++
	r.Records += s.records
	if r.From.IsZero() || s.seal.Start.Before(r.From) {
		r.From = s.seal.Start
	}
	if s.seal.End.After(r.To) {
		r.To = s.seal.End
	}
	for _, g := range s.seal.Declared {
		if b.late {
			b.collect(g)
		}
		d := b.node.told[g.Cause]
		if d == nil {
			d = &DeclaredLoss{Node: b.walkNode.id, Cause: g.Cause}
			b.node.told[g.Cause] = d
		}
		d.Times++
		d.Packets += g.Packets
		d.Records += g.Records
		if g.FirstSeal != 0 {
			d.Seals += g.LastSeal - g.FirstSeal + 1
		}
	}
}

// collect keeps a gap for the boot that it is about.
func (b *walkBoot) collect(g seal.Gap) {
	if b.gaps == nil {
		b.gaps = map[string][]seal.Gap{}
	}
	id := cmp.Or(g.Boot, b.id)
	g.Boot = ""
	b.gaps[id] = append(b.gaps[id], g)
}

// drain gives the tally and the books the segments whose turn it is. At the end those that wait for one that is not here come, too: it is missing,
// which was said, and counters are compared from the next one on.
func (b *walkBoot) drain(all bool) {
	if b.late && !all {
		return
	}
	for ; b.next < len(b.order) && len(b.held) > 0; b.next++ {
		n := b.order[b.next]
		s := b.held[n]
		switch {
		case s != nil:
			b.balance(s)
			delete(b.held, n)
		case all || b.boot.gone(n):
			b.tally = seal.Tally{Partial: true}
			b.tally.Expect(b.gaps[b.id]...)
		default:
			return
		}
	}
}

// balance compares a segment's counters with all records before, and adds it to the books.
func (b *walkBoot) balance(s *segment) {
	for row, sum := range s.sums {
		b.tally.Add(row, sum.Told)
	}
	for _, err := range b.tally.Seal(s.seal) {
		b.bad(b.files[s.seal.Number], s, s.line+s.records, "%s", err)
	}
	if s.seal.Full {
		b.v.report.Balanced++
	}
	if err := b.v.books.take(b.boot.seals[s.seal.Number], s); err != nil {
		b.bad(b.files[s.seal.Number], s, s.line+s.records, "%s", err)
	}
}

// missing names the seals of the log whose segments are not here.
func (b *walkBoot) missing() {
	if b.boot == nil {
		return
	}
	for _, n := range slices.Sorted(maps.Keys(b.boot.seals)) {
		s := b.boot.seals[n]
		switch {
		case s.found || !b.v.asked(s.Node, s.End):
		case b.boot.gone(n):
			b.v.report.Disposed++
		case !b.v.manifest.within(s):
			b.v.report.Elsewhere++
		default:
			index := s.index
			b.v.find(Finding{File: segmentsDir + s.Node + "/" + s.Boot + "/" + s.End.UTC().Format(hourFormat) + plainSuffix, Leaf: &index,
				Node: s.Node, Boot: s.Boot, Segment: n, At: s.End, What: "is in the log and not here"})
		}
	}
}

// end adds the node to the report.
func (w *walkNode) end() {
	for _, b := range w.boots {
		b.tally.Expect(w.gaps[b.id]...)
		b.drain(true)
	}
	r := w.v.report
	w.report.Node, w.report.Boots = w.id, len(w.node.boots)
	r.Keys = append(r.Keys, w.node.given...)
	if len(w.node.boots) > 0 {
		r.Nodes = append(r.Nodes, w.report)
	}
	r.Segments += w.report.Segments
	r.Records += w.report.Records
	for _, cause := range slices.Sorted(maps.Keys(w.node.told)) {
		r.Declared = append(r.Declared, *w.node.told[cause])
	}
}
