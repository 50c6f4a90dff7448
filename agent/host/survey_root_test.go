package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/internal/netlab"
)

// What a host's own rules admit, as nft and iptables-nft write them.
func TestRulesOfOthersAreRead(t *testing.T) {
	lab := netlab.New(t)
	for i, c := range []struct {
		name   string
		rules  string // of nft
		closed bool
		admits []string // of the ports asked below
	}{
		{"accepts all", `table inet f { chain input { TYPE policy accept; } }`, false, []string{"udp/51820", "udp/7946", "tcp/7946"}},
		{"drops all", `table inet f { chain input { TYPE policy drop; } }`, true, nil},
		{"last rule drops", `table ip f { chain input { TYPE tcp dport 22 accept; counter drop; } }`, true, nil},
		{"last rule rejects", `table inet f { chain input { TYPE reject with icmpx admin-prohibited; } }`, true, nil},
		{"drops some at the end", `table inet f { chain input { TYPE tcp dport 25 drop; } }`, false,
			[]string{"udp/51820", "udp/7946", "tcp/7946"}},
		{"one port", `table inet f { chain input { TYPE policy drop; udp dport 51820 accept; } }`, true,
			[]string{"udp/51820"}},
		{"a range", `table inet f { chain input { TYPE policy drop; udp dport 50000-52000 accept; } }`, true,
			[]string{"udp/51820"}},
		{"a set", `table inet f { chain input { TYPE policy drop; udp dport { 7946, 51820 } accept; } }`, true,
			[]string{"udp/51820", "udp/7946"}},
		{"a set of ranges", `table inet f { set p { type inet_service; flags interval; elements = { 7000-8000, 51820 } }
			chain input { TYPE policy drop; meta l4proto { tcp, udp } th dport @p accept; } }`, true,
			[]string{"udp/51820", "udp/7946", "tcp/7946"}},
		{"a map of verdicts",
			`table inet f { chain input { TYPE policy drop; udp dport vmap { 51820 : accept, 53 : drop }; } }`, true, []string{"udp/51820"}},
		{"a chain behind a jump",
			`table inet f { chain a { tcp dport 7946 accept; } chain input { TYPE policy drop; jump a; } }`, true, []string{"tcp/7946"}},
		{"a chain behind a map", `table inet f { chain a { udp dport 7946 accept; }
			chain input { TYPE policy drop; iifname vmap { "lo" : accept, "eth0" : goto a }; } }`, true, []string{"udp/7946"}},
		{"a jump that ends all", `table inet f { chain a { drop; } chain input { TYPE jump a; } }`, true, nil},
		{"established only",
			`table inet f { chain input { TYPE policy drop; ct state established,related accept; iifname "lo" accept; iif lo accept; } }`, true, nil},
		{"new ones to a port", `table inet f { chain input { TYPE policy drop; ct state new udp dport 51820 accept; } }`,
			true, []string{"udp/51820"}},
		{"from a network", `table inet f { chain input { TYPE policy drop; ip saddr 10.0.0.0/8 accept; } }`, true,
			[]string{"udp/51820", "udp/7946", "tcp/7946"}},
		{"a protocol", `table ip f { chain input { TYPE policy drop; ip protocol tcp accept; } }`, true,
			[]string{"tcp/7946"}},
		{"our port only is dropped", `table inet f { chain input { TYPE policy accept; udp dport 51820 drop; } }`, false,
			[]string{"udp/7946", "tcp/7946"}},
		{"dropped before it is accepted", `table inet f { chain input { TYPE policy drop; udp dport 51820 drop; udp dport 51820 accept; } }`,
			true, nil},
		{"dropped, then counted", `table inet f { chain input { TYPE policy accept; tcp dport 7946 accept; drop; counter; } }`, true,
			[]string{"tcp/7946"}},
		{"somebody is dropped", `table inet f { chain input { TYPE policy accept; ip saddr 192.0.2.1 drop; } }`, false,
			[]string{"udp/51820", "udp/7946", "tcp/7946"}},
		{"a large set of senders", `table inet f { set s { type ipv4_addr; elements = { 192.0.2.1 } }
			chain input { TYPE policy drop; ip saddr @s accept; } }`, true, []string{"udp/51820", "udp/7946", "tcp/7946"}},
		{"forwarding only", `table inet f { chain through { type filter hook forward priority 0; policy drop; } }`,
			false, nil},
	} {
		ns := lab.Namespace(string(rune('a' + i)))
		ns.Exec("nft", lines(c.rules))
		h := New(Config{Netns: ns.Path()})
		defer h.Close()
		s, err := h.Survey()
		if err != nil || s.ChainsError != nil {
			t.Errorf("%s: %v, %v", c.name, err, s.ChainsError)
			continue
		}
		closed, admits := false, []string(nil)
		for _, chain := range s.Chains {
			closed = closed || chain.Closed
			for port, p := range map[string]struct {
				protocol byte
				port     uint16
			}{"udp/51820": {unix.IPPROTO_UDP, 51820}, "udp/7946": {unix.IPPROTO_UDP, 7946},
				"tcp/7946": {unix.IPPROTO_TCP, 7946}} {
				if chain.Admits(Packet{p.protocol, p.port, ""}) {
					admits = append(admits, port)
				}
			}
		}
		slices.Sort(admits)
		slices.Sort(c.admits)
		if closed != c.closed || !slices.Equal(admits, c.admits) {
			t.Errorf("%s: closed %t, admits %v", c.name, closed, admits)
		}
	}
}

// lines breaks rules where nft wants it, around the end of a block, and says TYPE in full.
func lines(rules string) string {
	rules = strings.ReplaceAll(rules, "TYPE", "type filter hook input priority 0;")
	return strings.ReplaceAll(rules, "; }", ";\n}\n")
}

// What comes by the host's own link is asked about apart: a rule for another interface is not about it.
func TestRulesOfAnInterface(t *testing.T) {
	ns := netlab.New(t).Namespace("a")
	ns.Exec("nft", lines(`table inet f { chain input { TYPE policy drop; iifname "eth0" accept; iifname "culvert-h*" udp dport 1023 accept;
		iifname { "eth1", "eth2" } accept; } }`))
	h := New(Config{Netns: ns.Path()})
	defer h.Close()
	s, err := h.Survey()
	if err != nil || len(s.Chains) != 1 {
		t.Fatalf("%+v, %v", s.Chains, err)
	}
	for p, want := range map[Packet]bool{
		{unix.IPPROTO_UDP, 1023, HostName}: true, {unix.IPPROTO_UDP, 1023, "culvert0"}: false, {unix.IPPROTO_UDP, 9, HostName}: false,
		{unix.IPPROTO_TCP, 1023, HostName}: false, {unix.IPPROTO_UDP, 9, "eth0"}: true, {unix.IPPROTO_UDP, 9, ""}: true,
	} {
		if got := s.Chains[0].Admits(p); got != want {
			t.Errorf("%+v: %t", p, got)
		}
	}
}

// Chains that jump to each other many times over are each looked at once.
func TestChainsAreReadOnce(t *testing.T) {
	ns := netlab.New(t).Namespace("a")
	var rules strings.Builder
	rules.WriteString("table inet f { chain c0 { udp dport 9 accept; }\n")
	for i := 1; i <= 14; i++ {
		fmt.Fprintf(&rules, "chain c%d { jump c%d; jump c%d; jump c%d; }\n", i, i-1, i-1, i-1)
	}
	rules.WriteString("chain input { TYPE policy drop; jump c14; } }")
	ns.Exec("nft", lines(rules.String()))
	h := New(Config{Netns: ns.Path()})
	defer h.Close()
	s, err := h.Survey() // 3^14 walks would take for ever
	if err != nil || len(s.Chains) != 1 || !s.Chains[0].Admits(Packet{unix.IPPROTO_UDP, 9, ""}) || s.Chains[0].Admits(Packet{unix.IPPROTO_UDP, 10, ""}) {
		t.Errorf("%+v, %v", s.Chains, err)
	}
}

func TestSurvey(t *testing.T) {
	lab := netlab.New(t)
	a, b := lab.Namespace("a"), lab.Namespace("b")
	lab.Veth(a, "eth0", b, "eth0")
	a.AddAddress("eth0", netip.MustParsePrefix("192.0.2.1/24"))
	h := New(Config{Netns: a.Path()})
	defer h.Close()
	s, err := h.Survey()
	if err != nil || s.Default4 != nil || s.Default6 != nil || s.ReversePath != "" || s.Chains != nil || s.Legacy != nil {
		t.Fatalf("%+v, %v", s, err)
	}
	if _, err := h.Path(netip.MustParseAddr("198.51.100.1")); !errors.Is(err, ErrNoRoute) {
		t.Errorf("without a route: %v", err)
	}
	a.Exec("ip", "link", "set", "eth0", "mtu", "1400")
	a.Exec("ip", "route", "add", "default", "via", "192.0.2.2")
	a.Exec("ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.2", "mtu", "1300")
	a.Exec("nft", lines(`table inet f { chain p { type filter hook prerouting priority -150;
		meta nfproto ipv6 fib saddr . iif oif missing drop; } }`))
	s, err = h.Survey()
	if err != nil || s.Default4 == nil || *s.Default4 != (Path{"eth0",
		1400}) || s.Default6 != nil || s.ReversePath != "inet f" {
		t.Errorf("%+v, %v", s, err)
	}
	for to, want := range map[string]Path{"203.0.113.1": {"eth0", 1400}, "198.51.100.1": {"eth0", 1300}} {
		if got, err := h.Path(netip.MustParseAddr(to)); err != nil || got != want {
			t.Errorf("%s: %+v, %v", to, got, err)
		}
	}
}

// TestDefaultRouteMTU: what a tunnel's MTU is taken from.
func TestDefaultRouteMTU(t *testing.T) {
	lab := netlab.New(t)
	ns, far := lab.Namespace("a"), lab.Namespace("b")
	lab.Veth(ns, "eth0", far, "eth0")
	lab.Veth(ns, "eth1", far, "eth1")
	ns.Exec("ip", "link", "set", "eth0", "mtu", "9000")
	ns.Exec("ip", "link", "set", "eth1", "mtu", "1400")
	ns.AddAddress("eth0", netip.MustParsePrefix("198.18.0.1/24"))
	ns.AddAddress("eth1", netip.MustParsePrefix("2001:db8::1/64"))
	check := func(step string, want, tunnel int) {
		t.Helper()
		var got int
		err := ns.Do(func() (err error) {
			got, err = DefaultRouteMTU()
			return err
		})
		if err != nil || got != want || TunnelMTU(got) != tunnel {
			t.Errorf("%s: %d (%v), a tunnel of %d; want %d and %d", step, got, err, TunnelMTU(got), want, tunnel)
		}
	}
	check("no default route", 0, 1420)
	ns.AddRoute(netip.MustParsePrefix("::/0"), netip.MustParseAddr("2001:db8::2"), "eth1")
	check("a narrow one", 1400, 1420)
	ns.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("198.18.0.2"), "eth0")
	check("a wide one", 9000, 8920)
	ns.Exec("ip", "link", "set", "eth0", "mtu", "65000")
	check("wider than usual", 65000, 8920)
}
