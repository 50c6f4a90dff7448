//go:build linux

package machine

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const hello = `[Service]
ExecStart=sh -c 'echo hello from $(cat /proc/sys/kernel/hostname); exec sleep infinity'
`

func TestMachineRunsUnits(t *testing.T) {
	began := time.Now()
	m := Boot(t)
	t.Logf("up after %v", time.Since(began).Round(time.Millisecond))
	m.WriteFile("/etc/systemd/system/hello.service", hello, 0o644)
	m.Run("systemctl", "daemon-reload")
	m.Run("systemctl", "start", "hello.service")
	if out := m.Run("systemctl", "is-active", "hello.service"); out != "active\n" {
		t.Fatalf("after start: %q", out)
	}
	// What a unit says may come after it is active.
	m.Run("timeout", "10", "sh", "-c", "until journalctl -u hello.service -o cat | grep -qx 'hello from machine'; do sleep 0.1; done")
	m.Run("systemctl", "stop", "hello.service")
	if out, err := m.Try("systemctl", "is-active", "hello.service"); err == nil || out != "inactive\n" {
		t.Fatalf("after stop: %q, %v", out, err)
	}
	if out := m.Run("systemctl", "list-units", "--failed", "--no-legend", "--plain"); out != "" {
		t.Errorf("units failed: %s", out)
	}
}

func TestMachineIsApart(t *testing.T) {
	m := Boot(t)
	if out := m.Run("ip", "-br", "link"); strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "lo ") {
		t.Errorf("links: %s", out)
	}
	if out, err := m.Try("ip", "route", "get", "192.0.2.1"); err == nil {
		t.Errorf("there is a way out: %s", out)
	}
	host, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if inside, err := os.Readlink(m.Netns()); err != nil || inside == host {
		t.Errorf("network namespace %s, %v; the host's is %s", inside, err, host)
	}
	if out, err := m.Try("sh", "-c", "echo 1 >/proc/sys/kernel/panic"); err == nil {
		t.Errorf("the host's settings can be written: %s", out)
	}
	out := m.Run("systemd-run", "--quiet", "--pipe", "--wait", "sed", "-n", "s/^CapBnd:\\s*//p", "/proc/self/status")
	bounds, err := strconv.ParseUint(strings.TrimSpace(out), 16, 64)
	if forbidden := uint64(1<<unix.CAP_SYS_TIME | 1<<unix.CAP_SYS_MODULE | 1<<unix.CAP_SYS_RAWIO); err != nil ||
		bounds&forbidden != 0 || bounds&(1<<unix.CAP_NET_ADMIN) == 0 {
		t.Errorf("capabilities of a unit: %q, %v", out, err)
	}
	m.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	m.Run("touch", "/usr/bin/of-the-machine", "/var/lib/of-the-machine", "/tmp/of-the-machine")
	for _, f := range []string{"/usr/bin/of-the-machine", "/var/lib/of-the-machine", "/tmp/of-the-machine"} {
		if _, err := os.Lstat(f); err == nil {
			t.Errorf("%s is on the host", f)
		}
		if _, err := os.Lstat(m.Path(f)); err != nil {
			t.Error(err)
		}
	}
	if out := m.Run("cat", "/proc/self/cgroup"); out != "0::/commands\n" && !strings.Contains(out, "\n0::/commands\n") {
		t.Errorf("a command is in cgroup %q", out)
	}
}

func TestMachineLeavesNothing(t *testing.T) {
	var group string
	var pid int
	t.Run("machine", func(t *testing.T) {
		m := Boot(t)
		group, pid = m.cgroup.path, m.PID()
		m.Run("systemd-run", "--quiet", "--slice=deep-er.slice", "sleep", "infinity")
		cmd := m.Command("sleep", "infinity")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { _ = cmd.Wait() }()
	})
	if group == "" {
		return // not root
	}
	if _, err := os.Stat(group); !os.IsNotExist(err) {
		t.Errorf("cgroup %s is left: %v", group, err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is left: %v", pid, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), "TestMachine") {
		t.Errorf("mounts are left:\n%s", mounts)
	}
}

func TestKilledCommandsEnd(t *testing.T) {
	m := Boot(t)
	cmd := m.Command("sleep", "12345")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { _, err := m.Try("pgrep", "-f", "^sleep 12345"); return err == nil }, "the command runs")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	await(t, func() bool { _, err := m.Try("pgrep", "-f", "^sleep 12345"); return err != nil }, "the command ended")
}

func await(t *testing.T, cond func() bool, msg string) {
	t.Helper()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	end := time.NewTimer(50 * time.Second)
	defer end.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("not within 50 s: %s", msg)
		}
	}
}
