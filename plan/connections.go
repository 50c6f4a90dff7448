package plan

import (
	"fmt"
	"net/netip"

	"github.com/culvert-net/culvert/api"
)

// endpoints fills Services and TargetTables: the consumer's half of connections.
func (c *compiler) endpoints() error {
	tags := map[[2]uint32]bool{}
	seen := map[string]bool{}
	for i := range c.view.Endpoints {
		e := &c.view.Endpoints[i]
		field := fmt.Sprintf("endpoints[%q]", e.ID)
		if err := checkIDs(field, e.ID, e.Connection); err != nil {
			return err
		}
		if seen[e.ID] {
			return fmt.Errorf("%s: twice", field)
		}
		seen[e.ID] = true
		if e.ConnectionNumber == 0 || e.ProviderVPC == 0 {
			return fmt.Errorf("%s: connectionNumber and providerVpc must not be 0", field)
		}
		for _, eni := range e.ENIs {
			if err := c.checkEndpointENI(field, e, eni); err != nil {
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
				if tags[tag] {
					return fmt.Errorf("%s.listeners: tag number %d is taken", field, row.Tag)
				}
				tags[tag] = true
				c.plan.Services = append(c.plan.Services, row)
			}
		}
	}
	return nil
}

// checkEndpointENI demands that an endpoint's ENI stand among the addresses, as the same.
func (c *compiler) checkEndpointENI(field string, e *api.ViewEndpoint, eni api.ViewEndpointENI) error {
	field = fmt.Sprintf("%s.enis[%q]", field, eni.ENI)
	if err := c.checkPlace(field, e.VPC, eni.Address); err != nil {
		return err
	}
	a := c.addressOf[vpcAddr{e.VPC, eni.Address}]
	if a == nil || a.ENI != eni.ENI || a.Number != eni.Number || a.Type != api.ENIEndpoint { // its groups are the address's
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
	table, size, err := c.targetTable(e, l)
	if err != nil {
		return Service{}, err
	}
	return Service{
		VPC: e.VPC, Address: eni.Address, Protocol: protocol, Port: l.Port, Tag: tag, Connection: e.ConnectionNumber,
		ProviderVPC: e.ProviderVPC, Table: table, TableSize: size, EndpointENI: eni.Number,
		IdleSeconds: l.IdleTimeoutSeconds, Endpoint: e.ID,
	}, nil
}

// targetTable is the table of a target group, shared by all services that lead to it: targets of every zone, as
// cross-zone load balancing is always on. The id depends on the size, so that a service never reads a table of another
// size. No targets: 0, 0. Of more than MaxTargets it holds the lowest addresses.
func (c *compiler) targetTable(e *api.ViewEndpoint, l *api.ViewListenerPool) (id, size uint32, err error) {
	var targets []netip.AddrPort
	for _, t := range l.Targets {
		if !t.Address.Is4() || t.Port == 0 {
			return 0, 0, fmt.Errorf("targets: %s port %d", t.Address, t.Port)
		}
		targets = append(targets, netip.AddrPortFrom(t.Address, t.Port))
	}
	text, err := tableText(targets)
	if err != nil {
		return 0, 0, fmt.Errorf("targets: %w", err)
	}
	before, known := c.tableTexts[l.TargetGroup]
	if known && before != text || l.TargetGroup == 0 {
		return 0, 0, fmt.Errorf("targetGroup: number %d is 0, or has other targets elsewhere", l.TargetGroup)
	}
	c.tableTexts[l.TargetGroup] = text
	if len(targets) > MaxTargets {
		c.leave("endpoints: targets", e.VPC, fmt.Sprintf("a target group has at most %d", MaxTargets), e.ID)
		targets = targets[:MaxTargets]
		text = firstLines(text, MaxTargets)
	}
	if size = TableSize(len(targets)); size == 0 {
		return 0, 0, nil
	}
	id = c.tables.id(fmt.Sprintf("target group %d size %d", l.TargetGroup, size))
	if !known {
		c.plan.TargetTables = append(c.plan.TargetTables, TargetTable{ID: id, Size: size, Text: text})
	}
	return id, size, nil
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

// grants fills Grants and GrantTargets: the provider's half of connections.
func (c *compiler) grants() error {
	for i := range c.view.Grants {
		g := &c.view.Grants[i]
		field := fmt.Sprintf("grants[%d/%d]", g.ConsumerVPC, g.Tag)
		row, err := c.grant(field, g)
		if err != nil {
			return fmt.Errorf("%s.%w", field, err)
		}
		if a := c.admitted[g.Endpoint]; a.leftOut != "" {
			c.leave("grants", g.ProviderVPC, a.leftOut, g.Connection)
			continue
		}
		c.plan.Grants = append(c.plan.Grants, row)
		for _, t := range g.Targets {
			target, err := c.grantTarget(g, t)
			if err != nil {
				return fmt.Errorf("%s.targets[%q]: %w", field, t.ENI, err)
			}
			c.plan.GrantTargets = append(c.plan.GrantTargets, target)
		}
	}
	return nil
}

func (c *compiler) grant(field string, g *api.ViewGrant) (Grant, error) {
	row := Grant{
		ConsumerVPC: g.ConsumerVPC, Tag: g.Tag, Connection: g.ConnectionNumber, ProviderVPC: g.ProviderVPC,
		DialedAddress: g.DialedAddress, DialedPort: g.Port, IdleSeconds: g.IdleTimeoutSeconds, ConnectionID: g.Connection,
	}
	if err := checkIDs("connectionId", g.Connection); err != nil {
		return row, err
	}
	vpc := c.vpcs[g.ProviderVPC]
	switch {
	case g.ConsumerVPC == 0 || g.Tag == 0 || g.Tag > api.MaxTagNumber || g.ConnectionNumber == 0:
		return row, fmt.Errorf("tag: consumerVpc %d, tag %d, connectionNumber %d", g.ConsumerVPC, g.Tag, g.ConnectionNumber)
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
	a := c.admitted[g.Endpoint]
	if a == nil {
		return row, fmt.Errorf("endpointId: %q is not among the view's admitted", g.Endpoint)
	}
	row.Admitted = a.set
	h := holder{"loadBalancerGroups", g.ProviderVPC, g.Connection}
	if row.LBRules, err = c.loadBalancerRules(h, g.LoadBalancerGroups, ingress); err != nil {
		return row, err
	}
	row.LBEgressRules, err = c.loadBalancerRules(h, g.LoadBalancerGroups, egress)
	return row, err
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
