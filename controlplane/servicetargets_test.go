package controlplane

import (
	"fmt"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
)

// What is behind a service, and what each target learns of clients: what the service asks for, or the load balancer's address with
// the reason; to nobody but the owner.
func TestServiceTargets(t *testing.T) {
	l := mesh(t, nil)
	pay := l.as("pay")
	six := must(pay.CreateENI(l.ctx(), api.CreateENIRequest{Subnet: "pay-a", Name: "six", Node: "host-b", IPAddressType: api.DualStack}))(t)
	must(pay.RegisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "six", Port: 9443}}))(t)
	must(pay.CreateTargetGroup(l.ctx(), api.CreateTargetGroupRequest{VPC: "pay", Name: "datagrams", Protocol: api.UDP, Port: 53,
		Targets: []api.TargetRequest{{ENI: "six"}}}))(t)
	must(pay.CreateListener(l.ctx(), "ledger", api.ListenerRequest{Protocol: api.UDP, Port: 53, TargetGroup: "datagrams"}))(t)
	const balancer, header, client = api.IdentityLoadBalancer, api.IdentityProxyProtocol, api.IdentityClientAddress
	four := find1(l.s.Resources().ENIs, "ledger")
	for asked, want := range map[api.ClientIdentity]map[string]api.ClientIdentity{
		balancer: {"ledger 443 443": balancer, "six 443 9443": balancer, "six 53 53": balancer},
		header:   {"ledger 443 443": header, "six 443 9443": header, "six 53 53": balancer},
		client:   {"ledger 443 443": balancer, "six 443 9443": client, "six 53 53": client},
	} {
		must(pay.ModifyService(l.ctx(), "ledger", api.ModifyServiceRequest{ClientIdentity: &asked}))(t)
		got := must(pay.ServiceTargets(l.ctx(), "ledger"))(t)
		if got.ClientIdentity != asked || len(got.Targets) != len(want) {
			t.Fatalf("%s: %+v", asked, got)
		}
		for _, x := range got.Targets {
			key := fmt.Sprintf("%s %d %d", x.ENIName, x.ListenerPort, x.Port)
			if x.Sees != want[key] || (x.Reason == "") != (x.Sees == asked) {
				t.Errorf("%s: %s sees %s because %q, want %s", asked, key, x.Sees, x.Reason, want[key])
			}
			if x.ENI == four.ID && (x.IPAddressType != api.IPv4Only || asked == client && !strings.Contains(x.Reason, "--ip-address-type")) {
				t.Errorf("%s: %+v", asked, x)
			}
		}
	}
	must(pay.DeregisterTargets(l.ctx(), "ledger", []api.TargetRequest{{ENI: "six", Port: 9443}}))(t)
	drains := 0
	for _, x := range must(pay.ServiceTargets(l.ctx(), "ledger"))(t).Targets {
		if x.Draining && x.ENI == six.ID && x.Port == 9443 {
			drains++
		}
	}
	if drains != 1 {
		t.Errorf("%d draining targets, want 1", drains)
	}
	if _, err := l.as("shop").ServiceTargets(l.ctx(), "ledger"); err == nil {
		t.Error("a consumer is told of targets")
	}
}
