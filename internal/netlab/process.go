//go:build linux

package netlab

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// execTimeout ends a command that hangs; a test's command takes milliseconds to a few seconds.
const execTimeout = 30 * time.Second

// Exec runs a command to its end inside the namespace and returns its output, both streams. It stops the test when the
// command fails; Try does not.
func (n *Namespace) Exec(name string, args ...string) string {
	n.t.Helper()
	out, err := n.Try(name, args...)
	if err != nil {
		n.t.Fatalf("%s: %s %s: %v\n%s", n.Name, name, strings.Join(args, " "), err, out)
	}
	return out
}

// Try is Exec that returns the error instead.
func (n *Namespace) Try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), execTimeout*Slowness())
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.Do(cmd.Start); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// Process is a command that runs beside the test.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	once sync.Once
	mu   sync.Mutex
	out  bytes.Buffer
	err  error
}

// Start runs a command inside the namespace. It is stopped when the test ends, and its output is logged if the test
// failed.
func (n *Namespace) Start(name string, args ...string) *Process {
	n.t.Helper()
	p := &Process{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.Do(p.cmd.Start); err != nil {
		n.t.Fatalf("%s: start %s: %v", n.Name, name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	n.t.Cleanup(func() {
		p.Stop()
		if n.t.Failed() {
			n.t.Logf("output of %s %s in %s:\n%s", name, strings.Join(args, " "), n.Name, p.Output())
		}
	})
	return p
}

// Write collects output; it makes Process its command's stdout and stderr.
func (p *Process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// Output is what the process has written so far, both streams.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// Pid is the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end and returns the exit error, nil for status 0.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Stop asks the process to end (SIGTERM), and after three seconds, times [Slowness], ends it and its group. Doing it twice is harmless.
func (p *Process) Stop() {
	p.once.Do(func() {
		select {
		case <-p.done:
			return
		default:
		}
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		timer := time.NewTimer(3 * time.Second * Slowness())
		defer timer.Stop()
		select {
		case <-p.done:
		case <-timer.C:
			_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
			<-p.done
		}
	})
}
