package verify

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/tiles"
)

const logDir = "log/"

// logState is the log as far as it was read.
type logState struct {
	tree   tiles.Range
	tiles  tiles.Tiles
	behind tiles.Range  // up to the newest checkpoint of a tick
	since  []tiles.Hash // leaves that are in tree and not in behind
	read   map[string]bool
	recent *leaf.Recent
	clock  clock
	absent []absent
}

// entry is a leaf as a bundle has it.
type entry struct {
	hash tiles.Hash
	leaf leaf.Leaf
	same [32]byte
	err  error
}

// readLog judges the log and takes what its leaves say. False: there is none.
func (v *verifier) readLog() bool {
	v.log = &logState{read: map[string]bool{}, recent: leaf.NewRecent(1 << 16)}
	data, err := v.file(logDir + tiles.Checkpoint)
	if err != nil {
		v.logBad(logDir+tiles.Checkpoint, "cannot be read: %s; without it nothing here is proven", reason(err))
		return false
	}
	c, err := tiles.ParseSigned(data)
	if err != nil {
		v.logBad(logDir+tiles.Checkpoint, "%s", err)
		return false
	}
	v.report.Origin, v.report.Size, v.report.Root = c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:])
	by, bad := v.signatures(c)
	for _, what := range bad {
		v.logBad(logDir+tiles.Checkpoint, "%s", what)
	}
	for _, w := range v.keys.Witnesses {
		at, has := by[w.Name()]
		if !has {
			v.logBad(logDir+tiles.Checkpoint, "the witness %s has not cosigned", w.Name())
		}
		v.report.Witnesses = append(v.report.Witnesses, Cosigned{Name: w.Name(), At: at})
	}
	whole := true
	for path, n := range tiles.Bundles(c.Size) {
		have, ok := v.bundle(path, n)
		whole = whole && ok
		if !have { // what is behind it has no place in the tree, and a size that is made up would never end
			break
		}
	}
	for _, t := range v.log.tiles.Partial() {
		v.tile(t)
	}
	if root := v.log.tree.Root(); whole && (v.log.tree.Size != c.Size || root != c.Root) {
		v.logBad(logDir+tiles.Checkpoint, "signed is the root %s of %d leaves, the entries here have the root %s", v.report.Root, c.Size,
			base64.StdEncoding.EncodeToString(root[:]))
	}
	v.log.clock.end(v)
	v.extent()
	v.missedEvents()
	v.judgeKeys()
	v.chains()
	return true
}

// signatures judges all signatures under a checkpoint. by has the time of each witness that signed.
func (v *verifier) signatures(c *tiles.Signed) (by map[string]time.Time, bad []string) {
	by = map[string]time.Time{}
	log := false
	if name := v.keys.Logs[0].Name(); c.Origin != name {
		bad = append(bad, fmt.Sprintf("is of the log %q, the key is that of %q", c.Origin, name))
	}
	find := func(all []note.Verifier, s tiles.By) note.Verifier {
		for _, k := range all {
			if k.Name() == s.Name && k.KeyHash() == s.KeyHash {
				return k
			}
		}
		return nil
	}
	for _, s := range c.By {
		key, witness := find(v.keys.Logs, s), false
		if key == nil {
			key, witness = find(v.keys.Witnesses, s), true
		}
		switch {
		case key == nil:
			bad = append(bad, fmt.Sprintf("has a signature of %s, whose key %08x is not among those given", s.Name, s.KeyHash))
		case !v.signed(key, c.Text, s.Signature):
			bad = append(bad, fmt.Sprintf("the signature of %s does not fit", s.Name))
		case witness && len(s.Signature) > 8:
			by[s.Name] = time.Unix(int64(binary.BigEndian.Uint64(s.Signature)), 0).UTC()
		default:
			log = true
		}
	}
	if !log {
		bad = append(bad, "is not signed by the log")
	}
	return by, bad
}

// bundle reads n entries. have: the file is there; ok: it has what it is to have.
func (v *verifier) bundle(path string, n int) (have, ok bool) {
	data, err := v.part(path, n)
	if err != nil {
		v.logBad(logDir+path, "cannot be read: %s", reason(err))
		return false, false
	}
	type parsed struct {
		entries []entry
		err     error
	}
	p := remember(v.o.memo, func() parsed {
		raw, err := tiles.ParseBundle(data, n)
		p := parsed{make([]entry, len(raw)), err}
		for i, b := range raw {
			e := entry{hash: tiles.LeafHash(b)}
			e.leaf, e.err = leaf.Decode(b)
			if e.err == nil {
				e.same, e.err = e.leaf.Same()
			}
			p.entries[i] = e
		}
		return p
	}, []byte("bundle"), []byte{byte(n), byte(n >> 8)}, data)
	for i := range p.entries {
		e := &p.entries[i]
		index := v.log.tree.Size
		v.log.tree.Append(e.hash)
		v.reached()
		v.log.since = append(v.log.since, e.hash)
		v.log.tiles.Append(e.hash, v.tile)
		v.take(index, e)
	}
	if p.err != nil {
		v.logBad(logDir+path, "%s", p.err)
	}
	return true, p.err == nil
}

// part reads a bundle of n entries. Where the log has grown since the checkpoint, the full one may have taken its place.
func (v *verifier) part(path string, n int) ([]byte, error) {
	data, err := v.file(logDir + path)
	if n == tiles.Width || !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	full, errFull := v.file(logDir + path[:len(path)-len(fmt.Sprintf(".p/%d", n))])
	if errFull != nil {
		return nil, err
	}
	entries, errFull := tiles.ParseBundle(full, tiles.Width)
	if errFull != nil {
		return nil, errFull
	}
	for _, e := range entries[:n] {
		data = tiles.AppendEntry(data, e)
	}
	return data, nil
}

// tile compares a tile's file with what the entries make of it.
func (v *verifier) tile(t tiles.Tile) {
	want := t.Bytes()
	have, err := v.file(logDir + t.Path())
	if len(t.Hashes) < tiles.Width && errors.Is(err, fs.ErrNotExist) {
		full := t
		full.Hashes = make([]tiles.Hash, tiles.Width)
		if have, errFull := v.file(logDir + full.Path()); errFull == nil && len(have) == tiles.Width*len(want)/len(t.Hashes) &&
			bytes.Equal(have[:len(want)], want) {
			return
		}
	}
	if err != nil {
		v.logBad(logDir+t.Path(), "cannot be read: %s", reason(err))
		return
	}
	if bytes.Equal(have, want) {
		return
	}
	what := "is longer or shorter than its hashes"
	for i := 0; i+len(tiles.Hash{}) <= min(len(have), len(want)); i += len(tiles.Hash{}) {
		if !bytes.Equal(have[i:i+len(tiles.Hash{})], want[i:i+len(tiles.Hash{})]) {
			first := t.Index*tiles.Width + uint64(i/len(tiles.Hash{}))
			for range t.Level {
				first *= tiles.Width
			}
			what = fmt.Sprintf("and the entries differ from leaf %d on", first)
			break
		}
	}
	v.logBad(logDir+t.Path(), "%s", what)
}

// file reads a file of the directory and notes that it was.
func (v *verifier) file(path string) ([]byte, error) {
	v.log.read[path] = true
	if err := v.regular(path); err != nil {
		return nil, err
	}
	return fs.ReadFile(v.fsys, path)
}

// errIrregular is of what could keep a reader waiting for ever, as a named pipe.
var errIrregular = errors.New("is no regular file")

// regular tells whether a path is one of a regular file, or of a link to one.
func (v *verifier) regular(path string) error {
	info, err := fs.Stat(v.fsys, path)
	if err == nil && !info.Mode().IsRegular() {
		err = errIrregular
	}
	return err
}

// reason is why a file cannot be read, without its path, which is said already.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// reach brings the tree behind to a size and returns its root there; false: it is past it.
func (l *logState) reach(size uint64) (tiles.Hash, bool) {
	if size < l.behind.Size || size > l.tree.Size {
		return tiles.Hash{}, false
	}
	n := size - l.behind.Size
	for _, h := range l.since[:n] {
		l.behind.Append(h)
	}
	l.since = l.since[n:]
	return l.behind.Root(), true
}
