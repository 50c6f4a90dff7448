package datapath

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The programs load on the kernel that runs the tests, so it lacks nothing.
func TestThisKernelHasWhatTheProgramsNeed(t *testing.T) {
	needRoot(t)
	s, err := Probe()
	if err != nil || len(s.Missing) > 0 {
		t.Errorf("%+v, %v", s, err)
	}
	d, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	// What Probe says of tcx is what attaching finds.
	if _, err := d.attach(linkKey{AtHost, 1<<31 - 1, false}, hooks[AtHost][0]); err == nil {
		t.Error("attached to an interface that is not there")
	}
	if d.cfg.noTCX == s.TCX {
		t.Errorf("tcx: probed %t, attached without: %t", s.TCX, d.cfg.noTCX)
	}
}

func TestPinnable(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if mounted, mode := Pinnable(filepath.Join(dir, "none", "below")); mounted || mode != 0 {
		t.Errorf("a directory that is not there, on no bpffs: %t %v", mounted, mode)
	}
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if mounted, mode := Pinnable(dir); mounted || mode != 0o750 {
		t.Errorf("a directory on no bpffs: %t %v", mounted, mode)
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if mounted, mode := Pinnable(dir); !mounted || mode != 0o700 {
		t.Errorf("a bpffs: %t %v", mounted, mode)
	}
	if mounted, mode := Pinnable(filepath.Join(dir, "none")); !mounted || mode != 0 {
		t.Errorf("below a bpffs: %t %v", mounted, mode)
	}
}
