package datapath

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// offloads counts what went through the mesh's tunnels and was left to a device.
type offloads struct {
	partial  atomic.Uint64 // checksums, of packets that are not to be cut
	tcp, udp atomic.Uint64 // packets to be cut into segments
}

// leavesUDP: the kernel leaves it to a TUN to cut datagrams.
var leavesUDP atomic.Bool

func (o *offloads) count(b []byte) {
	const needsChecksum, tcp4, tcp6, udp = 1, 1, 4, 5 // struct virtio_net_hdr, linux/virtio_net.h
	if len(b) < 10 {
		return
	}
	switch b[1] &^ 0x80 { // ECN
	case tcp4, tcp6:
		o.tcp.Add(1)
	case udp:
		o.udp.Add(1)
	case 0:
		if b[0]&needsChecksum != 0 {
			o.partial.Add(1)
		}
	}
}

// inspector sees each packet that comes in at a workload as a device would have to send it on: cut into segments, checksums
// finished. A socket believes a checksum that is left to a device, whatever stands there.
type inspector struct {
	name     string
	tap      *os.File
	done     chan struct{}
	mu       sync.Mutex
	packets  map[string]int // by family and protocol
	problems []error
}

// inspect mirrors what comes in to a device without offloads.
func (w *workload) inspect(t *testing.T) *inspector {
	t.Helper()
	i := &inspector{name: w.name, done: make(chan struct{}), packets: map[string]int{}}
	if err := w.Do(func() (err error) { i.tap, err = netlab.OpenTUN("mirror", unix.IFF_TAP); return err }); err != nil {
		t.Fatal(err)
	}
	w.Exec("sysctl", "-qw", "net.ipv6.conf.mirror.disable_ipv6=1")
	w.Exec("ip", "link", "set", "mirror", "mtu", "9000", "txqueuelen", "20000", "up")
	w.Exec("tc", "qdisc", "replace", "dev", "mirror", "root", "noqueue")
	w.Exec("nft", "table netdev inspect { chain c { type filter hook ingress device eni0 priority 0; dup to mirror; }; }")
	go i.read()
	t.Cleanup(func() {
		i.tap.Close()
		<-i.done
	})
	return i
}

func (i *inspector) read() {
	defer close(i.done)
	buf := make([]byte, 70_000)
	for {
		n, err := i.tap.Read(buf)
		if err != nil {
			return
		}
		i.packet(buf[:n])
	}
}

func (i *inspector) packet(frame []byte) {
	if len(frame) < 34 {
		return
	}
	b := frame[14:]
	kind := ""
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		kind = fmt.Sprint("IPv4/", b[9])
	case unix.ETH_P_IPV6:
		kind = fmt.Sprint("IPv6/", b[6])
	default:
		return
	}
	err := plantest.Check(b)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.packets[kind]++
	if err != nil && len(i.problems) < 5 {
		i.problems = append(i.problems, err)
	}
}

// saw waits until so many packets of each kind were looked at, and begins anew; wrong checksums fail the test.
func (i *inspector) saw(t *testing.T, want map[string]int) {
	t.Helper()
	netlab.Eventually(t, patience, func() bool {
		i.mu.Lock()
		defer i.mu.Unlock()
		for kind, n := range want {
			if i.packets[kind] < n {
				return false
			}
		}
		return true
	}, fmt.Sprintf("%v at %s", want, i.name))
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, err := range i.problems {
		t.Errorf("%s: %v", i.name, err)
	}
	i.packets, i.problems = map[string]int{}, nil
}

// What is left to devices (checksums, cutting TCP and UDP into segments) is right when a device does it, on every way: inside a
// VPC, through an endpoint to a target of either family, and to a load balancer of the own VPC; there and back.
func TestOffloads(t *testing.T) {
	m := newMeshIPv6(t)
	books := m.workload(m.b, "books", pay, "10.0.1.8", 23)
	books.dual()
	books.Exec("ip", "-6", "route", "replace", "default", "via", "fe80::1", "dev", "eni0")
	inspectors := map[*workload]*inspector{}
	for _, w := range []*workload{m.cart, m.desk, m.shelf, m.ledger, m.vault, books} {
		inspectors[w] = w.inspect(t)
	}
	families := map[string]plan.Families{"IPv4": plan.FamilyIPv4, "IPv6": plan.FamilyIPv6}
	for _, target := range []string{"IPv4", "IPv6"} {
		m.ledger.families, m.vault.families = families[target], families[target]
		m.generation++
		for _, h := range []*meshHost{m.a, m.b} {
			m.applyPlan(h, inside(m.plan(h), m.ledger, m.vault))
		}
		for _, x := range []offloadWay{
			{"endpoint", m.cart, m.ledger, "10.0.1.200", 443, target},
			{"endpoint, same node", m.cart, m.vault, "10.0.1.201", 443, target},
			{"load balancer inside, same node", books, m.ledger, "10.0.1.9", 443, target},
			{"load balancer inside", books, m.vault, "10.0.1.9", 444, target},
		} {
			x.leave(t, m, inspectors)
		}
	}
	offloadWay{"same VPC", m.cart, m.shelf, "10.0.1.6", 8443, ""}.leave(t, m, inspectors)
	offloadWay{"same VPC, same node", m.cart, m.desk, "10.0.1.7", 8443, ""}.leave(t, m, inspectors)
}

// offloadWay is one from a client to port 8443 of a server.
type offloadWay struct {
	name           string
	client, server *workload
	dial           string
	port           uint16
	receives       string // family of the server's packets; "": the client's
}

// leave sends both ways, in each family, as much as is left to devices.
func (x offloadWay) leave(t *testing.T, m *mesh, inspectors map[*workload]*inspector) {
	t.Helper()
	for _, family := range []string{"IPv4", "IPv6"} {
		dialed := map[string]netip.Addr{"IPv4": addr(x.dial), "IPv6": six(x.client.vpc, x.dial)}[family]
		receives := cmp.Or(x.receives, family)
		t.Run(fmt.Sprintf("%s, %s to %s", x.name, family, receives), func(t *testing.T) {
			tcp, udp, partial := m.carried.tcp.Load(), m.carried.udp.Load(), m.carried.partial.Load()
			transfer(t, x.client, x.server, at(dialed, x.port), ":8443", 1<<20)
			segments(t, x.client, x.server, at(dialed, x.port), 8443)
			inspectors[x.server].saw(t, map[string]int{receives + "/6": 700, receives + "/17": 200})
			inspectors[x.client].saw(t, map[string]int{family + "/6": 700})
			if x.client.host == x.server.host {
				return
			}
			tcp, udp, partial = m.carried.tcp.Load()-tcp, m.carried.udp.Load()-udp, m.carried.partial.Load()-partial
			if tcp < 10 || leavesUDP.Load() && udp < 5 || partial < 2 {
				t.Errorf("through the tunnel went %d of TCP and %d of UDP to be cut, %d other checksums to be made", tcp, udp, partial)
			}
		})
	}
}
