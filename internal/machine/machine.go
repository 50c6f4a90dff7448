//go:build linux

package machine

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// bootWithin bounds a boot; it takes about two seconds on an idle machine.
	bootWithin = 60 * time.Second
	// runTimeout ends a command of Run and Try that hangs; packages are installed by such commands.
	runTimeout = 2 * time.Minute
	// poll is how often a condition is looked at that has no event.
	poll = 10 * time.Millisecond
)

//go:embed boot.sh
var bootScript string

// managers are where distributions have systemd.
var managers = []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd"}

// environment of every command in a machine.
var environment = []string{
	"HOME=/root", "USER=root", "LANG=C.UTF-8", "TERM=dumb", "SYSTEMD_PAGER=", "DEBIAN_FRONTEND=noninteractive",
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}

// Machine is a running systemd. Its methods may be called from several goroutines; those that stop the test only from
// the test's own.
type Machine struct {
	t      testing.TB
	cgroup *cgroup
	cmd    *exec.Cmd
	ended  chan struct{}
	err    error // of cmd, once ended
	output string
}

// Boot starts a machine and waits until systemd has reached multi-user.target. It is halted when the test ends, and its
// journal is logged if the test failed. Boot skips the test when not root.
func Boot(t testing.TB) *Machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: boots systemd in namespaces")
	}
	manager := slices.IndexFunc(managers, func(f string) bool {
		_, err := os.Stat(f)
		return err == nil
	})
	if manager < 0 {
		t.Fatalf("systemd is not installed: none of %s", strings.Join(managers, ", "))
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		t.Fatal(err)
	}
	group, err := newCgroup()
	if err != nil {
		t.Fatalf("machine: %v", err)
	}
	m := &Machine{t: t, cgroup: group, ended: make(chan struct{}), output: filepath.Join(t.TempDir(), "boot.out")}
	t.Cleanup(m.halt)
	if err := m.start(t.TempDir(), managers[manager], hex.EncodeToString(id)); err != nil {
		close(m.ended)
		t.Fatalf("machine: %v", err)
	}
	m.await()
	return m
}

// start makes the first process. The thread that does so stays until that process ends, because the kernel ends it with
// the thread: so no machine outlives a test that was killed.
func (m *Machine) start(base, manager, id string) error {
	output, err := os.Create(m.output)
	if err != nil {
		return err
	}
	defer output.Close()
	dir, err := os.Open(m.cgroup.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	m.cmd = exec.Command("unshare", "--cgroup", "--", "bash", "--norc", "-c", bootScript, "machine", base, manager, id)
	m.cmd.Stdout, m.cmd.Stderr, m.cmd.Env = output, output, environment
	m.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Setsid:     true, Pdeathsig: syscall.SIGKILL,
		UseCgroupFD: true, CgroupFD: int(dir.Fd()),
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := m.cmd.Start()
		started <- err
		if err == nil {
			m.err = m.cmd.Wait()
			close(m.ended)
		}
	}()
	return <-started
}

// await waits until no start-up job is left. Units that failed do not matter here: a host has such too.
func (m *Machine) await() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bootWithin)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		out, err := m.try(ctx, "systemctl", "is-system-running", "--wait")
		if state := strings.TrimSpace(out); state == "running" || state == "degraded" {
			return
		}
		select {
		case <-m.ended:
			m.t.Fatalf("machine: ended while it booted: %v\n%s", m.err, m.bootOutput())
		case <-ctx.Done():
			m.t.Fatalf("machine: not up within %v: %v %s\n%s", bootWithin, err, out, m.bootOutput())
		case <-tick.C:
		}
	}
}

func (m *Machine) bootOutput() string {
	b, err := os.ReadFile(m.output)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// PID is the process id, on the host, of the machine's process 1.
func (m *Machine) PID() int { return m.cmd.Process.Pid }

// Netns is the file of the machine's network namespace.
func (m *Machine) Netns() string { return fmt.Sprintf("/proc/%d/ns/net", m.PID()) }

// Path is how the host reaches a file of the machine. A symbolic link on the way that is absolute leads to the host's
// file: do not write where there may be one.
func (m *Machine) Path(file string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", m.PID()), file)
}

// Command prepares a command in the machine, as root, with the environment of a login and none of the test's. It is in
// the machine's cgroup, and ends when the command that is returned is killed.
func (m *Machine) Command(name string, args ...string) *exec.Cmd {
	return m.command(context.Background(), name, args...)
}

func (m *Machine) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	// nsenter stays outside as the parent: what it started is told to end with it.
	enter := []string{
		"--target", strconv.Itoa(m.PID()), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--",
		"setpriv", "--pdeathsig", "KILL", "--", name,
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env, cmd.WaitDelay = environment, time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: m.cgroup.commands}
	return cmd
}

// Run runs a command to its end and returns its output, both streams. It stops the test when the command fails; Try does
// not.
func (m *Machine) Run(name string, args ...string) string {
	m.t.Helper()
	out, err := m.Try(name, args...)
	if err != nil {
		m.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// Try is Run that returns the error instead.
func (m *Machine) Try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	return m.try(ctx, name, args...)
}

func (m *Machine) try(ctx context.Context, name string, args ...string) (string, error) {
	cmd := m.command(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// WriteFile writes a file in the machine, and the directories above it.
func (m *Machine) WriteFile(file, content string, mode fs.FileMode) {
	m.t.Helper()
	cmd := m.Command("install", "-D", "-m", fmt.Sprintf("%04o", mode.Perm()), "/dev/stdin", file)
	cmd.Stdin = strings.NewReader(content)
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("write %s: %v: %s", file, err, out)
	}
}

// CopyFile copies a file of the host into the machine, and makes the directories above it.
func (m *Machine) CopyFile(host, file string, mode fs.FileMode) {
	m.t.Helper()
	in, err := os.Open(host)
	if err != nil {
		m.t.Fatal(err)
	}
	defer in.Close()
	cmd := m.Command("install", "-D", "-m", fmt.Sprintf("%04o", mode.Perm()), "/dev/stdin", file)
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("copy %s to %s: %v: %s", host, file, err, out)
	}
}

// halt ends process 1, and by that every process of the machine, and waits until nothing of it is left.
func (m *Machine) halt() {
	if m.cmd != nil && m.cmd.Process != nil {
		if m.t.Failed() {
			out, _ := m.Try("journalctl", "--no-pager", "-b", "-n", "300", "-o", "short-monotonic")
			m.t.Logf("journal of the machine:\n%s", out)
		}
		if err := m.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			m.t.Errorf("machine: %v", err)
		}
		<-m.ended
	}
	if err := m.cgroup.remove(); err != nil {
		m.t.Errorf("machine: %v", err)
	}
}
