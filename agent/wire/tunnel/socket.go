package tunnel

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what fits a sockaddr_un with its final zero (unix(7)), less the suffix under which the socket is
// made.
const maxSocketPath = 107 - len(freshSuffix)

// runDirectory is Culvert's own, where sockets are by default.
const runDirectory = "/run/culvert"

const (
	lockSuffix  = ".lock"
	freshSuffix = ".new"
)

// controlSocket is the listening socket and the lock that makes this process its only owner.
type controlSocket struct {
	path     string
	lock     *os.File
	listener *net.UnixListener
}

// listenControl takes the lock beside the path, which the kernel releases when a process dies, and puts a socket of
// mode 0600 in place of whatever a dead process left.
func listenControl(path string) (*controlSocket, error) {
	if err := haveDirectory(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("listen on control socket %s: %w", path, err)
	}
	lock, err := lockSocket(path)
	if err != nil {
		return nil, err
	}
	listener, err := listenUnix(path)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("listen on control socket %s: %w", path, err)
	}
	return &controlSocket{path: path, lock: lock, listener: listener}, nil
}

// haveDirectory makes the directory if it is runDirectory. Any other that is missing is taken for a mistake in its name.
func haveDirectory(dir string) error {
	if dir == runDirectory {
		if err := os.Mkdir(dir, 0o700); !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s does not exist: make it, or choose another path: %w", dir, fs.ErrNotExist)
	}
	if err == nil && !info.IsDir() {
		return fmt.Errorf("%s is no directory: choose another path", dir)
	}
	return err
}

func lockSocket(path string) (*os.File, error) {
	lock, err := os.OpenFile(path+lockSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock control socket: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		lock.Close()
		return nil, fmt.Errorf("lock control socket %s: another tunnel runs with it: stop it, or choose another path: %w",
			path, err)
	} else if err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock control socket %s: %w", path, err)
	}
	return lock, nil
}

// listenUnix makes the socket under another name, so that it never shows with a wider mode, and moves it into place.
func listenUnix(path string) (*net.UnixListener, error) {
	if conn, err := net.Dial("unix", path); err == nil { // someone who knows nothing of the lock
		conn.Close()
		return nil, errors.New("another process listens on it: stop it, or choose another path")
	}
	fresh := path + freshSuffix
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(fresh, 0o600)); err != nil {
		listener.Close()
		return nil, err
	}
	if err := os.Rename(fresh, path); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}

// remove ends listening and removes the socket; the lock file stays, or two owners could hold two files of its name.
func (s *controlSocket) remove() {
	_ = os.Remove(s.path)
	_ = s.listener.Close()
	_ = s.lock.Close()
}
