package api

import "maps"

// Resources is a consistent picture of everything, keyed by id. Whoever holds one may read it, nobody may change it.
type Resources struct {
	Revision       int64
	Mesh           Mesh
	Accounts       map[string]*Account
	VPCs           map[string]*VPC
	Subnets        map[string]*Subnet
	ENIs           map[string]*ENI
	SecurityGroups map[string]*SecurityGroup
	TargetGroups   map[string]*TargetGroup
	LoadBalancers  map[string]*LoadBalancer
	Services       map[string]*Service
	Endpoints      map[string]*Endpoint
	Connections    map[string]*Connection
	Nodes          map[string]*Node
	JoinTokens     map[string]*JoinToken
	APIKeys        map[string]*APIKey
	Domains        map[string]*Domain
	HostedZones    map[string]*HostedZone
	ResolverRules  map[string]*ResolverRule

	FirewallDomainLists map[string]*FirewallDomainList
	FirewallRuleGroups  map[string]*FirewallRuleGroup
	FlowLogs            map[string]*FlowLog
	QueryLogs           map[string]*QueryLog
}

// NewResources returns an empty picture with every map made.
func NewResources() *Resources {
	return &Resources{
		Accounts: map[string]*Account{}, VPCs: map[string]*VPC{}, Subnets: map[string]*Subnet{},
		ENIs: map[string]*ENI{}, SecurityGroups: map[string]*SecurityGroup{},
		TargetGroups: map[string]*TargetGroup{}, LoadBalancers: map[string]*LoadBalancer{},
		Services: map[string]*Service{}, Endpoints: map[string]*Endpoint{},
		Connections: map[string]*Connection{}, Nodes: map[string]*Node{},
		JoinTokens: map[string]*JoinToken{}, APIKeys: map[string]*APIKey{},
		Domains: map[string]*Domain{}, HostedZones: map[string]*HostedZone{},
		ResolverRules: map[string]*ResolverRule{}, FirewallRuleGroups: map[string]*FirewallRuleGroup{},
		FirewallDomainLists: map[string]*FirewallDomainList{},
		FlowLogs:            map[string]*FlowLog{},
		QueryLogs:           map[string]*QueryLog{},
	}
}

// Put adds or replaces a resource.
func (r *Resources) Put(res Resource) {
	id := res.GetMeta().ID
	switch v := res.(type) {
	case *Account:
		r.Accounts[id] = v
	case *VPC:
		r.VPCs[id] = v
	case *Subnet:
		r.Subnets[id] = v
	case *ENI:
		r.ENIs[id] = v
	case *SecurityGroup:
		r.SecurityGroups[id] = v
	case *TargetGroup:
		r.TargetGroups[id] = v
	case *LoadBalancer:
		r.LoadBalancers[id] = v
	case *Service:
		r.Services[id] = v
	case *Endpoint:
		r.Endpoints[id] = v
	case *Connection:
		r.Connections[id] = v
	case *Node:
		r.Nodes[id] = v
	case *JoinToken:
		r.JoinTokens[id] = v
	case *APIKey:
		r.APIKeys[id] = v
	case *Domain:
		r.Domains[id] = v
	case *HostedZone:
		r.HostedZones[id] = v
	case *ResolverRule:
		r.ResolverRules[id] = v
	case *FirewallDomainList:
		r.FirewallDomainLists[id] = v
	case *FirewallRuleGroup:
		r.FirewallRuleGroups[id] = v
	case *FlowLog:
		r.FlowLogs[id] = v
	case *QueryLog:
		r.QueryLogs[id] = v
	}
}

// Get returns a resource, nil where there is none.
func (r *Resources) Get(k Kind, id string) Resource {
	switch k {
	case KindAccount:
		return got(r.Accounts[id])
	case KindVPC:
		return got(r.VPCs[id])
	case KindSubnet:
		return got(r.Subnets[id])
	case KindENI:
		return got(r.ENIs[id])
	case KindSecurityGroup:
		return got(r.SecurityGroups[id])
	case KindTargetGroup:
		return got(r.TargetGroups[id])
	case KindLoadBalancer:
		return got(r.LoadBalancers[id])
	case KindService:
		return got(r.Services[id])
	case KindEndpoint:
		return got(r.Endpoints[id])
	case KindConnection:
		return got(r.Connections[id])
	case KindNode:
		return got(r.Nodes[id])
	case KindJoinToken:
		return got(r.JoinTokens[id])
	case KindAPIKey:
		return got(r.APIKeys[id])
	case KindDomain:
		return got(r.Domains[id])
	case KindHostedZone:
		return got(r.HostedZones[id])
	case KindResolverRule:
		return got(r.ResolverRules[id])
	case KindFirewallDomainList:
		return got(r.FirewallDomainLists[id])
	case KindFirewallRuleGroup:
		return got(r.FirewallRuleGroups[id])
	case KindFlowLog:
		return got(r.FlowLogs[id])
	case KindQueryLog:
		return got(r.QueryLogs[id])
	}
	return nil
}

// got makes a missing resource a plain nil.
func got[P interface {
	*T
	Resource
}, T any](p P) Resource {
	if p == nil {
		return nil
	}
	return p
}

// Remove deletes a resource; one that is absent stays absent.
func (r *Resources) Remove(k Kind, id string) {
	switch k {
	case KindAccount:
		delete(r.Accounts, id)
	case KindVPC:
		delete(r.VPCs, id)
	case KindSubnet:
		delete(r.Subnets, id)
	case KindENI:
		delete(r.ENIs, id)
	case KindSecurityGroup:
		delete(r.SecurityGroups, id)
	case KindTargetGroup:
		delete(r.TargetGroups, id)
	case KindLoadBalancer:
		delete(r.LoadBalancers, id)
	case KindService:
		delete(r.Services, id)
	case KindEndpoint:
		delete(r.Endpoints, id)
	case KindConnection:
		delete(r.Connections, id)
	case KindNode:
		delete(r.Nodes, id)
	case KindJoinToken:
		delete(r.JoinTokens, id)
	case KindAPIKey:
		delete(r.APIKeys, id)
	case KindDomain:
		delete(r.Domains, id)
	case KindHostedZone:
		delete(r.HostedZones, id)
	case KindResolverRule:
		delete(r.ResolverRules, id)
	case KindFirewallDomainList:
		delete(r.FirewallDomainLists, id)
	case KindFirewallRuleGroup:
		delete(r.FirewallRuleGroups, id)
	case KindFlowLog:
		delete(r.FlowLogs, id)
	case KindQueryLog:
		delete(r.QueryLogs, id)
	}
}

// CloneKind gives r a map of its own for one kind, so that Put and Remove no longer reach whom r was copied from. The
// resources in it stay shared.
func (r *Resources) CloneKind(k Kind) {
	switch k {
	case KindAccount:
		r.Accounts = maps.Clone(r.Accounts)
	case KindVPC:
		r.VPCs = maps.Clone(r.VPCs)
	case KindSubnet:
		r.Subnets = maps.Clone(r.Subnets)
	case KindENI:
		r.ENIs = maps.Clone(r.ENIs)
	case KindSecurityGroup:
		r.SecurityGroups = maps.Clone(r.SecurityGroups)
	case KindTargetGroup:
		r.TargetGroups = maps.Clone(r.TargetGroups)
	case KindLoadBalancer:
		r.LoadBalancers = maps.Clone(r.LoadBalancers)
	case KindService:
		r.Services = maps.Clone(r.Services)
	case KindEndpoint:
		r.Endpoints = maps.Clone(r.Endpoints)
	case KindConnection:
		r.Connections = maps.Clone(r.Connections)
	case KindNode:
		r.Nodes = maps.Clone(r.Nodes)
	case KindJoinToken:
		r.JoinTokens = maps.Clone(r.JoinTokens)
	case KindAPIKey:
		r.APIKeys = maps.Clone(r.APIKeys)
	case KindDomain:
		r.Domains = maps.Clone(r.Domains)
	case KindHostedZone:
		r.HostedZones = maps.Clone(r.HostedZones)
	case KindResolverRule:
		r.ResolverRules = maps.Clone(r.ResolverRules)
	case KindFirewallDomainList:
		r.FirewallDomainLists = maps.Clone(r.FirewallDomainLists)
	case KindFirewallRuleGroup:
		r.FirewallRuleGroups = maps.Clone(r.FirewallRuleGroups)
	case KindFlowLog:
		r.FlowLogs = maps.Clone(r.FlowLogs)
	case KindQueryLog:
		r.QueryLogs = maps.Clone(r.QueryLogs)
	}
}

// Each calls f for every resource of a kind, in no order, until f returns false.
func (r *Resources) Each(k Kind, f func(Resource) bool) {
	switch k {
	case KindAccount:
		each(r.Accounts, f)
	case KindVPC:
		each(r.VPCs, f)
	case KindSubnet:
		each(r.Subnets, f)
	case KindENI:
		each(r.ENIs, f)
	case KindSecurityGroup:
		each(r.SecurityGroups, f)
	case KindTargetGroup:
		each(r.TargetGroups, f)
	case KindLoadBalancer:
		each(r.LoadBalancers, f)
	case KindService:
		each(r.Services, f)
	case KindEndpoint:
		each(r.Endpoints, f)
	case KindConnection:
		each(r.Connections, f)
	case KindNode:
		each(r.Nodes, f)
	case KindJoinToken:
		each(r.JoinTokens, f)
	case KindAPIKey:
		each(r.APIKeys, f)
	case KindDomain:
		each(r.Domains, f)
	case KindHostedZone:
		each(r.HostedZones, f)
	case KindResolverRule:
		each(r.ResolverRules, f)
	case KindFirewallDomainList:
		each(r.FirewallDomainLists, f)
	case KindFirewallRuleGroup:
		each(r.FirewallRuleGroups, f)
	case KindFlowLog:
		each(r.FlowLogs, f)
	case KindQueryLog:
		each(r.QueryLogs, f)
	}
}

func each[T Resource](m map[string]T, f func(Resource) bool) {
	for _, v := range m {
		if !f(v) {
			return
		}
	}
}
