package controlplane

import (
	"cmp"
	"net/http"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
)

func (s *Server) registerGroups() {
	writing(s, operation{http.MethodPost, "/v1/security-groups", "create-security-group", "Make a security group", aUser}, createGroup)
	listing(s, operation{http.MethodGet, "/v1/security-groups", "list-security-groups", "Security groups", aUser},
		func(c *call, in *inVPC) (*api.List[api.SecurityGroup], error) {
			vpc, err := c.vpcFilter(in.VPC)
			return list(c, c.r.SecurityGroups, func(g *api.SecurityGroup) bool { return vpc == "" || g.VPC == vpc }), err
		})
	reading(s, operation{http.MethodGet, "/v1/security-groups/{id}", "get-security-group", "One security group", aUser},
		func(c *call, in *ByID) (*api.SecurityGroup, error) { return c.group("id", in.ID, "") })
	writing(s, operation{http.MethodDelete, "/v1/security-groups/{id}", "delete-security-group", "Remove an unused security group", aUser},
		deleteGroup)
	writing(s, operation{http.MethodPost, "/v1/security-groups/{id}/ingress", "authorize-ingress", "Let more in", aUser},
		func(c *call, in *change[api.RulesRequest]) (*api.SecurityGroup, error) { return authorize(c, in, true) })
	writing(s, operation{http.MethodPost, "/v1/security-groups/{id}/egress", "authorize-egress", "Let more out", aUser},
		func(c *call, in *change[api.RulesRequest]) (*api.SecurityGroup, error) {
			return authorize(c, in, false)
		})
	writing(s, operation{http.MethodDelete, "/v1/security-groups/{id}/rules/{rule}", "revoke-rule", "Remove a rule", aUser}, revokeRule)
}

// group finds a security group; vpc, unless empty, is where it must be.
func (c *call) group(field, ref, vpc string) (*api.SecurityGroup, error) {
	in := func(g *api.SecurityGroup) bool { return vpc == "" || g.VPC == vpc }
	g, err := find(c, c.r.SecurityGroups, api.KindSecurityGroup, field, ref, in)
	if err == nil && !in(g) {
		return nil, api.Errorf(api.CodeInvalidParameter, field, "name a group of the same VPC",
			"the security group %s is in the VPC %s, not in %s", g.ID, g.VPC, vpc)
	}
	return g, err
}

// groups resolves the groups of an interface; none means the VPC's default group.
func (c *call) groups(vpc string, refs []string) ([]string, error) {
	var ids []string
	for _, ref := range refs {
		g, err := c.group("securityGroupIds", ref, vpc)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(ids, g.ID) {
			ids = append(ids, g.ID)
		}
	}
	if len(refs) > 0 {
		return ids, nil
	}
	for _, g := range c.r.SecurityGroups {
		if g.VPC == vpc && g.Default {
			return []string{g.ID}, nil
		}
	}
	return nil, api.Errorf(api.CodeMissingParameter, "securityGroupIds", "name a security group", "the VPC %s has no default group", vpc)
}

// putGroup writes a group, numbering it if it is new.
func (c *call) putGroup(g *api.SecurityGroup) (err error) {
	if g.Number == 0 {
		if g.Number, err = c.tx.Number(api.KindSecurityGroup); err != nil {
			return err
		}
	}
	return put(c, g, c.r.SecurityGroups, func(o *api.SecurityGroup) bool { return o.VPC == g.VPC })
}

func createGroup(c *call, in *creation[api.CreateSecurityGroupRequest]) (*api.SecurityGroup, error) {
	v, err := find(c, c.r.VPCs, api.KindVPC, "vpcId", in.Body.VPC, nil)
	if err != nil {
		return nil, err
	}
	if err := limit(c.r.SecurityGroups, api.MaxGroupsPerVPC, "security groups in the VPC",
		func(g *api.SecurityGroup) bool { return g.VPC == v.ID }); err != nil {
		return nil, err
	}
	g := &api.SecurityGroup{Meta: c.meta(api.KindSecurityGroup, v.Account, in.Body.Name, in.Body.Tags), VPC: v.ID,
		Ingress: []api.Rule{}, Egress: everythingOut()}
	return g, c.putGroup(g)
}

func deleteGroup(c *call, in *Removal) (*api.Result, error) {
	g, err := c.group("id", in.ID, "")
	if err != nil {
		return nil, err
	}
	c.subject = g.ID
	if g.Default {
		return nil, api.Errorf(api.CodeDependencyViolation, "id", "delete the VPC", "%s is the default group of the VPC %s", g.ID, g.VPC)
	}
	var d dependents
	for _, e := range c.r.ENIs {
		if slices.Contains(e.SecurityGroups, g.ID) {
			d.add(cmp.Or(e.Owner, e.ID), e.Name)
		}
	}
	for _, b := range c.r.LoadBalancers {
		if slices.Contains(b.SecurityGroups, g.ID) {
			d.add(b.ID, b.Name)
		}
	}
	for _, p := range c.r.Endpoints {
		if slices.Contains(p.SecurityGroups, g.ID) {
			d.add(p.ID, p.Name)
		}
	}
	for _, o := range c.r.SecurityGroups {
		for _, r := range append(slices.Clone(o.Ingress), o.Egress...) {
			if r.Group == g.ID && o.ID != g.ID {
				d.add(o.ID, o.Name)
			}
		}
	}
	if err := d.refuse(api.KindSecurityGroup, g.ID); err != nil {
		return nil, err
	}
	c.tx.Remove(g)
	return &api.Result{}, nil
}

func authorize(c *call, in *change[api.RulesRequest], ingress bool) (*api.SecurityGroup, error) {
	old, err := c.group("id", in.ID, "")
	if err != nil {
		return nil, err
	}
	c.subject = old.ID
	if err := atMost("rules", len(in.Body.Rules)); err != nil {
		return nil, err
	}
	var rules []api.Rule
	for _, r := range in.Body.Rules {
		if err := c.checkMesh(r.CIDR); err != nil {
			return nil, err
		}
		rule := api.Rule{ID: newID(api.PrefixRule), Protocol: r.Protocol, FromPort: r.FromPort, ToPort: r.ToPort, ICMPType: r.ICMPType,
			ICMPCode: r.ICMPCode, CIDR: r.CIDR, Description: r.Description}
		if rule.FromPort == 0 && rule.ToPort == 65535 && (r.Protocol == api.TCP || r.Protocol == api.UDP) {
			rule.FromPort = 1 // AWS's way to say every port
		}
		if r.Group != "" {
			g, err := c.group("groupId", r.Group, old.VPC)
			if err != nil {
				return nil, err
			}
			rule.Group = g.ID
		}
		rules = append(rules, rule)
	}
	g := *old
	if ingress {
		g.Ingress = append(slices.Clone(g.Ingress), rules...)
	} else {
		g.Egress = append(slices.Clone(g.Egress), rules...)
	}
	return &g, c.putGroup(&g)
}

// checkMesh refuses IPv6 prefixes of other meshes: no packet would match.
func (c *call) checkMesh(p netip.Prefix) error {
	own := api.MeshPrefix(c.r.Mesh.Number)
	if p.IsValid() && p.Addr().Is6() && p.Bits() > 0 && !own.Contains(p.Addr()) {
		return api.Errorf(api.CodeInvalidParameter, "cidr", "give ::/0, or a part of a VPC's ipv6CidrBlock, as `culvert vpc describe` shows it",
			"%s is not within this mesh, %s", p, own)
	}
	return nil
}

// atMost bounds the items of one request, and demands one.
func atMost(field string, n int) error {
	if n == 0 {
		return api.Errorf(api.CodeMissingParameter, field, "give at least one", "none are given")
	}
	if n > api.MaxItemsPerRequest {
		return api.Errorf(api.CodeLimitExceeded, field, "send several requests", "%d are given, at most %d are allowed at once", n,
			api.MaxItemsPerRequest)
	}
	return nil
}

type ruleRemoval struct {
	Removal
	Rule string `path:"rule" doc:"Id of the rule"`
}

func revokeRule(c *call, in *ruleRemoval) (*api.SecurityGroup, error) {
	old, err := c.group("id", in.ID, "")
	if err != nil {
		return nil, err
	}
	c.subject = old.ID
	g := *old
	is := func(r api.Rule) bool { return r.ID == in.Rule }
	g.Ingress = slices.DeleteFunc(slices.Clone(g.Ingress), is)
	g.Egress = slices.DeleteFunc(slices.Clone(g.Egress), is)
	if len(g.Ingress)+len(g.Egress) == len(old.Ingress)+len(old.Egress) {
		return nil, api.Errorf(api.CodePermissionNotFound, "rule", "look at the group's rules", "the group %s has no rule %q", g.ID, in.Rule)
	}
	return &g, c.putGroup(&g)
}
