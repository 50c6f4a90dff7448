package netns

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestMain lets the test binary stand in for a command that calls Exec, which replaces its process.
func TestMain(m *testing.M) {
	if ns := os.Getenv("CULVERT_TEST_EXEC"); ns != "" {
		fmt.Fprintln(os.Stderr, Exec(ns, os.Getenv("CULVERT_TEST_ETC"), os.Args[1:]))
		os.Exit(99)
	}
	os.Exit(m.Run())
}

func newNamespace(t *testing.T, suffix string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	name := fmt.Sprintf("cvt-netns-%d-%s", os.Getpid(), suffix)
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("ip netns add: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	return name
}

func inode(t *testing.T, path string) string {
	t.Helper()
	id, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestDoLeavesTheCallerWhereItWas(t *testing.T) {
	path := Path(newNamespace(t, "do"))
	before := inode(t, "/proc/thread-self/ns/net")
	var inside string
	if err := Do(path, func() error {
		inside = inode(t, "/proc/thread-self/ns/net")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if inside == before {
		t.Error("f ran in the caller's namespace")
	}
	if after := inode(t, "/proc/thread-self/ns/net"); after != before {
		t.Errorf("caller moved from %s to %s", before, after)
	}
}

// The main thread never enters a namespace, though the scheduler hands it out like any other: it could not end.
func TestTheMainThreadStays(t *testing.T) {
	path := Path(newNamespace(t, "main"))
	before := inode(t, ProcessPath(os.Getpid()))
	for range 50 {
		var inside, calls sync.WaitGroup
		inside.Add(8)
		for range 8 {
			calls.Go(func() {
				err := Do(path, func() error {
					inside.Done()
					inside.Wait() // all at once, each on a thread of its own
					return nil
				})
				if err != nil {
					inside.Done()
					t.Error(err)
				}
			})
		}
		calls.Wait()
		if after := inode(t, ProcessPath(os.Getpid())); after != before {
			t.Fatalf("the process moved from %s to %s", before, after)
		}
	}
}

func TestStartAndProcesses(t *testing.T) {
	path := Path(newNamespace(t, "start"))
	cmd := exec.Command("sleep", "60")
	if err := Start(path, cmd); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	pids, err := Processes(path)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("processes in the namespace: %v, want only %d", pids, cmd.Process.Pid)
	}
}

func TestExistsTellsNamespacesFromFiles(t *testing.T) {
	name := newNamespace(t, "exists")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		Path(name): true, ProcessPath(os.Getpid()): true, file: false, Path("cvt-netns-none"): false,
	} {
		if have := Exists(path); have != want {
			t.Errorf("Exists(%s) = %v, want %v", path, have, want)
		}
	}
}

func TestExecGivesTheNamespaceItsOwnResolver(t *testing.T) {
	path := Path(newNamespace(t, "exec"))
	etc := t.TempDir()
	if err := os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte("nameserver 10.0.0.2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "sh", "-c", "cat /etc/resolv.conf; ls /sys/class/net; exit 7")
	cmd.Env = append(os.Environ(), "CULVERT_TEST_EXEC="+path, "CULVERT_TEST_ETC="+etc)
	out, err := cmd.Output()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 7 {
		t.Errorf("exit: %v, want the command's own status 7", err)
	}
	if want := "nameserver 10.0.0.2\nlo\n"; !strings.HasPrefix(string(out), "nameserver 10.0.0.2\n") ||
		strings.Contains(string(out), "eth0") {
		t.Errorf("inside:\n%s\nwant it to begin with\n%s", out, want)
	}
	after, err := os.ReadFile("/etc/resolv.conf")
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the caller's own resolv.conf changed: %q, %v", after, err)
	}
}

func TestAddAndRemoveTwice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	name := fmt.Sprintf("cvt-netns-%d-add", os.Getpid())
	t.Cleanup(func() { Remove(name) })
	for range 2 {
		if err := Add(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := Do(Path(name), func() error {
		lo, err := net.InterfaceByName("lo")
		if err == nil && lo.Flags&net.FlagUp == 0 {
			err = errors.New("lo is down")
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if Exists(Path(name)) {
		t.Error("the namespace is still there")
	}
	if _, err := os.Stat(Path(name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its file: %v, want it gone", err)
	}
}

func TestDoNewGivesCommandsItsNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	etc := t.TempDir()
	if err := os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte("nameserver 10.9.8.7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := DoNew(func(path string) error {
		if err := Mounts(etc); err != nil {
			return err
		}
		want := inode(t, path)
		if want == inode(t, "/proc/self/ns/net") {
			t.Error("the path is the caller's namespace")
		}
		out, err := exec.Command("sh", "-c", "readlink /proc/self/ns/net; cat /etc/resolv.conf").Output()
		if have := string(out); have != want+"\nnameserver 10.9.8.7\n" {
			t.Errorf("the command saw %q, want %s and its resolver", have, want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
