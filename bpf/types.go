package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Shorter names of the structures in lib/abi.h; byte order of each field stands there. Fields said to be "net" hold the
// network-order bytes in memory: read and write them with Addr, NetAddr, Port and NetPort.
type (
	Config         = ABIConfig
	VPCAddr        = ABIVpcAddr
	ENI            = ABIEni
	Address        = ABIAddress
	Rule           = ABIRule
	RuleSet        = ABIRuleSet
	ServiceKey     = ABIServiceKey
	Service        = ABIService
	Target         = ABITarget
	GrantKey       = ABIGrantKey
	Grant          = ABIGrant
	GrantTargetKey = ABIGrantTargetKey
	GrantTarget    = ABIGrantTarget
	FlowKey        = ABIFlowKey
	Flow           = ABIFlow
	FlowMark       = ABIFlowMark
	FlowRemoval    = ABIFlowRemoval
	CounterKey     = ABICounterKey
	Counter        = ABICounter
	RefusalKey     = ABIRefusalKey
	Refusal        = ABIRefusal
	Event          = ABIEvent
	Outcome        = ABIOutcome

	Reason      = ABIReason
	Hook        = ABIHook
	View        = ABIView
	Next        = ABINext
	FlowFlag    = ABIFlowFlag
	EventKind   = ABIEventKind
	AddressType = ABIAddressType
	Loss        = ABILoss
)

// Version is the schema of the pinned maps; it is part of the pin path.
const Version = uint32(ABIAbiVersionABI_VERSION)

// Sizes fixed in lib/abi.h.
const (
	MaxRules  = int(ABIAbiLimitLIMIT_RULES)  // in one rule set
	MaxGroups = int(ABIAbiLimitLIMIT_GROUPS) // of one ENI
	PortTries = int(ABIAbiLimitLIMIT_PORT_TRIES)
)

// Hooks: where a packet entered.
const (
	HookNone     = ABIHookHOOK_NONE
	HookWorkload = ABIHookHOOK_WORKLOAD
	HookTunnel   = ABIHookHOOK_TUNNEL
	HookLocal    = ABIHookHOOK_LOCAL
	HookHost     = ABIHookHOOK_HOST
)

// Next stages.
const (
	NextNone     = ABINextNEXT_NONE
	NextTunnel   = ABINextNEXT_TUNNEL
	NextLocal    = ABINextNEXT_LOCAL
	NextWorkload = ABINextNEXT_WORKLOAD
	NextHost     = ABINextNEXT_HOST
)

// Views of a flow key.
const (
	ViewWorkload = ABIViewVIEW_WORKLOAD
	ViewLocal    = ABIViewVIEW_LOCAL
	ViewProvider = ABIViewVIEW_PROVIDER
	ViewConsumer = ABIViewVIEW_CONSUMER
	ViewHost     = ABIViewVIEW_HOST
)

// Flow flags.
const (
	FlowOpening      = ABIFlowFlagFLOW_OPENING
	FlowDead         = ABIFlowFlagFLOW_DEAD
	FlowSourceTagged = ABIFlowFlagFLOW_SOURCE_TAGGED
	FlowDestTagged   = ABIFlowFlagFLOW_DEST_TAGGED
	FlowClosed       = ABIFlowFlagFLOW_CLOSED
	FlowExpired      = ABIFlowFlagFLOW_EXPIRED
)

// Kinds of events.
const (
	EventOpen    = ABIEventKindEVENT_OPEN
	EventClose   = ABIEventKindEVENT_CLOSE
	EventRefused = ABIEventKindEVENT_REFUSED
	EventRemoved = ABIEventKindEVENT_REMOVED
)

// Types of addresses.
const (
	AddressWorkload     = ABIAddressTypeADDRESS_WORKLOAD
	AddressEndpoint     = ABIAddressTypeADDRESS_ENDPOINT
	AddressLoadBalancer = ABIAddressTypeADDRESS_LOAD_BALANCER
	AddressResolver     = ABIAddressTypeADDRESS_RESOLVER
)

// Losses: what could not be kept.
const (
	LossEvents   = ABILossLOSS_EVENTS
	LossRefusals = ABILossLOSS_REFUSALS
	LossCounters = ABILossLOSS_COUNTERS
	Losses       = int(ABILossLOSS_MAX) // how many kinds there are
)

// String is the C name without REASON_, as in docs/REASONS.md.
func (r ABIReason) String() string {
	if name, ok := reasonNames[r]; ok {
		return name
	}
	return fmt.Sprintf("REASON_%d", uint32(r))
}

// Refused says whether a packet with this reason was turned away.
func (r ABIReason) Refused() bool { return r > ReasonAnswered }

// ParseReason finds a reason by its String.
func ParseReason(s string) (Reason, bool) {
	for r, name := range reasonNames {
		if name == s {
			return r, true
		}
	}
	return 0, false
}

var hookNames = [...]string{"NONE", "WORKLOAD", "TUNNEL", "LOCAL", "HOST"}

// String is the C name without HOOK_.
func (h ABIHook) String() string {
	if int(h) < len(hookNames) {
		return hookNames[h]
	}
	return fmt.Sprintf("HOOK_%d", uint32(h))
}

// FlowKey is the event's Key by its name.
func (e *ABIEvent) FlowKey() FlowKey { return FlowKey(e.Key) }

// NetAddr is an IPv4 address as a "net" field holds it.
func NetAddr(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

// Addr reads a "net" address field.
func Addr(field uint32) netip.Addr {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], field)
	return netip.AddrFrom4(b)
}

// NetPort is a port as a "net" field holds it.
func NetPort(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

// Port reads a "net" port field.
func Port(field uint16) uint16 { return NetPort(field) }
