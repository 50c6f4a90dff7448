package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/flowlog"
)

// record is one that a node could write.
func record(node string, seq uint64, r api.FlowRecord, accounts ...string) api.FlowEnvelope {
	r.Node, r.Boot, r.Sequence = node, "boot", seq
	if r.End.IsZero() {
		r.End = time.Now().UTC()
	}
	body, _ := json.Marshal(r)
	return api.FlowEnvelope{Node: node, Boot: "boot", Seq: seq, Accounts: accounts, End: r.End, Record: body}
}

func collect(t *testing.T, c *client.Client, q api.FlowQuery) (seqs []uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
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
	idShop, idPay := l.account("shop"), l.account("pay")
	own := record(b.id, 1, api.FlowRecord{Interface: e.ID, Action: api.ActionReject}, idPay)
	// host-c serves no connection with shop, so it has nothing to say about shop.
	receipt := must(b.SendFlows(l.ctx(), []api.FlowEnvelope{own, record(b.id, 2, api.FlowRecord{}, idPay, idShop)}))(t)
	if receipt.Stored != 1 || receipt.Refused != 1 || receipt.Duplicates != 0 {
		t.Errorf("%+v", receipt)
	}
	must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "third"}}))(t)
	must(shop.CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	must(pay.AcceptConnections(l.ctx(), "ledger", []string{"ledger"}))(t)
	receipt = must(b.SendFlows(l.ctx(), []api.FlowEnvelope{own, record(b.id, 2, api.FlowRecord{ServiceName: "pay/ledger"}, idPay, idShop),
		record(b.id, 3, api.FlowRecord{})}))(t)
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
		{pay, api.FlowFilter{Interface: "third"}, []uint64{1}}, {pay, api.FlowFilter{Interface: e.ID}, []uint64{1}},
		{stranger, api.FlowFilter{Interface: e.ID}, nil}, {pay, api.FlowFilter{Action: api.ActionReject}, []uint64{1}},
		{shop, api.FlowFilter{Service: idPay + "/ledger"}, []uint64{2}}, {pay, api.FlowFilter{Limit: 1}, []uint64{2}},
		{pay, api.FlowFilter{Since: time.Now().Add(time.Hour)}, nil},
	} {
		if got := collect(t, c.who, api.FlowQuery{FlowFilter: c.q}); !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %v, want %v", c.q, got, c.want)
		}
	}
	// What is deleted still has its records.
	must(pay.DeregisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "third"}}))(t)
	must(pay.DeleteENI(l.ctx(), "third"))(t)
	if got := collect(t, pay, api.FlowQuery{FlowFilter: api.FlowFilter{Interface: e.ID}}); len(got) != 1 {
		t.Errorf("got %v", got)
	}
	// Late records of what ended a moment ago are taken.
	if r := must(b.SendFlows(l.ctx(), []api.FlowEnvelope{record(b.id, 4, api.FlowRecord{}, idPay, idShop)}))(t); r.Stored != 1 {
		t.Errorf("%+v", r)
	}
}

func TestFlowsThatANodeMayNotWrite(t *testing.T) {
	l := mesh(t, nil)
	a, b := l.host("host-c"), l.host("host-d")
	forged := record(a.id, 1, api.FlowRecord{})
	forged.Record = record(b.id, 1, api.FlowRecord{}).Record
	other := record(a.id, 2, api.FlowRecord{})
	other.Seq = 3
	long := record(a.id, 4, api.FlowRecord{Reason: strings.Repeat("x", flowlog.MaxRecord)})
	boot := record(a.id, 5, api.FlowRecord{})
	boot.Boot = ""
	for name, e := range map[string]api.FlowEnvelope{
		"another node's": forged, "another number": other, "long": long, "no boot": boot,
		"no number": record(a.id, 0, api.FlowRecord{}), "no account": record(a.id, 6, api.FlowRecord{}, ""),
		"tomorrow's":      record(a.id, 7, api.FlowRecord{End: time.Now().Add(25 * time.Hour)}),
		"last year's":     record(a.id, 8, api.FlowRecord{End: time.Now().Add(-366 * 24 * time.Hour)}),
		"nobody's":        record(a.id, 9, api.FlowRecord{}, "000000000000"),
		"somebody else's": record(a.id, 10, api.FlowRecord{}, l.account("shop")),
	} {
		if r := must(a.SendFlows(l.ctx(), []api.FlowEnvelope{e}))(t); r.Refused != 1 || r.Stored != 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// The envelope's node is the caller, whatever it says.
	posing := record(a.id, 11, api.FlowRecord{})
	posing.Node = b.id
	if r := must(a.SendFlows(l.ctx(), []api.FlowEnvelope{posing}))(t); r.Stored != 1 {
		t.Errorf("%+v", r)
	}
	err := l.admin().Flows(l.ctx(), api.FlowQuery{}, func(e api.FlowEnvelope) error {
		if e.Node != a.id {
			t.Errorf("stored as %s", e.Node)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	// A batch that cannot be read is not stored in part.
	good, _ := json.Marshal(record(a.id, 12, api.FlowRecord{}))
	answer := l.rawClient(a.cert).do("POST", "/v1/node/flows", "", string(good)+"\n\n{", "Content-Type", ndjson)
	if e := answer.refusal(t); e.Field != "line 3" {
		t.Errorf("%v", e)
	}
	if got := collect(t, l.admin(), api.FlowQuery{}); !slices.Equal(got, []uint64{11}) {
		t.Errorf("stored %v", got)
	}
}

func TestFollowFlows(t *testing.T) {
	l := mesh(t, nil)
	h := l.host("host-c")
	pay := l.as("pay")
	must(pay.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-b", Name: "third", Node: "host-c"}))(t)
	id := l.account("pay")
	must(h.SendFlows(l.ctx(), []api.FlowEnvelope{record(h.id, 1, api.FlowRecord{}, id)}))(t)
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
		case <-time.After(15 * time.Second):
			t.Fatal("nothing comes")
			return 0
		}
	}
	if seq := next(); seq != 1 {
		t.Errorf("got %d", seq)
	}
	must(h.SendFlows(l.ctx(), []api.FlowEnvelope{record(h.id, 2, api.FlowRecord{}), record(h.id, 3, api.FlowRecord{}, id)}))(t)
	if seq := next(); seq != 3 {
		t.Errorf("got %d, 2 is nobody's", seq)
	}
	// The stream ends with its key, before the next record.
	key, _, _ := strings.Cut(l.keys["pay"], ".")
	must(l.admin().DeleteAPIKey(l.ctx(), key))(t)
	must(h.SendFlows(l.ctx(), []api.FlowEnvelope{record(h.id, 4, api.FlowRecord{}, id)}))(t)
	select {
	case err := <-ended:
		if err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("the stream outlives its key")
	}
	if len(got) != 0 {
		t.Errorf("it still told %d", <-got)
	}
}
