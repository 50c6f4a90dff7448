//go:build linux

package host

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// resolved tells whether the namespace's kernel knows the neighbour: somebody answered its ARP request.
func resolved(ns *netlab.Namespace, neighbour string) bool {
	out := ns.Exec("ip", "neighbour", "show", neighbour)
	return strings.Contains(out, "lladdr")
}

// A host that would answer ARP for the gateway does not, as long as the door is closed: with no program on the link,
// nothing a workload sends reaches the host's stack.
func TestDoorDropsWhatNoProgramTakes(t *testing.T) {
	w := newKernelWorld(t)
	s := spec(w.namespace("cart"))
	l := must(w.Attach(s))(t)
	ok(t, w.SetUp(l.Name, true))
	ns := w.spaces[s.Netns]
	w.ns.AddAddress(l.Name, netip.PrefixFrom(s.Gateway, 24))

	ok(t, send(ns, "10.0.1.1:9"))
	netlab.Eventually(t, patience, func() bool { return received(w.ns, l.Name) > 0 }, "the ARP request never left the workload")
	if resolved(ns, "10.0.1.1") {
		t.Fatal("the host's stack answered through a closed door")
	}
	w.openDoor(l.Name)
	before := received(w.ns, l.Name)
	ok(t, send(ns, "10.0.1.1:9"))
	netlab.Eventually(t, patience, func() bool { return received(w.ns, l.Name) > before }, "the next ARP request never left")
	if resolved(ns, "10.0.1.1") {
		t.Fatal("the host's stack answered through an open door: it has ARP at a workload's link")
	}
	w.ns.Exec("ip", "link", "set", l.Name, "arp", "on")
	netlab.Eventually(t, patience, func() bool {
		ok(t, send(ns, "10.0.1.1:9"))
		return resolved(ns, "10.0.1.1")
	}, "no answer through an open door: the test cannot fail")
}

// A link that is deleted and made anew under its name has no door on kernels before 6.16, and the old one since then.
// Whichever it is, Closed must say so.
func TestDoorOfALinkMadeAnew(t *testing.T) {
	w := newKernelWorld(t)
	path := w.namespace("far")
	far := w.spaces[path]
	w.lab.Veth(w.ns, DefaultTunnel, far, "v1")
	host := must(openSpace(w.ns.Path()))(t)
	defer host.close()
	ok(t, host.shut(must(host.link(DefaultTunnel))(t)))
	w.deleteLink(DefaultTunnel)
	w.lab.Veth(w.ns, DefaultTunnel, far, "v1") // up
	w.ns.AddAddress(DefaultTunnel, netip.MustParsePrefix("192.0.2.1/24"))
	far.AddAddress("v1", netip.MustParsePrefix("192.0.2.2/24"))
	closed := must(w.Closed(DefaultTunnel))(t)
	t.Logf("closed after it was made anew: %v", closed)

	before := received(w.ns, DefaultTunnel)
	ok(t, send(far, "192.0.2.1:9"))
	if closed {
		netlab.Eventually(t, patience, func() bool { return received(w.ns, DefaultTunnel) > before }, "nothing sent")
		if resolved(far, "192.0.2.1") {
			t.Fatal("Closed says closed, and the host's stack answers")
		}
	} else {
		netlab.Eventually(t, patience, func() bool { return resolved(far, "192.0.2.1") }, "Closed says open, and nothing passes")
	}
	ok(t, host.shut(must(host.link(DefaultTunnel))(t)))
	if !must(w.Closed(DefaultTunnel))(t) {
		t.Fatal("shut, it is open")
	}
}

func TestDoorIsNotFooled(t *testing.T) {
	w := newKernelWorld(t)
	s := spec(w.namespace("cart"))
	l := must(w.Attach(s))(t)
	w.addLink("other0")
	for name, break_ := range map[string]func(c *nftables.Conn, table *nftables.Table){
		"a rule accepts": func(c *nftables.Conn, table *nftables.Table) {
			c.AddRule(&nftables.Rule{
				Table: table, Chain: &nftables.Chain{Name: l.Name, Table: table},
				Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}},
			})
		},
		"the table sleeps": func(*nftables.Conn, *nftables.Table) { // the library cannot say it
			w.ns.Exec("nft", "add table netdev culvert { flags dormant; }")
		},
		"another device": func(c *nftables.Conn, table *nftables.Table) {
			old := &nftables.Chain{Name: l.Name, Table: table}
			c.FlushChain(old)
			c.DelChain(old)
			drop := nftables.ChainPolicyDrop
			c.AddChain(&nftables.Chain{
				Name: l.Name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress,
				Priority: nftables.ChainPriorityFilter, Device: "other0", Policy: &drop,
			})
		},
		"no hook": func(c *nftables.Conn, table *nftables.Table) {
			old := &nftables.Chain{Name: l.Name, Table: table}
			c.FlushChain(old)
			c.DelChain(old)
			c.AddChain(&nftables.Chain{Name: l.Name, Table: table})
		},
		"no table": func(c *nftables.Conn, table *nftables.Table) { c.DelTable(table) },
	} {
		if !must(w.Closed(l.Name))(t) {
			t.Fatalf("before %s: open", name)
		}
		w.nft(break_)
		if must(w.Closed(l.Name))(t) {
			t.Errorf("%s: the door counts as closed", name)
		}
		wantErr(t, w.SetUp(l.Name, true), ErrOpenDoor)
		if got := must(w.Attach(s))(t); got != l {
			t.Errorf("%s: not closed again: %+v", name, got)
		}
	}
}

// Programs decide before the door: what a tc program at ingress redirects leaves although the door is closed. tcx
// runs at the same place as clsact, which needs no BPF here.
func TestDoorComesAfterPrograms(t *testing.T) {
	w := newKernelWorld(t)
	a, b := spec(w.namespace("a")), spec(w.namespace("b"))
	b.ENI, b.Address = "eni-0b", netip.MustParseAddr("10.0.1.6")
	la, lb := must(w.Attach(a))(t), must(w.Attach(b))(t)
	ok(t, w.SetUp(la.Name, true))
	ok(t, w.SetUp(lb.Name, true))
	nb := w.spaces[b.Netns]
	before := received(nb, "eni0")
	w.ns.Exec("tc", "qdisc", "add", "dev", la.Name, "clsact")
	w.ns.Exec("tc", "filter", "add", "dev", la.Name, "ingress", "protocol", "all", "u32", "match", "u32", "0", "0",
		"action", "mirred", "egress", "redirect", "dev", lb.Name)
	netlab.Eventually(t, patience, func() bool {
		ok(t, send(w.spaces[a.Netns], "10.0.1.6:9"))
		return received(nb, "eni0") > before
	}, "a redirected packet was dropped by the door")
}

// Links say nothing of their own accord. A plain pair beside them, which does, shows when they would have spoken.
func TestLinksStayQuiet(t *testing.T) {
	w := newKernelWorld(t)
	s := spec(w.namespace("cart"))
	ns := w.spaces[s.Netns]
	w.addLink(DefaultTunnel)
	must(w.EnsureTunnel(TunnelSpec{MTU: 1420}))(t)
	must(w.EnsureHostLink(hostSpec()))(t)
	l := must(w.Attach(s))(t)
	for _, name := range []string{DefaultTunnel, DatapathName, l.Name} {
		ok(t, w.SetUp(name, true))
	}
	w.lab.Veth(w.ns, "plain0", ns, "plain1")
	netlab.Eventually(t, patience, func() bool {
		return received(ns, "plain1") >= 4 && received(w.ns, "plain0") >= 4
	}, "the plain pair is quiet, too")
	for _, x := range []struct {
		ns     *netlab.Namespace
		ifname string
	}{{ns, "eni0"}, {w.ns, l.Name}, {w.ns, HostName}, {w.ns, DatapathName}} {
		if n := received(x.ns, x.ifname); n != 0 {
			t.Errorf("%s received %d packets that nobody sent", x.ifname, n)
		}
	}
	out := w.ns.Exec("ip", "-j", "-s", "link", "show", "dev", DefaultTunnel)
	if !strings.Contains(out, `"tx":{"bytes":0,"packets":0,"errors":0,"dropped":0`) {
		t.Errorf("the tunnel was given packets: %s", out)
	}
}

// The host reaches the mesh by its pair, and is reached by it: frames on the datapath's end have the fixed MACs.
func TestHostLinkCarries(t *testing.T) {
	w := newKernelWorld(t)
	spec := hostSpec()
	must(w.EnsureHostLink(spec))(t)
	ok(t, w.SetUp(DatapathName, true))
	h := must(w.HostLink())(t)

	var tap, sock int
	ok(t, w.ns.Do(func() (err error) {
		if tap, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL))); err != nil {
			return err
		}
		if err = unix.Bind(tap, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: h.Datapath.Ifindex}); err != nil {
			return err
		}
		if sock, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(sock, &unix.SockaddrInet6{Port: int(spec.ResolverPort), Addr: spec.Address.As16()})
	}))
	defer unix.Close(tap)
	defer unix.Close(sock)
	for _, fd := range []int{tap, sock} {
		ok(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	}

	peer := netip.MustParseAddr("fd12:3456:0:7:a00:105:8000:1")
	ok(t, unix.Sendto(sock, []byte("probe"), 0, &unix.SockaddrInet6{Port: 99, Addr: peer.As16()}))
	frame := make([]byte, 2048)
	n, _, err := unix.Recvfrom(tap, frame, 0)
	ok(t, err)
	frame = frame[:n]
	src, dst := spec.Address.As16(), peer.As16()
	switch {
	case MAC(frame[0:6]) != h.Datapath.MAC || MAC(frame[6:12]) != h.Host.MAC:
		t.Fatalf("frame from %x to %x", frame[6:12], frame[0:6])
	case [16]byte(frame[22:38]) != src || [16]byte(frame[38:54]) != dst || frame[20] != unix.IPPROTO_UDP:
		t.Fatalf("packet %x", frame)
	}

	// The answer, as the datapath delivers it: turned round, out by its end of the pair.
	answer := slices.Concat(h.Host.MAC[:], h.Datapath.MAC[:], frame[12:22], dst[:], src[:], frame[56:58], frame[54:56], frame[58:])
	setUDPChecksum(answer[14:]) // the kernel left it to the card
	ok(t, unix.Sendto(tap, answer, 0, &unix.SockaddrLinklayer{Ifindex: h.Datapath.Ifindex, Halen: 6}))
	got := make([]byte, 64)
	n, from, err := unix.Recvfrom(sock, got, 0)
	ok(t, err)
	if a := from.(*unix.SockaddrInet6); string(got[:n]) != "probe" || a.Addr != dst || a.Port != 99 {
		t.Fatalf("got %q from %+v", got[:n], from)
	}
	if out := w.ns.Exec("ip", "-6", "neighbour", "show", "dev", HostName, "nud", "all"); strings.Contains(out, "FAILED") {
		t.Errorf("the kernel looked for neighbours: %s", out)
	}
}

func TestHostLinkRefusesForeignMesh(t *testing.T) {
	w := newKernelWorld(t)
	w.addLink("tun9")
	w.ns.Exec("ip", "link", "set", "tun9", "up")
	w.ns.AddAddress("tun9", netip.MustParsePrefix("fd12:3456:7::1/64"))
	w.ns.AwaitAddress(netip.MustParseAddr("fd12:3456:7::1"))
	before := picture(w.ns)
	_, err := w.EnsureHostLink(hostSpec())
	wantErr(t, err, ErrConflict)
	if after := picture(w.ns); after != before {
		t.Fatalf("before:\n%s\nafter:\n%s", before, after)
	}
}

// IPv6 switched off by default on the host, as some images have it, does not matter: the pair's own setting counts.
func TestHostLinkWithIPv6OffByDefault(t *testing.T) {
	w := newKernelWorld(t)
	w.ns.Exec("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	h := must(w.EnsureHostLink(hostSpec()))(t)
	if h.Address != hostSpec().Address {
		t.Fatalf("%+v", h)
	}
	if f := must(w.Facts())(t); f.IPv6Disabled != 1 {
		t.Fatalf("facts %+v", f)
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// setUDPChecksum fills in the checksum of an IPv6 packet with UDP right behind its header.
func setUDPChecksum(packet []byte) {
	datagram := packet[40:]
	datagram[6], datagram[7] = 0, 0
	sum := uint32(len(datagram)) + unix.IPPROTO_UDP
	for i, b := range slices.Concat(packet[8:40], datagram) {
		sum += uint32(b) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(datagram[6:], ^uint16(sum))
}
