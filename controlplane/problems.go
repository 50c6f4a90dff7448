package controlplane

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
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

// clear says that it is over. It reports whether there was one.
func (p *alarms) clear(key string) (had bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, had = p.by[key]
	delete(p.by, key)
	return had
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

// all lists the sentences, in the order of their keys.
func (p *alarms) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, key := range slices.Sorted(maps.Keys(p.by)) {
		out = append(out, p.by[key])
	}
	return out
}

// trouble sets a problem, or clears it where err is nil, and logs when it begins and when it is over.
func (s *Server) trouble(key, what string, err error) {
	if err == nil {
		if s.problems.clear(key) {
			s.log.Info("a problem of the server is over", logkey.Task, what)
		}
		return
	}
	if s.problems.set(key, what+" fails: "+api.Shortened(oneLine(cmp.Or(err.Error(), "it does not say why")))) {
		s.log.Error("the server has a problem", logkey.Task, what, logkey.Error, err)
	}
}
