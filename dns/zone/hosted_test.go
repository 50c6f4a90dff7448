package zone

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
)

func testHosted() []*Hosted {
	one := func(name, kind, value string) Set {
		return Set{Name: name, Type: kind, TTL: 300, Values: []string{value}}
	}
	return []*Hosted{
		{ID: "zone-1", Domain: "corp.internal", Sets: []Set{
			one("corp.internal", "MX", "10 mail.corp.internal"),
			{Name: "corp.internal", Type: "A", TTL: 30, Values: []string{"10.9.0.1", "10.9.0.2"}},
			one("www.corp.internal", "CNAME", "web.corp.internal"),
			one("quoted.corp.internal", "CNAME", ` "W\101b.corp.internal."`),
			one("web.corp.internal", "AAAA", "2001:db8::1"),
			one("*.apps.corp.internal", "A", "10.9.1.1"),
			one("here.apps.corp.internal", "TXT", "text"),
			one("deep.er.corp.internal", "A", "10.9.2.1"),
			one("_sip._tcp.corp.internal", "SRV", "1 2 5060 sip.corp.internal"),
		}},
		{ID: "zone-2", Domain: "eu.corp.internal", Sets: []Set{one("eu.corp.internal", "A", "10.9.3.1")}},
	}
}

func hostedZone(t *testing.T) *Zone {
	t.Helper()
	vpcs := testVPCs()
	list := testHosted()
	vpcs[0].Hosted = list
	vpcs[1].Hosted = list[:1]
	rules := []Rule{
		{ID: "rslvr-rr-1", Domain: "example.org", Forwarders: []string{"tls://192.0.2.1"}},
		{ID: "rslvr-rr-2", Domain: "deep.example.org", Forwarders: []string{"tls://9.9.9.10"}},
		{ID: "rslvr-rr-3", Domain: "ad.corp.internal", Forwarders: []string{"tls://9.9.9.11"}},
		{ID: "rslvr-rr-4", Domain: "corp.internal", Forwarders: []string{"tls://9.9.9.12"}},
	}
	vpcs[0].Rules = rules[1:]
	vpcs[1].Rules = rules
	z, err := New(slices.Concat(testNames(), names(shop, "vpce-10", "gate.corp.internal", "10.0.1.30"),
		names(shop, "vpce-11", "a.b.far.corp.internal", "10.0.1.31"), names(shop, "vpce-12", "x.y.gate.corp.internal", "10.0.1.32"),
		names(shop, "vpce-13", "in.side.apps.corp.internal", "10.0.1.33")), vpcs, Reach{})
	if err == nil || !strings.Contains(err.Error(), "resolver rule rslvr-rr-1: ") || strings.Contains(err.Error(), "\n") {
		t.Fatalf("problems: %v, want that of the forwarder that is not of the Internet", err)
	}
	return z
}

// brief writes an answer in one line.
func brief(a Answer) string {
	var out []string
	for _, r := range a.Records {
		out = append(out, fmt.Sprintf("%d %d %x", r.Type, r.TTL, r.Data))
	}
	for _, x := range a.Addresses {
		out = append(out, x.String())
	}
	switch a.Kind {
	case NoData, NXDomain:
		out = append(out, a.Kind.String()+" "+a.Apex)
	case Forward:
		out = append(out, fmt.Sprintf("FORWARD %d", a.Rule))
	}
	if a.Alias != "" {
		out = append(out, "-> "+a.Alias)
	}
	return strings.Join(out, ", ")
}

func TestHostedZones(t *testing.T) {
	z := hostedZone(t)
	mx, aaaa, srv := api.RecordTypes["MX"], api.RecordTypes["AAAA"], api.RecordTypes["SRV"]
	for _, c := range []struct {
		vpc   uint32
		name  string
		qtype uint16
		want  string
	}{
		{pay, "corp.internal.", TypeA, "1 30 0a090001, 1 30 0a090002"},
		{pay, "CORP.internal", mx, "15 300 000a046d61696c04636f727008696e7465726e616c00"},
		{pay, "corp.internal.", aaaa, "NODATA corp.internal"},
		{pay, "www.corp.internal.", TypeA, "5 300 0377656204636f727008696e7465726e616c00, -> web.corp.internal"},
		{pay, "www.corp.internal.", TypeCNAME, "5 300 0377656204636f727008696e7465726e616c00"},
		{pay, "quoted.corp.internal.", TypeA, "5 300 0377656204636f727008696e7465726e616c00, -> web.corp.internal"},
		{pay, "web.corp.internal.", aaaa, "28 300 20010db8000000000000000000000001"},
		{pay, "web.corp.internal.", TypeA, "NODATA corp.internal"},
		{pay, "none.corp.internal.", TypeA, "NXDOMAIN corp.internal"},
		{pay, "x.www.corp.internal.", TypeA, "NXDOMAIN corp.internal"},
		{pay, "a.apps.corp.internal.", TypeA, "1 300 0a090101"},
		{pay, "b.a.apps.corp.internal.", TypeA, "1 300 0a090101"},
		{pay, "a.apps.corp.internal.", aaaa, "NODATA corp.internal"},
		{pay, "here.apps.corp.internal.", TypeA, "NODATA corp.internal"},     // what exists is not the wildcard's
		{pay, "x.here.apps.corp.internal.", TypeA, "NXDOMAIN corp.internal"}, // nor what is below it, RFC 4592
		{pay, "apps.corp.internal.", TypeA, "NODATA corp.internal"},          // empty, names are below
		{pay, "er.corp.internal.", TypeA, "NODATA corp.internal"},
		{pay, "_sip._tcp.corp.internal.", srv, "33 300 0001000213c40373697004636f727008696e7465726e616c00"},
		{pay, "eu.corp.internal.", TypeA, "1 300 0a090301"}, // the more specific zone
		{pay, "www.eu.corp.internal.", TypeA, "NXDOMAIN eu.corp.internal"},
		{shop, "eu.corp.internal.", TypeA, "NXDOMAIN corp.internal"}, // not associated
		{barren, "corp.internal.", TypeA, "NXDOMAIN "},
		{shop, "gate.corp.internal.", TypeA, "10.0.1.30"}, // an endpoint's name is more specific
		{pay, "gate.corp.internal.", TypeA, "NXDOMAIN corp.internal"},
		{shop, "b.far.corp.internal.", TypeA, "NODATA corp.internal"}, // an endpoint's name is below, so it exists
		{shop, "far.corp.internal.", TypeA, "NODATA corp.internal"},
		{shop, "x.far.corp.internal.", TypeA, "NXDOMAIN corp.internal"},
		{pay, "far.corp.internal.", TypeA, "NXDOMAIN corp.internal"},
		{shop, "y.gate.corp.internal.", TypeA, "NODATA gate.corp.internal"}, // likewise below another endpoint's
		{shop, "z.gate.corp.internal.", TypeA, "NXDOMAIN gate.corp.internal"},
		{shop, "side.apps.corp.internal.", TypeA, "1 300 0a090101"}, // the zone's wildcard is not the endpoint's concern

		{pay, "ad.corp.internal.", TypeA, "FORWARD 1"}, // a rule that is more specific than the zone
		{pay, "x.ad.corp.internal.", TypeA, "FORWARD 1"},
		{pay, "x.deep.example.org.", TypeA, "FORWARD 0"},
		{pay, "x.example.org.", TypeA, "FORWARD -1"},
		{shop, "x.example.org.", TypeA, "FORWARD 0"}, // none of its forwarders may be asked, and no other is
		{shop, "x.deep.example.org.", TypeA, "FORWARD 1"},
		{shop, "api.example.org.", TypeA, "10.0.1.23"}, // private, whatever the rule
		{shop, "elsewhere.test.", TypeA, "NXDOMAIN "},
	} {
		if got := brief(z.Lookup(c.vpc, c.name, c.qtype)); got != c.want {
			t.Errorf("vpc %d %s %d: %s, want %s", c.vpc, c.name, c.qtype, got, c.want)
		}
	}
	if r := z.Rules(shop); len(r) != 4 || len(r[0].Forwarders) != 0 || r[0].ID != "rslvr-rr-1" || len(r[1].Forwarders) != 1 {
		t.Errorf("rules of the shop: %+v", r)
	}
	if !z.Private(pay, "x.corp.internal") || z.Private(pay, "x.ad.corp.internal") {
		t.Error("what is private: not the zone without what a rule sends elsewhere")
	}
}

func TestHostedZonesLeaveOut(t *testing.T) {
	set := func(name, kind string, values ...string) Set {
		return Set{Name: name, Type: kind, TTL: 1, Values: values}
	}
	for name, c := range map[string]struct {
		zone Hosted
		want string
	}{
		"name elsewhere":      {Hosted{Domain: "a.x", Sets: []Set{set("b.x", "A", "10.0.0.1")}}, "no name in the domain"},
		"no value":            {Hosted{Domain: "a.x", Sets: []Set{set("b.a.x", "A")}}, "no record"},
		"bad value":           {Hosted{Domain: "a.x", Sets: []Set{set("b.a.x", "A", "x")}}, "not an address"},
		"type":                {Hosted{Domain: "a.x", Sets: []Set{set("b.a.x", "NS", "x")}}, "not known"},
		"twice":               {Hosted{Domain: "a.x", Sets: []Set{set("b.a.x", "A", "10.0.0.1"), set("B.a.x", "A", "10.0.0.2")}}, "twice"},
		"alias beside":        {Hosted{Domain: "a.x", Sets: []Set{set("b.a.x", "A", "10.0.0.1"), set("b.a.x", "CNAME", "x")}}, "alias"},
		"beside an alias":     {Hosted{Domain: "a.x", Sets: []Set{set("b.a.x", "CNAME", "x"), set("b.a.x", "A", "10.0.0.1")}}, "alias"},
		"alias of the domain": {Hosted{Domain: "a.x", Sets: []Set{set("a.x", "CNAME", "x")}}, "alias"},
		"two aliases":         {Hosted{Domain: "a.x", Sets: []Set{set("b.a.x", "CNAME", "x", "y")}}, "alias"},
		"wild domain":         {Hosted{Domain: "*.x"}, "no wildcard"},
		"reserved domain":     {Hosted{Domain: "localhost"}, "reserved"},
	} {
		c.zone.ID = "zone-1"
		vpcs := testVPCs()
		vpcs[0].Hosted = []*Hosted{&c.zone}
		if _, err := New(nil, vpcs, Reach{}); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line with %q", name, err, c.want)
		}
	}
	vpcs := testVPCs()
	vpcs[0].Hosted = []*Hosted{{ID: "zone-2", Domain: "a.x"}, {ID: "zone-1", Domain: "a.x", Sets: []Set{set("a.x", "A", "10.0.0.1")}}}
	z, err := New(names(pay, "vpce-1", "*.a.x", "10.0.1.1"), vpcs, Reach{})
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("two zones and a name for one domain: %v, want two problems", err)
	}
	if got := brief(z.Lookup(pay, "a.x", TypeA)); got != "1 1 0a000001" {
		t.Errorf("of two zones for one domain %s answers, want the first by id", got)
	}
}

func TestFirewall(t *testing.T) {
	vpcs := testVPCs()
	vpcs[0].Firewall = []FirewallRule{
		{ID: "1", Action: Alert, Domains: []string{"watch.evil.test"}},
		{ID: "2", Action: Allow, Domains: []string{"*.good.evil.test"}},
		{ID: "3", Action: Block, Domains: []string{"*.evil.test", "evil.test"}, Response: BlockNXDomain},
		{ID: "4", Action: Block, Domains: []string{"*.good.evil.test", "_x.test"}, Response: BlockOverride, Override: "Hole.test.", TTL: 5},
	}
	vpcs[0].QueryLog = true
	vpcs[1].Firewall = []FirewallRule{{ID: "a", Domains: []string{"ok.test"}}, {ID: "b", Action: Block, Domains: []string{"*"}}}
	z, err := New(testNames(), vpcs, Reach{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		vpc  uint32
		name string
		want string
	}{
		{pay, "evil.test.", "BLOCK 3 NXDOMAIN"}, {pay, "x.y.EVIL.test", "BLOCK 3 NXDOMAIN"}, {pay, "watch.evil.test", "ALERT 1 NODATA"},
		{pay, "x.watch.evil.test", "BLOCK 3 NXDOMAIN"}, {pay, "a.good.evil.test", "ALLOW 2 NODATA"}, {pay, "good.evil.test", "BLOCK 3 NXDOMAIN"},
		{pay, "_x.test", "BLOCK 4 OVERRIDE hole.test 5"}, {pay, "notevil.test", "ALLOW  NODATA"}, {pay, ".", "ALLOW  NODATA"},
		{pay, `x\.evil.test`, "ALLOW  NODATA"},
		{shop, "ok.test", "ALLOW a NODATA"}, {shop, "x.ok.test", "BLOCK b NODATA"}, {shop, "localhost", "BLOCK b NODATA"},
		{barren, "evil.test", "ALLOW  NODATA"}, {absent, "evil.test", "ALLOW  NODATA"},
	} {
		v := z.Firewall(c.vpc, c.name)
		got := fmt.Sprintf("%s %s %s", v.Action, v.Rule, v.Response)
		if v.Override != "" {
			got += fmt.Sprintf(" %s %d", v.Override, v.TTL)
		}
		if got != c.want {
			t.Errorf("vpc %d %s: %s, want %s", c.vpc, c.name, got, c.want)
		}
	}
	if !z.QueryLog(pay) || z.QueryLog(shop) || z.QueryLog(absent) {
		t.Error("query log is on in another VPC than asked for")
	}
}

// A firewall that many VPCs have is built once; a longer slice with the same beginning is another.
func TestFirewallIsShared(t *testing.T) {
	rules := []FirewallRule{{ID: "1", Domains: []string{"ok.test"}}, {ID: "2", Action: Block, Domains: []string{"*"}, Response: BlockFailure}}
	var vpcs []VPC
	for i := range uint32(4) {
		v := VPC{Number: i + 1, CIDR: netip.MustParsePrefix("10.0.0.0/16"), Firewall: rules}
		if i == 3 {
			v.Firewall = rules[:1]
		}
		vpcs = append(vpcs, v)
	}
	z, err := New(nil, vpcs, Reach{})
	if err != nil {
		t.Fatal(err)
	}
	if first := z.vpcs[1].firewall; z.vpcs[2].firewall != first || z.vpcs[3].firewall != first || z.vpcs[4].firewall == first {
		t.Error("the firewall was built for each VPC anew, or one for all")
	}
	if v := z.Firewall(3, "x.test"); v.Action != Block || v.Response.String() != "SERVFAIL" {
		t.Errorf("%+v", v)
	}
	if v := z.Firewall(4, "x.test"); v.Action != Allow {
		t.Errorf("%+v", v)
	}
}

// A zone that many VPCs have is built once, and its size does not make a question dearer.
func TestHostedZoneIsShared(t *testing.T) {
	h := &Hosted{ID: "zone-1", Domain: "big.test"}
	for i := range 1000 {
		h.Sets = append(h.Sets, Set{Name: fmt.Sprintf("n%d.big.test", i), Type: "A", TTL: 1, Values: []string{"10.0.0.1"}})
	}
	vpcs := make([]VPC, 100)
	for i := range vpcs {
		vpcs[i] = VPC{Number: uint32(i + 1), CIDR: netip.MustParsePrefix("10.0.0.0/16"), Hosted: []*Hosted{h}}
	}
	z, err := New(nil, vpcs, Reach{})
	if err != nil {
		t.Fatal(err)
	}
	first := z.vpcs[1].domains["big.test"].hosted
	if slices.ContainsFunc(vpcs, func(v VPC) bool { return z.vpcs[v.Number].domains["big.test"].hosted != first }) {
		t.Error("the zone was built for each VPC anew")
	}
	if n := testing.AllocsPerRun(100, func() { z.Lookup(7, "n500.big.test", TypeA) }); n > 0 {
		t.Errorf("a question takes %v allocations", n)
	}
}
