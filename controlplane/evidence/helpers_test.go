package evidence

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/audit/treelog"
)

const testNode = "node-00000000000000001"

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// author writes as a node does.
type author struct {
	key      ed25519.PrivateKey
	node     string
	boot     string
	seq      uint64
	number   uint64
	previous string
	open     [][]byte // since the last seal
	first    uint64
	at       time.Time
}

func newAuthor(seed byte) *author {
	return &author{key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32)), node: testNode, boot: "boot-1", at: noon}
}

func (a *author) record() Line {
	a.seq++
	if len(a.open) == 0 {
		a.first = a.seq
	}
	data := fmt.Appendf(nil, `{"node":"%s","boot":"%s","sequence":%d,"accountId":"111111111111","reason":"a&b<c>"}`, a.node, a.boot, a.seq)
	if a.seq%3 == 0 {
		data = fmt.Appendf(nil, `{"query":{"node":"%s","boot":"%s","sequence":%d}}`, a.node, a.boot, a.seq)
	}
	a.open = append(a.open, data)
	return Line{Boot: a.boot, Seq: a.seq, Data: data}
}

// seal closes what is open; change may spoil it before it is signed.
func (a *author) seal(t testing.TB, change func(*seal.Seal)) Line {
	t.Helper()
	a.number++
	start := a.at
	a.at = a.at.Add(10 * time.Second)
	s := &seal.Seal{Version: seal.Version, Node: a.node, Boot: a.boot, Number: a.number, First: a.seq + 1, Last: a.seq, Records: len(a.open),
		Start: start, End: a.at, Hash: seal.HashLines(a.open...), Previous: a.previous}
	if len(a.open) > 0 {
		s.First = a.first
	}
	if change != nil {
		change(s)
	}
	if err := s.Sign(a.key); err != nil {
		t.Fatal(err)
	}
	data, err := s.Line()
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.TrimSuffix(data, []byte("\n"))
	a.open, a.previous = nil, seal.HashLine(data)
	return Line{Boot: a.boot, Seq: a.seq, Seal: true, Data: data}
}

// segment is n records and their seal.
func (a *author) segment(t testing.TB, n int) (lines []Line) {
	for range n {
		lines = append(lines, a.record())
	}
	return append(lines, a.seal(t, nil))
}

func (a *author) reboot(boot string) { a.boot, a.seq, a.number = boot, 0, 0 }

func text(lines ...Line) string {
	var b strings.Builder
	for _, l := range lines {
		b.Write(l.Data)
		b.WriteByte('\n')
	}
	return b.String()
}

// desk is a store under test.
type desk struct {
	*Store
	t        testing.TB
	dir      string
	tree     *treelog.Mem
	now      time.Time
	findings []Finding
	keys     map[string]ed25519.PublicKey
}

func newDesk(t testing.TB, authors ...*author) *desk {
	t.Helper()
	d := &desk{t: t, dir: quickDir(t), tree: treelog.NewMem("test", nil), now: noon.Add(time.Minute), keys: map[string]ed25519.PublicKey{}}
	for _, a := range authors {
		pub := a.key.Public().(ed25519.PublicKey)
		d.keys[a.node+"/"+seal.KeyID(pub)] = pub
	}
	d.open(nil)
	return d
}

// quickDir is a directory in memory: the disk's patience is no matter of these tests.
func quickDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "culvert-evidence-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (d *desk) config(step func(string)) Config {
	return Config{Dir: filepath.Join(d.dir, "evidence"), Work: filepath.Join(d.dir, "sealing"), Log: d.tree,
		Key:   func(node, key string) ed25519.PublicKey { return d.keys[node+"/"+key] },
		Found: func(f Finding) { d.findings = append(d.findings, f) }, Now: func() time.Time { return d.now }, step: step}
}

// open opens the store, anew where it was open.
func (d *desk) open(step func(string)) {
	d.t.Helper()
	if d.Store != nil {
		if err := d.Close(); err != nil {
			d.t.Fatal(err)
		}
	}
	var err error
	if d.Store, err = Open(context.Background(), d.config(step)); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = d.Close() })
}

func (d *desk) take(lines ...Line) Taken {
	d.t.Helper()
	taken, err := d.Take(context.Background(), testNode, lines)
	if err != nil {
		d.t.Fatal(err)
	}
	return taken
}

// files are the segments' by name, unpacked.
func (d *desk) files() map[string]string { return segmentFiles(d.t, filepath.Join(d.dir, "evidence")) }

func segmentFiles(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	root := filepath.Join(dir, "segments")
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if name, ok := strings.CutSuffix(rel, packed); ok {
			z, err := gzip.NewReader(bytes.NewReader(data))
			if err != nil {
				return err
			}
			if data, err = io.ReadAll(z); err != nil {
				return err
			}
			rel = name
		}
		out[rel] += string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// seals are the numbers of the seals in the log, in its order, with their boots.
func (d *desk) seals() (out []string) {
	d.t.Helper()
	err := d.tree.Leaves(context.Background(), 0, func(_ uint64, l leaf.Leaf) error {
		if l.Type == leaf.TypeSeal {
			out = append(out, fmt.Sprintf("%s/%d", l.Seal.Boot, l.Seal.Number))
		}
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

func (d *desk) want(name, content string) {
	d.t.Helper()
	if got := d.files()[testNode+"/"+name]; got != content {
		d.t.Errorf("%s has\n%swant\n%s", name, got, content)
	}
}
