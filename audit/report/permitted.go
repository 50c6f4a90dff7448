package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
)

// Permissions are what may be used, and could be.
type Permissions struct {
	// As they are now.
	Groups      []api.SecurityGroup
	Services    []api.Service
	Connections []api.Connection
	// Events are those of the audit log since some time, oldest first: they tell what there was besides, and when it was made and removed.
	Events []api.AuditEvent
	// Begin is when Events begin, where that is later than what was asked for; zero: it is not.
	Begin time.Time
}

// permission is one rule, connection or grant.
type permission struct {
	kind, id, of, what string
	// made is when, where an event tells it; else when the group, service or connection was made.
	made    time.Time
	removed time.Time // zero: it is there
	account string    // that a grant is for, or "*"
}

// key tells permissions apart: a service has many grants.
func (p *permission) key() string {
	if p.kind == "grant" {
		return grantKey(p.id, p.account)
	}
	return p.kind + " " + p.id
}

func grantKey(service, account string) string { return "grant " + service + " " + account }

// permitted are permissions by their keys, as they were.
type permitted struct {
	by map[string]*permission
	// consumers are the accounts of connections, by service, that are there or were.
	consumers map[string]consumer
	unread    int // changes whose resources are too large for an event
}

// consumer is whose connection it is, and to what.
type consumer struct{ service, account string }

// over are the permissions that there are, and those that events tell of.
func (have *Permissions) over() *permitted {
	p := &permitted{by: map[string]*permission{}, consumers: map[string]consumer{}}
	for i := range have.Events {
		e := &have.Events[i]
		for j := range e.Changes {
			p.change(e.At, &e.Changes[j])
		}
	}
	there := map[string]bool{}
	for _, x := range p.now(have) {
		there[x.key()] = true
		if was := p.by[x.key()]; was == nil {
			p.by[x.key()] = &x
		} else {
			was.of, was.removed = x.of, time.Time{}
		}
	}
	return p
}

// now are those that there are.
func (p *permitted) now(have *Permissions) (list []permission) {
	for i := range have.Groups {
		list = append(list, p.of(&have.Groups[i])...)
	}
	for i := range have.Services {
		list = append(list, p.of(&have.Services[i])...)
	}
	for i := range have.Connections {
		list = append(list, p.of(&have.Connections[i])...)
	}
	return list
}

// of are the permissions that a resource is.
func (p *permitted) of(r api.Resource) (list []permission) {
	switch v := r.(type) {
	case *api.SecurityGroup:
		for direction, rules := range map[string][]api.Rule{"ingress": v.Ingress, "egress": v.Egress} {
			for _, rule := range rules {
				list = append(list, permission{kind: "rule", id: rule.ID, of: label(v.Meta), what: direction + " " + describe(rule), made: v.CreatedAt})
			}
		}
	case *api.Service:
		for _, account := range v.AllowedPrincipals {
			list = append(list, permission{kind: "grant", id: v.ID, of: label(v.Meta), what: "allows " + account, made: v.CreatedAt,
				account: account})
		}
	case *api.Connection:
		p.consumers[v.ID] = consumer{v.Service, v.EndpointAccount}
		if v.State == api.Available {
			list = append(list, permission{kind: "connection", id: v.ID, of: v.Service, what: "endpoint " + v.Endpoint + " of account " + v.EndpointAccount,
				made: v.CreatedAt})
		}
	}
	return list
}

// change takes what an event tells of a resource, which is newer than all before.
func (p *permitted) change(at time.Time, c *api.AuditChange) {
	if c.Kind != api.KindSecurityGroup && c.Kind != api.KindService && c.Kind != api.KindConnection {
		return
	}
	before, after := api.NewResource(c.Kind), api.NewResource(c.Kind)
	was, err := c.Was()
	if err != nil || c.BeforeHash != "" || c.AfterHash != "" || was != nil && json.Unmarshal(was, before) != nil ||
		c.After != nil && json.Unmarshal(c.After, after) != nil {
		p.unread++
		return
	}
	gone := map[string]*permission{}
	if was != nil {
		for _, x := range p.of(before) {
			if p.by[x.key()] == nil {
				p.by[x.key()] = &x
			}
			gone[x.key()] = p.by[x.key()]
		}
	}
	if c.After != nil {
		for _, x := range p.of(after) {
			key := x.key()
			switch known := p.by[key]; {
			case gone[key] != nil:
			case known != nil:
				known.removed = time.Time{} // it was made again
			default:
				x.made = at
				p.by[key] = &x
			}
			delete(gone, key)
		}
	}
	for _, x := range gone {
		x.removed = at
	}
}

// within are those that there were at some moment of a time, sorted; zero: without bound.
func (p *permitted) within(since, until time.Time) []*permission {
	list := slices.DeleteFunc(slices.Collect(maps.Values(p.by)), func(x *permission) bool {
		return !x.removed.IsZero() && !since.IsZero() && x.removed.Before(since) || !until.IsZero() && !x.made.Before(until)
	})
	slices.SortFunc(list, func(a, b *permission) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.id, b.id), cmp.Compare(a.of, b.of), cmp.Compare(a.what, b.what))
	})
	return list
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
