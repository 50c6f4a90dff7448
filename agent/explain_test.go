package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
)

// What is sent in a family that the interface does not have is stopped before all else, a name is taken in one that it has, and a
// rule for the other family does not match.
func TestExplainFamilies(t *testing.T) {
	const mesh, vpc = 7, 5
	six := func(a string) netip.Addr { return api.IPv6Address(mesh, vpc, netip.MustParseAddr(a)) }
	other := api.ViewAddress{VPC: vpc, Address: netip.MustParseAddr("10.0.1.6"), Type: api.ENIWorkload, ENI: "eni-2", Number: 12,
		Groups: []string{"sg-1"}}
	for _, c := range []struct {
		own, other api.IPAddressType
		rules6     bool
		to         string
		proto      api.Protocol
		stage      string
		reason     string
	}{
		{api.DualStack, api.DualStack, true, "10.0.1.6", api.TCP, "path", ""},
		{api.DualStack, api.DualStack, true, six("10.0.1.6").String(), api.TCP, "path", ""},
		{api.DualStack, api.DualStack, true, six("10.0.1.6").String(), api.ICMP, "path", ""},
		{api.DualStack, api.DualStack, false, six("10.0.1.6").String(), api.TCP, "egress", "GROUP_EGRESS"},
		{api.DualStack, api.IPv4Only, true, six("10.0.1.6").String(), api.TCP, "destination", "NO_DESTINATION"},
		{api.IPv4Only, api.DualStack, true, six("10.0.1.6").String(), api.TCP, "source", "NOT_IP"},
		{api.IPv6Only, api.DualStack, true, "10.0.1.6", api.TCP, "source", "NOT_IP"},
		{api.IPv6Only, api.DualStack, true, "ledger.pay.internal", api.TCP, "name", "NODATA"},
		{api.DualStack, api.DualStack, true, six("10.0.0.2").String(), api.UDP, "resolver", "HOST_NOT_ADMITTED"},
	} {
		b := newBench(t)
		v := testView(1)
		v.ENIs[0].IPAddressType, v.Addresses[0].IPAddressType = c.own, c.own
		other.IPAddressType = c.other
		v.Addresses = append(v.Addresses, other)
		if c.rules6 {
			all := api.Rule{ID: "sgr-6", Protocol: api.All, CIDR: netip.MustParsePrefix("::/0")}
			v.Groups[0].Ingress = append(slices.Clone(v.Groups[0].Ingress), all)
			v.Groups[0].Egress = append(slices.Clone(v.Groups[0].Egress), all)
		}
		b.hear(v)
		b.attach()
		b.mustRound()
		x, err := b.agent.Explain(t.Context(), local.ExplainRequest{From: eni, To: c.to, Port: 80, Protocol: c.proto})
		if err != nil {
			t.Fatal(err)
		}
		last := x.Stages[len(x.Stages)-1]
		if last.Name != c.stage || last.Reason != c.reason || x.Allowed || last.Remedy == "" {
			t.Errorf("%s to %s %s of %s: %+v", c.own, c.proto, c.to, c.other, x.Stages)
		}
	}
}

// A load balancer is followed inside its VPC: its groups, its listener, its targets; where none is left to it, that is said.
func TestExplainLoadBalancerInside(t *testing.T) {
	const vpc = 5
	all := []api.Rule{{ID: "sgr-all", Protocol: api.All, CIDR: netip.MustParsePrefix("0.0.0.0/0")}}
	at := netip.MustParseAddr("10.0.1.9")
	for _, c := range []struct {
		port     uint16
		rules    []api.Rule
		listener bool
		stage    string
		reason   string
	}{
		{443, all, true, "receiver", ""},
		{443, nil, true, "load-balancer", "LB_GROUP_INGRESS"},
		{80, all, true, "listener", "NO_LISTENER"},
		{443, all, false, "listener", "NO_LISTENER"},
	} {
		b := newBench(t)
		v := testView(1)
		own := v.Addresses[0].Address
		v.Groups[0].Egress = all
		v.Groups = append(v.Groups, api.ViewGroup{ID: "sg-lb", Number: 77, Ingress: c.rules, Egress: all})
		v.Addresses = append(v.Addresses, api.ViewAddress{VPC: vpc, Address: at, Type: api.ENILoadBalancer, ENI: "eni-lb", Number: 13,
			Groups: []string{"sg-lb"}})
		lb := api.ViewEndpoint{ID: "lb-1", Connection: "lb-1", ConnectionNumber: 6, VPC: vpc, ProviderVPC: vpc, Groups: []string{"sg-lb"},
			ENIs: []api.ViewEndpointENI{{ENI: "eni-lb", Number: 13, Address: at, Zone: "z"}}}
		if c.listener {
			lb.Listeners = []api.ViewListenerPool{{Listener: "listener-1", Protocol: api.TCP, Port: 443, IdleTimeoutSeconds: 350,
				TargetGroup: 301, Targets: []api.ViewTarget{{Address: own, Port: 8443, Zone: "z"}},
				TagNumbers: []api.TagNumber{{ENI: "eni-lb", Listener: "listener-1", Number: 9}}}}
		}
		v.LoadBalancers = []api.ViewEndpoint{lb}
		b.hear(v)
		b.attach()
		b.mustRound()
		x, err := b.agent.Explain(t.Context(), local.ExplainRequest{From: eni, To: at.String(), Port: c.port, Protocol: api.TCP})
		if err != nil {
			t.Fatal(err)
		}
		last := x.Stages[len(x.Stages)-1]
		if last.Name != c.stage || last.Reason != c.reason || x.Allowed != (c.reason == "") || !last.OK && last.Remedy == "" {
			t.Errorf("port %d, %d rules: %+v", c.port, len(c.rules), x.Stages)
		}
	}
}

// A name is followed as the resolver does: through the query firewall, aliases of hosted zones and private names, to an address or to
// the forwarders that are asked.
func TestExplainNames(t *testing.T) {
	const vpc = 5
	for _, c := range []struct {
		to, stage, reason string
		words             []string // in the stages' details
		address           string
	}{
		{"www.corp.internal", "path", "", []string{"hosted zone hz-1"}, "10.0.1.6"},
		{"WWW.corp.internal.", "path", "", []string{"hosted zone hz-1"}, "10.0.1.6"},
		{"alias.corp.internal", "path", "", []string{"alias of www.corp.internal", "hosted zone hz-1"}, "10.0.1.6"},
		{"money.corp.internal", "destination", "NO_DESTINATION", []string{"alias of ledger.pay.internal", "of endpoint vpce-1"}, "10.0.1.200"},
		{"loop.corp.internal", "name", "SERVFAIL", []string{"alias of loop.corp.internal"}, ""},
		{"nothing.corp.internal", "name", "NXDOMAIN", []string{"hosted zone hz-1"}, ""},
		{"six.corp.internal", "name", "NODATA", []string{"no address of a family"}, ""},
		{"text.corp.internal", "name", "NODATA", []string{"hosted zone hz-1"}, ""},
		{"bad.example", "firewall", "NXDOMAIN", []string{"rslvr-frg-1/10"}, ""},
		{"moved.example", "path", "", []string{"BLOCK by rule rslvr-frg-1/20", "leads to www.corp.internal"}, "10.0.1.6"},
		{"seen.example", "name", "FORWARDED", []string{"ALERT by rule rslvr-frg-1/30", "the VPC's forwarders", "tls://9.9.9.9:853"}, ""},
		{"x.far.example", "name", "FORWARDED", []string{"resolver rule rslvr-rr-1 (far.example)", "tls://149.112.112.112:853"}, ""},
		{"x.unreachable.example", "name", "SERVFAIL", []string{"resolver rule rslvr-rr-2"}, ""},
		{"elsewhere.test", "name", "FORWARDED", []string{"the VPC's forwarders"}, ""},
	} {
		b := newBench(t)
		v := testView(1)
		v.Addresses = append(v.Addresses, api.ViewAddress{VPC: vpc, Address: netip.MustParseAddr("10.0.1.6"), Type: api.ENIWorkload, ENI: "eni-2",
			Number: 12, Groups: []string{"sg-1"}})
		v.VPCs[0].Forwarders = []string{"tls://9.9.9.9"}
		set := func(name, kind string, values ...string) api.RecordSet {
			return api.RecordSet{Name: name + ".corp.internal", Type: kind, TTLSeconds: 60, Values: values}
		}
		v.HostedZones = []api.ViewHostedZone{{ID: "hz-1", Account: "1", Domain: "corp.internal", VPCs: []uint32{vpc}, RecordSets: []api.RecordSet{
			set("alias", "CNAME", "www.corp.internal"), set("loop", "CNAME", "loop.corp.internal"), set("money", "CNAME", "ledger.pay.internal"),
			set("six", "AAAA", "2001:db8::1"), set("text", "TXT", `"x"`), set("www", "A", "10.0.1.6"),
		}}}
		v.ResolverRules = []api.ViewResolverRule{
			{ID: "rslvr-rr-1", Domain: "far.example", VPCs: []uint32{vpc}, Forwarders: []string{"tls://149.112.112.112"}},
			{ID: "rslvr-rr-2", Domain: "unreachable.example", VPCs: []uint32{vpc}, LeftOut: "no room"},
		}
		v.Firewalls = []api.ViewFirewall{{ID: "rslvr-frg-1", VPCs: []uint32{vpc}, Rules: []api.ViewFirewallRule{
			{FirewallRule: api.FirewallRule{Priority: 10, Action: api.FirewallBlock, Domains: []string{"bad.example"}, BlockResponse: api.BlockNXDomain}},
			{FirewallRule: api.FirewallRule{Priority: 20, Action: api.FirewallBlock, Domains: []string{"moved.example"},
				BlockResponse: api.BlockOverride, BlockOverrideDomain: "www.corp.internal", BlockOverrideTTLSeconds: 60}},
			{FirewallRule: api.FirewallRule{Priority: 30, Action: api.FirewallAlert, Domains: []string{"*.example", "seen.example"}}},
		}}}
		b.hear(v)
		b.attach()
		if _, errs := b.round(); len(errs) > 1 { // one rule has no forwarder
			t.Fatal(errs)
		}
		x, err := b.agent.Explain(t.Context(), local.ExplainRequest{From: eni, To: c.to, Port: 80})
		if err != nil {
			t.Fatal(err)
		}
		last := x.Stages[len(x.Stages)-1]
		if last.Name != c.stage || last.Reason != c.reason || x.Address != c.address || x.Allowed || last.Remedy == "" {
			t.Errorf("%s: %s: %+v", c.to, x.Address, x.Stages)
		}
		text := ""
		for _, s := range x.Stages {
			text += s.Detail + "\n"
		}
		for _, word := range c.words {
			if !strings.Contains(text, word) {
				t.Errorf("%s: nothing says %q:\n%s", c.to, word, text)
			}
		}
	}
}
