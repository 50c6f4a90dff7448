package flowlog

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
)

// Of shop's flow to pay's service, the records of both nodes: 10.0.1.5:40000 → 10.0.1.200:443 at the consumer's, which sends it to
// the target 10.0.1.6:8443; the target sees 10.0.1.9:50000. No word of one side occurs on the other.
func crossing(side, stage, action string) api.FlowRecord {
	r := api.FlowRecord{Node: "node-" + side, Boot: "b", Sequence: 1, Start: noon, End: noon, Action: action, LogStatus: "OK", Stage: stage,
		Side: side, Protocol: 6, Connection: "con", Endpoint: "vpce", Service: "svc", ServiceName: "pay/ledger", Approver: "key",
		ConsumerAccount: "shop", ProviderAccount: "pay", ConsumerVPC: "vpc-shop", ProviderVPC: "vpc-pay", Packets: 3, Bytes: 200}
	workload, endpoint := "10.0.1.5", "10.0.1.200"
	target, balancer := "10.0.1.6", "10.0.1.9"
	if side == "consumer" {
		r.Account, r.Interface, r.VPC, r.Subnet, r.Rule = "shop", "eni-shop", "vpc-shop", "subnet-shop", "rule-shop"
		r.Tuple = api.FlowTuple{SrcAddr: workload, SrcPort: 40000, DstAddr: endpoint, DstPort: 443}
		r.Translated = api.FlowTuple{SrcAddr: workload, SrcPort: 40000, DstAddr: target, DstPort: 8443}
		if stage != "workload" { // an answer
			r.Tuple = api.FlowTuple{SrcAddr: target, SrcPort: 8443, DstAddr: workload, DstPort: 40000}
		}
	} else {
		r.Account, r.Interface, r.VPC, r.Subnet, r.Rule = "pay", "eni-pay", "vpc-pay", "subnet-pay", "rule-pay"
		r.Tuple = api.FlowTuple{SrcAddr: workload, SrcPort: 40000, DstAddr: target, DstPort: 8443}
		r.Translated = api.FlowTuple{SrcAddr: balancer, SrcPort: 50000, DstAddr: target, DstPort: 8443}
		if stage == "workload" {
			r.Tuple = api.FlowTuple{SrcAddr: target, SrcPort: 8443, DstAddr: balancer, DstPort: 50000}
		}
	}
	if action == api.ActionReject {
		r.Translated, r.Rule = r.Tuple, ""
	}
	return r
}

// every is each kind of record that there is of the connection.
func every() (out []api.FlowRecord) {
	for _, side := range []string{"consumer", "provider"} {
		for _, stage := range []string{"workload", "tunnel", "local", "host", ""} {
			for _, action := range []string{api.ActionAccept, api.ActionReject} {
				out = append(out, crossing(side, stage, action))
			}
		}
	}
	return out
}

func TestWhatEachSideSees(t *testing.T) {
	secrets := map[string][]string{
		"shop": {"eni-pay", "subnet-pay", "vpc-pay", "rule-pay", "10.0.1.6", "10.0.1.9", "8443", "50000"},
		"pay":  {"eni-shop", "subnet-shop", "rule-shop"},
	}
	for _, r := range every() {
		name := fmt.Sprintf("%s %s %s", r.Side, r.Stage, r.Action)
		for account, hidden := range secrets {
			text, _ := json.Marshal(seenBy(account, r))
			for _, word := range hidden {
				if strings.Contains(string(text), word) {
					t.Errorf("%s: %s sees %s in %s", name, account, word, text)
				}
			}
		}
		if seenBy("", r) != r {
			t.Errorf("%s: an administrator does not see all", name)
		}
		own := map[string]string{"consumer": "shop", "provider": "pay"}[r.Side]
		if got := seenBy(own, r); got.Interface != r.Interface || got.Subnet != r.Subnet || got.VPC != r.VPC || got.Rule != r.Rule ||
			got.Packets != r.Packets || got.Connection != r.Connection || own == "pay" && got != r {
			t.Errorf("%s: %s does not see its own: %+v", name, own, got)
		}
		one := r
		one.ConsumerAccount, one.ProviderAccount = "pay", "pay"
		if seenBy("pay", one) != one {
			t.Errorf("%s: there is nobody to hide it from", name)
		}
	}
}

// What remains is of use: each side's addresses in the records of both nodes.
func TestWhatRemains(t *testing.T) {
	flow := func(side, account string) (tuple, translated api.FlowTuple) {
		r := seenBy(account, crossing(side, map[string]string{"consumer": "workload", "provider": "tunnel"}[side], api.ActionAccept))
		return r.Tuple, r.Translated
	}
	tuple, translated := flow("consumer", "shop")
	if tuple != (api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 40000, DstAddr: "10.0.1.200", DstPort: 443}) ||
		translated != (api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 40000}) {
		t.Errorf("%+v, %+v", tuple, translated)
	}
	if tuple, translated = flow("provider", "shop"); tuple != (api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 40000}) || translated != (api.FlowTuple{}) {
		t.Errorf("%+v, %+v", tuple, translated)
	}
	whole := crossing("consumer", "workload", api.ActionAccept)
	if tuple, translated = flow("consumer", "pay"); tuple != whole.Tuple || translated != whole.Translated {
		t.Errorf("%+v, %+v", tuple, translated)
	}
	refused := crossing("consumer", "workload", api.ActionReject)
	if got := seenBy("shop", refused); got.Tuple != refused.Tuple || got.Translated != refused.Translated {
		t.Errorf("the consumer's own refusal: %+v", got)
	}
	inside := crossing("consumer", "workload", api.ActionAccept)
	inside.Side, inside.Connection, inside.ConsumerAccount, inside.ProviderAccount = "", "", "", ""
	if seenBy("shop", inside) != inside {
		t.Error("within a VPC")
	}
}

// A filter does not find what its caller may not see, live or not.
func TestFiltersAreNoOracle(t *testing.T) {
	l := open(t, t.TempDir())
	var records []api.FlowEnvelope
	for i, r := range every() {
		r.Sequence = uint64(i + 1)
		body, _ := json.Marshal(r)
		records = append(records, api.FlowEnvelope{Node: r.Node, Boot: "b", Seq: r.Sequence, Accounts: []string{"pay", "shop"}, End: noon, Record: body})
	}
	appendAll(t, l, len(records), records...)
	for account, filters := range map[string][]api.FlowFilter{
		"shop": {{Interface: "eni-pay"}, {VPC: "vpc-pay"}, {Address: "10.0.1.6"}, {Address: "10.0.1.9"}, {Port: 8443}, {Port: 50000}},
		"pay":  {{Interface: "eni-shop"}},
	} {
		for _, f := range filters {
			if got := query(t, l, account, api.FlowQuery{FlowFilter: f}); len(got) != 0 {
				t.Errorf("%s finds %v with %+v", account, got, f)
			}
			if got := query(t, l, "", api.FlowQuery{FlowFilter: f}); len(got) == 0 {
				t.Errorf("an administrator finds nothing with %+v", f)
			}
		}
	}
	if got := query(t, l, "shop", api.FlowQuery{FlowFilter: api.FlowFilter{Address: "10.0.1.5"}}); len(got) < 8 {
		t.Errorf("shop finds %v by its own address", got)
	}
	show := shower("shop", api.FlowQuery{})
	for _, e := range records {
		shown, ok := show(e)
		var r api.FlowRecord
		if err := json.Unmarshal(shown.Record, &r); err != nil || !ok {
			t.Fatal(err)
		}
		if shown.Node != e.Node || shown.Seq != e.Seq || !slices.Equal(shown.Accounts, e.Accounts) || r.Interface == "eni-pay" {
			t.Errorf("%s", shown.Record)
		}
	}
}

// A field that is new must be thought about: may the other side see it?
func TestEveryFieldIsThoughtAbout(t *testing.T) {
	if n := reflect.TypeFor[api.FlowRecord]().NumField(); n != 44 {
		t.Errorf("a record has %d fields: look at seenBy, then change this number", n)
	}
}
