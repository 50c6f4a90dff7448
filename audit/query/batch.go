package query

import (
	"slices"
	"strconv"

	"github.com/culvert-net/culvert/audit/parquetfile"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// batch is some rows of one file, of the columns that the query needs.
type batch struct {
	rows    int
	columns map[string]*parquetfile.Column
}

// summed are the fields that Sums are of.
var summed = []string{"packets", "bytes", "start", "end"}

// needs are the fields that must be read of a file.
func (q *Query) needs(has func(string) bool) []string {
	want := slices.Concat(stored(q.Group), stored(q.Fields), q.filtering(has), []string{"end"})
	if len(q.Group) > 0 {
		want = append(want, summed...)
	}
	if q.once != nil && identified(has) {
		want = append(want, identity...)
	}
	slices.Sort(want)
	return slices.DeleteFunc(slices.Compact(want), func(f string) bool { return !has(f) })
}

// filtering are the fields that decide which rows are selected.
func (q *Query) filtering(has func(string) bool) []string {
	var want []string
	if q.timed() {
		want = append(want, "end")
	}
	for _, c := range q.Where {
		for _, cond := range c {
			want = append(want, stored([]string{cond.Field})...)
		}
	}
	slices.Sort(want)
	return slices.DeleteFunc(slices.Compact(want), func(f string) bool { return !has(f) })
}

// missing is a field without which a file cannot be asked, "" when there is none.
func (q *Query) missing(has func(string) bool) string {
	demanded := stored(q.Group)
	if len(q.Group) > 0 {
		demanded = append(demanded, summed...)
	}
	for _, f := range demanded {
		if !has(f) {
			return f
		}
	}
	for _, f := range stored(q.Fields) {
		if !q.Lenient && !has(f) {
			return f
		}
	}
	for _, c := range q.Where {
		lacks := func(f string) bool { return !has(f) }
		if !slices.ContainsFunc(c, func(cond Condition) bool {
			return cond.Not || !slices.ContainsFunc(stored([]string{cond.Field}), lacks)
		}) {
			return c[0].Field
		}
	}
	if q.timed() && !has("end") {
		return "end"
	}
	return ""
}

// pruning is the query as far as statistics can decide it.
func (q *Query) pruning(has func(string) bool) [][]parquetfile.Test {
	var out [][]parquetfile.Test
	if q.timed() {
		least, most := q.span()
		out = append(out, []parquetfile.Test{{Field: "end", Min: &least, Max: &most}})
	}
	for _, c := range q.Where {
		var tests []parquetfile.Test
		for _, cond := range c {
			if cond.Not {
				tests = nil
				break
			}
			if has(cond.Field) {
				tests = append(tests, parquetfile.Test{Field: cond.Field, Equal: cond.Equal})
			}
		}
		if len(tests) > 0 {
			out = append(out, tests)
		}
	}
	return out
}

// match sets which rows the query selects.
func (q *Query) match(b *batch) []bool {
	q.name(b)
	keep := make([]bool, b.rows)
	for i := range keep {
		keep[i] = true
	}
	if c := b.columns["end"]; c != nil && q.timed() {
		least, most := q.span()
		for i := range keep {
			keep[i] = keep[i] && !c.Missing(i) && c.Ints[i] >= least && c.Ints[i] <= most
		}
	}
	for _, clause := range q.Where {
		holds := make([]bool, b.rows)
		for _, cond := range clause {
			cond.mark(b, holds)
		}
		for i := range keep {
			keep[i] = keep[i] && holds[i]
		}
	}
	return keep
}

// mark sets holds for the rows of which the condition holds.
func (c *Condition) mark(b *batch, holds []bool) {
	col := b.columns[c.Field]
	switch {
	case col == nil:
		for i := range holds {
			holds[i] = holds[i] || c.Not
		}
	case col.IsInt():
		var want []int64
		for _, s := range c.Equal {
			if n, err := strconv.ParseInt(s, 10, 64); err == nil {
				want = append(want, n)
			}
		}
		for i, n := range col.Ints {
			if (!col.Missing(i) && slices.Contains(want, n)) != c.Not {
				holds[i] = true
			}
		}
	default:
		want := make([]bool, len(col.Dict))
		for i, s := range col.Dict {
			want[i] = slices.Contains(c.Equal, s)
		}
		for i, code := range col.Codes {
			if (code >= 0 && want[code]) != c.Not {
				holds[i] = true
			}
		}
	}
}

// text of a row of a column that may not be there, "" for a missing value.
func text(c *parquetfile.Column, i int) string {
	switch {
	case c == nil:
	case c.IsInt() && !c.Missing(i):
		return itoa(c.Ints[i])
	case !c.IsInt() && c.Codes[i] >= 0:
		return c.Dict[c.Codes[i]]
	}
	return ""
}

// number of a row of a column that may not be there, 0 for a missing value.
func number(c *parquetfile.Column, i int) int64 {
	if c == nil || !c.IsInt() || c.Missing(i) {
		return 0
	}
	return c.Ints[i]
}
