package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/culvert-net/culvert/api"
)

type direction int

const (
	ingress direction = iota
	egress
)

// openRules allow all, in either family: what a load balancer without security groups has, as in AWS.
var openRules = []Rule{openRule(netip.IPv4Unspecified()), openRule(netip.IPv6Unspecified())}

func openRule(any netip.Addr) Rule {
	return Rule{Name: OpenRuleName, ID: RuleNumber(OpenRuleName), Protocol: ProtocolAny, PortHigh: 65535,
		Prefix: netip.PrefixFrom(any, 0)}
}

// holder is what has security groups, for errors.
type holder struct {
	field string
	vpc   uint32
	name  string
}

// groupNumbers turns group ids into sorted numbers, and returns the ids without those that are more than LimitGroups, the
// newest: rules only allow, so without a group less passes.
func (c *compiler) groupNumbers(h holder, ids []string) (Groups, []string, error) {
	var groups Groups
	var found []*api.ViewGroup
	for _, id := range ids {
		g := c.groups[id]
		if g == nil {
			return groups, nil, fmt.Errorf("%s: group %q is not in the view", h.field, id)
		}
		found = append(found, g)
	}
	slices.SortFunc(found, func(a, b *api.ViewGroup) int { return cmp.Compare(a.Number, b.Number) })
	found = slices.Compact(found)
	if len(found) > LimitGroups {
		found = found[:LimitGroups]
		c.leave("groups", h.vpc, fmt.Sprintf("a network interface has at most %d", LimitGroups), h.name)
	}
	ids = nil
	for i, g := range found {
		groups[i] = g.Number
		ids = append(ids, g.ID)
	}
	return groups, ids, nil
}

// groupRules is the id of the union of the groups' rules of one direction; 0 when there are none, or too many.
func (c *compiler) groupRules(h holder, ids []string, d direction) (uint32, error) {
	var rules []Rule
	for _, id := range ids {
		g := c.groups[id]
		if g == nil {
			return 0, fmt.Errorf("%s: group %q is not in the view", h.field, id)
		}
		if g.LeftOut != "" {
			c.leave("groups: rules", h.vpc, g.LeftOut, g.ID)
		}
		list := g.Ingress
		if d == egress {
			list = g.Egress
		}
		for _, r := range list {
			rule, err := c.rule(r)
			if err != nil {
				return 0, fmt.Errorf("groups[%q].rules[%q]: %w", id, r.ID, err)
			}
			rules = append(rules, rule)
		}
	}
	set, err := c.sets.id(rules)
	if err != nil { // too many: closed
		c.leave("groups: rules", h.vpc, err.Error(), h.name)
	}
	return set, nil
}

// loadBalancerRules is groupRules, but no groups at all means that all is allowed.
func (c *compiler) loadBalancerRules(h holder, ids []string, d direction) (uint32, error) {
	if len(ids) == 0 {
		return c.sets.id(openRules)
	}
	return c.groupRules(h, ids, d)
}

// protocolNumber is the IANA number of a protocol, ProtocolAny for "-1".
func protocolNumber(p api.Protocol) (uint16, error) {
	switch p {
	case api.TCP:
		return uint16(ProtocolTCP), nil
	case api.UDP:
		return uint16(ProtocolUDP), nil
	case api.ICMP:
		return uint16(ProtocolICMP), nil
	case api.ICMPv6:
		return uint16(ProtocolICMPv6), nil
	case api.All:
		return ProtocolAny, nil
	}
	return 0, fmt.Errorf("protocol: %q", p)
}

// listenerProtocol is the IANA number of a listener's protocol: TCP or UDP.
func listenerProtocol(p api.Protocol) (uint8, error) {
	if p != api.TCP && p != api.UDP {
		return 0, fmt.Errorf("protocol: %q is neither tcp nor udp", p)
	}
	n, err := protocolNumber(p)
	return uint8(n), err
}

// ICMPPort is what rules know an ICMP message by in the place of a port.
func ICMPPort(kind, code uint8) uint16 { return uint16(kind)<<8 | uint16(code) }

// icmpRange is what a rule without ports matches in their place: all, a type with every code, or one of each.
func icmpRange(r api.Rule) (low, high uint16, err error) {
	switch {
	case r.ICMPType == 0 && r.ICMPCode == 0:
		return 0, 65535, nil
	case r.Protocol == api.All || r.ICMPType == 0 || r.ICMPType > 256 || r.ICMPCode > 256:
		return 0, 0, fmt.Errorf("icmpType: %d, code %d with protocol %q", r.ICMPType.Number(), r.ICMPCode.Number(), r.Protocol)
	}
	kind := uint8(r.ICMPType.Number())
	if r.ICMPCode == 0 {
		return ICMPPort(kind, 0), ICMPPort(kind, 255), nil
	}
	code := uint8(r.ICMPCode.Number())
	return ICMPPort(kind, code), ICMPPort(kind, code), nil
}

// rule checks and converts one rule. Protocols without ports match every port, so that the datapath need not ask.
func (c *compiler) rule(r api.Rule) (Rule, error) {
	if err := checkIDs("id", r.ID); err != nil {
		return Rule{}, err
	}
	protocol, err := protocolNumber(r.Protocol)
	if err != nil {
		return Rule{}, err
	}
	rule := Rule{Name: r.ID, ID: RuleNumber(r.ID), Protocol: protocol, PortLow: r.FromPort, PortHigh: r.ToPort}
	switch {
	case r.Protocol == api.TCP || r.Protocol == api.UDP:
		if r.FromPort > r.ToPort {
			return Rule{}, fmt.Errorf("ports: %d is above %d", r.FromPort, r.ToPort)
		}
	case r.FromPort != 0 || r.ToPort != 0:
		return Rule{}, fmt.Errorf("ports: must be 0 with protocol %q", r.Protocol)
	default:
		if rule.PortLow, rule.PortHigh, err = icmpRange(r); err != nil {
			return Rule{}, err
		}
	}
	if (r.Group != "") == r.CIDR.IsValid() {
		return Rule{}, fmt.Errorf("exactly one of cidr and groupId must be set")
	}
	if r.Group == "" {
		rule.Prefix, err = c.rulePrefix(r.Protocol, r.CIDR)
		return rule, err
	}
	g := c.groups[r.Group]
	if g == nil {
		return Rule{}, fmt.Errorf("groupId: %q is not in the view", r.Group)
	}
	rule.Group = g.Number
	return rule, nil
}
