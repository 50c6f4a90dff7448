package query

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
)

// duckDB builds DuckDB, from a module of its own: it takes a C++ compiler, half a minute the first time, and is cached after that.
func duckDB(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "duckdb")
	cmd := exec.Command("go", "build", "-C", "duckdb", "-o", program, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build DuckDB: %v\n%s", err, out)
	}
	return program
}

// inFolder puts files where the document has them.
func inFolder(t *testing.T, dir string, files fs.FS) {
	t.Helper()
	if err := os.CopyFS(dir, files); err != nil {
		t.Fatal(err)
	}
}

// TestDocumentedSQL runs every statement of docs/QUERIES.md with DuckDB over the files that this package reads, and compares with its own
// answers.
func TestDocumentedSQL(t *testing.T) {
	doc, err := os.ReadFile("../../docs/QUERIES.md")
	if err != nil {
		t.Fatal(err)
	}
	var statements bytes.Buffer
	blocks := regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllSubmatch(doc, -1)
	for _, b := range blocks {
		statements.Write(b[1])
	}
	recs := records(rand.New(rand.NewPCG(21, 22)), 5000)
	dir := t.TempDir()
	ours := map[string]Source{}
	for _, form := range forms {
		files := render(t, form, format.All, recs)
		ours[form] = FS(files)
		to := "flow-logs/" + form
		if form == "evidence" {
			to = "evidence"
		}
		inFolder(t, filepath.Join(dir, to), files)
	}
	cmd := exec.Command(duckDB(t))
	cmd.Dir, cmd.Stdin = dir, &statements
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var have [][][]string
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var rows [][]string
		if err := d.Decode(&rows); err != nil {
			t.Fatal(err)
		}
		have = append(have, rows)
	}
	want := []func(*testing.T, map[string]Source) [][]string{answered, march, refusedBy, ports, reasons(recs), contacts}
	if len(have) != len(blocks) || len(want) != len(blocks) {
		t.Fatalf("%d statements in the document, %d answers, %d expected", len(blocks), len(have), len(want))
	}
	for i, w := range want {
		if rows := w(t, ours); len(rows) == 0 || !reflect.DeepEqual(have[i], rows) {
			t.Errorf("%s\nDuckDB says %v,\nthe engine   %v", blocks[i][1], have[i], rows)
		}
	}
}

func ask(t *testing.T, src Source, q Query) []Group {
	t.Helper()
	a, err := Run(context.Background(), src, q)
	if err != nil {
		t.Fatal(err)
	}
	return a.Groups
}

func stamp(s int64) string { return time.Unix(s, 0).UTC().Format(time.RFC3339) }

func answered(t *testing.T, src map[string]Source) (out [][]string) {
	groups := ask(t, src["parquet"], Query{Where: []Clause{Is("action", "ACCEPT"), Is("flow-direction", "egress")}, Group: []string{"srcaddr", "dstaddr"}})
	slices.SortStableFunc(groups, func(a, b Group) int { return int(b.Bytes - a.Bytes) })
	for _, g := range groups[:10] {
		out = append(out, []string{g.Key[0], g.Key[1], itoa(g.Bytes), itoa(g.Packets)})
	}
	return out
}

func march(t *testing.T, src map[string]Source) [][]string {
	g := ask(t, src["parquet"], Query{Where: []Clause{Is("connection-id", "vpce-con-1")}, Group: []string{"connection-id"},
		Since: begin, Until: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)})[0]
	return [][]string{{itoa(g.Lines), stamp(g.First), stamp(g.Last)}}
}

func refusedBy(t *testing.T, src map[string]Source) (out [][]string) {
	groups := ask(t, src["text"], Query{Where: []Clause{Is("action", "REJECT")}, Group: []string{"reason", "flow-direction"}})
	slices.SortStableFunc(groups, func(a, b Group) int { return int(b.Lines - a.Lines) })
	for _, g := range groups {
		out = append(out, []string{g.Key[0], g.Key[1], itoa(g.Lines), itoa(g.Packets)})
	}
	return out
}

func ports(t *testing.T, src map[string]Source) (out [][]string) {
	sources, bytes := map[int]int{}, map[int]int64{}
	for _, g := range ask(t, src["json"], Query{Where: []Clause{Is("protocol", "6"), Is("reply", "0")}, Group: []string{"dstport", "srcaddr"}}) {
		port, err := strconv.Atoi(g.Key[0])
		if err != nil {
			t.Fatal(err)
		}
		sources[port]++
		bytes[port] += g.Bytes
	}
	for _, port := range []int{53, 443, 8443} {
		out = append(out, []string{strconv.Itoa(port), strconv.Itoa(sources[port]), itoa(bytes[port])})
	}
	return out
}

// reasons goes through the records: evidence holds them, not lines.
func reasons(recs []api.FlowRecord) func(*testing.T, map[string]Source) [][]string {
	return func(*testing.T, map[string]Source) (out [][]string) {
		count, packets := map[string]int64{}, map[string]int64{}
		for _, r := range recs {
			count[r.Reason]++
			packets[r.Reason] += int64(r.Packets + r.ReplyPackets)
		}
		for _, reason := range []string{"FORWARDED", "GROUP_INGRESS"} {
			out = append(out, []string{reason, itoa(count[reason]), itoa(packets[reason])})
		}
		return out
	}
}

func contacts(t *testing.T, src map[string]Source) (out [][]string) {
	groups := ask(t, src["parquet"], Query{Where: []Clause{Is("action", "ACCEPT"), Is("reply", "0"), Is("log-status", "OK")},
		Group: []string{"srcaddr", "dstaddr", "dstport"}})
	slices.SortStableFunc(groups, func(a, b Group) int {
		if a.First != b.First {
			return int(b.First - a.First)
		}
		x, _ := strconv.Atoi(a.Key[2])
		y, _ := strconv.Atoi(b.Key[2])
		if c := slices.Compare(a.Key[:2], b.Key[:2]); c != 0 {
			return c
		}
		return x - y
	})
	for _, g := range groups[:20] {
		out = append(out, []string{g.Key[0], g.Key[1], g.Key[2], stamp(g.First)})
	}
	return out
}
