package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

// Of a bbolt file: two meta pages at its beginning, each 16 bytes of page header and these fields (bbolt's meta.go, version 2).
const (
	metaPage     = 4096 // bytes; where the second one is when the first cannot say its page size
	metaHeader   = 16
	metaSize     = 64
	metaMagic    = 0xed0cdaed
	metaVersion  = 2
	metaPageSize = 8  // offset of a uint32
	metaHigh     = 40 // offset of a uint64: so many pages are in use
	metaSum      = 56 // offset of a uint64: FNV-1a of what is before
)

// boltWait bounds how long another process may hold the file.
const boltWait = 2 * time.Second

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
	if err := checkMeta(path, size); err != nil {
		return 0, fmt.Errorf("its database (snap/db): %w", err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: boltWait})
	if err != nil {
		return 0, fmt.Errorf("its database (snap/db; is another server running on it?): %w", err)
	}
	defer db.Close()
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

// checkMeta looks for a whole meta page whose pages are all in the file: beyond its end bbolt would run into a fault.
func checkMeta(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	found := false
	for _, at := range []int64{0, metaPage} {
		var b [metaSize]byte
		if _, err := f.ReadAt(b[:], at+metaHeader); err != nil {
			continue
		}
		sum := fnv.New64a()
		_, _ = sum.Write(b[:metaSum])
		whole := binary.NativeEndian.Uint32(b[:]) == metaMagic && binary.NativeEndian.Uint32(b[4:]) == metaVersion &&
			binary.NativeEndian.Uint64(b[metaSum:]) == sum.Sum64()
		if !whole {
			continue
		}
		found = true
		pages, page := binary.NativeEndian.Uint64(b[metaHigh:]), uint64(binary.NativeEndian.Uint32(b[metaPageSize:]))
		if pages > uint64(size)/page {
			return fmt.Errorf("%d pages of %d bytes are in use, the file has %d bytes: it was cut off", pages, page, size)
		}
	}
	if !found {
		return errors.New("it does not begin like one")
	}
	return nil
}
