package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
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
	// refusalWindow is how long refusals of one kind are counted into one event.
	refusalWindow = time.Minute
	// pruneBatch is how many events one transaction forgets.
	pruneBatch = 1000
)

func (c *call) audit(op, outcome string) {
	c.tx.Audit(c.event(op, outcome))
}

func (c *call) event(op, outcome string) api.AuditEvent {
	return api.AuditEvent{At: c.now, Actor: c.who.id(), Account: c.account, Action: op, Resource: c.subject,
		RequestID: requestID(c.ctx), Source: c.who.source, Outcome: outcome}
}

// auditRefusal records that a known caller was refused, or counts it where that was recorded a moment ago. When even that
// fails, the log has it.
func (s *Server) auditRefusal(ctx context.Context, c *call, op string, e *api.Error) {
	if c == nil || e.Code == api.CodeUnavailable || c.who.id() == anonymous {
		return
	}
	if !exists(s.store.Snapshot(), c.subject) {
		c.subject = "" // it would have been made
	}
	failpoint.Here("audit.refusal")
	due := s.refusals.add(c.event(op, string(e.Code)))
	if err := s.writeEvents(ctx, due); err != nil {
		s.log.Warn("refusal not audited", logkey.Operation, op, logkey.RequestID, requestID(ctx), logkey.Error, err)
	}
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
	if err != nil {
		return false
	}
	found := false
	r.Each(kind, func(res api.Resource) bool {
		found = res.GetMeta().ID == id
		return !found
	})
	return found
}

// refusals counts what is refused again and again: the first of a kind is an event at once, those within the next minute are one
// event together. Nothing is lost but their details, of which the last one's are kept; a crash loses a minute's count.
type refusals struct {
	mu   sync.Mutex
	open map[refusal]*repetition
}

// refusal is a kind of refusal.
type refusal struct{ actor, account, action, outcome string }

type repetition struct {
	since time.Time
	last  api.AuditEvent // Count: how many
}

// add returns what is to be written now.
func (r *refusals) add(e api.AuditEvent) (due []api.AuditEvent) {
	k := refusal{e.Actor, e.Account, e.Action, e.Outcome}
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.open[k]; o != nil {
		if e.At.Sub(o.since) < refusalWindow {
			e.Count = o.last.Count + 1
			o.last = e
			return nil
		}
		if o.last.Count > 0 {
			due = append(due, o.last)
		}
	}
	if r.open == nil {
		r.open = map[refusal]*repetition{}
	}
	r.open[k] = &repetition{since: e.At}
	return append(due, e)
}

// take returns the counts that are complete, or all of them.
func (r *refusals) take(now time.Time, all bool) (due []api.AuditEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, o := range r.open {
		if !all && now.Sub(o.since) < refusalWindow {
			continue
		}
		delete(r.open, k)
		if o.last.Count > 0 {
			due = append(due, o.last)
		}
	}
	slices.SortFunc(due, func(a, b api.AuditEvent) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.RequestID, b.RequestID))
	})
	return due
}

// putBack keeps counts that could not be written.
func (r *refusals) putBack(events []api.AuditEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		k := refusal{e.Actor, e.Account, e.Action, e.Outcome}
		if o := r.open[k]; o != nil {
			o.last, o.last.Count = cmp.Or(o.last, e), o.last.Count+e.Count
		} else {
			r.open[k] = &repetition{since: e.At, last: e}
		}
	}
}

// flushRefusals writes the counts that are complete, or all of them.
func (s *Server) flushRefusals(ctx context.Context, all bool) error {
	due := s.refusals.take(s.cfg.Now(), all)
	err := s.writeEvents(ctx, due)
	if err != nil {
		s.refusals.putBack(due)
	}
	return err
}

// auditEvents reads the newest events under a prefix, at most that many, the oldest of them first. Before 0 is from the newest on;
// none is read that is not newer than since.
func (s *Server) auditEvents(ctx context.Context, prefix string, since, before uint64, most int) ([]api.AuditEvent, error) {
	after, out := "", []api.AuditEvent{}
	if before > 0 {
		after = store.AuditKey(prefix, before)
	}
	for more := true; more && len(out) < most; {
		page, err := s.store.List(ctx, prefix, after, min(most-len(out), auditPage))
		if err != nil {
			return nil, err
		}
		more = len(page) > 0
		for _, kv := range page {
			var e api.AuditEvent
			if err := json.Unmarshal(kv.Value, &e); err != nil {
				return nil, err
			}
			if e.Seq <= since {
				more = false
				break
			}
			out, after = append(out, e), kv.Key
		}
	}
	slices.Reverse(out)
	return out, nil
}

// auditOwner is in whose share of the audit log an event is kept: the account's, or that of who acts for none.
func auditOwner(e *api.AuditEvent) string { return cmp.Or(e.Account, e.Actor) }

// pruneAudit forgets the events beyond what is kept, the oldest first. Where it is all accounts' events together that are too
// many, those with the most lose first: nobody can push out the traces of others.
func (s *Server) pruneAudit(ctx context.Context) error {
	have := map[string]int{}
	var oldest time.Time
	each := func(f func(*api.AuditEvent) error) error {
		return s.eachSide(ctx, store.PrefixAudit, func(kv store.KV) error {
			var e api.AuditEvent
			if err := json.Unmarshal(kv.Value, &e); err != nil {
				return err
			}
			return f(&e)
		})
	}
	if err := each(func(e *api.AuditEvent) error {
		have[auditOwner(e)]++
		oldest = e.At // newest first
		return nil
	}); err != nil {
		return err
	}
	limits, end := s.cfg.audit, s.cfg.Now().Add(-s.cfg.audit.age)
	most := fairShare(slices.Collect(maps.Values(have)), limits.all, limits.each)
	if tooMany := slices.Max(append(slices.Collect(maps.Values(have)), 0)) > most; !tooMany && !oldest.Before(end) {
		return nil
	}
	seen := map[string]int{}
	var doomed []*api.AuditEvent
	pruned := 0
	forget := func(last bool) error {
		n := len(doomed)
		_, err := s.store.Txn(ctx, func(tx *store.Tx) error {
			for _, e := range doomed {
				tx.ForgetAudit(e)
			}
			if last && pruned+n > 0 {
				tx.Audit(api.AuditEvent{At: s.cfg.Now().UTC(), Actor: actorSystem, Action: "prune-audit", Outcome: outcomeSuccess,
					Count: uint64(pruned + n)})
			}
			return nil
		})
		if err == nil {
			pruned, doomed = pruned+n, nil
		}
		return err
	}
	err := each(func(e *api.AuditEvent) error {
		owner := auditOwner(e)
		if seen[owner]++; seen[owner] <= most && !e.At.Before(end) {
			return nil
		}
		if doomed = append(doomed, e); len(doomed) < pruneBatch {
			return nil
		}
		return forget(false)
	})
	return cmp.Or(err, forget(true))
}

// fairShare is how many each may keep at most, no more than each, so that all together keep no more than all.
func fairShare(have []int, all, each int) int {
	slices.Sort(have)
	for i, n := range have {
		share := all / (len(have) - i) // of those that have no less than this one
		if n > share {
			return min(share, each)
		}
		all -= n
	}
	return each
}
