package plan

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/api"
)

// FuzzParseRules: what is read as rules is written and read the same.
func FuzzParseRules(f *testing.F) {
	f.Add("sgr-1 6 443-443 10.0.0.0/16\nsgr-2 256 0-65535 group:7\n")
	f.Add("sgr-1 6 443 10.0.0.0/16")
	f.Add("a 6 2-1 0.0.0.0/0\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := ParseRules(text)
		if err != nil {
			return
		}
		again := ""
		for _, r := range rules {
			again += r.String() + "\n"
		}
		same, err := ParseRules(again)
		if err != nil || !slices.Equal(rules, same) {
			t.Errorf("%q is %v, written anew %v (%v)", text, rules, same, err)
		}
		if c := canonicalRules(rules); !slices.Equal(c, canonicalRules(c)) || len(c) > len(rules) {
			t.Errorf("%q: canonical %v", text, c)
		}
	})
}

// FuzzTargetTable: what is read as targets is written and read the same, and the table is full, of its own targets, each with
// its share to the slot.
func FuzzTargetTable(f *testing.F) {
	f.Add("10.0.1.5:443 100\n10.0.1.6:443 100\n")
	f.Add("10.0.1.5:443 0\n10.0.1.6:443 999\n10.0.1.7:443 1")
	f.Add("10.0.1.5:0 1\n")
	f.Add("[::1]:1 1")
	f.Fuzz(func(t *testing.T, text string) {
		table := TargetTable{ID: 1, Text: text}
		targets, err := table.Targets()
		if err != nil || len(targets) > 50 {
			return
		}
		table.Text, table.Width = tableText(targets), tableWidth(targets)
		again, slots, err := table.Slots()
		if err != nil || !slices.Equal(again, targets) {
			t.Fatalf("%q is %v, written anew %v (%v)", text, targets, again, err)
		}
		checkShares(t, targets, slots)
	})
}

// FuzzCompile: a view, which is untrusted until it is compiled, makes a plan or an error, the same each time; the plan does not
// depend on the order of the lists, and its difference to itself is nothing.
func FuzzCompile(f *testing.F) {
	for _, v := range []api.View{{}, {Mesh: api.Mesh{Number: 7}, Revision: 1, Node: api.ViewNode{State: api.NodeReady, Number: 1}}} {
		data, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v, w api.View
		if json.Unmarshal(data, &v) != nil || json.Unmarshal(data, &w) != nil {
			return
		}
		slices.Reverse(w.Peers)
		slices.Reverse(w.VPCs)
		slices.Reverse(w.ENIs)
		slices.Reverse(w.Addresses)
		slices.Reverse(w.Groups)
		slices.Reverse(w.Endpoints)
		slices.Reverse(w.Grants)
		slices.Reverse(w.LoadBalancers)
		slices.Reverse(w.LoadBalancerGrants)
		slices.Reverse(w.Names)
		slices.Reverse(w.HostedZones)
		p, err := Compile(v, Facts{})
		q, err2 := Compile(w, Facts{})
		if (err == nil) != (err2 == nil) {
			t.Fatalf("in order: %v, reversed: %v", err, err2)
		}
		if err == nil && p.Dump() != q.Dump() {
			t.Errorf("in order\n%s\nreversed\n%s", p.Dump(), q.Dump())
		}
	})
}
