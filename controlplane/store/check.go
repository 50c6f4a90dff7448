package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

// Of a bbolt file: two meta pages at its beginning, each 16 bytes of page header and these fields (bbolt's meta.go, version 2).
const (
	minPageSize  = 1 << 10 // bytes; the second one is where the first page ends
	maxPageSize  = 1 << 24
	metaHeader   = 16
	metaSize     = 64
	metaMagic    = 0xed0cdaed
	metaVersion  = 2
	metaPageSize = 8  // offset of a uint32
	metaRoot     = 16 // offset of a uint64, as all that follow: the first page of the root
	metaFreelist = 32 // where the list of free pages is
	metaHigh     = 40 // so many pages are in use
	metaTxn      = 48 // the transaction: the higher one counts
	metaSum      = 56 // FNV-1a of what is before

	noFreelist = ^uint64(0) // etcd's keep none
)

// maxPages bounds what a database may say that it has, so that reading it is bounded, too: 64 GiB of 4 KiB pages.
const maxPages = 1 << 24

// meta is what a whole meta page says.
type meta struct {
	page                       uint32 // size in bytes
	root, freelist, pages, txn uint64
}

// boltWait bounds how long another process may hold the file.
const boltWait = 2 * time.Second

// errHeld says that a process has the database open.
var errHeld = errors.New("in use by another process, probably another culvert server")

// check finds damage to the files of an embedded etcd for which etcd has no words: it would panic, or wait for what never comes, or
// begin anew. It changes nothing.
func check(dir string) (err error) {
	member := filepath.Join(dir, "etcd", "member")
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
		if err != nil {
			err = damaged(member, err)
		}
	}()
	db := filepath.Join(member, "snap", "db")
	size, err := fileSize(db)
	if err != nil {
		return err
	}
	if log := filepath.Join(member, "wal"); wal.Exist(log) {
		return checkLog(log, db, size)
	}
	if size > 0 {
		return errors.New("its log (wal) is missing")
	}
	return nil // nothing was ever written
}

func damaged(where string, why error) error {
	if errors.Is(why, errHeld) {
		return fmt.Errorf("the store in %s is %w: stop it first, or give this one a data directory of its own", where, why)
	}
	if errors.Is(why, fs.ErrPermission) {
		return fmt.Errorf("the store in %s cannot be read: %w: give it to the user that the server runs as: chown -R %d %s", where, why,
			os.Geteuid(), where)
	}
	return fmt.Errorf("the store in %s is damaged: %w: restore the server's data directory from a backup", where, why)
}

// fileSize is 0 where there is no file.
func fileSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is no file", path)
	}
	return info.Size(), nil
}

// checkLog reads the log, and looks whether it reaches as far as the database says that it was written.
func checkLog(log, db string, size int64) error {
	nop := zap.NewNop()
	snaps, err := wal.ValidSnapshotEntries(nop, log)
	if err != nil {
		return err
	}
	if len(snaps) == 0 {
		return errors.New("its log (wal) has lost its beginning")
	}
	snap := snaps[len(snaps)-1]
	if size == 0 {
		if snap.GetIndex() != 0 {
			return errors.New("its database (snap/db) is missing, and the log does not reach back to the beginning")
		}
		return nil // is made again from the log
	}
	r, err := wal.OpenForRead(nop, log, snap)
	if err != nil {
		return err
	}
	defer r.Close() // its error is about the directory, which is open for writers only
	_, _, entries, err := r.ReadAll()
	if err != nil {
		return err
	}
	last := snap.GetIndex()
	if n := len(entries); n > 0 {
		last = entries[n-1].GetIndex()
	}
	applied, err := appliedIndex(db, size)
	if err != nil {
		return err
	}
	if applied > last {
		return fmt.Errorf("its log (wal) ends at entry %d, its database has %d already: the log was cut off", last, applied)
	}
	return nil
}

// appliedIndex is the number of the last entry of the log that the database has.
func appliedIndex(path string, size int64) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := newestMeta(f, size); err != nil {
		return 0, fmt.Errorf("its database (snap/db): %w", err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: boltWait})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return 0, errHeld
	}
	if err != nil {
		return 0, fmt.Errorf("its database (snap/db): %w", err)
	}
	defer db.Close()
	// Once nobody writes to it, and before anything but its beginning is looked at by bbolt.
	m, err := newestMeta(f, size)
	if err == nil {
		err = checkTree(f, m)
	}
	if err != nil {
		return 0, fmt.Errorf("its database (snap/db): %w", err)
	}
	var index uint64
	err = db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte("meta")); b != nil {
			if v := b.Get([]byte("consistent_index")); len(v) == 8 {
				index = binary.BigEndian.Uint64(v)
			}
		}
		return nil
	})
	return index, err
}

// newestMeta looks for the whole meta pages, and that all their pages are in the file: beyond its end bbolt would run into a fault.
func newestMeta(file io.ReaderAt, size int64) (*meta, error) {
	var newest *meta
	first := readMeta(file, 0)
	for at := int64(0); at <= maxPageSize; at = max(2*at, minPageSize) {
		m := readMeta(file, at)
		if m == nil || at > 0 && int64(m.page) != at || first != nil && m.page != first.page {
			continue
		}
		if m.pages > uint64(size)/uint64(m.page) {
			return nil, fmt.Errorf("%d pages of %d bytes are in use, the file has %d bytes: it was cut off", m.pages, m.page, size)
		}
		if newest == nil || m.txn > newest.txn {
			newest = m
		}
	}
	if newest == nil {
		return nil, errors.New("it does not begin like one")
	}
	return newest, nil
}

// readMeta is nil where there is no whole one.
func readMeta(file io.ReaderAt, at int64) *meta {
	var b [metaSize]byte
	if _, err := file.ReadAt(b[:], at+metaHeader); err != nil {
		return nil
	}
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSum])
	number := func(at int) uint64 { return binary.NativeEndian.Uint64(b[at:]) }
	m := &meta{binary.NativeEndian.Uint32(b[metaPageSize:]), number(metaRoot), number(metaFreelist), number(metaHigh), number(metaTxn)}
	if binary.NativeEndian.Uint32(b[:]) != metaMagic || binary.NativeEndian.Uint32(b[4:]) != metaVersion || number(metaSum) != sum.Sum64() ||
		m.page < metaHeader+metaSize || m.pages > maxPages {
		return nil
	}
	return m
}
