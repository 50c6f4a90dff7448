package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

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

// target is a process with mounts to be taken away.
type target struct {
	pid    int
	owned  bool
	mounts []mountPoint
}

// maxTargets is how many processes with mounts of another user namespace are gone to, as any user can start more.
const maxTargets = 64

// run looks at every process, and goes to those at once that have such mounts: no one holds another up. What cannot be taken
// away goes with its processes, and is no reason to fail: a copy that is locked, of a sandbox's user namespace as browsers
// and rootless engines make them, or one that another mount covers. Of the latter, and of processes that do not answer,
// ErrKept tells.
func (r restorer) run() error {
	targets, err := r.find()
	errs := []error{err}
	var gone []*errand
	for _, t := range targets {
		gone = append(gone, begin(processResolver{}, func(*errand) (string, error) { return "", r.unmount(t) }))
	}
	late := time.NewTimer(errandPatience)
	defer late.Stop()
	over := false
	for i, e := range gone {
		if !over {
			select {
			case <-e.done:
			case <-late.C:
				over = true
			}
		}
		err := errNoAnswer
		if e.ended() {
			err = e.err
		}
		if err != nil && targets[i].owned && !passing(err) {
			errs = append(errs, fmt.Errorf("process %d: %w: %w", targets[i].pid, ErrKept, err))
		}
	}
	return errors.Join(errs...)
}

var errNoAnswer = errors.New("its file system does not answer")

// find reads the mounts of processes; nothing of a process is opened, as that may not answer.
func (r restorer) find() (out []target, err error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	type view struct {
		mnt  fileID
		root string
	}
	scan, looked, foreign := newScanner(), map[view]bool{}, 0
	var errs []error
	for _, pid := range all {
		mnt, err := fileOf(pid, "ns/mnt")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		root, err := os.Readlink(procFile(pid, "root")) // it is not followed
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
			if in, err := fileOf(pid, "ns/net"); err != nil || !r.nets[in.inode] || foreign == maxTargets {
				continue
			}
		}
		mounts, err := r.of(scan, pid, owned)
		looked[view{mnt, root}] = !passing(err) // another process may have the same
		if err != nil && owned && !passing(err) {
			errs = append(errs, fmt.Errorf("process %d: %w: %w", pid, ErrKept, err))
		}
		if len(mounts) > 0 {
			out = append(out, target{pid, owned, mounts})
			if !owned {
				foreign++
			}
		}
	}
	return out, errors.Join(errs...)
}

// passing tells the errors of a process that is gone, or may not be looked at.
func passing(err error) bool { return errors.Is(err, errEnded) || errors.Is(err, errHidden) }

// of lists the mounts that are to be taken away of a process, the topmost last.
func (r restorer) of(scan *scanner, pid int, owned bool) (mounts []mountPoint, err error) {
	err = scan.each(pid, owned, func(m mountPoint) error {
		if k, ok := markOf(m); ok && r.which(k.eni, k.host) {
			if len(mounts) == maxUnmounts {
				mounts = mounts[1:]
			}
			mounts = append(mounts, m)
		}
		return nil
	})
	return mounts, err
}

func (r restorer) unmount(t target) error {
	p, err := openProcess(t.pid)
	if err != nil {
		return err
	}
	defer p.close()
	var errs []error
	for _, m := range slices.Backward(t.mounts) {
		errs = append(errs, p.unmount(m, t.owned))
	}
	if err = errors.Join(errs...); err == nil {
		return nil
	}
	// Those of a peer, and those whose place was removed among other mounts, are gone by themselves.
	if left, err := r.of(newScanner(), t.pid, t.owned); err == nil && len(left) == 0 {
		return nil
	}
	return err
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
