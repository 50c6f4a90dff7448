package state

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
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
	unlock()
	unlock, err = d.Lock()
	if err != nil {
		t.Fatalf("after the first one left: %v", err)
	}
	unlock()
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
