//go:build linux

package host

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/culvert-net/culvert/internal/netlab"
)

// meshWorld is a host whose datapath lets everything through, both ways: what a namespace sends by mesh0 comes in by the
// host's own link.
type meshWorld struct {
	*kernelWorld
	far     *netlab.Namespace
	arrived atomic.Int64 // datagrams and connections at any socket of serve
}

var (
	farAddr     = netip.MustParseAddr("fd12:3456:0:7:a00:105:8000:1")
	outsideAddr = netip.MustParseAddr("fd12:3457::1")     // of no mesh
	peerAddr    = netip.MustParseAddr("fd12:3456::9:0:1") // of another node itself
	otherAddr   = netip.MustParseAddr("fd00:77::1")       // the host's, not of the mesh
)

func newMeshWorld(t *testing.T) *meshWorld {
	t.Helper()
	w := &meshWorld{kernelWorld: newKernelWorld(t)}
	must(w.EnsureHostLink(hostSpec()))(t)
	ok(t, w.SetUp(DatapathName, true))
	w.far = w.spaces[w.namespace("far")]
	w.lab.Veth(w.ns, "far0", w.far, "mesh0")
	w.far.Exec("ip", "link", "set", "mesh0", "address", net.HardwareAddr(DatapathMAC[:]).String())
	for _, x := range [][2]string{{DatapathName, "far0"}, {"far0", DatapathName}} {
		w.ns.Exec("tc", "qdisc", "add", "dev", x[0], "clsact")
		w.ns.Exec("tc", "filter", "add", "dev", x[0], "ingress", "protocol", "all", "u32", "match", "u32", "0", "0",
			"action", "mirred", "egress", "redirect", "dev", x[1])
	}
	for _, a := range []netip.Addr{farAddr, outsideAddr, peerAddr} {
		w.far.AddAddress("mesh0", netip.PrefixFrom(a, 128))
	}
	w.ns.AddAddress("lo", netip.PrefixFrom(otherAddr, 128))
	w.ns.Exec("ip", "-6", "route", "add", outsideAddr.String(), "via", datapathNeighbour.String(), "dev", HostName, "onlink")
	for _, a := range []netip.Addr{hostSpec().Address, otherAddr} {
		w.far.Exec("ip", "-6", "route", "add", a.String(), "dev", "mesh0")
		w.far.Exec("ip", "-6", "neighbour", "add", a.String(), "lladdr", net.HardwareAddr(HostMAC[:]).String(), "dev", "mesh0")
	}
	return w
}

// serve answers at ADDRESS:PORT of a namespace, over UDP and TCP, with what it was sent.
func (w *meshWorld) serve(ns *netlab.Namespace, address string) {
	w.t.Helper()
	var p net.PacketConn
	var l net.Listener
	ok(w.t, ns.Do(func() (err error) {
		if p, err = net.ListenPacket("udp6", address); err != nil {
			return err
		}
		l, err = net.Listen("tcp6", address)
		return err
	}))
	w.t.Cleanup(func() {
		p.Close()
		l.Close()
	})
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			w.arrived.Add(1)
			_, _ = p.WriteTo(b[:n], from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.arrived.Add(1)
			b := make([]byte, 64)
			n, _ := c.Read(b)
			_, _ = c.Write(b[:n])
			c.Close()
		}
	}()
}

// answers sends "hello" to ADDRESS:PORT and tells whether it came back within the time.
func (w *meshWorld) answers(network string, from, to netip.Addr, port uint16, within time.Duration) bool {
	w.t.Helper()
	var local net.Addr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	if network == "tcp6" {
		local = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), within)
	defer cancel()
	var got int
	err := w.far.Do(func() error {
		c, err := (&net.Dialer{LocalAddr: local}).DialContext(ctx, network, netip.AddrPortFrom(to, port).String())
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		ok(w.t, c.SetReadDeadline(time.Now().Add(within)))
		got, err = c.Read(make([]byte, 64))
		return err
	})
	var timeout net.Error
	if err != nil && !(errors.As(err, &timeout) && timeout.Timeout()) && !errors.Is(err, syscall.ECONNREFUSED) {
		w.t.Fatalf("%s from %s to %s, port %d: %v", network, from, to, port, err)
	}
	return got == len("hello")
}

// reaches tells whether anything that was sent to ADDRESS:PORT came to a socket of serve within the time.
func (w *meshWorld) reaches(network string, from, to netip.Addr, port uint16, within time.Duration) bool {
	w.t.Helper()
	before := w.arrived.Load()
	return w.answers(network, from, to, port, within) || w.arrived.Load() > before
}

var (
	soon   = 5 * time.Second * netlab.Slowness()
	silent = 100 * time.Millisecond * netlab.Slowness() // a packet of this test takes some microseconds
)

// checkShut expects that nothing but the resolver is reached.
func (w *meshWorld) checkShut(when string) {
	w.t.Helper()
	host := hostSpec().Address
	for _, network := range []string{"udp6", "tcp6"} {
		if !w.answers(network, farAddr, host, hostSpec().ResolverPort, soon) {
			w.t.Errorf("%s: %s does not reach the resolver", when, network)
		}
		for name, x := range map[string]struct {
			from, to netip.Addr
			port     uint16
		}{
			"another port":                    {farAddr, host, 8080},
			"port 53":                         {farAddr, host, 53},
			"a source outside of the mesh":    {outsideAddr, host, hostSpec().ResolverPort},
			"another address of the host":     {farAddr, otherAddr, hostSpec().ResolverPort},
			"another port of another address": {farAddr, otherAddr, 8080},
		} {
			if w.reaches(network, x.from, x.to, x.port, silent) {
				w.t.Errorf("%s: %s reaches %s", when, network, name)
			}
		}
	}
	if out, err := w.far.Try("ping", "-6", "-c1", "-W1", "-I", farAddr.String(), host.String()); err == nil {
		w.t.Errorf("%s: the host answers ICMPv6: %s", when, out)
	}
}

// Whatever listens on the host's wildcard addresses is out of the mesh's reach, also when no agent runs; replies leave.
func TestHostDoor(t *testing.T) {
	w := newMeshWorld(t)
	for _, address := range []string{"[::]:8080", "[::]:53", "[::]:1023"} {
		w.serve(w.ns, address)
	}
	w.checkShut("made")
	w.Close() // as an agent that ends
	w.checkShut("without an agent")

	w.openDoor(HostName)
	host := hostSpec().Address
	for _, network := range []string{"udp6", "tcp6"} {
		netlab.Eventually(t, patience, func() bool {
			return w.reaches(network, farAddr, host, 8080, silent) && w.reaches(network, farAddr, host, 53, silent) &&
				w.reaches(network, outsideAddr, host, 1023, silent) && w.reaches(network, farAddr, otherAddr, 8080, silent)
		}, network+" reaches nothing through an open door: the test cannot fail")
	}
	w.far.Exec("ping", "-6", "-c1", "-W5", "-I", farAddr.String(), host.String())
	must(w.EnsureHostLink(hostSpec()))(t)
	w.checkShut("repaired")

	closed := hostSpec()
	closed.ResolverPort = 0
	must(w.EnsureHostLink(closed))(t)
	for _, network := range []string{"udp6", "tcp6"} {
		if w.reaches(network, farAddr, host, 1023, silent) {
			t.Errorf("%s reaches the host although nothing may", network)
		}
	}
}

// While the agent listens its port is open for other nodes, by UDP, and for nobody else.
func TestHostDoorOfTheAgent(t *testing.T) {
	w := newMeshWorld(t)
	host := hostSpec().Address
	for _, address := range []string{"[::]:1022", "[::]:1023"} {
		w.serve(w.ns, address)
	}
	spec := hostSpec()
	spec.ResolverPort, spec.NodePort = 0, 1022
	must(w.EnsureHostLink(spec))(t)
	if !w.answers("udp6", peerAddr, host, 1022, soon) {
		t.Error("another node does not reach the agent")
	}
	for name, x := range map[string]struct {
		network string
		from    netip.Addr
		port    uint16
	}{
		"a workload, the agent":          {"udp6", farAddr, 1022},
		"a stranger, the agent":          {"udp6", outsideAddr, 1022},
		"another node, TCP, the agent":   {"tcp6", peerAddr, 1022},
		"another node, the resolver":     {"udp6", peerAddr, 1023},
		"a workload, TCP, the resolver":  {"tcp6", farAddr, 1023},
		"another node, TCP, what is not": {"tcp6", peerAddr, 8080},
	} {
		if w.reaches(x.network, x.from, host, x.port, silent) {
			t.Errorf("reached by %s", name)
		}
	}
}

// Answers to the host's own connections come in while it has some, and nothing that opens one.
func TestHostDoorOfProbes(t *testing.T) {
	w := newMeshWorld(t)
	w.serve(w.far, farAddrPort(8443))
	w.serve(w.ns, "[::]:8080")
	probe := func(within time.Duration) error {
		d := net.Dialer{Timeout: within, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(hostSpec().Address, 0))}
		return w.ns.Do(func() error {
			c, err := d.DialContext(t.Context(), "tcp6", farAddrPort(8443))
			if err == nil {
				defer c.Close()
				_, err = c.Write([]byte("hello"))
			}
			if err == nil {
				ok(t, c.SetReadDeadline(time.Now().Add(within)))
				_, err = c.Read(make([]byte, 64))
			}
			return err
		})
	}
	if err := probe(silent); err == nil {
		t.Error("an answer comes in while nobody probes")
	}
	spec := hostSpec()
	spec.ResolverPort, spec.Probes = 0, true
	must(w.EnsureHostLink(spec))(t)
	if err := probe(soon); err != nil {
		t.Errorf("no answer comes in: %v", err)
	}
	for _, from := range []netip.Addr{farAddr, peerAddr} {
		for network, port := range map[string]uint16{"tcp6": 8080, "udp6": 8080} {
			if w.reaches(network, from, hostSpec().Address, port, silent) {
				t.Errorf("%s opens a connection to the host, %s", from, network)
			}
		}
	}
}

func farAddrPort(port uint16) string { return netip.AddrPortFrom(farAddr, port).String() }

// The host forwards nothing that comes in by its own link, and no other table sends it elsewhere.
func TestHostDoorComesBeforeRouting(t *testing.T) {
	w := newMeshWorld(t)
	w.serve(w.ns, "[::]:8080")
	beyond := w.spaces[w.namespace("beyond")]
	w.lab.Veth(w.ns, "out0", beyond, "in0")
	target := netip.MustParseAddr("fd00:78::2")
	w.ns.AddAddress("out0", netip.MustParsePrefix("fd00:78::1/64"))
	beyond.AddAddress("in0", netip.PrefixFrom(target, 64))
	w.ns.Exec("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	w.far.Exec("ip", "-6", "route", "add", target.String(), "dev", "mesh0")
	w.far.Exec("ip", "-6", "neighbour", "add", target.String(), "lladdr", net.HardwareAddr(HostMAC[:]).String(), "dev", "mesh0")
	w.ns.Exec("nft", "add table ip6 other; add chain ip6 other c { type nat hook prerouting priority -100; };"+
		"add rule ip6 other c iifname "+HostName+" tcp dport 53 redirect to :8080")
	beyond.AwaitAddress(target)
	w.serve(beyond, "[::]:9")
	if w.reaches("udp6", farAddr, target, 9, silent) {
		t.Error("the host forwards what the mesh sends")
	}
	if w.reaches("tcp6", farAddr, hostSpec().Address, 53, silent) {
		t.Error("another table's redirection leads past the door")
	}
	w.openDoor(HostName)
	netlab.Eventually(t, patience, func() bool {
		return w.reaches("udp6", farAddr, target, 9, silent) && w.reaches("tcp6", farAddr, hostSpec().Address, 53, silent)
	}, "an open door changes nothing: the test cannot fail")
}

func TestHostDoorIsNotFooled(t *testing.T) {
	w := newKernelWorld(t)
	want := must(w.EnsureHostLink(hostSpec()))(t)
	for name, change := range map[string]string{
		"no table":         "delete table inet culvert",
		"the table sleeps": "add table inet culvert { flags dormant; }",
		"no chain":         "delete chain inet culvert " + HostName,
		"no rule":          "flush chain inet culvert " + HostName,
		"a rule in front":  "insert rule inet culvert " + HostName + " accept",
		"a rule behind":    "add rule inet culvert " + HostName + " accept",
		"no hook":          "delete chain inet culvert " + HostName + "; add chain inet culvert " + HostName,
		"another policy":   "add chain inet culvert " + HostName + " { policy drop; }",
		"a late hook": "delete chain inet culvert " + HostName + "; add chain inet culvert " + HostName +
			" { type filter hook input priority 0; }",
	} {
		if !must(w.Closed(HostName))(t) {
			t.Fatalf("before %s: open", name)
		}
		if strings.HasPrefix(change, "delete chain") {
			change = "flush chain inet culvert " + HostName + "; " + change
		}
		w.ns.Exec("nft", change)
		if must(w.Closed(HostName))(t) {
			t.Errorf("%s: the door counts as closed", name)
		}
		ok(t, w.SetUp(HostName, false))
		wantErr(t, w.SetUp(HostName, true), ErrOpenDoor)
		if got := must(w.EnsureHostLink(hostSpec()))(t); got != want {
			t.Errorf("%s: not closed again: %+v, want %+v", name, got, want)
		}
	}
	// A rule that differs in one thing is another rule.
	for i, rule := range hostSpec().opening().rules()[0] {
		cmp, isCmp := rule.(*expr.Cmp)
		if !isCmp {
			continue
		}
		w.nft(func(c *nftables.Conn, table *nftables.Table) {
			table.Family = nftables.TableFamilyINet
			in := &nftables.Chain{Name: HostName, Table: table}
			c.FlushChain(in)
			rules := hostSpec().opening().rules()
			data := slices.Clone(cmp.Data)
			data[0] ^= 1
			rules[0][i] = &expr.Cmp{Op: cmp.Op, Register: cmp.Register, Data: data}
			for _, r := range rules {
				c.AddRule(&nftables.Rule{Table: table, Chain: in, Exprs: r})
			}
		})
		if must(w.Closed(HostName))(t) {
			t.Errorf("expression %d differs, and the door counts as closed", i)
		}
		must(w.EnsureHostLink(hostSpec()))(t)
	}
}

// What others have in nftables is not touched.
func TestHostDoorLeavesOthersAlone(t *testing.T) {
	w := newKernelWorld(t)
	w.ns.Exec("nft", "add table inet other; add chain inet other culvert-host")
	before := w.ns.Exec("nft", "list", "ruleset")
	for range 2 {
		must(w.EnsureHostLink(hostSpec()))(t)
	}
	if after := w.ns.Exec("nft", "list", "ruleset"); !strings.Contains(after, `iifname "culvert-host"`) {
		t.Errorf("no door:\n%s", after)
	}
	ok(t, w.RemoveHostLink())
	must(w.EnsureHostLink(hostSpec()))(t)
	ok(t, w.Cleanup())
	if after := w.ns.Exec("nft", "list", "ruleset"); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
