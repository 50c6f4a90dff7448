package format

import (
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
)

func TestAggregate(t *testing.T) {
	r := func(seq uint64, at time.Duration, state string) api.FlowRecord {
		f := consumer()
		f.Sequence, f.Start, f.End, f.State = seq, epoch.Add(at), epoch.Add(at+100*time.Millisecond), state
		f.TCPFlags, f.TCPState = 1<<seq, "S"+state
		if f.RTTMicros, f.Retransmits, f.ReplyRetransmits = 100*seq, 1, 2; seq > 1 {
			f.HandshakeMicros = 500
		}
		return f
	}
	other := r(9, time.Second, api.FlowActive)
	other.FlowID = "2"
	got := Aggregate([]api.FlowRecord{
		r(1, time.Second, api.FlowOpen), r(3, 4*time.Second, api.FlowActive), other, r(2, 2*time.Second, api.FlowActive), r(4, 6*time.Second, api.FlowClosed),
	}, 10*time.Second) // 03:04:05: the slot ends at :10
	if len(got) != 3 {
		t.Fatalf("%d lines: %+v", len(got), got)
	}
	if got[0].FlowID != "2" || got[0].Records != 1 {
		t.Errorf("first: %+v", got[0])
	}
	j := got[1]
	if j.Records != 3 || j.Packets != 18 || j.ReplyBytes != 12300 || j.Sequence != 3 || j.State != api.FlowOpen || j.TCPState != "Sactive" ||
		j.TCPFlags != 2|4|8 || !j.Start.Equal(epoch.Add(time.Second)) || !j.End.Equal(epoch.Add(4100*time.Millisecond)) {
		t.Errorf("joined: %+v", j)
	}
	if j.HandshakeMicros != 500 || j.RTTMicros != 300 || j.Retransmits != 3 || j.ReplyRetransmits != 6 {
		t.Errorf("joined: %+v", j)
	}
	if got[2].Records != 1 || got[2].State != api.FlowClosed {
		t.Errorf("of the next interval: %+v", got[2])
	}
}

// What is counted stays counted, whatever is joined.
func TestAggregateKeepsSums(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 40).Draw(t, "n")
		var records []api.FlowRecord
		for i := range n {
			f := consumer()
			f.FlowID = rapid.SampledFrom([]string{"1", "2", ""}).Draw(t, "flow")
			f.Sequence, f.Packets, f.Lost = uint64(i+1), rapid.Uint64Range(0, 9).Draw(t, "packets"), rapid.Uint64Range(0, 2).Draw(t, "lost")
			f.Start = epoch.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "at")) * time.Second)
			f.End = f.Start.Add(time.Second)
			records = append(records, f)
		}
		interval := rapid.SampledFrom([]time.Duration{time.Second, 10 * time.Second, time.Minute, 10 * time.Minute}).Draw(t, "interval")
		var want, have [4]uint64
		for _, r := range records {
			want = [4]uint64{want[0] + 1, want[1] + r.Packets, want[2] + r.ReplyBytes, want[3] + r.Lost}
		}
		for _, j := range Aggregate(records, interval) {
			have = [4]uint64{have[0] + uint64(j.Records), have[1] + j.Packets, have[2] + j.ReplyBytes, have[3] + j.Lost}
			if j.End.Sub(j.Start) > interval+time.Second {
				t.Fatalf("a line of %s spans %s", interval, j.End.Sub(j.Start))
			}
		}
		if want != have {
			t.Fatalf("records, packets, bytes, lost: %v, want %v", have, want)
		}
	})
}

// A field of records that is added later is either a sum or a state, which add has to know, or tells flows apart.
func TestEveryNumberOfARecordIsJoined(t *testing.T) {
	apart := map[string]bool{"Protocol": true}
	for i := range reflect.TypeFor[api.FlowRecord]().NumField() {
		f := reflect.TypeFor[api.FlowRecord]().Field(i)
		a, b := consumer(), consumer()
		v := reflect.ValueOf(&b).Elem().Field(i)
		switch {
		case v.CanInt():
			v.SetInt(v.Int() + 1)
		case v.CanUint():
			v.SetUint(v.Uint() + 1)
		default:
			continue
		}
		if got := len(Aggregate([]api.FlowRecord{a, b}, time.Minute)); got != 1 && !apart[f.Name] || got == 1 && apart[f.Name] {
			t.Errorf("records that differ in %s make %d lines", f.Name, got)
		}
	}
}
