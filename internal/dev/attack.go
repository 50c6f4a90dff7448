package dev

import (
	"bytes"
	"context"
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
	packet  func(port uint16) []byte
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
	if err := l.carryOut(ctx, report, h); err != nil {
		return nil, err
	}
	return report, nil
}

// carryOut sends one attempt after the other, each when what the one before sent has been counted.
func (l *Lab) carryOut(ctx context.Context, r *AttackReport, h *Host) error {
	before, err := l.tunnelCounters(ctx, r.Provider)
	if err != nil {
		return err
	}
	for i := range r.Attempts {
		a := &r.Attempts[i]
		first, err := l.tunnelCounters(ctx, r.Provider)
		if err != nil {
			return err
		}
		if err := netns.Do(netns.Path(h.Netns), func() error { return sendRaw(ctx, host.DefaultTunnel, a) }); err != nil {
			return fmt.Errorf("%s: %w", a.What, err)
		}
		if a.Reason == "" {
			continue
		}
		r.Expected += uint64(a.Sent)
		now, err := l.awaitArrival(ctx, r, before)
		if err != nil {
			return err
		}
		a.Refused = now[a.Reason] - first[a.Reason]
	}
	return l.settle(ctx, r, before)
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
	names, numbers := map[string]string{}, map[string]uint32{}
	for _, n := range nodes {
		names[n.ID], numbers[n.ID] = n.Name, n.Number
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
	return &AttackReport{Host: h.Name, Provider: names[target.Node], Attempts: forge(foothold{
		mesh: mesh, from: from.Number, to: to.Number, own: enis[own].Address, target: target.Address,
		number: conns[i].TagNumbers[0].Number, node: numbers[target.Node],
	})}, nil
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

// sendRaw writes packets into the tunnel's interface, past every program that was there.
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
		err := unix.Sendto(fd, a.packet(uint16(40000+a.Sent)), 0, to)
		switch {
		case err == nil:
			a.Sent++
		case errors.Is(err, unix.ENOBUFS) && time.Now().Before(deadline):
			// Dropped on its way out: the queue is full, or a program is there still, as the kernel detaches in its own time.
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return nil
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

// awaitArrival waits until what was sent so far has been counted, 5 s at most, and returns the counts.
func (l *Lab) awaitArrival(ctx context.Context, r *AttackReport, before map[string]uint64) (map[string]uint64, error) {
	for deadline := time.Now().Add(5 * time.Second); ; {
		now, err := l.tunnelCounters(ctx, r.Provider)
		if err != nil || now["NONE"]-before["NONE"] >= r.Expected || time.Now().After(deadline) {
			return now, err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// settle waits some time longer, for what must not come.
func (l *Lab) settle(ctx context.Context, r *AttackReport, before map[string]uint64) error {
	if err := pause(ctx, 500*time.Millisecond); err != nil {
		return err
	}
	now, err := l.tunnelCounters(ctx, r.Provider)
	if err != nil {
		return err
	}
	r.Arrived, r.Forwarded = now["NONE"]-before["NONE"], now["FORWARDED"]-before["FORWARDED"]
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
