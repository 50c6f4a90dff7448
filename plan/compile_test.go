package plan_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

var update = flag.Bool("update", false, "write testdata/*.golden")

func compiled(t *testing.T, v api.View) *plan.Plan {
	t.Helper()
	p, err := plan.Compile(v, plantest.Facts(v))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGolden(t *testing.T) {
	views := map[string]api.View{
		"consumer-node": plantest.View(1, plantest.Workloads()),
		"provider-node": plantest.View(2, plantest.Workloads()),
		"one-node":      plantest.View(1, plantest.OnNode(1)),
	}
	for name, v := range views {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".golden")
			got := compiled(t, v).Dump()
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s differs (go test -update writes it); got:\n%s", file, got)
			}
		})
	}
}

func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		node := rapid.Uint32Range(1, 2).Draw(rt, "node")
		workloads := plantest.Workloads()
		for i := range workloads {
			workloads[i].Node = rapid.Uint32Range(1, 2).Draw(rt, "placed")
		}
		v := plantest.View(node, workloads)
		want, err := plan.Compile(v, plantest.Facts(v))
		if err != nil {
			rt.Fatal(err)
		}
		f := plantest.Facts(v)
		for _, list := range []any{&v.Addresses, &v.ENIs, &v.Groups, &v.VPCs, &v.Grants, &f.Ready, &f.Attachments} {
			shuffle(rt, list)
		}
		for i := range v.Groups {
			v.Groups[i].Ingress = rapid.Permutation(v.Groups[i].Ingress).Draw(rt, "rules")
		}
		for i := range v.Admitted {
			v.Admitted[i].Rules = rapid.Permutation(v.Admitted[i].Rules).Draw(rt, "admitted")
		}
		for i := range v.Endpoints {
			shuffle(rt, &v.Endpoints[i].Listeners)
			for j := range v.Endpoints[i].Listeners {
				shuffle(rt, &v.Endpoints[i].Listeners[j].Targets)
			}
		}
		got, err := plan.Compile(v, f)
		if err != nil {
			rt.Fatal(err)
		}
		if got.Dump() != want.Dump() {
			rt.Fatalf("another order, another plan:\n%s\nwant:\n%s", got.Dump(), want.Dump())
		}
		checkTables(rt, got)
	})
}

func shuffle(rt *rapid.T, list any) {
	switch l := list.(type) {
	case *[]api.ViewAddress:
		*l = rapid.Permutation(*l).Draw(rt, "addresses")
	case *[]api.ViewENI:
		*l = rapid.Permutation(*l).Draw(rt, "enis")
	case *[]api.ViewGroup:
		*l = rapid.Permutation(*l).Draw(rt, "groups")
	case *[]api.ViewVPC:
		*l = rapid.Permutation(*l).Draw(rt, "vpcs")
	case *[]api.ViewGrant:
		*l = rapid.Permutation(*l).Draw(rt, "grants")
	case *[]api.ViewListenerPool:
		*l = rapid.Permutation(*l).Draw(rt, "listeners")
	case *[]api.ViewTarget:
		*l = rapid.Permutation(*l).Draw(rt, "targets")
	case *[]plan.ReadyLink:
		*l = rapid.Permutation(*l).Draw(rt, "ready")
	case *[]plan.Attachment:
		*l = rapid.Permutation(*l).Draw(rt, "attachments")
	default:
		rt.Fatalf("no way to shuffle %T", list)
	}
}

// checkTables demands strictly growing keys, and that every id that a row names has its row.
func checkTables(t rapid.TB, p *plan.Plan) {
	growing(t, "links", p.Links)
	growing(t, "peers", p.Peers)
	growing(t, "allowed-ips", p.AllowedIPs)
	growing(t, "enis", p.ENIs)
	growing(t, "addresses", p.Addresses)
	growing(t, "rule-sets", p.RuleSets)
	growing(t, "services", p.Services)
	growing(t, "target-tables", p.TargetTables)
	growing(t, "grants", p.Grants)
	growing(t, "grant-targets", p.GrantTargets)
	growing(t, "zones", p.Zones)
	growing(t, "names", p.Names)
	sets, tables := map[uint32]bool{0: true}, map[uint32]uint8{0: 0}
	for _, s := range p.RuleSets {
		sets[s.ID] = true
		rules, err := plan.ParseRules(s.Text)
		if err != nil || len(rules) == 0 {
			t.Fatalf("rule set %d: %v, %d rules", s.ID, err, len(rules))
		}
	}
	for _, x := range p.TargetTables {
		tables[x.ID] = x.Width
	}
	for _, e := range p.ENIs {
		if !sets[e.IngressRules] || !sets[e.EgressRules] {
			t.Fatalf("eni %s names a rule set that is not there", e.ID)
		}
	}
	for _, s := range p.Services {
		if size, ok := tables[s.Table]; !ok || size != s.TableWidth {
			t.Fatalf("service %s: table %d of width %d is not there", s.Key(), s.Table, s.TableWidth)
		}
	}
	for _, g := range p.Grants {
		if !sets[g.Admitted] || !sets[g.LBRules] || !sets[g.LBEgressRules] {
			t.Fatalf("grant %s names a rule set that is not there", g.Key())
		}
	}
}

func growing[R plan.Row](t rapid.TB, name string, rows []R) {
	for i := 1; i < len(rows); i++ {
		if rows[i-1].Key() >= rows[i].Key() {
			t.Fatalf("%s: row %d is not above the one before", name, i)
		}
	}
}

func TestOnlyReadyAttachedLinks(t *testing.T) {
	v := plantest.View(1, plantest.Workloads())
	f := plantest.Facts(v)
	f.Ready = f.Ready[:1]
	f.Attachments = append(f.Attachments, plan.Attachment{ENI: "eni-unknown"})
	p, err := plan.Compile(v, f)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Links) != 2 || len(p.ENIs) != 1 || p.ENIs[0].ID != "eni-cart" {
		t.Errorf("links %v, enis %v", p.Links, p.ENIs)
	}
	f.Attachments = nil
	if p, err = plan.Compile(v, f); err != nil || len(p.Links)+len(p.ENIs) != 0 {
		t.Errorf("nothing attached, but links %v, enis %v (%v)", p.Links, p.ENIs, err)
	}
}

func TestStrictLog(t *testing.T) {
	v := plantest.View(1, plantest.Workloads())
	v.ENIs[0].StrictLog = true
	for _, e := range compiled(t, v).ENIs {
		if e.StrictLog != (e.ID == v.ENIs[0].ID) {
			t.Errorf("%s: strict %v", e.ID, e.StrictLog)
		}
	}
}

func TestNodeStates(t *testing.T) {
	v := plantest.View(1, plantest.Workloads())
	for _, state := range []api.NodeState{api.NodeRevoked, "", "ready"} {
		v.Node.State = state
		p, err := plan.Compile(v, plantest.Facts(v))
		if err != nil || p.Generation != 0 || p.Dump() != (&plan.Plan{Revision: 42}).Dump() {
			t.Errorf("state %q: %v\n%s", state, err, p.Dump())
		}
	}
	v.Node.State = api.NodeDraining
	if p := compiled(t, v); p.Generation != 1 || len(p.ENIs) != 2 {
		t.Errorf("a draining node must keep serving:\n%s", p.Dump())
	}
}

func TestRefusesBadViews(t *testing.T) {
	a := netip.MustParseAddr
	cases := map[string]struct {
		spoil func(*api.View)
		field string
	}{
		"mesh":                   {func(v *api.View) { v.Mesh.Number = 1 << 24 }, "mesh.number"},
		"node number":            {func(v *api.View) { v.Node.Number = 0 }, "node.number"},
		"peer key":               {func(v *api.View) { v.Peers[0].PublicKey = "abc" }, "publicKey"},
		"peer is me":             {func(v *api.View) { v.Peers[0].Number = 1 }, `peers["node-2"]`},
		"peer twice":             {func(v *api.View) { v.Peers = append(v.Peers, v.Peers[0]) }, `peers["node-2"]`},
		"other mesh":             {func(v *api.View) { v.Peers[0].AllowedIPs[0] = netip.MustParsePrefix("fd00::/96") }, "allowedIPs"},
		"host bits":              {func(v *api.View) { v.Peers[0].AllowedIPs[1] = unmasked(v.Peers[0].AllowedIPs[1]) }, "allowedIPs"},
		"whole mesh":             {func(v *api.View) { v.Peers[0].AllowedIPs[1] = api.MeshPrefix(plantest.Mesh) }, "allowedIPs"},
		"other node's host":      {func(v *api.View) { v.Peers[0].AllowedIPs[0] = hostPrefix(9) }, "allowedIPs"},
		"peer speaks for cart":   {func(v *api.View) { v.Peers[0].AllowedIPs[1] = cartPrefix(96) }, "allowedIPs"},
		"peer speaks for subnet": {func(v *api.View) { v.Peers[0].AllowedIPs[1] = cartPrefix(88) }, "allowedIPs"},
		"VPC number":             {func(v *api.View) { v.VPCs[0].Number = 0 }, `vpcs["vpc-shop"].number`},
		"VPC twice":              {func(v *api.View) { v.VPCs[1].Number = 1 }, `vpcs["vpc-pay"].number`},
		"VPC CIDR":               {func(v *api.View) { v.VPCs[0].CIDR = netip.MustParsePrefix("10.0.1.0/16") }, "cidr"},
		"VPC in 240/4":           {func(v *api.View) { v.VPCs[0].CIDR = netip.MustParsePrefix("240.0.0.0/16") }, "cidr"},
		"subnet outside":         {func(v *api.View) { v.VPCs[0].Subnets[0].CIDR = netip.MustParsePrefix("10.1.0.0/24") }, "subnets"},
		"forwarder":              {func(v *api.View) { v.VPCs[0].Forwarders = []string{"10.0.0.53"} }, "forwarders"},
		"group number":           {func(v *api.View) { v.Groups[0].Number = v.Groups[1].Number }, "groups"},
		"group of rule":          {func(v *api.View) { v.Groups[0].Ingress[0].Group = "sg-other" }, `groups["sg-shop"].rules["sgr-shop"]`},
		"rule of both":           {func(v *api.View) { v.Groups[0].Ingress[0].CIDR = netip.MustParsePrefix("10.0.0.0/8") }, "cidr"},
		"rule's CIDR":            {func(v *api.View) { v.Groups[0].Egress[0].CIDR = netip.MustParsePrefix("fd00::/8") }, "cidr"},
		"rule's ports":           {func(v *api.View) { v.Groups[1].Ingress[0].ToPort = 1 }, "ports"},
		"rule's protocol":        {func(v *api.View) { v.Groups[1].Ingress[0].Protocol = "sctp" }, "protocol"},
		"rule's name":            {func(v *api.View) { v.Groups[1].Ingress[0].ID = "a\nb 6 1-1 0.0.0.0/0" }, "id"},
		"address twice":          {func(v *api.View) { v.Addresses[2].Address = v.Addresses[3].Address }, "addresses"},
		"address outside":        {func(v *api.View) { v.Addresses[2].Address = a("10.1.0.9") }, "addresses"},
		"address is resolver's":  {func(v *api.View) { v.Addresses[2].Address = a("10.0.1.2") }, "addresses"},
		"address's type":         {func(v *api.View) { v.Addresses[2].Type = "nat" }, "type"},
		"ENI number twice":       {func(v *api.View) { v.Addresses[2].Number = 12 }, "number"},
		"ENI not an address":     {func(v *api.View) { v.ENIs[0].Address = a("10.0.1.99") }, `enis["eni-cart"]`},
		"ENI's groups differ":    {func(v *api.View) { v.ENIs[0].Groups = nil }, `enis["eni-cart"]`},
		"endpoint twice":         {func(v *api.View) { v.Endpoints = append(v.Endpoints, v.Endpoints[0]) }, `endpoints["vpce-1"]`},
		"endpoint's address":     {func(v *api.View) { v.Endpoints[0].ENIs[0].Address = a("10.0.1.7") }, `enis["eni-vpce"]`},
		"listener's protocol":    {func(v *api.View) { v.Endpoints[0].Listeners[0].Protocol = api.ICMP }, "protocol"},
		"listener's port":        {func(v *api.View) { v.Endpoints[0].Listeners[0].Port = 0 }, "port"},
		"listener twice":         {twoListeners, "endpoints"},
		"tag number taken":       {func(v *api.View) { v.Endpoints[0].Listeners[0].TagNumbers[0].Number = plantest.TagUDP }, "tag number"},
		"tag number too large":   {func(v *api.View) { v.Endpoints[0].Listeners[0].TagNumbers[0].Number = 0x8001 }, "tagNumbers"},
		"idle":                   {func(v *api.View) { v.Endpoints[0].Listeners[0].IdleTimeoutSeconds = 1 }, "idleTimeoutSeconds"},
		"target's port":          {func(v *api.View) { v.Endpoints[0].Listeners[0].Targets[0].Port = 0 }, "targets"},
		"target twice":           {func(v *api.View) { v.Endpoints[0].Listeners[0].Targets[0] = v.Endpoints[0].Listeners[0].Targets[1] }, "targets"},
		"group of two minds":     {func(v *api.View) { v.Endpoints[0].Listeners[1].TargetGroup = 301; oneTarget(v) }, "targetGroup"},
		"name's address":         {func(v *api.View) { v.Names[0].Address = a("192.0.2.1") }, "names"},
		"name twice":             {func(v *api.View) { v.Names = append(v.Names, v.Names[0]) }, "names"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			v := plantest.View(1, plantest.Workloads())
			c.spoil(&v)
			wantRefusal(t, v, c.field)
		})
	}
}

func TestRefusesBadGrants(t *testing.T) {
	a := netip.MustParseAddr
	cases := map[string]struct {
		spoil func(*api.ViewGrant)
		field string
	}{
		"tag 0":            {func(g *api.ViewGrant) { g.Tag = 0 }, "tag"},
		"tag taken":        {func(g *api.ViewGrant) { g.Tag = plantest.TagUDP }, "grants"},
		"provider's VPC":   {func(g *api.ViewGrant) { g.ProviderVPC = 9 }, "providerVpc"},
		"consumer's VPC":   {func(g *api.ViewGrant) { g.ConsumerVPC = 0 }, "consumerVpc"},
		"connection":       {func(g *api.ViewGrant) { g.ConnectionNumber = 0 }, "connectionNumber"},
		"protocol":         {func(g *api.ViewGrant) { g.Protocol = api.All }, "protocol"},
		"port":             {func(g *api.ViewGrant) { g.Port = 0 }, "dialedAddress"},
		"idle":             {func(g *api.ViewGrant) { g.IdleTimeoutSeconds = 6001 }, "idleTimeoutSeconds"},
		"endpoint":         {func(g *api.ViewGrant) { g.Endpoint = "vpce-2" }, "endpointId"},
		"group of LB":      {func(g *api.ViewGrant) { g.LoadBalancerGroups = []string{"sg-none"} }, "loadBalancerGroups"},
		"target elsewhere": {func(g *api.ViewGrant) { g.Targets[0].Address = a("10.0.1.66") }, "targets"},
		"target twice":     {func(g *api.ViewGrant) { g.Targets = append(g.Targets, g.Targets[0]) }, "grants.targets"},
		"source":           {func(g *api.ViewGrant) { g.Targets[0].Source = a("10.0.1.6") }, "source"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			v := plantest.View(2, plantest.Workloads())
			c.spoil(&v.Grants[0])
			wantRefusal(t, v, c.field)
		})
	}
}

func TestRefusesBadAdmitted(t *testing.T) {
	cases := map[string]struct {
		spoil func(*api.View)
		field string
	}{
		"group": {func(v *api.View) {
			r := &v.Admitted[0].Rules[0]
			r.CIDR, r.Group = netip.Prefix{}, "sg-lb"
		}, `admitted["vpce-1"].rules["sgr-dns"].groupId`},
		"rule":     {func(v *api.View) { v.Admitted[0].Rules[0].ToPort = 1 }, `admitted["vpce-1"].rules["sgr-dns"]`},
		"twice":    {func(v *api.View) { v.Admitted = append(v.Admitted, v.Admitted[0]) }, `admitted["vpce-1"]`},
		"endpoint": {func(v *api.View) { v.Admitted[0].Endpoint = "a b" }, "admitted"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			v := plantest.View(2, plantest.Workloads())
			c.spoil(&v)
			wantRefusal(t, v, c.field)
		})
	}
}

func wantRefusal(t *testing.T, v api.View, field string) {
	t.Helper()
	p, err := plan.Compile(v, plantest.Facts(v))
	if err == nil {
		t.Fatalf("compiled:\n%s", p.Dump())
	}
	if !strings.Contains(err.Error(), field) || p != nil {
		t.Errorf("error %q does not name %q, or there is a plan beside it", err, field)
	}
}

// A consumer's group of very many members closes that connection and nothing else, be it that the node or the server finds it.
func TestOneConnectionTooLarge(t *testing.T) {
	small := plantest.View(2, plantest.Workloads())
	small.Admitted = append(small.Admitted, api.ViewAdmitted{Endpoint: "vpce-2", Rules: small.Admitted[0].Rules})
	small.Grants[1].Endpoint, small.Grants[1].Connection = "vpce-2", "vpce-con-2"
	v, left := small, small
	v.Admitted, left.Admitted = slices.Clone(small.Admitted), slices.Clone(small.Admitted)
	left.Admitted[0] = api.ViewAdmitted{Endpoint: "vpce-1", LeftOut: "too many"}
	for i := range plan.LimitRules + 1 {
		v.Admitted[0].Rules = append(v.Admitted[0].Rules, api.Rule{
			ID: "sgr-https", Protocol: api.TCP, FromPort: 443, ToPort: 443,
			CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 6), byte(i << 1)}), 32),
		})
	}
	for text, v := range map[string]api.View{"the datapath holds": v, "too many\n": left} {
		p := compiled(t, v)
		if len(p.Grants) != 1 || p.Grants[0].Tag != plantest.TagUDP || len(p.GrantTargets) != 2 || len(p.Problems) != 1 ||
			!strings.Contains(p.Dump(), "[problems]\ngrants: 1 of account of VPC 2 left out (vpce-con-1): "+text) {
			t.Errorf("problems %v, grants %v", p.Problems, p.Grants)
		}
	}
}

func TestLoadBalancerWithoutGroupsAdmitsAll(t *testing.T) {
	v := plantest.View(2, plantest.Workloads())
	v.Grants[0].LoadBalancerGroups = nil
	p := compiled(t, v)
	for _, s := range p.RuleSets {
		all := plan.OpenRuleName + " 256 0-65535 "
		if s.ID == p.Grants[0].LBRules && s.Text == all+"0.0.0.0/0\n"+all+"::/0\n" {
			return
		}
	}
	t.Errorf("grant %+v has no open rule set:\n%s", p.Grants[0], p.Dump())
}

func TestEmptyGroupsAdmitNothing(t *testing.T) {
	v := plantest.View(1, plantest.Workloads())
	v.Groups[0].Ingress = nil
	if p := compiled(t, v); p.ENIs[0].IngressRules != 0 || p.ENIs[0].EgressRules == 0 {
		t.Errorf("rules %d in, %d out", p.ENIs[0].IngressRules, p.ENIs[0].EgressRules)
	}
}

func TestNoTagNumberNoService(t *testing.T) {
	v := plantest.View(1, plantest.Workloads())
	v.Endpoints[0].Listeners[0].TagNumbers = nil
	if p := compiled(t, v); len(p.Services) != 1 || p.Services[0].Port != 53 {
		t.Errorf("services %v", p.Services)
	}
}

func TestNoTargetsNoTable(t *testing.T) {
	v := plantest.View(1, plantest.Workloads())
	v.Endpoints[0].Listeners[0].Targets = nil
	p := compiled(t, v)
	i := slices.IndexFunc(p.Services, func(s plan.Service) bool { return s.Port == 443 })
	if p.Services[i].Table != 0 || p.Services[i].TableWidth != 0 || len(p.TargetTables) != 1 {
		t.Errorf("service %+v, tables %v", p.Services[i], p.TargetTables)
	}
}

func unmasked(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr().Next(), p.Bits()) }

func hostPrefix(node uint32) netip.Prefix {
	return netip.PrefixFrom(api.NodeAddr(plantest.Mesh, node), 128)
}

func cartPrefix(bits int) netip.Prefix {
	cart := netip.PrefixFrom(plantest.Workloads()[0].Address, 32)
	return netip.PrefixFrom(api.OverlayPrefix(plantest.Mesh, plantest.Shop, cart).Addr(), bits).Masked()
}

func twoListeners(v *api.View) {
	l := v.Endpoints[0].Listeners[0]
	l.TagNumbers = []api.TagNumber{{ENI: "eni-vpce", Listener: l.Listener, Number: 99}}
	v.Endpoints[0].Listeners = append(v.Endpoints[0].Listeners, l)
}

func oneTarget(v *api.View) {
	v.Endpoints[0].Listeners[1].Targets = v.Endpoints[0].Listeners[1].Targets[:1]
}

// Targets that expect a header never get a connection without one: what the node cannot say, it does not let in.
func TestClientIdentity(t *testing.T) {
	for identity, want := range map[api.ClientIdentity]struct {
		headers int
		problem string
	}{
		"": {}, api.IdentityLoadBalancer: {}, api.IdentityProxyProtocol: {headers: 1}, api.IdentityClientAddress: {},
		"ident": {problem: `this agent does not know the client identity "ident"`},
	} {
		v := plantest.View(2, plantest.Workloads())
		for i := range v.Grants {
			v.Grants[i].ClientIdentity = identity
		}
		p := compiled(t, v)
		headers := 0
		for _, g := range p.Grants {
			if g.ProxyHeader {
				headers++
			}
			if g.ProxyHeader && g.Protocol != plan.ProtocolTCP || g.ClientAddress != (identity == api.IdentityClientAddress) ||
				g.Endpoint != "vpce-1" {
				t.Errorf("%q: %+v", identity, g)
			}
		}
		left := want.problem != ""
		if headers != want.headers || left != (len(p.Grants) == 0) || left && !strings.Contains(p.Problems[0], want.problem) {
			t.Errorf("%q: %d headers, grants %+v, problems %q", identity, headers, p.Grants, p.Problems)
		}
	}
	v := plantest.View(2, plantest.Workloads())
	long := "vpce-" + strings.Repeat("0", plan.MaxEndpointID)
	v.Grants[0].Endpoint, v.Grants[0].ClientIdentity = long, api.IdentityProxyProtocol
	v.Admitted = append(v.Admitted, api.ViewAdmitted{Endpoint: long, Rules: v.Admitted[0].Rules})
	if p := compiled(t, v); len(p.Grants) != 1 || len(p.Problems) != 1 {
		t.Errorf("an id that does not fit: grants %+v, problems %q", p.Grants, p.Problems)
	}
}
