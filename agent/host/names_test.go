package host

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestVethName(t *testing.T) {
	if got, want := VethName("eni-0cart"), VethName("eni-0cart"); got != want {
		t.Fatalf("not stable: %s, %s", got, want)
	}
	seen := map[string]string{}
	rapid.Check(t, func(t *rapid.T) {
		eni := rapid.StringMatching(`eni-[0-9a-f]{17}`).Draw(t, "eni")
		name := VethName(eni)
		if len(name) != 13 || !strings.HasPrefix(name, "cv") || !interfaceName(name) {
			t.Fatalf("name %q of %s", name, eni)
		}
		if other, ok := seen[name]; ok && other != eni {
			t.Fatalf("%s and %s share %s", eni, other, name)
		}
		seen[name] = eni
	})
}

func TestWorkloadMAC(t *testing.T) {
	seen := map[MAC]bool{}
	for vpc := range uint32(40) {
		for host := range byte(200) {
			m := WorkloadMAC(vpc, netip.AddrFrom4([4]byte{10, 0, 1, host}))
			if m[0] != 0x02 {
				t.Fatalf("%x is not a locally administered unicast address", m)
			}
			if m == GatewayMAC || m == HostMAC || m == DatapathMAC {
				t.Fatalf("%x is a fixed address", m)
			}
			if seen[m] {
				t.Fatalf("%x twice", m)
			}
			seen[m] = true
		}
	}
	v4 := netip.MustParseAddr("10.0.1.5")
	if WorkloadMAC(7, v4) != WorkloadMAC(7, netip.AddrFrom16(v4.As16())) {
		t.Fatal("the mapped form of an address has another MAC")
	}
}

func TestAliasRoundTrip(t *testing.T) {
	eni, ifname, netns, ok := parseAlias(alias("eni-0cart", "eni0", "/run/netns/a b"))
	if !ok || eni != "eni-0cart" || ifname != "eni0" || netns != "/run/netns/a b" {
		t.Fatalf("%q %q %q %v", eni, ifname, netns, ok)
	}
	for _, s := range []string{"", "culvert:", aliasHost, aliasDP, "culvert:eni-1 eni0", "somebody's:eni-1 eni0 /x"} {
		if _, _, _, ok := parseAlias(s); ok {
			t.Errorf("%q passes for a workload's alias", s)
		}
	}
}

func TestResolverTextRoundTrip(t *testing.T) {
	text := resolverText("eni-0cart", 7, 2, netip.MustParseAddr("10.0.0.2"), "  a.internal   b.internal ")
	if eni, host, made := parseResolver(text); eni != "eni-0cart" || host != 7 || made != 2 {
		t.Fatalf("%q, %d", eni, made)
	}
	if !strings.Contains(text, "\nsearch a.internal b.internal\n") {
		t.Fatalf("%q", text)
	}
	if text := resolverText("eni-0cart", 0, 0, netip.MustParseAddr("10.0.0.2"), ""); strings.Contains(text, "search") {
		t.Fatalf("%q", text)
	}
	for _, s := range []string{"", "nameserver 1.1.1.1\n", "# culvert:\n", "# culvert:eni-1\n"} {
		if eni, _, _ := parseResolver(s); eni != "" {
			t.Errorf("%q passes for a file of ours", s)
		}
	}
}

func TestNormalFillsDefaults(t *testing.T) {
	s := spec("/run/netns/x")
	s.Interface, s.MTU = "", 0
	n, err := s.Normal()
	if err != nil || n.Interface != DefaultInterface || n.MTU != DefaultMTU {
		t.Fatalf("%+v, %v", n, err)
	}
	again, err := n.Normal()
	if err != nil || again != n {
		t.Fatalf("a normal specification changes: %+v, %v", again, err)
	}
	s.Netns = "/run/netns/" + strings.Repeat("x", maxAlias)
	if _, err := s.Normal(); err == nil {
		t.Fatal("a path that an alias cannot hold is accepted")
	}
}
