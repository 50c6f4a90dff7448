// Package netns runs code and commands inside named network namespaces, the ones that `ip netns` lists.
//
// It enters them with setns on an operating-system thread of its own and not through `ip netns exec`, because that
// mounts a fresh /sys over the one that carries bpffs: pinned BPF objects would be invisible to the command.
package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is where named namespaces are bound, by the convention of iproute2.
const Dir = "/run/netns"

// ConfigDir is where files that replace those of /etc inside one namespace lie, by the same convention.
const ConfigDir = "/etc/netns"

// Path turns what a user writes into a path: a name becomes Dir/NAME, anything with a slash stays.
func Path(name string) string {
	if filepath.Base(name) != name {
		return name
	}
	return filepath.Join(Dir, name)
}

// ProcessPath is the namespace that a process lives in.
func ProcessPath(pid int) string {
	return filepath.Join("/proc", strconv.Itoa(pid), "ns", "net")
}

// Exists reports whether the path is a network namespace that can be entered.
func Exists(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// Do calls f on a thread that is in the namespace and returns what f returns. The thread ends afterwards, so nothing
// else ever runs there. Goroutines that f starts are outside again.
func Do(path string, f func() error) error {
	return OnThread(func() error {
		if err := enter(path); err != nil {
			return err
		}
		return f()
	})
}

// OnThread calls f on a thread that ends afterwards. It is never the process's main thread: that one cannot end, and
// would keep the namespaces that f enters, and show them as those of the process.
func OnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- OnThread(f) // which gets another one, as this one is taken
			return
		}
		done <- f()
	}()
	return <-done
}

func enter(path string) error {
	ns, err := OpenFile(path)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", path, err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", path, err)
	}
	return nil
}

// Start starts a command in the namespace; mounts stay those of the caller.
func Start(path string, cmd *exec.Cmd) error {
	return Do(path, cmd.Start)
}

// Add makes a named namespace with loopback up, unless it is there.
func Add(name string) error {
	if !Exists(Path(name)) {
		if err := run("ip", "netns", "add", name); err != nil {
			return err
		}
	}
	return run("ip", "-n", name, "link", "set", "lo", "up")
}

// Remove deletes a name; the namespace itself goes when nothing lives in it. A name that is not there is fine.
func Remove(name string) error {
	path := Path(name)
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove namespace %s: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove namespace %s: %w", name, err)
	}
	return nil
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// DoNew calls f on a thread in a new namespace without a name, of which it tells the path, and in mounts of its own.
// Commands that f starts are in both. The namespace goes when f and all of them have ended.
func DoNew(f func(path string) error) error {
	return OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make namespace: %w", err)
		}
		return f(fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()))
	})
}

// Loopback puts the loopback interface of the calling thread's namespace up.
func Loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err == nil {
		request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
	}
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// Exec replaces this process by a command inside the namespace, with files of etcDir (such as resolv.conf) bound over
// those of the same name in /etc and /sys showing the namespace's devices. It returns only on failure.
func Exec(path, etcDir string, argv []string) error {
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	return Do(path, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make mount namespace: %w", err)
		}
		if err := Mounts(etcDir); err != nil {
			return err
		}
		return fmt.Errorf("run %s: %w", program, unix.Exec(program, argv, os.Environ()))
	})
}

// Mounts prepares mounts of the calling thread's own, as Exec describes. Only inside DoNew, or after an unshare.
func Mounts(etcDir string) error {
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Unmount("/sys", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount /sys: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	entries, err := os.ReadDir(etcDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read %s: %w", etcDir, err)
	}
	for _, entry := range entries {
		from, to := filepath.Join(etcDir, entry.Name()), filepath.Join("/etc", entry.Name())
		if real, err := filepath.EvalSymlinks(to); err == nil {
			to = real
		}
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s over %s: %w", from, to, err)
		}
	}
	return nil
}

// Processes lists the ids of the processes whose main thread is in the namespace, in ascending order.
func Processes(path string) ([]int, error) {
	want, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("look at namespace %s: %w", path, err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		have, err := os.Stat(ProcessPath(pid)) // fails for processes that are ending
		if err == nil && os.SameFile(want, have) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
