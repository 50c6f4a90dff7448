package api

import "time"

// LogKeyRequest is the body of POST /v1/node/log-key.
type LogKeyRequest struct {
	PublicKey []byte `json:"publicKey"` // Ed25519, 32 bytes: what the node's seals are checked with from now on
	// Certificate is the node's, in DER, and Signature is by its key: that PublicKey seals the node's log. Both, or neither: an older agent.
	Certificate []byte `json:"certificate,omitempty"`
	Signature   []byte `json:"signature,omitempty"`
}

// LogKey is the public key of the mesh's Merkle log.
type LogKey struct {
	Origin string `json:"origin"` // the log's name in checkpoints
	// VerifierKey is what checkpoints are checked with, as C2SP signed-note writes it: NAME+HASH+BASE64.
	VerifierKey string `json:"verifierKey"`
}

// EvidenceQuery selects evidence by when segments were sealed. Spans are widened to whole hours, UTC.
type EvidenceQuery struct {
	Since, Until time.Time
}

// EvidencePart is a line of GET /v1/evidence: the next bytes of a file, or the end of all.
type EvidencePart struct {
	Path string `json:"path,omitempty"` // below the directory of the copy, with slashes
	Data []byte `json:"data,omitempty"`
	Done bool   `json:"done,omitempty"` // all came, also the manifest
}

// EvidenceManifest is manifest.json of a copy of evidence: what the copy is meant to have.
type EvidenceManifest struct {
	Version int       `json:"version"` // 1
	At      time.Time `json:"at"`      // when it was made, by the server's clock
	Origin  string    `json:"origin"`
	// Segments whose seals were made from Since to Until are there: whole hours, UTC.
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// TreeSize: they are the seals among so many first leaves of the log.
	TreeSize uint64         `json:"treeSize"`
	Nodes    []string       `json:"nodes,omitzero"` // of these nodes; absent: of all
	Accounts []string       `json:"accounts,omitempty"`
	Files    []EvidenceFile `json:"files"` // of segments
}

// EvidenceFile is one file of a copy.
type EvidenceFile struct {
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// RetentionClass is a sort of what the server keeps.
type RetentionClass string

// Classes.
const (
	RetainFlowRecords RetentionClass = "flow-records" // what flows query reads: flow records and DNS queries, by whole days
	RetainSegments    RetentionClass = "segments"     // evidence: what nodes sealed, by whole hours
	RetainAuditEvents RetentionClass = "audit-events" // what audit list reads
	RetainDeliveries  RetentionClass = "deliveries"   // files of flow logs that are delivered to the server's own directory for the account
	RetainMerkleLog   RetentionClass = "merkle-log"   // seals, audit events, reports, disposals and checkpoints: for ever
)

// RetentionClasses are all of them.
var RetentionClasses = []RetentionClass{RetainFlowRecords, RetainSegments, RetainAuditEvents, RetainDeliveries, RetainMerkleLog}

// MaxRetentionDays bounds a term: a hundred years.
const MaxRetentionDays = 36_500

// Retention is how long a class is kept.
type Retention struct {
	Class RetentionClass `json:"class"`
	Days  int            `json:"days"` // of what comes now; 0: for ever
	// MinimumDays is what Days may not be set below. It only grows.
	MinimumDays int `json:"minimumDays"`
	// Longer are terms before that still bind what came while they were in force.
	Longer []RetentionTerm `json:"longer,omitempty"`
}

// RetentionTerm is a term that was in force.
type RetentionTerm struct {
	Days  int       `json:"days"`
	Until time.Time `json:"until"` // what came before then is kept for so long
}

// ModifyRetentionRequest is the body of PATCH /v1/retention/{class}. Fields that are left out stay as they are.
type ModifyRetentionRequest struct {
	Days        *int `json:"days,omitempty"`
	MinimumDays *int `json:"minimumDays,omitempty"`
}

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

// MaxLegalHolds bounds the holds of a mesh.
const MaxLegalHolds = 200

// MaxHoldReason bounds a reason, in bytes.
const MaxHoldReason = 500

// CreateLegalHoldRequest is the body of POST /v1/legal-holds. One of VPC, Service, Endpoint and Node, or the account that the caller
// acts for.
type CreateLegalHoldRequest struct {
	VPC      string    `json:"vpcId,omitempty"`
	Service  string    `json:"serviceId,omitempty"`
	Endpoint string    `json:"endpointId,omitempty"`
	Node     string    `json:"nodeId,omitempty"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Reason   string    `json:"reason"`
}
