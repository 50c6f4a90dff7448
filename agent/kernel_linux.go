package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/datapath"
	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/agent/wire/tunnel"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/internal/netns"
	"github.com/culvert-net/culvert/plan"
)

// programs is the BPF side as the loop's Datapath.
type programs struct{ *datapath.Datapath }

var _ Datapath = programs{}

var places = map[Place]datapath.Place{
	AtWorkload: datapath.AtWorkload, AtTunnel: datapath.AtTunnel, AtHost: datapath.AtHost,
}

// Secure implements Datapath.
func (p programs) Secure(ifindex int, place Place) error {
	at, ok := places[place]
	if !ok {
		return fmt.Errorf("secure interface %d: unknown place %d", ifindex, place)
	}
	return p.Datapath.Secure(ifindex, at)
}

// Apply implements Datapath. It also lets go of what was attached to interfaces that are gone: their numbers come again.
func (p programs) Apply(ctx context.Context, rows *plan.Plan) (changed bool, err error) {
	if _, err := p.Attached(); err != nil {
		return false, err
	}
	return p.Datapath.Apply(ctx, rows)
}

// Counters implements Datapath.
func (p programs) Counters() ([]Count, error) {
	counters, err := p.Datapath.Counters()
	if err != nil {
		return nil, err
	}
	out := make([]Count, len(counters))
	for i, c := range counters {
		out[i] = Count{ENI: c.ENI, Hook: flow.Hook(c.Hook).String(), Reason: c.Reason.String(), Packets: c.Packets, Bytes: c.Bytes}
	}
	return out, nil
}

// meteredKernel is the kernel's WireGuard with what measures its paths.
type meteredKernel struct {
	*wire.Kernel
	*tunnel.Meter
}

// tunnelDevice is what the configuration asks for, and what has to run beside it; nil: nothing.
func tunnelDevice(cfg Config) (wire.Device, part) {
	if cfg.KernelTunnel {
		k := wire.NewKernel(cfg.Tunnel, "")
		m := tunnel.NewMeter(k, cfg.Tunnel, cfg.Log)
		return meteredKernel{k, m}, m.Run
	}
	return wire.NewUAPI(cfg.TunnelSocket), nil
}

// tunnelLinks is a host on which the kernel's WireGuard takes the place of a TUN that no tunnel process holds.
type tunnelLinks struct{ host.Host }

// EnsureTunnel implements host.Host.
func (h tunnelLinks) EnsureTunnel(spec host.TunnelSpec) (host.Link, error) {
	l, err := h.Host.EnsureTunnel(spec)
	if !errors.Is(err, host.ErrKind) {
		return l, err
	}
	if _, err := wire.NewKernel(spec.Name, "").Observe(context.Background()); errors.Is(err, wire.ErrNoModule) {
		return host.Link{}, err // with the TUN still there
	}
	if err := tunnel.Delete(spec.Name); errors.Is(err, unix.EBUSY) {
		return host.Link{}, fmt.Errorf("interface %s is held by culvert tunnel, which --wireguard kernel has no use for: "+
			"stop culvert tunnel", spec.Name)
	} else if err != nil {
		return host.Link{}, err
	}
	return h.Host.EnsureTunnel(spec)
}

// namespaces are those of this machine.
type namespaces struct{}

var _ Namespaces = namespaces{}

// Open implements Namespaces.
func (namespaces) Open(path string) (*Namespace, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	keeper, err := netns.KeptBy(path)
	if err != nil {
		return nil, noNamespace(path, err)
	}
	n, err := netns.Open(path)
	if err != nil {
		return nil, noNamespace(path, err)
	}
	return &Namespace{Namespace: plan.Namespace{Boot: boot, Cookie: n.Cookie, Process: keeper == netns.Process}, Inode: n.Inode,
		Rooted: keeper == netns.Root, Close: n.Close,
		Dial: func(ctx context.Context, network string, to netip.AddrPort) (conn net.Conn, err error) {
			err = n.Do(func() (err error) { // the dialer makes the socket of one address on the caller's thread
				conn, err = new(net.Dialer).DialContext(ctx, network, to.String())
				return err
			})
			return conn, err
		}}, nil
}

// Inode implements Namespaces.
func (namespaces) Inode(path string) (uint64, error) {
	inode, err := netns.Inode(path)
	return inode, noNamespace(path, err)
}

// noNamespace says it in the words of agent/host.
func noNamespace(path string, err error) error {
	if errors.Is(err, netns.ErrNone) {
		return fmt.Errorf("open namespace %s: %w", path, host.ErrNoNamespace)
	}
	return err
}

// Pressure implements Datapath.
func (p programs) Pressure() []Charge {
	charged := p.Datapath.Pressure()
	out := make([]Charge, len(charged))
	for i, c := range charged {
		out[i] = Charge{Quota: plan.QuotaKind(c.Key.Kind), ID: c.Key.Id, Used: c.Used, Bound: c.Bound}
		if bpf.QuotaKind(c.Key.Kind) == bpf.QuotaPool {
			out[i].Quota = 0
			out[i].Source, out[i].Protocol = bpf.Addr(c.Key.Source), c.Key.Protocol
			out[i].Target = netip.AddrPortFrom(bpf.Addr(c.Key.Target), bpf.Port(c.Key.Port))
		}
	}
	return out
}

// Flows implements Datapath.
func (p programs) Flows() (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	flows, err := p.Datapath.Flows(ctx)
	return len(flows), err
}
