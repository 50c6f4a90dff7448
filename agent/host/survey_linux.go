package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Path implements Host.
func (n *Netlink) Path(to netip.Addr) (Path, error) {
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return Path{}, err
	}
	routes, err := s.nl.RouteGet(net.IP(to.Unmap().AsSlice()))
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), err == nil && len(routes) == 0:
		return Path{}, fmt.Errorf("path to %s: %w", to, ErrNoRoute)
	case err != nil:
		return Path{}, fmt.Errorf("path to %s: %w", to, err)
	}
	return s.path(routes[0])
}

func (s *space) path(r netlink.Route) (Path, error) {
	link, err := s.nl.LinkByIndex(r.LinkIndex)
	if err != nil {
		return Path{}, fmt.Errorf("interface %d of a route: %w", r.LinkIndex, err)
	}
	p := Path{Interface: link.Attrs().Name, MTU: link.Attrs().MTU}
	if r.MTU > 0 && r.MTU < p.MTU {
		p.MTU = r.MTU
	}
	return p, nil
}

// Survey is what of a host's network decides whether a node can work there, besides Facts.
type Survey struct {
	Default4, Default6 *Path // by which packets leave that no other route takes; nil: none
	Chains             []InputChain
	ChainsError        error    // why nftables could not be read
	Legacy             []string // families with filter rules of the old iptables: ip, ip6
	ReversePath        string   // family and table of nftables that drop packets by their way back; "": none
}

// Survey reads. It changes nothing.
func (n *Netlink) Survey() (Survey, error) {
	s, err := n.lock()
	defer n.mu.Unlock()
	if err != nil {
		return Survey{}, err
	}
	var out Survey
	for _, x := range []struct {
		family int
		to     **Path
	}{{netlink.FAMILY_V4, &out.Default4}, {netlink.FAMILY_V6, &out.Default6}} {
		if *x.to, err = s.defaultPath(x.family); err != nil {
			return Survey{}, fmt.Errorf("survey: %w", err)
		}
	}
	r := rulesReader{sets: map[string][]nftables.SetElement{}}
	if r.conn, err = nftables.New(nftables.WithNetNSFd(int(s.file.Fd()))); err == nil {
		err = r.read()
	}
	out.Chains, out.ReversePath, out.ChainsError = r.inputs, r.reversePath, err
	err = s.do(func() error {
		for family, path := range map[string]string{"ip": "/proc/net/ip_tables_names", "ip6": "/proc/net/ip6_tables_names"} {
			if names, err := os.ReadFile(path); err == nil && slices.Contains(strings.Fields(string(names)), "filter") {
				out.Legacy = append(out.Legacy, family)
			}
		}
		slices.Sort(out.Legacy)
		return nil
	})
	return out, err
}

// defaultPath is that of the default route with the least metric.
func (s *space) defaultPath(family int) (*Path, error) {
	routes, err := s.nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	routes = slices.DeleteFunc(routes, func(r netlink.Route) bool {
		ones := 0
		if r.Dst != nil {
			ones, _ = r.Dst.Mask.Size()
		}
		return ones != 0 || r.LinkIndex == 0
	})
	if len(routes) == 0 {
		return nil, nil
	}
	best := slices.MinFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority })
	p, err := s.path(best)
	return &p, err
}

// DefaultRouteMTU is the largest MTU of the default routes, of both families, in bytes; 0: there is none. They are those of the
// calling thread's network namespace: culvert tunnel asks, which has no right to enter one, not even its own.
func DefaultRouteMTU() (int, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("default route: netlink: %w", err)
	}
	defer nl.Close()
	s, widest := &space{nl: nl}, 0
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		p, err := s.defaultPath(family)
		if err != nil {
			return 0, fmt.Errorf("default route: %w", err)
		}
		if p != nil {
			widest = max(widest, p.MTU)
		}
	}
	return widest, nil
}

// InputChain is a base chain of nftables at the hook "input", with its rules and those of the chains that it jumps to, as far
// as they are about ports. Of a rule that asks more than that, such as for an address of the sender, it is not known whether
// it is about a packet: one that accepts is taken at its word, one that drops is not. Rules for established connections or for
// the loopback interface admit nothing new.
type InputChain struct {
	Family, Table, Name string
	Closed              bool // what no rule is about is dropped
	drops               bool // the policy
	rules               map[string][]rule
}

// outcome of a chain for a packet.
type outcome int

const (
	undecided outcome = iota
	accepted
	dropped
)

// noProtocol is no protocol of IP that a rule is about (reserved by IANA).
const noProtocol = 255

// Packet is what is asked about: of a protocol of IP, to a port. By names the interface that it comes by; "": any but the
// loopback, and rules for any are about it.
type Packet struct {
	Protocol byte
	Port     uint16
	By       string
}

// Admits tells whether a packet comes in.
func (c InputChain) Admits(p Packet) bool {
	switch c.decide(c.Name, p, map[string]outcome{}, 0) {
	case accepted:
		return true
	case dropped:
		return false
	}
	return !c.drops
}

// decide walks a chain; known are the outcomes of chains for this packet.
func (c InputChain) decide(name string, p Packet, known map[string]outcome, depth int) (out outcome) {
	if o, is := known[name]; is || depth > maxDepth {
		return o
	}
	defer func() { known[name] = out }()
	for _, r := range c.rules[name] {
		if !r.about(p) {
			continue
		}
		// Of one interface among several, or of one sender: not known for a packet of any.
		unsure := r.other || len(r.from) > 0 && p.By == ""
		if r.accepts && (len(r.ranges) > 0 || !r.established) && (p.Protocol != noProtocol || !unsure) {
			return accepted
		}
		if r.drops && !unsure {
			return dropped
		}
		for _, to := range r.jumps {
			if o := c.decide(to, p, known, depth+1); o == accepted || o == dropped && !unsure {
				return o
			}
		}
	}
	return undecided
}

type portRange struct{ low, high uint16 }

// about tells whether a rule may be about a packet.
func (r rule) about(p Packet) bool {
	in := func(x portRange) bool { return x.low <= p.Port && p.Port <= x.high }
	switch {
	case r.protocol != 0 && r.protocol != p.Protocol, r.local:
		return false
	case len(r.ranges) > 0 && (p.Protocol == noProtocol || !slices.ContainsFunc(r.ranges, in)):
		return false
	case p.By == "" || len(r.from) == 0:
		return true
	}
	return slices.ContainsFunc(r.from, func(name string) bool {
		begin, open := strings.CutSuffix(name, "*")
		return name == p.By || open && strings.HasPrefix(p.By, begin)
	})
}

// familyNames as nft prints them.
var familyNames = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
}
