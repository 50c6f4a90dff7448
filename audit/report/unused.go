package report

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/history"
	"github.com/culvert-net/culvert/audit/query"
)

// Permissions are what may be used: as they are now.
type Permissions struct {
	Groups      []api.SecurityGroup
	Services    []api.Service
	Connections []api.Connection
}

// Unused are the rules of security groups, the principals that services allow and the connections by which no flow was let in within the
// query's time. What was made within that time has had less of it, which the report tells where the age is known.
func Unused(ask Ask, q query.Query, have Permissions) (Report, error) {
	q.Where = append(slices.Clone(q.Where), query.Is("action", api.ActionAccept))
	r := Report{Kind: "unused-rules", Since: q.Since, Until: q.Until, Columns: []string{"kind", "id", "of", "what", "made"}}
	rules := q
	rules.Group = []string{"rule-id"}
	used, first, err := hits(ask, rules)
	if err != nil {
		return r, err
	}
	switch {
	case first == 0:
		r.Notes = append(r.Notes, "There are no records of flows that were let in: everything looks unused.")
	case q.Since.IsZero() || first > q.Since.Unix():
		r.Notes = append(r.Notes, "Records of flows that were let in begin at "+unix(first).Format(time.RFC3339)+
			", not at --since: what was used before only looks unused. The server keeps flow records for its retention of flows; ask files "+
			"that are kept longer with --from.")
	default:
		r.Notes = append(r.Notes, "Records of flows that were let in begin at "+unix(first).Format(time.RFC3339)+".")
	}
	for _, g := range have.Groups {
		for direction, list := range map[string][]api.Rule{"ingress": g.Ingress, "egress": g.Egress} {
			for _, rule := range list {
				if !used[rule.ID] {
					r.Rows = append(r.Rows, []any{"rule", rule.ID, label(g.Meta), direction + " " + describe(rule), g.CreatedAt})
				}
			}
		}
	}
	connections := q
	connections.Group = []string{"connection-id"}
	if used, _, err = hits(ask, connections); err != nil {
		return r, err
	}
	byConsumer := map[string]bool{}
	for _, c := range have.Connections {
		if used[c.ID] {
			byConsumer[c.Service+" "+c.EndpointAccount], byConsumer[c.Service+" *"] = true, true
			continue
		}
		if c.State == api.Available {
			r.Rows = append(r.Rows, []any{"connection", c.ID, c.Service, "endpoint " + c.Endpoint + " of account " + c.EndpointAccount, c.CreatedAt})
		}
	}
	for _, s := range have.Services {
		for _, p := range s.AllowedPrincipals {
			if !byConsumer[s.ID+" "+p] {
				r.Rows = append(r.Rows, []any{"grant", s.ID, label(s.Meta), "allows " + p, s.CreatedAt})
			}
		}
	}
	slices.SortFunc(r.Rows, func(a, b []any) int {
		return slices.CompareFunc(a[:4], b[:4], func(x, y any) int { return cmp.Compare(text(x), text(y)) })
	})
	r.Notes = append(r.Notes, "The column made is when the group, service or connection was; a rule or grant may be younger. "+
		"Rules of one group that let in the same are hit by one of them, which may leave the others without a hit.")
	return r, nil
}

// hits are the values of the query's one group that any line has, and when the first of them began.
func hits(ask Ask, q query.Query) (used map[string]bool, first int64, err error) {
	groups, err := grouped(ask, q)
	used = map[string]bool{}
	for _, g := range groups {
		used[g.Key[0]] = true
	}
	return used, oldest(groups), err
}

func label(m api.Meta) string {
	if m.Name != "" {
		return m.Name
	}
	return m.ID
}

// describe a rule as people write it.
func describe(r api.Rule) string {
	out := string(r.Protocol)
	switch {
	case r.Protocol != api.TCP && r.Protocol != api.UDP:
	case r.FromPort == r.ToPort:
		out += fmt.Sprintf(" %d", r.FromPort)
	default:
		out += fmt.Sprintf(" %d-%d", r.FromPort, r.ToPort)
	}
	if r.Group != "" {
		return out + " " + r.Group
	}
	return out + " " + r.CIDR.String()
}

// Decision is what somebody decided on an endpoint connection.
type Decision struct {
	At         time.Time
	Approver   string // API key, or automatic
	Name       string // of the key, where known
	State      api.ConnectionState
	Connection string
	Endpoint   string
	Consumer   string // account
	VPC        string
	Service    string
	Seq        uint64 // of the audit event that tells it, 0 for none
}

// Current are the decisions that the connections that are there tell: the newest of each.
func Current(connections []api.Connection) []Decision {
	var out []Decision
	for _, c := range connections {
		if c.Approver != "" {
			out = append(out, Decision{At: c.DecidedAt, Approver: c.Approver, State: c.State, Connection: c.ID, Endpoint: c.Endpoint,
				Consumer: c.EndpointAccount, VPC: c.EndpointVPC, Service: c.Service})
		}
	}
	return out
}

// Told are the decisions that audit events tell, also on connections that are gone, and those that connections tell of which no event does:
// it is kept no longer, or was none of a server that noted changes.
func Told(events []api.AuditEvent, now []api.Connection) []Decision {
	type key struct {
		connection string
		at         int64
	}
	told := map[key]bool{}
	var out []Decision
	for i := range events {
		e := &events[i]
		for j := range e.Changes {
			c, ok := history.Decided(&e.Changes[j])
			if !ok {
				continue
			}
			d := Current([]api.Connection{*c})
			for k := range d {
				d[k].Seq = e.Seq
				if e.Actor == c.Approver {
					d[k].Name = e.ActorName
				}
			}
			told[key{c.ID, c.DecidedAt.UnixNano()}] = true
			out = append(out, d...)
		}
	}
	for _, d := range Current(now) {
		if !told[key{d.Connection, d.At.UnixNano()}] {
			out = append(out, d)
		}
	}
	return out
}

// Approvals are who let in or refused whom, in order of time.
func Approvals(decisions []Decision, since, until time.Time) Report {
	r := Report{Kind: "approvals", Since: since, Until: until, Columns: []string{"at", "approver", "name", "state", "connection", "endpoint",
		"consumer", "vpc", "service", "event"}}
	decisions = slices.Clone(decisions)
	slices.SortStableFunc(decisions, func(a, b Decision) int { return a.At.Compare(b.At) })
	for _, d := range decisions {
		if !since.IsZero() && d.At.Before(since) || !until.IsZero() && !d.At.Before(until) {
			continue
		}
		event := ""
		if d.Seq > 0 {
			event = fmt.Sprint(d.Seq)
		}
		r.Rows = append(r.Rows, []any{d.At, d.Approver, d.Name, string(d.State), d.Connection, d.Endpoint, d.Consumer, d.VPC, d.Service, event})
	}
	return r
}
