package controlplane

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/treelog"
	"github.com/culvert-net/culvert/controlplane/store"
)

// dailyLab is a lab whose clock is set, in the middle of a day at first.
type dailyLab struct {
	*lab
	now  atomic.Pointer[time.Time]
	tree *treelog.Mem
	mem  *store.Mem
	noon time.Time
}

func newDailyLab(t *testing.T) *dailyLab {
	d := &dailyLab{tree: treelog.NewMem("test", nil), mem: store.NewMem(),
		noon: dayOf(time.Now()).AddDate(0, 0, -5).Add(12 * time.Hour)} // certificates of then are good now
	d.now.Store(&d.noon)
	d.lab = mesh(t, func(c *Config) {
		c.Store, c.Tree, c.Now = d.mem, d.tree, func() time.Time { return *d.now.Load() }
	})
	d.eventually("the reports to begin", func() bool { return must(d.mem.Get(d.ctx(), keyDaily))(t) != nil })
	return d
}

func (d *dailyLab) set(at time.Time) { d.now.Store(&at) }

func (d *dailyLab) report() {
	d.t.Helper()
	if err := d.s.reportDays(d.ctx()); err != nil {
		d.t.Fatal(err)
	}
}

// TestDailyReport: what happened on a day is in its report, when the day is over; the report is in the Merkle log; and each day has one.
func TestDailyReport(t *testing.T) {
	d := newDailyLab(t)
	shop, pay := d.as("shop"), d.as("pay")
	e := must(shop.CreateEndpoint(d.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	approver := must(pay.Status(d.ctx()))(t).Caller.Key
	must(pay.AcceptConnections(d.ctx(), "ledger", []string{"ledger"}))(t)
	user := d.rawClient(nil)
	for range 7 {
		user.do("DELETE", "/v1/vpcs/nothing", d.keys["shop"], "")
	}
	for range 5 {
		user.do("GET", "/v1/vpcs", "key-00000000000000000.x", "")
	}
	h := d.host("host-c")
	must(pay.CreateENI(d.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "third", Node: "host-c"}))(t)
	flow := func(seq uint64, at time.Time, r api.FlowRecord) api.FlowEnvelope {
		r.Start, r.End = at, at
		return record(h.id, seq, d.about("third", r))
	}
	refused := api.FlowRecord{Action: api.ActionReject, Reason: "GROUP_INGRESS", Packets: 10, Lost: 2}
	opened := api.FlowRecord{Action: api.ActionAccept, Stage: "workload", Packets: 1, Tuple: api.FlowTuple{DstAddr: "10.0.1.9", DstPort: 80}}
	must(h.SendFlows(d.ctx(), []api.FlowEnvelope{flow(1, d.noon, refused), flow(2, d.noon, opened), flow(5, d.noon, refused),
		flow(6, d.noon, opened)}))(t)
	if err := d.s.flushRepeats(d.ctx(), true); err != nil {
		t.Fatal(err)
	}
	d.report()
	if got := must(d.admin().ListDailyReports(d.ctx()))(t); len(got) != 0 {
		t.Errorf("of a day that is not over: %+v", got)
	}
	d.set(dayOf(d.noon).AddDate(0, 0, 1).Add(dailyDelay))
	d.report()
	list := must(d.admin().ListDailyReports(d.ctx()))(t)
	if len(list) != 1 || list[0].Date != d.noon.Format(dateFormat) {
		t.Fatalf("%+v", list)
	}
	r := must(d.admin().GetDailyReport(d.ctx(), list[0].Date))(t)
	shopID, payID := d.account("shop"), d.account("pay")
	want := []api.Denials{
		{Actor: must(shop.Status(d.ctx()))(t).Caller.Key, Account: shopID, Action: "delete-vpc", Outcome: string(api.CodeVPCNotFound), Count: 7},
		{Actor: anonymous, Outcome: string(api.CodeAuthFailure), Count: 5},
	}
	if !slices.Equal(r.Audit.Denials, want) || r.Audit.Denied != 12 || r.Audit.Anonymous != 5 || r.Audit.Starts != 1 || r.Audit.Calls < 20 ||
		r.Audit.FirstSeq != 1 || r.Audit.LastSeq < 30 {
		t.Errorf("%+v", r.Audit)
	}
	if len(r.Audit.Decisions) != 1 || r.Audit.Decisions[0].Connection != e.Connection || r.Audit.Decisions[0].Actor != approver ||
		r.Audit.Decisions[0].State != api.Available {
		t.Errorf("%+v", r.Audit.Decisions)
	}
	f := r.Flows
	eni := find1(d.s.Resources().ENIs, "third").ID
	if f.Records != 4 || f.Lost != 4 || f.Nodes != 1 || !slices.Equal(f.Gaps, []api.SequenceGap{{Node: h.id, Boot: "boot", First: 3, Last: 4}}) ||
		!slices.Equal(f.Refused, []api.RefusedFlows{{Account: payID, Reason: "GROUP_INGRESS", Records: 2, Packets: 20}}) {
		t.Errorf("%+v", f)
	}
	if f.NewPairsCount != 1 || f.NewPairs[0].Interface != eni || f.NewPairs[0].To != "10.0.1.9" || !f.NewPairs[0].First.Equal(d.noon) {
		t.Errorf("%+v", f.NewPairs)
	}
	leaves := 0
	if err := d.tree.Leaves(d.ctx(), 0, func(_ uint64, l leaf.Leaf) error {
		if l.Report != nil {
			leaves++
			var sealed api.DailyReport
			if l.Report.Kind != "daily" || l.Report.SHA256 != list[0].SHA256 || json.Unmarshal(l.Report.Body, &sealed) != nil ||
				sealed.Audit.Denied != 12 {
				t.Errorf("%+v", l.Report)
			}
		}
		return nil
	}); err != nil || leaves != 1 {
		t.Errorf("%d reports in the Merkle log, %v", leaves, err)
	}
	// Two days later, after two days of nothing but one flow of a known pair.
	next := d.noon.Add(20 * time.Hour)
	d.set(next)
	must(h.SendFlows(d.ctx(), []api.FlowEnvelope{flow(7, next, opened)}))(t)
	d.set(dayOf(d.noon).AddDate(0, 0, 3).Add(dailyDelay))
	d.report()
	if list = must(d.admin().ListDailyReports(d.ctx()))(t); len(list) != 3 {
		t.Fatalf("%+v", list)
	}
	if r := must(d.admin().GetDailyReport(d.ctx(), list[1].Date))(t); r.Flows.NewPairsCount != 0 || r.Flows.Records != 1 || len(r.Flows.Gaps) != 0 {
		t.Errorf("%+v", r.Flows)
	}
	_, err := d.admin().GetDailyReport(d.ctx(), "2000-01-01")
	wantCode(t, err, api.CodeReportNotFound)
	_, err = shop.ListDailyReports(d.ctx())
	wantCode(t, err, api.CodeUnauthorized)
}

// TestAMissingReportIsAProblem: until it can be made.
func TestAMissingReportIsAProblem(t *testing.T) {
	d := newDailyLab(t)
	d.tree.Fail(http.ErrBodyNotAllowed)
	d.set(dayOf(d.noon).AddDate(0, 0, 1).Add(dailyDelay))
	try := func() { d.s.trouble(problemDaily, "making the daily report", d.s.reportDays(d.ctx())) }
	problems := func() int { return len(must(d.admin().Status(d.ctx()))(t).Problems) }
	try()
	if problems() == 0 {
		t.Error("nobody is told")
	}
	d.tree.Fail(nil)
	d.eventually("the report", func() bool {
		try()
		return problems() == 0 && len(must(d.admin().ListDailyReports(d.ctx()))(t)) == 1
	})
}

func TestSequences(t *testing.T) {
	var s sequences
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	for _, n := range []uint64{5, 3, 4, 10, 1, 11, 3, 20, 9} {
		s.add(n, at(int(n)))
	}
	if got := s.gaps(at(0), at(100)); !slices.Equal(got, [][2]uint64{{2, 2}, {6, 8}, {12, 19}}) {
		t.Errorf("%v", got)
	}
	if got := s.gaps(at(4), at(15)); !slices.Equal(got, [][2]uint64{{6, 8}}) {
		t.Errorf("%v", got)
	}
}
