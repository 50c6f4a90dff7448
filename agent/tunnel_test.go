package agent

import (
	"strings"
	"testing"

	"github.com/culvert-net/culvert/agent/host"
)

// With the kernel's WireGuard the agent makes the link, closed before it is up, and speaks of no process.
func TestKernelTunnel(t *testing.T) {
	b := newBench(t)
	b.host.DeleteLink(host.DefaultTunnel)
	b.agent.cfg.KernelTunnel = true
	b.hear(testView(1))
	b.mustRound()
	l, err := b.host.Link(host.DefaultTunnel)
	if err != nil || !l.Up || !l.Closed {
		t.Fatalf("link %+v, %v", l, err)
	}
	if s, err := b.wire.Observe(t.Context()); err != nil || s.PublicKey.IsZero() || s.ListenPort == 0 {
		t.Errorf("device %+v, %v", s, err)
	}
	b.host.DeleteLink(host.DefaultTunnel) // by hand
	b.mustRound()
	if again, err := b.host.Link(host.DefaultTunnel); err != nil || !again.Up || !again.Closed || again.Ifindex == l.Ifindex {
		t.Errorf("link %+v, %v", again, err)
	}
	b.host.DeleteLink(host.DefaultTunnel)
	b.host.WithoutWireGuard()
	errs := b.agent.round(t.Context())
	if len(errs) == 0 || strings.Contains(errs[0].Error(), "culvert tunnel running") {
		t.Errorf("without WireGuard in the kernel: %v", errs)
	}
}
