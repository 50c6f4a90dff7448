package zone

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const (
	shop   uint32 = 7  // no forwarders
	pay    uint32 = 8  // the same addresses, forwards
	barren uint32 = 9  // no names, no forwarders
	absent uint32 = 99 // not served
)

func testVPCs() []VPC {
	cidr := netip.MustParsePrefix("10.0.0.0/16")
	return []VPC{
		{Number: pay, CIDR: cidr, Forwarders: []string{"tls://9.9.9.9"}, Private: []string{"vpce.culvert.internal"}},
		{Number: shop, CIDR: cidr},
		{Number: barren, CIDR: netip.MustParsePrefix("10.0.16.0/20")},
	}
}

func names(vpc uint32, endpoint, name string, addresses ...string) []Name {
	var rows []Name
	for _, a := range addresses {
		rows = append(rows, Name{VPC: vpc, Name: name, Address: netip.MustParseAddr(a), Endpoint: endpoint})
	}
	return rows
}

func testNames() []Name {
	return slices.Concat(
		names(shop, "vpce-1", "ledger.pay.internal", "10.0.2.9", "10.0.1.9"),
		names(shop, "vpce-2", "*.api.example.org", "10.0.1.20"),
		names(shop, "vpce-3", "a.api.example.org", "10.0.1.21"),
		names(shop, "vpce-4", "*.a.b.api.example.org", "10.0.1.22"),
		names(shop, "vpce-5", "api.example.org", "10.0.1.23"),
		names(shop, "vpce-6", "six.example.org", "2001:db8::6"),
		names(shop, "vpce-7", "_sip._tcp.example.org", "10.0.1.24"),
		names(pay, "vpce-9", "Ledger.Pay.Internal.", "10.0.5.5"),
		names(pay, "vpce-8", "*.wild.internal", "10.0.5.6"),
	)
}

func testZone(t testing.TB) *Zone {
	t.Helper()
	z, err := New(testNames(), testVPCs(), Reach{})
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// text writes an answer as zone file records, the SOA shortened to what differs.
func text(qname string, qtype uint16, a Answer) string {
	var lines []string
	for _, ip := range a.Addresses {
		typeName := map[uint16]string{TypeA: "A", TypeAAAA: "AAAA"}[qtype]
		lines = append(lines, fmt.Sprintf("%s %d IN %s %s", qname, a.TTL, typeName, ip))
	}
	for _, p := range a.Pointers {
		lines = append(lines, fmt.Sprintf("%s %d IN PTR %s.", qname, a.TTL, p))
	}
	switch a.Kind {
	case NoData, NXDomain:
		lines = append(lines, fmt.Sprintf("%s %s. %d IN SOA", a.Kind, a.Apex, a.TTL))
	case Refused, Forward:
		lines = append(lines, a.Kind.String())
	}
	if a.Ancestor {
		lines = append(lines, "ANCESTOR")
	}
	return strings.Join(lines, "\n")
}

var lookups = []struct {
	vpc   uint32
	name  string
	qtype uint16
	want  string
}{
	{shop, "ledger.pay.internal.", TypeA,
		"ledger.pay.internal. 60 IN A 10.0.1.9\nledger.pay.internal. 60 IN A 10.0.2.9"},
	{shop, "LEDGER.pay.InTeRnAl", TypeA,
		"LEDGER.pay.InTeRnAl 60 IN A 10.0.1.9\nLEDGER.pay.InTeRnAl 60 IN A 10.0.2.9"},
	{shop, "ledger.pay.internal.", TypeAAAA, "NODATA ledger.pay.internal. 10 IN SOA"},
	{shop, "ledger.pay.internal.", 16, "NODATA ledger.pay.internal. 10 IN SOA"},
	{shop, "x.ledger.pay.internal.", TypeA, "NXDOMAIN ledger.pay.internal. 10 IN SOA"},
	{shop, "xledger.pay.internal.", TypeA, "NXDOMAIN . 10 IN SOA"},
	{shop, `x\.ledger.pay.internal.`, TypeA, "NXDOMAIN . 10 IN SOA"},
	{shop, `x\046ledger.pay.internal.`, TypeA, "NXDOMAIN . 10 IN SOA"},
	{shop, `x\\.ledger.pay.internal.`, TypeA, "NXDOMAIN ledger.pay.internal. 10 IN SOA"},
	{shop, "pay.internal.", TypeA, "NODATA . 10 IN SOA"}, // empty, but names are below
	{shop, ".", TypeA, "NXDOMAIN . 10 IN SOA"},
	{shop, "", TypeA, "NXDOMAIN . 10 IN SOA"},
	{shop, `\`, TypeA, "NXDOMAIN . 10 IN SOA"},

	{shop, "b.api.example.org.", TypeA, "b.api.example.org. 60 IN A 10.0.1.20"},
	{shop, "c.b.api.example.org.", TypeA, "c.b.api.example.org. 60 IN A 10.0.1.20"},
	{shop, "*.api.example.org.", TypeA, "*.api.example.org. 60 IN A 10.0.1.20"},
	{shop, `x\.y.api.example.org.`, TypeA, `x\.y.api.example.org. 60 IN A 10.0.1.20`},
	{shop, "b.api.example.org.", TypeAAAA, "NODATA api.example.org. 10 IN SOA"},
	{shop, "api.example.org.", TypeA, "api.example.org. 60 IN A 10.0.1.23"}, // its own row, not the wildcard's
	{shop, "a.api.example.org.", TypeA, "a.api.example.org. 60 IN A 10.0.1.21"},
	{shop, "x.a.api.example.org.", TypeA, "NXDOMAIN a.api.example.org. 10 IN SOA"}, // hides the wildcard
	{shop, "x.a.b.api.example.org.", TypeA, "x.a.b.api.example.org. 60 IN A 10.0.1.22"},
	{shop, "a.b.api.example.org.", TypeA, "NODATA a.b.api.example.org. 10 IN SOA"}, // never the apex itself
	{shop, "six.example.org.", TypeAAAA, "six.example.org. 60 IN AAAA 2001:db8::6"},
	{shop, "six.example.org.", TypeA, "NODATA six.example.org. 10 IN SOA"},
	{shop, "_sip._tcp.example.org.", TypeA, "_sip._tcp.example.org. 60 IN A 10.0.1.24"},

	{pay, "ledger.pay.internal.", TypeA, "ledger.pay.internal. 60 IN A 10.0.5.5"},
	{pay, "x.ledger.pay.internal.", TypeA, "NXDOMAIN ledger.pay.internal. 10 IN SOA"},
	{pay, "other.pay.internal.", TypeA, "FORWARD"},
	{pay, "pay.internal.", TypeA, "FORWARD\nANCESTOR"},
	{pay, "wild.internal.", TypeA, "NODATA wild.internal. 10 IN SOA"},
	{pay, "six.example.org.", TypeAAAA, "FORWARD"},
	{pay, "vpce-1.vpce.culvert.internal.", TypeA, "NXDOMAIN vpce.culvert.internal. 10 IN SOA"},
	{pay, "vpce.culvert.internal.", TypeA, "NODATA vpce.culvert.internal. 10 IN SOA"},
	{barren, "ledger.pay.internal.", TypeA, "NXDOMAIN . 10 IN SOA"},
	{absent, "ledger.pay.internal.", TypeA, "REFUSED"},
	{0, "ledger.pay.internal.", TypeA, "REFUSED"},

	{pay, "localhost.", TypeA, "localhost. 60 IN A 127.0.0.1"},
	{pay, "foo.localhost.", TypeAAAA, "foo.localhost. 60 IN AAAA ::1"},
	{pay, "a.onion.", TypeA, "NXDOMAIN onion. 10 IN SOA"},
	{pay, "_dns.resolver.arpa.", 64, "NXDOMAIN resolver.arpa. 10 IN SOA"},
	{pay, "1.0.0.0.d.f.ip6.arpa.", TypePTR, "NXDOMAIN d.f.ip6.arpa. 10 IN SOA"},

	{shop, "9.1.0.10.in-addr.arpa.", TypePTR, "9.1.0.10.in-addr.arpa. 60 IN PTR ledger.pay.internal."},
	{shop, "9.1.0.10.in-addr.arpa.", TypeA, "NODATA 0.10.in-addr.arpa. 10 IN SOA"},
	{shop, "20.1.0.10.in-addr.arpa.", TypePTR, "NXDOMAIN 0.10.in-addr.arpa. 10 IN SOA"}, // a wildcard has no reverse
	{pay, "1.0.10.in-addr.arpa.", TypePTR, "NODATA 0.10.in-addr.arpa. 10 IN SOA"},
	{pay, "lb._dns-sd._udp.0.0.10.in-addr.arpa.", TypePTR, "NXDOMAIN 0.10.in-addr.arpa. 10 IN SOA"},
	{pay, "x.9.1.0.10.in-addr.arpa.", TypePTR, "NXDOMAIN 0.10.in-addr.arpa. 10 IN SOA"},
	{pay, "09.1.0.10.in-addr.arpa.", TypePTR, "NXDOMAIN 0.10.in-addr.arpa. 10 IN SOA"},
	{pay, "10.in-addr.arpa.", TypePTR, "FORWARD"},
	{pay, "1.0.1.10.in-addr.arpa.", TypePTR, "FORWARD"},
	{barren, "1.17.0.10.in-addr.arpa.", TypePTR, "NXDOMAIN 17.0.10.in-addr.arpa. 10 IN SOA"},
	{barren, "1.32.0.10.in-addr.arpa.", TypePTR, "NXDOMAIN . 10 IN SOA"},
}

func TestLookup(t *testing.T) {
	z := testZone(t)
	for _, c := range lookups {
		a := z.Lookup(c.vpc, c.name, c.qtype)
		if got := text(c.name, c.qtype, a); got != c.want {
			t.Errorf("vpc %d, %s, type %d:\n got %s\nwant %s", c.vpc, c.name, c.qtype, got, c.want)
		}
	}
}

// What exists elsewhere and what exists nowhere must look the same.
func TestLookupTellsNothingOfOtherVPCs(t *testing.T) {
	z := testZone(t)
	here := z.Lookup(barren, "ledger.pay.internal.", TypeA)
	nowhere := z.Lookup(barren, "ledger.pay.nowhere.", TypeA)
	if text("", TypeA, here) != text("", TypeA, nowhere) || here.Endpoint != "" {
		t.Errorf("exists elsewhere: %+v, exists nowhere: %+v", here, nowhere)
	}
}

func TestNewLeavesOutWrongRows(t *testing.T) {
	good := names(shop, "vpce-1", "good.example.org", "10.0.1.1")
	long := strings.Repeat("a", 64)
	for _, c := range []struct {
		row  Name
		want string
	}{
		{names(shop, "e", "", "10.0.1.2")[0], "is empty"},
		{names(shop, "e", "*", "10.0.1.2")[0], "only letters"},
		{names(shop, "e", "a.*.b", "10.0.1.2")[0], "only letters"},
		{names(shop, "e", "*.*.b", "10.0.1.2")[0], "only letters"},
		{names(shop, "e", "a..b", "10.0.1.2")[0], "1 to 63"},
		{names(shop, "e", long+".b", "10.0.1.2")[0], "1 to 63"},
		{names(shop, "e", strings.Repeat("abcdefg.", 32)+"b", "10.0.1.2")[0], "longer than 253"},
		{names(shop, "e", "-a.b", "10.0.1.2")[0], "begin or end"},
		{names(shop, "e", "a b.c", "10.0.1.2")[0], "only letters"},
		{names(shop, "e", "bücher.example", "10.0.1.2")[0], "only letters"},
		{names(shop, "e", "\u212a.example", "10.0.1.2")[0], "only letters"}, // the Kelvin sign, whose lower case is k
		{names(shop, "e", "x.localhost", "10.0.1.2")[0], "reserved"},
		{names(shop, "e", "1.0.0.10.in-addr.arpa", "10.0.1.2")[0], "reserved"},
		{names(shop, "e", "a.b", "10.1.0.1")[0], "must lie in"},
		{names(shop, "e", "a.b", "::ffff:10.0.1.2")[0], "must lie in"},
		{Name{VPC: shop, Name: "a.b"}, "must lie in"},
		{names(absent, "e", "a.b", "10.0.1.2")[0], "VPC is unknown"},
		{names(shop, "vpce-2", "good.example.org", "10.0.1.2")[0], "vpce-1 and vpce-2"},
	} {
		z, err := New(append([]Name{c.row}, good...), testVPCs(), Reach{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("row %+v: error %v, want %q", c.row, err, c.want)
		}
		if got := z.Names(); !slices.Equal(got, good) {
			t.Errorf("row %+v: zone holds %v, want only the good row", c.row, got)
		}
	}
}

func TestNewChecksVPCs(t *testing.T) {
	cidr := netip.MustParsePrefix("10.0.0.0/16")
	for _, c := range []struct {
		vpcs       []VPC
		want       string
		served     bool
		forwarders int
	}{
		{[]VPC{{Number: 0, CIDR: cidr}}, "means a node", false, 0},
		{[]VPC{{Number: 1}}, "must be an IPv4 prefix", false, 0},
		{[]VPC{{Number: 1, CIDR: netip.MustParsePrefix("fd00::/64")}}, "must be an IPv4 prefix", false, 0},
		{[]VPC{{Number: 1, CIDR: cidr}, {Number: 1, CIDR: cidr}}, "given twice", true, 0},
		{[]VPC{{Number: 1, CIDR: cidr, Forwarders: []string{"9.9.9.9", "tls://9.9.9.9"}}}, "must be allowed", true, 1},
		{[]VPC{{Number: 1, CIDR: cidr, Forwarders: slices.Repeat([]string{"tls://9.9.9.9"}, 5)}}, "more than 4", true, 4},
		{[]VPC{{Number: 1, CIDR: cidr, Private: []string{"*.a"}}}, "no wildcard", true, 0},
		{[]VPC{{Number: 1, CIDR: cidr, Private: []string{"a..b"}}}, "1 to 63", true, 0},
	} {
		z, err := New(nil, c.vpcs, Reach{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want %q", c.vpcs, err, c.want)
		}
		if got := z.Serves(1, netip.MustParseAddr("10.0.3.4")); got != c.served {
			t.Errorf("%+v: served %v, want %v", c.vpcs, got, c.served)
		}
		if got := len(z.Forwarders(1)); got != c.forwarders {
			t.Errorf("%+v: %d forwarders, want %d", c.vpcs, got, c.forwarders)
		}
	}
}

func TestServes(t *testing.T) {
	z := testZone(t)
	for _, c := range []struct {
		vpc  uint32
		addr string
		want bool
	}{
		{shop, "10.0.255.255", true}, {shop, "10.1.0.0", false}, {barren, "10.0.0.1", false}, {absent, "10.0.0.1", false},
	} {
		if got := z.Serves(c.vpc, netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("vpc %d, %s: %v, want %v", c.vpc, c.addr, got, c.want)
		}
	}
	if got := (&Zone{}).Lookup(1, "a.", TypeA).Kind; got != Refused {
		t.Errorf("empty zone: %v, want REFUSED", got)
	}
}

// The order of rows makes no difference, duplicates vanish, and Names gives back what the zone answers from.
func TestNewOrder(t *testing.T) {
	rows := testNames()
	slices.Reverse(rows)
	a := testZone(t)
	b, err := New(append(rows, rows[0], rows[3]), testVPCs(), Reach{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a.Names(), b.Names()) || len(a.Names()) != len(testNames()) {
		t.Errorf("rows differ:\n%v\n%v", a.Names(), b.Names())
	}
	if got := len(a.VPCs()); got != 3 || a.VPCs()[0].Number != shop {
		t.Errorf("VPCs: %v", a.VPCs())
	}
}

// A rule may be for reverse names; those of the VPC's own addresses and of meshes stay on the node whatever rules there are.
func TestRulesForReverseNames(t *testing.T) {
	v := VPC{Number: shop, CIDR: netip.MustParsePrefix("10.0.0.0/16")}
	for i, domain := range []string{"10.in-addr.arpa", "1.0.10.in-addr.arpa", "ip6.arpa", "8.b.d.0.1.0.0.2.ip6.arpa",
		"d.f.ip6.arpa", "9.d.f.ip6.arpa", "arpa", "resolver.arpa", "x.localhost", "*.in-addr.arpa"} {
		v.Rules = append(v.Rules, Rule{ID: fmt.Sprint(i), Domain: domain})
	}
	z, err := New(nil, []VPC{v}, Reach{})
	if n := len(z.Rules(shop)); n != 4 {
		t.Errorf("%d rules are taken: %v", n, err)
	}
	if many, ok := err.(interface{ Unwrap() []error }); !ok || len(many.Unwrap()) != 6 {
		t.Errorf("problems: %v", err)
	}
	for name, want := range map[string]string{
		"5.1.9.10.in-addr.arpa": "FORWARD 0", "5.1.0.10.in-addr.arpa": "NXDOMAIN", "1.0.10.in-addr.arpa": "NODATA",
		"1.0.0.127.in-addr.arpa": "NXDOMAIN", "a.8.b.d.0.1.0.0.2.ip6.arpa": "FORWARD 3", "1.ip6.arpa": "FORWARD 2", "1.d.f.ip6.arpa": "NXDOMAIN",
	} {
		a := z.Lookup(shop, name, TypePTR)
		got := a.Kind.String()
		if a.Kind == Forward {
			got = fmt.Sprint(got, " ", z.Rules(shop)[a.Rule].ID)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
