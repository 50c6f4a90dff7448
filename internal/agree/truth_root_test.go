package agree

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/worlds"
	"github.com/culvert-net/culvert/judge"
)

// truthCells is how many cells the truth table has at least.
const truthCells = 100_000

// batchMost bounds what is under way at once: the receive queue of a CPU holds 1000 packets, a TUN more.
const batchMost = 400

// truthStates are what three accounts do one after the other; the table is asked again in each.
var truthStates = []struct {
	name   string
	change func(*rand.Rand, *api.Resources)
}{
	{"as made", func(*rand.Rand, *api.Resources) {}},
	{"fewer ingress rules", func(_ *rand.Rand, r *api.Resources) {
		eachGroup(r, func(g *api.SecurityGroup) { g.Ingress = everyOther(g.Ingress) })
	}},
	{"fewer egress rules", func(_ *rand.Rand, r *api.Resources) {
		eachGroup(r, func(g *api.SecurityGroup) { g.Egress = everyOther(g.Egress) })
	}},
	{"connections rejected", func(_ *rand.Rand, r *api.Resources) {
		for i, id := range slices.Sorted(maps.Keys(r.Connections)) {
			if i%2 == 0 {
				r.Connections[id].State = api.Rejected
			}
		}
	}},
	{"all connections available, all sources let out", func(_ *rand.Rand, r *api.Resources) {
		for _, c := range r.Connections {
			c.State = api.Available
		}
		eachGroup(r, func(g *api.SecurityGroup) { g.Egress = append(g.Egress, allowAll("out", g)...) })
	}},
	{"targets drain", func(_ *rand.Rand, r *api.Resources) {
		for _, g := range r.TargetGroups {
			if len(g.Targets) > 0 {
				t := g.Targets[0]
				if t.Port == 0 {
					t.Port = g.Port
				}
				g.Targets, g.Draining = slices.Clone(g.Targets[1:]), append(g.Draining, api.DrainingTarget{ENI: t.ENI, Port: t.Port})
			}
		}
	}},
	{"other zones, other stickiness", func(_ *rand.Rand, r *api.Resources) {
		for _, lb := range r.LoadBalancers {
			lb.CrossZone = !lb.CrossZone
		}
		for _, g := range r.TargetGroups {
			g.Stickiness = map[string]string{"": api.SourceIP}[g.Stickiness]
		}
	}},
	{"workloads of other families", func(_ *rand.Rand, r *api.Resources) {
		for i, id := range slices.Sorted(maps.Keys(r.ENIs)) {
			if e := r.ENIs[id]; e.Type == api.ENIWorkload && e.VPC != fenceVPC {
				e.IPAddressType = []api.IPAddressType{api.IPv4Only, api.IPv6Only, api.DualStack}[i%3]
			}
		}
	}},
	{"targets are told of their clients", func(_ *rand.Rand, r *api.Resources) { identify(r, api.IdentityProxyProtocol) }},
	{"targets see their clients' own addresses", func(_ *rand.Rand, r *api.Resources) { identify(r, api.IdentityClientAddress) }},
	{"targets see load balancers", func(_ *rand.Rand, r *api.Resources) { identify(r, api.IdentityLoadBalancer) }},
	{"egress to the first half of each VPC", func(_ *rand.Rand, r *api.Resources) {
		eachGroup(r, func(g *api.SecurityGroup) {
			g.Egress = []api.Rule{{ID: "sgr-half" + g.ID, Protocol: api.All, CIDR: netip.MustParsePrefix("10.0.0.0/26")},
				{ID: "sgr-half6" + g.ID, Protocol: api.TCP, FromPort: 1, ToPort: 8080, CIDR: netip.MustParsePrefix("::/0")}}
		})
	}},
	{"load balancers let all in", func(_ *rand.Rand, r *api.Resources) {
		for _, lb := range r.LoadBalancers {
			for _, id := range lb.SecurityGroups {
				g := r.SecurityGroups[id]
				g.Ingress = append(g.Ingress, allowAll("in", g)...)
			}
		}
	}},
	{"interfaces exchange their groups", func(rng *rand.Rand, r *api.Resources) {
		for _, id := range slices.Sorted(maps.Keys(r.ENIs)) {
			e := r.ENIs[id]
			if e.VPC == fenceVPC || e.Owner != "" { // those of endpoints and load balancers are their owners'
				continue
			}
			own := groupsOf(r, e.VPC)
			e.SecurityGroups = []string{own[rng.IntN(len(own))]}
		}
	}},
	{"a workload of each account is gone from its node", func(_ *rand.Rand, r *api.Resources) {
		gone := map[string]bool{fenceVPC: true}
		for _, id := range slices.Sorted(maps.Keys(r.ENIs)) {
			if e := r.ENIs[id]; e.Node != "" && !gone[e.VPC] {
				gone[e.VPC], e.Node = true, ""
			}
		}
	}},
	{"one listener less, weights gone", func(_ *rand.Rand, r *api.Resources) {
		for _, lb := range r.LoadBalancers {
			lb.Listeners = lb.Listeners[1:]
		}
		for _, g := range r.TargetGroups {
			for i := range g.Targets {
				g.Targets[i].Weight = uint16(100 * (i % 2))
			}
		}
	}},
}

func identify(r *api.Resources, identity api.ClientIdentity) {
	for _, s := range r.Services {
		s.ClientIdentity = identity
	}
}

// showsClient: the receiver sees an address of the overlay that has a number, its client's own.
func showsClient(v judge.Verdict) bool {
	o, ok := api.ParseOverlay(v.Source)
	return ok && o.Tag&^api.TagFamilyIPv4 != 0
}

func eachGroup(r *api.Resources, f func(*api.SecurityGroup)) {
	for _, g := range r.SecurityGroups {
		if g.VPC != fenceVPC {
			f(g)
		}
	}
}

func groupsOf(r *api.Resources, vpc string) (ids []string) {
	for _, id := range slices.Sorted(maps.Keys(r.SecurityGroups)) {
		if r.SecurityGroups[id].VPC == vpc {
			ids = append(ids, id)
		}
	}
	return ids
}

func everyOther(rules []api.Rule) (out []api.Rule) {
	for i := 1; i < len(rules); i += 2 {
		out = append(out, rules[i])
	}
	return out
}

func allowAll(what string, g *api.SecurityGroup) []api.Rule {
	return []api.Rule{
		{ID: "sgr-" + what + g.ID, Protocol: api.All, CIDR: netip.MustParsePrefix("0.0.0.0/0")},
		{ID: "sgr-" + what + "6" + g.ID, Protocol: api.All, CIDR: netip.MustParsePrefix("::/0")},
	}
}

// threeAccounts is the first random world with enough in it: three nodes, three accounts of overlapping VPCs, endpoints
// from one to another.
func threeAccounts() *api.Resources {
	for seed := uint64(0); ; seed++ {
		rng := rand.New(rand.NewPCG(seed, 0))
		r := worlds.New(rng, worlds.Size{Nodes: 3, VPCs: 3, Workloads: 16, Endpoints: 8})
		crossing, placed := 0, 0
		for _, c := range r.Connections {
			if c.EndpointVPC != r.LoadBalancers[c.LoadBalancer].VPC {
				crossing++
			}
		}
		for _, e := range r.ENIs {
			if e.Type == api.ENIWorkload && e.Node != "" {
				placed++
			}
		}
		if len(r.Nodes) < 3 || len(r.Accounts) < 3 || len(r.LoadBalancers) < 3 || crossing < 4 || placed < 12 {
			continue
		}
		for _, n := range r.Nodes {
			n.State = api.NodeReady
		}
		worlds.AddFamilies(rng, r)
		for _, e := range r.ENIs {
			e.IPAddressType = api.DualStack
		}
		reasons := map[string]int{}
		for _, c := range cells(r) {
			reasons[judge.Judge(r, judge.Packet{From: c.src.ID, To: c.dest, Protocol: c.protocol, Port: c.port}).Reason]++
		}
		if reasons[judge.LBGroupIngress] > 0 && reasons[judge.LBGroupEgress] > 0 && reasons[judge.Forwarded] > 500 {
			return r
		}
	}
}

// The truth table on real interfaces: for every (source, destination, protocol, port) of three accounts with overlapping
// addresses, in each state of theirs, one packet does what the judge says of it. What is let through arrives once, at the
// interface, from the address and at the port named. What is refused is counted by the node that refuses it, for the reason
// named, and nobody has received it when packets sent later have arrived.
func TestTruthTable(t *testing.T) {
	r := threeAccounts()
	fences := addFences(r)
	n := newTruthNet(t, r, fences)
	rng := rand.New(rand.NewPCG(1, 2))
	reasons := map[string]int{}
	cell, shown := 0, 0
	for _, state := range truthStates {
		state.change(rng, r)
		n.apply(r)
		before := cell
		for _, b := range batches(r, &cell) {
			n.ask(state.name, r, b)
			for _, c := range b {
				reasons[c.want.Reason]++
				if showsClient(c.want) {
					shown++
				}
			}
			if t.Failed() {
				t.FailNow()
			}
		}
		t.Logf("%6d cells: %s", cell-before, state.name)
	}
	t.Logf("%d cells, %d whose receiver sees the client's own address, %v", cell, shown, reasons)
	if shown == 0 {
		t.Error("no target sees its client")
	}
	if cell < truthCells {
		t.Errorf("%d cells, want %d", cell, truthCells)
	}
	for _, reason := range []string{
		judge.Forwarded, judge.NotIP, judge.NoDestination, judge.NotHere, judge.NoListener, judge.NoTarget,
		judge.HostNotAdmitted, judge.GroupEgress, judge.GroupIngress, judge.EndpointGroup, judge.LBGroupIngress,
		judge.LBGroupEgress,
	} {
		if reasons[reason] == 0 {
			t.Errorf("no cell is %s", reason)
		}
	}
}

// truthCell is a cell with its number, which its packet carries, and what must become of it.
type truthCell struct {
	cell
	number uint32
	want   judge.Verdict
	// of the targets that may be chosen some say one thing and some another: it goes alone
	alone bool
}

func (c truthCell) String() string { return fmt.Sprintf("cell %d, %s", c.number, c.cell) }

// batches sorts cells by source and by what must become of them, so that a batch has one reason.
func batches(r *api.Resources, next *int) [][]truthCell {
	var out [][]truthCell
	open := map[string]int{} // place in out
	for _, c := range cells(r) {
		*next++
		x := truthCell{cell: c, number: uint32(*next)}
		x.want = judge.Judge(r, judge.Packet{From: c.src.ID, To: c.dest, Protocol: c.protocol, Port: c.port})
		for _, w := range x.want.Targets {
			x.alone = x.alone || w.Reason != x.want.Reason
		}
		key := c.src.ID + x.want.Reason
		i, ok := open[key]
		if x.alone || !ok || len(out[i]) >= batchMost {
			i = len(out)
			out = append(out, nil)
			if !x.alone {
				open[key] = i
			}
		}
		out[i] = append(out[i], x)
	}
	return out
}
