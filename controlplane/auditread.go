package controlplane

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
)

// auditSearches is how many answers may be looked for at a time with a filter: each may have to read all that is kept.
const auditSearches = 4

// auditRange says which events are read: those with a number above since and, unless it is 0, below before, at most so many, of the
// account unless that is "", as it may see them. Resource: those that are about it, or changed it.
type auditRange struct {
	account, resource string
	since, before     uint64
	most              int
	keep              func(*api.AuditEvent) bool // nil: all
}

// prefix is where the events are listed.
func (q *auditRange) prefix() string {
	switch {
	case q.resource != "":
		return store.AuditPrefixOn(q.resource)
	case q.account != "":
		return store.AuditPrefixOf(q.account)
	}
	return store.PrefixAudit
}

// wants tells whether an event is meant, after it has left in it what the account may see.
func (q *auditRange) wants(e *api.AuditEvent) bool {
	if q.account != "" {
		*e = e.Audited(q.account)
		if e.Account != q.account && len(e.Changes) == 0 {
			return false
		}
		hideOthers(e, q.account)
	}
	return q.keep == nil || q.keep(e)
}

// auditEvents reads the newest events of a range, the oldest of them first.
func (s *Server) auditEvents(ctx context.Context, q auditRange) ([]api.AuditEvent, error) {
	if q.keep != nil {
		select {
		case s.auditSearch <- struct{}{}:
			defer func() { <-s.auditSearch }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	out := []api.AuditEvent{}
	err := s.eachAudit(ctx, q.prefix(), q.since, q.before, func(e *api.AuditEvent) bool {
		if q.wants(e) {
			out = append(out, *e)
		}
		return len(out) < q.most
	})
	slices.Reverse(out)
	return out, err
}

// eachAudit calls f for the events under a prefix, the newest first, until it returns false.
func (s *Server) eachAudit(ctx context.Context, prefix string, since, before uint64, f func(*api.AuditEvent) bool) error {
	after := ""
	if before > 0 {
		after = store.AuditKey(prefix, before)
	}
	for limit := 64; ; limit = auditPage {
		page, err := s.store.List(ctx, prefix, after, limit)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, kv := range page {
			after = kv.Key
			seq, err := store.AuditSeq(kv.Key)
			if err != nil {
				return err
			}
			if seq <= since {
				return nil
			}
			e, err := s.auditEvent(ctx, seq, kv.Value)
			if err != nil {
				return err
			}
			if e != nil && !f(e) {
				return nil
			}
		}
	}
}

// auditEvent reads an event from what stands under a prefix; nil: it was forgotten meanwhile.
func (s *Server) auditEvent(ctx context.Context, seq uint64, value []byte) (*api.AuditEvent, error) {
	e := &api.AuditEvent{}
	if err := json.Unmarshal(value, e); err != nil || e.Seq == seq {
		return e, err
	}
	value, err := s.store.Get(ctx, store.AuditKey(store.PrefixAudit, seq))
	if err != nil || value == nil {
		return nil, err
	}
	return e, json.Unmarshal(value, e)
}

// AuditFilter is what a caller wants to hear of. It is exported because the framework passes over embedded fields that are not.
type AuditFilter struct {
	Since    time.Time `query:"since" doc:"Events of this time or later"`
	Until    time.Time `query:"until" doc:"Events before this time"`
	Actor    string    `query:"actor" doc:"Of this API key, node or token, id or name; system; anonymous"`
	Action   string    `query:"action" doc:"Of this operation, such as create-vpc"`
	Resource string    `query:"resource" doc:"About this resource, id"`
	Outcome  string    `query:"outcome" doc:"success; denied, which is all else; or a code such as UnauthorizedOperation"`
}

func (f *AuditFilter) empty() bool { return *f == AuditFilter{} }

func (f *AuditFilter) check() error {
	if _, err := api.ParseID(f.Resource); err != nil && f.Resource != "" {
		return onField(err, "resource", "id")
	}
	if !f.Until.IsZero() && !f.Since.Before(f.Until) {
		return api.Errorf(api.CodeInvalidCombination, "until", "give a time after since", "no event is between the two")
	}
	return nil
}

// keep tells whether an event is meant.
func (f *AuditFilter) keep(e *api.AuditEvent) bool {
	return (&api.AuditFilter{Since: f.Since, Until: f.Until, Actor: f.Actor, Action: f.Action, Resource: f.Resource, Outcome: f.Outcome}).Match(e)
}
