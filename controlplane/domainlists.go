package controlplane

import (
	"maps"
	"net/http"
	"slices"

	"github.com/culvert-net/culvert/api"
)

func (s *Server) registerDomainLists() {
	const lists, one = "/v1/firewall-domain-lists", "/v1/firewall-domain-lists/{id}"
	writing(s, operation{http.MethodPost, lists, "create-firewall-domain-list", "Make a list of domains for rules", aUser}, createDomainList)
	listing(s, operation{http.MethodGet, lists, "list-firewall-domain-lists", "DNS firewall domain lists", aUser},
		func(c *call, _ *Watching) (*api.List[api.FirewallDomainList], error) {
			return list(c, c.r.FirewallDomainLists, nil), nil
		})
	reading(s, operation{http.MethodGet, one, "get-firewall-domain-list", "One domain list", aUser},
		func(c *call, in *ByID) (*api.FirewallDomainList, error) { return c.domainList(in.ID) })
	writing(s, operation{http.MethodPost, one + "/domains", "change-firewall-domains", "Change the domains of a list: all or none", aUser},
		changeDomains)
	writing(s, operation{http.MethodDelete, one, "delete-firewall-domain-list", "Remove a domain list", aUser}, deleteDomainList)
}

func (c *call) domainList(ref string) (*api.FirewallDomainList, error) {
	return find(c, c.r.FirewallDomainLists, api.KindFirewallDomainList, "id", ref, nil)
}

// ownDomainList is the account's list that a rule names.
func (c *call) ownDomainList(account, ref string) (*api.FirewallDomainList, error) {
	l, err := find(c, c.r.FirewallDomainLists, api.KindFirewallDomainList, "domainListId", ref,
		func(l *api.FirewallDomainList) bool { return l.Account == account })
	if err == nil && l.Account != account {
		return nil, api.NotFound(api.KindFirewallDomainList, "domainListId", ref)
	}
	return l, err
}

func createDomainList(c *call, in *creation[api.CreateFirewallDomainListRequest]) (*api.FirewallDomainList, error) {
	account, err := c.owner()
	if err != nil {
		return nil, err
	}
	if err := limit(c.r.FirewallDomainLists, api.MaxDomainListsPerAccount, "firewall domain lists",
		func(l *api.FirewallDomainList) bool { return l.Account == account }); err != nil {
		return nil, err
	}
	l := &api.FirewallDomainList{Meta: c.meta(api.KindFirewallDomainList, account, in.Body.Name, in.Body.Tags),
		Domains: append([]string{}, in.Body.Domains...)}
	return l, c.putDomainList(l)
}

// putDomainList writes a list, if there is room for it in the account and in each group that names it.
func (c *call) putDomainList(l *api.FirewallDomainList) error {
	if len(l.Domains) > api.MaxDomainsPerList {
		return l.Validate()
	}
	slices.Sort(l.Domains)
	if err := put(c, l, c.r.FirewallDomainLists, nil); err != nil {
		return err
	}
	lists := maps.Clone(c.r.FirewallDomainLists)
	if lists == nil {
		lists = map[string]*api.FirewallDomainList{}
	}
	lists[l.ID] = l
	for _, g := range c.groupsWith(l.ID) {
		if err := fitsFirewall(g, lists, "domains"); err != nil {
			return err
		}
	}
	return c.roomForRules(l.Account, l.ID, l.Size(), "domains")
}

// groupsWith are the groups with a rule that names a list, by id.
func (c *call) groupsWith(list string) (out []*api.FirewallRuleGroup) {
	for _, id := range slices.Sorted(maps.Keys(c.r.FirewallRuleGroups)) {
		g := c.r.FirewallRuleGroups[id]
		if slices.ContainsFunc(g.Rules, func(r api.FirewallRule) bool { return r.DomainList == list }) {
			out = append(out, g)
		}
	}
	return out
}

func changeDomains(c *call, in *change[api.ChangeFirewallDomainsRequest]) (*api.FirewallDomainList, error) {
	old, err := c.domainList(in.ID)
	if err != nil {
		return nil, err
	}
	l := *old
	c.subject = l.ID
	given := in.Body.Domains
	switch n := len(given); {
	case n == 0 && in.Body.Operation != api.DomainsReplace:
		return nil, api.Errorf(api.CodeMissingParameter, "domains", "give at least one", "none are given")
	case n > api.MaxDomainsPerList:
		return nil, api.Errorf(api.CodeLimitExceeded, "domains", "make a further list, and a rule for it",
			"%d are given, at most %d are allowed", n, api.MaxDomainsPerList)
	}
	have := make(map[string]bool, len(old.Domains))
	for _, d := range old.Domains {
		have[d] = true
	}
	switch in.Body.Operation {
	case api.DomainsAdd:
		l.Domains = slices.Clone(old.Domains)
		for _, d := range given { // what is there already stays
			if !have[d] {
				l.Domains = append(l.Domains, d)
			}
			have[d] = true
		}
	case api.DomainsRemove:
		for _, d := range given {
			if !have[d] {
				return nil, api.Errorf(api.CodeInvalidParameter, "domains", "look at GET /v1/firewall-domain-lists/{id}",
					"the domain list %s does not have %q", l.ID, api.Shortened(d))
			}
			delete(have, d)
		}
		l.Domains = slices.DeleteFunc(slices.Clone(old.Domains), func(d string) bool { return !have[d] })
	case api.DomainsReplace:
		l.Domains = append([]string{}, given...)
	default:
		return nil, api.Errorf(api.CodeInvalidParameter, "operation", "use ADD, REMOVE or REPLACE", "the operation %q is not known here",
			api.Shortened(string(in.Body.Operation)))
	}
	return &l, c.putDomainList(&l)
}

func deleteDomainList(c *call, in *Removal) (*api.Result, error) {
	l, err := c.domainList(in.ID)
	if err != nil {
		return nil, err
	}
	c.subject = l.ID
	if groups := c.groupsWith(l.ID); len(groups) > 0 {
		return nil, api.Errorf(api.CodeDependencyViolation, "id", "delete its rules first",
			"the firewall rule group %s (%s) has a rule with this list", groups[0].ID, groups[0].Name)
	}
	c.tx.Remove(l)
	return &api.Result{}, nil
}
