//go:build linux

package netlab

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The underlay uses documentation and benchmark ranges, so that it never overlaps what a test calls its own.
const (
	underlayBridge = "br0"
	underlayPort   = "eth0"
	// MTU is the underlay's, bytes.
	MTU = 1500
)

const addressWithin = 5 * time.Second

// Lab is one topology. Not safe for concurrent use.
type Lab struct {
	t        testing.TB
	prefix   string
	underlay *Namespace
	spaces   map[string]*Namespace
	hosts    map[string]*Host
}

// Host is a namespace with an interface eth0 on the lab's underlay.
type Host struct {
	*Namespace
	Underlay  netip.Addr // 198.18.0.N, on a /24
	Underlay6 netip.Addr // 2001:db8::N, on a /64
}

// New starts an empty lab. It skips the test when not root.
func New(t testing.TB) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	id := make([]byte, 3)
	if _, err := rand.Read(id); err != nil {
		t.Fatalf("lab id: %v", err)
	}
	return &Lab{
		t:      t,
		prefix: fmt.Sprintf("cvt-%d-%s-", os.Getpid(), hex.EncodeToString(id)),
		spaces: map[string]*Namespace{},
		hosts:  map[string]*Host{},
	}
}

// Namespace returns the lab's namespace of that name and makes it at first use: loopback up, nothing else in it.
func (l *Lab) Namespace(name string) *Namespace {
	l.t.Helper()
	if ns := l.spaces[name]; ns != nil {
		return ns
	}
	ns := &Namespace{t: l.t, Name: l.prefix + name}
	if out, err := exec.Command("ip", "netns", "add", ns.Name).CombinedOutput(); err != nil {
		l.t.Fatalf("ip netns add %s: %v: %s", ns.Name, err, out)
	}
	l.spaces[name] = ns
	l.t.Cleanup(ns.remove)
	if err := ns.netlink(func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetUp(lo)
	}); err != nil {
		l.t.Fatalf("loopback of %s: %v", ns.Name, err)
	}
	return ns
}

// Host returns the host of that name and makes it at first use: a namespace whose eth0 is a port of the underlay
// bridge. Addresses count up from .1 in order of creation. At most 200 hosts.
func (l *Lab) Host(name string) *Host {
	l.t.Helper()
	if h := l.hosts[name]; h != nil {
		return h
	}
	n := byte(len(l.hosts) + 1)
	if n > 200 {
		l.t.Fatalf("host %s: a lab has at most 200 hosts", name)
	}
	l.ensureUnderlay()
	h := &Host{
		Namespace: l.Namespace(name),
		Underlay:  netip.AddrFrom4([4]byte{198, 18, 0, n}),
		Underlay6: netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: n}),
	}
	port := fmt.Sprintf("p%d", n)
	l.Veth(l.underlay, port, h.Namespace, underlayPort)
	if err := l.underlay.netlink(func(nl *netlink.Handle) error {
		br, err := nl.LinkByName(underlayBridge)
		if err != nil {
			return err
		}
		p, err := nl.LinkByName(port)
		if err != nil {
			return err
		}
		return nl.LinkSetMaster(p, br)
	}); err != nil {
		l.t.Fatalf("host %s: port of the underlay: %v", name, err)
	}
	h.AddAddress(underlayPort, netip.PrefixFrom(h.Underlay, 24))
	h.AddAddress(underlayPort, netip.PrefixFrom(h.Underlay6, 64))
	l.hosts[name] = h
	return h
}

func (l *Lab) ensureUnderlay() {
	l.t.Helper()
	if l.underlay != nil {
		return
	}
	ns := l.Namespace("underlay")
	if err := ns.netlink(func(h *netlink.Handle) error {
		br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		br.Name, br.MTU = underlayBridge, MTU
		if err := h.LinkAdd(br); err != nil {
			return err
		}
		return h.LinkSetUp(br)
	}); err != nil {
		l.t.Fatalf("underlay bridge: %v", err)
	}
	l.underlay = ns
}

// Veth joins two namespaces by a veth pair, both ends up. Names are at most 15 bytes.
func (l *Lab) Veth(a *Namespace, nameA string, b *Namespace, nameB string) {
	l.t.Helper()
	fd, err := os.Open(b.Path())
	if err != nil {
		l.t.Fatalf("veth %s-%s: %v", nameA, nameB, err)
	}
	defer fd.Close()
	err = a.netlink(func(h *netlink.Handle) error {
		v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: nameB, PeerNamespace: netlink.NsFd(int(fd.Fd()))}
		v.Name, v.MTU = nameA, MTU
		if err := h.LinkAdd(v); err != nil {
			return err
		}
		return h.LinkSetUp(v)
	})
	if err == nil {
		err = b.netlink(func(h *netlink.Handle) error {
			v, err := h.LinkByName(nameB)
			if err != nil {
				return err
			}
			return h.LinkSetUp(v)
		})
	}
	if err != nil {
		l.t.Fatalf("veth %s-%s: %v", nameA, nameB, err)
	}
}

// Namespace is a named network namespace. Safe for concurrent use.
type Namespace struct {
	t    testing.TB
	Name string
}

// Path is the namespace's file, /run/netns/NAME.
func (n *Namespace) Path() string { return "/run/netns/" + n.Name }

// AddAddress puts an address on an interface. Of an interface that carries packets the address is usable afterwards: for
// IPv6 duplicate detection is left out.
func (n *Namespace) AddAddress(ifname string, p netip.Prefix) {
	n.t.Helper()
	carries := false
	if err := n.netlink(func(h *netlink.Handle) error {
		l, err := h.LinkByName(ifname)
		if err != nil {
			return err
		}
		carries = l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = ifaFlagNoDAD
		}
		return h.AddrAdd(l, a)
	}); err != nil {
		n.t.Fatalf("address %s on %s of %s: %v", p, ifname, n.Name, err)
	}
	if carries {
		n.AwaitAddress(p.Addr())
	}
}

// AwaitAddress waits until the kernel takes packets to an address. For IPv6 that is a moment after the address was added
// or its interface went up, even without duplicate detection; packets that come before are lost.
func (n *Namespace) AwaitAddress(a netip.Addr) {
	n.t.Helper()
	Eventually(n.t, addressWithin, func() bool {
		local := false
		err := n.netlink(func(h *netlink.Handle) error {
			routes, err := h.RouteGet(a.AsSlice())
			local = err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
			return nil
		})
		return err == nil && local
	}, "address "+a.String()+" is usable in "+n.Name)
}

// AddRoute adds a route to the main table; an invalid gateway means on-link.
func (n *Namespace) AddRoute(dst netip.Prefix, gateway netip.Addr, ifname string) {
	n.t.Helper()
	if err := n.netlink(func(h *netlink.Handle) error {
		l, err := h.LinkByName(ifname)
		if err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(dst)}
		if gateway.IsValid() {
			r.Gw = gateway.AsSlice()
		} else if dst.Addr().Is4() {
			r.Scope = netlink.SCOPE_LINK
		}
		return h.RouteAdd(r)
	}); err != nil {
		n.t.Fatalf("route %s in %s: %v", dst, n.Name, err)
	}
}

// DeleteLink removes an interface, as a person's hand would.
func (n *Namespace) DeleteLink(ifname string) {
	n.t.Helper()
	if err := n.netlink(func(h *netlink.Handle) error {
		l, err := h.LinkByName(ifname)
		if err != nil {
			return err
		}
		return h.LinkDel(l)
	}); err != nil {
		n.t.Fatalf("delete %s in %s: %v", ifname, n.Name, err)
	}
}

// Remove takes the namespace away before the test ends. Doing it twice is harmless.
func (n *Namespace) Remove() {
	n.t.Helper()
	n.remove()
}

func (n *Namespace) remove() {
	if _, err := os.Lstat(n.Path()); os.IsNotExist(err) {
		return
	}
	if out, err := exec.Command("ip", "netns", "del", n.Name).CombinedOutput(); err != nil {
		n.t.Errorf("ip netns del %s: %v: %s", n.Name, err, strings.TrimSpace(string(out)))
	}
}

// Do runs fn on a locked thread inside the namespace and returns its error. Goroutines that fn starts are outside it;
// sockets that fn opens stay inside. t.Fatal inside fn ends the test.
func (n *Namespace) Do(fn func() error) error {
	err, ended := inNamespace(n.Path(), fn)
	if ended {
		runtime.Goexit()
	}
	return err
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
