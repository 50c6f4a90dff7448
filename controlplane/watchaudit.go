package controlplane

import (
	"context"
	"errors"
	"math"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
)

// auditQuery is what may be asked of the audit log.
type auditQuery struct {
	Watching
	AuditFilter
	Limit  int    `query:"limit" minimum:"0" maximum:"10000" doc:"The newest so many; 0: 1000"`
	Before uint64 `query:"before" doc:"Only events with a smaller sequence number; to read further back"`
}

// most is how many events are asked for.
func (q *auditQuery) most() int {
	if q.Limit == 0 {
		return auditPage
	}
	return min(q.Limit, maxAudit)
}

// check refuses what does not go together.
func (q *auditQuery) check() error {
	switch {
	case !q.Watch && q.SinceRevision != 0:
		return api.Errorf(api.CodeInvalidCombination, "sinceRevision", "add watch=true, or leave it out",
			"a list is always of the newest revision")
	case q.Watch && q.Before != 0:
		return api.Errorf(api.CodeInvalidCombination, "before", "leave out watch, or before", "a watch tells of what comes")
	case q.SinceRevision != 0 && q.Limit != 0:
		return api.Errorf(api.CodeInvalidCombination, "limit", "leave out limit, or sinceRevision",
			"after sinceRevision all events are told")
	}
	return q.AuditFilter.check()
}

// events is the range of what is asked for, of those of an account, or of all.
func (q *auditQuery) events(account string) auditRange {
	r := auditRange{account: account, resource: q.Resource, most: maxAudit}
	if !q.AuditFilter.empty() {
		r.keep = q.keep
	}
	return r
}

func (s *Server) registerAudit() {
	s.registerAuditShow()
	o := operation{http.MethodGet, "/v1/audit", "list-audit", "Audit events, newest last", aUser}
	d := o.huma(s)
	d.Responses = s.listResponses(reflect.TypeFor[api.List[api.AuditEvent]](), reflect.TypeFor[api.WatchEvent[api.AuditEvent]]())
	huma.Register(s.huma, d, func(ctx context.Context, in *auditQuery) (*huma.StreamResponse, error) {
		if err := in.check(); err != nil {
			return nil, s.failure(ctx, o.id, err)
		}
		c := s.newCall(ctx, s.store.Snapshot())
		account, err := c.auditAccount()
		if err != nil {
			return nil, s.failure(ctx, o.id, err)
		}
		s.noteRead(ctx, c, o.id, in.Resource)
		if !in.Watch {
			events, err := s.searchAudit(ctx, in, account)
			if err != nil {
				return nil, s.failure(ctx, o.id, err)
			}
			return answerList(s, &api.List[api.AuditEvent]{Items: events, Revision: c.r.Revision}), nil
		}
		w := &auditWatch{watch: watch[api.AuditEvent]{s: s, who: c.who, id: o.id}, in: in, ctx: ctx}
		if err := w.begin(ctx); err != nil {
			return nil, s.failure(ctx, o.id, err)
		}
		return &huma.StreamResponse{Body: w.run}, nil
	})
}

// searchAudit answers a list.
func (s *Server) searchAudit(ctx context.Context, in *auditQuery, account string) ([]api.AuditEvent, error) {
	q := in.events(account)
	q.before, q.most = in.Before, in.most()
	return s.auditEvents(ctx, q)
}

// auditAccount is whose events the caller may see; "": all.
func (c *call) auditAccount() (string, error) {
	if err := c.chooseAccount(); err != nil {
		return "", err
	}
	if c.account == "" && !c.who.admin() {
		return "", errBadKey
	}
	return c.account, nil
}

// auditWatch is a watch of the audit log. That only grows, and is too long to be compared: it is followed by sequence number, which
// stands where other watches have a revision.
type auditWatch struct {
	watch[api.AuditEvent]
	ctx   context.Context // of the request: who asks
	in    *auditQuery
	first []api.AuditEvent // what it begins with
}

// begin takes a place, and reads what is there.
func (w *auditWatch) begin(ctx context.Context) (err error) {
	if err := w.watch.begin(0); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			w.end()
		}
	}()
	now, _ := w.s.store.Audited()
	w.resumed, w.told, w.seen = w.in.SinceRevision != 0, w.in.SinceRevision, int64(now)
	if w.told > w.seen {
		return api.Errorf(api.CodeRevisionExpired, "sinceRevision", "list again, and watch from the last event's seq",
			"the audit log has no event %d yet", w.told)
	}
	if w.resumed {
		w.first, err = w.since(ctx, w.told, now)
		return err
	}
	account, err := w.account()
	if err == nil {
		q := w.in.events(account)
		q.before, q.most = now+1, w.in.most()
		w.first, err = w.s.auditEvents(ctx, q)
	}
	return err
}

// account is whose events the caller may see now.
func (w *auditWatch) account() (string, error) {
	return w.s.newCall(w.ctx, w.s.store.Snapshot()).auditAccount()
}

// since reads what the caller may see of the events from told, which is not among them, to now.
func (w *auditWatch) since(ctx context.Context, told int64, now uint64) ([]api.AuditEvent, error) {
	account, err := w.account()
	if err != nil {
		return nil, err
	}
	q := w.in.events(account)
	q.since, q.before, q.most = uint64(told), now+1, maxAudit+1
	events, err := w.s.auditEvents(ctx, q)
	if len(events) > maxAudit {
		return nil, api.Errorf(api.CodeRevisionExpired, "sinceRevision",
			"read the events with before, and watch from the newest one's seq", "more than %d events are newer than %d", maxAudit, told)
	}
	return events, err
}

// run sends events until the caller hangs up, reads too slowly, or may not any more.
func (w *auditWatch) run(hc huma.Context) {
	defer w.end()
	out, r := startLines(hc)
	out.patience = w.s.cfg.watchPatience
	if err := w.follow(r.Context(), out); err != nil {
		w.s.log.Debug("watch ended", logkey.RequestID, requestID(r.Context()), logkey.Operation, w.id, logkey.Error, err)
	}
}

func (w *auditWatch) follow(ctx context.Context, out *lines) error {
	ending := api.WatchSynced
	if w.resumed {
		ending = api.WatchBookmark
	}
	if err := w.tell(out, w.first, ending); err != nil {
		return err
	}
	w.first = nil
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	pause := time.NewTicker(w.s.cfg.watchPause) // what is written between two looks is told as one group
	defer pause.Stop()
	for {
		now, next := w.s.store.Audited()
		if int64(min(now, math.MaxInt64)) > w.seen {
			if err := w.look(ctx, out, now); err != nil {
				return err
			}
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		}
		select {
		case <-next:
		case <-alive.C:
			if err := w.keep(out); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		case <-w.s.stopping:
			return nil
		}
	}
}

// look sends what was written up to now. An error ends the watch.
func (w *auditWatch) look(ctx context.Context, out *lines, now uint64) error {
	if !w.s.keyStands(w.who.key) {
		return w.finish(out, errBadKey)
	}
	// Up to seen nothing is left to be told, also where the caller was last told of an older event.
	events, err := w.since(ctx, w.seen, now)
	var refused *api.Error
	switch {
	case errors.As(err, &refused):
		return w.finish(out, refused)
	case err != nil:
		return w.finish(out, w.s.failure(ctx, w.id, err))
	}
	w.seen = int64(now)
	if len(events) == 0 {
		return nil
	}
	return w.tell(out, events, api.WatchBookmark)
}

// tell sends a group.
func (w *auditWatch) tell(out *lines, events []api.AuditEvent, ending api.WatchEventType) error {
	for i := range events {
		e := api.WatchEvent[api.AuditEvent]{Type: api.WatchAdded, Revision: int64(events[i].Seq), Item: &events[i]}
		if err := out.send(e); err != nil {
			return err
		}
	}
	return errors.Join(w.mark(out, ending, w.seen), out.caughtUp())
}
