package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNone says that there is no network namespace at a path.
var ErrNone = errors.New("no such network namespace")

// Namespace is an open network namespace. Until Close it lives, and no other has its inode.
type Namespace struct {
	// Cookie is the kernel's number for it, never given to another until the machine boots again. An inode is.
	Cookie uint64
	Inode  uint64
	file   *os.File
}

// Open opens what is at a path now.
func Open(path string) (*Namespace, error) {
	f, err := OpenFile(path)
	if err != nil {
		return nil, err
	}
	n := &Namespace{file: f}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return nil, errors.Join(fmt.Errorf("%s is no network namespace: %w", path, ErrNone), n.Close())
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil {
		n.Cookie, err = cookie(f)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("look at namespace %s: %w", path, err), n.Close())
	}
	n.Inode = st.Ino
	return n, nil
}

// OpenFile opens the namespace at a path, and nothing else (ErrNone): to open a FIFO would wait for its writer, and a device may act on it.
func OpenFile(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, none(path, &fs.PathError{Op: "open", Path: path, Err: err})
	}
	defer unix.Close(fd)
	var at unix.Statfs_t
	if err := unix.Fstatfs(fd, &at); err != nil {
		return nil, fmt.Errorf("look at %s: %w", path, err)
	}
	if at.Type != unix.NSFS_MAGIC {
		return nil, fmt.Errorf("%s is no network namespace: %w", path, ErrNone)
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, none(path, err)
	}
	return f, nil
}

// Do calls f on a thread that is in the namespace.
func (n *Namespace) Do(f func() error) error {
	return OnThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace: %w", err)
		}
		return f()
	})
}

// Close lets it go: it ends when nothing else holds it.
func (n *Namespace) Close() error { return n.file.Close() }

// Inode is that of what is at a path now.
func Inode(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, none(path, err)
	}
	return st.Ino, nil
}

func none(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%s: %w", path, ErrNone)
	}
	return fmt.Errorf("open namespace: %w", err)
}

// cookie asks a socket inside.
func cookie(ns *os.File) (cookie uint64, err error) {
	err = OnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter: %w", err)
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	return cookie, err
}

// Keeper is who decides which namespace a path leads to.
type Keeper int

// Keepers.
const (
	Root    Keeper = iota + 1 // every directory on the way is root's alone, as that of named namespaces
	Others                    // other users may change a directory on the way
	Process                   // the way leads through /proc: a process, and later another of its number
)

// maxLinks is how many symbolic links a path may have; the kernel's figure.
const maxLinks = 40

// KeptBy follows a path as it is now, symbolic links included.
func KeptBy(path string) (Keeper, error) {
	keeper, at, rest := Root, "/", split(path)
	for links := 0; ; {
		dir, err := keeperOf(at)
		if err != nil {
			return 0, none(path, err)
		}
		if keeper = max(keeper, dir); dir == Process || len(rest) == 0 {
			return keeper, nil
		}
		next := filepath.Join(at, rest[0])
		rest = rest[1:]
		info, err := os.Lstat(next)
		if err != nil {
			return 0, none(path, err)
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(next)
			if links++; err == nil && links > maxLinks {
				err = unix.ELOOP
			}
			if err != nil {
				return 0, none(path, err)
			}
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = append(split(target), rest...)
		case info.IsDir():
			at = next
		case len(rest) == 0:
			return keeper, nil
		default:
			return 0, none(path, unix.ENOTDIR)
		}
	}
}

func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

func keeperOf(dir string) (Keeper, error) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Statfs(dir, &fs), unix.Stat(dir, &st)); err != nil {
		return 0, err
	}
	switch {
	case fs.Type == unix.PROC_SUPER_MAGIC:
		return Process, nil
	case st.Uid != 0 || st.Mode&0o022 != 0:
		return Others, nil
	}
	return Root, nil
}
