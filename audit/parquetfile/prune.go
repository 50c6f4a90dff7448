package parquetfile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/parquet-go/parquet-go"
)

// Span is rows of a row group: From is the first, To the first behind.
type Span struct{ From, To int64 }

// Test is one thing that may hold of a row: the field is one of Equal, or lies in [Min, Max] where those are set. An integer column is
// compared with the integers that Equal spells.
type Test struct {
	Field    string
	Equal    []string
	Min, Max *int64
}

// Select gives the rows of a row group that may match: of each clause one of its tests must hold. It goes by statistics, page index and
// bloom filters; what is left out certainly does not match, what is left has to be read. Spans are sorted and do not touch.
func (r *Reader) Select(group int, clauses [][]Test) (out []Span, err error) {
	defer recovered(&err)
	out = []Span{{0, r.Rows(group)}}
	for _, clause := range clauses {
		var may []Span
		for _, t := range clause {
			spans, err := r.test(group, t)
			if err != nil {
				return nil, err
			}
			may = append(may, spans...)
		}
		if out = intersect(out, join(may)); len(out) == 0 {
			return nil, nil
		}
	}
	return out, nil
}

// test gives the rows of which one test may hold.
func (r *Reader) test(group int, t Test) ([]Span, error) {
	chunk, err := r.chunk(group, t.Field)
	if err != nil {
		return nil, err
	}
	values := equals(chunk.Type(), t.Equal)
	if len(t.Equal) > 0 && len(values) == 0 {
		return nil, nil // words, and the column has numbers
	}
	whole := []Span{{0, r.Rows(group)}}
	if c, ok := chunk.(*parquet.FileColumnChunk); ok {
		if low, high, ok := c.Bounds(); ok && !overlaps(chunk.Type(), low, high, values, t) {
			return nil, nil
		}
	}
	if len(values) > 0 {
		if values, err = r.inBloom(chunk, values); err != nil || len(values) == 0 {
			return nil, err
		}
	}
	index, err := chunk.ColumnIndex()
	if errors.Is(err, parquet.ErrMissingColumnIndex) {
		return whole, nil
	} else if err != nil {
		return nil, fmt.Errorf("column %s: %w", t.Field, err)
	}
	offsets, err := chunk.OffsetIndex()
	if errors.Is(err, parquet.ErrMissingOffsetIndex) {
		return whole, nil
	} else if err != nil {
		return nil, fmt.Errorf("column %s: %w", t.Field, err)
	}
	var out []Span
	pages := min(index.NumPages(), offsets.NumPages())
	for i := range pages {
		if index.NullPage(i) || !overlaps(chunk.Type(), index.MinValue(i), index.MaxValue(i), values, t) {
			continue
		}
		s := Span{offsets.FirstRowIndex(i), r.Rows(group)}
		if i+1 < pages {
			s.To = offsets.FirstRowIndex(i + 1)
		}
		out = append(out, s)
	}
	return out, nil
}

// equals are the values of the column's type that the words spell.
func equals(t parquet.Type, words []string) []parquet.Value {
	var out []parquet.Value
	for _, w := range words {
		if t.Kind() == parquet.ByteArray {
			out = append(out, parquet.ByteArrayValue([]byte(w)))
			continue
		}
		bits := 64
		if t.Kind() == parquet.Int32 {
			bits = 32
		}
		n, err := strconv.ParseInt(w, 10, bits)
		switch {
		case err != nil:
		case bits == 32:
			out = append(out, parquet.Int32Value(int32(n)))
		default:
			out = append(out, parquet.Int64Value(n))
		}
	}
	return out
}

// inBloom are the values that the column chunk may have.
func (r *Reader) inBloom(chunk parquet.ColumnChunk, values []parquet.Value) ([]parquet.Value, error) {
	filter := chunk.BloomFilter()
	if filter == nil {
		return values, nil
	}
	var out []parquet.Value
	for _, v := range values {
		ok, err := filter.Check(v)
		if err != nil {
			return nil, fmt.Errorf("bloom filter: %w", err)
		}
		if ok {
			out = append(out, v)
		}
	}
	return out, nil
}

// overlaps tells whether something between low and high can pass the test.
func overlaps(typ parquet.Type, low, high parquet.Value, values []parquet.Value, t Test) bool {
	if len(t.Equal) > 0 {
		return slices.ContainsFunc(values, func(v parquet.Value) bool {
			return typ.Compare(low, v) <= 0 && typ.Compare(v, high) <= 0
		})
	}
	if typ.Kind() == parquet.ByteArray {
		return true
	}
	return (t.Min == nil || integer(high) >= *t.Min) && (t.Max == nil || integer(low) <= *t.Max)
}

// join sorts spans and makes one of those that touch.
func join(spans []Span) []Span {
	slices.SortFunc(spans, func(a, b Span) int { return cmp.Compare(a.From, b.From) })
	var out []Span
	for _, s := range spans {
		if n := len(out); n > 0 && s.From <= out[n-1].To {
			out[n-1].To = max(out[n-1].To, s.To)
			continue
		}
		out = append(out, s)
	}
	return out
}

// intersect keeps the rows that both have.
func intersect(a, b []Span) []Span {
	var out []Span
	for i, j := 0, 0; i < len(a) && j < len(b); {
		if s := (Span{max(a[i].From, b[j].From), min(a[i].To, b[j].To)}); s.From < s.To {
			out = append(out, s)
		}
		if a[i].To < b[j].To {
			i++
		} else {
			j++
		}
	}
	return out
}
