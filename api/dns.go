package api

import ()

// HostedZone holds records of a domain for the VPCs that it is associated with. Its Name is the domain.
type HostedZone struct {
	Meta
	VPCs       []string    `json:"vpcIds"`
	RecordSets []RecordSet `json:"recordSets"` // sorted by name and type
}

// RecordSet is all records of one name and type.
type RecordSet struct {
	Name       string   `json:"name"` // absolute, without trailing dot
	Type       string   `json:"type"` // one of RecordTypes
	TTLSeconds uint32   `json:"ttlSeconds"`
	Values     []string `json:"values"` // as in a zone file; see PackRecord
}

// ResolverRule sends questions about a domain, and what is below it, to forwarders of its own. Its Name is the domain.
type ResolverRule struct {
	Meta
	VPCs []string `json:"vpcIds"` // whose workloads' questions it is for
	// Forwarders and PlainForwarders as of a VPC.
	Forwarders      []string `json:"forwarders"`
	PlainForwarders bool     `json:"plainForwarders,omitempty"`
	// Inside: those of Forwarders that are no public resolvers lie in all of the VPCs, and the rule is for no others.
	Inside bool `json:"inside,omitempty"`
}
