package flow

import (
	"context"
	"net/netip"
	"time"
)

// Hook is where a packet entered the datapath; values are those of enum hook in bpf/lib/abi.h.
type Hook uint8

// Hooks.
const (
	HookWorkload Hook = 1
	HookTunnel   Hook = 2
	HookLocal    Hook = 3
	HookHost     Hook = 4
)

// String is the stage as records have it; "" for other values.
func (h Hook) String() string {
	switch h {
	case HookWorkload:
		return "workload"
	case HookTunnel:
		return "tunnel"
	case HookLocal:
		return "local"
	case HookHost:
		return "host"
	}
	return ""
}

// View is from whose side a flow's key sees its packets; values are those of enum view in bpf/lib/abi.h.
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

// EventKind is what an event tells; values are those of enum event_kind in bpf/lib/abi.h.
type EventKind uint8

// Kinds of events.
const (
	EventOpen    EventKind = 1
	EventClose   EventKind = 2
	EventRefused EventKind = 3
)

// Tuple is a pair of addresses and ports. Ports are in host order; an ICMP echo has its id as SrcPort and DstPort 0.
type Tuple struct {
	IPv6    bool // the packets are IPv6; the addresses are the IPv4 forms of theirs all the same
	Src     netip.Addr
	SrcPort uint16
	Dst     netip.Addr
	DstPort uint16
}

// Counts of one flow: wire packets with offload expanded, and their IP bytes as the workload has them.
type Counts struct {
	Packets      uint64 // opening direction
	Bytes        uint64
	ReplyPackets uint64
	ReplyBytes   uint64
	// Packets with bytes that had been sent before.
	Retransmits      uint64
	ReplyRetransmits uint64
}

// Flow is both entries of one flow at one node, joined by their id, with counters since it was opened. A flow between
// two workloads of one node is two flows: one at HookWorkload, one at HookLocal.
type Flow struct {
	ID       uint64 // unique within a boot of the host
	Hook     Hook   // where the opening direction enters
	View     View   // of the opening key
	Protocol uint8  // IANA
	// VPC is the opening key's VPC number, the consumer's where Connection is not 0.
	VPC       uint32
	SourceVPC uint32 // of the opening direction's packets
	DestVPC   uint32
	Tag       uint16 // number of the connection, endpoint ENI and listener; 0 inside a VPC
	Opening   Tuple  // as it enters
	Rewritten Tuple  // after this node's translation
	Counts
	CreatedNS uint64 // boot time, nanoseconds, as is LastNS
	LastNS    uint64 // newest packet of either direction
	TCPFlags  uint8  // all seen since it was opened, in the opening direction
	// ReplyHook is where answers enter; 0 unknown.
	ReplyHook Hook
	// ReplyTCPFlags are those of the answers.
	ReplyTCPFlags uint8
	TCPState      string        // of the datapath, such as ESTABLISHED; empty for what is not TCP
	Handshake     time.Duration // of TCP, from the SYN to the acknowledgement of its answer as this node sees them; 0: not seen
	RTT           time.Duration // of TCP, smoothed: from here to the answering end and back; 0: never timed
	ENI           uint32        // number of the local ENI
	Connection    uint32        // number; 0 inside a VPC
	Rule          uint32        // number of the rule that let it in
	Generation    uint32        // of the plan that it was judged under last
	Closed        bool          // its time is over, or TCP: RST, or FINs of both sides
	Dead          bool          // permission withdrawn
	// Removed: the entries are gone from the kernel and these are their final counters. A source hands a removed flow over
	// once, and never again after that.
	Removed bool
}

// Half is what one of the two entries of a flow has counted.
type Half struct {
	ID      uint64
	Reply   bool // of the answers
	Packets uint64
	Bytes   uint64
	// Packets with bytes that had been sent before.
	Retransmits uint64
}

// Refusal is one kind of refused packets, aggregated in the kernel since the last drain.
type Refusal struct {
	VPC      uint32 // number of the source's VPC, 0 unknown
	DestVPC  uint32
	ENI      uint32 // number of the local ENI, 0 unknown
	IPv6     bool   // as in Tuple; 0.0.0.0 stands for what is no address of the VPC
	Src      netip.Addr
	SrcPort  uint16 // of the first
	Dst      netip.Addr
	DstPort  uint16
	Tag      uint16
	Reason   string // name of the datapath's reason without prefix, such as GROUP_INGRESS
	Protocol uint8
	Hook     Hook
	Packets  uint64
	Bytes    uint64
	FirstNS  uint64 // boot time, nanoseconds
	LastNS   uint64
}

// Event says that a flow was opened or closed, or that a kind of refusal is new. It only wakes: what it is about is read
// from the tables, so a lost event costs promptness and nothing else.
type Event struct {
	Kind   EventKind
	FlowID uint64
	TimeNS uint64
}

// Source is the edge to the datapath.
type Source interface {
	// Flows calls yield for each flow, removed ones once, until it returns false. An error means that the table was not
	// seen whole; a flow may be seen more than once, then its larger counters count.
	Flows(ctx context.Context, yield func(Flow) bool) error
	// DrainRefusals takes the refusals since the last drain out of the kernel. lost counts refused packets since then of
	// which no detail is left. What it returns beside an error is valid and will not come again.
	DrainRefusals(ctx context.Context) (refusals []Refusal, lost uint64, err error)
	// Events is one channel for the life of the source; it may be closed at the end.
	Events() <-chan Event
}

// Skipper is a [Source] that can leave out what is known: of a table full of flows, most have ended and count no more.
type Skipper interface {
	// Skip has readings leave out flows of whose entries known says true. It is asked while they run, by whoever runs them.
	Skip(known func(Half) bool)
}
