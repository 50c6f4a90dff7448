package agree

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/internal/randomly"
	"github.com/culvert-net/culvert/internal/worlds"
	"github.com/culvert-net/culvert/judge"
)

var protocols = map[api.Protocol]uint8{api.ICMP: 1, api.TCP: 6, api.UDP: 17, api.ICMPv6: 58}

func count(t *testing.T, name string, fallback int) int {
	if text := os.Getenv(name); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return fallback
}

// cell is one question: who, where to, what.
type cell struct {
	src      *api.ENI
	dest     netip.Addr
	protocol api.Protocol
	port     uint16
}

func (c cell) String() string {
	return fmt.Sprintf("%s → %s %s/%d", c.src.ID, c.dest, c.protocol, c.port)
}

// cells asks every workload about every address that means something anywhere, and some that do not, in both families.
func cells(r *api.Resources) []cell {
	dests := map[netip.Addr]bool{
		netip.MustParseAddr("10.0.0.2"): true, netip.MustParseAddr("10.0.0.66"): true, netip.MustParseAddr("169.254.169.253"): true,
		netip.MustParseAddr("10.0.0.1"): true, netip.MustParseAddr("192.0.2.1"): true,
	}
	var sources []*api.ENI
	for _, id := range slices.Sorted(maps.Keys(r.ENIs)) {
		e := r.ENIs[id]
		dests[e.Address] = true
		if e.Type == api.ENIWorkload && r.Nodes[e.Node] != nil {
			sources = append(sources, e)
		}
	}
	var out []cell
	for _, src := range sources {
		vpc := r.VPCs[src.VPC].Number
		for _, dest := range slices.SortedFunc(maps.Keys(dests), netip.Addr.Compare) {
			out = append(out, cell{src, dest, api.ICMP, 0}, cell{src, api.IPv6Address(r.Mesh.Number, vpc, dest), api.ICMPv6, 0})
			for _, port := range worlds.Ports {
				for _, a := range []netip.Addr{dest, api.IPv6Address(r.Mesh.Number, vpc, dest)} {
					out = append(out, cell{src, a, api.TCP, port}, cell{src, a, api.UDP, port})
				}
			}
		}
		out = append(out, cell{src, netip.MustParseAddr("2001:db8::1"), api.TCP, 443}, // no VPC's, and another's
			cell{src, api.IPv6Address(r.Mesh.Number, vpc+1, src.Address), api.TCP, 443})
	}
	return out
}

// For every cell of random worlds, what the judge says is what the nodes do; what is let through arrives at the ENI that the
// judge named, from the source that it named, and its answer comes back from the address that was dialled.
func TestJudgeAgreesWithTheNodes(t *testing.T) {
	s := randomly.Seed(t)
	asked, allowed, connected, translated, shown := 0, 0, 0, 0, 0
	for i := range count(t, "CULVERT_WORLDS", 300) {
		rng := rand.New(rand.NewPCG(s, uint64(i)))
		r := worlds.New(rng, worlds.Small)
		if i%2 == 0 {
			worlds.AddFamilies(rng, r)
		}
		m := newMesh(t, r)
		for _, c := range cells(r) {
			m.forget()
			v, err := m.compare(c, uint16(1024+rng.IntN(60000)))
			if err != nil {
				t.Fatalf("CULVERT_SEED=%d world %d: %s: %v", s, i, c, err)
			}
			asked++
			if v.Allowed {
				allowed++
			}
			if v.Allowed && v.Connection != "" {
				connected++
				if v.Source.Is6() != c.dest.Is6() {
					translated++
				}
				if showsClient(v) {
					shown++
				}
			}
		}
	}
	t.Logf("%d cells, %d allowed, %d of them by a connection, %d of these to another family, %d with the client's own address",
		asked, allowed, connected, translated, shown)
	if asked == 0 || allowed == 0 || connected == 0 || translated == 0 { // that clients are shown the truth table demands
		t.Error("the worlds are too poor to show anything")
	}
}

func (m *mesh) compare(c cell, sport uint16) (judge.Verdict, error) {
	question := judge.Packet{From: c.src.ID, To: c.dest, Protocol: c.protocol, Port: c.port}
	want := judge.Judge(m.r, question)
	p := plantest.IP{
		Source: m.source(c), Dest: c.dest, Protocol: protocols[c.protocol], SourcePort: sport, DestPort: c.port,
		Flags: plantest.SYN, ICMPType: 8, ICMPID: sport,
	}
	got, err := m.send(c.src, p)
	if err != nil {
		return want, err
	}
	if len(want.Targets) > 0 { // the nodes chose one of them; the judge must be right about that one
		chosen := m.chosen(got, want, c.src)
		if chosen < 0 {
			return want, fmt.Errorf("arrived as %+v, the judge's targets are %+v", got, want.Targets)
		}
		want = want.Targets[chosen]
	}
	if got.reason != want.Reason || want.Allowed != (got.eni != "" || got.toHost != nil) {
		return want, fmt.Errorf("%s at %q; the judge says %+v", got.reason, got.eni, want)
	}
	if !want.Allowed {
		return want, nil
	}
	if err := m.crossing(c.src, got, want); err != nil {
		return want, err
	}
	if want.Resolver {
		return want, m.answerFromHost(c, p, got)
	}
	if got.eni != want.To || got.packet.Source != want.Source || got.packet.DestPort != want.Port {
		return want, fmt.Errorf("arrived at %s as %+v; the judge says %+v", got.eni, got.packet, want)
	}
	return want, m.answer(c, p, got)
}

// source is the address that a workload sends from in the family of what it sends to, whether it has that family or not.
func (m *mesh) source(c cell) netip.Addr {
	if c.dest.Is4() {
		return c.src.Address
	}
	return api.IPv6Address(m.r.Mesh.Number, m.r.VPCs[c.src.VPC].Number, c.src.Address)
}

// chosen finds the judge's verdict of the target that the source's node chose. A refusal names no target: then any
// verdict with that reason will do, and the node must have chosen so.
func (m *mesh) chosen(got arrival, want judge.Verdict, src *api.ENI) int {
	return slices.IndexFunc(want.Targets, func(w judge.Verdict) bool {
		if got.eni != "" {
			return w.To == got.eni && w.Port == got.packet.DestPort
		}
		return w.Reason == got.reason
	})
}

// crossing: a packet that changes VPC does so by an Available connection from the sender's VPC to a target of its service.
func (m *mesh) crossing(src *api.ENI, got arrival, v judge.Verdict) error {
	if got.eni == "" || m.r.ENIs[got.eni].VPC == src.VPC && v.Connection == "" {
		return nil
	}
	c := m.r.Connections[v.Connection]
	if c == nil || c.State != api.Available || c.EndpointVPC != src.VPC {
		return fmt.Errorf("%s of %s reached by connection %+v", got.eni, m.r.ENIs[got.eni].VPC, c)
	}
	lb := m.r.LoadBalancers[c.LoadBalancer]
	for _, l := range lb.Listeners {
		for _, t := range m.r.TargetGroups[l.TargetGroup].Targets {
			if t.ENI == got.eni && lb.VPC == m.r.ENIs[got.eni].VPC {
				return nil
			}
		}
	}
	return fmt.Errorf("%s is no target of %s", got.eni, c.LoadBalancer)
}

// answer sends the receiver's answer and demands that the sender see it from where it had sent to.
func (m *mesh) answer(c cell, sent plantest.IP, got arrival) error {
	back := plantest.IP{
		Source: got.packet.Dest, Dest: got.packet.Source, Protocol: sent.Protocol, SourcePort: got.packet.DestPort,
		DestPort: got.packet.SourcePort, Flags: plantest.SYN | plantest.ACK, ICMPID: got.packet.ICMPID,
	}
	a, err := m.send(m.r.ENIs[got.eni], back)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if a.eni != c.src.ID || a.packet.Source != sent.Dest {
		return fmt.Errorf("answer: %+v", a)
	}
	if sent.Protocol != 1 && sent.Protocol != 58 && (a.packet.SourcePort != sent.DestPort || a.packet.DestPort != sent.SourcePort) {
		return fmt.Errorf("answer's ports: %+v", a)
	}
	return nil
}
