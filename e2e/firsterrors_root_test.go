package e2e

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// culvert runs a command line as an account sees it, with the agent of host-a, and returns the last line it prints.
func (w *world) culvert(t *testing.T, account string, words ...string) (last string, failed bool) {
	t.Helper()
	access, err := w.lab.Env(t.Context(), account, "host-a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), slack*30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.bin, words...)
	cmd.Env = append(os.Environ(), "CULVERT_SERVER="+access.Server, "CULVERT_CA="+access.CA, "CULVERT_API_KEY="+access.APIKey,
		"CULVERT_AGENT_SOCKET="+access.AgentSocket)
	out, err := cmd.CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1], err != nil
}

// The errors that everybody meets first say in one sentence what to do, and about whose things.
func TestFirstErrors(t *testing.T) {
	w := mesh(t)
	pay, shop := w.as("pay"), w.as("shop")
	// A service without a target, a port that the provider's group does not admit, a full subnet, a second interface that
	// admits nothing.
	lb := must(pay.CreateLoadBalancer(t.Context(), api.CreateLoadBalancerRequest{Name: "empty", Subnets: []string{"pay"}}))(t)
	group := must(pay.CreateTargetGroup(t.Context(), api.CreateTargetGroupRequest{VPC: "pay", Name: "empty", Protocol: api.TCP, Port: 81}))(t)
	closed := must(pay.CreateTargetGroup(t.Context(), api.CreateTargetGroupRequest{VPC: "pay", Name: "closed", Protocol: api.TCP, Port: 82,
		Targets: []api.TargetRequest{{ENI: "books"}}}))(t)
	must(pay.CreateListener(t.Context(), lb.ID, api.ListenerRequest{Protocol: api.TCP, Port: 81, TargetGroup: group.ID}))(t)
	must(pay.CreateListener(t.Context(), lb.ID, api.ListenerRequest{Protocol: api.TCP, Port: 82, TargetGroup: closed.ID}))(t)
	away := must(pay.CreateENI(t.Context(), api.CreateENIRequest{Subnet: "pay", Name: "away", Node: "host-b"}))(t)
	nowhere := must(pay.CreateTargetGroup(t.Context(), api.CreateTargetGroupRequest{VPC: "pay", Name: "nowhere", Protocol: api.TCP, Port: 83,
		Targets: []api.TargetRequest{{ENI: away.ID}}}))(t)
	must(pay.CreateListener(t.Context(), lb.ID, api.ListenerRequest{Protocol: api.TCP, Port: 83, TargetGroup: nowhere.ID}))(t)
	rule := must(pay.AuthorizeIngress(t.Context(), "default", []api.RuleRequest{
		{Protocol: api.TCP, FromPort: 81, ToPort: 81, CIDR: netip.MustParsePrefix("10.0.1.0/24")},
		{Protocol: api.TCP, FromPort: 83, ToPort: 83, CIDR: netip.MustParsePrefix("10.0.1.0/24")}}))(t)
	must(pay.CreateService(t.Context(), api.CreateServiceRequest{Name: "empty", LoadBalancers: []string{lb.ID},
		AllowedPrincipals: []string{"shop"}}))(t)
	own := must(shop.CreateSecurityGroup(t.Context(), api.CreateSecurityGroupRequest{VPC: "shop", Name: "nothing-in"}))(t)
	tiny := must(shop.CreateSubnet(t.Context(), api.CreateSubnetRequest{VPC: "shop", Name: "tiny", Zone: "z1",
		CIDR: netip.MustParsePrefix("10.0.9.0/28")}))(t)
	open := must(shop.CreateEndpoint(t.Context(), api.CreateEndpointRequest{VPC: "shop", Name: "empty", Service: "pay/empty",
		Subnets: []string{"shop"}}))(t)
	shut := must(shop.CreateEndpoint(t.Context(), api.CreateEndpointRequest{VPC: "shop", Name: "shut", Service: "pay/empty",
		Subnets: []string{"shop"}, SecurityGroups: []string{own.ID}}))(t)
	var filler []string
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		must(shop.DeleteEndpoint(ctx, open.ID))(t)
		must(shop.DeleteEndpoint(ctx, shut.ID))(t)
		for _, id := range filler {
			must(shop.DeleteENI(ctx, id))(t)
		}
		must(shop.DeleteSubnet(ctx, tiny.ID))(t)
		must(shop.DeleteSecurityGroup(ctx, own.ID))(t)
		must(pay.DeleteService(ctx, "empty"))(t)
		must(pay.DeleteLoadBalancer(ctx, lb.ID))(t)
		must(pay.DeleteTargetGroup(ctx, group.ID))(t)
		must(pay.DeleteTargetGroup(ctx, closed.ID))(t)
		must(pay.DeleteTargetGroup(ctx, nowhere.ID))(t)
		must(pay.DeleteENI(ctx, away.ID))(t)
		for _, r := range rule.Ingress {
			if r.FromPort == 81 || r.FromPort == 83 {
				must(pay.RevokeRule(ctx, "default", r.ID))(t)
			}
		}
	})
	for range 11 {
		e := must(shop.CreateENI(t.Context(), api.CreateENIRequest{Subnet: tiny.ID, Node: "host-a"}))(t)
		filler = append(filler, e.ID)
	}
	if err := w.converge(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, account string
		words         string
		says          []string
	}{
		{"a service that does not allow the account", "stranger", "endpoint create --vpc stranger --service pay/ledger",
			[]string{"--service", "pay/ledger", "does not exist, or does not allow your account",
				"ask its provider for: culvert service allow ledger "}},
		{"a port that the endpoint's own group does not admit", "shop", "explain --from cart --to " + address(t, w, shut) + ":81",
			[]string{"would be stopped", "the endpoint's security group", "yours, not the provider's"}},
		{"a port that the provider's group does not admit", "shop", "explain --from cart --to " + address(t, w, open) + ":82",
			[]string{"would be stopped", "The provider has to authorize it", "culvert sg authorize"}},
		{"no target", "shop", "explain --from cart --to " + address(t, w, open) + ":81",
			[]string{"would be stopped", "The provider has to register", "target"}},
		{"a target that is nowhere", "shop", "explain --from cart --to " + address(t, w, open) + ":83",
			[]string{"would be stopped", "The provider has to attach one on its node"}},
		{"no address left", "shop", "eni create late --subnet tiny --node host-a",
			[]string{"--subnet", "10.0.9.0/28 has no free address", "use another subnet"}},
		{"a name that is taken", "shop", "endpoint create ledger --vpc shop --service pay/ledger",
			[]string{"NAME", "has the name \"ledger\" already", "Choose another name"}},
		{"a private name that another endpoint answers", "shop", "endpoint create second --vpc shop --service pay/ledger --private-dns",
			[]string{"--private-dns", "answers ledger.pay.internal", "already"}},
	} {
		got, failed := w.culvert(t, c.account, strings.Fields(c.words)...)
		if !failed {
			t.Errorf("%s: it did not fail: %s", c.what, got)
		}
		for _, part := range c.says {
			if !strings.Contains(got, part) {
				t.Errorf("%s: %q lacks %q", c.what, got, part)
			}
		}
		t.Logf("%s:\n  %s", c.what, got)
	}
}

// address is that of an endpoint's first interface.
func address(t *testing.T, w *world, e *api.Endpoint) string {
	t.Helper()
	return must(w.as("shop").GetENI(t.Context(), e.ENIs[0]))(t).Address.String()
}

// must unwraps what has to succeed.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
