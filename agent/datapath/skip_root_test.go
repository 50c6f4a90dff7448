package datapath

import (
	"testing"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/bpf"
)

// A reading leaves out flows of which all is known, and reads the others whole, also where one entry of a flow is known.
func TestSkipKnown(t *testing.T) {
	d, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	const flows, late, open = 1000, 7, 8
	fill(t, d, flows, bootTime(t, 0), func(i int, o, r *bpf.Flow) {
		o.Packets, r.Packets = 3, 2
		switch i + 1 {
		case late:
			r.Packets++
		case open:
			return
		}
		o.Flags |= uint16(bpf.FlowClosed)
		r.Flags |= uint16(bpf.FlowClosed)
	})
	s := NewSource(d)
	read := func() map[uint64]flow.Counts {
		t.Helper()
		seen := map[uint64]flow.Counts{}
		if err := s.Flows(t.Context(), func(f flow.Flow) bool { seen[f.ID] = f.Counts; return true }); err != nil {
			t.Fatal(err)
		}
		return seen
	}
	if n := len(read()); n != flows {
		t.Fatalf("%d flows are read, of %d, before anything is known", n, flows)
	}
	s.Skip(func(h flow.Half) bool { return h.Packets == 3 && !h.Reply || h.Packets == 2 && h.Reply })
	seen := read()
	if len(seen) != 2 || seen[late] != (flow.Counts{Packets: 3, ReplyPackets: 3}) || seen[open] != (flow.Counts{Packets: 3, ReplyPackets: 2}) {
		t.Errorf("read %v: want flow %d, whose answers counted one more, and %d, which is open", seen, late, open)
	}
}
