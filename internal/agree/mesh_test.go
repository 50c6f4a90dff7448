package agree

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/view"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
	"github.com/culvert-net/culvert/plan/verdict"
)

// mesh is every node of a world with its plan; packets travel between them as WireGuard would carry them.
type mesh struct {
	r     *api.Resources
	nodes map[string]*node
	byKey map[string]*node
}

type node struct {
	id    string
	key   string
	plan  *plan.Plan
	state *verdict.State
}

func newMesh(t testing.TB, r *api.Resources) *mesh {
	t.Helper()
	m := &mesh{r: r, nodes: map[string]*node{}, byKey: map[string]*node{}}
	for id, n := range r.Nodes {
		v := view.Compute(r, id)
		p, err := plan.Compile(*v, plantest.Facts(*v))
		if err != nil {
			t.Fatalf("node %s: %v", id, err)
		}
		m.nodes[id] = &node{id: id, key: n.PublicKey, plan: p, state: &verdict.State{}}
		m.byKey[n.PublicKey] = m.nodes[id]
	}
	return m
}

// renew tells every node what the resources are now.
func (m *mesh) renew(t testing.TB, generation uint32) {
	t.Helper()
	index := view.NewIndex(m.r)
	for id, n := range m.nodes {
		v := index.View(id)
		f := plantest.Facts(*v)
		f.Generation = generation
		p, err := plan.Compile(*v, f)
		if err != nil {
			t.Fatalf("node %s: %v", id, err)
		}
		n.plan = p
	}
}

// forget empties all flow tables.
func (m *mesh) forget() {
	for _, n := range m.nodes {
		n.state.Flows = nil
	}
}

// arrival is where a packet ended.
type arrival struct {
	reason  string
	eni     string // that received it
	packet  plantest.IP
	toHost  *node          // the resolver's node
	overlay [2]api.Overlay // of a query to the host: from and to
	vpcs    []uint32       // VPC numbers passed, in order
}

// owner is whom a node's WireGuard would send a packet to: the peer with the longest prefix, nil for none.
func (n *node) owner(a netip.Addr) string {
	best, key := -1, ""
	for _, p := range n.plan.AllowedIPs {
		if p.Prefix.Contains(a) && p.Prefix.Bits() > best {
			best, key = p.Prefix.Bits(), p.PublicKey
		}
	}
	return key
}

// send lets a workload send a packet and follows it to its end.
func (m *mesh) send(from *api.ENI, p plantest.IP) (arrival, error) {
	n := m.nodes[from.Node]
	frame := p.Workload
	if p.Dest.Is6() {
		frame = func(number uint32) []byte {
			return plantest.Frame(plantest.GatewayMAC, plantest.MAC(number), 0x86dd, p.IPv6(p.Source, p.Dest))
		}
	}
	v := verdict.Decide(n.plan, n.state, verdict.Packet{
		Hook: verdict.HookWorkload, Ifindex: 100 + from.Number, Bytes: frame(from.Number),
	})
	return m.follow(n, v)
}

func (m *mesh) follow(n *node, v verdict.Verdict) (arrival, error) {
	a := arrival{reason: v.Reason.String()}
	switch v.Next {
	case verdict.NextTunnel:
		source, dest := address(v.Bytes[8:]), address(v.Bytes[24:])
		peer := m.byKey[n.owner(dest)]
		if peer == nil {
			a.reason = "NOT_HERE" // nobody has it: the tunnel drops the packet
			return a, nil
		}
		if peer.owner(source) != n.key {
			return a, fmt.Errorf("%s sends from %s, which %s takes from %q only", n.id, source, peer.id, peer.owner(source))
		}
		w := verdict.Decide(peer.plan, peer.state, verdict.Packet{Hook: verdict.HookTunnel, Bytes: v.Bytes})
		return m.follow(peer, w)
	case verdict.NextWorkload:
		for _, e := range n.plan.ENIs {
			if e.Ifindex == v.Ifindex {
				a.eni = e.ID
			}
		}
		a.packet = read(v.Bytes[14:])
		return a, plantest.Check(v.Bytes[14:])
	case verdict.NextHost:
		a.toHost = n
		var ok1, ok2 bool
		a.overlay[0], ok1 = api.ParseOverlay(address(v.Bytes[22:]))
		a.overlay[1], ok2 = api.ParseOverlay(address(v.Bytes[38:]))
		a.packet = plantest.IP{SourcePort: binary.BigEndian.Uint16(v.Bytes[54:]), DestPort: binary.BigEndian.Uint16(v.Bytes[56:])}
		if !ok1 || !ok2 {
			return a, fmt.Errorf("to the host with % x", v.Bytes)
		}
	}
	return a, nil
}

func address(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b[:16])) }

func read(b []byte) plantest.IP {
	var p plantest.IP
	if b[0]>>4 == 6 {
		p.Source, p.Dest, p.Protocol = address(b[8:]), address(b[24:]), b[6]
		b = b[40:]
	} else {
		p.Source, p.Dest, p.Protocol = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[9]
		b = b[20:]
	}
	if p.Protocol == 1 || p.Protocol == 58 {
		p.ICMPType, p.ICMPID = b[0], binary.BigEndian.Uint16(b[4:])
	} else {
		p.SourcePort, p.DestPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
	return p
}
