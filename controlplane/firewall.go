package controlplane

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/culvert-net/culvert/api"
)

func (s *Server) registerFirewall() {
	s.registerDomainLists()
	const groups, group = "/v1/firewall-rule-groups", "/v1/firewall-rule-groups/{id}"
	writing(s, operation{http.MethodPost, groups, "create-firewall-rule-group", "Make rules about DNS queries", aUser}, createFirewallRuleGroup)
	listing(s, operation{http.MethodGet, groups, "list-firewall-rule-groups", "DNS firewall rule groups", aUser},
		func(c *call, _ *Watching) (*api.List[api.FirewallRuleGroup], error) {
			return list(c, c.r.FirewallRuleGroups, nil), nil
		})
	reading(s, operation{http.MethodGet, group, "get-firewall-rule-group", "One rule group with its rules", aUser},
		func(c *call, in *ByID) (*api.FirewallRuleGroup, error) { return c.firewallRuleGroup(in.ID) })
	writing(s, operation{http.MethodPost, group + "/rules", "change-firewall-rules", "Put and remove rules: all or none", aUser}, changeFirewallRules)
	writing(s, operation{http.MethodPost, group + "/associate", "associate-firewall-rule-group", "Have it decide for VPCs", aUser},
		associateFirewall)
	writing(s, operation{http.MethodPost, group + "/disassociate", "disassociate-firewall-rule-group", "Take that back", aUser},
		disassociateFirewall)
	writing(s, operation{http.MethodDelete, group, "delete-firewall-rule-group", "Remove a rule group", aUser},
		func(c *call, in *Removal) (*api.Result, error) {
			g, err := c.firewallRuleGroup(in.ID)
			if err != nil {
				return nil, err
			}
			c.subject = g.ID
			c.tx.Remove(g)
			return &api.Result{}, nil
		})
}

func (c *call) firewallRuleGroup(ref string) (*api.FirewallRuleGroup, error) {
	return find(c, c.r.FirewallRuleGroups, api.KindFirewallRuleGroup, "id", ref, nil)
}

func createFirewallRuleGroup(c *call, in *creation[api.CreateFirewallRuleGroupRequest]) (*api.FirewallRuleGroup, error) {
	account, err := c.owner()
	if err != nil {
		return nil, err
	}
	if err := limit(c.r.FirewallRuleGroups, api.MaxFirewallRuleGroupsPerAccount, "firewall rule groups",
		func(g *api.FirewallRuleGroup) bool { return g.Account == account }); err != nil {
		return nil, err
	}
	if in.Body.Priority != nil && len(in.Body.VPCs) == 0 {
		return nil, api.Errorf(api.CodeInvalidCombination, "priority", "name the VPCs in which it counts, or leave it out", "there is no VPC")
	}
	g := &api.FirewallRuleGroup{Meta: c.meta(api.KindFirewallRuleGroup, account, in.Body.Name, in.Body.Tags), VPCs: []string{},
		Rules: []api.FirewallRule{}}
	return g, c.associateFirewall(g, in.Body.VPCs, in.Body.Priority)
}

// changedFirewall is a copy of the group that a request names.
func (c *call) changedFirewall(ref string) (*api.FirewallRuleGroup, error) {
	old, err := c.firewallRuleGroup(ref)
	if err != nil {
		return nil, err
	}
	g := *old
	c.subject = g.ID
	return &g, nil
}

// associateFirewall adds VPCs to a group, or changes its priority in them, and writes it.
func (c *call) associateFirewall(g *api.FirewallRuleGroup, refs []string, priority *uint32) error {
	vpcs, err := c.vpcs(g.Account, refs)
	if err != nil {
		return err
	}
	have := g.VPCs
	if g.VPCs, err = c.associated(g.Account, have, refs, func(*api.VPC) error { return nil }); err != nil {
		return err
	}
	priorities := map[string]uint32{}
	maps.Copy(priorities, g.Priorities)
	g.Priorities = priorities
	for _, v := range vpcs {
		switch {
		case priority != nil:
			g.Priorities[v.ID] = *priority
		case !slices.Contains(have, v.ID):
			g.Priorities[v.ID] = api.DefaultFirewallPriority
		}
	}
	if err := g.Validate(); err != nil {
		return err
	}
	for _, v := range vpcs {
		if err := c.firewallTurn(g, v.ID); err != nil {
			return err
		}
	}
	return put(c, g, c.r.FirewallRuleGroups, nil)
}

// firewallTurn refuses a group in a VPC where another has its priority, or there are as many as may be.
func (c *call) firewallTurn(g *api.FirewallRuleGroup, vpc string) error {
	others := 0
	for _, id := range slices.Sorted(maps.Keys(c.r.FirewallRuleGroups)) {
		o := c.r.FirewallRuleGroups[id]
		if o.ID == g.ID || !slices.Contains(o.VPCs, vpc) {
			continue
		}
		if o.PriorityIn(vpc) == g.PriorityIn(vpc) {
			return api.Errorf(api.CodeFirewallInUse, "priority", "give it another priority there, or disassociate that one first",
				"in the VPC %s the firewall rule group %s (%s) has the priority %d already", vpc, o.ID, o.Name, o.PriorityIn(vpc))
		}
		others++
	}
	if others >= api.MaxFirewallRuleGroupsPerVPC {
		return api.Errorf(api.CodeLimitExceeded, "vpcIds", "put the rules into one of its groups",
			"the VPC %s has %d firewall rule groups, and no more are allowed", vpc, others)
	}
	return nil
}

func associateFirewall(c *call, in *change[api.AssociateFirewallRuleGroupRequest]) (*api.FirewallRuleGroup, error) {
	g, err := c.changedFirewall(in.ID)
	if err != nil {
		return nil, err
	}
	if err := atMost("vpcIds", len(in.Body.VPCs)); err != nil {
		return nil, err
	}
	return g, c.associateFirewall(g, in.Body.VPCs, in.Body.Priority)
}

func disassociateFirewall(c *call, in *change[api.VPCsRequest]) (*api.FirewallRuleGroup, error) {
	g, err := c.changedFirewall(in.ID)
	if err != nil {
		return nil, err
	}
	if g.VPCs, err = c.disassociated(g, g.VPCs, in.Body.VPCs); err != nil {
		return nil, err
	}
	g.Priorities = prioritiesOf(g)
	return g, put(c, g, nil, nil)
}

// prioritiesOf are a group's in the VPCs that it still decides for.
func prioritiesOf(g *api.FirewallRuleGroup) map[string]uint32 {
	out := map[string]uint32{}
	for _, vpc := range g.VPCs {
		out[vpc] = g.PriorityIn(vpc)
	}
	return out
}

// forgetInFirewalls takes a VPC that is deleted out of rule groups.
func (c *call) forgetInFirewalls(vpc string) error {
	for _, old := range c.r.FirewallRuleGroups {
		if !slices.Contains(old.VPCs, vpc) {
			continue
		}
		g := *old
		g.VPCs = without(old.VPCs, vpc)
		g.Priorities = prioritiesOf(&g)
		if err := put(c, &g, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// changeFirewallRules removes rules, and then puts others in the place of those of the same priorities.
func changeFirewallRules(c *call, in *change[api.ChangeFirewallRulesRequest]) (*api.FirewallRuleGroup, error) {
	g, err := c.changedFirewall(in.ID)
	if err != nil {
		return nil, err
	}
	if n := len(in.Body.Put) + len(in.Body.Remove); n == 0 || n > api.MaxItemsPerRequest {
		return nil, atMost("put", n)
	}
	g.Rules = slices.Clone(g.Rules)
	for _, priority := range in.Body.Remove {
		has := func(r api.FirewallRule) bool { return r.Priority == priority }
		if !slices.ContainsFunc(g.Rules, has) {
			return nil, api.Errorf(api.CodeFirewallRuleNotFound, "remove", "look at GET /v1/firewall-rule-groups/{id}",
				"the firewall rule group %s has no rule of priority %d", g.ID, priority)
		}
		g.Rules = slices.DeleteFunc(g.Rules, has)
	}
	given := map[uint32]bool{}
	for _, r := range in.Body.Put {
		if given[r.Priority] {
			return nil, api.Errorf(api.CodeInvalidParameter, "put", "give each rule a priority of its own", "the priority %s is given twice",
				strconv.FormatUint(uint64(r.Priority), 10))
		}
		given[r.Priority] = true
		if r.DomainList != "" {
			l, err := c.ownDomainList(g.Account, r.DomainList)
			if err != nil {
				return nil, err
			}
			r.DomainList = l.ID
		}
		if r.Action == api.FirewallBlock && r.BlockResponse == "" {
			r.BlockResponse = api.BlockNoData
		}
		g.Rules = append(slices.DeleteFunc(g.Rules, func(o api.FirewallRule) bool { return o.Priority == r.Priority }), r)
	}
	slices.SortFunc(g.Rules, func(a, b api.FirewallRule) int { return cmp.Compare(a.Priority, b.Priority) })
	if err := put(c, g, nil, nil); err != nil {
		return nil, err
	}
	if err := fitsFirewall(g, c.r.FirewallDomainLists, "put"); err != nil {
		return nil, err
	}
	return g, c.roomForRules(g.Account, g.ID, g.Size(), "put")
}

// fitsFirewall bounds what nodes are told of one group.
func fitsFirewall(g *api.FirewallRuleGroup, lists map[string]*api.FirewallDomainList, field string) error {
	if n := g.SizeWith(lists); n > api.MaxFirewallRuleGroupBytes {
		return api.Errorf(api.CodeLimitExceeded, field, "make a further group, or name shorter lists",
			"with the domains of its lists the firewall rule group %s takes %d KiB, at most %d are allowed", g.ID, (n+1023)>>10,
			api.MaxFirewallRuleGroupBytes>>10)
	}
	return nil
}

// roomForRules bounds what an account's rules and lists take together, of which one with that id has a size from now on.
func (c *call) roomForRules(account, id string, size int, field string) error {
	sum := size
	for _, o := range c.r.FirewallRuleGroups {
		if o.Account == account && o.ID != id {
			sum += o.Size()
		}
	}
	for _, o := range c.r.FirewallDomainLists {
		if o.Account == account && o.ID != id {
			sum += o.Size()
		}
	}
	if sum > api.MaxFirewallBytesPerAccount {
		return api.Errorf(api.CodeLimitExceeded, field, "remove some", "the account's firewall rules and domain lists take %d KiB, at most %d are allowed",
			(sum+1023)>>10, api.MaxFirewallBytesPerAccount>>10)
	}
	return nil
}
