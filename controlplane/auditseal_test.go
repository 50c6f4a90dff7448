package controlplane

import (
	"errors"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/treelog"
	"github.com/culvert-net/culvert/audit/verify"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/internal/metrics"
)

// sealedEvents are the audit events of a log, in its order.
func sealedEvents(t testing.TB, tree treelog.Reader) (out []api.AuditEvent) {
	t.Helper()
	if err := tree.Leaves(t.Context(), 0, func(_ uint64, l leaf.Leaf) error {
		if l.Event != nil {
			out = append(out, *l.Event)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// wantWhole checks that the log has every event up to a number, in order, each once.
func wantWhole(t testing.TB, tree treelog.Reader, last uint64) {
	t.Helper()
	events := sealedEvents(t, tree)
	for i, e := range events {
		if e.Seq != uint64(i+1) {
			t.Fatalf("event %d stands at place %d", e.Seq, i+1)
		}
	}
	if uint64(len(events)) != last {
		t.Errorf("%d events, want %d", len(events), last)
	}
}

// TestAuditEventsAreSealed: each event becomes a leaf within a moment, in order, with all that it says; the last ones when the server
// stops. What was appended and not noted, as by a crash, is there once.
func TestAuditEventsAreSealed(t *testing.T) {
	mem, tree := store.NewMem(), treelog.NewMem("test", nil)
	l := mesh(t, func(c *Config) { c.Store, c.Tree = mem, tree })
	key := l.adminKey
	shop := l.as("shop")
	for range 50 {
		must(shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}))(t)
	}
	now, _ := mem.Audited()
	l.eventually("the events to be sealed", func() bool { return uint64(len(sealedEvents(t, tree))) >= now })
	l.stop()
	now, _ = mem.Audited()
	wantWhole(t, tree, now)
	events := sealedEvents(t, tree)
	if last := events[len(events)-1]; last.Action != api.ActionStopServer {
		t.Errorf("the last is %+v", last)
	}
	made := 0
	for _, e := range events {
		if e.Action == "create-vpc" && len(e.Changes) > 0 && e.Changes[0].After != nil && e.Actor != "" {
			made++
		}
	}
	if made != 52 {
		t.Errorf("%d VPCs", made)
	}
	if err := mem.Put(t.Context(), keySealed, []byte("7")); err != nil { // the rest was appended, and the server killed
		t.Fatal(err)
	}
	again := startLab(t, func(c *Config) { c.Store, c.Tree = mem, tree })
	again.adminKey = key
	again.allAudited()
	again.stop()
	now, _ = mem.Audited()
	wantWhole(t, tree, now)
}

// TestSealingThatFails: calls go on, what is not sealed is not forgotten, administrators are told after a minute; and all is made up
// for in the end.
func TestSealingThatFails(t *testing.T) {
	var later atomic.Int64
	mem, tree := store.NewMem(), treelog.NewMem("test", nil)
	l := startLab(t, func(c *Config) {
		c.Store, c.Tree, c.audit = mem, tree, auditLimits{each: 1, all: 1, age: time.Hour}
		c.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	})
	troubled := func() bool {
		l.s.lookAtSealing()
		return strings.Contains(strings.Join(must(l.admin().Status(l.ctx()))(t).Problems, "\n"), "not in the Merkle log since")
	}
	unsealed := func() string {
		w := httptest.NewRecorder()
		metrics.Handler(l.s.registry()).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return figure(t, w.Body.String(), "culvert_audit_events_unsealed")
	}
	l.eventually("the events to be sealed", func() bool { return unsealed() == "0" })
	sealed := len(sealedEvents(t, tree))
	tree.Fail(errors.New("no room"))
	l.as("shop")
	l.eventually("sealing to fail", func() bool { return l.s.sealing.pending.Load() != 0 })
	if unsealed() == "0" || troubled() {
		t.Errorf("at once %s are not sealed, a problem is %v", unsealed(), troubled())
	}
	if err := l.s.pruneAudit(l.ctx()); err != nil {
		t.Fatal(err)
	}
	for _, e := range must(mem.List(l.ctx(), store.PrefixAudit, "", 1000))(t) {
		if seq := must(store.AuditSeq(e.Key))(t); seq <= uint64(sealed) {
			t.Errorf("event %d is sealed and kept", seq)
		}
	}
	now, _ := mem.Audited()
	kept := len(must(mem.List(l.ctx(), store.PrefixAudit, "", 1000))(t))
	if uint64(kept) != now-uint64(sealed) {
		t.Errorf("%d events are kept, %d are not sealed", kept, now-uint64(sealed))
	}
	later.Store(int64(2 * time.Minute))
	if !troubled() {
		t.Error("nobody is told")
	}
	tree.Fail(nil)
	l.eventually("what was missing", func() bool { return unsealed() == "0" })
	if troubled() {
		t.Error("it is over, and still a problem")
	}
	l.stop()
	now, _ = mem.Audited()
	wantWhole(t, tree, now)
}

// TestTheAuditLogVerifies: what a server leaves on its disk proves each event by the public key alone, as it does for the daily report.
func TestTheAuditLogVerifies(t *testing.T) {
	l := mesh(t, func(c *Config) { c.Tree = nil })
	from := time.Now().Add(-time.Hour)
	l.stop()
	if v := l.s.verifyDay(from, time.Now()); !v.Good || v.NotDone != "" || len(v.Findings) > 0 {
		t.Errorf("%+v", v)
	}
	keys := must(verify.ParseKeys(l.s.logKey.VerifierKey))(t)
	made := 0
	r := verify.Run(os.DirFS(l.s.evidenceDir()), keys, verify.Options{AuditOnly: true, Each: func(_ uint64, l *leaf.Leaf) {
		if l.Event != nil && l.Event.Action == "create-subnet" && len(l.Event.Changes) == 1 {
			made++
		}
	}})
	now, _ := l.s.store.Audited()
	if !r.OK || r.FirstEvent != 1 || r.LastEvent != now || made != 4 {
		t.Errorf("%v: events %d to %d of %d, %d subnets, %v", r.OK, r.FirstEvent, r.LastEvent, now, made, r.First())
	}
}
