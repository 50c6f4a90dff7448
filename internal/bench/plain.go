package main

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/internal/netns"
)

// plainPair is two namespaces joined by a veth pair, with a tunnel of wireguard-go, as its authors ship it, between them.
type plainPair struct {
	wireguard string // program
	daemons   []*exec.Cmd
}

// plainEnd is one of the two. WireGuard's control sockets lie in one directory for all namespaces, by interface.
type plainEnd struct {
	namespace, tunnel string
	underlay, inside  netip.Addr
}

func (e plainEnd) socket() string { return "/var/run/wireguard/" + e.tunnel + ".sock" }

var plainEnds = [2]plainEnd{
	{prefix + "-x", prefix + "-x", netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.1.1")},
	{prefix + "-y", prefix + "-y", netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("198.18.1.2")},
}

const wireguardPort = 51820

func (p *plainPair) up(ctx context.Context) ([]*system, error) {
	log.Print("bringing up the plain pair")
	x, y := plainEnds[0], plainEnds[1]
	for _, e := range plainEnds { // a run that was killed leaves them
		if err := netns.Remove(e.namespace); err != nil {
			return nil, err
		}
		if err := netns.Add(e.namespace); err != nil {
			return nil, err
		}
	}
	if err := ip(ctx, "link add eth0 netns "+x.namespace+" type veth peer name eth0 netns "+y.namespace); err != nil {
		return nil, err
	}
	var keys [2]wire.PrivateKey
	for i, e := range plainEnds {
		if err := ip(ctx, "-n "+e.namespace+" address add "+e.underlay.String()+"/24 dev eth0"); err != nil {
			return nil, err
		}
		if err := ip(ctx, "-n "+e.namespace+" link set eth0 up"); err != nil {
			return nil, err
		}
		var err error
		if keys[i], err = wire.NewPrivateKey(); err != nil {
			return nil, err
		}
	}
	for i, e := range plainEnds {
		if err := p.startTunnel(ctx, e, plainEnds[1-i], keys[i], keys[1-i].Public()); err != nil {
			return nil, err
		}
	}
	return []*system{
		{name: "veth", client: x.namespace, server: y.namespace, dial: y.underlay},
		{name: "WireGuard", client: x.namespace, server: y.namespace, dial: y.inside},
	}, nil
}

func (p *plainPair) startTunnel(ctx context.Context, e, peer plainEnd, key wire.PrivateKey, peerKey wire.PublicKey) error {
	cmd, err := start(ctx, e.namespace, p.wireguard, e.tunnel)
	if err != nil {
		return err
	}
	p.daemons = append(p.daemons, cmd)
	device := wire.NewUAPI(e.socket())
	if err := eventually(ctx, 10*time.Second, func() error { return device.SetKey(ctx, key, wireguardPort) }); err != nil {
		return err
	}
	if err := device.Apply(ctx, wire.Change{Add: []wire.Peer{{
		PublicKey: peerKey, Underlay: netip.AddrPortFrom(peer.underlay, wireguardPort),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(peer.inside, 32)},
	}}}); err != nil {
		return err
	}
	if err := ip(ctx, "-n "+e.namespace+" address add "+e.inside.String()+"/24 dev "+e.tunnel); err != nil {
		return err
	}
	return ip(ctx, "-n "+e.namespace+" link set "+e.tunnel+" up")
}

// down ends the tunnels, which removes their interfaces, and the namespaces.
func (p *plainPair) down() {
	for _, cmd := range p.daemons {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}
	for _, e := range plainEnds {
		_ = os.Remove(e.socket()) // a tunnel that was killed leaves it
		if err := netns.Remove(e.namespace); err != nil {
			log.Print(err)
		}
	}
}

func ip(ctx context.Context, args string) error {
	if out, err := exec.CommandContext(ctx, "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, out)
	}
	return nil
}
