package evidence

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-net/culvert/audit/leaf"
)

// marksSuffix is of the file beside a spool that says which of its lines the server did not take: a line each of it, FIRST LAST.
const marksSuffix = ".refused"

// refused are ranges of the sequences of lines, in the order in which they came.
type refused []leaf.Range

// add takes one more, later than those that are there.
func (r refused) add(seq uint64) refused {
	if n := len(r); n > 0 && r[n-1].Last+1 == seq {
		r[n-1].Last = seq
		return r
	}
	return append(r, leaf.Range{First: seq, Last: seq})
}

// has tells whether a sequence is in sorted ranges.
func (r refused) has(seq uint64) bool {
	_, found := slices.BinarySearchFunc(r, seq, func(x leaf.Range, seq uint64) int {
		switch {
		case x.Last < seq:
			return -1
		case x.First > seq:
			return 1
		}
		return 0
	})
	return found
}

func (r refused) text() []byte {
	var b bytes.Buffer
	for _, x := range r {
		fmt.Fprintf(&b, "%d %d\n", x.First, x.Last)
	}
	return b.Bytes()
}

func (sp *spool) marksPath() string { return strings.TrimSuffix(sp.path, suffix) + marksSuffix }

// mark writes ranges behind those that are noted, on the disk before the lines are.
func (sp *spool) mark(more refused) error {
	if len(more) == 0 {
		return nil
	}
	f, err := os.OpenFile(sp.marksPath(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	text := more.text()
	_, err = f.WriteAt(text, sp.marks)
	if err == nil {
		err = errors.Join(f.Truncate(sp.marks+int64(len(text))), f.Sync())
	}
	if err != nil {
		err = errors.Join(err, f.Truncate(sp.marks))
	}
	if err = errors.Join(err, f.Close()); err == nil && sp.marks == 0 {
		err = syncDir(filepath.Dir(sp.path))
	}
	if err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	return nil
}

// unmark takes back what was noted of lines that could not be written.
func (sp *spool) unmark() error {
	if err := os.Truncate(sp.marksPath(), sp.marks); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// remark makes ranges all that is noted.
func (sp *spool) remark(all refused) error {
	if len(all) == 0 {
		sp.marks = 0
		if err := os.Remove(sp.marksPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	text := all.text()
	if err := replaceFile(sp.marksPath(), text); err != nil {
		return err
	}
	sp.marks = int64(len(text))
	return nil
}

// marked reads what is noted, sorted. What a crash cut short was of lines that are not there.
func (sp *spool) marked() (all refused, err error) {
	data, err := os.ReadFile(sp.marksPath())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		first, last, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		a, errA := strconv.ParseUint(first, 10, 64)
		b, errB := strconv.ParseUint(last, 10, 64)
		if !ok || errA != nil || errB != nil || b < a || !strings.HasSuffix(line, "\n") {
			break
		}
		all = append(all, leaf.Range{First: a, Last: b})
	}
	slices.SortFunc(all, func(a, b leaf.Range) int { return cmp.Compare(a.First, b.First) })
	return all, nil
}

// refusedLeaf says which lines of a segment the server did not take; nil: it took all.
func (b *book) refusedLeaf(g *segment) *leaf.Leaf {
	if len(g.tail.refused) == 0 {
		return nil
	}
	r := leaf.Refused{Node: b.node, Boot: g.sp.boot, Number: g.seal.Number}
	for _, x := range g.tail.refused {
		r.Lines += x.Last - x.First + 1
	}
	r.Ranges = g.tail.refused[:min(len(g.tail.refused), leaf.MaxRanges)]
	return &leaf.Leaf{Type: leaf.TypeRefused, At: b.s.cfg.Now().UTC(), Refused: &r}
}
