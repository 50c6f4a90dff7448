package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/netns"
)

// errEnded says that a process is gone, or is going.
var errEnded = errors.New("process has ended")

// process is one that is held, so that its number is not another's meanwhile.
type process struct {
	pid  int
	fd   int // pidfd
	root int // its root directory, O_PATH
}

// processOf is the number in a path such as /proc/4711/ns/net; ok is false for any other path.
func processOf(path string) (pid int, ok bool) {
	rest, ok := strings.CutPrefix(path, "/proc/")
	number, of := strings.CutSuffix(rest, "/ns/net")
	pid, err := strconv.Atoi(number)
	return pid, ok && of && err == nil && pid > 0
}

// openProcess holds a process. errEnded if there is none of that number.
func openProcess(pid int) (*process, error) {
	p := &process{pid: pid, fd: -1, root: -1}
	var err error
	if p.fd, err = unix.PidfdOpen(pid, 0); err == nil {
		p.root, err = unix.Open(p.proc("root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err == nil { // what was opened by number is of the process that is held
		err = unix.PidfdSendSignal(p.fd, 0, nil, 0)
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("process %d: %w", pid, known(err))
	}
	return p, nil
}

// errHidden says that the agent may not look at a process, which then has more rights than the agent.
var errHidden = errors.New("process may not be looked at")

// known tells a process that is gone (EINVAL is a zombie's), or hidden, from other failures.
func known(err error) error {
	switch {
	case errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL):
		return errEnded
	case errors.Is(err, fs.ErrPermission):
		return errHidden
	}
	return err
}

func (p *process) close() {
	for _, fd := range []int{p.fd, p.root} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (p *process) proc(name string) string { return procFile(p.pid, name) }

func procFile(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

// Bounds of what is read of mountinfo, in bytes. Of a mount namespace: a host with 50,000 mounts is below it. Of one of
// another user namespace, where any user mounts what he likes, and of all of those together.
const (
	maxMounts        = 16 << 20
	maxForeignMounts = 1 << 20
	maxForeign       = 16 << 20
)

// scanner reads mounts of processes, of other user namespaces no more than is left.
type scanner struct {
	left int64
	own  map[fileID]bool // mount namespaces that were asked whose they are
}

func newScanner() *scanner { return &scanner{left: maxForeign, own: map[fileID]bool{}} }

// owned tells whether the mount namespace mnt of a process belongs to the agent's user namespace, so that only root mounts
// there.
func (s *scanner) owned(pid int, mnt fileID) (bool, error) {
	if owned, known := s.own[mnt]; known {
		return owned, nil
	}
	owned, err := ownsMounts(pid)
	if err == nil {
		s.own[mnt] = owned
	}
	return owned, err
}

// each hands out what a process sees mounted. errEnded, errHidden, errCrowded.
func (s *scanner) each(pid int, owned bool, each func(mountPoint) error) error {
	most := int64(maxMounts)
	if !owned {
		if most = min(maxForeignMounts, s.left); most <= 0 {
			return errCrowded
		}
	}
	f, err := os.Open(procFile(pid, "mountinfo"))
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, known(err))
	}
	defer f.Close()
	read, err := scanMounts(f, most, each)
	if !owned {
		s.left -= read
	}
	return known(err)
}

// ownsMounts tells whether the mount namespace of a process belongs to the agent's user namespace; errEnded, errHidden.
func ownsMounts(pid int) (bool, error) {
	f, err := os.Open(procFile(pid, "ns/mnt"))
	if err != nil {
		return false, known(err)
	}
	defer f.Close()
	owner, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if errors.Is(err, fs.ErrPermission) { // neither the agent's nor one below it
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("user namespace of the mounts of process %d: %w", pid, err)
	}
	defer unix.Close(owner)
	var its, ours unix.Stat_t
	if err := errors.Join(unix.Fstat(owner, &its), unix.Stat("/proc/self/ns/user", &ours)); err != nil {
		return false, fmt.Errorf("user namespace of the mounts of process %d: %w", pid, err)
	}
	return its.Dev == ours.Dev && its.Ino == ours.Ino, nil
}

// ofOurUser tells whether a process is in the agent's user namespace. One of another may have chosen its root directory.
func ofOurUser(pid int) (bool, error) {
	its, err := fileOf(pid, "ns/user")
	if err != nil || its == (fileID{}) {
		return false, err
	}
	ours, err := fileOf(os.Getpid(), "ns/user")
	return its == ours, err
}

// openDir opens a directory below the process's root as the process would, without following a link out of it: the process
// may have put any there.
func (p *process) openDir(path string) (fd int, err error) {
	return unix.Openat2(p.root, "./"+path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// mounted is the id of the mount that an open file is in.
func mounted(fd int) (id uint64, err error) {
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st)
	return st.Mnt_id, err
}

// among runs fn among the process's mounts, on a thread that ends afterwards. before runs on the same thread, among mounts
// that are a copy of the agent's and nobody else's.
func (p *process) among(before, fn func() error) error {
	return netns.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("mounts of one's own: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mounts of one's own: %w", err)
		}
		if err := before(); err != nil {
			return err
		}
		if err := unix.Setns(p.fd, unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter mounts of process %d: %w", p.pid, known(err))
		}
		return fn()
	})
}

// processes are the numbers of all processes.
func processes() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out, nil
}

// fileOf tells a file of a process, such as ns/mnt, from others; zero when the process has ended or is hidden.
func fileOf(pid int, name string) (id fileID, err error) {
	var st unix.Stat_t
	err = known(unix.Stat(procFile(pid, name), &st))
	if errors.Is(err, errEnded) || errors.Is(err, errHidden) {
		return fileID{}, nil
	} else if err != nil {
		return fileID{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	return fileID{st.Dev, st.Ino}, nil
}

type fileID struct{ device, inode uint64 }

// descends tells whether a process is another's child, or a child's.
func descends(pid, from int) bool {
	for pid > 1 {
		if pid == from {
			return true
		}
		text, err := os.ReadFile(procFile(pid, "stat"))
		if err != nil {
			return false
		}
		// pid (name) state ppid …, and a name may hold anything.
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(f) < 2 {
			return false
		}
		if pid, err = strconv.Atoi(f[1]); err != nil {
			return false
		}
	}
	return false
}
