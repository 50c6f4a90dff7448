package controlplane

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// everybody is the principal that stands for every account.
const everybody = "*"

// connectionsOf names a service whose endpoint connections are listed.
type connectionsOf struct {
	Watching
	ByID
}

func (s *Server) registerServices() {
	writing(s, operation{http.MethodPost, "/v1/services", "create-service", "Offer an endpoint service", aUser}, createService)
	listing(s, operation{http.MethodGet, "/v1/services", "list-services", "Endpoint services that the caller offers", aUser},
		func(c *call, _ *Watching) (*api.List[api.Service], error) { return list(c, c.r.Services, nil), nil })
	reading(s, operation{http.MethodGet, "/v1/services/{id}", "get-service", "One endpoint service", aUser},
		func(c *call, in *ByID) (*api.Service, error) { return c.service(in.ID) })
	reading(s, operation{http.MethodGet, "/v1/services/{id}/targets", "get-service-targets", "What is behind an endpoint service", aUser},
		serviceTargets)
	writing(s, operation{http.MethodPatch, "/v1/services/{id}", "modify-service", "Change an endpoint service", aUser}, modifyService)
	writing(s, operation{http.MethodDelete, "/v1/services/{id}", "delete-service", "Withdraw an endpoint service", aUser}, deleteService)
	writing(s, operation{http.MethodPost, "/v1/services/{id}/allow", "allow-principals", "Let accounts make endpoints", aUser}, allow)
	writing(s, operation{http.MethodPost, "/v1/services/{id}/disallow", "disallow-principals", "Take that back", aUser}, disallow)
	listing(s, operation{http.MethodGet, "/v1/services/{id}/connections", "list-connections", "Endpoint connections of a service", aUser},
		func(c *call, in *connectionsOf) (*api.List[api.Connection], error) {
			s, err := c.service(in.ID)
			if err != nil {
				return nil, err
			}
			return list(c, c.r.Connections, func(con *api.Connection) bool { return con.Service == s.ID }), nil
		})
	writing(s, operation{http.MethodPost, "/v1/services/{id}/accept", "accept-connections", "Accept endpoints: all or none", aUser},
		func(c *call, in *change[api.EndpointsRequest]) (*api.List[api.Connection], error) {
			return decide(c, in, api.EventAccept)
		})
	writing(s, operation{http.MethodPatch, "/v1/services/{id}/connections", "modify-connections", "Change caps of endpoint connections", aUser},
		modifyConnections)
	writing(s, operation{http.MethodPost, "/v1/services/{id}/reject", "reject-connections", "Reject endpoints: all or none", aUser},
		func(c *call, in *change[api.EndpointsRequest]) (*api.List[api.Connection], error) {
			return decide(c, in, api.EventReject)
		})
	listing(s, operation{http.MethodGet, "/v1/catalogue", "list-catalogue", "Services that the caller may make endpoints for", aUser},
		func(c *call, _ *Watching) (*api.List[api.CatalogueEntry], error) { return catalogue(c), nil })
}

func (c *call) service(ref string) (*api.Service, error) {
	return find(c, c.r.Services, api.KindService, "id", ref, nil)
}

// putService writes a service that was changed, and takes it from Available over Pending to Available again.
func (c *call) putService(s *api.Service, event api.ServiceEvent) (err error) {
	if event != "" {
		if s.State, err = s.State.Next(event); err != nil {
			return err
		}
	}
	if s.State, err = s.State.Next(api.ServiceEventReady); err != nil {
		return err
	}
	if err := c.checkPrivateNames(s); err != nil {
		return err
	}
	if err := c.checkIdentity(s); err != nil {
		return err
	}
	return put(c, s, c.r.Services, nil)
}

// checkIdentity: targets that expect a header would take for one what clients of another service behind the same load balancer
// write, and cannot tell these apart by the address they come from.
func (c *call) checkIdentity(s *api.Service) error {
	header := func(o *api.Service) bool { return o.ClientIdentity == api.IdentityProxyProtocol }
	for _, id := range slices.Sorted(maps.Keys(c.r.Services)) {
		o := c.r.Services[id]
		if o.ID == s.ID || header(o) == header(s) {
			continue
		}
		for _, b := range s.LoadBalancers {
			if slices.Contains(o.LoadBalancers, b) {
				return api.Errorf(api.CodeInvalidCombination, "clientIdentity", "give one of the services a load balancer of its own",
					"the service %s (%s), whose targets learn of clients another way, is behind the load balancer %s too", o.ID, o.Name, b)
			}
		}
	}
	return nil
}

// checkPrivateNames: a service may get names only within its account's domains. One that it has it keeps: whose proof is gone for a
// while is not to lose consumers.
func (c *call) checkPrivateNames(s *api.Service) error {
	var had []string
	if old := c.r.Services[s.ID]; old != nil {
		had = old.PrivateNames()
	}
	for _, name := range s.PrivateNames() {
		if e := api.ValidatePrivateDNSName("privateDnsNames", name); e != nil {
			return e
		}
		if !slices.Contains(had, name) && !owns(c.r, s.Account, name) {
			return api.Errorf(api.CodeDomainNotOwned, "privateDnsNames",
				"choose a name within one of the account's domains, prove another with `culvert domain create`, or ask an administrator "+
					"for `culvert account domain add`", "%s is not within a domain of the account %s", name, s.Account)
		}
	}
	return nil
}

// namesAsked are the private names that a request gives, as a list or as the one that older clients know.
func namesAsked(list []string, one string) ([]string, error) {
	if one == "" || len(list) > 0 && list[0] == one {
		return list, nil
	}
	if len(list) > 0 {
		return nil, api.Errorf(api.CodeInvalidCombination, "privateDnsName", "give privateDnsNames alone",
			"%s is not the first of privateDnsNames", api.Shortened(one))
	}
	return []string{one}, nil
}

// balancers resolves a service's load balancers.
func (c *call) balancers(field string, refs []string) ([]string, error) {
	var ids []string
	for _, ref := range refs {
		b, err := c.balancer(field, ref)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(ids, b.ID) {
			ids = append(ids, b.ID)
		}
	}
	return ids, nil
}

// principals resolves accounts, by id or name, and "*".
func (c *call) principals(field string, refs []string) ([]string, error) {
	ids := []string{}
	for _, ref := range refs {
		id := everybody
		if ref != everybody {
			a := accountByRef(c.r, ref)
			if a == nil {
				return nil, api.Errorf(api.CodePrincipalNotFound, field, "give an account's id or name, or \"*\" for every account",
					"there is no account %q", ref)
			}
			id = a.ID
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func createService(c *call, in *creation[api.CreateServiceRequest]) (*api.Service, error) {
	account, err := c.owner()
	if err != nil {
		return nil, err
	}
	if err := limit(c.r.Services, api.MaxServicesPerAccount, "endpoint services",
		func(s *api.Service) bool { return s.Account == account }); err != nil {
		return nil, err
	}
	s := &api.Service{Meta: c.meta(api.KindService, account, in.Body.Name, in.Body.Tags), State: api.ServicePending,
		AcceptanceRequired: in.Body.AcceptanceRequired, Caps: in.Body.Caps,
		ClientIdentity: cmp.Or(in.Body.ClientIdentity, api.IdentityLoadBalancer)}
	names, err := namesAsked(in.Body.PrivateDNSNames, in.Body.PrivateDNSName)
	if err != nil {
		return nil, err
	}
	s.SetPrivateNames(names)
	if s.LoadBalancers, err = c.balancers("loadBalancerIds", in.Body.LoadBalancers); err != nil {
		return nil, err
	}
	if s.AllowedPrincipals, err = c.principals("allowedPrincipals", in.Body.AllowedPrincipals); err != nil {
		return nil, err
	}
	return s, c.putService(s, "")
}

func modifyService(c *call, in *change[api.ModifyServiceRequest]) (*api.Service, error) {
	old, err := c.service(in.ID)
	if err != nil {
		return nil, err
	}
	s := *old
	c.subject = s.ID
	if in.Body.AcceptanceRequired != nil {
		s.AcceptanceRequired = *in.Body.AcceptanceRequired
	}
	if err := renameService(&s, &in.Body); err != nil {
		return nil, err
	}
	if in.Body.ClientIdentity != nil {
		s.ClientIdentity = cmp.Or(*in.Body.ClientIdentity, api.IdentityLoadBalancer)
	}
	s.Caps = in.Body.Caps.Over(s.Caps)
	add, err := c.balancers("addLoadBalancerIds", in.Body.AddLoadBalancers)
	if err != nil {
		return nil, err
	}
	for _, id := range add {
		if !slices.Contains(s.LoadBalancers, id) {
			s.LoadBalancers = append(slices.Clone(s.LoadBalancers), id)
		}
	}
	remove, err := c.balancers("removeLoadBalancerIds", in.Body.RemoveLoadBalancers)
	if err != nil {
		return nil, err
	}
	for _, id := range remove {
		if err := c.unusedBy(&s, id); err != nil {
			return nil, err
		}
		s.LoadBalancers = without(s.LoadBalancers, id)
	}
	if err := c.putService(&s, api.ServiceEventModify); err != nil {
		return nil, err
	}
	if len(s.PrivateNames()) > max(1, len(old.PrivateNames())) { // one counts also where there is none
		return &s, c.roomForNames(&s)
	}
	return &s, nil
}

// renameService gives a service the private names that a request asks for. Who knows of one only does not take away the others.
func renameService(s *api.Service, in *api.ModifyServiceRequest) error {
	switch one := in.PrivateDNSName; {
	case in.PrivateDNSNames != nil && one != nil:
		names, err := namesAsked(*in.PrivateDNSNames, *one)
		if err != nil {
			return err
		}
		s.SetPrivateNames(names)
	case in.PrivateDNSNames != nil:
		s.SetPrivateNames(*in.PrivateDNSNames)
	case one != nil && len(s.PrivateNames()) > 1:
		return api.Errorf(api.CodeInvalidCombination, "privateDnsName", "give all of them in privateDnsNames",
			"the service %s has %d private names", s.ID, len(s.PrivateNames()))
	case one != nil && *one == "":
		s.SetPrivateNames(nil)
	case one != nil:
		s.SetPrivateNames([]string{*one})
	}
	return nil
}

// unusedBy refuses to take a load balancer from a service that does not have it, or whose connections lead to it.
func (c *call) unusedBy(s *api.Service, balancer string) error {
	if !slices.Contains(s.LoadBalancers, balancer) {
		return api.Errorf(api.CodeLoadBalancerNotFound, "removeLoadBalancerIds", "look at GET /v1/services/{id}",
			"the service %s does not have the load balancer %s", s.ID, balancer)
	}
	for _, con := range c.r.Connections {
		if con.Service == s.ID && con.LoadBalancer == balancer {
			return api.Errorf(api.CodeLoadBalancerInUse, "removeLoadBalancerIds", "keep it until the consumers have deleted those endpoints",
				"endpoint connections of the service %s lead to the load balancer %s", s.ID, balancer)
		}
	}
	return nil
}

// serviceGone is the message of an endpoint whose service was withdrawn.
const serviceGone = "its service was withdrawn by the provider; delete the endpoint"

// deleteService refuses while a consumer counts on the service. Connections that are over go with it: otherwise a consumer that
// keeps its endpoint could keep the provider's service alive.
func deleteService(c *call, in *Removal) (*api.Result, error) {
	s, err := c.service(in.ID)
	if err != nil {
		return nil, err
	}
	c.subject = s.ID
	state, err := s.State.Next(api.ServiceEventDelete)
	if err != nil {
		return nil, err
	}
	if _, err := state.Next(api.ServiceEventRemoved); err != nil {
		return nil, err
	}
	var d dependents
	for _, con := range c.r.Connections {
		if con.Service != s.ID {
			continue
		}
		switch con.State {
		case api.PendingAcceptance, api.Pending, api.Available:
			d.add(con.ID, con.Name)
		}
	}
	if len(d) > 0 {
		e := d.refuse(api.KindService, s.ID).(*api.Error) //nolint:errorlint // refuse makes it
		e.Remedy = "reject those endpoint connections first"
		return nil, e
	}
	for _, con := range c.r.Connections {
		if con.Service != s.ID {
			continue
		}
		if old := c.r.Endpoints[con.Endpoint]; old != nil {
			p := *old
			p.Message = serviceGone
			if err := put(c, &p, nil, nil); err != nil {
				return nil, err
			}
		}
		c.tx.Remove(con)
	}
	c.tx.Remove(s)
	return &api.Result{}, nil
}

func allow(c *call, in *change[api.PrincipalsRequest]) (*api.Service, error) {
	s, ids, err := c.namedPrincipals(in)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if !slices.Contains(s.AllowedPrincipals, id) {
			s.AllowedPrincipals = append(slices.Clone(s.AllowedPrincipals), id)
		}
	}
	return s, c.putService(s, api.ServiceEventModify)
}

func disallow(c *call, in *change[api.PrincipalsRequest]) (*api.Service, error) {
	s, ids, err := c.namedPrincipals(in)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if !slices.Contains(s.AllowedPrincipals, id) {
			return nil, api.Errorf(api.CodePrincipalNotFound, "principals", "look at GET /v1/services/{id}",
				"the service %s does not allow %s", s.ID, id)
		}
		s.AllowedPrincipals = without(s.AllowedPrincipals, id)
	}
	return s, c.putService(s, api.ServiceEventModify)
}

// namedPrincipals returns a copy of the service and the ids of the principals named.
func (c *call) namedPrincipals(in *change[api.PrincipalsRequest]) (*api.Service, []string, error) {
	old, err := c.service(in.ID)
	if err != nil {
		return nil, nil, err
	}
	s := *old
	c.subject = s.ID
	if err := atMost("principals", len(in.Body.Principals)); err != nil {
		return nil, nil, err
	}
	ids, err := c.principals("principals", in.Body.Principals)
	return &s, ids, err
}

// connection finds a service's connection by its id, its endpoint's id or its endpoint's name.
func (c *call) connection(s *api.Service, ref string) (*api.Connection, error) {
	var found []*api.Connection
	for _, con := range c.r.Connections {
		switch {
		case con.Service != s.ID:
		case con.ID == ref, con.Endpoint == ref:
			return con, nil
		case con.Name == ref && ref != "":
			found = append(found, con)
		}
	}
	switch len(found) {
	case 0:
		return nil, api.Errorf(api.CodeConnectionNotFound, "endpointIds", "look at GET /v1/services/{id}/connections",
			"the service %s has no endpoint connection %q", s.ID, ref)
	case 1:
		return found[0], nil
	}
	var ids []string
	for _, con := range found {
		ids = append(ids, con.Endpoint)
	}
	slices.Sort(ids)
	return nil, api.Errorf(api.CodeAmbiguousName, "endpointIds", fmt.Sprintf("give one of the ids %v", ids),
		"%d endpoints have the name %q", len(found), ref)
}

// decide accepts or rejects endpoints of a service, all of them or none.
func decide(c *call, in *change[api.EndpointsRequest], event api.ConnectionEvent) (*api.List[api.Connection], error) {
	s, err := c.service(in.ID)
	if err != nil {
		return nil, err
	}
	c.subject = s.ID
	if err := atMost("endpointIds", len(in.Body.Endpoints)); err != nil {
		return nil, err
	}
	if event == api.EventReject && in.Body.Caps != nil {
		return nil, api.Errorf(api.CodeInvalidCombination, "caps", "leave them out", "what is rejected has no caps")
	}
	decided := map[string]bool{}
	out := &api.List[api.Connection]{Items: []api.Connection{}}
	for _, ref := range in.Body.Endpoints {
		old, err := c.connection(s, ref)
		if err != nil {
			return nil, err
		}
		if decided[old.ID] {
			continue
		}
		decided[old.ID] = true
		con := *old
		con.Approver, con.DecidedAt = c.who.id(), c.now
		if in.Body.Caps != nil {
			setCaps(s, &con, in.Body.Caps)
			if err := con.Validate(); err != nil {
				return nil, err
			}
		}
		if err := c.move(&con, event); err != nil {
			return nil, onConnection(err, &con)
		}
		if event == api.EventAccept && !mayCarry(old.State) {
			if err := c.roomForConnection(&con, "endpointIds", "endpointIds"); err != nil {
				return nil, err
			}
		}
		out.Items = append(out.Items, con)
		c.subject = con.ID
	}
	if len(out.Items) > 1 {
		c.subject = s.ID
	}
	return out, nil
}

// onConnection says which of several it is about.
func onConnection(err error, con *api.Connection) error {
	e, ok := err.(*api.Error) //nolint:errorlint // Next makes it
	if !ok {
		return err
	}
	n := *e
	n.Field, n.Message = "endpointIds", fmt.Sprintf("%s: %s", con.Endpoint, e.Message)
	return &n
}

// catalogue lists the services that the caller's account may use; all for an administrator who acts for none.
func catalogue(c *call) *api.List[api.CatalogueEntry] {
	out := &api.List[api.CatalogueEntry]{Items: []api.CatalogueEntry{}, Revision: c.r.Revision}
	for _, s := range c.r.Services {
		if s.State != api.ServiceAvailable || c.account != "" && !allows(s, c.account) {
			continue
		}
		e := api.CatalogueEntry{ID: s.ID, ServiceName: c.serviceName(s), Account: s.Account,
			AcceptanceRequired: s.AcceptanceRequired, PrivateDNSName: s.PrivateDNSName, PrivateDNSNames: s.PrivateNames()}
		zones, ports := map[string]bool{}, map[api.Listener]bool{}
		for _, id := range s.LoadBalancers {
			b := c.r.LoadBalancers[id]
			if b == nil {
				continue
			}
			for _, z := range c.zones(b.Subnets) {
				zones[z] = true
			}
			for _, l := range b.Listeners {
				ports[api.Listener{Port: l.Port, Protocol: l.Protocol}] = true
			}
		}
		e.Zones = append([]string{}, slices.Sorted(maps.Keys(zones))...)
		e.Ports = []string{}
		for _, l := range slices.SortedFunc(maps.Keys(ports), func(a, b api.Listener) int {
			return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
		}) {
			e.Ports = append(e.Ports, fmt.Sprintf("%d/%s", l.Port, l.Protocol))
		}
		out.Items = append(out.Items, e)
	}
	slices.SortFunc(out.Items, func(a, b api.CatalogueEntry) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.ServiceName, b.ServiceName))
	})
	return out
}

// allows reports whether an account may make endpoints for a service; its owner always may.
func allows(s *api.Service, account string) bool {
	return s.Account == account || slices.Contains(s.AllowedPrincipals, account) || slices.Contains(s.AllowedPrincipals, everybody)
}

// serviceName is ACCOUNT/NAME, in names.
func (c *call) serviceName(s *api.Service) string {
	owner := s.Account
	if a := c.r.Accounts[s.Account]; a != nil {
		owner = a.Name
	}
	return owner + "/" + s.Name
}

// zones lists the zones of subnets, in their order.
func (c *call) zones(subnets []string) []string {
	var out []string
	for _, id := range subnets {
		if s := c.r.Subnets[id]; s != nil {
			out = append(out, s.Zone)
		}
	}
	return out
}
