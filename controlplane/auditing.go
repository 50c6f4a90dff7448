package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/logkey"
)

const (
	// maxAudit bounds the events of one answer.
	maxAudit = 10_000
	// auditPage is how many events are read at once.
	auditPage = 1000
	// maxAuditMessage is how much of a refusal's message an event has, in bytes.
	maxAuditMessage = 1024
)

func (c *call) audit(op, outcome string) {
	c.tx.Audit(c.event(op, outcome))
}

func (c *call) event(op, outcome string) api.AuditEvent {
	return api.AuditEvent{At: c.now, Actor: c.who.id(), ActorName: c.who.name(), Role: c.who.role(), Account: c.account, Action: op,
		Resource: c.subject, Changes: c.changed, RequestID: requestID(c.ctx), Source: c.who.source, Outcome: outcome}
}

// changes notes what becomes of something that is no resource; nil: it is not there.
func (c *call) changes(kind api.Kind, id string, before, after any) error {
	x := api.AuditChange{Kind: kind, ID: id}
	for _, v := range []struct {
		of any
		to *json.RawMessage
	}{{before, &x.Before}, {after, &x.After}} {
		if v.of == nil {
			continue
		}
		data, err := json.Marshal(v.of)
		if err != nil {
			return err
		}
		*v.to = data
	}
	c.changed = append(c.changed, x)
	return nil
}

// bySystem writes the audit event of something that nobody asked for.
func (c *call) bySystem(action, account, resource string) {
	e := systemEvent(c.now, action)
	e.Account, e.Resource = account, resource
	c.tx.Audit(e)
}

func systemEvent(now time.Time, action string) api.AuditEvent {
	return api.AuditEvent{At: now.UTC(), Actor: actorSystem, Role: api.RoleSystem, Action: action, Outcome: outcomeSuccess}
}

// role is what let the caller in.
func (c *caller) role() api.AuditRole {
	switch {
	case c.admin():
		return api.RoleAdmin
	case c.key != nil:
		return api.RoleAccount
	case c.node != nil:
		return api.RoleNode
	case c.token != nil:
		return api.RoleToken
	}
	return api.RoleAnonymous
}

// name is how people call the caller.
func (c *caller) name() string {
	switch {
	case c.key != nil:
		return c.key.Name
	case c.node != nil:
		return c.node.Name
	}
	return ""
}

// mustAudit tells whether a refusal leaves an event: one of a change always does, one of a question where the caller was kept from
// something, or asked for what does not exist for it. That a question was malformed is nobody's concern.
func (w *caller) mustAudit(e *api.Error, mutates bool) bool {
	if e == nil || w.audited || e.Code == api.CodeUnavailable {
		return false
	}
	switch e.GetStatus() {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return true
	}
	return mutates || w.suspect
}

// auditRefusal records that a caller was refused, or counts it where that was recorded a moment ago. When even that fails, the log
// has it.
func (s *Server) auditRefusal(ctx context.Context, c *call, op string, e *api.Error) {
	if c == nil || !c.who.mustAudit(e, true) {
		return
	}
	if !exists(s.store.Snapshot(), c.subject) {
		c.subject = "" // it would have been made
	}
	failpoint.Here("audit.refusal")
	event := c.event(op, string(e.Code))
	event.Message, event.Field = e.Message, e.Field
	if event.Resource == "" {
		event.Resource, event.Asked = named(c.who.asked)
	}
	if c.dry {
		event.Message = "dry run: " + event.Message
	}
	if len(event.Message) > maxAuditMessage {
		event.Message = api.Shortened(event.Message)
	}
	s.writeRepeated(ctx, event)
}

// named is what a path named, where it may be an id, and what else it was, in one line of printable text.
func named(what string) (id, name string) {
	if _, err := api.ParseID(what); err == nil {
		return what, ""
	}
	name = oneLine(what)
	return "", strings.ToValidUTF8(name[:min(len(name), api.MaxAuditAsked)], "")
}

// noteRead records that a caller reads what is logged, before it does, or counts it where it did a moment ago. Where that cannot be
// written the caller reads all the same: of a full disk the log must tell.
func (s *Server) noteRead(ctx context.Context, c *call, op, resource string) {
	e := c.event(op, outcomeSuccess)
	e.Resource = resource
	s.writeRepeated(ctx, e)
}

// writeRepeated returns when the event, or the count that it is in, is in the store; what is read is counted in memory alone.
func (s *Server) writeRepeated(ctx context.Context, e api.AuditEvent) {
	now, number := s.repeats.add(e)
	err := s.writeNow(ctx, now)
	if number > 0 {
		err = errors.Join(err, s.saveRepeats(ctx, number))
	}
	if err != nil {
		s.log.Warn("not audited yet", logkey.Operation, e.Action, logkey.RequestID, e.RequestID, logkey.Error, err)
	}
}

func (s *Server) writeNow(ctx context.Context, events []due) error {
	if slices.ContainsFunc(events, func(e due) bool { return len(e.keys) > 0 }) {
		s.repeats.writing.Lock()
		defer s.repeats.writing.Unlock()
	}
	return s.writeDue(ctx, events)
}

func (s *Server) writeEvents(ctx context.Context, events []api.AuditEvent) error {
	if len(events) == 0 {
		return nil
	}
	_, err := s.store.Txn(ctx, func(tx *store.Tx) error {
		for _, e := range events {
			tx.Audit(e)
		}
		return nil
	})
	return err
}

func exists(r *api.Resources, id string) bool {
	kind, err := api.ParseID(id)
	return err == nil && r.Get(kind, id) != nil
}
