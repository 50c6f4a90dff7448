package verify

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/audit/tiles"
	"github.com/culvert-net/culvert/internal/randomly"
)

// mutations is how many random edits are tried.
const mutations = 10400

// editor changes directories at random.
type editor struct {
	*rand.Rand
	t     *testing.T
	names []string
	dir   fstest.MapFS // of this edit: files are copied before they are changed
}

func (e *editor) pick() (string, []byte) {
	name := e.names[e.IntN(len(e.names))]
	return name, bytes.Clone(e.dir[name].Data)
}

func (e *editor) put(name string, b []byte) { e.dir[name] = &fstest.MapFile{Data: b} }

// bytesOf changes a file's bytes in one of the small ways.
func (e *editor) bytesOf(b []byte) ([]byte, string) {
	if len(b) == 0 {
		return []byte{byte(e.Uint32())}, "a byte in an empty file"
	}
	i, j := e.IntN(len(b)), e.IntN(len(b))
	switch e.IntN(7) {
	case 0:
		b[i] ^= 1 << e.IntN(8)
		return b, fmt.Sprintf("a bit of byte %d", i)
	case 1:
		b[i] = byte(e.Uint32())
		return b, fmt.Sprintf("byte %d", i)
	case 2:
		return slices.Delete(b, i, i+1), fmt.Sprintf("without byte %d", i)
	case 3:
		return slices.Insert(b, i, byte(e.Uint32())), fmt.Sprintf("a byte before %d", i)
	case 4:
		return b[:i], fmt.Sprintf("cut off at %d", i)
	case 5:
		return append(b, b[min(i, j):max(i, j)]...), fmt.Sprintf("bytes %d to %d again at the end", min(i, j), max(i, j))
	}
	b[i], b[j] = b[j], b[i]
	return b, fmt.Sprintf("bytes %d and %d changed places", i, j)
}

// linesOf changes lines, or segments: lines up to a seal.
func (e *editor) linesOf(b []byte) ([]byte, string) {
	parts := bytes.SplitAfter(b, []byte("\n"))
	parts = parts[:len(parts)-1]
	what := "line"
	if e.IntN(2) == 0 {
		what = "segment"
		var segments [][]byte
		var one []byte
		for _, l := range parts {
			one = append(one, l...)
			if _, is, _ := seal.Parse(l); is {
				segments, one = append(segments, one), nil
			}
		}
		parts = segments
	}
	i, j := e.IntN(len(parts)), e.IntN(len(parts))
	switch e.IntN(4) {
	case 0:
		return bytes.Join(slices.Delete(parts, i, i+1), nil), fmt.Sprintf("without %s %d", what, i)
	case 1:
		return bytes.Join(slices.Insert(parts, j, parts[i]), nil), fmt.Sprintf("%s %d again before %d", what, i, j)
	case 2:
		parts[i], parts[j] = parts[j], parts[i]
		return bytes.Join(parts, nil), fmt.Sprintf("%ss %d and %d changed places", what, i, j)
	}
	return bytes.Join(parts[:i], nil), fmt.Sprintf("cut off before %s %d", what, i)
}

// entriesOf changes the entries of a bundle, which stays one.
func (e *editor) entriesOf(b []byte, n int) ([]byte, string) {
	entries, err := tiles.ParseBundle(b, n)
	if err != nil {
		e.t.Fatal(err)
	}
	i, j := e.IntN(n), e.IntN(n)
	what := fmt.Sprintf("entries %d and %d changed places", i, j)
	if e.IntN(2) == 0 {
		var how string
		entries[i], how = e.bytesOf(bytes.Clone(entries[i]))
		what = fmt.Sprintf("entry %d, %s", i, how)
	} else {
		entries[i], entries[j] = entries[j], entries[i]
	}
	var out []byte
	for _, x := range entries {
		out = tiles.AppendEntry(out, x)
	}
	return out, what
}

// edit does one thing and says what.
func (e *editor) edit() string {
	name, b := e.pick()
	switch n := e.IntN(16); {
	case n == 0:
		delete(e.dir, name)
		return name + " is gone"
	case n == 1:
		other, c := e.pick()
		e.put(name, c)
		e.put(other, b)
		return name + " and " + other + " changed places"
	case n == 2:
		other, c := e.pick()
		e.put(name, c)
		return name + " is another copy of " + other
	case n == 3: // a file more, where files prove something
		for !strings.HasPrefix(name, segmentsDir) && !strings.HasPrefix(name, deliveriesDir) {
			name, b = e.pick()
		}
		more := strings.Replace(name, "2026-03-01T1", "2026-03-01T0", 1)
		if e.IntN(2) == 0 {
			more = name + "." + strconv.Itoa(e.IntN(9))
		}
		e.put(more, b)
		return more + " is a copy of " + name
	case n < 10 && strings.HasSuffix(name, plainSuffix):
		c, what := e.linesOf(b)
		e.put(name, c)
		return name + ": " + what
	case n < 10 && strings.HasSuffix(name, packedSuffix):
		plain := unpack(e.t, b)
		change := e.linesOf
		if n < 7 {
			change = e.bytesOf
		}
		c, what := change(plain)
		e.put(name, pack(e.t, c))
		return name + ", in its content: " + what
	case n < 10 && strings.HasPrefix(name, logDir+"tile/entries/"):
		width := tiles.Width
		if _, w, partial := strings.Cut(name, ".p/"); partial {
			width, _ = strconv.Atoi(w)
		}
		c, what := e.entriesOf(b, width)
		e.put(name, c)
		return name + ": " + what
	}
	c, what := e.bytesOf(b)
	e.put(name, c)
	return name + ": " + what
}

func unpack(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// same tells whether two directories have the same files.
func same(a, b fstest.MapFS) bool {
	return maps.EqualFunc(a, b, func(x, y *fstest.MapFile) bool { return bytes.Equal(x.Data, y.Data) })
}

// harmless tells whether directories differ in nothing but how the same content is compressed: gzip has bits that nothing reads.
func harmless(a, b fstest.MapFS) bool {
	return maps.EqualFunc(a, b, func(x, y *fstest.MapFile) bool {
		if bytes.Equal(x.Data, y.Data) {
			return true
		}
		z, err := gzip.NewReader(bytes.NewReader(y.Data))
		if err != nil || len(x.Data) != len(y.Data) {
			return false
		}
		before, _ := gzip.NewReader(bytes.NewReader(x.Data))
		have, err := io.ReadAll(z)
		want, errBefore := io.ReadAll(before)
		return err == nil && errBefore == nil && bytes.Equal(have, want)
	})
}

// ofTheLog tells whether a file of the log is another one in b, or not there.
func ofTheLog(a, b fstest.MapFS) bool {
	for name, f := range a {
		if strings.HasPrefix(name, logDir) && (b[name] == nil || !bytes.Equal(f.Data, b[name].Data)) {
			return true
		}
	}
	return false
}

// Whatever is done to a directory of evidence is found: of a whole one, and of a part of one; and what is done to the log, in which the audit
// events are, by who verifies these alone. CULVERT_SEED replays.
func TestEveryEditIsFound(t *testing.T) {
	seed := randomly.Seed(t)
	whole := honest(t)
	for name, dir := range map[string]fstest.MapFS{"whole": whole.dir(), "part": part(t, honest(t)).dir()} {
		memo := &memo{known: map[[32]byte]any{}}
		if r := Run(dir, whole.keys, Options{memo: memo}); !r.OK {
			t.Fatalf("%s: %s", name, transcript(t, r))
		}
		e := &editor{Rand: rand.New(rand.NewPCG(seed, 1)), t: t, names: slices.Sorted(maps.Keys(dir))}
		alike, kinds := 0, map[string]int{}
		for i := range mutations / 2 {
			var what string
			for {
				e.dir = maps.Clone(dir)
				if what = e.edit(); !same(e.dir, dir) {
					break
				}
			}
			kinds[strings.FieldsFunc(what, func(r rune) bool { return strings.ContainsRune("/: ", r) })[0]]++
			if ofTheLog(dir, e.dir) && Run(e.dir, whole.keys, Options{AuditOnly: true, memo: memo}).OK {
				t.Fatalf("%s, edit %d is not found by who verifies the audit log alone: %s", name, i, what)
			}
			if r := Run(e.dir, whole.keys, Options{memo: memo}); !r.OK {
				continue
			}
			if !harmless(dir, e.dir) {
				t.Fatalf("%s, edit %d is not found: %s", name, i, what)
			}
			alike++
		}
		t.Logf("%s: %d edits, of which %d changed how the same content is compressed; %v", name, mutations/2, alike, kinds)
		if alike > mutations/200 || kinds["log"] < mutations/20 || kinds["segments"] < mutations/20 || kinds["deliveries"] < mutations/200 {
			t.Errorf("%s: edits of one sort are too few or too many: %d alike, %v", name, alike, kinds)
		}
	}
}
