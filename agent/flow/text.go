package flow

import (
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/culvert-net/culvert/api"
)

// DefaultFormat is AWS's default format: its 14 fields of version 2.
var DefaultFormat = []string{
	"version", "account-id", "interface-id", "srcaddr", "dstaddr", "srcport", "dstport", "protocol", "packets", "bytes",
	"start", "end", "action", "log-status",
}

const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// fields are AWS's names, as far as they have a meaning here, and then our own. A record is written as one direction of a flow,
// the opening one.
var fields = map[string]func(*api.FlowRecord) string{
	"version":        func(*api.FlowRecord) string { return "2" },
	"account-id":     func(r *api.FlowRecord) string { return r.Account },
	"interface-id":   func(r *api.FlowRecord) string { return r.Interface },
	"srcaddr":        func(r *api.FlowRecord) string { return atInterface(r).SrcAddr },
	"dstaddr":        func(r *api.FlowRecord) string { return atInterface(r).DstAddr },
	"srcport":        func(r *api.FlowRecord) string { return port(r, atInterface(r).SrcPort) },
	"dstport":        func(r *api.FlowRecord) string { return port(r, atInterface(r).DstPort) },
	"protocol":       func(r *api.FlowRecord) string { return unlessLost(r, uint64(r.Protocol)) },
	"packets":        func(r *api.FlowRecord) string { return unlessLost(r, r.Packets) },
	"bytes":          func(r *api.FlowRecord) string { return unlessLost(r, r.Bytes) },
	"start":          func(r *api.FlowRecord) string { return seconds(r.Start) },
	"end":            func(r *api.FlowRecord) string { return seconds(r.End) },
	"action":         func(r *api.FlowRecord) string { return r.Action },
	"log-status":     func(r *api.FlowRecord) string { return r.LogStatus },
	"vpc-id":         func(r *api.FlowRecord) string { return r.VPC },
	"subnet-id":      func(r *api.FlowRecord) string { return r.Subnet },
	"tcp-flags":      func(r *api.FlowRecord) string { return strconv.Itoa(awsFlags(r.TCPFlags)) },
	"type":           func(*api.FlowRecord) string { return "IPv4" },
	"pkt-srcaddr":    func(r *api.FlowRecord) string { return beyond(r).SrcAddr },
	"pkt-dstaddr":    func(r *api.FlowRecord) string { return beyond(r).DstAddr },
	"flow-direction": func(r *api.FlowRecord) string { return r.Direction },
	"reject-reason": func(r *api.FlowRecord) string {
		if r.Action != api.ActionReject {
			return ""
		}
		return r.Reason
	},

	"node":             func(r *api.FlowRecord) string { return r.Node },
	"sequence":         func(r *api.FlowRecord) string { return strconv.FormatUint(r.Sequence, 10) },
	"state":            func(r *api.FlowRecord) string { return r.State },
	"stage":            func(r *api.FlowRecord) string { return r.Stage },
	"reason":           func(r *api.FlowRecord) string { return r.Reason },
	"rule-id":          func(r *api.FlowRecord) string { return r.Rule },
	"side":             func(r *api.FlowRecord) string { return r.Side },
	"reply-packets":    func(r *api.FlowRecord) string { return unlessLost(r, r.ReplyPackets) },
	"reply-bytes":      func(r *api.FlowRecord) string { return unlessLost(r, r.ReplyBytes) },
	"flow-id":          func(r *api.FlowRecord) string { return r.FlowID },
	"endpoint-id":      func(r *api.FlowRecord) string { return r.Endpoint },
	"connection-id":    func(r *api.FlowRecord) string { return r.Connection },
	"service-id":       func(r *api.FlowRecord) string { return r.Service },
	"service-name":     func(r *api.FlowRecord) string { return r.ServiceName },
	"approver":         func(r *api.FlowRecord) string { return r.Approver },
	"consumer-account": func(r *api.FlowRecord) string { return r.ConsumerAccount },
	"provider-account": func(r *api.FlowRecord) string { return r.ProviderAccount },
	"consumer-vpc-id":  func(r *api.FlowRecord) string { return r.ConsumerVPC },
	"provider-vpc-id":  func(r *api.FlowRecord) string { return r.ProviderVPC },
	"generation":       func(r *api.FlowRecord) string { return strconv.FormatUint(uint64(r.Generation), 10) },
	"lost":             func(r *api.FlowRecord) string { return strconv.FormatUint(r.Lost, 10) },
}

// Fields are the names that [Format] knows, sorted.
func Fields() []string { return slices.Sorted(maps.Keys(fields)) }

// Line is a record in AWS's default format: space separated, "-" for what is missing, addresses as the interface sees them,
// counts of the opening direction.
func Line(r *api.FlowRecord) string {
	s, err := Format(r, DefaultFormat)
	if err != nil {
		panic("flow: default format: " + err.Error()) // a constant list; a test covers it
	}
	return s
}

// Format is a record as a line of the named fields.
func Format(r *api.FlowRecord, names []string) (string, error) {
	out := make([]string, len(names))
	for i, name := range names {
		f, ok := fields[name]
		if !ok {
			return "", fmt.Errorf("flow record field %q: unknown, use one of %s", name, strings.Join(Fields(), ", "))
		}
		out[i] = word(f(r))
	}
	return strings.Join(out, " "), nil
}

// atInterface is the tuple that the workload itself sees.
func atInterface(r *api.FlowRecord) api.FlowTuple {
	if r.Direction == DirectionIngress {
		return r.Translated
	}
	return r.Tuple
}

// beyond is the tuple on the other side of this node's translation.
func beyond(r *api.FlowRecord) api.FlowTuple {
	if r.Direction == DirectionIngress {
		return r.Tuple
	}
	return r.Translated
}

// awsFlags keeps what AWS shows: FIN, SYN and RST, and ACK with SYN only.
func awsFlags(all int) int {
	f := all & (tcpFIN | tcpSYN | tcpRST)
	if f&tcpSYN != 0 {
		f |= all & tcpACK
	}
	return f
}

func port(r *api.FlowRecord, p uint16) string {
	if atInterface(r).SrcAddr == "" {
		return ""
	}
	return strconv.Itoa(int(p))
}

func unlessLost(r *api.FlowRecord, n uint64) string {
	if r.LogStatus == StatusSkipped {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func seconds(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

// word makes one field of a text: nothing in it may look like the end of the field, or steer a terminal.
func word(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(c rune) rune {
		if c <= ' ' || c == 0x7f || c > 0x7e && c < 0xa1 {
			return '_'
		}
		return c
	}, s)
}

// Table writes records for people, one a line under a heading.
func Table(w io.Writer, records []api.FlowRecord) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "TIME\tACTION\tSTATE\tINTERFACE\tPROTO\tSOURCE\tDESTINATION\tVIA\tPACKETS\tBYTES\tREASON\tSERVICE")
	for i := range records {
		r := &records[i]
		cells := []string{
			r.End.UTC().Format("15:04:05.000"), r.Action, r.State, r.Interface, protocolName(r.Protocol),
			host(r.Tuple.SrcAddr, r.Tuple.SrcPort, r.Protocol), host(r.Tuple.DstAddr, r.Tuple.DstPort, r.Protocol), via(r),
			pair(r, r.Packets, r.ReplyPackets), pair(r, r.Bytes, r.ReplyBytes), r.Reason, r.ServiceName,
		}
		if r.LogStatus == StatusSkipped {
			cells[1], cells[4] = r.LogStatus, ""
		}
		if r.Lost > 0 {
			cells[10] += fmt.Sprintf("(lost:%d)", r.Lost)
		}
		for i := range cells {
			cells[i] = word(cells[i])
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("write flow table: %w", err)
	}
	return nil
}

// via is what this node's translation changed.
func via(r *api.FlowRecord) string {
	t, u := r.Tuple, r.Translated
	switch {
	case t == u:
		return ""
	case t.DstAddr != u.DstAddr || t.DstPort != u.DstPort:
		return "to:" + host(u.DstAddr, u.DstPort, r.Protocol)
	}
	return "from:" + host(u.SrcAddr, u.SrcPort, r.Protocol)
}

// pair is a count of either direction; refusals have one.
func pair(r *api.FlowRecord, there, back uint64) string {
	switch {
	case r.LogStatus == StatusSkipped:
		return ""
	case r.Action == api.ActionReject:
		return strconv.FormatUint(there, 10)
	}
	return strconv.FormatUint(there, 10) + "/" + strconv.FormatUint(back, 10)
}

func host(addr string, port uint16, protocol int) string {
	if addr == "" || protocol == 1 {
		return addr
	}
	return net.JoinHostPort(addr, strconv.Itoa(int(port)))
}

func protocolName(p int) string {
	switch p {
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	}
	return strconv.Itoa(p)
}
