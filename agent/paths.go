package agent

import (
	"context"
	"maps"
	"net/netip"
	"time"

	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
)

// What the path to each peer carries, as the tunnel's process measures it, or beside the kernel's WireGuard the agent
// (decision 0013).

const (
	// pathPause is the time between two questions to a tunnel that does not answer.
	pathPause = time.Second

	// pathRest is the time between two rounds for what was measured: the first change counts at once, and a peer whose path is another
	// all the time, in earnest or not, does not keep this node busy. Each such round has flows judged anew.
	pathRest = 500 * time.Millisecond
)

// measurePaths brings the facts up to date. What was measured of a peer counts until something else is, also while the
// tunnel's process starts anew. Before that routes count, and nothing larger than what is usual.
func (t *turn) measurePaths(ctx context.Context) {
	measured := map[string]uint16{}
	if meter, ok := t.edges.Wire.(wire.PathMeter); ok {
		if paths, err := meter.PathMTUs(ctx, t.self(), wire.NoVersion); err == nil { // else the tunnel's own part of the round tells
			for key, mtu := range paths.MTU {
				measured[key.String()] = uint16(mtu)
			}
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	known := make(map[string]uint16, len(t.view.Peers))
	t.facts.PathMTU = make(map[string]uint16, len(t.view.Peers))
	for _, p := range t.view.Peers {
		key := p.PublicKey
		if known[key] = measured[key]; known[key] == 0 {
			known[key] = t.measured[key]
		}
		room, routed := t.routes.room[key]
		mtu := int(known[key])
		if mtu == 0 {
			delete(known, key)
			mtu = min(t.cfg.TunnelMTU, host.DefaultTunnelMTU)
		}
		// The kernel's WireGuard cuts what is larger than a route, and then it arrives: measured or not.
		if routed && (known[key] == 0 || t.cfg.KernelTunnel) {
			mtu = min(mtu, room)
		}
		t.facts.PathMTU[key] = uint16(max(0, mtu))
	}
	t.measured, t.pathMTU = known, maps.Clone(t.facts.PathMTU)
}

// self is this node's own address in the tunnel.
func (t *turn) self() netip.Addr { return api.NodeAddr(t.view.Mesh.Number, t.view.Node.Number) }

// watchPaths wakes the loop when the tunnel has measured something.
func (a *Agent) watchPaths(ctx context.Context) error {
	meter, ok := a.edges.Wire.(wire.PathMeter)
	if !ok {
		<-ctx.Done()
		return nil
	}
	since := uint64(wire.NoVersion)
	for ctx.Err() == nil {
		v, _ := a.box.latest()
		var err error
		pause := time.Duration(0)
		if v != nil {
			var paths wire.PathMTUs
			paths, err = meter.PathMTUs(ctx, api.NodeAddr(v.Mesh.Number, v.Node.Number), since)
			if err == nil && paths.Version != since {
				since, pause = paths.Version, pathRest
				a.Wake()
			}
		}
		if v == nil || err != nil {
			pause = pathPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}
