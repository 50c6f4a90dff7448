package health

import (
	"bytes"
	"reflect"
	"testing"
	"time"
)

func TestMessagesComeThrough(t *testing.T) {
	for _, m := range []Message{
		{Kind: KindQuestion, Nonce: 1<<63 + 5},
		{Kind: KindAnswer, Nonce: 7},
		{Kind: KindSuspect, Suspect: key(7, 5)},
		{Kind: KindDigest, Digest: Digest{Boot: 1, Seq: 2}},
		{Kind: KindDigest, Digest: Digest{Boot: 1, Seq: 2, Leaving: true, Reports: []Report{
			{Key: key(1, 1), State: Healthy, Age: 3 * time.Second},
			{Key: key(1, 2), State: Unhealthy, Reason: ReasonTimeout},
			{Key: key(1, 3), State: Unhealthy, Reason: ReasonFailed, Doubt: true}}}},
	} {
		out := Encode(m)
		if len(out) != 1 {
			t.Fatalf("%+v: %d messages", m, len(out))
		}
		got, err := Parse(out[0])
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v came as %+v, %v", m, got, err)
		}
	}
}

// A digest of many targets is cut, and its parts come to the whole.
func TestLongDigest(t *testing.T) {
	d := Digest{Boot: 3, Seq: 4}
	for i := range 1000 {
		d.Reports = append(d.Reports, Report{Key: key(uint32(i), i), State: Healthy})
	}
	var got []Report
	parts := Encode(Message{Kind: KindDigest, Digest: d})
	for _, b := range parts {
		m, err := Parse(b)
		if err != nil || m.Digest.Boot != 3 || m.Digest.Seq != 4 || len(b) > MaxMessage {
			t.Fatalf("part of %d bytes: %+v, %v", len(b), m, err)
		}
		got = append(got, m.Digest.Reports...)
	}
	if !reflect.DeepEqual(got, d.Reports) || len(parts) > 15 {
		t.Errorf("%d reports in %d parts", len(got), len(parts))
	}
}

func TestWhatIsNotWritten(t *testing.T) {
	d := Digest{Reports: []Report{{Key: key(5, 5)},
		{Key: key(1, 1), State: Healthy, Age: 1 << 62}, {Key: key(2, 1), State: Healthy, Age: -1}}}
	m, err := Parse(Encode(Message{Kind: KindDigest, Digest: d})[0])
	if err != nil || len(m.Digest.Reports) != 2 || m.Digest.Reports[0].Age.Round(time.Hour) != 1193*time.Hour || m.Digest.Reports[1].Age != 0 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestParseRefuses(t *testing.T) {
	good := Encode(Message{Kind: KindDigest, Digest: Digest{Boot: 1, Seq: 2, Reports: []Report{{Key: key(1, 1), State: Healthy}}}})[0]
	for n := range len(good) {
		if m, err := Parse(good[:n]); err == nil && len(m.Digest.Reports) != 0 {
			t.Errorf("the first %d bytes: %+v", n, m)
		}
	}
	with := func(at int, b byte) []byte {
		c := bytes.Clone(good)
		c[at] = b
		return c
	}
	for name, b := range map[string][]byte{
		"other magic": with(0, 'x'), "other kind": with(4, 9), "other flags": with(5, 2),
		"state 0": with(len(good)-6, 0), "state 4": with(len(good)-6, 4), "too long": append(good, make([]byte, MaxMessage)...),
		"more behind": append(Encode(Message{Kind: KindQuestion})[0], 0), "nothing": {},
	} {
		if m, err := Parse(b); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if m, err := Parse(with(len(good)-5, 200)); err != nil || m.Digest.Reports[0].Reason != ReasonFailed {
		t.Errorf("a newer agent's reason: %+v, %v", m, err)
	}
}

// FuzzParse: whatever comes is refused or means something that is written the same way again.
func FuzzParse(f *testing.F) {
	f.Add(Encode(Message{Kind: KindQuestion, Nonce: 5})[0])
	f.Add(Encode(Message{Kind: KindSuspect, Suspect: key(1, 9)})[0])
	f.Add(Encode(Message{Kind: KindDigest, Digest: Digest{Boot: 1, Seq: 2, Leaving: true, Reports: []Report{
		{Key: key(1, 1), State: Healthy, Age: time.Second}}}})[0])
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		again := Encode(m)
		if len(again) != 1 {
			t.Fatalf("%d messages of one", len(again))
		}
		n, err := Parse(again[0])
		if err != nil || !reflect.DeepEqual(m, n) {
			t.Fatalf("%+v, again %+v, %v", m, n, err)
		}
	})
}
