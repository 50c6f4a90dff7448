package agent

import (
	"testing"

	"github.com/culvert-net/culvert/agent/wire/tunnel"
	"github.com/culvert-net/culvert/bpf"
	"github.com/culvert-net/culvert/plan"
)

// Plan, programs and tunnel mean the same lanes, which they may not read of each other.
func TestLanesAreOne(t *testing.T) {
	if plan.Lanes != bpf.Lanes || tunnel.Lanes != bpf.Lanes || tunnel.LaneMark != uint32(bpf.TunnelMark) {
		t.Errorf("lanes: plan %d, tunnel %d from mark %#x, programs %d from %#x", plan.Lanes, tunnel.Lanes, tunnel.LaneMark, bpf.Lanes,
			uint32(bpf.TunnelMark))
	}
}
