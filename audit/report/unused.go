package report

import (
	"fmt"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/history"
	"github.com/culvert-net/culvert/audit/query"
)

// Unused are the rules of security groups, the principals that services allowed and the connections that there were at some moment of the
// query's time, and by which no flow was let in within it; all: the others too, with what they let in. What was made within that time, or
// removed, has had less of it, which the report tells.
func Unused(ask Ask, q query.Query, have Permissions, all bool) (Report, error) {
	q.Where = append(slices.Clone(q.Where), query.Is("action", api.ActionAccept))
	r := Report{Kind: "unused-rules", Since: q.Since, Until: q.Until, Columns: []string{"kind", "id", "of", "what", "made", "removed"}}
	if all {
		r.Columns = append(r.Columns, "packets", "bytes", "last")
	}
	p := have.over()
	used, first, err := p.hits(ask, q)
	if err != nil {
		return r, err
	}
	for _, x := range p.within(q.Since, q.Until) {
		row := []any{x.kind, x.id, x.of, x.what, x.made, x.removed}
		sums, hit := used[x.key()]
		switch {
		case all:
			r.Rows = append(r.Rows, append(row, sums.Packets, sums.Bytes, unix(sums.Last)))
		case !hit:
			r.Rows = append(r.Rows, row)
		}
	}
	r.Notes = append(r.Notes, p.notes(&have, q.Since, first)...)
	return r, nil
}

// hits are what flows tell of permissions, by these keys, and when the first line of them began.
func (p *permitted) hits(ask Ask, q query.Query) (used map[string]query.Sums, first int64, err error) {
	used = map[string]query.Sums{}
	sum := func(key string, s query.Sums) {
		o := used[key]
		used[key] = query.Sums{Packets: o.Packets + s.Packets, Bytes: o.Bytes + s.Bytes, Last: max(o.Last, s.Last)}
	}
	for _, kind := range []string{"rule", "connection"} {
		q.Group = []string{kind + "-id"}
		groups, err := grouped(ask, q)
		if err != nil {
			return nil, 0, err
		}
		if kind == "rule" {
			first = oldest(groups)
		}
		for _, g := range groups {
			sum(kind+" "+g.Key[0], g.Sums)
			if c, have := p.consumers[g.Key[0]]; have && kind == "connection" {
				sum(grantKey(c.service, c.account), g.Sums)
				sum(grantKey(c.service, "*"), g.Sums)
			}
		}
	}
	return used, first, nil
}

// notes are what a reader has to know; first is when the first line of flows that were let in began, in Unix seconds, 0 for none.
func (p *permitted) notes(have *Permissions, since time.Time, first int64) (notes []string) {
	switch {
	case first == 0:
		notes = append(notes, "There are no records of flows that were let in: everything looks unused.")
	case since.IsZero() || first > since.Unix():
		notes = append(notes, "Records of flows that were let in begin at "+unix(first).Format(time.RFC3339)+
			", not at --since: what was used before only looks unused. The server keeps flow records for its retention of flows; ask files "+
			"that are kept longer with --from.")
	default:
		notes = append(notes, "Records of flows that were let in begin at "+unix(first).Format(time.RFC3339)+".")
	}
	if !have.Begin.IsZero() {
		notes = append(notes, "Audit events are read from "+have.Begin.UTC().Format(time.RFC3339)+
			" on, for there are too many: what was removed before is not here.")
	}
	if p.unread > 0 {
		notes = append(notes, fmt.Sprintf("%d changes of groups, services and connections are too large to stand in the audit log: "+
			"what they removed may not be here.", p.unread))
	}
	return append(notes, "The columns made and removed are from audit events, as long as they are kept; where none tells it, made is when the group, "+
		"service or connection was: a rule or grant may be younger. Rules of one group that let in the same are hit by one of them, which may "+
		"leave the others without a hit.")
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
