package parquetfile

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/parquet-go/parquet-go"

	"github.com/culvert-net/culvert/audit/format"
)

// Writer writes one file. It holds one row group, 64 MiB of values at most, in memory. Not safe for concurrent use; after an error the
// file is of no use.
type Writer struct {
	out    *parquet.GenericWriter[any]
	fields []format.Field
	held   []values
	rows   int   // held
	bytes  int   // of what is held
	done   int64 // rows in finished row groups
	end    int   // index of the field end, -1 without
	err    error

	groupRows, groupBytes int // bounds of a row group
}

// values of one column of the row group that is being filled. Strings are held once each.
type values struct {
	ints  []int64
	null  []bool
	codes []int32
	known map[string]int32
	dict  [][]byte
}

// NewWriter writes a file of these columns to w, which gets nothing before the first row group is full or the file is closed.
func NewWriter(w io.Writer, fields []format.Field) (*Writer, error) {
	s, options, err := schema(fields)
	if err != nil {
		return nil, err
	}
	options = append(options, s,
		parquet.CreatedBy("culvert", "1", ""),
		// Pages end by rows, not by size: Write flushes them.
		parquet.PageBufferSize(math.MaxInt32/2),
		parquet.DataPageStatistics(true),
		parquet.ColumnIndexSizeLimit(func([]string) int { return 128 }),
	)
	out := &Writer{fields: fields, groupRows: maxGroupRows, groupBytes: maxGroupBytes}
	out.end = slices.IndexFunc(fields, func(f format.Field) bool { return f.Name == "end" })
	if out.end >= 0 {
		options = append(options, parquet.SortingWriterConfig(parquet.SortingColumns(parquet.Ascending("end"))))
	}
	out.out = parquet.NewGenericWriter[any](w, options...)
	out.empty()
	return out, nil
}

func (w *Writer) empty() {
	w.held = make([]values, len(w.fields))
	w.rows, w.bytes = 0, 0
	for i, f := range w.fields {
		if f.Type == format.String {
			w.held[i].known = map[string]int32{}
		}
	}
}

// Write adds rows. They may come in any order; those of one row group are sorted.
func (w *Writer) Write(rows []format.Row) error {
	for i := range rows {
		if w.err == nil {
			w.err = w.add(&rows[i])
		}
		if w.err == nil && (w.rows >= w.groupRows || w.bytes >= w.groupBytes) {
			w.err = w.flush()
		}
	}
	return w.err
}

func (w *Writer) add(r *format.Row) error {
	for i, f := range w.fields {
		v := &w.held[i]
		if f.Type == format.String {
			s, _ := f.Value(r)
			w.bytes += v.addText(s)
			continue
		}
		n, ok := f.Int(r)
		if f.Type == format.Int32 && (n > math.MaxInt32 || n < math.MinInt32) {
			return fmt.Errorf("field %s: %d does not fit into 32 bits", f.Name, n)
		}
		v.ints, v.null = append(v.ints, n), append(v.null, !ok)
		w.bytes += 9
	}
	w.rows++
	return nil
}

// addText returns the bytes that it takes.
func (v *values) addText(s string) int {
	if s == "" {
		v.codes = append(v.codes, -1)
		return 4
	}
	code, ok := v.known[s]
	size := 4
	if !ok {
		code = int32(len(v.dict))
		v.known[s] = code
		v.dict = append(v.dict, []byte(s))
		size += len(s) + 56 // string header, and its place in the map
	}
	v.codes = append(v.codes, code)
	return size
}

// flush writes what is held as a row group.
func (w *Writer) flush() error {
	if w.rows == 0 {
		return nil
	}
	order := w.order()
	columns := w.out.ColumnWriters()
	buf := make([]parquet.Value, 0, pageRows)
	for i := range w.fields {
		for page := range slices.Chunk(order, pageRows) {
			buf = buf[:0]
			for _, row := range page {
				buf = append(buf, w.held[i].value(w.fields[i].Type, int(row), i))
			}
			if _, err := columns[i].WriteRowValues(buf); err != nil {
				return fmt.Errorf("column %s: %w", w.fields[i].Name, err)
			}
			if err := columns[i].Flush(); err != nil {
				return fmt.Errorf("column %s: %w", w.fields[i].Name, err)
			}
		}
	}
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("row group: %w", err)
	}
	w.done += int64(w.rows)
	w.empty()
	return nil
}

// order is the rows by end time; rows of one end, and all without that field, as they came.
func (w *Writer) order() []int32 {
	order := make([]int32, w.rows)
	for i := range order {
		order[i] = int32(i)
	}
	if w.end >= 0 {
		ends := w.held[w.end].ints
		slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(ends[a], ends[b]) })
	}
	return order
}

func (v *values) value(t format.Type, row, col int) parquet.Value {
	switch {
	case t == format.String && v.codes[row] >= 0:
		return parquet.ByteArrayValue(v.dict[v.codes[row]]).Level(0, 1, col)
	case t == format.Int32 && !v.null[row]:
		return parquet.Int32Value(int32(v.ints[row])).Level(0, 1, col)
	case t == format.Int64 && !v.null[row]:
		return parquet.Int64Value(v.ints[row]).Level(0, 1, col)
	}
	return parquet.NullValue().Level(0, 0, col)
}

// Rows is how many rows came.
func (w *Writer) Rows() int64 { return w.done + int64(w.rows) }

// Size is an upper bound of the file's bytes, without its footer: what is written, and what is held as if it did not compress.
func (w *Writer) Size() int64 { return w.out.File().Size() + int64(w.bytes) }

// Close writes what is held and the file's end. It does not close what is written to.
func (w *Writer) Close() error {
	if w.err == nil {
		w.err = w.flush()
	}
	if w.err != nil {
		return w.err
	}
	err := w.out.Close()
	w.err = errors.New("the file is closed")
	return err
}
