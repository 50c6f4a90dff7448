package datapath

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/culvert-net/culvert/bpf"
)

// opened is the event of a consumer's flow to a target, its port the client's.
func opened(at time.Duration, port uint16) *bpf.Event {
	return &bpf.Event{
		TimeNs: uint64(at), FlowId: uint64(port), Kind: uint8(bpf.EventOpen), Flags: uint16(bpf.FlowOpening), Connection: 900,
		SourceVpc: shop, DestVpc: pay, Daddr: bpf.NetAddr(addr("10.0.1.5")), Dport: bpf.NetPort(8443),
	}
}

func takenFrom(s *signals) (list []Signal) {
	for {
		select {
		case x := <-s.out:
			list = append(list, x)
		default:
			return list
		}
	}
}

var ledgerTarget = netip.MustParseAddrPort("10.0.1.5:8443")

// A target that answers nothing for 300 ms is told of, a few times a second whatever the load; one that answers is not.
func TestSilentTargets(t *testing.T) {
	asked := 0
	answers := false
	s := newSignals(nil)
	s.answered = func(sample) (bool, error) { asked++; return answers, nil }
	const flows, pace = 10_000, 100 * time.Microsecond // a second of them
	var got []Signal
	for i := range flows {
		now := time.Duration(i) * pace
		e := opened(now, uint16(i))
		e.Key.Protocol = 6
		s.event(e)
		if err := s.look(now); err != nil {
			t.Fatal(err)
		}
		got = append(got, takenFrom(s)...)
	}
	want := Signal{VPC: pay, Target: ledgerTarget, Kind: SignalSilent}
	if len(got) < 3 || len(got) > 4 || slices.ContainsFunc(got, func(x Signal) bool { return x != want }) {
		t.Errorf("told %v, want %v three or four times in a second", got, want)
	}
	if asked > 14 {
		t.Errorf("%d flows were looked at in a second", asked)
	}
	answers = true
	if err := s.look(time.Hour); err != nil || len(takenFrom(s)) != 0 || len(s.samples) != 0 {
		t.Errorf("an answer is told of, or %d samples are kept: %v", len(s.samples), err)
	}
}

// A table that cannot be read tells nothing, and nothing waits for ever.
func TestSilenceOfTheTable(t *testing.T) {
	s, fault := newSignals(nil), errors.New("fault")
	s.answered = func(sample) (bool, error) { return false, fault }
	e := opened(0, 1)
	e.Key.Protocol = 6
	s.event(e)
	if err := s.look(time.Second); !errors.Is(err, fault) || len(takenFrom(s)) != 0 || len(s.samples) != 0 {
		t.Errorf("%v, %d samples", err, len(s.samples))
	}
}

// A RST that answers the first packet is told of; one later, of the client's, of no connection or of no TCP is not.
func TestRefusals(t *testing.T) {
	refused := func(change func(*bpf.Event)) *bpf.Event {
		e := &bpf.Event{Kind: uint8(bpf.EventClose), Connection: 900, TcpFlags: 0x14, SourceVpc: pay, DestVpc: shop, TimeNs: 1}
		e.Key.Protocol, e.Key.Saddr, e.Key.Sport = 6, bpf.NetAddr(addr("10.0.1.5")), bpf.NetPort(8443)
		change(e)
		return e
	}
	for name, c := range map[string]struct {
		change func(*bpf.Event)
		want   int
	}{
		"at once":       {func(*bpf.Event) {}, 1},
		"later":         {func(e *bpf.Event) { e.TcpFlags |= 0x12 }, 0},
		"the client's":  {func(e *bpf.Event) { e.Flags = uint16(bpf.FlowOpening) }, 0},
		"FIN":           {func(e *bpf.Event) { e.TcpFlags = 0x11 }, 0},
		"of a workload": {func(e *bpf.Event) { e.Connection = 0 }, 0},
		"ICMP":          {func(e *bpf.Event) { e.Key.Protocol = 1 }, 0},
		"of a removed":  {func(e *bpf.Event) { e.Kind = uint8(bpf.EventRemoved) }, 0},
	} {
		s := newSignals(nil)
		s.event(refused(c.change))
		s.event(refused(c.change))
		got := takenFrom(s)
		if len(got) != c.want || c.want == 1 && got[0] != (Signal{VPC: pay, Target: ledgerTarget, Kind: SignalRefused}) {
			t.Errorf("%s: told %v, want %d", name, got, c.want)
		}
	}
}
