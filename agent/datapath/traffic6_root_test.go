package datapath

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/plan"
)

// six is the IPv6 form of an address of a VPC.
func six(vpc uint32, a string) netip.Addr { return api.IPv6Address(testMesh, vpc, addr(a)) }

// dual gives a workload its IPv6 address and waits until it may use it, which is when nobody claimed it.
func (w *workload) dual() {
	a := api.IPv6Address(testMesh, w.vpc, w.address)
	w.Exec("ip", "-6", "addr", "add", a.String()+"/128", "dev", "eni0")
	w.AwaitAddress(a)
}

// speaks sets the families of a workload, at both hosts.
func (m *mesh) speaks(w *workload, f plan.Families) {
	m.t.Helper()
	w.families = f
	m.generation++
	m.apply()
}

// Real sockets in IPv6, and between the families: decision 0011. Segmentation and checksums are left to devices, as always
// with veth, and what arrives is compared byte by byte.
func TestTrafficIPv6(t *testing.T) {
	m := newMesh(t)
	for _, h := range []*meshHost{m.a, m.b} {
		for _, w := range h.workloads {
			w.dual()
		}
	}
	t.Run("the router is found", func(t *testing.T) {
		m.routesFound(t)
		if out := m.cart.Exec("ip", "-6", "addr", "show", "dev", "eni0", "tentative"); out != "" {
			t.Errorf("still tentative:\n%s", out)
		}
		if out := m.cart.Exec("ip", "-6", "addr", "show", "dev", "eni0", "dadfailed"); out != "" {
			t.Errorf("taken for another's:\n%s", out)
		}
	})
	for _, w := range []*workload{m.shelf, m.desk} {
		t.Run("same VPC, "+w.name, func(t *testing.T) {
			to := api.IPv6Address(testMesh, w.vpc, w.address)
			transfer(t, m.cart, w, at(to, 80), ":80", 10<<20)
			exchange(t, m.cart, w, at(to, 80), ":80", 1300)
			m.cart.Exec("ping", "-6", "-c", "3", "-i", "0.01", "-W", "2", "-s", "1000", to.String())
		})
	}
	for _, target := range []*workload{m.ledger, m.vault} {
		for _, f := range []plan.Families{plan.FamilyIPv6, plan.FamilyIPv4, plan.BothFamilies} {
			t.Run(fmt.Sprintf("endpoint, target %s is %s", target.name, f), func(t *testing.T) {
				m.speaks(target, f)
				m.throughEndpoint(t, target)
			})
		}
	}
	t.Run("packet too big is told", func(t *testing.T) {
		m.speaks(m.ledger, plan.FamilyIPv6)
		m.cart.Exec("ip", "link", "set", "eni0", "mtu", "1500")
		m.ledger.Exec("ip", "link", "set", "eni0", "mtu", "1500")
		transfer(t, m.cart, m.ledger, at(six(shop, "10.0.1.200"), 443), ":8443", 1<<20)
		transfer(t, m.cart, m.ledger, "10.0.1.200:443", ":8443", 1<<20)
	})
	reconcile(t, m)
	if n := m.refused(bpf.ReasonNoChecksum); n != 0 {
		t.Errorf("%d datagrams went without checksum", n)
	}
}

// routesFound waits for a router advertisement at every workload.
func (m *mesh) routesFound(t *testing.T) {
	t.Helper()
	for _, h := range []*meshHost{m.a, m.b} {
		for _, w := range h.workloads {
			netlab.Eventually(t, 4*patience, func() bool {
				return strings.Contains(w.Exec("ip", "-6", "route", "show", "default"), "via fe80::1 dev eni0 proto ra")
			}, "a default route of the router advertisement at "+w.name)
		}
	}
}

func at(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

// refused is how many packets both hosts refused for a reason.
func (m *mesh) refused(r bpf.Reason) (n uint64) {
	m.t.Helper()
	for _, h := range []*meshHost{m.a, m.b} {
		counters, err := h.dp.Counters()
		if err != nil {
			m.t.Fatal(err)
		}
		for _, c := range counters {
			if c.Reason == r {
				n += c.Packets
			}
		}
	}
	return n
}

// throughEndpoint sends everything in both families to the endpoint that leads to the target.
func (m *mesh) throughEndpoint(t *testing.T, target *workload) {
	endpoint := "10.0.1.200"
	if target == m.vault {
		endpoint = "10.0.1.201"
	}
	for _, dialed := range []netip.Addr{addr(endpoint), six(shop, endpoint)} {
		peer := transfer(t, m.cart, target, at(dialed, 443), ":8443", 10<<20)
		want := addr("10.0.1.9")
		if target.families == plan.FamilyIPv6 || target.families == plan.BothFamilies && dialed.Is6() {
			want = six(pay, "10.0.1.9")
		}
		if seen := peer.(*net.TCPAddr).AddrPort().Addr().Unmap(); seen != want {
			t.Errorf("dialled %s: the target saw %s, want the load balancer as %s", dialed, seen, want)
		}
		exchange(t, m.cart, target, at(dialed, 443), ":8443", 1300)
		segments(t, m.cart, target, at(dialed, 443), 8443)
	}
	unsummed(t, m.cart, target, endpoint+":443", 8443)
}

// segments sends datagrams of which each system call makes forty, and counts on every one.
func segments(t *testing.T, client, server *workload, dial string, port int) {
	t.Helper()
	const size, each, calls = 1200, 40, 5
	in := listenUDP(t, server, port)
	defer in.Close()
	out := dialUDP(t, client, dial, unix.SOL_UDP, unix.UDP_SEGMENT, size)
	defer out.Close()
	sums := map[[32]byte]int{}
	for i := range calls {
		b := payload(size*each, uint64(i))
		for at := 0; at < len(b); at += size {
			sums[sha256.Sum256(b[at:at+size])]++
		}
		if err := send(out, b); err != nil {
			t.Fatal(err)
		}
		for range each {
			got := readUDP(t, in)
			if sums[sha256.Sum256(got)]--; len(got) != size || sums[sha256.Sum256(got)] < 0 {
				t.Fatalf("%d bytes that nobody sent", len(got))
			}
		}
	}
}

// unsummed sends IPv4 datagrams that have no checksum: one that is IPv6 arrives only with a right one.
func unsummed(t *testing.T, client, server *workload, dial string, port int) {
	t.Helper()
	in := listenUDP(t, server, port)
	defer in.Close()
	out := dialUDP(t, client, dial, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1)
	defer out.Close()
	for _, size := range []int{0, 1, 2, 247, 248, 249, 255, 256, 257, 503, 504, 505, 1000, 1363, 1364} {
		want := payload(size, 9)
		if err := send(out, want); err != nil {
			t.Fatal(err)
		}
		if got := readUDP(t, in); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes without checksum: %d others arrived", size, len(got))
		}
	}
}

func listenUDP(t *testing.T, w *workload, port int) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	if err := w.Do(func() (err error) { c, err = net.ListenUDP("udp", &net.UDPAddr{Port: port}); return err }); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadBuffer(4 << 20); err != nil {
		t.Fatal(err)
	}
	return c
}

// dialUDP connects a socket that has an option set to a value.
func dialUDP(t *testing.T, w *workload, dial string, level, option, value int) net.Conn {
	t.Helper()
	var c net.Conn
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var set error
		return errors.Join(raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, value) }), set)
	}}
	if err := w.Do(func() (err error) { c, err = d.Dial("udp", dial); return err }); err != nil {
		t.Fatal(err)
	}
	return c
}

func readUDP(t *testing.T, c *net.UDPConn) []byte {
	t.Helper()
	b := make([]byte, 65536)
	if err := c.SetReadDeadline(time.Now().Add(patience * netlab.Slowness())); err != nil {
		t.Fatal(err)
	}
	n, _, err := c.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}
