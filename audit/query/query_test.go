package query

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
	"github.com/culvert-net/culvert/audit/parquetfile"
)

var begin = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// records makes n records of both ends of flows, refusals and losses, over some days.
func records(rng *rand.Rand, n int) []api.FlowRecord {
	out := make([]api.FlowRecord, n)
	for i := range out {
		end := begin.Add(time.Duration(rng.IntN(3*86400)) * time.Second)
		r := api.FlowRecord{
			Node: fmt.Sprintf("node-%d", rng.IntN(3)), Boot: "b", Sequence: uint64(i + 1), Account: fmt.Sprintf("11112222333%d", rng.IntN(3)),
			Interface: fmt.Sprintf("eni-%d", rng.IntN(8)), VPC: fmt.Sprintf("vpc-%d", rng.IntN(3)), Start: end.Add(-3 * time.Second), End: end,
			Action: api.ActionAccept, LogStatus: format.StatusOK, Reason: "FORWARDED", Stage: "workload", State: api.FlowActive,
			Protocol: []int{6, 17}[rng.IntN(2)], Direction: []string{"egress", "ingress"}[rng.IntN(2)],
			Tuple: api.FlowTuple{SrcAddr: fmt.Sprintf("10.0.0.%d", rng.IntN(9)), SrcPort: uint16(1024 + rng.IntN(9)),
				DstAddr: fmt.Sprintf("10.0.1.%d", rng.IntN(9)), DstPort: []uint16{53, 443, 8443}[rng.IntN(3)]},
			Packets: rng.Uint64N(100), Bytes: rng.Uint64N(100_000), ReplyPackets: rng.Uint64N(3), ReplyBytes: rng.Uint64N(1000),
		}
		r.Translated = r.Tuple
		if rng.IntN(3) == 0 {
			r.Side = []string{"consumer", "provider"}[rng.IntN(2)]
			r.Endpoint, r.Connection = "vpce-1", fmt.Sprintf("vpce-con-%d", rng.IntN(3))
			r.Service, r.ServiceName = "vpce-svc-1", "pay/ledger"
			r.ConsumerAccount, r.ProviderAccount = "111122223330", "111122223331"
			r.Translated.DstAddr = "10.9.9.9"
		}
		if rng.IntN(5) == 0 {
			r.Action, r.Reason, r.ReplyPackets, r.Rule = api.ActionReject, "GROUP_INGRESS", 0, ""
		}
		if rng.IntN(20) == 0 {
			r.Lost = 3
		}
		out[i] = r
	}
	return out
}

func rowsOf(recs []api.FlowRecord) []format.Row {
	var out []format.Row
	for i := range recs {
		out = append(out, format.Rows(&recs[i], 1)...)
	}
	return out
}

func zipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// render writes records in one of the forms that are read, a file for each day.
func render(t *testing.T, form, fmtString string, recs []api.FlowRecord) fstest.MapFS {
	t.Helper()
	fields, err := format.Parse(fmtString)
	if err != nil {
		t.Fatal(err)
	}
	out := fstest.MapFS{"log/checkpoint": {Data: []byte("not ours")}, "log/tile/0/000": {Data: []byte{1, 2}}}
	days := map[string][]api.FlowRecord{}
	for _, r := range recs {
		day := r.End.Format("2006/01/02")
		days[day] = append(days[day], r)
	}
	for day, recs := range days {
		rows := rowsOf(recs)
		dir := "AWSLogs/1/vpcflowlogs/eu/" + day + "/"
		file := "1_vpcflowlogs_eu_fl-1_" + strings.ReplaceAll(day, "/", "") + "T2355Z_abcd"
		var b []byte
		switch form {
		case "parquet":
			var buf bytes.Buffer
			w, err := parquetfile.NewWriter(&buf, fields)
			if err == nil {
				err = w.Write(rows)
			}
			if err == nil {
				err = w.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			out[dir+file+".parquet"] = &fstest.MapFile{Data: buf.Bytes()}
		case "text":
			b = append(b, format.Header(fields)+"\n"...)
			for i := range rows {
				b = format.AppendText(b, fields, &rows[i])
			}
			out[dir+file+".log.gz"] = &fstest.MapFile{Data: zipped(t, b)}
		case "json":
			for i := range rows {
				if b, err = format.AppendJSON(b, fields, &rows[i]); err != nil {
					t.Fatal(err)
				}
			}
			out[dir+file+".json.gz"] = &fstest.MapFile{Data: zipped(t, b)}
		case "evidence":
			for i := range recs {
				line, err := json.Marshal(recs[i])
				if err != nil {
					t.Fatal(err)
				}
				b = append(append(b, line...), '\n')
			}
			b = append(b, `{"seal":{"version":1,"node":"node-1"}}`+"\n"...)
			name := "segments/node-1/b/" + strings.ReplaceAll(day, "/", "-") + "T23.ndjson"
			out[name] = &fstest.MapFile{Data: b}
		}
	}
	return out
}

// naive answers a query the slow way.
func naive(t *testing.T, q Query, recs []api.FlowRecord) *Answer {
	t.Helper()
	value := func(name string, r *format.Row) string {
		f, ok := format.Lookup(name)
		if !ok {
			t.Fatalf("no field %s", name)
		}
		if s := f.Text(r); s != format.Missing {
			return s
		}
		return ""
	}
	groups := map[string]*Group{}
	out := &Answer{}
	type line struct {
		end    int64
		values []string
	}
	var found []line
	rows := rowsOf(recs)
	for i := range rows {
		r := &rows[i]
		if !q.Since.IsZero() && r.End.Unix() < q.Since.Unix() || !q.Until.IsZero() && r.End.Unix() >= q.Until.Unix() {
			continue
		}
		all := true
		for _, clause := range q.Where {
			one := false
			for _, c := range clause {
				v := value(c.Field, r)
				one = one || (v != "" && slices.Contains(c.Equal, v)) != c.Not
			}
			all = all && one
		}
		if !all {
			continue
		}
		out.Work.Matched++
		var key, values []string
		for _, f := range q.Group {
			key = append(key, value(f, r))
		}
		for _, f := range q.Fields {
			values = append(values, value(f, r))
		}
		if len(q.Group) == 0 {
			found = append(found, line{r.End.Unix(), values})
			continue
		}
		g := groups[fmt.Sprint(key)]
		if g == nil {
			g = &Group{Key: key, Sums: Sums{First: r.Start.Unix()}}
			groups[fmt.Sprint(key)] = g
		}
		var packets, bytes int64
		fmt.Sscan(value("packets", r), &packets)
		fmt.Sscan(value("bytes", r), &bytes)
		g.Lines, g.Packets, g.Bytes = g.Lines+1, g.Packets+packets, g.Bytes+bytes
		g.First, g.Last = min(g.First, r.Start.Unix()), max(g.Last, r.End.Unix())
	}
	for _, g := range groups {
		out.Groups = append(out.Groups, *g)
	}
	slices.SortFunc(out.Groups, func(a, b Group) int { return slices.Compare(a.Key, b.Key) })
	slices.SortFunc(found, func(a, b line) int {
		if a.end != b.end {
			return int(a.end - b.end)
		}
		return slices.Compare(a.values, b.values)
	})
	if q.Limit > 0 && len(found) > q.Limit {
		found = found[len(found)-q.Limit:]
	}
	for _, f := range found {
		out.Records = append(out.Records, f.values)
	}
	return out
}

var forms = []string{"parquet", "text", "json", "evidence"}

// TestAllFormsAnswerAlike: for random questions, every form of the same records gives what going through them slowly gives.
func TestAllFormsAnswerAlike(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	recs := records(rng, 700)
	sources := map[string]Source{}
	for _, form := range forms {
		sources[form] = FS(render(t, form, format.All, recs))
	}
	filters := []func(*Query){
		func(q *Query) { q.Filter(api.FlowFilter{Action: api.ActionReject}) },
		func(q *Query) {
			at := begin.Add(time.Duration(rng.IntN(86400*3)) * time.Second)
			q.Filter(api.FlowFilter{Since: at, Until: at.Add(time.Duration(1+rng.IntN(36000)) * time.Second)})
		},
		func(q *Query) { q.Filter(api.FlowFilter{Address: "10.0.0.3", Port: 443}) },
		func(q *Query) { q.Filter(api.FlowFilter{Service: "pay/ledger", VPC: "vpc-1"}) },
		func(q *Query) {
			q.Filter(api.FlowFilter{Service: "vpce-svc-1", Interface: "eni-3", Endpoint: "vpce-1"})
		},
		func(q *Query) { q.Filter(api.FlowFilter{Connection: "vpce-con-1", Reason: "FORWARDED", Limit: 17}) },
		func(q *Query) { q.Account("111122223331") },
		func(q *Query) {
			q.Where = append(q.Where, Clause{{Field: "log-status", Equal: []string{"SKIPDATA"}, Not: true}}, Is("protocol", "17", "x"))
		},
		func(q *Query) { q.Where = append(q.Where, Is("rule-id", "sgr-nothing")) },
	}
	shapes := []Query{
		{Fields: []string{"end", "srcaddr", "dstport", "reason", "packets", "node", "sequence", "reply"}},
		{Group: []string{"srcaddr", "dstport"}}, {Group: []string{"action"}}, {Group: JoinFields},
		{Group: []string{"connection-id", "lost", "log-status"}},
	}
	matched := int64(0)
	for i, filter := range filters {
		for _, q := range shapes {
			filter(&q)
			want := naive(t, q, recs)
			matched += want.Work.Matched
			for _, form := range forms {
				have, err := Run(context.Background(), sources[form], q)
				if err != nil {
					t.Fatalf("filter %d of %s: %v", i, form, err)
				}
				if have.Work.Matched != want.Work.Matched || !reflect.DeepEqual(have.Groups, want.Groups) ||
					!reflect.DeepEqual(have.Records, want.Records) {
					t.Errorf("filter %d by %v of %s: %d match, want %d; groups alike: %v", i, q.Group, form, have.Work.Matched,
						want.Work.Matched, reflect.DeepEqual(have.Groups, want.Groups))
				}
			}
			have, err := Records(func(yield func(*api.FlowRecord) error) error {
				for j := range recs {
					if err := yield(&recs[j]); err != nil {
						return err
					}
				}
				return nil
			}, q)
			if err != nil || !reflect.DeepEqual(have.Groups, want.Groups) || !reflect.DeepEqual(have.Records, want.Records) {
				t.Errorf("filter %d by %v of records at hand differs: %v", i, q.Group, err)
			}
		}
	}
	if matched < 1500 {
		t.Errorf("%d lines matched in all: the questions select too little to show anything", matched)
	}
}

// TestTimeLeavesFilesOut: files of other days are not opened, and none that may hold late lines is left out.
func TestTimeLeavesFilesOut(t *testing.T) {
	for name, want := range map[string][2]bool{ // in March; within the hour of 2026-03-10T12:30
		"AWSLogs/1/vpcflowlogs/eu/2026/03/10/1_vpcflowlogs_eu_fl-1_20260310T1235Z_abcd.log.gz": {true, true},
		"AWSLogs/1/vpcflowlogs/eu/2026/03/10/1_vpcflowlogs_eu_fl-1_20260310T0235Z_abcd.log.gz": {true, false},
		"AWSLogs/1/vpcflowlogs/eu/2026/03/10/1_vpcflowlogs_eu_fl-1_20260310T1225Z_abcd.log.gz": {true, true},
		"AWSLogs/1/vpcflowlogs/eu/2026/03/11/1_vpcflowlogs_eu_fl-1_20260311T0235Z_abcd.log.gz": {true, true}, // late
		"AWSLogs/1/vpcflowlogs/eu/2026/03/13/1_vpcflowlogs_eu_fl-1_20260313T0235Z_abcd.log.gz": {true, false},
		"x/aws-region=eu/year=2026/month=03/day=10/hour=09/a.parquet":                          {true, false},
		"x/aws-region=eu/year=2026/month=03/day=10/a.parquet":                                  {true, true},
		"x/2026/02/10/a.parquet":                    {false, false},
		"x/2026/03/10/13/a.parquet":                 {true, true},
		"segments/node-1/boot/2026-03-10T12.ndjson": {true, true},
		"segments/node-1/boot/2026-03-10T11.ndjson": {true, false},
		"segments/node-1/boot/2026-04-05T11.ndjson": {false, false},
		"segments/node-1/boot/2026-02-30T11.ndjson": {true, true}, // no date, so nothing is known
		"flows.parquet":                             {true, true},
	} {
		march := Query{Since: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), Until: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)}
		hour := Query{Since: time.Date(2026, 3, 10, 12, 30, 0, 0, time.UTC), Until: time.Date(2026, 3, 10, 13, 30, 0, 0, time.UTC)}
		if have := [2]bool{march.wanted(name, defaultLate), hour.wanted(name, defaultLate)}; have != want {
			t.Errorf("%s: wanted %v, want %v", name, have, want)
		}
	}
	recs := records(rand.New(rand.NewPCG(13, 14)), 3000)
	src := FS(render(t, "parquet", format.All, recs))
	q := Query{Since: begin.Add(60 * time.Hour), Group: []string{"action"}}
	a, err := Run(context.Background(), src, q)
	if err != nil || a.Work.Files != 1 || a.Work.Skipped != 2 {
		t.Errorf("of three days the last was asked: %+v %v", a, err)
	}
}

// TestPruning: a question for one connection in a file sorted by time reads what may match and no more.
func TestPruning(t *testing.T) {
	recs := records(rand.New(rand.NewPCG(15, 16)), 40_000)
	for i := range recs {
		if recs[i].End.Before(begin.Add(time.Hour)) {
			recs[i].Rule = "sgr-rare"
		}
	}
	src := FS(render(t, "parquet", "${start} ${end} ${rule-id} ${packets} ${bytes}", recs))
	a, err := Run(context.Background(), src, Query{Where: []Clause{Is("rule-id", "sgr-rare")}, Group: []string{"rule-id"}})
	if err != nil {
		t.Fatal(err)
	}
	if a.Work.Matched == 0 || a.Work.Rows > 30_000 || a.Work.Rows+a.Work.Pruned != int64(len(rowsOf(recs))) {
		t.Errorf("%v", a.Work)
	}
}

func TestErrorsNameTheFileAndTheRemedy(t *testing.T) {
	ctx := context.Background()
	recs := records(rand.New(rand.NewPCG(17, 18)), 100)
	for _, form := range []string{"parquet", "text", "json"} {
		_, err := Run(ctx, FS(render(t, form, format.Default, recs)), Query{Group: []string{"endpoint-id"}})
		var e *api.Error
		if !errors.As(err, &e) || !strings.Contains(e.Message, "_vpcflowlogs_") || !strings.Contains(e.Message, "endpoint-id") || e.Remedy == "" {
			t.Errorf("%s without a field: %v", form, err)
		}
		for _, f := range summed {
			_, err := Run(ctx, FS(render(t, form, strings.ReplaceAll(format.Default, "${"+f+"}", ""), recs)), Query{Group: []string{"srcaddr"}})
			if !errors.As(err, &e) || !strings.Contains(e.Message, "no field "+f) {
				t.Errorf("%s without %s gives sums: %v", form, f, err)
			}
		}
		if a, err := Run(ctx, FS(render(t, form, format.Default, recs)), Query{Fields: []string{"srcaddr", "reason"}, Lenient: true}); err != nil ||
			len(a.Records) == 0 || a.Records[0][1] != "" {
			t.Errorf("%s, lenient: %v", form, err)
		}
	}
	for name, data := range map[string]string{
		"a.log":     "srcaddr packets\n10.0.0.1 2 3\n",
		"b.log":     "srcaddr packets\n10.0.0.1 many\n",
		"c.ndjson":  "{]\n",
		"d.ndjson":  `{"srcaddr":7,"packets":1}` + "\n",
		"e.log.gz":  "\x1f\x8bnot gzip",
		"f.parquet": "PAR1nothing",
	} {
		_, err := Run(ctx, FS(fstest.MapFS{name: {Data: []byte(data)}}), Query{Fields: []string{"srcaddr", "packets"}})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Run(ctx, FS(fstest.MapFS{}), Query{}); err == nil {
		t.Error("an empty folder gives an empty answer instead of an error")
	}
	for _, q := range []Query{{Group: []string{"nonsense"}}, {Fields: []string{"nonsense"}}, {Where: []Clause{Is("nonsense", "1")}},
		{Since: begin.Add(1), Until: begin}, {Since: begin, Until: begin}} {
		if _, err := Run(ctx, FS(render(t, "json", format.Default, recs)), q); err == nil {
			t.Errorf("%+v is no error", q)
		}
	}
	_, err := Run(ctx, FS(render(t, "parquet", format.All, recs)), Query{Group: []string{"sequence"}, MaxGroups: 10})
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeLimitExceeded {
		t.Errorf("more groups than may be: %v", err)
	}
	stop, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Run(stop, FS(render(t, "parquet", format.All, recs)), Query{Group: []string{"action"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestTheFileBeingWritten: the last line of an evidence file may not be whole yet.
func TestTheFileBeingWritten(t *testing.T) {
	recs := records(rand.New(rand.NewPCG(19, 20)), 10)
	fsys := render(t, "evidence", format.All, recs)
	whole, err := Run(context.Background(), FS(fsys), Query{Group: []string{"node"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fsys {
		f.Data = append(f.Data, `{"node":"node-1","boo`...)
	}
	half, err := Run(context.Background(), FS(fsys), Query{Group: []string{"node"}})
	if err != nil || !reflect.DeepEqual(whole.Groups, half.Groups) {
		t.Errorf("%v", err)
	}
}

// TestJoin: both ends' lines of a flow make one row, whichever way they are counted.
func TestJoin(t *testing.T) {
	consumer := api.FlowRecord{Node: "node-a", Boot: "b", Sequence: 1, LogStatus: format.StatusOK, Action: api.ActionAccept, Side: "consumer",
		VPC: "vpc-shop", Direction: "egress", Protocol: 6, Connection: "vpce-con-1", ServiceName: "pay/ledger", Start: begin, End: begin.Add(time.Second),
		Tuple:      api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 4000, DstAddr: "10.0.1.99", DstPort: 443},
		Translated: api.FlowTuple{SrcAddr: "10.0.1.5", SrcPort: 4000, DstAddr: "10.0.2.7", DstPort: 8443},
		Packets:    10, Bytes: 1000, ReplyPackets: 7, ReplyBytes: 900}
	provider := consumer
	provider.Node, provider.Side, provider.VPC, provider.Direction = "node-b", "provider", "vpc-pay", "ingress"
	provider.Tuple = consumer.Translated
	provider.Translated = api.FlowTuple{SrcAddr: "10.0.2.200", SrcPort: 999, DstAddr: "10.0.2.7", DstPort: 8443}
	provider.Packets, provider.Bytes, provider.ReplyPackets, provider.ReplyBytes = 8, 800, 8, 1000
	later := consumer
	later.Packets, later.ReplyPackets, later.End = 5, 0, begin.Add(time.Minute)
	alone := consumer
	alone.Connection, alone.Tuple.SrcPort, alone.Translated.SrcPort = "vpce-con-2", 4001, 4001
	a, err := Records(func(yield func(*api.FlowRecord) error) error {
		for _, r := range []*api.FlowRecord{&consumer, &provider, &later, &alone} {
			if err := yield(r); err != nil {
				return err
			}
		}
		return nil
	}, Query{Group: JoinFields})
	if err != nil {
		t.Fatal(err)
	}
	flows := Join(a.Groups)
	want := Flow{Connection: "vpce-con-1", ServiceName: "pay/ledger", Protocol: "6", SrcAddr: "10.0.1.5", SrcPort: "4000", DstAddr: "10.0.2.7",
		DstPort: "8443", First: begin.Unix(), Last: begin.Unix() + 60, Sent: &Count{15, 2000}, Received: &Count{8, 800}, Lost: &Count{7, 1200},
		ReplySent: &Count{8, 1000}, ReplyReceived: &Count{7, 900}, ReplyLost: &Count{1, 100}}
	if len(flows) != 2 || !reflect.DeepEqual(flows[0], want) {
		t.Errorf("have %+v", flows)
	}
	if f := flows[1]; f.Received != nil || f.Lost != nil || f.Sent == nil {
		t.Errorf("of a flow that one end tells of nothing is known to be lost: %+v", f)
	}
}
