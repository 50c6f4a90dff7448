package agent

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/agent/health"
	"github.com/culvert-net/culvert/agent/health/exchange"
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
