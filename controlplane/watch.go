package controlplane

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/internal/logkey"
)

// A watch is a list that goes on: the function that answers the list is asked again after each change, for the same caller, and what
// differs is told. So a watch shows what the list would, by construction. Decision 0010 says why, and what it costs.

// Watching is what the query of every list may carry.
type Watching struct {
	Watch         bool  `query:"watch" doc:"Go on: a stream of WatchEvents, one per line, until the caller hangs up."`
	SinceRevision int64 `query:"sinceRevision" minimum:"0" doc:"With watch: what changed after this revision, instead of all items."`
}

func (w *Watching) watching() *Watching { return w }

// listing registers a list, which can be watched.
func listing[I any, P interface {
	*I
	watching() *Watching
}, T any](s *Server, o operation, f func(c *call, in P) (*api.List[T], error)) {
	d := o.huma(s)
	d.Responses = s.listResponses(reflect.TypeFor[api.List[T]](), reflect.TypeFor[api.WatchEvent[T]]())
	huma.Register(s.huma, d, func(ctx context.Context, in *I) (*huma.StreamResponse, error) {
		look := func(r *api.Resources) (*api.List[T], error) {
			c := s.newCall(ctx, r)
			if err := c.chooseAccount(); err != nil {
				return nil, err
			}
			return f(c, in)
		}
		q := P(in).watching()
		if !q.Watch && q.SinceRevision != 0 {
			return nil, api.Errorf(api.CodeInvalidCombination, "sinceRevision", "add watch=true, or leave it out",
				"a list is always of the newest revision")
		}
		out, err := look(s.store.Snapshot())
		if err != nil {
			return nil, s.failure(ctx, o.id, err)
		}
		if !q.Watch {
			return answerList(s, out), nil
		}
		w := &watch[T]{s: s, who: callerOf(ctx), id: o.id, look: look, known: map[string]T{}}
		if err := w.begin(q.SinceRevision); err != nil {
			return nil, s.failure(ctx, o.id, err)
		}
		return &huma.StreamResponse{Body: w.run}, nil
	})
}

// listResponses describes both answers of a list.
func (s *Server) listResponses(list, event reflect.Type) map[string]*huma.Response {
	schemas := s.huma.OpenAPI().Components.Schemas
	return map[string]*huma.Response{"200": {
		Description: "The items, sorted; with watch=true a stream of events, one per line, in which empty lines are keep-alives",
		Headers: map[string]*huma.Param{client.HeaderRevision: {
			Description: "Revision of the picture that the list was read from", Schema: &huma.Schema{Type: huma.TypeInteger, Format: "int64"}}},
		Content: map[string]*huma.MediaType{
			"application/json": {Schema: schemas.Schema(list, true, list.Name())},
			ndjson:             {Schema: schemas.Schema(event, true, event.Name())},
		},
	}}
}

// answerList is the answer without watch.
func answerList[T any](s *Server, out *api.List[T]) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		hc.SetHeader(client.HeaderRevision, strconv.FormatInt(out.Revision, 10))
		hc.SetHeader("Content-Type", "application/json")
		hc.SetStatus(http.StatusOK)
		if err := s.huma.Marshal(hc.BodyWriter(), "application/json", out); err != nil {
			s.log.Debug("list not sent", logkey.RequestID, requestID(hc.Context()), logkey.Error, err)
		}
	}}
}

// watch is one that is open.
type watch[T any] struct {
	s     *Server
	who   *caller
	id    string // of the operation
	look  func(*api.Resources) (*api.List[T], error)
	known map[string]T // what was told, by id
	// resumed: it goes on from a picture of resources. What nodes report is not in it, so all that is there is told anew.
	resumed bool
	told    int64 // the newest revision that was said
	seen    int64 // the newest that was looked at; what it changed is told
	end     func()
}

// begin takes a place among the open watches, and the picture to go on from.
func (w *watch[T]) begin(since int64) (err error) {
	end, err := w.s.watches.open(w.who)
	if err != nil {
		return err
	}
	w.end = end
	defer func() {
		if err != nil {
			end()
		}
	}()
	if since != 0 {
		old, err := w.s.store.At(since)
		if errors.Is(err, store.ErrRevisionGone) {
			return api.Errorf(api.CodeRevisionExpired, "sinceRevision", "list again, and watch from the list's revision",
				"what changed since revision %d is not known any more", since)
		}
		if err != nil {
			return err
		}
		w.resumed, w.told = true, since
		// Where the list was refused then (its VPC was not made yet), it had no items.
		if items, err := w.look(old); err == nil {
			for i := range items.Items {
				w.known[api.ItemID(&items.Items[i])] = items.Items[i]
			}
		}
	}
	return nil
}

// run sends events until the caller hangs up, reads too slowly, or may not any more.
func (w *watch[T]) run(hc huma.Context) {
	defer w.end()
	out, r := startLines(hc)
	out.patience = w.s.cfg.watchPatience
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	quiet := w.listen(ctx)
	defer quiet.end()
	for first := true; ; first = false {
		if err := w.tell(out, first); err != nil {
			w.s.log.Debug("watch ended", logkey.RequestID, requestID(r.Context()), logkey.Operation, w.id, logkey.Error, err)
			return
		}
		for look := false; !look; {
			var alive, ended bool
			if look, alive, ended = quiet.next(ctx, w.s.stopping); ended {
				return
			}
			if alive && w.keep(out) != nil {
				return
			}
		}
	}
}

// tell sends what changed since the last time. An error ends the watch.
func (w *watch[T]) tell(out *lines, first bool) error {
	if !w.s.keyStands(w.who.key) {
		return w.finish(out, errBadKey)
	}
	r := w.s.store.Snapshot()
	items, err := w.look(r)
	var refused *api.Error
	switch {
	case errors.As(err, &refused):
		items = &api.List[T]{Revision: r.Revision} // what it was about is gone, and all of its items with it
	case err != nil:
		return w.finish(out, w.s.failure(context.Background(), w.id, err))
	}
	// A revision never goes back in one watch.
	revision := max(r.Revision, w.told)
	w.seen = revision
	n, err := w.tellItems(out, items.Items, revision)
	if err != nil {
		return err
	}
	ending := api.WatchBookmark
	if first && !w.resumed {
		ending = api.WatchSynced
	}
	if n > 0 || first {
		if err := w.mark(out, ending, revision); err != nil {
			return err
		}
	}
	w.resumed = false
	if refused != nil {
		return w.finish(out, refused)
	}
	return out.caughtUp()
}

// tellItems sends deletions, and then what is new or not as it was, in the list's order.
func (w *watch[T]) tellItems(out *lines, items []T, revision int64) (n int, err error) {
	send := func(kind api.WatchEventType, item *T) {
		if err == nil {
			n, err = n+1, out.send(api.WatchEvent[T]{Type: kind, Revision: revision, Item: item})
		}
	}
	there := make(map[string]bool, len(items))
	for i := range items {
		there[api.ItemID(&items[i])] = true
	}
	for id, item := range w.known {
		if !there[id] {
			send(api.WatchDeleted, &item)
			delete(w.known, id)
		}
	}
	for i := range items {
		id := api.ItemID(&items[i])
		was, had := w.known[id]
		switch {
		case !had:
			send(api.WatchAdded, &items[i])
		case w.resumed && isReported(&items[i]), !same(&was, &items[i]):
			send(api.WatchModified, &items[i])
		}
		w.known[id] = items[i]
	}
	return n, err
}

// keep is done when nothing was sent for a while: a bookmark where there is a newer revision, so that a watch of what seldom changes
// can be resumed, or else an empty line. It also ends a watch whose key was removed.
func (w *watch[T]) keep(out *lines) error {
	if !w.s.keyStands(w.who.key) {
		return w.finish(out, errBadKey)
	}
	if w.seen > w.told {
		if err := w.mark(out, api.WatchBookmark, w.seen); err != nil {
			return err
		}
	}
	return out.caughtUp()
}

// mark says that the picture is complete.
func (w *watch[T]) mark(out *lines, kind api.WatchEventType, revision int64) error {
	w.told = revision
	return out.send(api.WatchEvent[T]{Type: kind, Revision: revision})
}

// finish tells why the watch ends.
func (w *watch[T]) finish(out *lines, e *api.Error) error {
	return errors.Join(e, out.send(api.WatchEvent[T]{Type: api.WatchError, Revision: w.told, Error: e}), out.ctl.Flush())
}

// isReported tells items that have something in them which nodes report: that is no part of a revision.
func isReported(item any) bool {
	switch v := item.(type) {
	case *api.NodeReport, *api.DescribedTarget:
		return true
	case *api.ENI:
		return v.Node != ""
	}
	return false
}

// same reports whether two states of an item need not be told apart: when a node was last heard, or a key last used, is no change.
func same(a, b any) bool {
	switch x := a.(type) {
	case *api.NodeReport:
		n, m := *x, *b.(*api.NodeReport)
		if n.Status != nil && m.Status != nil {
			was := *n.Status
			was.SeenAt = m.Status.SeenAt
			n.Status = &was
		}
		return reflect.DeepEqual(&n, &m)
	case *api.ENI:
		y := b.(*api.ENI)
		if x.Revision != 0 && x.Revision == y.Revision { // long lists are compared: what is not reported is the same then
			return x.Attached == y.Attached
		}
	case *api.FlowLog: // how delivery goes is no part of a revision
		f := *x
		f.Delivery = b.(*api.FlowLog).Delivery
		return reflect.DeepEqual(&f, b)
	case *api.APIKey:
		k := *x
		k.LastUsed = b.(*api.APIKey).LastUsed
		return reflect.DeepEqual(&k, b)
	}
	return reflect.DeepEqual(a, b)
}

// watches counts those that are open.
type watches struct {
	mu  sync.Mutex
	all int
	by  map[string]int // by API key
}

// open takes a place; end gives it back.
func (w *watches) open(who *caller) (end func(), refused error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := who.id()
	switch {
	case w.by[key] >= api.MaxWatchesPerKey:
		return nil, api.Errorf(api.CodeLimitExceeded, "watch", "close some, or use another key",
			"the key %s has %d watches open, which is as many as it may", key, w.by[key])
	case w.all >= api.MaxWatches && !who.admin():
		return nil, api.Errorf(api.CodeLimitExceeded, "watch", "list now and then, or try again later",
			"the server has %d watches open, which is as many as it may", w.all)
	}
	if w.by == nil {
		w.by = map[string]int{}
	}
	w.all++
	w.by[key]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.all--
		if w.by[key]--; w.by[key] == 0 {
			delete(w.by, key)
		}
	}, nil
}
