package plan

import "slices"

// Diff compares what a table holds with what it should. add has the rows of want that are new or differ, to be put over
// what is there; remove has the rows of have whose key want does not know. So the two never share a key and may be
// applied in either order. Both are sorted by key. A row that is equal appears in neither.
func Diff[R Row](have, want []R) (add, remove []R) {
	had := make(map[string]R, len(have))
	for _, r := range have {
		had[r.Key()] = r
	}
	wanted := make(map[string]bool, len(want))
	for _, r := range want {
		key := r.Key()
		wanted[key] = true
		if old, ok := had[key]; !ok || old != r {
			add = append(add, r)
		}
	}
	for key, r := range had {
		if !wanted[key] {
			remove = append(remove, r)
		}
	}
	slices.SortFunc(add, byKey)
	slices.SortFunc(remove, byKey)
	return add, remove
}
