package agree

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/internal/worlds"
	"github.com/culvert-net/culvert/judge"
)

// opened is a flow of a drawn world, with what its receiver got.
type opened struct {
	cell cell
	sent plantest.IP
	got  arrival
}

// drawWorld is a random world; half of them speak both families.
func drawWorld(rt *rapid.T) *api.Resources {
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "world"), 0))
	r := worlds.New(rng, worlds.Size{Nodes: 3, VPCs: 3, Workloads: 12, Endpoints: 6, Twins: true})
	if rapid.Bool().Draw(rt, "families") {
		worlds.AddFamilies(rng, r)
	}
	openGroups(r, func() bool { return rapid.IntRange(0, 3).Draw(rt, "open") > 0 })
	return r
}

// openGroups has security groups, those that are drawn, allow everything, so that much is let through.
func openGroups(r *api.Resources, drawn func() bool) {
	for _, id := range slices.Sorted(maps.Keys(r.SecurityGroups)) {
		if g := r.SecurityGroups[id]; drawn() {
			g.Ingress, g.Egress = append(g.Ingress, allowAll("in", g)...), append(g.Egress, allowAll("out", g)...)
		}
	}
}

// drawCells are some of a world's cells, most of them such as the judge lets through, and of those most by a connection or a load
// balancer. Some ask an endpoint that leads nowhere, and some come with a twin: a source of another VPC with the same address that
// reaches the same target.
func drawCells(rt *rapid.T, r *api.Resources, n int) []cell {
	all := cells(r)
	var allowed, via, cut []cell
	var twins twins
	for _, c := range all {
		v := judge.Judge(r, judge.Packet{From: c.src.ID, To: c.dest, Protocol: c.protocol, Port: c.port})
		if v.Allowed && v.Via != "" {
			via = append(via, c)
			twins.add(c, v)
		} else if v.Allowed {
			allowed = append(allowed, c)
		} else if v.Via != "" {
			cut = append(cut, c)
		}
	}
	pairs := twins.pairs()
	var out []cell
	for range n {
		from := [][]cell{via, via, via, via, allowed, cut, all, nil}[rapid.IntRange(0, 7).Draw(rt, "from")]
		if len(from) > 0 {
			out = append(out, from[rapid.IntRange(0, len(from)-1).Draw(rt, "cell")])
		} else if len(pairs) > 0 {
			out = append(out, pairs[rapid.IntRange(0, len(pairs)-1).Draw(rt, "twins")]...)
		}
	}
	return out
}

// twins are cells of connections by who is heard there if the network does not tell VPCs apart: source address, target and port.
type twins map[string][]cell

func (t *twins) add(c cell, v judge.Verdict) {
	if *t == nil {
		*t = twins{}
	}
	for _, target := range append(v.Targets, v) {
		if target.Allowed && v.Connection != "" {
			key := fmt.Sprint(c.src.Address, c.protocol, target.To, target.Port)
			(*t)[key] = append((*t)[key], c)
		}
	}
}

// pairs are such cells two by two, each of its own VPC.
func (t twins) pairs() (out [][]cell) {
	for _, key := range slices.Sorted(maps.Keys(t)) {
		for _, c := range t[key][1:] {
			if first := t[key][0]; c.src.VPC != first.src.VPC {
				out = append(out, []cell{first, c})
			}
		}
	}
	return out
}

// open sends what a cell asks from one of few ports, and says whether it arrived at a workload.
func (m *mesh) open(c cell, port uint16) (opened, bool, error) {
	p := plantest.IP{
		Source: m.source(c), Dest: c.dest, Protocol: protocols[c.protocol], SourcePort: port, DestPort: c.port,
		Flags: plantest.SYN, ICMPType: 8, ICMPID: port, Payload: []byte{1, 2, 3},
	}
	got, err := m.send(c.src, p)
	return opened{c, p, got}, got.eni != "", err
}

// While all flows of a world are open, each has at its receiver a (source, port, target, port, protocol) of its own, and
// the answer to that goes to the flow's own sender, from the address and port dialled to the port it was sent from, with
// right checksums. So NAT is a bijection, untranslating is its inverse, and consumers with equal addresses and ports never
// mix. Whoever is heard in another VPC dialled an endpoint that leads there, with an Available connection.
func TestFlowsNeverMix(t *testing.T) {
	translated, equal := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		r := drawWorld(rt)
		m := newMesh(t, r)
		var flows []opened
		receivers := map[string]string{}
		senders := map[string]map[string]bool{} // VPCs by address, port and target
		for i, c := range drawCells(rt, r, rapid.IntRange(50, 300).Draw(rt, "flows")) {
			f, ok, err := m.open(c, uint16(40000+rapid.IntRange(0, 1).Draw(rt, "port")))
			if err != nil {
				rt.Fatal(err)
			}
			name := fmt.Sprintf("%s from %d", c, f.sent.SourcePort)
			if !ok {
				continue
			}
			if err := m.crossed(f); err != nil {
				rt.Fatalf("flow %d, %s: %v", i, name, err)
			}
			p := f.got.packet
			key := fmt.Sprint(f.got.eni, p.Source, p.SourcePort, p.DestPort, p.Protocol, p.ICMPID)
			if other, taken := receivers[key]; taken && other != name {
				rt.Fatalf("%s and %s are the same at their receiver: %s", name, other, key)
			}
			if _, again := receivers[key]; !again {
				flows = append(flows, f)
			}
			receivers[key] = name
			from := fmt.Sprint(c.src.Address, f.sent.SourcePort, f.got.eni, p.DestPort, p.Protocol)
			if senders[from] == nil {
				senders[from] = map[string]bool{}
			}
			senders[from][c.src.VPC] = true
		}
		for _, i := range rapid.Permutation(slices.Collect(seq(len(flows)))).Draw(rt, "order") {
			f := flows[i]
			if err := m.answer(f.cell, f.sent, f.got); err != nil {
				rt.Fatalf("%s: %v", f.cell, err)
			}
			if f.got.packet.Source != f.sent.Source {
				translated++
			}
		}
		for _, vpcs := range senders {
			if len(vpcs) > 1 {
				equal++
			}
		}
	})
	t.Logf("%d translated flows answered; %d times two VPCs spoke from one address and port to one target", translated, equal)
	if translated == 0 || equal == 0 {
		t.Error("the worlds are too poor to show anything")
	}
}

func seq(n int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

// crossed: what arrived in another VPC than the sender's was sent to an endpoint of the sender's VPC whose connection is Available and
// leads to a load balancer there.
func (m *mesh) crossed(f opened) error {
	to := m.r.ENIs[f.got.eni]
	if to.VPC == f.cell.src.VPC {
		return nil
	}
	for _, c := range m.r.Connections {
		e := m.r.Endpoints[c.Endpoint]
		if c.State != api.Available || e == nil || e.VPC != f.cell.src.VPC || m.r.LoadBalancers[c.LoadBalancer].VPC != to.VPC {
			continue
		}
		for _, id := range e.ENIs {
			a := m.r.ENIs[id].Address
			if f.cell.dest == a || f.cell.dest == api.IPv6Address(m.r.Mesh.Number, m.r.VPCs[e.VPC].Number, a) {
				return nil
			}
		}
	}
	return fmt.Errorf("%s of %s was reached from %s without a connection", to.ID, to.VPC, f.cell.src.VPC)
}

// Deny wins: of all that has to allow a flow (the groups of its sender, of the endpoint, of the load balancer in both
// directions and of the target, and the connection), each one alone ends it.
func TestDenyWins(t *testing.T) {
	shown := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		r := drawWorld(rt)
		m := newMesh(t, r)
		for _, c := range drawCells(rt, r, 20) {
			v := judge.Judge(r, judge.Packet{From: c.src.ID, To: c.dest, Protocol: c.protocol, Port: c.port})
			if _, ok, err := m.open(c, 40000); err != nil {
				rt.Fatal(err)
			} else if !ok {
				continue
			}
			denials := denials(r, c, v)
			what := rapid.SampledFrom(slices.Sorted(maps.Keys(denials))).Draw(rt, "denial")
			undo := denials[what]()
			f, ok, err := newMesh(t, r).open(c, 40000)
			if err != nil || ok {
				rt.Fatalf("%s: %s denies it, and it arrived at %s (%v)", c, what, f.got.eni, err)
			}
			shown[what]++
			undo()
		}
	})
	t.Log(shown)
	for _, what := range []string{"sender", "receivers", "dialled", "load balancer, in", "load balancer, out", "connection"} {
		if shown[what] == 0 {
			t.Errorf("nothing was denied by %s", what)
		}
	}
}

// denials take away, one each, what lets a cell through, and return how to give it back.
func denials(r *api.Resources, c cell, v judge.Verdict) map[string]func() (undo func()) {
	without := func(ingress bool, groups ...string) func() func() {
		return func() func() {
			was := map[string][]api.Rule{}
			side := func(id string) *[]api.Rule {
				if ingress {
					return &r.SecurityGroups[id].Ingress
				}
				return &r.SecurityGroups[id].Egress
			}
			for _, id := range groups {
				if _, done := was[id]; !done {
					was[id], *side(id) = *side(id), nil
				}
			}
			return func() {
				for id, rules := range was {
					*side(id) = rules
				}
			}
		}
	}
	out := map[string]func() func(){"sender": without(false, c.src.SecurityGroups...)}
	var receivers []string
	for _, w := range append(v.Targets, v) {
		if e := r.ENIs[w.To]; e != nil {
			receivers = append(receivers, e.SecurityGroups...)
		}
	}
	out["receivers"] = without(true, receivers...)
	for _, e := range r.ENIs {
		if e.VPC == c.src.VPC && e.Owner == v.Via && v.Via != "" && at(r, e, c.dest) && r.Endpoints[v.Via] != nil {
			out["dialled"] = without(true, e.SecurityGroups...)
		}
	}
	var lb *api.LoadBalancer
	if con := r.Connections[v.Connection]; con != nil {
		lb = r.LoadBalancers[con.LoadBalancer]
		out["connection"] = func() func() {
			state := con.State
			con.State = api.Rejected
			return func() { con.State = state }
		}
	} else {
		lb = r.LoadBalancers[v.Via]
	}
	if lb != nil && len(lb.SecurityGroups) > 0 {
		out["load balancer, in"], out["load balancer, out"] = without(true, lb.SecurityGroups...), without(false, lb.SecurityGroups...)
	}
	return out
}

// at: an address is an interface's, in its family.
func at(r *api.Resources, e *api.ENI, a netip.Addr) bool {
	return a == e.Address || a == api.IPv6Address(r.Mesh.Number, r.VPCs[e.VPC].Number, e.Address)
}
