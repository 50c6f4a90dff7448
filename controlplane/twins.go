package controlplane

import (
	"slices"
	"time"
)

const (
	// rememberedRuns of a node's agent are enough to know one again that takes turns with two others.
	rememberedRuns = 4
	// twinsFor is how long after the last turn two machines still count as two: both report at least every 10 s.
	twinsFor = time.Minute
	// twinsTurns is how often a run must come back: once could be a report that was long on its way.
	twinsTurns = 2
)

const twinsProblem = "two machines have this node's identity and take turns, as after a copy of its data directory: " +
	"stop the agent on one of them, remove its data directory, and join it with a token of its own"

// runs are those of a node's agent, the last that was heard of first. An agent that starts anew has another; one that ended never
// comes back.
type runs struct {
	known    []string
	returned time.Time // when one last did
	turns    int       // how often, with less than twinsFor between
}

func (r *runs) note(run string, at time.Time) {
	i := slices.Index(r.known, run)
	if run == "" || i == 0 {
		return
	}
	if i > 0 {
		r.known = slices.Delete(r.known, i, i+1)
		if at.Sub(r.returned) > twinsFor {
			r.turns = 0
		}
		r.turns++
		r.returned = at
	}
	r.known = slices.Insert(r.known, 0, run)
	r.known = r.known[:min(len(r.known), rememberedRuns)]
}

// twins tells whether two machines reported as one node shortly before a time.
func (h *hub) twins(node string, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.nodes[node]
	return l != nil && l.runs.turns >= twinsTurns && now.Sub(l.runs.returned) <= twinsFor
}
