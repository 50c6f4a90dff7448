package controlplane

import (
	"cmp"
	"net/http"
	"net/netip"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/alloc"
)

func (s *Server) registerENIs() {
	writing(s, operation{http.MethodPost, "/v1/enis", "create-eni", "Make a workload's network interface", aUser}, createENI)
	listing(s, operation{http.MethodGet, "/v1/enis", "list-enis", "Network interfaces", aUser},
		func(c *call, in *inVPC) (*api.List[api.ENI], error) {
			vpc, err := c.vpcFilter(in.VPC)
			if err != nil {
				return nil, err
			}
			out := list(c, c.r.ENIs, func(e *api.ENI) bool { return vpc == "" || e.VPC == vpc })
			s.hub.mark(out.Items)
			return out, nil
		})
	reading(s, operation{http.MethodGet, "/v1/enis/{id}", "get-eni", "One network interface", aUser},
		func(c *call, in *ByID) (*api.ENI, error) {
			e, err := find(c, c.r.ENIs, api.KindENI, "id", in.ID, nil)
			if err != nil {
				return nil, err
			}
			n := *e
			n.Attached = s.hub.attached(e.Node, e.ID)
			return &n, nil
		})
	writing(s, operation{http.MethodPatch, "/v1/enis/{id}", "modify-eni", "Change groups, families of addresses, or the node it is bound to", aUser}, modifyENI)
	writing(s, operation{http.MethodDelete, "/v1/enis/{id}", "delete-eni", "Remove a workload's network interface", aUser}, deleteENI)
}

// addresses is what the allocator needs to know of a subnet.
func (c *call) addresses(s *api.Subnet) *alloc.Subnet {
	a := &alloc.Subnet{CIDR: s.CIDR, Blocks: s.Blocks, Used: map[netip.Addr]bool{}}
	for _, e := range c.r.ENIs {
		if e.Subnet == s.ID {
			a.Used[e.Address] = true
		}
	}
	return a
}

// newENI makes an interface with an address: the chosen one, or one from the node's block, or a single one. A block that
// is lent for it is written to the subnet.
func (c *call) newENI(s *api.Subnet, e *api.ENI) error {
	if err := limit(c.r.ENIs, api.MaxENIsPerVPC, "network interfaces in the VPC",
		func(o *api.ENI) bool { return o.VPC == s.VPC }); err != nil {
		return err
	}
	e.VPC, e.Subnet = s.VPC, s.ID
	e.IPAddressType = cmp.Or(e.IPAddressType, api.IPv4Only)
	var err error
	if e.Number, err = c.tx.Number(api.KindENI); err != nil {
		return err
	}
	a := c.addresses(s)
	var block *api.Block
	switch {
	case e.Address.IsValid():
		err = a.Check(e.Address)
	case e.Node != "":
		e.Address, block, err = a.ForNode(e.Node)
	default:
		e.Address, err = a.Single()
	}
	if err != nil {
		return err
	}
	if block != nil {
		a.Take(e.Address, block)
		n := *c.r.Subnets[s.ID]
		n.Blocks = a.Blocks
		c.tx.Put(&n)
	}
	c.setIPv6(e)
	return put(c, e, c.r.ENIs, func(o *api.ENI) bool { return o.VPC == e.VPC })
}

// setIPv6 gives an interface the IPv6 address that its type says it has, or none.
func (c *call) setIPv6(e *api.ENI) {
	e.IPv6Address = netip.Addr{}
	if e.IPAddressType.HasIPv6() {
		e.IPv6Address = api.IPv6Address(c.r.Mesh.Number, c.r.VPCs[e.VPC].Number, e.Address)
	}
}

// returnBlocks takes back the blocks of a subnet in which their node hosts nothing any more.
func (c *call) returnBlocks(subnet string) {
	s := c.r.Subnets[subnet]
	hosts := map[netip.Addr]string{}
	for _, e := range c.r.ENIs {
		if e.Subnet == subnet && e.Node != "" {
			hosts[e.Address] = e.Node
		}
	}
	if kept := alloc.Busy(s.Blocks, hosts); len(kept) != len(s.Blocks) {
		n := *s
		n.Blocks = kept
		c.tx.Put(&n)
	}
}

// nodeForWork finds a node that takes new workloads. Nodes belong to nobody: every account may use them.
func (c *call) nodeForWork(ref string) (*api.Node, error) {
	n, err := c.nodeByRef("nodeId", ref)
	if err != nil {
		return nil, err
	}
	if n.State != api.NodeReady {
		return nil, api.Errorf(api.CodeIncorrectState, "nodeId", "choose a node that is Ready", "the node %s is %s", n.Name, n.State)
	}
	return n, nil
}

func createENI(c *call, in *creation[api.CreateENIRequest]) (*api.ENI, error) {
	s, err := find(c, c.r.Subnets, api.KindSubnet, "subnetId", in.Body.Subnet, nil)
	if err != nil {
		return nil, err
	}
	groups, err := c.groups(s.VPC, in.Body.SecurityGroups)
	if err != nil {
		return nil, err
	}
	e := &api.ENI{Meta: c.meta(api.KindENI, s.Account, in.Body.Name, in.Body.Tags), Type: api.ENIWorkload,
		Address: in.Body.Address, IPAddressType: in.Body.IPAddressType, SecurityGroups: groups}
	if in.Body.Node != "" {
		n, err := c.nodeForWork(in.Body.Node)
		if err != nil {
			return nil, err
		}
		e.Node = n.ID
	}
	if err := c.newENI(s, e); err != nil {
		return nil, err
	}
	if err := c.registerTagged(e); err != nil {
		return nil, err
	}
	return e, c.roomForENI(e)
}

// workload finds an interface that the user manages itself.
func (c *call) workload(ref string) (*api.ENI, error) {
	e, err := find(c, c.r.ENIs, api.KindENI, "id", ref, nil)
	if err != nil {
		return nil, err
	}
	c.subject = e.ID
	if e.Type != api.ENIWorkload {
		return nil, api.Errorf(api.CodeENIInUse, "id", "change or delete that instead", "the network interface %s belongs to %s", e.ID, e.Owner)
	}
	return e, nil
}

// inUse refuses while a live node has the interface attached.
func (c *call) inUse(e *api.ENI) error {
	live, _ := c.s.hub.get(e.Node, c.now)
	if n := c.r.Nodes[e.Node]; n != nil && n.State != api.NodeRevoked && live && c.s.hub.attached(e.Node, e.ID) {
		return api.Errorf(api.CodeENIInUse, "id", "detach it there with `culvert eni detach`",
			"the network interface %s is attached on the node %s", e.ID, n.Name)
	}
	return nil
}

func modifyENI(c *call, in *change[api.ModifyENIRequest]) (*api.ENI, error) {
	old, err := c.workload(in.ID)
	if err != nil {
		return nil, err
	}
	e := *old
	if in.Body.SecurityGroups != nil {
		if e.SecurityGroups, err = c.groups(e.VPC, *in.Body.SecurityGroups); err != nil {
			return nil, err
		}
	}
	if in.Body.IPAddressType != nil {
		e.IPAddressType = cmp.Or(*in.Body.IPAddressType, api.IPv4Only)
		c.setIPv6(&e)
	}
	if in.Body.Node != nil {
		e.Node = ""
		if *in.Body.Node != "" {
			n, err := c.nodeByRef("nodeId", *in.Body.Node)
			if err == nil && n.ID != old.Node {
				n, err = c.nodeForWork(n.ID)
			}
			if err != nil {
				return nil, err
			}
			e.Node = n.ID
		}
		if e.Node != old.Node {
			if err := c.inUse(old); err != nil {
				return nil, err
			}
		}
	}
	if err := put(c, &e, nil, nil); err != nil {
		return nil, err
	}
	if e.Node != old.Node {
		if err := c.roomForENI(&e); err != nil {
			return nil, err
		}
	}
	c.returnBlocks(e.Subnet)
	return &e, nil
}

func deleteENI(c *call, in *Removal) (*api.Result, error) {
	e, err := c.workload(in.ID)
	if err != nil {
		return nil, err
	}
	var d dependents
	for _, g := range c.r.TargetGroups {
		for _, t := range g.Targets {
			if t.ENI == e.ID {
				d.add(g.ID, g.Name)
			}
		}
	}
	if err := d.refuse(api.KindENI, e.ID); err != nil {
		return nil, err
	}
	if err := c.inUse(e); err != nil {
		return nil, err
	}
	if err := c.forgetDraining(e.ID); err != nil {
		return nil, err
	}
	c.tx.Remove(e)
	c.returnBlocks(e.Subnet)
	return &api.Result{}, nil
}
