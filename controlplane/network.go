package controlplane

import (
	"net/http"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
)

type inVPC struct {
	Watching
	VPC string `query:"vpc" doc:"Only those of this VPC, id or name"`
}

// vpcFilter resolves a list's filter; "" means all.
func (c *call) vpcFilter(ref string) (string, error) {
	if ref == "" {
		return "", nil
	}
	v, err := find(c, c.r.VPCs, api.KindVPC, "vpc", ref, nil)
	if err != nil {
		return "", err
	}
	return v.ID, nil
}

func (s *Server) registerNetwork() {
	writing(s, operation{http.MethodPost, "/v1/vpcs", "create-vpc", "Make a VPC with its default security group", aUser}, createVPC)
	listing(s, operation{http.MethodGet, "/v1/vpcs", "list-vpcs", "VPCs", aUser},
		func(c *call, _ *Watching) (*api.List[api.VPC], error) { return list(c, c.r.VPCs, nil), nil })
	reading(s, operation{http.MethodGet, "/v1/vpcs/{id}", "get-vpc", "One VPC", aUser},
		func(c *call, in *ByID) (*api.VPC, error) { return find(c, c.r.VPCs, api.KindVPC, "id", in.ID, nil) })
	writing(s, operation{http.MethodPatch, "/v1/vpcs/{id}", "modify-vpc", "Change a VPC's DNS forwarders", aUser}, modifyVPC)
	writing(s, operation{http.MethodDelete, "/v1/vpcs/{id}", "delete-vpc", "Remove an empty VPC", aUser}, deleteVPC)
	writing(s, operation{http.MethodPost, "/v1/subnets", "create-subnet", "Make a subnet in a VPC and zone", aUser}, createSubnet)
	listing(s, operation{http.MethodGet, "/v1/subnets", "list-subnets", "Subnets", aUser},
		func(c *call, in *inVPC) (*api.List[api.Subnet], error) {
			vpc, err := c.vpcFilter(in.VPC)
			return list(c, c.r.Subnets, func(s *api.Subnet) bool { return vpc == "" || s.VPC == vpc }), err
		})
	reading(s, operation{http.MethodGet, "/v1/subnets/{id}", "get-subnet", "One subnet", aUser},
		func(c *call, in *ByID) (*api.Subnet, error) {
			return find(c, c.r.Subnets, api.KindSubnet, "id", in.ID, nil)
		})
	writing(s, operation{http.MethodDelete, "/v1/subnets/{id}", "delete-subnet", "Remove an empty subnet", aUser}, deleteSubnet)
}

func createVPC(c *call, in *creation[api.CreateVPCRequest]) (*api.VPC, error) {
	account, err := c.owner()
	if err != nil {
		return nil, err
	}
	if err := limit(c.r.VPCs, api.MaxVPCsPerAccount, "VPCs", func(v *api.VPC) bool { return v.Account == account }); err != nil {
		return nil, err
	}
	v := &api.VPC{CIDR: in.Body.CIDR, Forwarders: in.Body.Forwarders, PlainForwarders: in.Body.PlainForwarders}
	if v.Number, err = c.tx.Number(api.KindVPC); err != nil {
		return nil, err
	}
	g := &api.SecurityGroup{Meta: c.meta(api.KindSecurityGroup, account, "default", nil), Default: true}
	v.Meta = c.meta(api.KindVPC, account, in.Body.Name, in.Body.Tags)
	g.VPC = v.ID
	g.Ingress = []api.Rule{{ID: newID(api.PrefixRule), Protocol: api.All, Group: g.ID}}
	g.Egress = everythingOut()
	v.IPv6CIDRBlock = api.VPCIPv6Block(c.r.Mesh.Number, v.Number)
	if err := put(c, v, c.r.VPCs, nil); err != nil {
		return nil, err
	}
	if err := c.checkForwarders(forwarding{}, forwarding{v.Forwarders, v.PlainForwarders}, []*api.VPC{v}); err != nil {
		return nil, err
	}
	return v, c.putGroup(g)
}

// everythingOut lets everything out, in either family.
func everythingOut() []api.Rule {
	return []api.Rule{
		{ID: newID(api.PrefixRule), Protocol: api.All, CIDR: netip.PrefixFrom(netip.IPv4Unspecified(), 0)},
		{ID: newID(api.PrefixRule), Protocol: api.All, CIDR: netip.PrefixFrom(netip.IPv6Unspecified(), 0)},
	}
}

func modifyVPC(c *call, in *change[api.ModifyVPCRequest]) (*api.VPC, error) {
	old, err := find(c, c.r.VPCs, api.KindVPC, "id", in.ID, nil)
	if err != nil {
		return nil, err
	}
	v := *old
	c.subject = v.ID
	if in.Body.Forwarders != nil {
		v.Forwarders = *in.Body.Forwarders
	}
	if in.Body.PlainForwarders != nil {
		v.PlainForwarders = *in.Body.PlainForwarders
	}
	if err := put(c, &v, c.r.VPCs, nil); err != nil {
		return nil, err
	}
	return &v, c.checkForwarders(forwarding{old.Forwarders, old.PlainForwarders}, forwarding{v.Forwarders, v.PlainForwarders},
		[]*api.VPC{&v})
}

func deleteVPC(c *call, in *Removal) (*api.Result, error) {
	v, err := find(c, c.r.VPCs, api.KindVPC, "id", in.ID, nil)
	if err != nil {
		return nil, err
	}
	c.subject = v.ID
	var d dependents
	for _, s := range c.r.Subnets {
		if s.VPC == v.ID {
			d.add(s.ID, s.Name)
		}
	}
	for _, g := range c.r.SecurityGroups {
		if g.VPC == v.ID && !g.Default {
			d.add(g.ID, g.Name)
		}
	}
	for _, g := range c.r.TargetGroups {
		if g.VPC == v.ID {
			d.add(g.ID, g.Name)
		}
	}
	for _, b := range c.r.LoadBalancers {
		if b.VPC == v.ID {
			d.add(b.ID, b.Name)
		}
	}
	for _, p := range c.r.Endpoints {
		if p.VPC == v.ID {
			d.add(p.ID, p.Name)
		}
	}
	if err := d.refuse(api.KindVPC, v.ID); err != nil {
		return nil, err
	}
	for _, g := range c.r.SecurityGroups {
		if g.VPC == v.ID {
			c.tx.Remove(g)
		}
	}
	if err := c.forgetVPC(v.ID); err != nil {
		return nil, err
	}
	c.tx.SetLastTag(v.ID, 0)
	c.tx.Remove(v)
	return &api.Result{}, nil
}

func createSubnet(c *call, in *creation[api.CreateSubnetRequest]) (*api.Subnet, error) {
	v, err := find(c, c.r.VPCs, api.KindVPC, "vpcId", in.Body.VPC, nil)
	if err != nil {
		return nil, err
	}
	inSame := func(s *api.Subnet) bool { return s.VPC == v.ID }
	if err := limit(c.r.Subnets, api.MaxSubnetsPerVPC, "subnets in the VPC", inSame); err != nil {
		return nil, err
	}
	s := &api.Subnet{Meta: c.meta(api.KindSubnet, v.Account, in.Body.Name, in.Body.Tags), VPC: v.ID, CIDR: in.Body.CIDR,
		Zone: in.Body.Zone}
	if s.CIDR.IsValid() && s.CIDR.Addr().Is4() {
		s.IPv6CIDRBlock = api.IPv6Block(c.r.Mesh.Number, v.Number, s.CIDR)
	}
	if err := put(c, s, c.r.Subnets, inSame); err != nil {
		return nil, err
	}
	if !v.CIDR.Contains(s.CIDR.Addr()) || s.CIDR.Bits() < v.CIDR.Bits() {
		return nil, api.Errorf(api.CodeSubnetRange, "cidr", "choose a part of the VPC's range", "%s is not within the VPC's %s", s.CIDR, v.CIDR)
	}
	for _, o := range c.r.Subnets {
		if o.VPC == v.ID && o.ID != s.ID && o.CIDR.Overlaps(s.CIDR) {
			return nil, api.Errorf(api.CodeSubnetConflict, "cidr", "choose a range that is free", "%s overlaps the subnet %s (%s)",
				s.CIDR, o.ID, o.CIDR)
		}
	}
	return s, nil
}

func deleteSubnet(c *call, in *Removal) (*api.Result, error) {
	s, err := find(c, c.r.Subnets, api.KindSubnet, "id", in.ID, nil)
	if err != nil {
		return nil, err
	}
	c.subject = s.ID
	var d dependents
	for _, e := range c.r.ENIs {
		if e.Subnet == s.ID {
			d.add(e.ID, e.Name)
		}
	}
	for _, b := range c.r.LoadBalancers {
		if slices.Contains(b.Subnets, s.ID) {
			d.add(b.ID, b.Name)
		}
	}
	for _, p := range c.r.Endpoints {
		if slices.Contains(p.Subnets, s.ID) {
			d.add(p.ID, p.Name)
		}
	}
	if err := d.refuse(api.KindSubnet, s.ID); err != nil {
		return nil, err
	}
	c.tx.Remove(s)
	return &api.Result{}, nil
}
