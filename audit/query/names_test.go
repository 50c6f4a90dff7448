package query

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
)

// asked is evidence of two clients that asked for names and opened flows, as both ends record them, with answers.
func asked(t *testing.T) (fsys fstest.MapFS, recs []api.FlowRecord) {
	t.Helper()
	at := begin.Add(12 * time.Hour)
	question := func(client, name, address string, after time.Duration) any {
		return api.QueryLine{Query: api.QueryRecord{Node: "node-a", Boot: "b", VPC: "vpc-1", Client: client, Name: name, Addresses: []string{address},
			TTLSeconds: 60, Start: at.Add(after), End: at.Add(after)}}
	}
	flow := func(src, dst string, after time.Duration, sequence uint64) []api.FlowRecord {
		r := api.FlowRecord{Node: "node-a", Boot: "b", Sequence: sequence, VPC: "vpc-1", LogStatus: format.StatusOK, Action: api.ActionAccept,
			State: api.FlowClosed, Direction: "egress", Protocol: 6, Start: at.Add(after), End: at.Add(after + time.Second),
			Tuple: api.FlowTuple{SrcAddr: src, SrcPort: 40000, DstAddr: dst, DstPort: 443}, Packets: 4, Bytes: 400, ReplyPackets: 3, ReplyBytes: 300,
			Connection: "vpce-con-1"}
		r.Translated = api.FlowTuple{SrcAddr: src, SrcPort: 40000, DstAddr: "10.7.7.7", DstPort: 8443}
		o := r // the provider's node, whose VPC is another
		o.Node, o.VPC, o.Direction, o.Tuple, o.Translated = "node-b", "vpc-2", "ingress", r.Translated, r.Translated
		return []api.FlowRecord{r, o}
	}
	recs = slices.Concat(flow("10.0.1.5", "10.0.9.9", 500*time.Millisecond, 1), flow("10.0.1.6", "10.0.9.9", time.Second, 2),
		flow("10.0.1.5", "10.0.9.8", time.Second, 3))
	inside := flow("10.0.1.5", "10.0.1.7", 2*time.Second, 4) // within the VPC, where both ends know both addresses
	for i := range inside {
		inside[i].VPC, inside[i].Tuple, inside[i].Connection = "vpc-1", inside[0].Tuple, ""
		inside[i].Translated = inside[i].Tuple
	}
	recs = append(recs, inside...)
	var lines []any
	lines = append(lines, question("10.0.1.5", "ledger.pay.internal.", "10.0.9.9", 100*time.Millisecond),
		question("10.0.1.6", "other.pay.internal.", "10.0.9.9", 100*time.Millisecond),
		question("10.0.1.5", "db.shop.internal.", "10.0.1.7", time.Second),
		question("10.0.1.5", "too-late.", "10.0.9.8", time.Minute))
	for i := range recs {
		lines = append(lines, recs[i])
	}
	var b []byte
	for _, l := range lines {
		line, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		b = append(append(b, line...), '\n')
	}
	return fstest.MapFS{"segments/node-a/b/2026-03-01T12.ndjson": {Data: b}}, recs
}

// TestNames: flows have the name that their client asked for, in both directions, by which they are summed and selected; of the other end's
// lines only those within the VPC.
func TestNames(t *testing.T) {
	fsys, _ := asked(t)
	src := FS(fsys)
	q := Query{Group: []string{NameField, "srcaddr", "reply", "node"}}
	var err error
	if q.Names, err = Questions(t.Context(), src, q); err != nil {
		t.Fatal(err)
	}
	a, err := Run(t.Context(), src, q)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, g := range a.Groups {
		have = append(have, strings.Join(g.Key, " "))
	}
	want := []string{
		" 10.0.1.5 0 node-a", " 10.0.1.5 0 node-b", " 10.0.1.6 0 node-b", " 10.0.9.8 1 node-a", " 10.7.7.7 1 node-b",
		"db.shop.internal. 10.0.1.5 0 node-a", "db.shop.internal. 10.0.1.5 0 node-b", "db.shop.internal. 10.0.1.7 1 node-a",
		"db.shop.internal. 10.0.1.7 1 node-b",
		"ledger.pay.internal. 10.0.1.5 0 node-a", "ledger.pay.internal. 10.0.9.9 1 node-a",
		"other.pay.internal. 10.0.1.6 0 node-a", "other.pay.internal. 10.0.9.9 1 node-a",
	}
	if !slices.Equal(have, want) {
		t.Errorf("have\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}

	q = Query{Names: q.Names, Fields: []string{"srcaddr", NameField}, Where: []Clause{Is(NameField, "ledger.pay.internal."), Is("reply", "0")}}
	if a, err = Run(t.Context(), src, q); err != nil || len(a.Records) != 1 || !slices.Equal(a.Records[0], []string{"10.0.1.5", "ledger.pay.internal."}) {
		t.Errorf("flows to a name: %+v %v", a, err)
	}
	q = Query{Names: q.Names, Group: append(slices.Clone(JoinFields), NameField)}
	if a, err = Run(t.Context(), src, q); err != nil {
		t.Fatal(err)
	}
	named := map[string]string{}
	for _, f := range Join(a.Groups) {
		named[f.SrcAddr+" "+f.DstAddr+" "+f.Connection] += f.Name + ","
		if f.Sent == nil || f.Received == nil {
			t.Errorf("the ends of a flow are apart: %+v", f)
		}
	}
	if named["10.0.1.5 10.0.1.7 "] != "db.shop.internal.," || len(named) != 3 {
		t.Errorf("both ends as one: %v", named)
	}
}

// TestNamesAreInEvidenceOnly, and questions of other times are not looked at.
func TestNamesAreInEvidenceOnly(t *testing.T) {
	fsys, recs := asked(t)
	var e *api.Error
	for _, form := range []string{"parquet", "text", "json"} {
		if _, err := Questions(t.Context(), FS(render(t, form, format.All, recs)), Query{}); !errors.As(err, &e) || e.Field != "--names" {
			t.Errorf("%s has names: %v", form, err)
		}
	}
	if _, err := Questions(t.Context(), FS(render(t, "evidence", format.All, records(rand.New(rand.NewPCG(25, 26)), 50))), Query{}); err != nil {
		t.Errorf("evidence without questions: %v", err)
	}
	for since, want := range map[time.Duration]bool{24 * time.Hour: true, 48 * time.Hour: false} {
		x, err := Questions(t.Context(), FS(fsys), Query{Since: begin.Add(12*time.Hour + since - time.Minute)})
		if want && err != nil || !want && x != nil {
			t.Errorf("%v later: %v", since, err)
			continue
		}
		if !want {
			continue
		}
		if _, ok := x.Of(&recs[0]); !ok {
			t.Errorf("%v later the question is not known", since)
		}
	}
	if _, err := Run(context.Background(), FS(fsys), Query{Group: []string{NameField}}); err == nil {
		t.Error("names are shown without any questions")
	}
}
