package verdict

import (
	"net/netip"

	"github.com/culvert-net/culvert/plan"
)

// FlowKey finds a flow entry. ICMP echo: SourcePort is the id and DestPort 0, in both directions.
type FlowKey struct {
	VPC        uint32
	Source     netip.Addr // IPv4 form; a node's number where View is ViewHost
	Dest       netip.Addr
	SourcePort uint16
	DestPort   uint16
	Tag        uint16 // number; where View is ViewClient with the family bit
	View       View
	IPv6       bool // the packet is
	Protocol   uint8
}

// Flow is one direction of a flow: its whole rewrite, what it was judged by, and its counts.
type Flow struct {
	Reverse    FlowKey // of the other direction's entry
	Generation uint32
	SourceVPC  uint32 // of the packets it handles, as the overlay has or would have them
	DestVPC    uint32
	Source     netip.Addr // after the rewrite, as are the next four
	Dest       netip.Addr
	SourcePort uint16
	DestPort   uint16
	Tag        uint16
	Next       Next
	IPv6       bool // what the packet is after the rewrite
	Flags      uint16
	TCPFlags   uint8 // OR of all seen
	TCPState   TCPState
	Hook       Hook // where its packets enter
	ENI        uint32
	Account    uint32 // that opened it: number in the plan
	Connection uint32
	Rule       uint32
	Idle       uint32 // seconds
	MTU        uint16 // bytes of an overlay packet, toward the other node; 0: the tunnel's
	Packets    uint64
	Bytes      uint64
	Proxy      uint8      // bytes of the PROXY protocol header at its begin; 0: none
	ProxyDone  bool       // the target has acknowledged all of it
	ISN        uint32     // with Proxy: the client's initial sequence number
	Front      netip.Addr // the load balancer's address, where the target sees the client's own instead
	Measured   Measured   // TCP
}

// State is what the datapath keeps between packets. The zero value is a node that has seen none.
type State struct {
	NowNS     uint64 // boot time
	RatesNS   uint64 // boot time that rates go by: a test that counts lets it stand
	LogNS     uint64 // boot time until which the node's flow log takes records
	Flows     map[FlowKey]Flow
	Fragments map[FragmentKey]Fragment // of datagrams that come in fragments
	Used      map[QuotaKey]int64       // flow entries and source ports
	Paid      map[PaidKey]uint64       // until when, boot time

	rings map[fragmentSource]*fragmentRing
	ids   map[fragmentPair]*fragmentIDs

	rules  map[string][]plan.Rule // parsed texts
	tables map[plan.TargetTable]slots
}

// Packet enters at a hook: at HookWorkload and HookHost an Ethernet frame, at HookTunnel an IPv6 packet.
type Packet struct {
	Hook    Hook
	Ifindex uint32 // HookWorkload: the host side of the workload's veth
	Bytes   []byte
	Segment int    // offload (gso_size): bytes of payload per wire packet, 0 for an ordinary packet
	Mark    uint32 // HookHost: of the socket that sent it
}

// Stage is one hook that a packet passed: a packet whose sender and receiver are on one node passes two.
type Stage struct {
	Hook   Hook
	Reason Reason
	ENI    uint32 // number under which Reason is counted
}

// CounterKey finds a counter.
type CounterKey struct {
	ENI    uint32
	Reason Reason
	Hook   Hook
}

// Count is what one counter holds or grows by.
type Count struct {
	Packets uint64
	Bytes   uint64
}

// Verdict is what becomes of a packet.
type Verdict struct {
	Action  Action
	Reason  Reason // of the last stage
	Stages  []Stage
	Next    Next   // where it goes; NextNone for drops and answers
	Ifindex uint32 // where it is redirected to; 0 for drops
	Lane    uint8  // of the tunnel, for NextTunnel
	// Bytes are the packet that leaves, nil for drops: an Ethernet frame, but IPv6 without link header for NextTunnel.
	Bytes    []byte
	Counters map[CounterKey]Count
	Created  []FlowKey // entries made
}

// rulesOf is a parsed rule set; nothing for id 0 or one that is missing.
func (s *State) rulesOf(p *plan.Plan, id uint32) []plan.Rule {
	if id == 0 {
		return nil
	}
	for _, set := range p.RuleSets {
		if set.ID != id {
			continue
		}
		rules, ok := s.rules[set.Text]
		if !ok {
			rules, _ = plan.ParseRules(set.Text)
			if s.rules == nil {
				s.rules = map[string][]plan.Rule{}
			}
			s.rules[set.Text] = rules
		}
		return rules
	}
	return nil
}
