package flow

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/culvert-net/culvert/api"
)

// Words that records use.
const (
	StatusOK = "OK"
	// StatusSkipped marks a record that stands for lost detail only; AWS's word.
	StatusSkipped = "SKIPDATA"

	ReasonForwarded = "FORWARDED"
	ReasonRevoked   = "FLOW_REVOKED"

	DirectionEgress  = "egress"
	DirectionIngress = "ingress"

	SideConsumer = "consumer"
	SideProvider = "provider"
)

// Accounts tells who may see a record: the owner of the interface and, where it belongs to a connection, consumer and
// provider. Sorted, without duplicates; empty for a record that concerns the node alone.
func Accounts(r *api.FlowRecord) []string {
	ids := []string{r.Account, r.ConsumerAccount, r.ProviderAccount}
	ids = slices.DeleteFunc(ids, func(id string) bool { return id == "" })
	slices.Sort(ids)
	return slices.Compact(ids)
}

// envelope wraps a line for the way to the control plane.
func (l *Entry) envelope() api.FlowEnvelope {
	return api.FlowEnvelope{
		Kind: string(l.Kind), Node: l.Node, Boot: l.Boot, Seq: l.Sequence, Accounts: l.Accounts, End: l.End, Record: json.RawMessage(l.Raw),
	}
}

// record writes a tuple with the addresses that the packets have, of the VPCs given.
func (t Tuple) record(mesh, src, dst uint32) api.FlowTuple {
	if t.IPv6 {
		t.Src, t.Dst = ipv6(mesh, src, t.Src), ipv6(mesh, dst, t.Dst)
	}
	return api.FlowTuple{SrcAddr: addr(t.Src), SrcPort: t.SrcPort, DstAddr: addr(t.Dst), DstPort: t.DstPort}
}

// ipv6 is the IPv6 form of an address, invalid for none.
func ipv6(mesh, vpc uint32, a netip.Addr) netip.Addr {
	if !a.IsValid() || a.IsUnspecified() {
		return netip.Addr{}
	}
	return api.IPv6Address(mesh, vpc, a)
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func micros(d time.Duration) uint64 { return uint64(d.Microseconds()) }

func formatID(id uint64) string { return fmt.Sprintf("%016x", id) }

func parseID(s string) (uint64, bool) {
	id, err := strconv.ParseUint(s, 16, 64)
	return id, err == nil && s != ""
}

func (c Counts) zero() bool { return c == Counts{} }

func (c Counts) add(d Counts) Counts {
	return Counts{
		c.Packets + d.Packets, c.Bytes + d.Bytes, c.ReplyPackets + d.ReplyPackets, c.ReplyBytes + d.ReplyBytes,
		c.Retransmits + d.Retransmits, c.ReplyRetransmits + d.ReplyRetransmits,
	}
}

// since is c minus the counts reported before. Counters that went backwards are other counters: all of c is new then.
func (c Counts) since(before Counts) (delta Counts, ok bool) {
	if c.Packets < before.Packets || c.Bytes < before.Bytes ||
		c.ReplyPackets < before.ReplyPackets || c.ReplyBytes < before.ReplyBytes {
		return c, false
	}
	return Counts{
		c.Packets - before.Packets, c.Bytes - before.Bytes,
		c.ReplyPackets - before.ReplyPackets, c.ReplyBytes - before.ReplyBytes,
		grown(c.Retransmits, before.Retransmits), grown(c.ReplyRetransmits, before.ReplyRetransmits),
	}, true
}

// grown is by how much a counter of 32 bits has grown, which begins anew where it ends.
func grown(now, before uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

func (c Counts) put(r *api.FlowRecord) {
	r.Packets, r.Bytes, r.ReplyPackets, r.ReplyBytes = c.Packets, c.Bytes, c.ReplyPackets, c.ReplyBytes
	r.Retransmits, r.ReplyRetransmits = c.Retransmits, c.ReplyRetransmits
}

func countsOf(r *api.FlowRecord) Counts {
	return Counts{r.Packets, r.Bytes, r.ReplyPackets, r.ReplyBytes, r.Retransmits, r.ReplyRetransmits}
}
