package query

import (
	"cmp"
	"slices"
	"strings"
)

// JoinFields are the group of a query whose answer [Join] takes, with [NameField] behind them or without.
var JoinFields = []string{"connection-id", "vpc-id", "protocol", "nat-srcaddr", "nat-srcport", "nat-dstaddr", "nat-dstport",
	"reply", "flow-direction", "service-name"}

// Flow is what both ends saw of one flow, or of several with the same addresses and ports one after another. The addresses are those
// between the nodes: the consumer's workload and the target. Counts of an end that no line tells of are nil, and so is what was lost
// then.
type Flow struct {
	Connection  string `json:"connectionId,omitempty"`
	VPC         string `json:"vpcId,omitempty"` // of flows within one
	ServiceName string `json:"serviceName,omitempty"`
	Name        string `json:"name,omitempty"` // that the client asked for, where the query's last field is NameField
	Protocol    string `json:"protocol"`
	SrcAddr     string `json:"srcAddr"`
	SrcPort     string `json:"srcPort"`
	DstAddr     string `json:"dstAddr"`
	DstPort     string `json:"dstPort"`
	First       int64  `json:"first"` // Unix seconds
	Last        int64  `json:"last"`

	Sent          *Count `json:"sent"` // by who opened it
	Received      *Count `json:"received"`
	Lost          *Count `json:"lost"` // sent and not received
	ReplySent     *Count `json:"replySent"`
	ReplyReceived *Count `json:"replyReceived"`
	ReplyLost     *Count `json:"replyLost"`
}

// Count of packets and bytes.
type Count struct {
	Packets int64 `json:"packets"`
	Bytes   int64 `json:"bytes"`
}

// Join makes one row of the lines that both ends wrote of a flow. What is lost may be less than nothing, for packets that one end
// counted in an interval that the query's time leaves out.
func Join(groups []Group) []Flow {
	found := map[string]*Flow{}
	for _, g := range groups {
		f := flowOf(g.Key)
		k := strings.Join([]string{f.Connection, f.VPC, f.Protocol, f.SrcAddr, f.SrcPort, f.DstAddr, f.DstPort}, separator)
		have := found[k]
		if have == nil {
			have = &f
			f.First, f.Last = g.First, g.Last
			found[k] = have
		}
		have.First, have.Last = min(have.First, g.First), max(have.Last, g.Last)
		have.ServiceName, have.Name = cmp.Or(have.ServiceName, f.ServiceName), cmp.Or(have.Name, f.Name)
		have.add(g.Key[7] == "1", g.Key[8] == "egress", Count{g.Packets, g.Bytes})
	}
	out := make([]Flow, 0, len(found))
	for _, f := range found {
		f.Lost, f.ReplyLost = lost(f.Sent, f.Received), lost(f.ReplySent, f.ReplyReceived)
		out = append(out, *f)
	}
	slices.SortFunc(out, func(a, b Flow) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Connection, b.Connection), cmp.Compare(a.VPC, b.VPC),
			cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.SrcAddr, b.SrcAddr), cmp.Compare(a.SrcPort, b.SrcPort),
			cmp.Compare(a.DstAddr, b.DstAddr), cmp.Compare(a.DstPort, b.DstPort))
	})
	return out
}

// flowOf reads the values of JoinFields. Lines of answers name the ends the other way round.
func flowOf(key []string) Flow {
	f := Flow{Connection: key[0], VPC: key[1], Protocol: key[2], SrcAddr: key[3], SrcPort: key[4], DstAddr: key[5], DstPort: key[6],
		ServiceName: key[9]}
	if key[7] == "1" {
		f.SrcAddr, f.SrcPort, f.DstAddr, f.DstPort = f.DstAddr, f.DstPort, f.SrcAddr, f.SrcPort
	}
	if len(key) > len(JoinFields) {
		f.Name = key[len(JoinFields)]
	}
	if f.Connection != "" {
		f.VPC = "" // the ends are in different ones
	}
	return f
}

func (f *Flow) add(reply, sent bool, c Count) {
	p := &f.Received
	switch {
	case reply && sent:
		p = &f.ReplySent
	case reply:
		p = &f.ReplyReceived
	case sent:
		p = &f.Sent
	}
	if *p == nil {
		*p = &Count{}
	}
	(*p).Packets += c.Packets
	(*p).Bytes += c.Bytes
}

func lost(sent, received *Count) *Count {
	if sent == nil || received == nil {
		return nil
	}
	return &Count{sent.Packets - received.Packets, sent.Bytes - received.Bytes}
}
