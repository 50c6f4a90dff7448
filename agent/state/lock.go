package state

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/failpoint"
)

// lockFile stays when it is unlocked: two owners could hold two files of its name otherwise.
const lockFile = "lock"

// ErrLocked says that another process works on the directory.
var ErrLocked = errors.New("another process works with this data directory")

// Lock makes the caller the directory's only owner until unlock, or until its process ends. It does not wait for another owner, ErrLocked,
// but for who looks whether there is one.
func (d Dir) Lock() (unlock func(), err error) {
	f, err := os.OpenFile(d.Path(lockFile), os.O_RDWR|os.O_CREATE|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EISDIR) {
		return nil, fmt.Errorf("lock data directory: %w: it is not of ours, remove it", err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := take(f); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("%s: %w", string(d), err)
	}
	if err := d.sweep(); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// lookWait is how long Lock waits at most: Locked holds the file for some system calls, however often it is asked.
const lookWait = 500 * time.Millisecond

func take(f *os.File) error {
	end := time.NewTimer(lookWait)
	defer end.Stop()
	again := time.NewTicker(lookWait / 50)
	defer again.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-again.C:
		case <-end.C:
			return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		}
	}
}

// Locked tells whether a process works on the directory now. It changes nothing there; a directory without lock has no owner.
func (d Dir) Locked() bool {
	f, err := os.OpenFile(d.Path(lockFile), os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// Forget removes what makes this machine a node: what it was told first, who it is last, so that a call that was
// interrupted can be made again. Other files stay; the directory goes when it is empty.
func (d Dir) Forget() error {
	for _, name := range []string{joiningFile, attachmentsFile + copySuffix, attachmentsFile, viewFile, keyUseFile, nextKeyFile, wireKeyFile,
		logKeyFile, identityFile + copySuffix, identityFile, lockFile} {
		if err := os.Remove(d.Path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("forget node: %w", err)
		}
		failpoint.Here("forget.file")
	}
	if err := os.Remove(string(d)); err == nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return syncDir(string(d))
}
