package state

import (
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/plan"
)

// A write that the kernel refuses in the middle leaves what was there, nothing beside it, and a sentence.
func TestWriteThatTheKernelCutsOff(t *testing.T) {
	d := Dir(t.TempDir())
	if err := d.SaveAttachments([]plan.Attachment{{ENI: "eni-1"}}); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 64, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	err := d.SaveAttachments([]plan.Attachment{{ENI: "eni-2"}})
	if errBack := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); errBack != nil {
		t.Fatal(errBack)
	}
	if !errors.Is(err, unix.EFBIG) || !strings.Contains(err.Error(), "LimitFSIZE=") || !strings.Contains(err.Error(), attachmentsFile) {
		t.Errorf("%v", err)
	}
	if as, err := d.LoadAttachments(); err != nil || len(as) != 1 || as[0].ENI != "eni-1" {
		t.Errorf("%v, %v", as, err)
	}
	if left, err := os.ReadDir(string(d)); err != nil || len(left) != 2 {
		t.Errorf("left %v, %v: want the file and its copy", left, err)
	}
}

func TestFailingDiskIsNamed(t *testing.T) {
	err := Dir("/x").unwritten(viewFile, &fs.PathError{Op: "fsync", Path: "/x/view.json", Err: unix.EIO})
	if !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "the disk under /x fails: see the kernel's log") {
		t.Errorf("%v", err)
	}
}

// A directory that others can write to is tightened; one of another user, who could do so again, is refused.
func TestWhoseDirectory(t *testing.T) {
	d := Dir(t.TempDir())
	mode := func() os.FileMode {
		info, err := os.Stat(string(d))
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if err := errors.Join(os.Chmod(string(d), 0o777), d.Make()); err != nil || mode() != 0o700 {
		t.Errorf("lax: %#o, %v", mode(), err)
	}
	if err := errors.Join(os.Chmod(string(d), 0o755), os.Chown(string(d), 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	if err := d.Make(); err == nil || !strings.Contains(err.Error(), "belongs to the user 65534") || !strings.Contains(err.Error(), string(d)) ||
		mode() != 0o755 {
		t.Errorf("foreign: %#o, %v", mode(), err)
	}
}
