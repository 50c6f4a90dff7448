package controlplane

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/culvert-net/culvert/internal/logkey"
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
	s.refusedFlows.tell(s.cfg.Now(), func(node string, t tallied) {
		s.log.Warn("flow records refused that the node may not write", logkey.Node, node, logkey.Times, t.times, logkey.Last, t.last)
	})
	s.oddHealth.tell(s.cfg.Now(), func(node string, t tallied) {
		s.log.Warn("what a node says of targets' health is malformed, and left out", logkey.Node, node, logkey.Times, t.times,
			logkey.Last, t.last)
	})
	s.diskFull.tell(s.cfg.Now(), func(_ string, t tallied) {
		s.log.Error("writes are refused until there is room on the disk; reads go on", logkey.Times, t.times, logkey.Last, t.last)
	})
	s.replaced.tell(s.cfg.Now(), func(node string, t tallied) {
		s.log.Warn("somebody shows certificates of the node that were replaced", logkey.Node, node, logkey.Times, t.times,
			logkey.Last, t.last)
	})
	s.strangers.tell(s.cfg.Now(), func(who string, t tallied) {
		s.log.Warn("requests refused that nobody known made", logkey.Caller, who, logkey.Times, t.times, logkey.Last, t.last)
	})
}

// tell gives each node's count to a function, in order, when it is time.
func (t *tally) tell(now time.Time, each func(node string, t tallied)) {
	by := t.take(now)
	for _, node := range slices.Sorted(maps.Keys(by)) {
		each(node, by[node])
	}
}
