package client

import (
	"context"
	"net/http"

	"github.com/culvert-net/culvert/api"
)

// CreateFirewallDomainList makes a list of domains that rules may name.
func (c *Client) CreateFirewallDomainList(ctx context.Context, r api.CreateFirewallDomainListRequest, o ...Option) (*api.FirewallDomainList, error) {
	return create[api.FirewallDomainList](ctx, c, http.MethodPost, "/v1/firewall-domain-lists", r, o...)
}

// ListFirewallDomainLists returns all that the caller may see.
func (c *Client) ListFirewallDomainLists(ctx context.Context, o ...Option) ([]api.FirewallDomainList, error) {
	return list[api.FirewallDomainList](ctx, c, "/v1/firewall-domain-lists", o...)
}

// WatchFirewallDomainLists goes on with what ListFirewallDomainLists returns.
func (c *Client) WatchFirewallDomainLists(ctx context.Context, o ...Option) Watch[api.FirewallDomainList] {
	return watch[api.FirewallDomainList](ctx, c, "/v1/firewall-domain-lists", o...)
}

// GetFirewallDomainList returns one.
func (c *Client) GetFirewallDomainList(ctx context.Context, ref string, o ...Option) (*api.FirewallDomainList, error) {
	return get[api.FirewallDomainList](ctx, c, "/v1/firewall-domain-lists/"+segment(ref), o...)
}

// ChangeFirewallDomains adds, removes or replaces domains.
func (c *Client) ChangeFirewallDomains(ctx context.Context, ref string, r api.ChangeFirewallDomainsRequest, o ...Option) (*api.FirewallDomainList, error) {
	return send[api.FirewallDomainList](ctx, c, http.MethodPost, "/v1/firewall-domain-lists/"+segment(ref)+"/domains", r, o...)
}

// DeleteFirewallDomainList removes one that no rule names.
func (c *Client) DeleteFirewallDomainList(ctx context.Context, ref string, o ...Option) (*api.Result, error) {
	return send[api.Result](ctx, c, http.MethodDelete, "/v1/firewall-domain-lists/"+segment(ref), nil, o...)
}
