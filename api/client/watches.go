package client

import (
	"context"

	"github.com/culvert-net/culvert/api"
)

// Watches of every list; Watch says what they yield. Options narrow them as they do the list.

// WatchAccounts goes on with what ListAccounts returns.
func (c *Client) WatchAccounts(ctx context.Context, o ...Option) Watch[api.Account] {
	return watch[api.Account](ctx, c, "/v1/accounts", o...)
}

// WatchVPCs goes on with what ListVPCs returns.
func (c *Client) WatchVPCs(ctx context.Context, o ...Option) Watch[api.VPC] {
	return watch[api.VPC](ctx, c, "/v1/vpcs", o...)
}

// WatchSubnets goes on with what ListSubnets returns.
func (c *Client) WatchSubnets(ctx context.Context, o ...Option) Watch[api.Subnet] {
	return watch[api.Subnet](ctx, c, "/v1/subnets", o...)
}

// WatchENIs goes on with what ListENIs returns.
func (c *Client) WatchENIs(ctx context.Context, o ...Option) Watch[api.ENI] {
	return watch[api.ENI](ctx, c, "/v1/enis", o...)
}

// WatchSecurityGroups goes on with what ListSecurityGroups returns.
func (c *Client) WatchSecurityGroups(ctx context.Context, o ...Option) Watch[api.SecurityGroup] {
	return watch[api.SecurityGroup](ctx, c, "/v1/security-groups", o...)
}

// WatchTargetGroups goes on with what ListTargetGroups returns.
func (c *Client) WatchTargetGroups(ctx context.Context, o ...Option) Watch[api.TargetGroup] {
	return watch[api.TargetGroup](ctx, c, "/v1/target-groups", o...)
}

// WatchTargetHealth goes on with what ListTargetHealth returns.
func (c *Client) WatchTargetHealth(ctx context.Context, o ...Option) Watch[api.DescribedTarget] {
	return watch[api.DescribedTarget](ctx, c, "/v1/target-health", o...)
}

// WatchLoadBalancers goes on with what ListLoadBalancers returns.
func (c *Client) WatchLoadBalancers(ctx context.Context, o ...Option) Watch[api.LoadBalancer] {
	return watch[api.LoadBalancer](ctx, c, "/v1/load-balancers", o...)
}

// WatchServices goes on with what ListServices returns.
func (c *Client) WatchServices(ctx context.Context, o ...Option) Watch[api.Service] {
	return watch[api.Service](ctx, c, "/v1/services", o...)
}

// WatchEndpoints goes on with what ListEndpoints returns.
func (c *Client) WatchEndpoints(ctx context.Context, o ...Option) Watch[api.Endpoint] {
	return watch[api.Endpoint](ctx, c, "/v1/endpoints", o...)
}

// WatchAPIKeys goes on with what ListAPIKeys returns.
func (c *Client) WatchAPIKeys(ctx context.Context, o ...Option) Watch[api.APIKey] {
	return watch[api.APIKey](ctx, c, "/v1/api-keys", o...)
}

// WatchTokens goes on with what ListTokens returns.
func (c *Client) WatchTokens(ctx context.Context, o ...Option) Watch[api.JoinToken] {
	return watch[api.JoinToken](ctx, c, "/v1/tokens", o...)
}

// WatchNodes goes on with what ListNodes returns.
func (c *Client) WatchNodes(ctx context.Context, o ...Option) Watch[api.NodeReport] {
	return watch[api.NodeReport](ctx, c, "/v1/nodes", o...)
}

// WatchConnections goes on with what ListConnections returns.
func (c *Client) WatchConnections(ctx context.Context, service string, o ...Option) Watch[api.Connection] {
	return watch[api.Connection](ctx, c, "/v1/services/"+segment(service)+"/connections", o...)
}

// WatchCatalogue goes on with what Catalogue returns.
func (c *Client) WatchCatalogue(ctx context.Context, o ...Option) Watch[api.CatalogueEntry] {
	return watch[api.CatalogueEntry](ctx, c, "/v1/catalogue", o...)
}

// WatchAudit goes on with what ListAudit returns: an Added for each event, in order and once. A Revision is a sequence number here,
// and WithSinceRevision begins behind the event that has it. It ends with CodeRevisionExpired where more events were written while
// there was no connection than the server tells at once: then some would be missing.
func (c *Client) WatchAudit(ctx context.Context, o ...Option) Watch[api.AuditEvent] {
	return watchOnly[api.AuditEvent](ctx, c, "/v1/audit", true, o...)
}

// WatchDomains goes on with what ListDomains returns.
func (c *Client) WatchDomains(ctx context.Context, o ...Option) Watch[api.Domain] {
	return watch[api.Domain](ctx, c, "/v1/domains", o...)
}

// WatchHostedZones goes on with what ListHostedZones returns.
func (c *Client) WatchHostedZones(ctx context.Context, o ...Option) Watch[api.HostedZone] {
	return watch[api.HostedZone](ctx, c, "/v1/hosted-zones", o...)
}

// WatchResolverRules goes on with what ListResolverRules returns.
func (c *Client) WatchResolverRules(ctx context.Context, o ...Option) Watch[api.ResolverRule] {
	return watch[api.ResolverRule](ctx, c, "/v1/resolver-rules", o...)
}

// WatchFlowLogs goes on with what ListFlowLogs returns.
func (c *Client) WatchFlowLogs(ctx context.Context, o ...Option) Watch[api.FlowLog] {
	return watch[api.FlowLog](ctx, c, "/v1/flow-logs", o...)
}

// WatchFirewallRuleGroups goes on with what ListFirewallRuleGroups returns.
func (c *Client) WatchFirewallRuleGroups(ctx context.Context, o ...Option) Watch[api.FirewallRuleGroup] {
	return watch[api.FirewallRuleGroup](ctx, c, "/v1/firewall-rule-groups", o...)
}

// WatchQueryLogs goes on with what ListQueryLogs returns.
func (c *Client) WatchQueryLogs(ctx context.Context, o ...Option) Watch[api.QueryLog] {
	return watch[api.QueryLog](ctx, c, "/v1/query-logs", o...)
}
