package evidence

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// restsFor is how long nothing came for an hour that is over before its file is packed: a node that was away sends late.
const restsFor = 10 * time.Minute

// replaceFile writes a file as a whole or not at all.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// unpack makes a file that is packed, or new, one that can be appended to, and returns its size. The note knows of it before the packed
// form goes.
func (b *book) unpack(name string) (size int64, fresh bool, err error) {
	path := filepath.Join(b.segmentsDir(), name)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, false, err
	}
	if err := errors.Join(syncDir(filepath.Dir(dir)), syncDir(filepath.Dir(filepath.Dir(dir)))); err != nil {
		return 0, false, err
	}
	z, err := os.Open(path + packed)
	if errors.Is(err, os.ErrNotExist) {
		return 0, true, nil // what an earlier try left of it is cut off
	}
	if err != nil {
		return 0, false, err
	}
	defer z.Close()
	if err := rewrite(path, func(w io.Writer) error {
		r, err := gzip.NewReader(z)
		if err == nil {
			size, err = io.Copy(w, r)
		}
		return err
	}); err != nil {
		return 0, false, err
	}
	next := b.state.clone()
	next.Files[name] = whole{size, b.s.cfg.Now().UTC()}
	if err := b.save(next); err != nil {
		return 0, false, err
	}
	b.s.cfg.step("unpacked")
	return size, false, os.Remove(path + packed)
}

// rewrite makes a file of what is written.
func rewrite(path string, fill func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(fill(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// Pack compresses the files of hours that are over and rest.
func (s *Store) Pack() error {
	s.mu.Lock()
	books := make([]*book, 0, len(s.books))
	for _, b := range s.books {
		books = append(books, b)
	}
	s.mu.Unlock()
	var errs []error
	for _, b := range books {
		errs = append(errs, b.pack())
	}
	return errors.Join(errs...)
}

func (b *book) pack() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.s.cfg.Now()
	for name, w := range b.state.Files {
		hour, err := hourOf(name)
		if err != nil {
			return err
		}
		if now.Before(hour.Add(time.Hour)) || now.Sub(w.At) < restsFor {
			continue
		}
		path := filepath.Join(b.segmentsDir(), name)
		if err := errors.Join(packFile(path, w.Size), os.Chtimes(path+packed, w.At, w.At)); err != nil {
			return fmt.Errorf("evidence: pack %s: %w", path, err)
		}
		b.s.cfg.step("packed")
		next := b.state.clone()
		delete(next.Files, name)
		if err := b.save(next); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("evidence: pack: %w", err)
		}
	}
	return nil
}

// packFile writes PATH.gz beside a file.
func packFile(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return rewrite(path+packed, func(w io.Writer) error {
		z := gzip.NewWriter(w)
		_, err := io.Copy(z, io.LimitReader(f, size))
		return errors.Join(err, z.Close())
	})
}

// tidyFiles removes what a crash left beside files: those that were being written, and of a file and its packed form the one that
// the note does not know. What stands behind the whole segments of a file is cut off where a segment waits to be written there, again;
// else it is not of a crash, and stays, as does a file that the note does not know.
func (b *book) tidyFiles() error {
	waiting := map[string]bool{}
	for _, g := range b.ready {
		if g.flaw == nil {
			waiting[hourFile(g.sp.boot, g.seal.End)] = true
		}
	}
	return filepath.WalkDir(b.segmentsDir(), func(path string, e os.DirEntry, err error) error {
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case err != nil:
			return fmt.Errorf("evidence: %w", err)
		case e.IsDir():
			return nil
		case strings.HasPrefix(e.Name(), ".new-"):
			return os.Remove(path)
		}
		name, isPacked := strings.CutSuffix(path, packed)
		rel, err := filepath.Rel(b.segmentsDir(), name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if _, err := hourOf(rel); err != nil {
			return nil // not ours
		}
		known, open := b.state.Files[rel]
		if isPacked {
			if _, err := os.Stat(name); open && err == nil {
				return os.Remove(path)
			}
			return nil
		}
		if _, err := os.Stat(path + packed); err == nil && !open {
			return os.Remove(path)
		}
		info, err := e.Info()
		if err == nil && !waiting[rel] && info.Size() > known.Size {
			b.state.Files[rel] = whole{info.Size(), info.ModTime()}
		}
		return err
	})
}

// hourOf is the beginning of a file's hour.
func hourOf(name string) (time.Time, error) {
	base := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(name), packed), suffix)
	t, err := time.Parse(hourFormat, base)
	if err != nil {
		return t, fmt.Errorf("evidence: %s is no file of an hour: %w", name, err)
	}
	return t, nil
}

// openHour opens a file of segments, packed or not.
func openHour(path string) (io.ReadCloser, error) {
	f, err := os.Open(strings.TrimSuffix(path, packed))
	if err == nil {
		return f, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	z, err := os.Open(strings.TrimSuffix(path, packed) + packed)
	if err != nil {
		return nil, err
	}
	r, err := gzip.NewReader(z)
	if err != nil {
		return nil, errors.Join(err, z.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{r, z}, nil
}

// eachLine calls f for every whole line.
func eachLine(r io.Reader, f func([]byte) error) error {
	in := bufio.NewReaderSize(r, 128<<10)
	var long []byte
	for {
		part, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, part...)
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		line := part
		if len(long) > 0 {
			line = append(long, part...)
			long = nil
		}
		if err := f(bytes.TrimSuffix(line, []byte{'\n'})); err != nil {
			return err
		}
	}
}

// keepAside writes a finding where the operator looks, with the segment where it is not among the evidence.
func (b *book) keepAside(j *judged) error {
	dir := b.asideDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	have, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	name := fmt.Sprintf("%s-%d-%.8s", j.Boot, j.Number, j.g.hash())
	size := j.g.to - j.g.from
	for _, e := range have {
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
	}
	if !j.Kept && len(have) < 2*maxAside && size <= maxAsideBytes {
		if err := rewrite(filepath.Join(dir, name+suffix), func(w io.Writer) error {
			_, err := io.Copy(w, io.NewSectionReader(j.g.sp.file, j.g.from, j.g.to-j.g.from))
			return err
		}); err != nil {
			return fmt.Errorf("evidence: %w", err)
		}
	}
	if len(have) >= 2*maxAside {
		name = "more" // the newest of them
	}
	data, err := json.Marshal(j.Finding)
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(dir, name+stateSuffix), data); err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	return nil
}

// newestFinding reads what is aside in a directory; nil: nothing.
func newestFinding(dir string) (*Finding, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	var all []Finding
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), stateSuffix) {
			continue
		}
		var f Finding
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil || json.Unmarshal(data, &f) != nil {
			f = Finding{Node: filepath.Base(dir), Reason: "what was found cannot be read: " + e.Name()}
		}
		all = append(all, f)
	}
	if len(all) == 0 {
		return nil, nil
	}
	newest := slices.MaxFunc(all, func(a, b Finding) int { return a.At.Compare(b.At) })
	return &newest, nil
}
