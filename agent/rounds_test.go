package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// inLoop runs test beside the loop of an agent.
func inLoop(t *testing.T, test func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.agent.loop(ctx) }()
		synctest.Wait()
		test(t, b)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (b *bench) rounds() uint64 {
	b.agent.mu.Lock()
	defer b.agent.mu.Unlock()
	return b.agent.begun
}

// Gossip can be forged by whoever has its key, and workloads change their interfaces as they like: neither keeps the loop
// busy, and neither is forgotten.
func TestHintsDoNotKeepTheLoopBusy(t *testing.T) {
	inLoop(t, func(t *testing.T, b *bench) {
		b.hear(testView(1))
		synctest.Wait()
		before := b.rounds()
		for range 1000 {
			b.agent.Hint()
			<-time.After(10 * time.Millisecond)
		}
		if n := b.rounds() - before; n < 5 || n > 15 {
			t.Errorf("%d rounds in ten seconds of hints, want about ten with those of the clock", n)
		}
		<-time.After(hintPause + hintPause/2) // between two ticks
		before = b.rounds()
		for range 5 {
			b.agent.Wake()
			synctest.Wait()
		}
		if n := b.rounds() - before; n != 5 {
			t.Errorf("%d rounds after five calls of Wake", n)
		}
	})
}

func TestHintIsHeardBeforeTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent.cfg.Tick = time.Hour
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.agent.loop(ctx) }()
		b.hear(testView(1))
		synctest.Wait()
		before := b.rounds()
		b.agent.Hint()
		synctest.Wait()
		if n := b.rounds() - before; n != 0 {
			t.Errorf("%d rounds at once", n)
		}
		<-time.After(hintPause)
		synctest.Wait()
		if n := b.rounds() - before; n != 1 {
			t.Errorf("%d rounds after the pause", n)
		}
		<-time.After(10 * hintPause)
		b.agent.Hint()
		synctest.Wait()
		if n := b.rounds() - before; n != 2 {
			t.Errorf("%d rounds: a hint after a quiet time has to wait", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
