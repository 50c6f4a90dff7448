package api

import ()

// FirewallRuleGroup decides about questions of the VPCs that it is associated with, before anything answers them. The first rule that has the
// name decides, of the group with the smallest priority in that VPC; where none has it the question passes.
type FirewallRuleGroup struct {
	Meta
	VPCs       []string          `json:"vpcIds"`
	Priorities map[string]uint32 `json:"priorities,omitempty"` // by VPC; DefaultFirewallPriority where there is none
	Rules      []FirewallRule    `json:"rules"`                // by priority
}

// FirewallDomainList is domains that several rules may name together.
type FirewallDomainList struct {
	Meta
	Domains []string `json:"domains"` // as of a rule, sorted
}

// FirewallAction is what becomes of a question.
type FirewallAction string

// Actions.
const (
	FirewallAllow FirewallAction = "ALLOW"
)

// BlockResponse is what a blocked question gets.
type BlockResponse string

// FirewallRule says what becomes of questions about some domains. The smaller priority goes first.
type FirewallRule struct {
	Priority uint32         `json:"priority"` // 1 to MaxFirewallPriority
	Action   FirewallAction `json:"action"`
	// Domains are names, "*." and a name for what is below it, or "*" for all; or DomainList is the id of a list of them.
	Domains    []string `json:"domains,omitempty"`
	DomainList string   `json:"domainListId,omitempty"`
	// The rest is of BLOCK alone, and the last two of OVERRIDE.
	BlockResponse           BlockResponse `json:"blockResponse,omitempty"`
	BlockOverrideDomain     string        `json:"blockOverrideDomain,omitempty"`
	BlockOverrideTTLSeconds uint32        `json:"blockOverrideTtlSeconds,omitempty"`
}
