package controlplane

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
)

func (s *Server) registerStatus() {
	reading(s, operation{http.MethodGet, "/v1/status", "get-status", "How the server is, and whom it takes the caller for", aUser},
		func(c *call, _ *none) (*api.Status, error) { return status(c), nil })
	reading(s, operation{http.MethodGet, "/v1/converged", "get-converged", "Whether every live node has applied a revision", aUser},
		converged)
	reading(s, operation{http.MethodGet, "/v1/audit", "list-audit", "Audit events, newest last", aUser}, listAudit)
}

func status(c *call) *api.Status {
	out := &api.Status{Version: c.s.cfg.Version, Region: c.r.Mesh.Region, Revision: c.r.Revision, StartedAt: c.s.started.UTC(),
		Caller:        api.Caller{Key: c.who.key.ID, Admin: c.who.key.Admin, Account: c.account},
		CAFingerprint: c.s.ca.Fingerprint(), Counts: map[api.Kind]int{}}
	if a := c.r.Accounts[c.account]; a != nil {
		out.Caller.AccountName = a.Name
	}
	for _, k := range api.Kinds {
		c.r.Each(k, func(res api.Resource) bool {
			if c.visible(res) || k == api.KindAccount && res.GetMeta().ID == c.account {
				out.Counts[k]++
			}
			return true
		})
	}
	for _, n := range c.r.Nodes {
		if n.State == api.NodeRevoked {
			continue
		}
		out.NodesTotal++
		if n.State == api.NodeReady {
			out.NodesReady++
		}
	}
	live := c.s.convergence(c.r, c.r.Revision)
	out.NodesLive, out.Converged = live.Nodes, live.Converged
	return out
}

// convergence tells which live nodes have not applied a revision. A node that nothing is heard of is not waited for: it gets the
// newest view when it comes back, and lets nothing pass once its own is too old.
func (s *Server) convergence(r *api.Resources, revision int64) *api.Convergence {
	out := &api.Convergence{Revision: revision}
	for _, n := range r.Nodes {
		live, st := s.hub.get(n.ID, s.cfg.Now())
		if n.State == api.NodeRevoked || !live {
			continue
		}
		out.Nodes++
		if st == nil || st.Revision < revision {
			out.Waiting = append(out.Waiting, n.Name)
		}
	}
	slices.Sort(out.Waiting)
	out.Converged = len(out.Waiting) == 0 && r.Revision >= revision
	return out
}

func converged(c *call, in *struct {
	Waiting
	Revision int64 `query:"revision" required:"true" minimum:"0"`
}) (*api.Convergence, error) {
	w := c.s.newWait(c.ctx, in.WaitSeconds)
	defer w.end()
	for {
		out := c.s.convergence(c.r, in.Revision)
		if out.Converged || !w.next() {
			return out, nil
		}
		c.r = c.s.store.Snapshot()
	}
}

// wait wakes a call that has nothing to say yet at each change, for a while.
type wait struct {
	s        *Server
	ctx      context.Context
	cancel   context.CancelFunc
	changes  <-chan int64
	reported <-chan struct{}
}

// newWait listens from now on, so that what changes after the caller has looked is not missed. 0 seconds do not wait.
func (s *Server) newWait(ctx context.Context, seconds int) *wait {
	w := &wait{s: s}
	w.ctx, w.cancel = context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
	w.changes, w.reported = s.store.Watch(w.ctx), s.hub.waiter()
	return w
}

func (w *wait) end() { w.cancel() }

// next reports whether something changed in time.
func (w *wait) next() bool {
	select {
	case <-w.ctx.Done():
		return false
	case <-w.s.stopping:
		return false
	case <-w.changes:
	case <-w.reported:
		w.reported = w.s.hub.waiter()
	}
	return true
}

// maxAudit bounds the events of one answer.
const maxAudit = 10_000

// auditPage is how many events are read at once.
const auditPage = 1000

// listAudit returns the newest events, those of the account, or all for an administrator.
func listAudit(c *call, in *struct {
	Limit  int    `query:"limit" minimum:"0" maximum:"10000" doc:"The newest so many; 0: 1000"`
	Before uint64 `query:"before" doc:"Only events with a smaller sequence number; to read further back"`
}) (*api.List[api.AuditEvent], error) {
	most := min(in.Limit, maxAudit)
	if most == 0 {
		most = auditPage
	}
	end, err := c.s.lastAudit(c.ctx)
	if err != nil {
		return nil, err
	}
	end++
	if in.Before > 0 {
		end = min(end, in.Before)
	}
	var found []api.AuditEvent // newest first
	for end > 1 && len(found) < most {
		start := uint64(1)
		if end > auditPage {
			start = end - auditPage
		}
		page, err := c.s.store.List(c.ctx, store.PrefixAudit, store.AuditKey(start-1), int(end-start))
		if err != nil {
			return nil, err
		}
		for _, kv := range slices.Backward(page) {
			var e api.AuditEvent
			if err := json.Unmarshal(kv.Value, &e); err != nil {
				return nil, err
			}
			if e.Seq < end && len(found) < most && (c.account == "" && c.who.admin() || c.account != "" && e.Account == c.account) {
				found = append(found, e)
			}
		}
		end = start
	}
	slices.Reverse(found)
	return &api.List[api.AuditEvent]{Items: append([]api.AuditEvent{}, found...), Revision: c.r.Revision}, nil
}

// lastAudit finds the sequence number of the newest event, 0 when there is none. Numbers have no gaps, so halving finds it.
func (s *Server) lastAudit(ctx context.Context) (uint64, error) {
	low, high := uint64(0), uint64(1)<<40 // low exists or is 0, high does not exist
	for high-low > 1 {
		mid := low + (high-low)/2
		later, err := s.store.List(ctx, store.PrefixAudit, store.AuditKey(mid-1), 1)
		if err != nil {
			return 0, err
		}
		if len(later) > 0 {
			low = mid
		} else {
			high = mid
		}
	}
	return low, nil
}
