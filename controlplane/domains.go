package controlplane

import (
	"crypto/rand"
	"net/http"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
)

func (s *Server) registerDomains() {
	writing(s, operation{http.MethodPost, "/v1/domains", "create-domain", "Say that a DNS domain is the account's, to be proved", aUser},
		createDomain)
	listing(s, operation{http.MethodGet, "/v1/domains", "list-domains", "DNS domains, proved and to be proved", aUser},
		func(c *call, _ *Watching) (*api.List[api.Domain], error) { return list(c, c.r.Domains, nil), nil })
	reading(s, operation{http.MethodGet, "/v1/domains/{id}", "get-domain", "One domain, with the record that proves it", aUser},
		func(c *call, in *ByID) (*api.Domain, error) { return c.domain(in.ID) })
	writing(s, operation{http.MethodPost, "/v1/domains/{id}/verify", "verify-domain", "Look for the record again", aUser}, verifyDomain)
	writing(s, operation{http.MethodDelete, "/v1/domains/{id}", "delete-domain", "Give a domain up", aUser}, deleteDomain)
}

func (c *call) domain(ref string) (*api.Domain, error) {
	return find(c, c.r.Domains, api.KindDomain, "id", ref, nil)
}

// owns reports whether a name lies in a domain that an account was given or has proved.
func owns(r *api.Resources, account, name string) bool {
	if a := r.Accounts[account]; a != nil && slices.ContainsFunc(a.Domains, func(d string) bool { return api.WithinDomain(name, d) }) {
		return true
	}
	for _, d := range r.Domains {
		if d.Account == account && d.State == api.DomainVerified && api.WithinDomain(name, d.Name) {
			return true
		}
	}
	return false
}

// refuseGiven refuses a domain that an administrator gave to another account, or a part or the whole of it.
func refuseGiven(r *api.Resources, d *api.Domain, field string) error {
	for _, o := range r.Accounts {
		for _, given := range o.Domains {
			if o.ID != d.Account && (api.WithinDomain(given, d.Name) || api.WithinDomain(d.Name, given)) {
				return api.Errorf(api.CodeConflictingDomain, field, "ask an administrator whose it is to be",
					"%s, or a part of it, was given to another account", d.Name)
			}
		}
	}
	return nil
}

// randomLabel is what nobody guesses: 20 letters and digits.
func randomLabel() string { return strings.ToLower(rand.Text()[:20]) }

func createDomain(c *call, in *creation[api.CreateDomainRequest]) (*api.Domain, error) {
	account, err := c.owner()
	if err != nil {
		return nil, err
	}
	if c.s.cfg.LookupTXT == nil {
		return nil, api.Errorf(api.CodeIncorrectState, "domainName", "ask an administrator for `culvert account domain add`",
			"this server proves no domains: it was started without --verification-resolver")
	}
	if err := limit(c.r.Domains, api.MaxDomainsPerAccount, "domains", func(d *api.Domain) bool { return d.Account == account }); err != nil {
		return nil, err
	}
	label := randomLabel()
	d := &api.Domain{Meta: c.meta(api.KindDomain, account, in.Body.Domain, in.Body.Tags), State: api.DomainPending,
		VerificationName: "_" + label + "." + in.Body.Domain, VerificationValue: "vpce:" + randomLabel(), Since: c.now}
	if err := refuseGiven(c.r, d, "domainName"); err != nil {
		return nil, err
	}
	c.then = func() { c.s.verifier.soon(d.ID) }
	return d, onField(put(c, d, c.r.Domains, nil), "domainName", "name")
}

// verifyDomain begins the proof anew where it had failed, and has the record looked for at once.
func verifyDomain(c *call, in *Removal) (*api.Domain, error) {
	old, err := c.domain(in.ID)
	if err != nil {
		return nil, err
	}
	d := *old
	c.subject = d.ID
	if err := refuseGiven(c.r, old, "id"); err != nil {
		return nil, err
	}
	if d.State == api.DomainFailed {
		d.State, d.Since, d.Misses = api.DomainPending, c.now, 0
	}
	c.then = func() { c.s.verifier.soon(d.ID) }
	return &d, put(c, &d, nil, nil)
}

func deleteDomain(c *call, in *Removal) (*api.Result, error) {
	d, err := c.domain(in.ID)
	if err != nil {
		return nil, err
	}
	c.subject = d.ID
	var needed dependents
	for _, s := range c.r.Services {
		for _, name := range s.PrivateNames() {
			if s.Account == d.Account && api.WithinDomain(name, d.Name) && !c.ownsOtherwise(d, name) {
				needed.add(s.ID, s.Name)
			}
		}
	}
	if err := needed.refuse(api.KindDomain, d.ID); err != nil {
		return nil, err
	}
	c.tx.Remove(d)
	return &api.Result{}, nil
}

// ownsOtherwise reports whether a name stays the account's when a domain goes.
func (c *call) ownsOtherwise(without *api.Domain, name string) bool {
	r := *c.r
	r.CloneKind(api.KindDomain)
	delete(r.Domains, without.ID)
	return owns(&r, without.Account, name)
}
