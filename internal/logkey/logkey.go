// Package logkey has the keys of every line that a process logs. A key has one meaning and one kind of value in all of them, so
// that a query over the logs of server, agents and tunnels needs no list of spellings. docs/OBSERVABILITY.md explains each;
// internal/tidy refuses any other key.
package logkey

// What a line is about. Resources are named by id, so that they are found in the API and in audit events; nodes too.
const (
	Account     = "account"
	Caller      = "caller"
	ENI         = "eni"
	Node        = "node"
	Operation   = "operation"
	RequestID   = "request_id"
	FlowLog     = "flow_log"
	TargetGroup = "target_group"
	Revision    = "revision"
	VPC         = "vpc"
)

// What happened.
const (
	Clock      = "clock"
	Code       = "code"
	DurationMS = "duration_ms"
	Error      = "error"
	Failures   = "failures"
	Key        = "key"
	Last       = "last"
	Line       = "line"
	Panic      = "panic"
	Part       = "part"
	Reason     = "reason"
	Stack      = "stack"
	State      = "state"
	Status     = "status"
	Step       = "step"
	Task       = "task"
	Times      = "times"
	Written    = "written"
)

// Amounts and limits.
const (
	Bytes       = "bytes"
	Configured  = "configured"
	Entries     = "entries"
	Filled      = "filled"
	Limit       = "limit"
	LostRecords = "lost_records"
	NearlyFull  = "nearly_full"
	Pins        = "pins"
	RetryWithin = "retry_within"
	Suppressed  = "suppressed"
)

// Things of the machine and of the network.
const (
	Address   = "address"
	Addresses = "addresses"
	Device    = "device"
	Family    = "family"
	File      = "file"
	Forwarder = "forwarder"
	Ifindex   = "ifindex"
	Interface = "interface"
	Link      = "link"
	Map       = "map"
	MTU       = "mtu"
	Name      = "name"
	Path      = "path"
	Peer      = "peer"
	Port      = "port"
	Receive   = "receive"
	Region    = "region"
	Send      = "send"
	Socket    = "socket"
	Type      = "type"
)
