package api

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
	RetainAuditEvents RetentionClass = "audit-events" // what audit list reads
)
