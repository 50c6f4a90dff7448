package api

import "time"

// LogKeyRequest is the body of POST /v1/node/log-key.
type LogKeyRequest struct {
	PublicKey []byte `json:"publicKey"` // Ed25519, 32 bytes: what the node's seals are checked with from now on
	// Certificate is the node's, in DER, and Signature is by its key: that PublicKey seals the node's log. Both, or neither: an older agent.
	Certificate []byte `json:"certificate,omitempty"`
	Signature   []byte `json:"signature,omitempty"`
}

// RetentionClass is a sort of what the server keeps.
type RetentionClass string

// Classes.
const (
	RetainFlowRecords RetentionClass = "flow-records" // what flows query reads: flow records and DNS queries, by whole days
	RetainSegments    RetentionClass = "segments"     // evidence: what nodes sealed, by whole hours
	RetainAuditEvents RetentionClass = "audit-events" // what audit list reads
	RetainDeliveries  RetentionClass = "deliveries"   // files of flow logs that are delivered to the server's own directory for the account
)

// LegalHold keeps what is about something from being disposed of, whatever the retention.
type LegalHold struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"createdAt"`
	CreatedBy string    `json:"createdBy"` // API key id
	Reason    string    `json:"reason"`
	// Subject is the id of what it is about: an account, a VPC, a service, an endpoint or a node.
	Subject string    `json:"subject"`
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
}
