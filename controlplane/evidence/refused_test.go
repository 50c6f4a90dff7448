package evidence

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/audit/leaf"
)

// refusals are what the log says of lines that were not taken.
func (d *desk) refusals() (out []leaf.Refused) {
	d.t.Helper()
	if err := d.tree.Leaves(context.Background(), 0, func(_ uint64, l leaf.Leaf) error {
		if l.Refused != nil {
			out = append(out, *l.Refused)
		}
		return nil
	}); err != nil {
		d.t.Fatal(err)
	}
	return out
}

// TestRefusedLinesAreTold: whatever batches they come in, and however often the server starts in between, the log has behind the seal which
// of its lines were not taken, and nothing where all were.
func TestRefusedLinesAreTold(t *testing.T) {
	bad := []uint64{2, 3, 4, 7, 9, 10}
	for size := 1; size <= 12; size++ {
		a := newAuthor(1)
		d := newDesk(t, a)
		lines := append(a.segment(t, 10), a.segment(t, 2)...)
		for i := range lines {
			lines[i].Refused = !lines[i].Seal && slices.Contains(bad, lines[i].Seq)
		}
		for part := range slices.Chunk(lines, size) {
			for range 2 { // its answer was lost, and what it asks for has changed meanwhile
				d.take(part...)
				d.open(nil)
				part = slices.Clone(part)
				for i := range part {
					part[i].Refused = false
				}
			}
		}
		want := []leaf.Range{{First: 2, Last: 4}, {First: 7, Last: 7}, {First: 9, Last: 10}}
		got := d.refusals()
		if len(got) != 1 || got[0].Number != 1 || got[0].Boot != a.boot || got[0].Node != testNode || got[0].Lines != 6 || !slices.Equal(got[0].Ranges, want) {
			t.Errorf("batches of %d: %+v", size, got)
		}
		if left, err := filepath.Glob(filepath.Join(d.dir, "sealing", "open", testNode, "*"+marksSuffix)); err != nil || len(left) != 0 {
			t.Errorf("batches of %d: %v stays, %v", size, left, err)
		}
	}
}

// TestManyRefusedRanges: a leaf names so many of them, and how many lines there are in all.
func TestManyRefusedRanges(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	lines := a.segment(t, 3*leaf.MaxRanges)
	for i := range lines {
		lines[i].Refused = i%2 == 0
	}
	d.take(lines...)
	got := d.refusals()
	if len(got) != 1 || len(got[0].Ranges) != leaf.MaxRanges || got[0].Lines != 3*leaf.MaxRanges/2 {
		t.Errorf("%+v", got)
	}
}

// TestNotesOfLinesThatNeverCame: what was noted before a crash of lines that were not written says nothing of them when they come.
func TestNotesOfLinesThatNeverCame(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	lines := a.segment(t, 4)
	d.take(lines[:2]...)
	path := filepath.Join(d.dir, "sealing", "open", testNode, a.boot+marksSuffix)
	if err := os.WriteFile(path, []byte("2 4\n9"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.open(nil)
	d.take(lines[2:]...)
	if got := d.refusals(); len(got) != 1 || got[0].Lines != 1 || got[0].Ranges[0] != (leaf.Range{First: 2, Last: 2}) {
		t.Errorf("%+v", got)
	}
}

// TestOldSealsAgain: seals of many hours that come again cost so many looks into files, and are no findings; another seal of an hour that was
// looked into is one.
func TestOldSealsAgain(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	var all []Line
	forger := *a
	for range maxLookups + 10 {
		part := a.segment(t, 1)
		all = append(all, part...)
		a.at = a.at.Add(3600e9)
	}
	d.take(all...)
	forger.key = a.key
	d.open(nil)
	again := append(slices.Clone(all), all...)
	if got := d.take(again...); got != (Taken{}) || len(d.findings) != 0 {
		t.Errorf("%+v, %+v", got, d.findings)
	}
	b := d.books[testNode]
	if len(b.hours) > maxHourSums || b.lookups <= maxLookups {
		t.Errorf("%d hours are remembered after %d lookups", len(b.hours), b.lookups)
	}
	forged := forger.segment(t, 2) // of the first hour
	if got := d.take(forged...); got.Refused != 1 || len(d.findings) != 1 {
		t.Errorf("%+v, %+v", got, d.findings)
	}
}
