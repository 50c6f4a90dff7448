package controlplane

import (
	"sync"
	"time"

	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/controlplane/evidence"
)

// toldTimes keep until when each node has told all that it recorded.
type toldTimes struct {
	mu sync.Mutex
	by map[string]time.Time
}

// heard notes that a node has told all of its records up to a time. A record does not say that: those of flows that begin and end come
// at once, before others of the same time. What says it is a seal that was made right after all counters were read. A clock that is
// ahead of the server's does not close windows early.
func (s *Server) heard(node string, until time.Time) {
	if now := s.cfg.Now(); until.After(now) {
		until = now
	}
	s.nodesTold.mu.Lock()
	defer s.nodesTold.mu.Unlock()
	if s.nodesTold.by == nil {
		s.nodesTold.by = map[string]time.Time{}
	}
	if until.After(s.nodesTold.by[node]) {
		s.nodesTold.by[node] = until
	}
}

// heardSeals takes what seals of a node say, that were taken: all before one that was made behind all counters is recorded, and was told.
func (s *Server) heardSeals(node string, lines []evidence.Line) {
	for _, l := range lines {
		if !l.Seal {
			continue
		}
		if made, is, err := seal.Parse(l.Data); err == nil && is && made.Full {
			s.heard(node, made.End)
		}
	}
}
