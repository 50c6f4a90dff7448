package format

import (
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-net/culvert/api"
)

// Missing is what a line says where a field has no value; AWS's sign.
const Missing = "-"

// Type of a field's values, as AWS's Parquet files have them.
type Type int

// Types.
const (
	String Type = iota
	Int32
	Int64
)

// Field is one word of a line.
type Field struct {
	Name    string // as in format strings, such as "interface-id"
	Version int    // AWS's, 2 to 11; 0: Culvert's own
	Type    Type
	Doc     string

	text func(*Row) string        // of a String; "" for none
	num  func(*Row) (int64, bool) // of a number
}

// Column is the field's name in Parquet and JSON, as AWS has it: with underscores.
func (f Field) Column() string { return strings.ReplaceAll(f.Name, "-", "_") }

// Text is the field as a word of a text line.
func (f Field) Text(r *Row) string {
	if f.Type == String {
		return word(f.text(r))
	}
	if n, ok := f.num(r); ok {
		return strconv.FormatInt(n, 10)
	}
	return Missing
}

// Value is the field of a String type, false where it has none.
func (f Field) Value(r *Row) (string, bool) {
	if f.Type != String {
		return "", false
	}
	s := f.text(r)
	return s, s != ""
}

// Int is the field of a number type, false where it has none.
func (f Field) Int(r *Row) (int64, bool) {
	if f.Type == String {
		return 0, false
	}
	return f.num(r)
}

// word makes one field of a text: nothing in it may look like the end of the field, or steer a terminal.
func word(s string) string {
	if s == "" {
		return Missing
	}
	return strings.Map(func(c rune) rune {
		if c <= ' ' || c > 0x7e && c < 0xa1 || c == '\u2028' || c == '\u2029' {
			return '_'
		}
		return c
	}, s)
}

func text(version int, name, doc string, f func(*Row) string) Field {
	return Field{Name: name, Version: version, Type: String, Doc: doc, text: f}
}

func number(version int, t Type, name, doc string, f func(*Row) (int64, bool)) Field {
	return Field{Name: name, Version: version, Type: t, Doc: doc, num: f}
}

// flow is text of lines that are about packets.
func flow(version int, name, doc string, f func(*Row) string) Field {
	return text(version, name, doc, func(r *Row) string {
		if !r.carries() {
			return ""
		}
		return f(r)
	})
}

// count is a number of lines that are about packets.
func count(version int, t Type, name, doc string, f func(*Row) int64) Field {
	return number(version, t, name, doc, func(r *Row) (int64, bool) {
		if !r.carries() {
			return 0, false
		}
		return f(r), true
	})
}

// port is a number of lines that name an address; 0 for ICMP, as AWS has it: what stands in records there identifies an echo.
func port(version int, name, doc string, tuple func(*Row) api.FlowTuple, of func(api.FlowTuple) (string, uint16)) Field {
	return number(version, Int32, name, doc, func(r *Row) (int64, bool) {
		addr, p := of(tuple(r))
		if r.Protocol == icmp || r.Protocol == icmpv6 {
			p = 0
		}
		return int64(p), r.carries() && addr != ""
	})
}

// IANA's numbers of protocols without ports.
const (
	icmp   = 1
	icmpv6 = 58
)

func source(t api.FlowTuple) (string, uint16)      { return t.SrcAddr, t.SrcPort }
func destination(t api.FlowTuple) (string, uint16) { return t.DstAddr, t.DstPort }

const withoutDoc = "Accepted as AWS writes it; nothing here has a value for it."

// without is a field of AWS's that nothing here has a value for.
func without(version int, t Type, name string) Field {
	if t == String {
		return text(version, name, withoutDoc, func(*Row) string { return "" })
	}
	return number(version, t, name, withoutDoc, func(*Row) (int64, bool) { return 0, false })
}

// registry is all fields, AWS's by version in AWS's order and then Culvert's own.
var registry = slices.Concat(awsFields(), awsOthers(), ownFields())

var byName = func() map[string]Field {
	m := make(map[string]Field, len(registry))
	for _, f := range registry {
		m[f.Name] = f
	}
	return m
}()

// Fields are all that a format may name.
func Fields() []Field { return slices.Clone(registry) }

// Lookup finds a field by its name or column.
func Lookup(name string) (Field, bool) {
	f, ok := byName[strings.ReplaceAll(name, "_", "-")]
	return f, ok
}

func awsFields() []Field {
	at := (*Row).atInterface
	return []Field{
		number(2, Int32, "version", "Highest version among the chosen fields.", func(*Row) (int64, bool) { return 2, true }),
		text(2, "account-id", "Account that owns the interface.", func(r *Row) string { return r.Account }),
		text(2, "interface-id", "Network interface whose traffic it is.", func(r *Row) string { return r.Interface }),
		flow(2, "srcaddr", "Source as the interface sees it.", func(r *Row) string { return at(r).SrcAddr }),
		flow(2, "dstaddr", "Destination as the interface sees it.", func(r *Row) string { return at(r).DstAddr }),
		port(2, "srcport", "Port of srcaddr; 0 for ICMP.", at, source),
		port(2, "dstport", "Port of dstaddr; 0 for ICMP.", at, destination),
		count(2, Int32, "protocol", "IANA's number.", func(r *Row) int64 { return int64(r.Protocol) }),
		count(2, Int64, "packets", "Packets in this direction in the interval.", func(r *Row) int64 { return int64(r.packets()) }),
		count(2, Int64, "bytes", "Their IP bytes as the workload has them.", func(r *Row) int64 { return int64(r.bytes()) }),
		number(2, Int64, "start", "First packet, in seconds since 1970.", func(r *Row) (int64, bool) { return r.Start.Unix(), true }),
		number(2, Int64, "end", "Last packet, in seconds since 1970.", func(r *Row) (int64, bool) { return r.End.Unix(), true }),
		flow(2, "action", "ACCEPT or REJECT.", func(r *Row) string { return r.Action }),
		text(2, "log-status", "OK, NODATA or SKIPDATA.", func(r *Row) string { return r.LogStatus }),

		text(3, "vpc-id", "VPC of the interface.", func(r *Row) string { return r.VPC }),
		text(3, "subnet-id", "Subnet of the interface.", func(r *Row) string {
			if r.Subnet != "" {
				return r.Subnet
			}
			return r.SubnetID
		}),
		text(3, "instance-id", "Node that hosts the interface.", func(r *Row) string { return r.InstanceID }),
		number(3, Int32, "tcp-flags", "FIN 1, SYN 2, RST 4, SYN-ACK 18 of who answered: those that came first in the interval.",
			func(r *Row) (int64, bool) {
				return r.tcpFlags(), r.carries() && r.Protocol == 6
			}),
		flow(3, "type", "IPv4 or IPv6.", (*Row).family),
		flow(3, "pkt-srcaddr", "Source on the other side of the node's translation.", func(r *Row) string { return r.beyond().SrcAddr }),
		flow(3, "pkt-dstaddr", "Destination on the other side of the node's translation.", func(r *Row) string { return r.beyond().DstAddr }),
		text(4, "region", "Region of the mesh.", func(r *Row) string { return r.Region }),
		text(4, "az-id", "Zone of the interface's subnet.", func(r *Row) string { return r.AZ }),
	}
}

func awsOthers() []Field {
	fields := []Field{
		without(4, String, "sublocation-type"), without(4, String, "sublocation-id"),
		without(5, String, "pkt-src-aws-service"), without(5, String, "pkt-dst-aws-service"),
		flow(5, "flow-direction", "ingress or egress, of the interface.", (*Row).direction),
		number(5, Int32, "traffic-path", "1 on egress: through the VPC; nothing leaves it otherwise.", func(r *Row) (int64, bool) {
			return 1, r.carries() && r.direction() == "egress" && r.Action == api.ActionAccept
		}),
	}
	for _, name := range []string{
		"ecs-cluster-arn", "ecs-cluster-name", "ecs-container-instance-arn", "ecs-container-instance-id", "ecs-container-id",
		"ecs-second-container-id", "ecs-service-name", "ecs-task-definition-arn", "ecs-task-arn", "ecs-task-id",
	} {
		fields = append(fields, without(7, String, name))
	}
	fields = append(fields,
		flow(8, "reject-reason", "Reason of a REJECT, as docs/REASONS.md has it; AWS has two.", func(r *Row) string {
			if r.Action != api.ActionReject {
				return ""
			}
			return r.Reason
		}),
		without(9, String, "resource-id"),
		number(10, Int32, "encryption-status",
			"1: of flows that came in through the tunnel, which encrypts; missing at the node that opened them.", func(r *Row) (int64, bool) {
				return 1, r.carries() && r.Stage == "tunnel"
			}))
	for _, name := range []string{"instance-tag", "instance-tag-2", "interface-tag", "interface-tag-2", "asg-tag", "asg-tag-2", "interface-type"} {
		fields = append(fields, without(11, String, name))
	}
	return append(fields,
		flow(11, "next-hop-interface-type", "vpc_endpoint or network_load_balancer, where the flow goes through one.", nextHop),
		flow(11, "next-hop-interface-id", "Interface of the VPC that srcaddr (ingress) or dstaddr (egress) is of.",
			func(r *Row) string { return r.NextHop.Interface }),
		flow(11, "next-hop-subnet-id", "Subnet of that interface.", func(r *Row) string { return r.NextHop.Subnet }),
		flow(11, "next-hop-az-id", "Zone of that subnet.", func(r *Row) string { return r.NextHop.AZ }),
		flow(11, "next-hop-vpc-id", "VPC of that interface.", func(r *Row) string { return r.NextHop.VPC }))
}

func nextHop(r *Row) string {
	switch {
	case r.Side == "consumer" && r.Endpoint != "":
		return "vpc_endpoint"
	case r.Side != "":
		return "network_load_balancer"
	}
	return ""
}

func ownFields() []Field {
	beyond := (*Row).beyond
	return []Field{
		flow(0, "endpoint-id", "Endpoint that the flow goes through.", func(r *Row) string { return r.Endpoint }),
		flow(0, "connection-id", "Endpoint connection, or the load balancer inside its VPC.", func(r *Row) string { return r.Connection }),
		flow(0, "service-id", "Endpoint service.", func(r *Row) string { return r.Service }),
		flow(0, "service-name", "Endpoint service, ACCOUNT/NAME.", func(r *Row) string { return r.ServiceName }),
		flow(0, "approver", "Who accepted the endpoint connection.", func(r *Row) string { return r.Approver }),
		flow(0, "consumer-account", "Account of the endpoint.", func(r *Row) string { return r.ConsumerAccount }),
		flow(0, "provider-account", "Account of the service.", func(r *Row) string { return r.ProviderAccount }),
		flow(0, "consumer-vpc-id", "VPC of the endpoint.", func(r *Row) string { return r.ConsumerVPC }),
		flow(0, "provider-vpc-id", "VPC of the service's targets.", func(r *Row) string { return r.ProviderVPC }),
		flow(0, "side", "consumer or provider: which end of the connection the interface is.", func(r *Row) string { return r.Side }),
		flow(0, "reason", "What the datapath decided by, as docs/REASONS.md has it.", func(r *Row) string { return r.Reason }),
		flow(0, "rule-id", "Security group rule that decided.", func(r *Row) string { return r.Rule }),
		count(0, Int64, "generation", "Of the node's plan that the flow was judged by.", func(r *Row) int64 { return int64(r.Generation) }),
		flow(0, "stage", "workload, tunnel, local or host: where the opening packet entered.", func(r *Row) string { return r.Stage }),
		flow(0, "state", "open, active, closed or late: of the flow in the interval.", func(r *Row) string { return r.State }),
		flow(0, "tcp-state", "Of the connection at the interval's end, as RFC 9293 has it.", func(r *Row) string { return r.TCPState }),
		number(0, Int64, "handshake-micros", "How long the TCP handshake took as the node saw it.", func(r *Row) (int64, bool) {
			return int64(r.HandshakeMicros), r.HandshakeMicros != 0
		}),
		number(0, Int64, "rtt-micros", "TCP's smoothed round trip time from the node to the answering end and back.", func(r *Row) (int64, bool) {
			return int64(r.RTTMicros), r.RTTMicros != 0
		}),
		count(0, Int64, "retransmits", "Packets of the line's direction with bytes that had been sent before.", func(r *Row) int64 {
			if r.Reply {
				return int64(r.ReplyRetransmits)
			}
			return int64(r.Retransmits)
		}),
		flow(0, "flow-id", "The same for all lines of one flow at one node.", func(r *Row) string { return r.FlowID }),
		count(0, Int32, "reply", "1: the line is of the answers; 0: of the opening direction.", func(r *Row) int64 {
			if r.Reply {
				return 1
			}
			return 0
		}),
		flow(0, "nat-srcaddr", "Source on the other side of the node's translation.", func(r *Row) string { return beyond(r).SrcAddr }),
		port(0, "nat-srcport", "Port of nat-srcaddr.", beyond, source),
		flow(0, "nat-dstaddr", "Destination on the other side of the node's translation.", func(r *Row) string { return beyond(r).DstAddr }),
		port(0, "nat-dstport", "Port of nat-dstaddr.", beyond, destination),
		flow(0, "backend-addr", "Target that the flow went to.", func(r *Row) string { return backend(r).DstAddr }),
		port(0, "backend-port", "Port of backend-addr.", backend, destination),
		number(0, Int64, "start-micros", "First packet, in microseconds since 1970.", func(r *Row) (int64, bool) { return r.Start.UnixMicro(), true }),
		number(0, Int64, "end-micros", "Last packet, in microseconds since 1970.", func(r *Row) (int64, bool) { return r.End.UnixMicro(), true }),
		text(0, "node", "Node that wrote the records.", func(r *Row) string { return r.Node }),
		text(0, "boot-id", "Boot of the node's log, within which sequence counts.", func(r *Row) string { return r.Boot }),
		number(0, Int64, "sequence", "Of the newest record in the line: 1, 2, 3 … within a boot.", func(r *Row) (int64, bool) {
			return int64(r.Sequence), r.Sequence != 0
		}),
		number(0, Int64, "records", "How many flow records the line was made of.", func(r *Row) (int64, bool) { return int64(r.Records), true }),
		number(0, Int64, "lost", "With SKIPDATA: how many refusals or events the line stands for.", func(r *Row) (int64, bool) {
			return int64(r.LostHere), true
		}),
	}
}

// backend is the tuple behind all translation of a connection, in the opening direction; none for other flows.
func backend(r *Row) api.FlowTuple {
	if r.Side == "" || r.Action != api.ActionAccept {
		return api.FlowTuple{}
	}
	return r.Translated
}
