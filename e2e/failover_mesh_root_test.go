package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/dev"
)

// failoverMesh has a consumer and a backend that is always well on host-a, backends that things are done to on host-b, and hosts
// that things are done to.
type failoverMesh struct {
	prefix   string
	bin      string
	self     string // this test's program
	lab      *dev.Lab
	client   *loader
	vip      [64]netip.Addr // of the endpoints, by kind
	mu       sync.Mutex
	backends map[int]*exec.Cmd // by port
	running  []*exec.Cmd
}

const failoverPrefix = "cvfail"

var failoverWorkloads = []workloadSpec{
	{"shop", "cart", "host-a", "10.0.1.5"},
	{"pay", "stable", "host-a", "10.0.1.10"},
	{"pay", "faulty", "host-b", "10.0.1.11"},
	{"pay", "far-host-c", "host-c", "10.0.1.12"},
	{"pay", "far-host-d", "host-d", "10.0.1.13"},
	{"pay", "far-host-e", "host-e", "10.0.1.14"},
	{"pay", "far-host-f", "host-f", "10.0.1.15"},
}

// failoverPort is a backend's; a host's faults have one port for all.
func failoverPort(kind, i int) int {
	if faultKinds[kind].host != "" {
		i = 0
	}
	return 7000 + 100*kind + i
}

// failoverPorts are all of a kind.
func failoverPorts(kind int) (ports []int) {
	for i := range batch {
		if p := failoverPort(kind, i); len(ports) == 0 || p != ports[len(ports)-1] {
			ports = append(ports, p)
		}
	}
	return ports
}

// failoverBackend is the workload that a kind's faults are done to.
func failoverBackend(kind int) string {
	if h := faultKinds[kind].host; h != "" {
		return farBackend(h)
	}
	return "faulty"
}

func farBackend(host string) string { return "far-" + host }

func (m *failoverMesh) ns(workload string) string { return m.prefix + "-w-" + workload }

func (m *failoverMesh) address(port int) string {
	return netip.AddrPortFrom(m.vip[(port-7000)/100], uint16(port)).String()
}

func newFailoverMesh(t *testing.T) *failoverMesh {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, BPF")
	}
	dir := t.TempDir()
	m := &failoverMesh{prefix: failoverPrefix, bin: filepath.Join(dir, "culvert"), backends: map[int]*exec.Cmd{}}
	var err error
	if m.self, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", m.bin, "../cmd/culvert").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if m.lab, err = dev.New(dev.Config{Prefix: m.prefix, Program: m.bin}); err != nil {
		t.Fatal(err)
	}
	down := func() {
		if err := m.lab.Down(); err != nil {
			t.Error(err)
		}
	}
	down() // what an earlier run left when it was killed
	t.Cleanup(down)
	t.Cleanup(func() {
		if t.Failed() {
			m.logs(t)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), slack*3*time.Minute)
	defer cancel()
	if err := m.lab.Up(ctx, 6); err != nil {
		t.Fatal(err)
	}
	if err := m.populate(ctx); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *failoverMesh) logs(t *testing.T) {
	for _, host := range []string{"host-a", "host-b", "host-c", "host-d", "host-e", "host-f"} {
		var b strings.Builder
		if err := m.lab.Logs(context.Background(), host, "agent", 15, false, &b); err == nil {
			t.Logf("--- %s agent\n%s", host, b.String())
		}
	}
}

// populate makes a service for each kind of fault, with a target group for each port.
func (m *failoverMesh) populate(ctx context.Context) error {
	clients := map[string]*client.Client{}
	for _, account := range []string{"", "shop", "pay"} {
		c, err := m.lab.Admin(account)
		if clients[account] = c; err != nil {
			return err
		}
		if account == "" {
			continue
		}
		if _, err := clients[""].CreateAccount(ctx, api.CreateAccountRequest{Name: account}); err != nil {
			return err
		}
		if _, err := c.CreateVPC(ctx, api.CreateVPCRequest{Name: account, CIDR: netip.MustParsePrefix("10.0.0.0/16")}); err != nil {
			return err
		}
		if _, err := c.CreateSubnet(ctx, api.CreateSubnetRequest{VPC: account, Name: account, Zone: "z1",
			CIDR: netip.MustParsePrefix("10.0.1.0/24")}); err != nil {
			return err
		}
	}
	for _, s := range failoverWorkloads {
		eni, err := clients[s.account].CreateENI(ctx, api.CreateENIRequest{Subnet: s.account, Name: s.name, Node: s.host,
			Address: netip.MustParseAddr(s.address)})
		if err != nil {
			return err
		}
		w := dev.Workload{Name: m.ns(s.name), Host: s.host, ENI: eni.ID}
		if _, err := m.lab.AddWorkload(ctx, clients[s.account], w); err != nil {
			return err
		}
	}
	if _, err := clients["pay"].AuthorizeIngress(ctx, "default", []api.RuleRequest{{Protocol: api.TCP, FromPort: 7000, ToPort: 7999,
		CIDR: netip.MustParsePrefix("10.0.1.0/24")}}); err != nil {
		return err
	}
	for k := range faultKinds {
		if err := m.offer(ctx, clients["pay"], clients["shop"], k); err != nil {
			return fmt.Errorf("%s: %w", faultKinds[k].name, err)
		}
	}
	return m.converge(ctx, clients[""])
}

func (m *failoverMesh) offer(ctx context.Context, pay, shop *client.Client, kind int) error {
	name := fmt.Sprint("service-", kind)
	lb, err := pay.CreateLoadBalancer(ctx, api.CreateLoadBalancerRequest{Name: name, Subnets: []string{"pay"}})
	if err != nil {
		return err
	}
	for _, port := range failoverPorts(kind) {
		group, err := pay.CreateTargetGroup(ctx, api.CreateTargetGroupRequest{VPC: "pay", Name: fmt.Sprint("group-", port), Protocol: api.TCP,
			Port: uint16(port), Targets: []api.TargetRequest{{ENI: "stable"}, {ENI: failoverBackend(kind)}},
			GroupHealthRequest: faultKinds[kind].check})
		if err != nil {
			return err
		}
		if _, err := pay.CreateListener(ctx, lb.ID, api.ListenerRequest{Protocol: api.TCP, Port: uint16(port), TargetGroup: group.ID}); err != nil {
			return err
		}
	}
	if _, err := pay.CreateService(ctx, api.CreateServiceRequest{Name: name, LoadBalancers: []string{lb.ID},
		AllowedPrincipals: []string{"shop"}}); err != nil {
		return err
	}
	ep, err := shop.CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "shop", Name: name, Service: "pay/" + name})
	if err != nil {
		return err
	}
	eni, err := shop.GetENI(ctx, ep.ENIs[0])
	if err == nil {
		m.vip[kind] = eni.Address
	}
	return err
}

func (m *failoverMesh) converge(ctx context.Context, admin *client.Client) error {
	s, err := admin.Status(ctx)
	if err != nil {
		return err
	}
	return admin.WaitConverged(ctx, s.Revision)
}

// play starts a role in a workload's namespace, and waits for its first line if it is a server.
func (m *failoverMesh) play(workload, role string, args ...string) (cmd *exec.Cmd, in io.WriteCloser, out *bufio.Scanner, err error) {
	argv := append([]string{"dev", "--prefix", m.prefix, "exec", m.ns(workload), "--", m.self}, args...)
	cmd = exec.Command(m.bin, argv...)
	cmd.Env, cmd.Stderr = append(os.Environ(), roleVariable+"="+role), os.Stderr
	if in, err = cmd.StdinPipe(); err != nil {
		return nil, nil, nil, err
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, nil, err
	}
	m.mu.Lock()
	m.running = append(m.running, cmd)
	m.mu.Unlock()
	out = bufio.NewScanner(pipe)
	if role == roleServer && !out.Scan() {
		return nil, nil, nil, fmt.Errorf("server %v in %s did not begin", args, workload)
	}
	return cmd, in, out, nil
}

// startBackends starts all servers and the client.
func (m *failoverMesh) startBackends(t *testing.T) {
	t.Helper()
	fail := func(err error) {
		if err != nil {
			m.stopBackends(t)
			t.Fatal(err)
		}
	}
	cut := "table ip cut { chain in { type filter hook input priority 0; }; }"
	fail(run("ip", "netns", "exec", m.ns("faulty"), "nft", "add table ip cut; delete table ip cut; "+cut))
	stable := []string{"stable"}
	for kind := range faultKinds {
		for _, port := range failoverPorts(kind) {
			stable = append(stable, everywhere(port))
			fail(m.startBackend(failoverBackend(kind), port))
		}
	}
	_, _, _, err := m.play("stable", roleServer, stable...)
	fail(err)
	_, in, out, err := m.play("cart", roleClient)
	fail(err)
	m.client = &loader{loads: map[string]int{}, seen: map[string][]request{}, say: func(line string) { _, _ = fmt.Fprintln(in, line) }}
	go m.client.listen(out)
}

func everywhere(port int) string { return fmt.Sprintf("0.0.0.0:%d", port) }

// startBackend starts one that faults are done to.
func (m *failoverMesh) startBackend(workload string, port int) error {
	cmd, _, _, err := m.play(workload, roleServer, "faulty", everywhere(port))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.backends[port] = cmd
	return err
}

func (m *failoverMesh) backend(port int) *exec.Cmd {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.backends[port]
}

// listen takes what the client writes.
func (l *loader) listen(out *bufio.Scanner) {
	for out.Scan() {
		var r request
		err := json.Unmarshal(out.Bytes(), &r)
		l.mu.Lock()
		if err != nil {
			l.fails = err
		} else if r.Load == l.loads[r.URL] { // what an earlier load left is over later
			l.seen[r.URL] = append(l.seen[r.URL], r)
		}
		l.mu.Unlock()
	}
}

func (m *failoverMesh) stopBackends(t *testing.T) {
	t.Helper()
	var wg sync.WaitGroup
	for _, cmd := range m.running {
		_ = cmd.Process.Kill() // many are dead already
		wg.Go(func() { _ = cmd.Wait() })
	}
	wg.Wait()
	m.running = nil
}

// awaitHealthy waits until the consumer's node knows that all targets are well.
func (m *failoverMesh) awaitHealthy(t *testing.T, most time.Duration) {
	t.Helper()
	want := 0
	for kind := range faultKinds {
		want += 2 * len(failoverPorts(kind))
	}
	agent := local.NewClient(m.lab.AgentSocket("host-a"))
	eventually(t, most, "all targets are healthy", func() error {
		s, err := agent.Status(t.Context())
		if err == nil && (s.Targets.Watched != want || s.Targets.Down != 0) {
			err = fmt.Errorf("%d of %d are known, %d are down", s.Targets.Watched, want, s.Targets.Down)
		}
		return err
	})
}
