package plan_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/view"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/internal/worlds"
	"github.com/culvert-net/culvert/plan"
)

// plenty is more than any view of these tests needs.
var plenty = plan.Limits{
	Zones: 1 << 20, Links: 1 << 20, Addresses: 1 << 20, Peers: 1 << 20, AllowedIPs: 1 << 20, RuleSets: 1 << 20,
	Services: 1 << 20, TargetTables: 1 << 20, Grants: 1 << 20, GrantTargets: 1 << 20, Probes: 1 << 20, Paths: 1 << 20, Names: 1 << 20,
}

func within(t rapid.TB, v api.View, l plan.Limits) *plan.Plan {
	t.Helper()
	p, err := plan.CompileWithin(v, plantest.Facts(v), l)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A view that is too large gives a plan with rows of the view only, within every limit and whole in itself, and what a later
// view revokes is not in its plan, too large or not.
func TestTooLargeViews(t *testing.T) {
	cut := 0
	rapid.Check(t, func(rt *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "world"), 0))
		r := worlds.New(rng, worlds.Size{Nodes: 2, VPCs: 4, Workloads: 30, Endpoints: 8})
		for _, n := range r.Nodes {
			n.State = api.NodeReady
		}
		l := drawLimits(rt)
		cut += checkFit(rt, r, l)
		for _, c := range r.Connections {
			if rng.IntN(2) == 0 {
				c.State = api.Rejected
			}
		}
		for _, e := range r.ENIs {
			if rng.IntN(3) == 0 && e.Type == api.ENIWorkload {
				e.Node = ""
			}
		}
		checkFit(rt, r, l)
	})
	if cut == 0 {
		t.Error("no view was too large")
	}
}

func drawLimits(rt *rapid.T) plan.Limits {
	few := func(name string, most int) int { return rapid.IntRange(1, most).Draw(rt, name) }
	return plan.Limits{
		Zones: few("zones", 4), Links: few("links", 15), Addresses: few("addresses", 40), Peers: few("peers", 2),
		AllowedIPs: few("allowed ips", 15), RuleSets: few("rule sets", 20), Services: few("services", 20),
		TargetTables: few("target tables", 6), Grants: few("grants", 20), GrantTargets: few("grant targets", 30),
		Names: few("names", 10), Probes: few("probes", 6),
	}
}

// checkFit compares every node's plan with the one that is not limited, and returns how many rows are missing.
func checkFit(rt *rapid.T, r *api.Resources, l plan.Limits) (missing int) {
	for id := range r.Nodes {
		v := view.Compute(r, id)
		unevenly(v)
		all, got := within(rt, *v, plenty), within(rt, *v, l)
		if again := within(rt, *v, l); again.Dump() != got.Dump() {
			rt.Fatal("the same view, another plan")
		}
		checkTables(rt, got)
		checkRevoked(rt, r, got)
		lost := []int{
			subset(rt, "zones", all.Zones, got.Zones, l.Zones),
			subset(rt, "links", all.Links, got.Links, l.Links),
			subset(rt, "enis", without(all.ENIs), without(got.ENIs), l.Links),
			subset(rt, "addresses", without(all.Addresses), without(got.Addresses), l.Addresses+l.Links),
			subset(rt, "peers", all.Peers, got.Peers, l.Peers),
			subset(rt, "allowed ips", all.AllowedIPs, got.AllowedIPs, l.AllowedIPs+l.Peers),
			subset(rt, "rule sets", all.RuleSets, got.RuleSets, l.RuleSets),
			subset(rt, "services", all.Services, got.Services, l.Services),
			subset(rt, "target tables", all.TargetTables, got.TargetTables, l.TargetTables),
			subset(rt, "grants", without(all.Grants), without(got.Grants), l.Grants),
			subset(rt, "grant targets", without(all.GrantTargets), without(got.GrantTargets), l.GrantTargets),
			subset(rt, "probes", all.Probes, got.Probes, l.Probes),
			subset(rt, "names", all.Names, got.Names, l.Names),
		}
		for _, n := range lost {
			missing += n
		}
		if len(all.Problems) != 0 || slices.Max(lost) > 0 && len(got.Problems) == 0 {
			rt.Fatalf("lost %v, problems %v; without limits %v", lost, got.Problems, all.Problems)
		}
		checkShares(rt, v, all, got, l)
	}
	return missing
}

// unevenly gives every account two VPCs, makes higher ids the older ones, and gives one account many more grants.
func unevenly(v *api.View) {
	account := map[uint32]uint32{}
	for i := range v.VPCs {
		x := &v.VPCs[i]
		account[x.Number] = x.Number % 2
		x.Account = fmt.Sprint("account", x.Number%2)
	}
	turn := func(number *uint32) { *number = 1<<20 - *number }
	for i := range v.ENIs {
		turn(&v.ENIs[i].Number)
	}
	for i := range v.Addresses {
		turn(&v.Addresses[i].Number)
	}
	for _, e := range slices.Concat(v.Endpoints, v.LoadBalancers) {
		for j := range e.ENIs {
			turn(&e.ENIs[j].Number)
		}
	}
	for _, g := range v.Grants {
		for n := uint16(1); n < 6 && account[g.ProviderVPC] == 0; n++ {
			g.Tag += 1000
			v.Grants = append(v.Grants, g)
		}
	}
}

// subset demands that got be rows of all, at most room, and returns how many it lacks.
func subset[R plan.Row](t rapid.TB, table string, all, got []R, room int) (missing int) {
	have := map[R]bool{}
	for _, r := range all {
		have[r] = true
	}
	for _, r := range got {
		if !have[r] {
			t.Fatalf("%s: the view does not have %+v", table, r)
		}
	}
	if len(got) > room {
		t.Fatalf("%s: %d rows, room for %d", table, len(got), room)
	}
	return len(all) - len(got)
}

// without are rows without their rule sets, which may be 0 where there was no room: then nothing matches.
func without[R plan.Row](rows []R) []R {
	rows = slices.Clone(rows)
	for i := range rows {
		switch r := any(&rows[i]).(type) {
		case *plan.ENI:
			r.IngressRules, r.EgressRules, r.Account = 0, 0, 0
		case *plan.Address:
			r.Rules, r.EgressRules = 0, 0
		case *plan.Grant:
			r.Admitted, r.LBRules, r.LBEgressRules, r.Account = 0, 0, 0, 0
		case *plan.GrantTarget:
			r.Ports = 0
		}
	}
	return rows
}

// checkRevoked demands that no row speak of a connection that is not Available or an ENI that is not here.
func checkRevoked(t rapid.TB, r *api.Resources, p *plan.Plan) {
	available := map[uint32]bool{}
	for _, c := range r.Connections {
		if c.State == api.Available {
			available[c.Number] = true
		}
	}
	for _, b := range r.LoadBalancers {
		available[b.Number] = true // its own VPC may always
	}
	for _, s := range p.Services {
		if !available[s.Connection] {
			t.Fatalf("service %+v is of no connection", s)
		}
	}
	for _, g := range p.Grants {
		if !available[g.Connection] {
			t.Fatalf("grant %+v is of no connection", g)
		}
	}
	for _, e := range p.ENIs {
		if r.ENIs[e.ID].Node == "" {
			t.Fatalf("%s is bound to no node", e.ID)
		}
	}
}

// checkShares demands an even share for each account, and within an account the oldest.
func checkShares(t rapid.TB, v *api.View, all, got *plan.Plan, l plan.Limits) {
	account := map[uint32]string{}
	for _, x := range v.VPCs {
		account[x.Number] = x.Account
	}
	share(t, "links", all.Links, got.Links, l.Links, func(x plan.Link) string { return account[x.VPC] },
		func(x plan.Link) string { return fmt.Sprintf("%010d", x.Number) })
	share(t, "zones", all.Zones, got.Zones, l.Zones, func(x plan.Zone) string { return account[x.VPC] }, plan.Zone.Key)
	if len(got.Zones) == len(all.Zones) {
		share(t, "names", all.Names, got.Names, l.Names, func(x plan.Name) string { return account[x.VPC] }, nil)
	}
	if len(all.Addresses) <= l.Addresses && len(all.TargetTables) <= l.TargetTables {
		share(t, "services", all.Services, got.Services, l.Services, func(x plan.Service) string { return account[x.VPC] },
			func(x plan.Service) string { return fmt.Sprintf("%010d", x.Connection) })
	}
	if len(all.Grants) <= l.Grants {
		provider := map[[2]uint32]string{}
		for _, g := range all.Grants {
			provider[[2]uint32{g.ConsumerVPC, uint32(g.Tag)}] = account[g.ProviderVPC]
		}
		share(t, "grant targets", all.GrantTargets, got.GrantTargets, l.GrantTargets,
			func(x plan.GrantTarget) string { return provider[[2]uint32{x.ConsumerVPC, uint32(x.Tag)}] }, nil)
	}
	if len(all.ENIs)+len(all.Addresses)+len(all.Grants) == len(got.ENIs)+len(got.Addresses)+len(got.Grants) {
		share(t, "uses of rule sets", uses(all, account), uses(got, account), l.RuleSets,
			func(x use) string { return x.account }, nil)
	}
}

// use is a row's use of a rule set.
type use struct {
	account, row string
	n            int
}

func (u use) Key() string { return fmt.Sprint(u.row, u.n) }

func uses(p *plan.Plan, account map[uint32]string) (list []use) {
	add := func(vpc uint32, row string, sets ...uint32) {
		for n, set := range sets {
			if set != 0 {
				list = append(list, use{account[vpc], row, n})
			}
		}
	}
	for _, e := range p.ENIs {
		add(e.VPC, "eni "+e.ID, e.IngressRules, e.EgressRules)
	}
	for _, a := range p.Addresses {
		add(a.VPC, "address "+a.ENI, a.Rules, a.EgressRules)
	}
	for _, g := range p.Grants {
		add(g.ProviderVPC, "grant "+g.Key(), g.Admitted, g.LBRules, g.LBEgressRules)
	}
	return list
}

// share demands that an account have its even share of the room or all that it needs, and not a row while an older is out;
// age nil: do not look at it.
func share[R plan.Row](t rapid.TB, table string, all, got []R, room int, owner, age func(R) string) {
	in := map[string]bool{}
	for _, r := range got {
		in[r.Key()] = true
	}
	needs, has := map[string]int{}, map[string]int{}
	oldestOut := map[string]string{}
	for _, r := range all {
		needs[owner(r)]++
		if in[r.Key()] {
			has[owner(r)]++
		} else if old := oldestOut[owner(r)]; age != nil && (old == "" || age(r) < old) {
			oldestOut[owner(r)] = age(r)
		}
	}
	for o, n := range needs {
		if least := min(n, room/len(needs)); has[o] < least {
			t.Fatalf("%s: %s needs %d and has %d of %d, shared by %d", table, o, n, has[o], room, len(needs))
		}
	}
	for _, r := range got {
		if old := oldestOut[owner(r)]; age != nil && old != "" && age(r) > old {
			t.Fatalf("%s: %+v is in, and the older %s is not", table, r, old)
		}
	}
}

// One account binds and attaches more interfaces than a node holds. Others' stay, and what they revoke takes effect.
func TestOneAccountCannotFillANode(t *testing.T) {
	v := plantest.View(1, plantest.OnNode(1))
	before := compiled(t, v)
	crowd(&v, plan.MaxENIs+6)
	v.Grants, v.Endpoints, v.Names = nil, nil, nil // revoked
	p := compiled(t, v)
	if len(p.Links) != plan.MaxENIs || len(p.ENIs) != plan.MaxENIs || len(p.Services)+len(p.Grants)+len(p.Names) != 0 {
		t.Errorf("%d links, %d services, %d grants", len(p.Links), len(p.Services), len(p.Grants))
	}
	for _, l := range before.Links {
		if !slices.Contains(p.Links, l) {
			t.Errorf("%s was pushed out", l.ENI)
		}
	}
	want := "enis: 11 of account evil left out (eni-e1019, eni-e1020, eni-e1021, eni-e1022, eni-e1023, …): " +
		"a node has room for 1024, shared among the accounts that need it"
	if !slices.Equal(p.Problems, []string{want}) {
		t.Errorf("problems %q", p.Problems)
	}
	if p, err := plan.Compile(v, plan.Facts{Generation: 1}); err != nil || len(p.Problems) != 0 {
		t.Errorf("interfaces that are bound and not attached take room: %v, %v", p.Problems, err)
	}
}

// crowd puts n workloads of another account on the node, older than all others.
func crowd(v *api.View, n int) {
	cidr := netip.MustParsePrefix("10.0.0.0/16")
	v.VPCs = append(v.VPCs, api.ViewVPC{ID: "vpc-evil", Account: "evil", Number: 9, CIDR: cidr, Local: true})
	v.Groups = append(v.Groups, api.ViewGroup{ID: "sg-evil", Number: 999})
	for i := range n {
		id, number := fmt.Sprintf("eni-e%04d", i), uint32(1000+i)
		a := netip.AddrFrom4([4]byte{10, 0, byte(1 + i>>8), byte(i)})
		v.ENIs = append(v.ENIs, api.ViewENI{ID: id, Number: number, VPC: 9, CIDR: cidr, Address: a, Groups: []string{"sg-evil"}})
		v.Addresses = append(v.Addresses, api.ViewAddress{VPC: 9, Address: a, Type: api.ENIWorkload, ENI: id, Number: number,
			Groups: []string{"sg-evil"}})
	}
}

func TestTooManyOfOneThing(t *testing.T) {
	v := plantest.View(1, plantest.Workloads())
	for i := range plan.LimitRules + 1 {
		v.Groups[0].Egress = append(v.Groups[0].Egress, api.Rule{
			ID: "sgr-x", Protocol: api.TCP, FromPort: uint16(i + 1), ToPort: uint16(i + 1), Group: "sg-shop",
		})
	}
	p := compiled(t, v)
	if p.ENIs[0].EgressRules != 0 || p.ENIs[0].IngressRules == 0 || !problem(p, "groups: rules: 2 of ") {
		t.Errorf("too many rules: %+v, %v", p.ENIs[0], p.Problems)
	}

	v = plantest.View(1, plantest.Workloads())
	v.Groups[0].Ingress, v.Groups[0].Egress, v.Groups[0].LeftOut = nil, nil, "the server's reason"
	p = compiled(t, v)
	if p.ENIs[0].EgressRules+p.ENIs[0].IngressRules != 0 || !problem(p, "groups: rules: 1 of account of VPC 1 left out (sg-shop): the server's") {
		t.Errorf("rules that the server left out: %+v, %v", p.ENIs[0], p.Problems)
	}

	v = plantest.View(1, plantest.Workloads())
	v.Endpoints[0].Listeners, v.Endpoints[0].LeftOut = nil, "the server's reason"
	p = compiled(t, v)
	if len(p.Services) != 0 || !problem(p, "endpoints: targets: 1 of account of VPC 1 left out (vpce-1): the server's") {
		t.Errorf("listeners that the server left out: %+v, %v", p.Services, p.Problems)
	}

	v = plantest.View(1, plantest.Workloads())
	for i := range uint32(6) {
		id := fmt.Sprintf("sg-%d", 6-i)
		v.Groups = append(v.Groups, api.ViewGroup{ID: id, Number: 50 + i})
		v.ENIs[0].Groups = append(v.ENIs[0].Groups, id)
	}
	v.Addresses[0].Groups = v.ENIs[0].Groups
	p = compiled(t, v)
	if want := (plan.Groups{50, 51, 52, 53, 54}); p.ENIs[0].Groups != want || p.Addresses[2].Groups != want ||
		p.ENIs[0].EgressRules != 0 || !problem(p, "groups: 1 of ") {
		t.Errorf("too many groups: %+v, %+v, %v", p.ENIs[0], p.Addresses, p.Problems)
	}

	v = plantest.View(1, plantest.Workloads())
	l := &v.Endpoints[0].Listeners[0]
	l.Targets = nil
	for i := range plan.MaxTargets + 1 {
		l.Targets = append(l.Targets, api.ViewTarget{Address: netip.MustParseAddr("10.9.9.9"), Port: uint16(i + 1)})
	}
	p = compiled(t, v)
	i := slices.IndexFunc(p.TargetTables, func(x plan.TargetTable) bool { return strings.Contains(x.Text, "10.9.9.9:2000 100\n") })
	if i < 0 || strings.Contains(p.TargetTables[i].Text, ":2001 100\n") || !problem(p, "endpoints: targets: 1 of ") {
		t.Errorf("too many targets: %v", p.Problems)
	}

	v = plantest.View(1, plantest.Workloads())
	for i := range plan.MaxForwarders + 1 {
		v.VPCs[0].Forwarders = append(v.VPCs[0].Forwarders, fmt.Sprintf("tls://192.0.2.%d", i))
	}
	p = compiled(t, v)
	if !strings.HasSuffix(p.Zones[0].Forwarders, ",tls://192.0.2.7") || !problem(p, "forwarders: 1 of ") {
		t.Errorf("too many forwarders: %v, %v", p.Zones, p.Problems)
	}
}

func problem(p *plan.Plan, prefix string) bool {
	return slices.ContainsFunc(p.Problems, func(s string) bool { return strings.HasPrefix(s, prefix) })
}

// TestPaths: what a peer speaks for gets its path's MTU, unless it is the tunnel's; when there are too many, all flows get the
// least.
func TestPaths(t *testing.T) {
	v := plantest.View(1, plantest.Workloads())
	f := plantest.Facts(v)
	if len(v.Peers) != 1 {
		t.Fatalf("%d peers", len(v.Peers))
	}
	peer := v.Peers[0]
	tenants := slices.DeleteFunc(slices.Clone(peer.AllowedIPs), func(p netip.Prefix) bool { return p.Bits() > 96 })
	for _, c := range []struct{ measured, want uint16 }{
		{0, 0}, {1328, 1328}, {1200, 1200}, {900, 1200}, {f.Config.TunnelMTU, 0}, {9000, 0},
	} {
		f.PathMTU = map[string]uint16{peer.PublicKey: c.measured, "somebody else's": 1280}
		if c.measured == 0 {
			delete(f.PathMTU, peer.PublicKey)
		}
		p, err := plan.Compile(v, f)
		if err != nil {
			t.Fatal(err)
		}
		var want []plan.Path
		if c.want != 0 {
			for _, prefix := range tenants {
				want = append(want, plan.Path{Prefix: prefix, MTU: c.want})
			}
		}
		slices.SortFunc(want, func(a, b plan.Path) int { return strings.Compare(a.Key(), b.Key()) })
		if !slices.Equal(p.Paths, want) || p.Config.TunnelMTU != f.Config.TunnelMTU {
			t.Errorf("measured %d: %v, want %v", c.measured, p.Paths, want)
		}
	}
	f.PathMTU = map[string]uint16{peer.PublicKey: 1328}
	few := plenty
	few.Paths = len(tenants) - 1
	p, err := plan.CompileWithin(v, f, few)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Paths) != 0 || p.Config.TunnelMTU != 1328 || len(p.Problems) != 1 || !strings.Contains(p.Problems[0], "1328") {
		t.Errorf("too many: paths %v, tunnel MTU %d, problems %q", p.Paths, p.Config.TunnelMTU, p.Problems)
	}
}
