package format

import (
	"strings"
	"time"

	"github.com/culvert-net/culvert/api"
)

// States of a log line that are not a flow's; AWS's words.
const (
	StatusOK = "OK"
	// StatusNoData says that an interface had no traffic in a window.
	StatusNoData = "NODATA"
	// StatusSkipData stands for records that are missing.
	StatusSkipData = "SKIPDATA"
)

// Row is what one line tells: a record in one direction, and what stands beside it.
type Row struct {
	*api.FlowRecord
	// Reply: the line is of the answers, from the destination of the flow to who opened it.
	Reply bool
	// Records is how many flow records the line was made of, at least 1.
	Records int
	// LostHere is what Lost counts, where the line is the one that tells it.
	LostHere uint64

	Region string
	AZ     string // of the interface's subnet
	// SubnetID is for records that do not name it.
	SubnetID   string
	InstanceID string // node that hosts the interface
	NextHop    Hop
}

// Hop is an interface inside the VPC that has what the line sends, or where what it receives comes from.
type Hop struct {
	Interface, VPC, Subnet, AZ string
}

// Peer is the other end's address as the interface sees it; "" where the line is of no packets, or does not tell.
func (r *Row) Peer() string {
	at := r.atInterface()
	switch {
	case !r.carries():
		return ""
	case r.direction() == "egress":
		return at.DstAddr
	}
	return at.SrcAddr
}

// Rows are the lines of a record: its opening direction, the answers where there were any, and one that declares what is lost.
// Callers complete Region, AZ, SubnetID, InstanceID and NextHop.
func Rows(r *api.FlowRecord, records int) []Row {
	if r.LogStatus == StatusSkipData {
		return []Row{{FlowRecord: r, Records: records, LostHere: r.Lost}}
	}
	rows := make([]Row, 0, 3)
	if r.Packets > 0 || r.ReplyPackets == 0 {
		rows = append(rows, Row{FlowRecord: r, Records: records})
	}
	if r.ReplyPackets > 0 {
		rows = append(rows, Row{FlowRecord: r, Records: records, Reply: true})
	}
	if r.Lost > 0 {
		// Whose traffic it was is not known: the record only is the next that its node wrote.
		lost := &api.FlowRecord{Node: r.Node, Boot: r.Boot, Sequence: r.Sequence, Account: r.Account, Start: r.Start, End: r.End,
			LogStatus: StatusSkipData, Lost: r.Lost}
		rows = append(rows, Row{FlowRecord: lost, Records: 0, LostHere: r.Lost})
	}
	return rows
}

// NoData is the line of an interface without traffic from start to end.
func NoData(account, eni, vpc, subnet string, start, end time.Time) Row {
	return Row{FlowRecord: &api.FlowRecord{Account: account, Interface: eni, VPC: vpc, Subnet: subnet, Start: start, End: end,
		LogStatus: StatusNoData}}
}

// carries tells whether the line is of packets.
func (r *Row) carries() bool { return r.LogStatus == StatusOK }

// atInterface is the tuple that the interface itself sees, in the line's direction.
func (r *Row) atInterface() api.FlowTuple {
	if r.Direction == "ingress" {
		return r.turned(r.Translated)
	}
	return r.turned(r.Tuple)
}

// beyond is the tuple on the other side of the node's translation, in the line's direction.
func (r *Row) beyond() api.FlowTuple {
	if r.Direction == "ingress" {
		return r.turned(r.Tuple)
	}
	return r.turned(r.Translated)
}

func (r *Row) turned(t api.FlowTuple) api.FlowTuple {
	if r.Reply {
		return api.FlowTuple{SrcAddr: t.DstAddr, SrcPort: t.DstPort, DstAddr: t.SrcAddr, DstPort: t.SrcPort}
	}
	return t
}

// direction is that of the line at its interface.
func (r *Row) direction() string {
	if !r.Reply {
		return r.Direction
	}
	switch r.Direction {
	case "egress":
		return "ingress"
	case "ingress":
		return "egress"
	}
	return ""
}

func (r *Row) packets() uint64 {
	if r.Reply {
		return r.ReplyPackets
	}
	return r.Packets
}

func (r *Row) bytes() uint64 {
	if r.Reply {
		return r.ReplyBytes
	}
	return r.Bytes
}

// family is AWS's word for it.
func (r *Row) family() string {
	switch a := r.atInterface(); {
	case a.SrcAddr == "" && a.DstAddr == "":
		return ""
	case strings.Contains(a.SrcAddr+a.DstAddr, ":"):
		return "IPv6"
	}
	return "IPv4"
}

const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// tcpFlags keeps what AWS shows: FIN, SYN and RST, and ACK with the SYN of answers only. An agent of before told in each record the flags of all
// packets so far: its records of a flow that goes on have the opener's SYN, which others have told by then, and say nothing of one in their interval.
func (r *Row) tcpFlags() int64 {
	const shown = tcpFIN | tcpSYN | tcpRST
	f := r.TCPFlags & shown
	if r.Reply {
		f = r.ReplyTCPFlags & shown
	}
	switch {
	case (r.State == api.FlowActive || r.State == api.FlowLate) && r.TCPFlags&tcpSYN != 0:
		f &^= tcpSYN
	case r.Reply && f&tcpSYN != 0:
		f |= tcpACK
	}
	return int64(f)
}
