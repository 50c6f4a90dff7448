package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// lookupVariable makes this program print the addresses of the name that it holds, as Go's own resolver finds them.
const lookupVariable = "CULVERT_LOOKUP"

// lookUpAndLeave is for programs written in Go. It returns false unless it is asked for.
func lookUpAndLeave() (code int, asked bool) {
	name := os.Getenv(lookupVariable)
	if name == "" {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), slack*10*time.Second)
	defer cancel()
	resolver := net.Resolver{PreferGo: true, StrictErrors: true}
	list, err := resolver.LookupHost(ctx, name)
	if err != nil {
		fmt.Println(err)
		return 1, true
	}
	fmt.Println(strings.Join(list, "\n"))
	return 0, true
}

// muslLookup builds testdata/lookup.c with the C library musl, as programs in Alpine's images are.
func muslLookup(t *testing.T) string {
	t.Helper()
	one := func(pattern string) string {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("no %s: run scripts/setup", pattern)
		}
		return found[0]
	}
	lib := filepath.Dir(one("/usr/lib/*-linux-musl/libc.a"))
	program := filepath.Join(t.TempDir(), "lookup")
	out, err := exec.Command("tcc", "-static", "-nostdinc", "-nostdlib", "-I", one("/usr/include/*-linux-musl"), "-I", one("/usr/lib/*/tcc/include"),
		"-o", program, lib+"/crt1.o", lib+"/crti.o", "testdata/lookup.c", lib+"/libc.a", lib+"/crtn.o").CombinedOutput()
	if err != nil {
		t.Fatalf("tcc: %v\n%s", err, out)
	}
	return program
}

// Programs find private names by the resolver of their own library, and the tools that people ask with see what RFCs promise: all
// of it while the server is dead, since answers come from the node.
func TestNamesForRealClients(t *testing.T) {
	w := mesh(t)
	vip := w.endpointAddress(t, "ledger")
	ep, err := w.as("shop").GetEndpoint(t.Context(), "ledger")
	if err != nil {
		t.Fatal(err)
	}
	musl, self := muslLookup(t), os.Args[0]
	base := w.namesOfItsOwn(t)
	several := w.severalNames(t)
	began, again := time.Now(), w.withoutServer(t)
	const absent = "nothing.ledger.pay.internal"
	// Of a chain the library asks for the begin only: the node follows it, sixteen aliases far.
	for library, lookup := range map[string][]string{
		"glibc": {"getent", "ahostsv4"}, "glibc, both families": {"getent", "ahosts"}, "musl": {musl},
		"Go": {"sh", "-c", lookupVariable + `="$0" ` + self},
	} {
		for _, name := range []string{"ledger.pay.internal", "LEDGER.Pay.Internal.", ep.DNSNames[0]} {
			out := w.must(t, "cart", append(slices.Clone(lookup), name)...)
			if got := strings.Fields(out); len(got) == 0 || got[0] != vip {
				t.Errorf("%s finds %q for %s, want %s", library, out, name, vip)
			}
		}
		for _, name := range []string{absent, "circle.corp.internal", "self.corp.internal", "chain-0.corp.internal", "two.many.pay.internal.corp.internal"} {
			if out, err := w.run(t, "cart", append(slices.Clone(lookup), name)...); err == nil {
				t.Errorf("%s finds %q for %s, which leads nowhere", library, out, name)
			}
		}
		for name, want := range map[string]string{"ok.corp.internal": "10.0.1.10", "www.corp.internal": "10.0.1.9", // a later group blocks both
			"chain-1.corp.internal": "10.0.1.13", "many.pay.internal": several, "any.many.pay.internal": several, "a.b.many.pay.internal": several,
			"more.pay.internal": several} {
			if got := strings.Fields(w.must(t, "cart", append(slices.Clone(lookup), name)...)); len(got) == 0 || got[0] != want {
				t.Errorf("%s finds %q for %s, want %s", library, got, name, want)
			}
		}
		if out, err := w.run(t, "cart", append(slices.Clone(lookup), "no.corp.internal")...); err == nil {
			t.Errorf("%s finds %q for a name that is blocked", library, out)
		}
	}
	w.digs(t, vip)
	w.pipelined(t)
	again()
	w.firewallsOfItsOwn(t, base, began)
}

// firewallsOfItsOwn: what ALERT let pass while the server was dead comes to it, by the rule that decided; a list that is changed in place
// changes every group's rules that name it.
func (w *world) firewallsOfItsOwn(t *testing.T, base *api.FirewallRuleGroup, began time.Time) {
	t.Helper()
	shop, ctx := w.as("shop"), t.Context()
	eventually(t, 90*time.Second, "what was alerted is recorded", func() error {
		seen := 0
		err := shop.Queries(ctx, api.QueriesQuery{QueryFilter: api.QueryFilter{VPC: "shop", Since: began, FirewallAction: api.FirewallAlert}},
			func(r *api.QueryRecord) error {
				if r.Name != "www.corp.internal." || r.FirewallRule != base.ID+"/2" || r.Client != "10.0.1.5" {
					return fmt.Errorf("another one: %+v", r)
				}
				seen++
				return nil
			})
		if err == nil && seen == 0 {
			err = errors.New("nothing is")
		}
		return err
	})
	eventually(t, 30*time.Second, "what was blocked is recorded", func() error { return w.blockedOfItsOwn(ctx, began) })
	if _, err := shop.ChangeFirewallDomains(ctx, "closed", api.ChangeFirewallDomainsRequest{Operation: api.DomainsRemove,
		Domains: []string{"no.corp.internal"}}); err != nil {
		t.Fatal(err)
	}
	w.applied(t, "cart", "no.corp.internal", "10.0.1.11")
}

func (w *world) blockedOfItsOwn(ctx context.Context, began time.Time) error {
	blocked := map[string]bool{}
	err := w.as("shop").Queries(ctx, api.QueriesQuery{QueryFilter: api.QueryFilter{VPC: "shop", Since: began, FirewallAction: api.FirewallBlock}},
		func(r *api.QueryRecord) error {
			blocked[r.Name] = true
			return nil
		})
	if err == nil && (!blocked["no.corp.internal."] || blocked["www.corp.internal."] || blocked["ok.corp.internal."]) {
		err = fmt.Errorf("blocked were %v", blocked)
	}
	return err
}

// severalNames is the address of an endpoint for a service with three private names, one of them a wildcard.
func (w *world) severalNames(t *testing.T) string {
	t.Helper()
	pay, ctx := w.as("pay"), t.Context()
	lb, err := pay.GetLoadBalancer(ctx, "ledger")
	if err != nil {
		t.Fatal(err)
	}
	s, err := pay.CreateService(ctx, api.CreateServiceRequest{Name: "many", LoadBalancers: []string{lb.ID}, AllowedPrincipals: []string{"shop"},
		PrivateDNSNames: []string{"many.pay.internal", "*.many.pay.internal", "more.pay.internal"}})
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "service", func(ctx context.Context) error { return gone(pay.DeleteService(ctx, s.ID)) })
	_, address := w.endpoint(t, "shop", "", api.CreateEndpointRequest{Name: "many", Service: "pay/many", PrivateDNSEnabled: true})
	if err := w.converge(ctx); err != nil {
		t.Fatal(err)
	}
	return address
}

// aliases are a chain that ends after seventeen, which is one too many from its begin, and two circles.
func aliases() (sets []api.RecordSetRequest) {
	alias := func(from, to string) {
		sets = append(sets, api.RecordSetRequest{Name: from + ".corp.internal", Type: "CNAME", Values: []string{to + ".corp.internal"}})
	}
	const n = 17
	for i := range n {
		alias(fmt.Sprint("chain-", i), fmt.Sprint("chain-", i+1))
	}
	alias("circle", "round")
	alias("round", "circle")
	alias("self", "self")
	return append(sets, api.RecordSetRequest{Name: fmt.Sprintf("chain-%d.corp.internal", n), Type: "A", Values: []string{"10.0.1.13"}})
}

// namesOfItsOwn gives the shop a hosted zone, a resolver rule and two firewall rule groups with a list each, until the test ends. It
// returns the group that goes first, which allows and watches names that the other one blocks.
func (w *world) namesOfItsOwn(t *testing.T) *api.FirewallRuleGroup {
	t.Helper()
	shop, vpc := w.as("shop"), []string{"shop"}
	zone, err := shop.CreateHostedZone(t.Context(), api.CreateHostedZoneRequest{Domain: "corp.internal", VPCs: vpc})
	if err != nil {
		t.Fatal(err)
	}
	rule, err := shop.CreateResolverRule(t.Context(), api.CreateResolverRuleRequest{Domain: "elsewhere.test", VPCs: vpc,
		Forwarders: []string{"10.254.0.53"}, PlainForwarders: true})
	if err != nil {
		t.Fatal(err)
	}
	wall, err := shop.CreateFirewallRuleGroup(t.Context(), api.CreateFirewallRuleGroupRequest{Name: "shop", VPCs: vpc})
	if err != nil {
		t.Fatal(err)
	}
	first := uint32(10)
	base, err := shop.CreateFirewallRuleGroup(t.Context(), api.CreateFirewallRuleGroupRequest{Name: "base", VPCs: vpc, Priority: &first})
	if err != nil {
		t.Fatal(err)
	}
	lists := map[string][]string{"watched": {"www.corp.internal"}, "closed": {"no.corp.internal", "ok.corp.internal", "www.corp.internal"}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), slack*60*time.Second*slowness())
		defer cancel()
		_, err1 := shop.DeleteHostedZone(ctx, zone.ID)
		_, err2 := shop.DeleteResolverRule(ctx, rule.ID)
		_, err3 := shop.DeleteFirewallRuleGroup(ctx, wall.ID)
		_, err4 := shop.DeleteFirewallRuleGroup(ctx, base.ID)
		for name := range lists {
			_, err := shop.DeleteFirewallDomainList(ctx, name)
			err4 = errors.Join(err4, err)
		}
		if err := errors.Join(err1, err2, err3, err4, w.converge(ctx)); err != nil {
			t.Errorf("put back: %v", err)
		}
	})
	for name, domains := range lists {
		if _, err := shop.CreateFirewallDomainList(t.Context(), api.CreateFirewallDomainListRequest{Name: name, Domains: domains}); err != nil {
			t.Fatal(err)
		}
	}
	_, err1 := shop.ChangeRecords(t.Context(), zone.ID, api.ChangeRecordsRequest{Put: append(aliases(), []api.RecordSetRequest{
		{Name: "www.corp.internal", Type: "A", Values: []string{"10.0.1.9"}},
		{Name: "ok.corp.internal", Type: "A", Values: []string{"10.0.1.10"}},
		{Name: "no.corp.internal", Type: "A", Values: []string{"10.0.1.11"}},
		{Name: "xn--bcher-kva.corp.internal", Type: "A", Values: []string{"10.0.1.12"}},
		{Name: "middle.corp.internal", Type: "TXT", Values: []string{strings.Repeat("m", 700)}}}...)})
	_, err2 := shop.ChangeFirewallRules(t.Context(), wall.ID, api.ChangeFirewallRulesRequest{Put: []api.FirewallRule{
		{Priority: 1, Action: api.FirewallBlock, Domains: []string{"ads.test"}, BlockResponse: api.BlockOverride,
			BlockOverrideDomain: "ledger.pay.internal", BlockOverrideTTLSeconds: 60},
		{Priority: 2, Action: api.FirewallBlock, Domains: []string{"*.blocked.test"}, BlockResponse: api.BlockNXDomain},
		{Priority: 3, Action: api.FirewallBlock, DomainList: "closed", BlockResponse: api.BlockNoData}}})
	_, err3 := shop.ChangeFirewallRules(t.Context(), base.ID, api.ChangeFirewallRulesRequest{Put: []api.FirewallRule{
		{Priority: 1, Action: api.FirewallAllow, Domains: []string{"ok.corp.internal"}},
		{Priority: 2, Action: api.FirewallAlert, DomainList: "watched"}}})
	if err := errors.Join(err1, err2, err3, w.converge(t.Context())); err != nil {
		t.Fatal(err)
	}
	return base
}

// pipelined has dnsperf put many questions over two TCP connections, fifty before the first answer, fewer than a workload may ask in a second.
func (w *world) pipelined(t *testing.T) {
	t.Helper()
	const n = 400
	file := filepath.Join(t.TempDir(), "questions")
	if err := os.WriteFile(file, []byte(strings.Repeat("ledger.pay.internal A\nwww.corp.internal A\n", n/2)), 0o644); err != nil {
		t.Fatal(err)
	}
	out := w.must(t, "cart", "dnsperf", "-m", "tcp", "-s", "169.254.169.253", "-d", file, "-n", "1", "-c", "2", "-q", "50", "-t", patient(20))
	for _, want := range []string{fmt.Sprintf("Queries completed: %d (100.00%%)", n), fmt.Sprintf("Response codes: NOERROR %d (100.00%%)", n)} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			t.Errorf("dnsperf over TCP, without %q:\n%s", want, out)
		}
	}
}

// digs asks with dig and delv; each line is what to ask and what must be in what they print.
func (w *world) digs(t *testing.T, vip string) {
	const soa = "SOA\tledger.pay.internal. nobody.invalid."
	for _, c := range []struct {
		ask  string
		want []string
	}{
		{"dig +short ledger.pay.internal", []string{vip}},
		{"dig +short +tcp @169.254.169.253 ledger.pay.internal", []string{vip}},
		{"dig +noedns ledger.pay.internal", []string{"status: NOERROR", "flags: qr aa rd", "\tA\t" + vip}},
		{"dig +bufsize=4096 +dnssec ledger.pay.internal", []string{"EDNS: version: 0, flags: do; udp: 1232", "\tA\t" + vip}},
		{"dig ledger.pay.internal AAAA", []string{"status: NOERROR", "ANSWER: 0, AUTHORITY: 1", soa}},
		{"dig nothing.ledger.pay.internal", []string{"status: NXDOMAIN", "ANSWER: 0, AUTHORITY: 1", soa}},
		{"dig +edns=1 +noednsnegotiation ledger.pay.internal", []string{"status: BADVERS"}},
		{"dig ledger.pay.internal ANY", []string{"HINFO\t\"RFC8482\""}},
		{"dig ledger.pay.internal AXFR", []string{"Transfer failed"}},
		{"dig +tcp ledger.pay.internal IXFR=1", []string{"Transfer failed"}},
		{"dig version.bind CH TXT", []string{"status: REFUSED"}},
		{"dig +opcode=status ledger.pay.internal", []string{"status: NOTIMP"}},
		{"dig +header-only ledger.pay.internal", []string{"status: FORMERR"}},
		{"dig -x " + vip, []string{"PTR\tledger.pay.internal."}},
		{"dig +tcp +keepopen +short ledger.pay.internal ledger.pay.internal AAAA ledger.pay.internal A", []string{vip + "\n" + vip}},
		{"dig +short www.corp.internal", []string{"10.0.1.9"}},
		{"dig none.corp.internal", []string{"status: NXDOMAIN", "\t10\tIN\tSOA\tcorp.internal."}}, // the negative TTL
		{"dig chain-1.corp.internal", []string{"status: NOERROR", "ANSWER: 17,", "chain-17.corp.internal.", "\tA\t10.0.1.13"}},
		{"dig chain-0.corp.internal", []string{"status: SERVFAIL", "ANSWER: 0"}},
		{"dig circle.corp.internal", []string{"status: SERVFAIL", "ANSWER: 0"}},
		{"dig self.corp.internal AAAA", []string{"status: SERVFAIL", "ANSWER: 0"}},
		{"dig many.pay.internal ANY", []string{"HINFO\t\"RFC8482\""}},
		{"delv -i any.many.pay.internal", []string{"any.many.pay.internal."}},
		{"dig no.corp.internal", []string{"status: NOERROR", "ANSWER: 0, AUTHORITY: 1"}},
		{"env LC_ALL=C.UTF-8 dig +idnin b\u00fccher.corp.internal", []string{"xn--bcher-kva.corp.internal.", "\tA\t10.0.1.12"}},
		{"env LC_ALL=C.UTF-8 dig +noidnin b\u00fccher.corp.internal", []string{"status: NXDOMAIN", "SOA\tcorp.internal."}},
		{"env LC_ALL=C.UTF-8 getent ahostsv4 b\u00fccher.corp.internal", []string{"10.0.1.12 "}},
		{"dig +noedns +ignore middle.corp.internal TXT", []string{"flags: qr aa tc rd", "ANSWER: 0"}},
		{"dig +noedns middle.corp.internal TXT", []string{"Truncated, retrying in TCP mode", "ANSWER: 1"}},
		{"dig +bufsize=1232 +ignore middle.corp.internal TXT", []string{"flags: qr aa rd", "ANSWER: 1", strings.Repeat("m", 255)}},
		{"dig x.blocked.test", []string{"status: NXDOMAIN", "ANSWER: 0"}},
		{"dig +short ads.test", []string{"ledger.pay.internal.\n" + vip}},
		{"dig x.elsewhere.test", []string{"status: SERVFAIL"}}, // whom the rule names may not be asked, and nobody else is
		{"dig elsewhere.example", []string{"status: NXDOMAIN"}},
		{"delv -i ledger.pay.internal", []string{"ledger.pay.internal.", "\tA\t" + vip}},
		{"delv -i ledger.pay.internal TXT", []string{"negative response", "SOA ledger.pay.internal. nobody.invalid."}},
	} {
		out, err := w.run(t, "cart", strings.Fields(c.ask)...)
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: %v, without %q:\n%s", c.ask, err, want, out)
			}
		}
	}
}
