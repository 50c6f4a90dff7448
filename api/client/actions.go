package client

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/culvert-net/culvert/api"
)

// What is not create, list, get, modify or delete.

// AddDomain gives an account a DNS domain, such as "pay.internal"; administrators only.
func (c *Client) AddDomain(ctx context.Context, account, domain string, o ...Option) (*api.Account, error) {
	return send[api.Account](ctx, c, http.MethodPost, "/v1/accounts/"+segment(account)+"/domains",
		api.DomainRequest{Domain: domain}, o...)
}

// RemoveDomain takes a DNS domain away; administrators only.
func (c *Client) RemoveDomain(ctx context.Context, account, domain string, o ...Option) (*api.Account, error) {
	return send[api.Account](ctx, c, http.MethodDelete,
		"/v1/accounts/"+segment(account)+"/domains/"+segment(domain), nil, o...)
}

// CreateAPIKey makes a key for an account, or an administrator's; administrators only.
func (c *Client) CreateAPIKey(ctx context.Context, r api.CreateAPIKeyRequest, o ...Option) (*api.CreatedAPIKey, error) {
	return send[api.CreatedAPIKey](ctx, c, http.MethodPost, "/v1/api-keys", r, o...)
}

// ListAPIKeys returns keys without their secrets: the account's own, or all for an administrator.
func (c *Client) ListAPIKeys(ctx context.Context, o ...Option) ([]api.APIKey, error) {
	return list[api.APIKey](ctx, c, "/v1/api-keys", o...)
}

// DeleteAPIKey removes a key; administrators only.
func (c *Client) DeleteAPIKey(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/api-keys/"+segment(ref), nil, o...)
}

// CreateToken makes a single-use join token; administrators only.
func (c *Client) CreateToken(ctx context.Context, r api.CreateTokenRequest, o ...Option) (*api.CreatedToken, error) {
	return send[api.CreatedToken](ctx, c, http.MethodPost, "/v1/tokens", r, o...)
}

// ListTokens returns join tokens without their secrets; administrators only.
func (c *Client) ListTokens(ctx context.Context, o ...Option) ([]api.JoinToken, error) {
	return list[api.JoinToken](ctx, c, "/v1/tokens", o...)
}

// DeleteToken removes a join token; administrators only.
func (c *Client) DeleteToken(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/tokens/"+segment(ref), nil, o...)
}

// ListNodes returns nodes and what they last reported. An ordinary caller sees id, name, state and liveness only.
func (c *Client) ListNodes(ctx context.Context, o ...Option) ([]api.NodeReport, error) {
	return list[api.NodeReport](ctx, c, "/v1/nodes", o...)
}

// GetNode returns one node, as ListNodes does.
func (c *Client) GetNode(ctx context.Context, ref string, o ...Option) (*api.NodeReport, error) {
	return get[api.NodeReport](ctx, c, "/v1/nodes/"+segment(ref), o...)
}

// DrainNode keeps new ENIs off a node; administrators only.
func (c *Client) DrainNode(ctx context.Context, ref string, o ...Option) (*api.Node, error) {
	return send[api.Node](ctx, c, http.MethodPost, "/v1/nodes/"+segment(ref)+"/drain", nil, o...)
}

// UndrainNode takes a drained node back; administrators only.
func (c *Client) UndrainNode(ctx context.Context, ref string, o ...Option) (*api.Node, error) {
	return send[api.Node](ctx, c, http.MethodPost, "/v1/nodes/"+segment(ref)+"/undrain", nil, o...)
}

// RevokeNode shuts a node out for good; administrators only.
func (c *Client) RevokeNode(ctx context.Context, ref string, o ...Option) (*api.Node, error) {
	return send[api.Node](ctx, c, http.MethodPost, "/v1/nodes/"+segment(ref)+"/revoke", nil, o...)
}

// DeleteNode removes a revoked node that hosts nothing; administrators only.
func (c *Client) DeleteNode(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/nodes/"+segment(ref), nil, o...)
}

// BindENI makes a node the host of a workload ENI; node "" unbinds it.
func (c *Client) BindENI(ctx context.Context, eni, node string, o ...Option) (*api.ENI, error) {
	return c.ModifyENI(ctx, eni, api.ModifyENIRequest{Node: &node}, o...)
}

// AuthorizeIngress adds rules to what a security group lets in.
func (c *Client) AuthorizeIngress(ctx context.Context, group string, rules []api.RuleRequest, o ...Option) (
	*api.SecurityGroup, error) {
	return send[api.SecurityGroup](ctx, c, http.MethodPost, "/v1/security-groups/"+segment(group)+"/ingress",
		api.RulesRequest{Rules: rules}, o...)
}

// AuthorizeEgress adds rules to what a security group lets out.
func (c *Client) AuthorizeEgress(ctx context.Context, group string, rules []api.RuleRequest, o ...Option) (
	*api.SecurityGroup, error) {
	return send[api.SecurityGroup](ctx, c, http.MethodPost, "/v1/security-groups/"+segment(group)+"/egress",
		api.RulesRequest{Rules: rules}, o...)
}

// RevokeRule removes one rule, inward or outward, by its id.
func (c *Client) RevokeRule(ctx context.Context, group, rule string, o ...Option) (*api.SecurityGroup, error) {
	return send[api.SecurityGroup](ctx, c, http.MethodDelete,
		"/v1/security-groups/"+segment(group)+"/rules/"+segment(rule), nil, o...)
}

// RegisterTargets adds targets to a target group; one that is there already stays.
func (c *Client) RegisterTargets(ctx context.Context, group string, targets []api.TargetRequest, o ...Option) (
	*api.TargetGroup, error) {
	return send[api.TargetGroup](ctx, c, http.MethodPost, "/v1/target-groups/"+segment(group)+"/register",
		api.TargetsRequest{Targets: targets}, o...)
}

// DeregisterTargets removes targets from a target group.
func (c *Client) DeregisterTargets(ctx context.Context, group string, targets []api.TargetRequest, o ...Option) (
	*api.TargetGroup, error) {
	return send[api.TargetGroup](ctx, c, http.MethodPost, "/v1/target-groups/"+segment(group)+"/deregister",
		api.TargetsRequest{Targets: targets}, o...)
}

// CreateListener adds a listener to a load balancer.
func (c *Client) CreateListener(ctx context.Context, loadBalancer string, r api.ListenerRequest, o ...Option) (
	*api.LoadBalancer, error) {
	return create[api.LoadBalancer](ctx, c, http.MethodPost, "/v1/load-balancers/"+segment(loadBalancer)+"/listeners",
		r, o...)
}

// DeleteListener removes a listener from a load balancer.
func (c *Client) DeleteListener(ctx context.Context, loadBalancer, listener string, o ...Option) (
	*api.LoadBalancer, error) {
	return send[api.LoadBalancer](ctx, c, http.MethodDelete,
		"/v1/load-balancers/"+segment(loadBalancer)+"/listeners/"+segment(listener), nil, o...)
}

// AllowPrincipals lets accounts (or "*") create endpoints for a service.
func (c *Client) AllowPrincipals(ctx context.Context, service string, principals []string, o ...Option) (
	*api.Service, error) {
	return send[api.Service](ctx, c, http.MethodPost, "/v1/services/"+segment(service)+"/allow",
		api.PrincipalsRequest{Principals: principals}, o...)
}

// DisallowPrincipals undoes AllowPrincipals; connections that exist stay.
func (c *Client) DisallowPrincipals(ctx context.Context, service string, principals []string, o ...Option) (
	*api.Service, error) {
	return send[api.Service](ctx, c, http.MethodPost, "/v1/services/"+segment(service)+"/disallow",
		api.PrincipalsRequest{Principals: principals}, o...)
}

// ListConnections returns a service's endpoint connections.
func (c *Client) ListConnections(ctx context.Context, service string, o ...Option) ([]api.Connection, error) {
	return list[api.Connection](ctx, c, "/v1/services/"+segment(service)+"/connections", o...)
}

// TargetHealth returns a target group's targets, the health of each and its history.
func (c *Client) TargetHealth(ctx context.Context, group string, o ...Option) (*api.TargetGroupHealth, error) {
	return get[api.TargetGroupHealth](ctx, c, "/v1/target-groups/"+segment(group)+"/health", o...)
}

// ListTargetHealth returns the account's targets and the health of each, or with WithTargetGroup those of one group.
func (c *Client) ListTargetHealth(ctx context.Context, o ...Option) ([]api.DescribedTarget, error) {
	return list[api.DescribedTarget](ctx, c, "/v1/target-health", o...)
}

// ServiceTargets returns what is behind a service, and what each target learns of clients.
func (c *Client) ServiceTargets(ctx context.Context, service string, o ...Option) (*api.ServiceTargets, error) {
	return get[api.ServiceTargets](ctx, c, "/v1/services/"+segment(service)+"/targets", o...)
}

// AcceptConnections accepts endpoints (vpce-… or vpce-con-…) of a service: all of them or none.
func (c *Client) AcceptConnections(ctx context.Context, service string, endpoints []string, o ...Option) (
	[]api.Connection, error) {
	l, err := send[api.List[api.Connection]](ctx, c, http.MethodPost, "/v1/services/"+segment(service)+"/accept",
		api.EndpointsRequest{Endpoints: endpoints}, o...)
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

// AcceptCapped accepts endpoints as AcceptConnections does, with caps in place of the service's.
func (c *Client) AcceptCapped(ctx context.Context, service string, r api.EndpointsRequest, o ...Option) ([]api.Connection, error) {
	l, err := send[api.List[api.Connection]](ctx, c, http.MethodPost, "/v1/services/"+segment(service)+"/accept", r, o...)
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

// ModifyConnections changes endpoint connections of a service: all of them or none.
func (c *Client) ModifyConnections(ctx context.Context, service string, r api.ModifyConnectionsRequest, o ...Option) ([]api.Connection, error) {
	l, err := send[api.List[api.Connection]](ctx, c, http.MethodPatch, "/v1/services/"+segment(service)+"/connections", r, o...)
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

// RejectConnections rejects endpoints of a service, accepted ones too: all of them or none.
func (c *Client) RejectConnections(ctx context.Context, service string, endpoints []string, o ...Option) (
	[]api.Connection, error) {
	l, err := send[api.List[api.Connection]](ctx, c, http.MethodPost, "/v1/services/"+segment(service)+"/reject",
		api.EndpointsRequest{Endpoints: endpoints}, o...)
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

// Catalogue returns the services that the caller may create endpoints for.
func (c *Client) Catalogue(ctx context.Context, o ...Option) ([]api.CatalogueEntry, error) {
	return list[api.CatalogueEntry](ctx, c, "/v1/catalogue", o...)
}

// ListAudit returns audit events, newest last: the account's own, or all for an administrator.
func (c *Client) ListAudit(ctx context.Context, o ...Option) ([]api.AuditEvent, error) {
	return list[api.AuditEvent](ctx, c, "/v1/audit", o...)
}

// WithAuditFilter selects audit events.
func WithAuditFilter(f api.AuditFilter) Option {
	return func(o *callOptions) {
		set := func(name, value string) {
			if value != "" {
				o.query.Set(name, value)
			}
		}
		set("since", stampOf(f.Since))
		set("until", stampOf(f.Until))
		set("actor", f.Actor)
		set("action", f.Action)
		set("resource", f.Resource)
		set("outcome", f.Outcome)
		if f.Limit != 0 {
			set("limit", strconv.Itoa(f.Limit))
		}
		if f.Before != 0 {
			set("before", strconv.FormatUint(f.Before, 10))
		}
	}
}

// stampOf is a time as queries have it, "" for none.
func stampOf(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// GetAuditedResource tells how a resource was at some time, also one that is gone, and what decided over it. The zero time is now.
func (c *Client) GetAuditedResource(ctx context.Context, id string, at time.Time, o ...Option) (*api.AuditedState, error) {
	when := func(o *callOptions) {
		if !at.IsZero() {
			o.query.Set("at", stampOf(at))
		}
	}
	return get[api.AuditedState](ctx, c, "/v1/audit/resources/"+segment(id), append(o[:len(o):len(o)], when)...)
}

// Status tells how the server is and whom it takes the caller for.
func (c *Client) Status(ctx context.Context, o ...Option) (*api.Status, error) {
	return get[api.Status](ctx, c, "/v1/status", o...)
}

// Whois asks whose an overlay address is.
func (c *Client) Whois(ctx context.Context, address string, o ...Option) (*api.Whois, error) {
	query := func(o *callOptions) { o.query.Set("address", address) }
	return get[api.Whois](ctx, c, "/v1/whois", append(o, query)...)
}

// Explain asks what both sides of a connection say to a new flow from a network interface to a name or address.
func (c *Client) Explain(ctx context.Context, from, to string, port uint16, protocol api.Protocol, o ...Option) (
	*api.Explanation, error) {
	query := func(o *callOptions) {
		o.query.Set("from", from)
		o.query.Set("to", to)
		o.query.Set("port", strconv.Itoa(int(port)))
		o.query.Set("protocol", string(protocol))
	}
	return get[api.Explanation](ctx, c, "/v1/explain", append(o, query)...)
}

// ListDailyReports lists the daily reports, the newest last; administrators only.
func (c *Client) ListDailyReports(ctx context.Context, o ...Option) ([]api.DailyReportEntry, error) {
	return list[api.DailyReportEntry](ctx, c, "/v1/reports/daily", o...)
}

// GetDailyReport returns the report of a day, such as 2026-03-01; administrators only.
func (c *Client) GetDailyReport(ctx context.Context, date string, o ...Option) (*api.DailyReport, error) {
	return get[api.DailyReport](ctx, c, "/v1/reports/daily/"+segment(date), o...)
}
