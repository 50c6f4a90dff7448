package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
)

const (
	// pruneKeys is how many keys one transaction forgets, and a few more.
	pruneKeys = 2000
	// auditOverhead is what an event takes in the store besides itself, in bytes: its keys, and what etcd has about each.
	auditOverhead = 512
)

// auditOwner is in whose share of the audit log an event is kept: the account's, or that of who acts for none.
func auditOwner(e *api.AuditEvent) string { return cmp.Or(e.Account, e.Actor) }

// keptEvent is an event in the store, and what it takes there, in bytes.
type keptEvent struct {
	api.AuditEvent
	size int
}

func (s *Server) eachKept(ctx context.Context, f func(*keptEvent) error) error {
	return s.eachSide(ctx, store.PrefixAudit, func(kv store.KV) error {
		e := &keptEvent{size: len(kv.Value) + auditOverhead}
		if err := json.Unmarshal(kv.Value, &e.AuditEvent); err != nil {
			return err
		}
		return f(e)
	})
}

// pruneAudit forgets the events beyond what is kept, the oldest first. Where it is all accounts' events together that are too
// many, those with the most lose first: nobody can push out the traces of others. What is not in the Merkle log yet stays.
func (s *Server) pruneAudit(ctx context.Context) error {
	have := map[string]int{}
	anyOld := false
	old := func(e *keptEvent) bool { return s.expired(api.RetainAuditEvents, e.At) }
	if err := s.eachKept(ctx, func(e *keptEvent) error {
		have[auditOwner(&e.AuditEvent)] += e.size
		anyOld = anyOld || old(e)
		return nil
	}); err != nil {
		return err
	}
	limits := s.cfg.audit
	most := fairShare(slices.Collect(maps.Values(have)), limits.all, limits.each)
	if tooMany := slices.Max(append(slices.Collect(maps.Values(have)), 0)) > most; !tooMany && !anyOld {
		return nil
	}
	sealed, err := s.sealedUpTo(ctx)
	if err != nil {
		return err
	}
	p := pruning{s: s}
	seen := map[string]int{}
	err = s.eachKept(ctx, func(e *keptEvent) error {
		owner := auditOwner(&e.AuditEvent)
		if seen[owner] += e.size; seen[owner] <= most && !old(e) || e.Seq > sealed {
			return nil
		}
		return p.forget(ctx, &e.AuditEvent)
	})
	return cmp.Or(err, p.flush(ctx, true))
}

// pruning collects what is to be forgotten.
type pruning struct {
	s      *Server
	doomed []*api.AuditEvent
	keys   int
	pruned int
}

func (p *pruning) forget(ctx context.Context, e *api.AuditEvent) error {
	p.doomed = append(p.doomed, e)
	if p.keys += 3 + 2*len(e.Changes); p.keys < pruneKeys {
		return nil
	}
	return p.flush(ctx, false)
}

func (p *pruning) flush(ctx context.Context, last bool) error {
	n := len(p.doomed)
	_, err := p.s.store.Txn(ctx, func(tx *store.Tx) error {
		for _, e := range p.doomed {
			tx.ForgetAudit(e)
		}
		if last && p.pruned+n > 0 {
			e := systemEvent(p.s.cfg.Now(), api.ActionPruneAudit)
			e.Count = uint64(p.pruned + n)
			tx.Audit(e)
		}
		return nil
	})
	if err == nil {
		p.pruned, p.doomed, p.keys = p.pruned+n, nil, 0
	}
	return err
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
