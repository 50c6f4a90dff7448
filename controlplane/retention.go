package controlplane

import (
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
)

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

// expired tells whether what is of a time may go.
func (s *Server) expired(class api.RetentionClass, of time.Time) bool {
	return s.terms.of(class).expires(of).Before(s.cfg.Now())
}
