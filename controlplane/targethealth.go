package controlplane

import (
	"sync"

	"github.com/culvert-net/culvert/api"
)

// targetKey names a target of a target group.
type targetKey struct {
	group, eni string
	port       uint16
}

// healthBook has what nodes said of the health of the targets that they host. States are memory only: each report tells all of them
// again. Histories are in the store, too.
type healthBook struct {
	mu      sync.Mutex
	states  map[string]map[targetKey]api.TargetHealth // by node
	history map[targetKey]targetHistory
	changed chan struct{} // closed and replaced when anything is not as it was
}

// targetHistory is what one node told: that which hosts the target now.
type targetHistory struct {
	node    string
	changes []api.HealthTransition // the oldest first
}
