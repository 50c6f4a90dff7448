package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	// prefixHealth and target group, interface and port: a keptHistory.
	prefixHealth = "health/"
	// maxHealthEvents is how many changes of health one node may have written in healthWindow, each as an event; more are counted. A
	// node that tells of a change each second must not push out what others did.
	maxHealthEvents = 120
	healthWindow    = time.Minute
	// maxWaitingHealth is how many events wait while the store takes none; the oldest are dropped then.
	maxWaitingHealth = 4096
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

func storedTarget(key string) (k targetKey, ok bool) {
	parts := strings.Split(strings.TrimPrefix(key, prefixHealth), "/")
	if len(parts) != 3 {
		return k, false
	}
	port, err := strconv.ParseUint(parts[2], 10, 16)
	return targetKey{parts[0], parts[1], uint16(port)}, err == nil
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

// room takes one of the events that a node may have written.
func (h *healthEvents) room(node string, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.spent == nil {
		h.spent = map[string]healthSpent{}
	}
	s := h.spent[node]
	if now.Sub(s.since) >= healthWindow {
		s = healthSpent{since: now}
	}
	s.n++
	h.spent[node] = s
	return s.n <= maxHealthEvents
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

func (h *healthEvents) add(events []api.AuditEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = append(h.waiting, events...)
	if over := len(h.waiting) - maxWaitingHealth; over > 0 {
		h.waiting = append([]api.AuditEvent(nil), h.waiting[over:]...)
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

// auditHealth writes what a node said of its targets that was not known. Where that fails, housekeeping tries again: the node is not
// told, since it would send all of its report again.
func (s *Server) auditHealth(ctx context.Context, node string, fresh []api.HealthTransition) {
	if len(fresh) == 0 {
		return
	}
	c := s.newCall(ctx, s.store.Snapshot())
	var events []api.AuditEvent
	for _, t := range fresh {
		g := c.r.TargetGroups[t.TargetGroup]
		if g == nil {
			continue
		}
		e := c.event(api.ActionTargetHealth, outcomeSuccess)
		e.Account, e.Resource = g.Account, g.ID
		e.Message = fmt.Sprintf("%s:%d is %s: %s %s", t.ENI, t.Port, t.To, t.Reason, t.Description)
		if !s.told.room(node, c.now) {
			s.writeRepeated(ctx, e)
			continue
		}
		e.Health = &t
		events = append(events, e)
	}
	s.told.add(events)
	if err := s.flushHealth(ctx); err != nil {
		s.log.Warn("changes of targets' health not audited yet", logkey.Node, node, logkey.Error, err)
	}
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

// loadHealth brings back the histories of targets.
func (s *Server) loadHealth(ctx context.Context) error {
	return s.eachSide(ctx, prefixHealth, func(kv store.KV) error {
		var h keptHistory
		key, ok := storedTarget(kv.Key)
		if ok && json.Unmarshal(kv.Value, &h) == nil {
			s.health.restore(key, targetHistory{h.Node, h.Changes})
		}
		return nil
	})
}

func (b *healthBook) restore(key targetKey, h targetHistory) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.history[key] = h
}

// forgetHealth deletes the histories of targets that are gone.
func (s *Server) forgetHealth(ctx context.Context) error {
	r := s.store.Snapshot()
	return s.eachSide(ctx, prefixHealth, func(kv store.KV) error {
		if key, ok := storedTarget(kv.Key); ok && isTarget(r, key) {
			return nil
		}
		return s.store.Delete(ctx, kv.Key)
	})
}
