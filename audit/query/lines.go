package query

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
	"github.com/culvert-net/culvert/audit/parquetfile"
)

const (
	// batchRows is how many lines are looked at together.
	batchRows = 16 << 10
	// maxLine bounds one line, in bytes: a record has less than a tenth of it.
	maxLine = 1 << 20
)

// open gives what a text file says, decompressed when it is.
func open(r io.ReaderAt, size int64) (*bufio.Reader, error) {
	in := bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 256<<10)
	magic, err := in.Peek(2)
	if err != nil || magic[0] != 0x1f || magic[1] != 0x8b {
		return in, nil // not compressed; reading tells what else is wrong
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, fmt.Errorf("not gzip as it claims: %w", err)
	}
	return bufio.NewReaderSize(z, 256<<10), nil
}

// lines calls yield for each line, numbered from 1. A last line without its end counts: files may be written while they are read, and
// then yield gets to know that it is the last.
func lines(in *bufio.Reader, yield func(n int, line []byte, whole bool) error) error {
	var long []byte
	for n := 1; ; n++ {
		line, err := in.ReadSlice('\n')
		for long = long[:0]; err == bufio.ErrBufferFull && len(long) <= maxLine; line, err = in.ReadSlice('\n') {
			long = append(long, line...)
		}
		if len(long) > 0 {
			long = append(long, line...)
			line = long
		}
		if len(line) > maxLine {
			return fmt.Errorf("line %d is longer than %d bytes", n, maxLine)
		}
		whole := err == nil
		if err != nil && err != io.EOF {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 {
			if err := yield(n, line, whole); err != nil {
				return fmt.Errorf("line %d: %w", n, err)
			}
		}
		if !whole {
			return nil
		}
	}
}

// builder makes batches of lines.
type builder struct {
	fields  []format.Field // the ones needed
	columns []*parquetfile.Column
	codes   []map[string]int32
	rows    int
	full    func(*batch) error
}

func newBuilder(fields []format.Field, full func(*batch) error) *builder {
	b := &builder{fields: fields, full: full}
	b.empty()
	return b
}

func (b *builder) empty() {
	b.rows = 0
	b.columns, b.codes = make([]*parquetfile.Column, len(b.fields)), make([]map[string]int32, len(b.fields))
	for i := range b.fields {
		b.columns[i], b.codes[i] = &parquetfile.Column{}, map[string]int32{}
	}
}

func (b *builder) text(i int, s string) {
	code := int32(-1)
	if s != "" {
		var ok bool
		if code, ok = b.codes[i][s]; !ok {
			code = int32(len(b.columns[i].Dict))
			b.codes[i][s] = code
			b.columns[i].Dict = append(b.columns[i].Dict, s)
		}
	}
	b.columns[i].Codes = append(b.columns[i].Codes, code)
}

func (b *builder) int(i int, n int64, ok bool) {
	b.columns[i].Ints, b.columns[i].Null = append(b.columns[i].Ints, n), append(b.columns[i].Null, !ok)
}

func (b *builder) row() error {
	if b.rows++; b.rows < batchRows {
		return nil
	}
	return b.flush()
}

func (b *builder) flush() error {
	if b.rows == 0 {
		return nil
	}
	out := &batch{rows: b.rows, columns: map[string]*parquetfile.Column{}}
	for i, f := range b.fields {
		out.columns[f.Name] = b.columns[i]
	}
	b.empty()
	return b.full(out)
}

// known is the field of a name or column of a file; one that the registry does not have is text.
func known(name string) format.Field {
	if f, ok := format.Lookup(name); ok {
		return f
	}
	return format.Field{Name: strings.ReplaceAll(name, "_", "-")}
}

// readText reads AWS's text: a line of names, then a line of words for each row.
func (q *Query) readText(in *bufio.Reader, full func(*batch) error) error {
	var b *builder
	var at []int // field of each word that is needed, else -1
	err := lines(in, func(n int, line []byte, _ bool) error {
		words := strings.Fields(string(line))
		if b == nil {
			var err error
			b, at, err = q.header(words, full)
			return err
		}
		if len(words) != len(at) {
			return fmt.Errorf("%d words under a heading of %d", len(words), len(at))
		}
		for i, w := range words {
			if at[i] < 0 {
				continue
			}
			if w == format.Missing {
				w = ""
			}
			if b.fields[at[i]].Type == format.String {
				b.text(at[i], w)
				continue
			}
			v, err := strconv.ParseInt(w, 10, 64)
			if err != nil && w != "" {
				return fmt.Errorf("%s: %q is no number", b.fields[at[i]].Name, w)
			}
			b.int(at[i], v, w != "")
		}
		return b.row()
	})
	if err != nil || b == nil {
		return err
	}
	return b.flush()
}

// header reads the names of the columns.
func (q *Query) header(words []string, full func(*batch) error) (*builder, []int, error) {
	place := map[string]int{}
	for i, w := range words {
		place[known(w).Name] = i
	}
	has := func(f string) bool { _, ok := place[f]; return ok }
	if f := q.missing(has); f != "" {
		return nil, nil, noField(f)
	}
	at := make([]int, len(words))
	for i := range at {
		at[i] = -1
	}
	var fields []format.Field
	for _, f := range q.needs(has) {
		at[place[f]] = len(fields)
		fields = append(fields, known(f))
	}
	return newBuilder(fields, full), at, nil
}

func noField(f string) error {
	return api.Errorf(api.CodeInvalidParameter, "--from", "ask without it, or let the flow log deliver it",
		"its format has no field %s", f)
}

// readJSON reads delivered JSON lines, or an evidence segment.
func (q *Query) readJSON(in *bufio.Reader, full func(*batch) error) error {
	r := &jsonReader{q: q, full: full, words: q.words()}
	err := lines(in, func(_ int, line []byte, whole bool) error {
		err := r.line(line)
		if err != nil && !whole {
			return nil // being written just now
		}
		return err
	})
	if err != nil || r.b == nil {
		return err
	}
	return r.b.flush()
}

type jsonReader struct {
	q     *Query
	full  func(*batch) error
	b     *builder
	words [][][]byte
}

// What begins lines of evidence that are no flow records.
var (
	sealLine  = []byte(`{"seal":`)
	queryLine = []byte(`{"query":`)
	// recordWord is in every flow record as nodes write it, and in no delivered line.
	recordWord = []byte(`"logStatus":`)
)

func (r *jsonReader) line(line []byte) error {
	switch {
	case bytes.HasPrefix(line, sealLine) || bytes.HasPrefix(line, queryLine):
		return nil
	case bytes.Contains(line, recordWord):
		return r.record(line)
	}
	return r.delivered(line)
}

// literal are fields whose values stand in a record as they are.
var literal = map[string]bool{
	"account-id": true, "interface-id": true, "vpc-id": true, "endpoint-id": true, "connection-id": true, "service-id": true,
	"service-name": true, "consumer-account": true, "provider-account": true, "rule-id": true, "reason": true, "node": true,
	"srcaddr": true, "dstaddr": true, "pkt-srcaddr": true, "pkt-dstaddr": true, "nat-srcaddr": true, "nat-dstaddr": true,
}

// words are those of which each record that matches has one, of each list: lines without need not be decoded.
func (q *Query) words() [][][]byte {
	var out [][][]byte
	for _, clause := range q.Where {
		var list [][]byte
		for _, c := range clause {
			if c.Not || !literal[c.Field] {
				list = nil
				break
			}
			for _, v := range c.Equal {
				word, err := json.Marshal(v)
				if err != nil {
					return nil
				}
				list = append(list, word)
			}
		}
		if len(list) > 0 {
			out = append(out, list)
		}
	}
	return out
}

// may tells whether a record's line may match. One that declares losses makes a line that has fewer fields, which no word is in.
func (r *jsonReader) may(line []byte) bool {
	for _, list := range r.words {
		if !slices.ContainsFunc(list, func(w []byte) bool { return bytes.Contains(line, w) }) {
			return false
		}
	}
	return true
}

// record is a flow record as its node wrote it, which makes a line for each direction.
func (r *jsonReader) record(line []byte) error {
	if r.b != nil && !r.may(line) {
		return nil
	}
	rec := new(api.FlowRecord)
	if err := json.Unmarshal(line, rec); err != nil {
		return fmt.Errorf("no flow record: %w", err)
	}
	if r.b == nil {
		has := func(f string) bool { _, ok := format.Lookup(f); return ok }
		if f := r.q.missing(has); f != "" {
			return noField(f)
		}
		r.start(has)
	}
	rows := format.Rows(rec, 1)
	for i := range rows {
		if err := r.b.addRow(&rows[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *jsonReader) start(has func(string) bool) {
	var fields []format.Field
	for _, f := range r.q.needs(has) {
		fields = append(fields, known(f))
	}
	r.b = newBuilder(fields, r.full)
}

func (b *builder) addRow(row *format.Row) error {
	for i, f := range b.fields {
		if f.Type == format.String {
			s, _ := f.Value(row)
			b.text(i, s)
			continue
		}
		n, ok := f.Int(row)
		b.int(i, n, ok)
	}
	return b.row()
}

// delivered is a line of a flow log: an object whose keys are columns.
func (r *jsonReader) delivered(line []byte) error {
	var object map[string]any
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if err := d.Decode(&object); err != nil {
		return fmt.Errorf("no JSON object: %w", err)
	}
	if r.b == nil {
		has := func(f string) bool { _, ok := object[parquetfile.ColumnName(f)]; return ok }
		if f := r.q.missing(has); f != "" {
			return noField(f)
		}
		r.start(has)
	}
	for i, f := range r.b.fields {
		switch v := object[parquetfile.ColumnName(f.Name)].(type) {
		case nil:
			r.b.none(i)
		case string:
			if f.Type != format.String {
				return fmt.Errorf("%s: %q is no number", f.Name, v)
			}
			r.b.text(i, v)
		case json.Number:
			n, err := v.Int64()
			if err != nil || f.Type == format.String {
				return fmt.Errorf("%s: unexpected number %s", f.Name, v)
			}
			r.b.int(i, n, true)
		default:
			return fmt.Errorf("%s: neither text nor number", f.Name)
		}
	}
	return r.b.row()
}

func (b *builder) none(i int) {
	if b.fields[i].Type == format.String {
		b.text(i, "")
		return
	}
	b.int(i, 0, false)
}
