package e2e

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/dev"
	"github.com/culvert-net/culvert/internal/netlab"
)

// world is the mesh that the tests of this package share: building it takes longer than most of them. Tests leave it as
// they found it.
type world struct {
	bin     string // the culvert binary
	dir     string // for programs' files
	lab     *dev.Lab
	mu      sync.Mutex
	clients map[string]*client.Client
}

const prefix = "cve2e"

var theWorld struct {
	once sync.Once
	w    *world
	err  error
}

// turn ends when the last test that has asked for the shared mesh is done with it.
var turn chan struct{}

// beside lets a test run while others do: they wait for processes and times more than they compute. Those that demand that nothing
// stands still for long do not ask for it. In a guest of scripts/test-kernels nothing runs beside.
func beside(t *testing.T) {
	if slowness() == 1 {
		t.Parallel()
	}
}

func TestMain(m *testing.M) {
	if code, asked := lookUpAndLeave(); asked {
		os.Exit(code)
	}
	if role := os.Getenv(roleVariable); role != "" {
		if err := playRole(role, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	// All tests that may run beside others begin at once. Those of the shared mesh wait for each other, in order, so one that waits
	// must not keep an earlier one from beginning.
	if err := flag.Set("test.parallel", "100"); err != nil {
		panic(err)
	}
	unlock, err := alone()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if w := theWorld.w; w != nil {
		if err := w.lab.Down(); err != nil {
			fmt.Fprintln(os.Stderr, "mesh not taken down:", err)
			code = 1
		}
		os.RemoveAll(w.dir)
	}
	unlock()
	os.Exit(code)
}

// alone waits until no other run of these tests is under way on this machine: it would take this one's mesh for what a run
// that was killed has left. The lock ends with the process.
func alone() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), prefix+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// mesh returns the shared world with everything in the story in place, once the tests before are done with it.
func mesh(t *testing.T) *world {
	t.Helper()
	before, done := turn, make(chan struct{})
	turn = done
	t.Cleanup(func() { close(done) }) // registered first, so it is the last thing
	if beside(t); before != nil {
		<-before
	}
	return sharedWorld(t)
}

// meshAlone is mesh for a test that demands that nothing stands still for long: nothing runs beside it, since those that do wait until all
// such tests are over.
func meshAlone(t *testing.T) *world { t.Helper(); return sharedWorld(t) }

func sharedWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, BPF")
	}
	theWorld.once.Do(func() { theWorld.w, theWorld.err = build(context.Background()) })
	if theWorld.err != nil {
		if theWorld.w != nil && theWorld.w.lab != nil {
			theWorld.w.logs(t)
		}
		t.Fatalf("mesh: %v", theWorld.err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			theWorld.w.logs(t)
		}
	})
	return theWorld.w
}

func build(ctx context.Context) (*world, error) {
	ctx, cancel := context.WithTimeout(ctx, slack*3*time.Minute*slowness())
	defer cancel()
	dir, err := os.MkdirTemp("/tmp", "cve2e-")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, clients: map[string]*client.Client{}}
	if err := os.Chmod(dir, 0o755); err != nil { // programs run as other users
		return w, err
	}
	// A guest of scripts/test-kernels has no Go; its kernel has WireGuard.
	if w.bin = os.Getenv("CULVERT_E2E_PROGRAM"); w.bin == "" {
		w.bin = filepath.Join(dir, "culvert")
		out, err := exec.CommandContext(ctx, "go", "build", "-o", w.bin, "../cmd/culvert").CombinedOutput()
		if err != nil {
			return w, fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	if w.lab, err = dev.New(dev.Config{
		Prefix: prefix, Program: w.bin, KernelTunnel: kernelTunnel(),
		ServerFlags: []string{"--verification-resolver", verificationResolver},
	}); err != nil {
		return w, err
	}
	if err := w.lab.Down(); err != nil { // what an earlier run left when it was killed
		return w, err
	}
	if err := w.lab.Up(ctx, 2); err != nil {
		return w, err
	}
	return w, w.populate(ctx)
}

// logs shows the end of every process's log, for a test that failed.
func (w *world) logs(t *testing.T) {
	for _, p := range [][2]string{{"server", "server"}, {"host-a", "agent"}, {"host-a", "tunnel"}, {"host-b", "agent"}, {"host-b", "tunnel"}} {
		var b bytes.Buffer
		if err := w.lab.Logs(context.Background(), p[0], p[1], 15, false, &b); err == nil {
			t.Logf("--- %s %s\n%s", p[0], p[1], b.String())
		}
	}
}

// as is a client with the administrator's key that acts for an account; "" acts for nobody.
func (w *world) as(account string) *client.Client {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.clients[account]
	if c == nil {
		var err error
		if c, err = w.lab.Admin(account); err != nil {
			panic(err)
		}
		w.clients[account] = c
	}
	return c
}

// workloadSpec is one namespace of the story.
type workloadSpec struct{ account, name, host, address string }

var workloads = []workloadSpec{
	{"shop", "cart", "host-a", "10.0.1.5"},
	{"shop", "till", "host-b", "10.0.1.77"}, // a consumer on the provider's host
	{"pay", "ledger-1", "host-b", "10.0.1.5"},
	{"pay", "ledger-2", "host-b", "10.0.1.6"},
	{"pay", "books", "host-b", "10.0.1.7"},
	{"pay", "clerk", "host-a", "10.0.1.8"}, // a workload of the provider's VPC on the consumer's host
	{"stranger", "visitor", "host-a", "10.0.1.5"},
}

// wl is a workload's namespace: names are unique on a machine.
func wl(name string) string { return prefix + "-w-" + name }

// offered services: one listener each, but bench, which iperf3 needs for both protocols.
var offered = []struct {
	name    string
	port    uint16
	protos  []api.Protocol
	targets []string
}{
	{"ledger", 443, []api.Protocol{api.TCP}, []string{"ledger-1", "ledger-2"}},
	{"books", 5432, []api.Protocol{api.TCP}, []string{"books"}},
	{"cache", 6379, []api.Protocol{api.TCP}, []string{"books"}},
	{"echo", 7777, []api.Protocol{api.UDP}, []string{"ledger-1"}},
	{"bench", 5201, []api.Protocol{api.TCP, api.UDP}, []string{"books"}},
}

func (w *world) populate(ctx context.Context) error {
	admin := w.as("")
	for _, name := range []string{"shop", "pay", "stranger"} {
		r := api.CreateAccountRequest{Name: name}
		if name == "pay" {
			r.Domains = []string{"pay.internal"}
		}
		if _, err := admin.CreateAccount(ctx, r); err != nil {
			return err
		}
		c := w.as(name)
		if _, err := c.CreateVPC(ctx, api.CreateVPCRequest{Name: name, CIDR: netip.MustParsePrefix("10.0.0.0/16")}); err != nil {
			return err
		}
		if _, err := c.CreateSubnet(ctx, api.CreateSubnetRequest{VPC: name, Name: name, Zone: "z1",
			CIDR: netip.MustParsePrefix("10.0.1.0/24")}); err != nil {
			return err
		}
	}
	for _, s := range workloads {
		if err := w.addWorkload(ctx, s); err != nil {
			return fmt.Errorf("workload %s: %w", s.name, err)
		}
	}
	if err := w.offer(ctx); err != nil {
		return err
	}
	return w.connect(ctx)
}

func (w *world) addWorkload(ctx context.Context, s workloadSpec) error {
	c := w.as(s.account)
	eni, err := c.CreateENI(ctx, api.CreateENIRequest{Subnet: s.account, Name: s.name, Node: s.host,
		Address: netip.MustParseAddr(s.address)})
	if err != nil {
		return err
	}
	_, err = w.lab.AddWorkload(ctx, c, dev.Workload{Name: wl(s.name), Host: s.host, ENI: eni.ID})
	return err
}

func (w *world) offer(ctx context.Context) error {
	pay := w.as("pay")
	for _, o := range offered {
		lb, err := pay.CreateLoadBalancer(ctx, api.CreateLoadBalancerRequest{Name: o.name, Subnets: []string{"pay"}})
		if err != nil {
			return err
		}
		for _, proto := range o.protos {
			tg := api.CreateTargetGroupRequest{VPC: "pay", Name: o.name + "-" + string(proto), Protocol: proto, Port: o.port}
			for _, target := range o.targets {
				tg.Targets = append(tg.Targets, api.TargetRequest{ENI: target})
			}
			group, err := pay.CreateTargetGroup(ctx, tg)
			if err != nil {
				return err
			}
			if _, err := pay.CreateListener(ctx, lb.ID, api.ListenerRequest{Protocol: proto, Port: o.port,
				TargetGroup: group.ID}); err != nil {
				return err
			}
			if _, err := pay.AuthorizeIngress(ctx, "default", []api.RuleRequest{{Protocol: proto, FromPort: o.port, ToPort: o.port,
				CIDR: netip.MustParsePrefix("10.0.1.0/24")}}); err != nil {
				return err
			}
		}
		if _, err := pay.CreateService(ctx, api.CreateServiceRequest{Name: o.name, LoadBalancers: []string{lb.ID},
			AcceptanceRequired: true, AllowedPrincipals: []string{"shop"}, PrivateDNSName: o.name + ".pay.internal"}); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) connect(ctx context.Context) error {
	for _, o := range offered {
		ep, err := w.as("shop").CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "shop", Name: o.name,
			Service: "pay/" + o.name, PrivateDNSEnabled: true})
		if err != nil {
			return err
		}
		if _, err := w.as("pay").AcceptConnections(ctx, o.name, []string{ep.ID}); err != nil {
			return err
		}
	}
	return w.converge(ctx)
}

// converge waits until every live node has applied the newest revision.
func (w *world) converge(ctx context.Context) error {
	s, err := w.as("").Status(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, slack*30*time.Second*slowness())
	defer cancel()
	return w.as("").WaitConverged(ctx, s.Revision)
}

// undo is run when the test ends, the last thing first.
func undo(t *testing.T, what string, remove func(context.Context) error) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), slack*30*time.Second*slowness())
		defer cancel()
		if err := remove(ctx); err != nil {
			t.Errorf("remove %s: %v", what, err)
		}
	})
}

// in is a command inside a workload.
func (w *world) in(ctx context.Context, workload string, argv ...string) *exec.Cmd {
	args := append([]string{"dev", "--prefix", prefix, "exec", wl(workload), "--"}, argv...)
	cmd := exec.CommandContext(ctx, w.bin, args...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// run runs a command inside a workload to its end.
func (w *world) run(t *testing.T, workload string, argv ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), slack*60*time.Second*slowness())
	defer cancel()
	out, err := w.in(ctx, workload, argv...).CombinedOutput()
	return string(out), err
}

func (w *world) must(t *testing.T, workload string, argv ...string) string {
	t.Helper()
	out, err := w.run(t, workload, argv...)
	if err != nil {
		t.Fatalf("%s$ %s: %v\n%s", workload, strings.Join(argv, " "), err, out)
	}
	return out
}

// start keeps a command running inside a workload until the test ends.
func (w *world) start(t *testing.T, workload string, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := w.in(context.Background(), workload, argv...)
	keepRunning(t, workload, cmd)
	return cmd
}

// keepRunning runs a command until the test ends.
func keepRunning(t *testing.T, workload string, cmd *exec.Cmd) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
		if t.Failed() {
			t.Logf("%s$ %s\n%s", workload, strings.Join(cmd.Args, " "), out.String())
		}
	})
}

// kernelTunnel says that the mesh's tunnels are the kernel's WireGuard, which a guest of scripts/test-kernels has.
func kernelTunnel() bool { return os.Getenv("CULVERT_KERNEL_WIREGUARD") != "" }

// slowness is how many times longer things may take: in a guest of scripts/test-kernels the processors are emulated.
func slowness() time.Duration { return netlab.Slowness() }

// seconds is a time for a program's argument.
func seconds(n time.Duration) string { return strconv.Itoa(int(n * slowness())) }

// patient is a time limit for a program's argument, where that something takes long is no failure.
func patient(n time.Duration) string { return seconds(slack * n) }

// slack is how many times as long as it takes at most, on a machine with nothing else to do, may be waited for anything.
const slack = 5

// eventually polls until ok, or until five times as long has passed as it takes. Nothing is shown by how long that was.
func eventually(t *testing.T, takes time.Duration, what string, ok func() error) {
	t.Helper()
	within := slack * takes * slowness()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, within, err)
		}
		<-tick.C
	}
}
