package view

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"github.com/culvert-net/culvert/api"
)

// crowded is a mesh in which one account, "evil", has many endpoints to a service on node-2. Every endpoint lets the workloads
// and the endpoints of its VPC in, by as many rules as a group may have.
type crowded struct {
	r    *api.Resources
	eni  int
	tags int
}

func newCrowded() *crowded {
	c := &crowded{r: api.NewResources()}
	c.r.Mesh = api.Mesh{Number: 0xabcdef}
	for i := range 2 {
		c.r.Put(&api.Node{Meta: api.Meta{ID: id(api.KindNode, i+1)}, Number: uint32(i + 1), State: api.NodeReady})
	}
	for _, account := range []string{"evil", "pay"} {
		c.r.Put(&api.Account{Meta: api.Meta{ID: account, Name: account}})
	}
	c.vpc(0, "pay", 1)
	ledger := c.put(0, api.ENIWorkload, 2)
	c.r.Put(&api.TargetGroup{Meta: api.Meta{ID: "tg-1"}, VPC: vpcID(0), Port: 8443, Targets: []api.Target{{ENI: ledger.ID, Weight: api.DefaultTargetWeight}}})
	lb := &api.LoadBalancer{Meta: api.Meta{ID: "lb-1", Account: "pay"}, VPC: vpcID(0), SecurityGroups: []string{groupID(0)},
		Listeners: []api.Listener{{ID: "listener-1", Protocol: api.TCP, Port: 443, TargetGroup: "tg-1", IdleTimeoutSeconds: 350}}}
	lb.ENIs = []string{c.put(0, api.ENILoadBalancer, 0).ID}
	c.r.Put(lb)
	c.r.Put(&api.Service{Meta: api.Meta{ID: "svc-1", Account: "pay", Name: "ledger"}, LoadBalancers: []string{"lb-1"}})
	return c
}

func vpcID(n int) string   { return id(api.KindVPC, n+1) }
func groupID(n int) string { return id(api.KindSecurityGroup, n+1) }

func (c *crowded) vpc(n int, account string, rules int) {
	c.r.Put(&api.VPC{Meta: api.Meta{ID: vpcID(n), Account: account}, Number: uint32(n + 1), CIDR: netip.MustParsePrefix("10.0.0.0/16")})
	for i := range 16 {
		c.r.Put(&api.Subnet{Meta: api.Meta{ID: subnetID(n, i), Account: account}, VPC: vpcID(n), Zone: fmt.Sprint("z", i)})
	}
	g := &api.SecurityGroup{Meta: api.Meta{ID: groupID(n), Account: account}, VPC: vpcID(n), Number: uint32(n + 1)}
	for i := range rules {
		r := api.Rule{ID: fmt.Sprintf("sgr-%05d%012d", n, i), Protocol: api.TCP, FromPort: uint16(i + 1), ToPort: 65535, Group: g.ID}
		g.Ingress = append(g.Ingress, r)
	}
	c.r.Put(g)
}

func subnetID(vpc, n int) string { return id(api.KindSubnet, 100*vpc+n) }

// put makes an interface with every second address, so that no two make one prefix.
func (c *crowded) put(vpc int, typ api.ENIType, node int) *api.ENI {
	c.eni++
	e := &api.ENI{Meta: api.Meta{ID: id(api.KindENI, c.eni), Account: c.r.VPCs[vpcID(vpc)].Account}, Type: typ, VPC: vpcID(vpc),
		Number: uint32(c.eni), Subnet: subnetID(vpc, c.eni%16), SecurityGroups: []string{groupID(vpc)},
		Address: netip.AddrFrom4([4]byte{10, 0, byte(c.eni >> 7), byte(c.eni << 1)})}
	if node != 0 {
		e.Node = id(api.KindNode, node)
	}
	c.r.Put(e)
	return e
}

func (c *crowded) endpoint(vpc, n, addresses int) {
	account := c.r.VPCs[vpcID(vpc)].Account
	number := 1000*vpc + n
	e := &api.Endpoint{Meta: api.Meta{ID: id(api.KindEndpoint, number), Account: account}, VPC: vpcID(vpc), Service: "svc-1",
		State: api.Available, ServiceName: "pay/ledger", SecurityGroups: []string{groupID(vpc)}}
	con := &api.Connection{Meta: api.Meta{ID: id(api.KindConnection, number), Account: "pay"}, EndpointAccount: account,
		EndpointVPC: vpcID(vpc), Service: "svc-1", LoadBalancer: "lb-1", Endpoint: e.ID, State: api.Available, Number: uint32(number)}
	e.Connection = con.ID
	for range addresses {
		c.tags++
		eni := c.put(vpc, api.ENIEndpoint, 0)
		e.ENIs = append(e.ENIs, eni.ID)
		con.TagNumbers = append(con.TagNumbers, api.TagNumber{ENI: eni.ID, Listener: "listener-1", Number: uint16(c.tags)})
	}
	c.r.Put(e)
	c.r.Put(con)
}

// One account has 511 endpoints with an address in 16 zones each, and everything in one group that lets itself in, by as many
// rules as the datapath holds. The provider's node still gets a view of a size that it takes.
func TestNoAccountMakesAViewLarge(t *testing.T) {
	const limit = 8 << 20
	for _, c := range []struct {
		name             string
		rules, workloads int
	}{
		{"many rules", 60, 5}, {"many members", 1, 320}, {"too many of both", 60, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newCrowded()
			for vpc := 1; vpc <= 11; vpc++ {
				w.vpc(vpc, "evil", c.rules)
				for range c.workloads {
					w.put(vpc, api.ENIWorkload, 1)
				}
				for n := range 47 {
					if len(w.r.Endpoints) < 511 {
						w.endpoint(vpc, n, 16)
					}
				}
			}
			v := Compute(w.r, id(api.KindNode, 2))
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d endpoints, %d grants, %d bytes", len(w.r.Endpoints), len(v.Grants), len(text))
			if len(v.Grants) != 511*16 || len(v.Admitted) != 511 || len(text) > limit {
				t.Errorf("%d grants, %d lists of rules, %d bytes", len(v.Grants), len(v.Admitted), len(text))
			}
			rules, left := 0, 0
			for _, a := range v.Admitted {
				rules += len(a.Rules)
				if a.LeftOut != "" {
					left++
				}
			}
			if rules > api.MaxAdmittedRulesPerNodeAndAccount || rules+left == 0 {
				t.Errorf("%d rules, %d endpoints without", rules, left)
			}
		})
	}
}

// The oldest endpoints of an account keep their rules, and another account's are not touched.
func TestConsumersShareTheRules(t *testing.T) {
	w := newCrowded()
	w.vpc(1, "evil", 60)
	w.vpc(2, "shop", 60)
	for range 5 {
		w.put(1, api.ENIWorkload, 1)
		w.put(2, api.ENIWorkload, 1)
	}
	for n := range 60 {
		w.endpoint(1, n, 1)
	}
	w.endpoint(2, 0, 1) // younger than all of evil's
	const fit = api.MaxAdmittedRulesPerNodeAndAccount / 300
	for i, a := range Compute(w.r, id(api.KindNode, 2)).Admitted {
		if in := i < fit || w.r.Endpoints[a.Endpoint].Account == "shop"; in != (len(a.Rules) == 300) || in != (a.LeftOut == "") {
			t.Errorf("endpoint %d of %s: %d rules, left out: %q", i, w.r.Endpoints[a.Endpoint].Account, len(a.Rules), a.LeftOut)
		}
	}
}

func TestAdmitted(t *testing.T) {
	w := newCrowded()
	w.vpc(1, "shop", 0)
	for range 3 {
		w.put(1, api.ENIWorkload, 1)
	}
	w.endpoint(1, 0, 2) // its own interfaces are in the group, too
	e := w.r.Endpoints[id(api.KindEndpoint, 1000)]
	wide := netip.MustParsePrefix("10.0.0.0/8")
	for i, rules := range [][]api.Rule{
		{{ID: "sgr-b", Protocol: api.TCP, FromPort: 443, ToPort: 443, CIDR: wide, Description: secret}},
		{{ID: "sgr-a", Protocol: api.TCP, FromPort: 443, ToPort: 443, CIDR: wide},
			{ID: "sgr-c", Protocol: api.TCP, FromPort: 1, ToPort: 1, Group: groupID(1)}},
	} {
		g := &api.SecurityGroup{Meta: api.Meta{ID: fmt.Sprint("sg-", i)}, VPC: vpcID(1), Number: uint32(50 + i), Ingress: rules}
		w.r.Put(g)
		e.SecurityGroups = append(e.SecurityGroups, g.ID)
	}
	lists := func() []api.ViewAdmitted { return Compute(w.r, id(api.KindNode, 2)).Admitted }
	got := lists()
	if len(got) != 1 || len(got[0].Rules) != 4 || got[0].Rules[0] != w.r.SecurityGroups["sg-1"].Ingress[0] {
		t.Errorf("admitted %+v", got)
	}
	for n := 4; n <= api.MaxRulesPerSet; n++ {
		w.put(1, api.ENIWorkload, 1)
	}
	if got := lists(); len(got[0].Rules) != 0 || got[0].LeftOut == "" {
		t.Errorf("one too many: %d rules, left out: %q", len(got[0].Rules), got[0].LeftOut)
	}
	w.r.Remove(api.KindENI, id(api.KindENI, w.eni))
	if got := lists(); len(got[0].Rules) != api.MaxRulesPerSet || got[0].LeftOut != "" {
		t.Errorf("as many as there may be: %d rules, left out: %q", len(got[0].Rules), got[0].LeftOut)
	}
}

// An account's groups, all full and all in use, do not make a view large either; the oldest keep their rules, and others' theirs.
func TestAccountsShareTheGroupsRules(t *testing.T) {
	w := newCrowded()
	full := api.MaxGroupRulesPerNodeAndAccount / 60
	for vpc := 1; vpc <= 3; vpc++ {
		w.vpc(vpc, "evil", 0)
		for n := range 250 {
			e := w.put(vpc, api.ENIWorkload, 1)
			g := &api.SecurityGroup{Meta: api.Meta{ID: id(api.KindSecurityGroup, 1000*vpc+n), Account: "evil"}, VPC: vpcID(vpc),
				Number: uint32(1000*vpc + n)}
			for i := range 60 {
				g.Ingress = append(g.Ingress, api.Rule{ID: fmt.Sprintf("sgr-%05d%012d", g.Number, i), Protocol: api.TCP, FromPort: 443,
					ToPort: 65535, Group: g.ID, Description: secret})
			}
			e.SecurityGroups = []string{g.ID}
			w.r.Put(g)
		}
	}
	w.vpc(4, "shop", 60) // with the highest number
	w.r.SecurityGroups[groupID(4)].Number = 9999
	w.put(4, api.ENIWorkload, 1)
	v := Compute(w.r, id(api.KindNode, 1))
	if len(v.Groups) != 751 {
		t.Fatalf("%d groups", len(v.Groups))
	}
	for i, g := range v.Groups { // by id, which is by age
		in := i <= full || g.ID == groupID(4) // shop's is the first
		if in != (len(g.Ingress) == 60) || in != (g.LeftOut == "") {
			t.Errorf("group %d, %s: %d rules, left out: %q", i, g.ID, len(g.Ingress), g.LeftOut)
		}
	}
}

// Targets behind many listeners, on however many other nodes, neither make a view large nor close another account's endpoints.
func TestAccountsShareTheTargets(t *testing.T) {
	const limit = 8 << 20
	w := newCrowded()
	w.vpc(1, "evil", 1)
	w.vpc(2, "shop", 1)
	w.put(1, api.ENIWorkload, 1)
	w.put(2, api.ENIWorkload, 1)
	many := &api.TargetGroup{Meta: api.Meta{ID: "tg-2"}, VPC: vpcID(1), Port: 1, Number: 2}
	target := w.put(1, api.ENIWorkload, 2)
	for port := range api.MaxTargetsPerGroup {
		many.Targets = append(many.Targets, api.Target{ENI: target.ID, Port: uint16(port + 1), Weight: api.DefaultTargetWeight})
	}
	w.r.Put(many)
	for n := range 20 {
		b := &api.LoadBalancer{Meta: api.Meta{ID: fmt.Sprintf("lb-evil-%02d", n), Account: "evil"}, VPC: vpcID(1), Number: uint32(n + 1)}
		for port := range 10 {
			b.Listeners = append(b.Listeners, api.Listener{ID: fmt.Sprintf("listener-%d-%d", n, port), Protocol: api.TCP,
				Port: uint16(port + 1), TargetGroup: many.ID, IdleTimeoutSeconds: 350})
		}
		w.r.Put(b)
	}
	w.endpoint(2, 0, 1) // younger than all of evil's
	v := Compute(w.r, id(api.KindNode, 1))
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > limit {
		t.Errorf("%d bytes", len(text))
	}
	const fit = api.MaxListedTargetsPerNodeAndAccount / (10 * api.MaxTargetsPerGroup)
	for i, b := range v.LoadBalancers {
		if in := i < fit; in != (len(b.Listeners) == 10) || in != (b.LeftOut == "") {
			t.Errorf("%s: %d listeners, left out: %q", b.ID, len(b.Listeners), b.LeftOut)
		}
	}
	if len(v.LoadBalancers) != 20 || len(v.Endpoints) != 1 || len(v.Endpoints[0].Listeners) != 1 {
		t.Errorf("%d load balancers, endpoints %+v", len(v.LoadBalancers), v.Endpoints)
	}
}
