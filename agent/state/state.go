// Package state is what an agent keeps on its disk: its identity, the last good view, and which ENIs its user attached
// where. Every file is 0600 in a 0700 directory and replaced as a whole (temporary file, fsync, rename, fsync of the
// directory), so a crash leaves either the old or the new content. Each carries a checksum; of what nobody else knows there are
// two copies.
package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/failpoint"
)

// Dir is an agent's data directory.
type Dir string

// Names of the files.
const (
	identityFile    = "identity.json"
	viewFile        = "view.json"
	attachmentsFile = "attachments.json"
	wireKeyFile     = "wireguard.key"
	logKeyFile      = "flow-log.key"
)

// Make creates the directory, 0700, and tightens it if it was laxer. One of another user is refused: its owner could put other files
// in the place of those there.
func (d Dir) Make() error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(string(d), &st); err != nil {
		return fmt.Errorf("data directory: %s: %w", d, err)
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("data directory: %s belongs to the user %d: run this as that user, or look what is there and run chown -R %d on it", d,
			st.Uid, os.Geteuid())
	}
	if st.Mode&0o777 == 0o700 {
		return nil // what is on a disk that is read-only can be read at least
	}
	if err := os.Chmod(string(d), 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
}

// Path is the path of a file in the directory.
func (d Dir) Path(name string) string { return filepath.Join(string(d), name) }

// WireKey is the path of the WireGuard private key. It never leaves the node.
func (d Dir) WireKey() string { return d.Path(wireKeyFile) }

// Write replaces a file as a whole.
func (d Dir) Write(name string, data []byte) (err error) {
	f, err := os.CreateTemp(string(d), "."+name+".*")
	if err != nil {
		return d.unwritten(name, err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return d.unwritten(name, err)
	}
	failpoint.Here("state.written")
	if err = os.Rename(f.Name(), d.Path(name)); err != nil {
		return d.unwritten(name, err)
	}
	failpoint.Here("state.renamed")
	return syncDir(string(d))
}

// unwritten says why a file could not be replaced, and what to do.
func (d Dir) unwritten(name string, err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		err = fmt.Errorf("%w: make room in the file system of %s", err, d)
	case errors.Is(err, unix.EROFS):
		err = fmt.Errorf("%w: mount the file system of %s so that it can be written", err, d)
	case errors.Is(err, unix.EFBIG):
		err = fmt.Errorf("%w: raise the limit on the size of files (LimitFSIZE= of the unit, ulimit -f)", err)
	case errors.Is(err, unix.EIO):
		err = fmt.Errorf("%w: the disk under %s fails: see the kernel's log", err, d)
	}
	return fmt.Errorf("write %s: %w", name, err)
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
