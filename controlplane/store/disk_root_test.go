package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
)

// While the disk is nearly full writes are refused and reads go on, without an end of the process; with room they go on, too, and
// what was acknowledged is there.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	// A segment of the log and the next one, 64 MB each, the file with 16 MB, and more than the reserve.
	if err := unix.Mount("culvert-test", dir, "tmpfs", 0, "size=256m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	acknowledged := 0
	write := func(ctx context.Context, e *Etcd) error {
		_, err := e.Txn(ctx, func(tx *Tx) error {
			tx.SetSide(fmt.Sprintf("%s%d", PrefixStatus, acknowledged), []byte("x"))
			tx.SetMesh(api.Mesh{Number: uint32(acknowledged + 1)})
			return nil
		})
		if err == nil {
			acknowledged++
		}
		return err
	}
	filler := filepath.Join(dir, "filler")
	err := visit(t, dir, func(ctx context.Context, e *Etcd) error {
		if err := write(ctx, e); err != nil {
			return err
		}
		f, err := os.Create(filler)
		if err != nil {
			return err
		}
		for err == nil {
			_, err = f.Write(make([]byte, 1<<20))
		}
		if !errors.Is(err, unix.ENOSPC) {
			return err
		}
		for range 20 {
			if err := write(ctx, e); !errors.Is(err, ErrDiskFull) {
				return fmt.Errorf("a write without room: %w", err)
			}
			if err := e.Put(ctx, PrefixStatus+"other", []byte("x")); !errors.Is(err, ErrDiskFull) {
				return fmt.Errorf("a write outside transactions without room: %w", err)
			}
		}
		v, err := e.Get(ctx, PrefixStatus+"0")
		if err != nil || string(v) != "x" || e.Snapshot().Mesh.Number != 1 {
			return fmt.Errorf("reads: %q, mesh %d, %w", v, e.Snapshot().Mesh.Number, err)
		}
		if err := errors.Join(f.Close(), os.Remove(filler)); err != nil {
			return err
		}
		deadline := time.Now().Add(10 * time.Second)
		for err = write(ctx, e); err != nil && time.Now().Before(deadline); {
			err = write(ctx, e)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := visit(t, dir, func(ctx context.Context, e *Etcd) error {
		for i := range acknowledged {
			if v, err := e.Get(ctx, fmt.Sprintf("%s%d", PrefixStatus, i)); err != nil || string(v) != "x" {
				return fmt.Errorf("write %d of %d: %q, %w", i, acknowledged, v, err)
			}
		}
		if v, err := e.Get(ctx, PrefixStatus+"other"); err != nil || v != nil {
			return fmt.Errorf("a write that was refused is there: %q, %w", v, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
