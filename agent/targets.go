package agent

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/culvert-net/culvert/agent/gossip"
	"github.com/culvert-net/culvert/agent/health"
	"github.com/culvert-net/culvert/agent/health/exchange"
	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// Health is who of the targets is alive, as the loop uses it.
type Health interface {
	// Set replaces the targets that this node checks, who hears of them, and those that it may send to.
	Set(checks []health.Check, subscribers map[uint32][]uint32, sources []health.Source)
	// Facts are what is known of the targets that this node may send to.
	Facts() map[health.Key]health.Fact
	// Statuses and Transitions are of this node's own targets: the oldest changes after the one with a serial number, so many at most.
	Statuses() []health.Status
	Transitions(after uint64, most int) []health.Transition
	// Received says how many bytes the tunnel has brought of each node; Ask, that something hints that one is gone.
	Received(bytes map[uint32]uint64)
	Ask(node uint32)
	// Listening is nil while other nodes are heard; else it says why not.
	Listening() error
	Counters() exchange.Counters
}

// Ill has the tables follow the health of targets, soon, and before the next round. It never blocks.
func (a *Agent) Ill() {
	select {
	case a.ill <- struct{}{}:
	default:
	}
}

// Others can make the health of targets change as often as they like: so many times at once, and then so often, the tables follow
// by themselves. Each time they follow all changes that there were.
const (
	tablesBurst = 10
	tablesEvery = 500 * time.Millisecond
)

// tables has the datapath and names follow the health of targets, as of the last round in all other things. False: nothing was
// done, and a whole round has to look.
func (a *Agent) tables(ctx context.Context) bool {
	a.mu.Lock()
	view, facts, old, half := a.appliedView, a.appliedFacts, a.applied, a.halfApplied
	a.mu.Unlock()
	if latest, _ := a.box.latest(); old == nil || half || latest != view {
		return false
	}
	t := &turn{Agent: a, view: view, facts: facts}
	t.hear()
	if t.compile() != nil {
		return false
	}
	if sameRules(old, t.plan) {
		return true
	}
	t.withdrawNames()
	if t.datapath(ctx) != nil {
		return false
	}
	t.edges.Names.Set(t.plan.Naming(), underlay(t.view))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.applied, a.appliedFacts = t.plan, t.facts
	return true
}

// probes tells whether the plan in force has this node probe there.
func (a *Agent) probes(vpc uint32, at netip.AddrPort) bool {
	p := a.lastPlan()
	if p == nil {
		return false
	}
	key := plan.Probe{VPC: vpc, Address: at.Addr(), Port: at.Port()}.Key()
	_, ok := slices.BinarySearchFunc(p.Probes, key, func(r plan.Probe, key string) int { return strings.Compare(r.Key(), key) })
	return ok
}

// hear takes what is known of targets' health into the facts.
func (t *turn) hear() {
	known := t.edges.Health.Facts()
	t.facts.Health = make(map[plan.HealthKey]plan.HealthFact, len(known))
	for k, f := range known {
		t.facts.Health[plan.HealthKey(k)] = plan.HealthFact{State: planStates[f.State], Weight: f.Weight, Ended: f.Ended}
	}
}

var planStates = map[health.State]plan.HealthState{
	health.Initial: plan.HealthInitial, health.Healthy: plan.HealthHealthy, health.Unhealthy: plan.HealthUnhealthy,
}

// askHealth has the view's targets checked, unless no plan is in force yet: publish does it then. Links and programs are there by
// that time, and as nothing is known of any target before, no plan would be another.
func (t *turn) askHealth() {
	if t.lastPlan() != nil {
		t.checkTargets()
	}
}

// checkTargets has the view's targets checked, and other nodes' heard.
func (t *turn) checkTargets() {
	t.edges.Health.Set(checks(t.view), plan.HealthSubscribers(t.view), sources(t.view))
	numbers := map[string]uint32{}
	for _, p := range t.view.Peers {
		numbers[p.Node] = p.Number
	}
	for _, m := range t.edges.Members.States() {
		if m.State == gossip.Gone && numbers[m.Node] != 0 {
			t.edges.Health.Ask(numbers[m.Node])
		}
	}
}

// heardFrom tells what the tunnel brought of each node.
func (t *turn) heardFrom(device wire.State) {
	numbers := map[string]uint32{}
	for _, p := range t.view.Peers {
		numbers[p.PublicKey] = p.Number
	}
	received := make(map[uint32]uint64, len(device.Peers))
	for _, p := range device.Peers {
		if n := numbers[p.PublicKey.String()]; n != 0 {
			received[n] = p.RxBytes
		}
	}
	t.edges.Health.Received(received)
}

// checks are those of a view as they are made here.
func checks(v *api.View) (out []health.Check) {
	accounts := map[uint32]string{} // by number of VPC
	for _, vpc := range v.VPCs {
		accounts[vpc.Number] = vpc.Account
	}
	for _, h := range v.HealthChecks {
		second := func(n uint32) time.Duration { return time.Duration(n) * time.Second }
		config := health.Config{
			Protocol: health.Protocol(strings.ToLower(string(h.Check.Protocol))), Path: h.Check.Path, Matcher: h.Check.Matcher,
			Interval: second(max(1, h.Check.IntervalSeconds)), Timeout: second(max(1, min(h.Check.TimeoutSeconds, h.Check.IntervalSeconds))),
			HealthyThreshold: int(max(1, h.Check.HealthyThreshold)), UnhealthyThreshold: int(max(1, h.Check.UnhealthyThreshold)),
		}
		for _, t := range h.Targets {
			if !t.Address.Is4() {
				continue
			}
			out = append(out, health.Check{Key: health.Key{TargetGroup: h.TargetGroup, Target: netip.AddrPortFrom(t.Address, t.Port)},
				Account: accounts[h.VPC], VPC: h.VPC, Port: h.Check.ProbePort(t.Port), ProxyHeader: h.ProxyHeader, Config: config})
		}
	}
	return out
}

// sources are the targets that a view lets this node send to, with what their groups say of unhealthy ones.
func sources(v *api.View) []health.Source {
	groups := map[uint32]api.ViewPoolHealth{}
	for _, e := range slices.Concat(v.Endpoints, v.LoadBalancers) {
		for _, l := range e.Listeners {
			if l.Health != nil {
				groups[l.TargetGroup] = *l.Health
			}
		}
	}
	list := plan.HealthSources(v)
	out := make([]health.Source, 0, len(list))
	for _, s := range list {
		g := groups[s.Key.TargetGroup]
		out = append(out, health.Source{Key: health.Key(s.Key), Node: s.Node, VPC: s.VPC,
			SlowStart: time.Duration(g.SlowStartSeconds) * time.Second,
			End:       g.ConnectionTermination, EndAfter: time.Duration(g.DrainingIntervalSeconds) * time.Second})
	}
	return out
}

// targetHealth is what the control plane hears of this node's targets: how they are now, and the oldest changes after one. Last is the
// newest of these, more whether there may be others.
func (a *Agent) targetHealth(v *api.View, after uint64) (now []api.TargetHealth, changes []api.HealthTransition, last uint64, more bool) {
	type name struct{ group, eni string }
	names := map[health.Key]name{}
	for _, h := range v.HealthChecks {
		for _, t := range h.Targets {
			names[health.Key{TargetGroup: h.TargetGroup, Target: netip.AddrPortFrom(t.Address, t.Port)}] = name{h.ID, t.ENI}
		}
	}
	for _, s := range a.edges.Health.Statuses() {
		if n, ok := names[s.Key]; ok && s.State != health.Unknown {
			now = append(now, api.TargetHealth{TargetGroup: n.group, ENI: n.eni, Port: s.Target.Port(), Since: s.Since.UTC().Round(0),
				State: api.TargetState(s.State.String()), Reason: api.TargetReason(s.Reason.String()),
				Description: shortened(s.Detail, api.MaxHealthDescriptionLen)})
		}
	}
	news := a.edges.Health.Transitions(after, api.MaxReportedTransitions)
	last, more = after, len(news) == api.MaxReportedTransitions
	for _, c := range news {
		last = c.Serial
		n, ok := names[c.Key]
		if !ok {
			continue
		}
		change := api.HealthTransition{TargetGroup: n.group, ENI: n.eni, Port: c.Target.Port(), At: c.At.UTC().Round(0),
			To: api.TargetState(c.To.String()), Reason: api.TargetReason(c.Reason.String()),
			Description: shortened(c.Detail, api.MaxHealthDescriptionLen)}
		if c.From != health.Unknown {
			change.From = api.TargetState(c.From.String())
		}
		changes = append(changes, change)
	}
	return now, changes, last, more
}

// countHealth adds to a status how many targets are well: of those that are checked here, and of those that this node may send to.
func (a *Agent) countHealth(t *local.Targets) {
	for _, s := range a.edges.Health.Statuses() {
		t.Checked++
		if s.State == health.Unhealthy {
			t.Unhealthy++
		}
	}
	for _, f := range a.edges.Health.Facts() {
		t.Watched++
		if f.State == health.Unhealthy {
			t.Down++
		}
	}
}
