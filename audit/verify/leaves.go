package verify

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
)

// take takes what a leaf says.
func (v *verifier) take(index uint64, e *entry) {
	l := &e.leaf
	if errors.Is(e.err, leaf.ErrUnknown) {
		v.report.Leaves[l.Type]++
		v.log.clock.leaf(v, l.At)
		return
	}
	if e.err != nil {
		v.leafBad(index, l.At, "%s", e.err)
		return
	}
	v.report.Leaves[l.Type]++
	v.log.clock.leaf(v, l.At)
	key := l.Key()
	was, again := v.log.recent.Find(key)
	if again && was.Same == e.same {
		return // appended twice: the answer to the first was lost
	}
	if again {
		v.leafBad(index, l.At, "says something else than leaf %d about %s", was.Index, key)
		return
	}
	v.log.recent.Add(key, leaf.Seen{Index: index, Same: e.same})
	if v.o.Each != nil {
		v.o.Each(index, l)
	}
	v.sight(l)
	switch l.Type {
	case leaf.TypeStart:
		v.log.clock.start(v, l.Server, l.At)
	case leaf.TypeStop:
		v.log.clock.stop()
	case leaf.TypeTick:
		v.log.clock.tick(v, index, l.Tick, l.At, v.kept(index, l.Tick, l.At))
	case leaf.TypeNodeKey:
		v.takeKey(index, l.NodeKey, l.At)
	case leaf.TypeSeal:
		v.takeSeal(index, l.Seal, e.same, l.At)
	case leaf.TypeRefused:
		v.takeRefused(index, l.Refused, l.At)
	case leaf.TypeAudit:
		v.takeEvent(index, l.Event.Seq, l.At)
	case leaf.TypeObject:
		v.objects[l.Object.FlowLog+"/"+l.Object.Path] = l.Object
	case leaf.TypeDisposal:
		v.takeDisposal(index, l.Disposal, l.At)
	case leaf.TypeReport:
		if l.Report.Kind == KindExport {
			v.exports[l.Report.SHA256] = true
		}
	}
}

// absent is audit events that are not in the log before one that is.
type absent struct {
	first, last uint64
	index       uint64
	at          time.Time
}

// takeEvent notes the sequence of an audit event. Events come in bursts, of which one part may be late: all must be there in the end.
func (v *verifier) takeEvent(index, seq uint64, at time.Time) {
	r, l := v.report, v.log
	switch {
	case r.FirstEvent == 0:
		r.FirstEvent, r.LastEvent = seq, seq
	case seq > r.LastEvent:
		if seq > r.LastEvent+1 {
			l.absent = append(l.absent, absent{r.LastEvent + 1, seq - 1, index, at})
		}
		r.LastEvent = seq
	default:
		for i, a := range l.absent {
			if a.first <= seq && seq <= a.last {
				before, behind := a, a
				before.last, behind.first = seq-1, seq+1
				l.absent = slices.Replace(l.absent, i, i+1, slices.DeleteFunc([]absent{before, behind},
					func(a absent) bool { return a.first > a.last })...)
				return
			}
		}
		v.leafBad(index, at, "is the audit event %d, which was in the log before", seq)
	}
}

// missedEvents names those that never came.
func (v *verifier) missedEvents() {
	for _, a := range v.log.absent {
		v.leafBad(a.index, a.at, "the audit events %d to %d are not in the log", a.first, a.last)
	}
}

// takeSeal takes a seal. What follows what is judged when all are known, since what is gone is declared later than it is missed.
func (v *verifier) takeSeal(index uint64, s *leaf.Seal, same [32]byte, at time.Time) {
	n := v.node(s.Node)
	b := n.seals[s.Boot]
	if b == nil {
		b = &boot{seals: map[uint64]*sealed{}}
		n.seals[s.Boot] = b
		n.boots = append(n.boots, s.Boot)
	}
	if have := b.seals[s.Number]; have != nil {
		if have.same != same {
			v.leafBad(index, at, "is another seal %d of node %s, boot %s, than leaf %d", s.Number, s.Node, s.Boot, have.index)
		}
		return
	}
	if n.keys[s.Key] == nil {
		v.sealBad(index, s, "names the key %s, which no leaf before gives to the node", s.Key)
	}
	one := &sealed{Seal: *s, index: index, at: at, same: same}
	b.seals[s.Number] = one
	n.order = append(n.order, one)
	for _, j := range s.Jumps {
		id := cmp.Or(j.Boot, s.Boot)
		n.gone[id] = append(n.gone[id], j)
		n.trimmed = n.trimmed || j.FirstSeal != 0
	}
}

// sealBad is about a seal of the log. Of nodes that were not asked for it is counted alone.
func (v *verifier) sealBad(index uint64, s *leaf.Seal, format string, args ...any) {
	if v.o.Node != "" && v.o.Node != s.Node {
		v.others++
		return
	}
	v.find(Finding{Leaf: &index, Node: s.Node, Boot: s.Boot, Segment: s.Number, At: s.End, What: fmt.Sprintf(format, args...)})
}

// chains judges each node's seals: that every one follows the one before it.
func (v *verifier) chains() {
	for _, id := range slices.Sorted(maps.Keys(v.nodes)) {
		n := v.nodes[id]
		for _, all := range n.gone {
			slices.SortFunc(all, func(a, b leaf.Jump) int {
				return cmp.Or(cmp.Compare(a.FirstSeal, b.FirstSeal), cmp.Compare(a.FirstSequence, b.FirstSequence))
			})
		}
		var last *sealed
		ended := map[string]bool{}
		for _, s := range n.order {
			if last != nil && last.Boot != s.Boot {
				ended[last.Boot] = true
			}
			if ended[s.Boot] {
				v.sealBad(s.index, &s.Seal, "is of a boot that ended: the seal before is of boot %s", last.Boot)
			}
			v.follow(n, last, s)
			last = s
		}
	}
}

// follow judges a seal and the one before it, which is nil for a node's first.
func (v *verifier) follow(n *node, last, s *sealed) {
	number, sequence, previous := uint64(0), uint64(0), ""
	if last != nil {
		previous = last.Line
		if last.Boot == s.Boot {
			number, sequence = last.Number, last.Last
		}
	}
	gone := n.gone[s.Boot]
	skipped := s.Number != number+1 && jumped(gone, number+1, s.Number-1, false)
	if s.Number != number+1 && !skipped {
		v.sealBad(s.index, &s.Seal, "has the number %d, the one before has %d", s.Number, number)
	}
	if s.First != sequence+1 && !jumped(gone, sequence+1, s.First-1, true) {
		v.sealBad(s.index, &s.Seal, "begins with the record %d, the one before ends with %d", s.First, sequence)
	}
	if last != nil && last.Boot != s.Boot { // seals at the end of the boot before may be gone, too
		skipped = skipped || slices.ContainsFunc(n.gone[last.Boot], func(j leaf.Jump) bool { return j.LastSeal > last.Number })
	}
	if last == nil { // what a node sealed before its first leaf may be gone
		skipped = skipped || s.Previous != "" && n.trimmed
	}
	if s.Previous != previous && !skipped {
		v.sealBad(s.index, &s.Seal, "follows the seal %q, the one before is %q", s.Previous, previous)
	}
}

// jumped tells whether all from first to last is declared as gone, in one part or several.
func jumped(jumps []leaf.Jump, first, last uint64, sequences bool) bool {
	if last < first {
		return false
	}
	for moved := true; moved; {
		moved = false
		for _, j := range jumps {
			from, to := j.FirstSeal, j.LastSeal
			if sequences {
				from, to = j.FirstSequence, j.LastSequence
			}
			if from != 0 && from <= first && to >= last {
				return true
			}
			if from != 0 && from <= first && to >= first {
				first, moved = to+1, true
			}
		}
	}
	return false
}

// takeDisposal takes what is removed next. A run is of seals that are in the log by then: what comes later is not excused by it.
func (v *verifier) takeDisposal(index uint64, d *leaf.Disposal, at time.Time) {
	v.report.Disposals = append(v.report.Disposals, Disposal{At: at, ID: d.ID, Class: d.Class, By: d.By, Reason: d.Reason})
	for _, f := range d.Files {
		v.files[f.Path] = f.SHA256
	}
	for _, r := range d.Runs {
		b := v.node(r.Node).seals[r.Boot]
		if b == nil || b.seals[r.Last] == nil || b.seals[r.Last].Line != r.Line {
			v.leafBad(index, at, "disposes of the segments %d to %d of node %s, boot %s, and no leaf before is the seal that it names as the last",
				r.First, r.Last, r.Node, r.Boot)
			continue
		}
		b.disposed = append(b.disposed, r)
	}
}

// gone tells whether a segment was disposed of.
func (b *boot) gone(number uint64) bool {
	for _, r := range b.disposed {
		if r.First <= number && number <= r.Last {
			return true
		}
	}
	return false
}
