package delivery

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/format"
	"github.com/culvert-net/culvert/audit/parquetfile"
	"github.com/culvert-net/culvert/controlplane/flowlog"
)

const shop, pay = "111111111111", "222222222222"

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// bench is a deliverer with a store, and a clock that stands.
type bench struct {
	t     *testing.T
	dir   string
	store *flowlog.Log
	d     *Deliverer

	mu       sync.Mutex
	now      time.Time
	told     map[string]time.Time
	notes    map[string]Note
	stuck    bool // notes stay
	r        *api.Resources
	to       Destination // nil: a local directory
	recorded []Object
	seq      uint64
}

func newBench(t *testing.T, change ...func(*api.FlowLog)) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), now: noon.Add(time.Second), told: map[string]time.Time{}, notes: map[string]Note{}, r: api.NewResources()}
	b.r.Mesh.Region = "local"
	b.r.Put(&api.Subnet{Meta: api.Meta{ID: "subnet-1", Account: shop}, VPC: "vpc-1", Zone: "a"})
	for i, id := range []string{"eni-1", "eni-2"} {
		b.r.Put(&api.ENI{Meta: api.Meta{ID: id, Account: shop}, Type: api.ENIWorkload, VPC: "vpc-1", Subnet: "subnet-1", Node: fmt.Sprintf("node-%d", i+1)})
	}
	f := &api.FlowLog{Meta: api.Meta{ID: "fl-1", Account: shop, Name: "all", Revision: 1, CreatedAt: noon}, ResourceType: api.FlowLogVPC,
		Resource: "vpc-1", TrafficType: api.TrafficAll, MaxAggregationIntervalSeconds: 60, LogFormat: format.Default,
		DestinationType: api.DestinationLocal, Destination: "logs", FileFormat: api.FilePlainText, OnLoss: api.LossCount}
	for _, c := range change {
		c(f)
	}
	b.r.Put(f)
	b.open()
	return b
}

// open starts a server's part of it, anew over the same files.
func (b *bench) open() {
	b.t.Helper()
	store, err := flowlog.Open(filepath.Join(b.dir, "flows"), noon)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = store.Close() })
	b.store = store
	allowed := &Allowed{Local: filepath.Join(b.dir, "out")}
	b.d = New(Config{
		Notes: b,
		Dir:   filepath.Join(b.dir, "flow-logs"), Store: store, MaxLag: func() time.Duration { return 24 * time.Hour },
		Resources: func() *api.Resources { b.mu.Lock(); defer b.mu.Unlock(); return b.r },
		Told:      func(n string) time.Time { b.mu.Lock(); defer b.mu.Unlock(); return b.told[n] },
		Now:       func() time.Time { b.mu.Lock(); defer b.mu.Unlock(); return b.now },
		Open: func(f *api.FlowLog) (Destination, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.to != nil {
				return b.to, nil
			}
			return allowed.Open(f)
		},
		Record: func(_ context.Context, o Object) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.recorded = append(b.recorded, o)
			return nil
		},
	})
}

// flow is a record of an interface at a time after noon.
func (b *bench) flow(eni string, at time.Duration, change ...func(*api.FlowRecord)) api.FlowRecord {
	b.seq++
	r := api.FlowRecord{Node: "node-1", Boot: "b", Sequence: b.seq, Account: shop, Interface: eni, VPC: "vpc-1", Subnet: "subnet-1",
		Start: noon.Add(at - time.Second), End: noon.Add(at), Action: api.ActionAccept, LogStatus: format.StatusOK, State: api.FlowActive,
		Stage: "workload", Direction: "egress", Protocol: 6, FlowID: fmt.Sprint(b.seq),
		Tuple:      api.FlowTuple{SrcAddr: "10.0.0.5", SrcPort: 1000, DstAddr: "10.0.0.9", DstPort: uint16(b.seq)},
		Translated: api.FlowTuple{SrcAddr: "10.0.0.5", SrcPort: 1000, DstAddr: "10.0.0.9", DstPort: uint16(b.seq)}, Packets: 1, Bytes: 60}
	for _, c := range change {
		c(&r)
	}
	return r
}

func (b *bench) add(records ...api.FlowRecord) {
	b.t.Helper()
	var list []api.FlowEnvelope
	for _, r := range records {
		body, err := json.Marshal(r)
		if err != nil {
			b.t.Fatal(err)
		}
		list = append(list, api.FlowEnvelope{Node: r.Node, Boot: r.Boot, Seq: r.Sequence, Accounts: []string{r.Account}, End: r.End, Record: body})
	}
	if n, err := b.store.Append(list); err != nil || n != len(list) {
		b.t.Fatal(n, err)
	}
}

// at sets the clock, and what both nodes have told.
func (b *bench) at(now time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = noon.Add(now)
	b.told["node-1"], b.told["node-2"] = b.now, b.now
}

// change replaces the picture by one with other flow logs.
func (b *bench) change(do func(*api.Resources)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := *b.r
	r.CloneKind(api.KindFlowLog)
	do(&r)
	b.r = &r
}

// until runs rounds until the condition holds.
func (b *bench) until(what string, holds func(*api.FlowLogDelivery) bool) *api.FlowLogDelivery {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 100*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		b.d.round(b.t.Context())
		s := b.d.State("fl-1")
		if s != nil && holds(s) {
			return s
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			b.t.Fatalf("%s: not in time: %+v", what, s)
		}
	}
}

func (b *bench) settled() *api.FlowLogDelivery {
	b.t.Helper()
	return b.until("nothing waits", func(s *api.FlowLogDelivery) bool { return s.Waiting == 0 })
}

// files are the lines of what lies at the destination, without headers, by path.
func (b *bench) files() map[string][]string {
	b.t.Helper()
	out := b.texts()
	for path, lines := range out {
		if strings.HasSuffix(path, ".log.gz") {
			out[path] = lines[1:]
		}
	}
	return out
}

// texts are likewise, with headers.
func (b *bench) texts() map[string][]string {
	b.t.Helper()
	out := map[string][]string{}
	root := filepath.Join(b.dir, "out", shop, "logs")
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		text, err := io.ReadAll(z)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		out[rel] = strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.t.Fatal(err)
	}
	return out
}

// A window's file has AWS's name and lines, NODATA where there was nothing, SKIPDATA where its node has not told, and what came late goes
// by another file of its own window.
func TestFiles(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.settled()
	b.add(b.flow("eni-1", 10*time.Second), b.flow("eni-other", 20*time.Second, func(r *api.FlowRecord) { r.VPC = "vpc-2" }),
		b.flow("eni-1", 20*time.Second, func(r *api.FlowRecord) { r.Account = pay }))
	b.add(b.flow("eni-1", 301*time.Second)) // of the next window, told before this one is closed
	b.at(300 * time.Second)
	s := b.until("the first file", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 })
	if s.Status != api.DeliverSuccess || s.Lines != 2 || !s.CoveredUntil.Equal(noon.Add(300*time.Second)) {
		t.Errorf("%+v", s)
	}
	files := b.files()
	if len(files) != 1 {
		t.Fatalf("%v", files)
	}
	for path, lines := range files {
		if !strings.HasPrefix(path, "AWSLogs/111111111111/vpcflowlogs/local/2026/03/04/111111111111_vpcflowlogs_local_fl-1_20260304T1200Z_") ||
			!strings.HasSuffix(path, ".log.gz") {
			t.Errorf("%s", path)
		}
		want := []string{"2 111111111111 eni-1 10.0.0.5 10.0.0.9 1000 1 6 1 60 1772625609 1772625610 ACCEPT OK",
			"2 111111111111 eni-2 - - - - - - - 1772625600 1772625900 - NODATA"}
		if !slices.Equal(lines, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
		}
	}
	// The second window: one node is silent, and a record of the first is late.
	b.add(b.flow("eni-1", 15*time.Second))
	b.at(600*time.Second + patience)
	b.mu.Lock()
	b.told["node-2"] = noon
	b.mu.Unlock()
	b.until("both files", func(s *api.FlowLogDelivery) bool { return s.Objects == 3 })
	files = b.files()
	var all []string
	for _, path := range slices.Sorted(maps.Keys(files)) {
		name := path[strings.LastIndex(path, "_20")+1:]
		for _, l := range files[path] {
			all = append(all, name[:14]+" "+l)
		}
	}
	slices.Sort(all)
	want := []string{
		"20260304T1200Z 2 111111111111 eni-1 10.0.0.5 10.0.0.9 1000 1 6 1 60 1772625609 1772625610 ACCEPT OK",
		"20260304T1200Z 2 111111111111 eni-1 10.0.0.5 10.0.0.9 1000 5 6 1 60 1772625614 1772625615 ACCEPT OK",
		"20260304T1200Z 2 111111111111 eni-2 - - - - - - - 1772625600 1772625900 - NODATA",
		"20260304T1205Z 2 111111111111 eni-1 10.0.0.5 10.0.0.9 1000 4 6 1 60 1772625900 1772625901 ACCEPT OK",
		"20260304T1205Z 2 111111111111 eni-2 - - - - - - - 1772625900 1772626200 - SKIPDATA",
	}
	if !slices.Equal(all, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(all, "\n"), strings.Join(want, "\n"))
	}
	if len(b.recorded) != 3 || b.recorded[0].Lines != 2 || b.recorded[0].Records != 1 || b.recorded[0].SHA256 == "" {
		t.Errorf("recorded: %+v", b.recorded)
	}
}

// A window waits for nodes that have not told, but not for ever.
func TestWindowsWait(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.settled()
	b.at(300 * time.Second)
	b.mu.Lock()
	b.told["node-2"] = noon.Add(299 * time.Second)
	b.mu.Unlock()
	b.d.round(t.Context())
	if s := b.d.State("fl-1"); s.Objects+uint64(s.Waiting) != 0 {
		t.Errorf("closed before its node has told: %+v", s)
	}
	b.mu.Lock()
	b.now = noon.Add(300*time.Second + patience)
	b.mu.Unlock()
	b.until("the file", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 })
}

// Parquet files have AWS's columns and types, and the same lines.
func TestParquet(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(f *api.FlowLog) {
		f.FileFormat, f.LogFormat = api.FileParquet, "${interface-id} ${dstport} ${bytes} ${log-status}"
	})
	k := &taker{}
	b.to = k
	b.settled()
	b.add(b.flow("eni-1", 10*time.Second))
	b.at(300 * time.Second)
	b.until("the file", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 })
	for path, data := range k.objects {
		r, err := parquetfile.Open(strings.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(path, ".log.parquet") || r.Groups() != 1 || r.Rows(0) != 2 || !r.IsInt("dstport") || !r.Has("interface-id") || r.Has("srcaddr") {
			t.Errorf("%s: %v", path, r.Columns())
		}
		c, err := r.Read(0, parquetfile.Span{From: 0, To: 2}, "bytes")
		if err != nil || c.Ints[0] != 60 || c.Missing(0) || !c.Missing(1) {
			t.Errorf("bytes: %+v, %v", c, err)
		}
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	f := &api.FlowLog{Meta: api.Meta{ID: "fl-1", Account: shop}, FileFormat: api.FileJSON}
	for _, c := range []struct {
		hive, hours bool
		want        string
	}{
		{false, false, "AWSLogs/111111111111/vpcflowlogs/local/2026/03/04/"},
		{false, true, "AWSLogs/111111111111/vpcflowlogs/local/2026/03/04/12/"},
		{true, false, "AWSLogs/aws-account-id=111111111111/aws-service=vpcflowlogs/aws-region=local/year=2026/month=03/day=04/"},
		{true, true, "AWSLogs/aws-account-id=111111111111/aws-service=vpcflowlogs/aws-region=local/year=2026/month=03/day=04/hour=12/"},
	} {
		f.HiveCompatiblePartitions, f.PerHourPartition = c.hive, c.hours
		want := c.want + "111111111111_vpcflowlogs_local_fl-1_20260304T1200Z_01234567.log.json.gz"
		if got := pathOf(f, "local", noon.Add(5*time.Minute), "0123456789abcdef"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	// The last window of a day is in that day's folder, as its records are.
	f.MaxAggregationIntervalSeconds = 600
	want := "AWSLogs/aws-account-id=111111111111/aws-service=vpcflowlogs/aws-region=local/year=2026/month=03/day=04/hour=23/" +
		"111111111111_vpcflowlogs_local_fl-1_20260304T2350Z_01234567.log.json.gz"
	if got := pathOf(f, "local", noon.Add(12*time.Hour), "0123456789abcdef"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A line names the interface of the account's own VPC that the packets go to or come from, whatever it is: another workload, an endpoint.
// One of another VPC that has the same address is none.
func TestNextHop(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(f *api.FlowLog) {
		f.LogFormat = "${flow-direction} ${next-hop-interface-id} ${next-hop-subnet-id} ${next-hop-az-id} ${next-hop-vpc-id}"
	})
	b.r.Put(&api.Subnet{Meta: api.Meta{ID: "subnet-2", Account: shop}, VPC: "vpc-1", Zone: "b"})
	for i, e := range []*api.ENI{{VPC: "vpc-1", Subnet: "subnet-2", Type: api.ENIEndpoint}, {VPC: "vpc-2"}} {
		e.Meta, e.Address = api.Meta{ID: fmt.Sprintf("eni-hop-%d", i), Account: shop}, netip.MustParseAddr("10.0.0.9")
		b.r.Put(e)
	}
	b.settled()
	b.add(b.flow("eni-1", 10*time.Second, func(r *api.FlowRecord) { r.ReplyPackets = 1 }),
		b.flow("eni-1", 11*time.Second, func(r *api.FlowRecord) { r.Tuple.DstAddr = "10.0.0.10" }),
		b.flow("eni-2", 12*time.Second, func(r *api.FlowRecord) {
			r.Direction, r.Translated.SrcAddr, r.Translated.DstAddr = "ingress", "10.0.0.9", "10.0.0.6"
		}))
	b.at(300 * time.Second)
	b.until("the file", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 })
	const hop = " eni-hop-0 subnet-2 b vpc-1"
	for _, lines := range b.files() {
		if want := []string{"egress" + hop, "ingress" + hop, "egress - - - -", "ingress" + hop}; !slices.Equal(lines, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
		}
	}
}

// taker counts what it gets, by what it is, and refuses as long as it is told to.
type taker struct {
	mu      sync.Mutex
	refuse  error
	objects map[string]string // content by path
	times   int
}

func (k *taker) Put(_ context.Context, o Object, body *Body) error {
	data, err := io.ReadAll(body)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.times++
	if err == nil {
		err = k.refuse
	}
	if k.objects == nil {
		k.objects = map[string]string{}
	}
	if old, ok := k.objects[o.Path]; ok && old != string(data) {
		return fmt.Errorf("%s came twice and differs", o.Path)
	}
	k.objects[o.Path] = string(data)
	return err
}

// A destination that is dead is told of, costs no record, and is tried again by itself; who changes the destination need not wait.
func TestDeadDestination(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dead := &taker{refuse: errors.New("no space left there")}
	b.to = dead
	b.settled()
	b.add(b.flow("eni-1", time.Second))
	b.at(300 * time.Second)
	s := b.until("the failure", func(s *api.FlowLogDelivery) bool { return s.Status == api.DeliverFailed })
	if s.ErrorMessage != "no space left there" || s.Waiting != 1 || s.Objects != 0 {
		t.Errorf("%+v", s)
	}
	b.mu.Lock()
	b.to = nil
	b.mu.Unlock()
	b.change(func(r *api.Resources) {
		f := *r.FlowLogs["fl-1"]
		f.Revision++
		r.Put(&f)
	})
	s = b.until("it goes on", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 })
	if s.Status != api.DeliverSuccess || s.ErrorMessage != "" || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
	if files := b.files(); len(files) != 1 {
		t.Errorf("%v", files)
	}
}

// A server that dies between any two steps delivers each record, in the same objects.
func TestServerDies(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := &taker{refuse: errors.New("not yet")}
	b.to = k
	b.settled()
	b.add(b.flow("eni-1", time.Second), b.flow("eni-2", 2*time.Second))
	b.at(300 * time.Second)
	b.until("it waits", func(s *api.FlowLogDelivery) bool { return s.Waiting == 1 && s.Status == api.DeliverFailed })
	b.d.endAll()
	// One dies while it writes: half a file of the spool, and one that nobody noted.
	dir := filepath.Join(b.dir, "flow-logs", "fl-1")
	for _, name := range []string{"0000000000000009.spool", ".state.json.123"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	state, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	spooled, err := os.ReadFile(filepath.Join(dir, "0000000000000000.spool"))
	if err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	k.refuse = nil
	k.mu.Unlock()
	b.open()
	b.until("it arrives", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 && s.Waiting == 0 })
	b.d.endAll()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
	// It dies after the object has arrived and before that was noted: the same object comes again, and no other.
	for name, data := range map[string][]byte{stateFile: state, "0000000000000000.spool": spooled} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.open()
	b.until("it arrives again", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 && s.Waiting == 0 })
	b.d.endAll()
	if len(k.objects) != 1 || k.times < 3 {
		t.Errorf("%d objects, %d times", len(k.objects), k.times)
	}
}

// Who hangs is told of within ten seconds, or five times that where the machine has other things to do, and another flow log does
// not wait for it.
func TestDestinationThatHangs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.to = hanging{}
	b.settled()
	b.add(b.flow("eni-1", time.Second))
	b.at(300 * time.Second)
	began := time.Now()
	s := b.until("the alarm", func(s *api.FlowLogDelivery) bool { return s.Status == api.DeliverFailed })
	if took := time.Since(began); took > 50*time.Second || s.ErrorMessage != errStalled.Error() {
		t.Errorf("after %s: %+v", took, s)
	}
}

type hanging struct{}

func (hanging) Put(ctx context.Context, _ Object, _ *Body) error {
	<-ctx.Done()
	return ctx.Err()
}

// What the store keeps no longer while a destination takes nothing is counted, and declared when it goes on.
func TestLossIsDeclared(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.settled()
	v := b.d.all["fl-1"].v
	v.Queue = []Object{{File: "x", Size: spoolLimit}}
	b.d.all["fl-1"].end()
	<-b.d.all["fl-1"].done
	b.add(b.flow("eni-1", time.Second), b.flow("eni-2", 2*time.Second), b.flow("eni-1", 2*time.Second, func(r *api.FlowRecord) { r.VPC = "other" }))
	b.at(30 * time.Hour)
	b.d.round(t.Context())
	if s := b.d.State("fl-1"); s.LostRecords != 0 {
		t.Errorf("given up too early: %+v", s)
	}
	b.at(49 * time.Hour)
	b.d.round(t.Context())
	if s := b.d.State("fl-1"); s.LostRecords != 2 {
		t.Errorf("%+v", s)
	}
	v = b.d.all["fl-1"].v
	v.Queue = nil
	if err := b.d.place("fl-1").save(v); err != nil {
		t.Fatal(err)
	}
	b.open()
	b.until("it goes on", func(s *api.FlowLogDelivery) bool { return s.Objects == 1 && s.Waiting == 0 && s.LostRecords == 2 })
	var all []string
	for _, lines := range b.files() {
		all = append(all, lines...)
	}
	want := "2 111111111111 - - - - - - - - 1772802000 1772802000 - SKIPDATA"
	if !slices.Contains(all, want) || len(all) != 1 { // none says that interfaces had nothing: what they had is lost
		t.Errorf("got\n%s\nwant %s", strings.Join(all, "\n"), want)
	}
	b.d.endAll()
}

// Deleting a flow log ends it, and leaves nothing but what was delivered.
func TestDeletedFlowLog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.settled()
	b.change(func(r *api.Resources) { r.Remove(api.KindFlowLog, "fl-1") })
	b.d.round(t.Context())
	if _, err := os.Stat(filepath.Join(b.dir, "flow-logs", "fl-1")); !errors.Is(err, fs.ErrNotExist) || b.d.State("fl-1") != nil {
		t.Errorf("%v", err)
	}
}
