package evidence

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/audit/seal"
)

const firstHour = "boot-1/2026-03-01T12.ndjson"

// What a node wrote is kept byte for byte, once its seal came, however it was cut into batches.
func TestSegmentsAreKeptAsTheyWereWritten(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	one := a.segment(t, 4)
	if got := d.take(one[:2]...); got != (Taken{}) {
		t.Errorf("%+v", got)
	}
	if got := d.files(); len(got) != 0 {
		t.Errorf("kept before it was sealed: %v", got)
	}
	if got := d.take(one[2:]...); got != (Taken{Segments: 1}) {
		t.Errorf("%+v", got)
	}
	two, three, begun := a.segment(t, 0), a.segment(t, 3), a.record()
	if got := d.take(append(slices.Concat(two, three), begun)...); got != (Taken{Segments: 2}) {
		t.Errorf("%+v", got)
	}
	d.want(firstHour, text(slices.Concat(one, two, three)...))
	d.open(nil) // what has no seal yet is not forgotten
	last := a.seal(t, nil)
	if got := d.take(last); got != (Taken{Segments: 1}) {
		t.Errorf("%+v", got)
	}
	d.want(firstHour, text(append(slices.Concat(one, two, three), begun, last)...))
	if got := d.seals(); !slices.Equal(got, []string{"boot-1/1", "boot-1/2", "boot-1/3", "boot-1/4"}) {
		t.Errorf("leaves %v", got)
	}
	if len(d.findings) > 0 || d.Sealed(testNode) != d.now.UTC() || !d.Sealed("node-00000000000000002").IsZero() {
		t.Errorf("%v, sealed at %v", d.findings, d.Sealed(testNode))
	}
	if segments, refused := d.Figures(); segments != 1 || refused != 0 { // since it was opened
		t.Errorf("%d segments, %d refused", segments, refused)
	}
}

// Each boot numbers anew; the chain goes on.
func TestBootsFollowEachOther(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	one := a.segment(t, 2)
	unsealed := []Line{a.record(), a.record()}
	d.take(slices.Concat(one, unsealed)...)
	end := a.seal(t, nil)
	a.reboot("boot-0") // sorts before
	two := a.segment(t, 2)
	d.take(append([]Line{end}, two...)...)
	d.want(firstHour, text(append(slices.Concat(one, unsealed), end)...))
	d.want("boot-0/2026-03-01T12.ndjson", text(two...))
	if got := d.seals(); !slices.Equal(got, []string{"boot-1/1", "boot-1/2", "boot-0/1"}) || len(d.findings) > 0 {
		t.Errorf("leaves %v, %v", got, d.findings)
	}
}

// Whatever does not check is kept aside with its reason, and what follows is taken.
func TestWhatDoesNotCheck(t *testing.T) {
	other := newAuthor(2)
	for name, c := range map[string]struct {
		spoil func(a *author, lines []Line) []Line
		want  string
	}{
		"a changed line": {func(_ *author, l []Line) []Line {
			l[0].Data = []byte(strings.Replace(string(l[0].Data), "a&b", "a&c", 1))
			return l
		}, "not those that were sealed"},
		"a dropped line": {func(_ *author, l []Line) []Line { return slices.Delete(l, 1, 2) }, "of 4 lines, 3 came"},
		"an inserted line": {func(a *author, l []Line) []Line {
			return slices.Insert(l, 4, Line{Boot: a.boot, Seq: 9, Data: []byte(`{"sequence":9}`)})
		}, "of 4 lines, 5 came"},
		"a changed seal": {func(_ *author, l []Line) []Line {
			l[4].Data = []byte(strings.Replace(string(l[4].Data), `"maxErrorMicros":0`, `"maxErrorMicros":1`, 1))
			return l
		}, "signature does not fit"},
		"a seal in another form": {func(_ *author, l []Line) []Line {
			l[4].Data = []byte(strings.Replace(string(l[4].Data), `{"seal":{`, `{"seal": {`, 1))
			return l
		}, "not in the form"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuthor(1)
			d := newDesk(t, a, other)
			good := a.segment(t, 1)
			d.take(good...)
			bad := c.spoil(a, a.segment(t, 4))
			if got := d.take(bad...); got != (Taken{Refused: 1}) {
				t.Errorf("%+v", got)
			}
			if len(d.findings) != 1 || !strings.Contains(d.findings[0].Reason, c.want) || d.findings[0].Kept {
				t.Fatalf("%+v, want %q", d.findings, c.want)
			}
			aside, err := filepath.Glob(filepath.Join(d.dir, "sealing", "aside", testNode, "*"+suffix))
			if err != nil || len(aside) != 1 {
				t.Fatal(aside, err)
			}
			if data, err := os.ReadFile(aside[0]); err != nil || string(data) != text(bad...) {
				t.Errorf("aside is\n%swant\n%s%v", data, text(bad...), err)
			}
			if got, err := d.Aside(); err != nil || got[testNode] != d.findings[0] {
				t.Errorf("%+v, %v", got, err)
			}
			next := a.segment(t, 2)
			if got := d.take(next...); got != (Taken{Segments: 1}) {
				t.Errorf("the next one: %+v, %v", got, d.findings)
			}
			d.want(firstHour, text(slices.Concat(good, next)...))
		})
	}
}

// A gap in the numbers is evidence that something is missing, and kept.
func TestGaps(t *testing.T) {
	for name, c := range map[string]struct {
		declare func(*seal.Seal)
		found   int
	}{
		"silent": {nil, 1},
		"declared": {func(s *seal.Seal) {
			s.Declared = []seal.Gap{{Cause: seal.CauseTrimmed, FirstSeal: 2, LastSeal: 3, FirstSequence: 2, LastSequence: 4}}
		}, 0},
		"declared too little": {func(s *seal.Seal) {
			s.Declared = []seal.Gap{{Cause: seal.CauseTrimmed, FirstSeal: 3, LastSeal: 3}}
		}, 1},
	} {
		a := newAuthor(1)
		d := newDesk(t, a)
		one := a.segment(t, 1)
		a.segment(t, 1)
		a.segment(t, 2)
		last := []Line{a.record(), a.seal(t, c.declare)}
		d.take(one...)
		if got := d.take(last...); got != (Taken{Segments: 1}) || len(d.findings) != c.found {
			t.Errorf("%s: %+v, %+v", name, got, d.findings)
		}
		if c.found > 0 && (!d.findings[0].Kept || d.findings[0].Number != 4) {
			t.Errorf("%s: %+v", name, d.findings)
		}
		d.want(firstHour, text(slices.Concat(one, last)...))
	}
}

// A second segment of a number is not the first one, however late it comes.
func TestForksAreRefused(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	d.take(a.segment(t, 1)...)
	fork := *a
	two := a.segment(t, 2)
	d.take(two...)
	forked := fork.segment(t, 3)
	if got := d.take(forked[len(forked)-1]); got != (Taken{Refused: 1}) || !strings.Contains(d.findings[0].Reason, "another segment has the number 2") {
		t.Errorf("%+v, %+v", got, d.findings)
	}
	d.take(a.segment(t, 1)...)
	if got := d.take(two...); got != (Taken{}) { // it is the same
		t.Errorf("sent again: %+v", got)
	}
	again := fork.segment(t, 0)
	if got := d.take(again...); got != (Taken{Refused: 1}) {
		t.Errorf("%+v", got)
	}
	if len(d.findings) != 2 {
		t.Errorf("%+v", d.findings)
	}
}

// A node that has not told its key is asked for it, and nothing is taken until then.
func TestUnknownKey(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t)
	lines := a.segment(t, 2)
	if _, err := d.Take(context.Background(), testNode, lines); !errors.Is(err, ErrUnknownKey) {
		t.Fatal(err)
	}
	pub := d.config(nil)
	if pub.Key(testNode, "") != nil {
		t.Fatal("a key of nobody")
	}
	d2 := newDesk(t, a)
	d.keys = d2.keys
	if got := d.take(lines...); got != (Taken{Segments: 1}) {
		t.Errorf("%+v", got)
	}
	d.want(firstHour, text(lines...))
}

// While the Merkle log takes nothing, nothing is acknowledged, and nothing lost.
func TestMerkleLogThatFails(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	d.tree.Fail(errors.New("no room"))
	lines := a.segment(t, 2)
	for range 2 {
		if _, err := d.Take(context.Background(), testNode, lines); err == nil {
			t.Fatal("taken without a leaf")
		}
	}
	if got := d.files(); len(got) > 0 {
		t.Errorf("%v", got)
	}
	d.tree.Fail(nil)
	if got := d.take(lines...); got != (Taken{Segments: 1}) {
		t.Errorf("%+v", got)
	}
	d.want(firstHour, text(lines...))
}

// Hours that are over are packed, and opened again for what comes late.
func TestPackedHours(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	one := a.segment(t, 3)
	d.take(one...)
	path := filepath.Join(d.dir, "evidence", "segments", testNode, firstHour)
	pack := func(packedNow bool) {
		t.Helper()
		if err := d.Pack(); err != nil {
			t.Fatal(err)
		}
		_, plain := os.Stat(path)
		_, gz := os.Stat(path + packed)
		if (plain == nil) == packedNow || (gz == nil) != packedNow {
			t.Errorf("plain %v, packed %v", plain, gz)
		}
	}
	pack(false) // the hour is not over
	d.now = noon.Add(time.Hour + time.Second)
	pack(true)
	two := a.segment(t, 2)
	d.take(two...)
	d.want(firstHour, text(slices.Concat(one, two)...))
	pack(false) // more may come
	d.open(nil)
	d.now = d.now.Add(restsFor)
	pack(true)
	d.want(firstHour, text(slices.Concat(one, two)...))
	if got := d.take(two...); got != (Taken{}) || len(d.findings) > 0 { // found in the packed file
		t.Errorf("%+v, %v", got, d.findings)
	}
	three := a.segment(t, 1)
	d.take(three...)
	d.want(firstHour, text(slices.Concat(one, two, three)...))
}

// A copy has what there is at one moment; what is disposed of is named before.
func TestSnapshotAndDisposal(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	early := slices.Concat(a.segment(t, 2), a.segment(t, 1))
	d.take(early...)
	a.at = noon.Add(2 * time.Hour)
	late := a.segment(t, 1)
	d.take(late...)
	snap, err := d.Snapshot(context.Background(), noon, noon.Add(time.Hour), d.tree.Size)
	if err != nil || len(snap.Files) != 1 || snap.TreeSize != 3 {
		t.Fatalf("%+v, %v", snap, err)
	}
	f := &snap.Files[0]
	if f.Path(false) != "segments/"+testNode+"/"+firstHour || f.Hour != noon {
		t.Errorf("%+v", f)
	}
	for word, want := range map[string]bool{"111111111111": true, "222222222222": false, testNode: true} {
		if got, err := f.Mentions(word); got != want || err != nil {
			t.Errorf("mentions %s: %v, %v", word, got, err)
		}
	}
	runs, err := f.Runs()
	if err != nil || len(runs) != 1 || runs[0].First != 1 || runs[0].Last != 2 || runs[0].Line != seal.HashLine(early[len(early)-1].Data) {
		t.Errorf("%+v, %v", runs, err)
	}
	if err := d.Remove(f); err != nil {
		t.Fatal(err)
	}
	if got := d.files(); len(got) != 1 || got[testNode+"/boot-1/2026-03-01T14.ndjson"] != text(late...) {
		t.Errorf("%v", got)
	}
	if got := d.take(a.segment(t, 1)...); got != (Taken{Segments: 1}) || len(d.findings) > 0 {
		t.Errorf("%+v, %v", got, d.findings)
	}
}

func TestNamesThatAreNoFiles(t *testing.T) {
	for _, bad := range []string{"", ".", "..", "../x", "a/b", "a\x00", strings.Repeat("x", maxBoot+1), "a b"} {
		if GoodBoot(bad) {
			t.Errorf("%q passes", bad)
		}
	}
	d := newDesk(t, newAuthor(1))
	if _, err := d.Take(context.Background(), testNode, []Line{{Boot: "../../x", Seq: 1, Data: []byte("{}")}}); err == nil {
		t.Error("a boot that is a path is taken")
	}
}

// However batches are cut, repeated and interrupted, what is kept is what was written.
func TestAnyBatches(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		a := newAuthor(1)
		d := newDesk(t, a)
		var lines []Line
		want := map[string]string{}
		boots := 0
		for range rapid.IntRange(1, 8).Draw(r, "segments") {
			if rapid.IntRange(0, 4).Draw(r, "reboot") == 0 && a.number > 0 {
				boots++
				a.reboot(fmt.Sprintf("boot-%d-%d", rapid.IntRange(1, 9).Draw(r, "boot"), boots)) // in any order of names
			}
			a.at = a.at.Add(time.Duration(rapid.IntRange(-90, 90).Draw(r, "minutes")) * time.Minute) // the clock is set
			s := a.segment(t, rapid.IntRange(0, 5).Draw(r, "records"))
			lines = append(lines, s...)
			want[testNode+"/"+hourFile(a.boot, a.at)] += text(s...)
		}
		for from := 0; from < len(lines); {
			to := min(len(lines), from+rapid.IntRange(1, 12).Draw(r, "batch"))
			back := max(0, from-rapid.IntRange(0, 12).Draw(r, "again"))
			d.take(lines[back:to]...)
			from = to
			switch rapid.IntRange(0, 5).Draw(r, "between") {
			case 0:
				d.open(nil)
			case 1:
				d.now = d.now.Add(2 * time.Hour)
				if err := d.Pack(); err != nil {
					r.Fatal(err)
				}
			}
		}
		got := d.files()
		for name, content := range want {
			if got[name] != content {
				r.Errorf("%s has\n%swant\n%s", name, got[name], content)
			}
		}
		if len(got) != len(want) || len(d.findings) > 0 {
			r.Errorf("%d files, want %d; %+v", len(got), len(want), d.findings)
		}
	})
}
