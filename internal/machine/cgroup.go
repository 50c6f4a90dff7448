//go:build linux

package machine

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	groupPrefix = "culvert-machine-"
	// emptyWithin bounds the wait for killed processes to leave a cgroup.
	emptyWithin = 10 * time.Second
)

// cgroup is where a machine's processes are; to the machine it is the root.
type cgroup struct {
	path     string
	commands int // descriptor of the child that commands from outside run in
}

// hierarchy finds where the unified hierarchy is mounted: /sys/fs/cgroup, or below it on hosts that still have version 1
// as well.
func hierarchy() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("the unified cgroup hierarchy is not mounted: mount -t cgroup2 cgroup2 DIRECTORY")
}

// newCgroup makes a machine's cgroup, and removes those of tests that are gone.
func newCgroup() (*cgroup, error) {
	top, err := hierarchy()
	if err != nil {
		return nil, err
	}
	sweep(top)
	random := make([]byte, 4)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	g := &cgroup{path: filepath.Join(top, fmt.Sprintf("%s%d-%s", groupPrefix, os.Getpid(), hex.EncodeToString(random)))}
	// systemd leaves cgroups alone that it has not made.
	commands := filepath.Join(g.path, "commands")
	if err := os.MkdirAll(commands, 0o755); err != nil {
		return nil, err
	}
	if g.commands, err = syscall.Open(commands, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0); err != nil {
		return nil, errors.Join(err, removeGroup(g.path))
	}
	return g, nil
}

// sweep removes the cgroups of machines whose test process no longer exists. Its processes ended with it.
func sweep(top string) {
	old, _ := filepath.Glob(filepath.Join(top, groupPrefix+"*"))
	for _, dir := range old {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), groupPrefix), "-")
		if _, err := strconv.Atoi(pid); err != nil {
			continue
		}
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, fs.ErrNotExist) {
			_ = removeGroup(dir)
		}
	}
}

// remove kills what is still in the cgroup and removes it.
func (g *cgroup) remove() error {
	return errors.Join(syscall.Close(g.commands), removeGroup(g.path))
}

func removeGroup(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil {
		return err
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	end := time.NewTimer(emptyWithin)
	defer end.Stop()
	for {
		err := removeTree(dir)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-end.C:
			return fmt.Errorf("cgroup %s is not empty %v after its processes were killed: %w", dir, emptyWithin, err)
		}
	}
}

// removeTree removes cgroups, the innermost first. They hold nothing but each other.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		if err := syscall.Rmdir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", d, err)
		}
	}
	return nil
}
