package zone

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseForwarder(t *testing.T) {
	cidr := netip.MustParsePrefix("10.0.0.0/16")
	for _, c := range []struct {
		text   string
		plain  bool
		want   string // String, and " inside"
		server string
	}{
		{"tls://9.9.9.9", false, "tls://9.9.9.9:853", "9.9.9.9"},
		{"tls://9.9.9.9:8853#dns.quad9.net", false, "tls://9.9.9.9:8853#dns.quad9.net", "dns.quad9.net"},
		{"tls://2620:fe::fe", false, "tls://[2620:fe::fe]:853", "2620:fe::fe"},
		{"tls://[2620:fe::fe]", false, "tls://[2620:fe::fe]:853", "2620:fe::fe"},
		{"tls://[2620:fe::fe]:1853#dns.quad9.net", false, "tls://[2620:fe::fe]:1853#dns.quad9.net", "dns.quad9.net"},
		{"9.9.9.9", true, "9.9.9.9:53", ""},
		{"9.9.9.9:5353", true, "9.9.9.9:5353", ""},
		{"10.0.3.53", false, "10.0.3.53:53 inside", ""},
		{"tcp://9.9.9.9", true, "tcp://9.9.9.9:53", ""},
		{"tcp://[2620:fe::fe]:5353", true, "tcp://[2620:fe::fe]:5353", ""},
		{"tcp://10.0.3.53", false, "tcp://10.0.3.53:53 inside", ""},
		{"tls://10.0.3.53", false, "tls://10.0.3.53:853 inside", "10.0.3.53"},
		{"::ffff:10.0.3.53", false, "10.0.3.53:53 inside", ""},
	} {
		f, err := ParseForwarder(c.text, c.plain, cidr)
		got := f.String()
		if f.Inside {
			got += " inside"
		}
		if err != nil || got != c.want || f.ServerName != c.server {
			t.Errorf("%s: %s, server %q, error %v; want %s, %q", c.text, got, f.ServerName, err, c.want, c.server)
		}
	}
}

func TestParseForwarderRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"9.9.9.9":                "must be allowed",
		"":                       "an address and not a name",
		"tcp://9.9.9.9#a.b":      "needs tls://",
		"tcp://":                 "an address and not a name",
		"tls://":                 "an address and not a name",
		"tls://dns.quad9.net":    "an address and not a name",
		"tls://9.9.9.9:0":        "port must be",
		"tls://9.9.9.9:99999":    "an address and not a name",
		"tls://9.9.9.9#":         "not a host name",
		"tls://9.9.9.9#*.a.b":    "not a host name",
		"tls://9.9.9.9#a b":      "not a host name",
		"9.9.9.9#dns.quad9.net":  "needs tls://",
		"tls://[fe80::1%eth0]":   "zone",
		"https://9.9.9.9":        "an address and not a name",
		"tls://[9.9.9.9]:53:853": "an address and not a name",
	} {
		if f, err := ParseForwarder(text, false, netip.Prefix{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, error %v, want %q", text, f, err, want)
		}
	}
}
