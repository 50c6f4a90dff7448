package controlplane

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// tallyEvery is how often the log tells of what nodes may not do.
const tallyEvery = time.Minute

// tally counts by node what the log is to tell of, so that a node does not fill the log.
type tally struct {
	mu   sync.Mutex
	told time.Time
	by   map[string]tallied
}

type tallied struct {
	times int
	last  string
}

func (t *tally) add(node, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = map[string]tallied{}
	}
	t.by[node] = tallied{t.by[node].times + 1, what}
}

// take returns the counts once in tallyEvery.
func (t *tally) take(now time.Time) map[string]tallied {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.by) == 0 || now.Sub(t.told) < tallyEvery {
		return nil
	}
	by := t.by
	t.by, t.told = nil, now
	return by
}

// tellTallies logs what was counted.
func (s *Server) tellTallies() {
	for what, t := range map[string]*tally{
		"flow records refused that the node may not write":           &s.refusedFlows,
		"somebody shows certificates of the node that were replaced": &s.replaced,
	} {
		by := t.take(s.cfg.Now())
		for _, node := range slices.Sorted(maps.Keys(by)) {
			s.log.Warn(what, "node", node, "times", by[node].times, "last", by[node].last)
		}
	}
}
