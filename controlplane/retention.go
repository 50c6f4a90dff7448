package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
)

// defaultSegmentDays keeps evidence, and what of flow logs was delivered to the server's own disk, for a year, of which PCI DSS 10.5.1
// speaks, and a month to look at it.
const defaultSegmentDays = 400

const day = 24 * time.Hour

// term is how long something is kept that came before Until; the last of a class has none.
type term struct {
	For   time.Duration `json:"for"`
	Until time.Time     `json:"until,omitzero"`
}

// termsOf is a class's, oldest first. Minimum is in days.
type termsOf struct {
	Terms   []term `json:"terms"`
	Minimum int    `json:"minimum"`
}

// expires is when what is of a time may go: the longest term that was in force since binds it.
func (t termsOf) expires(of time.Time) time.Time {
	longest := time.Duration(0)
	for _, x := range t.Terms {
		if x.Until.IsZero() || of.Before(x.Until) {
			longest = max(longest, x.For)
		}
	}
	return of.Add(longest)
}

// terms are those of all classes.
type terms struct {
	mu      sync.Mutex
	by      map[api.RetentionClass]termsOf
	changes int
}

func (t *terms) of(class api.RetentionClass) termsOf {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.by[class]
}

// replace takes what the store has, unless something was set since changes was read.
func (t *terms) replace(by map[api.RetentionClass]termsOf, changes int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changes != changes {
		return false
	}
	t.by = by
	return true
}

func (t *terms) changed() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changes
}

// expired tells whether what is of a time may go.
func (s *Server) expired(class api.RetentionClass, of time.Time) bool {
	return s.terms.of(class).expires(of).Before(s.cfg.Now())
}

// remembering is since when what left a node's view may still be in records that are kept.
func (s *Server) remembering(now time.Time) time.Time {
	longest := s.cfg.FlowRetention
	for _, t := range s.terms.of(api.RetainFlowRecords).Terms {
		longest = max(longest, t.For)
	}
	return now.Add(-longest)
}

// loadRetention brings back what was set, and takes for the rest what the server was started with. What is in the store counts, also
// where the call that wrote it ended with an error all the same, as when its client left.
func (s *Server) loadRetention(ctx context.Context) error {
	changes := s.terms.changed()
	by := map[api.RetentionClass]termsOf{
		api.RetainFlowRecords: {Terms: []term{{For: s.cfg.FlowRetention}}},
		api.RetainSegments:    {Terms: []term{{For: defaultSegmentDays * day}}},
		api.RetainAuditEvents: {Terms: []term{{For: s.cfg.audit.age}}},
		api.RetainDeliveries:  {Terms: []term{{For: defaultSegmentDays * day}}},
	}
	if err := s.eachSide(ctx, store.PrefixRetention, func(kv store.KV) error {
		var t termsOf
		if err := json.Unmarshal(kv.Value, &t); err != nil {
			return fmt.Errorf("%s: %w", kv.Key, err)
		}
		by[api.RetentionClass(strings.TrimPrefix(kv.Key, store.PrefixRetention))] = t
		return nil
	}); err != nil {
		return fmt.Errorf("server: retention: %w", err)
	}
	if !s.terms.replace(by, changes) {
		return s.loadRetention(ctx)
	}
	return s.loadHolds(ctx)
}

// holds are the legal holds, by id.
type holds struct {
	mu      sync.Mutex
	by      map[string]api.LegalHold
	changes int
}

func (h *holds) list() []api.LegalHold {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]api.LegalHold{}, slices.SortedFunc(maps.Values(h.by), func(a, b api.LegalHold) int {
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})...)
}

// over are the subjects of holds that reach into a span.
func (h *holds) over(from, to time.Time) (subjects []string) {
	for _, x := range h.list() {
		if x.From.Before(to) && x.To.After(from) {
			subjects = append(subjects, x.Subject)
		}
	}
	return subjects
}

// replace takes what the store has, unless something was set or removed since changes was read.
func (h *holds) replace(by map[string]api.LegalHold, changes int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.changes != changes {
		return false
	}
	h.by = by
	return true
}

func (h *holds) changed() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changes
}

func (s *Server) loadHolds(ctx context.Context) error {
	changes := s.holds.changed()
	by := map[string]api.LegalHold{}
	err := s.eachSide(ctx, store.PrefixLegalHold, func(kv store.KV) error {
		var x api.LegalHold
		if err := json.Unmarshal(kv.Value, &x); err != nil {
			return fmt.Errorf("%s: %w", kv.Key, err)
		}
		by[x.ID] = x
		return nil
	})
	if err != nil {
		return fmt.Errorf("server: legal holds: %w", err)
	}
	if !s.holds.replace(by, changes) {
		return s.loadHolds(ctx)
	}
	return nil
}
