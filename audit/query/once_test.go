package query

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
)

func groupsOf(t *testing.T, fsys fstest.MapFS, by ...string) ([]Group, Work) {
	t.Helper()
	a, err := Run(context.Background(), FS(fsys), Query{Group: by})
	if err != nil {
		t.Fatal(err)
	}
	return a.Groups, a.Work
}

// renamed has the files under other names.
func renamed(fsys fstest.MapFS, old, with string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, f := range fsys {
		out[strings.ReplaceAll(name, old, with)] = f
	}
	return out
}

func together(all ...fstest.MapFS) fstest.MapFS {
	out := fstest.MapFS{}
	for _, fsys := range all {
		maps.Copy(out, fsys)
	}
	return out
}

// TestEachRecordCountsOnce: an hour that is there packed and plain, a bundle's own records beside its segments, two copies of evidence, two
// flow logs that delivered the same.
func TestEachRecordCountsOnce(t *testing.T) {
	recs := records(rand.New(rand.NewPCG(21, 22)), 400)
	one := render(t, "evidence", format.All, recs)
	by := []string{"node", "reply", "log-status"}
	want, _ := groupsOf(t, one, by...)
	packed, bundle := fstest.MapFS{}, maps.Clone(one)
	for name, f := range one {
		if strings.HasSuffix(name, ".ndjson") {
			packed[name+".gz"] = &fstest.MapFile{Data: zipped(t, f.Data)}
			bundle["records.ndjson"] = f
		}
	}
	logs := func(form, fields string) fstest.MapFS {
		f := render(t, form, fields, recs)
		return together(f, renamed(f, "_fl-1_", "_fl-2_"))
	}
	for what, fsys := range map[string]fstest.MapFS{
		"packed and plain":               together(one, packed),
		"packed and plain, segments":     together(renamed(one, "segments/", ""), renamed(packed, "segments/", "")),
		"packed and plain, below":        together(renamed(one, "segments/", "march/segments/"), renamed(packed, "segments/", "march/segments/")),
		"a bundle":                       bundle,
		"evidence and what is delivered": together(one, render(t, "parquet", format.All, recs)),
		"two copies":                     together(renamed(one, "segments/", "march/segments/"), renamed(one, "segments/", "april/segments/")),
		"two flow logs, Parquet":         logs("parquet", format.All),
		"two flow logs, text":            logs("text", format.All),
		"two flow logs, JSON":            logs("json", format.All),
	} {
		have, work := groupsOf(t, fsys, by...)
		if !reflect.DeepEqual(have, want) {
			t.Errorf("%s: %d lines match, %d of them again: the sums are others", what, work.Matched, work.Again)
		}
	}
	// What cannot be told apart counts as often as it is there.
	have, work := groupsOf(t, logs("text", format.Default), "account-id")
	if work.Again != 0 || have[0].Lines%2 != 0 {
		t.Errorf("of a format without numbers lines are left out: %+v", work)
	}
	// One flow log repeats nothing, and nothing is compared.
	if _, work := groupsOf(t, render(t, "parquet", format.All, recs), by...); work.Again != 0 {
		t.Errorf("one flow log: %+v", work)
	}
}

// TestLinesOfOneNumberStay: an answer and a declared loss have the number of another line, and are not it.
func TestLinesOfOneNumberStay(t *testing.T) {
	at := begin.Add(time.Hour)
	r := api.FlowRecord{Node: "node-a", Boot: "b", Sequence: 7, LogStatus: format.StatusOK, Action: api.ActionAccept, Start: at, End: at,
		Packets: 3, Bytes: 300, ReplyPackets: 2, ReplyBytes: 200, Lost: 4}
	other := r
	other.Node = "node-b"
	fsys := together(render(t, "evidence", format.All, []api.FlowRecord{r, other}),
		renamed(render(t, "json", strings.ReplaceAll(format.All, "${region}", ""), []api.FlowRecord{r, other}), "AWSLogs", "x"))
	delete(fsys, "log/checkpoint")
	have, work := groupsOf(t, renamed(fsys, "segments/", "copy/segments/"), "log-status", "reply")
	lines := int64(0)
	for _, g := range have {
		lines += g.Lines
	}
	if lines != 6 || work.Again != 6 || work.Matched != 12 {
		t.Errorf("%d lines of two records with answers and losses: %+v", lines, work)
	}
	s := newSeen()
	for i, k := range []stream{{node: "n"}, {node: "m"}, {node: "n", kind: 1}, {node: "n", boot: "b"}} {
		for _, n := range []int64{0, 63, 64, chunkLines, chunkLines * 1000} {
			records := int64(1 + i%3)
			for try := range 2 {
				if had, err := s.note(k, n, records); err != nil || had != (try == 1) {
					t.Errorf("%+v, %d, try %d: %t %v", k, n, try, had, err)
				}
			}
			if _, err := s.note(k, n, records+1); err == nil {
				t.Errorf("%+v, %d: of %d and of %d records", k, n, records, records+1)
			}
		}
	}
	s.size = maxRemembered
	if _, err := s.note(stream{node: "n"}, 1, 1); err != nil {
		t.Error(err) // known already
	}
	if _, err := s.note(stream{node: "new"}, 1, 1); !errors.Is(err, &api.Error{Code: api.CodeLimitExceeded}) {
		t.Errorf("more than may be remembered: %v", err)
	}
}

// TestCopiesOfOneFlowLog count once: the name of a file tells what is in it. One that is cut short is found.
func TestCopiesOfOneFlowLog(t *testing.T) {
	recs := records(rand.New(rand.NewPCG(31, 32)), 300)
	for _, form := range []string{"parquet", "text", "json"} {
		one := render(t, form, format.Default, recs) // whose lines are not told apart
		want, _ := groupsOf(t, one, "action")
		both := together(one, renamed(one, "AWSLogs/", "restored/AWSLogs/"))
		have, work := groupsOf(t, both, "action")
		if !reflect.DeepEqual(have, want) || work.Beside == 0 || !strings.Contains(work.String(), "passed over") {
			t.Errorf("%s: %s: the sums are others", form, work)
		}
		for name, f := range both {
			if strings.HasPrefix(name, "restored/") {
				both[name] = &fstest.MapFile{Data: f.Data[:len(f.Data)-1]}
			}
		}
		if _, err := Run(t.Context(), FS(both), Query{Group: []string{"action"}}); !errors.Is(err, &api.Error{Code: api.CodeInvalidParameter}) {
			t.Errorf("%s: copies that differ: %v", form, err)
		}
	}
}

// TestFilesOfSeveralAccounts are not mixed: what one sees whole the other sees redacted.
func TestFilesOfSeveralAccounts(t *testing.T) {
	recs := records(rand.New(rand.NewPCG(33, 34)), 300)
	whole := render(t, "text", format.All, recs)
	for i := range recs {
		recs[i].Interface, recs[i].Tuple.DstAddr = "", ""
	}
	redacted := render(t, "text", format.All, recs)
	redacted = renamed(renamed(redacted, "/1/vpcflowlogs/", "/2/vpcflowlogs/"), "1_vpcflowlogs_eu_fl-1_", "2_vpcflowlogs_eu_fl-2_")
	both := together(whole, redacted)
	q := Query{Group: []string{"interface-id", "dstaddr"}}
	_, err := Run(t.Context(), FS(both), q)
	if !errors.Is(err, &api.Error{Code: api.CodeInvalidCombination}) || !strings.Contains(err.Error(), "[1 2]") {
		t.Fatalf("both accounts' together: %v", err)
	}
	for of, choose := range map[*fstest.MapFS]func(*Query){
		&whole:    func(q *Query) { q.Owner = "1" },
		&redacted: func(q *Query) { q.FlowLog = "fl-2" },
	} {
		want, _ := groupsOf(t, *of, q.Group...)
		chosen := q
		choose(&chosen)
		have, err := Run(t.Context(), FS(both), chosen)
		if err != nil || !reflect.DeepEqual(have.Groups, want) || have.Work.Again != 0 {
			t.Errorf("one account's: %v", err)
		}
	}
	for _, choose := range []func(*Query){func(q *Query) { q.Owner = "3" }, func(q *Query) { q.FlowLog = "fl-3" }} {
		refused := q
		choose(&refused)
		if _, err := Run(t.Context(), FS(both), refused); err == nil {
			t.Errorf("%+v is answered", refused)
		}
	}
}

// TestTwoAggregations are not summed: no line of one is a line of the other, and their records are the same.
func TestTwoAggregations(t *testing.T) {
	fields, err := format.Parse(format.All)
	if err != nil {
		t.Fatal(err)
	}
	recs := make([]api.FlowRecord, 6)
	for i := range recs {
		at := begin.Add(time.Duration(i) * time.Minute)
		recs[i] = api.FlowRecord{Node: "node-a", Boot: "b", Sequence: uint64(i + 1), LogStatus: format.StatusOK, Action: api.ActionAccept,
			Start: at, End: at, Packets: 3, Bytes: 300, FlowID: "f"}
	}
	joined := func(log string, interval time.Duration) fstest.MapFS {
		text := append([]byte(format.Header(fields)), '\n')
		for _, j := range format.Aggregate(recs, interval) {
			for _, row := range format.Rows(&j.FlowRecord, j.Records) {
				text = format.AppendText(text, fields, &row)
			}
		}
		return fstest.MapFS{"1_vpcflowlogs_eu_" + log + "_20260301T1205Z_abcd.log.gz": {Data: zipped(t, text)}}
	}
	short, long := joined("fl-1", time.Minute), joined("fl-2", 10*time.Minute)
	q := Query{Group: []string{"node"}}
	if _, err := Run(t.Context(), FS(together(short, long)), q); !errors.Is(err, &api.Error{Code: api.CodeInvalidCombination}) ||
		!strings.Contains(err.Error(), "different times") {
		t.Errorf("both together: %v", err)
	}
	for _, log := range []string{"fl-1", "fl-2"} {
		q.FlowLog = log
		if a, err := Run(t.Context(), FS(together(short, long)), q); err != nil || a.Groups[0].Packets != 18 {
			t.Errorf("%s alone: %+v %v", log, a, err)
		}
	}
	q.FlowLog = ""
	if a, err := Run(t.Context(), FS(together(long, joined("fl-3", 10*time.Minute))), q); err != nil || a.Groups[0].Packets != 18 {
		t.Errorf("two of one interval: %+v %v", a, err)
	}
}

// TestPeriodsMeet: months that follow each other have each record once, also one that lies across their bound.
func TestPeriodsMeet(t *testing.T) {
	recs := records(rand.New(rand.NewPCG(23, 24)), 2000)
	bound := begin.Add(24 * time.Hour)
	for i := range 50 {
		recs[i].Start, recs[i].End = bound.Add(-time.Second), bound.Add(time.Duration(i-25)*time.Second)
	}
	for _, form := range forms {
		src := FS(render(t, form, format.All, recs))
		count := func(since, until time.Time) (lines int64) {
			a, err := Run(context.Background(), src, Query{Since: since, Until: until, Group: []string{"action"}})
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range a.Groups {
				lines += g.Lines
			}
			return lines
		}
		end := begin.Add(96 * time.Hour)
		if first, second, all := count(begin, bound), count(bound, end), count(begin, end); first == 0 || second == 0 || first+second != all {
			t.Errorf("%s: %d before and %d behind of %d", form, first, second, all)
		}
	}
}
