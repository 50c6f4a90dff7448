package controlplane

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/controlplane/store"
)

// However terms are changed, what came is kept for the longest term that was in force since.
func TestTermsBindWhatCame(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
		x := termsOf{Terms: []term{{For: 30 * day}}}
		type set struct {
			from time.Time
			days int
		}
		history := []set{{now.Add(-1000 * day), 30}}
		var came []time.Time
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 20).Draw(r, "days pass")) * day)
			came = append(came, now)
			if rapid.Bool().Draw(r, "change") {
				days := rapid.IntRange(1, 60).Draw(r, "days")
				x = x.change(time.Duration(days)*day, now)
				history = append(history, set{now, days})
			}
			for _, of := range came {
				longest := 0
				for i, h := range history {
					if i == len(history)-1 || history[i+1].from.After(of) {
						longest = max(longest, h.days)
					}
				}
				want := of.Add(time.Duration(longest) * day)
				// What was free to go may be forgotten to have been bound; nothing that is bound may be free.
				if got := x.expires(of); got.Before(want) && want.After(now) || got.After(want) {
					r.Fatalf("what came %v is kept until %v, want %v: %+v", of, got, want, x)
				}
			}
		}
	})
}

func TestModifyRetention(t *testing.T) {
	mem := store.NewMem()
	l := startLab(t, func(c *Config) { c.Store = mem })
	number := func(n int) *int { return &n }
	of := func(l *lab, class api.RetentionClass) api.Retention {
		t.Helper()
		all := must(l.client(l.adminKey, "").ListRetention(l.ctx()))(t)
		return all[slices.IndexFunc(all, func(r api.Retention) bool { return r.Class == class })]
	}
	if got := of(l, api.RetainSegments); got.Days != defaultSegmentDays || got.MinimumDays != 0 {
		t.Errorf("%+v", got)
	}
	if got := of(l, api.RetainMerkleLog); got.Days != 0 {
		t.Errorf("%+v", got)
	}
	must(l.admin().ModifyRetention(l.ctx(), "segments", api.ModifyRetentionRequest{MinimumDays: number(100)}))(t)
	got := must(l.admin().ModifyRetention(l.ctx(), "segments", api.ModifyRetentionRequest{Days: number(200)}))(t)
	if got.Days != 200 || got.MinimumDays != 100 || len(got.Longer) != 1 || got.Longer[0].Days != defaultSegmentDays {
		t.Errorf("%+v", got)
	}
	_, err := l.admin().ModifyRetention(l.ctx(), "segments", api.ModifyRetentionRequest{MinimumDays: number(99)})
	wantCode(t, err, api.CodeInvalidParameter)
	_, err = l.admin().ModifyRetention(l.ctx(), "segments", api.ModifyRetentionRequest{Days: number(99)})
	wantCode(t, err, api.CodeInvalidParameter)
	l.stop()
	again := startLab(t, func(c *Config) { c.Store, c.DataDir = mem, l.s.cfg.DataDir })
	again.adminKey = l.adminKey
	if after := of(again, api.RetainSegments); after.Days != 200 || after.MinimumDays != 100 || len(after.Longer) != 1 {
		t.Errorf("after a restart: %+v", after)
	}
}

// aged is a mesh whose node sealed and sent a record some days ago.
func aged(t *testing.T, days int) (l *lab, h *host, segments func() []string) {
	l = mesh(t, func(c *Config) { c.FlowRetention = 365 * day })
	h = l.host("host-c")
	must(l.as("pay").CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "third", Node: "host-c"}))(t)
	x := newSealer(t, h, time.Now().Add(-time.Duration(days)*day))
	must(h.PutLogKey(l.ctx(), api.LogKeyRequest{PublicKey: x.public()}))(t)
	x.send(x.record(l.about("third", api.FlowRecord{})), x.seal())
	segments = func() []string {
		return must(filepath.Glob(filepath.Join(l.s.evidenceDir(), "segments", h.id, "boot", "*")))(t)
	}
	came := time.Now().Add(-time.Duration(days) * day)
	if err := os.Chtimes(segments()[0], came, came); err != nil {
		t.Fatal(err)
	}
	x.at = time.Now().UTC()
	x.send(x.record(api.FlowRecord{}), x.seal())
	return l, h, segments
}

// keep sets the terms of records and segments as if they had always been so.
func (l *lab) keep(days int) {
	l.t.Helper()
	data := must(json.Marshal(termsOf{Terms: []term{{For: time.Duration(days) * day}}}))(l.t)
	must(l.s.store.Txn(l.ctx(), func(tx *store.Tx) error {
		for _, class := range []api.RetentionClass{api.RetainFlowRecords, api.RetainSegments} {
			tx.SetSide(store.PrefixRetention+string(class), data)
		}
		return nil
	}))(l.t)
	if err := l.s.loadRetention(l.ctx()); err != nil {
		l.t.Fatal(err)
	}
}

// What was kept long enough goes, and is named in the Merkle log and in the audit log before. A shorter term frees nothing.
func TestDisposal(t *testing.T) {
	l, h, segments := aged(t, 50)
	ten := 10
	must(l.admin().ModifyRetention(l.ctx(), "segments", api.ModifyRetentionRequest{Days: &ten}))(t)
	must(l.admin().ModifyRetention(l.ctx(), "flow-records", api.ModifyRetentionRequest{Days: &ten}))(t)
	dispose := func() {
		t.Helper()
		if err := l.s.dispose(l.ctx()); err != nil {
			t.Fatal(err)
		}
	}
	dispose()
	if got := segments(); len(got) != 2 || len(must(l.s.flows.Days())(t)) != 2 {
		t.Fatalf("a shorter term took what came under a longer one: %v", got)
	}
	l.keep(40)
	dispose()
	if got := segments(); len(got) != 1 || len(must(l.s.flows.Days())(t)) != 1 {
		t.Fatalf("%v", got)
	}
	var runs []leaf.Run
	var files []leaf.Disposed
	for _, x := range l.leaves(leaf.TypeDisposal) {
		runs, files = append(runs, x.Disposal.Runs...), append(files, x.Disposal.Files...)
	}
	if len(runs) != 1 || runs[0].Node != h.id || runs[0].First != 1 || runs[0].Last != 1 || len(files) != 1 || !strings.HasPrefix(files[0].Path, "flows/") {
		t.Errorf("told %+v, %+v", runs, files)
	}
	told := 0
	for _, e := range must(l.admin().ListAudit(l.ctx()))(t) {
		if strings.HasPrefix(e.Action, "dispose-") {
			told++
		}
	}
	if told != 2 {
		t.Errorf("%d audit events", told)
	}
	dispose()
	if got := l.leaves(leaf.TypeDisposal); len(got) != 2 {
		t.Errorf("told again: %d", len(got))
	}
}

// A legal hold keeps what mentions what it is about, and nothing else, until it is released.
func TestLegalHold(t *testing.T) {
	l, h, segments := aged(t, 50)
	l.keep(40)
	now := time.Now()
	for name, c := range map[string]struct {
		account string
		r       api.CreateLegalHoldRequest
		held    bool
	}{
		"an account":      {"pay", api.CreateLegalHoldRequest{}, true},
		"another account": {"shop", api.CreateLegalHoldRequest{}, false},
		"a node":          {"", api.CreateLegalHoldRequest{Node: "host-c"}, true},
		"another node":    {"", api.CreateLegalHoldRequest{Node: "host-a"}, false},
		"a VPC":           {"pay", api.CreateLegalHoldRequest{VPC: "pay"}, true},
		"another time":    {"pay", api.CreateLegalHoldRequest{From: now.Add(-20 * day), To: now.Add(-10 * day)}, false},
	} {
		if c.r.To.IsZero() {
			c.r.From, c.r.To = now.Add(-60*day), now.Add(-45*day)
		}
		c.r.Reason = "case 1"
		hold := must(l.client(l.adminKey, c.account).CreateLegalHold(l.ctx(), c.r))(t)
		if !c.held {
			subjects := l.s.holds.over(now.Add(-51*day), now.Add(-49*day))
			snap := must(l.s.evidence.Snapshot(l.ctx(), time.Time{}, now.Add(-day), l.s.tree.Size))(t)
			if got, err := snap.Files[0].Mentions(subjects...); got || err != nil {
				t.Errorf("%s: held by %v, %v", name, subjects, err)
			}
		} else if err := l.s.dispose(l.ctx()); err != nil || len(segments()) != 2 || len(must(l.s.flows.Days())(t)) != 2 {
			t.Errorf("%s: %v, %v", name, segments(), err)
		}
		must(l.admin().ReleaseLegalHold(l.ctx(), hold.ID))(t)
	}
	if got := must(l.admin().ListLegalHolds(l.ctx()))(t); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	if err := l.s.dispose(l.ctx()); err != nil || len(segments()) != 1 || len(must(l.s.flows.Days())(t)) != 1 {
		t.Errorf("released: %v, %v", segments(), err)
	}
	if _, err := os.Stat(filepath.Join(l.s.evidenceDir(), "segments", h.id)); err != nil {
		t.Error(err)
	}
}

// A hold and a term that stand in the store bind, also where the call that wrote them ended with an error and memory has neither.
func TestWhatIsStoredBinds(t *testing.T) {
	l, _, segments := aged(t, 50)
	l.keep(40)
	now := time.Now()
	hold := must(l.client(l.adminKey, "pay").CreateLegalHold(l.ctx(), api.CreateLegalHoldRequest{Reason: "case 2", From: now.Add(-60 * day),
		To: now.Add(-45 * day)}))(t)
	l.s.holds.remove(hold.ID)
	if err := l.s.dispose(l.ctx()); err != nil || len(segments()) != 2 {
		t.Errorf("under a hold: %v, %v", segments(), err)
	}
	if got := must(l.admin().ListLegalHolds(l.ctx()))(t); len(got) != 1 {
		t.Errorf("%+v", got)
	}
}

// TestHoldsReachIntoTheNextHour: what a node sealed behind a full hour is of before it, too.
func TestHoldsReachIntoTheNextHour(t *testing.T) {
	l := mesh(t, func(c *Config) { c.FlowRetention = 365 * day })
	h := l.host("host-c")
	must(l.as("pay").CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "third", Node: "host-c"}))(t)
	hour := time.Now().Add(-50 * day).Truncate(time.Hour)
	x := newSealer(t, h, hour.Add(-5*time.Second)) // it seals five seconds after the hour
	must(h.PutLogKey(l.ctx(), api.LogKeyRequest{PublicKey: x.public()}))(t)
	x.send(x.record(l.about("third", api.FlowRecord{})), x.seal())
	files := must(filepath.Glob(filepath.Join(l.s.evidenceDir(), "segments", h.id, "boot", "*")))(t)
	if len(files) != 1 {
		t.Fatal(files)
	}
	if err := os.Chtimes(files[0], hour, hour); err != nil {
		t.Fatal(err)
	}
	l.keep(40)
	hold := must(l.client(l.adminKey, "pay").CreateLegalHold(l.ctx(), api.CreateLegalHoldRequest{Reason: "the day before", From: hour.Add(-day), To: hour}))(t)
	for _, held := range []bool{true, false} {
		if err := l.s.disposeSegments(l.ctx()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(files[0]); (err == nil) != held {
			t.Errorf("held %v: %v", held, err)
		}
		if held {
			must(l.admin().ReleaseLegalHold(l.ctx(), hold.ID))(t)
		}
	}
}
