package flow

import (
	"context"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// halves are a flow's two entries.
func halves(f Flow) [2]Half {
	return [2]Half{
		{f.ID, false, f.Packets, f.Bytes, f.Retransmits}, {f.ID, true, f.ReplyPackets, f.ReplyBytes, f.ReplyRetransmits},
	}
}

// What a closing record has said is known, and nothing else; what is known counts as seen.
func TestKnown(t *testing.T) {
	a := newAggregator(nil)
	ended, open := closed(with(consumerFlow(1, 1), 7, 5, 2)), with(consumerFlow(2, 1), 7, 5, 2)
	a.Collect(Input{Now: at(10), Flows: []Flow{ended, open}, Complete: true, Full: true})
	counted := func(change func(*Half)) Half { h := halves(ended)[1]; change(&h); return h }
	p := a.Begin(Input{})
	for what, h := range map[string]Half{
		"of an open flow": halves(open)[0], "of another flow": counted(func(h *Half) { h.ID = 3 }),
		"with another packet": counted(func(h *Half) { h.Packets++ }), "with more bytes": counted(func(h *Half) { h.Bytes++ }),
		"with a retransmission":  counted(func(h *Half) { h.Retransmits++ }),
		"of the other direction": counted(func(h *Half) { h.Reply = false }),
	} {
		if p.Known(h) {
			t.Errorf("an entry %s is known", what)
		}
	}
	p.Observe(&open)
	for _, h := range halves(ended) {
		if !p.Known(h) {
			t.Errorf("%+v is not known", h)
		}
	}
	p.End(Input{Now: at(20), Complete: true, Full: true})
	if records, _ := p.Next(maxChunk); len(records) != 0 {
		t.Errorf("records of what did not change: %v", records)
	}
	for i := range goneAfter { // it is in the table, though nobody observes it
		p := a.Begin(Input{})
		p.Observe(&open)
		for _, h := range halves(ended) {
			p.Known(h)
		}
		p.End(Input{Now: at(float64(21 + i)), Complete: true, Full: true})
	}
	late := ended
	late.ReplyPackets++
	late.ReplyBytes += 60
	p = a.Begin(Input{})
	p.Observe(&open)
	if h := halves(late); !p.Known(h[0]) || p.Known(h[1]) {
		t.Error("one entry has counted a packet: the other is known, that one is not")
	}
	p.Observe(&late)
	p.End(Input{Now: at(30), Complete: true, Full: true})
	if records, _ := p.Next(maxChunk); len(records) != 1 || describe(&records[0]) != "late 0/1" || records[0].Lost != 0 {
		t.Errorf("records %v: want one of the late packet", records)
	}
}

// skipping is a source that asks.
type skipping struct {
	*Mem
	known func(Half) bool
	left  int // flows that were left out
}

func (s *skipping) Skip(known func(Half) bool) { s.known = known }

func (s *skipping) Flows(ctx context.Context, yield func(Flow) bool) error {
	return s.Mem.Flows(ctx, func(f Flow) bool {
		if h := halves(f); !f.Removed && s.known(h[0]) && s.known(h[1]) {
			s.left++
			return true
		}
		return yield(f)
	})
}

// A collector tells a source that asks what it knows.
func TestSkip(t *testing.T) {
	source := &skipping{Mem: NewMem()}
	c, err := New(Config{
		Node: node, Source: source, Clock: func() Clock { return at(100) }, Log: LogConfig{Store: NewMemStore(), Boot: "boot-1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if !c.open(ctx) {
		t.Fatal("the log does not open")
	}
	defer c.log.Close()
	source.Set(closed(with(consumerFlow(1, 1), 7, 5, 2)))
	for want := range 3 {
		c.collect(ctx, true)
		if source.left != want {
			t.Fatalf("reading %d: %d flows left out", want+1, source.left)
		}
	}
	source.Remove(1)
	c.collect(ctx, true)
	records, err := c.Query(ctx, api.FlowFilter{})
	if err != nil || len(records) != 1 || records[0].Packets != 7 {
		t.Errorf("records %v, %v: want one", records, err)
	}
	if n := len(c.agg.flows); n != 0 {
		t.Errorf("%d flows are known after it was removed", n)
	}
}
