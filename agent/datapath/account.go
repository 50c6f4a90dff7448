package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/culvert-net/culvert/agent/flow"
	"github.com/culvert-net/culvert/internal/logkey"
)

var _ flow.Accountant = (*Source)(nil)

// Account implements flow.Accountant. A program counts for its flow first and in the counters when it ends, so each reading waits for those
// that were under way: what the counters had at first is in the flows, and what the flows have is in the counters at last. Flows that
// packets removed meanwhile are told by events, which are all taken in between.
func (s *Source) Account(ctx context.Context, yield func(flow.Flow) bool) (*flow.Account, error) {
	before, err := s.d.Counters()
	if err != nil {
		return nil, err
	}
	if err := s.d.settle(ctx); err != nil {
		return nil, err
	}
	a := &flow.Account{Before: counters(before)}
	if err := s.live(ctx, yield); err != nil {
		return nil, err
	}
	if err := s.d.settle(ctx); err != nil {
		return nil, err
	}
	if err := s.flush(ctx); err != nil {
		return nil, err
	}
	// From here on nothing may fail: what is taken out of the kernel does not come again.
	s.yieldRemoved(yield)
	var trouble error
	if a.Refusals, a.Lost, trouble = s.DrainRefusals(ctx); trouble != nil {
		s.d.log.Error("read refusals for the ledger", logkey.Error, trouble)
	}
	if err := s.d.settle(context.WithoutCancel(ctx)); err != nil {
		s.d.log.Error("wait for programs", logkey.Error, err)
	}
	after, err := s.d.Counters()
	if err != nil {
		s.d.log.Error("read counters for the ledger", logkey.Error, err)
		return a, nil
	}
	a.After = counters(after)
	return a, nil
}

// counters are those of the datapath as package flow has them.
func counters(in []Counter) []flow.Counter {
	out := make([]flow.Counter, len(in))
	for i := range in {
		out[i] = in[i].record()
	}
	return out
}

func (c *Counter) record() flow.Counter {
	return flow.Counter{ENI: c.ENI, Hook: flow.Hook(c.Hook).String(), Reason: c.Reason.String(), Packets: c.Packets, Bytes: c.Bytes}
}

// flush returns when all events that are there were taken. While nobody reads them they stay, for whoever comes next.
func (s *Source) flush(ctx context.Context) error {
	s.mu.Lock()
	reader := s.reader
	s.mu.Unlock()
	if reader == nil {
		return nil
	}
	if err := reader.r.Flush(); errors.Is(err, os.ErrClosed) {
		return nil
	} else if err != nil { // else it is awake
		return fmt.Errorf("read events: %w", err)
	}
	taken := make(chan struct{})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-reader.done:
		return nil
	case reader.flushes <- taken:
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-reader.done:
	case <-taken:
	}
	return nil
}
