package cli

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent"
	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/api"
)

func TestCheckAgent(t *testing.T) {
	good := agent.Config{TunnelMTU: host.DefaultTunnelMTU, FlowInterval: time.Minute, FlowEntries: agent.DefaultFlowEntries,
		FlowAdvance: agent.AdvanceAuto, FlowShare: agent.DefaultFlowShare, FlowReserve: agent.DefaultFlowReserve}
	if err := checkAgent(&good); err != nil {
		t.Fatal(err)
	}
	for flag, spoil := range map[string]func(*agent.Config){
		"--flow-interval":      func(c *agent.Config) { c.FlowInterval = time.Hour },
		"--mtu":                func(c *agent.Config) { c.TunnelMTU = 10 },
		"--gossip-address":     func(c *agent.Config) { c.GossipAddress = "here" },
		"--flow-share":         func(c *agent.Config) { c.FlowShare = 101 },
		"--flow-reserve":       func(c *agent.Config) { c.FlowReserve = 0 },
		"--flow-table-entries": func(c *agent.Config) { c.FlowEntries = 1023 },

		"--flow-table-preallocate": func(c *agent.Config) { c.FlowAdvance = "sometimes" },
	} {
		bad := good
		spoil(&bad)
		var e *api.Error
		if err := checkAgent(&bad); !errors.As(err, &e) || e.Field != flag || e.Remedy == "" {
			t.Errorf("%s: %v", flag, err)
		}
	}
	bad := good
	if bad.FlowEntries = agent.MaxFlowEntries + 1; checkAgent(&bad) == nil {
		t.Errorf("%d entries are accepted", bad.FlowEntries)
	}
}

func TestDowngradeSaysWhatToDo(t *testing.T) {
	var b strings.Builder
	if err := printDowngraded(&b, agent.Downgraded{From: 3, To: 2, Entries: 12}); err != nil {
		t.Fatal(err)
	}
	const kept = "12 flow entries have schema 2 now. Nothing passes until an agent with that schema runs: install and start it.\n"
	if b.String() != kept {
		t.Errorf("printed %q, want %q", b.String(), kept)
	}
	b.Reset()
	if err := printDowngraded(&b, agent.Downgraded{From: 3, To: 2, Entries: 12, Left: 4}); err != nil || b.String() !=
		kept+"4 flow entries could not be kept; their flows end.\n" {
		t.Errorf("printed %q, %v", b.String(), err)
	}
}
