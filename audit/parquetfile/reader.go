package parquetfile

import (
	"errors"
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"
)

// Reader reads a file, of this package or of others, by ranges. Safe for concurrent use as far as what it reads from is.
type Reader struct {
	file    *parquet.File
	columns map[string]int
	names   []string
}

// Open reads the footer only.
func Open(r io.ReaderAt, size int64) (out *Reader, err error) {
	defer recovered(&err)
	f, err := parquet.OpenFile(r, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true),
		parquet.OptimisticRead(true), parquet.ReadBufferSize(64<<10))
	if err != nil {
		return nil, fmt.Errorf("no Parquet file that can be read: %w", err)
	}
	out = &Reader{file: f, columns: map[string]int{}}
	for i, path := range f.Schema().Columns() {
		leaf, ok := f.Schema().Lookup(path...)
		if len(path) != 1 || !ok || leaf.MaxRepetitionLevel > 0 {
			continue // lists and groups are no fields of flows
		}
		switch leaf.Node.Type().Kind() {
		case parquet.Int32, parquet.Int64, parquet.ByteArray:
			out.columns[path[0]] = i
			out.names = append(out.names, path[0])
		}
	}
	return out, nil
}

// recovered makes an error of a panic of the library, which takes some damaged files for impossible.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the file is damaged: %v", p)
	}
}

// Columns are the names of those that hold strings or integers, in the file's order.
func (r *Reader) Columns() []string { return r.names }

// Has tells whether there is a column for this field.
func (r *Reader) Has(field string) bool {
	_, ok := r.columns[ColumnName(field)]
	return ok
}

// IsInt tells whether the column of a field that it has holds integers.
func (r *Reader) IsInt(field string) bool {
	leaf, ok := r.file.Schema().Lookup(ColumnName(field))
	return ok && leaf.Node.Type().Kind() != parquet.ByteArray
}

// Groups is the number of row groups.
func (r *Reader) Groups() int { return len(r.file.RowGroups()) }

// Rows of a row group.
func (r *Reader) Rows(group int) int64 { return r.file.RowGroups()[group].NumRows() }

func (r *Reader) chunk(group int, field string) (parquet.ColumnChunk, error) {
	i, ok := r.columns[ColumnName(field)]
	if !ok {
		return nil, fmt.Errorf("there is no column %s", ColumnName(field))
	}
	return r.file.RowGroups()[group].ColumnChunks()[i], nil
}

// Read reads the rows of a span of one row group of one column.
func (r *Reader) Read(group int, s Span, field string) (out *Column, err error) {
	defer recovered(&err)
	chunk, err := r.chunk(group, field)
	if err != nil {
		return nil, err
	}
	// Reading the index first lets the seek below go to the page instead of through all before it.
	if _, err := chunk.OffsetIndex(); err != nil && !errors.Is(err, parquet.ErrMissingOffsetIndex) {
		return nil, fmt.Errorf("column %s: %w", field, err)
	}
	pages := chunk.Pages()
	defer func() { err = errors.Join(err, pages.Close()) }()
	if err := pages.SeekToRow(s.From); err != nil {
		return nil, fmt.Errorf("column %s, row %d: %w", field, s.From, err)
	}
	b := builder{out: &Column{}, need: int(s.To - s.From)}
	for b.have < b.need {
		page, err := pages.ReadPage()
		if err == nil {
			err = b.add(page)
			parquet.Release(page)
		}
		if err != nil {
			return nil, fmt.Errorf("column %s, row %d: %w", field, s.From+int64(b.have), noEOF(err))
		}
	}
	return b.out, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// builder gathers pages into a column.
type builder struct {
	out        *Column
	need, have int
	dictionary parquet.Dictionary // of which out.Dict was made
	codes      map[string]int32   // for pages without a dictionary
}

func (b *builder) add(page parquet.Page) error {
	if left := int64(b.need - b.have); page.NumRows() > left {
		page = page.Slice(0, left)
	}
	rows := int(page.NumRows())
	if rows == 0 {
		return nil
	}
	null := page.NumNulls() > 0
	if null && b.out.Null == nil {
		b.out.Null = make([]bool, b.have, b.need)
	}
	levels := page.DefinitionLevels()
	if b.out.Null != nil {
		for i := range rows {
			b.out.Null = append(b.out.Null, null && levels[i] == 0)
		}
	}
	missing := func(i int) bool { return null && levels[i] == 0 }
	var err error
	switch kind := page.Type().Kind(); {
	case page.Dictionary() != nil && page.Dictionary().Type().Kind() == parquet.ByteArray:
		err = b.addIndexed(page, rows, missing)
	case page.Dictionary() != nil:
		err = b.addValues(page, rows)
	case kind == parquet.Int32:
		data := page.Data()
		err = addInts(b.out, data.Int32(), rows, missing)
	case kind == parquet.Int64:
		data := page.Data()
		err = addInts(b.out, data.Int64(), rows, missing)
	case kind == parquet.ByteArray:
		err = b.addBytes(page, rows, missing)
	}
	b.have += rows
	return err
}

var errShort = errors.New("the page has fewer values than it says")

func addInts[T int32 | int64](c *Column, values []T, rows int, missing func(int) bool) error {
	next := 0
	for i := range rows {
		if missing(i) {
			c.Ints = append(c.Ints, 0)
			continue
		}
		if next >= len(values) {
			return errShort
		}
		c.Ints = append(c.Ints, int64(values[next]))
		next++
	}
	return nil
}

// addIndexed takes a page of indexes into the dictionary of the column chunk.
func (b *builder) addIndexed(page parquet.Page, rows int, missing func(int) bool) error {
	if d := page.Dictionary(); b.dictionary != d {
		if b.dictionary != nil || b.codes != nil {
			return b.addValues(page, rows)
		}
		b.dictionary = d
		b.out.Dict = make([]string, d.Len())
		for i := range b.out.Dict {
			b.out.Dict[i] = string(d.Index(int32(i)).ByteArray())
		}
	}
	data := page.Data()
	values, next := data.Int32(), 0
	for i := range rows {
		if missing(i) {
			b.out.Codes = append(b.out.Codes, -1)
			continue
		}
		if next >= len(values) || int(values[next]) >= len(b.out.Dict) || values[next] < 0 {
			return errShort
		}
		b.out.Codes = append(b.out.Codes, values[next])
		next++
	}
	return nil
}

func (b *builder) addBytes(page parquet.Page, rows int, missing func(int) bool) error {
	held := page.Data()
	data, offsets := held.ByteArray()
	next := 0
	for i := range rows {
		if missing(i) {
			b.out.Codes = append(b.out.Codes, -1)
			continue
		}
		if next+1 >= len(offsets) || int(offsets[next+1]) > len(data) || offsets[next] > offsets[next+1] {
			return errShort
		}
		b.out.Codes = append(b.out.Codes, b.code(data[offsets[next]:offsets[next+1]]))
		next++
	}
	return nil
}

// addValues takes any page, value by value.
func (b *builder) addValues(page parquet.Page, rows int) error {
	values, reader := make([]parquet.Value, 1024), page.Values()
	for done := 0; done < rows; {
		n, err := reader.ReadValues(values[:min(len(values), rows-done)])
		for _, v := range values[:n] {
			switch {
			case v.IsNull() && page.Type().Kind() == parquet.ByteArray:
				b.out.Codes = append(b.out.Codes, -1)
			case v.IsNull():
				b.out.Ints = append(b.out.Ints, 0)
			case v.Kind() == parquet.ByteArray:
				b.out.Codes = append(b.out.Codes, b.code(v.ByteArray()))
			default:
				b.out.Ints = append(b.out.Ints, integer(v))
			}
		}
		done += n
		if done < rows && (err != nil || n == 0) {
			return errShort
		}
	}
	return nil
}

// code is the place of a string in out.Dict.
func (b *builder) code(s []byte) int32 {
	if b.codes == nil {
		b.codes = make(map[string]int32, len(b.out.Dict))
		for i, d := range b.out.Dict {
			b.codes[d] = int32(i)
		}
	}
	c, ok := b.codes[string(s)]
	if !ok {
		c = int32(len(b.out.Dict))
		b.out.Dict = append(b.out.Dict, string(s))
		b.codes[b.out.Dict[c]] = c
	}
	return c
}

func integer(v parquet.Value) int64 {
	if v.Kind() == parquet.Int32 {
		return int64(v.Int32())
	}
	return v.Int64()
}
