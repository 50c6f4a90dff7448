package client

import (
	"context"
	"net/http"

	"github.com/culvert-net/culvert/api"
)

// Create, list, get, modify and delete of every kind. An argument "ref" is an id or a name.

// CreateAccount makes one; administrators only.
func (c *Client) CreateAccount(ctx context.Context, r api.CreateAccountRequest, o ...Option) (*api.Account, error) {
	return create[api.Account](ctx, c, http.MethodPost, "/v1/accounts", r, o...)
}

// ListAccounts returns all that the caller may see.
func (c *Client) ListAccounts(ctx context.Context, o ...Option) ([]api.Account, error) {
	return list[api.Account](ctx, c, "/v1/accounts", o...)
}

// GetAccount returns one.
func (c *Client) GetAccount(ctx context.Context, ref string, o ...Option) (*api.Account, error) {
	return get[api.Account](ctx, c, "/v1/accounts/"+segment(ref), o...)
}

// DeleteAccount removes one; DependencyViolation names what still needs it.
func (c *Client) DeleteAccount(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/accounts/"+segment(ref), nil, o...)
}

// CreateVPC makes one.
func (c *Client) CreateVPC(ctx context.Context, r api.CreateVPCRequest, o ...Option) (*api.VPC, error) {
	return create[api.VPC](ctx, c, http.MethodPost, "/v1/vpcs", r, o...)
}

// ListVPCs returns all that the caller may see.
func (c *Client) ListVPCs(ctx context.Context, o ...Option) ([]api.VPC, error) {
	return list[api.VPC](ctx, c, "/v1/vpcs", o...)
}

// GetVPC returns one.
func (c *Client) GetVPC(ctx context.Context, ref string, o ...Option) (*api.VPC, error) {
	return get[api.VPC](ctx, c, "/v1/vpcs/"+segment(ref), o...)
}

// ModifyVPC changes the fields that are set.
func (c *Client) ModifyVPC(ctx context.Context, ref string, r api.ModifyVPCRequest, o ...Option) (*api.VPC, error) {
	return send[api.VPC](ctx, c, http.MethodPatch, "/v1/vpcs/"+segment(ref), r, o...)
}

// DeleteVPC removes one; DependencyViolation names what still needs it.
func (c *Client) DeleteVPC(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/vpcs/"+segment(ref), nil, o...)
}

// CreateSubnet makes one.
func (c *Client) CreateSubnet(ctx context.Context, r api.CreateSubnetRequest, o ...Option) (*api.Subnet, error) {
	return create[api.Subnet](ctx, c, http.MethodPost, "/v1/subnets", r, o...)
}

// ListSubnets returns all that the caller may see.
func (c *Client) ListSubnets(ctx context.Context, o ...Option) ([]api.Subnet, error) {
	return list[api.Subnet](ctx, c, "/v1/subnets", o...)
}

// GetSubnet returns one.
func (c *Client) GetSubnet(ctx context.Context, ref string, o ...Option) (*api.Subnet, error) {
	return get[api.Subnet](ctx, c, "/v1/subnets/"+segment(ref), o...)
}

// DeleteSubnet removes one; DependencyViolation names what still needs it.
func (c *Client) DeleteSubnet(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/subnets/"+segment(ref), nil, o...)
}

// CreateENI makes one.
func (c *Client) CreateENI(ctx context.Context, r api.CreateENIRequest, o ...Option) (*api.ENI, error) {
	return create[api.ENI](ctx, c, http.MethodPost, "/v1/enis", r, o...)
}

// ListENIs returns all that the caller may see.
func (c *Client) ListENIs(ctx context.Context, o ...Option) ([]api.ENI, error) {
	return list[api.ENI](ctx, c, "/v1/enis", o...)
}

// GetENI returns one.
func (c *Client) GetENI(ctx context.Context, ref string, o ...Option) (*api.ENI, error) {
	return get[api.ENI](ctx, c, "/v1/enis/"+segment(ref), o...)
}

// ModifyENI changes the fields that are set.
func (c *Client) ModifyENI(ctx context.Context, ref string, r api.ModifyENIRequest, o ...Option) (*api.ENI, error) {
	return send[api.ENI](ctx, c, http.MethodPatch, "/v1/enis/"+segment(ref), r, o...)
}

// DeleteENI removes one; DependencyViolation names what still needs it.
func (c *Client) DeleteENI(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/enis/"+segment(ref), nil, o...)
}

// CreateSecurityGroup makes one.
func (c *Client) CreateSecurityGroup(ctx context.Context, r api.CreateSecurityGroupRequest, o ...Option) (*api.SecurityGroup, error) {
	return create[api.SecurityGroup](ctx, c, http.MethodPost, "/v1/security-groups", r, o...)
}

// ListSecurityGroups returns all that the caller may see.
func (c *Client) ListSecurityGroups(ctx context.Context, o ...Option) ([]api.SecurityGroup, error) {
	return list[api.SecurityGroup](ctx, c, "/v1/security-groups", o...)
}

// GetSecurityGroup returns one.
func (c *Client) GetSecurityGroup(ctx context.Context, ref string, o ...Option) (*api.SecurityGroup, error) {
	return get[api.SecurityGroup](ctx, c, "/v1/security-groups/"+segment(ref), o...)
}

// DeleteSecurityGroup removes one; DependencyViolation names what still needs it.
func (c *Client) DeleteSecurityGroup(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/security-groups/"+segment(ref), nil, o...)
}

// CreateTargetGroup makes one.
func (c *Client) CreateTargetGroup(ctx context.Context, r api.CreateTargetGroupRequest, o ...Option) (*api.TargetGroup, error) {
	return create[api.TargetGroup](ctx, c, http.MethodPost, "/v1/target-groups", r, o...)
}

// ListTargetGroups returns all that the caller may see.
func (c *Client) ListTargetGroups(ctx context.Context, o ...Option) ([]api.TargetGroup, error) {
	return list[api.TargetGroup](ctx, c, "/v1/target-groups", o...)
}

// GetTargetGroup returns one.
func (c *Client) GetTargetGroup(ctx context.Context, ref string, o ...Option) (*api.TargetGroup, error) {
	return get[api.TargetGroup](ctx, c, "/v1/target-groups/"+segment(ref), o...)
}

// ModifyTargetGroup changes the fields that are set.
func (c *Client) ModifyTargetGroup(ctx context.Context, ref string, r api.ModifyTargetGroupRequest, o ...Option) (
	*api.TargetGroup, error,
) {
	return send[api.TargetGroup](ctx, c, http.MethodPatch, "/v1/target-groups/"+segment(ref), r, o...)
}

// DeleteTargetGroup removes one; DependencyViolation names what still needs it.
func (c *Client) DeleteTargetGroup(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/target-groups/"+segment(ref), nil, o...)
}

// CreateLoadBalancer makes one.
func (c *Client) CreateLoadBalancer(ctx context.Context, r api.CreateLoadBalancerRequest, o ...Option) (*api.LoadBalancer, error) {
	return create[api.LoadBalancer](ctx, c, http.MethodPost, "/v1/load-balancers", r, o...)
}

// ListLoadBalancers returns all that the caller may see.
func (c *Client) ListLoadBalancers(ctx context.Context, o ...Option) ([]api.LoadBalancer, error) {
	return list[api.LoadBalancer](ctx, c, "/v1/load-balancers", o...)
}

// GetLoadBalancer returns one.
func (c *Client) GetLoadBalancer(ctx context.Context, ref string, o ...Option) (*api.LoadBalancer, error) {
	return get[api.LoadBalancer](ctx, c, "/v1/load-balancers/"+segment(ref), o...)
}

// ModifyLoadBalancer changes the fields that are set.
func (c *Client) ModifyLoadBalancer(ctx context.Context, ref string, r api.ModifyLoadBalancerRequest, o ...Option) (
	*api.LoadBalancer, error,
) {
	return send[api.LoadBalancer](ctx, c, http.MethodPatch, "/v1/load-balancers/"+segment(ref), r, o...)
}

// DeleteLoadBalancer removes one; DependencyViolation names what still needs it.
func (c *Client) DeleteLoadBalancer(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/load-balancers/"+segment(ref), nil, o...)
}

// CreateService makes one.
func (c *Client) CreateService(ctx context.Context, r api.CreateServiceRequest, o ...Option) (*api.Service, error) {
	return create[api.Service](ctx, c, http.MethodPost, "/v1/services", r, o...)
}

// ListServices returns all that the caller may see.
func (c *Client) ListServices(ctx context.Context, o ...Option) ([]api.Service, error) {
	return list[api.Service](ctx, c, "/v1/services", o...)
}

// GetService returns one.
func (c *Client) GetService(ctx context.Context, ref string, o ...Option) (*api.Service, error) {
	return get[api.Service](ctx, c, "/v1/services/"+segment(ref), o...)
}

// ModifyService changes the fields that are set.
func (c *Client) ModifyService(ctx context.Context, ref string, r api.ModifyServiceRequest, o ...Option) (*api.Service, error) {
	return send[api.Service](ctx, c, http.MethodPatch, "/v1/services/"+segment(ref), r, o...)
}

// DeleteService removes one; DependencyViolation names what still needs it.
func (c *Client) DeleteService(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/services/"+segment(ref), nil, o...)
}

// CreateEndpoint makes one.
func (c *Client) CreateEndpoint(ctx context.Context, r api.CreateEndpointRequest, o ...Option) (*api.Endpoint, error) {
	return create[api.Endpoint](ctx, c, http.MethodPost, "/v1/endpoints", r, o...)
}

// ListEndpoints returns all that the caller may see.
func (c *Client) ListEndpoints(ctx context.Context, o ...Option) ([]api.Endpoint, error) {
	return list[api.Endpoint](ctx, c, "/v1/endpoints", o...)
}

// GetEndpoint returns one.
func (c *Client) GetEndpoint(ctx context.Context, ref string, o ...Option) (*api.Endpoint, error) {
	return get[api.Endpoint](ctx, c, "/v1/endpoints/"+segment(ref), o...)
}

// ModifyEndpoint changes the fields that are set.
func (c *Client) ModifyEndpoint(ctx context.Context, ref string, r api.ModifyEndpointRequest, o ...Option) (*api.Endpoint, error) {
	return send[api.Endpoint](ctx, c, http.MethodPatch, "/v1/endpoints/"+segment(ref), r, o...)
}

// DeleteEndpoint removes one; DependencyViolation names what still needs it.
func (c *Client) DeleteEndpoint(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/endpoints/"+segment(ref), nil, o...)
}

// CreateDomain asks for the proof that a domain is the account's.
func (c *Client) CreateDomain(ctx context.Context, r api.CreateDomainRequest, o ...Option) (*api.Domain, error) {
	return create[api.Domain](ctx, c, http.MethodPost, "/v1/domains", r, o...)
}

// ListDomains returns all that the caller may see.
func (c *Client) ListDomains(ctx context.Context, o ...Option) ([]api.Domain, error) {
	return list[api.Domain](ctx, c, "/v1/domains", o...)
}

// GetDomain returns one.
func (c *Client) GetDomain(ctx context.Context, ref string, o ...Option) (*api.Domain, error) {
	return get[api.Domain](ctx, c, "/v1/domains/"+segment(ref), o...)
}

// VerifyDomain looks for the record again.
func (c *Client) VerifyDomain(ctx context.Context, ref string, o ...Option) (*api.Domain, error) {
	return send[api.Domain](ctx, c, http.MethodPost, "/v1/domains/"+segment(ref)+"/verify", nil, o...)
}

// DeleteDomain removes one; DependencyViolation names what still needs it.
func (c *Client) DeleteDomain(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/domains/"+segment(ref), nil, o...)
}

// CreateHostedZone makes one.
func (c *Client) CreateHostedZone(ctx context.Context, r api.CreateHostedZoneRequest, o ...Option) (*api.HostedZone, error) {
	return create[api.HostedZone](ctx, c, http.MethodPost, "/v1/hosted-zones", r, o...)
}

// ListHostedZones returns all that the caller may see.
func (c *Client) ListHostedZones(ctx context.Context, o ...Option) ([]api.HostedZone, error) {
	return list[api.HostedZone](ctx, c, "/v1/hosted-zones", o...)
}

// GetHostedZone returns one.
func (c *Client) GetHostedZone(ctx context.Context, ref string, o ...Option) (*api.HostedZone, error) {
	return get[api.HostedZone](ctx, c, "/v1/hosted-zones/"+segment(ref), o...)
}

// DeleteHostedZone removes one with its records.
func (c *Client) DeleteHostedZone(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/hosted-zones/"+segment(ref), nil, o...)
}

// AssociateHostedZone lets VPCs see a zone's names.
func (c *Client) AssociateHostedZone(ctx context.Context, ref string, vpcs []string, o ...Option) (*api.HostedZone, error) {
	return send[api.HostedZone](ctx, c, http.MethodPost, "/v1/hosted-zones/"+segment(ref)+"/associate", api.VPCsRequest{VPCs: vpcs}, o...)
}

// DisassociateHostedZone takes that back.
func (c *Client) DisassociateHostedZone(ctx context.Context, ref string, vpcs []string, o ...Option) (*api.HostedZone, error) {
	return send[api.HostedZone](ctx, c, http.MethodPost, "/v1/hosted-zones/"+segment(ref)+"/disassociate", api.VPCsRequest{VPCs: vpcs}, o...)
}

// ChangeRecords puts and removes record sets: all of them or none.
func (c *Client) ChangeRecords(ctx context.Context, ref string, r api.ChangeRecordsRequest, o ...Option) (*api.HostedZone, error) {
	return send[api.HostedZone](ctx, c, http.MethodPost, "/v1/hosted-zones/"+segment(ref)+"/records", r, o...)
}

// CreateResolverRule makes one.
func (c *Client) CreateResolverRule(ctx context.Context, r api.CreateResolverRuleRequest, o ...Option) (*api.ResolverRule, error) {
	return create[api.ResolverRule](ctx, c, http.MethodPost, "/v1/resolver-rules", r, o...)
}

// ListResolverRules returns all that the caller may see.
func (c *Client) ListResolverRules(ctx context.Context, o ...Option) ([]api.ResolverRule, error) {
	return list[api.ResolverRule](ctx, c, "/v1/resolver-rules", o...)
}

// GetResolverRule returns one.
func (c *Client) GetResolverRule(ctx context.Context, ref string, o ...Option) (*api.ResolverRule, error) {
	return get[api.ResolverRule](ctx, c, "/v1/resolver-rules/"+segment(ref), o...)
}

// ModifyResolverRule changes the fields that are set.
func (c *Client) ModifyResolverRule(ctx context.Context, ref string, r api.ModifyResolverRuleRequest, o ...Option) (*api.ResolverRule, error) {
	return send[api.ResolverRule](ctx, c, http.MethodPatch, "/v1/resolver-rules/"+segment(ref), r, o...)
}

// AssociateResolverRule has it decide for more VPCs.
func (c *Client) AssociateResolverRule(ctx context.Context, ref string, vpcs []string, o ...Option) (*api.ResolverRule, error) {
	return send[api.ResolverRule](ctx, c, http.MethodPost, "/v1/resolver-rules/"+segment(ref)+"/associate", api.VPCsRequest{VPCs: vpcs}, o...)
}

// DisassociateResolverRule takes VPCs out.
func (c *Client) DisassociateResolverRule(ctx context.Context, ref string, vpcs []string, o ...Option) (*api.ResolverRule, error) {
	return send[api.ResolverRule](ctx, c, http.MethodPost, "/v1/resolver-rules/"+segment(ref)+"/disassociate", api.VPCsRequest{VPCs: vpcs}, o...)
}

// DeleteResolverRule removes one.
func (c *Client) DeleteResolverRule(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/resolver-rules/"+segment(ref), nil, o...)
}

// CreateFirewallRuleGroup makes one without rules.
func (c *Client) CreateFirewallRuleGroup(ctx context.Context, r api.CreateFirewallRuleGroupRequest, o ...Option) (*api.FirewallRuleGroup, error) {
	return create[api.FirewallRuleGroup](ctx, c, http.MethodPost, "/v1/firewall-rule-groups", r, o...)
}

// ListFirewallRuleGroups returns all that the caller may see.
func (c *Client) ListFirewallRuleGroups(ctx context.Context, o ...Option) ([]api.FirewallRuleGroup, error) {
	return list[api.FirewallRuleGroup](ctx, c, "/v1/firewall-rule-groups", o...)
}

// GetFirewallRuleGroup returns one.
func (c *Client) GetFirewallRuleGroup(ctx context.Context, ref string, o ...Option) (*api.FirewallRuleGroup, error) {
	return get[api.FirewallRuleGroup](ctx, c, "/v1/firewall-rule-groups/"+segment(ref), o...)
}

// ChangeFirewallRules removes rules and puts others.
func (c *Client) ChangeFirewallRules(ctx context.Context, ref string, r api.ChangeFirewallRulesRequest, o ...Option) (*api.FirewallRuleGroup, error) {
	return send[api.FirewallRuleGroup](ctx, c, http.MethodPost, "/v1/firewall-rule-groups/"+segment(ref)+"/rules", r, o...)
}

// AssociateFirewallRuleGroup has it decide for more VPCs, or changes its priority in VPCs.
func (c *Client) AssociateFirewallRuleGroup(ctx context.Context, ref string, r api.AssociateFirewallRuleGroupRequest,
	o ...Option) (*api.FirewallRuleGroup, error) {
	return send[api.FirewallRuleGroup](ctx, c, http.MethodPost, "/v1/firewall-rule-groups/"+segment(ref)+"/associate", r, o...)
}

// DisassociateFirewallRuleGroup takes VPCs out.
func (c *Client) DisassociateFirewallRuleGroup(ctx context.Context, ref string, vpcs []string, o ...Option) (*api.FirewallRuleGroup, error) {
	return send[api.FirewallRuleGroup](ctx, c, http.MethodPost, "/v1/firewall-rule-groups/"+segment(ref)+"/disassociate", api.VPCsRequest{VPCs: vpcs},
		o...)
}

// DeleteFirewallRuleGroup removes one.
func (c *Client) DeleteFirewallRuleGroup(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/firewall-rule-groups/"+segment(ref), nil, o...)
}

// CreateQueryLog has VPCs' DNS questions recorded.
func (c *Client) CreateQueryLog(ctx context.Context, r api.CreateQueryLogRequest, o ...Option) (*api.QueryLog, error) {
	return create[api.QueryLog](ctx, c, http.MethodPost, "/v1/query-logs", r, o...)
}

// ListQueryLogs returns all that the caller may see.
func (c *Client) ListQueryLogs(ctx context.Context, o ...Option) ([]api.QueryLog, error) {
	return list[api.QueryLog](ctx, c, "/v1/query-logs", o...)
}

// GetQueryLog returns one.
func (c *Client) GetQueryLog(ctx context.Context, ref string, o ...Option) (*api.QueryLog, error) {
	return get[api.QueryLog](ctx, c, "/v1/query-logs/"+segment(ref), o...)
}

// AssociateQueryLog has it record more VPCs.
func (c *Client) AssociateQueryLog(ctx context.Context, ref string, vpcs []string, o ...Option) (*api.QueryLog, error) {
	return send[api.QueryLog](ctx, c, http.MethodPost, "/v1/query-logs/"+segment(ref)+"/associate", api.VPCsRequest{VPCs: vpcs}, o...)
}

// DisassociateQueryLog takes VPCs out.
func (c *Client) DisassociateQueryLog(ctx context.Context, ref string, vpcs []string, o ...Option) (*api.QueryLog, error) {
	return send[api.QueryLog](ctx, c, http.MethodPost, "/v1/query-logs/"+segment(ref)+"/disassociate", api.VPCsRequest{VPCs: vpcs}, o...)
}

// DeleteQueryLog removes one.
func (c *Client) DeleteQueryLog(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/query-logs/"+segment(ref), nil, o...)
}
