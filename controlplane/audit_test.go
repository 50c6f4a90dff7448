package controlplane

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
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
	for range n {
		if a := user.do("DELETE", "/v1/vpcs/nothing", l.keys["shop"], ""); a.status != http.StatusNotFound {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	must(shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")}))(t)
	read := func(query string) (events []api.AuditEvent) {
		var list api.List[api.AuditEvent]
		if a := user.do("GET", "/v1/audit"+query, l.keys["shop"], ""); json.Unmarshal(a.body, &list) != nil {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return list.Items
	}
	if got := read(""); len(got) != auditPage || got[auditPage-1].Action != "create-vpc" || got[0].Seq != got[auditPage-1].Seq-auditPage+1 {
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
