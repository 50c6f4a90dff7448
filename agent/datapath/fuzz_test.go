package datapath

import (
	"encoding/binary"
	"testing"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/bpf"
)

// FuzzRecord: whatever stands in the ring buffer, the agent takes what the programs of this build write and refuses the rest,
// and what it keeps of that is bounded. Programs of another build may have filled it.
func FuzzRecord(f *testing.F) {
	key := bpf.FlowKey{Vpc: 1, Saddr: 0x0501000a, Daddr: 0x0601000a, Sport: 80, Dport: 443, View: uint8(bpf.ViewWorkload), Protocol: 6}
	event := func(e bpf.Event) []byte {
		b, err := binary.Append(nil, binary.NativeEndian, &e)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	half := func(flags bpf.FlowFlag) []byte {
		return event(bpf.Event{Kind: uint8(bpf.EventRemoved), FlowId: 7 << 8, Key: key, Flags: uint16(flags), Packets: 3, TcpFlags: 2})
	}
	f.Add(half(bpf.FlowOpening), half(bpf.FlowDestTagged))
	f.Add(half(bpf.FlowOpening), half(bpf.FlowOpening))
	f.Add(event(bpf.Event{Kind: uint8(bpf.EventOpen), FlowId: 1, Key: key}), event(bpf.Event{Kind: uint8(bpf.EventClose), FlowId: 1}))
	f.Add(event(bpf.Event{Kind: uint8(bpf.EventRefused), Reason: uint16(bpf.ReasonFlowTableFull)}), []byte{})
	f.Add(event(bpf.Event{Kind: 99, FlowId: ^uint64(0)}), event(bpf.Event{Kind: uint8(bpf.EventRemoved)}))
	f.Add(half(bpf.FlowOpening)[:100], append(half(bpf.FlowOpening), 0, 0, 0, 0, 0, 0, 0, 0))
	size := binary.Size(bpf.Event{})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		s := &Source{
			events: make(chan flow.Event, 1), crowd: make(chan struct{}, 1), partial: map[uint64]Flow{}, much: 100,
		}
		for _, raw := range [][]byte{first, second, first} {
			var e bpf.Event
			whole := len(raw) == size
			if whole {
				if _, err := binary.Decode(raw, binary.NativeEndian, &e); err != nil {
					t.Fatal(err)
				}
			}
			kind := bpf.EventKind(e.Kind)
			known := kind == bpf.EventRefused ||
				e.FlowId != 0 && (kind == bpf.EventOpen || kind == bpf.EventClose || kind == bpf.EventRemoved)
			if err := s.record(raw); (err == nil) != (whole && known) {
				t.Fatalf("%d bytes, %+v: %v", len(raw), e, err)
			}
		}
		if len(s.removed) > 3 || len(s.partial) > 2 {
			t.Errorf("three records left %d flows and %d halves", len(s.removed), len(s.partial))
		}
		for _, r := range s.removed {
			if !r.Removed || r.ID == 0 {
				t.Errorf("a flow that no event told of: %+v", r)
			}
		}
	})
}
