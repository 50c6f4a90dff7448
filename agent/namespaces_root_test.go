package agent

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/internal/netns"
)

// The process of an ENI is killed and one in another namespace has its number: the ENI goes with the first.
func TestServeAndAProcessNumberGivenAgain(t *testing.T) {
	m := newMachineLab(t)
	m.know()
	if err := m.dir.SaveAttachments(nil); err != nil {
		t.Fatal(err)
	}
	agent := m.startReady()
	p := m.cart.Start("sleep", "600")
	path := netns.ProcessPath(p.Pid())
	client := local.NewClient(m.cfg.LocalSocket)
	if _, err := client.Attach(t.Context(), local.AttachRequest{ENI: eni, Netns: path}); err != nil {
		t.Fatal(err)
	}
	if out := m.cart.Exec("ip", "-o", "link"); !strings.Contains(out, " eni0@") {
		t.Fatalf("attached, but in the namespace there is\n%s", out)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	m.takeNumber(p.Pid())
	netlab.Eventually(t, patience, func() bool {
		s := m.status()
		return len(s.Workloads) == 1 && strings.HasPrefix(s.Workloads[0].State, "detached: "+path)
	}, "the agent notices")
	netlab.Eventually(t, patience, func() bool {
		return !strings.Contains(m.cart.Exec("ip", "-o", "link")+m.till.Exec("ip", "-o", "link"), "eni0")
	}, "the interface goes")
	if as, err := m.dir.LoadAttachments(); err != nil || len(as) != 0 {
		t.Errorf("still noted: %+v, %v", as, err)
	}
	agent.Stop()
	if err := agent.Wait(); err != nil {
		t.Error(err)
	}
	m.leave()
}

// takeNumber starts a process in the till with a number that is free. The kernel gives numbers in turn, so this needs some
// tries while others start processes, too.
func (m *machineLab) takeNumber(pid int) {
	m.t.Helper()
	for range 200 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			m.t.Fatal(err)
		}
		p := m.till.Start("sleep", "600")
		if p.Pid() == pid {
			return
		}
		if err := p.Signal(syscall.SIGKILL); err != nil {
			m.t.Fatal(err)
		}
		<-p.Done()
	}
	m.t.Log("somebody was always faster: the number is not taken")
}

func TestNamespacesOfTheKernel(t *testing.T) {
	lab := netlab.New(t)
	cart := lab.Namespace("cart")
	p := cart.Start("sleep", "600")
	byName, err := namespaces{}.Open(cart.Path())
	if err != nil {
		t.Fatal(err)
	}
	byProcess, err := namespaces{}.Open(netns.ProcessPath(p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	if !same(byName.Namespace, byProcess.Namespace) || byName.Inode != byProcess.Inode || !byName.Rooted || byProcess.Rooted ||
		byName.Process || !byProcess.Process || byName.Boot == "" {
		t.Errorf("by name %+v, by process %+v", byName, byProcess)
	}
	if err := errors.Join(byName.Close(), byProcess.Close()); err != nil {
		t.Error(err)
	}
	for _, path := range []string{cart.Path() + "-none", "/proc/999999999/ns/net", "/etc/passwd"} {
		if _, err := (namespaces{}).Open(path); !errors.Is(err, host.ErrNoNamespace) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
