package agree

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/internal/randomly"
	"github.com/culvert-net/culvert/internal/worlds"
)

// Isolation with flow tables full of history (I1, I2, I9): workloads send what they like, to whom they like, answering or
// not, while connections come and go. A packet that reaches another VPC does so toward a target of an Available connection,
// or is the answer of such a target to an ENI that had reached it.
func TestIsolationOnAWalk(t *testing.T) {
	s := randomly.Seed(t)
	opened, answered, cut := 0, 0, 0
	for i := range count(t, "CULVERT_WORLDS", 300) / 2 {
		w := newWalk(t, rand.New(rand.NewPCG(s, uint64(i))))
		for step := range 400 {
			if w.rng.IntN(80) == 0 {
				w.change()
			}
			if err := w.step(); err != nil {
				t.Fatalf("CULVERT_SEED=%d world %d step %d: %v", s, i, step, err)
			}
		}
		opened, answered, cut = opened+w.opened, answered+w.answered, cut+w.cut
	}
	t.Logf("%d packets opened or went on across VPCs, %d answered, %d were cut off", opened, answered, cut)
	if opened == 0 || answered == 0 || cut == 0 {
		t.Error("the walks are too poor to show anything")
	}
}

type pair struct{ consumer, target string }

type walk struct {
	t                     *testing.T
	rng                   *rand.Rand
	m                     *mesh
	age                   uint32
	reached               map[pair]bool // who has ever reached whom across VPCs
	heard                 []heard
	opened, answered, cut int
}

// heard is a packet that an ENI got and may answer.
type heard struct {
	eni    string
	packet plantest.IP
}

func newWalk(t *testing.T, rng *rand.Rand) *walk {
	r := worlds.New(rng, worlds.Size{Nodes: 3, VPCs: 3, Workloads: 12, Endpoints: 4, Twins: true})
	openGroups(r, func() bool { return rng.IntN(4) > 0 })
	return &walk{t: t, rng: rng, m: newMesh(t, r), age: 1, reached: map[pair]bool{}}
}

// change lets a connection come or go; every node hears of it at once.
func (w *walk) change() {
	w.t.Helper()
	ids := slices.Sorted(maps.Keys(w.m.r.Connections))
	if len(ids) == 0 {
		return
	}
	c := w.m.r.Connections[ids[w.rng.IntN(len(ids))]]
	c.State = []api.ConnectionState{api.Available, api.Rejected, api.Deleting}[w.rng.IntN(3)]
	w.age++
	w.m.renew(w.t, w.age)
}

var walkFlags = []uint8{
	plantest.SYN, plantest.SYN, plantest.SYN | plantest.ACK, plantest.ACK, plantest.ACK | plantest.PSH, plantest.FIN | plantest.ACK, plantest.RST,
}

func (w *walk) step() error {
	ids := slices.Sorted(maps.Keys(w.m.r.ENIs))
	if len(ids) == 0 {
		return nil
	}
	e := w.m.r.ENIs[ids[w.rng.IntN(len(ids))]]
	other := w.m.r.ENIs[ids[w.rng.IntN(len(ids))]]
	p := plantest.IP{
		Source: e.Address, Dest: other.Address, Protocol: []uint8{6, 17, 1}[w.rng.IntN(3)], ICMPType: 8, ICMPID: uint16(w.rng.IntN(2)),
		SourcePort: worlds.Ports[w.rng.IntN(len(worlds.Ports))], DestPort: worlds.Ports[w.rng.IntN(len(worlds.Ports))],
	}
	switch n := w.rng.IntN(10); {
	case n < 4:
		w.dial(e, &p)
	case n < 8 && len(w.heard) > 0:
		h := w.heard[w.rng.IntN(len(w.heard))]
		e = w.m.r.ENIs[h.eni]
		p.Source, p.Dest, p.Protocol = h.packet.Dest, h.packet.Source, h.packet.Protocol
		p.SourcePort, p.DestPort, p.ICMPID, p.ICMPType = h.packet.DestPort, h.packet.SourcePort, h.packet.ICMPID, uint8(8*w.rng.IntN(2))
	}
	if e.Type != api.ENIWorkload || w.m.nodes[e.Node] == nil {
		return nil
	}
	p.Flags = walkFlags[w.rng.IntN(len(walkFlags))]
	got, err := w.m.send(e, p)
	if got.reason == "FLOW_REVOKED" {
		w.cut++
	}
	if err != nil || got.eni == "" {
		return err
	}
	w.hear(heard{got.eni, got.packet})
	to := w.m.r.ENIs[got.eni]
	if to.VPC == e.VPC {
		return nil
	}
	switch {
	case w.serves(e.VPC, to):
		w.reached[pair{e.ID, to.ID}] = true
		w.opened++
	case w.serves(to.VPC, e) && w.reached[pair{to.ID, e.ID}]:
		w.answered++
	default:
		return fmt.Errorf("%s of %s reached %s of %s with %+v", e.ID, e.VPC, to.ID, to.VPC, p)
	}
	return nil
}

// dial aims at a listener of an endpoint in the sender's VPC, if there is one.
func (w *walk) dial(e *api.ENI, p *plantest.IP) {
	for _, id := range slices.Sorted(maps.Keys(w.m.r.Endpoints)) {
		v := w.m.r.Endpoints[id]
		lb := w.m.r.LoadBalancers[w.m.r.Connections[v.Connection].LoadBalancer]
		if v.VPC != e.VPC || w.rng.IntN(2) == 0 {
			continue
		}
		l := lb.Listeners[w.rng.IntN(len(lb.Listeners))]
		p.Dest, p.Protocol, p.DestPort = w.m.r.ENIs[v.ENIs[w.rng.IntN(len(v.ENIs))]].Address, protocols[l.Protocol], l.Port
	}
}

func (w *walk) hear(h heard) {
	if len(w.heard) < 40 {
		w.heard = append(w.heard, h)
		return
	}
	w.heard[w.rng.IntN(len(w.heard))] = h
}

// serves reports whether an Available connection leads from a VPC to a load balancer in the target's VPC. Deregistered
// targets drain: they keep the flows that they have.
func (w *walk) serves(vpc string, target *api.ENI) bool {
	for _, c := range w.m.r.Connections {
		if c.State == api.Available && c.EndpointVPC == vpc && w.m.r.LoadBalancers[c.LoadBalancer].VPC == target.VPC {
			return true
		}
	}
	return false
}
