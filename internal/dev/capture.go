package dev

import (
	"context"

	"github.com/culvert-net/culvert/agent"
	"github.com/culvert-net/culvert/internal/netns"
	"github.com/culvert-net/culvert/internal/underlay"
)

// bridge joins the hosts, in the underlay's namespace.
const bridge = "br0"

// Capture says what crosses the mesh's underlay, until ctx ends. Every marker is a text that must not be seen there.
func (l *Lab) Capture(ctx context.Context, markers []string, ready func()) (underlay.Report, error) {
	c := &underlay.Classifier{Ports: underlay.Ports{WireGuard: agent.DefaultWireGuardPort, Gossip: agent.DefaultGossipPort,
		Server: serverPort}}
	for _, m := range markers {
		c.Markers = append(c.Markers, []byte(m))
	}
	var r underlay.Report
	err := netns.Do(netns.Path(l.namespace("underlay")), func() (err error) {
		r, err = underlay.Capture(ctx, bridge, c, ready)
		return err
	})
	return r, err
}
