package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/dev"
	"github.com/culvert-net/culvert/internal/netns"
	"github.com/culvert-net/culvert/internal/oracle"
)

const (
	lossyPrefix = "cvlossy"
	// lossyWitness cosigns the log of this mesh, beside its server.
	lossyWitness        = "http://10.99.0.1:7450"
	lossyWitnessName    = "witness.example"
	lossyWitnessAddress = "10.99.0.1:7450"
	// lossyPort is both services'.
	lossyPort = 7000
)

// lossyMesh has a consumer on host-a and a target of two services on host-b, and a bridge between them that drops on demand. A witness
// cosigns its log.
type lossyMesh struct {
	*world
	witnessKey  string
	nodes       map[string]string // ids by name
	addresses   map[string]string // of endpoints, with the port, by service
	connections map[string]string // ids by service
}

func (m *lossyMesh) ns(workload string) string { return lossyPrefix + "-w-" + workload }

// newLossyMesh builds it; it goes with the test.
func newLossyMesh(t *testing.T) *lossyMesh {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, BPF")
	}
	dir := t.TempDir()
	m := &lossyMesh{world: &world{bin: filepath.Join(dir, "culvert"), dir: dir, clients: map[string]*client.Client{}},
		nodes: map[string]string{}, addresses: map[string]string{}, connections: map[string]string{}}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", m.bin, "../cmd/culvert").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	key, err := exec.CommandContext(t.Context(), m.bin, "witness", "--name", lossyWitnessName, "--state-dir", m.witnessDir(), "--print-key").Output()
	if err != nil {
		t.Fatalf("key of the witness: %v", err)
	}
	m.witnessKey = strings.TrimSpace(string(key))
	if m.lab, err = dev.New(dev.Config{Prefix: lossyPrefix, Program: m.bin,
		ServerFlags: []string{"--witness", m.witnessKey + " " + lossyWitness}}); err != nil {
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
	if err := m.lab.Up(ctx, 2); err != nil {
		t.Fatal(err)
	}
	m.startWitness(t)
	m.bridge(t)
	if err := m.populate(ctx); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *lossyMesh) witnessDir() string { return filepath.Join(m.dir, "witness") }

// publicKeys writes what an auditor believes: the log's key, the mesh's CA and, cosigned, the witness's.
func (m *lossyMesh) publicKeys(t *testing.T, name string, cosigned bool) (path string) {
	t.Helper()
	key, errs, status := m.output(t, "", "log-key")
	if status != 0 {
		t.Fatalf("log-key: %s", errs)
	}
	ca, err := os.ReadFile(m.lab.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	if cosigned {
		key += m.witnessKey + "\n"
	}
	path = filepath.Join(m.dir, name)
	write(t, path, key+string(ca))
	return path
}

func (m *lossyMesh) startWitness(t *testing.T) {
	t.Helper()
	logs := filepath.Join(m.dir, "logs")
	key, errs, status := m.output(t, "", "log-key")
	if status != 0 {
		t.Fatalf("log-key: %s", errs)
	}
	write(t, logs, key)
	keepRunning(t, "witness", exec.CommandContext(context.Background(), "ip", "netns", "exec", lossyPrefix+"-server", m.bin, "witness",
		"--name", lossyWitnessName, "--state-dir", m.witnessDir(), "--logs", logs, "--listen", lossyWitnessAddress))
	eventually(t, 60*time.Second, "a checkpoint that the witness has cosigned", func() error {
		checkpoint, err := os.ReadFile(m.lab.StateDir("server", "evidence", "log", "checkpoint"))
		if err == nil && !bytes.Contains(checkpoint, []byte("— "+lossyWitnessName+" ")) {
			err = errors.New("the witness has not")
		}
		return err
	})
}

// cosigned is what the witness tells that it has cosigned last.
func (m *lossyMesh) cosigned(t *testing.T) string {
	t.Helper()
	key, errs, status := m.output(t, "", "log-key")
	if status != 0 {
		t.Fatalf("log-key: %s", errs)
	}
	origin, _, _ := strings.Cut(key, "+")
	return string(m.exec(t, "server", "curl", "-sSf", "--max-time", seconds(10), lossyWitness+"/checkpoint?origin="+url.QueryEscape(origin)))
}

// Datagrams between the tunnels that the bridge drops some of: those that carry what this test sends at full size. Probes of the path are longer,
// and what nodes tell each other is shorter, but for few.
const (
	lossySize  = 700 // bytes of what a workload's packets carry
	droppedMin = 750 // bytes of the tunnel's datagrams
	droppedMax = 850
	strangers  = 10 // messages of nodes may be among what is dropped
)

// bridge has each host's packets come to the bridge one by one, and be counted there.
func (m *lossyMesh) bridge(t *testing.T) {
	t.Helper()
	table := "add table netdev lossy; "
	for _, host := range []string{"host-a", "host-b"} {
		m.exec(t, host, "ethtool", "-K", "eth0", "tx-udp-segmentation", "off")
		table += fmt.Sprintf("add chain netdev lossy %s { type filter hook ingress device \"p-%[1]s\" priority 0; }; ", host)
	}
	m.exec(t, "underlay", "nft", table+"add counter netdev lossy dropped")
}

// lose has the bridge drop each n-th large packet of each host, until it is ended.
func (m *lossyMesh) lose(t *testing.T, n int) (end func()) {
	t.Helper()
	rules := ""
	for _, host := range []string{"host-a", "host-b"} {
		rules += fmt.Sprintf("add rule netdev lossy %s udp length %d-%d numgen inc mod %d == 0 counter name dropped drop; ", host, droppedMin,
			droppedMax, n)
	}
	m.exec(t, "underlay", "nft", rules)
	return func() {
		m.exec(t, "underlay", "nft", "flush chain netdev lossy host-a; flush chain netdev lossy host-b")
	}
}

// dropped is how many packets the bridge has dropped.
func (m *lossyMesh) dropped(t *testing.T) uint64 {
	t.Helper()
	var list struct {
		Nftables []struct {
			Counter *struct {
				Packets uint64 `json:"packets"`
			} `json:"counter"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(m.exec(t, "underlay", "nft", "-j", "list counters netdev"), &list); err != nil {
		t.Fatal(err)
	}
	for _, l := range list.Nftables {
		if l.Counter != nil {
			return l.Counter.Packets
		}
	}
	t.Fatal("the bridge has no counter")
	return 0
}

// exec runs a command in a namespace of the mesh.
func (m *lossyMesh) exec(t *testing.T, namespace string, argv ...string) []byte {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "ip", append([]string{"netns", "exec", lossyPrefix + "-" + namespace}, argv...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s$ %s: %v\n%s", namespace, strings.Join(argv, " "), err, errs.String())
	}
	return out.Bytes()
}

// populate makes the services "ledger" (TCP and UDP) and "books" (UDP) of one target, and an endpoint of each.
func (m *lossyMesh) populate(ctx context.Context) error {
	subnet := netip.MustParsePrefix("10.0.1.0/24")
	for _, s := range []struct{ account, workload, host string }{{"shop", "cart", "host-a"}, {"pay", "ledger", "host-b"}} {
		if _, err := m.as("").CreateAccount(ctx, api.CreateAccountRequest{Name: s.account}); err != nil {
			return err
		}
		c := m.as(s.account)
		if _, err := c.CreateVPC(ctx, api.CreateVPCRequest{Name: "main", CIDR: netip.MustParsePrefix("10.0.0.0/16")}); err != nil {
			return err
		}
		if _, err := c.CreateSubnet(ctx, api.CreateSubnetRequest{VPC: "main", Name: "main", Zone: "z1", CIDR: subnet}); err != nil {
			return err
		}
		eni, err := c.CreateENI(ctx, api.CreateENIRequest{Subnet: "main", Name: s.workload, Node: s.host})
		if err != nil {
			return err
		}
		if _, err := m.lab.AddWorkload(ctx, c, dev.Workload{Name: m.ns(s.workload), Host: s.host, ENI: eni.ID}); err != nil {
			return err
		}
	}
	if err := m.offer(ctx, "ledger", subnet, lossyPort, api.UDP, api.TCP); err != nil {
		return err
	}
	if err := m.offer(ctx, "books", subnet, lossyPort+1, api.UDP); err != nil {
		return err
	}
	nodes, err := m.as("").ListNodes(ctx)
	if err != nil {
		return err
	}
	for i := range nodes {
		m.nodes[nodes[i].Name] = nodes[i].ID
	}
	return m.converge(ctx)
}

// offer makes a service whose target is the workload "ledger", and an endpoint of it.
func (m *lossyMesh) offer(ctx context.Context, name string, from netip.Prefix, port uint16, protocols ...api.Protocol) error {
	pay := m.as("pay")
	if _, err := pay.CreateLoadBalancer(ctx, api.CreateLoadBalancerRequest{Name: name, Subnets: []string{"main"}}); err != nil {
		return err
	}
	for _, p := range protocols {
		group, err := pay.CreateTargetGroup(ctx, api.CreateTargetGroupRequest{VPC: "main", Name: name + "-" + string(p), Protocol: p, Port: port,
			Targets: []api.TargetRequest{{ENI: "ledger"}}})
		if err != nil {
			return err
		}
		if _, err := pay.CreateListener(ctx, name, api.ListenerRequest{Protocol: p, Port: lossyPort, TargetGroup: group.ID}); err != nil {
			return err
		}
		if _, err := pay.AuthorizeIngress(ctx, "default", []api.RuleRequest{{Protocol: p, FromPort: port, ToPort: port, CIDR: from}}); err != nil {
			return err
		}
	}
	if _, err := pay.CreateService(ctx, api.CreateServiceRequest{Name: name, LoadBalancers: []string{name}, AcceptanceRequired: true,
		AllowedPrincipals: []string{"shop"}}); err != nil {
		return err
	}
	endpoint, err := m.as("shop").CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "main", Name: name, Service: "pay/" + name})
	if err != nil {
		return err
	}
	if _, err := pay.AcceptConnections(ctx, name, []string{endpoint.ID}); err != nil {
		return err
	}
	eni, err := m.as("shop").GetENI(ctx, endpoint.ENIs[0])
	if err != nil {
		return err
	}
	m.addresses[name], m.connections[name] = net.JoinHostPort(eni.Address.String(), fmt.Sprint(lossyPort)), endpoint.Connection
	return nil
}

// dialTCP opens a connection of the workload "cart" whose segments carry no more than lossySize.
func (m *lossyMesh) dialTCP(ctx context.Context, address string) (c net.Conn, err error) {
	d := net.Dialer{Timeout: slack * 10 * time.Second * slowness(), Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if errRaw := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, lossySize) }); errRaw != nil {
			err = errRaw
		}
		return err
	}}
	errNS := netns.Do(netns.Path(m.ns("cart")), func() error { c, err = d.DialContext(ctx, "tcp4", address); return nil })
	if errNS != nil {
		err = errNS
	}
	return c, err
}

// echoTCP sends back what comes to the workload "ledger" by TCP, until the test ends.
func (m *lossyMesh) echoTCP(t *testing.T) {
	t.Helper()
	if err := oracle.Echo(t.Context(), m.ns("ledger"), fmt.Sprintf(":%d", lossyPort)); err != nil {
		t.Fatal(err)
	}
}
