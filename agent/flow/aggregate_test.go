package flow

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/plan"
)

// step is one collection of a table test; want is STATE PACKETS/REPLIES[ lost N] per record.
type step struct {
	now      float64
	flows    []Flow
	partial  bool
	early    bool
	lost     uint64
	refusals []Refusal
	want     []string
	settle   int // want Unsettled
}

func with(f Flow, packets, replies uint64, last float64) Flow {
	f.Counts = Counts{Packets: packets, Bytes: packets * 60, ReplyPackets: replies, ReplyBytes: replies * 60}
	f.LastNS = at(last).Boot
	return f
}

// answering is a flow whose opening entry is not there.
func answering(f Flow) Flow { f.Hook, f.TCPFlags = 0, 0; return f }

func closed(f Flow) Flow  { f.Closed = true; return f }
func dead(f Flow) Flow    { f.Dead = true; return f }
func removed(f Flow) Flow { f.Removed = true; return f }

func describe(r *api.FlowRecord) string {
	s := fmt.Sprintf("%s %d/%d", r.State, r.Packets, r.ReplyPackets)
	if r.State == "" {
		s = fmt.Sprintf("%s %d", r.Action+r.LogStatus, r.Packets)
	}
	if r.Reason == ReasonRevoked {
		s += " revoked"
	}
	if r.Lost > 0 {
		s += fmt.Sprintf(" lost %d", r.Lost)
	}
	return s
}

// What a flow that was known from the log only tells has the connection that its records had, though the plans of now have it no more.
func TestAFlowOfAConnectionThatIsGone(t *testing.T) {
	before := newAggregator(nil)
	f := consumerFlow(1, 10)
	before.Collect(Input{Now: at(11), Flows: []Flow{with(f, 20, 10, 10.5)}, Complete: true, Full: true})
	var none Labeler
	none.Add(api.View{}, plan.Plan{Generation: 9})
	a := NewAggregator(Settings{Node: node, Boot: "boot-1"}, &none, before.Baselines())
	for i, seen := range []Flow{answering(with(f, 0, 11, 12)), with(f, 21, 12, 13), closed(with(f, 23, 14, 14))} {
		got := a.Collect(Input{Now: at(float64(13 + 2*i)), Flows: []Flow{seen}, Complete: true, Full: true}).Records
		if len(got) != 1 || got[0].Connection != "vpce-conn-1" || got[0].Side != SideConsumer || got[0].ProviderAccount != "222222222222" {
			t.Errorf("%d: %+v", i, got)
		}
	}
}

// Each TCP flag is in the record of the interval in which it came first, and in no other: also over restarts of the agent from its
// baselines or its log, when a disk takes nothing for a while, and when the flow goes without a word.
func TestFlagsAreOfTheirInterval(t *testing.T) {
	const ack, fin = 0x10, 0x01
	type seen struct {
		flags, replies uint8
		closed         bool
		want           [2]int // of the record
	}
	steps := []seen{
		{tcpSYN, 0, false, [2]int{tcpSYN, 0}},
		{tcpSYN | ack, tcpSYN | ack, false, [2]int{ack, tcpSYN | ack}},
		{tcpSYN | ack, tcpSYN | ack, false, [2]int{0, 0}},
		{tcpSYN | ack | fin, tcpSYN | ack, false, [2]int{fin, 0}},
		{tcpSYN | ack | fin, tcpSYN | ack | fin | tcpRST, true, [2]int{0, fin | tcpRST}},
	}
	for name, restart := range map[string]func(*Aggregator, []api.FlowRecord) *Aggregator{
		"one run":                 func(a *Aggregator, _ []api.FlowRecord) *Aggregator { return a },
		"restarts from the state": func(a *Aggregator, _ []api.FlowRecord) *Aggregator { return newAggregator(a.Baselines()) },
		"restarts from the log": func(_ *Aggregator, all []api.FlowRecord) *Aggregator {
			told := replayed{}
			for _, r := range all {
				told.add(&r)
			}
			return newAggregator(slices.Collect(told.each))
		},
	} {
		a, all := newAggregator(nil), []api.FlowRecord(nil)
		for i, s := range steps {
			f := with(consumerFlow(1, 10), uint64(i)+1, uint64(i), 11+float64(i))
			f.TCPFlags, f.ReplyTCPFlags, f.Closed, f.Removed = s.flags, s.replies, s.closed, s.closed
			made := a.Collect(Input{Now: at(11.5 + float64(i)), Flows: []Flow{f}, Complete: true, Full: true}).Records
			if len(made) != 1 || [2]int{made[0].TCPFlags, made[0].ReplyTCPFlags} != s.want {
				t.Errorf("%s, step %d: %+v, want flags %x", name, i, made, s.want)
			}
			all = append(all, made...)
			a = restart(a, all)
		}
		one, _ := Compact(slices.Clone(all), 10)
		if len(one) != 1 || one[0].TCPFlags != tcpSYN|ack|fin || one[0].ReplyTCPFlags != tcpSYN|ack|fin|tcpRST {
			t.Errorf("%s: joined to %+v", name, one)
		}
	}
	f := with(consumerFlow(2, 10), 1, 0, 11)
	a := newAggregator(nil)
	a.Collect(Input{Now: at(12), Flows: []Flow{f}, Complete: true, Full: true})
	a = newAggregator(a.Baselines())
	for i := range goneAfter {
		for _, r := range a.Collect(Input{Now: at(13 + float64(i)), Complete: true, Full: true}).Records {
			if r.State != api.FlowClosed || r.TCPFlags != 0 {
				t.Errorf("of a flow that is gone: %+v", r)
			}
		}
	}
}

func TestLifeOfAFlow(t *testing.T) {
	f := consumerFlow(1, 10)
	refusal := Refusal{ENI: 11, VPC: 1, Src: ip("10.0.1.5"), Dst: ip("10.0.1.77"), Reason: "NO_DESTINATION", Hook: HookWorkload, Packets: 3}
	for name, steps := range map[string][]step{
		"open, active, idle, closed": {
			{now: 11, flows: []Flow{with(f, 2, 1, 10.5)}, want: []string{"open 2/1"}},
			{now: 12, flows: []Flow{with(f, 5, 3, 11.5)}, want: []string{"active 3/2"}},
			{now: 13, flows: []Flow{with(f, 5, 3, 11.5)}},
			{now: 14, flows: []Flow{closed(with(f, 6, 4, 13.2))}, want: []string{"closed 1/1"}},
			{now: 15, flows: []Flow{closed(with(f, 6, 4, 13.2))}},
			{now: 16, flows: []Flow{removed(closed(with(f, 6, 4, 13.2)))}},
			{now: 17},
		},
		"within one interval": {
			{now: 11, flows: []Flow{closed(with(f, 6, 4, 10.1))}, want: []string{"closed 6/4"}},
		},
		"the last acknowledgement is waited for": {
			{now: 11, flows: []Flow{closed(with(f, 6, 4, 10.95))}, settle: 1},
			{now: 11.3, early: true, flows: []Flow{closed(with(f, 7, 4, 10.96))}, want: []string{"closed 7/4"}},
		},
		"an end that goes on is closed and the rest is late": {
			{now: 11, flows: []Flow{closed(with(f, 6, 4, 11))}, settle: 1},
			{now: 12, flows: []Flow{closed(with(f, 7, 4, 12))}, settle: 1},
			{now: 13, flows: []Flow{closed(with(f, 8, 4, 13))}, want: []string{"closed 8/4"}},
			{now: 13.5, early: true, flows: []Flow{closed(with(f, 9, 4, 13.5))}},
			{now: 14, flows: []Flow{closed(with(f, 9, 4, 13.5))}, want: []string{"late 1/0"}},
			{now: 15, flows: []Flow{removed(closed(with(f, 10, 4, 14.5)))}, want: []string{"late 1/0"}},
		},
		"withdrawn permission": {
			{now: 11, flows: []Flow{with(f, 2, 1, 10.5)}, want: []string{"open 2/1"}},
			{now: 12, flows: []Flow{dead(with(f, 3, 1, 11.2))}, want: []string{"closed 1/0 revoked"}},
		},
		"idle and removed": {
			{now: 11, flows: []Flow{with(f, 2, 1, 10.5)}, want: []string{"open 2/1"}},
			{now: 400, flows: []Flow{removed(with(f, 2, 1, 10.5))}, want: []string{"closed 0/0"}},
		},
		"opened and removed between two looks": {
			{now: 11, flows: []Flow{removed(with(f, 2, 1, 10.5))}, want: []string{"closed 2/1"}},
			{now: 12},
		},
		"read live and removed in one table": {
			{now: 11, flows: []Flow{with(f, 2, 1, 10.5), removed(with(f, 3, 2, 10.6)), with(f, 2, 2, 10.5)}, want: []string{"closed 3/2"}},
		},
		"read twice in one table": {
			{now: 11, flows: []Flow{with(f, 2, 2, 10.5), with(f, 3, 1, 10.6)}, want: []string{"open 3/2"}},
		},
		"urgent looks record openings and ends, not progress": {
			{now: 11, early: true, flows: []Flow{with(f, 2, 1, 10.5)}, want: []string{"open 2/1"}},
			{now: 11.5, early: true, flows: []Flow{with(f, 9, 9, 11.4)}},
			{now: 60, flows: []Flow{with(f, 10, 10, 50)}, want: []string{"active 8/9"}},
		},
		"gone without a word": {
			{now: 11, flows: []Flow{with(f, 2, 1, 10.5)}, want: []string{"open 2/1"}},
			{now: 12, settle: 1},
			{now: 13, want: []string{"closed 0/0 lost 1"}},
			{now: 14},
		},
		"ended and gone": {
			{now: 11, flows: []Flow{closed(with(f, 2, 1, 11))}, settle: 1},
			{now: 12, settle: 1},
			{now: 13, want: []string{"closed 2/1"}},
		},
		"missed once": {
			{now: 11, flows: []Flow{with(f, 2, 1, 10.5)}, want: []string{"open 2/1"}},
			{now: 12, settle: 1},
			{now: 13, flows: []Flow{with(f, 4, 1, 12)}, want: []string{"active 2/0"}},
			{now: 14, settle: 1},
			{now: 15, flows: []Flow{with(f, 5, 1, 14)}, want: []string{"active 1/0"}},
		},
		"a table that was not read whole says nothing of what is absent": {
			{now: 11, flows: []Flow{with(f, 2, 1, 10.5)}, want: []string{"open 2/1"}},
			{now: 12, partial: true}, {now: 13, partial: true}, {now: 14, partial: true},
			{now: 15, flows: []Flow{with(f, 3, 1, 14)}, want: []string{"active 1/0"}},
		},
		"counters that went backwards are new ones": {
			{now: 11, flows: []Flow{with(f, 20, 10, 10.5)}, want: []string{"open 20/10"}},
			{now: 12, flows: []Flow{with(f, 3, 2, 11.5)}, want: []string{"active 3/2 lost 1"}},
			{now: 13, flows: []Flow{with(f, 4, 2, 12.5)}, want: []string{"active 1/0"}},
		},
		"one entry is gone when the table is read": {
			{now: 11, flows: []Flow{with(f, 20, 10, 10.5)}, want: []string{"open 20/10"}},
			{now: 12, flows: []Flow{closed(with(f, 22, 0, 11.9))}, settle: 1},
			{now: 13, flows: []Flow{removed(closed(with(f, 22, 11, 11.9)))}, want: []string{"closed 2/1"}},
		},
		"the opening one is gone": {
			{now: 11, flows: []Flow{with(f, 20, 10, 10.5)}, want: []string{"open 20/10"}},
			{now: 12, flows: []Flow{answering(with(f, 0, 12, 11.5))}, want: []string{"active 0/2"}},
			{now: 13, flows: []Flow{removed(answering(with(f, 0, 12, 11.5)))}, want: []string{"closed 0/0"}},
		},
		"one entry of a closed flow": {
			{now: 11, flows: []Flow{closed(with(f, 20, 10, 10.5))}, want: []string{"closed 20/10"}},
			{now: 12, flows: []Flow{closed(with(f, 20, 0, 10.5))}},
			{now: 13, flows: []Flow{closed(answering(with(f, 0, 10, 10.5)))}},
			{now: 14, flows: []Flow{removed(closed(with(f, 20, 10, 10.5)))}},
		},
		"refusals, and loss with nothing to carry it": {
			{now: 11, refusals: []Refusal{refusal, refusal}, lost: 4, want: []string{"REJECTOK 6 lost 4"}},
			{now: 11.5, early: true, lost: 2},
			{now: 12, want: []string{"SKIPDATA 0 lost 2"}},
			{now: 13},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAggregator(nil)
			for _, s := range steps {
				res := a.Collect(Input{
					Now: at(s.now), Flows: s.flows, Complete: !s.partial, Refusals: s.refusals, Lost: s.lost, Full: !s.early,
				})
				var got []string
				for i := range res.Records {
					r := &res.Records[i]
					got = append(got, describe(r))
					if r.Start.After(r.End) || r.End.After(at(s.now).Wall) || r.Node != node || r.Boot != "boot-1" {
						t.Errorf("at %v: start %v, end %v, node %q, boot %q", s.now, r.Start, r.End, r.Node, r.Boot)
					}
				}
				if !slices.Equal(got, s.want) || res.Unsettled != s.settle {
					t.Errorf("at %v: got %q, unsettled %d; want %q, %d", s.now, got, res.Unsettled, s.want, s.settle)
				}
			}
		})
	}
}

func TestTimesOfARecord(t *testing.T) {
	a := newAggregator(nil)
	f := consumerFlow(1, 10)
	open := a.Collect(Input{Now: at(11), Flows: []Flow{with(f, 2, 1, 10.5)}, Complete: true, Full: true}).Records[0]
	if want := at(10).Wall; !open.Start.Equal(want) || !open.End.Equal(at(10.5).Wall) {
		t.Errorf("open: %v to %v", open.Start, open.End)
	}
	active := a.Collect(Input{Now: at(20), Flows: []Flow{with(f, 3, 1, 19)}, Complete: true, Full: true}).Records[0]
	if !active.Start.Equal(at(11).Wall) || !active.End.Equal(at(19).Wall) {
		t.Errorf("active: %v to %v", active.Start, active.End)
	}
	end := a.Collect(Input{Now: at(500), Flows: []Flow{removed(with(f, 3, 1, 19))}, Complete: true, Full: true}).Records[0]
	if !end.Start.Equal(at(500).Wall) || !end.End.Equal(at(500).Wall) {
		t.Errorf("closed without packets: %v to %v", end.Start, end.End)
	}
}

// model is a datapath that opens, counts, ends, removes and forgets flows at random.
type model struct {
	next  uint64
	live  map[uint64]Flow
	final map[uint64]Flow // counters when last observable
	now   float64
}

func (m *model) change(t *rapid.T) {
	m.now += rapid.Float64Range(0.01, 3).Draw(t, "dt")
	for range rapid.IntRange(0, 3).Draw(t, "opens") {
		m.next++
		f := consumerFlow(m.next, m.now)
		m.live[m.next], m.final[m.next] = f, f
	}
	for _, id := range slices.Sorted(maps.Keys(m.live)) {
		f := m.live[id]
		switch rapid.IntRange(0, 5).Draw(t, "what") {
		case 0, 1, 2:
			n := rapid.Uint64Range(1, 1000).Draw(t, "packets")
			f.Counts = f.add(Counts{Packets: n, Bytes: n * 100, ReplyPackets: n / 2, ReplyBytes: n * 50, Retransmits: n / 3, ReplyRetransmits: n / 5})
			f.LastNS = at(m.now).Boot
		case 3:
			f.Closed = true
		case 4:
			f.Dead = rapid.Bool().Draw(t, "dead")
		}
		m.live[id], m.final[id] = f, f
	}
}

// remove takes flows out, handing their final counters over.
func (m *model) remove(t *rapid.T) (gone []Flow) {
	for _, id := range slices.Sorted(maps.Keys(m.live)) {
		if rapid.IntRange(0, 6).Draw(t, "remove") == 0 {
			gone = append(gone, removed(m.live[id]))
			delete(m.live, id)
		}
	}
	return gone
}

func (m *model) table() []Flow { return slices.Collect(maps.Values(m.live)) }

// The sum of a flow's records is its counters, its close is recorded once, and a restart from the baselines at any moment
// changes nothing of that.
func TestRecordsSumUpToCounters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{live: map[uint64]Flow{}, final: map[uint64]Flow{}, now: 100}
		a := newAggregator(nil)
		sums, closes := map[string]Counts{}, map[string]int{}
		take := func(res Result) {
			for i := range res.Records {
				r := &res.Records[i]
				sums[r.FlowID] = sums[r.FlowID].add(countsOf(r))
				if closes[r.FlowID] > 0 && r.State != api.FlowLate || closes[r.FlowID] == 0 && r.State == api.FlowLate {
					t.Fatalf("flow %s: %s after %d closes", r.FlowID, r.State, closes[r.FlowID])
				}
				if r.State == api.FlowClosed {
					closes[r.FlowID]++
				}
			}
		}
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			m.change(t)
			gone := m.remove(t)
			take(a.Collect(Input{
				Now: at(m.now), Flows: append(m.table(), gone...), Complete: rapid.Bool().Draw(t, "whole"),
				Full: rapid.Bool().Draw(t, "full"),
			}))
			if rapid.IntRange(0, 4).Draw(t, "restart") == 0 {
				a = newAggregator(a.Baselines())
			}
		}
		gone := m.table()
		for i := range gone {
			gone[i].Removed = true
		}
		take(a.Collect(Input{Now: at(m.now + 1), Flows: gone, Complete: true, Full: true}))
		for id, f := range m.final {
			key := formatID(id)
			if sums[key] != f.Counts || closes[key] != 1 {
				t.Fatalf("flow %s: records say %+v and %d closes, counters %+v", key, sums[key], closes[key], f.Counts)
			}
		}
		if a.Len() != 0 || len(a.Baselines()) != 0 {
			t.Fatalf("%d flows and %d baselines remain", a.Len(), len(a.Baselines()))
		}
		for k, sum := range a.traffic {
			if sum.Active != 0 {
				t.Fatalf("%+v: %d flows are active, and none is there", k, sum.Active)
			}
		}
	})
}

// No refused packet is lost between drain and record, however many kinds there are; what has no detail is declared.
func TestRefusalsAreConserved(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := NewAggregator(Settings{Node: node, Boot: "b", MaxRefusals: 8, EarlyRefusals: 4}, labeler(), nil)
		reasons := []string{"NO_DESTINATION", "GROUP_EGRESS", "NO_LISTENER"}
		want, got := map[string]uint64{}, map[string]uint64{}
		var kinds, lost, records, merged uint64
		take := func(in Input) {
			for _, r := range a.Collect(in).Records {
				if r.Reason != "" {
					got[r.Reason] += r.Packets
				}
				merged += r.Lost
				if r.Tuple.DstAddr != "" {
					records++
				}
			}
		}
		now := 10.0
		for range rapid.IntRange(1, 20).Draw(t, "drains") {
			now++
			in := Input{Now: at(now), Complete: true, Full: rapid.Bool().Draw(t, "full"), Lost: rapid.Uint64Range(0, 3).Draw(t, "lost")}
			for range rapid.IntRange(0, 12).Draw(t, "refusals") {
				kinds++
				r := Refusal{
					ENI: uint32(rapid.IntRange(0, 2).Draw(t, "eni")), VPC: 1, Hook: HookWorkload, Protocol: 6,
					Src: ip("10.0.1.5"), Dst: ip("10.0.2.1"), DstPort: uint16(kinds), FirstNS: at(now).Boot, LastNS: at(now).Boot,
					Reason: rapid.SampledFrom(reasons).Draw(t, "reason"), Packets: rapid.Uint64Range(1, 99).Draw(t, "packets"),
				}
				want[r.Reason] += r.Packets
				in.Refusals = append(in.Refusals, r)
			}
			lost += in.Lost
			take(in)
			if n := len(a.refusals); n > 8+3*3 {
				t.Fatalf("%d kinds held", n)
			}
		}
		take(Input{Now: at(now + 1), Complete: true, Full: true})
		if !maps.Equal(want, got) {
			t.Fatalf("refused %v, recorded %v", want, got)
		}
		if records+merged != kinds+lost {
			t.Fatalf("%d kinds and %d lost, but %d records and %d declared", kinds, lost, records, merged)
		}
	})
}

func TestUrgentRefusalsHaveAnAllowance(t *testing.T) {
	a := NewAggregator(Settings{EarlyRefusals: 3}, labeler(), nil)
	scan := func(now float64, from, n int, full bool) int {
		in := Input{Now: at(now), Full: full}
		for i := range n {
			in.Refusals = append(in.Refusals, Refusal{ENI: 11, Dst: ip("10.0.9.9"), DstPort: uint16(from + i), Reason: "NO_LISTENER", Packets: 1})
		}
		return len(a.Collect(in).Records)
	}
	for i, s := range []struct {
		from, n int
		full    bool
		want    int
	}{{0, 2, false, 2}, {10, 2, false, 0}, {20, 5, true, 7}, {30, 3, false, 3}} {
		if got := scan(float64(i), s.from, s.n, s.full); got != s.want {
			t.Errorf("step %d: %d records, want %d", i, got, s.want)
		}
	}
}

func TestCollectIsDeterministic(t *testing.T) {
	in := Input{Now: at(50), Complete: true, Full: true}
	for i := range 50 {
		in.Flows = append(in.Flows, consumerFlow(uint64(50-i), 10))
		in.Refusals = append(in.Refusals, Refusal{Dst: ip("10.0.0.9"), DstPort: uint16(i), Reason: "NO_FLOW", Packets: 1})
	}
	first := newAggregator(nil).Collect(in).Records
	for range 5 {
		if got := newAggregator(nil).Collect(in).Records; !slices.Equal(got, first) {
			t.Fatal("the same input gave other records")
		}
	}
}

func TestClockAt(t *testing.T) {
	c := at(100)
	for _, s := range []float64{0, 99.5, 100, 101} {
		if got, want := c.At(at(s).Boot), epoch.Add(time.Duration(s*1e9)); !got.Equal(want) {
			t.Errorf("%v: %v, want %v", s, got, want)
		}
	}
}
