package store

import (
	"errors"
	"maps"
	"sync/atomic"

	"github.com/culvert-net/culvert/api"
)

// What is remembered of changes, so that pictures of the last revisions can be had again. Who asks for an older one begins anew.
// The size is that of the changes as the store encodes them; what they replaced is about as large.
const (
	maxHistory      = 16384    // changes of one resource each
	maxHistoryBytes = 32 << 20 // of JSON
)

// ErrRevisionGone says that there is no picture of a revision: it is too old, or of another store.
var ErrRevisionGone = errors.New("store: no picture of that revision")

// history undoes the newest changes. Its lock is the state's, but an entry may be read without: it is not changed once it is there,
// but for what comes after it.
type history struct {
	floor          int64         // the oldest revision that there is a picture of
	first, last    *historyEntry // the oldest and the newest; nil: none
	changes, bytes int
}

// historyEntry is what one revision replaced.
type historyEntry struct {
	revision int64
	undo     []undo
	bytes    int
	next     atomic.Pointer[historyEntry]
}

// undo brings one resource back to what it was.
type undo struct {
	kind api.Kind
	id   string
	was  api.Resource // nil: it was not there
}

// add remembers a revision, and forgets the oldest where that is too much. The newest stays however large it is.
func (h *history) add(e *historyEntry) {
	if h.last == nil {
		h.first = e
	} else {
		h.last.next.Store(e)
	}
	h.last = e
	h.changes += len(e.undo)
	h.bytes += e.bytes
	for h.first != h.last && (h.changes > maxHistory || h.bytes > maxHistoryBytes) {
		old := h.first
		h.first = old.next.Load()
		h.floor, h.changes, h.bytes = old.revision, h.changes-len(old.undo), h.bytes-old.bytes
	}
}

// begin forgets everything: the picture of the given revision was read as a whole.
func (h *history) begin(revision int64) { *h = history{floor: revision} }

// replaced tells what the writes of a revision replace in a picture.
func replaced(r *api.Resources, writes []write) (undone []undo, bytes int) {
	for _, w := range writes {
		kind, id, ok := resourceOf(w.key)
		if !ok {
			continue
		}
		undone = append(undone, undo{kind, id, r.Get(kind, id)})
		bytes += len(w.value)
	}
	return undone, bytes
}

// At implements Store. It does its work without the lock, which every commit needs.
func (s *state) At(revision int64) (*api.Resources, error) {
	s.mu.Lock()
	now, floor, first, observed := s.snap.Load(), s.history.floor, s.history.first, s.observed
	s.mu.Unlock()
	switch {
	case revision < floor, revision > observed:
		return nil, ErrRevisionGone
	case revision >= now.Revision:
		return now, nil // what was written since is no resource
	}
	old, was := *now, map[undoKey]api.Resource{}
	old.Revision = floor
	for e := first; e != nil && e.revision <= now.Revision; e = e.next.Load() {
		if e.revision <= revision {
			old.Revision = e.revision
			continue
		}
		for _, u := range e.undo {
			key := undoKey{u.kind, u.id}
			if _, older := was[key]; !older {
				was[key] = u.was
			}
		}
	}
	own := map[api.Kind]bool{}
	for key := range maps.Keys(was) {
		if !own[key.kind] {
			old.CloneKind(key.kind)
			own[key.kind] = true
		}
		if res := was[key]; res != nil {
			old.Put(res)
		} else {
			old.Remove(key.kind, key.id)
		}
	}
	return &old, nil
}

type undoKey struct {
	kind api.Kind
	id   string
}
