package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/judge"
)

// cell is one entry of the truth table: a packet, and what the judge says about it.
type cell struct {
	number   uint32
	from, to string // workload, address
	protocol api.Protocol
	port     uint16
	want     judge.Verdict
}

func (c cell) String() string {
	return fmt.Sprintf("%s → %s %s/%d", c.from, c.to, c.protocol, c.port)
}

// Destinations that belong to no interface: router, resolvers, a free address, the underlay, metadata, elsewhere.
var elsewhere = []string{"10.0.1.1", "10.0.0.2", "10.0.1.2", "169.254.169.253", "10.0.1.250", "10.99.0.1", "10.99.0.10",
	"10.99.0.11", "169.254.169.254", "192.0.2.1"}

var truthPorts = []uint16{443, 5432, 6379, 7777, 5201, 53, 22}

// TestTruthTable sends one packet per cell of (source, destination, protocol, port) over two accounts and a stranger with
// the same addresses, and demands what the judge says: arrival at the right interface from the right address, or a
// refusal for the right reason. Every packet is accounted for, as arrived or as refused, so absence needs no waiting.
func TestTruthTable(t *testing.T) {
	w := mesh(t)
	w.warmUp(t)
	b := newTruthBench(t, w)
	b.run(t, "as offered")

	w.restrict(t)
	b.run(t, "with groups that let less through, one connection rejected")
	t.Logf("%d cells, %d of them allowed; %d mismatches", b.cells, b.allowed, b.mismatches)
	if b.allowed == 0 || b.cells-b.allowed == 0 {
		t.Error("the table has only one kind of cell")
	}
}

// warmUp makes the WireGuard sessions, which would otherwise be made by the first cells.
func (w *world) warmUp(t *testing.T) {
	t.Helper()
	eventually(t, 20*time.Second, "cart reaches till across the tunnel", func() error {
		_, err := w.run(t, "cart", "ping", "-c", "1", "-W", "1", "10.0.1.77")
		return err
	})
}

// restrict narrows what shop's workloads may do, and has pay reject one endpoint; all of it is put back at the end.
func (w *world) restrict(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	shop, pay := w.as("shop"), w.as("pay")
	sg, err := shop.CreateSecurityGroup(ctx, api.CreateSecurityGroupRequest{VPC: "shop", Name: "narrow"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = shop.RevokeRule(ctx, sg.ID, sg.Egress[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = shop.AuthorizeEgress(ctx, sg.ID, []api.RuleRequest{
		{Protocol: api.TCP, FromPort: 443, ToPort: 443, CIDR: netip.MustParsePrefix("10.0.0.0/16")},
		{Protocol: api.TCP, FromPort: 5432, ToPort: 5432, CIDR: netip.MustParsePrefix("10.0.0.0/16")},
		{Protocol: api.ICMP, CIDR: netip.MustParsePrefix("10.0.1.77/32")}}); err != nil {
		t.Fatal(err)
	}
	if _, err = shop.AuthorizeIngress(ctx, sg.ID, []api.RuleRequest{
		{Protocol: api.TCP, FromPort: 1, ToPort: 5000, CIDR: netip.MustParsePrefix("10.0.1.64/26")}}); err != nil {
		t.Fatal(err)
	}
	cart, err := shop.GetENI(ctx, "cart")
	if err != nil {
		t.Fatal(err)
	}
	books, err := shop.GetEndpoint(ctx, "books")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := shop.GetEndpoint(ctx, "cache")
	if err != nil {
		t.Fatal(err)
	}
	groups := func(eni, endpoint []string) error {
		ctx, cancel := context.WithTimeout(context.Background(), slack*30*time.Second*slowness())
		defer cancel()
		if _, err := shop.ModifyENI(ctx, cart.ID, api.ModifyENIRequest{SecurityGroups: &eni}); err != nil {
			return err
		}
		_, err := shop.ModifyEndpoint(ctx, books.ID, api.ModifyEndpointRequest{SecurityGroups: &endpoint})
		return err
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), slack*30*time.Second*slowness())
		defer cancel()
		if err := groups(cart.SecurityGroups, books.SecurityGroups); err != nil {
			t.Errorf("put back: %v", err)
		}
		if _, err := pay.AcceptConnections(ctx, "cache", []string{cache.ID}); err != nil {
			t.Errorf("put back: %v", err)
		}
		if _, err := shop.DeleteSecurityGroup(ctx, sg.ID); err != nil {
			t.Errorf("put back: %v", err)
		}
		if err := w.converge(ctx); err != nil {
			t.Errorf("put back: %v", err)
		}
	})
	if err := groups([]string{sg.ID}, []string{sg.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := pay.RejectConnections(ctx, "cache", []string{cache.ID}); err != nil {
		t.Fatal(err)
	}
	if err := w.converge(ctx); err != nil {
		t.Fatal(err)
	}
}

// truthBench holds the receivers of all cells.
type truthBench struct {
	w        *world
	number   uint32            // of the next cell
	taps     *taps             // what arrived where
	enis     map[string]string // workload by ENI id
	hosts    map[string]string // host by workload
	previous map[string]uint64 // refusals so far

	cells, allowed, mismatches int
}

func newTruthBench(t *testing.T, w *world) *truthBench {
	t.Helper()
	b := &truthBench{w: w, taps: newTaps(t), enis: map[string]string{}, hosts: map[string]string{}}
	for _, s := range workloads {
		eni, err := w.as(s.account).GetENI(t.Context(), s.name)
		if err != nil {
			t.Fatal(err)
		}
		b.enis[eni.ID], b.hosts[s.name] = s.name, s.host
		// The kernel behind a workload's interface must answer nothing: every answer would be counted too.
		w.must(t, s.name, "nft", "add table ip truth { chain input { type filter hook input priority 0; policy drop; }; }")
		t.Cleanup(func() { w.must2(t, s.name, "nft", "delete table ip truth") })
		b.taps.add(t, s.name, wl(s.name), "eni0", false)
	}
	for _, host := range []string{"host-a", "host-b"} {
		b.taps.add(t, host, prefix+"-"+host, hostLink, true)
	}
	return b
}

// must2 runs a command in a workload during clean-up, when the test's context has ended.
func (w *world) must2(t *testing.T, workload string, argv ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), slack*10*time.Second*slowness())
	defer cancel()
	if out, err := w.in(ctx, workload, argv...).CombinedOutput(); err != nil {
		t.Errorf("%s$ %v: %v\n%s", workload, argv, err, out)
	}
}

// run goes through the whole table once, source by source.
func (b *truthBench) run(t *testing.T, state string) {
	t.Helper()
	r := b.w.resources(t)
	to := slices.Clone(elsewhere)
	for _, e := range r.ENIs {
		to = append(to, e.Address.String())
	}
	slices.Sort(to)
	to = slices.Compact(to)
	before := b.mismatches
	for _, s := range workloads {
		var eni *api.ENI
		for id, name := range b.enis {
			if name == s.name {
				eni = r.ENIs[id]
			}
		}
		var batch []cell
		add := func(addr string, p api.Protocol, port uint16) {
			b.number++
			c := cell{number: b.number, from: s.name, to: addr, protocol: p, port: port}
			c.want = judge.Judge(r, judge.Packet{From: eni.ID, To: netip.MustParseAddr(addr), Protocol: p, Port: port})
			batch = append(batch, c)
		}
		for _, addr := range to {
			for _, port := range truthPorts {
				add(addr, api.TCP, port)
				add(addr, api.UDP, port)
			}
			add(addr, api.ICMP, 0)
		}
		b.batch(t, s, batch, r)
	}
	t.Logf("%s: %d mismatches", state, b.mismatches-before)
}

// batch sends the cells of one source, waits until every packet is accounted for, and compares.
func (b *truthBench) batch(t *testing.T, s workloadSpec, cells []cell, r *api.Resources) {
	t.Helper()
	b.taps.clear()
	b.quiet(t)
	b.taps.send(t, wl(s.name), "eni0", netip.MustParseAddr(s.address), cells)
	var refused map[string]uint64
	deadline := time.Now().Add(slack * 15 * time.Second * slowness())
	for tick := time.NewTicker(50 * time.Millisecond); ; <-tick.C {
		refused = b.since(t)
		total := uint64(b.taps.count())
		for _, n := range refused {
			total += n
		}
		if total >= uint64(len(cells)) || time.Now().After(deadline) {
			tick.Stop()
			break
		}
	}
	b.compare(t, cells, refused, r)
}

func (b *truthBench) compare(t *testing.T, cells []cell, refused map[string]uint64, r *api.Resources) {
	t.Helper()
	want := map[string]uint64{}
	for _, c := range cells {
		b.cells++
		got := b.taps.take(c.number)
		if !c.want.Allowed {
			want[c.want.Reason]++
			for _, a := range got {
				b.mismatch(t, "%s must be refused as %s, arrived at %s", c, c.want.Reason, a)
			}
			continue
		}
		b.allowed++
		if len(got) != 1 {
			b.mismatch(t, "%s must arrive once, arrived %d times: %v", c, len(got), got)
			continue
		}
		if problem := b.wrong(c, got[0], r); problem != "" {
			b.mismatch(t, "%s: %s; arrived at %s", c, problem, got[0])
		}
	}
	if !maps.Equal(want, refused) {
		b.mismatch(t, "%s: refusals by reason are %v, want %v", cells[0].from, refused, want)
	}
}

// wrong says what is not as the judge has it about a packet that arrived.
func (b *truthBench) wrong(c cell, a arrived, r *api.Resources) string {
	if c.want.Resolver {
		if a.at != b.hosts[c.from] {
			return "a query belongs to its own node's resolver"
		}
		return ""
	}
	choices := c.want.Targets
	if len(choices) == 0 {
		choices = []judge.Verdict{c.want}
	}
	for _, v := range choices {
		if v.Allowed && b.enis[v.To] == a.at {
			switch {
			case a.source != v.Source:
				return fmt.Sprintf("the target must see %s", v.Source)
			case a.dest != r.ENIs[v.To].Address || c.protocol != api.ICMP && a.port != v.Port:
				return fmt.Sprintf("it must be addressed to %s port %d", r.ENIs[v.To].Address, v.Port)
			}
			return ""
		}
	}
	return "that is no target of it"
}

func (b *truthBench) mismatch(t *testing.T, format string, args ...any) {
	t.Helper()
	b.mismatches++
	if b.mismatches <= 20 {
		t.Errorf(format, args...)
	}
}

// quiet waits until nothing is refused any more, and makes that the zero of what follows.
func (b *truthBench) quiet(t *testing.T) {
	t.Helper()
	eventually(t, 10*time.Second, "quiet", func() error {
		now := b.refusals(t)
		same := maps.Equal(now, b.previous)
		b.previous = now
		if !same {
			return fmt.Errorf("still refusing: %v", now)
		}
		return nil
	})
}

// since is what was refused since it was quiet, by reason.
func (b *truthBench) since(t *testing.T) map[string]uint64 {
	t.Helper()
	d := map[string]uint64{}
	for reason, n := range b.refusals(t) {
		if n != b.previous[reason] {
			d[reason] = n - b.previous[reason]
		}
	}
	return d
}

// refusals are the counts of both nodes by reason. Left out are neighbour discovery, and what the nodes themselves send.
func (b *truthBench) refusals(t *testing.T) map[string]uint64 {
	t.Helper()
	sum := map[string]uint64{}
	for _, host := range []string{"host-a", "host-b"} {
		s, err := local.NewClient(b.w.lab.AgentSocket(host)).Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range s.Counters {
			switch {
			case c.Hook == "host":
			case c.Reason == "NONE" || c.Reason == judge.Forwarded || c.Reason == "ANSWERED" || c.Reason == "NODES_OWN" ||
				c.Reason == "NOT_IP":
			default:
				sum[c.Reason] += c.Packets
			}
		}
	}
	return sum
}

// resources is everything the judge asks about, as the API tells it.
func (w *world) resources(t *testing.T) *api.Resources {
	t.Helper()
	r, c, ctx := api.NewResources(), w.as(""), t.Context()
	put := func(items []api.Resource, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range items {
			r.Put(x)
		}
	}
	put(pointers(c.ListAccounts(ctx)))
	put(pointers(c.ListVPCs(ctx)))
	put(pointers(c.ListSubnets(ctx)))
	put(pointers(c.ListENIs(ctx)))
	put(pointers(c.ListSecurityGroups(ctx)))
	put(pointers(c.ListTargetGroups(ctx)))
	put(pointers(c.ListLoadBalancers(ctx)))
	put(pointers(c.ListServices(ctx)))
	put(pointers(c.ListEndpoints(ctx)))
	for id := range r.Services {
		put(pointers(c.ListConnections(ctx, id)))
	}
	nodes, err := c.ListNodes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range nodes {
		r.Put(&nodes[i].Node)
	}
	return r
}

func pointers[T any, P interface {
	*T
	api.Resource
}](items []T, err error) ([]api.Resource, error) {
	var out []api.Resource
	for i := range items {
		out = append(out, P(&items[i]))
	}
	return out, err
}

// packet is the cell on the wire; its number travels where no NAT touches it.
func (c cell) packet(source netip.Addr) plantest.IP {
	p := plantest.IP{Source: source, Dest: netip.MustParseAddr(c.to), SourcePort: uint16(2000 + c.number%60000), DestPort: c.port}
	switch c.protocol {
	case api.TCP:
		p.Protocol, p.Flags, p.Seq = 6, plantest.SYN, cellMark+c.number
	case api.UDP:
		p.Protocol, p.Payload = 17, cellPayload(c.number)
	default:
		p.Protocol, p.ICMPType, p.ICMPID, p.Payload = 1, 8, uint16(c.number), cellPayload(c.number)
	}
	return p
}
