package state

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLockHasOneOwner(t *testing.T) {
	d := Dir(t.TempDir())
	unlock, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock(); !errors.Is(err, ErrLocked) {
		t.Errorf("a second owner: %v", err)
	}
	if !d.Locked() {
		t.Error("nobody is seen to work on it")
	}
	unlock()
	if d.Locked() || Dir(t.TempDir()).Locked() {
		t.Error("somebody is seen to work on a directory that nobody has")
	}
	unlock, err = d.Lock()
	if err != nil {
		t.Fatalf("after the first one left: %v", err)
	}
	unlock()
}

// What is in the lock's file does not matter; what is no file is named.
func TestWhatLiesInTheLocksPlace(t *testing.T) {
	for name, c := range map[string]struct {
		make func(path string) error
		want string // of the error
	}{
		"nothing":     {func(string) error { return nil }, ""},
		"text":        {func(path string) error { return os.WriteFile(path, []byte("12345\n"), 0o644) }, ""},
		"a pipe":      {func(path string) error { return syscall.Mkfifo(path, 0o600) }, ""},
		"a directory": {func(path string) error { return os.Mkdir(path, 0o700) }, "remove it"},
	} {
		d := Dir(t.TempDir())
		if err := c.make(d.Path(lockFile)); err != nil {
			t.Fatal(err)
		}
		unlock, err := d.Lock()
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), d.Path(lockFile)) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := d.Lock(); !errors.Is(err, ErrLocked) {
			t.Errorf("%s: a second owner: %v", name, err)
		}
		unlock()
	}
}

func TestForgetLeavesWhatIsNotIts(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "node"))
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{identityFile, viewFile, wireKeyFile, "mine"} {
		if err := d.Write(name, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Forget(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(string(d))
	if err != nil || len(entries) != 1 || entries[0].Name() != "mine" {
		t.Errorf("left %v, %v", entries, err)
	}
	if err := os.Remove(d.Path("mine")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // nothing there is fine
		if err := d.Forget(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(string(d)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the empty directory is still there: %v", err)
	}
}

// TestLockWhileSomebodyLooks: who asks whether there is an owner does not keep one from becoming it.
func TestLockWhileSomebodyLooks(t *testing.T) {
	d := Dir(t.TempDir())
	unlock, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	f, err := os.Open(d.Path(lockFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil { // as Locked does
		t.Fatal(err)
	}
	time.AfterFunc(lookWait/25, func() { f.Close() })
	unlock, err = d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
