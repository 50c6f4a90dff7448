package verify

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/tiles"
)

// wantFinding demands that a directory is refused for a reason; "" that it is not.
func wantFinding(t *testing.T, r *Report, want string) {
	t.Helper()
	if want == "" {
		if !r.OK {
			t.Errorf("refused: %s", transcript(t, r))
		}
		return
	}
	for _, f := range r.Findings {
		if strings.Contains(f.String(), want) {
			return
		}
	}
	t.Errorf("no finding %q: %s", want, transcript(t, r))
}

// cutOff returns the evidence of a minute ago, which holds in itself, and that of now, with its newest checkpoint.
func cutOff(t *testing.T) (w *world, old, now fstest.MapFS) {
	t.Helper()
	w = honest(t)
	old = w.dir()
	w.live(12)
	return w, old, w.dir()
}

func TestALogThatIsCutOff(t *testing.T) {
	w, old, now := cutOff(t)
	r := Run(old, w.keys, Options{})
	wantFinding(t, r, "")
	if text := transcript(t, r); !strings.Contains(text, "ends at 2026-03-01T13:01:") || !strings.Contains(text, notBeyond) {
		t.Errorf("the transcript does not say where it ends: %s", text)
	}
	kept := string(now[logDir+tiles.Checkpoint].Data)
	before := string(old[logDir+tiles.Checkpoint].Data)
	for name, c := range map[string]struct {
		dir  fs.FS
		o    Options
		want string
	}{
		"as of now":                    {now, Options{AsOf: w.now}, ""},
		"as of now, cut off":           {old, Options{AsOf: w.now}, "(as-of): what came then was cut off"},
		"a checkpoint that was kept":   {now, Options{Checkpoint: before}, ""},
		"the newest":                   {now, Options{Checkpoint: kept}, ""},
		"a kept checkpoint, cut off":   {old, Options{Checkpoint: kept}, "what came then was cut off"},
		"a checkpoint without a form":  {now, Options{Checkpoint: "mesh\n"}, checkpointFlag},
		"a checkpoint that was edited": {now, Options{Checkpoint: edited(before)}, "no signature that fits"},
		"until what was cut off":       {old, Options{Until: w.now}, "it cannot tell"},
		"since what was cut off":       {old, Options{Since: w.now}, "it cannot tell"},
	} {
		t.Run(name, func(t *testing.T) { wantFinding(t, Run(c.dir, w.keys, c.o), c.want) })
	}
	other := newWorld(t, true)
	other.audit(5)
	twin := string(other.dir()[logDir+tiles.Checkpoint].Data)
	wantFinding(t, Run(now, w.keys, Options{Checkpoint: twin}), "two logs under one key")
}

// TestWhatWitnessesCosigned: a log that ends before what a witness cosigned is cut off, and only a witness whose key is known counts.
func TestWhatWitnessesCosigned(t *testing.T) {
	w, old, now := cutOff(t)
	first, second := string(old[logDir+tiles.Checkpoint].Data), string(now[logDir+tiles.Checkpoint].Data)
	text, rest, _ := strings.Cut(second, "\n\n")
	bare := text + "\n\n" + strings.SplitAfter(rest, "\n")[0] // by the log alone
	for name, c := range map[string]struct {
		dir  fs.FS
		kept []string
		want string
	}{
		"as far as one":             {now, []string{first}, ""},
		"as far as both":            {now, []string{first, second}, ""},
		"cut off":                   {old, []string{first, second}, "or this copy was made before then"},
		"nothing a witness signed":  {now, []string{first, bare}, "no signature that fits of a witness"},
		"nothing that is signed":    {now, []string{edited(second)}, "no signature that fits of a witness"},
		"no checkpoint":             {now, []string{"x"}, "W1"},
		"of a witness nobody knows": {now, []string{strings.ReplaceAll(second, witnessName, "other.example")}, "no signature that fits of a witness"},
	} {
		t.Run(name, func(t *testing.T) {
			var o Options
			for i, text := range c.kept {
				o.Kept = append(o.Kept, Kept{From: fmt.Sprint("W", i+1), Text: text, Witnessed: true})
			}
			r := Run(c.dir, w.keys, o)
			wantFinding(t, r, c.want)
			if c.want == "" && strings.Count(r.Beyond, "that "+witnessName+" cosigned at") != len(c.kept) {
				t.Errorf("%q", r.Beyond)
			}
		})
	}
	for text, want := range map[string]int{"": 0, "\n\n": 0, first: 1, first + second: 2, first + "\n" + second + "\n\n": 2, "x\n": 1, bare + bare + "x": 3} {
		if all := SplitCheckpoints(text); len(all) != want {
			t.Errorf("%q has %d, want %d", text, len(all), want)
		}
	}
	for i, one := range SplitCheckpoints("\n" + first + "\n" + second) {
		if want := []string{first, second}[i]; one != want {
			t.Errorf("%q is read as %q", want, one)
		}
	}
}

// edited is a checkpoint with another root.
func edited(text string) string {
	lines := strings.SplitN(text, "\n", 4)
	lines[2] = base64.StdEncoding.EncodeToString(make([]byte, len(tiles.Hash{})))
	return strings.Join(lines, "\n")
}

// TestASizeThatIsMadeUp: neither digits that were edited, nor ones that are signed, keep the verifier busy.
func TestASizeThatIsMadeUp(t *testing.T) {
	w := honest(t)
	for _, size := range []string{"9999999999999999999", "18446744073709551615"} {
		dir := w.dir()
		lines := strings.SplitN(string(dir[logDir+tiles.Checkpoint].Data), "\n", 4)
		lines[1] = size
		text, err := note.Sign(&note.Note{Text: strings.Join(lines[:3], "\n") + "\n"}, signerOf(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range []string{strings.Join(lines, "\n"), string(text)} {
			dir[logDir+tiles.Checkpoint] = &fstest.MapFile{Data: []byte(data)}
			r := Run(dir, w.keys, Options{AuditOnly: true})
			wantFinding(t, r, "cannot be read")
			if n := len(r.Findings) + r.More; n > 10 {
				t.Errorf("size %s: %d findings", size, n)
			}
		}
	}
}

func TestOnlyRegularFilesAreRead(t *testing.T) {
	w := honest(t)
	for _, path := range []string{"segments/i-a/boot-1/2026-03-01T14.ndjson", logDir + tiles.Checkpoint, manifestName} {
		dir := w.dir()
		dir[path] = &fstest.MapFile{Mode: fs.ModeNamedPipe | 0o644}
		wantFinding(t, Run(dir, w.keys, Options{}), errIrregular.Error())
	}
}

func TestMoreThanTheCopyHas(t *testing.T) {
	w := part(t, honest(t))
	hour := w.now.Truncate(time.Hour)
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"what it has":    {Options{Since: hour.Add(-time.Hour), Until: hour, Node: "i-a"}, ""},
		"an hour before": {Options{Since: hour.Add(-2 * time.Hour)}, "asked for was more"},
		"an hour after":  {Options{Until: hour.Add(time.Minute)}, "asked for was more"},
		"another node":   {Options{Node: "i-c"}, "has nothing of node i-c"},
	} {
		t.Run(name, func(t *testing.T) { wantFinding(t, Run(w.dir(), w.keys, c.o), c.want) })
	}
	want := "VERIFIED: the log, and the records of only i-a, i-b from 2026-03-01T12:00:00Z to 2026-03-01T13:00:00Z."
	if text := transcript(t, Run(w.dir(), w.keys, Options{})); !strings.Contains(text, want) {
		t.Errorf("no %q in %s", want, text)
	}
}

// TestADisposalIsOfWhatWas: what is sealed after a disposal is not excused by it, and it is named with its reason.
func TestADisposalIsOfWhatWas(t *testing.T) {
	w := honest(t)
	s := w.nodes[1]
	dispose := func(last uint64, line string) {
		w.append(leaf.Leaf{Type: leaf.TypeDisposal, Disposal: &leaf.Disposal{ID: fmt.Sprint("d-", last), Class: "segments", By: "system",
			Reason: "kept until today", Runs: []leaf.Run{{Node: s.id, Boot: s.boot, First: s.number, Last: last, Line: line}}}})
	}
	s.unkept = true
	s.seal(false)
	dispose(s.number, s.previous)
	r := Run(w.dir(), w.keys, Options{})
	wantFinding(t, r, "")
	if text := transcript(t, r); !strings.Contains(text, `segments, by system at`) || !strings.Contains(text, `"kept until today"`) {
		t.Errorf("the disposal is not told: %s", text)
	}
	dispose(1<<62, s.previous)
	s.unkept = true
	s.seal(false)
	r = Run(w.dir(), w.keys, Options{})
	wantFinding(t, r, "no leaf before is the seal that it names")
	wantFinding(t, r, "is in the log and not here")
}

func TestKeysOfNodesAreTold(t *testing.T) {
	w := honest(t)
	w.append(leaf.OfNodeKey(w.now, "i-a", public(9)))
	r := Run(w.dir(), w.keys, Options{})
	wantFinding(t, r, "another key than leaf")
	if len(r.Keys) != 3 || r.Keys[1].Node != "i-a" || r.Keys[1].Leaf <= r.Keys[0].Leaf || !strings.Contains(transcript(t, r), r.Keys[1].ID) {
		t.Errorf("keys: %+v\n%s", r.Keys, transcript(t, r))
	}
}

// TestOtherNodesAreNotJudged: what is wrong with a node is no finding for who asks for another.
func TestOtherNodesAreNotJudged(t *testing.T) {
	w := honest(t)
	s := w.nodes[0]
	s.unlogged, s.unkept = true, true
	s.seal(false)
	s.seal(false)
	wantFinding(t, Run(w.dir(), w.keys, Options{Node: "i-a"}), "the one before has")
	r := Run(w.dir(), w.keys, Options{Node: "i-b"})
	wantFinding(t, r, "")
	if !strings.Contains(transcript(t, r), "findings are of nodes other than i-b") {
		t.Errorf("nothing is said of the others: %s", transcript(t, r))
	}
}
