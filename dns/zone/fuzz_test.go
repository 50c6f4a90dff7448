package zone

import (
	"net/netip"
	"strings"
	"testing"
	"unicode"
)

// FuzzParseForwarder: a forwarder is written and read the same; one that is refused is named in one line.
func FuzzParseForwarder(f *testing.F) {
	for _, s := range []string{"tls://192.0.2.1", "tls://192.0.2.1:853#dns.example", "192.0.2.1:53", "[2001:db8::1]:53",
		"2001:db8::1", "tls://#x", "fe80::1%eth0", "10.0.0.9", "::ffff:10.0.0.9"} {
		f.Add(s, true)
	}
	cidr := netip.MustParsePrefix("10.0.0.0/16")
	f.Fuzz(func(t *testing.T, text string, plain bool) {
		one, err := ParseForwarder(text, plain, cidr)
		if err != nil {
			if s := err.Error(); !strings.Contains(s, "forwarder") || strings.ContainsFunc(s,
				func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q: %q", text, s)
			}
			return
		}
		two, err := ParseForwarder(one.String(), plain, cidr)
		if err != nil || one != two {
			t.Errorf("%q: %+v, as %q %+v (%v)", text, one, one, two, err)
		}
		if a := one.Address; a.Port() == 0 || a.Addr().Zone() != "" || a.Addr().Is4In6() || one.TLS == (one.ServerName == "") ||
			!one.TLS && !plain && !cidr.Contains(a.Addr()) {
			t.Errorf("%q, plain %t: %+v", text, plain, one)
		}
	})
}

// FuzzNew: a name that a zone takes is found in whatever case it is asked for, and one that it refuses holds up no other.
func FuzzNew(f *testing.F) {
	for _, s := range []string{"ledger.pay.internal", "*.api.example.org", "", "*", "*.*.x", "localhost", "a..b", "A.B",
		"x.in-addr.arpa", strings.Repeat("a", 64) + ".b", "a\x00.b"} {
		f.Add(s)
	}
	cidr, address := netip.MustParsePrefix("10.0.0.0/16"), netip.MustParseAddr("10.0.1.9")
	f.Fuzz(func(t *testing.T, name string) {
		z, err := New([]Name{{VPC: 7, Name: name, Address: address}, {VPC: 7, Name: "other.internal", Address: address}},
			[]VPC{{Number: 7, CIDR: cidr}}, Reach{})
		if a := z.Lookup(7, "other.internal.", TypeA); a.Kind != Found {
			t.Errorf("beside %q (%v), another name is %+v", name, err, a)
		}
		if err != nil {
			if s := err.Error(); strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
				t.Errorf("%q: %q", name, s)
			}
			return
		}
		asked := strings.ToUpper(strings.TrimSuffix(strings.Replace(name, "*", "below", 1), ".")) + "."
		if a := z.Lookup(7, asked, TypeA); a.Kind != Found || len(a.Addresses) != 1 || a.Addresses[0] != address {
			t.Errorf("%q is taken, and %q is %+v", name, asked, a)
		}
		if a := z.Lookup(8, asked, TypeA); a.Kind == Found && len(a.Addresses) == 1 && a.Addresses[0] == address {
			t.Errorf("%q is found in another VPC", asked)
		}
	})
}
