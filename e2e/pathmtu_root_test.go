package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
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
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/internal/oracle"
)

// narrowMesh is a mesh whose two hosts have a router between them, on links of 9000 bytes; the router's routes can be narrow.
type narrowMesh struct {
	t        *testing.T
	prefix   string
	program  string
	lab      *dev.Lab
	six      bool
	endpoint string
}

const (
	narrowHostA, narrowHostB   = "10.99.0.10", "10.99.0.11"
	narrowHostA6, narrowHostB6 = "fd99::a63:a", "fd99::a63:b"
	narrowPort                 = 7000
)

// maxStall is how long a connection may stand still where its path narrowed. The test fails at failAt times as much.
const maxStall = 2 * time.Second

func newNarrowMesh(t *testing.T, six bool) *narrowMesh {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, BPF")
	}
	m := &narrowMesh{t: t, prefix: "cvnarrow4", six: six, program: os.Getenv("CULVERT_E2E_PROGRAM")}
	if six {
		m.prefix = "cvnarrow6"
	}
	if m.program == "" {
		m.program = filepath.Join(t.TempDir(), "culvert")
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", m.program, "../cmd/culvert").CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	var err error
	m.lab, err = dev.New(dev.Config{Prefix: m.prefix, Program: m.program, UnderlayMTU: 9000, UnderlayIPv6: six})
	if err != nil {
		t.Fatal(err)
	}
	down := func() {
		_ = exec.Command("ip", "netns", "del", m.prefix+"-router").Run()
		if err := m.lab.Down(); err != nil {
			t.Error(err)
		}
	}
	down() // what a run that was killed has left
	t.Cleanup(down)
	ctx, cancel := context.WithTimeout(t.Context(), slack*3*time.Minute*slowness())
	defer cancel()
	if err := m.lab.Up(ctx, 2); err != nil {
		t.Fatal(err)
	}
	m.insertRouter()
	m.populate(ctx)
	return m
}

// run runs a command in a namespace of the mesh.
func (m *narrowMesh) run(namespace string, argv ...string) {
	m.t.Helper()
	argv = append([]string{"netns", "exec", m.prefix + "-" + namespace}, argv...)
	if out, err := exec.CommandContext(m.t.Context(), "ip", argv...).CombinedOutput(); err != nil {
		m.t.Fatalf("ip %s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}

// insertRouter puts a router between the bridge and host-b's port of it, which answers for each side on the other.
func (m *narrowMesh) insertRouter() {
	m.t.Helper()
	router := m.prefix + "-router"
	if out, err := exec.Command("ip", "netns", "add", router).CombinedOutput(); err != nil {
		m.t.Fatalf("ip netns add: %v\n%s", err, out)
	}
	m.run("underlay", "ip", "link", "set", "p-host-b", "nomaster", "netns", router)
	m.run("underlay", "ip", "link", "add", "torouter", "mtu", "9000", "type", "veth", "peer", "name", "tobridge", "mtu", "9000",
		"netns", router)
	m.run("underlay", "ip", "link", "set", "torouter", "master", "br0", "up")
	for _, s := range []string{"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.proxy_arp=1",
		"net.ipv6.conf.all.proxy_ndp=1", "net.ipv4.icmp_ratelimit=0"} {
		m.run("router", "sysctl", "-qw", s)
	}
	for _, link := range []string{"tobridge", "p-host-b"} {
		m.run("router", "sysctl", "-qw", "net.ipv4.neigh."+link+".proxy_delay=0", "net.ipv6.neigh."+link+".proxy_delay=0",
			"net.ipv6.conf."+link+".proxy_ndp=1")
		m.run("router", "ip", "link", "set", link, "up")
	}
	m.run("router", "ip", "address", "add", "10.99.0.250/32", "dev", "tobridge")
	m.run("router", "ip", "address", "add", "fd99::fa/128", "dev", "tobridge", "nodad")
	m.run("router", "ip", "neigh", "add", "proxy", narrowHostB6, "dev", "tobridge")
	m.run("router", "ip", "neigh", "add", "proxy", narrowHostA6, "dev", "p-host-b")
	m.narrow(9000)
	for _, host := range []string{"host-a", "host-b", "server"} {
		m.run(host, "ip", "neigh", "flush", "all")
	}
}

// narrow gives the router's routes an MTU.
func (m *narrowMesh) narrow(mtu int) {
	m.t.Helper()
	size := fmt.Sprint(mtu)
	m.run("router", "ip", "route", "replace", narrowHostB+"/32", "dev", "p-host-b", "mtu", "lock", size)
	m.run("router", "ip", "route", "replace", "10.99.0.0/24", "dev", "tobridge", "mtu", "lock", size)
	m.run("router", "ip", "route", "replace", narrowHostB6+"/128", "dev", "p-host-b", "mtu", "lock", size)
	m.run("router", "ip", "route", "replace", narrowHostA6+"/128", "dev", "tobridge", "mtu", "lock", size)
}

// mute keeps the router from reporting about datagrams, and fragments from reaching the hosts.
func (m *narrowMesh) mute() {
	m.t.Helper()
	m.run("router", "nft", "table inet mute { chain out { type filter hook output priority 0; "+
		"icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }")
	for _, host := range []string{"host-a", "host-b"} {
		m.run(host, "nft", "table inet mute { chain in { type filter hook prerouting priority -450; "+
			"ip frag-off & 0x3fff != 0 drop; exthdr frag exists drop; }; }")
	}
}

// workload is the namespace of one.
func (m *narrowMesh) workload(name string) string { return m.prefix + "-w-" + name }

// populate makes a service of ledger on host-b, an endpoint for cart on host-a, and an echo at the ledger.
func (m *narrowMesh) populate(ctx context.Context) {
	m.t.Helper()
	must := func(_ any, err error) {
		m.t.Helper()
		if err != nil {
			m.t.Fatal(err)
		}
	}
	as := func(account string) *client.Client {
		c, err := m.lab.Admin(account)
		must(nil, err)
		return c
	}
	subnet := netip.MustParsePrefix("10.0.1.0/24")
	admin := as("")
	for _, account := range []string{"shop", "pay"} {
		must(admin.CreateAccount(ctx, api.CreateAccountRequest{Name: account}))
		c := as(account)
		must(c.CreateVPC(ctx, api.CreateVPCRequest{Name: "main", CIDR: netip.MustParsePrefix("10.0.0.0/16")}))
		must(c.CreateSubnet(ctx, api.CreateSubnetRequest{VPC: "main", Name: "main", Zone: "z1", CIDR: subnet}))
		name, host := "cart", "host-a"
		if account == "pay" {
			name, host = "ledger", "host-b"
		}
		eni, err := c.CreateENI(ctx, api.CreateENIRequest{Subnet: "main", Name: name, Node: host})
		must(nil, err)
		must(m.lab.AddWorkload(ctx, c, dev.Workload{Name: m.workload(name), Host: host, ENI: eni.ID}))
	}
	shop, pay := as("shop"), as("pay")
	must(pay.CreateLoadBalancer(ctx, api.CreateLoadBalancerRequest{Name: "ledger", Subnets: []string{"main"}}))
	must(pay.CreateTargetGroup(ctx, api.CreateTargetGroupRequest{VPC: "main", Name: "ledger", Protocol: api.TCP, Port: narrowPort,
		Targets: []api.TargetRequest{{ENI: "ledger"}}}))
	must(pay.CreateListener(ctx, "ledger", api.ListenerRequest{Protocol: api.TCP, Port: narrowPort, TargetGroup: "ledger"}))
	must(pay.AuthorizeIngress(ctx, "default", []api.RuleRequest{{Protocol: api.TCP, FromPort: narrowPort, ToPort: narrowPort, CIDR: subnet}}))
	must(pay.CreateService(ctx, api.CreateServiceRequest{Name: "ledger", LoadBalancers: []string{"ledger"}, AllowedPrincipals: []string{"shop"}}))
	endpoint, err := shop.CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "main", Name: "ledger", Service: "pay/ledger"})
	must(nil, err)
	eni, err := shop.GetENI(ctx, endpoint.ENIs[0])
	must(nil, err)
	m.endpoint = net.JoinHostPort(eni.Address.String(), fmt.Sprint(narrowPort))
	must(nil, oracle.Echo(m.t.Context(), m.workload("ledger"), fmt.Sprintf(":%d", narrowPort)))
}

// awaitPath waits until both hosts hold the path to the other to an MTU.
func (m *narrowMesh) awaitPath(want int) {
	m.t.Helper()
	for _, host := range []string{"host-a", "host-b"} {
		got := 0
		netlab.Eventually(m.t, 40*time.Second, func() bool {
			out, err := exec.CommandContext(m.t.Context(), m.program, "status", "-o", "json", "--socket", m.lab.AgentSocket(host)).Output()
			var s struct {
				Node local.Status `json:"node"`
			}
			if err == nil {
				err = json.Unmarshal(out, &s)
			}
			if err == nil && len(s.Node.Peers) == 1 {
				got = s.Node.Peers[0].PathMTU
			}
			return got == want
		}, fmt.Sprintf("%s holds the path to the other to %d", host, want))
	}
}

// bulk sends to the echo as much as goes, and notes what comes back and when nothing did.
type bulk struct {
	conn           net.Conn
	sent, got      hash.Hash
	sentN, gotN    int64
	mu             sync.Mutex
	last           time.Time
	stall          time.Duration
	stop           chan struct{}
	written, heard chan error
}

func (m *narrowMesh) startBulk() *bulk {
	m.t.Helper()
	b := &bulk{sent: sha256.New(), got: sha256.New(), stop: make(chan struct{}), written: make(chan error, 1), heard: make(chan error, 1)}
	netlab.Eventually(m.t, 20*time.Second, func() bool {
		c, err := oracle.Dial(m.t.Context(), m.workload("cart"), m.endpoint)
		b.conn = c
		return err == nil
	}, "the endpoint answers")
	m.t.Cleanup(func() { b.conn.Close() })
	b.last = time.Now()
	go func() { b.written <- b.write() }()
	go func() { b.heard <- b.read() }()
	return b
}

func (b *bulk) write() error {
	block := make([]byte, 64<<10)
	rng := rand.NewChaCha8([32]byte{1})
	for {
		select {
		case <-b.stop:
			return b.conn.(*net.TCPConn).CloseWrite()
		default:
		}
		_, _ = rng.Read(block)
		n, err := b.conn.Write(block)
		b.sent.Write(block[:n])
		b.sentN += int64(n)
		if err != nil {
			return err
		}
	}
}

func (b *bulk) read() error {
	for block := make([]byte, 64<<10); ; {
		n, err := b.conn.Read(block)
		now := time.Now()
		b.mu.Lock()
		b.stall, b.last = max(b.stall, now.Sub(b.last)), now
		b.mu.Unlock()
		b.got.Write(block[:n])
		b.gotN += int64(n)
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// worst is the longest time without an answer since it was asked last.
func (b *bulk) worst() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := max(b.stall, time.Since(b.last))
	b.stall = 0
	return d
}

// end stops the sender, waits for the rest and compares.
func (b *bulk) end(t *testing.T) {
	t.Helper()
	close(b.stop)
	_ = b.conn.SetDeadline(time.Now().Add(slack * 30 * time.Second * slowness()))
	if err := <-b.written; err != nil {
		t.Errorf("send: %v", err)
	}
	if err := <-b.heard; err != nil {
		t.Errorf("receive: %v", err)
	}
	if b.sentN == 0 || b.sentN != b.gotN || string(b.sent.Sum(nil)) != string(b.got.Sum(nil)) {
		t.Errorf("%d bytes sent, %d came back, or others", b.sentN, b.gotN)
	}
}

// TestPathNarrows: the path between two nodes narrows under connections through an endpoint, step by step, with and without a
// word from the router. None stands still for longer than maxStall (the test fails at failAt times that), and what comes back is what was sent.
func TestPathNarrows(t *testing.T) {
	for _, six := range []bool{false, true} {
		m := newNarrowMesh(t, six)
		for _, mute := range []bool{false, true} {
			m.narrow(9000)
			m.awaitPath(8920)
			for _, w := range []string{"cart", "ledger"} {
				m.run("w-"+w, "ip", "route", "flush", "cache") // what TCP remembers of before
			}
			if mute {
				m.mute()
			}
			m.steps(mute)
		}
	}
}

func (m *narrowMesh) steps(mute bool) {
	m.t.Helper()
	overhead := 60
	if m.six {
		overhead = 80
	}
	long := m.startBulk()
	for _, mtu := range []int{1500, 1400, 1280} {
		m.pass(long, 300*time.Millisecond)
		long.worst()
		m.narrow(mtu)
		m.pass(long, 2*time.Second)
		m.goesOn(long)
		live := long.worst()
		m.awaitPath((mtu - overhead) &^ 15)
		fresh := m.startBulk()
		m.pass(fresh, 500*time.Millisecond)
		m.goesOn(fresh)
		first := fresh.worst()
		fresh.end(m.t)
		m.t.Logf("IPv6 %t, mute %t, to %d: stalls of %d ms live, %d ms anew; %d MB anew", m.six, mute, mtu, live.Milliseconds(),
			first.Milliseconds(), fresh.gotN>>20)
		for _, d := range []time.Duration{live, first} {
			if d > failAt*maxStall*slowness() {
				m.t.Errorf("IPv6 %t, mute %t, to %d: nothing for %s", m.six, mute, mtu, d)
			}
		}
	}
	long.end(m.t)
}

// pass lets a time pass, unless the connection ends.
// goesOn waits until something arrives again, or has not for too long.
func (m *narrowMesh) goesOn(b *bulk) {
	m.t.Helper()
	silent := func() time.Duration {
		b.mu.Lock()
		defer b.mu.Unlock()
		return time.Since(b.last)
	}
	for d := silent(); d > 200*time.Millisecond && d <= failAt*maxStall*slowness(); d = silent() {
		m.pass(b, 100*time.Millisecond)
	}
}

func (m *narrowMesh) pass(b *bulk, d time.Duration) {
	m.t.Helper()
	select {
	case <-time.After(d):
	case err := <-b.written:
		m.t.Fatalf("the connection ended: %v", err)
	}
}
