package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// standing is a service of one target, with a private name that others have too, and shop's endpoint for it.
type standing struct {
	*world
	port    uint16 // of the target
	address string // of the endpoint
}

func (w *world) standing(t *testing.T, service, name string, port, priority uint16) standing {
	t.Helper()
	pay, ctx := w.as("pay"), t.Context()
	second := uint32(1)
	tg, err := pay.CreateTargetGroup(ctx, api.CreateTargetGroupRequest{VPC: "pay", Name: service, Protocol: api.TCP, Port: port,
		Targets:            []api.TargetRequest{{ENI: "books"}},
		GroupHealthRequest: api.GroupHealthRequest{HealthCheck: &api.HealthCheckRequest{IntervalSeconds: &second, TimeoutSeconds: &second}}})
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "target group", func(ctx context.Context) error { return gone(pay.DeleteTargetGroup(ctx, tg.ID)) })
	lb, err := pay.CreateLoadBalancer(ctx, api.CreateLoadBalancerRequest{Name: service, Subnets: []string{"pay"},
		Listeners: []api.ListenerRequest{{Protocol: api.TCP, Port: 443, TargetGroup: tg.ID}}})
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "load balancer", func(ctx context.Context) error { return gone(pay.DeleteLoadBalancer(ctx, lb.ID)) })
	s, err := pay.CreateService(ctx, api.CreateServiceRequest{Name: service, LoadBalancers: []string{lb.ID}, AllowedPrincipals: []string{"shop"},
		PrivateDNSName: name})
	if err != nil {
		t.Fatal(err)
	}
	undo(t, "service", func(ctx context.Context) error { return gone(pay.DeleteService(ctx, s.ID)) })
	_, address := w.endpoint(t, "shop", "", api.CreateEndpointRequest{Name: service, Service: "pay/" + service, PrivateDNSEnabled: true,
		PrivateDNSPriority: priority})
	return standing{w, port, address}
}

func (s standing) backend(t *testing.T) *exec.Cmd {
	t.Helper()
	return s.start(t, "books", "socat", fmt.Sprintf("TCP4-LISTEN:%d,fork,reuseaddr", s.port), "EXEC:/bin/cat")
}

// A name that two endpoints have goes to the one that stands by when nothing behind the first works, and comes back when something
// does: while a workload asks for it and holds a connection no query fails, and the connection lives.
func TestNameGoesToWhatIsWell(t *testing.T) {
	w := mesh(t)
	const name = "standing.pay.internal"
	pay := w.as("pay")
	g, err := pay.AuthorizeIngress(t.Context(), "default", []api.RuleRequest{{Protocol: api.TCP, FromPort: 8451, ToPort: 8452,
		CIDR: netip.MustParsePrefix("10.0.0.0/16")}})
	if err != nil {
		t.Fatal(err)
	}
	rule := g.Ingress[len(g.Ingress)-1].ID
	undo(t, "rule", func(ctx context.Context) error { return gone(pay.RevokeRule(ctx, "default", rule)) })
	first, next := w.standing(t, "standing-first", name, 8451, 50), w.standing(t, "standing-next", name, 8452, 200)
	if err := w.converge(t.Context()); err != nil {
		t.Fatal(err)
	}
	leads := func(what, to string) {
		t.Helper()
		began := time.Now()
		eventually(t, 15*time.Second, what, func() error {
			if got := w.addresses(t, "cart", name)[name]; !slices.Equal(got, []string{to}) {
				return fmt.Errorf("the name answers %v, want %s", got, to)
			}
			return nil
		})
		t.Logf("n=1: %s: in names after %s", what, time.Since(began).Round(time.Millisecond))
	}
	next.backend(t)
	leads("only what stands by works", next.address)
	cart := w.asker(t, "cart", name, "443")
	backend := first.backend(t)
	leads("the first works", first.address)
	if err := backend.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	leads("it does not any more", next.address)
	if cart.held != next.address {
		t.Errorf("cart is connected to %s, want %s", cart.held, next.address)
	}
	cart.finish(t, "cart", first.address, next.address)
}
