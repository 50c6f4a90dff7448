package agent

import (
	"context"
	"log/slog"
	"net"
	"net/netip"

	"github.com/culvert-net/culvert/agent/datapath"
	"github.com/culvert-net/culvert/agent/health/exchange"
	"github.com/culvert-net/culvert/agent/health/probe"
	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/state"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// exchangeConfig is for the node's part in the health of targets: both what it tells other nodes and its probes go through the
// host's own link, from the node's address. A target is asked once the plan in force says so, which probed tells: before, links may not
// be there, and programs refuse it.
func exchangeConfig(id *state.Identity, probed func(vpc uint32, at netip.AddrPort) bool, changed, listened func(),
	log *slog.Logger) exchange.Config {
	mesh, own := id.Mesh, api.NodeAddr(id.Mesh, id.Number)
	dialer := datapath.Dialer{Mesh: mesh, Node: id.Number, Device: host.HostName}
	return exchange.Config{
		Node: id.Number, Port: plan.NodePort, Log: log, Changed: changed, Listened: listened,
		Listen: func(ctx context.Context) (exchange.Socket, error) {
			return exchange.Open(ctx, host.HostName, netip.AddrPortFrom(own, plan.NodePort))
		},
		Address: func(node uint32) netip.Addr { return api.NodeAddr(mesh, node) },
		NodeOf: func(a netip.Addr) (uint32, bool) {
			o, ok := api.ParseOverlay(a)
			return o.Host, ok && o.Mesh == mesh && o.VPC == 0 && o.Tag == 0
		},
		Prober: &probe.Prober{Dial: func(ctx context.Context, vpc uint32, to netip.AddrPort) (net.Conn, error) {
			if !probed(vpc, to) {
				return nil, probe.ErrNoWay
			}
			return dialer.Dial(ctx, vpc, to)
		}},
	}
}

// signals hands over what the programs saw of targets, until ctx ends.
func (m *machine) signals(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-m.source.Signals():
			m.health.Signal(s.VPC, s.Target, s.Kind == datapath.SignalSilent)
		}
	}
}
