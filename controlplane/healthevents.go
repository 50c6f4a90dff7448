package controlplane

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
)

const (
	// prefixHealth and target group, interface and port: a keptHistory.
	prefixHealth = "health/"
	healthWindow = time.Minute
	// healthBatch is how many changes one transaction writes.
	healthBatch = 500
)

// keptHistory is a target's history as the store has it.
type keptHistory struct {
	Node    string                 `json:"node"`
	Changes []api.HealthTransition `json:"changes"`
}

func (k targetKey) stored() string {
	return prefixHealth + k.group + "/" + k.eni + "/" + strconv.Itoa(int(k.port))
}

// healthEvents are changes of targets' health on their way into the audit log.
type healthEvents struct {
	mu      sync.Mutex
	waiting []api.AuditEvent
	spent   map[string]healthSpent // by node
	writing sync.Mutex             // one at a time, so that they stay in order
}

type healthSpent struct {
	since time.Time
	n     int
}

// forget drops what was spent a while ago.
func (h *healthEvents) forget(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for node, s := range h.spent {
		if now.Sub(s.since) >= healthWindow {
			delete(h.spent, node)
		}
	}
}

// take returns the oldest that wait, at most so many.
func (h *healthEvents) take(most int) []api.AuditEvent {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := min(most, len(h.waiting))
	out := h.waiting[:n:n]
	h.waiting = h.waiting[n:]
	return out
}

func (h *healthEvents) putBack(events []api.AuditEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = append(events, h.waiting...)
}

// flushHealth writes the changes that wait, each with its target's history as it is.
func (s *Server) flushHealth(ctx context.Context) error {
	s.told.writing.Lock()
	defer s.told.writing.Unlock()
	s.told.forget(s.cfg.Now())
	for {
		batch := s.told.take(healthBatch)
		if len(batch) == 0 {
			return nil
		}
		histories := s.health.histories(batch)
		if _, err := s.store.Txn(ctx, func(tx *store.Tx) error {
			for key, h := range histories {
				data, err := json.Marshal(h)
				if err != nil {
					return err
				}
				tx.SetSide(key.stored(), data)
			}
			for _, e := range batch {
				tx.Audit(e)
			}
			return nil
		}); err != nil {
			s.told.putBack(batch)
			return err
		}
	}
}

// histories are those of the targets that events are about.
func (b *healthBook) histories(events []api.AuditEvent) map[targetKey]keptHistory {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[targetKey]keptHistory{}
	for _, e := range events {
		key := targetKey{e.Health.TargetGroup, e.Health.ENI, e.Health.Port}
		if h, known := b.history[key]; known {
			out[key] = keptHistory{h.node, h.changes}
		}
	}
	return out
}
