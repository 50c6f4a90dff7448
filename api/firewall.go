package api

import (
	"fmt"
	"slices"
	"strings"
)

// FirewallRuleGroup decides about questions of the VPCs that it is associated with, before anything answers them. The first rule that has the
// name decides, of the group with the smallest priority in that VPC; where none has it the question passes.
type FirewallRuleGroup struct {
	Meta
	VPCs       []string          `json:"vpcIds"`
	Priorities map[string]uint32 `json:"priorities,omitempty"` // by VPC; DefaultFirewallPriority where there is none
	Rules      []FirewallRule    `json:"rules"`                // by priority
}

// PriorityIn is the group's in a VPC that it decides for.
func (g *FirewallRuleGroup) PriorityIn(vpc string) uint32 {
	if p, ok := g.Priorities[vpc]; ok {
		return p
	}
	return DefaultFirewallPriority
}

// FirewallDomainList is domains that several rules may name together.
type FirewallDomainList struct {
	Meta
	Domains []string `json:"domains"` // as of a rule, sorted
}

// DomainsOperation is what is done with domains of a list.
type DomainsOperation string

// Operations.
const (
	DomainsAdd     DomainsOperation = "ADD"
	DomainsRemove  DomainsOperation = "REMOVE"
	DomainsReplace DomainsOperation = "REPLACE"
)

// FirewallAction is what becomes of a question.
type FirewallAction string

// Actions.
const (
	FirewallAllow FirewallAction = "ALLOW"
	FirewallBlock FirewallAction = "BLOCK"
	FirewallAlert FirewallAction = "ALERT" // let pass, and counted
)

// BlockResponse is what a blocked question gets.
type BlockResponse string

// Responses.
const (
	BlockNoData   BlockResponse = "NODATA"   // the name has no such record; the default
	BlockNXDomain BlockResponse = "NXDOMAIN" // there is no such name
	BlockOverride BlockResponse = "OVERRIDE" // an alias to another name
)

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

// Size is what a rule counts in limits, in bytes.
func (r *FirewallRule) Size() int {
	return 64 + len(r.BlockOverrideDomain) + domainsSize(r.Domains)
}

func domainsSize(domains []string) (n int) {
	for _, d := range domains {
		n += len(d) + 4
	}
	return n
}

// Size is what a list counts in limits, in bytes.
func (l *FirewallDomainList) Size() int { return 64 + domainsSize(l.Domains) }

// Size is that of all its rules.
func (g *FirewallRuleGroup) Size() int {
	n := 0
	for i := range g.Rules {
		n += g.Rules[i].Size()
	}
	return n
}

// Validate checks the name and the rules.
func (g *FirewallRuleGroup) Validate() error {
	if err := firstError(ValidateName("name", g.Name), validateMeta(KindFirewallRuleGroup, &g.Meta, false),
		validateRefs(KindVPC, "vpcIds", g.VPCs, 0, MaxVPCsPerFirewallRuleGroup)); err != nil {
		return err
	}
	for vpc, priority := range g.Priorities {
		if !slices.Contains(g.VPCs, vpc) {
			return invalid("priority", "associate it first", "the group does not decide for the VPC %q", Shortened(vpc))
		}
		if priority < 1 || priority > MaxFirewallPriority {
			return invalid("priority", fmt.Sprintf("give 1 to %d", MaxFirewallPriority), "the priority %d is out of range", priority)
		}
	}
	if len(g.Rules) > MaxRulesPerFirewallRuleGroup {
		return Errorf(CodeLimitExceeded, "rules", "give one rule more domains", "%d rules, at most %d are allowed", len(g.Rules),
			MaxRulesPerFirewallRuleGroup)
	}
	before := uint32(0)
	for i := range g.Rules {
		if e := g.Rules[i].Validate(); e != nil {
			return e
		}
		if g.Rules[i].Priority <= before {
			return invalid("priority", "give each rule a priority of its own", "the priority %d stands twice, or out of order", g.Rules[i].Priority)
		}
		before = g.Rules[i].Priority
	}
	return nil
}

// Validate checks one rule.
func (r *FirewallRule) Validate() *Error {
	if r.Priority < 1 || r.Priority > MaxFirewallPriority {
		return invalid("priority", fmt.Sprintf("give 1 to %d", MaxFirewallPriority), "the priority %d is out of range", r.Priority)
	}
	switch r.Action {
	case FirewallAllow, FirewallBlock, FirewallAlert:
	default:
		return invalid("action", "use ALLOW, BLOCK or ALERT", "the action %q is not known here", Shortened(string(r.Action)))
	}
	switch {
	case len(r.Domains) == 0 && r.DomainList == "":
		return Errorf(CodeMissingParameter, "domains", "give at least one, such as *.example.com, or * for all, or a domain list",
			"the rule %d has no domain", r.Priority)
	case r.DomainList != "" && len(r.Domains) > 0:
		return Errorf(CodeInvalidCombination, "domainListId", "make two rules of them, or put the domains into the list",
			"the rule %d has domains and a domain list", r.Priority)
	case r.DomainList != "" && !IsID(KindFirewallDomainList.Prefix(), r.DomainList):
		return invalid("domainListId", "give the id or the name of one", "%q is no domain list", Shortened(r.DomainList))
	case len(r.Domains) > MaxDomainsPerFirewallRule:
		return Errorf(CodeLimitExceeded, "domains", "make a further rule", "the rule %d has %d domains, at most %d are allowed", r.Priority,
			len(r.Domains), MaxDomainsPerFirewallRule)
	}
	if err := validateDomains(r.Domains); err != nil {
		return err
	}
	return r.validateBlock()
}

func validateDomains(domains []string) *Error {
	seen := make(map[string]bool, len(domains))
	for _, d := range domains {
		if d != "*" && !ValidRecordName(d) {
			return invalid("domains", "give a DNS name in lower case, *. and a name for all below it, or * for all", "%q is no domain",
				Shortened(d))
		}
		if seen[d] {
			return invalid("domains", "give it once", "%q is given twice", Shortened(d))
		}
		seen[d] = true
	}
	return nil
}

// Validate checks the name and the domains.
func (l *FirewallDomainList) Validate() error {
	if err := firstError(ValidateName("name", l.Name), validateMeta(KindFirewallDomainList, &l.Meta, false)); err != nil {
		return err
	}
	if len(l.Domains) > MaxDomainsPerList {
		return Errorf(CodeLimitExceeded, "domains", "make a further list, and a rule for it", "the list has %d domains, at most %d are allowed",
			len(l.Domains), MaxDomainsPerList)
	}
	if err := validateDomains(l.Domains); err != nil {
		return err
	}
	return nil
}

// With is the rule with the domains of its list, if it has one.
func (r FirewallRule) With(lists map[string]*FirewallDomainList) (out FirewallRule, known bool) {
	if r.DomainList == "" {
		return r, true
	}
	l := lists[r.DomainList]
	if l == nil {
		return r, false
	}
	r.Domains, r.DomainList = l.Domains, ""
	return r, true
}

// SizeWith is that of all its rules, with the domains of their lists.
func (g *FirewallRuleGroup) SizeWith(lists map[string]*FirewallDomainList) (n int) {
	for _, r := range g.Rules {
		r, _ = r.With(lists)
		n += r.Size()
	}
	return n
}

func (r *FirewallRule) validateBlock() *Error {
	override := r.BlockOverrideDomain != "" || r.BlockOverrideTTLSeconds != 0
	switch {
	case r.Action != FirewallBlock && (r.BlockResponse != "" || override):
		return Errorf(CodeInvalidCombination, "blockResponse", "leave it out, or use the action BLOCK", "a rule that does not block has no response")
	case r.Action != FirewallBlock:
		return nil
	case r.BlockResponse != BlockNoData && r.BlockResponse != BlockNXDomain && r.BlockResponse != BlockOverride:
		return invalid("blockResponse", "use NODATA, NXDOMAIN or OVERRIDE", "the response %q is not known here", Shortened(string(r.BlockResponse)))
	case r.BlockResponse != BlockOverride && override:
		return Errorf(CodeInvalidCombination, "blockOverrideDomain", "leave it out, or use the response OVERRIDE",
			"a rule that answers %s leads nowhere", r.BlockResponse)
	case r.BlockResponse != BlockOverride:
		return nil
	case r.BlockOverrideDomain == "":
		return Errorf(CodeMissingParameter, "blockOverrideDomain", "name where blocked questions lead to, such as blocked.corp.internal",
			"no domain is given")
	case !ValidRecordName(r.BlockOverrideDomain) || strings.HasPrefix(r.BlockOverrideDomain, "*"):
		return invalid("blockOverrideDomain", "give a DNS name in lower case", "%q is no DNS name", Shortened(r.BlockOverrideDomain))
	case r.BlockOverrideTTLSeconds > MaxBlockOverrideTTL:
		return invalid("blockOverrideTtlSeconds", fmt.Sprintf("give 0 to %d", MaxBlockOverrideTTL), "%d s is out of range",
			r.BlockOverrideTTLSeconds)
	}
	return nil
}
