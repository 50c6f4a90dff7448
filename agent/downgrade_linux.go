package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/culvert-net/culvert/agent/datapath"
	"github.com/culvert-net/culvert/agent/state"
)

// Downgraded is what became of flows.
type Downgraded = datapath.Downgraded

// OlderSchema of the maps is the newest to which there is a way back.
const OlderSchema = datapath.OlderSchema

// Downgrade prepares what is pinned for an agent with that older schema of the maps: it takes up flows and counters then. From now
// on until it runs, nothing passes. It refuses, with nothing changed, while the agent runs.
func Downgrade(ctx context.Context, cfg Config, schema uint32) (Downgraded, error) {
	cfg.setDefaults()
	unlock, err := state.Dir(cfg.DataDir).Lock()
	if errors.Is(err, state.ErrLocked) {
		return Downgraded{}, fmt.Errorf("downgrade: %w: stop culvert agent first", err)
	}
	if err != nil {
		return Downgraded{}, err
	}
	defer unlock()
	// The flow table has the room that it has.
	return datapath.Downgrade(ctx, datapath.Config{PinPath: cfg.PinDir, Sizes: datapath.Sizes{Flows: 1}, Log: cfg.Log}, schema)
}
