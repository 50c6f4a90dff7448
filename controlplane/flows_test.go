package controlplane

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/flowlog"
)

// record is one that a node could write.
func record(node string, seq uint64, r api.FlowRecord) api.FlowEnvelope {
	r.Node, r.Boot, r.Sequence = node, "boot", seq
	if r.End.IsZero() {
		r.End = time.Now().UTC()
	}
	body, _ := json.Marshal(r)
	return api.FlowEnvelope{Node: node, Boot: "boot", Seq: seq, End: r.End, Record: body}
}

// about fills in whose a record of an interface is.
func (l *lab) about(eni string, r api.FlowRecord) api.FlowRecord {
	e := find1(l.s.Resources().ENIs, eni)
	r.Interface, r.Account, r.VPC, r.Subnet = e.ID, e.Account, e.VPC, e.Subnet
	return r
}

// across fills in which connection a record is of, from one side's node.
func (l *lab) across(endpoint, side string, r api.FlowRecord) api.FlowRecord {
	all := l.s.Resources()
	e := find1(all.Endpoints, endpoint)
	con := all.Connections[e.Connection]
	r.Side, r.Connection, r.Endpoint, r.Service, r.ServiceName = side, con.ID, e.ID, con.Service, e.ServiceName
	r.ConsumerAccount, r.ConsumerVPC = con.EndpointAccount, con.EndpointVPC
	r.ProviderAccount, r.ProviderVPC = con.Account, all.LoadBalancers[con.LoadBalancer].VPC
	return r
}

func collect(t *testing.T, c *client.Client, q api.FlowQuery) (seqs []uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := c.Flows(ctx, q, func(e api.FlowEnvelope) error {
		seqs = append(seqs, e.Seq)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seqs
}

func TestFlowsAreScoped(t *testing.T) {
	l := mesh(t, nil)
	shop, pay, stranger := l.as("shop"), l.as("pay"), l.as("stranger")
	b := l.host("host-c")
	e := must(pay.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "third", Node: "host-c"}))(t)
	idPay := l.account("pay")
	own := record(b.id, 1, l.about("third", api.FlowRecord{Action: api.ActionReject}))
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	both := record(b.id, 2, l.about("third", l.across("ledger", sideProvider, api.FlowRecord{})))
	// host-c serves no connection with shop, so it has nothing to say about shop.
	receipt := must(b.SendFlows(l.ctx(), []api.FlowEnvelope{own, both}))(t)
	if receipt.Stored != 1 || receipt.Refused != 1 || receipt.Duplicates != 0 {
		t.Errorf("%+v", receipt)
	}
	must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "third"}}))(t)
	receipt = must(b.SendFlows(l.ctx(), []api.FlowEnvelope{own, both, record(b.id, 3, api.FlowRecord{})}))(t)
	if receipt.Stored != 2 || receipt.Duplicates != 1 || receipt.Refused != 0 {
		t.Errorf("%+v", receipt)
	}
	for _, c := range []struct {
		who  *client.Client
		q    api.FlowFilter
		want []uint64
	}{
		{shop, api.FlowFilter{}, []uint64{2}}, {pay, api.FlowFilter{}, []uint64{1, 2}}, {stranger, api.FlowFilter{}, nil},
		{l.admin(), api.FlowFilter{}, []uint64{1, 2, 3}}, {l.client(l.adminKey, "shop"), api.FlowFilter{}, []uint64{2}},
		{pay, api.FlowFilter{Interface: "third"}, []uint64{1, 2}}, {pay, api.FlowFilter{Interface: e.ID}, []uint64{1, 2}},
		{stranger, api.FlowFilter{Interface: e.ID}, nil}, {pay, api.FlowFilter{Action: api.ActionReject}, []uint64{1}},
		{shop, api.FlowFilter{Service: idPay + "/ledger"}, []uint64{2}}, {pay, api.FlowFilter{Limit: 1}, []uint64{2}},
		{pay, api.FlowFilter{Since: time.Now().Add(time.Hour)}, nil},
	} {
		if got := collect(t, c.who, api.FlowQuery{FlowFilter: c.q}); !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %v, want %v", c.q, got, c.want)
		}
	}
	// Each side sees of it what it may.
	for who, want := range map[*client.Client]string{shop: "", pay: e.ID, l.admin(): e.ID} {
		q := api.FlowQuery{FlowFilter: api.FlowFilter{Service: "pay/ledger"}}
		if err := who.Flows(l.ctx(), q, func(got api.FlowEnvelope) error {
			var r api.FlowRecord
			if err := json.Unmarshal(got.Record, &r); err != nil || r.Sequence != 2 || r.Interface != want {
				t.Errorf("%s, %v; want the interface %q", got.Record, err, want)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	// What is deleted still has its records.
	must(pay.DeregisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "third"}}))(t)
	must(pay.DeleteENI(l.ctx(), "third"))(t)
	if got := collect(t, pay, api.FlowQuery{FlowFilter: api.FlowFilter{Interface: e.ID}}); len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestFlowsThatANodeMayNotWrite(t *testing.T) {
	l := mesh(t, nil)
	a, b := l.host("host-c"), l.host("host-d")
	shop, pay := l.as("shop"), l.as("pay")
	must(pay.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "third", Node: "host-c"}))(t)
	must(pay.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "fourth", Node: "host-d"}))(t)
	must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "third"}}))(t)
	for _, name := range []string{"ledger", "waiting"} {
		must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: name}))(t)
	}
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	forged := record(a.id, 1, api.FlowRecord{})
	forged.Record = record(b.id, 1, api.FlowRecord{}).Record
	other := record(a.id, 2, api.FlowRecord{})
	other.Seq = 3
	moved := record(a.id, 3, api.FlowRecord{})
	moved.End = moved.End.Add(-time.Hour)
	boot := record(a.id, 5, api.FlowRecord{})
	boot.Boot = ""
	for name, e := range map[string]api.FlowEnvelope{
		"another node's": forged, "another number": other, "no boot": boot, "another time": moved,
		"no number": record(a.id, 0, api.FlowRecord{}),
	} {
		if r := must(a.SendFlows(l.ctx(), []api.FlowEnvelope{e}))(t); r.Refused != 1 || r.Stored != 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	third := func(change func(*api.FlowRecord)) api.FlowRecord {
		r := l.about("third", l.across("ledger", sideProvider, api.FlowRecord{}))
		change(&r)
		return r
	}
	shops, vpc := l.account("shop"), find1(l.s.Resources().VPCs, "shop").ID
	for name, r := range map[string]api.FlowRecord{
		"long":              {Reason: strings.Repeat("x", flowlog.MaxRecord)},
		"tomorrow's":        {End: time.Now().Add(25 * time.Hour)},
		"last year's":       {End: time.Now().Add(-366 * 24 * time.Hour)},
		"nobody's":          {Account: "000000000000"},
		"a stranger's":      {Account: l.account("stranger")},
		"a VPC, no account": {VPC: vpc},
		"another's VPC":     {Account: l.account("pay"), VPC: vpc},
		"an interface of another node, of the same account": l.about("fourth", api.FlowRecord{}),
		"an interface of another node":                      l.about("cart", api.FlowRecord{}),
		"an interface that is none":                         {Interface: noENI, Account: l.account("pay")},
		"its interface, another account":                    third(func(r *api.FlowRecord) { r.Account = shops }),
		"its interface, no account":                         third(func(r *api.FlowRecord) { r.Account = "" }),
		"its interface, another VPC":                        third(func(r *api.FlowRecord) { r.VPC = vpc }),
		"its interface, another subnet":                     third(func(r *api.FlowRecord) { r.Subnet = noSubnet }),
		"a connection that is not open":                     l.about("third", l.across("waiting", sideProvider, api.FlowRecord{})),
		"a connection that is none":                         third(func(r *api.FlowRecord) { r.Connection = "vpce-con-0" }),
		"another consumer":                                  third(func(r *api.FlowRecord) { r.ConsumerAccount = l.account("stranger") }),
		"no consumer":                                       third(func(r *api.FlowRecord) { r.ConsumerAccount = "" }),
		"another provider":                                  third(func(r *api.FlowRecord) { r.ProviderAccount = shops }),
		"another consumer's VPC":                            third(func(r *api.FlowRecord) { r.ConsumerVPC = noVPC }),
		"another provider's VPC":                            third(func(r *api.FlowRecord) { r.ProviderVPC = vpc }),
		"another endpoint":                                  third(func(r *api.FlowRecord) { r.Endpoint = noEndpoint }),
		"another service":                                   third(func(r *api.FlowRecord) { r.Service = noService }),
		"the other side":                                    third(func(r *api.FlowRecord) { r.Side = sideConsumer }),
		"no side":                                           third(func(r *api.FlowRecord) { r.Side = "" }),
		"accounts without a connection":                     third(func(r *api.FlowRecord) { r.Connection = "" }),
		"a service without a connection":                    l.about("third", api.FlowRecord{ServiceName: "pay/ledger"}),
		"traffic of the other side, of no interface":        {Account: shops, VPC: vpc, Action: api.ActionAccept},
		"traffic of the other side, of no VPC":              {Account: shops, Action: api.ActionAccept},
		"traffic of its own side, of no VPC":                {Account: l.account("pay"), Action: api.ActionAccept},
		"traffic across, of no interface":                   l.across("ledger", sideProvider, api.FlowRecord{Action: api.ActionAccept}),
		"a subnet, no interface":                            {Account: shops, VPC: vpc, Subnet: noSubnet, Action: api.ActionReject},
		"the side where it is not": l.across("ledger", sideConsumer,
			api.FlowRecord{Account: shops, VPC: vpc, Action: api.ActionReject}),
	} {
		if r := must(a.SendFlows(l.ctx(), []api.FlowEnvelope{record(a.id, 10, r)}))(t); r.Refused != 1 || r.Stored != 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// Less than it could say is fine.
	approver, _, _ := strings.Cut(l.keys["pay"], ".")
	honest := third(func(r *api.FlowRecord) { r.ConsumerVPC, r.ProviderVPC, r.Subnet, r.Approver = "", "", "", approver })
	// So is what it cannot name an interface for: of a VPC that it has interfaces in, or refused. Free text is not stored.
	forgot := l.across("ledger", sideProvider, api.FlowRecord{Action: api.ActionAccept, Account: l.account("pay"), Approver: "\x1b[2J"})
	forgot.VPC, forgot.ServiceName = forgot.ProviderVPC, "call 555-0100"
	for i, r := range []api.FlowRecord{honest, forgot, {Account: shops, VPC: vpc, Action: api.ActionReject}, {LogStatus: "SKIPDATA"}} {
		seq := []uint64{10, 12, 13, 14}[i]
		if got := must(a.SendFlows(l.ctx(), []api.FlowEnvelope{record(a.id, seq, r)}))(t); got.Stored != 1 {
			t.Errorf("%d: %+v", seq, got)
		}
	}
	// The envelope's node is the caller, whatever it says, and its accounts are what the server says.
	posing := record(a.id, 11, api.FlowRecord{})
	posing.Node, posing.Accounts = b.id, []string{l.account("stranger")}
	if r := must(a.SendFlows(l.ctx(), []api.FlowEnvelope{posing}))(t); r.Stored != 1 {
		t.Errorf("%+v", r)
	}
	err := l.admin().Flows(l.ctx(), api.FlowQuery{}, func(e api.FlowEnvelope) error {
		both := []string{l.account("pay"), shops}
		slices.Sort(both)
		var r api.FlowRecord
		if err := json.Unmarshal(e.Record, &r); err != nil {
			return err
		}
		want := map[uint64]struct {
			accounts          []string
			service, approver string
		}{10: {both, "pay/ledger", approver}, 11: {}, 12: {both, "pay/ledger", ""}, 13: {[]string{shops}, "", ""}, 14: {}}[e.Seq]
		if e.Node != a.id || !slices.Equal(e.Accounts, want.accounts) || r.ServiceName != want.service || r.Approver != want.approver {
			t.Errorf("stored as %+v %s", e, e.Record)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	// A batch that cannot be read is not stored in part.
	good, _ := json.Marshal(record(a.id, 20, api.FlowRecord{}))
	answer := l.rawClient(a.cert).do("POST", "/v1/node/flows", "", string(good)+"\n\n{", "Content-Type", ndjson)
	if e := answer.refusal(t); e.Field != "line 3" {
		t.Errorf("%v", e)
	}
	if got := collect(t, l.admin(), api.FlowQuery{}); !slices.Equal(got, []uint64{10, 12, 13, 14, 11}) {
		t.Errorf("stored %v", got)
	}
}

// A node may say of a connection what its side sees; one that has interfaces of both sides, what both see, and late what it saw as
// the side that it is no more.
func TestEachSidesFlows(t *testing.T) {
	l := mesh(t, nil)
	h, shop, pay := l.host("host-c"), l.as("shop"), l.as("pay")
	must(shop.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "shop-b", Name: "mine", Node: "host-c"}))(t)
	must(pay.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "third", Node: "host-c"}))(t)
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	consumer := l.about("mine", l.across("ledger", sideConsumer, api.FlowRecord{Action: api.ActionAccept}))
	provider := l.about("third", l.across("ledger", sideProvider, api.FlowRecord{Action: api.ActionAccept}))
	seq := uint64(0)
	send := func(what string, r api.FlowRecord, stored int) {
		t.Helper()
		seq++
		if got := must(h.SendFlows(l.ctx(), []api.FlowEnvelope{record(h.id, seq, r)}))(t); got.Stored != stored || got.Refused != 1-stored {
			t.Errorf("%s: %+v", what, got)
		}
	}
	send("the consumer's node", consumer, 1)
	send("the provider's side at the consumer's node", provider, 0)
	must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "third"}}))(t)
	send("both, as consumer's", consumer, 1)
	send("both, as provider's", provider, 1)
	must(pay.DeregisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "third"}}))(t)
	send("no more the provider's, late", provider, 1)
	must(shop.DeleteENI(l.ctx(), "mine"))(t)
	send("no more the consumer's, late", consumer, 1)
}

func TestFollowFlows(t *testing.T) {
	l := mesh(t, nil)
	h := l.host("host-c")
	pay := l.as("pay")
	must(pay.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "third", Node: "host-c"}))(t)
	third := l.about("third", api.FlowRecord{})
	must(h.SendFlows(l.ctx(), []api.FlowEnvelope{record(h.id, 1, third)}))(t)
	got, ended := make(chan uint64, 100), make(chan error, 1)
	go func() {
		ended <- pay.Flows(context.Background(), api.FlowQuery{Follow: true}, func(e api.FlowEnvelope) error {
			got <- e.Seq
			return nil
		})
	}()
	next := func() uint64 {
		select {
		case seq := <-got:
			return seq
		case <-time.After(75 * time.Second):
			t.Fatal("nothing comes")
			return 0
		}
	}
	if seq := next(); seq != 1 {
		t.Errorf("got %d", seq)
	}
	sent := time.Now()
	must(h.SendFlows(l.ctx(), []api.FlowEnvelope{record(h.id, 2, api.FlowRecord{}), record(h.id, 3, third)}))(t)
	if seq := next(); seq != 3 {
		t.Errorf("got %d, 2 is nobody's", seq)
	}
	took := time.Since(sent)
	t.Logf("from a node's sending to who follows: %s; a second is promised", took)
	if took > 5*time.Second {
		t.Errorf("a record took %s", took)
	}
	// The stream ends with its key, before the next record.
	key, _, _ := strings.Cut(l.keys["pay"], ".")
	must(l.admin().DeleteAPIKey(l.ctx(), key))(t)
	must(h.SendFlows(l.ctx(), []api.FlowEnvelope{record(h.id, 4, third)}))(t)
	select {
	case err := <-ended:
		if err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(75 * time.Second):
		t.Fatal("the stream outlives its key")
	}
	if len(got) != 0 {
		t.Errorf("it still told %d", <-got)
	}
}

// What a node had to do with is not forgotten with it: records come late, from nodes that went on without the server, and after a
// restart of that.
func TestLateFlows(t *testing.T) {
	var now atomic.Pointer[time.Time]
	at := time.Now().Add(-5 * 24 * time.Hour) // so that all of it is past: clients look at the server's certificate
	now.Store(&at)
	config := func(c *Config) { c.Now = func() time.Time { return *now.Load() } }
	l := mesh(t, config)
	shop, pay := l.as("shop"), l.as("pay")
	h := l.host("host-c")
	must(pay.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "third", Node: "host-c"}))(t)
	must(pay.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "moved", Node: "host-c"}))(t)
	must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "third"}}))(t)
	for _, name := range []string{"ledger", "second"} {
		must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: name}))(t)
		must(pay.AcceptConnections(l.ctx(), "ledger", []string{name}))(t)
	}
	views, _ := h.views(t)
	until(t, views, "the node's view", func(v *api.View) bool { return len(v.ENIs) == 2 && len(v.Grants) == 4 })
	seq := uint64(0)
	send := func(h *host, end time.Time, r api.FlowRecord) *api.FlowReceipt {
		t.Helper()
		seq++
		r.End = end.UTC()
		return must(h.SendFlows(l.ctx(), []api.FlowEnvelope{record(h.id, seq, r)}))(t)
	}
	records := map[string]api.FlowRecord{
		"deleted interface":   l.about("third", api.FlowRecord{}),
		"moved interface":     l.about("moved", api.FlowRecord{}),
		"rejected connection": l.about("third", l.across("ledger", sideProvider, api.FlowRecord{})),
		"deleted endpoint":    l.about("third", l.across("second", sideProvider, api.FlowRecord{})),
		"no interface":        {Account: l.account("pay"), VPC: find1(l.s.Resources().VPCs, "pay").ID},
		"refused, across":     l.across("ledger", sideProvider, api.FlowRecord{Action: api.ActionReject, Account: l.account("pay")}),
	}
	must(pay.RejectConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	must(shop.DeleteEndpoint(l.ctx(), "second"))(t)
	must(pay.DeregisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "third"}}))(t)
	must(pay.DeleteENI(l.ctx(), "third"))(t)
	must(pay.BindENI(l.ctx(), "moved", "host-a"))(t)
	until(t, views, "the empty view", func(v *api.View) bool { return len(v.ENIs) == 0 && len(v.Grants) == 0 })
	for name, r := range records {
		if got := send(h, at, r); got.Stored != 1 {
			t.Errorf("%s: %+v", name, got)
		}
	}
	// A day later, written with the old view up to now; and of a time when the node must have closed.
	day := at.Add(25 * time.Hour)
	now.Store(&day)
	renewed := l.renewed(h)
	end := at.Add(l.s.cfg.ViewMaxAge + maxAhead)
	for name, r := range records {
		if got := send(renewed, day, r); got.Stored != 1 {
			t.Errorf("%s, a day later: %+v", name, got)
		}
	}
	afterEnd := end.Add(time.Minute)
	now.Store(&afterEnd)
	renewed = l.renewed(renewed)
	for name, r := range records {
		if got := send(renewed, afterEnd, r); got.Refused != 1 {
			t.Errorf("%s, when the node must have closed: %+v", name, got)
		}
		if got := send(renewed, day, r); got.Stored != 1 {
			t.Errorf("%s, shipped late: %+v", name, got)
		}
	}
	// Another server on the same directory knows, too.
	l.stop()
	before := l
	l = startLab(t, func(c *Config) {
		config(c)
		c.DataDir, c.Store = before.s.cfg.DataDir, before.s.store
	})
	renewed = l.hostWith(renewed.join, renewed.cert.PrivateKey.(*ecdsa.PrivateKey))
	for name, r := range records {
		if got := send(renewed, day.Add(time.Minute), r); got.Stored != 1 {
			t.Errorf("%s, after a restart: %+v", name, got)
		}
	}
}

func TestFormerRelationsAreBounded(t *testing.T) {
	now := time.Now()
	x := newRelated()
	v := func(rev int64, enis ...api.ViewENI) *api.View { return &api.View{Revision: rev, ENIs: enis} }
	quiet := api.ViewENI{ID: "eni-quiet", Account: "quiet"}
	x.take(v(1, quiet), api.NewResources(), now, now.Add(-time.Hour))
	rev := int64(2)
	for i := range maxFormer + 10 {
		at := now.Add(time.Duration(i) * time.Second)
		x.take(v(rev, api.ViewENI{ID: fmt.Sprintf("eni-%05d", i), Account: "busy"}), api.NewResources(), at, now.Add(-time.Hour))
		rev++
	}
	if x.ENIs["eni-quiet"] == nil || len(x.ENIs) != maxFormer+2 { // one account does not push out another's; one is there now
		t.Errorf("%d remembered", len(x.ENIs))
	}
	if x.ENIs["eni-00000"] != nil || x.ENIs[fmt.Sprintf("eni-%05d", maxFormer+8)] == nil {
		t.Error("not the oldest were forgotten")
	}
	// What comes back is there again; what is long gone is forgotten; an older view changes nothing.
	x.take(v(rev, quiet), api.NewResources(), now.Add(2*time.Hour), now.Add(time.Hour))
	if len(x.ENIs) != 2 || !x.ENIs["eni-quiet"].Left.IsZero() {
		t.Errorf("%d remembered: %+v", len(x.ENIs), x.ENIs["eni-quiet"])
	}
	x.take(v(1), api.NewResources(), now.Add(2*time.Hour), now.Add(time.Hour))
	if !x.ENIs["eni-quiet"].Left.IsZero() {
		t.Error("an older view counted")
	}
}

func TestTalliesAreTaken(t *testing.T) {
	var f tally
	now := time.Now()
	f.add("a", "x")
	f.add("a", "y")
	if by := f.take(now); len(by) != 1 || by["a"] != (tallied{2, "y"}) {
		t.Errorf("%+v", by)
	}
	f.add("b", "x")
	if by := f.take(now.Add(tallyEvery - 1)); by != nil {
		t.Errorf("again within a minute: %+v", by)
	}
	if by := f.take(now.Add(tallyEvery)); len(by) != 1 || by["b"].times != 1 {
		t.Errorf("%+v", by)
	}
	if by := f.take(now.Add(time.Hour)); by != nil {
		t.Errorf("%+v", by)
	}
}
