package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/culvert-net/culvert/internal/failpoint"
)

// datapathNeighbour is the next hop of the mesh's route: a link-local address that nobody has, with a permanent
// neighbour entry for it, so that the host never asks for a neighbour.
var datapathNeighbour = netip.AddrFrom16([16]byte{0xfe, 0x80, 15: 1})

// HostLink implements Host.
func (n *Netlink) HostLink() (HostLink, error) {
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return HostLink{}, err
	}
	return s.hostLink()
}

func (s *space) hostLink() (HostLink, error) {
	var h HostLink
	var err error
	if h.Host, err = s.observe(HostName); err != nil {
		return HostLink{}, err
	}
	if h.Datapath, err = s.observe(DatapathName); err != nil {
		return HostLink{}, err
	}
	if h.Host.Ifindex == 0 {
		return h, nil
	}
	open, _, err := s.hostDoor().state()
	if err != nil {
		return HostLink{}, fmt.Errorf("host link: %w", err)
	}
	h.ResolverPort, h.NodePort, h.Probes = open.resolver, open.node, open.answers
	st, err := s.state(netlink.FAMILY_V6)
	if err != nil {
		return HostLink{}, fmt.Errorf("host link: %w", err)
	}
	for _, a := range st.addresses {
		if a.ifindex == h.Host.Ifindex && !a.prefix.Addr().IsLinkLocalUnicast() {
			h.Address = a.prefix.Addr()
		}
	}
	return h, nil
}

// EnsureHostLink implements Host.
func (n *Netlink) EnsureHostLink(spec HostSpec) (HostLink, error) {
	if err := spec.check(); err != nil {
		return HostLink{}, err
	}
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return HostLink{}, err
	}
	host, dp, err := s.hostPair()
	if err != nil {
		return HostLink{}, err
	}
	st, err := s.state(netlink.FAMILY_V6)
	if err != nil {
		return HostLink{}, fmt.Errorf("host link: %w", err)
	}
	own := 0
	if host != nil {
		own = host.Attrs().Index
	}
	if err := conflictError("host link", hostConflicts(spec, st, own)); err != nil {
		return HostLink{}, err
	}
	made := false
	if !paired(host, dp) {
		if err := s.removeHostPair(host, dp); err != nil {
			return HostLink{}, err
		}
		if host, dp, err = s.makeHostPair(spec); err != nil {
			return HostLink{}, err
		}
		made = true
		s.fresh = true
		failpoint.Here("hostlink.made")
	}
	if err := s.configureHostPair(host, dp, spec); err != nil {
		if made {
			_ = s.removeHostPair(host, dp)
		}
		return HostLink{}, fmt.Errorf("host link: %w", err)
	}
	return s.hostLink()
}

// RemoveHostLink implements Host.
func (n *Netlink) RemoveHostLink() error {
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return err
	}
	host, dp, err := s.hostPair()
	if err != nil {
		return err
	}
	return s.removeHostPair(host, dp)
}

// hostPair finds both ends; nil for one that is absent. ErrForeign for one that is not ours.
func (s *space) hostPair() (host, dp netlink.Link, err error) {
	find := func(name, alias string) (netlink.Link, error) {
		l, err := s.link(name)
		if err != nil {
			return nil, fmt.Errorf("host link: %w", err)
		}
		// The far end is born without the group that tells ours: who died before it had its alias has left it so.
		if l != nil && !ours(l) && !paired(host, l) {
			return nil, fmt.Errorf("host link: %s: %w: remove or rename it", name, ErrForeign)
		}
		if l == nil {
			return s.recall(name, alias, ours)
		}
		return l, nil
	}
	if host, err = find(HostName, aliasHost); err != nil {
		return nil, nil, err
	}
	dp, err = find(DatapathName, aliasDP)
	return host, dp, err
}

// paired tells whether two links are ends of one veth in this namespace.
func paired(a, b netlink.Link) bool {
	return a != nil && b != nil && a.Attrs().ParentIndex == b.Attrs().Index && a.Attrs().NetNsID == -1
}

func (s *space) makeHostPair(spec HostSpec) (host, dp netlink.Link, err error) {
	v := netlink.NewVeth(netlink.NewLinkAttrs())
	v.Name, v.MTU, v.HardwareAddr, v.Group = HostName, spec.MTU, HostMAC[:], linkGroup
	v.PeerName, v.PeerMTU, v.PeerHardwareAddr, v.PeerTxQLen = DatapathName, uint32(spec.MTU), DatapathMAC[:], -1
	if err := s.nl.LinkAdd(v); err != nil {
		return nil, nil, fmt.Errorf("host link: make %s: %w", HostName, err)
	}
	if host, err = s.link(HostName); err == nil {
		dp, err = s.link(DatapathName)
	}
	if err == nil && !paired(host, dp) {
		err = ErrNoLink
	}
	if err != nil {
		_ = s.remove(v)
		return nil, nil, fmt.Errorf("host link: make %s: %w", HostName, err)
	}
	return host, dp, nil
}

func (s *space) removeHostPair(host, dp netlink.Link) error {
	for _, l := range []netlink.Link{host, dp} {
		if l == nil {
			continue
		}
		if err := s.remove(l); err != nil {
			return fmt.Errorf("host link: remove %s: %w", l.Attrs().Name, err)
		}
	}
	if err := errors.Join(s.door().forget(DatapathName), s.hostDoor().remove()); err != nil {
		return fmt.Errorf("host link: %w", err)
	}
	return nil
}

// configureHostPair brings an existing pair to what spec says. The host's end has no ARP, so the kernel neither looks
// for neighbours on it nor joins their multicast groups: nothing leaves by it but what a socket sends.
func (s *space) configureHostPair(host, dp netlink.Link, spec HostSpec) error {
	if _, shut, err := s.hostDoor().state(); err == nil && !shut && isUp(host) {
		s.note("the door of %s (nftables table inet %s) was gone or open; closed again", HostName, tableName)
	}
	if err := s.hostDoor().close(spec.opening()); err != nil {
		return err
	}
	failpoint.Here("hostlink.host-door")
	if err := errors.Join(s.shut(dp), s.seal(dp)); err != nil {
		return err
	}
	failpoint.Here("hostlink.doors")
	if err := s.identify(host, aliasHost, HostMAC, spec.MTU); err != nil {
		return err
	}
	if err := s.identify(dp, aliasDP, DatapathMAC, spec.MTU); err != nil {
		return err
	}
	conf := "ipv6/conf/" + HostName + "/"
	conf4 := "ipv4/conf/" + HostName + "/"
	if err := s.correct(isUp(host),
		setting{conf + "addr_gen_mode", "1"}, setting{conf + "accept_ra", "0"}, setting{conf + "accept_redirects", "0"},
		setting{conf + "accept_dad", "0"}, setting{conf + "disable_ipv6", "0"},
		setting{conf4 + "rp_filter", "1"}, setting{conf4 + "forwarding", "0"}); err != nil {
		return err
	}
	if host.Attrs().RawFlags&iffNoARP == 0 {
		if err := s.nl.LinkSetARPOff(host); err != nil {
			return fmt.Errorf("arp off: %w", err)
		}
	}
	if err := s.setUp(HostName, true); err != nil {
		return err
	}
	failpoint.Here("hostlink.up")
	if err := s.setAddress(host, netip.PrefixFrom(spec.Address, 128)); err != nil {
		return fmt.Errorf("%w (is IPv6 disabled on this host? culvert needs it: sysctl net.ipv6.conf.all.disable_ipv6=0)", err)
	}
	if err := s.lookForNeighbour(host); err != nil {
		return err
	}
	if err := s.nl.NeighSet(&netlink.Neigh{
		LinkIndex: host.Attrs().Index, Family: netlink.FAMILY_V6, State: netlink.NUD_PERMANENT,
		IP: datapathNeighbour.AsSlice(), HardwareAddr: DatapathMAC[:],
	}); err != nil {
		return fmt.Errorf("neighbour %s: %w", datapathNeighbour, err)
	}
	return s.setRoutes(host, netlink.FAMILY_V6, []route{{spec.Mesh.Masked(), datapathNeighbour, spec.Address}})
}

// lookForNeighbour notes when the next hop's entry is gone.
func (s *space) lookForNeighbour(host netlink.Link) error {
	have, err := dump(func() ([]netlink.Neigh, error) { return s.nl.NeighList(host.Attrs().Index, netlink.FAMILY_V6) })
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	if !slices.ContainsFunc(have, func(n netlink.Neigh) bool {
		return addrOf(n.IP) == datapathNeighbour && n.State == netlink.NUD_PERMANENT
	}) {
		s.note("neighbour %s of %s was gone; added again", datapathNeighbour, HostName)
	}
	return nil
}

// iffNoARP is IFF_NOARP of linux/if.h.
const iffNoARP = 0x80

// identify corrects alias, MAC and MTU of a link of the host.
func (s *space) identify(l netlink.Link, alias string, mac MAC, mtu int) error {
	a := l.Attrs()
	if a.Alias != alias {
		if err := s.nl.LinkSetAlias(l, alias); err != nil {
			return fmt.Errorf("alias of %s: %w", a.Name, err)
		}
	}
	return s.shape(l, mac, mtu)
}

// shape corrects MAC and MTU.
func (s *space) shape(l netlink.Link, mac MAC, mtu int) error {
	a := l.Attrs()
	if macOf(l) != mac {
		if err := s.nl.LinkSetHardwareAddr(l, net.HardwareAddr(mac[:])); err != nil {
			return fmt.Errorf("mac of %s: %w", a.Name, err)
		}
	}
	if a.MTU != mtu {
		if isUp(l) {
			s.note("mtu of %s was %d; set to %d", a.Name, a.MTU, mtu)
		}
		if err := s.nl.LinkSetMTU(l, mtu); err != nil {
			return fmt.Errorf("mtu of %s: %w", a.Name, err)
		}
	}
	return nil
}
