package cli

import (
	"errors"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent"
	"github.com/culvert-net/culvert/agent/host"
	"github.com/culvert-net/culvert/api"
)

func TestCheckAgent(t *testing.T) {
	good := agent.Config{TunnelMTU: host.DefaultTunnelMTU, FlowInterval: time.Minute, FlowEntries: agent.DefaultFlowEntries}
	if err := checkAgent(&good); err != nil {
		t.Fatal(err)
	}
	for flag, spoil := range map[string]func(*agent.Config){
		"--flow-interval":      func(c *agent.Config) { c.FlowInterval = time.Hour },
		"--mtu":                func(c *agent.Config) { c.TunnelMTU = 10 },
		"--gossip-address":     func(c *agent.Config) { c.GossipAddress = "here" },
		"--flow-table-entries": func(c *agent.Config) { c.FlowEntries = 1023 },
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
