package flowlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func record(node string, seq uint64, at time.Time, accounts ...string) api.FlowEnvelope {
	body, _ := json.Marshal(api.FlowRecord{Node: node, Sequence: seq, Action: api.ActionAccept,
		Tuple: api.FlowTuple{DstPort: uint16(seq)}})
	return api.FlowEnvelope{Node: node, Boot: "b", Seq: seq, Accounts: accounts, End: at, Record: body}
}

func open(t *testing.T, dir string) *Log {
	t.Helper()
	l, err := Open(dir, noon)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func appendAll(t *testing.T, l *Log, want int, records ...api.FlowEnvelope) {
	t.Helper()
	got, err := l.Append(records)
	if err != nil || got != want {
		t.Fatalf("Append = %d, %v; want %d", got, err, want)
	}
}

func query(t *testing.T, l *Log, account string, q api.FlowQuery) []string {
	t.Helper()
	var got []string
	if err := l.Query(t.Context(), account, q, func(e api.FlowEnvelope) error {
		got = append(got, fmt.Sprintf("%s%d", e.Node, e.Seq))
		return nil
	}, nil, nil); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestEachRecordOnceAlsoAfterARestart(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	appendAll(t, l, 2, record("a", 1, noon), record("a", 2, noon), record("a", 1, noon))
	appendAll(t, l, 1, record("a", 2, noon), record("a", 4, noon))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// A crash cut the last line short: that record is not stored, and the next append repairs the file.
	f, err := os.OpenFile(filepath.Join(dir, "2026-03-04.ndjson"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"node":"a","boot":"b","seq":5,"acc`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir)
	appendAll(t, l, 2, record("a", 3, noon), record("a", 4, noon), record("a", 5, noon))
	if got := query(t, l, "", api.FlowQuery{}); !slices.Equal(got, []string{"a1", "a2", "a4", "a3", "a5"}) {
		t.Errorf("got %q", got)
	}
}

func TestQuery(t *testing.T) {
	l := open(t, t.TempDir())
	day := 24 * time.Hour
	appendAll(t, l, 5, record("a", 1, noon.Add(-day), "1"), record("a", 2, noon, "1", "2"), record("a", 3, noon.Add(time.Second), "2"),
		record("b", 4, noon.Add(-time.Second), "1"), record("b", 5, noon.Add(day), "1"))
	filter := func(change func(*api.FlowQuery)) api.FlowQuery {
		var q api.FlowQuery
		change(&q)
		return q
	}
	for name, c := range map[string]struct {
		account string
		q       api.FlowQuery
		want    []string
	}{
		"account 1":     {"1", api.FlowQuery{}, []string{"a1", "b4", "a2", "b5"}},
		"account 2":     {"2", api.FlowQuery{}, []string{"a2", "a3"}},
		"account 3":     {"3", api.FlowQuery{}, nil},
		"operator":      {"", api.FlowQuery{}, []string{"a1", "b4", "a2", "a3", "b5"}},
		"newest two":    {"1", filter(func(q *api.FlowQuery) { q.Limit = 2 }), []string{"a2", "b5"}},
		"since":         {"1", filter(func(q *api.FlowQuery) { q.Since = noon }), []string{"a2", "b5"}},
		"until":         {"1", filter(func(q *api.FlowQuery) { q.Until = noon }), []string{"a1", "b4"}},
		"port":          {"1", filter(func(q *api.FlowQuery) { q.Port = 4 }), []string{"b4"}},
		"action":        {"1", filter(func(q *api.FlowQuery) { q.Action = api.ActionReject }), nil},
		"port, account": {"2", filter(func(q *api.FlowQuery) { q.Port = 4 }), nil},
	} {
		if got := query(t, l, c.account, c.q); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	days, err := l.Days()
	if err != nil || len(days) < 2 || days[0].Begin != noon.Truncate(24*time.Hour).AddDate(0, 0, -1) {
		t.Fatalf("days %v, %v", days, err)
	}
	for word, want := range map[string]bool{"1": true, "9": false} {
		if got, err := l.Mentions(days[0], "8", word); got != want || err != nil {
			t.Errorf("mentions %s: %v, %v", word, got, err)
		}
	}
	if err := l.Remove(days[0]); err != nil {
		t.Error(err)
	}
	if got := query(t, l, "1", api.FlowQuery{}); !slices.Equal(got, []string{"b4", "a2", "b5"}) {
		t.Errorf("after pruning: %q", got)
	}
}

// Whoever follows sees every record of its own once, whether it came before, during or after the start.
// Whoever waits for an answer out of a long file hears that it is being read, also where nothing is found.
func TestLongReadsAreHeardOf(t *testing.T) {
	l := open(t, t.TempDir())
	const n = 3*idleLines + 1
	records := make([]api.FlowEnvelope, n)
	for i := range records {
		records[i] = record("node-a", uint64(i+1), noon, "acc-1")
	}
	appendAll(t, l, n, records...)
	for _, reason := range []string{"", "NOT_THERE"} {
		idle := 0
		q := api.FlowQuery{FlowFilter: api.FlowFilter{Reason: reason}}
		err := l.Query(t.Context(), "", q, func(api.FlowEnvelope) error { return nil }, func() error { idle++; return nil }, nil)
		if err != nil || idle != 3 {
			t.Errorf("reason %q: looked up %d times, want 3; %v", reason, idle, err)
		}
	}
	stop := errors.New("gone")
	if err := l.Query(t.Context(), "", api.FlowQuery{}, nil, func() error { return stop }, nil); !errors.Is(err, stop) {
		t.Errorf("of a reader that is gone: %v", err)
	}
}

func TestFollow(t *testing.T) {
	l := open(t, t.TempDir())
	const total = 200
	go func() {
		for i := range total {
			if _, err := l.Append([]api.FlowEnvelope{record("a", uint64(i+1), noon, "1"), record("x", uint64(i+1), noon, "2")}); err != nil {
				t.Error(err)
			}
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	seen := map[uint64]int{}
	done := errors.New("done")
	err := l.Query(ctx, "1", api.FlowQuery{FlowFilter: api.FlowFilter{Limit: total}, Follow: true}, func(e api.FlowEnvelope) error {
		if e.Node != "a" {
			t.Errorf("got a record of %s", e.Node)
		}
		if seen[e.Seq]++; len(seen) == total {
			return done
		}
		return nil
	}, func() error { return nil }, nil)
	if !errors.Is(err, done) {
		t.Fatalf("saw %d of %d: %v", len(seen), total, err)
	}
	for seq, n := range seen {
		if n != 1 {
			t.Errorf("record %d came %d times", seq, n)
		}
	}
}

func TestSlowFollowerIsTold(t *testing.T) {
	l := open(t, t.TempDir())
	bell, r := l.subscribe()
	defer l.unsubscribe(bell)
	l.mu.Lock()
	l.tell(make([]api.FlowEnvelope, maxPending))
	l.tell(make([]api.FlowEnvelope, 1))
	l.mu.Unlock()
	err := l.follow(t.Context(), r, bell, nil, nil, func(api.FlowEnvelope) error { return nil })
	if !errors.Is(err, ErrBehind) {
		t.Errorf("got %v", err)
	}
}

func TestSpansAreASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s spans
		set := map[uint64]bool{}
		for _, n := range rapid.SliceOf(rapid.Uint64Range(0, 30)).Draw(t, "numbers") {
			if s.has(n) != set[n] {
				t.Fatalf("has(%d) = %v before adding", n, s.has(n))
			}
			s.add(n)
			set[n] = true
		}
		for n := range uint64(32) {
			if s.has(n) != set[n] {
				t.Fatalf("has(%d) = %v in %v", n, s.has(n), s.list)
			}
		}
		for i := 1; i < len(s.list); i++ {
			if s.list[i].lo <= s.list[i-1].hi+1 {
				t.Fatalf("ranges touch: %v", s.list)
			}
		}
	})
}

// Records of questions lie among those of flows, with the same numbers, and each is found by its own way only.
func TestQueriesApartFromFlows(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	question := func(seq uint64, at time.Time, name string, accounts ...string) api.FlowEnvelope {
		line, err := json.Marshal(api.QueryLine{Query: api.QueryRecord{Node: "a", Sequence: seq, Name: name, VPC: "vpc-1", End: at}})
		if err != nil {
			t.Fatal(err)
		}
		return api.FlowEnvelope{Kind: api.KindOfQuery, Node: "a", Boot: "b", Seq: seq, Accounts: accounts, End: at, Record: line}
	}
	appendAll(t, l, 4, record("a", 1, noon, "1"), question(2, noon, "x.example.", "1"), question(3, noon.Add(24*time.Hour), "Y.x.example.", "1"),
		question(4, noon.Add(time.Second), "z.example.", "2"))
	appendAll(t, l, 0, question(2, noon, "x.example.", "1"), question(1, noon, "no.", "1"))
	seal := record("a", 5, noon, "1")
	seal.Kind = api.KindOfSeal
	appendAll(t, l, 1, seal)
	if got := query(t, l, "1", api.FlowQuery{}); !slices.Equal(got, []string{"a1"}) {
		t.Errorf("flows %q", got)
	}
	for name, c := range map[string]struct {
		account string
		f       api.QueryFilter
		want    []string
	}{
		"of an account": {"1", api.QueryFilter{}, []string{"x.example.", "Y.x.example."}},
		"of all":        {"", api.QueryFilter{}, []string{"x.example.", "z.example.", "Y.x.example."}},
		"newest":        {"", api.QueryFilter{Limit: 1}, []string{"Y.x.example."}},
		"name":          {"", api.QueryFilter{Name: "X.example"}, []string{"x.example.", "Y.x.example."}},
		"no name":       {"", api.QueryFilter{Name: "ample"}, nil},
		"since":         {"", api.QueryFilter{Since: noon.Add(time.Second)}, []string{"z.example.", "Y.x.example."}},
		"until":         {"", api.QueryFilter{Until: noon.Add(time.Second)}, []string{"x.example."}},
		"vpc":           {"", api.QueryFilter{VPC: "vpc-2"}, nil},
	} {
		var got []string
		if err := l.Queries(t.Context(), c.account, api.QueriesQuery{QueryFilter: c.f}, func(r *api.QueryRecord) error {
			got = append(got, r.Name)
			return nil
		}, nil, nil); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
