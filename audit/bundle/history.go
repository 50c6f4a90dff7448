package bundle

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/report"
)

// history is what the audit log tells of the resources that a bundle may be about.
type history struct {
	o        Options
	changes  []Policy
	accounts map[string]string // names of accounts by id
	known    []api.Service     // that were there at any time, also behind the bundle's
	unread   bool              // the state of some service is too large to be in the log
}

func newHistory(o Options) *history { return &history{o: o, accounts: map[string]string{}} }

// told are the kinds of resources that decide who may reach a service.
var told = []api.Kind{api.KindAccount, api.KindService, api.KindConnection, api.KindSecurityGroup}

func (h *history) take(e *api.AuditEvent) {
	behind := !h.o.To.IsZero() && !e.At.Before(h.o.To)
	for _, c := range e.Changes {
		if !slices.Contains(told, c.Kind) {
			continue
		}
		if c.Kind == api.KindAccount {
			var a api.Account
			if json.Unmarshal(c.After, &a) == nil && a.Name != "" {
				h.accounts[c.ID] = a.Name
			}
			continue
		}
		if c.Kind == api.KindService {
			h.service(&c)
		}
		if behind {
			continue
		}
		h.changes = append(h.changes, Policy{Seq: e.Seq, At: e.At, Actor: e.Actor, Name: e.ActorName, Action: e.Action, Kind: c.Kind, ID: c.ID,
			State: c.After, Hash: c.AfterHash, Before: e.At.Before(h.o.From)})
	}
}

// service notes one that the log knows.
func (h *history) service(c *api.AuditChange) {
	var s api.Service
	if json.Unmarshal(c.After, &s) != nil {
		h.unread = h.unread || c.AfterHash != ""
	}
	s.ID = c.ID
	if !slices.ContainsFunc(h.known, func(k api.Service) bool { return k.ID == s.ID && k.Account == s.Account && k.Name == s.Name }) {
		h.known = append(h.known, s)
	}
}

// knows tells whether a service of that id, or ACCOUNT/NAME, may ever have been there.
func (h *history) knows(ref string) bool {
	return h.unread || slices.ContainsFunc(h.known, func(s api.Service) bool { return s.ID == ref || h.accounts[s.Account]+"/"+s.Name == ref })
}

// asRecorded is a reference as records have it: with the account's name, where its id was given.
func (h *history) asRecorded(ref string) string {
	if account, name, ok := strings.Cut(ref, "/"); ok && h.accounts[account] != "" {
		return h.accounts[account] + "/" + name
	}
	return ref
}

// services are the ids that the bundle is about, and the name of it: ref where it is an id that the log knows, else all services that had
// the name within the bundle's time, of which there are two where one was deleted and made again, and those that records were of. What
// the log does not know stays as it is.
func (h *history) services(ref, name string, recorded map[string]bool) (ids []string, full string) {
	full = name
	gone := map[string]bool{} // before the bundle's time
	named := map[string]bool{}
	for _, c := range h.changes {
		if c.Kind != api.KindService {
			continue
		}
		gone[c.ID] = c.Before && c.removed()
		var s api.Service
		if json.Unmarshal(c.State, &s) != nil || s.Name == "" {
			continue
		}
		known := h.accounts[s.Account] + "/" + s.Name
		if c.ID == ref {
			ids, full = []string{ref}, known
		}
		named[c.ID] = named[c.ID] || known == ref || s.Account+"/"+s.Name == ref
		if len(ids) == 0 && named[c.ID] {
			full = known
		}
	}
	if len(ids) > 0 {
		return ids, full
	}
	for id := range named {
		if named[id] && !gone[id] || recorded[id] {
			ids = append(ids, id)
		}
	}
	for id := range recorded {
		if _, known := named[id]; !known {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return []string{ref}, full
	}
	slices.Sort(ids)
	return ids, full
}

// decisions on the services' connections within the bundle's time, and those in force when it began: the last one on each connection that
// stood then.
func (h *history) decisions(services []string) []report.Decision {
	latest := map[string]report.Decision{}
	var out []report.Decision
	drop := func(connection string) {
		out = slices.DeleteFunc(out, func(d report.Decision) bool { return d.Connection == connection })
	}
	for _, c := range h.changes {
		if c.Kind == api.KindConnection && c.Before && c.removed() {
			drop(c.ID)
		}
		var con api.Connection
		if c.Kind != api.KindConnection || json.Unmarshal(c.State, &con) != nil || !slices.Contains(services, con.Service) || con.Approver == "" {
			continue
		}
		d := report.Decision{At: con.DecidedAt, Approver: con.Approver, State: con.State, Connection: c.ID, Endpoint: con.Endpoint,
			Consumer: con.EndpointAccount, VPC: con.EndpointVPC, Service: con.Service, Seq: c.Seq}
		if c.Actor == con.Approver {
			d.Name = c.Name
		}
		before, again := latest[c.ID]
		if again && before.At.Equal(d.At) && before.Approver == d.Approver {
			continue // something else of it changed
		}
		latest[c.ID] = d
		if c.Before {
			drop(c.ID) // superseded before the time began
		}
		out = append(out, d)
	}
	return out
}

// policies are the changes of the services, of their connections, and of the groups that have a rule which decided on a record, within the
// bundle's time; and of each the state in force when that began.
func (h *history) policies(services []string, rules map[string]bool) []Policy {
	about := map[string]bool{}
	for _, id := range services {
		about[id] = true
	}
	for _, c := range h.changes {
		switch c.Kind {
		case api.KindConnection:
			var con api.Connection
			if json.Unmarshal(c.State, &con) == nil && slices.Contains(services, con.Service) {
				about[c.ID] = true
			}
		case api.KindSecurityGroup:
			var g api.SecurityGroup
			if json.Unmarshal(c.State, &g) == nil && slices.ContainsFunc(slices.Concat(g.Ingress, g.Egress), func(r api.Rule) bool { return rules[r.ID] }) {
				about[c.ID] = true
			}
		}
	}
	last := map[string]int{} // of those before, by id
	out := []Policy{}
	for _, c := range h.changes {
		if !about[c.ID] {
			continue
		}
		if i, again := last[c.ID]; again && c.Before {
			out[i] = c
			continue
		}
		if c.Before {
			last[c.ID] = len(out)
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b Policy) int { return a.At.Compare(b.At) })
	return out
}

// removed reports whether the resource is gone from then on.
func (p Policy) removed() bool { return len(p.State) == 0 && p.Hash == "" }

func decode(p Policy, v any) bool { return json.Unmarshal(p.State, v) == nil }
