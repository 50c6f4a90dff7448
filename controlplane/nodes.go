package controlplane

import (
	"net/http"
	"slices"

	"github.com/culvert-net/culvert/api"
)

func (s *Server) registerNodes() {
	listing(s, operation{http.MethodGet, "/v1/nodes", "list-nodes", "Nodes, and what they last reported", aUser},
		func(c *call, _ *Watching) (*api.List[api.NodeReport], error) { return listNodes(c), nil })
	reading(s, operation{http.MethodGet, "/v1/nodes/{id}", "get-node", "One node", aUser},
		func(c *call, in *ByID) (*api.NodeReport, error) {
			n, err := c.nodeByRef("id", in.ID)
			if err != nil {
				return nil, err
			}
			return c.nodeReport(n), nil
		})
	for _, o := range []struct {
		event   api.NodeEvent
		summary string
	}{
		{api.NodeEventDrain, "Put no new interfaces on a node"},
		{api.NodeEventUndrain, "Take a drained node back"},
		{api.NodeEventRevoke, "Shut a node out, for good"},
	} {
		writing(s, operation{http.MethodPost, "/v1/nodes/{id}/" + string(o.event), string(o.event) + "-node", o.summary, anAdmin},
			func(c *call, in *Removal) (*api.Node, error) { return moveNode(c, in.ID, o.event) })
	}
	writing(s, operation{http.MethodDelete, "/v1/nodes/{id}", "delete-node", "Forget a revoked node that hosts nothing", anAdmin},
		deleteNode)
}

// nodeByRef finds a node by id or name. Names are unique among nodes that are not revoked, and those go first.
func (c *call) nodeByRef(field, ref string) (*api.Node, error) {
	if n := c.r.Nodes[ref]; n != nil {
		return n, nil
	}
	var revoked []*api.Node
	for _, n := range c.r.Nodes {
		switch {
		case n.Name != ref:
		case n.State != api.NodeRevoked:
			return n, nil
		default:
			revoked = append(revoked, n)
		}
	}
	switch len(revoked) {
	case 0:
		return nil, api.NotFound(api.KindNode, field, ref)
	case 1:
		return revoked[0], nil
	}
	return nil, api.Errorf(api.CodeAmbiguousName, field, "give its id, from GET /v1/nodes",
		"%d revoked nodes have the name %q", len(revoked), ref)
}

// nodeReport is a node as the caller may see it: who is no administrator learns what it needs to place its workloads.
func (c *call) nodeReport(n *api.Node) *api.NodeReport {
	live, status := c.s.hub.get(n.ID, c.now)
	r := &api.NodeReport{Live: live && n.State != api.NodeRevoked}
	if c.who.admin() {
		r.Node, r.Status = *n, c.s.hub.withProblems(n.ID, status)
		return r
	}
	r.Meta = api.Meta{ID: n.ID, Name: n.Name, CreatedAt: n.CreatedAt, Revision: n.Revision}
	r.State = n.State
	return r
}

func listNodes(c *call) *api.List[api.NodeReport] {
	out := &api.List[api.NodeReport]{Items: []api.NodeReport{}, Revision: c.r.Revision}
	for _, n := range c.r.Nodes {
		out.Items = append(out.Items, *c.nodeReport(n))
	}
	slices.SortFunc(out.Items, func(a, b api.NodeReport) int { return inOrder(&a.Meta, &b.Meta) })
	return out
}

func moveNode(c *call, ref string, event api.NodeEvent) (*api.Node, error) {
	old, err := c.nodeByRef("id", ref)
	if err != nil {
		return nil, err
	}
	n := *old
	c.subject = n.ID
	if n.State, err = n.State.Next(event); err != nil {
		return nil, err
	}
	if event == api.NodeEventRevoke && old.State != api.NodeRevoked {
		if err := c.rotateGossip(); err != nil {
			return nil, err
		}
	}
	return &n, put(c, &n, nil, nil)
}

func deleteNode(c *call, in *Removal) (*api.Result, error) {
	n, err := c.nodeByRef("id", in.ID)
	if err != nil {
		return nil, err
	}
	c.subject = n.ID
	if n.State != api.NodeRevoked {
		return nil, api.Errorf(api.CodeIncorrectState, "id", "revoke it first with `culvert node revoke`", "the node %s is %s", n.Name, n.State)
	}
	if err := c.placedOn(n.ID).refuse(api.KindNode, n.ID); err != nil {
		return nil, err
	}
	c.forgetNode(n)
	return &api.Result{}, nil
}

// placedOn are the interfaces that a node has to host.
func (c *call) placedOn(node string) (d dependents) {
	for _, e := range c.r.ENIs {
		if e.Node == node {
			d.add(e.ID, e.Name)
		}
	}
	return d
}

// forgetNode removes a node that hosts nothing; subnets get back what they lent it.
func (c *call) forgetNode(n *api.Node) {
	for id, s := range c.r.Subnets {
		for _, b := range s.Blocks {
			if b.Node == n.ID {
				c.returnBlocks(id)
				break
			}
		}
	}
	c.tx.Remove(n)
}
