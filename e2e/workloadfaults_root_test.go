package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/local"
)

// repairedWithin bounds a repair: the agent looks every two seconds, and a busy machine is slow.
const repairedWithin = 10 * time.Second

// script runs a command of this machine.
func script(t *testing.T, text string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", text).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", text, err, out)
	}
}

// A workload's interface suffers what people and programs do to interfaces. Each time it works again within some ticks, and
// status says what it waits for when it cannot; meanwhile nothing goes where it must not.
func TestWorkloadFaults(t *testing.T) {
	w := mesh(t)
	w.echoServer(t)
	eni, err := w.as("shop").GetENI(t.Context(), "cart")
	if err != nil {
		t.Fatal(err)
	}
	heard, service := w.forbidden(t), w.ledgerAddress()
	const spare = prefix + "-spare"
	script(t, "ip netns add "+spare)
	t.Cleanup(func() { script(t, "ip netns delete "+spare) })
	in, on, link := "ip -n "+wl("cart"), "ip -n "+prefix+"-host-a", host.VethName(eni.ID)

	var took []time.Duration
	for _, c := range []struct{ name, fault, says, mend string }{
		{"address flushed", in + " address flush dev eni0", "", ""},
		{"routes flushed", in + " route flush dev eni0", "", ""},
		{"address changed", in + " address flush dev eni0; " + in + " address add 10.0.1.8/24 dev eni0", "", ""},
		{"MTU changed", in + " link set eni0 mtu 1280; " + on + " link set " + link + " mtu 9000", "", ""},
		{"MAC changed", in + " link set eni0 address 02:11:22:33:44:55", "", ""},
		{"down", in + " link set eni0 down", "", ""},
		{"down on the host", on + " link set " + link + " down", "", ""},
		{"renamed", in + " link set eni0 down; " + in + " link set eni0 name eth9", "", ""},
		{"renamed on the host", on + " link set " + link + " down; " + on + " link set " + link + " name eth9", "", ""},
		{"deleted", in + " link delete eni0", "", ""},
		{"deleted on the host", on + " link delete " + link, "", ""},
		{"moved", in + " link set eni0 netns " + spare, "", ""},
		{"moved off the host", on + " link set " + link + " netns " + spare, "", ""},
		{"name taken", in + " link set eni0 down; " + in + " link set eni0 name eth9; " + in + " tuntap add dev eni0 mode tap",
			"interface eni0 exists", in + " link delete eni0"},
		{"address taken", in + " tuntap add dev tap0 mode tap; " + in + " address add 10.0.9.1/24 dev tap0",
			"address 10.0.9.1/24 on tap0 overlaps the VPC's range", in + " link delete tap0"},
		{"namespace vanished", "ip netns delete " + wl("cart"), "no such network namespace",
			"ip netns add " + wl("cart") + "; " + in + " link set lo up"},
	} {
		t.Run(c.name, func(t *testing.T) {
			script(t, c.fault)
			if c.says != "" {
				eventually(t, repairedWithin, "status says so", func() error { return w.says(t.Context(), eni.ID, c.says) })
				script(t, c.mend)
			}
			began := time.Now()
			eventually(t, repairedWithin, "the workload works again", func() error {
				return errors.Join(w.answers(t.Context(), service), w.whole(t.Context(), eni.ID))
			})
			took = append(took, time.Since(began))
		})
	}
	slices.Sort(took)
	if len(took) > 0 {
		t.Logf("n=%d: works again after %v at least, median %v, at most %v", len(took), took[0], took[len(took)/2], took[len(took)-1])
	}
	heard(t)
}

// answers is nil when a new connection to the service works, at the first attempt.
func (w *world) answers(ctx context.Context, service string) error {
	out, err := w.in(ctx, "cart", "timeout", "-k", "1", "1", "bash", "-c",
		"exec 3<>/dev/tcp/"+service+"/443 && echo hello >&3 && read -r line <&3 && echo $line").CombinedOutput()
	if err == nil && !strings.Contains(string(out), "hello") {
		err = errors.New("another answer")
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// says is nil when host-a's status tells of the interface what it should, in its list and among the errors.
func (w *world) says(ctx context.Context, eni, text string) error {
	s, err := local.NewClient(w.lab.AgentSocket("host-a")).Status(ctx)
	if err != nil {
		return err
	}
	listed := slices.ContainsFunc(s.Workloads, func(x local.Workload) bool {
		return x.ENI == eni && strings.Contains(x.State, text)
	})
	if !listed || !slices.ContainsFunc(s.Errors, func(e string) bool { return strings.Contains(e, text) }) {
		return fmt.Errorf("status: %+v, errors %q", s.Workloads, s.Errors)
	}
	return nil
}

// whole is nil when host-a says that the interface is up, and both its ends are as they were made. That it was repaired is still
// among the errors for a while.
func (w *world) whole(ctx context.Context, eni string) error {
	s, err := local.NewClient(w.lab.AgentSocket("host-a")).Status(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(s.Workloads, func(x local.Workload) bool { return x.ENI == eni && x.State == "up" }) {
		return fmt.Errorf("status: %+v, errors %q", s.Workloads, s.Errors)
	}
	for space, name := range map[string]string{wl("cart"): "eni0", prefix + "-host-a": host.VethName(eni)} {
		out, err := exec.CommandContext(ctx, "ip", "-n", space, "link", "show", name).CombinedOutput()
		if err != nil || !strings.Contains(string(out), fmt.Sprintf("mtu %d ", host.DefaultMTU)) || !strings.Contains(string(out), ",UP") {
			return fmt.Errorf("%s in %s: %w: %s", name, space, err, out)
		}
	}
	return nil
}

// forbidden sends all the time from the cart to where it may not: to a workload of another VPC on the same host, at its
// address there, and to the host itself. The check that it returns fails the test when anything came.
func (w *world) forbidden(t *testing.T) (check func(*testing.T)) {
	t.Helper()
	const port = "4242"
	var files []string
	for _, where := range []string{wl("clerk"), prefix + "-host-a"} {
		file := filepath.Join(w.dir, "heard-"+where)
		files = append(files, file)
		cmd := exec.Command("ip", "netns", "exec", where, "socat", "-u", "UDP4-RECV:"+port, "OPEN:"+file+",creat,append")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	s, err := local.NewClient(w.lab.AgentSocket("host-b")).Status(t.Context())
	if err != nil || len(s.Peers) == 0 {
		t.Fatalf("where is host-a: %+v, %v", s.Peers, err)
	}
	hostA, _, _ := strings.Cut(s.Peers[0].Underlay, ":")
	// clerk's port takes what comes, so that nothing but isolation keeps it away.
	w.start(t, "cart", "bash", "-c", `while sleep 0.02; do for to in 10.0.1.8 `+hostA+` 169.254.169.254; do
echo forbidden >/dev/udp/$to/`+port+`; done; done 2>/dev/null`)
	return func(t *testing.T) {
		t.Helper()
		for i, where := range []string{wl("clerk"), prefix + "-host-a"} {
			if b, err := os.ReadFile(files[i]); err == nil && len(b) > 0 {
				t.Errorf("%s got %d bytes from the cart", where, len(b))
			}
			script(t, "ip netns exec "+where+" bash -c 'echo control >/dev/udp/127.0.0.1/"+port+"'")
			eventually(t, 10*time.Second, "the listener hears what reaches it", func() error {
				b, err := os.ReadFile(files[i])
				if err == nil && !strings.Contains(string(b), "control") {
					err = fmt.Errorf("it has %q", b)
				}
				return err
			})
		}
	}
}
