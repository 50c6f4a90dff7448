package flow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

func openLog(t *testing.T, cfg LogConfig) (*Log, *Recovery) {
	t.Helper()
	if cfg.Boot == "" {
		cfg.Boot = "boot-1"
	}
	l, r, err := OpenLog(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, r
}

// rec is a record of a flow.
func rec(id uint64, state string, packets uint64) api.FlowRecord {
	return api.FlowRecord{
		Node: node, Action: api.ActionAccept, LogStatus: StatusOK, FlowID: formatID(id), State: state, Packets: packets,
		Interface: "eni-cart", Reason: ReasonForwarded, Start: epoch, End: epoch,
	}
}

func appendAll(t *testing.T, l *Log, rs ...api.FlowRecord) {
	t.Helper()
	for _, r := range rs {
		if err := l.Append([]api.FlowRecord{r}); err != nil {
			t.Fatal(err)
		}
	}
}

func everything(t *testing.T, s Store) []api.FlowRecord {
	t.Helper()
	rs, err := Query(t.Context(), s, api.FlowFilter{})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// sequences checks that the records of each boot count up from 1, and returns boot/sequence of all.
func sequences(rs []api.FlowRecord) []string {
	var out []string
	for i := range rs {
		out = append(out, fmt.Sprintf("%s/%d", rs[i].Boot, rs[i].Sequence))
	}
	return out
}

func stores(t *testing.T, run func(*testing.T, Store)) {
	t.Run("memory", func(t *testing.T) { run(t, NewMemStore()) })
	t.Run("disk", func(t *testing.T) { run(t, Dir(filepath.Join(t.TempDir(), "flows"))) })
}

func TestSequenceResumesWithinABootAndStartsAnewWithTheNext(t *testing.T) {
	stores(t, func(t *testing.T, s Store) {
		for range 2 {
			l, _ := openLog(t, LogConfig{Store: s, Boot: "x"})
			appendAll(t, l, rec(1, api.FlowActive, 1), rec(2, api.FlowActive, 1))
		}
		for range 2 {
			l, r := openLog(t, LogConfig{Store: s, Boot: "y"})
			if slices.ContainsFunc(r.Baselines(), func(b api.FlowRecord) bool { return b.Boot != "y" }) {
				t.Errorf("baselines of another boot: %+v", r.Baselines())
			}
			appendAll(t, l, rec(1, api.FlowOpen, 1))
		}
		want := []string{"x/1", "x/2", "x/3", "x/4", "y/1", "y/2"}
		if got := sequences(everything(t, s)); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestDirIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "flows")
	l, _ := openLog(t, LogConfig{Store: Dir(dir)})
	appendAll(t, l, rec(1, api.FlowOpen, 1))
	if err := l.Rotate(nil); err != nil {
		t.Fatal(err)
	}
	if err := l.SetShipped(l.End(), 1); err != nil {
		t.Fatal(err)
	}
	if i, err := os.Stat(dir); err != nil || i.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v %v", i.Mode(), err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, f := range files {
		if i, err := f.Info(); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f.Name(), i.Mode(), err)
		}
	}
}

// A crash may leave any part of the last batch. What is whole stays, a part goes and is declared, and what the baselines say is
// exactly what the records that are left say.
func TestCrashAtEveryByteOfTheLastBatch(t *testing.T) {
	whole := NewMemStore()
	l, _ := openLog(t, LogConfig{Store: whole})
	appendAll(t, l, rec(1, api.FlowOpen, 10), rec(2, api.FlowOpen, 20))
	if err := l.Rotate([]api.FlowRecord{rec(1, api.FlowActive, 10), rec(2, api.FlowActive, 20)}); err != nil {
		t.Fatal(err)
	}
	appendAll(t, l, rec(1, api.FlowActive, 5))
	base := l.End()
	if err := l.Append([]api.FlowRecord{rec(2, api.FlowClosed, 7), rec(3, api.FlowOpen, 9)}); err != nil {
		t.Fatal(err)
	}
	segment := whole.files[segmentName(base.Segment)]
	full := segment.data
	for end := int(base.Offset); end <= len(full); end++ {
		segment.data, segment.synced = full[:end], end
		s := whole.Crash(0)
		lines := bytes.Count(full[base.Offset:end], []byte{'\n'})
		torn := uint64(0)
		if full[end-1] != '\n' {
			torn = 1
		}
		l, r := openLog(t, LogConfig{Store: s})
		if r.Lost != torn || r.Sequence != uint64(3+lines) {
			t.Fatalf("%d bytes: lost %d, sequence %d", end, r.Lost, r.Sequence)
		}
		want := [][]Counts{
			{{Packets: 15}, {Packets: 20}},
			{{Packets: 15}, {Packets: 27}},
			{{Packets: 15}, {Packets: 27}, {Packets: 9}},
		}[lines]
		if len(r.Baselines()) != len(want) {
			t.Fatalf("%d bytes: %d baselines", end, len(r.Baselines()))
		}
		for i, b := range r.Baselines() {
			if countsOf(&b) != want[i] || (b.State == api.FlowClosed) != (i == 1 && lines > 0) {
				t.Fatalf("%d bytes: flow %s has %+v, state %s", end, b.FlowID, countsOf(&b), b.State)
			}
		}
		appendAll(t, l, rec(4, api.FlowOpen, 1), rec(5, api.FlowOpen, 1))
		rs := everything(t, s)
		for i := range rs {
			lost := uint64(0)
			if i == 3+lines {
				lost = torn
			}
			if rs[i].Sequence != uint64(i+1) || rs[i].Lost != lost {
				t.Fatalf("%d bytes: record %d has sequence %d, lost %d", end, i, rs[i].Sequence, rs[i].Lost)
			}
		}
		if len(rs) != 5+lines {
			t.Fatalf("%d bytes: %d records", end, len(rs))
		}
	}
}

// A line that is damaged in the middle is passed over, and the gap is declared.
func TestDamageInTheMiddle(t *testing.T) {
	s := NewMemStore()
	l, _ := openLog(t, LogConfig{Store: s})
	appendAll(t, l, rec(1, api.FlowOpen, 1), rec(2, api.FlowOpen, 1), rec(3, api.FlowOpen, 1))
	f := s.files[segmentName(1)]
	line := bytes.IndexByte(f.data, '\n')
	copy(f.data[line+10:], "\x00\x00\x00\xff")
	l, r := openLog(t, LogConfig{Store: s})
	if r.Lost != 1 || r.Sequence != 3 || len(r.Baselines()) != 2 {
		t.Errorf("lost %d, sequence %d, %d baselines", r.Lost, r.Sequence, len(r.Baselines()))
	}
	appendAll(t, l, rec(4, api.FlowOpen, 1))
	rs, _, err := l.Read(Position{}, 100)
	if err != nil || !slices.Equal(sequences(rs), []string{"boot-1/1", "boot-1/3", "boot-1/4"}) || rs[2].Lost != 1 {
		t.Errorf("read %v, %v", sequences(rs), err)
	}
}

// The disk fills up at every byte of a batch: nothing of it is left, and it can be written later.
func TestFullDisk(t *testing.T) {
	batch := []api.FlowRecord{rec(1, api.FlowOpen, 1), rec(2, api.FlowOpen, 1)}
	for room := int64(0); ; room += 7 {
		s := NewMemStore()
		l, _ := openLog(t, LogConfig{Store: s})
		appendAll(t, l, rec(9, api.FlowOpen, 1))
		s.Limit(room)
		err := l.Append(batch)
		if err == nil {
			break
		}
		if !errors.Is(err, errFull) || len(everything(t, s)) != 1 {
			t.Fatalf("room %d: %v, %d records", room, err, len(everything(t, s)))
		}
		s.Limit(-1)
		appendAll(t, l, batch...)
		if got := sequences(everything(t, s)); !slices.Equal(got, []string{"boot-1/1", "boot-1/2", "boot-1/3"}) {
			t.Fatalf("room %d: %v", room, got)
		}
	}
}

// unTruncatable is a store whose files cannot take anything back.
type unTruncatable struct{ *MemStore }

type stuckFile struct{ File }

func (stuckFile) Truncate(int64) error { return errors.New("input/output error") }

func (s unTruncatable) Open(name string) (File, error) {
	f, err := s.MemStore.Open(name)
	return stuckFile{f}, err
}

// A part of a record that cannot be taken back ends the segment; nobody ever reads it as a record.
func TestBrokenSegment(t *testing.T) {
	s := unTruncatable{NewMemStore()}
	l, _ := openLog(t, LogConfig{Store: s})
	appendAll(t, l, rec(1, api.FlowOpen, 1))
	s.Limit(20)
	if err := l.Append([]api.FlowRecord{rec(2, api.FlowOpen, 1)}); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	s.Limit(-1)
	appendAll(t, l, rec(3, api.FlowOpen, 1))
	want := []string{"boot-1/1", "boot-1/2"}
	for range 2 {
		rs, next, err := l.Read(Position{}, 100)
		if err != nil || !slices.Equal(sequences(rs), want) || next != l.End() {
			t.Fatalf("read %v to %v, %v", sequences(rs), next, err)
		}
		var r *Recovery
		if l, r = openLog(t, LogConfig{Store: s.MemStore}); len(r.Baselines()) != 2 || r.Sequence != 2 {
			t.Fatalf("%+v", r)
		}
	}
}

func TestRotationByAgeAndSize(t *testing.T) {
	now := epoch
	l, _ := openLog(t, LogConfig{
		Store: NewMemStore(), SegmentBytes: 2000, SegmentAge: time.Minute, Now: func() time.Time { return now },
	})
	now = now.Add(time.Hour)
	if l.Due() {
		t.Error("an empty segment is never due")
	}
	appendAll(t, l, rec(1, api.FlowOpen, 1))
	if !l.Due() {
		t.Error("an old segment is due")
	}
	if err := l.Rotate(nil); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; !l.Due(); n++ {
		appendAll(t, l, rec(1, api.FlowActive, 1))
	}
	if n < 2 || n > 20 {
		t.Errorf("due by size after %d records", n)
	}
}

// fill writes n segments of three records.
func fill(t *testing.T, l *Log, n int) {
	t.Helper()
	for range n {
		appendAll(t, l, rec(1, api.FlowActive, 1), rec(1, api.FlowActive, 1), rec(1, api.FlowActive, 1))
		if err := l.Rotate([]api.FlowRecord{rec(1, api.FlowActive, 1)}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRetentionLosesShippedRecordsFirstAndDeclaresOthers(t *testing.T) {
	one := NewMemStore()
	probe, _ := openLog(t, LogConfig{Store: one})
	fill(t, probe, 1)
	size := probe.Stats().Bytes

	for name, c := range map[string]struct {
		shipping bool
		shipped  int // records of the first segments
		lost     uint64
	}{
		"nothing shipped":             {true, 0, 9},
		"part of the first":           {true, 2, 7},
		"two segments":                {true, 6, 3},
		"all that goes":               {true, 9, 0},
		"more than goes":              {true, 12, 0},
		"nobody to ship to":           {false, 0, 0},
		"nobody any more to ship to ": {false, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewMemStore()
			l, _ := openLog(t, LogConfig{Store: s, Shipping: c.shipping, MaxBytes: 4*size + size/2})
			fill(t, l, 4)
			if c.shipped > 0 {
				rs, pos, err := l.Read(Position{}, c.shipped)
				if err != nil || len(rs) != c.shipped {
					t.Fatal(len(rs), err)
				}
				if err := l.SetShipped(pos, c.shipped); err != nil {
					t.Fatal(err)
				}
			}
			pending := l.Stats().Pending
			if pending != 12-c.shipped {
				t.Errorf("%d pending after %d of 12 were shipped", pending, c.shipped)
			}
			fill(t, l, 3)
			appendAll(t, l, rec(1, api.FlowActive, 1))
			rs := everything(t, s)
			if n := len(rs); n != 13 || rs[0].Sequence != 10 || rs[12].Sequence != 22 {
				t.Fatalf("%d records, %v", n, sequences(rs))
			}
			var declared uint64
			for i := range rs {
				declared += rs[i].Lost
			}
			if declared != c.lost && c.lost > 0 || c.lost == 0 && declared != 0 || l.Stats().Lost != c.lost {
				t.Errorf("declared %d, lost %d, want %d", declared, l.Stats().Lost, c.lost)
			}
			if c.shipping {
				next, _, err := l.Read(l.Shipped(), 100)
				if err != nil || len(next) != l.Stats().Pending {
					t.Errorf("%d to ship, but %d pending, %v", len(next), l.Stats().Pending, err)
				}
			}
		})
	}
}

func TestShippingPositionSurvives(t *testing.T) {
	s := NewMemStore()
	l, _ := openLog(t, LogConfig{Store: s, Shipping: true})
	fill(t, l, 2)
	rs, pos, err := l.Read(Position{}, 4)
	if err != nil || len(rs) != 4 {
		t.Fatal(len(rs), err)
	}
	if err := l.SetShipped(pos, 4); err != nil {
		t.Fatal(err)
	}
	if err := l.SetShipped(Position{}, 0); err != nil || l.Shipped() != pos {
		t.Errorf("went back to %v, %v", l.Shipped(), err)
	}
	again, _ := openLog(t, LogConfig{Store: s, Shipping: true})
	if again.Shipped() != pos || again.Stats().Pending != 2 {
		t.Errorf("position %v, %d pending", again.Shipped(), again.Stats().Pending)
	}
	if rs, _, err := again.Read(again.Shipped(), 10); err != nil || !slices.Equal(sequences(rs), []string{"boot-1/5", "boot-1/6"}) {
		t.Errorf("%v %v", sequences(rs), err)
	}
	// The log is wiped but for the position: what comes now is shipped all the same.
	for _, n := range []uint64{1, 2, 3} {
		if err := s.Remove(segmentName(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove(stateName); err != nil {
		t.Fatal(err)
	}
	fresh, _ := openLog(t, LogConfig{Store: s, Shipping: true})
	appendAll(t, fresh, rec(1, api.FlowOpen, 1))
	if rs, _, err := fresh.Read(fresh.Shipped(), 10); err != nil || len(rs) != 1 {
		t.Errorf("%d to ship, %v", len(rs), err)
	}
}

func TestCrashBetweenStateAndSegment(t *testing.T) {
	s := NewMemStore()
	l, _ := openLog(t, LogConfig{Store: s})
	appendAll(t, l, rec(1, api.FlowOpen, 1))
	if err := l.Rotate([]api.FlowRecord{rec(1, api.FlowActive, 1)}); err != nil { // the new segment has no file yet
		t.Fatal(err)
	}
	for i := range 3 {
		l, r := openLog(t, LogConfig{Store: s.Crash(0)})
		if r.Sequence != 1 || len(r.Baselines()) != 1 || r.Baselines()[0].Packets != 1 {
			t.Fatalf("%d: %+v", i, r)
		}
		appendAll(t, l, rec(1, api.FlowActive, 4))
		_, r = openLog(t, l.cfg)
		if r.Sequence != 2 || r.Baselines()[0].Packets != 5 {
			t.Fatalf("%d: %+v", i, r)
		}
	}
}

func TestDamagedStateIsDeclared(t *testing.T) {
	s := NewMemStore()
	l, _ := openLog(t, LogConfig{Store: s})
	appendAll(t, l, rec(1, api.FlowOpen, 3))
	if err := l.Rotate([]api.FlowRecord{rec(1, api.FlowActive, 3)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(stateName, []byte(`{"boot":"boot-1","seq`)); err != nil {
		t.Fatal(err)
	}
	_, r := openLog(t, LogConfig{Store: s})
	if r.Lost != 1 || r.Sequence != 1 || r.Baselines()[0].Packets != 3 {
		t.Errorf("%+v", r)
	}
}

func TestReadInSmallAndLargeSteps(t *testing.T) {
	l, _ := openLog(t, LogConfig{Store: NewMemStore()})
	fill(t, l, 3)
	long := rec(2, api.FlowOpen, 1)
	long.ServiceName = string(bytes.Repeat([]byte{'x'}, 3*readChunk)) // a line longer than a chunk
	appendAll(t, l, long, rec(3, api.FlowOpen, 1))
	for _, limit := range []int{1, 2, 5, 100} {
		var all []api.FlowRecord
		for pos := (Position{}); ; {
			rs, next, err := l.Read(pos, limit)
			if err != nil || len(rs) > limit {
				t.Fatal(len(rs), err)
			}
			if next == pos {
				break
			}
			all, pos = append(all, rs...), next
		}
		for i := range all {
			if all[i].Sequence != uint64(i+1) {
				t.Fatalf("limit %d: record %d is %d", limit, i, all[i].Sequence)
			}
		}
		if len(all) != 11 {
			t.Fatalf("limit %d: %d records", limit, len(all))
		}
	}
}

func TestQuery(t *testing.T) {
	s := NewMemStore()
	l, _ := openLog(t, LogConfig{Store: s})
	for i := range 10 {
		r := rec(uint64(i), api.FlowOpen, 1)
		r.Tuple.DstPort = uint16(i % 2)
		appendAll(t, l, r)
		if i%4 == 3 {
			if err := l.Rotate(nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		f    api.FlowFilter
		want []uint64
	}{
		{api.FlowFilter{}, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		{api.FlowFilter{Limit: 3}, []uint64{8, 9, 10}},
		{api.FlowFilter{Port: 1, Limit: 2}, []uint64{8, 10}},
		{api.FlowFilter{Port: 1}, []uint64{2, 4, 6, 8, 10}},
		{api.FlowFilter{Action: api.ActionReject}, nil},
		{api.FlowFilter{Since: epoch.Add(time.Hour)}, nil},
	} {
		rs, err := Query(t.Context(), s, c.f)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for i := range rs {
			got = append(got, rs[i].Sequence)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.f, got, c.want)
		}
	}
}

// What baselines say after a restart is what the aggregator had, wherever the rotations were.
func TestBaselinesAreTheSumOfTheLog(t *testing.T) {
	s := NewMemStore()
	l, r := openLog(t, LogConfig{Store: s})
	a := newAggregator(r.Baselines())
	for i := range 40 {
		var flows []Flow
		for id := range uint64(6) {
			f := with(consumerFlow(id+1, 1), uint64(i)*(id+1)+1, uint64(i), float64(i)+1)
			if i > 10 { // later than the SYN
				f.TCPFlags, f.ReplyTCPFlags = tcpSYN|0x10, tcpSYN|0x10
			}
			if i > 20 && id == 2 {
				f.Closed = true
			}
			if i < 30 || id != 4 {
				flows = append(flows, f)
			}
		}
		res := a.Collect(Input{Now: at(float64(i) + 2), Flows: flows, Complete: true, Full: i%3 != 1})
		if err := l.Append(res.Records); err != nil {
			t.Fatal(err)
		}
		if i%7 == 3 {
			if err := l.Rotate(a.Baselines()); err != nil {
				t.Fatal(err)
			}
		}
		_, r := openLog(t, LogConfig{Store: s.Crash(0)})
		b := newAggregator(r.Baselines())
		// Flows that were removed since the state was kept may still be there, closed.
		for id, want := range a.flows {
			got := b.flows[id]
			if want.open() && (got == nil || got.reported != want.reported || got.closed() != want.closed() ||
				!want.closed() && (got.flags != want.flags || got.replyFlags != want.replyFlags)) {
				t.Fatalf("step %d, flow %d: %+v, want %+v", i, id, got, want)
			}
		}
		for id, got := range b.flows {
			if a.flows[id] == nil && !got.closed() {
				t.Fatalf("step %d: flow %d came back", i, id)
			}
		}
	}
}

func FuzzOpenLog(f *testing.F) {
	good, err := json.Marshal(rec(1, api.FlowOpen, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("{}\n"), []byte("{}"), []byte("{}"))
	f.Add(append(good, '\n'), []byte(`{"boot":"boot-1","sequence":18446744073709551615,"segment":7}`), []byte(`{"segment":9,"offset":-5}`))
	f.Add([]byte("\n\n\x00{"), []byte("null"), []byte(`{"segment":1,"offset":99}`))
	f.Fuzz(func(t *testing.T, segment, state, cursor []byte) {
		s := NewMemStore()
		for name, b := range map[string][]byte{segmentName(1): segment, stateName: state, cursorName: cursor} {
			if err := s.Put(name, b); err != nil {
				t.Fatal(err)
			}
		}
		l, r, err := OpenLog(LogConfig{Store: s, Boot: "boot-1", Shipping: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Append([]api.FlowRecord{rec(1, api.FlowOpen, 1)}); err != nil {
			t.Fatal(err)
		}
		rs, _, err := l.Read(Position{}, 1<<20)
		if err != nil || len(rs) == 0 || rs[len(rs)-1].Sequence != r.Sequence+1 {
			t.Fatalf("%d records after %d, %v", len(rs), r.Sequence, err)
		}
	})
}
