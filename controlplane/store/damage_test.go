package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
)

// filled is a directory with an etcd that was written to and closed.
func filled(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := visit(t, dir, func(ctx context.Context, e *Etcd) error {
		for i := range 100 {
			if err := e.Put(ctx, fmt.Sprintf("%s%d", PrefixStatus, i), []byte(strings.Repeat("x", 1000))); err != nil {
				return err
			}
		}
		_, err := e.Txn(ctx, func(tx *Tx) error {
			tx.SetMesh(api.Mesh{Number: 7})
			return nil
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// visit opens the store in a directory for a while.
func visit(t *testing.T, dir string, fn func(context.Context, *Etcd) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	e := NewEtcd(EtcdConfig{Dir: dir, NoSync: true})
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- e.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
		err := fn(ctx, e)
		cancel()
		return errors.Join(err, <-done)
	case err := <-done:
		return errors.Join(err, ctx.Err())
	}
}

// A store that is in use is whole: its remedy is no backup.
func TestStoreInUse(t *testing.T) {
	dir := filled(t)
	err := visit(t, dir, func(ctx context.Context, e *Etcd) error {
		second := NewEtcd(EtcdConfig{Dir: dir, NoSync: true})
		err := second.Run(ctx, func() {})
		if !errors.Is(err, errHeld) || !strings.Contains(err.Error(), "stop it first") || strings.Contains(err.Error(), "damaged") {
			t.Errorf("a second server: %v", err)
		}
		return whole(ctx, e)
	})
	if err != nil {
		t.Error(err)
	}
}

// whole checks that nothing of what filled wrote is missing.
func whole(ctx context.Context, e *Etcd) error {
	v, err := e.Get(ctx, PrefixStatus+"99")
	if err != nil || len(v) != 1000 || e.Snapshot().Mesh.Number != 7 {
		return fmt.Errorf("%d bytes, mesh %d: %w", len(v), e.Snapshot().Mesh.Number, err)
	}
	return nil
}

func overwriteAt(t *testing.T, path string, at int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, at); err != nil {
		t.Fatal(err)
	}
}

// What happens to the files of a store ends in one sentence with the remedy, or in a store that has everything; never in a panic, in
// silence, or in a store that has lost something.
func TestDamagedStore(t *testing.T) {
	noise := make([]byte, 100_000)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	const log, db = "wal/0000000000000000-0000000000000000.wal", "snap/db"
	truncate := func(size int64) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
		}
	}
	overwrite := func(at int64, data []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) { overwriteAt(t, path, at, data) }
	}
	remove := func(t *testing.T, path string) {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	directory := func(t *testing.T, path string) {
		remove(t, path)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	good := filled(t)
	for name, c := range map[string]struct {
		file   string
		damage func(*testing.T, string)
		heals  bool
	}{
		"nothing":                    {db, func(*testing.T, string) {}, true},
		"database empty":             {db, truncate(0), true}, // the log has it all
		"database gone":              {db, remove, true},
		"database cut off":           {db, truncate(20_000), false},
		"database random":            {db, overwrite(0, noise), false},
		"database's beginning":       {db, overwrite(0, noise[:8192]), false},
		"a directory in its place":   {db, directory, false},
		"database's middle":          {db, overwrite(8192, noise[:50_000]), false},
		"log empty":                  {log, truncate(0), false},
		"log cut off":                {log, truncate(60_000), false},
		"log random":                 {log, overwrite(0, noise), false},
		"bits of the log":            {log, overwrite(50_000, []byte{0xff, 0xff, 0xff}), false},
		"log gone":                   {"wal", remove, false},
		"log's directory empty":      {"wal", directory, false},
		"a directory in log's place": {log, directory, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			c.damage(t, filepath.Join(dir, "etcd", "member", c.file))
			err := visit(t, dir, whole)
			if c.heals {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "from a backup") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Files of another user are not damaged, and no backup helps.
func TestFilesOfAnotherUser(t *testing.T) {
	err := damaged("/data/etcd/member", &fs.PathError{Op: "open", Path: "/data/etcd/member/snap/db", Err: unix.EACCES})
	if err == nil || !strings.Contains(err.Error(), "snap/db") || !strings.Contains(err.Error(), "chown -R") || strings.Contains(err.Error(), "backup") {
		t.Errorf("%v", err)
	}
}
