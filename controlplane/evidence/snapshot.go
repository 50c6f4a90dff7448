package evidence

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
)

// Snapshot is the segments of a span as they stood at one moment, with what the Merkle log had then.
type Snapshot struct {
	TreeSize uint64
	Waiting  []string // nodes of whose segments some have leaves and stand in no file yet
	Files    []File
}

// File is segments of one boot and hour.
type File struct {
	Node, Boot string
	Hour       time.Time
	Taken      time.Time // when the newest of them came, by the server's clock
	path       string    // of the form that is not packed
	size       int64     // bytes of it; -1: it is packed
}

// Snapshot lists the files of hours from since, before until. No segment is taken meanwhile, so all leaves of seals before TreeSize
// have their segments in files; size gives the Merkle log's.
func (s *Store) Snapshot(ctx context.Context, since, until time.Time, size func(context.Context) (uint64, error)) (*Snapshot, error) {
	s.mu.Lock()
	books := slices.SortedFunc(maps.Values(s.books), func(a, b *book) int { return cmp.Compare(a.node, b.node) })
	s.mu.Unlock()
	for _, b := range books {
		b.mu.Lock()
		defer b.mu.Unlock()
	}
	out := &Snapshot{}
	var err error
	if out.TreeSize, err = size(ctx); err != nil {
		return nil, err
	}
	for _, b := range books {
		if len(b.ready) > 0 {
			out.Waiting = append(out.Waiting, b.node)
		}
		files, err := b.files(since, until)
		if err != nil {
			return nil, fmt.Errorf("evidence: %w", err)
		}
		out.Files = append(out.Files, files...)
	}
	return out, nil
}

// files lists a node's; the lock is held.
func (b *book) files(since, until time.Time) ([]File, error) {
	found := map[string]File{}
	err := filepath.WalkDir(b.segmentsDir(), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		path, isPacked := strings.CutSuffix(path, packed)
		rel, err := filepath.Rel(b.segmentsDir(), path)
		if err != nil {
			return err
		}
		hour, err := hourOf(rel)
		if err != nil || hour.Before(since) || !hour.Before(until) {
			return nil
		}
		name := filepath.ToSlash(rel)
		info, err := e.Info()
		if err != nil {
			return err
		}
		f := File{Node: b.node, Boot: filepath.Dir(rel), Hour: hour, Taken: info.ModTime().UTC(), path: path, size: -1}
		if w, open := b.state.Files[name]; open && !isPacked {
			f.size = w.Size
		}
		if have, twice := found[name]; !twice || have.size < 0 {
			found[name] = f
		}
		return nil
	})
	return slices.SortedFunc(maps.Values(found), func(a, b File) int { return cmp.Or(a.Hour.Compare(b.Hour), cmp.Compare(a.path, b.path)) }), err
}

// Path is where the file is below the directory of evidence, packed or not.
func (f *File) Path(isPacked bool) string {
	name := "segments/" + f.Node + "/" + f.Boot + "/" + filepath.Base(f.path)
	if isPacked {
		return name + packed
	}
	return name
}

// Open opens the file's bytes as they stand on the disk. One that was packed since is unpacked on the way.
func (f *File) Open() (r io.ReadCloser, isPacked bool, err error) {
	if f.size < 0 {
		z, err := os.Open(f.path + packed)
		if err == nil {
			return z, true, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, false, err
		}
		plain, err := os.Open(f.path) // it was opened again for what came late
		return plain, false, err
	}
	plain, err := os.Open(f.path)
	if err == nil {
		return limited{io.LimitReader(plain, f.size), plain}, false, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, false, err
	}
	whole, err := openHour(f.path)
	if err != nil {
		return nil, false, err
	}
	return limited{io.LimitReader(whole, f.size), whole}, false, nil
}

type limited struct {
	io.Reader
	io.Closer
}

// Mentions tells whether a line has one of the words, in quotes.
func (f *File) Mentions(words ...string) (bool, error) {
	r, isPacked, err := f.Open()
	if err != nil {
		return false, err
	}
	defer r.Close()
	var plain io.Reader = r
	if isPacked {
		if plain, err = gzip.NewReader(r); err != nil {
			return false, fmt.Errorf("evidence: %s: %w", f.path, err)
		}
	}
	quoted := make([][]byte, len(words))
	for i, w := range words {
		quoted[i] = []byte(`"` + w + `"`)
	}
	errFound := errors.New("found")
	err = eachLine(plain, func(line []byte) error {
		if slices.ContainsFunc(quoted, func(q []byte) bool { return bytes.Contains(line, q) }) {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		return true, nil
	}
	return false, err
}

// eachSeal calls f for the seals of the file, but for those that cannot be read.
func (f *File) eachSeal(do func(s *seal.Seal, line []byte)) error {
	r, isPacked, err := f.Open()
	if err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	defer r.Close()
	var plain io.Reader = r
	if isPacked {
		if plain, err = gzip.NewReader(r); err != nil {
			return fmt.Errorf("evidence: %s: %w", f.path, err)
		}
	}
	return eachLine(plain, func(line []byte) error {
		if s, sealed, err := seal.Parse(line); sealed && err == nil {
			do(s, line)
		}
		return nil
	})
}

// Span is from when to when its segments are, as their nodes say: a segment lies in the hour in which it ended, and may have begun
// before it. Both are zero where there is none.
func (f *File) Span() (from, to time.Time, err error) {
	err = f.eachSeal(func(s *seal.Seal, _ []byte) {
		if from.IsZero() || s.Start.Before(from) {
			from = s.Start
		}
		if s.End.After(to) {
			to = s.End
		}
	})
	return from, to, err
}

// Runs lists the segments of the file, as a disposal names them.
func (f *File) Runs() (runs []leaf.Run, err error) {
	err = f.eachSeal(func(s *seal.Seal, line []byte) {
		if n := len(runs); n > 0 && runs[n-1].Boot == s.Boot && runs[n-1].Last+1 == s.Number {
			runs[n-1].Last, runs[n-1].Line = s.Number, seal.HashLine(line)
			return
		}
		runs = append(runs, leaf.Run{Node: f.Node, Boot: s.Boot, First: s.Number, Last: s.Number, Line: seal.HashLine(line)})
	})
	return runs, err
}

// Sum is the SHA-256 of the file's bytes as they are on the disk.
func (f *File) Sum() (string, error) {
	r, _, err := f.Open()
	if err != nil {
		return "", fmt.Errorf("evidence: %w", err)
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", fmt.Errorf("evidence: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Remove disposes of a file. Nothing is removed to which something was added since it was listed.
func (s *Store) Remove(f *File) error {
	b, err := s.book(f.Node)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	name := f.Boot + "/" + filepath.Base(f.path)
	w, open := b.state.Files[name]
	if open && w.Size != f.size || !open && f.size >= 0 {
		return nil // the next time
	}
	if open {
		next := b.state.clone()
		delete(next.Files, name)
		if err := b.save(next); err != nil {
			return err
		}
	}
	for _, path := range []string{f.path, f.path + packed} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("evidence: dispose: %w", err)
		}
	}
	_ = os.Remove(filepath.Dir(f.path)) // where it was the last of its boot
	return nil
}
