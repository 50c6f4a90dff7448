package controlplane

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
	"github.com/culvert-net/culvert/internal/metrics"
)

// maxTargetReasonLen is in bytes. Reasons of agents that are newer than the server are taken as they come.
const maxTargetReasonLen = 64

// Times that a node tells are believed from then on, and up to so far ahead of the server's clock. Others would stand before all
// true ones in a history, and one beyond the year 9999 cannot be written.
var earliestTold = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

const maxToldAhead = 5 * time.Minute

// targetKey names a target of a target group.
type targetKey struct {
	group, eni string
	port       uint16
}

// healthBook has what nodes said of the health of the targets that they host. States are memory only: each report tells all of them
// again. Histories are in the store, too.
type healthBook struct {
	mu      sync.Mutex
	states  map[string]map[targetKey]api.TargetHealth // by node
	history map[targetKey]targetHistory
	changed chan struct{} // closed and replaced when anything is not as it was
}

// targetHistory is what one node told: that which hosts the target now.
type targetHistory struct {
	node    string
	changes []api.HealthTransition // the oldest first
}

func newHealthBook() *healthBook {
	return &healthBook{states: map[string]map[targetKey]api.TargetHealth{}, history: map[targetKey]targetHistory{},
		changed: make(chan struct{})}
}

// waiter is closed at the next change.
func (b *healthBook) waiter() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// take keeps what a node said of its targets. It returns of each target the newest of the changes that were not known, and all of them.
func (b *healthBook) take(node string, states []api.TargetHealth, transitions []api.HealthTransition) (news, fresh []api.HealthTransition) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was, is := b.states[node], make(map[targetKey]api.TargetHealth, len(states))
	for _, h := range states {
		h.Since = h.Since.UTC().Round(0) // so that they can be compared
		is[targetKey{h.TargetGroup, h.ENI, h.Port}] = h
	}
	b.states[node] = is
	newest := map[targetKey]api.HealthTransition{}
	for _, t := range transitions {
		key := targetKey{t.TargetGroup, t.ENI, t.Port}
		var known []api.HealthTransition
		if told := b.history[key]; told.node == node { // what another node told goes, so that it keeps nothing of this one's away
			known = told.changes
		}
		old := len(known) == api.MaxHealthHistory && t.At.Before(known[0].At)
		if old || slices.ContainsFunc(known, func(o api.HealthTransition) bool { return o.At.Equal(t.At) && o.To == t.To }) {
			continue
		}
		known = append(slices.Clone(known), t)
		slices.SortStableFunc(known, func(a, b api.HealthTransition) int { return a.At.Compare(b.At) })
		b.history[key] = targetHistory{node, known[max(0, len(known)-api.MaxHealthHistory):]}
		fresh = append(fresh, t)
		if n, told := newest[key]; !told || !t.At.Before(n.At) {
			newest[key] = t
		}
	}
	if len(newest) > 0 || !maps.Equal(was, is) {
		close(b.changed)
		b.changed = make(chan struct{})
	}
	return slices.Collect(maps.Values(newest)), fresh
}

// of is what a node said of a target, and its history, the newest first.
func (b *healthBook) of(node string, key targetKey) (h api.TargetHealth, known bool, history []api.HealthTransition) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, known = b.states[node][key]
	if told := b.history[key]; told.node == node {
		history = slices.Clone(told.changes)
	}
	slices.Reverse(history)
	return h, known, history
}

// forget drops what is about targets and nodes that are gone.
func (b *healthBook) forget(r *api.Resources) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.states, func(node string, _ map[targetKey]api.TargetHealth) bool { return r.Nodes[node] == nil })
	maps.DeleteFunc(b.history, func(key targetKey, _ targetHistory) bool { return !isTarget(r, key) })
}

// isTarget: the group has such a target, or it drains there.
func isTarget(r *api.Resources, key targetKey) bool {
	g := r.TargetGroups[key.group]
	if g == nil {
		return false
	}
	return slices.ContainsFunc(g.Targets, func(t api.Target) bool { return t.ENI == key.eni && cmp.Or(t.Port, g.Port) == key.port }) ||
		slices.ContainsFunc(g.Draining, func(t api.DrainingTarget) bool { return t.ENI == key.eni && t.Port == key.port })
}

// checkTargetHealth refuses a report that is too long. It shortens descriptions, and takes out what is malformed, the first of which
// it returns: what is said of one tenant's target must not keep the rest of a report from being heard.
func checkTargetHealth(st *api.NodeStatus) (malformed, refused *api.Error) {
	if len(st.TargetHealth) > api.MaxHealthChecksPerNode || len(st.HealthTransitions) > api.MaxReportedTransitions {
		return nil, api.Errorf(api.CodeLimitExceeded, "targetHealth", "report fewer transitions at once",
			"at most %d targets and %d transitions are taken", api.MaxHealthChecksPerNode, api.MaxReportedTransitions)
	}
	for i := range st.TargetHealth {
		st.TargetHealth[i].Description = shortDescription(st.TargetHealth[i].Description)
	}
	for i := range st.HealthTransitions {
		st.HealthTransitions[i].Description = shortDescription(st.HealthTransitions[i].Description)
	}
	st.TargetHealth = slices.DeleteFunc(st.TargetHealth, func(h api.TargetHealth) bool {
		e := checkHealthWords("targetHealth", h.State, h.Reason)
		malformed = cmp.Or(malformed, e)
		return e != nil
	})
	st.HealthTransitions = slices.DeleteFunc(st.HealthTransitions, func(t api.HealthTransition) bool {
		e := checkHealthWords("healthTransitions", t.To, t.Reason)
		if e == nil && t.From != "" {
			e = checkHealthWords("healthTransitions", t.From, t.Reason)
		}
		malformed = cmp.Or(malformed, e)
		return e != nil
	})
	return malformed, nil
}

func checkHealthWords(field string, state api.TargetState, reason api.TargetReason) *api.Error {
	switch {
	case !slices.Contains(api.TargetStates, state):
		return api.Errorf(api.CodeInvalidParameter, field, "give a state such as healthy", "%q is no state of a target",
			api.Shortened(string(state)))
	case len(reason) > maxTargetReasonLen || strings.ContainsFunc(string(reason), unprintable):
		return api.Errorf(api.CodeInvalidParameter, field, "give a reason such as Target.Timeout", "%q is no reason",
			api.Shortened(string(reason)))
	}
	return nil
}

func unprintable(c rune) bool { return !unicode.IsPrint(c) }

// shortDescription is what is kept of one.
func shortDescription(s string) string {
	if strings.ContainsFunc(s, unprintable) {
		s = strings.Map(func(c rune) rune {
			if unprintable(c) {
				return '?'
			}
			return c
		}, s)
	}
	if len(s) > api.MaxHealthDescriptionLen {
		s = strings.ToValidUTF8(s[:api.MaxHealthDescriptionLen], "")
	}
	return s
}

// takeTargetHealth keeps what a node says of the targets that it hosts; of others it may still speak for a moment, and is not heard.
// Nor is a change at a time that cannot be; of a state just the time is left out.
func (s *Server) takeTargetHealth(ctx context.Context, r *api.Resources, st *api.NodeStatus) {
	own := func(group, eni string, port uint16) bool {
		e := r.ENIs[eni]
		return e != nil && e.Node == st.Node && isTarget(r, targetKey{group, eni, port})
	}
	latest := s.cfg.Now().Add(maxToldAhead)
	believed := func(at time.Time) bool { return !at.Before(earliestTold) && !at.After(latest) }
	states := slices.DeleteFunc(st.TargetHealth, func(h api.TargetHealth) bool { return !own(h.TargetGroup, h.ENI, h.Port) })
	for i := range states {
		if !believed(states[i].Since) {
			states[i].Since = time.Time{}
		}
	}
	transitions := slices.DeleteFunc(st.HealthTransitions, func(t api.HealthTransition) bool {
		return !own(t.TargetGroup, t.ENI, t.Port) || !believed(t.At)
	})
	news, fresh := s.health.take(st.Node, states, transitions)
	for _, t := range news {
		s.log.Info("a target's health changed", logkey.Account, r.TargetGroups[t.TargetGroup].Account, logkey.TargetGroup, t.TargetGroup,
			logkey.ENI, t.ENI, logkey.Port, t.Port, logkey.State, string(t.To), logkey.Reason, string(t.Reason))
	}
	s.auditHealth(ctx, st.Node, fresh)
	st.TargetHealth, st.HealthTransitions = nil, nil
}

// describeTargetHealth lists a group's targets and how they are.
func describeTargetHealth(c *call, in *ByID) (*api.TargetGroupHealth, error) {
	g, err := c.targetGroup("id", in.ID, "")
	if err != nil {
		return nil, err
	}
	return c.groupHealth(g, usedGroups(c.r)[g.ID]), nil
}

// listTargetHealth lists the targets of one group, or of all that the caller sees, and how they are.
func listTargetHealth(c *call, in *struct {
	Watching
	TargetGroup string `query:"targetGroup" doc:"Only those of this target group, id or name"`
}) (*api.List[api.DescribedTarget], error) {
	groups := list(c, c.r.TargetGroups, nil).Items
	if in.TargetGroup != "" {
		g, err := c.targetGroup("targetGroup", in.TargetGroup, "")
		if err != nil {
			return nil, err
		}
		groups = []api.TargetGroup{*g}
	}
	out, used := &api.List[api.DescribedTarget]{Items: []api.DescribedTarget{}, Revision: c.r.Revision}, usedGroups(c.r)
	for i := range groups {
		out.Items = append(out.Items, c.groupHealth(&groups[i], used[groups[i].ID]).Targets...)
	}
	return out, nil
}

// groupHealth is how a group's targets are.
func (c *call) groupHealth(g *api.TargetGroup, used bool) *api.TargetGroupHealth {
	out := &api.TargetGroupHealth{TargetGroup: g.ID, Targets: []api.DescribedTarget{}}
	all := 0
	for _, t := range g.Targets {
		d := c.describedTarget(g, t.ENI, cmp.Or(t.Port, g.Port))
		d.Weight = t.Weight
		d.State, d.Reason, d.Description, d.Since = c.targetHealth(g, t, used)
		if d.State == api.TargetUnhealthy && c.keepsFlows(g, d.Since) {
			d.State = api.TargetUnhealthyDraining
		}
		if t.Weight > 0 && d.State != api.TargetUnused {
			out.Registered++
			if d.State != api.TargetInitial {
				all++
			}
			if d.State.Usable() {
				out.Usable++
			}
		}
		out.Targets = append(out.Targets, d)
	}
	out.FailOpen = g.HealthCheck.Enabled && out.Registered > 0 && !g.MinimumHealthyTargets.Enough(out.Usable, all)
	for _, t := range g.Draining {
		d := c.describedTarget(g, t.ENI, t.Port)
		d.State, d.Reason = api.TargetDraining, api.ReasonDeregistrationInProgress
		d.Description = "deregistered: it keeps its flows"
		if g.ConnectionTermination {
			d.Description += " until " + t.Until.UTC().Format(time.RFC3339)
		}
		out.Targets = append(out.Targets, d)
	}
	slices.SortFunc(out.Targets, func(a, b api.DescribedTarget) int {
		return cmp.Or(cmp.Compare(a.ENI, b.ENI), cmp.Compare(a.Port, b.Port))
	})
	return out
}

// keepsFlows tells whether a target that is unhealthy since then keeps its flows for now, of a group that will end them.
func (c *call) keepsFlows(g *api.TargetGroup, since time.Time) bool {
	interval := time.Duration(g.UnhealthyDrainingIntervalSeconds) * time.Second
	return g.UnhealthyConnectionTermination && !since.IsZero() && c.now.Sub(since) < interval
}

// failsOpen tells whether a group behind a service has so many unhealthy targets that all are used.
func (c *call) failsOpen(s *api.Service) bool {
	for _, id := range s.LoadBalancers {
		b := c.r.LoadBalancers[id]
		if b == nil {
			continue
		}
		for _, l := range b.Listeners {
			g := c.r.TargetGroups[l.TargetGroup]
			if g == nil {
				continue
			}
			ill := func(t api.DescribedTarget) bool {
				return t.State == api.TargetUnhealthy || t.State == api.TargetUnhealthyDraining
			}
			if h := c.groupHealth(g, true); h.FailOpen && slices.ContainsFunc(h.Targets, ill) {
				return true
			}
		}
	}
	return false
}

// usedGroups are the target groups that a load balancer sends to.
func usedGroups(r *api.Resources) map[string]bool {
	used := map[string]bool{}
	for _, b := range r.LoadBalancers {
		for _, l := range b.Listeners {
			used[l.TargetGroup] = true
		}
	}
	return used
}

// emitTargets counts the targets of groups that are used by their states.
func (s *Server) emitTargets(r *api.Resources, emit metrics.Emit) {
	c := &call{s: s, r: r, now: s.cfg.Now()}
	for id := range usedGroups(r) {
		g := r.TargetGroups[id]
		if g == nil {
			continue
		}
		states := map[api.TargetState]int{api.TargetHealthy: 0, api.TargetUnhealthy: 0}
		for _, t := range g.Targets {
			state, _, _, _ := c.targetHealth(g, t, true)
			states[state]++
		}
		if len(g.Draining) > 0 {
			states[api.TargetDraining] = len(g.Draining)
		}
		for state, n := range states {
			emit(mTargets, float64(n), id, string(state))
		}
	}
}

// describedTarget is what does not change with its health, and its history.
func (c *call) describedTarget(g *api.TargetGroup, eni string, port uint16) api.DescribedTarget {
	d := api.DescribedTarget{ID: fmt.Sprintf("%s/%s:%d", g.ID, eni, port), TargetGroup: g.ID, ENI: eni, Port: port}
	if e := c.r.ENIs[eni]; e != nil {
		d.ENIName, d.Address = e.Name, e.Address
		if s := c.r.Subnets[e.Subnet]; s != nil {
			d.Zone = s.Zone
		}
		_, _, d.History = c.s.health.of(e.Node, targetKey{g.ID, eni, port})
	}
	return d
}

// targetHealth is a registered target's state: what the node that hosts it said last, unless the server knows better.
func (c *call) targetHealth(g *api.TargetGroup, t api.Target, used bool) (s api.TargetState, reason api.TargetReason, text string, since time.Time) {
	e := c.r.ENIs[t.ENI]
	if !used {
		return api.TargetUnused, api.ReasonNotInUse, "no listener of a load balancer sends to the target group", since
	}
	if e == nil || c.r.Nodes[e.Node] == nil || c.r.Nodes[e.Node].State == api.NodeRevoked {
		return api.TargetUnused, api.ReasonInvalidState, "no node hosts the network interface", since
	}
	if !g.HealthCheck.Enabled {
		return api.TargetUnavailable, api.ReasonHealthCheckDisabled, "nobody asks it: it counts as healthy", since
	}
	live, status := c.s.hub.get(e.Node, c.now)
	if !live {
		if status != nil {
			since = status.SeenAt
		}
		return api.TargetUnavailable, api.ReasonHostUnreachable,
			"the server does not hear of its node; whether it works the nodes of its consumers find out", since
	}
	if h, ok, _ := c.s.health.of(e.Node, targetKey{g.ID, t.ENI, cmp.Or(t.Port, g.Port)}); ok {
		return h.State, h.Reason, h.Description, h.Since
	}
	if status == nil || status.Revision < g.Revision {
		return api.TargetInitial, api.ReasonRegistrationInProgress, "its node has not heard of it yet", since
	}
	return api.TargetUnavailable, api.ReasonNoReport, "its node says nothing of it: it counts as healthy", since
}
