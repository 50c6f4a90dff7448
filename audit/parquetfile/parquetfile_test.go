package parquetfile

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
)

var begin = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// rows makes n lines in random order of time, some without this or that.
func rows(rng *rand.Rand, n int) []format.Row {
	out := make([]format.Row, n)
	for i := range out {
		end := begin.Add(time.Duration(rng.IntN(86400)) * time.Second)
		r := &api.FlowRecord{
			Node: "node-1", Boot: "boot", Sequence: uint64(i + 1), Account: "111122223333",
			Interface: fmt.Sprintf("eni-%d", rng.IntN(20)), VPC: "vpc-1", Start: end.Add(-time.Second), End: end,
			Action: []string{api.ActionAccept, api.ActionReject}[rng.IntN(2)], LogStatus: format.StatusOK, Reason: "FORWARDED",
			Protocol: []int{6, 17}[rng.IntN(2)], Direction: []string{"egress", "ingress"}[rng.IntN(2)],
			Tuple: api.FlowTuple{SrcAddr: fmt.Sprintf("10.0.0.%d", rng.IntN(250)), SrcPort: uint16(rng.IntN(65536)),
				DstAddr: fmt.Sprintf("10.0.1.%d", rng.IntN(250)), DstPort: uint16(rng.IntN(1000))},
			Packets: rng.Uint64N(1000), Bytes: rng.Uint64N(1 << 40), FlowID: fmt.Sprintf("%016x", rng.Uint64()),
		}
		r.Translated = r.Tuple
		if rng.IntN(3) == 0 {
			r.Endpoint, r.Connection = fmt.Sprintf("vpce-%d", rng.IntN(500)), "vpce-con-1"
		}
		out[i] = format.Row{FlowRecord: r, Records: 1}
		if rng.IntN(50) == 0 {
			out[i] = format.NoData("111122223333", "eni-1", "vpc-1", "", r.Start, r.End)
		}
	}
	return out
}

func write(t *testing.T, f string, rows []format.Row, groupRows int) []byte {
	t.Helper()
	fields, err := format.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := NewWriter(&b, fields)
	if err != nil {
		t.Fatal(err)
	}
	w.groupRows = groupRows
	for chunk := range slices.Chunk(rows, 777) {
		if err := w.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	if w.Rows() != int64(len(rows)) {
		t.Errorf("the writer counts %d rows of %d", w.Rows(), len(rows))
	}
	most := w.Size()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if footer := int64(len(fields)) * 2000 * int64(1+len(rows)/groupRows); int64(b.Len()) > most+footer {
		t.Errorf("the file has %d bytes, the writer said at most %d", b.Len(), most)
	}
	if err := w.Write(rows); err == nil {
		t.Error("a closed writer takes rows")
	}
	return b.Bytes()
}

func open(t *testing.T, file []byte) *Reader {
	t.Helper()
	r, err := Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// cell is one value as text, "" for a missing one.
func cell(c *Column, i int) string {
	switch {
	case c.IsInt() && !c.Missing(i):
		return strconv.FormatInt(c.Ints[i], 10)
	case !c.IsInt() && c.Codes[i] >= 0:
		return c.Dict[c.Codes[i]]
	}
	return ""
}

// table reads a span of all columns, as lines.
func table(t *testing.T, r *Reader, group int, s Span, fields []format.Field) []string {
	t.Helper()
	out := make([]string, s.To-s.From)
	for _, f := range fields {
		c, err := r.Read(group, s, f.Name)
		if err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		if c.Len() != len(out) {
			t.Fatalf("%s has %d rows, want %d", f.Name, c.Len(), len(out))
		}
		for i := range out {
			out[i] += cmp.Or(cell(c, i), format.Missing) + " "
		}
	}
	return out
}

func lines(fields []format.Field, rows []format.Row) []string {
	out := make([]string, len(rows))
	for i := range rows {
		for _, f := range fields {
			out[i] += f.Text(&rows[i]) + " "
		}
	}
	return out
}

// TestEveryFieldComesBack: what is read is what was written, sorted by end within each row group, in the format's columns.
func TestEveryFieldComesBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	in := rows(rng, 20_000)
	file := write(t, format.All, in, 17_000)
	r := open(t, file)
	fields, _ := format.Parse(format.All)
	var names []string
	for _, f := range fields {
		names = append(names, strings.ReplaceAll(f.Name, "-", "_"))
	}
	if !slices.Equal(r.Columns(), names) {
		t.Errorf("columns %v, want those of the format in its order", r.Columns())
	}
	if r.Groups() != 2 {
		t.Fatalf("%d row groups, want 2", r.Groups())
	}
	for g := range r.Groups() {
		part := slices.Clone(in[g*17_000 : min((g+1)*17_000, len(in))])
		slices.SortStableFunc(part, func(a, b format.Row) int { return cmp.Compare(a.End.Unix(), b.End.Unix()) })
		want := lines(fields, part)
		have := table(t, r, g, Span{0, r.Rows(g)}, fields)
		if !slices.Equal(have, want) {
			t.Fatalf("row group %d differs", g)
		}
		for range 2 {
			from := rng.Int64N(r.Rows(g))
			s := Span{from, from + 1 + rng.Int64N(r.Rows(g)-from)}
			if !slices.Equal(table(t, r, g, s, fields), want[s.From:s.To]) {
				t.Errorf("rows %d to %d of row group %d differ", s.From, s.To, g)
			}
		}
	}
	perRow := float64(len(file)) / float64(len(in))
	t.Logf("%.1f bytes a row of %d fields", perRow, len(fields))
}

// TestSelectLosesNothing: what Select leaves out does not match, and it leaves out most where statistics or filters can tell.
func TestSelectLosesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	in := rows(rng, 60_000)
	r := open(t, write(t, "${end} ${endpoint-id} ${srcaddr} ${dstaddr} ${dstport} ${protocol} ${rule-id} ${sequence}", in, 40_000))
	at := begin.Add(5 * time.Hour).Unix()
	until := at + 600
	for name, test := range map[string]struct {
		clauses [][]Test
		match   func(*format.Row) bool
		most    int64 // rows that may be left
	}{
		"time": {[][]Test{{{Field: "end", Min: &at, Max: &until}}},
			func(r *format.Row) bool { return r.End.Unix() >= at && r.End.Unix() <= until }, 4 * pageRows},
		"endpoint that is not there": {[][]Test{{{Field: "endpoint-id", Equal: []string{"vpce-25x"}}}},
			func(*format.Row) bool { return false }, 20_000}, // one false positive in some hundred
		"address of two": {[][]Test{{{Field: "srcaddr", Equal: []string{"10.0.0.7"}}, {Field: "dstaddr", Equal: []string{"10.0.0.7"}}}},
			func(r *format.Row) bool {
				t := r.Tuple
				return r.LogStatus == format.StatusOK && (t.SrcAddr == "10.0.0.7" || t.DstAddr == "10.0.0.7")
			}, 60_000},
		"number": {[][]Test{{{Field: "dstport", Equal: []string{"443", "x"}}}, {{Field: "protocol", Equal: []string{"6"}}}},
			func(r *format.Row) bool {
				return r.LogStatus == format.StatusOK && r.Tuple.DstPort == 443 && r.Protocol == 6
			}, 60_000},
		"a word for a number": {[][]Test{{{Field: "dstport", Equal: []string{"https"}}}}, func(*format.Row) bool { return false }, 0},
		"out of range":        {[][]Test{{{Field: "dstport", Equal: []string{"2000"}}}}, func(*format.Row) bool { return false }, 0},
		"nothing has it":      {[][]Test{{{Field: "rule-id", Equal: []string{"sgr-1"}}}}, func(*format.Row) bool { return false }, 0},
	} {
		var left int64
		kept := map[string]bool{}
		for g := range r.Groups() {
			spans, err := r.Select(g, test.clauses)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, s := range spans {
				left += s.To - s.From
				c, err := r.Read(g, s, "sequence")
				if err != nil {
					t.Fatal(err)
				}
				for i := range c.Len() {
					kept[cell(c, i)] = true
				}
			}
		}
		if left > test.most {
			t.Errorf("%s: %d rows are left, want at most %d", name, left, test.most)
		}
		for i := range in {
			if in[i].Sequence != 0 && test.match(&in[i]) && !kept[fmt.Sprint(in[i].Sequence)] {
				t.Fatalf("%s: row %d matches and is left out", name, in[i].Sequence)
			}
		}
	}
	if _, err := r.Select(0, [][]Test{{{Field: "no-such", Equal: []string{"1"}}}}); err == nil {
		t.Error("a column that is not there is no error")
	}
}

// TestDamagedFilesAreErrors: no byte that is changed or cut makes the reader panic or hang.
func TestDamagedFilesAreErrors(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	file := write(t, "${end} ${srcaddr} ${bytes} ${flow-id}", rows(rng, 3000), 2000)
	found := 0
	for range 400 {
		bad := slices.Clone(file)
		if rng.IntN(4) == 0 {
			bad = bad[:rng.IntN(len(bad))]
		} else {
			bad[rng.IntN(len(bad))] ^= byte(1 + rng.IntN(255))
		}
		if readAll(bad) != nil {
			found++
		}
	}
	if found < 100 {
		t.Errorf("%d of 400 damages were noticed: pages have checksums", found)
	}
}

func readAll(file []byte) error {
	r, err := Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return err
	}
	at := int64(1)
	for g := range r.Groups() {
		if _, err := r.Select(g, [][]Test{{{Field: "end", Min: &at}}, {{Field: "srcaddr", Equal: []string{"10.0.0.1"}}}}); err != nil {
			return err
		}
		for _, c := range r.Columns() {
			if _, err := r.Read(g, Span{0, min(r.Rows(g), 10_000)}, c); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestFormatsThatAreNoFile(t *testing.T) {
	fields, err := format.Parse(format.Default)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewWriter(&bytes.Buffer{}, append(fields, fields[0])); err == nil {
		t.Error("a column twice is no error")
	}
	if _, err := NewWriter(&bytes.Buffer{}, nil); err == nil {
		t.Error("no column is no error")
	}
}

// TestMemoryIsBounded: the writer holds a row group, not the file.
func TestMemoryIsBounded(t *testing.T) {
	fields, err := format.Parse(format.Default)
	if err != nil {
		t.Fatal(err)
	}
	var sink counter
	w, err := NewWriter(&sink, fields)
	if err != nil {
		t.Fatal(err)
	}
	w.groupRows = 10_000
	in := rows(rand.New(rand.NewPCG(7, 8)), 5000)
	most := uint64(0)
	for i := range 20 {
		if err := w.Write(in); err != nil {
			t.Fatal(err)
		}
		if i%5 == 4 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
	}
	if sink < 200_000 {
		t.Errorf("after 10 row groups only %d bytes are written", sink)
	}
	if most > 100<<20 {
		t.Errorf("%d MiB are held for row groups of 10,000 rows", most>>20)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// BenchmarkWrite tells CPU per million rows and bytes per row of all fields.
func BenchmarkWrite(b *testing.B) {
	fields, err := format.Parse(format.All)
	if err != nil {
		b.Fatal(err)
	}
	in := rows(rand.New(rand.NewPCG(9, 10)), 100_000)
	for b.Loop() {
		var sink counter
		w, err := NewWriter(&sink, fields)
		if err != nil {
			b.Fatal(err)
		}
		if err := w.Write(in); err != nil {
			b.Fatal(err)
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(sink)/float64(len(in)), "bytes/row")
	}
	b.ReportMetric(float64(b.Elapsed().Seconds())/float64(b.N)/float64(len(in))*1e6, "s/million")
}
