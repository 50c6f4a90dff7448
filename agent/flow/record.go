package flow

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

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

// Envelope wraps a record for the way to the control plane.
func Envelope(r *api.FlowRecord) (api.FlowEnvelope, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return api.FlowEnvelope{}, fmt.Errorf("encode flow record %d: %w", r.Sequence, err)
	}
	return api.FlowEnvelope{
		Node: r.Node, Boot: r.Boot, Seq: r.Sequence, Accounts: Accounts(r), End: r.End, Record: body,
	}, nil
}

func (t Tuple) record() api.FlowTuple {
	return api.FlowTuple{SrcAddr: addr(t.Src), SrcPort: t.SrcPort, DstAddr: addr(t.Dst), DstPort: t.DstPort}
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

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
}

func countsOf(r *api.FlowRecord) Counts {
	return Counts{r.Packets, r.Bytes, r.ReplyPackets, r.ReplyBytes, r.Retransmits, r.ReplyRetransmits}
}
