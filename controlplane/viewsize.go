package controlplane

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/logkey"
)

// The shares in room and view keep views well below api.MaxViewBytes. Should one be larger all the same, it is neither written out
// nor sent: a node would take no line of that length, and many such views the server's memory. The node goes on with the last
// one that fitted, as when it hears nothing, and administrators see it among its errors.

// tooLarge is the newest view of a node, when it cannot be sent.
type tooLarge struct {
	revision int64
	problem  string
}

// leastSize is a number of bytes that the view's JSON is not shorter than, without writing it.
func leastSize(v *api.View) int {
	n := sizes(v.Peers) + sizes(v.Members) + sizes(v.VPCs) + sizes(v.ENIs) + sizes(v.Addresses) + sizes(v.Groups) +
		sizes(v.Endpoints) + sizes(v.Admitted) + sizes(v.Grants) + sizes(v.Names) + sizes(v.StandbyNames) + sizes(v.LoadBalancers) +
		sizes(v.LoadBalancerGrants) + sizes(v.HealthChecks) + sizes(v.HostedZones) + sizes(v.ResolverRules) +
		sizes(v.Firewalls)
	for _, p := range v.Peers {
		n += len(p.AllowedIPs) * len(`"fd00::/128",`)
	}
	for _, g := range v.Groups {
		n += sizes(g.Ingress) + sizes(g.Egress)
	}
	for _, e := range slices.Concat(v.Endpoints, v.LoadBalancers) {
		n += sizes(e.ENIs) + sizes(e.Listeners)
		for _, l := range e.Listeners {
			n += sizes(l.Targets) + sizes(l.Resting) + sizes(l.TagNumbers)
		}
	}
	for _, h := range v.HealthChecks {
		n += sizes(h.Targets)
	}
	for _, z := range v.HostedZones {
		n += sizes(z.RecordSets)
		for i := range z.RecordSets {
			n += z.RecordSets[i].TextSize()
		}
	}
	for _, a := range v.Admitted {
		n += sizes(a.Rules)
	}
	for _, g := range slices.Concat(v.Grants, v.LoadBalancerGrants) {
		n += sizes(g.Targets) + sizes(g.Draining)
	}
	return n
}

// sizes is how long so many rows are at least: their lists and strings empty.
func sizes[T any](list []T) int {
	if len(list) == 0 {
		return 0
	}
	var empty T
	data, err := json.Marshal(empty)
	if err != nil {
		return 0
	}
	return len(list) * (len(data) - len("null")) // an empty list may stand as null, a full one begins with [
}

// viewFits reports whether a view may be sent whose JSON has so many bytes, or at least so many, and remembers when it may not.
func (s *Server) viewFits(v *api.View, size int) bool {
	if size <= s.cfg.maxView {
		return true
	}
	problem := fmt.Sprintf("the server sends no view: that of revision %d has over %d MiB, at most %d are sent; it goes on with its "+
		"last one until that is too old: move workloads to other nodes, or delete endpoints", v.Revision, size>>20, s.cfg.maxView>>20)
	if s.hub.setTooLarge(v.Node.ID, &tooLarge{v.Revision, problem}) {
		s.log.Error("a view is too large", logkey.Node, v.Node.ID, logkey.Revision, v.Revision, logkey.Bytes, size,
			logkey.Limit, s.cfg.maxView)
	}
	return false
}

// setTooLarge notes that a node's newest view cannot be sent, nil: that it can. It reports whether that is new.
func (h *hub) setTooLarge(node string, t *tooLarge) (news bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.life(node)
	news = (l.tooLarge == nil) != (t == nil)
	l.tooLarge = t
	return news
}

// tooLargeAt is what setTooLarge noted, if it was of this revision or revision is 0.
func (h *hub) tooLargeAt(node string, revision int64) *tooLarge {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.nodes[node]
	if l == nil || l.tooLarge == nil || revision != 0 && l.tooLarge.revision != revision {
		return nil
	}
	return l.tooLarge
}

// withProblems is a node's status with what the server knows of it; nil when nothing is known.
func (h *hub) withProblems(node string, st *api.NodeStatus) *api.NodeStatus {
	var problems []string
	if t := h.tooLargeAt(node, 0); t != nil {
		problems = append(problems, t.problem)
	}
	if st != nil && h.twins(node, st.SeenAt) {
		problems = append(problems, twinsProblem)
	}
	if problems == nil {
		return st
	}
	out := api.NodeStatus{Node: node}
	if st != nil {
		out = *st
	}
	out.Errors = append(problems, out.Errors...)
	return &out
}
