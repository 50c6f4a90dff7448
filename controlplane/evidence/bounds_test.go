package evidence

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/audit/seal"
)

// A seal that the Merkle log could not hold is refused like any that does not check: nothing waits behind it, and the server starts.
func TestSealsThatFitNoLeaf(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	d.take(a.segment(t, 2)...)
	big := a.seal(t, func(s *seal.Seal) {
		s.Declared = []seal.Gap{{Cause: strings.Repeat("x", 70000), FirstSeal: 9, LastSeal: 9}}
	})
	if got := d.take(big); got != (Taken{Refused: 1}) {
		t.Errorf("%+v", got)
	}
	if len(d.findings) != 1 || d.findings[0].Kept {
		t.Errorf("%+v", d.findings)
	}
	d.open(nil)
	if got := d.take(a.segment(t, 1)...); got != (Taken{Segments: 1}) {
		t.Errorf("%+v", got)
	}
}

// What cannot be settled at the start is in nobody's way, and is with the next that comes.
func TestStartWithoutTheMerkleLog(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	d.tree.Fail(errors.New("no room"))
	one := a.segment(t, 2)
	if _, err := d.Take(context.Background(), testNode, one); err == nil {
		t.Fatal("taken without a leaf")
	}
	d.open(nil)
	d.tree.Fail(nil)
	two := a.segment(t, 1)
	if got := d.take(two...); got != (Taken{Segments: 2}) {
		t.Errorf("%+v", got)
	}
	d.want(firstHour, text(append(one, two...)...))
}

// A boot's name costs a node nothing: lines of many boots without seals take neither descriptors nor space for ever.
func TestBootsThatAreNeverSealed(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	spools := func() int {
		files, err := filepath.Glob(filepath.Join(d.dir, "sealing", "open", testNode, "*"+suffix))
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	descriptors := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	before := descriptors()
	var lines []Line
	for i := range 300 {
		lines = append(lines, Line{Boot: fmt.Sprintf("b-%d", i), Seq: 1, Data: []byte(`{"sequence":1}`)})
	}
	d.take(lines...)
	if n, fds := spools(), descriptors()-before; n > maxSpools || fds > 2*maxSpools {
		t.Errorf("%d files, %d descriptors", n, fds)
	}
	if len(d.findings) != 300-maxSpools {
		t.Errorf("%d findings", len(d.findings))
	}
	d.open(nil)
	if n := len(d.books[testNode].spools); n > maxSpools {
		t.Errorf("%d spools after a start", n)
	}
	if got := d.take(a.segment(t, 2)...); got != (Taken{Segments: 1}) {
		t.Errorf("%+v", got)
	}
}

// How long a file is kept counts from when its segments came: the hour is the node's word.
func TestWhenSegmentsCameIsKept(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	a.at = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	d.take(a.segment(t, 2)...)
	came := d.now
	for range 2 { // as it is, and packed
		snap, err := d.Snapshot(context.Background(), time.Time{}, noon, d.tree.Size)
		if err != nil || len(snap.Files) != 1 || len(snap.Waiting) > 0 {
			t.Fatal(snap, err)
		}
		if got := snap.Files[0].Taken; !got.Equal(came) {
			t.Errorf("came at %v, want %v", got, came)
		}
		d.now = d.now.Add(2 * restsFor)
		if err := d.Pack(); err != nil {
			t.Fatal(err)
		}
	}
}

// A node that was away long sends many boots at once.
func TestManyBootsAtOnce(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	var lines []Line
	for i := range 3 * maxSpools {
		a.reboot(fmt.Sprintf("b-%d", i))
		lines = append(lines, a.segment(t, 2)...)
	}
	if got := d.take(lines...); got != (Taken{Segments: 3 * maxSpools}) || len(d.findings) > 0 {
		t.Errorf("%+v, %v", got, d.findings)
	}
	if n := len(d.books[testNode].spools); n > maxSpools {
		t.Errorf("%d spools", n)
	}
}

// TestABootThatIsLongOver: a node that lost its cursor sends again what it has; of boots that are not remembered any more it is known, too, and
// what they never sealed is not taken.
func TestABootThatIsLongOver(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	first := a.segment(t, 3)
	d.take(first...)
	forger := *a
	for i := range keptBoots + 1 {
		d.now = d.now.Add(time.Second)
		a.reboot(fmt.Sprintf("later-%d", i))
		d.take(a.segment(t, 1)...)
	}
	d.open(nil)
	before, leaves := d.files(), len(d.seals())
	if got := d.take(first...); got != (Taken{}) || len(d.findings) != 0 {
		t.Errorf("sent again: %+v, %+v", got, d.findings)
	}
	if got := d.take(forger.segment(t, 1)...); got != (Taken{Refused: 1}) || len(d.findings) != 1 || d.findings[0].Kept {
		t.Errorf("more of it: %+v, %+v", got, d.findings)
	}
	if !maps.Equal(d.files(), before) || len(d.seals()) != leaves {
		t.Errorf("something was kept twice: %v", d.seals())
	}
	if got := d.take(a.segment(t, 1)...); got != (Taken{Segments: 1}) || len(d.findings) != 1 {
		t.Errorf("the newest boot goes on: %+v, %+v", got, d.findings)
	}
}

// TestTheNewestBootIsRemembered: after the server's clock was set back, boots that are over are dated later than the one that runs.
func TestTheNewestBootIsRemembered(t *testing.T) {
	a := newAuthor(1)
	d := newDesk(t, a)
	for i := range keptBoots {
		a.reboot(fmt.Sprintf("before-%d", i))
		d.take(a.segment(t, 1)...)
	}
	d.now = d.now.Add(-time.Hour)
	a.reboot("now")
	d.take(a.segment(t, 1)...)
	d.open(nil)
	if got := d.take(a.segment(t, 1)...); got != (Taken{Segments: 1}) || len(d.findings) != 0 {
		t.Errorf("%+v, %+v", got, d.findings)
	}
}
