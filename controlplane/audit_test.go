package controlplane

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/store"
)

// audited are the newest events for an administrator.
func (l *lab) audited() []api.AuditEvent {
	l.t.Helper()
	return must(l.admin().ListAudit(l.ctx()))(l.t)
}

// TestEveryMutationIsAudited takes every mutation that the API has through success and refusal.
func TestEveryMutationIsAudited(t *testing.T) {
	l, h := crowded(t)
	user, machine := l.rawClient(nil), l.rawClient(h.cert)
	known := routes(l)
	refused := map[string]bad{}
	for _, cases := range [][]bad{badAccounts, badNetworks, badBalancing(l), badServices(l), badEndpoints, badNodes(h)} {
		for _, b := range cases {
			refused[b.op+string(b.code)] = b
		}
	}
	for _, b := range refused {
		r := known[b.op]
		if r.method == http.MethodGet || b.op == "report-status" || b.op == "send-flows" || b.as == "" {
			continue
		}
		before := l.audited()
		key := l.keys[b.as]
		if b.as == "admin" {
			key = l.adminKey
		}
		c := user
		if b.as == "node" {
			c, key = machine, ""
		}
		a := c.do(r.method, r.fill(b.args...), key, b.body)
		after := l.audited()
		if len(after) != len(before)+1 {
			t.Errorf("%s %s %s: %d events", b.op, b.args, b.body, len(after)-len(before))
			continue
		}
		e := after[len(after)-1]
		if e.Action != b.op || e.Outcome != string(b.code) || e.RequestID != a.header.Get(client.HeaderRequestID) || e.Source != "unix" ||
			e.Actor == "" || e.Actor == anonymous || e.Resource != "" && !exists(l.s.Resources(), e.Resource) {
			t.Errorf("%s: %+v", b.op, e)
		}
	}
	// Who is no administrator and tries is recorded too; who nobody knows is not.
	before := len(l.audited())
	a := user.do("POST", "/v1/accounts", l.keys["shop"], `{"name":"x"}`)
	events := l.audited()
	if e := events[len(events)-1]; len(events) != before+1 || e.Action != "create-account" || e.Outcome != string(api.CodeUnauthorized) ||
		e.Account != l.account("shop") || e.RequestID != a.refusal(t).RequestID {
		t.Errorf("%+v", e)
	}
	user.do("POST", "/v1/vpcs", "key-00000000000000000.x", `{}`)
	if n := len(l.audited()); n != before+1 {
		t.Errorf("%d events of nobody", n-before-1)
	}
}

func TestSuccessIsAudited(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	e := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	con := must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)[0]
	events := l.audited()
	for i, a := range events {
		if a.Seq != uint64(i+1) {
			t.Fatalf("event %d has the number %d", i, a.Seq)
		}
	}
	want := []struct{ action, resource, account string }{
		{"create-endpoint", e.ID, l.account("shop")}, {"accept-connections", con.ID, l.account("pay")},
	}
	for i, w := range want {
		a := events[len(events)-len(want)+i]
		if a.Action != w.action || a.Resource != w.resource || a.Account != w.account || a.Outcome != "success" || a.At.IsZero() {
			t.Errorf("%+v", a)
		}
	}
	joined := slices.IndexFunc(events, func(a api.AuditEvent) bool { return a.Action == "join" })
	if joined < 0 || events[joined].Resource != find1(l.s.Resources().Nodes, "host-a").ID ||
		!api.IsID(api.KindJoinToken.Prefix(), events[joined].Actor) {
		t.Errorf("no good event of the join in %+v", events)
	}
	for _, a := range must(pay.ListAudit(l.ctx()))(t) {
		if a.Account != l.account("pay") {
			t.Errorf("pay reads %+v", a)
		}
	}
}

func TestAuditInPages(t *testing.T) {
	l := startLab(t, nil)
	shop := l.as("shop")
	const n = 1500 // more than one page of the store
	user := l.rawClient(nil)
	l.txn(func(tx *store.Tx) {
		for i := range 2 * n { // every other one is somebody else's
			tx.Audit(api.AuditEvent{Account: []string{l.account("shop"), "000000000000"}[i%2], Action: "test"})
		}
	})
	must(shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}))(t)
	read := func(query string) (events []api.AuditEvent) {
		var list api.List[api.AuditEvent]
		if a := user.do("GET", "/v1/audit"+query, l.keys["shop"], ""); json.Unmarshal(a.body, &list) != nil {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return list.Items
	}
	if got := read(""); len(got) != auditPage || got[auditPage-1].Action != "create-vpc" || got[0].Seq != got[auditPage-1].Seq-2*auditPage+2 {
		t.Errorf("%d events", len(got))
	}
	if got := read("?limit=3"); len(got) != 3 || got[2].Action != "create-vpc" {
		t.Errorf("%+v", got)
	}
	seen := map[uint64]bool{}
	before := ""
	for {
		page := read("?limit=700" + before)
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			if seen[e.Seq] || e.Account != l.account("shop") {
				t.Fatalf("%+v", e)
			}
			seen[e.Seq] = true
		}
		before = fmt.Sprintf("&before=%d", page[0].Seq)
	}
	if len(seen) != n+1 {
		t.Errorf("%d events, want %d", len(seen), n+1)
	}
}

// A key that is refused again and again does not fill the store, and yet all of it is on record.
func TestRefusalsAreCounted(t *testing.T) {
	var now atomic.Pointer[time.Time]
	at := time.Now()
	now.Store(&at)
	mem := store.NewMem()
	l := startLab(t, func(c *Config) {
		c.Store, c.Tick, c.Now = mem, 20*time.Millisecond, func() time.Time { return *now.Load() }
	})
	l.as("shop")
	l.as("pay")
	user := l.rawClient(nil)
	before := len(l.audited())
	refuse := func(who string, n int) {
		for range n {
			if a := user.do("DELETE", "/v1/vpcs/nothing", l.keys[who], ""); a.status != http.StatusNotFound {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
	}
	counts := func() (out []uint64) {
		for _, e := range l.audited()[before:] {
			if e.Action != "delete-vpc" || e.Outcome != string(api.CodeVPCNotFound) || e.RequestID == "" || e.Source != "unix" {
				t.Errorf("%+v", e)
			}
			out = append(out, e.Count)
		}
		return out
	}
	refuse("shop", 50)
	refuse("pay", 1) // not mixed up with another's
	if got := counts(); !slices.Equal(got, []uint64{0, 0}) {
		t.Fatalf("events at once: %v", got)
	}
	later := at.Add(refusalWindow)
	now.Store(&later)
	l.eventually("the count", func() bool { return slices.Equal(counts(), []uint64{0, 0, 49}) })
	refuse("shop", 3)
	if got := counts(); !slices.Equal(got, []uint64{0, 0, 49, 0}) {
		t.Errorf("a minute later: %v", got)
	}
	// What is counted is written when the server stops.
	l.stop()
	again := startLab(t, func(c *Config) { c.Store = mem })
	again.adminKey = l.adminKey
	if events := again.audited(); events[len(events)-1].Count != 2 {
		t.Errorf("%+v", events[len(events)-1])
	}
}

func TestCountsThatCannotBeWrittenAreKept(t *testing.T) {
	var r refusals
	at := time.Now()
	e := api.AuditEvent{At: at, Actor: "key", Action: "delete-vpc", Outcome: "x"}
	if due := r.add(e); len(due) != 1 || due[0] != e {
		t.Fatalf("%+v", due)
	}
	for range 3 {
		if due := r.add(e); due != nil {
			t.Fatalf("%+v", due)
		}
	}
	if due := r.take(at, false); due != nil {
		t.Errorf("too early: %+v", due)
	}
	due := r.take(at.Add(refusalWindow), false)
	if len(due) != 1 || due[0].Count != 3 {
		t.Fatalf("%+v", due)
	}
	r.putBack(due)
	r.add(e)
	if due := r.take(at, true); len(due) != 1 || due[0].Count != 4 {
		t.Errorf("%+v", due)
	}
	// Also when the kind has begun anew meanwhile.
	r.add(e)
	r.putBack(due)
	if due := r.take(at, true); len(due) != 1 || due[0].Count != 3 {
		t.Errorf("%+v", due)
	}
	if due := r.take(at, true); due != nil {
		t.Errorf("%+v", due)
	}
}

func TestAuditIsPruned(t *testing.T) {
	var now atomic.Pointer[time.Time]
	at := time.Now()
	now.Store(&at)
	mem := store.NewMem()
	l := startLab(t, func(c *Config) { c.Store = mem })
	l.txn(func(tx *store.Tx) {
		for i := range 2500 { // more than one batch
			account := "000000000001"
			if i%50 == 0 {
				account = "000000000002"
			}
			tx.Audit(api.AuditEvent{At: at, Account: account, Action: fmt.Sprint(i)})
		}
		for range 2 {
			tx.Audit(api.AuditEvent{At: at.Add(-2 * time.Hour), Actor: "key", Action: "old"})
		}
	})
	l.stop()
	key := l.adminKey
	l = startLab(t, func(c *Config) {
		c.Store, c.Now, c.audit = mem, func() time.Time { return *now.Load() }, auditLimits{each: 50, all: 100, age: time.Hour}
	})
	l.adminKey = key
	prune := func() map[string]int {
		if err := l.s.pruneAudit(l.ctx()); err != nil {
			t.Fatal(err)
		}
		of := map[string]int{}
		for _, e := range l.audited() {
			of[auditOwner(&e)]++
		}
		return of
	}
	l.eventually("housekeeping to prune", func() bool { // as it does at the start
		events := l.audited()
		return events[len(events)-1].Action == "prune-audit"
	})
	of := prune()
	if of["000000000001"] > 50 || of["000000000001"] < 40 || of["000000000002"] != of["000000000001"] && of["000000000002"] != 50 || of["key"] != 0 {
		t.Errorf("%v", of)
	}
	events := l.audited()
	last, gone := events[len(events)-1], uint64(2502-of["000000000001"]-of["000000000002"])
	if last.Action != "prune-audit" || last.Actor != actorSystem || last.Count != gone {
		t.Errorf("%+v, %d are gone", last, gone)
	}
	if newest := events[len(events)-2].Action; newest != "2499" {
		t.Errorf("the newest that is left is %s", newest)
	}
	// An account's own list lost the same; nothing more goes until there is more.
	if kvs := must(l.s.store.List(l.ctx(), store.AuditPrefixOf("000000000001"), "", 3000))(t); len(kvs) != of["000000000001"] {
		t.Errorf("%d in its own list, %d in all", len(kvs), of["000000000001"])
	}
	if again := prune(); !maps.Equal(again, of) {
		t.Errorf("%v", again)
	}
	later := at.Add(2 * time.Hour)
	now.Store(&later)
	if of := prune(); len(of) != 1 || of[actorSystem] != 1 {
		t.Errorf("%v", of)
	}
}

func TestFairShare(t *testing.T) {
	for _, c := range []struct {
		have      []int
		all, each int
		want      int
	}{
		{nil, 10, 5, 5}, {[]int{1, 2, 3}, 10, 5, 5}, {[]int{1, 2, 30}, 10, 50, 7}, {[]int{30, 1, 30}, 11, 50, 5}, {[]int{30, 1, 30}, 100, 20, 20},
		{[]int{4, 4, 4}, 9, 50, 3},
	} {
		if got := fairShare(slices.Clone(c.have), c.all, c.each); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}
