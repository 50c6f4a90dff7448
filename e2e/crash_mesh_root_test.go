package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/dev"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/netns"
	"github.com/culvert-net/culvert/internal/oracle"
)

// The crash tests have a mesh each: what they do to it, no other test should find.
const (
	crashKillPrefix  = "cvcrash"
	crashPointPrefix = "cvpoint"
)

// crashMesh is a mesh of two hosts with a service for TCP and one for UDP, whose processes can be killed at will.
type crashMesh struct {
	prefix  string
	dir     string
	lab     *dev.Lab // processes as they are shipped
	points  *dev.Lab // the same mesh; processes that it starts have failpoints
	flags   []string // more of them for the server
	mu      sync.Mutex
	clients map[string]*client.Client
	vip     map[string]netip.Addr // of the endpoints, by service
}

// crashWorkloads: spare is attached and detached by the tests.
var crashWorkloads = []workloadSpec{
	{"shop", "cart", "host-a", "10.0.1.5"},
	{"shop", "till", "host-b", "10.0.1.77"},
	{"shop", "spare", "host-a", "10.0.1.9"},
	{"pay", "ledger-1", "host-b", "10.0.1.5"},
	{"pay", "ledger-2", "host-b", "10.0.1.6"},
	{"stranger", "visitor", "host-a", "10.0.1.5"},
}

func (m *crashMesh) ns(workload string) string { return m.prefix + "-w-" + workload }

// newCrashMesh builds it; it goes with the test, and so does what a run that was killed has left.
func newCrashMesh(t *testing.T, prefix string, serverFlags ...string) *crashMesh {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, BPF")
	}
	m := &crashMesh{prefix: prefix, dir: t.TempDir(), flags: serverFlags, clients: map[string]*client.Client{}, vip: map[string]netip.Addr{}}
	m.lab, m.points = m.build(t, "culvert"), m.build(t, "culvert-points", "-tags", "failpoints")
	down := func() {
		if err := m.lab.Down(); err != nil {
			t.Error(err)
		}
	}
	down()
	t.Cleanup(func() {
		down()
		if left, err := filepath.Glob(netns.ConfigDir + "/*" + m.prefix + "*"); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
	t.Cleanup(func() {
		if t.Failed() {
			m.logs(t)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), slack*3*time.Minute)
	defer cancel()
	if err := m.lab.Up(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if err := m.populate(ctx); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *crashMesh) build(t *testing.T, name string, flags ...string) *dev.Lab {
	t.Helper()
	program := filepath.Join(m.dir, name)
	args := slices.Concat([]string{"build"}, flags, []string{"-o", program, "../cmd/culvert"})
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go %v: %v\n%s", args, err, out)
	}
	cfg := dev.Config{Prefix: m.prefix, Program: program, ServerFlags: m.flags}
	if len(flags) > 0 {
		cfg.Environment = func(host, role string) []string { return []string{failpoint.Env + "=" + m.pointDir(t, host, role)} }
	}
	lab, err := dev.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return lab
}

// pointDir is where a process finds its armed failpoints.
func (m *crashMesh) pointDir(t *testing.T, host, role string) string {
	dir := filepath.Join(m.dir, "points", host+"-"+role)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (m *crashMesh) logs(t *testing.T) {
	for _, p := range crashProcesses {
		var b strings.Builder
		if err := m.lab.Logs(context.Background(), p[0], p[1], 15, false, &b); err == nil {
			t.Logf("--- %s %s\n%s", p[0], p[1], b.String())
		}
	}
}

var crashProcesses = [][2]string{{"server", "server"}, {"host-a", "agent"}, {"host-a", "tunnel"}, {"host-b", "agent"}, {"host-b", "tunnel"}}

// as is a client with the administrator's key that acts for an account.
func (m *crashMesh) as(account string) *client.Client {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.clients[account]
	if c == nil {
		var err error
		if c, err = m.lab.Admin(account); err != nil {
			panic(err)
		}
		m.clients[account] = c
	}
	return c
}

func (m *crashMesh) populate(ctx context.Context) error {
	for _, name := range []string{"shop", "pay", "stranger"} {
		if _, err := m.as("").CreateAccount(ctx, api.CreateAccountRequest{Name: name}); err != nil {
			return err
		}
		c := m.as(name)
		if _, err := c.CreateVPC(ctx, api.CreateVPCRequest{Name: name, CIDR: netip.MustParsePrefix("10.0.0.0/16")}); err != nil {
			return err
		}
		if _, err := c.CreateSubnet(ctx, api.CreateSubnetRequest{VPC: name, Name: name, Zone: "z1",
			CIDR: netip.MustParsePrefix("10.0.1.0/24")}); err != nil {
			return err
		}
	}
	for _, s := range crashWorkloads {
		eni, err := m.as(s.account).CreateENI(ctx, api.CreateENIRequest{Subnet: s.account, Name: s.name, Node: s.host,
			Address: netip.MustParseAddr(s.address)})
		if err != nil {
			return err
		}
		if _, err = m.lab.AddWorkload(ctx, m.as(s.account), dev.Workload{Name: m.ns(s.name), Host: s.host, ENI: eni.ID}); err != nil {
			return err
		}
	}
	for _, o := range []struct {
		name  string
		port  uint16
		proto api.Protocol
	}{{"ledger", 443, api.TCP}, {"side", 444, api.TCP}, {"echo", 7777, api.UDP}} {
		if err := m.offer(ctx, o.name, o.port, o.proto); err != nil {
			return fmt.Errorf("service %s: %w", o.name, err)
		}
	}
	return m.converge(ctx)
}

// offer makes a service of the provider's with an endpoint of the consumer's. Only TCP has two targets.
func (m *crashMesh) offer(ctx context.Context, name string, port uint16, proto api.Protocol) error {
	pay, shop := m.as("pay"), m.as("shop")
	lb, err := pay.CreateLoadBalancer(ctx, api.CreateLoadBalancerRequest{Name: name, Subnets: []string{"pay"}})
	if err != nil {
		return err
	}
	targets := []api.TargetRequest{{ENI: "ledger-1"}}
	if proto == api.TCP {
		targets = append(targets, api.TargetRequest{ENI: "ledger-2"})
	}
	group, err := pay.CreateTargetGroup(ctx, api.CreateTargetGroupRequest{VPC: "pay", Name: name, Protocol: proto, Port: port,
		Targets: targets})
	if err != nil {
		return err
	}
	if _, err := pay.CreateListener(ctx, lb.ID, api.ListenerRequest{Protocol: proto, Port: port, TargetGroup: group.ID}); err != nil {
		return err
	}
	if _, err := pay.AuthorizeIngress(ctx, "default", []api.RuleRequest{{Protocol: proto, FromPort: port, ToPort: port,
		CIDR: netip.MustParsePrefix("10.0.1.0/24")}}); err != nil {
		return err
	}
	if _, err := pay.CreateService(ctx, api.CreateServiceRequest{Name: name, LoadBalancers: []string{lb.ID},
		AcceptanceRequired: true, AllowedPrincipals: []string{"shop"}}); err != nil {
		return err
	}
	ep, err := shop.CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "shop", Name: name, Service: "pay/" + name})
	if err != nil {
		return err
	}
	if _, err := pay.AcceptConnections(ctx, name, []string{ep.ID}); err != nil {
		return err
	}
	eni, err := shop.GetENI(ctx, ep.ENIs[0])
	if err != nil {
		return err
	}
	m.vip[name] = eni.Address
	return nil
}

// converge waits until both nodes have applied the newest revision.
func (m *crashMesh) converge(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, slack*30*time.Second)
	defer cancel()
	s, err := m.as("").Status(ctx)
	if err != nil {
		return err
	}
	return m.as("").WaitConverged(ctx, s.Revision)
}

func (m *crashMesh) address(service string, port uint16) string {
	return netip.AddrPortFrom(m.vip[service], port).String()
}

// probes are pairs that must not speak, in both directions between consumer and provider, and one that must, so that the
// places are known to hear.
func (m *crashMesh) probes() ([]oracle.Probe, []oracle.Place) {
	at := netip.MustParseAddrPort
	from := func(workload string) (string, netip.Addr) {
		i := slices.IndexFunc(crashWorkloads, func(s workloadSpec) bool { return s.name == workload })
		return m.ns(workload), netip.MustParseAddr(crashWorkloads[i].address)
	}
	var probes []oracle.Probe
	add := func(workload string, allowed bool, to ...netip.AddrPort) {
		ns, source := from(workload)
		for _, x := range to {
			probes = append(probes, oracle.Probe{From: ns, Source: source, To: x, Allowed: allowed})
		}
	}
	ledger, echo := m.vip["ledger"], m.vip["echo"]
	add("cart", true, netip.AddrPortFrom(echo, 7777))
	add("cart", false, netip.AddrPortFrom(ledger, 22), at("10.0.1.6:443"), at("10.99.0.1:7443"))
	add("visitor", false, netip.AddrPortFrom(ledger, 443), netip.AddrPortFrom(echo, 7777), at("10.0.1.77:9"), at("10.0.1.6:443"))
	add("ledger-1", false, at("10.0.1.77:9"), at("10.0.1.9:9"), netip.AddrPortFrom(ledger, 22)) // 443: a load balancer of its own VPC
	add("ledger-2", false, at("10.0.1.77:443"), at("10.99.0.10:51820"))
	var places []oracle.Place
	for _, s := range crashWorkloads {
		if s.name != "spare" { // which comes and goes
			places = append(places, oracle.Place{Namespace: m.ns(s.name), Interface: "eni0"})
		}
	}
	for _, host := range []string{"host-a", "host-b"} {
		places = append(places, oracle.Place{Namespace: m.prefix + "-" + host, Interface: hostLink})
	}
	return probes, places
}

// ledgers are the hosts' accounts of their packets.
func (m *crashMesh) ledgers(ctx context.Context) (map[string]*oracle.Ledger, error) {
	all := map[string]*oracle.Ledger{}
	for _, host := range []string{"host-a", "host-b"} {
		s, err := local.NewClient(m.lab.AgentSocket(host)).Status(ctx)
		if err != nil {
			return nil, err
		}
		records, err := oracle.Records(m.lab.StateDir("nodes", host, "flows"))
		if err != nil {
			return nil, err
		}
		all[host] = oracle.NewLedger(s.Counters, records)
	}
	return all, nil
}

// pause waits, to be at a random moment.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// killsFromEnv is how often each process is killed: CULVERT_KILLS, or 30.
func killsFromEnv(t *testing.T) int {
	t.Helper()
	text := os.Getenv("CULVERT_KILLS")
	if text == "" {
		return 30
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("CULVERT_KILLS=%q: want a number of 1 or more", text)
	}
	return n
}

// spare attaches and detaches the workload of that name, by the agent of its host.
func (m *crashMesh) spare(ctx context.Context, attach bool) error {
	eni, err := m.as("shop").GetENI(ctx, "spare")
	if err != nil {
		return err
	}
	agent := local.NewClient(m.lab.AgentSocket("host-a"))
	if !attach {
		return agent.Detach(ctx, local.DetachRequest{ENI: eni.ID})
	}
	_, err = agent.Attach(ctx, local.AttachRequest{ENI: eni.ID, Netns: netns.Path(m.ns("spare")), DefaultRoute: true})
	return err
}
