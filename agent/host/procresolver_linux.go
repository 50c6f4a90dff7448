package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// processResolver mounts a resolver file over /etc/resolv.conf of a process that an attachment names, among the mounts
// of that process. It writes into none of the process's files. The file is read-only and in a file system of its own,
// whose source is its mark: what there is is read from the kernel each time.
type processResolver struct {
	pid  int
	spec WorkloadSpec
}

const etcResolvConf = "/etc/" + resolvConf

// set makes the mount unless it is there. The notice says why a process has none though nothing failed: it would be seen
// by others, or has no place.
func (r processResolver) set() (notice string, err error) {
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
	notice, err = r.setIn(p)
	if errors.Is(err, errEnded) {
		return "", nil
	}
	return notice, err
}

func (r processResolver) setIn(p *process) (notice string, err error) {
	etc, err := p.openDir("/etc")
	if etc >= 0 {
		defer unix.Close(etc)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return "it has no directory /etc: make one, with an empty file resolv.conf", nil
	} else if err != nil {
		return "", fmt.Errorf("open /etc: %w", err)
	}
	place, id, err := openAt(etc)
	if place >= 0 {
		defer unix.Close(place)
	}
	if err != nil {
		return "", fmt.Errorf("open %s: %w", etcResolvConf, err)
	}
	mounts, err := p.mounts()
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(mounts, func(m mountPoint) bool { return m.id == id })
	if i < 0 {
		return "", fmt.Errorf("%s of the process is in no mount that it sees", etcResolvConf)
	}
	text := resolverText(r.spec.ENI, 0, r.spec.Resolver, r.spec.Search)
	want := mark{eni: r.spec.ENI, sum: sumOf(text), made: place < 0}
	if have, ok := markOf(mounts[i]); ok {
		if have.eni != want.eni || have.sum == want.sum {
			return "", nil // ours, or another attachment's, as with files of named namespaces
		}
		if err := p.unmount(mounts[i]); err != nil {
			return "", err
		}
		return r.setIn(p)
	}
	for _, m := range mounts {
		if k, ok := markOf(m); ok && k.eni == want.eni {
			return "another mount covers its resolver file, which is at " + m.path, nil
		}
	}
	if notice, err := p.seenByOthers(mounts[i]); notice != "" || err != nil {
		return notice, err
	}
	return r.mount(p, etc, place, id, want, text)
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
func (r processResolver) mount(p *process, etc, place int, id uint64, m mark, text string) (notice string, err error) {
	if m.made {
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
		if err := unix.MoveMount(tree, "", place, "", flags); err != nil {
			return fmt.Errorf("mount on %s: %w", etcResolvConf, err)
		}
		return nil
	})
	if err != nil && m.made {
		err = errors.Join(err, removePlace(etc))
	}
	return "", err
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

// seenByOthers says who else would see what is mounted in m: a process that is neither in the network namespace nor a child
// of this one. The host's own resolver is never covered.
func (p *process) seenByOthers(m mountPoint) (notice string, err error) {
	own, net, err := spacesOf(p.pid)
	if err != nil {
		return "", err
	}
	all, err := processes()
	if err != nil {
		return "", err
	}
	shares := map[fileID]bool{own: true} // mount namespaces in which it would be seen
	for _, pid := range slices.Concat([]int{os.Getpid(), 1}, all) {
		its, in, err := spacesOf(pid)
		if err != nil {
			return "", err
		}
		if its == (fileID{}) || in == net {
			continue
		}
		seen, known := shares[its]
		if !known {
			if seen, err = inGroup(pid, m.peers); err != nil {
				return "", err
			}
			shares[its] = seen
		}
		switch {
		case !seen:
		case pid == 1 || pid == os.Getpid():
			return "it has the mounts of the host: give it its own (a unit: PrivateMounts=yes)", nil
		case !descends(pid, p.pid):
			return fmt.Sprintf("process %d, which is outside, would see the file too: give each mounts of its own", pid), nil
		}
	}
	return "", nil
}

// spacesOf tells the namespaces of a process; zero if it has ended or is hidden.
func spacesOf(pid int) (mnt, net fileID, err error) {
	if mnt, err = fileOf(pid, "ns/mnt"); err == nil {
		net, err = fileOf(pid, "ns/net")
	}
	return mnt, net, err
}

// inGroup tells whether a process has a mount in a peer group.
func inGroup(pid int, group uint64) (bool, error) {
	if group == 0 {
		return false, nil
	}
	p := &process{pid: pid}
	mounts, err := p.mounts()
	if errors.Is(err, errEnded) || errors.Is(err, errHidden) {
		return false, nil
	}
	return slices.ContainsFunc(mounts, func(m mountPoint) bool { return m.peers == group }), err
}

// unmount takes a mount of ours away, and the empty file that was made for it.
func (p *process) unmount(m mountPoint) error {
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
			err = errors.New("another mount covers it")
		}
		if err == nil {
			err = unix.Fchdir(parent)
		}
		if err == nil {
			err = unix.Unmount(name, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		if err == nil && k.made {
			err = removePlace(parent)
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", m.path, err)
		}
		return nil
	})
}

// restoreProcesses unmounts the files of an ENI, of whatever process; "" means every ENI's. A mount whose processes have
// ended has ended with them.
func restoreProcesses(eni string) error {
	all, err := processes()
	if err != nil {
		return err
	}
	var errs []error
	looked := map[[2]fileID]bool{} // mount namespace and root directory
	for _, pid := range all {
		mnt, err := fileOf(pid, "ns/mnt")
		root, err2 := fileOf(pid, "root")
		if err := errors.Join(err, err2); err != nil || mnt == (fileID{}) || looked[[2]fileID{mnt, root}] {
			errs = append(errs, err)
			continue
		}
		looked[[2]fileID{mnt, root}] = true
		err = restoreProcess(pid, eni)
		if err != nil && !errors.Is(err, errEnded) && !errors.Is(err, errHidden) {
			errs = append(errs, fmt.Errorf("resolver of process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

func restoreProcess(pid int, eni string) error {
	mounts, err := (&process{pid: pid}).mounts()
	if err != nil {
		return err
	}
	mounts = slices.DeleteFunc(mounts, func(m mountPoint) bool {
		k, ok := markOf(m)
		return !ok || eni != "" && k.eni != eni
	})
	if len(mounts) == 0 {
		return nil
	}
	p, err := openProcess(pid)
	if err != nil {
		return err
	}
	defer p.close()
	var errs []error
	for _, m := range slices.Backward(mounts) { // the topmost first
		errs = append(errs, p.unmount(m))
	}
	return errors.Join(errs...)
}
