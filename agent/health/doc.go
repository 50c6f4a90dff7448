// Package health decides which targets take new flows. It is pure: clocks, sockets and probes are handed in (agent/health/exchange
// and agent/health/probe). Decision 0020 has the reasons.
//
// A node checks the targets that it hosts, and nobody else does: [Monitor] says when to probe which, and what the outcomes come
// to. It tells the nodes that may send there, which hold what they were told in a [Judgement]. Whatever else makes a target
// suspect, such as a refused SYN, only makes its node probe it at once: nothing but a failed probe, or a host's silence to
// questions, takes a target away.
package health

import (
	"cmp"
	"net/netip"
	"time"
)

// Tick is the time between two digests of a node. It sends all that it has each time, changed or not: an incident costs no more
// than any other minute.
const Tick = 500 * time.Millisecond

// Key names a target of a target group.
type Key struct {
	TargetGroup uint32         // number, unique in the mesh
	Target      netip.AddrPort // IPv4, in the VPC of the group
}

// Compare orders keys by target group, address and port.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.TargetGroup, o.TargetGroup), k.Target.Compare(o.Target))
}

// place is where a target is: several groups may have the same.
type place struct {
	vpc uint32 // number
	at  netip.AddrPort
}

// State of a target as its node sees it. Values are those of the wire.
type State uint8

// States.
const (
	Unknown   State = 0 // not probed to a result since the agent began: as before
	Initial   State = 1 // new, and not probed to a result yet
	Healthy   State = 2
	Unhealthy State = 3
)

// String is AWS's word.
func (s State) String() string {
	switch s {
	case Initial:
		return "initial"
	case Healthy:
		return "healthy"
	case Unhealthy:
		return "unhealthy"
	}
	return "unavailable"
}

// Reason is why a target is in its state. Values are those of the wire.
type Reason uint8

// Reasons. A healthy target has none.
const (
	ReasonNone Reason = iota
	ReasonInitial
	ReasonTimeout     // no answer in time
	ReasonFailed      // refused, reset, or no answer of the protocol
	ReasonMismatch    // an answer that the matcher does not take
	ReasonFlapping    // it passes, and is held back because it changed too often
	ReasonUnreachable // its host does not answer
	reasonsEnd        // one past the last
)

// String is AWS's reason code, or one of its kind where AWS has none.
func (r Reason) String() string {
	switch r {
	case ReasonInitial:
		return "Elb.InitialHealthChecking"
	case ReasonTimeout:
		return "Target.Timeout"
	case ReasonFailed:
		return "Target.FailedHealthChecks"
	case ReasonMismatch:
		return "Target.ResponseCodeMismatch"
	case ReasonFlapping:
		return "Target.Flapping"
	case ReasonUnreachable:
		return "Target.HostUnreachable"
	}
	return ""
}

// Protocol of a check.
type Protocol string

// Protocols.
const (
	TCP   Protocol = "tcp"
	HTTP  Protocol = "http"
	HTTPS Protocol = "https"
	GRPC  Protocol = "grpc"
)

// Config is how a target group's targets are checked.
type Config struct {
	Protocol           Protocol
	Path               string // of HTTP and HTTPS; the service's name of gRPC
	Matcher            string // of HTTP, HTTPS and gRPC: codes that pass, such as 200-399,404
	Interval           time.Duration
	Timeout            time.Duration // at most Interval
	HealthyThreshold   int           // probes in a row that bring a target back; 1 brings in a new one
	UnhealthyThreshold int           // probes in a row that take a target away
}

// Check is one target of this node that is to be probed.
type Check struct {
	Key
	Account     string // whose target it is: accounts share a node's probes
	VPC         uint32 // number of the target's VPC
	Port        uint16 // to probe
	ProxyHeader bool   // the target expects a header of the PROXY protocol first
	Config
}

// Outcome of a probe.
type Outcome struct {
	Reason Reason // ReasonNone: it passed
	Detail string // for people
	Doubt  bool   // a hurried probe's silence: the target may only be busy
	// Untried: this node was in the way, which says nothing of the target. Reason is none.
	Untried bool
	// Late: it is untried since this node noticed a silence long after its time. Several in a row are a timeout all the same.
	Late bool
}

// Status is what a node knows of one of its targets.
type Status struct {
	Key
	State  State
	Reason Reason
	Detail string
	Since  time.Time // of the state
	// Doubt: it is unhealthy, and may be well. It was only silent to hurried probes, or has passed its last one. It gets no new
	// flows, and keeps those that it has.
	Doubt bool
}

// Transition is a change of a target's state.
type Transition struct {
	Key
	Serial   uint64 // from 1 on, in the order that they came in
	At       time.Time
	From, To State
	Reason   Reason
	Detail   string
}
