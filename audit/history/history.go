// Package history tells from audit events how resources were at some time, and who made them so. It is pure: events come from the
// server's store or from a copy of its log.
package history

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
)

// fact is what one event says of one resource.
type fact struct {
	event  api.AuditEvent // without changes
	change api.AuditChange
}

func factOf(e *api.AuditEvent, c *api.AuditChange) *fact {
	f := &fact{event: *e, change: *c}
	f.event.Changes = nil
	return f
}

// State is what events up to some time say of one resource. The zero value has heard of none.
type State struct {
	last, decision *fact
}

// Known reports whether an event told of the resource.
func (s *State) Known() bool { return s != nil && s.last != nil }

// Account is the resource's owner.
func (s *State) Account() string {
	if !s.Known() {
		return ""
	}
	if s.last.change.Kind == api.KindAccount {
		return s.last.change.ID
	}
	return s.last.change.Account
}

// Newer takes what an event says that is newer than all before.
func (s *State) Newer(e *api.AuditEvent, c *api.AuditChange) {
	s.last = factOf(e, c)
	if decides(c) {
		s.decision = s.last
	}
}

// Older takes what an event says that is older than all before, and reports whether a still older one can tell nothing more.
func (s *State) Older(e *api.AuditEvent, c *api.AuditChange) (complete bool) {
	if s.last == nil {
		s.last = factOf(e, c)
	}
	if s.decision == nil && decides(c) {
		s.decision = factOf(e, c)
	}
	return s.decision != nil || c.Kind != api.KindConnection
}

func decides(c *api.AuditChange) bool {
	_, ok := Decided(c)
	return ok
}

// Decided is a connection as it was when the change was that somebody accepted or rejected it, or time did.
func Decided(c *api.AuditChange) (*api.Connection, bool) {
	if c.Kind != api.KindConnection || c.After == nil {
		return nil, false
	}
	var before, after api.Connection
	was, err := c.Was()
	if err != nil || json.Unmarshal(c.After, &after) != nil || was != nil && json.Unmarshal(was, &before) != nil {
		return nil, false
	}
	return &after, !after.DecidedAt.IsZero() && !after.DecidedAt.Equal(before.DecidedAt)
}

// Book has the states of all resources of which the events told that were added.
type Book map[string]*State

// Add takes an event that is newer than all before, unless it is of a later time than asked for.
func (b Book) Add(e *api.AuditEvent, at time.Time) {
	if e.At.After(at) {
		return
	}
	for i := range e.Changes {
		c := &e.Changes[i]
		if b[c.ID] == nil {
			b[c.ID] = &State{}
		}
		b[c.ID].Newer(e, c)
	}
}

// Look is for Show.
func (b Book) Look(id string) (*State, error) { return b[id], nil }

// Show tells how a resource was, and what decided over it: of an endpoint connection its endpoint and service, of an endpoint, load
// balancer or interface the security groups, of a load balancer the target groups. Look gives the state of a resource at the time
// asked for, and nil for one that the caller may not know of. Nil: the events tell nothing of the resource.
func Show(id string, at time.Time, look func(id string) (*State, error)) (*api.AuditedState, error) {
	s, err := look(id)
	if err != nil || !s.Known() {
		return nil, err
	}
	out := &api.AuditedState{At: at, Resource: s.resource(), Related: []api.AuditedResource{}}
	seen := map[string]bool{id: true}
	for queue := related(&out.Resource, true); len(queue) > 0; queue = queue[1:] {
		next := queue[0]
		if seen[next] {
			continue
		}
		seen[next] = true
		s, err := look(next)
		if err != nil {
			return nil, err
		}
		if !s.Known() {
			continue
		}
		r := s.resource()
		out.Related = append(out.Related, r)
		queue = append(queue, related(&r, false)...)
	}
	return out, nil
}

func (s *State) resource() api.AuditedResource {
	c := &s.last.change
	r := api.AuditedResource{Kind: c.Kind, ID: c.ID, Account: c.Account, Exists: true, State: c.After, Hash: c.AfterHash,
		Event: s.last.event}
	if c.After == nil && c.AfterHash == "" {
		r.Exists, r.State, r.Hash = false, c.Before, c.BeforeHash
	}
	if r.Hash != "" {
		r.Cut = c.Cut
	}
	if s.decision != nil {
		r.Decision = &s.decision.event
	}
	return r
}

// related are the ids of what decides over a resource; first: it is the one that was asked for.
func related(r *api.AuditedResource, first bool) []string {
	res := api.NewResource(r.Kind)
	if res == nil || r.State == nil || json.Unmarshal(r.State, res) != nil {
		return nil
	}
	switch v := res.(type) {
	case *api.Connection:
		return []string{v.Service, v.Endpoint, v.LoadBalancer}
	case *api.Endpoint:
		return append([]string{v.Connection}, v.SecurityGroups...)
	case *api.LoadBalancer:
		ids := slices.Clone(v.SecurityGroups)
		for _, l := range v.Listeners {
			ids = append(ids, l.TargetGroup)
		}
		return ids
	case *api.Service:
		if first { // a connection has one of them
			return v.LoadBalancers
		}
	case *api.ENI:
		return append(slices.Clone(v.SecurityGroups), v.Owner)
	}
	return nil
}
