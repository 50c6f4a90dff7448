package evidence

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
)

// keptBoots is how many boots of a node are remembered. Of older ones nothing new comes any more; what comes again is known by its hour's file.
const keptBoots = 16

// state is how far a node's segments are in their place. What a crash leaves is compared with it.
type state struct {
	Head  string            `json:"head,omitempty"` // hash of the newest seal's line
	Taken time.Time         `json:"taken,omitzero"` // when that came, by the server's clock
	Boots map[string]booted `json:"boots"`
	Files map[string]whole  `json:"files"` // by BOOT/HOUR.ndjson: those that are not packed
}

// booted is how far one boot is.
type booted struct {
	Number uint64    `json:"number"` // of the newest good seal
	Hash   string    `json:"hash"`   // of its line
	Last   uint64    `json:"last"`   // sequence number of the newest line that is in its place, or was refused
	At     time.Time `json:"at"`
}

// whole is how much of a file is whole segments.
type whole struct {
	Size int64     `json:"size"`
	At   time.Time `json:"at"` // when it grew
}

func (s state) clone() state {
	s.Boots, s.Files = maps.Clone(s.Boots), maps.Clone(s.Files)
	return s
}

// settle puts the segments that wait where they belong: a leaf in the Merkle log first, then the file, then the note that both are
// there. Who dies in between does the rest again: the log knows the leaf, and the file is cut back to what the note says.
func (b *book) settle(ctx context.Context) (t Taken, err error) {
	if len(b.ready) == 0 {
		return t, nil
	}
	next := b.state.clone()
	findings, good := b.judge(&next)
	if err := b.tell(ctx, good); err != nil {
		return t, err
	}
	b.s.cfg.step("told")
	if err := b.write(good, &next); err != nil {
		return t, err
	}
	b.s.cfg.step("written")
	for i := range findings {
		if err := b.keepAside(&findings[i]); err != nil {
			return t, err
		}
	}
	next.Taken = b.s.cfg.Now().UTC()
	forgetBoots(next.Boots, next.Head)
	if err := b.save(next); err != nil {
		return t, err
	}
	b.s.cfg.step("noted")
	t = Taken{Segments: len(good), Refused: len(b.ready) - len(good)}
	touched := map[*spool]bool{}
	for _, g := range b.ready {
		touched[g.sp] = true
	}
	b.ready = nil
	for i := range findings {
		b.found(findings[i].Finding)
	}
	b.s.segments.Add(uint64(t.Segments))
	b.s.refused.Add(uint64(t.Refused))
	for sp := range touched {
		if err := sp.empty(); err != nil {
			return t, fmt.Errorf("evidence: empty %s: %w", sp.path, err)
		}
	}
	b.s.cfg.step("emptied")
	return t, nil
}

// judged is a finding with its segment.
type judged struct {
	Finding
	g *segment
}

// judge decides what of the segments that wait is evidence. A segment that does not follow the one before is, and a finding too: to
// refuse it would lose all that comes after.
func (b *book) judge(next *state) (findings []judged, good []*segment) {
	now := b.s.cfg.Now().UTC()
	for _, g := range b.ready {
		at := next.Boots[g.sp.boot]
		at.Last, at.At = max(at.Last, g.tail.last), now
		f := Finding{Node: b.node, Boot: g.sp.boot, At: now}
		if g.seal != nil {
			f.Number = g.seal.Number
		}
		flaw := g.flaw
		if flaw == nil {
			flaw = g.complete()
			if why := follows(next.Head, at, g.seal); flaw == nil && why != "" && !declared(at, g.seal) {
				f.Reason, f.Kept = why, true
				findings = append(findings, judged{f, g})
			}
			at.Number, at.Hash, at.Last = g.seal.Number, seal.HashLine(g.line), g.seal.Last
			next.Head = at.Hash
		}
		if !g.sp.over {
			next.Boots[g.sp.boot] = at
		}
		if flaw != nil {
			f.Reason = flaw.Error()
			findings = append(findings, judged{f, g})
			continue
		}
		good = append(good, g)
	}
	return findings, good
}

// complete compares the lines that came with what the seal says of them.
func (g *segment) complete() error {
	t, s := &g.tail, g.seal
	switch {
	case s.Records != t.records:
		return fmt.Errorf("the seal is of %d lines, %d came", s.Records, t.records)
	case t.records > 0 && (s.First > t.first || s.Last < t.last):
		return fmt.Errorf("the seal is of the lines %d to %d, those that came are %d to %d", s.First, s.Last, t.first, t.last)
	case s.Hash != g.hash():
		return errors.New("the lines are not those that were sealed")
	}
	return nil
}

// follows tells why a seal does not follow what came before; "": it does.
func follows(head string, at booted, s *seal.Seal) string {
	switch {
	case s.Previous != head && head == "":
		return fmt.Sprintf("it is the first that came, and follows one that did not: the node sealed %d before in this boot", s.Number-1)
	case s.Previous != head:
		return fmt.Sprintf("it does not follow the segment before it (number %d of the boot)", at.Number)
	case s.Number != at.Number+1:
		return fmt.Sprintf("its number follows %d", at.Number)
	}
	return ""
}

// declared tells whether the seal itself says that the ones between are gone.
func declared(at booted, s *seal.Seal) bool {
	return slices.ContainsFunc(s.Declared, func(g seal.Gap) bool {
		if g.FirstSeal == 0 {
			return false
		}
		if g.Boot != "" && g.Boot != s.Boot { // of a boot before
			return s.Number == at.Number+1
		}
		return g.FirstSeal <= at.Number+1 && g.LastSeal+1 >= s.Number
	})
}

// tell appends a leaf for each.
func (b *book) tell(ctx context.Context, good []*segment) error {
	if len(good) == 0 {
		return nil
	}
	leaves := make([]leaf.Leaf, 0, len(good))
	for _, g := range good {
		leaves = append(leaves, leaf.OfSeal(b.s.cfg.Now(), g.seal, g.line))
		if l := b.refusedLeaf(g); l != nil {
			leaves = append(leaves, *l)
		}
	}
	if _, err := b.s.cfg.Log.AppendAll(ctx, leaves); err != nil {
		return fmt.Errorf("evidence: append to the Merkle log: %w", err)
	}
	return nil
}

// write appends segments to the files of their hours.
func (b *book) write(good []*segment, next *state) error {
	byFile := map[string][]*segment{}
	for _, g := range good {
		name := hourFile(g.sp.boot, g.seal.End)
		byFile[name] = append(byFile[name], g)
	}
	for _, name := range slices.Sorted(maps.Keys(byFile)) {
		delete(b.hours, name)
		size, err := b.append(name, next.Files[name].Size, byFile[name])
		if err != nil {
			return fmt.Errorf("evidence: write %s: %w", name, err)
		}
		next.Files[name] = whole{size, b.s.cfg.Now().UTC()}
	}
	return nil
}

// append writes segments behind the whole ones of a file, and returns its size.
func (b *book) append(name string, size int64, segments []*segment) (int64, error) {
	path := filepath.Join(b.segmentsDir(), name)
	fresh := false
	if _, known := b.state.Files[name]; !known {
		var err error
		if size, fresh, err = b.unpack(name); err != nil {
			return 0, err
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size = min(size, info.Size()) // less than was written: somebody else's work, which verification finds
	if err := f.Truncate(size); err != nil {
		return 0, err
	}
	if _, err := f.Seek(size, io.SeekStart); err != nil {
		return 0, err
	}
	before := size
	for _, g := range segments {
		n, err := io.Copy(f, io.NewSectionReader(g.sp.file, g.from, g.to-g.from))
		size += n
		if err != nil {
			return 0, errors.Join(err, f.Truncate(before))
		}
	}
	now := b.s.cfg.Now()
	if err := errors.Join(os.Chtimes(path, now, now), f.Sync()); err != nil { // how long it is kept counts from then
		return 0, errors.Join(err, f.Truncate(before))
	}
	if fresh {
		return size, syncDir(filepath.Dir(path))
	}
	return size, nil
}

// forgetBoots drops the oldest beyond keptBoots, but never that of the newest seal: after a step of the clock others may be dated later.
func forgetBoots(boots map[string]booted, head string) {
	names := slices.Collect(maps.Keys(boots))
	slices.SortFunc(names, func(a, b string) int {
		if newest := boots[a].Hash == head; newest != (boots[b].Hash == head) {
			if newest {
				return -1
			}
			return 1
		}
		return cmp.Or(boots[b].At.Compare(boots[a].At), cmp.Compare(a, b))
	})
	for _, name := range names[min(len(names), keptBoots):] {
		delete(boots, name)
	}
}

const stateSuffix = ".json"

func (b *book) load() error {
	b.state = state{Boots: map[string]booted{}, Files: map[string]whole{}}
	data, err := os.ReadFile(b.statePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, &b.state)
	}
	if err != nil {
		return fmt.Errorf("evidence: read %s (restore the data directory from a backup): %w", b.statePath(), err)
	}
	if b.state.Boots == nil || b.state.Files == nil {
		return fmt.Errorf("evidence: %s is damaged: restore the data directory from a backup", b.statePath())
	}
	if !b.state.Taken.IsZero() {
		b.taken.Store(b.state.Taken.UnixNano())
	}
	return nil
}

func (b *book) save(next state) error {
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := replaceFile(b.statePath(), data); err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	b.state = next
	b.taken.Store(next.Taken.UnixNano())
	return nil
}
