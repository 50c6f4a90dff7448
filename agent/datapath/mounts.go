package datapath

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// usualBPFFS is where hosts have their bpffs.
const usualBPFFS = "/sys/fs/bpf"

// The mounts of process 1 are the host's; those of a process in a sandbox, such as systemd's units have, end with it.
const (
	hostMounts = "/proc/1/ns/mnt"
	hostRoot   = "/proc/1/root"
	ownMounts  = "/proc/thread-self/ns/mnt"
)

// mountInHost mounts a bpffs at the host's usual place when this process has mounts of its own and the host has none there:
// pins in a mount of this process would be gone with it, and with them programs and flows. What the host mounts shows in a
// sandbox too. A host that cannot be looked at, as from a container, is left alone.
func mountInHost() error {
	host, err1 := os.Readlink(hostMounts)
	own, err2 := os.Readlink(ownMounts)
	if err1 != nil || err2 != nil || host == own {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(hostRoot+usualBPFFS, &st); err != nil || st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	return among(hostMounts, func() error { return mountAt(usualBPFFS) })
}

func mountAt(target string) error {
	if err := unix.Mount("bpf", target, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpffs at %s: %w", target, err)
	}
	return nil
}

// among runs fn among the mounts of a namespace, on a thread that ends with it.
func among(namespace string, fn func() error) error {
	f, err := os.Open(namespace)
	if err != nil {
		return fmt.Errorf("mounts of the host: %w", err)
	}
	defer f.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is of no other use
		// A thread shares its root and working directory with others until it says so.
		err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Setns(int(f.Fd()), unix.CLONE_NEWNS))
		if err != nil {
			done <- fmt.Errorf("enter the mounts of the host: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}
