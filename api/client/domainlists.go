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
