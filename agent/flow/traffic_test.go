package flow

import (
	"slices"
	"testing"
)

// What traffic sums up is what the records say, per endpoint and side, and it is not counted again after a restart.
func TestTrafficOfAnEndpoint(t *testing.T) {
	var l Labeler
	l.Add(testView())
	a := NewAggregator(Settings{Node: "n", Boot: "b"}, &l, nil)
	collect := func(a *Aggregator, now float64, flows []Flow, refusals ...Refusal) {
		a.Collect(Input{Now: at(now), Flows: flows, Complete: true, Refusals: refusals, Full: true})
	}
	f, g, p := consumerFlow(1, 10), consumerFlow(2, 10), providerFlow(3, 10)
	collect(a, 11, []Flow{with(f, 2, 1, 10.5), with(g, 1, 1, 10.5), with(p, 4, 4, 10.5)},
		Refusal{ENI: 11, VPC: 1, Src: ip("10.0.1.5"), Dst: ip("10.0.1.200"), DstPort: 9, Reason: "NO_LISTENER", Hook: HookWorkload, Packets: 3},
		Refusal{ENI: 11, VPC: 1, Src: ip("10.0.1.5"), Dst: ip("10.0.1.77"), Reason: "NO_DESTINATION", Hook: HookWorkload, Packets: 9})
	reset := closed(with(g, 2, 2, 11.5))
	reset.ReplyTCPFlags = tcpRST
	collect(a, 13, []Flow{with(f, 5, 3, 11.5), reset, with(p, 4, 4, 10.5)})
	record := l.Flow(&f)
	consumer := TrafficKey{SideConsumer, record.Endpoint, record.Service, record.ServiceName, record.ConsumerVPC}
	if consumer.Endpoint == "" || consumer.Service == "" {
		t.Fatalf("%+v", consumer)
	}
	provider := consumer
	provider.Side = SideProvider
	if got, want := *a.traffic[consumer], (Traffic{Active: 1, New: 2, Packets: 12, Bytes: 720, Dropped: 3, Resets: 1}); got != want {
		t.Errorf("consumer: %+v, want %+v", got, want)
	}
	if got, want := *a.traffic[provider], (Traffic{Active: 1, New: 1, Packets: 8, Bytes: 480}); got != want {
		t.Errorf("provider: %+v, want %+v", got, want)
	}
	b := NewAggregator(Settings{Node: "n", Boot: "b"}, &l, a.Baselines())
	if got := *b.traffic[consumer]; got != (Traffic{Active: 1}) {
		t.Errorf("after a restart: %+v", got)
	}
	collect(b, 14, []Flow{removed(with(f, 6, 3, 13.5)), removed(reset), with(p, 5, 4, 13.5)})
	if got, want := *b.traffic[consumer], (Traffic{Packets: 1, Bytes: 60}); got != want {
		t.Errorf("after a restart and its end: %+v, want %+v", got, want)
	}
}

// However many endpoints there were, the sums are bounded; what is over is summed up without names.
func TestTrafficIsBounded(t *testing.T) {
	sums := traffic{}
	for i := range maxTraffic + 10 {
		r := (&Labeler{}).Flow(&Flow{})
		r.Side, r.Endpoint = SideConsumer, formatID(uint64(i))
		sums.of(&r).New++
	}
	if n := len(sums); n != maxTraffic+1 {
		t.Errorf("%d sums", n)
	}
	if got := sums[TrafficKey{Side: SideConsumer}].New; got != 10 {
		t.Errorf("without names: %d", got)
	}
}

// Refusals at caps and shares are summed up by endpoint, account and reason, from either side; others are not.
func TestLimitedByWhom(t *testing.T) {
	var l Labeler
	l.Add(testView())
	a := NewAggregator(Settings{Node: "n", Boot: "b"}, &l, nil)
	refused := func(reason string, packets uint64) Refusal {
		return Refusal{ENI: 11, VPC: 1, Src: ip("10.0.1.5"), Dst: ip("10.0.1.200"), DstPort: 443, Reason: reason, Hook: HookWorkload,
			Packets: packets, FirstNS: 1, LastNS: 2}
	}
	for range 2 {
		a.Collect(Input{Now: at(11), Complete: true, Full: true, Refusals: []Refusal{
			refused("CAP_CONNECTIONS", 3), refused("CAP_BITS", 4), refused("NO_LISTENER", 5)}})
	}
	c := Collector{agg: a}
	got := c.Limited()
	f := consumerFlow(1, 10)
	record := l.Flow(&f)
	for i, want := range []Limited{{Reason: "CAP_BITS", Packets: 8}, {Reason: "CAP_CONNECTIONS", Packets: 6}} {
		want.Side, want.Endpoint, want.ServiceName = SideConsumer, record.Endpoint, record.ServiceName
		if len(got) != 2 || got[i].Account == "" || got[i].Last.IsZero() {
			t.Fatalf("%+v", got)
		}
		want.Account, want.Last = got[i].Account, got[i].Last
		if got[i] != want {
			t.Errorf("%+v, want %+v", got[i], want)
		}
	}
	if !slices.Contains([]string{record.ConsumerAccount, record.Account}, got[0].Account) {
		t.Errorf("charged to account %s", got[0].Account)
	}
}
