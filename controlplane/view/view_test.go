package view

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
)

// The definitions below are deliberately slow and share nothing with the code under test but types.

func hosts(r *api.Resources, node string, e *api.ENI) bool {
	return e.Type == api.ENIWorkload && e.Node == node && r.Nodes[node] != nil && r.Nodes[node].State != api.NodeRevoked
}

func hostsIn(r *api.Resources, node, vpc string) bool {
	for _, e := range r.ENIs {
		if e.VPC == vpc && hosts(r, node, e) {
			return true
		}
	}
	return false
}

func hostsTarget(r *api.Resources, node string, c *api.Connection) bool {
	for _, l := range r.LoadBalancers[c.LoadBalancer].Listeners {
		for _, t := range r.TargetGroups[l.TargetGroup].Targets {
			if hosts(r, node, r.ENIs[t.ENI]) {
				return true
			}
		}
	}
	return false
}

// speaks reports whether tenants' packets from peer in a VPC may reach node.
func speaks(r *api.Resources, node, peer, vpc string) bool {
	if hostsIn(r, node, vpc) && hostsIn(r, peer, vpc) {
		return true
	}
	for _, c := range r.Connections {
		if c.State != api.Available {
			continue
		}
		provider := r.LoadBalancers[c.LoadBalancer].VPC
		if vpc == provider && hostsIn(r, node, c.EndpointVPC) && hostsTarget(r, peer, c) {
			return true
		}
		if vpc == c.EndpointVPC && hostsTarget(r, node, c) && hostsIn(r, peer, c.EndpointVPC) {
			return true
		}
	}
	return false
}

func overlay(r *api.Resources, e *api.ENI) netip.Addr {
	return api.Overlay{Mesh: r.Mesh.Number, VPC: r.VPCs[e.VPC].Number, Host: api.AddrHost(e.Address), Tag: 0x8005}.Addr()
}

func contains(p *api.ViewPeer, a netip.Addr) bool {
	return p != nil && slices.ContainsFunc(p.AllowedIPs, func(x netip.Prefix) bool { return x.Contains(a) })
}

func TestPeersSpeakForExactlyWhatTheyHost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawWorld(t)
		for node := range r.Nodes {
			v := Compute(r, node)
			peers := map[string]*api.ViewPeer{}
			for i := range v.Peers {
				peers[v.Peers[i].Node] = &v.Peers[i]
			}
			for peer := range r.Nodes {
				want := false
				for vpc := range r.VPCs {
					want = want || peer != node && speaks(r, node, peer, vpc)
				}
				if (peers[peer] != nil) != want {
					t.Fatalf("%s has peer %s: %v, want %v", node, peer, !want, want)
				}
				if want && !contains(peers[peer], api.NodeAddr(r.Mesh.Number, r.Nodes[peer].Number)) {
					t.Fatalf("%s: peer %s lacks its host address", node, peer)
				}
				for _, e := range r.ENIs {
					want := peer != node && hosts(r, peer, e) && speaks(r, node, peer, e.VPC)
					if got := contains(peers[peer], overlay(r, e)); got != want {
						t.Fatalf("%s: peer %s speaks for %s (%s on %q): %v, want %v; blocks %v", node, peer, e.ID, e.Address,
							e.Node, got, want, peers[peer])
					}
				}
			}
			noOverlap(t, v)
		}
	})
}

func noOverlap(t *rapid.T, v *api.View) {
	for i, p := range v.Peers {
		for j, q := range v.Peers {
			for k, a := range p.AllowedIPs {
				for l, b := range q.AllowedIPs {
					if (i != j || k != l) && a.Overlaps(b) {
						t.Fatalf("%s gives %v to %s and %v to %s", v.Node.ID, a, p.Node, b, q.Node)
					}
				}
			}
		}
	}
}

// needed is the set of ids that a node may read, by kind of reason.
func needed(r *api.Resources, node string) map[string]bool {
	ok := map[string]bool{node: true}
	add := func(ids ...string) {
		for _, i := range ids {
			ok[i] = true
		}
	}
	localVPC := func(vpc string) {
		add(vpc, r.VPCs[vpc].Account)
		for _, e := range r.ENIs {
			if e.VPC == vpc {
				add(e.ID)
			}
		}
		for _, s := range r.Subnets {
			if s.VPC == vpc {
				add(s.ID)
			}
		}
		for _, g := range r.SecurityGroups {
			if g.VPC == vpc && g.Name != "spare" {
				add(g.ID)
			}
		}
	}
	for vpc := range r.VPCs {
		if hostsIn(r, node, vpc) {
			localVPC(vpc)
		}
		for peer := range r.Nodes {
			if speaks(r, node, peer, vpc) {
				add(peer)
			}
		}
	}
	for _, g := range r.TargetGroups {
		if slices.ContainsFunc(g.Targets, func(t api.Target) bool { return hosts(r, node, r.ENIs[t.ENI]) }) {
			add(g.ID) // whose health it reports
		}
	}
	for _, c := range r.Connections {
		lb := r.LoadBalancers[c.LoadBalancer]
		consumer, provider := hostsIn(r, node, c.EndpointVPC), hostsTarget(r, node, c)
		if c.State != api.Available || !consumer && !provider {
			continue
		}
		add(c.ID, c.Endpoint, c.Service, c.EndpointVPC, c.EndpointAccount, lb.VPC, lb.Account, c.Account)
		if consumer {
			for _, l := range lb.Listeners {
				add(l.ID)
			}
		}
	}
	return ok
}

func TestViewHoldsNothingThatTheNodeDoesNotNeed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawWorld(t)
		for node := range r.Nodes {
			v := Compute(r, node)
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), secret) {
				t.Fatalf("%s sees the description of a rule:\n%s", node, text)
			}
			ok := needed(r, node)
			for _, k := range api.Kinds {
				r.Each(k, func(res api.Resource) bool {
					// Names and messages hold ids of accounts; those are compared as whole words too.
					if i := res.GetMeta().ID; !ok[i] && strings.Contains(string(text), i) {
						t.Fatalf("%s sees %s %s:\n%s", node, k, i, text)
					}
					return true
				})
			}
			for _, lb := range r.LoadBalancers {
				for _, l := range lb.Listeners {
					if !ok[l.ID] && strings.Contains(string(text), l.ID) {
						t.Fatalf("%s sees %s", node, l.ID)
					}
				}
			}
			for peer, n := range r.Nodes {
				if !ok[peer] && (strings.Contains(string(text), n.PublicKey) || strings.Contains(string(text), n.Underlay[0])) {
					t.Fatalf("%s knows how to reach %s", node, peer)
				}
			}
			if v.Node.State != api.NodeRevoked {
				complete(t, r, v, node)
			}
		}
	})
}

// complete checks that the view holds what the node does need.
func complete(t *rapid.T, r *api.Resources, v *api.View, node string) {
	enis, addresses, endpoints, grants := 0, 0, 0, map[string]bool{}
	for _, e := range r.ENIs {
		if hosts(r, node, e) {
			enis++
		}
		if hostsIn(r, node, e.VPC) {
			addresses++
		}
	}
	for _, c := range r.Connections {
		if c.State != api.Available {
			continue
		}
		if hostsIn(r, node, c.EndpointVPC) {
			endpoints++
		}
		if hostsTarget(r, node, c) {
			grants[c.ID] = true
		}
	}
	got := map[string]bool{}
	for _, g := range v.Grants {
		got[g.Connection] = true
		if len(g.Targets) == 0 {
			t.Fatalf("grant %v without target", g)
		}
		for _, target := range g.Targets {
			if !hosts(r, node, r.ENIs[target.ENI]) {
				t.Fatalf("%s holds a grant for %s, which lives elsewhere", node, target.ENI)
			}
			if lb := r.ENIs[target.SNATENI]; lb.Type != api.ENILoadBalancer || lb.Address != target.Source ||
				r.Subnets[lb.Subnet].Zone != r.Subnets[r.ENIs[target.ENI].Subnet].Zone {
				t.Fatalf("source %s of target %s", target.SNATENI, target.ENI)
			}
		}
		if !slices.ContainsFunc(v.Admitted, func(a api.ViewAdmitted) bool { return a.Endpoint == g.Endpoint }) {
			t.Fatalf("grant %v admits nobody knows whom", g)
		}
	}
	for _, a := range v.Admitted {
		admits(t, r, a)
	}
	if len(v.ENIs) != enis || len(v.Addresses) != addresses || len(v.Endpoints) != endpoints ||
		!reflect.DeepEqual(got, grants) {
		t.Fatalf("%s: %d ENIs of %d, %d addresses of %d, %d endpoints of %d, grants %v of %v", node, len(v.ENIs), enis,
			len(v.Addresses), addresses, len(v.Endpoints), endpoints, got, grants)
	}
	for _, e := range v.Endpoints {
		for _, l := range e.Listeners {
			if len(l.TagNumbers) != len(e.ENIs) {
				t.Fatalf("listener %s: %d tags for %d ENIs", l.Listener, len(l.TagNumbers), len(e.ENIs))
			}
		}
	}
}

// A node knows the rules of the groups that it judges packets by, and of those that these name the number.
func TestGroupsOfAView(t *testing.T) {
	r := api.NewResources()
	put := func(name string, n uint32, names string) {
		r.Put(&api.SecurityGroup{Meta: api.Meta{ID: name}, VPC: "vpc-1", Number: n,
			Ingress: []api.Rule{{ID: "sgr-" + name, Protocol: api.All, Group: names, Description: secret}}})
	}
	for i, name := range []string{"sg-here", "sg-there", "sg-lb", "sg-vpce", "sg-named", "sg-far", "sg-spare"} {
		put(name, uint32(i+1), map[string]string{"sg-here": "sg-named", "sg-named": "sg-far"}[name])
	}
	r.Put(&api.VPC{Meta: api.Meta{ID: "vpc-1"}, Number: 1, CIDR: netip.MustParsePrefix("10.0.0.0/24")})
	for i, node := range []string{"node-1", "node-2"} {
		r.Put(&api.Node{Meta: api.Meta{ID: node}, Number: uint32(i + 1), State: api.NodeReady})
	}
	for i, e := range []api.ENI{
		{Type: api.ENIWorkload, Node: "node-1", SecurityGroups: []string{"sg-here"}},
		{Type: api.ENIWorkload, Node: "node-2", SecurityGroups: []string{"sg-there"}},
		{Type: api.ENILoadBalancer, SecurityGroups: []string{"sg-lb"}},
		{Type: api.ENIEndpoint, SecurityGroups: []string{"sg-vpce"}},
	} {
		e.ID, e.VPC, e.Number = id(api.KindENI, i), "vpc-1", uint32(i+1)
		e.Address = netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + i)})
		r.Put(&e)
	}
	got := map[string]int{}
	for _, g := range Compute(r, "node-1").Groups {
		got[g.ID] = len(g.Ingress)
		if len(g.Ingress) > 0 && g.Ingress[0].Description != "" {
			t.Errorf("described: %v", g)
		}
	}
	want := map[string]int{"sg-here": 1, "sg-lb": 1, "sg-vpce": 1, "sg-there": 0, "sg-named": 0}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("groups and their rules %v, want %v", got, want)
	}
	if r.SecurityGroups["sg-here"].Ingress[0].Description != secret {
		t.Error("the picture was changed")
	}
}

// admits checks whom an endpoint lets in against its groups, for the first address of every rule and all interfaces.
func admits(t *rapid.T, r *api.Resources, a api.ViewAdmitted) {
	if a.LeftOut != "" {
		t.Fatalf("%s: %s", a.Endpoint, a.LeftOut)
	}
	e := r.Endpoints[a.Endpoint]
	g := r.SecurityGroups[e.SecurityGroups[0]]
	for _, rule := range a.Rules {
		if rule.Group != "" || !rule.CIDR.IsValid() || rule.Description != "" {
			t.Fatalf("%s admits %v", a.Endpoint, rule)
		}
	}
	for _, n := range r.ENIs {
		v6 := api.IPv6Address(r.Mesh.Number, r.VPCs[n.VPC].Number, n.Address)
		for address, has := range map[netip.Addr]bool{n.Address: n.IPAddressType != api.IPv6Only,
			v6: n.IPAddressType == api.IPv6Only || n.IPAddressType == api.DualStack} {
			want := has && n.VPC == e.VPC && n.Type == api.ENIWorkload && slices.Contains(n.SecurityGroups, g.Ingress[0].Group)
			got := slices.ContainsFunc(a.Rules, func(x api.Rule) bool {
				return x.ID == g.Ingress[0].ID && x.CIDR.Contains(address)
			})
			if (n.VPC == e.VPC || address.Is6()) && got != want {
				t.Fatalf("%s admits %s of %s (%s): %v, want %v", a.Endpoint, address, n.ID, n.Type, got, want)
			}
		}
	}
}

func TestCoverIsExactAndSmall(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := map[netip.Addr]bool{}
		var list []netip.Addr
		for _, n := range rapid.SliceOf(rapid.ByteMax(40)).Draw(t, "addresses") {
			a := netip.AddrFrom4([4]byte{10, 0, 0, n})
			in[a] = true
			list = append(list, a)
		}
		got := Cover(list)
		for n := range byte(64) {
			a := netip.AddrFrom4([4]byte{10, 0, 0, n})
			covered := 0
			for _, p := range got {
				if p.Contains(a) {
					covered++
				}
			}
			if covered > 1 || (covered == 1) != in[a] {
				t.Fatalf("%v holds %s %d times, want %v", got, a, covered, in[a])
			}
		}
		for i, p := range got { // no two halves of one
			for _, q := range got[:i] {
				if p.Bits() == q.Bits() && netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked().Contains(q.Addr()) {
					t.Fatalf("%s and %s are one", p, q)
				}
			}
		}
	})
	if all := Cover(nil); len(all) != 0 {
		t.Errorf("nothing is %v", all)
	}
}

func TestViewIsDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawWorld(t)
		for node := range r.Nodes {
			a, _ := json.Marshal(Compute(r, node))
			b, _ := json.Marshal(Compute(r, node))
			if string(a) != string(b) {
				t.Fatalf("two views of one picture:\n%s\n%s", a, b)
			}
		}
	})
	if Compute(api.NewResources(), "node-x") != nil {
		t.Error("a view for no node")
	}
}

func TestSplitCoversAllButTheHoles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := netip.PrefixFrom(netip.MustParseAddr("10.0.0.16"), rapid.IntRange(28, 32).Draw(t, "bits")).Masked()
		holes := map[netip.Addr]bool{}
		for _, n := range rapid.SliceOf(rapid.IntRange(0, 40)).Draw(t, "holes") {
			holes[netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})] = true
		}
		var list []netip.Addr
		for a := range holes {
			list = append(list, a)
		}
		got := Split(p, list)
		for n := range 64 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})
			covered := 0
			for _, q := range got {
				if q.Contains(a) {
					covered++
				}
			}
			want := 0
			if p.Contains(a) && !holes[a] {
				want = 1
			}
			if covered != want {
				t.Fatalf("%s without %v = %v: %s is covered %d times", p, list, got, a, covered)
			}
		}
	})
}

func TestNames(t *testing.T) {
	service := &api.Service{Meta: api.Meta{ID: "vpce-svc-1", Name: "ledger"}}
	got := DNSNames("vpce-1", service, "pay", "north", []string{"b", "a", "b"})
	long := "vpce-1-" + api.EndpointSuffix("vpce-1")
	want := []string{"vpce-1.ledger.pay.vpce.culvert.internal", "vpce-1-a.ledger.pay.vpce.culvert.internal",
		"vpce-1-b.ledger.pay.vpce.culvert.internal", long + ".vpce-svc-1.north.vpce.culvert.internal",
		long + "-a.vpce-svc-1.north.vpce.culvert.internal", long + "-b.vpce-svc-1.north.vpce.culvert.internal"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// The longest names that there are fit DNS.
func TestNamesFit(t *testing.T) {
	long := strings.Repeat("a", api.MaxNameLen)
	id := func(k api.Kind) string { return api.MakeID(k.Prefix(), [9]byte{}) }
	service := &api.Service{Meta: api.Meta{ID: id(api.KindService), Name: long}}
	for _, n := range DNSNames(id(api.KindEndpoint), service, long, long, []string{strings.Repeat("z", api.MaxZoneLen)}) {
		if !api.ValidRecordName(n) {
			t.Errorf("%q is no DNS name", n)
		}
	}
}

// Of endpoints with a private name in common one answers in each VPC, and which one changes in one step.
func TestPrivateNamesMove(t *testing.T) {
	w := newCrowded()
	w.put(0, api.ENIWorkload, 2)
	w.vpc(1, "shop", 1)
	w.put(1, api.ENIWorkload, 1)
	w.vpc(2, "club", 1)
	w.put(2, api.ENIWorkload, 1)
	s := *w.r.Services["svc-1"]
	s.SetPrivateNames([]string{"ledger.pay.internal", "*.pay.internal"})
	w.r.Put(&s)
	var made []string
	for _, in := range [][2]int{{1, 0}, {1, 1}, {2, 0}} {
		before := len(w.r.Endpoints)
		w.endpoint(in[0], in[1], 1)
		if len(w.r.Endpoints) != before+1 {
			t.Fatal("no endpoint was made")
		}
		for id := range w.r.Endpoints {
			if !slices.Contains(made, id) {
				made = append(made, id)
			}
		}
	}
	set := func(i int, priority uint16) {
		e := *w.r.Endpoints[made[i]]
		e.PrivateDNSEnabled, e.PrivateDNSPriority = true, priority
		w.r.Put(&e)
	}
	check := func(when string, want int) {
		t.Helper()
		by := map[string]map[string]bool{} // by VPC and name: endpoints
		v := Compute(w.r, id(api.KindNode, 1))
		stands := map[string]bool{}
		for _, n := range v.StandbyNames {
			stands[n.Endpoint] = true
			if n.Rank != 1 || !slices.Contains(s.PrivateNames(), n.Name) {
				t.Errorf("%s: stands by: %+v", when, n)
			}
		}
		if other := made[1-want]; len(stands) > 1 || stands[other] != (w.r.Connections[w.r.Endpoints[other].Connection].State == api.Available &&
			w.r.Endpoints[other].PrivateDNSEnabled) {
			t.Errorf("%s: %v stand by", when, stands)
		}
		for _, n := range v.Names {
			if slices.Contains(s.PrivateNames(), n.Name) {
				key := fmt.Sprintf("%d %s", n.VPC, n.Name)
				if by[key] == nil {
					by[key] = map[string]bool{}
				}
				by[key][n.Endpoint] = true
			}
		}
		if len(by) != 4 {
			t.Fatalf("%s: names %v", when, by)
		}
		first := w.r.VPCs[w.r.Endpoints[made[0]].VPC].Number
		for _, name := range s.PrivateNames() {
			if got := by[fmt.Sprintf("%d %s", first, name)]; len(got) != 1 || !got[made[want]] {
				t.Errorf("%s: %s is answered by %v, want %s alone", when, name, got, made[want])
			}
		}
	}
	set(0, 0)
	set(1, 200)
	set(2, 0)
	check("a second one stands by", 0)
	set(1, 50)
	check("it goes first", 1)
	set(1, api.DefaultPrivateDNSPriority)
	check("equal: the older one keeps it", 0)
	con := *w.r.Connections[w.r.Endpoints[made[0]].Connection]
	con.State = api.Rejected
	w.r.Put(&con)
	check("the first is rejected", 1)
}
