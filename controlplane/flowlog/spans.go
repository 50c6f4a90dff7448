package flowlog

import (
	"cmp"
	"slices"
)

// spans is a set of numbers as sorted ranges that neither touch nor overlap: usually one.
type spans struct{ list []span }

type span struct{ lo, hi uint64 } // both included

func (s *spans) find(n uint64) (int, bool) {
	return slices.BinarySearchFunc(s.list, n, func(x span, n uint64) int {
		switch {
		case x.hi < n:
			return -1
		case x.lo > n:
			return 1
		}
		return 0
	})
}

func (s *spans) has(n uint64) bool {
	_, ok := s.find(n)
	return ok
}

func (s *spans) add(n uint64) {
	i, ok := s.find(n)
	if ok {
		return
	}
	left := i > 0 && s.list[i-1].hi+1 == n
	right := i < len(s.list) && s.list[i].lo == n+1
	switch {
	case left && right:
		s.list[i-1].hi = s.list[i].hi
		s.list = slices.Delete(s.list, i, i+1)
	case left:
		s.list[i-1].hi = n
	case right:
		s.list[i].lo = n
	default:
		s.list = slices.Insert(s.list, i, span{n, n})
	}
}

func compareEnd(a, b stored) int {
	return cmp.Or(a.e.End.Compare(b.e.End), cmp.Compare(a.order, b.order))
}
