package datapath

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/netlab"
	"github.com/culvert-net/culvert/internal/plantest"
	"github.com/culvert-net/culvert/plan"
)

// rivals is a mesh with another account's VPC that consumes the same service: same addresses, same endpoint.
type rivals struct {
	*mesh
	evil *workload
}

const rival, rivalConnection = 3, 910

func newRivals(t *testing.T) rivals {
	t.Helper()
	m := rivals{mesh: newMesh(t)}
	m.evil = m.workload(m.a, "evil", rival, m.cart.address.String(), 41)
	for _, h := range []*meshHost{m.a, m.b} {
		m.applyPlan(h, m.plan(h))
	}
	return m
}

// plan gives the rival what the shop has of ledger's service.
func (m rivals) plan(h *meshHost) *plan.Plan {
	p := m.mesh.plan(h)
	p.Addresses = append(p.Addresses, plan.Address{
		VPC: rival, Address: addr("10.0.1.200"), Type: plan.AddressEndpoint, Number: 42, Rules: 1000, Families: plan.BothFamilies,
	})
	for _, s := range p.Services {
		if s.Connection == 900 {
			s.VPC, s.Connection, s.EndpointENI = rival, rivalConnection, 42
			p.Services = append(p.Services, s)
		}
	}
	for _, g := range p.Grants {
		if g.Connection != 900 {
			continue
		}
		for _, to := range p.GrantTargets {
			if to.Tag == g.Tag {
				to.ConsumerVPC = rival
				p.GrantTargets = append(p.GrantTargets, to)
			}
		}
		g.ConsumerVPC, g.Connection = rival, rivalConnection
		p.Grants = append(p.Grants, g)
	}
	plantest.Unbounded(p)
	return p
}

func portAt(a net.Addr) uint16 { return netip.MustParseAddrPort(a.String()).Port() }

// flowsOf are the flows of a connection at the provider.
func (m rivals) flowsOf(t *testing.T, connection uint32) []Flow {
	t.Helper()
	flows, err := m.b.dp.Flows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(flows, func(f Flow) bool { return f.entry().Connection != connection })
}

// A connection that ran idle, or was revoked, leaves the target's socket open. Who comes next from the same address and
// port, in another VPC, gets a connection of its own; the stale socket is reset; the port is free after the quarantine.
func TestStaleConnectionIsNotTakenOver(t *testing.T) {
	const idle = 6 * time.Minute
	for name, c := range map[string]struct {
		end   func(t *testing.T, m rivals)
		after time.Duration
	}{
		"idle": {func(t *testing.T, m rivals) {
			// A packet that was under way, such as the acknowledgement of what the client got, keeps the flow.
			netlab.Eventually(t, patience, func() bool {
				if swept := m.b.sweep(t, idle); len(swept.Removed) != 0 || swept.Left != 2 {
					t.Fatalf("swept %+v", swept)
				}
				flows := m.flowsOf(t, 900)
				return len(flows) == 1 && flows[0].Flags()&bpf.FlowExpired != 0
			}, "the flow is over")
		}, idle},
		"revoked": {func(t *testing.T, m rivals) {
			m.generation++
			p := m.plan(m.b)
			p.Grants = slices.DeleteFunc(p.Grants, func(g plan.Grant) bool { return g.Connection == 900 })
			p.Services = slices.DeleteFunc(p.Services, func(s plan.Service) bool { return s.Connection == 900 })
			m.applyPlan(m.b, p)
			netlab.Eventually(t, patience, func() bool {
				flows := m.flowsOf(t, 900)
				return len(flows) == 1 && flows[0].Flags()&bpf.FlowDead != 0
			}, "the flow is revoked")
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := newRivals(t)
			var ln net.Listener
			if err := m.ledger.Do(func() (err error) { ln, err = net.Listen("tcp4", ":8443"); return err }); err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			accept := func(near net.Conn, text string) net.Conn {
				t.Helper()
				far, err := ln.Accept()
				if err == nil {
					err = errors.Join(send(near, []byte(text)), receive(far, []byte(text)), send(far, []byte(text)),
						receive(near, []byte(text)))
				}
				if err != nil {
					t.Fatal(err)
				}
				return far
			}
			stale := accept(m.cart.dialFrom(t, "tcp4", 5000, "10.0.1.200:443"), "secret")
			defer stale.Close()
			c.end(t, m)
			evil := m.evil.dialFrom(t, "tcp4", 5000, "10.0.1.200:443")
			far := accept(evil, "other")
			defer far.Close()
			if portAt(stale.RemoteAddr()) != 5000 || portAt(far.RemoteAddr()) == 5000 {
				t.Errorf("the target sees %s and %s", stale.RemoteAddr(), far.RemoteAddr())
			}
			if f := m.flowsOf(t, 900); len(f) != 1 || c.after != 0 && !f[0].record().Closed {
				t.Errorf("flows %+v", f)
			}
			// The quarantine begins, with a prompt, when a sweep sees the mark.
			first := c.after + time.Second
			if swept := m.b.sweep(t, first); len(swept.Removed) != 0 {
				t.Fatalf("swept %+v", swept)
			}
			if _, err := stale.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a read of the stale socket: %v, want a reset", err)
			}
			if swept := m.b.sweep(t, first+50*time.Second); len(swept.Removed) != 0 {
				t.Errorf("swept %+v during the quarantine", swept)
			}
			swept := m.b.sweep(t, first+62*time.Second)
			if !slices.ContainsFunc(swept.Removed, func(f Flow) bool { return f.entry().Connection == 900 }) {
				t.Errorf("not removed after the quarantine: %+v", swept)
			}
			if f := m.flowsOf(t, 900); len(f) != 0 {
				t.Errorf("flows left: %+v", f)
			}
		})
	}
}

// reset sends a RST of the workload's, from a port to an address, with a sequence number that nobody expects.
func (w *workload) reset(t *testing.T, port uint16, to string) {
	t.Helper()
	dest := netip.MustParseAddrPort(to)
	ip := append([]byte{0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0}, w.address.AsSlice()...)
	ip = append(ip, dest.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], ^sum16(ip))
	tcp := binary.BigEndian.AppendUint16(nil, port)
	tcp = binary.BigEndian.AppendUint16(tcp, dest.Port())
	tcp = append(tcp, 1, 2, 3, 4, 0, 0, 0, 0, 5<<4, 0x04, 0, 0, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(tcp[16:], ^sum16(slices.Concat(ip[12:], []byte{0, unix.IPPROTO_TCP, 0, 20}, tcp)))
	frame := slices.Concat(gatewayMAC[:], w.mac[:], []byte{0x08, 0x00}, ip, tcp)
	if err := w.Do(func() error {
		link, err := net.InterfaceByName("eni0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index})
	}); err != nil {
		t.Fatal(err)
	}
}

// A client's RST that the target does not believe ends the flow, and leaves the target's socket. That is reset before another
// account's client gets the port.
func TestUnbelievedReset(t *testing.T) {
	m := newRivals(t)
	var ln net.Listener
	if err := m.ledger.Do(func() (err error) { ln, err = net.Listen("tcp4", ":8443"); return err }); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	m.cart.dialFrom(t, "tcp4", 5000, "10.0.1.200:443")
	stale, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer stale.Close()
	m.cart.reset(t, 5000, "10.0.1.200:443")
	netlab.Eventually(t, patience, func() bool {
		flows := m.flowsOf(t, 900)
		return len(flows) == 1 && flows[0].Flags()&bpf.FlowClosed != 0
	}, "the flow is closed")
	if swept := m.b.sweep(t, 62*time.Second); len(swept.Removed) != 1 {
		t.Fatalf("swept %+v", swept)
	}
	if err := stale.SetReadDeadline(time.Now().Add(patience * netlab.Slowness())); err != nil {
		t.Fatal(err)
	}
	if _, err := stale.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a read of the stale socket: %v, want a reset", err)
	}
	evil := m.evil.dialFrom(t, "tcp4", 5000, "10.0.1.200:443")
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if portAt(far.RemoteAddr()) != 5000 {
		t.Errorf("the target sees %s", far.RemoteAddr())
	}
	// A target that did believe it answers the prompt with a RST: no record tells of that.
	if err := evil.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	evil.Close()
	netlab.Eventually(t, patience, func() bool {
		flows := m.flowsOf(t, rivalConnection)
		return len(flows) == 1 && flows[0].Flags()&bpf.FlowClosed != 0
	}, "the other flow is closed")
	if _, err := m.b.dp.DrainRefusals(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused := m.b.counter(t, bpf.HookWorkload, bpf.ReasonNoFlow)
	if swept := m.b.sweep(t, 62*time.Second); len(swept.Removed) != 1 {
		t.Fatalf("swept %+v", swept)
	}
	netlab.Eventually(t, patience, func() bool { return m.b.counter(t, bpf.HookWorkload, bpf.ReasonNoFlow) == refused+1 },
		"the target answers the prompt")
	if r, err := m.b.dp.DrainRefusals(t.Context()); err != nil || len(r) != 0 {
		t.Errorf("refusals %+v, %v", r, err)
	}
}

// A datagram that comes after its flow's end does not reach who asks from the same address and port next.
func TestLateDatagramsReachNobody(t *testing.T) {
	m := newRivals(t)
	var pc net.PacketConn
	if err := m.ledger.Do(func() (err error) { pc, err = net.ListenPacket("udp4", ":8443"); return err }); err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	asked := func(c net.Conn) net.Addr {
		t.Helper()
		buf := make([]byte, 16)
		if err := errors.Join(send(c, []byte("ask")), pc.SetReadDeadline(time.Now().Add(patience*netlab.Slowness()))); err != nil {
			t.Fatal(err)
		}
		_, from, err := pc.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		return from
	}
	shop := asked(m.cart.dialFrom(t, "udp4", 5001, "10.0.1.200:443"))
	m.b.sweep(t, 6*time.Minute)
	c := m.evil.dialFrom(t, "udp4", 5001, "10.0.1.200:443")
	other := asked(c)
	if portAt(shop) != 5001 || portAt(other) == 5001 {
		t.Errorf("the target sees %s and %s", shop, other)
	}
	for to, text := range map[net.Addr]string{shop: "secret", other: "answer"} {
		if _, err := pc.WriteTo([]byte(text), to); err != nil {
			t.Fatal(err)
		}
	}
	if err := receive(c, []byte("answer")); err != nil {
		t.Error(err)
	}
	netlab.Eventually(t, patience, func() bool { return m.b.counter(t, bpf.HookWorkload, bpf.ReasonNoFlow) == 1 },
		"the late datagram is refused")
	if f := m.flowsOf(t, 900); len(f) != 1 {
		t.Errorf("flows %+v", f)
	}
}

// What is kept how long after its time, whether the table is nearly full or not, and that a new agent begins again.
func TestQuarantine(t *testing.T) {
	kinds := map[string]struct {
		protocol uint8
		flags    uint16
		answers  uint64
		kept     bool
	}{
		"TCP":            {unix.IPPROTO_TCP, 0, 1, true},
		"TCP revoked":    {unix.IPPROTO_TCP, uint16(bpf.FlowDead), 1, true},
		"TCP unanswered": {unix.IPPROTO_TCP, 0, 0, false},
		"TCP closed":     {unix.IPPROTO_TCP, uint16(bpf.FlowClosed), 1, false},
		"UDP":            {unix.IPPROTO_UDP, 0, 0, true},
		"ICMP":           {unix.IPPROTO_ICMP, 0, 1, true},
	}
	for name, k := range kinds {
		for _, entries := range []uint32{64, 2} {
			d := openTable(t, entries)
			now := bootTime(t, 0)
			fill(t, d, 1, now, func(_ int, open, reply *bpf.Flow) {
				for _, key := range []*bpf.FlowKey{&open.Key, &reply.Key} {
					key.Protocol = k.protocol
				}
				if k.protocol == unix.IPPROTO_ICMP { // the id stands in the same place in both directions
					open.Key.Dport, open.Dport = 0, 0
					reply.Key.Sport, reply.Key.Dport, reply.Sport, reply.Dport = open.Key.Sport, 0, open.Key.Sport, 0
				}
				open.Key.View, reply.ReverseView = uint8(bpf.ViewProvider), uint8(bpf.ViewProvider)
				reply.Key.View, open.ReverseView = uint8(bpf.ViewWorkload), uint8(bpf.ViewWorkload)
				open.Flags |= k.flags
				reply.Flags |= k.flags | uint16(bpf.FlowDestTagged)
				reply.Packets = k.answers
			})
			sweep := func(after time.Duration, want int) {
				t.Helper()
				swept, err := d.Sweep(t.Context(), now+after)
				if err != nil || len(swept.Removed) != want || swept.Left+2*want != 2 {
					t.Errorf("%s of %d entries, after %s: swept %+v, %v", name, entries, after, swept, err)
				}
			}
			if !k.kept {
				sweep(time.Hour, 1)
				continue
			}
			if k.flags == 0 {
				sweep(time.Hour, 0)
			}
			sweep(time.Hour+2*time.Second, 0)
			sweep(time.Hour+61*time.Second, 0)
			d.quarantines = nil // as of a new agent
			sweep(time.Hour+63*time.Second, 0)
			sweep(time.Hour+122*time.Second, 0)
			if flows, err := d.Flows(t.Context()); err != nil || len(flows) != 1 {
				t.Fatal(len(flows), err)
			}
			sweep(time.Hour+123*time.Second, 1)
		}
	}
}

// A target is prompted when its quarantine begins and every ten seconds.
func TestQuarantinePrompts(t *testing.T) {
	d := openTable(t, 64)
	now := bootTime(t, 0)
	fill(t, d, 1, now, func(_ int, open, reply *bpf.Flow) {
		for _, key := range []*bpf.FlowKey{&open.Key, &reply.Key} {
			key.Protocol = unix.IPPROTO_TCP
		}
		reply.Flags |= uint16(bpf.FlowDestTagged | bpf.FlowExpired)
		reply.Packets = 1
	})
	for after, want := range []int{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0} {
		l, err := d.look(t.Context(), now+time.Duration(after)*time.Second, false, ledger{})
		if err != nil || len(l.prompts) != want {
			t.Errorf("%d prompts after %d s, want %d; %v", len(l.prompts), after, want, err)
		}
		d.quarantines = l.quarantines
	}
}
