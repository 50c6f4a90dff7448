package bpf

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/bpf/internal/frame"
)

// tables is how many targets there are: of a load balancer's source ports toward each, connections that are guaranteed none
// have up to PoolOpen.
const tables = 40

// costly is a consumer's and a provider's node with room for a million flows through an endpoint with many listeners.
type costly struct {
	a, b      *node
	both      *node // on which consumer and target are
	listeners int
}

func newCostly(b *testing.B, flows, listeners int) *costly {
	half := uint32(flows)*2 + 1<<12 // entries of one half of them
	big := func(entries uint32) func(*ebpf.CollectionSpec) {
		return func(s *ebpf.CollectionSpec) {
			s.Maps[ABIMapFlows].MaxEntries = entries
			s.Maps[ABIMapServices].MaxEntries, s.Maps[ABIMapGrants].MaxEntries = 1<<15, 1<<15
			s.Maps[ABIMapGrantTargets].MaxEntries = 1 << 15
		}
	}
	c := &costly{newNode(b, 1, big(half)), newNode(b, 2, big(half)), newNode(b, 3, big(2*half)), listeners}
	furnish(c.a, c.b)
	furnish(c.both, c.both)
	for _, n := range []*node{c.a, c.b, c.both} {
		for _, key := range []QuotaKey{
			{Kind: uint32(QuotaTable)}, {Kind: uint32(QuotaAccount)}, {Kind: uint32(QuotaSent), Id: connection},
			{Kind: uint32(QuotaReceived), Id: connection},
		} {
			n.quota(key, bounds(2*half))
		}
	}
	for _, n := range []*node{c.a, c.both} {
		c.offer(n)
		n.link(consumer, cart)
	}
	c.admit(c.b)
	c.admit(c.both)
	return c
}

// offer makes a node a consumer's.
func (c *costly) offer(n *node) {
	for i := range uint16(tables) {
		n.targets(uint32(100+i), fmt.Sprintf("%s:%d", ledger, 8443+i))
	}
	for i := range uint16(c.listeners) {
		n.put("services", ServiceKey{Vpc: consumer, Addr: NetAddr(ip(endpoint)), Port: NetPort(10_000 + i), Protocol: 6}, &Service{
			Connection: connection, ProviderVpc: provider, Table: uint32(100 + i%tables), TableWidth: tableWidth, EndpointEni: 30,
			IdleS: 300, Tag: 1000 + i,
		})
	}
}

// admit makes it the provider's.
func (c *costly) admit(n *node) {
	for i := range uint16(c.listeners) {
		tag := 1000 + uint32(i)
		n.put("grants", GrantKey{Vpc: consumer, Tag: tag}, &Grant{
			Connection: connection, ProviderVpc: provider, Admitted: allowAll, LbRules: allowAll, LbEgressRules: allowAll,
			DialedAddr: NetAddr(ip(endpoint)), DialedPort: NetPort(10_000 + i), Protocol: 6, IdleS: 300,
		})
		target := GrantTargetKey{Vpc: consumer, Tag: tag, Addr: NetAddr(ip(ledger)), Port: NetPort(8443 + i%tables)}
		n.put("grant_targets", target, &GrantTarget{Source: NetAddr(ip(balancer)), SourceEni: 31})
	}
}

// place is the i-th flow's source port and listener: no two of a target have the same port.
func (c *costly) place(i int) (port, listener int) {
	const ports = 60_000
	return 1 + i%ports, (i + i/ports) % c.listeners
}

// sent is the i-th flow's packet as the consumer's workload sends it.
func (c *costly) sent(i int, flags uint8) []byte {
	port, listener := c.place(i)
	return sent(frame.TCP(fmt.Sprintf("%s:%d", cart, port), fmt.Sprintf("%s:%d", endpoint, 10_000+listener), flags), 11)
}

// overlay is the same packet in the tunnel.
func (c *costly) overlay(i int, flags uint8) []byte {
	port, listener := c.place(i)
	p := frame.TCP(fmt.Sprintf("%s:%d", cart, port), fmt.Sprintf("%s:%d", ledger, 8443+listener%tables), flags)
	return p.Between(mesh, consumer, uint16(1000+listener), provider, 0).MACs(noMAC, noMAC).Overlay()
}

// open makes flows on the consumer's node and on the provider's.
func (c *costly) open(b *testing.B, flows int) {
	b.Helper()
	out := make([]byte, 2048)
	run := func(n *node, program string, data []byte) {
		opts := &ebpf.RunOptions{Data: data, DataOut: out}
		if verdict, err := n.coll.Programs[program].Run(opts); err != nil || verdict != actRedirect {
			b.Fatalf("%s: verdict %d, %v", program, verdict, err)
		}
	}
	for i := range flows {
		run(c.a, ABIProgFromWorkload, c.sent(i, frame.SYN))
		run(c.b, ABIProgFromTunnel, c.overlay(i, frame.SYN))
		run(c.both, ABIProgFromWorkload, c.sent(i, frame.SYN))
	}
}

// timed gives frames to a program and returns what the kernel says that a run took, ns.
func timed(b *testing.B, p *ebpf.Program, frames [][]byte) float64 {
	b.Helper()
	before, err := p.Stats()
	if err != nil {
		b.Fatal(err)
	}
	out := make([]byte, 2048)
	for _, data := range frames {
		if _, err := p.Run(&ebpf.RunOptions{Data: data, DataOut: out}); err != nil {
			b.Fatal(err)
		}
	}
	after, err := p.Stats()
	if err != nil {
		b.Fatal(err)
	}
	return float64((after.Runtime - before.Runtime).Nanoseconds()) / float64(after.RunCount-before.RunCount)
}

// empty is what a program that does nothing takes, by the same statistics.
func empty(b *testing.B) float64 {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, actShot), asm.Return()},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	frames := make([][]byte, 20_000)
	for i := range frames {
		frames[i] = make([]byte, 64)
	}
	return timed(b, p, frames)
}

// BenchmarkCost is what a packet costs each half, by the kernel's own statistics, less what an empty program takes. Packets
// go to random flows, so that with many of them nothing is in the CPU's caches.
func BenchmarkCost(b *testing.B) {
	needRoot(b)
	stop, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stop.Close()
	const packets = 100_000
	nothing := empty(b)
	for _, size := range []struct{ flows, listeners int }{{1, tables}, {1000, tables}, {1_000_000, tables}, {1000, 10_000}} {
		c := newCostly(b, size.flows+packets, size.listeners)
		c.open(b, size.flows)
		var there, over [][]byte
		r := rand.New(rand.NewPCG(1, 2))
		for range packets {
			i := r.IntN(size.flows)
			there, over = append(there, c.sent(i, frame.ACK)), append(over, c.overlay(i, frame.ACK))
		}
		what := fmt.Sprintf("%d_flows,_%d_listeners,_", size.flows, size.listeners)
		report := func(name string, p *ebpf.Program, frames [][]byte) {
			b.Run(what+name, func(b *testing.B) {
				took := 0.0
				for i := 0; b.Loop(); i++ { // once is enough, a new flow is new but once
					if i == 0 {
						took = timed(b, p, frames)
					}
				}
				b.ReportMetric(max(took-nothing, 0), "ns/run")
			})
		}
		report("established,_workload_to_workload", c.both.coll.Programs[ABIProgFromWorkload], there)
		report("established,_workload_to_tunnel", c.a.coll.Programs[ABIProgFromWorkload], there)
		report("established,_tunnel_to_workload", c.b.coll.Programs[ABIProgFromTunnel], over)
		there, over = nil, nil
		for i := size.flows; i < size.flows+packets; i++ {
			there, over = append(there, c.sent(i, frame.SYN)), append(over, c.overlay(i, frame.SYN))
		}
		report("new,_workload_to_workload", c.both.coll.Programs[ABIProgFromWorkload], there)
		report("new,_workload_to_tunnel", c.a.coll.Programs[ABIProgFromWorkload], there)
		report("new,_tunnel_to_workload", c.b.coll.Programs[ABIProgFromTunnel], over)
		for _, n := range []*node{c.a, c.b, c.both} {
			n.coll.Close() // a table of millions is gigabytes
		}
	}
}
