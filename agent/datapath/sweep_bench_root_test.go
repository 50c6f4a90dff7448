package datapath

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/bpf"
)

// fill puts that many flows into the table, both entries, with their newest packet at a boot time. change may make something
// else of the i-th.
func fill(tb testing.TB, d *Datapath, flows int, last time.Duration, change func(i int, open, reply *bpf.Flow)) {
	tb.Helper()
	keys, entries := make([]bpf.FlowKey, 0, 2*flows), make([]bpf.Flow, 0, 2*flows)
	for i := range uint32(flows) {
		key := bpf.FlowKey{Vpc: 1, Saddr: i, Daddr: 1, Sport: 1, Dport: 2, View: uint8(bpf.ViewWorkload), Protocol: 17}
		reverse := bpf.FlowKey{Vpc: 1, Saddr: 1, Daddr: i, Sport: 2, Dport: 1, View: uint8(bpf.ViewLocal), Protocol: 17}
		open := bpf.Flow{
			Id: uint64(i) + 1, Key: key, PeerVpc: 1, Saddr: key.Saddr, Daddr: key.Daddr, Sport: key.Sport, Dport: key.Dport,
			ReverseView: reverse.View, IdleS: 120, LastNs: uint64(last), Flags: uint16(bpf.FlowOpening),
		}
		reply := open
		reply.Key, reply.ReverseView, reply.Flags = reverse, key.View, 0
		reply.Saddr, reply.Daddr, reply.Sport, reply.Dport = reverse.Saddr, reverse.Daddr, reverse.Sport, reverse.Dport
		if change != nil {
			change(int(i), &open, &reply)
		}
		keys, entries = append(keys, open.Key, reply.Key), append(entries, open, reply)
	}
	if n, err := d.coll.Maps[mapFlows].BatchUpdate(keys, entries, &ebpf.BatchOptions{}); err != nil || n != len(keys) {
		tb.Fatalf("%d entries made, %v", n, err)
	}
}

// What a sweep costs over as many flows as the table holds, of which none is over, and what each removal adds.
func BenchmarkSweep(b *testing.B) {
	needRoot(b)
	cfg := Config{}
	dp, err := Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer dp.Close()
	now, err := BootTime()
	if err != nil {
		b.Fatal(err)
	}
	flows := dp.FlowEntries() / 2
	fill(b, dp, flows, now, nil)
	for name, f := range map[string]func() error{
		"none over": func() error { _, err := dp.Sweep(b.Context(), now); return err },
		"records":   func() error { _, err := dp.Flows(b.Context()); return err },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*flows), "ns/flow")
		})
	}
	b.Run("all over", func(b *testing.B) {
		for b.Loop() {
			if swept, err := dp.Sweep(b.Context(), now+time.Hour); err != nil || len(swept.Removed) != maxSwept {
				b.Fatal(len(swept.Removed), err)
			}
			b.StopTimer()
			fill(b, dp, flows, now, nil)
			b.StartTimer()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*maxSwept), "ns/removed")
	})
}

// What a reading costs of as many flows as the table holds, all of which have ended and are recorded: handed over again, or left out.
func BenchmarkReadEnded(b *testing.B) {
	needRoot(b)
	dp, err := Open(Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer dp.Close()
	now, err := BootTime()
	if err != nil {
		b.Fatal(err)
	}
	flows := dp.FlowEntries() / 2
	fill(b, dp, flows, now, func(_ int, o, r *bpf.Flow) {
		o.Flags |= uint16(bpf.FlowClosed)
		r.Flags |= uint16(bpf.FlowClosed)
	})
	s, a := NewSource(dp), flow.NewAggregator(flow.Settings{}, &flow.Labeler{}, nil)
	read := func(skip bool) {
		p := a.Begin(flow.Input{})
		known := p.Known
		if !skip {
			known = nil
		}
		s.Skip(known)
		if err := s.Flows(b.Context(), func(f flow.Flow) bool { p.Observe(&f); return true }); err != nil {
			b.Fatal(err)
		}
		p.End(flow.Input{Now: flow.Clock{Boot: uint64(now + time.Hour), Wall: time.Now()}, Complete: true, Full: true})
		for more := true; more; {
			_, more = p.Next(flows)
		}
	}
	read(false)
	for name, skip := range map[string]bool{"handed over": false, "left out": true} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				read(skip)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*flows), "ns/flow")
		})
	}
}
