package api

// Kind implementations: the type is the kind.

// Kind returns KindAccount.
func (*Account) Kind() Kind { return KindAccount }

// Kind returns KindVPC.
func (*VPC) Kind() Kind { return KindVPC }

// Kind returns KindSubnet.
func (*Subnet) Kind() Kind { return KindSubnet }

// Kind returns KindENI.
func (*ENI) Kind() Kind { return KindENI }

// Kind returns KindSecurityGroup.
func (*SecurityGroup) Kind() Kind { return KindSecurityGroup }

// Kind returns KindTargetGroup.
func (*TargetGroup) Kind() Kind { return KindTargetGroup }

// Kind returns KindLoadBalancer.
func (*LoadBalancer) Kind() Kind { return KindLoadBalancer }

// Kind returns KindService.
func (*Service) Kind() Kind { return KindService }

// Kind returns KindEndpoint.
func (*Endpoint) Kind() Kind { return KindEndpoint }

// Kind returns KindConnection.
func (*Connection) Kind() Kind { return KindConnection }

// Kind returns KindNode.
func (*Node) Kind() Kind { return KindNode }

// Kind returns KindJoinToken.
func (*JoinToken) Kind() Kind { return KindJoinToken }

// Kind returns KindAPIKey.
func (*APIKey) Kind() Kind { return KindAPIKey }

// Kind returns KindDomain.
func (*Domain) Kind() Kind { return KindDomain }

// Kind returns KindHostedZone.
func (*HostedZone) Kind() Kind { return KindHostedZone }

// Kind returns KindResolverRule.
func (*ResolverRule) Kind() Kind { return KindResolverRule }

// Kind returns KindFirewallDomainList.
func (*FirewallDomainList) Kind() Kind { return KindFirewallDomainList }

// Kind returns KindFirewallRuleGroup.
func (*FirewallRuleGroup) Kind() Kind { return KindFirewallRuleGroup }

// Kind returns KindFlowLog.
func (*FlowLog) Kind() Kind { return KindFlowLog }

// Kind returns KindQueryLog.
func (*QueryLog) Kind() Kind { return KindQueryLog }

// NewResource returns an empty resource of the kind, nil for an unknown one.
func NewResource(k Kind) Resource {
	switch k {
	case KindAccount:
		return new(Account)
	case KindVPC:
		return new(VPC)
	case KindSubnet:
		return new(Subnet)
	case KindENI:
		return new(ENI)
	case KindSecurityGroup:
		return new(SecurityGroup)
	case KindTargetGroup:
		return new(TargetGroup)
	case KindLoadBalancer:
		return new(LoadBalancer)
	case KindService:
		return new(Service)
	case KindEndpoint:
		return new(Endpoint)
	case KindConnection:
		return new(Connection)
	case KindNode:
		return new(Node)
	case KindJoinToken:
		return new(JoinToken)
	case KindAPIKey:
		return new(APIKey)
	case KindDomain:
		return new(Domain)
	case KindHostedZone:
		return new(HostedZone)
	case KindResolverRule:
		return new(ResolverRule)
	case KindFirewallDomainList:
		return new(FirewallDomainList)
	case KindFirewallRuleGroup:
		return new(FirewallRuleGroup)
	case KindFlowLog:
		return new(FlowLog)
	case KindQueryLog:
		return new(QueryLog)
	}
	return nil
}
