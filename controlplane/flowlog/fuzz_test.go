package flowlog

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// FuzzOpen: whatever a day's file holds, the log opens, takes records and gives them back, and none of another account's.
func FuzzOpen(f *testing.F) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	envelope := func(seq uint64) api.FlowEnvelope {
		record, err := json.Marshal(api.FlowRecord{Node: "node-1", Boot: "b", Sequence: seq, End: now})
		if err != nil {
			f.Fatal(err)
		}
		return api.FlowEnvelope{Node: "node-1", Boot: "b", Seq: seq, Accounts: []string{"1"}, End: now, Record: record}
	}
	line, err := json.Marshal(envelope(7))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(line, '\n'))
	f.Add(line)
	f.Add([]byte("\x00\n{}\n{\"seq\":18446744073709551615}\n{\"record\":null,\"accounts\":[\"1\"],\"end\":\"2026-01-02T00:00:00Z\"}\n"))
	f.Fuzz(func(t *testing.T, day []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, now.Format(dayFormat)+suffix), day, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(dir, now)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		const fresh = 1 << 40
		if _, err := l.Append([]api.FlowEnvelope{envelope(fresh)}); err != nil {
			t.Fatal(err)
		}
		found := false
		query := func(account string) {
			err := l.Query(context.Background(), account, api.FlowQuery{FlowFilter: api.FlowFilter{Limit: 1 << 20}},
				func(e api.FlowEnvelope) error {
					found = found || account == "1" && e.Seq == fresh
					if account == "none" {
						return errors.New("a record of nobody's")
					}
					var r api.FlowRecord
					return json.Unmarshal(e.Record, &r)
				}, func() error { return nil }, nil)
			if err != nil {
				t.Errorf("%q: %v", account, err)
			}
		}
		query("1")
		if !found {
			t.Error("what was stored is not found")
		}
	})
}
