package controlplane

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
)

func (s *Server) registerStatus() {
	reading(s, operation{http.MethodGet, "/v1/status", "get-status", "How the server is, and whom it takes the caller for", aUser},
		func(c *call, _ *none) (*api.Status, error) { return status(c), nil })
	reading(s, operation{http.MethodGet, "/v1/converged", "get-converged", "Whether every live node has applied a revision", aUser},
		converged)
	s.registerAudit()
	s.registerReports()
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
	if c.who.admin() {
		out.Waiting = live.Waiting[:min(len(live.Waiting), api.MaxStatusNames)]
		problems := c.s.problems.all()
		out.Problems = problems[:min(len(problems), api.MaxStatusNames)]
		out.AuditGrowth = c.s.growth.most(api.MaxStatusNames)
	}
	c.serviceStatus(out)
	c.failingFlowLogs(out)
	return out
}

// serviceStatus tells a provider what waits for it: connections to decide on, and services that lead nowhere.
func (c *call) serviceStatus(out *api.Status) {
	used := map[string]bool{}
	for _, con := range c.r.Connections {
		s := c.r.Services[con.Service]
		if s == nil || s.Account != c.account && !(c.who.admin() && c.account == "") {
			continue
		}
		switch con.State {
		case api.PendingAcceptance:
			out.Pending++
		case api.Available:
			used[s.ID] = true
		}
	}
	for id := range used {
		switch s := c.r.Services[id]; {
		case !c.anyTarget(s):
			out.WithoutTarget = append(out.WithoutTarget, c.serviceName(s))
		case c.failsOpen(s):
			out.FailingOpen = append(out.FailingOpen, c.serviceName(s))
		}
	}
	slices.Sort(out.WithoutTarget)
	slices.Sort(out.FailingOpen)
	out.WithoutTarget = out.WithoutTarget[:min(len(out.WithoutTarget), api.MaxStatusNames)]
	out.FailingOpen = out.FailingOpen[:min(len(out.FailingOpen), api.MaxStatusNames)]
}

// anyTarget tells whether a target of a service is attached, as far as its node has said.
func (c *call) anyTarget(s *api.Service) bool {
	for _, id := range s.LoadBalancers {
		b := c.r.LoadBalancers[id]
		if b == nil {
			continue
		}
		for _, l := range b.Listeners {
			g := c.r.TargetGroups[l.TargetGroup]
			if g != nil && slices.ContainsFunc(g.Targets, func(t api.Target) bool {
				e := c.r.ENIs[t.ENI]
				return e != nil && c.s.hub.attached(e.Node, e.ID)
			}) {
				return true
			}
		}
	}
	return false
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
	Revision int64 `query:"revision" required:"true" minimum:"0" doc:"As in Culvert-Revision"`
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
