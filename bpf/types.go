package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// Shorter names of the structures in lib/abi.h; byte order of each field stands there. Fields said to be "net" hold the
// network-order bytes in memory: read and write them with Addr, NetAddr, Port and NetPort.
type (
	Config         = ABIConfig
	VPCAddr        = ABIVpcAddr
	ProbeKey       = ABIProbeKey
	Probe          = ABIProbe
	PathKey        = ABIPathKey
	Path           = ABIPath
	ENI            = ABIEni
	Link           = ABILink
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
	FragmentKey    = ABIFragmentKey
	Fragment       = ABIFragment
	FragmentSource = ABIFragmentSource
	FragmentRing   = ABIFragmentRing
	FragmentPair   = ABIFragmentPair
	FragmentIDs    = ABIFragmentIds
	FragmentShare  = ABIFragmentShare
	FragmentCount  = ABIFragmentCount
	CounterKey     = ABICounterKey
	Counter        = ABICounter
	RefusalKey     = ABIRefusalKey
	Refusal        = ABIRefusal
	QuotaKey       = ABIQuotaKey
	Quota          = ABIQuota
	QuotaLimits    = ABIQuotaLimits
	QuotaOrder     = ABIQuotaOrder
	RowOrder       = ABIRowOrder
	Usage          = ABIUsage
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
	TCPState    = ABITcpState
	QuotaKind   = ABIQuotaKind

	FragmentRows = ABIFragmentRows

	RowTable = ABIRowTable
)

// ProbeMark is the mark of the host's packets that may open a probe of a target.
const ProbeMark = ABIProbeMarkMARK_PROBE

// TunnelMark is the mark of packets of lane 0 on their way into the tunnel, which has so many Lanes: decision 0018.
const (
	TunnelMark = ABITunnelMarkMARK_TUNNEL
	Lanes      = int(ABITunnelMarkLANES)
)

// Ticks are a time of a flow's entry, whose rtt is eight times what it says.
func Ticks(n uint32) time.Duration { return time.Duration(n) << ABITickTICK_SHIFT }

// Version is the schema of the pinned maps; it is part of the pin path.
const Version = uint32(ABIAbiVersionABI_VERSION)

// Sizes fixed in lib/abi.h.
const (
	MaxRules  = int(ABIAbiLimitLIMIT_RULES)  // in one rule set
	MaxGroups = int(ABIAbiLimitLIMIT_GROUPS) // of one ENI
	PortTries = int(ABIAbiLimitLIMIT_PORT_TRIES)

	FragmentsHeld    = int(ABIAbiLimitLIMIT_FRAGMENTS)
	FragmentIDBlocks = int(ABIAbiLimitLIMIT_ID_BLOCKS)
	OpenIDs          = int(ABIAbiLimitLIMIT_OPEN_IDS)  // ids of fragments a second toward one target, for any connection
	KeptIDs          = int(ABIAbiLimitLIMIT_KEPT_IDS)  // for all of them in parts
	IDsBurst         = int(ABIAbiLimitLIMIT_IDS_BURST) // seconds' worth at once
	PoolOpen         = int(ABIAbiLimitLIMIT_POOL_OPEN) // source ports toward one target that are open to all
	ResetBurst       = int(ABIAbiLimitLIMIT_RESET_BURST)
)

// MaxEndpointID is how many bytes of an endpoint's id fit into a grant.
const MaxEndpointID = int(ABIGrantLimitMAX_ENDPOINT_ID)

// Rows that fragments take of what accounts may have.
const (
	RowsRings = ABIFragmentRowsROWS_RINGS
	RowsPairs = ABIFragmentRowsROWS_PAIRS
	RowsAll   = ABIFragmentRowsROWS_ALL
)

// Flags of grants: what targets learn of clients.
const (
	GrantProxy  = ABIGrantFlagGRANT_PROXY
	GrantClient = ABIGrantFlagGRANT_CLIENT
)

// ENIStrictLog is the flag of an ENI that has no new flow while the node's flow log takes no records.
const ENIStrictLog = ABIEniFlagENI_STRICT_LOG

// GrantInside is the flag of a load balancer's grant for its own VPC.
const GrantInside = ABIGrantFlagGRANT_INSIDE

// GrantTargetDraining is the flag of a target that was deregistered.
const GrantTargetDraining = ABIGrantTargetFlagGRANT_TARGET_DRAINING

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
	ViewClient   = ABIViewVIEW_CLIENT
)

// Flow flags.
const (
	FlowOpening      = ABIFlowFlagFLOW_OPENING
	FlowDead         = ABIFlowFlagFLOW_DEAD
	FlowSourceTagged = ABIFlowFlagFLOW_SOURCE_TAGGED
	FlowDestTagged   = ABIFlowFlagFLOW_DEST_TAGGED
	FlowClosed       = ABIFlowFlagFLOW_CLOSED
	FlowExpired      = ABIFlowFlagFLOW_EXPIRED
	FlowPoliced      = ABIFlowFlagFLOW_POLICED
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
	LossResets   = ABILossLOSS_RESETS
	Losses       = int(ABILossLOSS_MAX) // how many kinds there are
)

// States of TCP connections, as far as flags show them.
const (
	TCPNone        = ABITcpStateTCP_NONE
	TCPSynSent     = ABITcpStateTCP_SYN_SENT
	TCPSynReceived = ABITcpStateTCP_SYN_RECEIVED
	TCPEstablished = ABITcpStateTCP_ESTABLISHED
	TCPFinWait     = ABITcpStateTCP_FIN_WAIT
	TCPTimeWait    = ABITcpStateTCP_TIME_WAIT
	TCPClosed      = ABITcpStateTCP_CLOSED
)

// Kinds of quotas.
const (
	QuotaTable    = ABIQuotaKindQUOTA_TABLE
	QuotaAccount  = ABIQuotaKindQUOTA_ACCOUNT
	QuotaSent     = ABIQuotaKindQUOTA_SENT
	QuotaReceived = ABIQuotaKindQUOTA_RECEIVED
	QuotaPool     = ABIQuotaKindQUOTA_POOL
	QuotaPorts    = ABIQuotaKindQUOTA_PORTS
)

// Orders of set_quotas.
const (
	QuotaSet    = uint32(ABIQuotaOrderKindQUOTA_SET)
	QuotaAdjust = uint32(ABIQuotaOrderKindQUOTA_ADJUST)
	QuotaDrop   = uint32(ABIQuotaOrderKindQUOTA_DROP)
)

var tcpStateNames = [...]string{"", "SYN_SENT", "SYN_RECEIVED", "ESTABLISHED", "FIN_WAIT", "TIME_WAIT", "CLOSED"}

// String is the C name without TCP_, empty for what is not TCP.
func (s ABITcpState) String() string {
	if int(s) < len(tcpStateNames) {
		return tcpStateNames[s]
	}
	return fmt.Sprintf("TCP_%d", uint32(s))
}

// String is the C name without REASON_, as in docs/REASONS.md.
func (r ABIReason) String() string {
	if name, ok := reasonNames[r]; ok {
		return name
	}
	return fmt.Sprintf("REASON_%d", uint32(r))
}

// Refused says whether a packet with this reason was turned away.
func (r ABIReason) Refused() bool { return r > ReasonNodesOwn }

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

// SetFlowKey sets the event's Key.
func (e *ABIEvent) SetFlowKey(k FlowKey) {
	to := &e.Key
	to.Vpc, to.Saddr, to.Daddr, to.Sport, to.Dport = k.Vpc, k.Saddr, k.Daddr, k.Sport, k.Dport
	to.Tag, to.View, to.Protocol = k.Tag, k.View, k.Protocol
}

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
