package seal

import (
	"fmt"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
)

func accepted(stage, replyStage string, packets, replies uint64) *api.FlowRecord {
	return &api.FlowRecord{
		Interface: "eni-1", Action: api.ActionAccept, Stage: stage, ReplyStage: replyStage, Packets: packets, Bytes: 10 * packets,
		ReplyPackets: replies, ReplyBytes: 10 * replies,
	}
}

func at(hook, reason string, from, to, slack uint64) Position {
	of := func(n uint64) Count { return Count{n, 10 * n} }
	return Position{ENI: "eni-1", Hook: hook, Reason: reason, From: of(from), To: of(to), Slack: of(slack)}
}

func full(number uint64, positions ...Position) *Seal {
	return &Seal{Number: number, Full: true, Counters: positions}
}

func lost(cause, hook, reason string, packets uint64) Gap {
	return Gap{Cause: cause, ENI: "eni-1", Hook: hook, Reason: reason, Packets: packets, Bytes: 10 * packets}
}

// Each line of the table is one boot: what its lines tell, its seals, and what is found.
func TestTally(t *testing.T) {
	refused := &api.FlowRecord{
		Interface: "eni-1", Action: api.ActionReject, Stage: "workload", Reason: "NO_LISTENER", Packets: 3, Bytes: 30,
	}
	declares := func(s *Seal, gaps ...Gap) *Seal { s.Declared = gaps; return s }
	for _, c := range []struct {
		name    string
		records []*api.FlowRecord
		seals   []*Seal
		want    string
	}{
		{"a consumer's flow", []*api.FlowRecord{accepted("workload", "", 5, 4)},
			[]*Seal{full(1, at("tunnel", "FORWARDED", 0, 4, 0), at("workload", "FORWARDED", 0, 5, 0))}, ""},
		{"answers from this node and another", []*api.FlowRecord{accepted("workload", "", 5, 4), accepted("local", "", 2, 1)},
			[]*Seal{full(1, at("local", "FORWARDED", 0, 3, 0), at("tunnel", "FORWARDED", 0, 3, 0), at("workload", "FORWARDED", 0, 6, 0))}, ""},
		{"answers of the resolver", []*api.FlowRecord{accepted("workload", "host", 5, 4)},
			[]*Seal{full(1, at("host", "FORWARDED", 0, 9, 0), at("workload", "FORWARDED", 0, 5, 0))}, ""},
		{"refused", []*api.FlowRecord{refused}, []*Seal{full(1, at("workload", "NO_LISTENER", 0, 3, 0))}, ""},
		{"what leaves no record", nil, []*Seal{full(1, at("workload", "NONE", 0, 3, 0), at("workload", "ANSWERED", 0, 3, 0))}, ""},
		{"a packet too little", []*api.FlowRecord{refused}, []*Seal{full(1, at("workload", "NO_LISTENER", 0, 4, 0))}, "counters at least 4"},
		{"a packet too much", []*api.FlowRecord{refused}, []*Seal{full(1, at("workload", "NO_LISTENER", 0, 2, 0))}, "counters only 2"},
		{"bytes too little", []*api.FlowRecord{refused}, []*Seal{full(1, Position{
			ENI: "eni-1", Hook: "workload", Reason: "NO_LISTENER", To: Count{3, 31},
		})}, "counters at least 3 packets of 31 bytes"},
		{"within the slack", []*api.FlowRecord{refused}, []*Seal{full(1, at("workload", "NO_LISTENER", 0, 5, 2))}, ""},
		{"beyond the slack", []*api.FlowRecord{refused}, []*Seal{full(1, at("workload", "NO_LISTENER", 0, 6, 2))}, "counters at least 4"},
		{"declared as lost", []*api.FlowRecord{refused},
			[]*Seal{declares(full(1, at("workload", "NO_LISTENER", 0, 5, 0)), lost(CauseLost, "workload", "NO_LISTENER", 2))}, ""},
		{"declared as too much", []*api.FlowRecord{accepted("workload", "", 5, 0)},
			[]*Seal{declares(full(1, at("workload", "FORWARDED", 0, 4, 0)), lost(CauseOver, Out, "FORWARDED", 1))}, ""},
		{"a counter that jumps", []*api.FlowRecord{refused},
			[]*Seal{full(1, at("workload", "NO_LISTENER", 0, 3, 0)), full(2, at("workload", "NO_LISTENER", 4, 4, 1))}, "begins at 4"},
		{"a counter that goes back", []*api.FlowRecord{refused},
			[]*Seal{full(1, at("workload", "NO_LISTENER", 0, 3, 0)), full(2, at("workload", "NO_LISTENER", 3, 2, 0))}, "goes back"},
		{"between full seals nothing is compared", []*api.FlowRecord{refused}, []*Seal{{Number: 1}}, ""},
		{"segments that were trimmed", []*api.FlowRecord{refused},
			[]*Seal{full(1, at("workload", "NO_LISTENER", 0, 3, 0)), full(5, at("workload", "NO_LISTENER", 9, 9, 0)),
				declares(full(6), Gap{Cause: CauseTrimmed, ENI: "eni-1", Hook: "workload", Reason: "NO_LISTENER", Packets: 6, Bytes: 60,
					FirstSeal: 2, LastSeal: 4})}, ""},
		{"the books were lost", []*api.FlowRecord{refused},
			[]*Seal{declares(full(1, at("workload", "NO_LISTENER", 0, 90, 0)), Gap{Cause: CauseDamaged}),
				full(2, at("workload", "NO_LISTENER", 90, 91, 0))}, "counters at least 91"},
		{"an interface that goes and comes", []*api.FlowRecord{refused}, []*Seal{
			full(1, Position{ENI: "eni-1", Hook: "workload", Reason: "NO_LISTENER", To: Count{3, 30}, Folded: true}),
			full(2, at("workload", "NO_LISTENER", 0, 1, 1))}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var tally Tally
			for _, s := range c.seals {
				tally.Expect(s.Declared...)
			}
			for _, r := range c.records {
				tally.Record(r)
			}
			var found []string
			for _, s := range c.seals {
				for _, err := range tally.Seal(s) {
					found = append(found, err.Error())
				}
			}
			if got := strings.Join(found, "; "); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

// Of a log whose beginning is not here the first position of a row is believed, and what follows has to fit.
func TestPartialTally(t *testing.T) {
	for _, more := range []uint64{0, 1} {
		tally := Tally{Partial: true}
		tally.Record(accepted("workload", "", 5, 0))
		if errs := tally.Seal(full(7, at("workload", "FORWARDED", 90, 100, 0))); len(errs) > 0 {
			t.Error(errs)
		}
		tally.Record(accepted("workload", "", 5, 0))
		errs := tally.Seal(full(8, at("workload", "FORWARDED", 100, 105+more, 0)))
		if (len(errs) > 0) != (more > 0) {
			t.Errorf("%d more: %v", more, errs)
		}
	}
}

// What came while the first full seal that is here was made is told by lines before or behind it: neither is a finding. Once it is told it is
// told, and a packet more or less is found.
func TestPartThatBeginsWithSlack(t *testing.T) {
	type step struct {
		records, to, slack uint64
		want               string
	}
	for name, steps := range map[string][]step{
		"told before":            {{0, 100, 5, ""}, {3, 103, 0, ""}, {1, 104, 0, ""}},
		"told behind":            {{0, 100, 5, ""}, {8, 103, 0, ""}, {1, 104, 0, ""}},
		"told half before":       {{0, 100, 5, ""}, {5, 103, 0, ""}, {1, 104, 0, ""}},
		"more than all of it":    {{0, 100, 5, ""}, {9, 103, 0, "tell 104 packets of 1040 bytes, counters only 103"}},
		"less than none of it":   {{0, 100, 5, ""}, {2, 103, 0, "tell 102 packets of 1020 bytes, counters at least 103"}},
		"again behind that":      {{0, 100, 5, ""}, {8, 103, 0, ""}, {2, 104, 0, "tell 105"}},
		"less behind that":       {{0, 100, 5, ""}, {8, 103, 0, ""}, {0, 104, 0, "tell 103"}},
		"slack that stays":       {{0, 100, 5, ""}, {3, 103, 5, ""}, {6, 104, 0, ""}},
		"slack that is declared": {{0, 100, 5, ""}, {0, 100, 5, ""}, {5, 100, 0, ""}},
		"invented":               {{0, 100, 5, ""}, {5, 100, 0, ""}, {1, 100, 0, "tell 101"}},
	} {
		t.Run(name, func(t *testing.T) {
			tally, from, number := Tally{Partial: true}, uint64(90), uint64(7)
			for _, s := range steps {
				if s.records > 0 {
					tally.Record(accepted("workload", "", s.records, 0))
				}
				var positions []Position
				if s.to != from || s.slack > 0 {
					positions = append(positions, at("workload", "FORWARDED", from, s.to, s.slack))
				}
				errs := tally.Seal(full(number, positions...))
				if got := fmt.Sprint(errs); (s.want == "") != (len(errs) == 0) || !strings.Contains(got, s.want) {
					t.Errorf("seal %d: %s, want %q", number, got, s.want)
				}
				from, number = s.to, number+1
			}
		})
	}
}

func TestQueriesTellNothingOfPackets(t *testing.T) {
	var tally Tally
	if err := tally.Line([]byte(`{"query":{"boot":"x","sequence":1}}`)); err != nil || len(tally.Sums()) != 0 {
		t.Error(err, tally.Sums())
	}
	if err := tally.Line([]byte("{")); err == nil {
		t.Error("a damaged line is taken")
	}
	if got := fmt.Sprint(Count{2, 30}); got != "2 packets of 30 bytes" {
		t.Error(got)
	}
}

// A row of two counters, one of which did not move between the begin of a copy and the other's first seal there.
func TestPartWithARowOfTwoCounters(t *testing.T) {
	part := Tally{Partial: true}
	part.Record(accepted("tunnel", "", 3, 0))
	for _, s := range []*Seal{full(7, at("tunnel", "FORWARDED", 10, 13, 0)), full(8, at("local", "FORWARDED", 8, 9, 0))} {
		if s.Number == 8 {
			part.Record(accepted("local", "", 1, 0))
		}
		if errs := part.Seal(s); len(errs) > 0 {
			t.Errorf("seal %d: %v", s.Number, errs)
		}
	}
	if errs := part.Seal(full(9, at("local", "FORWARDED", 9, 10, 0))); len(errs) != 1 {
		t.Errorf("a packet without a record: %v", errs)
	}
}
