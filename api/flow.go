package api

import "time"

// Action of a flow record, AWS's words.
const (
	ActionAccept = "ACCEPT"
	ActionReject = "REJECT"
)

// Flow record states, Culvert's own.
const (
	FlowOpen   = "open"   // the flow was let in during this interval and goes on
	FlowActive = "active" // it was open before and goes on
	FlowClosed = "closed" // it ended: RST, FINs of both sides, idle timeout, or withdrawn permission
	FlowLate   = "late"   // packets after its closed record, such as repetitions of its end
)

// FlowTuple is one form of a flow's addresses.
type FlowTuple struct {
	SrcAddr string `json:"srcAddr"`
	SrcPort uint16 `json:"srcPort"`
	DstAddr string `json:"dstAddr"`
	DstPort uint16 `json:"dstPort"`
}

// FlowRecord is one flow at one node over one aggregation interval, or the aggregate of refusals of one kind. Both ends
// of a flow that crosses nodes write one. Counts are of tenant IP packets and bytes, offload expanded. The control plane gives an
// account the records of the other side of a connection without what tells of that side's own network: those fields are empty.
type FlowRecord struct {
	// Node, Boot and Sequence identify the record: Sequence has no gaps within a boot of the agent's log.
	Node     string `json:"node"` // node id
	Boot     string `json:"boot"`
	Sequence uint64 `json:"sequence"`

	Account   string    `json:"accountId"`   // owner of Interface
	Interface string    `json:"interfaceId"` // local ENI
	VPC       string    `json:"vpcId"`
	Subnet    string    `json:"subnetId,omitempty"`
	Start     time.Time `json:"start"` // first packet in the interval
	End       time.Time `json:"end"`   // last packet in the interval
	Action    string    `json:"action"`
	LogStatus string    `json:"logStatus"` // OK, or SKIPDATA: stands for lost detail only
	State     string    `json:"state,omitempty"`
	Reason    string    `json:"reason"` // of the datapath, such as FORWARDED, GROUP_INGRESS
	Rule      string    `json:"ruleId,omitempty"`
	// Stage is where: "workload", "tunnel", "local" or "host" (the hook).
	Stage string `json:"stage"`
	// ReplyStage is "host" where answers enter at the host, as those of the node's resolver do, else empty.
	ReplyStage string `json:"replyStage,omitempty"`
	// Side of a connection that this node is: "consumer", "provider", or "" inside a VPC.
	Side string `json:"side,omitempty"`

	Protocol int       `json:"protocol"` // IANA
	Tuple    FlowTuple `json:"tuple"`    // as it entered, in the opening direction
	// Translated is the tuple after this node's NAT; equal to Tuple where it does none.
	Translated FlowTuple `json:"translated"`
	Direction  string    `json:"direction"` // egress or ingress, of Interface

	Packets      uint64 `json:"packets"` // opening direction, in this interval
	Bytes        uint64 `json:"bytes"`
	ReplyPackets uint64 `json:"replyPackets"`
	ReplyBytes   uint64 `json:"replyBytes"`
	// TCPFlags are those that packets of the opening direction had in the interval and none before, ReplyTCPFlags those of the answers. Agents of
	// before told in each record all since the flow was opened.
	TCPFlags      int `json:"tcpFlags,omitempty"`
	ReplyTCPFlags int `json:"replyTcpFlags,omitempty"`
	// TCPState is how far the connection was at the end of the interval, in RFC 9293's words: SYN_SENT, SYN_RECEIVED, ESTABLISHED,
	// FIN_WAIT (one direction is finished), TIME_WAIT (both are), CLOSED (reset).
	TCPState string `json:"tcpState,omitempty"`

	// HandshakeMicros is how long the TCP handshake took, from the SYN to the acknowledgement of its answer, as this node saw them.
	HandshakeMicros uint64 `json:"handshakeMicros,omitempty"`
	// RTTMicros is the TCP connection's round trip time at the end of the interval, smoothed (RFC 6298): from this node to the
	// answering end and back. A provider's node tells the target's part of what the consumer's tells.
	RTTMicros uint64 `json:"rttMicros,omitempty"`
	// Retransmits and ReplyRetransmits are packets of the interval with bytes that had been sent before; what is reordered before it
	// reaches this node counts as well.
	Retransmits      uint64 `json:"retransmits,omitempty"` // opening direction
	ReplyRetransmits uint64 `json:"replyRetransmits,omitempty"`

	FlowID          string `json:"flowId,omitempty"`
	Endpoint        string `json:"endpointId,omitempty"`
	Connection      string `json:"connectionId,omitempty"` // or the load balancer that is reached inside its VPC
	Service         string `json:"serviceId,omitempty"`
	ServiceName     string `json:"serviceName,omitempty"`
	Approver        string `json:"approver,omitempty"`
	ConsumerAccount string `json:"consumerAccount,omitempty"`
	ProviderAccount string `json:"providerAccount,omitempty"`
	ConsumerVPC     string `json:"consumerVpcId,omitempty"`
	ProviderVPC     string `json:"providerVpcId,omitempty"`
	Generation      uint32 `json:"generation"`
	// Lost counts refusals or events whose detail was lost before this record (counts are kept in the counters).
	Lost uint64 `json:"lost,omitempty"`
}

// FlowFilter selects records. Zero fields select all.
type FlowFilter struct {
	Since, Until time.Time // of End; the second one is not in it
	Action       string
	Interface    string
	Endpoint     string
	Connection   string
	Service      string
	Reason       string
	VPC          string
	Address      string // either side of either tuple
	Port         uint16 // either side
	Limit        int
}

// Match reports whether the record is selected; Limit is the caller's.
func (f FlowFilter) Match(r *FlowRecord) bool {
	eq := func(want, have string) bool { return want == "" || want == have }
	if !f.Since.IsZero() && r.End.Before(f.Since) || !f.Until.IsZero() && !r.End.Before(f.Until) {
		return false
	}
	if !eq(f.Action, r.Action) || !eq(f.Interface, r.Interface) || !eq(f.Endpoint, r.Endpoint) ||
		!eq(f.Connection, r.Connection) || !eq(f.Reason, r.Reason) || !eq(f.VPC, r.VPC) {
		return false
	}
	if f.Service != "" && f.Service != r.Service && f.Service != r.ServiceName {
		return false
	}
	t, u := r.Tuple, r.Translated
	if a := f.Address; a != "" && a != t.SrcAddr && a != t.DstAddr && a != u.SrcAddr && a != u.DstAddr {
		return false
	}
	p := f.Port
	return p == 0 || p == t.SrcPort || p == t.DstPort || p == u.SrcPort || p == u.DstPort
}
