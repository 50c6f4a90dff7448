package controlplane

import (
	"slices"

	"github.com/culvert-net/culvert/api"
)

// setCaps gives a connection caps of its own, made of those in force for it; nil: it has the service's again.
func setCaps(s *api.Service, con *api.Connection, r *api.CapsRequest) {
	own := r.Over(api.CapsOf(s, con))
	if con.Caps = &own; r == nil {
		con.Caps = nil
	}
}

// modifyConnections changes connections of a service, all of them or none.
func modifyConnections(c *call, in *change[api.ModifyConnectionsRequest]) (*api.List[api.Connection], error) {
	s, err := c.service(in.ID)
	if err != nil {
		return nil, err
	}
	c.subject = s.ID
	if err := atMost("endpointIds", len(in.Body.Endpoints)); err != nil {
		return nil, err
	}
	out := &api.List[api.Connection]{Items: []api.Connection{}}
	for _, ref := range in.Body.Endpoints {
		old, err := c.connection(s, ref)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out.Items, func(o api.Connection) bool { return o.ID == old.ID }) {
			continue
		}
		con := *old
		setCaps(s, &con, in.Body.Caps)
		if err := put(c, &con, nil, nil); err != nil {
			return nil, err
		}
		out.Items = append(out.Items, con)
	}
	if len(out.Items) == 1 {
		c.subject = out.Items[0].ID
	}
	return out, nil
}
