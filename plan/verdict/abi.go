package verdict

// The values below are those of bpf/lib/abi.h; a test reads that file and compares.

// Hook is where a packet enters the datapath.
type Hook uint8

// Hooks.
const (
	HookNone     Hook = 0
	HookWorkload Hook = 1
	HookTunnel   Hook = 2
	HookLocal    Hook = 3
	HookHost     Hook = 4
)

// Reason is why a packet was let through or dropped.
type Reason uint16

// Reasons.
const (
	ReasonNone               Reason = 0
	ReasonForwarded          Reason = 1
	ReasonAnswered           Reason = 2
	ReasonNodesOwn           Reason = 3
	ReasonNoState            Reason = 10
	ReasonViewExpired        Reason = 11
	ReasonUnknownLink        Reason = 12
	ReasonNotIP              Reason = 13
	ReasonMalformed          Reason = 14
	ReasonIPOptions          Reason = 15
	ReasonFragment           Reason = 16
	ReasonProtocol           Reason = 17
	ReasonTooBig             Reason = 18
	ReasonNoChecksum         Reason = 19
	ReasonSpoofedMAC         Reason = 20
	ReasonSpoofedAddress     Reason = 21
	ReasonBadOverlay         Reason = 22
	ReasonNoDestination      Reason = 30
	ReasonNotHere            Reason = 31
	ReasonNoListener         Reason = 32
	ReasonNoTarget           Reason = 33
	ReasonNoFlow             Reason = 34
	ReasonNoGrant            Reason = 35
	ReasonTargetNotGranted   Reason = 36
	ReasonHostNotAdmitted    Reason = 37
	ReasonGroupEgress        Reason = 40
	ReasonGroupIngress       Reason = 41
	ReasonEndpointGroup      Reason = 42
	ReasonGrantSource        Reason = 43
	ReasonLBGroupIngress     Reason = 44
	ReasonLBGroupEgress      Reason = 45
	ReasonFlowRevoked        Reason = 46
	ReasonFlowTableFull      Reason = 50
	ReasonSNATPortsExhausted Reason = 51
	ReasonAccountFlowsFull   Reason = 52
	ReasonEndpointFlowsFull  Reason = 53
	ReasonCapConnections     Reason = 54
	ReasonCapFlows           Reason = 55
	ReasonCapBits            Reason = 56
	ReasonLogUnavailable     Reason = 57
	ReasonMessageRate        Reason = 58
	ReasonInternal           Reason = 60
)

// ReasonNames are the names of all reasons, as in bpf/lib/abi.h without REASON_.
var ReasonNames = map[Reason]string{
	ReasonNone: "NONE", ReasonForwarded: "FORWARDED", ReasonAnswered: "ANSWERED", ReasonNodesOwn: "NODES_OWN",
	ReasonNoState:     "NO_STATE",
	ReasonViewExpired: "VIEW_EXPIRED", ReasonUnknownLink: "UNKNOWN_LINK", ReasonNotIP: "NOT_IP",
	ReasonMalformed: "MALFORMED", ReasonIPOptions: "IP_OPTIONS", ReasonFragment: "FRAGMENT", ReasonProtocol: "PROTOCOL",
	ReasonTooBig: "TOO_BIG", ReasonNoChecksum: "NO_CHECKSUM",
	ReasonSpoofedMAC: "SPOOFED_MAC", ReasonSpoofedAddress: "SPOOFED_ADDRESS",
	ReasonBadOverlay: "BAD_OVERLAY", ReasonNoDestination: "NO_DESTINATION", ReasonNotHere: "NOT_HERE",
	ReasonNoListener: "NO_LISTENER", ReasonNoTarget: "NO_TARGET", ReasonNoFlow: "NO_FLOW", ReasonNoGrant: "NO_GRANT",
	ReasonTargetNotGranted: "TARGET_NOT_GRANTED", ReasonHostNotAdmitted: "HOST_NOT_ADMITTED",
	ReasonGroupEgress: "GROUP_EGRESS", ReasonGroupIngress: "GROUP_INGRESS", ReasonEndpointGroup: "ENDPOINT_GROUP",
	ReasonGrantSource: "GRANT_SOURCE", ReasonLBGroupIngress: "LB_GROUP_INGRESS", ReasonLBGroupEgress: "LB_GROUP_EGRESS",
	ReasonFlowRevoked: "FLOW_REVOKED", ReasonFlowTableFull: "FLOW_TABLE_FULL",
	ReasonSNATPortsExhausted: "SNAT_PORTS_EXHAUSTED", ReasonAccountFlowsFull: "ACCOUNT_FLOWS_FULL",
	ReasonEndpointFlowsFull: "ENDPOINT_FLOWS_FULL", ReasonCapConnections: "CAP_CONNECTIONS", ReasonCapFlows: "CAP_FLOWS",
	ReasonCapBits: "CAP_BITS", ReasonLogUnavailable: "LOG_UNAVAILABLE",
	ReasonMessageRate: "MESSAGE_RATE", ReasonInternal: "INTERNAL",
}

// String is the reason's name in bpf/lib/abi.h without REASON_.
func (r Reason) String() string {
	if s, ok := ReasonNames[r]; ok {
		return s
	}
	return "UNKNOWN"
}

// ProbeMark is the mark of the host's packets that may open a probe, bpf/lib/abi.h.
const ProbeMark = 0x43550050

// View says from whose side a flow key sees the packet; decision 0002.
type View uint8

// Views.
const (
	ViewWorkload View = 1
	ViewLocal    View = 2
	ViewProvider View = 3
	ViewConsumer View = 4
	ViewHost     View = 5
	ViewClient   View = 6
)

// Next is where a packet goes.
type Next uint8

// Next stages.
const (
	NextNone     Next = 0
	NextTunnel   Next = 1
	NextLocal    Next = 2
	NextWorkload Next = 3
	NextHost     Next = 4
)

// Flags of flow entries.
const (
	FlowOpening      uint16 = 1
	FlowDead         uint16 = 2
	FlowSourceTagged uint16 = 4
	FlowDestTagged   uint16 = 8
	FlowClosed       uint16 = 16
	FlowExpired      uint16 = 32
	FlowPoliced      uint16 = 64
)

// TCPState is how far a TCP connection is.
type TCPState uint8

// States of TCP connections.
const (
	TCPNone        TCPState = 0
	TCPSynSent     TCPState = 1
	TCPSynReceived TCPState = 2
	TCPEstablished TCPState = 3
	TCPFinWait     TCPState = 4
	TCPTimeWait    TCPState = 5
	TCPClosed      TCPState = 6
)

// Action is the program's return value.
type Action uint32

// Actions, TC_ACT_* of linux/pkt_cls.h.
const (
	Drop     Action = 2
	Redirect Action = 7
)
