package controlplane

import (
	"maps"
	"net/http"
	"slices"

	"github.com/culvert-net/culvert/api"
)

func (s *Server) registerResolverRules() {
	writing(s, operation{http.MethodPost, "/v1/resolver-rules", "create-resolver-rule", "Forward a domain's names to servers of its own", aUser},
		createResolverRule)
	listing(s, operation{http.MethodGet, "/v1/resolver-rules", "list-resolver-rules", "Resolver rules", aUser},
		func(c *call, _ *Watching) (*api.List[api.ResolverRule], error) {
			return list(c, c.r.ResolverRules, nil), nil
		})
	reading(s, operation{http.MethodGet, "/v1/resolver-rules/{id}", "get-resolver-rule", "One resolver rule", aUser},
		func(c *call, in *ByID) (*api.ResolverRule, error) { return c.resolverRule(in.ID) })
	writing(s, operation{http.MethodPatch, "/v1/resolver-rules/{id}", "modify-resolver-rule", "Change a resolver rule", aUser}, modifyResolverRule)
	writing(s, operation{http.MethodPost, "/v1/resolver-rules/{id}/associate", "associate-resolver-rule", "Have it decide for VPCs", aUser},
		associateRule)
	writing(s, operation{http.MethodPost, "/v1/resolver-rules/{id}/disassociate", "disassociate-resolver-rule", "Take that back", aUser},
		disassociateRule)
	writing(s, operation{http.MethodDelete, "/v1/resolver-rules/{id}", "delete-resolver-rule", "Remove a resolver rule", aUser},
		func(c *call, in *Removal) (*api.Result, error) {
			r, err := c.resolverRule(in.ID)
			if err != nil {
				return nil, err
			}
			c.subject = r.ID
			c.tx.Remove(r)
			return &api.Result{}, nil
		})
}

func (c *call) resolverRule(ref string) (*api.ResolverRule, error) {
	return find(c, c.r.ResolverRules, api.KindResolverRule, "id", ref, nil)
}

func createResolverRule(c *call, in *creation[api.CreateResolverRuleRequest]) (*api.ResolverRule, error) {
	account, err := c.owner()
	if err != nil {
		return nil, err
	}
	if err := limit(c.r.ResolverRules, api.MaxResolverRulesPerAccount, "resolver rules",
		func(r *api.ResolverRule) bool { return r.Account == account }); err != nil {
		return nil, err
	}
	r := &api.ResolverRule{Meta: c.meta(api.KindResolverRule, account, in.Body.Domain, in.Body.Tags), VPCs: []string{},
		Forwarders: in.Body.Forwarders, PlainForwarders: in.Body.PlainForwarders}
	if err := c.associateRule(r, in.Body.VPCs); err != nil {
		return nil, err
	}
	return r, c.forwardTo(r, forwarding{})
}

// forwardTo writes a rule whose forwarders may have changed, if they may be so.
func (c *call) forwardTo(r *api.ResolverRule, old forwarding) error {
	vpcs := c.vpcsOf(r)
	if err := c.checkForwarders(old, forwarding{r.Forwarders, r.PlainForwarders}, vpcs); err != nil {
		return err
	}
	fresh := func(f string) bool { return !slices.Contains(old.list, f) && !publicResolver(f) }
	switch {
	case c.who.admin():
		r.Inside = false
	case slices.ContainsFunc(r.Forwarders, fresh): // which lie in all VPCs
		r.Inside = true
	}
	return put(c, r, nil, nil)
}

// vpcsOf are those that a rule is for.
func (c *call) vpcsOf(r *api.ResolverRule) (out []*api.VPC) {
	for _, id := range r.VPCs {
		if v := c.r.VPCs[id]; v != nil {
			out = append(out, v)
		}
	}
	return out
}

// changedRule is a copy of the rule that a request names.
func (c *call) changedRule(ref string) (*api.ResolverRule, error) {
	old, err := c.resolverRule(ref)
	if err != nil {
		return nil, err
	}
	r := *old
	c.subject = r.ID
	return &r, nil
}

func modifyResolverRule(c *call, in *change[api.ModifyResolverRuleRequest]) (*api.ResolverRule, error) {
	r, err := c.changedRule(in.ID)
	if err != nil {
		return nil, err
	}
	old := forwarding{r.Forwarders, r.PlainForwarders}
	if in.Body.Forwarders != nil {
		r.Forwarders = *in.Body.Forwarders
	}
	if in.Body.PlainForwarders != nil {
		r.PlainForwarders = *in.Body.PlainForwarders
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return r, c.forwardTo(r, old)
}

// associateRule adds VPCs to a rule, in none of which another rule may have the domain, and writes it.
func (c *call) associateRule(r *api.ResolverRule, refs []string) error {
	if err := r.Validate(); err != nil {
		return err
	}
	vpcs, err := c.associated(r.Account, r.VPCs, refs, func(v *api.VPC) error {
		for _, id := range slices.Sorted(maps.Keys(c.r.ResolverRules)) {
			if o := c.r.ResolverRules[id]; o.ID != r.ID && o.Name == r.Name && slices.Contains(o.VPCs, v.ID) {
				return api.Errorf(api.CodeConflictingDomain, "vpcIds", "disassociate that one first, or change its forwarders",
					"the resolver rule %s is for %s in the VPC %s already", o.ID, o.Name, v.ID)
			}
		}
		return c.reachedIn(r, v)
	})
	if err != nil {
		return err
	}
	r.VPCs = vpcs
	return put(c, r, nil, nil)
}

// reachedIn refuses a VPC in which a rule's forwarders would be others than meant: nodes would ask in their own network for what
// lies inside another VPC.
func (c *call) reachedIn(r *api.ResolverRule, v *api.VPC) error {
	one := []*api.VPC{v}
	for _, f := range r.Forwarders {
		if r.Inside && !publicResolver(f) && !within(f, one) {
			return api.Errorf(api.CodeInvalidCombination, "vpcIds", "make a rule for that VPC, with forwarders inside it",
				"the forwarder %s of %s is inside other VPCs, and outside %s", f, r.ID, v.ID)
		}
	}
	return c.notTheResolver(r.Forwarders, one)
}

func associateRule(c *call, in *change[api.VPCsRequest]) (*api.ResolverRule, error) {
	r, err := c.changedRule(in.ID)
	if err != nil {
		return nil, err
	}
	if err := atMost("vpcIds", len(in.Body.VPCs)); err != nil {
		return nil, err
	}
	return r, c.associateRule(r, in.Body.VPCs)
}

func disassociateRule(c *call, in *change[api.VPCsRequest]) (*api.ResolverRule, error) {
	r, err := c.changedRule(in.ID)
	if err != nil {
		return nil, err
	}
	if r.VPCs, err = c.disassociated(r, r.VPCs, in.Body.VPCs); err != nil {
		return nil, err
	}
	return r, put(c, r, nil, nil)
}
