package api

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The IPv6 form of an address and back, and a prefix holds the IPv6 form of exactly what its IPv4 prefix holds.
func TestIPv6FormsMirrorIPv4(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		mesh, vpc := rapid.Uint32Range(1, 1<<24-1).Draw(rt, "mesh"), rapid.Uint32Min(1).Draw(rt, "vpc")
		address := func(name string) netip.Addr {
			return Overlay{Host: rapid.Uint32().Draw(rt, name)}.HostAddr()
		}
		a := address("a")
		six := IPv6Address(mesh, vpc, a)
		if m, v, v4, ok := IPv4Form(six); !ok || m != mesh || v != vpc || v4 != a {
			rt.Fatalf("%s is %s: mesh %x, VPC %d, %s, %v", a, six, m, v, v4, ok)
		}
		bits := rapid.IntRange(0, 32).Draw(rt, "bits")
		v4 := netip.PrefixFrom(address("prefix"), bits).Masked()
		if rapid.Bool().Draw(rt, "near") {
			v4 = netip.PrefixFrom(a, bits).Masked()
		}
		block := IPv6Block(mesh, vpc, v4)
		if err := ValidateIPv6Prefix("cidr", block); err != nil {
			rt.Fatalf("%s: %v", block, err)
		}
		if block.Contains(six) != v4.Contains(a) || !VPCIPv6Block(mesh, vpc).Contains(six) {
			rt.Fatalf("%s in %s, but %s in %s is %v", a, v4, six, block, block.Contains(six))
		}
		if v, p := IPv6Match(block); v != vpc || p != v4 {
			rt.Fatalf("%s matches VPC %d %s, want %d %s", block, v, p, vpc, v4)
		}
		one := netip.PrefixFrom(six, 128)
		if v, p := IPv6Match(one); v != vpc || p != netip.PrefixFrom(a, 32) || ValidateIPv6Prefix("cidr", one) != nil {
			rt.Fatalf("%s matches VPC %d %s: %v", one, v, p, ValidateIPv6Prefix("cidr", one))
		}
	})
}

func TestIPv6PrefixesOfRules(t *testing.T) {
	six := IPv6Address(0x123456, 7, netip.MustParseAddr("10.0.1.5"))
	tagged := Overlay{Mesh: 0x123456, VPC: 7, Host: 0x0a000105, Tag: 5}.Addr()
	for text, says := range map[string]string{
		"::/0":                        "",
		"fd12:3456:0:7::/64":          "",
		"fd12:3456:0:7:a00::/72":      "",
		six.String() + "/128":         "",
		"fd12:3456:0:7::/63":          "bits set",
		"fd12:3456::/32":              "not within the IPv6 range of a VPC",
		"fd12:3456::/64":              "not within the IPv6 range of a VPC",
		"2001:db8:0:7::/64":           "not within the IPv6 range of a VPC",
		"fd12:3456:0:7::1/64":         "write fd12:3456:0:7::/64",
		"fd12:3456:0:7:a00:105::/97":  "not an address of a VPC",
		"fd12:3456:0:7:a00:105::/128": "not an address of a VPC",
		tagged.String() + "/128":      "not an address of a VPC",
		"10.0.0.0/8":                  "not an IPv6 prefix",
	} {
		e := ValidateIPv6Prefix("cidr", netip.MustParsePrefix(text))
		if (e == nil) != (says == "") || e != nil && !strings.Contains(e.Message+e.Remedy, says) {
			t.Errorf("%s: %v, want %q", text, e, says)
		}
	}
	if VPCIPv6Block(0x123456, 7) != netip.MustParsePrefix("fd12:3456:0:7::/64") {
		t.Errorf("the range of VPC 7 is %s", VPCIPv6Block(0x123456, 7))
	}
}
