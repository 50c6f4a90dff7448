package docrun

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-net/culvert/internal/netlab"
)

// addresses of the machines that documents speak of, on one /24.
var addresses = map[string]string{"server": "10.77.0.1", "node-a": "10.77.0.11", "node-b": "10.77.0.12"}

func machineNames() []string { return slices.Sorted(maps.Keys(addresses)) }

//go:embed machine.sh
var machineScript string

// machine is a shell in namespaces of its own: network, mounts, processes, host name.
type machine struct {
	dir     string // N.sh and N.out of each command
	started int    // commands
	orders  *os.File
	results chan string // lines "N STATUS"
	ended   chan struct{}
	cmd     *exec.Cmd
	err     error // of cmd, once ended
}

// boot starts a machine in a namespace of the lab. Everything in it ends with the test.
func boot(t testing.TB, ns *netlab.Namespace, name, programs string) *machine {
	t.Helper()
	m := &machine{dir: t.TempDir(), results: make(chan string, 1), ended: make(chan struct{})}
	ordersIn, orders, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ordersIn.Close()
	results, resultsOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer resultsOut.Close()
	log, err := os.Create(filepath.Join(m.dir, "boot.out"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	m.orders = orders
	m.cmd = exec.Command("bash", "--norc", "-c", machineScript, "machine", name, m.dir, programs)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.ExtraFiles = []*os.File{resultsOut, ordersIn} // descriptors 3, 4
	m.cmd.Env = []string{
		"HOME=/root", "USER=root", "LANG=C.UTF-8", "TERM=dumb",
		"PATH=/run/programs:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	m.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS, Setpgid: true,
	}
	if err := ns.Do(m.cmd.Start); err != nil {
		t.Fatalf("machine %s: %v", name, err)
	}
	go func() {
		for lines := bufio.NewScanner(results); lines.Scan(); {
			m.results <- lines.Text()
		}
		results.Close()
	}()
	go func() {
		m.err = m.cmd.Wait()
		close(m.ended)
	}()
	t.Cleanup(m.halt)
	return m
}

// halt ends the machine's first process, and by that every one that it ever started, and waits for it.
func (m *machine) halt() {
	_ = m.cmd.Process.Kill()
	<-m.ended
	m.orders.Close()
}

// run runs one command in the machine's shell. The error says that it failed, or did not end within the time; then the
// machine is halted.
func (m *machine) run(text string, within time.Duration) (output string, err error) {
	m.started++
	n := fmt.Sprintf("%03d", m.started)
	if err := os.WriteFile(filepath.Join(m.dir, n+".sh"), []byte(text+"\n"), 0o600); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(m.orders, n); err != nil {
		return m.output("boot.out"), fmt.Errorf("the machine is gone: %w", err)
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case result := <-m.results:
		if status := strings.TrimPrefix(result, n+" "); status != "0" {
			err = fmt.Errorf("exit status %s", status)
		}
	case <-m.ended:
		err = fmt.Errorf("the machine's shell ended: %v %s", m.err, m.output("boot.out"))
	case <-timer.C:
		m.halt()
		err = fmt.Errorf("not done within %v", within)
	}
	return m.output(n + ".out"), err
}

// output is what a command has written so far; one in the background goes on writing.
func (m *machine) output(file string) string {
	b, err := os.ReadFile(filepath.Join(m.dir, file))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	return string(b)
}

// background lists the output of commands that put something into the background, each cut to its end.
func (m *machine) background() string {
	const most = 4000 // bytes of each
	var all strings.Builder
	for i := range m.started {
		text := m.output(fmt.Sprintf("%03d.sh", i+1))
		if !strings.HasSuffix(strings.TrimSpace(text), "&") {
			continue
		}
		out := m.output(fmt.Sprintf("%03d.out", i+1))
		fmt.Fprintf(&all, "$ %s\n%s\n", strings.TrimSpace(text), out[max(0, len(out)-most):])
	}
	return all.String()
}

// machines are those of one document, each made when a block first names it.
type machines struct {
	t        testing.TB
	lab      *netlab.Lab
	programs string
	up       map[string]*machine
}

func (ms *machines) get(name string) *machine {
	ms.t.Helper()
	if m := ms.up[name]; m != nil {
		return m
	}
	if ms.lab == nil {
		ms.lab = netlab.New(ms.t)
	}
	host := ms.lab.Host(name)
	host.AddAddress("eth0", netip.PrefixFrom(netip.MustParseAddr(addresses[name]), 24))
	m := boot(ms.t, host.Namespace, name, ms.programs)
	ms.up[name] = m
	return m
}
