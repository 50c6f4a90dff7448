package controlplane

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/view"
)

// liveFor is how long after its last word a node without a stream counts as live.
const liveFor = time.Minute

// hub knows who is connected and what nodes said last. It is memory only; losing it costs nothing but a report.
type hub struct {
	mu       sync.Mutex
	nodes    map[string]*nodeLife
	keysUsed map[string]time.Time
	changed  chan struct{} // closed and replaced when something that waiters ask about changed
}

type nodeLife struct {
	streams int
	seen    time.Time
	status  *api.NodeStatus
	dirty   bool
	runs    runs
	related *related
	// tooLarge is the newest view, if it cannot be sent.
	tooLarge *tooLarge
}

func newHub() *hub {
	return &hub{nodes: map[string]*nodeLife{}, keysUsed: map[string]time.Time{}, changed: make(chan struct{})}
}

// life returns a node's entry; the lock is held.
func (h *hub) life(node string) *nodeLife {
	if h.nodes[node] == nil {
		h.nodes[node] = &nodeLife{related: newRelated()}
	}
	return h.nodes[node]
}

func (h *hub) wakeLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// waiter is closed at the next change.
func (h *hub) waiter() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// stream counts a node's view stream; the returned function ends it.
func (h *hub) stream(node string, now func() time.Time) (end func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.life(node)
	l.streams++
	l.seen = now()
	h.wakeLocked()
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		l.streams--
		l.seen = now()
		h.wakeLocked()
	}
}

// streaming counts the view streams that are open.
func (h *hub) streaming() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.nodes {
		n += l.streams
	}
	return n
}

func (h *hub) report(st api.NodeStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.life(st.Node)
	l.status, l.seen, l.dirty = &st, st.SeenAt, true
	l.runs.note(st.Run, st.SeenAt)
	h.wakeLocked()
}

func (h *hub) restore(st api.NodeStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.life(st.Node)
	l.status, l.seen = &st, st.SeenAt
}

func (h *hub) forget(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.nodes, node)
	h.wakeLocked()
}

// known lists the nodes that something is remembered of.
func (h *hub) known() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.nodes))
}

func (h *hub) takeDirty() []api.NodeStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []api.NodeStatus
	for _, l := range h.nodes {
		if l.dirty {
			l.dirty = false
			out = append(out, *l.status)
		}
	}
	return out
}

// get tells whether a node is live and what it said last.
func (h *hub) get(node string, now time.Time) (live bool, st *api.NodeStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.nodes[node]
	if l == nil {
		return false, nil
	}
	return l.streams > 0 || now.Sub(l.seen) < liveFor, l.status
}

// attached tells whether a node last reported an ENI as attached.
func (h *hub) attached(node, eni string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.nodes[node]
	return l != nil && l.status != nil && slices.Contains(l.status.Attached, eni)
}

func (h *hub) keyUsed(key string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keysUsed[key] = at
}

func (h *hub) lastUsed(key string) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.keysUsed[key]
}

// indexCache keeps the index of the newest picture, since all streams need the same one.
type indexCache struct {
	mu sync.Mutex
	of *api.Resources
	x  *view.Index
}

func (c *indexCache) get(r *api.Resources) *view.Index {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of != r {
		c.of, c.x = r, view.NewIndex(r)
	}
	return c.x
}
