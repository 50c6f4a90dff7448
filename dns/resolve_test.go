package dns

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/culvert-net/culvert/dns/zone"
)

// corp is a hosted zone with every kind of record and alias.
func corp() *zone.Hosted {
	h := &zone.Hosted{ID: "Z1", Domain: "corp.internal"}
	add := func(name, kind string, values ...string) {
		h.Sets = append(h.Sets, zone.Set{Name: name + ".corp.internal", Type: kind, TTL: 20, Values: values})
	}
	add("web", "A", "10.9.0.1")
	add("web", "AAAA", "2001:db8::1")
	add("one", "CNAME", "two.corp.internal")
	add("two", "CNAME", "web.corp.internal")
	add("gone", "CNAME", "absent.corp.internal")
	add("ledger", "CNAME", "ledger.pay.internal")
	add("out", "CNAME", "Example.com")
	add("back", "CNAME", "alias.example.com") // whose alias leads to a private name again
	add("x", "CNAME", "y.corp.internal")
	add("y", "CNAME", "x.corp.internal")
	add("self", "CNAME", "self.corp.internal")
	for i := range maxAliases {
		add(fmt.Sprint("c", i), "CNAME", fmt.Sprintf("c%d.corp.internal", i+1))
	}
	add(fmt.Sprint("c", maxAliases), "A", "10.9.0.2")
	add("_sip._tcp", "SRV", "1 2 5060 web.corp.internal")
	add("mail", "MX", "10 web.corp.internal")
	add("ca", "CAA", `0 issue "ca.example.com"`)
	add("svc", "HTTPS", "1 . alpn=h2")
	add("text", "TXT", strings.Repeat("t", 300), "short")
	add("middle", "TXT", strings.Repeat("m", 700))
	add("long", "TXT", strings.Repeat("u", 2000))
	add("xn--bcher-kva", "A", "10.9.0.3")
	return h
}

// corpZone gives both VPCs the zone, and pay forwarders, rules and firewall.
func corpZone(t testing.TB, firewall ...zone.FirewallRule) *zone.Zone {
	t.Helper()
	names, vpcs := testRows("192.0.2.1")
	for i := range vpcs {
		vpcs[i].Hosted = []*zone.Hosted{corp()}
		vpcs[i].Firewall = firewall
	}
	vpcs[1].Rules = []zone.Rule{
		{ID: "rule-ad", Domain: "ad.example.net", Forwarders: []string{"192.0.2.2"}, Plain: true},
		{ID: "rule-none", Domain: "nobody.example.net"},
	}
	z, err := zone.New(names, vpcs, documentation)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

const corpSOA = " 10 IN SOA corp.internal. nobody.invalid. 1 3600 600 86400 10"

func TestHostedRecords(t *testing.T) {
	r := start(t, Config{}, corpZone(t))
	alias := func(from, to string) string { return from + ".corp.internal. 20 IN CNAME " + to + "\n" }
	var chain string
	for i := range maxAliases {
		chain += alias(fmt.Sprint("c", i), fmt.Sprintf("c%d.corp.internal.", i+1))
	}
	for _, c := range []struct {
		name, kind, want string
	}{
		{"web", "A", "NOERROR aa\nweb.corp.internal. 20 IN A 10.9.0.1"},
		{"web", "AAAA", "NOERROR aa\nweb.corp.internal. 20 IN AAAA 2001:db8::1"},
		{"web", "MX", "NOERROR aa\n; corp.internal." + corpSOA},
		{"absent", "A", "NXDOMAIN aa\n; corp.internal." + corpSOA},
		{"web", "ANY", "NOERROR aa\nweb.corp.internal. 60 IN HINFO \"RFC8482\" \"\""},
		{"one", "ANY", "NOERROR aa\n" + strings.TrimSuffix(alias("one", "two.corp.internal."), "\n")},
		{"_sip._tcp", "SRV", "NOERROR aa\n_sip._tcp.corp.internal. 20 IN SRV 1 2 5060 web.corp.internal."},
		{"mail", "MX", "NOERROR aa\nmail.corp.internal. 20 IN MX 10 web.corp.internal."},
		{"ca", "CAA", "NOERROR aa\nca.corp.internal. 20 IN CAA 0 issue \"ca.example.com\""},
		{"svc", "HTTPS", "NOERROR aa\nsvc.corp.internal. 20 IN HTTPS 1 . alpn=\"h2\""},
		{"one", "A", "NOERROR aa\n" + alias("one", "two.corp.internal.") + alias("two", "web.corp.internal.") +
			"web.corp.internal. 20 IN A 10.9.0.1"},
		{"one", "CNAME", "NOERROR aa\none.corp.internal. 20 IN CNAME two.corp.internal."},
		{"one", "TXT", "NOERROR aa\n" + alias("one", "two.corp.internal.") + alias("two", "web.corp.internal.") + "; corp.internal." + corpSOA},
		{"gone", "A", "NXDOMAIN aa\n" + alias("gone", "absent.corp.internal.") + "; corp.internal." + corpSOA},
		{"ledger", "A", "NOERROR aa\n" + alias("ledger", "ledger.pay.internal.") + "ledger.pay.internal. 60 IN A 10.0.1.9"},
		{"out", "A", "NXDOMAIN aa\n" + alias("out", "example.com.") + "; . 10 IN SOA . nobody.invalid. 1 3600 600 86400 10"},
		{"c0", "A", "NOERROR aa\n" + chain + "c16.corp.internal. 20 IN A 10.9.0.2"},
		{"x", "A", "SERVFAIL"},
		{"self", "AAAA", "SERVFAIL"},
		// A name of other letters is asked for in its ASCII form, in any case; the letters themselves are another name.
		{"XN--bcher-KVA", "A", "NOERROR aa\nXN--bcher-KVA.corp.internal. 20 IN A 10.9.0.3"},
		{"b\\195\\188cher", "A", "NXDOMAIN aa\n; corp.internal." + corpSOA},
	} {
		for _, network := range []string{"udp", "tcp"} {
			query := withOPT(ask(c.name+".corp.internal.", miekg.StringToType[c.kind]), 1232, false)
			got := strings.TrimSuffix(show(r.exchange(t, network, query)), "\nopt 1232 do=false")
			if got != c.want {
				t.Errorf("%s %s over %s:\n got %s\nwant %s", c.name, c.kind, network, got, c.want)
			}
		}
	}
	// The longest chain fits into what a client takes that says nothing of sizes.
	if got := r.exchange(t, "udp", ask("c0.corp.internal.", miekg.TypeA)); got.Truncated || len(got.Answer) != maxAliases+1 {
		t.Errorf("a chain of %d aliases without EDNS: %d records, truncated %v", maxAliases, len(got.Answer), got.Truncated)
	}
	// One text is 300 bytes long, in two strings; a longer one goes by TCP.
	got := r.exchange(t, "udp", withOPT(ask("text.corp.internal.", miekg.TypeTXT), 1232, false))
	var lengths []int
	for _, rr := range got.Answer {
		for _, s := range rr.(*miekg.TXT).Txt {
			lengths = append(lengths, len(s))
		}
	}
	if got := fmt.Sprint(lengths); got != "[255 45 5]" && got != "[5 255 45]" {
		t.Errorf("text of 300 and 5 bytes comes as %v", lengths)
	}
	for size, whole := range map[uint16]bool{0: false, 512: false, 900: true, 4096: true} {
		m := ask("middle.corp.internal.", miekg.TypeTXT)
		if size > 0 {
			m.SetEdns0(size, false)
		}
		if got := r.exchange(t, "udp", m); got.Truncated == whole || (len(got.Answer) == 1) != whole {
			t.Errorf("700 bytes over UDP to who takes %d: %d records, truncated %v", size, len(got.Answer), got.Truncated)
		}
	}
	long := withOPT(ask("long.corp.internal.", miekg.TypeTXT), 4096, false)
	if got := r.exchange(t, "udp", long); !got.Truncated || len(got.Answer) != 0 {
		t.Errorf("2000 bytes over UDP: %d records, truncated %v", len(got.Answer), got.Truncated)
	}
	if got := r.exchange(t, "tcp", long); len(got.Answer) != 1 || len(strings.Join(got.Answer[0].(*miekg.TXT).Txt, "")) != 2000 {
		t.Errorf("over TCP: %v", got.Answer)
	}
}

// adServer is what a rule's domain is asked of.
func adServer(w miekg.ResponseWriter, q *miekg.Msg) {
	name := q.Question[0].Name
	switch strings.ToLower(name) {
	case "dc.ad.example.net.":
		reply(w, q, miekg.RcodeSuccess, name+" 50 IN A 192.0.2.80")
	case "away.ad.example.net.": // what it says of names elsewhere is not believed
		reply(w, q, miekg.RcodeSuccess, name+" 50 IN CNAME example.com.", "example.com. 50 IN A 192.0.2.66")
	case "loop.ad.example.net.":
		reply(w, q, miekg.RcodeSuccess, name+" 50 IN CNAME loop.corp.internal.")
	default:
		reply(w, q, miekg.RcodeNameError, "; ad.example.net. 50 IN SOA a. b. 1 2 3 4 50")
	}
}

// Rules, the VPC's own forwarders and private names are each asked for their names only, wherever aliases lead.
func TestRoutes(t *testing.T) {
	public, ad := newUpstream(t, example), newUpstream(t, adServer)
	r := startPay(t, corpZone(t), Config{Dial: reach(public, ad)})
	for range 2 { // the second time from the cache
		for _, c := range []struct {
			name, want string
		}{
			{"dc.ad.example.net.", "NOERROR ra\ndc.ad.example.net. 50 IN A 192.0.2.80"},
			{"none.ad.example.net.", "NXDOMAIN ra\n; ad.example.net. 50 IN SOA a. b. 1 2 3 4 50"},
			{"example.net.", "NXDOMAIN ra\n; com. 900 IN SOA a. b. 1 2 3 4 600"},
			{"x.nobody.example.net.", "SERVFAIL ra"},
			{"away.ad.example.net.", "NOERROR ra\naway.ad.example.net. 50 IN CNAME example.com.\nexample.com. 300 IN A 203.0.113.1"},
			{"out.corp.internal.", "NOERROR ra\nout.corp.internal. 20 IN CNAME example.com.\nexample.com. 300 IN A 203.0.113.1"},
			{"back.corp.internal.", "NOERROR ra\nback.corp.internal. 20 IN CNAME alias.example.com.\n" +
				"alias.example.com. 300 IN CNAME ledger.pay.internal.\nledger.pay.internal. 60 IN A 10.0.5.5"},
			{"loop.ad.example.net.", "NXDOMAIN ra\nloop.ad.example.net. 50 IN CNAME loop.corp.internal.\n; corp.internal." + corpSOA},
		} {
			got := r.exchange(t, "udp", ask(c.name, miekg.TypeA))
			if show(got) != c.want {
				t.Errorf("%s:\n got %s\nwant %s", c.name, show(got), c.want)
			}
		}
	}
	want := map[string]bool{"udp dc.ad.example.net. A": true, "udp none.ad.example.net. A": true, "udp away.ad.example.net. A": true,
		"udp loop.ad.example.net. A": true}
	for _, q := range ad.seen() {
		if !want[q] {
			t.Errorf("the rule's forwarder was asked %s", q)
		}
		delete(want, q) // once each
	}
	for _, q := range public.seen() {
		if strings.Contains(q, "ad.example.net") || strings.Contains(q, "internal") || strings.Contains(q, "nobody") {
			t.Errorf("the VPC's forwarder was asked %s", q)
		}
	}
	if n := len(public.seen()); n != 3 { // example.net, example.com, alias.example.com
		t.Errorf("the VPC's forwarder was asked %d times: %v", n, public.seen())
	}
	log := r.logged()
	if log[0].Rule != "rule-ad" || log[2].Rule != "" || log[0].CacheHit || !log[8].CacheHit || !log[12].CacheHit {
		t.Errorf("log: %+v", log)
	}
	noRecursion := ask("out.corp.internal.", miekg.TypeA)
	noRecursion.RecursionDesired = false
	if got := show(r.exchange(t, "udp", noRecursion)); got != "NOERROR aa ra\nout.corp.internal. 20 IN CNAME example.com." {
		t.Errorf("without recursion: %s", got)
	}
}

// Forwarders that send a question round and round get it a bounded number of times.
func TestAliasesAreBounded(t *testing.T) {
	n := 0
	endless := newUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		n++
		to := "a"
		if n%2 == 1 {
			to = "ad"
		}
		reply(w, q, miekg.RcodeSuccess, fmt.Sprintf("%s 50 IN CNAME n%d.%s.example.net.", q.Question[0].Name, n, to))
	})
	circle := newUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		reply(w, q, miekg.RcodeSuccess, "x.ad.example.net. 50 IN CNAME y.ad.example.net.", "y.ad.example.net. 50 IN CNAME x.ad.example.net.")
	})
	r := startPay(t, corpZone(t), Config{Dial: reach(endless, endless)})
	if got := show(r.exchange(t, "udp", ask("n0.a.example.net.", miekg.TypeA))); got != "SERVFAIL ra" {
		t.Errorf("without end: %s", got)
	}
	if n := len(endless.seen()); n > maxAliases+1 || n < maxAliases {
		t.Errorf("asked %d times", n)
	}
	r = startPay(t, corpZone(t), Config{Dial: reach(endless, circle)})
	if got := show(r.exchange(t, "udp", ask("x.ad.example.net.", miekg.TypeA))); got != "SERVFAIL ra" {
		t.Errorf("a circle: %s", got)
	}
}

func TestQueryFirewall(t *testing.T) {
	rules := []zone.FirewallRule{
		{ID: "watch", Action: zone.Alert, Domains: []string{"web.corp.internal"}},
		{ID: "fine", Action: zone.Allow, Domains: []string{"dc.ad.example.net"}},
		{ID: "gone", Action: zone.Block, Domains: []string{"*.example.net"}, Response: zone.BlockNXDomain},
		{ID: "empty", Action: zone.Block, Domains: []string{"example.com", "localhost"}},
		{ID: "else", Action: zone.Block, Domains: []string{"c1.corp.internal", "two.corp.internal"}, Response: zone.BlockOverride,
			Override: "web.corp.internal", TTL: 7},
		{ID: "away", Action: zone.Block, Domains: []string{"ledger.corp.internal"}, Response: zone.BlockOverride,
			Override: "dc.ad.example.net", TTL: 7},
		{ID: "quoted", Action: zone.Block, Domains: []string{"quoted.test"}, Response: zone.BlockOverride, Override: `"web".corp.internal`, TTL: 7},
		{ID: "circle", Action: zone.Block, Domains: []string{"circle.test"}, Response: zone.BlockOverride, Override: "circle.test", TTL: 7},
	}
	public, ad := newUpstream(t, example), newUpstream(t, adServer)
	r := startPay(t, corpZone(t, rules...), Config{Dial: reach(public, ad)})
	const rootSOA = "; . 10 IN SOA . nobody.invalid. 1 3600 600 86400 10"
	for _, c := range []struct {
		name, kind, want, rule string
		action                 zone.Action
	}{
		{"web.corp.internal.", "A", "NOERROR aa ra\nweb.corp.internal. 20 IN A 10.9.0.1", "watch", zone.Alert},
		{"dc.ad.example.net.", "A", "NOERROR ra\ndc.ad.example.net. 50 IN A 192.0.2.80", "fine", zone.Allow},
		{"x.Example.NET.", "A", "NXDOMAIN ra\n" + rootSOA, "gone", zone.Block},
		{"example.com.", "MX", "NOERROR ra\n" + rootSOA, "empty", zone.Block},
		{"localhost.", "A", "NOERROR ra\n" + rootSOA, "empty", zone.Block},
		{"c1.corp.internal.", "A", "NOERROR ra\nc1.corp.internal. 7 IN CNAME web.corp.internal.\nweb.corp.internal. 20 IN A 10.9.0.1",
			"else", zone.Block},
		{"c1.corp.internal.", "CNAME", "NOERROR ra\nc1.corp.internal. 7 IN CNAME web.corp.internal.", "else", zone.Block},
		{"one.corp.internal.", "AAAA", "NOERROR ra\none.corp.internal. 7 IN CNAME web.corp.internal.\nweb.corp.internal. 20 IN AAAA 2001:db8::1",
			"else", zone.Block}, // its alias is blocked
		{"out.corp.internal.", "A", "NOERROR ra\n" + rootSOA, "empty", zone.Block},   // likewise, and nobody is asked
		{"away.ad.example.net.", "A", "NXDOMAIN ra\n" + rootSOA, "gone", zone.Block}, // before it is asked
		{"ledger.corp.internal.", "A", "NOERROR ra\nledger.corp.internal. 7 IN CNAME dc.ad.example.net.\n" +
			"dc.ad.example.net. 50 IN A 192.0.2.80", "away", zone.Block},
		{"circle.test.", "A", "NXDOMAIN ra\ncircle.test. 7 IN CNAME circle.test.\n; com. 900 IN SOA a. b. 1 2 3 4 600", "circle", zone.Block},
		{"quoted.test.", "A", "NOERROR ra\nquoted.test. 7 IN CNAME web.corp.internal.\nweb.corp.internal. 20 IN A 10.9.0.1", "quoted", zone.Block},
		{"back.corp.internal.", "A", "NOERROR ra\nback.corp.internal. 20 IN CNAME alias.example.com.\n" +
			"alias.example.com. 300 IN CNAME ledger.pay.internal.\nledger.pay.internal. 60 IN A 10.0.5.5", "", zone.Allow},
	} {
		if got := show(r.exchange(t, "udp", ask(c.name, miekg.StringToType[c.kind]))); got != c.want {
			t.Errorf("%s %s:\n got %s\nwant %s", c.name, c.kind, got, c.want)
		}
		log := r.logged()
		if q := log[len(log)-1]; q.FirewallRule != c.rule || q.Firewall != c.action {
			t.Errorf("%s %s is logged as %v by %q, want %v by %q", c.name, c.kind, q.Firewall, q.FirewallRule, c.action, c.rule)
		}
	}
	for _, q := range append(public.seen(), ad.seen()...) {
		if strings.Contains(q, "x.example.net") || strings.Contains(q, " example.com") || strings.Contains(q, "away") {
			t.Errorf("a blocked name left the node: %s", q)
		}
	}
}

// Where the rules are not known nothing is answered, whoever would. What the firewall does is counted.
func TestQueryFirewallFailsClosed(t *testing.T) {
	public := newUpstream(t, example)
	rules := []zone.FirewallRule{{ID: "watch", Action: zone.Alert, Domains: []string{"web.corp.internal"}},
		{ID: "unknown", Action: zone.Block, Domains: []string{"*"}, Response: zone.BlockFailure}}
	r := startPay(t, corpZone(t, rules...), Config{Dial: reach(public)})
	for _, c := range [][2]string{
		{"ledger.corp.internal.", "SERVFAIL ra"}, {"example.com.", "SERVFAIL ra"},
		{"one.corp.internal.", "SERVFAIL ra"}, // it is judged before its alias is
		{"web.corp.internal.", "NOERROR aa ra\nweb.corp.internal. 20 IN A 10.9.0.1"},
	} {
		if got := show(r.exchange(t, "udp", ask(c[0], miekg.TypeA))); got != c[1] {
			t.Errorf("%s:\n got %s\nwant %s", c[0], got, c[1])
		}
	}
	if s := r.Stats(); s.Blocked != 3 || s.Alerted != 1 || len(public.seen()) != 0 {
		t.Errorf("%+v, a forwarder was asked %v", s, public.seen())
	}
}

// What a forwarder's alias leads to is judged too.
func TestQueryFirewallJudgesForwardedAliases(t *testing.T) {
	public := newUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		reply(w, q, miekg.RcodeSuccess, q.Question[0].Name+" 300 IN CNAME tracker.test.", "tracker.test. 300 IN A 203.0.113.6")
	})
	rule := zone.FirewallRule{ID: "trackers", Action: zone.Block, Domains: []string{"tracker.test"}, Response: zone.BlockNXDomain}
	r := startPay(t, corpZone(t, rule), Config{Dial: reach(public)})
	for range 2 {
		got := show(r.exchange(t, "udp", ask("harmless.test.", miekg.TypeA)))
		if !strings.HasPrefix(got, "NXDOMAIN ra\n; . 10") || strings.Contains(got, "203.0.113.6") {
			t.Errorf("%s", got)
		}
	}
}

// The cache has the alias and not what the firewall leads to instead: what the attempt without forwarders came to does not let the
// one with them pass.
func TestQueryFirewallJudgesEachAttempt(t *testing.T) {
	public := newUpstream(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		name := q.Question[0].Name
		if strings.EqualFold(name, "hole.test.") {
			reply(w, q, miekg.RcodeSuccess, name+" 0 IN A 192.0.2.99") // is never kept
			return
		}
		reply(w, q, miekg.RcodeSuccess, name+" 300 IN CNAME tracker.test.", "tracker.test. 300 IN A 203.0.113.6")
	})
	rule := zone.FirewallRule{ID: "trackers", Action: zone.Block, Domains: []string{"tracker.test"}, Response: zone.BlockOverride,
		Override: "hole.test", TTL: 7}
	r := startPay(t, corpZone(t, rule), Config{Dial: reach(public)})
	for i := range 3 {
		got := show(r.exchange(t, "udp", ask("harmless.test.", miekg.TypeA)))
		if got != "NOERROR ra\nharmless.test. 7 IN CNAME hole.test.\nhole.test. 0 IN A 192.0.2.99" {
			t.Errorf("question %d: %s", i, got)
		}
		if q := r.logged()[i]; q.FirewallRule != "trackers" || q.Firewall != zone.Block {
			t.Errorf("question %d is logged as %v by %q", i, q.Firewall, q.FirewallRule)
		}
	}
}

// Without a query log what BLOCK and ALERT decided is recorded all the same, with its answer, and nothing else.
func TestFirewallDecisionsAreRecorded(t *testing.T) {
	names, vpcs := testRows("192.0.2.1")
	vpcs[1].QueryLog, vpcs[1].Hosted = false, []*zone.Hosted{corp()}
	vpcs[1].Firewall = []zone.FirewallRule{
		{ID: "fine", Action: zone.Allow, Domains: []string{"nothing.corp.internal"}},
		{ID: "watch", Action: zone.Alert, Domains: []string{"web.corp.internal"}},
		{ID: "gone", Action: zone.Block, Domains: []string{"*.test"}, Response: zone.BlockNXDomain},
	}
	z, err := zone.New(names, vpcs, documentation)
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, Config{}, z)
	r.is(pay)
	for _, name := range []string{"nothing.corp.internal.", "ledger.pay.internal.", "web.corp.internal.", "x.test."} {
		r.exchange(t, "udp", ask(name, miekg.TypeA))
	}
	var got []string
	for _, q := range r.logged() {
		got = append(got, fmt.Sprint(q.Name, " ", q.FirewallRule, " ", q.Firewall, " ", q.Decided, " ", q.RCODE, " ", q.Addresses))
	}
	want := []string{"web.corp.internal. watch ALERT true 0 [10.9.0.1]", "x.test. gone BLOCK true 3 []"}
	if !slices.Equal(got, want) {
		t.Errorf("recorded %q, want %q", got, want)
	}
}

// A VPC that asks for no log has none; what is logged has the addresses that flows may go to.
func TestQueryLogOfAVPC(t *testing.T) {
	names, vpcs := testRows("192.0.2.1")
	vpcs[0].QueryLog = false
	vpcs[1].Hosted = []*zone.Hosted{corp()}
	z, err := zone.New(names, vpcs, documentation)
	if err != nil {
		t.Fatal(err)
	}
	public := newUpstream(t, example)
	r := start(t, Config{Dial: reach(public)}, z)
	r.exchange(t, "udp", ask("ledger.pay.internal.", miekg.TypeA))
	r.is(pay)
	for range 2 {
		r.exchange(t, "udp", ask("out.corp.internal.", miekg.TypeA))
	}
	r.exchange(t, "udp", ask("one.corp.internal.", miekg.TypeAAAA))
	got := r.logged()
	for i := range got {
		got[i].Time, got[i].Duration = time.Time{}, 0
	}
	out := Query{VPC: pay, Client: clientAddr, Name: "out.corp.internal.", Type: miekg.TypeA, Answers: 2,
		Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.1")}, TTL: 300, Class: miekg.ClassINET, Forwarded: true,
		Upstream: "192.0.2.1:53"}
	again := out
	again.CacheHit = true
	one := Query{VPC: pay, Client: clientAddr, Name: "one.corp.internal.", Type: miekg.TypeAAAA, Answers: 3, Hosted: "Z1",
		Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::1")}, TTL: 20, Class: miekg.ClassINET}
	if want := []Query{out, again, one}; !reflect.DeepEqual(got, want) {
		t.Errorf("logged\n%+v\nwant\n%+v", got, want)
	}
}
