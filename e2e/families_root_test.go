package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/dev"
)

// families are workloads of all address types, and a service of one target that has IPv6 only, at 8080, and one that has IPv4
// only, at 8081.
type families struct {
	*world
	t    *testing.T
	enis map[string]*api.ENI
}

func (f families) undo(what string, remove func(context.Context) error) { undo(f.t, what, remove) }

func gone[T any](_ *T, err error) error { return err }

func (f families) workload(account, name, host string, kind api.IPAddressType) {
	c, ctx := f.as(account), f.t.Context()
	e, err := c.CreateENI(ctx, api.CreateENIRequest{Subnet: account, Name: name, Node: host, IPAddressType: kind})
	if err != nil {
		f.t.Fatal(err)
	}
	f.enis[name] = e
	f.undo(name, func(ctx context.Context) error { return gone(c.DeleteENI(ctx, e.ID)) })
	if _, err := f.lab.AddWorkload(ctx, c, dev.Workload{Name: wl(name), Host: host, ENI: e.ID}); err != nil {
		f.t.Fatal(err)
	}
	f.undo(wl(name), func(ctx context.Context) error { return f.lab.DeleteWorkload(ctx, wl(name)) })
}

// offer makes the service and shop's endpoint for it. Rules are for one family each.
func (f families) offer() {
	pay, shop, ctx := f.as("pay"), f.as("shop"), f.t.Context()
	check := func(err error) {
		f.t.Helper()
		if err != nil {
			f.t.Fatal(err)
		}
	}
	all := []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("::/0")}
	for _, cidr := range all {
		g, err := pay.AuthorizeIngress(ctx, "default", []api.RuleRequest{{Protocol: api.TCP, FromPort: 8080, ToPort: 8081, CIDR: cidr}})
		check(err)
		rule := g.Ingress[len(g.Ingress)-1].ID
		f.undo("rule", func(ctx context.Context) error { return gone(pay.RevokeRule(ctx, "default", rule)) })
	}
	lb, err := pay.CreateLoadBalancer(ctx, api.CreateLoadBalancerRequest{Name: "six", Subnets: []string{"pay"}})
	check(err)
	f.undo("load balancer", func(ctx context.Context) error { return gone(pay.DeleteLoadBalancer(ctx, lb.ID)) })
	for port, target := range map[uint16]string{8080: "far", 8081: "books"} {
		tg, err := pay.CreateTargetGroup(ctx, api.CreateTargetGroupRequest{VPC: "pay", Name: fmt.Sprint("six-", port), Protocol: api.TCP,
			Port: port, Targets: []api.TargetRequest{{ENI: target}}})
		check(err)
		l, err := pay.CreateListener(ctx, lb.ID, api.ListenerRequest{Protocol: api.TCP, Port: port, TargetGroup: tg.ID})
		check(err)
		f.undo("listener", func(ctx context.Context) error {
			listener := l.Listeners[len(l.Listeners)-1].ID
			return errors.Join(gone(pay.DeleteListener(ctx, lb.ID, listener)), gone(pay.DeleteTargetGroup(ctx, tg.ID)))
		})
	}
	s, err := pay.CreateService(ctx, api.CreateServiceRequest{Name: "six", LoadBalancers: []string{lb.ID}, AllowedPrincipals: []string{"shop"},
		PrivateDNSName: "six.pay.internal"})
	check(err)
	f.undo("service", func(ctx context.Context) error { return gone(pay.DeleteService(ctx, s.ID)) })
	e, err := shop.CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "shop", Name: "six", Service: "pay/six", PrivateDNSEnabled: true,
		IPAddressType: api.DualStack})
	check(err)
	f.undo("endpoint", func(ctx context.Context) error { return gone(shop.DeleteEndpoint(ctx, e.ID)) })
	check(f.converge(ctx))
}

// Workloads with IPv6, with IPv4 and with both reach each other in every family that both have, and a service in whichever the
// consumer has, whatever the target speaks.
func TestFamilies(t *testing.T) {
	f := families{mesh(t), t, map[string]*api.ENI{}}
	f.workload("shop", "both", "host-a", api.DualStack)
	f.workload("shop", "lone", "host-b", api.IPv6Only)
	f.workload("pay", "far", "host-b", api.IPv6Only)
	f.offer()
	f.start(t, "lone", "socat", "TCP6-LISTEN:8080,fork,reuseaddr", "EXEC:/bin/cat")
	f.start(t, "far", "socat", "TCP6-LISTEN:8080,fork,reuseaddr", "EXEC:/bin/cat")
	f.start(t, "books", "socat", "TCP4-LISTEN:8081,fork,reuseaddr", "EXEC:/bin/cat")

	lone := f.enis["lone"].IPv6Address.String()
	eventually(t, 10*time.Second, "a ping", func() error {
		out, err := f.run(t, "both", "ping", "-6", "-c", "1", "-W", seconds(2), lone)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	file, sum := copyFile(t, filepath.Join(f.dir, "families"), 1<<20)
	for _, c := range []struct{ from, to, why string }{
		{"both", "TCP6:[" + lone + "]:8080", "within a VPC"},
		{"both", "TCP6:six.pay.internal:8080", "IPv6 to IPv6"},
		{"both", "TCP4:six.pay.internal:8081", "IPv4 to IPv4"},
		{"both", "TCP4:six.pay.internal:8080", "IPv4 to IPv6"},
		{"both", "TCP6:six.pay.internal:8081", "IPv6 to IPv4"},
		{"lone", "TCP6:six.pay.internal:8080", "IPv6 to IPv6 on one node, by the resolver's IPv6 address"},
		{"lone", "TCP6:six.pay.internal:8081", "IPv6 to IPv4 on one node"},
		{"cart", "TCP4:six.pay.internal:8080", "IPv4 to IPv6, of a workload without IPv6"},
	} {
		eventually(t, 10*time.Second, c.why, func() error {
			out, err := f.run(t, c.from, "sh", "-c", "echo ready | socat -t "+seconds(2)+" - "+c.to+",connect-timeout="+seconds(2))
			if err == nil && strings.TrimSpace(out) != "ready" || err != nil {
				return fmt.Errorf("answer %q, %w", out, err)
			}
			return nil
		})
		got := strings.Fields(f.must(t, c.from, "sh", "-c", "socat -t "+patient(20)+" - "+c.to+" <"+file+" | sha256sum"))
		if len(got) == 0 || got[0] != sum {
			t.Errorf("%s: the sum of what came back is %v, of what went %s", c.why, got, sum)
		}
	}
	f.names()
	f.records()
}

// names: an endpoint answers with its families, and one without IPv6 has no AAAA.
func (f families) names() {
	for name, want := range map[string]bool{"six.pay.internal": true, "ledger.pay.internal": false} {
		out, err := f.run(f.t, "lone", "getent", "ahostsv6", name)
		if has := err == nil && strings.Contains(out, "fd"); has != want {
			f.t.Errorf("%s asked for IPv6: %q, %v", name, out, err)
		}
	}
}

// records: both sides' flow records name the addresses that each of them saw.
func (f families) records() {
	six := func(name string) string { return f.enis[name].IPv6Address.String() }
	for account, want := range map[string]func(r *api.FlowRecord) bool{
		"shop": func(r *api.FlowRecord) bool { return r.Tuple.SrcAddr == six("lone") && r.Tuple.DstPort == 8081 },
		// The target that speaks IPv4 has an IPv4 client: the load balancer.
		"pay": func(r *api.FlowRecord) bool {
			a, err := netip.ParseAddr(r.Translated.SrcAddr)
			return err == nil && a.Is4() && r.Translated.DstAddr == "10.0.1.7" && r.Translated.DstPort == 8081
		},
	} {
		eventually(f.t, 30*time.Second, "a record for "+account, func() error {
			var all []string
			found := false
			err := f.as(account).Flows(f.t.Context(), api.FlowQuery{}, func(e api.FlowEnvelope) error {
				var r api.FlowRecord
				err := json.Unmarshal(e.Record, &r)
				found = found || want(&r)
				all = append(all, fmt.Sprintf("%+v %+v", r.Tuple, r.Translated))
				return err
			})
			if err == nil && !found {
				all = slices.DeleteFunc(all, func(s string) bool { return !strings.Contains(s, "808") })
				err = fmt.Errorf("none of %s", strings.Join(all, "\n"))
			}
			return err
		})
	}
}
