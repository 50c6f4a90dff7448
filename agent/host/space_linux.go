package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	own "github.com/culvert-net/culvert/internal/netns"
)

// dumpTries bounds how often a listing is taken again because the kernel's tables changed under it.
const dumpTries = 10

// routeProtocol marks the routes of this package (rtm_protocol). 197 is assigned to nobody in linux/rtnetlink.h or by
// iproute2, so what others add to our interfaces is left alone.
const routeProtocol netlink.RouteProtocol = 197

// space is an open network namespace: a file that holds it and a netlink handle inside. It keeps the namespace alive,
// so it lives no longer than one operation, except the host's own.
type space struct {
	file  *os.File
	inode uint64
	nl    *netlink.Handle
	notes *[]string // of Repairs; nil: nobody asks
	fresh bool      // this operation has made the link itself
}

// openSpace opens a namespace by path. ErrNoNamespace if there is none.
func openSpace(path string) (*space, error) {
	f, err := own.OpenFile(path)
	if errors.Is(err, own.ErrNone) {
		return nil, fmt.Errorf("open namespace %s: %w", path, ErrNoNamespace)
	} else if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", path, err)
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		f.Close()
		return nil, fmt.Errorf("open namespace %s: %w: not a network namespace", path, ErrNoNamespace)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("open namespace %s: %w", path, err)
	}
	nl, err := netlink.NewHandleAt(netns.NsHandle(f.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open namespace %s: netlink: %w", path, err)
	}
	return &space{file: f, inode: st.Ino, nl: nl}, nil
}

func (s *space) close() {
	s.nl.Close()
	s.file.Close()
}

// do runs fn on a thread inside the namespace. A thread that cannot return dies with its goroutine.
func (s *space) do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		if err := unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter namespace: %w", err)
			return
		}
		err = fn()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			done <- errors.Join(err, fmt.Errorf("leave namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// setting is one file under /proc/sys/net.
type setting struct {
	path  string
	value string
}

// set writes settings that differ. Those of IPv6 do not exist, and need not, on a kernel without IPv6.
func (s *space) set(settings ...setting) error {
	return s.do(func() error {
		for _, x := range settings {
			path := "/proc/sys/net/" + x.path
			have, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) && noIPv6(x.path) {
				continue
			} else if err != nil {
				return fmt.Errorf("read sysctl: %w", err)
			}
			if strings.TrimSpace(string(have)) == x.value {
				continue
			}
			if err := os.WriteFile(path, []byte(x.value), 0); err != nil {
				return fmt.Errorf("write sysctl: %w", err)
			}
		}
		return nil
	})
}

func noIPv6(path string) bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return strings.HasPrefix(path, "ipv6/") && errors.Is(err, fs.ErrNotExist)
}

// get reads a number under /proc/sys/net; -1 if it does not exist. Call it inside do.
func getSetting(path string) (int, error) {
	b, err := os.ReadFile("/proc/sys/net/" + path)
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	} else if err != nil {
		return 0, fmt.Errorf("read sysctl: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("read sysctl %s: %w", path, err)
	}
	return n, nil
}

// dump repeats a listing that the kernel reports as inconsistent.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	var out []T
	var err error
	for range dumpTries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
			return out, err
		}
	}
	return nil, err
}

func (s *space) links() ([]netlink.Link, error) { return dump(s.nl.LinkList) }

// link finds an interface by name; nil if there is none.
func (s *space) link(name string) (netlink.Link, error) {
	return optional(s.nl.LinkByName(name))
}

// linkAt finds an interface by index; nil if there is none.
func (s *space) linkAt(ifindex int) (netlink.Link, error) {
	return optional(s.nl.LinkByIndex(ifindex))
}

func optional(l netlink.Link, err error) (netlink.Link, error) {
	if errors.As(err, new(netlink.LinkNotFoundError)) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// remove deletes an interface; one that is gone is fine.
func (s *space) remove(l netlink.Link) error {
	err := s.nl.LinkDel(l)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) && s.gone(l) {
		return nil
	}
	return err
}

func (s *space) gone(l netlink.Link) bool {
	now, err := s.linkAt(l.Attrs().Index)
	return err == nil && now == nil
}

// states reads what an attachment could collide with, of the families that it has.
func (s *space) states(spec WorkloadSpec) (spaceState, error) {
	var out spaceState
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if len(spec.addresses(family == netlink.FAMILY_V6)) == 0 {
			continue
		}
		st, err := s.state(family)
		if err != nil {
			return out, err
		}
		out.links = st.links
		out.addresses, out.routes = append(out.addresses, st.addresses...), append(out.routes, st.routes...)
	}
	return out, nil
}

// state reads what an attachment could collide with, of one address family (netlink.FAMILY_V4 or _V6).
func (s *space) state(family int) (spaceState, error) {
	var st spaceState
	links, err := s.links()
	if err != nil {
		return st, fmt.Errorf("list interfaces: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
		st.links = append(st.links, spaceLink{l.Attrs().Index, l.Attrs().Name})
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return s.nl.AddrList(nil, family) })
	if err != nil {
		return st, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		st.addresses = append(st.addresses, spaceAddress{a.LinkIndex, names[a.LinkIndex], prefixOf(a.IPNet, family)})
	}
	routes, err := dump(func() ([]netlink.Route, error) { return s.nl.RouteList(nil, family) })
	if err != nil {
		return st, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		ifindex := r.LinkIndex
		if ifindex == 0 && len(r.MultiPath) > 0 {
			ifindex = r.MultiPath[0].LinkIndex
		}
		st.routes = append(st.routes, spaceRoute{
			ifindex: ifindex, name: names[ifindex], dst: prefixOf(r.Dst, family), ours: r.Protocol == routeProtocol,
		})
	}
	return st, nil
}

// setAddress makes p the only address of its family on l, link-local ones aside.
func (s *space) setAddress(l netlink.Link, p netip.Prefix) error {
	return s.setAddresses(l, familyOf(p.Addr()), []netip.Prefix{p})
}

// setAddresses makes want the only addresses of a family on l, link-local ones aside.
func (s *space) setAddresses(l netlink.Link, family int, want []netip.Prefix) error {
	have, err := dump(func() ([]netlink.Addr, error) { return s.nl.AddrList(l, family) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, p := range want {
		if slices.ContainsFunc(have, func(a netlink.Addr) bool { return prefixOf(a.IPNet, family) == p }) {
			continue
		}
		s.note("address %s of %s was gone; added again", p, l.Attrs().Name)
		a := &netlink.Addr{IPNet: ipNet(p)}
		if family == netlink.FAMILY_V6 {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := s.nl.AddrReplace(l, a); err != nil {
			return fmt.Errorf("add address %s: %w", p, err)
		}
	}
	for _, a := range have {
		old := prefixOf(a.IPNet, family)
		if slices.Contains(want, old) || old.Addr().IsLinkLocalUnicast() {
			continue
		}
		if err := s.nl.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s: %w", old, err)
		}
	}
	return nil
}

// setRoutes makes want the routes that this package has on l, in the main table. Order matters: gateways first.
func (s *space) setRoutes(l netlink.Link, family int, want []route) error {
	filter := &netlink.Route{LinkIndex: l.Attrs().Index}
	have, err := dump(func() ([]netlink.Route, error) {
		return s.nl.RouteListFiltered(family, filter, netlink.RT_FILTER_OIF)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	wanted := make(map[netip.Prefix]route, len(want))
	for _, r := range want {
		wanted[r.dst] = r
	}
	right := make(map[netip.Prefix]bool, len(want))
	for _, h := range have {
		dst := prefixOf(h.Dst, family)
		w, ok := wanted[dst]
		switch {
		case ok && h.Protocol == routeProtocol && addrOf(h.Gw) == w.gateway && addrOf(h.Src) == w.source:
			right[dst] = true
		case !ok && h.Protocol == routeProtocol:
			if err := s.nl.RouteDel(&h); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove route %s: %w", dst, err)
			}
		}
	}
	for _, w := range want {
		if right[w.dst] {
			continue
		}
		s.note("route %s of %s was gone; added again", w.dst, l.Attrs().Name)
		r := &netlink.Route{
			LinkIndex: l.Attrs().Index, Dst: ipNet(w.dst), Src: w.source.AsSlice(), Protocol: routeProtocol,
		}
		if w.gateway.IsLinkLocalUnicast() && family == netlink.FAMILY_V6 {
			r.Gw = w.gateway.AsSlice()
		} else if w.gateway.IsValid() {
			r.Gw, r.Flags = w.gateway.AsSlice(), int(netlink.FLAG_ONLINK)
		} else if family == netlink.FAMILY_V4 {
			r.Scope = netlink.SCOPE_LINK
		}
		if err := s.nl.RouteReplace(r); err != nil {
			return fmt.Errorf("add route %s: %w", w.dst, err)
		}
	}
	return nil
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// prefixOf converts; nil is the default route's destination.
func prefixOf(n *net.IPNet, family int) netip.Prefix {
	if n == nil {
		if family == netlink.FAMILY_V4 {
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	a, _ := netip.AddrFromSlice(n.IP)
	if family == netlink.FAMILY_V4 {
		a = a.Unmap()
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a, ones)
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
