package controlplane

import (
	"maps"
	"strings"
	"sync"
)

// alarms are what is wrong with the server now and somebody has to look at. Each has a key, such as "audit-lag", under which it is set
// again while it lasts, and cleared when it is over.
type alarms struct {
	mu sync.Mutex
	by map[string]string
}

// set says a problem in one sentence. It reports whether there was none under the key.
func (p *alarms) set(key, sentence string) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by = map[string]string{}
	}
	_, had := p.by[key]
	p.by[key] = sentence
	return !had
}

// keep clears the problems with a prefix whose rest of the key is not to stay.
func (p *alarms) keep(prefix string, stays func(rest string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.by, func(key, _ string) bool {
		rest, ok := strings.CutPrefix(key, prefix)
		return ok && !stays(rest)
	})
}
