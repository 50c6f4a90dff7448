package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"github.com/culvert-net/culvert/api"
)

// How long a watch waits before it connects again: doubled with each failure, and somewhere between half of it and all.
const (
	watchPause    = 200 * time.Millisecond
	watchPauseMax = 10 * time.Second
)

// Watch is what the Watch methods return. It begins with an Added for each item and a Synced, or, WithSinceRevision, with what
// changed since; then Added, Modified and Deleted follow as things change, and a Bookmark ends what belongs together. Events of one
// group come only when all of it has arrived, in order and once, so the items known after a Synced or Bookmark are the list at its
// Revision. States that came and went between two groups may be left out.
//
// A connection that breaks is made again, with pauses up to 10 s, and the watch goes on where it was; where the server has
// forgotten how, the list is read again and its difference to what was told comes as events. So it ends only when the context
// does, when the loop is left, or with an error that trying again does not help: the first connection fails, the key was revoked,
// or what the list is about was deleted. The error is the last that is yielded.
type Watch[T any] = iter.Seq2[api.WatchEvent[T], error]

// WithSinceRevision begins a watch with what changed after a revision instead of with all items. An *api.Error with the code
// CodeRevisionExpired, then or later, says that the server does not know that any more: list again.
func WithSinceRevision(revision int64) Option {
	return func(o *callOptions) { o.query.Set("sinceRevision", strconv.FormatInt(revision, 10)) }
}

// watcher is one watch across connections.
type watcher[T any] struct {
	c     *Client
	path  string
	opts  []Option
	yield func(api.WatchEvent[T], error) bool
	// known is what was told and is there, by id. From is the revision of that, and whole says that it is all of the list: then
	// a list that is read again can be compared with it.
	known map[string]T
	from  int64
	whole bool
	// grows says that nothing is changed or deleted: then what was told is not kept, and a list is never compared.
	grows bool
	// group holds events until their Synced or Bookmark has come; fresh says that they are those of a list read again.
	group []api.WatchEvent[T]
	fresh bool
}

// errLeft says that the loop over the events was left.
var errLeft = errors.New("watch: left")

// expired says that the server does not know what changed.
var expired = &api.Error{Code: api.CodeRevisionExpired}

func watch[T any](ctx context.Context, c *Client, path string, opts ...Option) Watch[T] {
	return watchOnly[T](ctx, c, path, false, opts...)
}

// watchOnly is a watch of a list that may be one that only grows.
func watchOnly[T any](ctx context.Context, c *Client, path string, grows bool, opts ...Option) Watch[T] {
	return func(yield func(api.WatchEvent[T], error) bool) {
		w := &watcher[T]{c: c, path: path, opts: opts, yield: yield, grows: grows}
		if err := w.run(ctx); !errors.Is(err, errLeft) {
			yield(api.WatchEvent[T]{}, err)
		}
	}
}

// run connects until there is nothing more to be had.
func (w *watcher[T]) run(ctx context.Context) error {
	wait := watchPause
	for heard := false; ; {
		w.group = w.group[:0]
		began := w.from
		err := w.connect(ctx)
		heard = heard || w.from != 0
		switch {
		case errors.Is(err, errLeft): // also when ctx has ended meanwhile: nothing may be yielded any more
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, expired) && w.whole:
			w.from = 0
			continue // at once: the list is read anew
		case !heard, final(err):
			return err
		}
		if w.from != began {
			wait = watchPause
		}
		t := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		wait = min(2*wait, watchPauseMax)
	}
}

// final reports whether the server has refused for good one whom it has heard before. That the key has as many watches open as it
// may is not for good: the server may count connections that broke without its knowledge.
func final(err error) bool {
	var e *api.Error
	if !errors.As(err, &e) || e.Code == api.CodeLimitExceeded {
		return false
	}
	return e.GetStatus() < http.StatusInternalServerError && e.GetStatus() != http.StatusTooManyRequests
}

// connect reads one stream until it ends.
func (w *watcher[T]) connect(ctx context.Context) error {
	from := func(o *callOptions) {
		o.query.Set("watch", "true")
		if w.from != 0 {
			o.query.Set("sinceRevision", strconv.FormatInt(w.from, 10))
			o.query.Del("limit") // that was for the beginning
		} else if w.whole {
			o.query.Del("sinceRevision")
		}
	}
	w.fresh = w.from == 0
	return w.c.stream(ctx, w.path, func(line []byte) error {
		var e api.WatchEvent[T]
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("watch %s: decode: %w", w.path, err)
		}
		switch e.Type {
		case api.WatchError:
			if e.Error == nil {
				return fmt.Errorf("watch %s: the server ended it and does not say why", w.path)
			}
			return e.Error
		case api.WatchSynced, api.WatchBookmark:
			return w.complete(e)
		}
		if e.Item == nil {
			return fmt.Errorf("watch %s: an event %s without item", w.path, e.Type)
		}
		w.group = append(w.group, e)
		return nil
	}, append(w.opts[:len(w.opts):len(w.opts)], from)...)
}

// complete hands a group on.
func (w *watcher[T]) complete(end api.WatchEvent[T]) error {
	if w.known == nil {
		w.known = map[string]T{}
	}
	if end.Type == api.WatchSynced && w.whole {
		// The list was read again: what is not in it is gone. The one who watches was synced before.
		w.compare(end.Revision)
		end.Type = api.WatchBookmark
	}
	changed := false
	for _, e := range w.group {
		if !w.news(e) {
			continue
		}
		changed = true
		if !w.yield(e, nil) {
			return errLeft
		}
	}
	w.group = w.group[:0]
	w.whole = w.whole || end.Type == api.WatchSynced && !w.grows
	again := end.Revision == w.from
	w.from = end.Revision
	if again && !changed {
		return nil
	}
	if !w.yield(end, nil) {
		return errLeft
	}
	return nil
}

// compare puts deletions in front of a list that was read again.
func (w *watcher[T]) compare(revision int64) {
	there := map[string]bool{}
	for _, e := range w.group {
		there[api.ItemID(e.Item)] = true
	}
	var gone []api.WatchEvent[T]
	for id, item := range w.known {
		if !there[id] {
			gone = append(gone, api.WatchEvent[T]{Type: api.WatchDeleted, Revision: revision, Item: &item})
		}
	}
	for i := range w.group {
		if _, had := w.known[api.ItemID(w.group[i].Item)]; had {
			w.group[i].Type = api.WatchModified
		}
	}
	w.group = append(gone, w.group...)
}

// news takes an event in, and reports whether it says something that was not known.
func (w *watcher[T]) news(e api.WatchEvent[T]) bool {
	if w.grows {
		return true // groups come whole, and a connection goes on behind the last
	}
	id := api.ItemID(e.Item)
	was, had := w.known[id]
	if e.Type == api.WatchDeleted {
		delete(w.known, id)
		return had || !w.whole
	}
	w.known[id] = *e.Item
	return !had || !reflect.DeepEqual(was, *e.Item)
}
