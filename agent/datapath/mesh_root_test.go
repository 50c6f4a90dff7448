package datapath

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// The mesh of these tests: two hosts whose tunnels are TUN devices joined by the test itself, virtio headers included, so
// that sockets, segmentation offload and unfinished checksums are real and only WireGuard is missing.
//
//	host a: cart, desk (VPC 1), vault (VPC 2)        host b: shelf (VPC 1), ledger (VPC 2)
//
// Both VPCs use 10.0.0.0/16. In VPC 1, endpoint 10.0.1.200 leads to ledger and 10.0.1.201 to vault, port 443 to 8443.
const (
	testMesh  = 0x6c6f63
	shop      = 1
	pay       = 2
	tunnelMTU = 1420
)

var (
	gatewayMAC = [6]byte{2, 0xc0, 0, 0, 0, 1}
	hostMAC    = [6]byte{2, 0xc0, 0, 0, 0, 2}
	dpMAC      = [6]byte{2, 0xc0, 0, 0, 0, 3}
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

type workload struct {
	*netlab.Namespace
	host     *meshHost
	name     string
	vpc      uint32
	address  netip.Addr
	number   uint32
	ifindex  int
	mac      [6]byte
	families plan.Families
}

type meshHost struct {
	*netlab.Namespace
	node      uint32
	dp        *Datapath
	tun       *os.File
	tunnel    int // ifindexes
	link      int
	workloads []*workload
	cfg       Config
}

type mesh struct {
	t                                *testing.T
	lab                              *netlab.Lab
	a, b                             *meshHost
	cart, desk, vault, shelf, ledger *workload
	generation                       uint32
	change                           []func(*Config)
	carried                          offloads
	losing                           atomic.Int64 // so many of the next packets with data from a to b are lost
}

func newMesh(t *testing.T, change ...func(*Config)) *mesh {
	t.Helper()
	m := &mesh{t: t, lab: netlab.New(t), generation: 1, change: change}
	m.a, m.b = m.host("a", 1), m.host("b", 2)
	m.cart = m.workload(m.a, "cart", shop, "10.0.1.5", 11)
	m.desk = m.workload(m.a, "desk", shop, "10.0.1.7", 12)
	m.vault = m.workload(m.a, "vault", pay, "10.0.1.6", 22)
	m.shelf = m.workload(m.b, "shelf", shop, "10.0.1.6", 13)
	m.ledger = m.workload(m.b, "ledger", pay, "10.0.1.5", 21)
	m.join()
	m.apply()
	return m
}

// pinPath is a bpffs of the test's own.
func pinPath(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bpf")
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

func testConfig(t *testing.T) Config {
	return Config{PinPath: pinPath(t), Sizes: Sizes{
		Addresses: 256, RuleSets: 64, Services: 64, TargetTables: 64, Grants: 64, GrantTargets: 64, Flows: 4096,
		Counters: 1024, Refusals: 256, Links: 64, EventBytes: 1 << 18,
	}}
}

func (m *mesh) host(name string, node uint32) *meshHost {
	m.t.Helper()
	h := &meshHost{Namespace: m.lab.Namespace(name), node: node, cfg: testConfig(m.t)}
	for _, f := range m.change {
		f(&h.cfg)
	}
	dp, err := Open(h.cfg)
	if err != nil {
		m.t.Fatalf("open: %+v", err)
	}
	h.dp = dp
	m.t.Cleanup(func() {
		if err := h.Do(func() error { return h.dp.Remove() }); err != nil {
			m.t.Errorf("remove: %v", err)
		}
	})
	if err := h.Do(func() (err error) { h.tun, err = openTUN("culvert0"); return err }); err != nil {
		m.t.Fatalf("tun: %v", err)
	}
	m.t.Cleanup(func() { h.tun.Close() })
	overlay := api.NodeAddr(testMesh, node)
	h.Exec("sysctl", "-qw", "net.ipv6.conf.culvert0.disable_ipv6=1")
	h.Exec("ip", "link", "add", "culvert-host", "address", macText(hostMAC), "mtu", "1420", "type", "veth",
		"peer", "name", "culvert-dp", "address", macText(dpMAC), "mtu", "1420")
	h.Exec("sysctl", "-qw", "net.ipv6.conf.culvert-dp.disable_ipv6=1")
	h.tunnel, h.link = h.ifindex("culvert0"), h.ifindex("culvert-dp")
	m.secure(h, h.tunnel, AtTunnel)
	m.secure(h, h.link, AtHost)
	h.Exec("ip", "link", "set", "culvert0", "mtu", strconv.Itoa(tunnelMTU), "up")
	h.Exec("ip", "link", "set", "culvert-host", "up")
	h.Exec("ip", "link", "set", "culvert-dp", "up")
	h.Exec("ip", "-6", "addr", "add", overlay.String()+"/128", "dev", "culvert-host", "nodad")
	h.AwaitAddress(overlay)
	h.Exec("ip", "-6", "neigh", "replace", "fe80::1", "lladdr", macText(dpMAC), "dev", "culvert-host", "nud", "permanent")
	h.Exec("ip", "-6", "route", "add", api.MeshPrefix(testMesh).String(), "via", "fe80::1", "dev", "culvert-host",
		"src", overlay.String())
	return h
}

func (m *mesh) secure(h *meshHost, ifindex int, place Place) {
	m.t.Helper()
	if err := h.Do(func() error { return h.dp.Secure(ifindex, place) }); err != nil {
		m.t.Fatal(err)
	}
}

func (h *meshHost) ifindex(name string) int {
	out := h.Exec("cat", "/proc/net/dev_snmp6/"+name)
	fields := strings.Fields(out)
	n, err := strconv.Atoi(fields[1])
	if err != nil {
		panic(fmt.Sprintf("index of %s: %v", name, err))
	}
	return n
}

func macText(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

func (m *mesh) workload(h *meshHost, name string, vpc uint32, address string, number uint32) *workload {
	m.t.Helper()
	w := &workload{
		Namespace: m.lab.Namespace(name), host: h, name: name, vpc: vpc, address: addr(address), number: number,
		mac: [6]byte{2, 1, 0, 0, 0, byte(number)}, families: plan.BothFamilies,
	}
	m.lab.Veth(h.Namespace, "cv"+name, w.Namespace, "eni0")
	h.Exec("ip", "link", "set", "cv"+name, "down")
	h.Exec("ip", "link", "set", "cv"+name, "address", macText(gatewayMAC), "mtu", "1392")
	w.Exec("ip", "link", "set", "eni0", "address", macText(w.mac), "mtu", "1392")
	w.ifindex = h.ifindex("cv" + name)
	m.secure(h, w.ifindex, AtWorkload)
	h.Exec("ip", "link", "set", "cv"+name, "up")
	w.Exec("ip", "addr", "add", address+"/24", "dev", "eni0")
	w.Exec("ip", "route", "add", "default", "via", "10.0.1.1", "dev", "eni0")
	h.workloads = append(h.workloads, w)
	return w
}

// join carries packets between the two tunnels, in order, headers and all.
func (m *mesh) join() {
	carry := func(from, to *os.File, losing *atomic.Int64) {
		buf := make([]byte, 70_000)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			const empty = 10 + 40 + 60 // with a virtio header and the longest of TCP's
			if losing != nil && n > empty && losing.Load() > 0 {
				losing.Add(-1)
				continue
			}
			m.carried.count(buf[:n])
			if _, err := to.Write(buf[:n]); err != nil && !strings.Contains(err.Error(), "input/output") {
				return
			}
		}
	}
	go carry(m.a.tun, m.b.tun, &m.losing)
	go carry(m.b.tun, m.a.tun, nil)
}

// openTUN makes a TUN as wireguard-go does: with virtio headers and every offload.
func openTUN(name string) (*os.File, error) {
	return netlab.OpenTUN(name, unix.IFF_TUN|unix.IFF_VNET_HDR, func(fd int) error {
		const tcp = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
		err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp|unix.TUN_F_USO4|unix.TUN_F_USO6)
		leavesUDP.Store(err == nil)
		if err != nil { // before Linux 6.2
			err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp)
		}
		return err
	})
}

// plan is what a compiler would make for the host.
func (m *mesh) plan(h *meshHost) *plan.Plan {
	const all = 1000
	p := &plan.Plan{Generation: m.generation, Config: plan.Config{
		Mesh: testMesh, Node: h.node, TunnelIfindex: uint32(h.tunnel), TunnelMTU: tunnelMTU, HostIfindex: uint32(h.link),
		HostMAC: hostMAC, DPMAC: dpMAC, ResolverPort: plan.ResolverPort,
	}}
	p.RuleSets = []plan.RuleSet{{ID: all, Text: "sgr-all 256 0-65535 0.0.0.0/0\nsgr-all 256 0-65535 ::/0\n"}}
	for _, w := range h.workloads {
		p.ENIs = append(p.ENIs, plan.ENI{
			VPC: w.vpc, Address: w.address, ID: "eni-" + w.name, Number: w.number, Ifindex: uint32(w.ifindex), MAC: w.mac,
			GatewayMAC: gatewayMAC, Families: w.families, IngressRules: all, EgressRules: all,
		})
	}
	for _, other := range []*meshHost{m.a, m.b} {
		for _, w := range other.workloads {
			p.Addresses = append(p.Addresses, plan.Address{
				VPC: w.vpc, Address: w.address, Type: plan.AddressWorkload, Number: w.number, Families: w.families,
			})
		}
	}
	p.Addresses = append(p.Addresses,
		plan.Address{VPC: shop, Address: addr("10.0.0.2"), Type: plan.AddressResolver, Families: plan.BothFamilies},
		plan.Address{VPC: shop, Address: addr("10.0.1.200"), Type: plan.AddressEndpoint, Number: 30, Rules: all,
			Families: plan.BothFamilies},
		plan.Address{VPC: shop, Address: addr("10.0.1.201"), Type: plan.AddressEndpoint, Number: 32, Rules: all,
			Families: plan.BothFamilies},
		plan.Address{VPC: pay, Address: addr("10.0.1.9"), Type: plan.AddressLoadBalancer, Number: 31, Rules: all,
			EgressRules: all, Families: plan.BothFamilies})
	for i, target := range []*workload{m.ledger, m.vault} {
		table := uint32(500 + i)
		dialed := addr("10.0.1.200")
		if i == 1 {
			dialed = addr("10.0.1.201")
		}
		p.TargetTables = append(p.TargetTables, plan.TargetTable{ID: table, Width: 1, Text: target.address.String() + ":8443 100\n"})
		for j, protocol := range []uint8{6, 17} {
			tag := uint16(7 + 2*i + j)
			p.Services = append(p.Services, plan.Service{
				VPC: shop, Address: dialed, Protocol: protocol, Port: 443, Tag: tag, Connection: 900 + uint32(i),
				ProviderVPC: pay, Table: table, TableWidth: 1, EndpointENI: uint32(30 + 2*i), IdleSeconds: 350,
			})
			p.Grants = append(p.Grants, plan.Grant{
				ConsumerVPC: shop, Tag: tag, Connection: 900 + uint32(i), ProviderVPC: pay, Admitted: all, LBRules: all,
				LBEgressRules: all, DialedAddress: dialed, DialedPort: 443, Protocol: protocol, IdleSeconds: 350,
			})
			p.GrantTargets = append(p.GrantTargets, plan.GrantTarget{
				ConsumerVPC: shop, Tag: tag, Address: target.address, Port: 8443, Source: addr("10.0.1.9"), SourceENI: 31,
			})
		}
	}
	for _, w := range h.workloads {
		if w.vpc == pay {
			p.Probes = append(p.Probes, plan.Probe{VPC: pay, Address: w.address, Port: 8443, Source: addr("10.0.1.9")})
		}
	}
	plantest.Unbounded(p)
	return p
}

func (m *mesh) apply() {
	m.t.Helper()
	for _, h := range []*meshHost{m.a, m.b} {
		m.applyPlan(h, m.plan(h))
	}
}

func (m *mesh) applyPlan(h *meshHost, p *plan.Plan) {
	m.t.Helper()
	if err := h.Do(func() error {
		_, err := h.dp.Apply(context.Background(), p)
		return err
	}); err != nil {
		m.t.Fatalf("apply: %v", err)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
