package dev

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/netns"
)

// attackPackets of each kind are sent; they must all be counted where they are refused.
const attackPackets = 20

// Attempt is one kind of forged packet and what became of it.
type Attempt struct {
	What string `json:"what"`
	Sent int    `json:"sent"`
	// Reason that the receiving node must give; "" where WireGuard itself must drop the packet, so that it never arrives.
	Reason  string `json:"reason"`
	Refused uint64 `json:"refused"` // counted by the receiver under Reason
	src     api.Overlay
	dst     api.Overlay
	dstPort uint16
}

// OK reports whether the receiver refused all of them.
func (a *Attempt) OK() bool { return a.Reason == "" || a.Refused == uint64(a.Sent) }

// AttackReport is what a hostile host achieved.
type AttackReport struct {
	Host      string    `json:"host"`
	Provider  string    `json:"provider"` // host that received
	Attempts  []Attempt `json:"attempts"`
	Arrived   uint64    `json:"arrived"`   // at the receiver's program, of all that was sent
	Expected  uint64    `json:"expected"`  // to arrive: all but what WireGuard drops
	Forwarded uint64    `json:"forwarded"` // by the receiver's program, of what arrived; must be 0
}

// OK reports whether nothing got through, and every packet was refused for its own reason.
func (r *AttackReport) OK() bool {
	return r.Forwarded == 0 && r.Arrived == r.Expected &&
		!slices.ContainsFunc(r.Attempts, func(a Attempt) bool { return !a.OK() })
}

// Attack makes a host hostile: its agent is killed, its programs are detached, and packets that it has no right to send are
// written raw into its tunnel, toward the provider of an endpoint that its workloads use. The host stays like that until
// Start. Nothing leaves the mesh.
func (l *Lab) Attack(ctx context.Context, hostName, endpoint string) (*AttackReport, error) {
	r, err := l.Load()
	if err != nil {
		return nil, err
	}
	h, err := r.host(hostName)
	if err != nil {
		return nil, err
	}
	admin, err := l.Admin("")
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	report, err := l.attempts(ctx, admin, h, endpoint)
	if err != nil {
		return nil, err
	}
	if err := l.Kill(hostName, "agent", false); err != nil {
		return nil, err
	}
	if err := l.disarm(ctx, h); err != nil {
		return nil, err
	}
	before, err := l.tunnelCounters(ctx, report.Provider)
	if err != nil {
		return nil, err
	}
	for i := range report.Attempts {
		a := &report.Attempts[i]
		if err := netns.Do(netns.Path(h.Netns), func() error { return sendRaw(ctx, host.DefaultTunnel, a) }); err != nil {
			return nil, fmt.Errorf("%s: %w", a.What, err)
		}
		if a.Reason != "" {
			report.Expected += uint64(a.Sent)
		}
	}
	return report, l.count(ctx, report, before)
}

// disarm detaches a host's programs and takes the fence behind them away, as only its root can.
func (l *Lab) disarm(ctx context.Context, h *Host) error {
	if err := os.RemoveAll(l.bpfDir(h.Name)); err != nil {
		return fmt.Errorf("detach programs: %w", err)
	}
	out, err := exec.CommandContext(ctx, "tc", "-n", h.Netns, "qdisc", "del", "dev", host.DefaultTunnel, "clsact").CombinedOutput()
	if err != nil {
		return fmt.Errorf("take away the fence of %s: %w: %s", host.DefaultTunnel, err, bytes.TrimSpace(out))
	}
	return nil
}

// attempts are made from what a compromised host knows: its own view.
func (l *Lab) attempts(ctx context.Context, admin *client.Client, h *Host, endpoint string) (*AttackReport, error) {
	ep, err := admin.GetEndpoint(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	conns, err := admin.ListConnections(ctx, ep.Service)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(conns, func(c api.Connection) bool { return c.ID == ep.Connection })
	if i < 0 || conns[i].State != api.Available || len(conns[i].TagNumbers) == 0 {
		return nil, fmt.Errorf("endpoint %s: an attack needs its connection Available", endpoint)
	}
	enis, err := admin.ListENIs(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := admin.ListNodes(ctx)
	if err != nil {
		return nil, err
	}
	nodeID := ""
	names := map[string]string{}
	for _, n := range nodes {
		names[n.ID] = n.Name
		if n.Name == h.Name {
			nodeID = n.ID
		}
	}
	service, err := admin.GetService(ctx, ep.Service)
	if err != nil {
		return nil, err
	}
	target, err := l.aTarget(ctx, admin, service, enis)
	if err != nil {
		return nil, err
	}
	own := slices.IndexFunc(enis, func(e api.ENI) bool { return e.Node == nodeID && e.VPC == ep.VPC && e.Attached })
	if own < 0 {
		return nil, fmt.Errorf("%s hosts no workload of the endpoint's VPC", h.Name)
	}
	from, err := admin.GetVPC(ctx, ep.VPC)
	if err != nil {
		return nil, err
	}
	to, err := admin.GetVPC(ctx, target.VPC)
	if err != nil {
		return nil, err
	}
	status, err := admin.Status(ctx)
	if err != nil {
		return nil, err
	}
	mesh, err := l.mesh(ctx, h.Name)
	if err != nil {
		return nil, fmt.Errorf("%w (server %s)", err, status.Version)
	}
	return &AttackReport{Host: h.Name, Provider: names[target.Node], Attempts: forge(mesh, from.Number, to.Number,
		enis[own].Address, target.Address, conns[i].TagNumbers[0].Number)}, nil
}

// aTarget is an attached target behind a service.
func (l *Lab) aTarget(ctx context.Context, admin *client.Client, s *api.Service, enis []api.ENI) (*api.ENI, error) {
	for _, id := range s.LoadBalancers {
		lb, err := admin.GetLoadBalancer(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, listener := range lb.Listeners {
			tg, err := admin.GetTargetGroup(ctx, listener.TargetGroup)
			if err != nil {
				return nil, err
			}
			for _, t := range tg.Targets {
				i := slices.IndexFunc(enis, func(e api.ENI) bool { return e.ID == t.ENI && e.Attached })
				if i >= 0 {
					return &enis[i], nil
				}
			}
		}
	}
	return nil, errors.New("the service has no attached target")
}

// mesh is the mesh's number, from the host's own overlay address.
func (l *Lab) mesh(ctx context.Context, hostName string) (uint32, error) {
	var number uint32
	r, err := l.Load()
	if err != nil {
		return 0, err
	}
	h, err := r.host(hostName)
	if err != nil {
		return 0, err
	}
	err = netns.Do(netns.Path(h.Netns), func() error {
		ifi, err := net.InterfaceByName(host.HostName)
		if err != nil {
			return err
		}
		addrs, err := ifi.Addrs()
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				if o, ok := api.ParseOverlay(p.Addr()); ok {
					number = o.Mesh
					return ctx.Err()
				}
			}
		}
		return fmt.Errorf("%s has no overlay address", host.HostName)
	})
	return number, err
}

// forge makes one attempt per right that the host does not have.
func forge(mesh, from, to uint32, own, target netip.Addr, number uint16) []Attempt {
	src := api.Overlay{Mesh: mesh, VPC: from, Host: api.AddrHost(own), Tag: api.TagFamilyIPv4}
	dst := api.Overlay{Mesh: mesh, VPC: to, Host: api.AddrHost(target), Tag: api.TagFamilyIPv4}
	tagged := func(o api.Overlay, n uint16) api.Overlay {
		o.Tag = api.TagFamilyIPv4 | n
		return o
	}
	other := src
	other.Host = src.Host ^ 0x0000ff00 // an address of the consumer's VPC that this host does not have
	foreign := src
	foreign.VPC = from ^ 0x00ffff00 // a VPC that it has nothing to do with
	return []Attempt{
		{What: "straight into the provider's VPC, without a connection", Reason: "BAD_OVERLAY", src: src, dst: dst, dstPort: 443},
		{What: "by a connection that does not exist", Reason: "NO_GRANT", src: tagged(src, number^0x4000), dst: dst, dstPort: 443},
		{What: "by the connection it has, to a port that is not offered", Reason: "TARGET_NOT_GRANTED",
			src: tagged(src, number), dst: dst, dstPort: 22},
		{What: "as an answer to a connection nobody opened", Reason: "NO_FLOW", src: src, dst: tagged(dst, number), dstPort: 443},
		{What: "from another address of its own VPC", src: tagged(other, number), dst: dst, dstPort: 443},
		{What: "from a VPC that it does not host", src: tagged(foreign, number), dst: dst, dstPort: 443},
	}
}

// sendRaw writes TCP SYNs into the tunnel's interface, past every program that was there.
func sendRaw(ctx context.Context, ifname string, a *Attempt) error {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return err
	}
	const ethPIPv6 = 0x86dd
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Protocol: ethPIPv6>>8 | ethPIPv6&0xff<<8, Ifindex: ifi.Index}
	deadline := time.Now().Add(5 * time.Second)
	for a.Sent < attackPackets {
		err := unix.Sendto(fd, syn(a.src.Addr(), a.dst.Addr(), uint16(40000+a.Sent), a.dstPort), 0, to)
		switch {
		case err == nil:
			a.Sent++
		case errors.Is(err, unix.ENOBUFS) && time.Now().Before(deadline):
			// Dropped on its way out: the queue is full, or a program is there still, as the kernel detaches in its own time.
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(10 * time.Millisecond):
			}
		default:
			return err
		}
	}
	return nil
}

// syn is an IPv6 packet with a TCP SYN.
func syn(src, dst netip.Addr, sport, dport uint16) []byte {
	p := make([]byte, 60)
	p[0], p[5], p[6], p[7] = 0x60, 20, 6, 64
	s, d := src.As16(), dst.As16()
	copy(p[8:], s[:])
	copy(p[24:], d[:])
	t := p[40:]
	binary.BigEndian.PutUint16(t, sport)
	binary.BigEndian.PutUint16(t[2:], dport)
	binary.BigEndian.PutUint32(t[4:], 1)
	t[12], t[13] = 5<<4, 2
	binary.BigEndian.PutUint16(t[14:], 65535)
	sum := uint32(20 + 6)
	for i := 8; i < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(t[16:], ^uint16(sum))
	return p
}

// tunnelCounters are a host's counts of what came in by its tunnel, by reason; "NONE" is everything that came.
func (l *Lab) tunnelCounters(ctx context.Context, hostName string) (map[string]uint64, error) {
	s, err := local.NewClient(l.AgentSocket(hostName)).Status(ctx)
	if err != nil {
		return nil, err
	}
	sum := map[string]uint64{}
	for _, c := range s.Counters {
		if c.Hook == "tunnel" {
			sum[c.Reason] += c.Packets
		}
	}
	return sum, nil
}

// count waits until what was sent has been counted, and some time longer for what must not come.
func (l *Lab) count(ctx context.Context, r *AttackReport, before map[string]uint64) error {
	deadline := time.Now().Add(5 * time.Second)
	settled := time.Time{}
	for {
		now, err := l.tunnelCounters(ctx, r.Provider)
		if err != nil {
			return err
		}
		since := func(reason string) uint64 { return now[reason] - before[reason] }
		r.Arrived, r.Forwarded = since("NONE"), since("FORWARDED")
		for i := range r.Attempts {
			r.Attempts[i].Refused = since(r.Attempts[i].Reason)
		}
		if r.Arrived >= r.Expected && settled.IsZero() {
			settled = time.Now()
		}
		if time.Now().After(deadline) || !settled.IsZero() && time.Since(settled) > 500*time.Millisecond {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
