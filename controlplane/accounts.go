package controlplane

import (
	"net/http"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
)

type none struct{}

func (s *Server) registerAccounts() {
	writing(s, operation{http.MethodPost, "/v1/accounts", "create-account", "Make an account", anAdmin}, createAccount)
	listing(s, operation{http.MethodGet, "/v1/accounts", "list-accounts", "Accounts that the caller may see", aUser},
		func(c *call, _ *Watching) (*api.List[api.Account], error) { return listAccounts(c), nil })
	reading(s, operation{http.MethodGet, "/v1/accounts/{id}", "get-account", "One account", aUser},
		func(c *call, in *ByID) (*api.Account, error) { return c.accountByRef("id", in.ID) })
	writing(s, operation{http.MethodDelete, "/v1/accounts/{id}", "delete-account", "Remove an empty account and its keys", anAdmin},
		deleteAccount)
	writing(s, operation{http.MethodPost, "/v1/accounts/{id}/domains", "add-domain", "Give an account a DNS domain", anAdmin},
		addDomain)
	writing(s, operation{http.MethodDelete, "/v1/accounts/{id}/domains/{domain}", "remove-domain", "Take a DNS domain away", anAdmin},
		removeDomain)
	writing(s, operation{http.MethodPost, "/v1/api-keys", "create-api-key", "Make an API key; its secret is shown once", anAdmin},
		createKey)
	listing(s, operation{http.MethodGet, "/v1/api-keys", "list-api-keys", "API keys, without secrets", aUser},
		func(c *call, _ *Watching) (*api.List[api.APIKey], error) {
			out := list(c, c.r.APIKeys, nil)
			for i := range out.Items {
				out.Items[i].Hash = ""
				out.Items[i].LastUsed = c.s.hub.lastUsed(out.Items[i].ID)
			}
			return out, nil
		})
	writing(s, operation{http.MethodDelete, "/v1/api-keys/{id}", "delete-api-key", "Remove an API key", anAdmin}, deleteKey)
	writing(s, operation{http.MethodPost, "/v1/tokens", "create-token", "Make a single-use join token; its secret is shown once", anAdmin},
		createToken)
	listing(s, operation{http.MethodGet, "/v1/tokens", "list-tokens", "Join tokens, without secrets", anAdmin},
		func(c *call, _ *Watching) (*api.List[api.JoinToken], error) {
			c.account = "" // tokens belong to the mesh
			out := list(c, c.r.JoinTokens, nil)
			for i := range out.Items {
				out.Items[i].Hash = ""
			}
			return out, nil
		})
	writing(s, operation{http.MethodDelete, "/v1/tokens/{id}", "delete-token", "Remove a join token", anAdmin}, deleteToken)
}

// accountByRef finds an account that the caller may see: its own, or any for an administrator.
func (c *call) accountByRef(field, ref string) (*api.Account, error) {
	a := accountByRef(c.r, ref)
	if a == nil || a.ID != c.account && (c.account != "" || !c.who.admin()) {
		return nil, api.NotFound(api.KindAccount, field, ref)
	}
	return a, nil
}

func listAccounts(c *call) *api.List[api.Account] {
	if c.account == "" {
		return list(c, c.r.Accounts, nil)
	}
	out := &api.List[api.Account]{Items: []api.Account{}, Revision: c.r.Revision}
	if a := c.r.Accounts[c.account]; a != nil {
		out.Items = append(out.Items, *a)
	}
	return out
}

func createAccount(c *call, in *creation[api.CreateAccountRequest]) (*api.Account, error) {
	if err := limit(c.r.Accounts, api.MaxAccounts, "accounts", func(*api.Account) bool { return true }); err != nil {
		return nil, err
	}
	a := &api.Account{Meta: api.Meta{ID: newAccountID(), Name: in.Body.Name, Tags: in.Body.Tags, CreatedAt: c.now}}
	for c.r.Accounts[a.ID] != nil { // twelve digits are few enough to meet twice
		a.ID = newAccountID()
	}
	c.subject = a.ID
	for _, d := range in.Body.Domains {
		if err := c.giveDomain(a, "domains", d); err != nil {
			return nil, err
		}
	}
	return a, put(c, a, c.r.Accounts, nil)
}

// giveDomain adds a domain to an account unless another account has it, or a part or the whole of it, or a service with a name in it.
func (c *call) giveDomain(a *api.Account, field, domain string) error {
	for _, other := range c.r.Accounts {
		for _, d := range other.Domains {
			if other.ID != a.ID && (api.WithinDomain(d, domain) || api.WithinDomain(domain, d)) {
				return api.Errorf(api.CodeConflictingDomain, field, "remove it there first, or choose another",
					"%s belongs to the account %s (%s)", d, other.ID, other.Name)
			}
		}
	}
	for _, d := range c.r.Domains {
		if d.Account != a.ID && d.State == api.DomainVerified && (api.WithinDomain(d.Name, domain) || api.WithinDomain(domain, d.Name)) {
			return api.Errorf(api.CodeConflictingDomain, field, "have it deleted there first, or choose another",
				"the account %s has proved that %s is its own (%s)", d.Account, d.Name, d.ID)
		}
	}
	for _, s := range c.r.Services { // that proved the domain once keep their names
		for _, name := range s.PrivateNames() {
			if s.Account != a.ID && api.WithinDomain(name, domain) {
				return api.Errorf(api.CodeConflictingDomain, field, "have the name removed there first, or choose another",
					"the service %s of the account %s has the name %s", s.ID, s.Account, name)
			}
		}
	}
	if !slices.Contains(a.Domains, domain) {
		a.Domains = append(slices.Clone(a.Domains), domain)
		slices.Sort(a.Domains)
	}
	return nil
}

func deleteAccount(c *call, in *Removal) (*api.Result, error) {
	a, err := c.accountByRef("id", in.ID)
	if err != nil {
		return nil, err
	}
	c.subject = a.ID
	var d dependents
	for _, kind := range api.Kinds {
		if kind == api.KindAPIKey || kind == api.KindAccount {
			continue
		}
		c.r.Each(kind, func(res api.Resource) bool {
			m := res.GetMeta()
			if con, ok := res.(*api.Connection); m.Account == a.ID || ok && con.EndpointAccount == a.ID {
				d.add(m.ID, m.Name)
			}
			return true
		})
	}
	if err := d.refuse(api.KindAccount, a.ID); err != nil {
		return nil, err
	}
	for _, k := range c.r.APIKeys {
		if k.Account == a.ID {
			c.tx.Remove(k)
		}
	}
	for _, s := range c.r.Services {
		if slices.Contains(s.AllowedPrincipals, a.ID) {
			n := *s
			n.AllowedPrincipals = without(s.AllowedPrincipals, a.ID)
			c.tx.Put(&n)
		}
	}
	c.tx.Remove(a)
	return &api.Result{}, nil
}

// without returns a copy of a list that lacks a value.
func without[T comparable](list []T, v T) []T {
	return slices.DeleteFunc(slices.Clone(list), func(x T) bool { return x == v })
}

func addDomain(c *call, in *change[api.DomainRequest]) (*api.Account, error) {
	a, err := c.accountByRef("id", in.ID)
	if err != nil {
		return nil, err
	}
	n := *a
	c.subject = n.ID
	if err := c.giveDomain(&n, "domain", in.Body.Domain); err != nil {
		return nil, err
	}
	return &n, onField(put(c, &n, c.r.Accounts, nil), "domain", "domains")
}

type domainRemoval struct {
	Removal
	Domain string `path:"domain" doc:"The domain"`
}

func removeDomain(c *call, in *domainRemoval) (*api.Account, error) {
	a, err := c.accountByRef("id", in.ID)
	if err != nil {
		return nil, err
	}
	c.subject = a.ID
	if !slices.Contains(a.Domains, in.Domain) {
		return nil, api.Errorf(api.CodeDomainNotFound, "domain", "look at its domains with GET /v1/accounts/{id}",
			"the account %s does not own %q", a.ID, in.Domain)
	}
	var d dependents
	for _, s := range c.r.Services {
		if s.Account == a.ID && slices.ContainsFunc(s.PrivateNames(), func(n string) bool { return api.WithinDomain(n, in.Domain) }) {
			d.add(s.ID, s.Name)
		}
	}
	if err := d.refuse(api.KindAccount, a.ID); err != nil {
		return nil, err
	}
	n := *a
	n.Domains = without(a.Domains, in.Domain)
	return &n, put(c, &n, c.r.Accounts, nil)
}

func createKey(c *call, in *creation[api.CreateAPIKeyRequest]) (*api.CreatedAPIKey, error) {
	k, secret := newKey(c.now)
	k.Name, k.Admin, c.subject = in.Body.Name, in.Body.Admin, k.ID
	ref := in.Body.Account
	if ref == "" && !k.Admin {
		ref = c.account
	}
	if ref != "" {
		a := accountByRef(c.r, ref)
		if a == nil {
			return nil, api.NotFound(api.KindAccount, "account", ref)
		}
		k.Account = a.ID
	}
	if err := limit(c.r.APIKeys, api.MaxKeysPerAccount, "API keys", func(o *api.APIKey) bool { return o.Account == k.Account }); err != nil {
		return nil, err
	}
	if err := put(c, k, c.r.APIKeys, nil); err != nil {
		return nil, err
	}
	out := &api.CreatedAPIKey{APIKey: *k, Secret: secret}
	out.Hash = ""
	return out, nil
}

func deleteKey(c *call, in *Removal) (*api.Result, error) {
	k, err := find(c, c.r.APIKeys, api.KindAPIKey, "id", in.ID, nil)
	if err != nil {
		return nil, err
	}
	c.subject = k.ID
	admins := 0
	for _, o := range c.r.APIKeys {
		if o.Admin {
			admins++
		}
	}
	if k.Admin && admins == 1 {
		return nil, api.Errorf(api.CodeDependencyViolation, "id", "make another administrator's key first",
			"%s is the last administrator's key", k.ID)
	}
	c.tx.Remove(k)
	return &api.Result{}, nil
}

func createToken(c *call, in *creation[api.CreateTokenRequest]) (*api.CreatedToken, error) {
	ttl := in.Body.TTLSeconds
	if ttl == 0 {
		ttl = api.DefaultTokenTTL
	}
	if ttl < api.MinTokenTTL || ttl > api.MaxTokenTTL {
		return nil, api.Errorf(api.CodeInvalidParameter, "ttlSeconds", "give 60 to 2592000", "%d s is out of range", ttl)
	}
	if in.Body.NodeName != "" {
		if e := api.ValidateDomain("nodeName", in.Body.NodeName, 1); e != nil {
			return nil, e
		}
	}
	if err := limit(c.r.JoinTokens, api.MaxTokens, "join tokens", func(*api.JoinToken) bool { return true }); err != nil {
		return nil, err
	}
	t := &api.JoinToken{Meta: c.meta(api.KindJoinToken, "", "", nil), NodeName: in.Body.NodeName,
		ExpiresAt: c.now.Add(time.Duration(ttl) * time.Second)}
	secret := newSecret(t.ID)
	t.Hash = hashSecret(secret)
	if err := put(c, t, c.r.JoinTokens, nil); err != nil {
		return nil, err
	}
	out := &api.CreatedToken{JoinToken: *t, Secret: secret + "." + c.s.ca.Fingerprint()}
	out.Hash = ""
	return out, nil
}

func deleteToken(c *call, in *Removal) (*api.Result, error) {
	t := c.r.JoinTokens[in.ID]
	if t == nil {
		return nil, api.NotFound(api.KindJoinToken, "id", in.ID)
	}
	c.subject = t.ID
	c.tx.Remove(t)
	return &api.Result{}, nil
}
