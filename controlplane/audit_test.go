package controlplane

import (
	"context"
	"encoding/json"
	"errors"
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

// audited are the newest events for an administrator, without those of looking for them and of the server's own life.
func (l *lab) audited() []api.AuditEvent {
	l.t.Helper()
	return slices.DeleteFunc(l.allAudited(), func(e api.AuditEvent) bool {
		return e.Action == "list-audit" || e.Action == api.ActionStartServer || e.Action == api.ActionStopServer
	})
}

func (l *lab) allAudited() []api.AuditEvent {
	l.t.Helper()
	return must(l.admin().ListAudit(l.ctx()))(l.t)
}

// TestEveryMutationIsAudited takes every mutation that the API has through success and refusal.
func TestEveryMutationIsAudited(t *testing.T) {
	l, h := crowded(t)
	user, machine := l.rawClient(nil), l.rawClient(h.cert)
	known := routes(l)
	refused := map[string]bad{}
	for _, cases := range [][]bad{badAccounts, badNetworks, badBalancing(l), badServices(l), badEndpoints, badDNS(l), badNodes(h)} {
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
			e.Actor == "" || e.Actor == anonymous || e.Role == "" || e.Message == "" ||
			e.Resource != "" && !exists(l.s.Resources(), e.Resource) && !slices.Contains(b.args, e.Resource) {
			t.Errorf("%s: %+v", b.op, e)
		}
	}
	// Who is no administrator and tries is recorded too, and who nobody knows.
	before := len(l.audited())
	a := user.do("POST", "/v1/accounts", l.keys["shop"], `{"name":"x"}`)
	events := l.audited()
	if e := events[len(events)-1]; len(events) != before+1 || e.Action != "create-account" || e.Outcome != string(api.CodeUnauthorized) ||
		e.Account != l.account("shop") || e.RequestID != a.refusal(t).RequestID {
		t.Errorf("%+v", e)
	}
	a = user.do("POST", "/v1/vpcs", "key-00000000000000000.x", `{}`)
	events = l.audited()
	if e := events[len(events)-1]; len(events) != before+2 || e.Action != "create-vpc" || e.Outcome != string(api.CodeAuthFailure) ||
		e.Actor != anonymous || e.Role != api.RoleAnonymous || e.Account != "" || e.RequestID != a.refusal(t).RequestID || e.Message == "" {
		t.Errorf("%+v", e)
	}
}

func TestSuccessIsAudited(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	e := must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	con := must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)[0]
	events := l.allAudited()
	for i, a := range events {
		if a.Seq != uint64(i+1) {
			t.Fatalf("event %d has the number %d", i, a.Seq)
		}
	}
	events = l.audited()
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
	var told []string
	for _, a := range must(pay.ListAudit(l.ctx()))(t) {
		switch others := a.Account != l.account("pay"); {
		case others && (a.Actor != "" || a.ActorName != "" || a.Source != "" || a.RequestID != "" || a.Resource != "" || len(a.Changes) == 0):
			t.Errorf("pay reads %+v", a)
		case others:
			told = append(told, a.Action+" by "+string(a.Role))
		}
		for _, c := range a.Changes {
			if c.Owner() != l.account("pay") {
				t.Errorf("pay reads of %+v", c)
			}
		}
	}
	// What others did to what is pay's, or made for it.
	for _, want := range []string{"create-account by admin", "create-endpoint by "} {
		if !slices.Contains(told, want) {
			t.Errorf("pay is not told of %s, but of %q", want, told)
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
	read("?limit=1") // which is an event
	if got := read(""); len(got) != auditPage || got[auditPage-1].Action != "list-audit" || got[auditPage-2].Action != "create-vpc" ||
		got[0].Seq != got[auditPage-2].Seq-2*auditPage+4 {
		t.Errorf("%d events", len(got))
	}
	if got := read("?limit=3"); len(got) != 3 || got[1].Action != "create-vpc" {
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
			if seen[e.Seq] || e.Account != l.account("shop") && (e.Role != api.RoleAdmin || e.Actor != "") {
				t.Fatalf("%+v", e)
			}
			seen[e.Seq] = true
		}
		before = fmt.Sprintf("&before=%d", page[0].Seq)
	}
	if len(seen) != n+4 { // with that they were read, and that an administrator made the account and its key
		t.Errorf("%d events, want %d", len(seen), n+4)
	}
}

// A key that is refused again and again does not fill the store, and yet all of it is on record: the first hundred each, then in counts,
// with where from and of what most of them were.
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
	refuse := func(who, what string, n int) {
		for range n {
			if a := user.do("DELETE", "/v1/vpcs/"+what, l.keys[who], ""); a.status != http.StatusNotFound {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
	}
	counts := func() (single int, counted []api.AuditEvent) {
		for _, e := range l.audited()[before:] {
			if e.Action != "delete-vpc" || e.Outcome != string(api.CodeVPCNotFound) || e.RequestID == "" || e.Source != "unix" {
				t.Errorf("%+v", e)
			}
			if e.Count > 0 {
				counted = append(counted, e)
			} else {
				single++
			}
		}
		return single, counted
	}
	vpc := "vpc-0123456789abcdef0"
	refuse("shop", "nothing", refusalBurst)
	refuse("pay", vpc, 1) // not mixed up with another's
	refuse("shop", "nothing", 20)
	refuse("shop", vpc, 29)
	if single, counted := counts(); single != refusalBurst+1 || counted != nil {
		t.Fatalf("events at once: %d, %+v", single, counted)
	}
	events := l.audited()[before:]
	if e := events[0]; e.Asked != "nothing" || e.Resource != "" {
		t.Errorf("a name: %+v", e)
	}
	if e := events[refusalBurst]; e.Resource != vpc || e.Asked != "" {
		t.Errorf("an id: %+v", e)
	}
	if left := must(mem.List(t.Context(), store.PrefixCounted, "", 10))(t); len(left) != 1 {
		t.Errorf("%d counts are in the store", len(left))
	}
	later := at.Add(repeatWindow)
	now.Store(&later)
	l.eventually("the count", func() bool { _, counted := counts(); return len(counted) == 1 })
	_, counted := counts()
	want := []api.AuditSource{{Source: vpc, Count: 29}, {Source: "nothing", Count: 20}}
	if e := counted[0]; e.Count != 49 || e.Resource != vpc || !slices.Equal(e.Resources, want) ||
		!slices.Equal(e.Sources, []api.AuditSource{{Source: "unix", Count: 49}}) {
		t.Errorf("%+v", e)
	}
	if left := must(mem.List(t.Context(), store.PrefixCounted, "", 10))(t); len(left) != 0 {
		t.Errorf("%d counts stay in the store", len(left))
	}
	refuse("shop", "nothing", 9) // six of them alone: a minute went by
	if single, _ := counts(); single != refusalBurst+1+6 {
		t.Errorf("a minute later: %d", single)
	}
	// A server that is killed has nothing in its memory, and the next one tells of it.
	l.s.repeats.mu.Lock()
	l.s.repeats.open = nil
	l.s.repeats.mu.Unlock()
	if err := mem.Put(t.Context(), store.PrefixCounted+"a/1", []byte("damaged")); err != nil { // the first that is read
		t.Fatal(err)
	}
	l.stop()
	for range 2 {
		again := startLab(t, func(c *Config) { c.Store = mem })
		again.adminKey = l.adminKey
		var told []uint64
		lost := 0
		for _, e := range again.audited() {
			if e.Action == api.ActionLoseCount && e.Actor == actorSystem {
				lost++
			}
			if e.Action == "delete-vpc" && e.Count > 0 {
				told = append(told, e.Count)
			}
		}
		if !slices.Equal(told, []uint64{49, 3}) {
			t.Errorf("after the start: %v", told)
		}
		if lost != 1 {
			t.Errorf("of the damaged count %d events tell", lost)
		}
		again.stop()
	}
}

// TestCountsThatCannotBeWrittenAreKept: of readings and of refusals.
func TestCountsThatCannotBeWrittenAreKept(t *testing.T) {
	for _, outcome := range []string{api.OutcomeSuccess, "x"} {
		var r repeats
		at := time.Now()
		e := api.AuditEvent{At: at, Actor: "key", Action: "query-flows", Outcome: outcome, Resource: "fl-1", Source: "10.0.0.1"}
		single := 1
		if outcome != api.OutcomeSuccess {
			single = refusalBurst
		}
		for range single {
			if now, number := r.add(e); len(now) != 1 || now[0].Action != e.Action || number != 0 {
				t.Fatalf("%+v", now)
			}
		}
		for i := range uint64(3) {
			if now, number := r.add(e); now != nil || (number == i+1) != (outcome != api.OutcomeSuccess) {
				t.Fatalf("%+v, number %d", now, number)
			}
		}
		if outcome != api.OutcomeSuccess {
			counts, kinds, upTo := r.unwritten()
			if len(counts) != 1 || len(kinds) != 1 || upTo != 3 || !r.waits(1) {
				t.Fatalf("%+v", counts)
			}
			r.again(kinds)
			if again, _, _ := r.unwritten(); len(again) != 1 {
				t.Error("what could not be written is not tried again")
			}
		}
		if now := r.take(at, false); now != nil {
			t.Errorf("too early: %+v", now)
		}
		got := r.take(at.Add(repeatWindow), false)
		if len(got) != 1 || got[0].Count != 3 || len(got[0].keys) != single/refusalBurst {
			t.Fatalf("%+v", got)
		}
		r.putBack(got)
		r.single = nil
		e.At = at.Add(time.Second)
		for range single {
			r.add(e)
		}
		more := uint64(1) // a reading is counted where a kind is open
		if outcome != api.OutcomeSuccess {
			r.add(e)
		}
		again := r.take(at, true)
		if len(again) != 1 || again[0].Count != 3+more || !slices.Equal(again[0].keys, got[0].keys) ||
			again[0].Sources[0] != (api.AuditSource{Source: "10.0.0.1", Count: 3 + more}) ||
			again[0].Resources[0] != (api.AuditSource{Source: "fl-1", Count: 3 + more}) {
			t.Errorf("%+v", again)
		}
		if now := r.take(at, true); now != nil {
			t.Errorf("%+v", now)
		}
	}
}

// TestAFloodOfRefusalsIsWrittenTogether: who waits behind a write that had his refusal in it does not write again, though others were counted
// meanwhile.
func TestAFloodOfRefusalsIsWrittenTogether(t *testing.T) {
	mem := store.NewMem()
	l := startLab(t, func(c *Config) { c.Store = mem })
	counting := &countingStore{Store: mem}
	s := &Server{store: counting} // another one: nobody else writes by it
	r := &s.repeats
	e := api.AuditEvent{At: time.Now(), Actor: "key-flood", Action: "delete-vpc", Outcome: "x"}
	for range refusalBurst {
		r.add(e)
	}
	var numbers []uint64
	count := func(n int) {
		for range n {
			_, number := r.add(e)
			numbers = append(numbers, number)
		}
	}
	mine := func(n uint64) int {
		t.Helper()
		before := counting.writes
		if err := s.saveRepeats(l.ctx(), n); err != nil {
			t.Fatal(err)
		}
		return counting.writes - before
	}
	count(5)
	if n := mine(numbers[0]); n != 1 {
		t.Fatalf("the first writes %d times", n)
	}
	count(5)
	for _, n := range numbers[1:5] { // they stood behind the first
		if wrote := mine(n); wrote != 0 {
			t.Errorf("refusal %d is written again", n)
		}
	}
	counting.fails = errors.New("no room")
	if err := s.saveRepeats(l.ctx(), numbers[5]); err == nil {
		t.Error("a write that failed is none")
	}
	counting.fails = nil
	if n := mine(numbers[6]); n != 1 {
		t.Errorf("after one that failed: %d writes", n)
	}
	if n := mine(numbers[9]); n != 0 {
		t.Errorf("the last of them writes %d times", n)
	}
	left := must(mem.List(t.Context(), store.PrefixCounted, "", 10))(t)
	var told api.AuditEvent
	if len(left) != 1 || json.Unmarshal(left[0].Value, &told) != nil || told.Count != 10 {
		t.Errorf("%d counts, %+v", len(left), told)
	}
}

// countingStore counts transactions, and fails them when it is told to.
type countingStore struct {
	store.Store
	writes int
	fails  error
}

func (s *countingStore) Txn(ctx context.Context, f func(*store.Tx) error) (int64, error) {
	if s.fails != nil {
		return 0, s.fails
	}
	s.writes++
	return s.Store.Txn(ctx, f)
}

// TestCountsNameTheMost: floods from many addresses for many things take no more room than others.
func TestCountsNameTheMost(t *testing.T) {
	var r repeats
	e := api.AuditEvent{At: time.Now(), Actor: anonymous, Role: api.RoleAnonymous, Outcome: "x"}
	const n = 3 * maxAsked
	for i := range n {
		e.Source, e.Asked = fmt.Sprint("10.0.", i/256, ".", i%256), fmt.Sprint("vpc ", i)
		if i%3 == 0 {
			e.Source, e.Asked = "10.9.9.9", "the one"
		}
		r.add(e)
	}
	got := r.take(e.At, true)
	if len(got) != 1 || got[0].Count != n-refusalBurst {
		t.Fatalf("%+v", got)
	}
	for _, of := range [][]api.AuditSource{got[0].Sources, got[0].Resources} {
		sum := uint64(0)
		for _, s := range of {
			sum += s.Count
		}
		if len(of) != api.MaxAuditSources+1 || sum != got[0].Count || of[0].Count < n/4 || of[api.MaxAuditSources].Source != otherSources {
			t.Errorf("%d in %+v", sum, of)
		}
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
			tx.Audit(api.AuditEvent{At: at, Account: account, Action: fmt.Sprintf("%04d", i)})
		}
		for range 2 {
			tx.Audit(api.AuditEvent{At: at.Add(-2 * time.Hour), Actor: "key", Action: "old"})
		}
	})
	size := 0 // of each
	for _, kv := range must(mem.List(l.ctx(), store.PrefixAudit, "", 100))(t) {
		if e := (api.AuditEvent{}); json.Unmarshal(kv.Value, &e) == nil && e.Account != "" {
			size = max(size, len(kv.Value)+auditOverhead)
		}
	}
	l.stop()
	key := l.adminKey
	l = startLab(t, func(c *Config) {
		c.Store, c.Now = mem, func() time.Time { return *now.Load() }
		c.audit = auditLimits{each: 50 * size, all: 110 * size, age: time.Hour}
	})
	l.adminKey = key
	prune := func() map[string]int {
		if err := l.s.pruneAudit(l.ctx()); err != nil {
			t.Fatal(err)
		}
		of := map[string]int{}
		for _, e := range l.allAudited() {
			of[auditOwner(&e)]++
		}
		return of
	}
	l.eventually("housekeeping to prune", func() bool { // as it does at the start
		return slices.ContainsFunc(l.audited(), func(e api.AuditEvent) bool { return e.Action == api.ActionPruneAudit })
	})
	of := prune()
	if of["000000000001"] > 50 || of["000000000001"] < 40 || of["000000000002"] != of["000000000001"] && of["000000000002"] != 50 || of["key"] != 0 {
		t.Errorf("%v", of)
	}
	var pruned uint64
	newest := ""
	for _, e := range l.audited() {
		switch {
		case e.Action == api.ActionPruneAudit && e.Actor == actorSystem:
			pruned += e.Count
		case e.Account != "":
			newest = e.Action
		}
	}
	if gone := uint64(2502 - of["000000000001"] - of["000000000002"]); pruned < gone || pruned > gone+4 { // and what the first server said of itself
		t.Errorf("%d are said to be gone of %d", pruned, gone)
	}
	if newest != "2499" {
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
	if of := prune(); of["000000000001"]+of["000000000002"] != 0 {
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
