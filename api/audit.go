package api

import (
	"encoding/json"
	"slices"
	"time"
)

// AuditRole says what let the actor of an event in.
type AuditRole string

// Roles of actors.
const (
	RoleAdmin     AuditRole = "admin"     // an administrator's API key
	RoleAccount   AuditRole = "account"   // an account's API key
	RoleNode      AuditRole = "node"      // a node's certificate
	RoleToken     AuditRole = "token"     // a join token
	RoleSystem    AuditRole = "system"    // the server itself: nobody asked for it
	RoleAnonymous AuditRole = "anonymous" // nothing did: no valid key, certificate or token
)

// AuditRoles lists them.
var AuditRoles = []AuditRole{RoleAdmin, RoleAccount, RoleNode, RoleToken, RoleSystem, RoleAnonymous}

// Outcomes: success, or the code that it was refused with. In a filter denied stands for all codes.
const (
	OutcomeSuccess = "success"
	OutcomeDenied  = "denied"
)

// Actions of events that are no call of an operation.
const (
	ActionStartServer  = "start-server"
	ActionStopServer   = "stop-server"
	ActionPruneAudit   = "prune-audit"
	ActionLoseCount    = "lose-refusals" // a count of refused calls cannot be read any more
	ActionTargetHealth = "target-health"
)

// AuditEvent says who did what, or tried to. Events have numbers without gaps.
type AuditEvent struct {
	Seq       uint64    `json:"seq"`
	At        time.Time `json:"at"`
	Actor     string    `json:"actor"`               // API key, node or join token id, "system" or "anonymous"
	ActorName string    `json:"actorName,omitempty"` // name of the key or node as it was then
	Role      AuditRole `json:"role,omitempty"`      // "": an event of a version that did not say
	Account   string    `json:"account,omitempty"`   // that the actor acted for
	Action    string    `json:"action"`              // operation id, such as create-vpc
	Resource  string    `json:"resource,omitempty"`  // id; of a refused call what it named, whether there is one or not
	// Asked is what a refused call named that is no id, such as a name; at most MaxAuditAsked bytes.
	Asked     string `json:"asked,omitempty"`
	RequestID string `json:"requestId"`
	Source    string `json:"source,omitempty"` // address that the request came from
	Outcome   string `json:"outcome"`          // OutcomeSuccess or an ErrorCode
	// Message and Field say why it was refused, as the caller was told; of a target's health they say what was found.
	Message string `json:"message,omitempty"`
	Field   string `json:"field,omitempty"`
	// Count is how many requests the event stands for when it is not one: refusals of one kind that are too many for events of their own,
	// or reads of logs after the first, within a minute, of which the last is described here; for prune-audit, how many events were
	// forgotten.
	Count uint64 `json:"count,omitempty"`
	// Sources are the addresses that Count is about, and Resources what was asked for, by id or name: those with most requests, at most
	// MaxAuditSources, and "others".
	Sources   []AuditSource `json:"sources,omitempty"`
	Resources []AuditSource `json:"resources,omitempty"`
	// Changes are the resources that it made, changed or removed. Of other accounts' an account does not hear.
	Changes []AuditChange `json:"changes,omitempty"`
	// Continues is the number of the event whose further changes this one has: there was no room for all in one.
	Continues uint64 `json:"continues,omitempty"`
	// Health is what became of a target, in an event of the action target-health.
	Health *HealthTransition `json:"health,omitempty"`
}

// AuditSource counts requests by where they came from, or by what they asked for.
type AuditSource struct {
	Source string `json:"source"`
	Count  uint64 `json:"count"`
}

// AuditChange is what became of one resource: as the API shows it, without secrets and without its revision, which is not given yet
// when the event is written. Before is empty for a new resource, After for one that is removed.
type AuditChange struct {
	Kind    Kind            `json:"kind"`
	ID      string          `json:"id"`
	Account string          `json:"account,omitempty"` // owner
	Before  json.RawMessage `json:"before,omitempty"`
	After   json.RawMessage `json:"after,omitempty"`
	// Same names the properties that Before leaves out because they are as in After.
	Same []string `json:"same,omitempty"`
	// BeforeHash and AfterHash are the SHA-256, hexadecimal, of a resource's JSON with its properties sorted, where not all of it is
	// here: Cut names the properties that were left out, and is "*" where that is all of them.
	BeforeHash string   `json:"beforeHash,omitempty"`
	AfterHash  string   `json:"afterHash,omitempty"`
	Cut        []string `json:"cut,omitempty"`
}

// Was is the resource before the change as far as it is known: Before with what Same names. Nil: it was not there, or only its hash is
// known.
func (c *AuditChange) Was() (json.RawMessage, error) {
	if c.Before == nil || len(c.Same) == 0 {
		return c.Before, nil
	}
	var before, after map[string]json.RawMessage
	if err := json.Unmarshal(c.Before, &before); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(c.After, &after); err != nil {
		return nil, err
	}
	for _, name := range c.Same {
		if v, have := after[name]; have {
			before[name] = v
		}
	}
	return json.Marshal(before)
}

// Owner is the account that the resource is of, "" where it is of none.
func (c *AuditChange) Owner() string {
	if c.Kind == KindAccount {
		return c.ID
	}
	return c.Account
}

// Audited is an event without the changes that an account may not know of.
func (e AuditEvent) Audited(account string) AuditEvent {
	var own []AuditChange
	for _, c := range e.Changes {
		if c.Owner() == account {
			own = append(own, c)
		}
	}
	e.Changes = own
	return e
}

// AuditFilter selects audit events. What is empty selects nothing away.
type AuditFilter struct {
	Since, Until time.Time
	Actor        string // id or name
	Action       string
	Resource     string // id
	Outcome      string // OutcomeSuccess, OutcomeDenied or an ErrorCode
	Limit        int    // the newest so many; 0: 1000
	Before       uint64 // only those with a smaller number
}

// Match tells whether an event is selected, by all but Limit and Before. Times need not grow with numbers: clocks are set.
func (f *AuditFilter) Match(e *AuditEvent) bool {
	switch {
	case !f.Since.IsZero() && e.At.Before(f.Since), !f.Until.IsZero() && !e.At.Before(f.Until):
		return false
	case f.Actor != "" && f.Actor != e.Actor && f.Actor != e.ActorName, f.Action != "" && f.Action != e.Action:
		return false
	case f.Resource != "" && f.Resource != e.Resource && !slices.ContainsFunc(e.Changes, func(c AuditChange) bool { return c.ID == f.Resource }):
		return false
	}
	switch f.Outcome {
	case "":
		return true
	case OutcomeDenied:
		return e.Outcome != OutcomeSuccess
	}
	return e.Outcome == f.Outcome
}

// AuditedResource is a resource as the audit log shows it at some time.
type AuditedResource struct {
	Kind    Kind   `json:"kind"`
	ID      string `json:"id"`
	Account string `json:"account,omitempty"`
	// Exists: it was there; else it was removed before, and State is what it was last.
	Exists bool            `json:"exists"`
	State  json.RawMessage `json:"state,omitempty"`
	Hash   string          `json:"hash,omitempty"` // SHA-256 of the whole, hexadecimal, where Cut is not empty
	Cut    []string        `json:"cut,omitempty"`  // properties that the log has no more of than that hash; "*": all
	// Event is what made it so, and Decision, of an endpoint connection, who accepted or rejected it last; both without changes.
	Event    AuditEvent  `json:"event"`
	Decision *AuditEvent `json:"decision,omitempty"`
}

// AuditedState is a resource at some time with what decided over it then.
type AuditedState struct {
	At       time.Time         `json:"at"`
	Resource AuditedResource   `json:"resource"`
	Related  []AuditedResource `json:"related"`
}
