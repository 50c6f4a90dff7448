package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/dev"
)

// record is one of a hosted zone, and what dig prints for it.
type record struct{ name, kind, value, printed string }

var corpRecords = []record{
	{"corp.internal", "MX", "10 mail.corp.internal", "10 mail.corp.internal."},
	{"corp.internal", "TXT", `"v=spf1 -all"`, `"v=spf1 -all"`},
	{"corp.internal", "CAA", `0 issue "ca.example.com"`, `0 issue "ca.example.com"`},
	{"www.corp.internal", "A", "10.0.1.5", "10.0.1.5"},
	{"www.corp.internal", "A", "10.0.1.6", "10.0.1.6"},
	{"www.corp.internal", "AAAA", "2001:db8::5", "2001:db8::5"},
	{"_sip._tcp.corp.internal", "SRV", "10 5 5060 www.corp.internal", "10 5 5060 www.corp.internal."},
	{"svc.corp.internal", "HTTPS", "1 . alpn=h2,h3 port=8443", `1 . alpn="h2,h3" port=8443`},
	{"_dns.corp.internal", "SVCB", "1 www.corp.internal port=853", "1 www.corp.internal. port=853"},
	{"alias.corp.internal", "CNAME", "www.corp.internal", "www.corp.internal."},
	{"money.corp.internal", "CNAME", "ledger.pay.internal", "ledger.pay.internal."},
	{"www.eu.corp.internal", "A", "10.0.1.66", "10.0.1.66"},
	{"*.dev.corp.internal", "A", "10.0.1.9", "10.0.1.9"},
	// More than a datagram takes.
	{"long.corp.internal", "TXT", strings.Repeat("x", 2000), strings.Repeat(`"`+strings.Repeat("x", 255)+`" `, 7) + `"` + strings.Repeat("x", 215) + `"`},
}

// hostedZone makes a zone of an account's for its own VPC, with records, while the test runs.
func (w *world) hostedZone(t *testing.T, account, domain string, records ...record) *api.HostedZone {
	t.Helper()
	c, ctx := w.as(account), t.Context()
	z, err := c.CreateHostedZone(ctx, api.CreateHostedZoneRequest{Domain: domain})
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "hosted zone", func(ctx context.Context) error { return gone(c.DeleteHostedZone(ctx, z.ID)) })
	var sets []api.RecordSetRequest
	for _, r := range records {
		i := slices.IndexFunc(sets, func(s api.RecordSetRequest) bool { return s.Name == r.name && s.Type == r.kind })
		if i < 0 {
			i, sets = len(sets), append(sets, api.RecordSetRequest{Name: r.name, Type: r.kind})
		}
		sets[i].Values = append(sets[i].Values, r.value)
	}
	if _, err := c.ChangeRecords(ctx, z.ID, api.ChangeRecordsRequest{Put: sets}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AssociateHostedZone(ctx, z.ID, []string{account}); err != nil {
		t.Fatal(err)
	}
	return z
}

// wrongRecords tells where what dig prints of a zone's records is not that, with a query for each.
func (w *world) wrongRecords(t *testing.T, workload string, records []record) error {
	t.Helper()
	argv, questions := []string{"dig", "+noall", "+answer", "+tries=1", "+time=" + patient(2)}, map[string]bool{}
	var want []string
	for _, r := range records {
		name := strings.Replace(r.name, "*", "any", 1)
		want = append(want, strings.Join([]string{name + ".", "300", "IN", r.kind, r.printed}, " "))
		if q := name + " " + r.kind; !questions[q] {
			questions[q] = true
			argv = append(argv, name, r.kind)
		}
	}
	out, err := w.run(t, workload, argv...)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	var got []string
	for line := range strings.Lines(out) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s gets\n%s\nwant\n%s", workload, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	return nil
}

// corp are two VPCs with a hosted zone of the same domain each, one of them with a second zone for a part of it.
type corp struct {
	*world
	vip string // of the endpoint that a record leads to
}

// check demands what the zones answer: each VPC's its own, and the most specific one.
func (c corp) check(t *testing.T) {
	t.Helper()
	outer := slices.DeleteFunc(slices.Clone(corpRecords), func(r record) bool { return strings.HasSuffix(r.name, ".eu.corp.internal") })
	if err := c.wrongRecords(t, "cart", outer); err != nil {
		t.Error(err)
	}
	c.resolves(t, "cart", "www.eu.corp.internal", "10.0.1.77")
	c.resolves(t, "cart", "nothing.eu.corp.internal")
	c.resolves(t, "visitor", "www.corp.internal", "10.0.1.99")
	c.resolves(t, "visitor", "mail.dev.corp.internal")
	if out := c.must(t, "cart", "getent", "ahostsv4", "money.corp.internal"); !strings.HasPrefix(out, c.vip+" ") {
		t.Errorf("the C library finds %q for an alias of the endpoint %s", out, c.vip)
	}
	for name, want := range map[string]string{
		"nothing.corp.internal": "status: NXDOMAIN", "svc.corp.internal": "status: NOERROR", "dev.corp.internal": "status: NOERROR",
	} {
		out := c.must(t, "cart", "dig", "+tries=1", name)
		if !strings.Contains(out, want) || !strings.Contains(out, "ANSWER: 0, AUTHORITY: 1") || !strings.Contains(out, "SOA\tcorp.internal.") {
			t.Errorf("%s: want %s, no answer and the zone's SOA record:\n%s", name, want, out)
		}
	}
}

// zonal is a service with a target in each of two zones, for which each zone has an address, and shop's endpoint for it.
type zonal struct {
	*world
	a, b  string // the endpoint's addresses in z1 and z2
	names []string
}

const zonalPort = "8443"

func (w *world) zonal(t *testing.T) zonal {
	t.Helper()
	pay, shop, ctx := w.as("pay"), w.as("shop"), t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, account := range []string{"pay", "shop"} {
		c := w.as(account)
		s, err := c.CreateSubnet(ctx, api.CreateSubnetRequest{VPC: account, Name: account + "-z2", Zone: "z2",
			CIDR: netip.MustParsePrefix("10.0.2.0/24")})
		check(err)
		undo(t, "subnet", func(ctx context.Context) error { return gone(c.DeleteSubnet(ctx, s.ID)) })
	}
	n, err := pay.CreateENI(ctx, api.CreateENIRequest{Subnet: "pay-z2", Name: "vault", Node: "host-a"})
	check(err)
	undo(t, "interface", func(ctx context.Context) error { return gone(pay.DeleteENI(ctx, n.ID)) })
	_, err = w.lab.AddWorkload(ctx, pay, dev.Workload{Name: wl("vault"), Host: "host-a", ENI: n.ID})
	check(err)
	undo(t, "vault", func(ctx context.Context) error { return w.lab.DeleteWorkload(ctx, wl("vault")) })
	g, err := pay.AuthorizeIngress(ctx, "default", []api.RuleRequest{{Protocol: api.TCP, FromPort: 8443, ToPort: 8444,
		CIDR: netip.MustParsePrefix("10.0.0.0/16")}})
	check(err)
	rule := g.Ingress[len(g.Ingress)-1].ID
	undo(t, "rule", func(ctx context.Context) error { return gone(pay.RevokeRule(ctx, "default", rule)) })

	// Of four targets two may be found ill within half a minute: all that ever work (decision 0020, velocity).
	second := uint32(1)
	tg, err := pay.CreateTargetGroup(ctx, api.CreateTargetGroupRequest{VPC: "pay", Name: "zonal", Protocol: api.TCP, Port: 8443,
		Targets:            []api.TargetRequest{{ENI: "books"}, {ENI: "books", Port: 8444}, {ENI: "vault"}, {ENI: "vault", Port: 8444}},
		GroupHealthRequest: api.GroupHealthRequest{HealthCheck: &api.HealthCheckRequest{IntervalSeconds: &second, TimeoutSeconds: &second}}})
	check(err)
	undo(t, "target group", func(ctx context.Context) error { return gone(pay.DeleteTargetGroup(ctx, tg.ID)) })
	crossZone := false
	lb, err := pay.CreateLoadBalancer(ctx, api.CreateLoadBalancerRequest{Name: "zonal", Subnets: []string{"pay", "pay-z2"}, CrossZone: &crossZone,
		Listeners: []api.ListenerRequest{{Protocol: api.TCP, Port: 8443, TargetGroup: tg.ID}}})
	check(err)
	undo(t, "load balancer", func(ctx context.Context) error { return gone(pay.DeleteLoadBalancer(ctx, lb.ID)) })
	s, err := pay.CreateService(ctx, api.CreateServiceRequest{Name: "zonal", LoadBalancers: []string{lb.ID}, AllowedPrincipals: []string{"shop"},
		PrivateDNSName: "zonal.pay.internal"})
	check(err)
	undo(t, "service", func(ctx context.Context) error { return gone(pay.DeleteService(ctx, s.ID)) })
	e, a := w.endpoint(t, "shop", "", api.CreateEndpointRequest{Name: "zonal", Service: "pay/zonal", PrivateDNSEnabled: true,
		Subnets: []string{"shop", "shop-z2"}})
	other, err := shop.GetENI(ctx, e.ENIs[1])
	check(err)
	b := other.Address.String()
	if !strings.HasPrefix(a, "10.0.1.") || !strings.HasPrefix(b, "10.0.2.") || len(e.DNSNames) != 6 ||
		!strings.Contains(e.DNSNames[4], "-z1.") || !strings.Contains(e.DNSNames[5], "-z2.") {
		t.Fatalf("an endpoint in two zones has %s, %s and the names %v", a, b, e.DNSNames)
	}
	return zonal{w, a, b, e.DNSNames}
}

// backend serves at the zonal service's port until it is killed.
func (z zonal) backend(t *testing.T, workload string) *exec.Cmd {
	t.Helper()
	return z.start(t, workload, "socat", "TCP4-LISTEN:"+zonalPort+",fork,reuseaddr", "EXEC:/bin/cat")
}

// answer waits until the private name answers with these addresses, and then demands it of both regional names, and of each zonal
// name its own address, ill or not: it has no other. Meanwhile a client tries each address.
func (z zonal) answer(t *testing.T, what string, want ...string) {
	t.Helper()
	began := time.Now()
	eventually(t, 15*time.Second, what, func() error {
		for _, address := range []string{z.a, z.b} {
			_, _ = z.run(t, "cart", "socat", "-u", "/dev/null", "TCP4:"+address+":"+zonalPort+",connect-timeout=1")
		}
		if got := z.addresses(t, "cart", "zonal.pay.internal"); !slices.Equal(got["zonal.pay.internal"], want) {
			return fmt.Errorf("the name answers %v, want %v", got, want)
		}
		return nil
	})
	t.Logf("n=1: %s: in names after %s", what, time.Since(began).Round(time.Millisecond))
	got := z.addresses(t, "cart", z.names...)
	for i, want := range [][]string{want, {z.a}, {z.b}, want, {z.a}, {z.b}} {
		if name := z.names[i]; !slices.Equal(got[name], want) {
			t.Errorf("%s: %s answers %v, want %v", what, name, got[name], want)
		}
	}
}

// withoutServer kills the mesh's server. What it returns starts it again, at the test's end at the latest.
func (w *world) withoutServer(t *testing.T) (again func()) {
	t.Helper()
	if err := w.lab.Kill("server", "server", false); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	again = func() {
		once.Do(func() {
			ctx, cancel := context.WithTimeout(context.Background(), slack*60*time.Second*slowness())
			defer cancel()
			if err := w.lab.Start(ctx, "", ""); err != nil {
				t.Errorf("put back: %v", err)
			}
		})
	}
	t.Cleanup(again)
	return again
}

// Hosted zones and endpoints' names answer each VPC for itself and follow the health of targets, also while the server is dead and
// after an agent has begun anew without it. What is disassociated is gone.
func TestNamesWithoutTheServer(t *testing.T) {
	w := mesh(t)
	z := w.zonal(t)
	kill := func(what string, cmd *exec.Cmd) {
		t.Helper()
		if err := cmd.Process.Kill(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	books := z.backend(t, "books")
	c := corp{w, w.endpointAddress(t, "ledger")}
	outer := w.hostedZone(t, "shop", "corp.internal", corpRecords...)
	inner := w.hostedZone(t, "shop", "eu.corp.internal", record{"www.eu.corp.internal", "A", "10.0.1.77", ""})
	w.hostedZone(t, "stranger", "corp.internal", record{"www.corp.internal", "A", "10.0.1.99", ""})
	if err := w.converge(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.check(t)
	z.answer(t, "a zone whose targets do not work", z.a)

	again := w.withoutServer(t)
	vault := z.backend(t, "vault")
	z.answer(t, "one of them works", z.a, z.b)
	c.check(t)
	kill("vault", vault)
	z.answer(t, "it does not any more", z.a)
	kill("books", books)
	z.answer(t, "no target works", z.a, z.b)
	if err := w.lab.Kill("host-a", "agent", false); err != nil {
		t.Fatal(err)
	}
	if err := w.lab.Start(t.Context(), "host-a", "agent"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "names from disk", func() error { return w.wrongRecords(t, "cart", corpRecords[:1]) })
	c.check(t)
	z.answer(t, "an agent that begins anew", z.a, z.b)

	again()
	shop := w.as("shop")
	if _, err := shop.DisassociateHostedZone(t.Context(), inner.ID, []string{"shop"}); err != nil {
		t.Fatal(err)
	}
	w.applied(t, "cart", "www.eu.corp.internal", "10.0.1.66")
	if _, err := shop.DisassociateHostedZone(t.Context(), outer.ID, []string{"shop"}); err != nil {
		t.Fatal(err)
	}
	w.applied(t, "cart", "www.eu.corp.internal")
	w.resolves(t, "cart", "www.corp.internal")
	w.resolves(t, "visitor", "www.corp.internal", "10.0.1.99")
	if out, err := w.run(t, "cart", "getent", "ahostsv4", "money.corp.internal"); err == nil {
		t.Errorf("a name of a zone that is gone: %s", out)
	}
}
