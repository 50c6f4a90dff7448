package api

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// HealthProtocol is what a health check speaks.
type HealthProtocol string

// Protocols of health checks, as AWS writes them.
const (
	HealthTCP   HealthProtocol = "TCP"
	HealthHTTP  HealthProtocol = "HTTP"
	HealthHTTPS HealthProtocol = "HTTPS" // whatever the certificate, as at AWS
	HealthGRPC  HealthProtocol = "GRPC"  // grpc.health.v1, in clear
)

// TrafficPort is AWS's word for the port that the target gets flows at.
const TrafficPort = "traffic-port"

// HealthCheck says how a target group's targets are asked whether they work. The node that hosts a target asks; decision 0020.
type HealthCheck struct {
	// Enabled: without it every target counts as healthy. Default: for TCP groups. A UDP group needs a check of another protocol.
	Enabled  bool           `json:"enabled"`
	Protocol HealthProtocol `json:"protocol"` // default TCP
	// Port is TrafficPort, which is the default, or 1 to 65535.
	Port string `json:"port"`
	// Path is asked for with HTTP and HTTPS (default "/"); with GRPC it is the service's name, empty for the whole server.
	Path string `json:"path,omitempty"`
	// Matcher are the codes that are good, such as "200-399" (the default of HTTP and HTTPS) or "200,204"; of GRPC "0".
	Matcher            string `json:"matcher,omitempty"`
	IntervalSeconds    uint32 `json:"intervalSeconds"`    // 1..300, default 10
	TimeoutSeconds     uint32 `json:"timeoutSeconds"`     // 1..120, default the interval's, at most 10
	HealthyThreshold   uint32 `json:"healthyThreshold"`   // good answers in a row until an unhealthy target is healthy: 2..10
	UnhealthyThreshold uint32 `json:"unhealthyThreshold"` // bad ones until a healthy one is not: 2..10
}

// MinimumHealthy is how many healthy targets it takes to leave out the others. With fewer all are used, as without checks.
type MinimumHealthy struct {
	Count      uint32 `json:"count"`                // 1..1000, default 1
	Percentage uint32 `json:"percentage,omitempty"` // of the targets, 1..100; 0: the count alone decides
}

// Bounds and defaults of health checks. AWS's where it has them; its default thresholds and interval (5 and 2 times 30 s) would keep
// a target that came back out for minutes.
const (
	MaxHealthInterval       = 300
	MaxHealthTimeout        = 120
	MinHealthThreshold      = 2
	MaxHealthThreshold      = 10
	DefaultHealthInterval   = 10
	DefaultHealthTimeout    = 10
	DefaultHealthThreshold  = 2
	MaxHealthPathLen        = 1024
	MaxHealthMatcherLen     = 64
	MaxUnhealthyDraining    = 360_000
	MinSlowStart            = 30
	MaxSlowStart            = 900
	MaxHealthHistory        = 20    // transitions of a target that are kept
	MaxReportedTransitions  = 1_000 // in one report of a node
	MaxHealthDescriptionLen = 255
)

// DefaultHealthCheck is that of a target group which says nothing of it.
func DefaultHealthCheck(group Protocol) HealthCheck {
	return HealthCheck{Enabled: group == TCP, Protocol: HealthTCP, Port: TrafficPort, IntervalSeconds: DefaultHealthInterval,
		TimeoutSeconds: DefaultHealthTimeout, HealthyThreshold: DefaultHealthThreshold, UnhealthyThreshold: DefaultHealthThreshold}
}

// ProbePort is the port that a target with a port is asked at.
func (h *HealthCheck) ProbePort(target uint16) uint16 {
	if n, err := strconv.ParseUint(h.Port, 10, 16); err == nil && n > 0 {
		return uint16(n)
	}
	return target
}

// Matches tells whether an answer's code is good.
func (h *HealthCheck) Matches(code int) bool {
	ranges, err := parseMatcher(h.Matcher)
	if err != nil {
		return false
	}
	for _, r := range ranges {
		if code >= r[0] && code <= r[1] {
			return true
		}
	}
	return false
}

// parseMatcher reads codes and ranges of them, separated by commas.
func parseMatcher(text string) (ranges [][2]int, err error) {
	for part := range strings.SplitSeq(text, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		a, err := strconv.ParseUint(low, 10, 16)
		if err != nil {
			return nil, err
		}
		b, err := strconv.ParseUint(high, 10, 16)
		if err != nil {
			return nil, err
		}
		if a > b {
			return nil, strconv.ErrRange
		}
		ranges = append(ranges, [2]int{int(a), int(b)})
	}
	return ranges, nil
}

// TargetState is AWS's TargetHealthStateEnum.
type TargetState string

// States of a target.
const (
	TargetInitial           TargetState = "initial" // not asked yet
	TargetHealthy           TargetState = "healthy"
	TargetUnhealthy         TargetState = "unhealthy"
	TargetUnhealthyDraining TargetState = "unhealthy.draining" // it still keeps its flows
	TargetUnused            TargetState = "unused"             // no load balancer, or no node, has it
	TargetDraining          TargetState = "draining"           // deregistered
	TargetUnavailable       TargetState = "unavailable"        // nobody asks it, or nobody tells
)

// TargetStates are all of them.
var TargetStates = []TargetState{TargetInitial, TargetHealthy, TargetUnhealthy, TargetUnhealthyDraining, TargetUnused, TargetDraining,
	TargetUnavailable}

// TargetReason says why a target is in its state.
type TargetReason string

// Reasons: AWS's codes, and three of our own where AWS has none.
const (
	ReasonRegistrationInProgress   TargetReason = "Elb.RegistrationInProgress"
	ReasonInitialHealthChecking    TargetReason = "Elb.InitialHealthChecking"
	ReasonTimeout                  TargetReason = "Target.Timeout"
	ReasonFailedHealthChecks       TargetReason = "Target.FailedHealthChecks"
	ReasonResponseCodeMismatch     TargetReason = "Target.ResponseCodeMismatch"
	ReasonNotInUse                 TargetReason = "Target.NotInUse"
	ReasonDeregistrationInProgress TargetReason = "Target.DeregistrationInProgress"
	ReasonHealthCheckDisabled      TargetReason = "Target.HealthCheckDisabled"
	ReasonInvalidState             TargetReason = "Target.InvalidState"    // no node hosts it
	ReasonHostUnreachable          TargetReason = "Target.HostUnreachable" // the node that hosts it is not heard of
	ReasonFlapping                 TargetReason = "Target.Flapping"        // it changed too often, and is held
	ReasonNoReport                 TargetReason = "Target.NoReport"        // its node has said nothing of it
)

// TargetHealth is a target's health as the node that hosts it last said, or the server knows it.
type TargetHealth struct {
	TargetGroup string       `json:"targetGroupId"`
	ENI         string       `json:"eniId"`
	Port        uint16       `json:"port"`
	State       TargetState  `json:"state"`
	Reason      TargetReason `json:"reason,omitempty"`
	Description string       `json:"description,omitempty"` // in words
	Since       time.Time    `json:"since,omitzero"`
}

// HealthTransition is one change of a target's health.
type HealthTransition struct {
	TargetGroup string       `json:"targetGroupId"`
	ENI         string       `json:"eniId"`
	Port        uint16       `json:"port"`
	At          time.Time    `json:"at"`
	From        TargetState  `json:"from,omitempty"`
	To          TargetState  `json:"to"`
	Reason      TargetReason `json:"reason,omitempty"`
	Description string       `json:"description,omitempty"`
}

// TargetGroupHealth is the answer of GET /v1/target-groups/{id}/health.
type TargetGroupHealth struct {
	TargetGroup string `json:"targetGroupId"`
	// Usable of Registered targets that take new flows are not known to be ill.
	Usable     int `json:"usableTargets"`
	Registered int `json:"registeredTargets"`
	// FailOpen: fewer are usable than minimumHealthyTargets, so all targets are used.
	FailOpen bool              `json:"failOpen"`
	Targets  []DescribedTarget `json:"targets"` // by interface and port
}

// DescribedTarget is a target and its health.
type DescribedTarget struct {
	ID          string       `json:"id"` // TARGET GROUP/ENI:PORT
	TargetGroup string       `json:"targetGroupId"`
	ENI         string       `json:"eniId"`
	ENIName     string       `json:"eniName,omitempty"`
	Address     netip.Addr   `json:"address,omitzero"`
	Port        uint16       `json:"port"`
	Zone        string       `json:"zone,omitempty"`
	Weight      uint16       `json:"weight"`
	State       TargetState  `json:"state"`
	Reason      TargetReason `json:"reason,omitempty"`
	Description string       `json:"description,omitempty"`
	Since       time.Time    `json:"since,omitzero"`
	// History are the last changes that its node told, the newest first; MaxHealthHistory at most.
	History []HealthTransition `json:"history,omitempty"`
}

// Usable tells whether a target in this state takes new flows while others do too.
func (s TargetState) Usable() bool { return s == TargetHealthy || s == TargetUnavailable }

// Enough tells whether so many usable of all targets are as many as it takes.
func (m MinimumHealthy) Enough(usable, all int) bool {
	percent := (int(m.Percentage)*all + 99) / 100
	return usable >= max(1, min(int(m.Count), all), percent)
}

// ViewHealthCheck is a target group of which this node hosts targets, and how it asks them.
type ViewHealthCheck struct {
	TargetGroup uint32 `json:"targetGroup"` // number
	ID          string `json:"targetGroupId"`
	VPC         uint32 `json:"vpc"` // number
	// Check is enabled.
	Check HealthCheck `json:"check"`
	// ProxyHeader: the targets expect a PROXY protocol header.
	ProxyHeader bool               `json:"proxyHeader,omitempty"`
	Targets     []ViewHealthTarget `json:"targets"`
}

// ViewHealthTarget is a target that this node hosts.
type ViewHealthTarget struct {
	ENI     string     `json:"eniId"`
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`   // that it gets flows at
	Source  netip.Addr `json:"source"` // load balancer's address, as in a ViewGrantTarget
}

// ViewPoolHealth is what a consumer's node does with the health of a listener's targets.
type ViewPoolHealth struct {
	MinimumCount            uint32 `json:"minimumCount"`
	MinimumPercentage       uint32 `json:"minimumPercentage,omitempty"`
	SlowStartSeconds        uint32 `json:"slowStartSeconds,omitempty"`
	ConnectionTermination   bool   `json:"connectionTermination,omitempty"`
	DrainingIntervalSeconds uint32 `json:"drainingIntervalSeconds,omitempty"`
}
