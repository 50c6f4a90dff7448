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
	// Both are closed and replaced: changed when anything was said, moved when what is attached to a node is not what it was.
	changed, moved chan struct{}
}

type nodeLife struct {
	streams   int
	connected time.Time // when the first of the streams began
	seen      time.Time
	status    *api.NodeStatus
	// attached are the ids in the status. A set is never changed, only replaced.
	attached map[string]bool
	dirty    bool
	runs     runs
	related  *related
	// tooLarge is the newest view, if it cannot be sent.
	tooLarge *tooLarge
}

func newHub() *hub {
	return &hub{nodes: map[string]*nodeLife{}, keysUsed: map[string]time.Time{},
		changed: make(chan struct{}), moved: make(chan struct{})}
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

// attachments is closed when a node next reports another set of what is attached to it.
func (h *hub) attachments() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.moved
}

// stream counts a node's view stream; the returned function ends it.
func (h *hub) stream(node string, now func() time.Time) (end func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.life(node)
	if l.streams++; l.streams == 1 {
		l.connected = now()
	}
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

// connectedSince is when a node that has a stream opened the first of those that followed each other.
func (h *hub) connectedSince(node string) (since time.Time, connected bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.nodes[node]
	if l == nil || l.streams == 0 {
		return time.Time{}, false
	}
	return l.connected, true
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
	attached := setOf(st.Attached)
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.life(st.Node)
	if !maps.Equal(l.attached, attached) {
		l.attached = attached
		h.moveLocked()
	}
	l.status, l.seen, l.dirty = &st, st.SeenAt, true
	l.runs.note(st.Run, st.SeenAt)
	h.wakeLocked()
}

func (h *hub) restore(st api.NodeStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.life(st.Node)
	l.status, l.seen, l.attached = &st, st.SeenAt, setOf(st.Attached)
}

func setOf(ids []string) map[string]bool {
	set := make(map[string]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}

func (h *hub) moveLocked() {
	close(h.moved)
	h.moved = make(chan struct{})
}

func (h *hub) forget(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.nodes[node]; l != nil && len(l.attached) > 0 {
		h.moveLocked()
	}
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
func (h *hub) attached(node, eni string) bool { return h.attachedTo(node)[eni] }

// attachedTo is the set of what a node last reported as attached. Nobody may change it.
func (h *hub) attachedTo(node string) map[string]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.nodes[node]; l != nil {
		return l.attached
	}
	return nil
}

// mark sets in each interface whether it is attached. It asks once for each node: reports and streams need the same lock.
func (h *hub) mark(enis []api.ENI) {
	by := map[string]map[string]bool{}
	for i := range enis {
		e := &enis[i]
		set, asked := by[e.Node]
		if !asked {
			set = h.attachedTo(e.Node)
			by[e.Node] = set
		}
		e.Attached = set[e.ID]
	}
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
