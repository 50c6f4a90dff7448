package leaf

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func all(t *testing.T) []Leaf {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	s := &seal.Seal{Version: seal.Version, Node: "i-1", Boot: "b", Number: 1, First: 1, Start: at, End: at, Hash: seal.HashLines(),
		Declared: []seal.Gap{{Cause: seal.CauseDamaged, FirstSequence: 1, LastSequence: 4}, {Cause: seal.CauseLost, Packets: 3}}}
	if err := s.Sign(key); err != nil {
		t.Fatal(err)
	}
	line, err := s.Line()
	if err != nil {
		t.Fatal(err)
	}
	report, err := OfReport(at, "daily", at, at.Add(time.Hour), []byte("{ \"denied\": 3 }"))
	if err != nil {
		t.Fatal(err)
	}
	return []Leaf{
		OfSeal(at, s, line), OfNodeKey(at, "i-1", key.Public().(ed25519.PublicKey)), OfEvent(at, api.AuditEvent{Seq: 4, At: at}), report,
		{Type: TypeStart, At: at, Server: &Server{ID: "r", Version: "1"}}, {Type: TypeStop, At: at, Server: &Server{ID: "r", Version: "1"}},
		{Type: TypeTick, At: at, Tick: &Tick{Server: "r", Number: 1, Checkpoint: "c"}},
		{Type: TypeObject, At: at, Object: &Object{FlowLog: "fl-1", Path: "a/b", SHA256: "ab", First: at, Last: at}},
		{Type: TypeDisposal, At: at, Disposal: &Disposal{ID: "d", Class: "segments", Runs: []Run{{Node: "i-1", Boot: "b", First: 1, Last: 9}}}},
		{Type: TypeRefused, At: at, Refused: &Refused{Node: "i-1", Boot: "b", Number: 1, Lines: 2, Ranges: []Range{{3, 4}}}},
		{Type: TypeReconciliation, At: at, Reconciliation: &Reconciliation{Connection: "vpce-conn-1", From: at, To: at}},
	}
}

func TestLeavesAreReadAsTheyWereWritten(t *testing.T) {
	keys := map[string]bool{}
	for _, l := range all(t) {
		data, err := l.Encode()
		if err != nil {
			t.Fatalf("%s: %v", l.Type, err)
		}
		got, err := Decode(data)
		if err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		again, err := got.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%s is read as %s, %v", data, again, err)
		}
		if keys[l.Key()] {
			t.Errorf("two leaves have the key %s", l.Key())
		}
		keys[l.Key()] = true
		later := l
		later.At = at.Add(time.Second)
		a, _ := l.Same()
		b, err := later.Same()
		if err != nil || a != b || later.Key() != l.Key() {
			t.Errorf("%s: appended a second later it is another leaf: %v", l.Type, err)
		}
	}
	if got := all(t)[0].Seal.Jumps; len(got) != 1 || got[0].LastSequence != 4 {
		t.Errorf("jumps %+v", got)
	}
}

func TestLeavesThatAreRefused(t *testing.T) {
	report := all(t)[3]
	report.Report.Body = []byte(`{"denied":4}`)
	key := all(t)[1]
	key.NodeKey.ID = strings.Repeat("0", 64)
	for name, l := range map[string]Leaf{
		"without content": {Type: TypeSeal, At: at},
		"other body":      report,
		"other key":       key,
		"too long":        OfEvent(at, api.AuditEvent{Actor: strings.Repeat("x", MaxSize)}),
	} {
		if data, err := l.Encode(); err == nil {
			t.Errorf("%s: %.100s", name, data)
		}
	}
	if _, err := Decode([]byte(`{"type":"later","at":"2026-03-01T12:00:00Z"}`)); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	big, err := OfReport(at, "daily", at, at, []byte(`"`+strings.Repeat("x", MaxSize)+`"`))
	if err != nil || big.Report.Body != nil {
		t.Errorf("a large report: %v, body of %d bytes", err, len(big.Report.Body))
	}
	if _, err := big.Encode(); err != nil {
		t.Error(err)
	}
}

func TestRecentForgetsTheOldest(t *testing.T) {
	r := NewRecent(2)
	for i, k := range []string{"a", "b", "a", "c"} {
		r.Add(k, Seen{Index: uint64(i)})
	}
	if _, ok := r.Find("a"); ok {
		t.Error("a is the oldest")
	}
	if s, ok := r.Find("b"); !ok || s.Index != 1 {
		t.Error("b is gone")
	}
	r.Add("d", Seen{})
	if _, ok := r.Find("b"); ok {
		t.Error("b is the oldest now")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"type":"tick","at":"2026-03-01T12:00:00Z","tick":{}}`))
	f.Add([]byte(`{"type":"seal"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Decode(b)
		if err != nil {
			return
		}
		if l.Key() == "" {
			t.Error("a leaf without a key")
		}
		if _, err := l.Same(); err != nil && len(b) < MaxSize/6 {
			t.Errorf("%q: %v", b, err)
		}
	})
}
