package controlplane

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/view"
)

// recorded tells whether the node of the shop's workload records the shop's questions.
func (l *lab) recorded() bool {
	r := l.s.Resources()
	for _, v := range view.Compute(r, find1(r.ENIs, "cart").Node).VPCs {
		if v.ID == find1(r.VPCs, "shop").ID {
			return v.QueryLog
		}
	}
	return false
}

// A VPC is recorded as long as a query log has it.
func TestQueryLogs(t *testing.T) {
	l := mesh(t, nil)
	shop, ctx := l.as("shop"), l.ctx()
	q := must(shop.CreateQueryLog(ctx, api.CreateQueryLogRequest{Name: "heard"}))(t)
	if !strings.HasPrefix(q.ID, "rqlc-") || len(q.VPCs) != 0 || l.recorded() {
		t.Fatalf("%+v, recorded %t", q, l.recorded())
	}
	_, err := shop.CreateQueryLog(ctx, api.CreateQueryLogRequest{Name: "heard"})
	wantCode(t, err, api.CodeDuplicateName)
	must(l.as("pay").CreateQueryLog(ctx, api.CreateQueryLogRequest{Name: "heard", VPCs: []string{"pay"}}))(t)
	if l.recorded() {
		t.Error("another account's log has the shop recorded")
	}
	vpc := find1(l.s.Resources().VPCs, "shop").ID
	if got := must(shop.AssociateQueryLog(ctx, "heard", []string{"shop"}))(t); !slices.Equal(got.VPCs, []string{vpc}) || !l.recorded() {
		t.Errorf("%+v, recorded %t", got, l.recorded())
	}
	must(shop.CreateQueryLog(ctx, api.CreateQueryLogRequest{Name: "second", VPCs: []string{"shop"}}))(t)
	must(shop.DisassociateQueryLog(ctx, q.ID, []string{"shop"}))(t)
	if !l.recorded() {
		t.Error("the second log does not count")
	}
	must(shop.DeleteQueryLog(ctx, "second"))(t)
	if l.recorded() {
		t.Error("recorded without a log")
	}
	l.network(shop, "club")
	must(shop.AssociateQueryLog(ctx, q.ID, []string{"club"}))(t)
	for _, s := range []string{"club-a", "club-b"} {
		must(shop.DeleteSubnet(ctx, s))(t)
	}
	must(shop.DeleteVPC(ctx, "club"))(t)
	if got := must(shop.GetQueryLog(ctx, q.ID))(t); len(got.VPCs) != 0 {
		t.Errorf("after its VPC is deleted: %+v", got)
	}
	for len(l.s.Resources().QueryLogs) < api.MaxQueryLogsPerAccount+1 { // one is the other account's
		must(shop.CreateQueryLog(ctx, api.CreateQueryLogRequest{Name: "more-" + string(rune('a'+len(l.s.Resources().QueryLogs)))}))(t)
	}
	_, err = shop.CreateQueryLog(ctx, api.CreateQueryLogRequest{Name: "beyond"})
	wantCode(t, err, api.CodeLimitExceeded)
	l.check()
}

// questionOf is a record of a question that a node could write.
func questionOf(node string, seq uint64, q api.QueryRecord) api.FlowEnvelope {
	q.Node, q.Boot, q.Sequence = node, "boot", seq
	if q.End.IsZero() {
		q.End = time.Now().UTC()
	}
	q.Start = q.End
	body, _ := json.Marshal(api.QueryLine{Query: q})
	return api.FlowEnvelope{Kind: api.KindOfQuery, Node: node, Boot: "boot", Seq: seq, End: q.End, Record: body}
}

// A node tells of questions of what it hosts, and each account is told of its own VPCs'.
func TestQueriesAreScoped(t *testing.T) {
	l := mesh(t, nil)
	shop, pay := l.as("shop"), l.as("pay")
	h := l.host("host-q")
	e := must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Name: "asker", Node: "host-q"}))(t)
	other := find1(l.s.Resources().ENIs, "ledger")
	own := api.QueryRecord{Account: e.Account, VPC: e.VPC, Interface: e.ID, Client: e.Address.String(), Name: "Ledger.pay.internal.", Type: "A",
		Class: "IN", RCODE: "NOERROR", Transport: "udp", Addresses: []string{"10.0.1.200"}}
	blocked := own
	blocked.Name, blocked.RCODE, blocked.FirewallAction, blocked.Addresses = "bad.example.", "NXDOMAIN", api.FirewallBlock, nil
	lost := api.QueryRecord{Account: e.Account, VPC: e.VPC, Lost: 7}
	batch := []api.FlowEnvelope{questionOf(h.id, 1, own), questionOf(h.id, 2, blocked), questionOf(h.id, 3, lost)}
	for i, change := range []func(*api.QueryRecord){
		func(q *api.QueryRecord) { q.Account = other.Account },
		func(q *api.QueryRecord) { q.VPC, q.Account, q.Interface = other.VPC, other.Account, "" },
		func(q *api.QueryRecord) { q.Interface = other.ID },
		func(q *api.QueryRecord) { q.End = time.Now().Add(48 * time.Hour) },
		func(q *api.QueryRecord) { q.VPC = "" },
	} {
		q := own
		change(&q)
		batch = append(batch, questionOf(h.id, uint64(10+i), q))
	}
	wrong := questionOf(h.id, 20, own)
	wrong.Seq = 21
	unknown := questionOf(h.id, 22, own)
	unknown.Kind = "letter"
	batch = append(batch, wrong, unknown)
	if receipt := must(h.SendFlows(l.ctx(), batch))(t); receipt.Stored != 3 || receipt.Refused != len(batch)-3 {
		t.Errorf("%+v", receipt)
	}
	if receipt := must(h.SendFlows(l.ctx(), batch[:3]))(t); receipt.Stored != 0 || receipt.Duplicates != 3 {
		t.Errorf("again: %+v", receipt)
	}
	for _, c := range []struct {
		who  *client.Client
		f    api.QueryFilter
		want []uint64
	}{
		{shop, api.QueryFilter{}, []uint64{1, 2, 3}}, {pay, api.QueryFilter{}, nil}, {l.admin(), api.QueryFilter{}, []uint64{1, 2, 3}},
		{shop, api.QueryFilter{VPC: "shop", Client: e.Address.String()}, []uint64{1, 2}}, {shop, api.QueryFilter{Interface: "asker"}, []uint64{1, 2}},
		{shop, api.QueryFilter{Name: "pay.internal"}, []uint64{1}}, {shop, api.QueryFilter{Type: "AAAA"}, nil},
		{shop, api.QueryFilter{RCODE: "NXDOMAIN"}, []uint64{2}}, {shop, api.QueryFilter{FirewallAction: api.FirewallBlock}, []uint64{2}},
		{shop, api.QueryFilter{Address: "10.0.1.200"}, []uint64{1}}, {shop, api.QueryFilter{Limit: 1}, []uint64{3}},
		{shop, api.QueryFilter{Since: time.Now().Add(time.Hour)}, nil},
	} {
		var got []uint64
		if err := c.who.Queries(l.ctx(), api.QueriesQuery{QueryFilter: c.f}, func(r *api.QueryRecord) error {
			got = append(got, r.Sequence)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %v, want %v", c.f, got, c.want)
		}
	}
	if got := collect(t, shop, api.FlowQuery{}); len(got) != 0 {
		t.Errorf("among flow records: %v", got)
	}
	err := shop.Queries(l.ctx(), api.QueriesQuery{QueryFilter: api.QueryFilter{Client: "cart"}}, nil)
	if e := wantCode(t, err, api.CodeInvalidParameter); e.Field != "client" {
		t.Errorf("%v", e)
	}
}

// Questions are taken as long as flow records are kept, by the term in force and not by what the server was started with.
func TestQueriesAreKeptAsFlowsAre(t *testing.T) {
	l := mesh(t, nil)
	h := l.host("host-q")
	e := must(l.as("shop").CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-a", Name: "asker", Node: "host-q"}))(t)
	for i, c := range []struct{ days, stored int }{{60, 1}, {30, 0}} {
		l.keep(c.days)
		q := api.QueryRecord{Account: e.Account, VPC: e.VPC, Interface: e.ID, Client: e.Address.String(), Name: "a.example.",
			Type: "A", Class: "IN", RCODE: "NOERROR", Transport: "udp", End: time.Now().UTC().Add(-50 * day)}
		receipt := must(h.SendFlows(l.ctx(), []api.FlowEnvelope{questionOf(h.id, uint64(1+i), q)}))(t)
		if receipt.Stored != c.stored || receipt.Refused != 1-c.stored {
			t.Errorf("kept %d days, 50 days old: %+v", c.days, receipt)
		}
	}
}
