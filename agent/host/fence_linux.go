package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sealed are the settings of a link that carries tenants' packets. They are the last fence: were program, filter and door
// gone, the host's stack would take nothing from the link, with IPv6 off, and forward nothing, as no source is behind it.
// net.ipv4.ip_forward=1 sets "forwarding" of all links, but not their rp_filter.
func sealed(ifname string) []setting {
	conf := "ipv4/conf/" + ifname + "/"
	return append(withoutIPv6(ifname), setting{conf + "rp_filter", "1"}, setting{conf + "forwarding", "0"})
}

// note keeps what was found not as it was left, and put right, for Repairs. What this operation has made itself is
// not news.
func (s *space) note(format string, args ...any) {
	if s.notes != nil && !s.fresh && len(*s.notes) < maxNotes {
		*s.notes = append(*s.notes, fmt.Sprintf(format, args...))
	}
}

// maxNotes bounds what is kept between two calls of Repairs.
const maxNotes = 64

// Repairs implements Host.
func (n *Netlink) Repairs() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.notes
	n.notes = nil
	return out
}

// Fence implements Host. Doors are first: they alone hold against everything that the link could carry.
func (n *Netlink) Fence(tunnel string) error {
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return err
	}
	links, err := s.links()
	if err != nil {
		return fmt.Errorf("fence: list interfaces: %w", err)
	}
	closed, err := s.door().state()
	if err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	var errs []error
	bare := map[int]string{} // links of ours, none of which has an IPv4 address, by index
	for _, l := range links {
		a := l.Attrs()
		fenced := ours(l) || a.Name == tunnel && isTUN(l)
		if fenced {
			bare[a.Index] = a.Name
		}
		switch {
		case a.Name == HostName && ours(l):
			errs = append(errs, s.fenceHost(l))
		case fenced:
			if !closed[a.Name] {
				errs = append(errs, s.shut(l))
			}
			errs = append(errs, s.seal(l))
		}
	}
	errs = append(errs, s.strip(bare))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	return nil
}

// strip removes IPv4 addresses from links, by index: they would be routes to a workload, and sources that are checked less.
func (s *space) strip(links map[int]string) error {
	addresses, err := dump(func() ([]netlink.Addr, error) { return s.nl.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		name, ok := links[a.LinkIndex]
		if !ok {
			continue
		}
		err := s.nl.AddrDel(nil, &a)
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s of %s: %w", a.IPNet, name, err)
		}
		s.note("%s had been given the address %s; removed", name, a.IPNet)
	}
	return nil
}

// fenceHost closes the host's door wholly when it is not as it should be: what it shall let through, EnsureHostLink knows.
func (s *space) fenceHost(l netlink.Link) error {
	_, shut, err := s.hostDoor().state()
	if err != nil || shut {
		return err
	}
	s.note("the door of %s (nftables table inet %s) was gone or open; closed again", HostName, tableName)
	return s.hostDoor().close(opening{})
}

// shut closes a link's door.
func (s *space) shut(l netlink.Link) error {
	name := l.Attrs().Name
	closed, err := s.door().closed(name)
	if err != nil || closed {
		return err
	}
	if isUp(l) { // a link that is down has none yet
		s.note("the door of %s (nftables table netdev %s) was gone or open; closed again", name, tableName)
	}
	return s.door().close(name)
}

// seal sets what sealed says, takes the link out of a bridge or bond, and its neighbour protocol away: programs answer ARP,
// the host's stack never.
func (s *space) seal(l netlink.Link) error {
	a := l.Attrs()
	if a.MasterIndex != 0 {
		if err := s.nl.LinkSetNoMaster(l); err != nil {
			return fmt.Errorf("take %s out of its bridge: %w", a.Name, err)
		}
		s.note("%s had been made a part of another interface (a bridge?); taken out", a.Name)
	}
	if err := s.correct(isUp(l), sealed(a.Name)...); err != nil {
		return err
	}
	if a.RawFlags&iffNoARP == 0 {
		if err := s.nl.LinkSetARPOff(l); err != nil {
			return fmt.Errorf("arp off at %s: %w", a.Name, err)
		}
	}
	return nil
}

// correct writes settings that differ; tell says that a difference is news. A setting that does not exist belongs to a
// protocol that the link does not have.
func (s *space) correct(tell bool, settings ...setting) error {
	return s.do(func() error {
		for _, x := range settings {
			path := "/proc/sys/net/" + x.path
			have, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return fmt.Errorf("read sysctl: %w", err)
			}
			was := strings.TrimSpace(string(have))
			if was == x.value {
				continue
			}
			if err := os.WriteFile(path, []byte(x.value), 0); err != nil {
				return fmt.Errorf("write sysctl: %w", err)
			}
			if tell {
				s.note("net/%s was %s; set to %s", x.path, was, x.value)
			}
		}
		return nil
	})
}

// recall finds a link of ours by its alias when its name has gone, and gives the name back; nil if there is none. Anybody may give a
// link that alias, so only those count that fit.
func (s *space) recall(name, alias string, fits func(netlink.Link) bool) (netlink.Link, error) {
	links, err := s.links()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		if a.Alias != alias || a.Name == name || !fits(l) {
			continue
		}
		err := s.nl.LinkSetName(l, name)
		if errors.Is(err, unix.EBUSY) { // before Linux 6.2 only while it is down
			if err = s.nl.LinkSetDown(l); err == nil {
				err = s.nl.LinkSetName(l, name)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("rename %s to %s: %w", a.Name, name, err)
		}
		s.note("%s had been renamed to %s; renamed back", name, a.Name)
		return s.link(name)
	}
	return nil, nil
}
