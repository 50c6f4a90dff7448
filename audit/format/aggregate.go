package format

import (
	"cmp"
	"slices"
	"time"

	"github.com/culvert-net/culvert/api"
)

// Joined is what the records of one flow, or refusals of one kind, are together over one interval.
type Joined struct {
	api.FlowRecord
	Records int // how many
}

// joinKey is what records have in common that are joined: all but counts, times and what changes while a flow lives.
type joinKey struct {
	what api.FlowRecord
	slot int64
}

func keyOf(r *api.FlowRecord, interval time.Duration) joinKey {
	k := joinKey{what: *r, slot: slotOf(r.End, interval)}
	w := &k.what
	w.Sequence, w.Start, w.End, w.State, w.Generation, w.Lost = 0, time.Time{}, time.Time{}, "", 0, 0
	w.Packets, w.Bytes, w.ReplyPackets, w.ReplyBytes = 0, 0, 0, 0
	w.TCPFlags, w.ReplyTCPFlags, w.TCPState = 0, 0, ""
	w.HandshakeMicros, w.RTTMicros, w.Retransmits, w.ReplyRetransmits = 0, 0, 0, 0
	return k
}

// slotOf numbers the intervals since 1970; a record belongs to that of its last packet.
func slotOf(at time.Time, interval time.Duration) int64 {
	s, every := at.Unix(), int64(interval/time.Second)
	slot := s / every
	if s%every < 0 {
		slot--
	}
	return slot
}

// Aggregate joins records over intervals of whole seconds, which begin at multiples of their length since 1970. Counts sum up, times
// span, and of what changes the newest counts. The result is ordered by end, node, boot and sequence; records are not changed.
func Aggregate(records []api.FlowRecord, interval time.Duration) []Joined {
	at := make(map[joinKey]int, len(records))
	out := make([]Joined, 0, len(records))
	for i := range records {
		r := &records[i]
		k := keyOf(r, interval)
		j, ok := at[k]
		if !ok {
			at[k] = len(out)
			out = append(out, Joined{*r, 1})
			continue
		}
		out[j].add(r)
	}
	slices.SortFunc(out, func(a, b Joined) int {
		return cmp.Or(a.End.Compare(b.End), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Boot, b.Boot), cmp.Compare(a.Sequence, b.Sequence))
	})
	return out
}

func (j *Joined) add(r *api.FlowRecord) {
	j.Records++
	j.Packets += r.Packets
	j.Bytes += r.Bytes
	j.ReplyPackets += r.ReplyPackets
	j.ReplyBytes += r.ReplyBytes
	j.TCPFlags |= r.TCPFlags
	j.ReplyTCPFlags |= r.ReplyTCPFlags
	j.Retransmits += r.Retransmits
	j.ReplyRetransmits += r.ReplyRetransmits
	j.HandshakeMicros = max(j.HandshakeMicros, r.HandshakeMicros) // one of them, or none yet
	j.Lost += r.Lost
	if r.Start.Before(j.Start) {
		j.Start = r.Start
	}
	if r.End.After(j.End) {
		j.End = r.End
	}
	if rank(r.State) > rank(j.State) {
		j.State = r.State
	}
	if r.Sequence > j.Sequence {
		j.Sequence, j.Generation, j.TCPState, j.RTTMicros = r.Sequence, r.Generation, r.TCPState, r.RTTMicros
	}
}

// rank orders what a flow was in an interval: its end tells most, then its begin.
func rank(state string) int {
	return slices.Index([]string{api.FlowLate, api.FlowActive, api.FlowOpen, api.FlowClosed}, state)
}
