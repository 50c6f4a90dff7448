package host

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/failpoint"
	own "github.com/culvert-net/culvert/internal/netns"
)

// linkGroup marks links of this package from the moment they are made, before they have their alias. IFLA_GROUP,
// an arbitrary number ("cv" and 1).
const linkGroup = 0x63760001

// Config of Netlink. The zero value is the agent's.
type Config struct {
	// Netns is the path of the namespace that is "the host". Empty: the one the process is in, or rather the thread
	// of the first operation.
	Netns string
	// RunNetns holds named namespaces. Empty: /run/netns.
	RunNetns string
	// EtcNetns holds files for named namespaces. Empty: /etc/netns.
	EtcNetns string
}

// Netlink is Host on a Linux kernel. It needs CAP_NET_ADMIN and CAP_SYS_ADMIN (to enter namespaces).
type Netlink struct {
	config    Config
	resolvers resolvers

	mu    sync.Mutex
	space *space // the host's; nil until the first operation
	notes []string
	swept bool // Sweep has looked for resolver files in processes
	// errands are, by ENI, the last that went to files of processes.
	errands map[string]*errand
}

var _ Host = (*Netlink)(nil)

// New does no I/O: the first operation opens the namespace.
func New(c Config) *Netlink {
	if c.Netns == "" {
		c.Netns = "/proc/thread-self/ns/net"
	}
	if c.RunNetns == "" {
		c.RunNetns = "/run/netns"
	}
	if c.EtcNetns == "" {
		c.EtcNetns = "/etc/netns"
	}
	return &Netlink{config: c, resolvers: resolvers{run: c.RunNetns, etc: c.EtcNetns}, errands: map[string]*errand{}}
}

// Close releases the sockets; what was made stays. The next operation opens them again.
func (n *Netlink) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.space != nil {
		n.space.close()
		n.space = nil
	}
}

// lock begins an operation: it returns the host's namespace, and the caller unlocks n.mu in any case.
func (n *Netlink) lock() (*space, error) {
	n.mu.Lock()
	if n.space == nil {
		s, err := openSpace(n.config.Netns)
		if err != nil {
			return nil, fmt.Errorf("host: %w", err)
		}
		id, err := own.Open(n.config.Netns)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("host: %w", err)
		}
		n.resolvers.host = id.Cookie
		if err := id.Close(); err != nil {
			s.close()
			return nil, fmt.Errorf("host: %w", err)
		}
		s.notes = &n.notes
		n.space = s
	}
	n.space.fresh = false
	return n.space, nil
}

func (s *space) door() door { return newDoor(s.file) }

// Facts implements Host.
func (n *Netlink) Facts() (Facts, error) {
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return Facts{}, err
	}
	var f Facts
	err = s.do(func() error {
		for _, x := range []struct {
			path string
			to   *int
		}{
			{"ipv4/ip_forward", &f.IPv4Forward},
			{"ipv6/conf/all/forwarding", &f.IPv6Forward},
			{"ipv4/conf/all/rp_filter", &f.RPFilterAll},
			{"ipv4/conf/default/rp_filter", &f.RPFilterDefault},
			{"ipv6/conf/all/disable_ipv6", &f.IPv6Disabled},
		} {
			v, err := getSetting(x.path)
			if err != nil {
				return err
			}
			*x.to = v
		}
		return nil
	})
	if err != nil {
		return Facts{}, fmt.Errorf("host facts: %w", err)
	}
	return f, nil
}

// Link implements Host.
func (n *Netlink) Link(name string) (Link, error) {
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return Link{}, err
	}
	return s.observe(name)
}

// observe reads one link of the host; a zero Ifindex if it is absent.
func (s *space) observe(name string) (Link, error) {
	l, err := s.link(name)
	if err != nil {
		return Link{}, fmt.Errorf("interface %s: %w", name, err)
	}
	if l == nil {
		return Link{Name: name}, nil
	}
	closed, err := s.closed(name)
	if err != nil {
		return Link{}, fmt.Errorf("interface %s: %w", name, err)
	}
	return linkOf(l, closed), nil
}

func linkOf(l netlink.Link, closed bool) Link {
	a := l.Attrs()
	return Link{
		Name: a.Name, Ifindex: a.Index, MTU: a.MTU, TxQueueLen: a.TxQLen, MAC: macOf(l), Up: isUp(l), Closed: closed,
		Foreign: !ours(l) && !isTUN(l),
	}
}

// EnsureTunnel implements Host.
func (n *Netlink) EnsureTunnel(spec TunnelSpec) (Link, error) {
	spec, err := spec.normal()
	if err != nil {
		return Link{}, err
	}
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return Link{}, err
	}
	l, err := s.tunnel(spec)
	if err == nil {
		err = s.shut(l)
	}
	if err == nil {
		err = s.seal(l)
	}
	if err == nil && l.Attrs().Alias != aliasTunnel {
		err = s.nl.LinkSetAlias(l, aliasTunnel)
	}
	if err == nil && l.Attrs().MTU != spec.MTU {
		if isUp(l) {
			s.note("mtu of %s was %d; set to %d", spec.Name, l.Attrs().MTU, spec.MTU)
		}
		err = s.nl.LinkSetMTU(l, spec.MTU)
	}
	if err == nil && spec.TxQueueLen > 0 && l.Attrs().TxQLen != spec.TxQueueLen {
		err = s.nl.LinkSetTxQLen(l, spec.TxQueueLen)
	}
	if err != nil {
		return Link{}, fmt.Errorf("tunnel link %s: %w", spec.Name, err)
	}
	return s.observe(spec.Name)
}

// kindWireGuard is what the kernel calls such links.
const kindWireGuard = "wireguard"

// tunnel returns the tunnel's link. The kernel's WireGuard is made when it is absent, and removed, if it is ours, when a
// TUN is asked for.
func (s *space) tunnel(spec TunnelSpec) (netlink.Link, error) {
	l, err := s.link(spec.Name)
	if err == nil && l == nil {
		l, err = s.recall(spec.Name, aliasTunnel, func(l netlink.Link) bool { return ours(l) || isTUN(l) })
	}
	isKernel := l != nil && l.Type() == kindWireGuard
	switch {
	case err != nil:
		return nil, err
	case l == nil && spec.Kernel:
		return s.makeTunnel(spec)
	case l == nil:
		return nil, ErrNoLink
	case isKernel && !ours(l):
		return nil, fmt.Errorf("%w: remove or rename it, or choose another name with --interface", ErrForeign)
	case !isKernel && !isTUN(l):
		return nil, fmt.Errorf("%w: it is no TUN, but of the kind %q: remove or rename it, or choose another name with --interface",
			ErrForeign, l.Type())
	case isKernel && !spec.Kernel:
		if err := s.remove(l); err != nil {
			return nil, fmt.Errorf("remove the kernel's WireGuard: %w", err)
		}
		return nil, ErrNoLink
	case !isKernel && spec.Kernel:
		return nil, fmt.Errorf("%w: %s", ErrKind, l.Type())
	}
	return l, nil
}

// isTUN tells whether a link is of the kind that the tunnel process makes.
func isTUN(l netlink.Link) bool {
	tun, ok := l.(*netlink.Tuntap)
	return ok && tun.Mode == netlink.TUNTAP_MODE_TUN
}

// makeTunnel makes the kernel's WireGuard link, down.
func (s *space) makeTunnel(spec TunnelSpec) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Group = spec.Name, spec.MTU, linkGroup
	err := s.nl.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("%w: load its module with: modprobe wireguard, or run culvert agent with --wireguard user, "+
			"and culvert tunnel", ErrNoWireGuard)
	} else if err != nil {
		return nil, fmt.Errorf("make it: %w", err)
	}
	l, err := s.link(spec.Name)
	if err == nil && l == nil {
		err = ErrNoLink
	}
	if err == nil {
		err = s.nl.LinkSetAlias(l, aliasTunnel)
	}
	return l, err
}

// withoutIPv6 keeps the kernel's IPv6 off an interface: no link-local address, no router solicitations, no MLD
// reports.
func withoutIPv6(ifname string) []setting {
	conf := "ipv6/conf/" + ifname + "/"
	return []setting{{conf + "addr_gen_mode", "1"}, {conf + "disable_ipv6", "1"}}
}

// SetUp implements Host.
func (n *Netlink) SetUp(ifname string, up bool) error {
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return err
	}
	return s.setUp(ifname, up)
}

func (s *space) setUp(ifname string, up bool) error {
	l, err := s.link(ifname)
	switch {
	case err != nil:
		return fmt.Errorf("interface %s: %w", ifname, err)
	case l == nil && up:
		return fmt.Errorf("put %s up: %w", ifname, ErrNoLink)
	case l == nil || isUp(l) == up && !up:
		return nil
	case !up:
		if err := s.nl.LinkSetDown(l); err != nil && !s.gone(l) {
			return fmt.Errorf("put %s down: %w", ifname, err)
		}
		return nil
	}
	closed, err := s.closed(ifname)
	if err != nil {
		return fmt.Errorf("put %s up: %w", ifname, err)
	}
	if !closed {
		return fmt.Errorf("put %s up: %w", ifname, ErrOpenDoor)
	}
	if isUp(l) {
		return nil
	}
	if err := s.nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("put %s up: %w", ifname, err)
	}
	return nil
}

// Closed implements Host.
func (n *Netlink) Closed(ifname string) (bool, error) {
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return false, err
	}
	l, err := s.observe(ifname)
	return l.Closed, err
}

// Cleanup implements Host. Links go before doors, so that no link is ever up without one.
func (n *Netlink) Cleanup() error {
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return err
	}
	links, err := s.links()
	if err != nil {
		return fmt.Errorf("clean up: list interfaces: %w", err)
	}
	nets := s.netsOf(links...)
	for _, e := range n.errands {
		e.callOff()
	}
	var errs []error
	for _, l := range links {
		if ours(l) {
			if err := s.remove(l); err != nil {
				errs = append(errs, fmt.Errorf("remove %s: %w", l.Attrs().Name, err))
			}
			failpoint.Here("cleanup.link")
		}
	}
	if len(errs) == 0 {
		errs = append(errs, s.door().remove(), s.hostDoor().remove())
	}
	failpoint.Here("cleanup.doors")
	errs = append(errs, n.resolvers.restore(n.resolvers.of("")))
	if err := (restorer{n.resolvers.of(""), nets}).run(); !errors.Is(err, ErrKept) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// ours tells whether this package made a link: it bears our alias, or the group it was born with.
func ours(l netlink.Link) bool {
	a := l.Attrs()
	return (l.Type() == "veth" || l.Type() == kindWireGuard) && (strings.HasPrefix(a.Alias, aliasPrefix) || a.Group == linkGroup)
}

func isUp(l netlink.Link) bool { return l.Attrs().RawFlags&iffUp != 0 }

// iffUp is IFF_UP of linux/if.h.
const iffUp = 1

func macOf(l netlink.Link) MAC {
	var m MAC
	copy(m[:], l.Attrs().HardwareAddr)
	return m
}
