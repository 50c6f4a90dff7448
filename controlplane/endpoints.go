package controlplane

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/view"
)

// approverAutomatic stands for the provider that does not want to be asked.
const approverAutomatic = "automatic"

func (s *Server) registerEndpoints() {
	writing(s, operation{http.MethodPost, "/v1/endpoints", "create-endpoint", "Make an endpoint for a service", aUser}, createEndpoint)
	listing(s, operation{http.MethodGet, "/v1/endpoints", "list-endpoints", "Endpoints", aUser},
		func(c *call, in *inVPC) (*api.List[api.Endpoint], error) {
			vpc, err := c.vpcFilter(in.VPC)
			return list(c, c.r.Endpoints, func(e *api.Endpoint) bool { return vpc == "" || e.VPC == vpc }), err
		})
	reading(s, operation{http.MethodGet, "/v1/endpoints/{id}", "get-endpoint", "One endpoint, at once or when it is decided", aUser},
		getEndpoint)
	writing(s, operation{http.MethodPatch, "/v1/endpoints/{id}", "modify-endpoint",
		"Change groups, private DNS, or what its names answer with", aUser}, modifyEndpoint)
	writing(s, operation{http.MethodDelete, "/v1/endpoints/{id}", "delete-endpoint", "Remove an endpoint", aUser}, deleteEndpoint)
}

func (c *call) endpoint(ref string) (*api.Endpoint, error) {
	return find(c, c.r.Endpoints, api.KindEndpoint, "id", ref, nil)
}

// Waiting is what a request may carry that can be answered later.
type Waiting struct {
	WaitSeconds int `query:"waitSeconds" minimum:"0" maximum:"25" doc:"Answer later, when there is something to say"`
}

// getEndpoint answers at once, or waits while the endpoint is on its way to another state.
func getEndpoint(c *call, in *struct {
	ByID
	Waiting
}) (*api.Endpoint, error) {
	w := c.s.newWait(c.ctx, in.WaitSeconds)
	defer w.end()
	for {
		e, err := c.endpoint(in.ID)
		if err != nil || e.State != api.PendingAcceptance && e.State != api.Pending || !w.next() {
			return e, err
		}
		c.r = c.s.store.Snapshot()
	}
}

// serviceNamed finds the service that a consumer names by id or as ACCOUNT/NAME. One that does not allow the account answers
// exactly like one that does not exist.
func (c *call) serviceNamed(ref, account string) (*api.Service, error) {
	s := c.r.Services[ref]
	owner, name, ok := strings.Cut(ref, "/")
	if ok {
		if a := accountByRef(c.r, owner); a != nil {
			for _, o := range c.r.Services {
				if o.Account == a.ID && o.Name == name {
					s = o
				}
			}
		}
	}
	if s == nil || !allows(s, account) {
		return nil, api.Errorf(api.CodeServiceName, "service",
			fmt.Sprintf("take its name, ACCOUNT/NAME, from GET /v1/catalogue, or ask its provider for: culvert service allow %s %s",
				cmp.Or(name, "SERVICE"), account),
			"the endpoint service %q does not exist, or does not allow your account", ref)
	}
	return s, nil
}

// balancerFor picks the load balancer of a service that has most zones in common with an endpoint, the first of equals.
func (c *call) balancerFor(s *api.Service, zones []string) *api.LoadBalancer {
	var best *api.LoadBalancer
	most := -1
	for _, id := range s.LoadBalancers {
		b := c.r.LoadBalancers[id]
		common := 0
		for _, z := range c.zones(b.Subnets) {
			if slices.Contains(zones, z) {
				common++
			}
		}
		if common > most {
			best, most = b, common
		}
	}
	return best
}

func createEndpoint(c *call, in *creation[api.CreateEndpointRequest]) (*api.Endpoint, error) {
	v, err := find(c, c.r.VPCs, api.KindVPC, "vpcId", in.Body.VPC, nil)
	if err != nil {
		return nil, err
	}
	s, err := c.serviceNamed(in.Body.Service, v.Account)
	if err != nil {
		return nil, err
	}
	if err := c.roomForEndpoint(v, s); err != nil {
		return nil, err
	}
	subnets, err := c.spread(v.ID, in.Body.Subnets)
	if err != nil {
		return nil, err
	}
	groups, err := c.groups(v.ID, in.Body.SecurityGroups)
	if err != nil {
		return nil, err
	}
	con := &api.Connection{Meta: c.meta(api.KindConnection, s.Account, in.Body.Name, nil), EndpointAccount: v.Account,
		EndpointVPC: v.ID, Service: s.ID, State: api.InitialConnectionState(s.AcceptanceRequired)}
	e := &api.Endpoint{Meta: c.meta(api.KindEndpoint, v.Account, in.Body.Name, in.Body.Tags), VPC: v.ID, Service: s.ID,
		ServiceName: c.serviceName(s), SecurityGroups: groups, State: con.State, Connection: con.ID,
		PrivateDNSEnabled: in.Body.PrivateDNSEnabled, PrivateDNSPriority: in.Body.PrivateDNSPriority,
		IPAddressType: cmp.Or(in.Body.IPAddressType, api.IPv4Only)}
	con.Endpoint = e.ID
	if err := c.addressEndpoint(e, subnets, in.Body.Addresses); err != nil {
		return nil, err
	}
	owner := c.r.Accounts[s.Account]
	zones := c.zones(e.Subnets)
	e.DNSNames = view.DNSNames(e.ID, s, owner.Name, c.r.Mesh.Region, zones)
	if err := c.checkPrivateDNS(e, true); err != nil {
		return nil, err
	}
	b := c.balancerFor(s, zones)
	con.LoadBalancer = b.ID
	if con.Number, err = c.tx.Number(api.KindConnection); err != nil {
		return nil, err
	}
	if con.TagNumbers, err = newTagger(c).numbers(con, e.ENIs, b.Listeners); err != nil {
		return nil, err
	}
	return c.putEndpoint(e, con)
}

// putEndpoint writes a new endpoint with its connection, and makes it Available where nobody has to be asked.
func (c *call) putEndpoint(e *api.Endpoint, con *api.Connection) (*api.Endpoint, error) {
	if err := put(c, e, c.r.Endpoints, func(o *api.Endpoint) bool { return o.VPC == e.VPC }); err != nil {
		return nil, err
	}
	if err := put(c, con, nil, nil); err != nil {
		return nil, err
	}
	if err := c.roomForConnection(con, "vpcId", "service"); err != nil {
		return nil, err
	}
	if con.State == api.Pending {
		n := *con
		n.Approver, n.DecidedAt = approverAutomatic, c.now
		if err := c.move(&n, api.EventReady); err != nil {
			return nil, err
		}
	}
	return c.r.Endpoints[e.ID], nil
}

// roomForEndpoint checks the service's state and both sides' quotas.
func (c *call) roomForEndpoint(v *api.VPC, s *api.Service) error {
	if s.State != api.ServiceAvailable {
		return api.Errorf(api.CodeIncorrectState, "service", "try again when its provider has made it Available",
			"the endpoint service %s is %s", s.ID, s.State)
	}
	if err := limit(c.r.Endpoints, api.MaxEndpointsPerVPC, "endpoints in the VPC",
		func(e *api.Endpoint) bool { return e.VPC == v.ID }); err != nil {
		return err
	}
	if err := limit(c.r.Connections, api.MaxConnectionsPerService, "endpoint connections of the service",
		func(con *api.Connection) bool { return con.Service == s.ID }); err != nil {
		full := *err.(*api.Error) //nolint:errorlint // limit makes it
		full.Field, full.Remedy = "service", "ask its provider to make room"
		return &full
	}
	if v.Account == s.Account || c.who.admin() {
		return nil
	}
	// A provider cannot take away what it rejected: so one consumer would keep the others from a service that many may use.
	if err := limit(c.r.Connections, api.MaxConnectionsPerService/4, "endpoint connections of the account to the service",
		func(con *api.Connection) bool { return con.Service == s.ID && con.EndpointAccount == v.Account }); err != nil {
		return onField(err, "service", "")
	}
	return nil
}

// addressEndpoint makes an endpoint's interfaces, one per subnet, with the addresses chosen for it or free ones.
func (c *call) addressEndpoint(e *api.Endpoint, subnets []*api.Subnet, chosen map[string]netip.Addr) error {
	addresses := map[string]netip.Addr{}
	for ref, a := range chosen {
		s, err := find(c, c.r.Subnets, api.KindSubnet, "addresses", ref, func(s *api.Subnet) bool { return s.VPC == e.VPC })
		if err != nil {
			return err
		}
		if !slices.Contains(subnets, s) {
			return api.Errorf(api.CodeInvalidParameter, "addresses", "name the subnet in subnetIds too",
				"the endpoint has no address in the subnet %s", s.ID)
		}
		if addresses[s.ID].IsValid() {
			return api.Errorf(api.CodeInvalidParameter, "addresses", "give one address of each subnet",
				"two addresses are given for the subnet %s", s.ID)
		}
		if !a.Is4() {
			return api.Errorf(api.CodeAddressInvalid, "addresses", "give an IPv4 address of the subnet", "%q is not an IPv4 address", a)
		}
		addresses[s.ID] = a
	}
	for _, s := range subnets {
		n, err := c.ownedENI(s, api.ENIEndpoint, e.ID, e.SecurityGroups, addresses[s.ID])
		if err != nil {
			if addresses[s.ID].IsValid() {
				return onField(err, "addresses", "address")
			}
			return onField(err, "subnetIds", "subnetId")
		}
		e.Subnets, e.ENIs = append(e.Subnets, s.ID), append(e.ENIs, n.ID)
	}
	return nil
}

// checkPrivateDNS: the service must have a private name, and no other endpoint of the VPC may have one in common and the same
// priority: it would be chance which of them answers. An endpoint that is new to the names gets none whose domain is not proved.
func (c *call) checkPrivateDNS(e *api.Endpoint, fresh bool) error {
	if !e.PrivateDNSEnabled {
		return nil
	}
	s := c.r.Services[e.Service]
	if s == nil || len(s.PrivateNames()) == 0 {
		return api.Errorf(api.CodeInvalidParameter, "privateDnsEnabled", "leave it out, or ask the provider for a private DNS name",
			"the service %s has no private DNS name", e.ServiceName)
	}
	for _, name := range s.PrivateNames() {
		if fresh && !owns(c.r, s.Account, name) {
			return api.Errorf(api.CodeDomainNotVerified, "privateDnsEnabled", "leave it out, or ask the provider to prove that the domain is its own",
				"the domain of %s is not verified as the provider's", name)
		}
		if z := c.zoneInTheWay(e.VPC, name); z != nil {
			return api.Errorf(api.CodeConflictingDomain, "privateDnsEnabled", "leave it out, or disassociate the hosted zone",
				"the hosted zone %s answers %s in the VPC %s already", z.ID, z.Name, e.VPC)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.r.Endpoints)) {
		o := c.r.Endpoints[id]
		if o.ID == e.ID || o.VPC != e.VPC || !o.PrivateDNSEnabled || o.Priority() != e.Priority() || c.r.Services[o.Service] == nil {
			continue
		}
		for _, name := range c.r.Services[o.Service].PrivateNames() {
			if slices.Contains(s.PrivateNames(), name) {
				return api.Errorf(api.CodeConflictingDomain, "privateDnsEnabled",
					"give it another privateDnsPriority: the endpoint with the smaller one answers; or turn that endpoint's private DNS off",
					"the endpoint %s (%s) of %s answers %s in the VPC %s already, with the same priority %d", o.ID, o.Name, o.ServiceName,
					name, e.VPC, o.Priority())
			}
		}
	}
	return nil
}

// completeNames gives endpoints of before the names that endpoints have since.
func (c *call) completeNames() error {
	left := atOnce
	for _, id := range slices.Sorted(maps.Keys(c.r.Endpoints)) {
		old := c.r.Endpoints[id]
		s := c.r.Services[old.Service]
		if s == nil || c.r.Accounts[s.Account] == nil {
			continue
		}
		names := view.DNSNames(old.ID, s, c.r.Accounts[s.Account].Name, c.r.Mesh.Region, c.zones(old.Subnets))
		if slices.Equal(names, old.DNSNames) {
			continue
		}
		e := *old
		e.DNSNames = names
		if err := put(c, &e, nil, nil); err != nil {
			return err
		}
		c.bySystem("complete-endpoint", e.Account, e.ID)
		if left--; left == 0 {
			break
		}
	}
	return nil
}

// move takes a connection and its endpoint through an event, and from Pending on to Available: whatever has to be allocated is
// there from the start.
func (c *call) move(con *api.Connection, event api.ConnectionEvent) error {
	next, err := con.State.Next(event)
	if err == nil && next == api.Pending {
		next, err = next.Next(api.EventReady)
	}
	if err != nil {
		return err
	}
	con.State = next
	if err := put(c, con, nil, nil); err != nil {
		return err
	}
	if old := c.r.Endpoints[con.Endpoint]; old != nil {
		e := *old
		e.State = next
		return put(c, &e, nil, nil)
	}
	return nil
}

func modifyEndpoint(c *call, in *change[api.ModifyEndpointRequest]) (*api.Endpoint, error) {
	old, err := c.endpoint(in.ID)
	if err != nil {
		return nil, err
	}
	e := *old
	c.subject = e.ID
	con := c.r.Connections[e.Connection]
	if con == nil {
		return nil, api.Errorf(api.CodeIncorrectState, "id", "delete it", "the endpoint %s is %s: %s", e.ID, e.State, e.Message)
	}
	if in.Body.PrivateDNSPriority != nil {
		e.PrivateDNSPriority = *in.Body.PrivateDNSPriority
	}
	if in.Body.PrivateDNSEnabled != nil {
		e.PrivateDNSEnabled = *in.Body.PrivateDNSEnabled
	}
	if in.Body.PrivateDNSEnabled != nil || in.Body.PrivateDNSPriority != nil {
		if err := c.checkPrivateDNS(&e, !old.PrivateDNSEnabled); err != nil {
			return nil, err
		}
	}
	if in.Body.IPAddressType != nil {
		e.IPAddressType = cmp.Or(*in.Body.IPAddressType, api.IPv4Only)
	}
	if in.Body.SecurityGroups != nil {
		if e.SecurityGroups, err = c.groups(e.VPC, *in.Body.SecurityGroups); err != nil {
			return nil, err
		}
		for _, id := range e.ENIs {
			n := *c.r.ENIs[id]
			n.SecurityGroups = e.SecurityGroups
			if err := put(c, &n, nil, nil); err != nil {
				return nil, err
			}
		}
	}
	if err := put(c, &e, nil, nil); err != nil {
		return nil, err
	}
	if e.IPAddressType == api.DualStack && old.IPAddressType != api.DualStack { // names have more addresses
		if err := c.roomForConnection(con, "ipAddressType", "id"); err != nil {
			return nil, err
		}
	}
	n := *con
	if err := c.move(&n, api.EventModify); err != nil {
		return nil, err
	}
	return c.r.Endpoints[e.ID], nil
}

// deleteEndpoint removes the endpoint with its interfaces, its connection and the numbers of that.
func deleteEndpoint(c *call, in *Removal) (*api.Result, error) {
	e, err := c.endpoint(in.ID)
	if err != nil {
		return nil, err
	}
	c.subject = e.ID
	state, err := e.State.Next(api.EventDelete)
	if err != nil {
		return nil, err
	}
	if _, err := state.Next(api.EventRemoved); err != nil {
		return nil, err
	}
	if con := c.r.Connections[e.Connection]; con != nil {
		c.tx.Remove(con)
	}
	for _, id := range e.ENIs {
		c.tx.Remove(c.r.ENIs[id])
	}
	c.tx.Remove(e)
	return &api.Result{}, nil
}

// expireConnections ends what no provider has decided about for too long.
func (c *call) expireConnections() error {
	left := atOnce
	for _, con := range c.r.Connections {
		if con.State != api.PendingAcceptance || c.now.Sub(con.CreatedAt) < c.s.cfg.AcceptanceTimeout {
			continue
		}
		n := *con
		n.DecidedAt = c.now
		if err := c.move(&n, api.EventExpire); err != nil {
			return err
		}
		c.bySystem("expire-connection", con.Account, con.ID)
		if left--; left == 0 {
			break
		}
	}
	return nil
}
