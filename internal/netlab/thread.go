//go:build linux

package netlab

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ifaFlagNoDAD is IFA_F_NODAD of linux/if_addr.h.
const ifaFlagNoDAD = unix.IFA_F_NODAD

// inNamespace runs fn on a thread of its own inside the namespace at path. ended reports that fn ended its goroutine
// (t.Fatal does). A thread that cannot return to where it came from is given up: it dies with its goroutine.
func inNamespace(path string, fn func() error) (err error, ended bool) {
	done := make(chan struct{})
	ended = true
	go func() {
		defer close(done)
		runtime.LockOSThread()
		home, openErr := os.Open("/proc/thread-self/ns/net")
		if openErr != nil {
			err, ended = openErr, false
			return
		}
		defer home.Close()
		there, openErr := os.Open(path)
		if openErr != nil {
			err, ended = openErr, false
			runtime.UnlockOSThread()
			return
		}
		defer there.Close()
		if setErr := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); setErr != nil {
			err, ended = fmt.Errorf("enter %s: %w", path, setErr), false
			runtime.UnlockOSThread()
			return
		}
		defer func() {
			if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
				err = errors.Join(err, fmt.Errorf("leave %s: %w", path, back))
				return
			}
			runtime.UnlockOSThread()
		}()
		err = fn()
		ended = false
	}()
	<-done
	return err, ended
}

// netlink runs fn with a handle to the namespace.
func (n *Namespace) netlink(fn func(*netlink.Handle) error) error {
	fd, err := netns.GetFromPath(n.Path())
	if err != nil {
		return err
	}
	defer fd.Close()
	h, err := netlink.NewHandleAt(fd, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	return fn(h)
}
