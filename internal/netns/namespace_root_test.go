package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func open(t *testing.T, path string) *Namespace {
	t.Helper()
	n, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// The kernel gives the inode of a namespace that ended to a new one; the cookie it does not. An open one does not end.
func TestCookiesAreNotReused(t *testing.T) {
	name := newNamespace(t, "cookie")
	seen := map[uint64]bool{}
	inodes := map[uint64]bool{}
	for range 20 {
		n := open(t, Path(name))
		if n.Cookie == 0 || seen[n.Cookie] {
			t.Fatalf("cookie %d is another's, or none", n.Cookie)
		}
		seen[n.Cookie], inodes[n.Inode] = true, true
		again := open(t, Path(name))
		if now, err := Inode(Path(name)); err != nil || again.Cookie != n.Cookie || again.Inode != n.Inode || now != n.Inode {
			t.Errorf("the same namespace is %+v and %+v with inode %d, %v", n, again, now, err)
		}
		if err := errors.Join(Remove(name), Add(name)); err != nil {
			t.Fatal(err)
		}
	}
	if len(inodes) != 20 {
		t.Errorf("20 open namespaces have %d inodes", len(inodes))
	}
}

func TestOpenWhatIsNone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: enters namespaces")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, dir, filepath.Join(dir, "none"), filepath.Join(file, "x"), "/proc/self/ns/mnt", "/proc/999999999/ns/net"} {
		if n, err := Open(path); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %+v, %v", path, n, err)
		}
	}
}

// A process that ended leads nowhere, and its number leads to another's namespace once there is another.
func TestProcessesAndTheirNamespaces(t *testing.T) {
	path := Path(newNamespace(t, "pid"))
	want := open(t, path)
	cmd := exec.Command("sleep", "60")
	if err := Start(path, cmd); err != nil {
		t.Fatal(err)
	}
	of := ProcessPath(cmd.Process.Pid)
	if n := open(t, of); n.Cookie != want.Cookie {
		t.Errorf("by process %+v, by name %+v", n, want)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if n, err := Open(of); !errors.Is(err, ErrNone) {
		t.Errorf("of a process that ended: %+v, %v", n, err)
	}
}

func TestKeepers(t *testing.T) {
	name := newNamespace(t, "keeper")
	mine, theirs := t.TempDir(), t.TempDir()
	link := func(dir, name, target string) string {
		path := filepath.Join(dir, name)
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Chown(theirs, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	pid := ProcessPath(os.Getpid())
	rooted := filepath.Join(Dir, name+"-link")
	if err := os.Symlink("../netns/"+name, rooted); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(rooted) })
	for path, want := range map[string]Keeper{
		Path(name): Root, rooted: Root, pid: Process, "/proc/self/ns/net": Process,
		link(mine, "to-pid", pid): Process, link(mine, "dir", "/proc/self/ns") + "/net": Process,
		link(mine, "named", Path(name)):   Others, // below /tmp, where everybody may write
		link(theirs, "named", Path(name)): Others, link(theirs, "to-pid", pid): Process,
	} {
		if have, err := KeptBy(path); err != nil || have != want {
			t.Errorf("%s is kept by %d, %v; want %d", path, have, err, want)
		}
	}
	for _, path := range []string{link(mine, "loop", filepath.Join(mine, "loop")), Path(name + "-none"), Path(name) + "/x"} {
		if have, err := KeptBy(path); err == nil {
			t.Errorf("%s is kept by %d", path, have)
		}
	}
	if have, err := KeptBy(fmt.Sprintf("/proc/%d/ns/net", 999999999)); err == nil && have != Process {
		t.Errorf("a process that is none: %d", have)
	}
}
