package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/dev"
)

// commandPrefix names the mesh that is changed by command lines only, and may be flooded.
const commandPrefix = "cvcmd"

// smallTable is host-c's flow table, in entries: a tenant's flood fills what it may have of it at once.
const smallTable = 4096

// commandMesh has consumers on two hosts, targets on two hosts in two zones, and a tenant that floods.
type commandMesh struct {
	lab     *dev.Lab
	program string
	mu      sync.Mutex
	access  map[string]*dev.Access // by account and host
}

// commandWorkload is a workload, in the VPC and account of one name. Subnets are one a zone.
type commandWorkload struct{ account, name, subnet, host, address, kind string }

var commandWorkloads = []commandWorkload{
	{"shop", "cart", "shop-1", "host-a", "10.0.1.5", "ipv4"},
	{"shop", "till", "shop-2", "host-c", "10.0.2.5", "ipv4"},
	{"shop", "lone", "shop-1", "host-a", "10.0.1.6", "ipv6"},
	{"shop", "pinged", "shop-2", "host-c", "10.0.2.6", "dualstack"},
	{"pay", "t1", "pay-1", "host-b", "10.0.1.5", "ipv4"},
	{"pay", "t2", "pay-1", "host-b", "10.0.1.6", "ipv4"},
	{"pay", "t3", "pay-2", "host-c", "10.0.2.5", "ipv4"},
	{"pay", "six", "pay-1", "host-b", "10.0.1.7", "ipv6"},
	{"pay", "dual", "pay-1", "host-b", "10.0.1.8", "dualstack"},
	{"pay", "clerk", "pay-1", "host-a", "10.0.1.9", "ipv4"},
	{"noisy", "hog", "noisy-1", "host-a", "10.0.1.5", "ipv4"},
	{"noisy", "hog-c", "noisy-2", "host-c", "10.0.2.5", "ipv4"},
}

func commandNS(workload string) string { return commandPrefix + "-w-" + workload }

// newCommandMesh builds it; it goes with the test.
func newCommandMesh(t *testing.T) *commandMesh {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, BPF")
	}
	m := &commandMesh{access: map[string]*dev.Access{}, program: os.Getenv("CULVERT_E2E_PROGRAM")}
	if m.program == "" {
		m.program = filepath.Join(t.TempDir(), "culvert")
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", m.program, "../cmd/culvert").CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	var err error
	m.lab, err = dev.New(dev.Config{Prefix: commandPrefix, Program: m.program, AgentFlags: func(host string) []string {
		if host != "host-c" {
			return nil
		}
		return []string{"--flow-table-entries", fmt.Sprint(smallTable)}
	}})
	if err != nil {
		t.Fatal(err)
	}
	down := func() {
		if err := m.lab.Down(); err != nil {
			t.Error(err)
		}
	}
	down() // what a run that was killed has left
	t.Cleanup(down)
	t.Cleanup(func() {
		if t.Failed() {
			m.logs(t)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), slack*3*time.Minute*slowness())
	defer cancel()
	if err := m.lab.Up(ctx, 3); err != nil {
		t.Fatal(err)
	}
	m.populate(ctx, t)
	return m
}

func (m *commandMesh) logs(t *testing.T) {
	for _, host := range []string{"server", "host-a", "host-b", "host-c"} {
		role := "agent"
		if host == "server" {
			role = host
		}
		var b strings.Builder
		if err := m.lab.Logs(context.Background(), host, role, 15, false, &b); err == nil {
			t.Logf("--- %s\n%s", host, b.String())
		}
	}
}

func (m *commandMesh) populate(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, name := range []string{"shop", "pay", "noisy"} {
		m.run(t, "", "account create "+name)
		m.run(t, name, "vpc create "+name+" --cidr 10.0.0.0/16")
		for zone := range 2 {
			m.run(t, name, fmt.Sprintf("subnet create %s-%d --vpc %[1]s --zone z%[2]d --cidr 10.0.%[2]d.0/24", name, zone+1))
		}
	}
	for _, cidr := range []string{"10.0.0.0/16", "::/0"} {
		for _, protocol := range []string{"tcp", "udp"} {
			m.run(t, "pay", "sg authorize default --ingress --protocol "+protocol+" --port 7000-7999 --cidr "+cidr)
		}
	}
	for _, s := range commandWorkloads {
		m.run(t, s.account, fmt.Sprintf("eni create %s --subnet %s --node %s --address %s --ip-address-type %s", s.name, s.subnet, s.host,
			s.address, s.kind))
		c, err := m.lab.Admin(s.account)
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.lab.AddWorkload(ctx, c, dev.Workload{Name: commandNS(s.name), Host: s.host, ENI: s.name})
		c.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// try runs a command line as an account, "" being the administrator, with the agent of a host if one is named.
func (m *commandMesh) try(t *testing.T, account, host, line string) (stdout string, err error) {
	t.Helper()
	access, err := m.accessOf(t.Context(), account, host)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), slack*60*time.Second*slowness())
	defer cancel()
	cmd := exec.CommandContext(ctx, m.program, strings.Fields(line)...)
	cmd.Env = append(os.Environ(), "CULVERT_SERVER="+access.Server, "CULVERT_CA="+access.CA, "CULVERT_API_KEY="+access.APIKey)
	if host != "" {
		cmd.Env = append(cmd.Env, "CULVERT_AGENT_SOCKET="+access.AgentSocket)
	}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("culvert %s: %w: %s", line, err, errs.String())
	}
	return out.String(), nil
}

func (m *commandMesh) accessOf(ctx context.Context, account, host string) (*dev.Access, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := account + "/" + host
	if a := m.access[key]; a != nil {
		return a, nil
	}
	a, err := m.lab.Env(ctx, account, host)
	if err == nil {
		m.access[key] = a
	}
	return a, err
}

func (m *commandMesh) run(t *testing.T, account, line string) string {
	t.Helper()
	out, err := m.try(t, account, "", line)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// change runs a command that changes something, until all nodes have it.
func (m *commandMesh) change(t *testing.T, account, line string) string {
	t.Helper()
	return m.run(t, account, line+" --wait")
}

// described reads what a command shows as JSON.
func described[T any](t *testing.T, m *commandMesh, account, line string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(m.run(t, account, line+" -o json")), &v); err != nil {
		t.Fatalf("culvert %s: %v", line, err)
	}
	return v
}

// offer makes a service of the provider's, with its name for all its parts and one listener a protocol, and gives the targets
// and more flags of the target group.
func (m *commandMesh) offer(t *testing.T, name string, port uint16, protocols, group string) {
	t.Helper()
	listeners := ""
	for protocol := range strings.SplitSeq(protocols, ",") {
		// Targets are not checked: most tests close doors and servers, and ask where flows go at once. TestFailover and health have checks.
		m.run(t, "pay", fmt.Sprintf("target-group create %s-%s --vpc pay --protocol %[2]s --port %d --health-check=false %s", name, protocol, port, group))
		listeners += fmt.Sprintf(" --listener %d/%s:%s-%[2]s", port, protocol, name)
	}
	m.run(t, "pay", "load-balancer create "+name+" --subnet pay-1 --subnet pay-2"+listeners)
	m.run(t, "pay", "service create "+name+" --load-balancer "+name+" --allow shop --allow noisy")
}

// connect makes an endpoint of an account for a service, and tells its addresses by zone.
func (m *commandMesh) connect(t *testing.T, account, name, flags string) map[string]netip.Addr {
	t.Helper()
	m.change(t, account, fmt.Sprintf("endpoint create %s --vpc %s --service pay/%[1]s --subnet %[2]s-1 --subnet %[2]s-2 %s", name, account, flags))
	return m.addresses(t, account, described[api.Endpoint](t, m, account, "endpoint describe "+name).ENIs)
}

// addresses are those of ENIs by zone.
func (m *commandMesh) addresses(t *testing.T, account string, enis []string) map[string]netip.Addr {
	t.Helper()
	all := map[string]netip.Addr{}
	for _, id := range enis {
		eni := described[api.ENI](t, m, account, "eni describe "+id)
		subnet := described[api.Subnet](t, m, account, "subnet describe "+eni.Subnet)
		all[subnet.Zone] = eni.Address
		all[subnet.Zone+"/6"] = eni.IPv6Address
	}
	return all
}

// refused waits until an account's flow records have a refusal for a reason, at a stage ("" any), through an endpoint.
func (m *commandMesh) refused(t *testing.T, account, reason, stage, service string) api.FlowRecord {
	t.Helper()
	var found api.FlowRecord
	line := "flows query --action REJECT --reason " + reason + " --service pay/" + service + " -o json"
	// Behind a flood tens of thousands of records come before this one.
	eventually(t, 6*time.Minute, account+" sees "+reason+" at "+stage, func() error {
		out, err := m.try(t, account, "", line)
		if err != nil {
			return err
		}
		for row := range strings.Lines(out) {
			var r api.FlowRecord
			if err := json.Unmarshal([]byte(row), &r); err != nil {
				return err
			}
			if stage == "" || r.Stage == stage {
				found = r
				return nil
			}
		}
		return fmt.Errorf("none in %q", out)
	})
	return found
}

// status is what culvert status says of a host.
func (m *commandMesh) status(t *testing.T, host string) local.Status {
	t.Helper()
	out, err := m.try(t, "", host, "status -o json")
	var s struct {
		Node local.Status `json:"node"`
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s.Node
}

// counted is how many packets a host refused for a reason, or let through, at a hook ("" all).
func (m *commandMesh) counted(t *testing.T, host, hook, reason string) (n uint64) {
	t.Helper()
	for _, c := range m.status(t, host).Counters {
		if c.Reason == reason && (hook == "" || c.Hook == hook) {
			n += c.Packets
		}
	}
	return n
}

// alarmed waits until culvert status of a host has an error with all of the words.
func (m *commandMesh) alarmed(t *testing.T, host string, words ...string) {
	t.Helper()
	eventually(t, 20*time.Second, host+" says "+strings.Join(words, "…"), func() error { return m.alarm(t, host, words...) })
}

// alarm is nil when culvert status of a host has an error with all of the words.
func (m *commandMesh) alarm(t *testing.T, host string, words ...string) error {
	t.Helper()
	errs := m.status(t, host).Errors
	for _, e := range errs {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(e, w) }) {
			return nil
		}
	}
	return fmt.Errorf("it says %q", errs)
}

// figure sums up lines of a host's metrics.
func (m *commandMesh) figure(t *testing.T, host, line string) float64 {
	t.Helper()
	return figure(t, commandPrefix+"-"+host, "7445", line)
}

// in is a command inside a workload.
func (m *commandMesh) in(ctx context.Context, workload string, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, m.program, append([]string{"dev", "--prefix", commandPrefix, "exec", commandNS(workload), "--"}, argv...)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// start keeps a command running inside a workload until the test ends.
func (m *commandMesh) start(t *testing.T, workload string, argv ...string) {
	t.Helper()
	keepRunning(t, workload, m.in(context.Background(), workload, argv...))
}
