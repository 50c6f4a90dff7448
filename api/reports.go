package api

import "time"

// MaxDailyRows bounds each list of a daily report: with them the report fits into an entry of the Merkle log.
const MaxDailyRows = 100

// DailyReport is what somebody should look at each day: PCI DSS 10.4.1's daily review. The server makes one of each day (UTC) when
// the day is over, and puts it into the Merkle log.
type DailyReport struct {
	Version int       `json:"version"` // 1
	Date    string    `json:"date"`    // 2026-03-01
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	MadeAt  time.Time `json:"madeAt"`

	Audit DailyAudit `json:"audit"`
	Flows DailyFlows `json:"flows"`
	// Problems are what was wrong with the server when the report was made.
	Problems     []string     `json:"problems,omitempty"`
	Verification Verification `json:"verification"`
}

// DailyAudit counts the audit events of a day.
type DailyAudit struct {
	FirstSeq  uint64 `json:"firstSeq,omitempty"` // of the day's events
	LastSeq   uint64 `json:"lastSeq,omitempty"`
	Calls     uint64 `json:"calls"`     // that changed something
	Denied    uint64 `json:"denied"`    // calls, those of callers that nobody knows too
	Anonymous uint64 `json:"anonymous"` // of the denied: without a valid key, certificate or token
	LogReads  uint64 `json:"logReads"`  // readings of logs
	Starts    uint64 `json:"starts"`    // of the server
	Crashes   uint64 `json:"crashes"`   // of those: the server before did not say that it stopped
	// Denials are the denied calls by kind, those with most first; at most MaxDailyRows.
	Denials []Denials `json:"denials,omitempty"`
	// Decisions are connections that were accepted or rejected, or that expired; at most MaxDailyRows, the newest.
	Decisions []Decision `json:"decisions,omitempty"`
}

// Denials counts refused calls of one kind.
type Denials struct {
	Actor   string `json:"actor"`
	Account string `json:"account,omitempty"`
	Action  string `json:"action"`
	Outcome string `json:"outcome"`
	Count   uint64 `json:"count"`
}

// Decision is what was decided about an endpoint connection.
type Decision struct {
	At         time.Time       `json:"at"`
	Connection string          `json:"connectionId"`
	Service    string          `json:"serviceId"`
	Endpoint   string          `json:"endpointId"`
	State      ConnectionState `json:"state"`
	Actor      string          `json:"actor"`
	Seq        uint64          `json:"seq"`
}

// DailyFlows sums up the flow records of a day.
type DailyFlows struct {
	Records uint64 `json:"records"`
	// Lost counts what records say that they lack: refusals and events without detail.
	Lost  uint64 `json:"lost"`
	Nodes int    `json:"nodes"` // that wrote any
	// Gaps are sequence numbers that were not there when the report was made, by node; at most MaxDailyRows.
	Gaps []SequenceGap `json:"gaps,omitempty"`
	// Refused are the flows that were refused, by account and reason, those with most packets first; at most MaxDailyRows.
	Refused []RefusedFlows `json:"refused,omitempty"`
	// NewPairs are what talked with each other for the first time since the server keeps count; at most MaxDailyRows, of NewPairsCount.
	NewPairs      []FlowPair `json:"newPairs,omitempty"`
	NewPairsCount int        `json:"newPairsCount"`
}

// SequenceGap are records of a node that are missing.
type SequenceGap struct {
	Node  string `json:"nodeId"`
	Boot  string `json:"boot"`
	First uint64 `json:"first"` // sequence number
	Last  uint64 `json:"last"`
}

// RefusedFlows sums up refusals.
type RefusedFlows struct {
	Account string `json:"accountId"`
	Reason  string `json:"reason"`
	Records uint64 `json:"records"`
	Packets uint64 `json:"packets"`
}

// FlowPair is an interface and what it opened flows to.
type FlowPair struct {
	Account   string    `json:"accountId"`
	Interface string    `json:"interfaceId"`
	To        string    `json:"to"` // a service, ACCOUNT/NAME, or an address in the same VPC
	First     time.Time `json:"first"`
}

// Verification is what came of verifying the server's own evidence of the day.
type Verification struct {
	Good     bool     `json:"good"`
	Findings []string `json:"findings,omitempty"` // the first MaxStatusNames
	// NotDone says why it was not done; "": it was.
	NotDone string `json:"notDone,omitempty"`
}

// DailyReportEntry lists a daily report.
type DailyReportEntry struct {
	Date   string    `json:"date"`
	MadeAt time.Time `json:"madeAt"`
	SHA256 string    `json:"sha256"` // of the report's JSON as the Merkle log has it, hexadecimal
	Good   bool      `json:"good"`   // verification found nothing
	Denied uint64    `json:"denied"` // calls
}
