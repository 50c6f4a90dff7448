package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/culvert-net/culvert/agent/doctor"
	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
)

// The ways to peers, as far as this node can tell.

const (
	// underlayTick is the time between two looks at the routes to peers.
	underlayTick = 15 * time.Second
	// handshakePatience is how long a peer may be silent before that is put down to NAT: WireGuard sends an initiation every
	// 5 s (REKEY_TIMEOUT), and a session lives for 180 s (REJECT_AFTER_TIME).
	handshakePatience = 15 * time.Second
	sessionLife       = 180 * time.Second
)

// underlayCheck is what the last look found.
type underlayCheck struct {
	at       time.Time
	revision int64
	problems []string
	room     map[string]int // what routes leave for a packet inside the tunnel, in bytes, by the peer's public key
}

// lookAtRoutes says what is wrong with the ways to peers. Routes are looked up when the view changed, and now and then:
// another program may change them at any time.
func (t *turn) lookAtRoutes(now time.Time) {
	if t.routes.revision == t.view.Revision && now.Sub(t.routes.at) < underlayTick {
		return
	}
	t.routes = underlayCheck{at: now, revision: t.view.Revision, room: map[string]int{}}
	seen := map[string]bool{}
	for _, p := range t.view.Peers {
		to := peerAddress(p)
		if !to.IsValid() {
			continue
		}
		path, err := t.edges.Host.Path(to)
		if errors.Is(err, host.ErrNoRoute) {
			t.routes.problems = append(t.routes.problems, fmt.Sprintf("there is no route to node %s at %s: add one", p.Name, to))
			continue
		}
		if err != nil {
			continue // it went away between two questions; the next look tells
		}
		u := doctor.Underlay{To: "node " + p.Name, Interface: path.Interface, MTU: path.MTU, IPv6: to.Is6()}
		t.routes.room[p.PublicKey] = u.Inside()
		kind := fmt.Sprint(u.Interface, u.MTU, u.IPv6)
		if problem := u.Problem(); problem != "" && !seen[kind] { // once per interface
			seen[kind] = true
			t.routes.problems = append(t.routes.problems, problem)
		}
	}
}

// peerAddress is where a peer's tunnelled packets go at first; invalid: nobody knows.
func peerAddress(p api.ViewPeer) netip.Addr {
	for _, u := range p.Underlay {
		if a, err := netip.ParseAddrPort(u); err == nil {
			return a.Addr().Unmap()
		}
	}
	return netip.Addr{}
}

// unreachable says which peers cannot be reached because both sides are behind NAT. Some NATs let it pass all the same, so
// only silence counts.
func unreachable(v *api.View, tunnel wire.State, running time.Duration, now time.Time) []string {
	if !v.Node.BehindNAT || running < handshakePatience {
		return nil
	}
	heard := map[string]time.Time{}
	for _, p := range tunnel.Peers {
		heard[p.PublicKey.String()] = p.LastHandshake
	}
	var out []string
	for _, p := range v.Peers {
		if p.BehindNAT && now.Sub(heard[p.PublicKey]).Abs() > sessionLife {
			out = append(out, fmt.Sprintf("this node and node %s are both behind NAT, so neither reaches the other: forward a UDP port "+
				"to one of them, and join it again with --underlay-address ADDRESS:PORT", p.Name))
		}
	}
	return out
}
