package flow

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Store is the edge to the disk: one flat directory. Errors of missing files are fs.ErrNotExist.
type Store interface {
	// List returns the names of all files, sorted.
	List() ([]string, error)
	// Open opens a file for appending and makes it when it is missing, durably so.
	Open(name string) (File, error)
	// ReadAt reads up to len(b) bytes; fewer only at the end of the file, with io.EOF.
	ReadAt(name string, b []byte, off int64) (int, error)
	// Put replaces a file's content in one step: after a crash it is the old or the new.
	Put(name string, content []byte) error
	// Replace is Put with what write writes; its error leaves the old content.
	Replace(name string, write func(io.Writer) error) error
	Get(name string) ([]byte, error)
	// Remove succeeds when there is nothing to remove.
	Remove(name string) error
}

// File is open for appending.
type File interface {
	Write(b []byte) (int, error)
	// Sync returns when all that was written is on the disk.
	Sync() error
	// Truncate cuts the file to size; the next Write goes there.
	Truncate(size int64) error
	Close() error
}

// Dir is a [Store] in a directory, which it makes (0700) when it is missing. Files are 0600.
type Dir string

var _ Store = Dir("")

// List implements [Store].
func (d Dir) List() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list flow log: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// Open implements [Store].
func (d Dir) Open(name string) (File, error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, fmt.Errorf("make flow log directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(string(d), name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open flow log: %w", err)
	}
	if err := d.sync(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ReadAt implements [Store].
func (d Dir) ReadAt(name string, b []byte, off int64) (int, error) {
	f, err := os.Open(filepath.Join(string(d), name))
	if err != nil {
		return 0, fmt.Errorf("read flow log: %w", err)
	}
	defer f.Close()
	n, err := f.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("read flow log: %w", err)
	}
	return n, err
}

// Put implements [Store].
func (d Dir) Put(name string, content []byte) error {
	return d.Replace(name, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// Replace implements [Store].
func (d Dir) Replace(name string, write func(io.Writer) error) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("make flow log directory: %w", err)
	}
	temp := filepath.Join(string(d), "."+name+".tmp")
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	buffered := bufio.NewWriterSize(f, 1<<16)
	if err = write(buffered); err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, filepath.Join(string(d), name))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, errors.Join(err, os.Remove(temp)))
	}
	return d.sync()
}

// Get implements [Store].
func (d Dir) Get(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(string(d), name))
	if err != nil {
		return nil, fmt.Errorf("read flow log: %w", err)
	}
	return b, nil
}

// Remove implements [Store].
func (d Dir) Remove(name string) error {
	err := os.Remove(filepath.Join(string(d), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove flow log segment: %w", err)
	}
	return d.sync()
}

// sync makes names durable.
func (d Dir) sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return fmt.Errorf("sync flow log directory: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync flow log directory: %w", err)
	}
	return nil
}

// MemStore is a [Store] in memory that can crash and fill up. Use [NewMemStore].
type MemStore struct {
	mu    sync.Mutex
	files map[string]*memFile
	left  int64 // bytes that still fit; negative: no limit
}

var _ Store = (*MemStore)(nil)

// NewMemStore makes an empty store without a limit.
func NewMemStore() *MemStore { return &MemStore{files: map[string]*memFile{}, left: -1} }

type memFile struct {
	store  *MemStore
	data   []byte
	synced int
}

// Limit makes the store take n more bytes and then fail as a full disk does; negative: no limit.
func (m *MemStore) Limit(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = n
}

// Crash returns what a crash leaves: all that was synced, and of what was written after that the first keep bytes.
func (m *MemStore) Crash(keep int) *MemStore {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := NewMemStore()
	for name, f := range m.files {
		n := min(len(f.data), f.synced+keep)
		left.files[name] = &memFile{store: left, data: slices.Clone(f.data[:n]), synced: n}
	}
	return left
}

// List implements [Store].
func (m *MemStore) List() ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name := range m.files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// Open implements [Store].
func (m *MemStore) Open(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[name]
	if f == nil {
		f = &memFile{store: m}
		m.files[name] = f
	}
	return f, nil
}

// ReadAt implements [Store].
func (m *MemStore) ReadAt(name string, b []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[name]
	if f == nil {
		return 0, fmt.Errorf("read %s: %w", name, fs.ErrNotExist)
	}
	n := copy(b, f.data[min(off, int64(len(f.data))):])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// Put implements [Store].
func (m *MemStore) Put(name string, content []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.take(len(content)) < len(content) {
		return fmt.Errorf("write %s: %w", name, errFull)
	}
	m.files[name] = &memFile{store: m, data: slices.Clone(content), synced: len(content)}
	return nil
}

// Replace implements [Store].
func (m *MemStore) Replace(name string, write func(io.Writer) error) error {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return m.Put(name, b.Bytes())
}

// Get implements [Store].
func (m *MemStore) Get(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[name]
	if f == nil {
		return nil, fmt.Errorf("read %s: %w", name, fs.ErrNotExist)
	}
	return slices.Clone(f.data), nil
}

// Remove implements [Store].
func (m *MemStore) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, name)
	return nil
}

var errFull = errors.New("no space left")

// take is how many of n bytes fit; a file that fills the disk is written in part, as real ones are.
func (m *MemStore) take(n int) int {
	if m.left < 0 {
		return n
	}
	got := min(int64(n), m.left)
	m.left -= got
	return int(got)
}

// Write implements [File].
func (f *memFile) Write(b []byte) (int, error) {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	n := f.store.take(len(b))
	f.data = append(f.data, b[:n]...)
	if n < len(b) {
		return n, fmt.Errorf("write: %w", errFull)
	}
	return n, nil
}

// Sync implements [File].
func (f *memFile) Sync() error {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	f.synced = len(f.data)
	return nil
}

// Truncate implements [File].
func (f *memFile) Truncate(size int64) error {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	f.data = f.data[:min(size, int64(len(f.data)))]
	f.synced = min(f.synced, len(f.data))
	return nil
}

// Close implements [File].
func (f *memFile) Close() error { return nil }
