package plan

import (
	"fmt"
	"slices"

	"github.com/culvert-net/culvert/api"
)

// endpoints fills Services and TargetTables: the consumer's half of connections, and of load balancers for their own VPC.
func (c *compiler) endpoints() error {
	s := &servicing{compiler: c, tags: map[[2]uint32]bool{}, seen: map[string]bool{}}
	if err := s.add("endpoints", c.view.Endpoints, api.ENIEndpoint); err != nil {
		return err
	}
	return s.add("loadBalancers", c.view.LoadBalancers, api.ENILoadBalancer)
}

type servicing struct {
	*compiler
	tags map[[2]uint32]bool // VPC and number
	seen map[string]bool
}

// add makes the services of a list whose ENIs are of a type.
func (c *servicing) add(list string, endpoints []api.ViewEndpoint, of api.ENIType) error {
	for i := range endpoints {
		e := &endpoints[i]
		field := fmt.Sprintf("%s[%q]", list, e.ID)
		if err := checkIDs(field, e.ID, e.Connection); err != nil {
			return err
		}
		if c.seen[e.ID] {
			return fmt.Errorf("%s: twice", field)
		}
		c.seen[e.ID] = true
		if e.ConnectionNumber == 0 || e.ProviderVPC == 0 || of == api.ENILoadBalancer && e.ProviderVPC != e.VPC {
			return fmt.Errorf("%s: connectionNumber %d, vpc %d, providerVpc %d", field, e.ConnectionNumber, e.VPC, e.ProviderVPC)
		}
		if e.LeftOut != "" {
			c.leave("endpoints: targets", e.VPC, e.LeftOut, e.ID)
		}
		for _, eni := range e.ENIs {
			if err := c.checkEndpointENI(field, e, eni, of); err != nil {
				return err
			}
			for j := range e.Listeners {
				row, err := c.service(e, eni, &e.Listeners[j])
				if err != nil {
					return fmt.Errorf("%s.listeners[%q]: %w", field, e.Listeners[j].Listener, err)
				}
				if row.Tag == 0 {
					continue // no number yet: closed
				}
				tag := [2]uint32{row.VPC, uint32(row.Tag)}
				if c.tags[tag] {
					return fmt.Errorf("%s.listeners: tag number %d is taken", field, row.Tag)
				}
				c.tags[tag] = true
				c.plan.Services = append(c.plan.Services, row)
			}
		}
	}
	return nil
}

// checkEndpointENI demands that an endpoint's or load balancer's ENI stand among the addresses, as the same.
func (c *compiler) checkEndpointENI(field string, e *api.ViewEndpoint, eni api.ViewEndpointENI, of api.ENIType) error {
	field = fmt.Sprintf("%s.enis[%q]", field, eni.ENI)
	if err := c.checkPlace(field, e.VPC, eni.Address); err != nil {
		return err
	}
	a := c.addressOf[vpcAddr{e.VPC, eni.Address}]
	if a == nil || a.ENI != eni.ENI || a.Number != eni.Number || a.Type != of { // its groups are the address's
		return fmt.Errorf("%s: not among the addresses, or different there", field)
	}
	return nil
}

// service is one row; its tag is 0 when the connection has no number for this ENI and listener.
func (c *compiler) service(e *api.ViewEndpoint, eni api.ViewEndpointENI, l *api.ViewListenerPool) (Service, error) {
	protocol, err := listenerProtocol(l.Protocol)
	if err != nil {
		return Service{}, err
	}
	if l.Port == 0 {
		return Service{}, fmt.Errorf("port: 0")
	}
	if err := checkIdle(l.Protocol, l.IdleTimeoutSeconds); err != nil {
		return Service{}, err
	}
	tag := uint16(0)
	for _, t := range l.TagNumbers {
		if t.ENI == eni.ENI && t.Listener == l.Listener {
			tag = t.Number
		}
	}
	if tag > api.MaxTagNumber {
		return Service{}, fmt.Errorf("tagNumbers: %d for %s is above %d", tag, eni.ENI, api.MaxTagNumber)
	}
	table, width, err := c.targetTable(e, eni, l)
	if err != nil {
		return Service{}, err
	}
	return Service{
		VPC: e.VPC, Address: eni.Address, Protocol: protocol, Port: l.Port, Tag: tag, Connection: e.ConnectionNumber,
		ProviderVPC: e.ProviderVPC, Table: table, TableWidth: width, Sticky: l.Sticky, EndpointENI: eni.Number,
		IdleSeconds: l.IdleTimeoutSeconds, Endpoint: e.ID,
	}, nil
}

func checkIdle(p api.Protocol, seconds uint32) error {
	low, high := uint32(api.MinTCPIdleTimeout), uint32(api.MaxTCPIdleTimeout)
	if p == api.UDP {
		low, high = api.UDPIdleTimeout, api.UDPIdleTimeout
	}
	if seconds < low || seconds > high {
		return fmt.Errorf("idleTimeoutSeconds: %d is not in %d..%d", seconds, low, high)
	}
	return nil
}

// grants fills Grants and GrantTargets: the provider's half of connections, and of load balancers for their own VPC.
func (c *compiler) grants() error {
	if err := c.addGrants("grants", c.view.Grants, false); err != nil {
		return err
	}
	return c.addGrants("loadBalancerGrants", c.view.LoadBalancerGrants, true)
}

func (c *compiler) addGrants(list string, grants []api.ViewGrant, inside bool) error {
	for i := range grants {
		g := &grants[i]
		field := fmt.Sprintf("%s[%d/%d]", list, g.ConsumerVPC, g.Tag)
		row, err := c.grant(g, inside)
		if err != nil {
			return fmt.Errorf("%s.%w", field, err)
		}
		if a := c.admitted[g.Endpoint]; !inside && a.leftOut != "" {
			c.leave("grants", g.ProviderVPC, a.leftOut, g.Connection)
			continue
		}
		if leftOut := identify(g, &row); leftOut != "" {
			c.leave("grants", g.ProviderVPC, leftOut, g.Connection)
			continue
		}
		c.plan.Grants = append(c.plan.Grants, row)
		for j, t := range slices.Concat(g.Targets, g.Draining) {
			target, err := c.grantTarget(g, t)
			if err != nil {
				return fmt.Errorf("%s.targets[%q]: %w", field, t.ENI, err)
			}
			target.Draining = j >= len(g.Targets)
			c.plan.GrantTargets = append(c.plan.GrantTargets, target)
		}
	}
	return nil
}

func (c *compiler) grant(g *api.ViewGrant, inside bool) (Grant, error) {
	row := Grant{
		ConsumerVPC: g.ConsumerVPC, Tag: g.Tag, Connection: g.ConnectionNumber, ProviderVPC: g.ProviderVPC,
		DialedAddress: g.DialedAddress, DialedPort: g.Port, IdleSeconds: g.IdleTimeoutSeconds, ConnectionID: g.Connection,
		Endpoint: g.Endpoint, Inside: inside,
	}
	if err := checkIDs("connectionId", g.Connection); err != nil {
		return row, err
	}
	vpc := c.vpcs[g.ProviderVPC]
	switch {
	case g.ConsumerVPC == 0 || g.Tag == 0 || g.Tag > api.MaxTagNumber || g.ConnectionNumber == 0:
		return row, fmt.Errorf("tag: consumerVpc %d, tag %d, connectionNumber %d", g.ConsumerVPC, g.Tag, g.ConnectionNumber)
	case inside && g.ConsumerVPC != g.ProviderVPC:
		return row, fmt.Errorf("consumerVpc: %d is not the load balancer's VPC %d", g.ConsumerVPC, g.ProviderVPC)
	case vpc == nil || !vpc.Local:
		return row, fmt.Errorf("providerVpc: %d is no VPC of this node", g.ProviderVPC)
	case !g.DialedAddress.Is4() || g.Port == 0:
		return row, fmt.Errorf("dialedAddress: %s port %d", g.DialedAddress, g.Port)
	}
	err := checkIdle(g.Protocol, g.IdleTimeoutSeconds)
	if err != nil {
		return row, err
	}
	if row.Protocol, err = listenerProtocol(g.Protocol); err != nil {
		return row, err
	}
	if !inside {
		a := c.admitted[g.Endpoint]
		if a == nil {
			return row, fmt.Errorf("endpointId: %q is not among the view's admitted", g.Endpoint)
		}
		row.Admitted = a.set
	}
	h := holder{"loadBalancerGroups", g.ProviderVPC, g.Connection}
	if row.LBRules, err = c.loadBalancerRules(h, g.LoadBalancerGroups, ingress); err != nil {
		return row, err
	}
	row.LBEgressRules, err = c.loadBalancerRules(h, g.LoadBalancerGroups, egress)
	return row, err
}

// identify says what targets learn of clients. A grant whose targets expect what this node cannot give is left out, closed: they
// would take for a header what a client writes.
func identify(g *api.ViewGrant, row *Grant) (leftOut string) {
	switch g.ClientIdentity {
	case "", api.IdentityLoadBalancer:
	case api.IdentityProxyProtocol:
		if len(g.Endpoint) > MaxEndpointID {
			return fmt.Sprintf("an endpoint's id in a PROXY protocol header has at most %d bytes", MaxEndpointID)
		}
		row.ProxyHeader = row.Protocol == ProtocolTCP
	case api.IdentityClientAddress:
		row.ClientAddress = true
	default:
		return fmt.Sprintf("this agent does not know the client identity %q", api.Shortened(string(g.ClientIdentity)))
	}
	return ""
}

// admission is whom an endpoint lets in: a rule set, or nobody, and why.
type admission struct {
	set     uint32
	leftOut string
}

// admissions reads whom the endpoints that have grants here let in. They are prefixes only: the provider's node does not know the
// consumer's groups. What is too much closes that endpoint.
func (c *compiler) admissions() error {
	for _, a := range c.view.Admitted {
		field := fmt.Sprintf("admitted[%q]", a.Endpoint)
		if err := checkIDs(field, a.Endpoint); err != nil {
			return err
		}
		if c.admitted[a.Endpoint] != nil {
			return fmt.Errorf("%s: twice", field)
		}
		var rules []Rule
		for _, r := range a.Rules {
			if r.Group != "" {
				return fmt.Errorf("%s.rules[%q].groupId: must be resolved to prefixes", field, r.ID)
			}
			rule, err := c.rule(r)
			if err != nil {
				return fmt.Errorf("%s.rules[%q]: %w", field, r.ID, err)
			}
			rules = append(rules, rule)
		}
		out := &admission{leftOut: a.LeftOut}
		c.admitted[a.Endpoint] = out
		if out.leftOut != "" {
			continue
		}
		var err error
		if out.set, err = c.sets.id(merged(rules)); err != nil {
			out.leftOut = err.Error()
		}
	}
	return nil
}

func (c *compiler) grantTarget(g *api.ViewGrant, t api.ViewGrantTarget) (GrantTarget, error) {
	if e := c.eniOf[vpcAddr{g.ProviderVPC, t.Address}]; e == nil || e.ID != t.ENI || t.Port == 0 {
		return GrantTarget{}, fmt.Errorf("%s port %d of VPC %d is not hosted here", t.Address, t.Port, g.ProviderVPC)
	}
	source := c.addressOf[vpcAddr{g.ProviderVPC, t.Source}]
	if source == nil || source.ENI != t.SNATENI || source.Type != api.ENILoadBalancer {
		return GrantTarget{}, fmt.Errorf("source: %s is no load balancer's address of VPC %d", t.Source, g.ProviderVPC)
	}
	return GrantTarget{
		ConsumerVPC: g.ConsumerVPC, Tag: g.Tag, Address: t.Address, Port: t.Port, Source: t.Source, SourceENI: source.Number,
	}, nil
}
