package api

// RetentionClass is a sort of what the server keeps.
type RetentionClass string

// Classes.
const (
	RetainAuditEvents RetentionClass = "audit-events" // what audit list reads
)
