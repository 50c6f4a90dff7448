package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// processResolver mounts a resolver file over /etc/resolv.conf of a process that an attachment names, among the mounts
// of that process. It writes into none of the process's files. The file is read-only and in a file system of its own,
// whose source is its mark: what there is is read from the kernel each time.
type processResolver struct {
	pid  int
	spec WorkloadSpec
	host uint64 // see mark
}

const etcResolvConf = "/etc/" + resolvConf

// set makes the mount unless it is there. The notice says why a process has none though nothing failed: it would be seen
// by others, or has no place.
func (r processResolver) set(e *errand) (notice string, err error) {
	p, err := openProcess(r.pid)
	if errors.Is(err, errEnded) {
		return "", nil // and the attachment ends with it
	} else if err != nil {
		return "", err
	}
	defer p.close()
	in, err := fileOf(r.pid, "ns/net")
	if err != nil || in.inode != r.spec.NetnsInode {
		return "", err // another process has the number by now
	}
	notice, err = r.setIn(e, p)
	if errors.Is(err, errEnded) {
		return "", nil
	}
	return notice, err
}

// setIn takes at most one file of ours that says something else away, and mounts one. Whoever may mount there may stack any
// number of them.
func (r processResolver) setIn(e *errand, p *process) (notice string, err error) {
	etc, err := p.openDir("/etc")
	if etc >= 0 {
		defer unix.Close(etc)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return "it has no directory /etc: make one, with an empty file resolv.conf", nil
	} else if err != nil {
		return "", fmt.Errorf("open /etc: %w", err)
	}
	owned, err := ownsMounts(r.pid)
	if err != nil {
		return "", err
	}
	text := resolverText(r.spec.ENI, 0, 0, r.spec.Resolver, r.spec.Search)
	want := mark{eni: r.spec.ENI, sum: sumOf(text), host: r.host}
	for range 2 {
		place, id, err := openAt(etc)
		if err != nil {
			return "", fmt.Errorf("open %s: %w", etcResolvConf, err)
		}
		at, covered, err := r.look(id, owned)
		have, ours := markOf(at)
		stale := ours && have.eni == want.eni && have.sum != want.sum
		switch {
		case errors.Is(err, errCrowded):
			notice, err = "it has more mounts than are looked at: have it unmount some", nil
		case err != nil || stale || ours:
		case covered != "":
			notice = "another mount covers its resolver file, which is at " + covered
		default:
			want.made = place < 0
			if notice, err = p.seenByOthers(at); notice == "" && err == nil {
				notice, err = r.mount(e, p, etc, place, id, want, text)
			}
		}
		if place >= 0 {
			unix.Close(place) // it would keep the mount
		}
		if err != nil || !stale {
			return notice, err
		}
		if err := p.unmount(at, owned); err != nil {
			return "", err
		}
	}
	return "several old resolver files of its interface are mounted over one another: they are taken away one by one", nil
}

// look finds the mount with an id, and where a resolver file of the ENI is, if anywhere.
func (r processResolver) look(id uint64, owned bool) (at mountPoint, marked string, err error) {
	err = newScanner().each(r.pid, owned, func(m mountPoint) error {
		if m.id == id {
			at = m
		}
		if k, ok := markOf(m); ok && k.eni == r.spec.ENI {
			marked = m.path
		}
		return nil
	})
	if err == nil && at.id != id {
		err = fmt.Errorf("%s of the process is in no mount that it sees", etcResolvConf)
	}
	return at, marked, err
}

// openAt opens resolv.conf in a directory, be it a link, and tells the mount that it is in. If there is none the place is
// -1, and the mount is the directory's.
func openAt(etc int) (place int, id uint64, err error) {
	place, err = unix.Openat(etc, resolvConf, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		id, err = mounted(etc)
		return -1, id, err
	} else if err != nil {
		return -1, 0, err
	}
	id, err = mounted(place)
	return place, id, err
}

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

// mount puts the file at place, which was found to be in mount id; -1: where etc has none.
func (r processResolver) mount(e *errand, p *process, etc, place int, id uint64, m mark, text string) (notice string, err error) {
	if m.made {
		if notice, err := mayMakePlace(r.pid); notice != "" || err != nil {
			return notice, err
		}
		switch place, err = makePlace(etc, id); {
		case errors.Is(err, unix.EROFS):
			return "it has no " + etcResolvConf + " and its root is read-only: put an empty file there", nil
		case err != nil:
			return "", fmt.Errorf("make a place for %s: %w", etcResolvConf, err)
		}
		defer unix.Close(place)
	}
	tree := -1
	defer func() {
		if tree >= 0 {
			unix.Close(tree)
		}
	}()
	err = p.among(func() (err error) {
		tree, err = resolverTree(m, text)
		return err
	}, func() error {
		flags := unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
		if err := e.change(func() error { return unix.MoveMount(tree, "", place, "", flags) }); err != nil {
			return fmt.Errorf("mount on %s: %w", etcResolvConf, err)
		}
		return nil
	})
	if err != nil && m.made {
		err = errors.Join(err, removePlace(etc))
	}
	return "", err
}

// mayMakePlace refuses where /etc may lead to any directory of the host that a user likes: with mounts, or a root directory,
// that are of a user namespace in which he is root.
func mayMakePlace(pid int) (notice string, err error) {
	mounts, err := ownsMounts(pid)
	if err == nil && mounts {
		mounts, err = ofOurUser(pid)
	}
	if err != nil || mounts {
		return "", err
	}
	return "it has no " + etcResolvConf + " and is in a user namespace of its own: put an empty file there", nil
}

// makePlace makes an empty file to mount on.
func makePlace(etc int, id uint64) (place int, err error) {
	fd, err := unix.Openat(etc, resolvConf, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return -1, err
	}
	if err := unix.Close(fd); err != nil {
		return -1, err
	}
	place, now, err := openAt(etc)
	if err == nil && (place < 0 || now != id) {
		err = errors.New("it was moved meanwhile")
	}
	if err != nil {
		if place >= 0 {
			unix.Close(place)
		}
		return -1, errors.Join(err, removePlace(etc))
	}
	return place, nil
}

// removePlace takes back what makePlace made, unless it has become something else.
func removePlace(etc int) error {
	var st unix.Stat_t
	err := unix.Fstatat(etc, resolvConf, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0 {
		err = unix.Unlinkat(etc, resolvConf, 0)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// resolverTree makes the file system with the file, and returns the file as a tree that is mounted nowhere. A tree is cloned
// from mounts of the thread only (Linux < 6.15), so the file system is mounted among those, which end with the thread.
func resolverTree(m mark, text string) (tree int, err error) {
	fsfd, err := unix.Fsopen(markType, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("make file system: %w", err)
	}
	defer unix.Close(fsfd)
	err = errors.Join(unix.FsconfigSetString(fsfd, "source", m.String()), unix.FsconfigSetString(fsfd, "size", "64k"),
		unix.FsconfigSetString(fsfd, "mode", "0755"))
	if err == nil {
		err = unix.FsconfigCreate(fsfd)
	}
	if err != nil {
		return -1, fmt.Errorf("make file system: %w", err)
	}
	top, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC,
		unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, fmt.Errorf("make file system: %w", err)
	}
	defer unix.Close(top)
	if err := writeAt(top, resolvConf, text); err != nil {
		return -1, fmt.Errorf("write resolver file: %w", err)
	}
	if err := unix.MoveMount(top, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return -1, fmt.Errorf("mount file system: %w", err)
	}
	if tree, err = unix.OpenTree(top, resolvConf, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
		return -1, fmt.Errorf("clone resolver file: %w", err)
	}
	readOnly := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, readOnly); err != nil {
		unix.Close(tree)
		return -1, fmt.Errorf("make resolver file read-only: %w", err)
	}
	return tree, nil
}

func writeAt(dir int, name, text string) error {
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.WriteString(text)
	return errors.Join(err, f.Chmod(0o644), f.Close())
}
