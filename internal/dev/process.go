package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/netns"
)

// Times that a process may take.
const (
	startTimeout = 60 * time.Second
	stopTimeout  = 10 * time.Second
	pollInterval = 20 * time.Millisecond
)

// process is one of the mesh's own, running or not.
type process struct {
	host  string // "server" or a host's name
	role  string // server, tunnel or agent
	netns string // name
	args  []string
	env   []string // more than the caller's
	dir   string   // run directory: ROLE.pid, ROLE.ready
	log   string
}

func (p *process) pidFile() string   { return filepath.Join(p.dir, p.role+".pid") }
func (p *process) readyFile() string { return filepath.Join(p.dir, p.role+".ready") }

// identity tells a process from a later one with the same id.
type identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot
	Boot  string `json:"boot"`
}

// identify looks a process up; ok is false when it does not run. A zombie does not, unless it has threads that are still
// on their way out, with its files and locks.
func identify(pid int) (id identity, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return id, false
	}
	// The command in parentheses may hold anything; what follows the last one is fields 3, 4, ….
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 || (fields[0] == "Z" || fields[0] == "X") && fields[17] == "1" {
		return id, false
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return id, false
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id, false
	}
	return identity{PID: pid, Start: start, Boot: strings.TrimSpace(string(boot))}, true
}

// running is the process that the pid file speaks of, if it is still that one.
func (p *process) running() (identity, bool) {
	data, err := os.ReadFile(p.pidFile())
	if err != nil {
		return identity{}, false
	}
	var want identity
	if json.Unmarshal(data, &want) != nil {
		return identity{}, false
	}
	have, ok := identify(want.PID)
	return have, ok && have == want
}

// start starts the process unless it runs, and returns when it says that it is ready.
func (p *process) start(ctx context.Context, program string) (started bool, err error) {
	if _, ok := p.running(); ok {
		if _, err := os.Stat(p.readyFile()); err == nil {
			return false, nil
		}
		// It never became ready: the command that started it was interrupted.
		if err := p.stop(unix.SIGTERM); err != nil {
			return false, err
		}
	}
	for _, dir := range []string{p.dir, filepath.Dir(p.log)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return false, fmt.Errorf("start %s: %w", p, err)
		}
	}
	if err := os.Remove(p.readyFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("start %s: %w", p, err)
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return false, fmt.Errorf("start %s: %w", p, err)
	}
	defer log.Close()
	cmd := exec.Command(program, append(p.args, "--ready-file", p.readyFile())...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = "/"
	cmd.Env = append(cleanEnvironment(), p.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := netns.Start(netns.Path(p.netns), cmd); err != nil {
		return false, fmt.Errorf("start %s: %w", p, err)
	}
	failpoint.Here("dev.started")
	if err := p.record(cmd.Process.Pid); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return false, err
	}
	return true, p.awaitReady(ctx, cmd)
}

// cleanEnvironment keeps the caller's settings for the command line from changing the processes.
func cleanEnvironment() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "CULVERT_") {
			env = append(env, kv)
		}
	}
	return env
}

func (p *process) record(pid int) error {
	id, ok := identify(pid)
	if !ok {
		return fmt.Errorf("start %s: it ended at once; its log is %s", p, p.log)
	}
	data, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return writeFile(p.pidFile(), data)
}

func (p *process) awaitReady(ctx context.Context, cmd *exec.Cmd) error {
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if _, err := os.Stat(p.readyFile()); err == nil {
			return nil
		}
		select {
		case err := <-exited:
			return fmt.Errorf("start %s: it ended (%v); the end of %s:\n%s", p, err, p.log, lastLines(p.log, 10))
		case <-ctx.Done():
			return fmt.Errorf("start %s: not ready: %w; the end of %s:\n%s", p, ctx.Err(), p.log, lastLines(p.log, 10))
		case <-tick.C:
		}
	}
}

// stop signals the process if it runs and waits for its end, by force at last.
func (p *process) stop(signal unix.Signal) error {
	id, ok := p.running()
	if ok {
		if err := kill(id, signal); err != nil {
			return fmt.Errorf("stop %s: %w", p, err)
		}
	}
	return errors.Join(removeIfThere(p.pidFile()), removeIfThere(p.readyFile()))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// kill ends exactly the process identified: a handle is opened first and compared, so that an id used again is safe.
func kill(id identity, signal unix.Signal) error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", id.PID, err)
	}
	defer unix.Close(fd)
	if have, ok := identify(id.PID); !ok || have != id {
		return nil
	}
	for _, s := range []unix.Signal{signal, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal process %d: %w", id.PID, err)
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(stopTimeout.Milliseconds()))
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll(poll, int(stopTimeout.Milliseconds()))
		}
		if n > 0 {
			return nil
		}
	}
	return fmt.Errorf("process %d: does not end", id.PID)
}

func (p *process) String() string {
	if p.host == p.role {
		return p.role
	}
	return p.host + "'s " + p.role
}

// sweep ends every process that lives in a namespace of the mesh, except the caller and those it was started by.
func sweep(namespace string) (ended int, err error) {
	path := netns.Path(namespace)
	if !netns.Exists(path) {
		return 0, nil
	}
	pids, err := netns.Processes(path)
	if err != nil {
		return 0, err
	}
	spared := ancestors(os.Getpid())
	var errs []error
	for _, pid := range pids {
		if id, ok := identify(pid); ok && !spared[pid] {
			errs = append(errs, kill(id, unix.SIGTERM))
			ended++
		}
	}
	return ended, errors.Join(errs...)
}

func ancestors(pid int) map[int]bool {
	all := map[int]bool{}
	for pid > 0 && !all[pid] {
		all[pid] = true
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			break
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 2 {
			break
		}
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			break
		}
	}
	return all
}
