package api

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Validate methods check what a resource shows by itself. What depends on others (overlap, existence, ownership, quotas) is
// checked where all of them are known. Every error is an *Error.

// Validate checks name and domains.
func (a *Account) Validate() error {
	e := validateRef(KindAccount, "id", a.ID)
	if e == nil {
		e = ValidateName("name", a.Name)
	}
	if e == nil {
		e = validateTags(a.Tags)
	}
	if e == nil && len(a.Domains) > MaxDomainsPerAccount {
		e = Errorf(CodeLimitExceeded, "domains", "remove some", "at most %d domains are allowed", MaxDomainsPerAccount)
	}
	for _, d := range a.Domains {
		if e == nil {
			e = ValidateDomain("domains", d, 1)
		}
		if e == nil {
			e = outsideReserved("domains", d)
		}
	}
	return firstError(e)
}

// Validate checks name, address range and forwarders.
func (v *VPC) Validate() error {
	errs := []*Error{
		validateMeta(KindVPC, &v.Meta, false), optionalName(v.Name), validateNet(CodeVPCRange, "cidr", v.CIDR),
	}
	if len(v.Forwarders) > MaxForwardersPerVPC {
		errs = append(errs, Errorf(CodeLimitExceeded, "forwarders", "remove some", "at most %d are allowed", MaxForwardersPerVPC))
	}
	for _, f := range v.Forwarders {
		errs = append(errs, ValidateForwarder(f, v.PlainForwarders))
	}
	return firstError(errs...)
}

// Validate checks address range and zone.
func (s *Subnet) Validate() error {
	e := validateNet(CodeSubnetRange, "cidr", s.CIDR)
	if e == nil && (!isLabel(s.Zone) || len(s.Zone) > MaxZoneLen) {
		e = invalid("zone", "use 1 to 32 lower-case letters, digits and hyphens, such as \"a\"", "%q is not a zone", Shortened(s.Zone))
	}
	return firstError(validateMeta(KindSubnet, &s.Meta, false), optionalName(s.Name),
		validateRef(KindVPC, "vpcId", s.VPC), e)
}

// Validate checks type, references and address.
func (n *ENI) Validate() error {
	errs := []*Error{
		validateMeta(KindENI, &n.Meta, false), optionalName(n.Name), validateRef(KindVPC, "vpcId", n.VPC),
		validateRef(KindSubnet, "subnetId", n.Subnet), optionalRef(KindNode, "nodeId", n.Node),
		validateRefs(KindSecurityGroup, "securityGroupIds", n.SecurityGroups, 1, MaxGroupsPerENI),
	}
	if !n.Address.Is4() {
		errs = append(errs, Errorf(CodeAddressInvalid, "address", "give an IPv4 address of the subnet",
			"%q is not an IPv4 address", n.Address.String()))
	}
	errs = append(errs, validateAddressType("ipAddressType", n.IPAddressType))
	switch n.Type {
	case ENIWorkload:
		if n.Owner != "" {
			errs = append(errs, invalid("ownerId", "", "a workload's network interface has no owner"))
		}
	case ENIEndpoint:
		errs = append(errs, validateRef(KindEndpoint, "ownerId", n.Owner))
	case ENILoadBalancer:
		errs = append(errs, validateRef(KindLoadBalancer, "ownerId", n.Owner))
	default:
		errs = append(errs, invalid("type", "", "the type %q is not known", string(n.Type)))
	}
	if n.Type != ENIWorkload && n.Node != "" {
		errs = append(errs, invalid("nodeId", "", "only a workload's network interface is bound to a node"))
	}
	return firstError(errs...)
}

// Validate checks one rule.
func (r *Rule) Validate() error {
	switch r.Protocol {
	case TCP, UDP:
		if r.FromPort == 0 || r.ToPort == 0 {
			return invalid("fromPort", "give fromPort and toPort, 1 and 65535 for every port", "a %s rule needs ports", string(r.Protocol))
		}
		if r.FromPort > r.ToPort {
			return invalid("fromPort", "exchange them", "fromPort %d is above toPort %d", r.FromPort, r.ToPort)
		}
		if r.ICMPType != 0 || r.ICMPCode != 0 {
			return invalid("icmpType", "leave icmpType and icmpCode out", "a %s rule has ports", string(r.Protocol))
		}
	case ICMP, ICMPv6, All:
		if r.FromPort != 0 || r.ToPort != 0 {
			return invalid("fromPort", "leave fromPort and toPort out", "a rule for protocol %q has no ports", string(r.Protocol))
		}
		if e := r.validateICMP(); e != nil {
			return e
		}
	default:
		return invalid("protocol", "give tcp, udp, icmp, icmpv6 or -1 for all", "the protocol %q is not known", Shortened(string(r.Protocol)))
	}
	if r.CIDR.IsValid() == (r.Group != "") {
		return Errorf(CodeInvalidCombination, "cidr", "give one of them", "a rule has either cidr or groupId")
	}
	if r.CIDR.IsValid() {
		if e := r.validateCIDR(); e != nil {
			return e
		}
	} else if e := validateRef(KindSecurityGroup, "groupId", r.Group); e != nil {
		return e
	}
	if utf8.RuneCountInString(r.Description) > MaxDescriptionLen || !printable(r.Description) {
		return invalid("description", fmt.Sprintf("use at most %d printable characters", MaxDescriptionLen), "it is malformed")
	}
	return nil
}

func (r *Rule) validateICMP() *Error {
	switch {
	case r.ICMPType > 256 || r.ICMPCode > 256:
		return invalid("icmpType", "give 0 to 255, or -1 for any", "%d, %d: no type and code of ICMP", r.ICMPType.Number(), r.ICMPCode.Number())
	case r.Protocol == All && (r.ICMPType != 0 || r.ICMPCode != 0):
		return invalid("icmpType", "give the protocol icmp or icmpv6", "a rule for protocol %q has no ICMP type", string(r.Protocol))
	case r.ICMPType == 0 && r.ICMPCode != 0:
		return invalid("icmpCode", "give icmpType too", "a code means something with its type only")
	}
	return nil
}

// validateCIDR: a prefix says which family a rule is for.
func (r *Rule) validateCIDR() *Error {
	switch {
	case r.CIDR.Addr().Is4() && r.Protocol == ICMPv6:
		return invalid("protocol", "give icmp, or an IPv6 prefix such as ::/0", "icmpv6 from %s: that is IPv4", r.CIDR)
	case r.CIDR.Addr().Is4() && r.CIDR != r.CIDR.Masked():
		return invalid("cidr", fmt.Sprintf("write %s", r.CIDR.Masked()), "%s has bits set behind the prefix", r.CIDR)
	case r.CIDR.Addr().Is4():
		return nil
	case r.Protocol == ICMP:
		return invalid("protocol", "give icmpv6, or an IPv4 prefix such as 0.0.0.0/0", "icmp from %s: that is IPv6", r.CIDR)
	}
	return ValidateIPv6Prefix("cidr", r.CIDR)
}

// Validate checks name and rules; two rules of one direction that allow the same are CodePermissionDuplicate.
func (g *SecurityGroup) Validate() error {
	if err := firstError(validateMeta(KindSecurityGroup, &g.Meta, false), ValidateName("name", g.Name),
		validateRef(KindVPC, "vpcId", g.VPC)); err != nil {
		return err
	}
	for _, rules := range [][]Rule{g.Ingress, g.Egress} {
		if len(rules) > MaxRulesPerDirection {
			return Errorf(CodeLimitExceeded, "rules", "merge prefixes or use a second group",
				"%d rules in one direction, at most %d are allowed", len(rules), MaxRulesPerDirection)
		}
		seen := map[Rule]bool{}
		for i := range rules {
			if err := rules[i].Validate(); err != nil {
				return err
			}
			if !IsID(PrefixRule, rules[i].ID) {
				return invalid("id", "", "%q is not the id of a rule", rules[i].ID)
			}
			key := rules[i]
			key.ID, key.Description = "", ""
			if seen[key] {
				return Errorf(CodePermissionDuplicate, "rules", "leave it out", "the rule %s exists already", ruleText(&rules[i]))
			}
			seen[key] = true
		}
	}
	return nil
}

func ruleText(r *Rule) string {
	peer := r.Group
	if r.CIDR.IsValid() {
		peer = r.CIDR.String()
	}
	if r.FromPort == 0 {
		return fmt.Sprintf("%s %s", r.Protocol, peer)
	}
	return fmt.Sprintf("%s %d-%d %s", r.Protocol, r.FromPort, r.ToPort, peer)
}

// Validate checks protocol, port, targets and their tags.
func (g *TargetGroup) Validate() error {
	errs := []*Error{
		validateMeta(KindTargetGroup, &g.Meta, false), optionalName(g.Name), validateRef(KindVPC, "vpcId", g.VPC),
		validateTransport("protocol", g.Protocol), validatePort("port", g.Port),
	}
	if len(g.Targets) > MaxTargetsPerGroup {
		errs = append(errs, Errorf(CodeLimitExceeded, "targets", "use a second target group", "%d targets, at most %d are allowed",
			len(g.Targets), MaxTargetsPerGroup))
	}
	type place struct {
		eni  string
		port uint16
	}
	seen := map[place]bool{}
	for _, t := range g.Targets {
		errs = append(errs, validateRef(KindENI, "eniId", t.ENI))
		if seen[place{t.ENI, t.Port}] {
			errs = append(errs, invalid("targets", "give it once", "%s port %d is given twice", t.ENI, t.Port))
		}
		if t.Weight > MaxTargetWeight {
			errs = append(errs, invalid("weight", fmt.Sprintf("give 0 to %d", MaxTargetWeight), "the weight %d is too large", t.Weight))
		}
		seen[place{t.ENI, t.Port}] = true
	}
	for _, t := range g.Draining {
		errs = append(errs, validateRef(KindENI, "draining", t.ENI), validatePort("draining", t.Port))
	}
	if g.Stickiness != "" && g.Stickiness != SourceIP {
		errs = append(errs, invalid("stickiness", "give source_ip, or nothing", "the stickiness %q is not known", Shortened(g.Stickiness)))
	}
	if g.DeregistrationDelaySeconds > MaxDeregistrationDelay {
		errs = append(errs, invalid("deregistrationDelaySeconds", fmt.Sprintf("give 0 to %d", MaxDeregistrationDelay),
			"%d s is out of range", g.DeregistrationDelaySeconds))
	}
	if e := validateTags(g.TargetTags); e != nil {
		e.Field = "targetTags"
		errs = append(errs, e)
	}
	return firstError(append(errs, g.validateHealth())...)
}

// Validate checks one listener.
func (l *Listener) Validate() error {
	var e *Error
	switch {
	case !IsID(PrefixListener, l.ID):
		e = invalid("id", "", "%q is not the id of a listener", l.ID)
	case l.Protocol == TCP && (l.IdleTimeoutSeconds < MinTCPIdleTimeout || l.IdleTimeoutSeconds > MaxTCPIdleTimeout):
		e = invalid("idleTimeoutSeconds", fmt.Sprintf("give %d to %d", MinTCPIdleTimeout, MaxTCPIdleTimeout),
			"%d s is out of range", l.IdleTimeoutSeconds)
	case l.Protocol == UDP && l.IdleTimeoutSeconds != UDPIdleTimeout:
		e = invalid("idleTimeoutSeconds", "leave it out", "UDP's idle timeout is fixed at %d s", UDPIdleTimeout)
	}
	return firstError(validateTransport("protocol", l.Protocol), validatePort("port", l.Port),
		validateRef(KindTargetGroup, "targetGroupId", l.TargetGroup), e)
}

// Validate checks references and that no two listeners share protocol and port.
func (b *LoadBalancer) Validate() error {
	if err := firstError(validateMeta(KindLoadBalancer, &b.Meta, false), optionalName(b.Name),
		validateRef(KindVPC, "vpcId", b.VPC), validateRefs(KindSubnet, "subnetIds", b.Subnets, 1, MaxSubnetsPerLB),
		validateRefs(KindSecurityGroup, "securityGroupIds", b.SecurityGroups, 0, MaxGroupsPerENI),
		validateRefs(KindENI, "eniIds", b.ENIs, 0, MaxSubnetsPerLB)); err != nil {
		return err
	}
	if len(b.Listeners) > MaxListenersPerLB {
		return Errorf(CodeLimitExceeded, "listeners", "use a second load balancer", "%d listeners, at most %d are allowed",
			len(b.Listeners), MaxListenersPerLB)
	}
	seen := map[string]bool{}
	for i := range b.Listeners {
		l := &b.Listeners[i]
		if err := l.Validate(); err != nil {
			return err
		}
		key := fmt.Sprintf("%d/%s", l.Port, l.Protocol)
		if seen[key] {
			return Errorf(CodeDuplicateName, "port", "choose another port", "a listener for %s exists already", key)
		}
		seen[key] = true
	}
	return nil
}

// Validate checks name, load balancers, principals and private DNS name.
func (s *Service) Validate() error {
	errs := []*Error{
		validateMeta(KindService, &s.Meta, false), ValidateName("name", s.Name),
		validateRefs(KindLoadBalancer, "loadBalancerIds", s.LoadBalancers, 1, MaxLBsPerService),
	}
	if len(s.AllowedPrincipals) > MaxPrincipalsPerService {
		errs = append(errs, Errorf(CodeLimitExceeded, "allowedPrincipals", "remove some", "at most %d are allowed",
			MaxPrincipalsPerService))
	}
	for _, p := range s.AllowedPrincipals {
		if p != "*" && !IsAccountID(p) {
			errs = append(errs, invalid("allowedPrincipals", "give account ids of 12 digits, or \"*\"", "%q is not a principal", Shortened(p)))
		}
	}
	errs = append(errs, s.validateNames())
	switch s.ClientIdentity {
	case "", IdentityLoadBalancer, IdentityProxyProtocol, IdentityClientAddress:
	default:
		errs = append(errs, invalid("clientIdentity", "use loadBalancer, proxyProtocolV2 or clientAddress",
			"%q is no way to tell targets of clients", Shortened(string(s.ClientIdentity))))
	}
	return firstError(append(errs, s.Caps.validate())...)
}

// Validate checks references.
func (p *Endpoint) Validate() error {
	var priority *Error
	if p.PrivateDNSPriority > MaxPrivateDNSPriority {
		priority = invalid("privateDnsPriority", fmt.Sprintf("give %d to %d", MinPrivateDNSPriority, MaxPrivateDNSPriority),
			"the priority %d is out of range", p.PrivateDNSPriority)
	}
	return firstError(priority, validateAddressType("ipAddressType", p.IPAddressType), validateMeta(KindEndpoint, &p.Meta, false), optionalName(p.Name),
		validateRef(KindVPC, "vpcId", p.VPC), validateRef(KindService, "serviceId", p.Service),
		validateRefs(KindSubnet, "subnetIds", p.Subnets, 1, MaxSubnetsPerEndpoint),
		validateRefs(KindSecurityGroup, "securityGroupIds", p.SecurityGroups, 1, MaxGroupsPerENI),
		validateRefs(KindENI, "eniIds", p.ENIs, 0, MaxSubnetsPerEndpoint),
		validateRef(KindConnection, "connectionId", p.Connection))
}

// Validate checks references and tag numbers.
func (c *Connection) Validate() error {
	errs := []*Error{
		validateMeta(KindConnection, &c.Meta, false), validateRef(KindEndpoint, "endpointId", c.Endpoint),
		validateRef(KindAccount, "endpointAccount", c.EndpointAccount), validateRef(KindVPC, "endpointVpcId", c.EndpointVPC),
		validateRef(KindService, "serviceId", c.Service), validateRef(KindLoadBalancer, "loadBalancerId", c.LoadBalancer),
	}
	seen := map[uint16]bool{}
	for _, t := range c.TagNumbers {
		if t.Number == 0 || t.Number > MaxTagNumber || seen[t.Number] {
			errs = append(errs, invalid("tagNumbers", "", "%d is out of range or given twice", t.Number))
		}
		seen[t.Number] = true
	}
	if c.Caps != nil {
		errs = append(errs, c.Caps.validate())
	}
	return firstError(errs...)
}

// Validate checks name, key and underlay addresses (ADDRESS:PORT).
func (n *Node) Validate() error {
	errs := []*Error{validateMeta(KindNode, &n.Meta, true), ValidatePublicKey("publicKey", n.PublicKey)}
	if len(n.Name) > MaxNodeNameLen || looksLikeID(n.Name) {
		errs = append(errs, invalid("name", "choose a DNS name that is not an id", "%q is not a node's name", Shortened(n.Name)))
	}
	for _, l := range strings.Split(n.Name, ".") {
		if !isLabel(l) {
			errs = append(errs, invalid("name", "use a lower-case DNS name, such as \"host-a\"", "%q is not a node's name", Shortened(n.Name)))
		}
	}
	if len(n.Underlay) == 0 {
		errs = append(errs, Errorf(CodeUnderlayAddressMissing, "underlayAddresses", "give --underlay-address",
			"the node's underlay address is not known"))
	}
	if len(n.Underlay) > MaxUnderlayPerNode {
		errs = append(errs, Errorf(CodeLimitExceeded, "underlayAddresses", "remove some", "at most %d are allowed", MaxUnderlayPerNode))
	}
	for i, u := range n.Underlay {
		errs = append(errs, ValidateUnderlay("underlayAddresses", u))
		if slices.Contains(n.Underlay[:i], u) {
			errs = append(errs, invalid("underlayAddresses", "give it once", "%s is given twice", u))
		}
	}
	return firstError(errs...)
}

// Validate checks the label and the node name.
func (t *JoinToken) Validate() error {
	return firstError(validateMeta(KindJoinToken, &t.Meta, true), optionalName(t.Name))
}

// Validate checks that a key is either an account's or an administrator's.
func (k *APIKey) Validate() error {
	var e *Error
	if k.Admin == (k.Account != "") {
		e = Errorf(CodeInvalidCombination, "account", "give an account, or admin",
			"a key is bound to one account or is an administrator's")
	}
	return firstError(validateMeta(KindAPIKey, &k.Meta, true), optionalName(k.Name), e)
}
