package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/dev"
	"github.com/culvert-net/culvert/internal/netns"
)

// recordsPrefix names the mesh whose flow records are delivered, followed and refused.
const recordsPrefix = "cvrec"

// What the server may deliver to, in its namespace.
const (
	recordsStream = "10.99.0.1:8088"
	deadStream    = "10.99.0.1:8089"
	recordsBucket = "10.99.0.1:8090"
)

// recordsMesh has two hosts, of which host-a has a small disk.
type recordsMesh struct {
	*world
	account string
	bucket  string            // directory that the S3 server keeps objects in
	enis    map[string]string // ids by name
}

// In the VPC of the account's name all traffic is known; what else is done is done in the bank.
var recordsWorkloads = []struct{ name, vpc, host, address string }{
	{"cart", "shop", "host-a", "10.0.1.5"},
	{"peer", "shop", "host-b", "10.0.1.6"},
	{"idle", "shop", "host-b", "10.0.1.7"},
	{"strict", "bank", "host-a", "10.0.1.5"},
	{"calm", "bank", "host-a", "10.0.1.6"},
	{"vault", "bank", "host-b", "10.0.1.7"},
}

func (m *recordsMesh) ns(workload string) string { return recordsPrefix + "-w-" + workload }

// newRecordsMesh builds it; it goes with the test.
func newRecordsMesh(t *testing.T) *recordsMesh {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, BPF, file systems")
	}
	dir := t.TempDir()
	m := &recordsMesh{world: &world{bin: filepath.Join(dir, "culvert"), dir: dir, clients: map[string]*client.Client{}},
		bucket: filepath.Join(dir, "buckets"), enis: map[string]string{}}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", m.bin, "../cmd/culvert").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	settings := filepath.Join(dir, "s3.yaml")
	write(t, settings, fmt.Sprintf("buckets:\n- {name: audit, endpoint: 'http://%s', accessKey: key, secretKey: of-the-operator, pathStyle: true, "+
		"accounts: ['*']}\n", recordsBucket))
	if err := errors.Join(os.Chmod(settings, 0o600), os.MkdirAll(filepath.Join(m.bucket, "audit"), 0o700)); err != nil {
		t.Fatal(err)
	}
	var err error
	if m.lab, err = dev.New(dev.Config{Prefix: recordsPrefix, Program: m.bin, ServerFlags: []string{"--s3-config", settings,
		"--flow-log-stream", recordsStream, "--flow-log-stream", deadStream}}); err != nil {
		t.Fatal(err)
	}
	down := func() {
		var errs []error
		if err := m.lab.Kill("host-a", "", false); err != nil && !errors.Is(err, dev.ErrNoMesh) {
			errs = append(errs, err)
		}
		if err := unix.Unmount(m.nodeDir(), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, err)
		}
		if err := errors.Join(append(errs, m.lab.Down())...); err != nil {
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
	if err := errors.Join(os.MkdirAll(m.nodeDir(), 0o700), unix.Mount("culvert-test", m.nodeDir(), "tmpfs", 0, "size=4m,mode=0700")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), slack*3*time.Minute*slowness())
	defer cancel()
	if err := m.lab.Up(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if err := m.populate(ctx); err != nil {
		t.Fatal(err)
	}
	m.startS3(t)
	return m
}

func (m *recordsMesh) nodeDir() string { return m.lab.StateDir("nodes", "host-a") }

func (m *recordsMesh) populate(ctx context.Context) error {
	a, err := m.as("").CreateAccount(ctx, api.CreateAccountRequest{Name: "shop"})
	if err != nil {
		return err
	}
	m.account = a.ID
	shop := m.as("shop")
	for _, vpc := range []string{"shop", "bank"} {
		cidr := netip.MustParsePrefix("10.0.1.0/24")
		v, err := shop.CreateVPC(ctx, api.CreateVPCRequest{Name: vpc, CIDR: cidr})
		if err != nil {
			return err
		}
		if _, err := shop.CreateSubnet(ctx, api.CreateSubnetRequest{VPC: vpc, Name: vpc, Zone: "z1", CIDR: cidr}); err != nil {
			return err
		}
		groups, err := shop.ListSecurityGroups(ctx)
		if err != nil {
			return err
		}
		for _, g := range groups {
			if g.VPC != v.ID {
				continue
			}
			if _, err := shop.AuthorizeIngress(ctx, g.ID, []api.RuleRequest{{Protocol: api.UDP, FromPort: 9000, ToPort: 9000, CIDR: cidr}}); err != nil {
				return err
			}
		}
	}
	for _, s := range recordsWorkloads {
		eni, err := shop.CreateENI(ctx, api.CreateENIRequest{Subnet: s.vpc, Name: s.name, Node: s.host, Address: netip.MustParseAddr(s.address)})
		if err != nil {
			return err
		}
		m.enis[s.name] = eni.ID
		if _, err := m.lab.AddWorkload(ctx, shop, dev.Workload{Name: m.ns(s.name), Host: s.host, ENI: eni.ID}); err != nil {
			return err
		}
	}
	return m.converge(ctx)
}

// startS3 runs an S3-compatible server of another project beside Culvert's.
func (m *recordsMesh) startS3(t *testing.T) {
	t.Helper()
	build := exec.CommandContext(t.Context(), "go", "tool", "-C", "../controlplane/delivery/s3server", "-n", "versitygw") // builds it, and says where
	var errs strings.Builder
	build.Stderr = &errs
	program, err := build.Output()
	if err != nil {
		t.Fatalf("build the S3 server: %v\n%s", err, &errs)
	}
	keepRunning(t, "S3 server", exec.CommandContext(context.Background(), "ip", "netns", "exec", recordsPrefix+"-server",
		strings.TrimSpace(string(program)), "--port", recordsBucket, "--access", "key", "--secret", "of-the-operator", "--quiet", "posix", m.bucket))
}

// flowLog makes one.
func (m *recordsMesh) flowLog(t *testing.T, r api.CreateFlowLogRequest) {
	t.Helper()
	r.MaxAggregationIntervalSeconds = 1
	if _, err := m.as("shop").CreateFlowLog(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

// echoes is a workload's port 9000: what comes is counted by where it comes from, and sent back if that is asked for.
type echoes struct {
	mu   sync.Mutex
	came map[uint16]uint64
}

func (m *recordsMesh) echoes(t *testing.T, workload string, back bool) *echoes {
	t.Helper()
	return echoesIn(t, m.ns(workload), 9000, back)
}

// echoesIn is a port of a namespace.
func echoesIn(t *testing.T, namespace string, port int, back bool) *echoes {
	t.Helper()
	p, _ := socketIn(t, namespace, port)
	e := &echoes{came: map[uint16]uint64{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			e.mu.Lock()
			e.came[from.(*net.UDPAddr).AddrPort().Port()]++
			e.mu.Unlock()
			if back {
				_, _ = p.WriteTo(buf[:n], from)
			}
		}
	})
	t.Cleanup(func() { p.Close(); wg.Wait() })
	return e
}

// from is how many datagrams came from a port.
func (e *echoes) from(port uint16) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.came[port]
}

// socket is one of a workload's, that no ICMP error keeps from sending.
func (m *recordsMesh) socket(t *testing.T, workload string) (p *net.UDPConn, port uint16) {
	t.Helper()
	return socketIn(t, m.ns(workload), 0)
}

// socketIn is one of a namespace's, with room for what comes while nobody reads; port 0 is any.
func socketIn(t *testing.T, namespace string, port int) (p *net.UDPConn, bound uint16) {
	t.Helper()
	if err := netns.Do(netns.Path(namespace), func() (err error) {
		p, err = net.ListenUDP("udp4", &net.UDPAddr{Port: port})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	raw, err := p.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if errRaw := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) }); err != nil || errRaw != nil {
		t.Fatal(err, errRaw)
	}
	return p, p.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// answered reports whether a datagram to an address comes back, within a second.
func answered(p *net.UDPConn, to string) bool {
	_ = p.SetDeadline(time.Now().Add(time.Second * slowness()))
	if _, err := p.WriteTo([]byte("there?"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
		return false
	}
	n, _, err := p.ReadFrom(make([]byte, 100))
	return err == nil && n > 0
}
