package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// restorer unmounts resolver files from processes.
type restorer struct {
	which owned
	// nets are inodes of network namespaces that are looked into though the mounts there may be anybody's. Elsewhere only
	// mounts of the agent's own user namespace are looked at: no user can make those, or add to their number.
	nets map[uint64]bool
}

// maxUnmounts is how many mounts with a mark are taken away of one process: a copy of /etc has one more.
const maxUnmounts = 64

// run looks at every process. What cannot be taken away goes with its processes, and is no reason to fail: a copy that is
// locked, of a sandbox's user namespace as browsers and rootless engines make them, or one that another mount covers. Of the
// latter ErrKept tells.
func (r restorer) run() error {
	all, err := processes()
	if err != nil {
		return err
	}
	scan := newScanner()
	type view struct {
		mnt  fileID
		root string
	}
	looked := map[view]bool{}
	var errs []error
	for _, pid := range all {
		mnt, err := fileOf(pid, "ns/mnt")
		if err != nil {
			return err
		}
		// The link is read and not followed: a root directory's file system may not answer.
		root, err := os.Readlink(procFile(pid, "root"))
		if err != nil || mnt == (fileID{}) || looked[view{mnt, root}] {
			continue // it ended, or is hidden
		}
		owned, err := scan.owned(pid, mnt)
		if err != nil {
			if !passing(err) {
				errs = append(errs, err)
			}
			continue
		}
		if !owned {
			if in, err := fileOf(pid, "ns/net"); err != nil || !r.nets[in.inode] {
				continue
			}
		}
		looked[view{mnt, root}] = true
		if err := r.process(scan, pid, owned); err != nil && owned && !passing(err) {
			errs = append(errs, fmt.Errorf("process %d: %w: %w", pid, ErrKept, err))
		}
	}
	return errors.Join(errs...)
}

// passing tells the errors of a process that is gone, or may not be looked at.
func passing(err error) bool { return errors.Is(err, errEnded) || errors.Is(err, errHidden) }

func (r restorer) process(scan *scanner, pid int, owned bool) error {
	var mounts []mountPoint
	err := scan.each(pid, owned, func(m mountPoint) error {
		if k, ok := markOf(m); ok && r.which(k.eni, k.host) {
			if len(mounts) == maxUnmounts {
				mounts = mounts[1:] // the topmost are last
			}
			mounts = append(mounts, m)
		}
		return nil
	})
	if len(mounts) == 0 {
		return err
	}
	p, err2 := openProcess(pid)
	if err2 != nil {
		return err2
	}
	defer p.close()
	errs := []error{err}
	for _, m := range slices.Backward(mounts) { // the topmost first
		errs = append(errs, p.unmount(m, owned))
	}
	return errors.Join(errs...)
}

// errCovered says that a mount cannot be reached by its path.
var errCovered = errors.New("another mount covers it")

// unmount takes a mount of ours away and, if its mark is to be believed, the empty file that was made for it.
func (p *process) unmount(m mountPoint, owned bool) error {
	dir, name := filepath.Split(m.path)
	k, _ := markOf(m)
	parent, err := p.openDir(dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(parent)
	return p.among(func() error { return nil }, func() error {
		fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", m.path, err)
		}
		id, err := mounted(fd)
		unix.Close(fd) // it would keep the mount
		if err == nil && id != m.id {
			err = errCovered
		}
		if err == nil {
			err = unix.Fchdir(parent)
		}
		if err == nil {
			err = unix.Unmount(name, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		if err == nil && k.made && owned {
			err = removePlace(parent)
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", m.path, err)
		}
		return nil
	})
}
