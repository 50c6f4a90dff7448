package api

// CreateDomainRequest is the body of POST /v1/domains.
type CreateDomainRequest struct {
	Domain string            `json:"domainName"`
	Tags   map[string]string `json:"tags,omitempty"`
}

// CreateHostedZoneRequest is the body of POST /v1/hosted-zones.
type CreateHostedZoneRequest struct {
	Domain string            `json:"domainName"`
	VPCs   []string          `json:"vpcIds,omitempty"` // ids or names
	Tags   map[string]string `json:"tags,omitempty"`
}

// VPCsRequest is the body of POST /v1/hosted-zones/{id}/associate and …/disassociate.
type VPCsRequest struct {
	VPCs []string `json:"vpcIds"` // ids or names
}

// ChangeRecordsRequest is the body of POST /v1/hosted-zones/{id}/records: removals come first.
type ChangeRecordsRequest struct {
	Put    []RecordSetRequest `json:"put,omitempty"`
	Remove []RecordName       `json:"remove,omitempty"`
}

// RecordSetRequest is a record set to be put in the place of what is there of its name and type.
type RecordSetRequest struct {
	Name       string   `json:"name"` // absolute, or "@" for the domain itself
	Type       string   `json:"type"`
	TTLSeconds *uint32  `json:"ttlSeconds,omitempty"` // default 300
	Values     []string `json:"values"`
}

// RecordName names a record set.
type RecordName struct {
	Name string `json:"name"` // absolute, or "@" for the domain itself
	Type string `json:"type"`
}

// Names reports whether a set has this name and type.
func (n RecordName) Names(s RecordSet) bool { return s.Name == n.Name && s.Type == n.Type }

// CreateResolverRuleRequest is the body of POST /v1/resolver-rules.
type CreateResolverRuleRequest struct {
	Domain          string            `json:"domainName"`
	VPCs            []string          `json:"vpcIds,omitempty"` // ids or names
	Forwarders      []string          `json:"forwarders"`
	PlainForwarders bool              `json:"plainForwarders,omitempty"`
	Tags            map[string]string `json:"tags,omitempty"`
}

// ModifyResolverRuleRequest is the body of PATCH /v1/resolver-rules/{id}; nil leaves a field as it is.
type ModifyResolverRuleRequest struct {
	Forwarders      *[]string `json:"forwarders,omitempty"` // all of them
	PlainForwarders *bool     `json:"plainForwarders,omitempty"`
}

// CreateQueryLogRequest is the body of POST /v1/query-logs.
type CreateQueryLogRequest struct {
	Name string            `json:"name"`
	VPCs []string          `json:"vpcIds,omitempty"` // ids or names
	Tags map[string]string `json:"tags,omitempty"`
}

// CreateFirewallRuleGroupRequest is the body of POST /v1/firewall-rule-groups.
type CreateFirewallRuleGroupRequest struct {
	Name     string            `json:"name"`
	VPCs     []string          `json:"vpcIds,omitempty"`   // ids or names
	Priority *uint32           `json:"priority,omitempty"` // in these VPCs; default 1000
	Tags     map[string]string `json:"tags,omitempty"`
}

// AssociateFirewallRuleGroupRequest is the body of POST /v1/firewall-rule-groups/{id}/associate.
type AssociateFirewallRuleGroupRequest struct {
	VPCs     []string `json:"vpcIds"`             // ids or names
	Priority *uint32  `json:"priority,omitempty"` // default 1000, and what it is in VPCs that it decides for already
}

// CreateFirewallDomainListRequest is the body of POST /v1/firewall-domain-lists.
type CreateFirewallDomainListRequest struct {
	Name    string            `json:"name"`
	Domains []string          `json:"domains,omitempty"`
	Tags    map[string]string `json:"tags,omitempty"`
}

// ChangeFirewallDomainsRequest is the body of POST /v1/firewall-domain-lists/{id}/domains.
type ChangeFirewallDomainsRequest struct {
	Operation DomainsOperation `json:"operation"`
	Domains   []string         `json:"domains"`
}

// ChangeFirewallRulesRequest is the body of POST /v1/firewall-rule-groups/{id}/rules. Rules are removed first, so that a change of priority is
// one call.
type ChangeFirewallRulesRequest struct {
	Put    []FirewallRule `json:"put,omitempty"`
	Remove []uint32       `json:"remove,omitempty"` // priorities
}
