package verify

import (
	"cmp"
	"slices"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
)

// Claims are the lines of a node that the server did not take: they stand in its segments, and are the node's word about what was not its own.
type Claims struct {
	Node     string `json:"node"`
	Lines    uint64 `json:"lines"`
	Segments int    `json:"segments"`
}

// takeRefused takes which lines of a segment the server did not take.
func (v *verifier) takeRefused(index uint64, r *leaf.Refused, at time.Time) {
	var s *sealed
	b := v.node(r.Node).seals[r.Boot]
	if b != nil {
		s = b.seals[r.Number]
	}
	if s == nil {
		v.leafBad(index, at, "is about segment %d of node %s, boot %s, whose seal is no leaf before", r.Number, r.Node, r.Boot)
		return
	}
	covered, last := uint64(0), s.First-1
	for _, x := range r.Ranges {
		if x.First <= last || x.Last < x.First || x.Last > s.Last {
			v.leafBad(index, at, "names the lines %d to %d of segment %d of node %s, which has %d to %d, or names them twice", x.First, x.Last, r.Number,
				r.Node, s.First, s.Last)
			return
		}
		covered, last = covered+x.Last-x.First+1, x.Last
	}
	if r.Lines < covered || r.Lines > uint64(s.Records) || len(r.Ranges) == 0 || r.Lines > covered && len(r.Ranges) < leaf.MaxRanges {
		v.leafBad(index, at, "says that %d lines of segment %d of node %s were not taken, and names %d of its %d", r.Lines, r.Number, r.Node, covered,
			s.Records)
		return
	}
	b.claims = append(b.claims, r.Ranges...)
	if r.Lines > covered { // nobody knows which of the rest
		b.claims = append(b.claims, leaf.Range{First: last + 1, Last: s.Last})
	}
	if !v.asked(r.Node, s.End) {
		return
	}
	i, found := slices.BinarySearchFunc(v.report.Claims, r.Node, func(c Claims, node string) int { return cmp.Compare(c.Node, node) })
	if !found {
		v.report.Claims = slices.Insert(v.report.Claims, i, Claims{Node: r.Node})
	}
	v.report.Claims[i].Lines += r.Lines
	v.report.Claims[i].Segments++
}

// sortClaims puts what was taken in order, before segments are read.
func (v *verifier) sortClaims() {
	for _, n := range v.nodes {
		for _, b := range n.seals {
			slices.SortFunc(b.claims, func(a, b leaf.Range) int { return cmp.Compare(a.First, b.First) })
		}
	}
}

// transcribeClaims tells how many lines are a node's claim.
func (r *Report) transcribeClaims(line func(string, ...any)) {
	for _, c := range r.Claims {
		line("Claims     %s: %d lines in %d segments, which the server did not take: mostly of what was not the node's", c.Node, c.Lines, c.Segments)
	}
}
