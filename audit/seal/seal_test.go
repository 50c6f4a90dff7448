package seal

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"testing"
	"time"
)

var testKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

func sample(t *testing.T) *Seal {
	t.Helper()
	s := &Seal{
		Version: Version, Node: "i-1", Boot: "b<1>", Number: 3, First: 10, Last: 11, Records: 2,
		Start: time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600)), End: time.Date(2026, 3, 1, 11, 0, 9, 5000, time.UTC),
		Hash: HashLines([]byte("a"), []byte("b")), Previous: HashLine([]byte("c")), Full: true,
		Counters: []Position{{ENI: "eni-1", Hook: "workload", Reason: "FORWARDED", To: Count{3, 300}}},
		Declared: []Gap{{Cause: CauseTrimmed, FirstSeal: 2, LastSeal: 2, FirstSequence: 5, LastSequence: 9}},
		Tunnel:   []Passage{{Peer: "i-2", Epoch: "e", Given: 7, Came: 5}, {Peer: "i-3", Unknown: true}},
	}
	if err := s.Sign(testKey); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSealIsWhatWasSigned(t *testing.T) {
	s := sample(t)
	line, err := s.Line()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(line, []byte(`{"seal":{"version":1,"node":"i-1","boot":"b<1>"`)) || !bytes.HasSuffix(line, []byte("}}\n")) {
		t.Errorf("%s", line)
	}
	got, is, err := Parse(line)
	if err != nil || !is {
		t.Fatal(is, err)
	}
	pub := testKey.Public().(ed25519.PublicKey)
	if err := got.Check(pub); err != nil {
		t.Error(err)
	}
	other := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	if err := got.Check(other); err == nil {
		t.Error("another key is as good")
	}
	got.Records--
	if err := got.Check(pub); err == nil {
		t.Error("other content has the same signature")
	}
}

// No byte of a seal line can be another one.
func TestEveryByteOfASealCounts(t *testing.T) {
	line, err := sample(t).Line()
	if err != nil {
		t.Fatal(err)
	}
	pub := testKey.Public().(ed25519.PublicKey)
	for i := range len(line) - 1 {
		for _, x := range []byte{1, 0x20, 0x80} {
			b := bytes.Clone(line)
			b[i] ^= x
			if s, is, err := Parse(b); is && err == nil && s.Check(pub) == nil {
				t.Fatalf("byte %d may be %q as well: %s", i, b[i], b)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	line, err := sample(t).Line()
	if err != nil {
		t.Fatal(err)
	}
	good := string(line)
	for name, bad := range map[string]string{
		"space":         strings.Replace(good, `"full":true`, `"full": true`, 1),
		"unknown":       strings.Replace(good, `"full":true`, `"full":true,"more":1`, 1),
		"twice":         strings.Replace(good, `"full":true`, `"full":true,"full":true`, 1),
		"version":       strings.Replace(good, `"version":1`, `"version":2`, 1),
		"behind":        strings.TrimSpace(good) + "{}\n",
		"no range":      strings.Replace(good, `"last":11`, `"last":8`, 1),
		"more lines":    strings.Replace(good, `"records":2`, `"records":3`, 1),
		"zone":          strings.Replace(good, `"start":"2026-03-01T11:00:00Z"`, `"start":"2026-03-01T12:00:00+01:00"`, 1),
		"upper case":    strings.Replace(good, `"previous":"`, `"previous":"A`, 1),
		"not full":      strings.Replace(good, `"full":true`, `"full":false`, 1),
		"nothing in it": `{"seal":null}`,
		"tunnel without counters": strings.Replace(strings.Replace(good, `"full":true`, `"full":false`, 1),
			good[strings.Index(good, `"counters"`):strings.Index(good, `"declared"`)], "", 1),
	} {
		if bad == good {
			t.Errorf("%s: is the good one", name)
		}
		if _, is, err := Parse([]byte(bad)); !is || err == nil {
			t.Errorf("%s: %t, %v", name, is, err)
		}
	}
	if _, is, err := Parse([]byte(`{"node":"i-1"}`)); is || err != nil {
		t.Errorf("a record: %t, %v", is, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"seal":{"version":1}}`))
	f.Add([]byte(`{"seal":null}`))
	f.Add([]byte(`{"node":"i-1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, is, err := Parse(b)
		if !is || err != nil {
			return
		}
		again, err := s.Line()
		if err != nil || !bytes.Equal(again, append(bytes.TrimSuffix(b, []byte("\n")), '\n')) {
			t.Errorf("%q is written as %q, %v", b, again, err)
		}
	})
}

// A seal is signed by its node, which may be anybody's: what its leaf repeats of it is bounded.
func TestGapsAreBounded(t *testing.T) {
	holes := func(n int) (out []Gap) {
		for i := range uint64(n) {
			out = append(out, Gap{Cause: CauseTrimmed, FirstSeal: 2*i + 1, LastSeal: 2*i + 1})
		}
		return out
	}
	rows := make([]Gap, 4*MaxHoles)
	for i := range rows {
		rows[i] = Gap{Cause: CauseTrimmed, Hook: Out, Reason: "FORWARDED", FirstSeal: 1, LastSeal: 1}
	}
	for name, c := range map[string]struct {
		gaps []Gap
		want string
	}{
		"as many as may be":  {append(holes(MaxHoles), rows...), ""},
		"one more":           {holes(MaxHoles + 1), "more than 200"},
		"a cause of its own": {[]Gap{{Cause: strings.Repeat("x", 70000)}}, "no cause of a gap"},
		"a long boot":        {[]Gap{{Cause: CauseTrimmed, Boot: strings.Repeat("b", 65), FirstSeal: 1, LastSeal: 1}}, "more than 64 bytes"},
	} {
		s := sample(t)
		s.Declared = c.gaps
		if err := s.Sign(testKey); err != nil {
			t.Fatal(err)
		}
		line, err := s.Line()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err = Parse(line); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
