package api

import (
	"slices"
	"strings"
	"time"
)

// Transports of questions.
const (
	TransportUDP = "udp"
	TransportTCP = "tcp"
)

// QueryLog has the questions of VPCs' workloads recorded, with what they were answered.
type QueryLog struct {
	Meta
	VPCs []string `json:"vpcIds"`
}

// Validate checks the name and the VPCs.
func (q *QueryLog) Validate() error {
	return firstError(ValidateName("name", q.Name), validateMeta(KindQueryLog, &q.Meta, false),
		validateRefs(KindVPC, "vpcIds", q.VPCs, 0, MaxVPCsPerQueryLog))
}

// QueryRecord is one question that a node's resolver answered, of a VPC with a query log.
type QueryRecord struct {
	// Node, Boot and Sequence identify the record, together with flow records, which are numbered with it.
	Node     string `json:"node"` // node id
	Boot     string `json:"boot"`
	Sequence uint64 `json:"sequence"`

	Account   string    `json:"accountId"` // owner of the VPC
	VPC       string    `json:"vpcId"`
	Interface string    `json:"interfaceId,omitempty"` // of the workload that asked
	Client    string    `json:"clientAddr,omitempty"`  // its IPv4 form, in either family
	Start     time.Time `json:"start"`                 // when the question came
	End       time.Time `json:"end"`                   // when it was answered

	Name      string `json:"name"`  // as it was asked, with trailing dot; empty where it could not be read
	Type      string `json:"type"`  // such as A, or TYPE65280
	Class     string `json:"class"` // such as IN
	RCODE     string `json:"rcode"` // such as NOERROR
	Transport string `json:"transport"`
	Answers   int    `json:"answers"` // records in the answer
	// Addresses are those of the answer, at most 16, and TTLSeconds how long they may be used.
	Addresses  []string `json:"addresses,omitempty"`
	TTLSeconds uint32   `json:"ttlSeconds,omitempty"`

	Endpoint     string `json:"endpointId,omitempty"`     // whose private name it is
	HostedZone   string `json:"hostedZoneId,omitempty"`   // that answered
	ResolverRule string `json:"resolverRuleId,omitempty"` // by which forwarders were asked; empty: the VPC's own, if Upstream is one
	Upstream     string `json:"upstream,omitempty"`       // the forwarder whose answer it is
	CacheHit     bool   `json:"cacheHit,omitempty"`       // it gave the answer before
	Stale        bool   `json:"stale,omitempty"`          // and did so too long ago, but none answers now

	FirewallAction FirewallAction `json:"firewallAction,omitempty"`
	FirewallRule   string         `json:"firewallRule,omitempty"` // GROUP/PRIORITY
	// Lost counts questions of the VPC that are in no record, since a record said so last. One without Client stands for them only.
	Lost uint64 `json:"lost,omitempty"`
}

// QueryLine is a line of a node's log that is a QueryRecord.
type QueryLine struct {
	Query QueryRecord `json:"query"`
}

// QueryFilter selects query records. Zero fields select all.
type QueryFilter struct {
	Since, Until   time.Time // of End; the second one is not in it
	VPC            string
	Interface      string
	Client         string // address
	Name           string // it and what is below it, whatever the case; with or without trailing dot
	Type           string
	RCODE          string
	FirewallAction FirewallAction
	Address        string // among the answer's
	Limit          int
}

// Match reports whether the record is selected; Limit is the caller's.
func (f QueryFilter) Match(r *QueryRecord) bool {
	eq := func(want, have string) bool { return want == "" || want == have }
	if !f.Since.IsZero() && r.End.Before(f.Since) || !f.Until.IsZero() && !r.End.Before(f.Until) {
		return false
	}
	return eq(f.VPC, r.VPC) && eq(f.Interface, r.Interface) && eq(f.Client, r.Client) && eq(f.Type, r.Type) && eq(f.RCODE, r.RCODE) &&
		eq(string(f.FirewallAction), string(r.FirewallAction)) && (f.Address == "" || slices.Contains(r.Addresses, f.Address)) &&
		(f.Name == "" || WithinDomain(bareName(r.Name), bareName(f.Name)))
}

// bareName is a name in lower case without trailing dot.
func bareName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// QueriesQuery selects query records of the caller's account.
type QueriesQuery struct {
	QueryFilter      // Limit: the newest so many; 0: 1000
	Follow      bool // go on with new records as they come; Until is ignored
}
