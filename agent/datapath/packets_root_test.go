package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// way is one that a packet may go: between hosts or on one, inside a VPC or through an endpoint.
type way struct {
	client, server *workload
	dial, listen   string
}

func (m *mesh) ways() map[string]way {
	return map[string]way{
		"same VPC":            {m.cart, m.shelf, "10.0.1.6:80", ":80"},
		"same VPC, same node": {m.cart, m.desk, "10.0.1.7:80", ":80"},
		"endpoint":            {m.cart, m.ledger, "10.0.1.200:443", ":8443"},
		"endpoint, same node": {m.cart, m.vault, "10.0.1.201:443", ":8443"},
	}
}

func (w *workload) listenUDP(t *testing.T, address string) *net.UDPConn {
	t.Helper()
	var c net.PacketConn
	if err := w.Do(func() (err error) { c, err = net.ListenPacket("udp", address); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

func (w *workload) dialUDP(t *testing.T, from, to string) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	if err := w.Do(func() error {
		local, err := net.ResolveUDPAddr("udp", from)
		if err != nil {
			return err
		}
		remote, err := net.ResolveUDPAddr("udp", to)
		if err != nil {
			return err
		}
		c, err = net.DialUDP("udp", local, remote)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// hear reads one datagram.
func hear(c *net.UDPConn) ([]byte, *net.UDPAddr, error) {
	buf := make([]byte, 70_000)
	if err := c.SetReadDeadline(time.Now().Add(patience * netlab.Slowness())); err != nil {
		return nil, nil, err
	}
	n, from, err := c.ReadFromUDP(buf)
	return buf[:n], from, err
}

// Datagrams larger than any packet cross whole, and so do their answers; every fragment is counted.
func TestDatagramsInFragments(t *testing.T) {
	m := newMesh(t)
	for name, w := range m.ways() {
		t.Run(name, func(t *testing.T) {
			inFragments(t, w)
		})
	}
	t.Run("ping", func(t *testing.T) {
		m.cart.Exec("ping", "-c1", "-W5", "-s", "4000", "10.0.1.6")
		m.cart.Exec("ping", "-c1", "-W5", "-s", "4000", "10.0.1.7")
	})
	reconcile(t, m)
	for _, h := range []*meshHost{m.a, m.b} {
		for _, hook := range []bpf.Hook{bpf.HookWorkload, bpf.HookTunnel, bpf.HookLocal} {
			if n := h.counter(t, hook, bpf.ReasonFragment); n != 0 {
				t.Errorf("host %s, hook %s: %d fragments refused", h.Name, hook, n)
			}
		}
	}
	m.countsFragments(t)
}

// fragmented are sizes of datagrams that no packet holds.
var fragmented = []int{20_000, 1365, 60_000}

// inFragments sends such datagrams there and back.
func inFragments(t *testing.T, w way) {
	t.Helper()
	server := w.server.listenUDP(t, w.listen)
	client := w.client.dialUDP(t, ":0", w.dial)
	for _, size := range fragmented {
		there, back := payload(size, 1), payload(size, 2)
		if err := send(client, there); err != nil {
			t.Fatal(err)
		}
		got, from, err := hear(server)
		if err != nil || !bytes.Equal(got, there) {
			t.Fatalf("%d bytes to the server: %d came, %v", size, len(got), err)
		}
		if _, err := server.WriteToUDP(back, from); err != nil {
			t.Fatal(err)
		}
		if got, _, err = hear(client); err != nil || !bytes.Equal(got, back) {
			t.Fatalf("%d bytes back: %d came, %v", size, len(got), err)
		}
	}
	client.Close()
	server.Close()
}

// Datagrams without a byte cross, and so do their answers; what has no single receiver is refused, with its reason, and disturbs
// nothing.
func TestEmptyDatagrams(t *testing.T) {
	m := newMesh(t)
	for name, w := range m.ways() {
		t.Run(name, func(t *testing.T) {
			server := w.server.listenUDP(t, w.listen)
			client := w.client.dialUDP(t, ":0", w.dial)
			for range 2 {
				if _, err := client.Write(nil); err != nil {
					t.Fatal(err)
				}
				got, from, err := hear(server)
				if err != nil || len(got) != 0 {
					t.Fatalf("%d bytes came, %v", len(got), err)
				}
				if _, err := server.WriteToUDP(nil, from); err != nil {
					t.Fatal(err)
				}
				if got, _, err = hear(client); err != nil || len(got) != 0 {
					t.Fatalf("%d bytes back, %v", len(got), err)
				}
			}
			client.Close()
			server.Close()
		})
	}
	before := m.a.counter(t, bpf.HookWorkload, bpf.ReasonNoDestination)
	for _, to := range []string{"224.0.0.251:5353", "239.1.2.3:9", "255.255.255.255:67", "10.0.1.255:9"} {
		raw := m.cart.rawSocket(t)
		at := netip.MustParseAddrPort(to)
		packet := plantest.IP{Source: m.cart.address, Dest: at.Addr(), Protocol: unix.IPPROTO_UDP, SourcePort: 40000, DestPort: at.Port()}.Bytes()
		if err := unix.SetsockoptInt(raw, unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
			t.Fatal(err)
		}
		if err := m.cart.Do(func() error { return unix.Sendto(raw, packet, 0, &unix.SockaddrInet4{Addr: at.Addr().As4()}) }); err != nil {
			t.Fatalf("to %s: %v", to, err)
		}
	}
	netlab.Eventually(t, patience, func() bool { return m.a.counter(t, bpf.HookWorkload, bpf.ReasonNoDestination) >= before+4 },
		"datagrams to many are refused")
	reconcile(t, m)
}

// countsFragments compares both entries of the datagrams' flow inside the VPC with what must have been sent.
func (m *mesh) countsFragments(t *testing.T) {
	t.Helper()
	flows, err := m.a.dp.Flows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var packets, bytes uint64
	for _, size := range fragmented {
		fragments := (size + 8 + 1367) / 1368 // of 1392 bytes at most, a multiple of 8 but for the last
		packets += uint64(fragments)
		bytes += uint64(size + 8 + 20*fragments)
	}
	found := false
	for _, f := range flows {
		if f.Opening.Key.Protocol != unix.IPPROTO_UDP || bpf.Addr(f.Opening.Key.Daddr) != m.shelf.address {
			continue
		}
		found = true
		for _, e := range []bpf.Flow{f.Opening, f.Reply} {
			if e.Packets != packets || e.Bytes != bytes {
				t.Errorf("%d packets, %d bytes; want %d, %d", e.Packets, e.Bytes, packets, bytes)
			}
		}
	}
	if !found {
		t.Error("no flow")
	}
}

// Two tenants with the same address, port and IP id send datagrams to one target, fragment by fragment in turn: the target,
// for which both come from the load balancer, gets each of them whole.
func TestTenantsWithEqualFragmentIDs(t *testing.T) {
	m := newMesh(t)
	stall := m.secondTenant(t)
	server := m.ledger.listenUDP(t, ":8443")
	var pieces [2][][]byte
	var raw [2]int
	senders := []*workload{m.cart, stall}
	for i, w := range senders {
		v4 := plantest.IP{
			Source: w.address, Dest: addr("10.0.1.200"), Protocol: unix.IPPROTO_UDP, SourcePort: 40000, DestPort: 443, ID: 4711,
			Payload: bytes.Repeat([]byte{byte('a' + i)}, 5000),
		}.Bytes()
		pieces[i] = plantest.Fragments(v4, 1200, 4711)
		raw[i] = w.rawSocket(t)
	}
	for n := range pieces[0] {
		for i := range senders {
			to := &unix.SockaddrInet4{Addr: addr("10.0.1.200").As4()}
			if err := unix.Sendto(raw[i], pieces[i][n], 0, to); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []string
	for range senders {
		b, from, err := hear(server)
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		if len(b) != 5000 || strings.Trim(string(b), string(b[:1])) != "" || from.IP.String() != "10.0.1.9" {
			t.Errorf("%d bytes from %s, of more than one tenant", len(b), from)
		}
		got = append(got, string(b[:1]))
	}
	if got[0] == got[1] {
		t.Errorf("from %q, want one datagram of each", got)
	}
}

// secondTenant is another VPC's client of the ledger, beside the cart and with its address.
func (m *mesh) secondTenant(t *testing.T) *workload {
	t.Helper()
	const other = 3 // VPC
	stall := m.workload(m.a, "stall", other, m.cart.address.String(), 41)
	for _, h := range []*meshHost{m.a, m.b} {
		p := m.plan(h)
		p.Addresses = append(p.Addresses, plan.Address{
			VPC: other, Address: addr("10.0.1.200"), Type: plan.AddressEndpoint, Number: 51, Rules: 1000,
			Families: plan.BothFamilies,
		})
		for _, s := range p.Services {
			if s.Connection == 900 && s.Protocol == unix.IPPROTO_UDP {
				s.VPC, s.Connection, s.EndpointENI = other, 910, 51
				p.Services = append(p.Services, s)
			}
		}
		for _, g := range p.Grants {
			if g.Connection == 900 && g.Protocol == unix.IPPROTO_UDP {
				g.ConsumerVPC, g.Connection = other, 910
				p.Grants = append(p.Grants, g)
				for _, target := range p.GrantTargets {
					if target.ConsumerVPC == shop && target.Tag == g.Tag {
						target.ConsumerVPC = other
						p.GrantTargets = append(p.GrantTargets, target)
					}
				}
			}
		}
		p.Generation++
		plantest.Unbounded(p)
		m.applyPlan(h, p)
	}
	return stall
}

// One tenant floods datagrams in fragments, far beyond what there are ids for: another's arrive, each of them.
func TestFloodOfFragmentsBesideAnother(t *testing.T) {
	m := newMesh(t, func(c *Config) { c.stands = true }) // no id comes back
	stall := m.secondTenant(t)
	server := m.ledger.listenUDP(t, ":8443")
	others := make(chan []byte, 64)
	go func() {
		defer close(others)
		for buf := make([]byte, 70_000); ; {
			n, err := server.Read(buf)
			if err != nil {
				return
			}
			if buf[0] == 'b' {
				others <- bytes.Clone(buf[:n])
			}
		}
	}()
	raw, to := m.cart.rawSocket(t), &unix.SockaddrInet4{Addr: addr("10.0.1.200").As4()}
	flood := plantest.IP{
		Source: m.cart.address, Dest: addr("10.0.1.200"), Protocol: unix.IPPROTO_UDP, SourcePort: 40000, DestPort: 443,
		Payload: bytes.Repeat([]byte{'a'}, 100),
	}.Bytes()
	for id := range uint32(3500) {
		for _, piece := range plantest.Fragments(flood, 64, id) {
			if err := unix.Sendto(raw, piece, 0, to); err != nil {
				t.Fatal(err)
			}
		}
	}
	netlab.Eventually(t, patience, func() bool { return m.b.counter(t, bpf.HookTunnel, bpf.ReasonFragment) > 0 },
		"the flood meets its bound")
	client := stall.dialUDP(t, ":40000", "10.0.1.200:443")
	for i := range 50 {
		want := bytes.Repeat([]byte{'b'}, 2000+i)
		if err := send(client, want); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-others:
			if !bytes.Equal(got, want) {
				t.Fatalf("%d bytes came, want %d", len(got), len(want))
			}
		case <-time.After(patience * netlab.Slowness()):
			t.Fatalf("datagram %d did not come", i)
		}
	}
}

// rawSocket sends IPv4 packets as they are, but that the kernel fills in the total length and the checksum of the header.
func (w *workload) rawSocket(t *testing.T) int {
	t.Helper()
	fd := -1
	if err := w.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// A datagram to a port where nobody listens is answered by the receiver's kernel, and the sender's socket learns it: from the
// target as well as from the client.
func TestRefusedDatagrams(t *testing.T) {
	m := newMesh(t)
	for name, w := range m.ways() {
		t.Run(name, func(t *testing.T) {
			refused(t, w)
		})
	}
	reconcile(t, m)
}

// refused sends to a port before anybody listens there, and back to a client that is gone.
func refused(t *testing.T, w way) {
	t.Helper()
	client := w.client.dialUDP(t, ":0", w.dial)
	if err := refusal(client); err != nil {
		t.Errorf("nobody listens: %v", err)
	}
	server := w.server.listenUDP(t, w.listen)
	again := w.client.dialUDP(t, ":0", w.dial)
	if err := send(again, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	_, from, err := hear(server)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	server.Close()
	back := w.server.dialUDP(t, w.listen, from.String())
	if err := refusal(back); err != nil {
		t.Errorf("the client is gone: %v", err)
	}
	back.Close()
}

// refusal sends a datagram and demands that it be refused.
func refusal(c *net.UDPConn) error {
	if err := send(c, []byte("anybody?")); err != nil {
		return err
	}
	if b, _, err := hear(c); !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("heard %d bytes, %v; want %v", len(b), err, syscall.ECONNREFUSED)
	}
	return nil
}

// A target that forwards to something behind a narrower link tells the client how much fits, and the client believes it.
func TestNarrowTarget(t *testing.T) {
	m := newMesh(t)
	for name, w := range m.ways() {
		t.Run(name, func(t *testing.T) {
			m.lab = netlab.New(t)
			inner := m.lab.Namespace("inner")
			m.lab.Veth(w.server.Namespace, "in0", inner, "eth0")
			for _, c := range []struct {
				n       *netlab.Namespace
				link, a string
			}{{w.server.Namespace, "in0", "192.168.9.1/24"}, {inner, "eth0", "192.168.9.2/24"}} {
				c.n.Exec("ip", "addr", "add", c.a, "dev", c.link)
				c.n.Exec("ip", "link", "set", c.link, "mtu", "1000", "up")
			}
			inner.Exec("ip", "route", "add", "default", "via", "192.168.9.1")
			w.server.Exec("sysctl", "-qw", "net.ipv4.ip_forward=1")
			w.server.Exec("nft", "add table ip inner; add chain ip inner c { type nat hook prerouting priority -100; }; "+
				"add rule ip inner c iifname eni0 udp dport { 80, 8443 } dnat to 192.168.9.2")
			t.Cleanup(func() { w.server.Exec("nft", "delete table ip inner") })
			client := w.client.dialUDP(t, ":0", w.dial)
			raw, err := client.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			}); err != nil {
				t.Fatal(err)
			}
			if err := send(client, payload(1300, 1)); err != nil {
				t.Fatal(err)
			}
			var mtu int
			netlab.Eventually(t, patience, func() bool {
				if err := raw.Control(func(fd uintptr) {
					mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
				}); err != nil {
					t.Fatal(err)
				}
				return mtu == 1000
			}, "the client learns the narrow link's MTU")
			if err := send(client, payload(1300, 1)); !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("too large a datagram: %v; want %v", err, syscall.EMSGSIZE)
			}
		})
	}
	reconcile(t, m)
}

// Options end at the sender's node, offload or not; one that asks for a route ends its packet.
func TestOptions(t *testing.T) {
	m := newMesh(t)
	recordRoute := []byte{7, 7, 4, 0, 0, 0, 0, 1}
	for name, w := range m.ways() {
		t.Run(name, func(t *testing.T) {
			server := w.server.listenUDP(t, w.listen)
			client := w.client.dialUDP(t, ":0", w.dial)
			setOptions(t, client, recordRoute)
			for _, size := range []int{100, 20_000} {
				if err := send(client, payload(size, 1)); err != nil {
					t.Fatal(err)
				}
				if got, _, err := hear(server); err != nil || !bytes.Equal(got, payload(size, 1)) {
					t.Fatalf("%d bytes of %d, %v", len(got), size, err)
				}
			}
			before := m.a.counter(t, bpf.HookWorkload, bpf.ReasonIPOptions)
			setOptions(t, client, []byte{131, 7, 4, 10, 0, 1, 1, 0}) // loose source route by the gateway
			if err := send(client, payload(100, 1)); err != nil {
				t.Fatal(err)
			}
			netlab.Eventually(t, patience, func() bool {
				return m.a.counter(t, bpf.HookWorkload, bpf.ReasonIPOptions) == before+1
			}, "the source route is refused")
			withOptions(t, w.client, w.server, w.dial, w.listen, recordRoute)
		})
	}
	reconcile(t, m)
}

func setOptions(t *testing.T, c syscall.Conn, options []byte) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptString(int(fd), unix.IPPROTO_IP, unix.IP_OPTIONS, string(options))
	}); err != nil || set != nil {
		t.Fatal(err, set)
	}
}

// withOptions moves some megabytes over a TCP connection whose segments carry options from the client on.
func withOptions(t *testing.T, client, server *workload, dial, listen string, options []byte) {
	t.Helper()
	var ln net.Listener
	if err := server.Do(func() (err error) { ln, err = net.Listen("tcp4", listen); return err }); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	there := payload(4<<20, 1)
	done := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			err = receive(c, there)
			c.Close()
		}
		done <- err
	}()
	var c net.Conn
	if err := client.Do(func() (err error) { c, err = net.DialTimeout("tcp4", dial, patience*netlab.Slowness()); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	setOptions(t, c.(*net.TCPConn), options)
	if err := errors.Join(send(c, there), <-done); err != nil {
		t.Error(err)
	}
}

// What is remembered of fragments goes after its time, and not before.
func TestFragmentsAreSwept(t *testing.T) {
	m := newMesh(t)
	server := m.ledger.listenUDP(t, ":8443")
	client := m.cart.dialUDP(t, ":0", "10.0.1.200:443")
	if err := send(client, payload(5000, 1)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := hear(server); err != nil {
		t.Fatal(err)
	}
	rows := func() (n [5]int) {
		for i, name := range []string{mapFragments, mapFragmentRings, mapFragmentPairs, mapFragmentShares, mapFragmentCounts} {
			it, key := m.b.dp.coll.Maps[name].Iterate(), []byte(nil)
			var value []byte
			for it.Next(&key, &value) {
				n[i]++
			}
			if err := it.Err(); err != nil {
				t.Fatal(err)
			}
		}
		return n
	}
	m.b.sweep(t, 0)
	if n := rows(); n != [5]int{1, 1, 1, 1, 2} { // the ring counts as its account's, and among all
		t.Errorf("rows right after: %v", n)
	}
	m.b.sweep(t, fragmentTime+time.Second)
	if n := rows(); n != [5]int{} {
		t.Errorf("rows after their time: %v", n)
	}
	if err := send(client, payload(5000, 1)); err != nil { // and it begins anew
		t.Fatal(err)
	}
	if _, _, err := hear(server); err != nil {
		t.Fatal(err)
	}
}

// A first fragment counts for as long as a receiver waits for the rest.
func TestFragmentTimeIsTheKernels(t *testing.T) {
	m := newMesh(t)
	text := strings.TrimSpace(m.cart.Exec("cat", "/proc/sys/net/ipv4/ipfrag_time"))
	if want := fmt.Sprint(int(fragmentTime.Seconds())); text != want {
		t.Errorf("Linux waits %s s for the rest of a datagram, we %s s", text, want)
	}
}
