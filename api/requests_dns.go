package api

// CreateHostedZoneRequest is the body of POST /v1/hosted-zones.
type CreateHostedZoneRequest struct {
	Domain string            `json:"domainName"`
	VPCs   []string          `json:"vpcIds,omitempty"` // ids or names
	Tags   map[string]string `json:"tags,omitempty"`
}

// CreateResolverRuleRequest is the body of POST /v1/resolver-rules.
type CreateResolverRuleRequest struct {
	Domain          string            `json:"domainName"`
	VPCs            []string          `json:"vpcIds,omitempty"` // ids or names
	Forwarders      []string          `json:"forwarders"`
	PlainForwarders bool              `json:"plainForwarders,omitempty"`
	Tags            map[string]string `json:"tags,omitempty"`
}

// CreateFirewallRuleGroupRequest is the body of POST /v1/firewall-rule-groups.
type CreateFirewallRuleGroupRequest struct {
	Name     string            `json:"name"`
	VPCs     []string          `json:"vpcIds,omitempty"`   // ids or names
	Priority *uint32           `json:"priority,omitempty"` // in these VPCs; default 1000
	Tags     map[string]string `json:"tags,omitempty"`
}

// CreateFirewallDomainListRequest is the body of POST /v1/firewall-domain-lists.
type CreateFirewallDomainListRequest struct {
	Name    string            `json:"name"`
	Domains []string          `json:"domains,omitempty"`
	Tags    map[string]string `json:"tags,omitempty"`
}

// ChangeFirewallRulesRequest is the body of POST /v1/firewall-rule-groups/{id}/rules. Rules are removed first, so that a change of priority is
// one call.
type ChangeFirewallRulesRequest struct {
	Put    []FirewallRule `json:"put,omitempty"`
	Remove []uint32       `json:"remove,omitempty"` // priorities
}
