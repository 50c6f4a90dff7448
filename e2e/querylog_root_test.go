package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/names"
)

// What workloads of a VPC with a query log ask is recorded with its answer, comes to the server within seconds, and names the flow that
// followed; of another VPC nothing is.
func TestQueryLog(t *testing.T) {
	w := mesh(t)
	w.echoServer(t)
	const name = "ledger.pay.internal"
	shop, ctx := w.as("shop"), t.Context()
	q, err := shop.CreateQueryLog(ctx, api.CreateQueryLogRequest{Name: "heard", VPCs: []string{"shop"}})
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "query log", func(ctx context.Context) error { return gone(shop.DeleteQueryLog(ctx, q.ID)) })
	if err := w.converge(ctx); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	vip := w.endpointAddress(t, "ledger")
	w.must(t, "cart", "dig", "+tries=1", name, "nothing.pay.internal", "AAAA")
	w.must(t, "visitor", "dig", "+tries=1", "visitor.pay.internal")
	w.must(t, "cart", "sh", "-c", "echo hello | socat -t 2 - TCP4:"+vip+":443,connect-timeout=2")
	cart, err := shop.GetENI(ctx, "cart")
	if err != nil {
		t.Fatal(err)
	}
	var records []api.QueryRecord
	eventually(t, 60*time.Second, "both questions are recorded", func() error {
		records = nil
		err := shop.Queries(ctx, api.QueriesQuery{QueryFilter: api.QueryFilter{VPC: "shop", Client: "10.0.1.5", Since: began, Name: "pay.internal"}},
			func(r *api.QueryRecord) error {
				records = append(records, *r)
				return nil
			})
		if err == nil && len(records) != 2 {
			err = fmt.Errorf("%d records", len(records))
		}
		return err
	})
	t.Logf("n=1: recorded at the server after %s", time.Since(began).Round(time.Millisecond))
	found, lost := records[0], records[1]
	if found.Name != name+"." || found.Type != "A" || found.RCODE != "NOERROR" || !slices.Equal(found.Addresses, []string{vip}) ||
		found.Interface != cart.ID || found.Endpoint == "" || found.TTLSeconds != 60 || found.Transport != "udp" || found.End.Before(found.Start) {
		t.Errorf("%+v", found)
	}
	if lost.Name != "nothing.pay.internal." || lost.RCODE != "NXDOMAIN" || lost.Type != "AAAA" || lost.Sequence <= found.Sequence {
		t.Errorf("%+v", lost)
	}
	index := names.New(records)
	eventually(t, 60*time.Second, "the flow that followed has the name", func() error {
		seen := 0
		err := shop.Flows(ctx, api.FlowQuery{FlowFilter: api.FlowFilter{Interface: cart.ID, Address: vip, Port: 443, Since: began}},
			func(e api.FlowEnvelope) error {
				var r api.FlowRecord
				if err := json.Unmarshal(e.Record, &r); err != nil || r.Side != "consumer" || r.Start.Before(began) {
					return err
				}
				seen++
				if got, ok := index.Of(&r); !ok || got != name+"." {
					return fmt.Errorf("it has %q: %+v", got, r)
				}
				return nil
			})
		if err == nil && seen == 0 {
			err = fmt.Errorf("no record of it")
		}
		return err
	})
	if err := w.as("stranger").Queries(ctx, api.QueriesQuery{}, func(r *api.QueryRecord) error {
		return fmt.Errorf("a question of a VPC without a log: %+v", r)
	}); err != nil {
		t.Error(err)
	}
	if last, failed := w.culvert(t, "shop", "queries", "find", "--vpc", "shop", "--name", name, "--since", "10m"); failed || !strings.Contains(last, name) {
		t.Errorf("culvert queries find: %s", last)
	}
	if last, failed := w.culvert(t, "shop", "flows", "query", "--since", "10m", "--names", "--endpoint", "ledger", "--fields", "dstport,queried-name",
		"--where", "queried-name="+name); failed || !strings.Contains(last, name) {
		t.Errorf("culvert flows query --names: %s", last)
	}
	w.questionsOfAKilledAgent(t, name)
}

// questionsOfAKilledAgent: an agent is killed while a workload asks. Every question that was answered is in a record, or one says
// that it is lost.
func (w *world) questionsOfAKilledAgent(t *testing.T, name string) {
	t.Helper()
	shop, began := w.as("shop"), time.Now()
	told := func() (recorded, lost int, err error) {
		err = shop.Queries(t.Context(), api.QueriesQuery{QueryFilter: api.QueryFilter{VPC: "shop", Since: began, Limit: 100_000}},
			func(r *api.QueryRecord) error {
				if r.Client != "" {
					recorded++
				}
				lost += int(r.Lost)
				return nil
			})
		return recorded, lost, err
	}
	p := w.asker(t, "cart", name, "443")
	eventually(t, time.Minute, "questions are recorded", func() error {
		recorded, _, err := told()
		if err == nil && recorded < 100 {
			err = fmt.Errorf("%d", recorded)
		}
		return err
	})
	if err := w.lab.Kill("host-a", "agent", false); err != nil {
		t.Fatal(err)
	}
	if err := w.lab.Start(t.Context(), "host-a", "agent"); err != nil {
		t.Fatal(err)
	}
	if err := p.in.Close(); err != nil {
		t.Fatal(err)
	}
	var a asked
	if !p.out.Scan() || json.Unmarshal(p.out.Bytes(), &a) != nil {
		t.Fatalf("no word from who asked: %v: %s", p.out.Err(), p.out.Text())
	}
	answered := a.Queries - a.Failed
	eventually(t, time.Minute, "what was answered is recorded, or declared as lost", func() error {
		recorded, lost, err := told()
		if err == nil && recorded+lost < answered {
			err = fmt.Errorf("%d were answered, %d are recorded and %d declared", answered, recorded, lost)
		}
		if err == nil {
			t.Logf("n=1: of %d that were answered %d are recorded, %d are declared lost; %d got no answer", answered, recorded, lost, a.Failed)
		}
		return err
	})
}
