package tunnel

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

func TestGateHoldsWhatDoesNotFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		epoch := g.enter(gateMax - 1)
		g.wait() // one more fits
		g.enter(1)
		start, passed := time.Now(), make(chan struct{})
		go func() {
			g.wait()
			close(passed)
		}()
		synctest.Wait()
		select {
		case <-passed:
			t.Fatal("a full gate lets through")
		default:
		}
		g.leave(1, epoch)
		<-passed
		if waited := time.Since(start); waited != 0 {
			t.Errorf("after a packet left it took %v", waited)
		}
	})
}

func TestGateForgivesWhatStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		old := g.enter(gateMax)
		start := time.Now()
		g.wait()
		if waited := time.Since(start); waited != gatePatience {
			t.Errorf("a standing gate opened after %v: want %v", waited, gatePatience)
		}
		if g.inside != 0 || g.forgot != gateMax {
			t.Errorf("%d inside, %d forgotten: want 0 and %d", g.inside, g.forgot, gateMax)
		}
		g.enter(5)
		g.leave(gateMax, old) // late, and forgiven already
		if g.inside != 5 {
			t.Errorf("%d inside: want 5", g.inside)
		}
	})
}

func TestGateIsPatientWhilePacketsLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		epoch := g.enter(gateMax + 10) // a batch may pass the limit
		go func() {
			for range 11 { // one at a time, slower than it takes to lose patience only in sum
				<-time.After(gatePatience * 3 / 4)
				g.leave(1, epoch)
			}
		}()
		g.wait()
		if g.forgot != 0 || g.inside != gateMax-1 {
			t.Errorf("%d inside, %d forgotten: want %d and 0", g.inside, g.forgot, gateMax-1)
		}
	})
}

func TestGateWakesBothReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		epoch := g.enter(gateMax)
		start, passed := time.Now(), make(chan struct{})
		for range 2 {
			go func() {
				g.wait()
				passed <- struct{}{}
			}()
		}
		synctest.Wait()
		g.leave(2, epoch)
		<-passed
		<-passed
		if waited := time.Since(start); waited != 0 {
			t.Errorf("both readers took %v", waited)
		}
	})
}

func TestTags(t *testing.T) {
	tags := newTags(1420)
	buf := make([]byte, bufferLen)
	want := tag{dir: inbound, epoch: 7, turn: turn{peer: 9, row: 11}}
	if _, ok := tags.take(buf); ok {
		t.Error("a fresh buffer has a tag")
	}
	if tags.put(make([]byte, 1500), 100, want) {
		t.Error("a buffer that is not the device's takes a tag")
	}
	if tags.put(buf, tags.at+1, want) {
		t.Error("a tag would overwrite a packet")
	}
	if !tags.put(buf[:100], 100, want) {
		t.Error("no tag on a buffer cut short")
	}
	if got, ok := tags.take(buf[:0]); !ok || got != want {
		t.Errorf("took %+v, %v: want %+v", got, ok, want)
	}
	if _, ok := tags.take(buf); ok {
		t.Error("a tag is taken twice")
	}
	if tags.at+tagLen > 4096 {
		t.Errorf("at the usual MTU tags stand at %d: want them on the packet's page", tags.at)
	}
	if big := newTags(maxMTU); big.at+tagLen > bufferLen {
		t.Errorf("at the largest MTU tags stand at %d of %d", big.at, bufferLen)
	}
	if least := device.MessageTransportSize + 1420 + device.PaddingMultiple; tags.at < least {
		t.Errorf("tags stand at %d: a packet reaches to %d", tags.at, least)
	}
}

// TestFlowCountsExactly plays a device that passes packets on, drops them with a trace and without, and reuses buffers
// in any order: when all is done, nothing is left inside and nothing had to be forgiven.
func TestFlowCountsExactly(t *testing.T) {
	f := newFlow(1420)
	random := rand.New(rand.NewPCG(1, 2))
	pool := make([][]byte, 600)
	for i := range pool {
		pool[i] = make([]byte, bufferLen)
	}
	var held [][]byte // in the device
	take := func() []byte {
		i := random.IntN(len(pool))
		b := pool[i]
		pool[i] = pool[len(pool)-1]
		pool = pool[:len(pool)-1]
		return b
	}
	for range 20000 {
		dir := outbound + direction(random.IntN(2))
		g := f.gate(dir)
		if n := 1 + random.IntN(4); len(pool) > n && random.IntN(2) == 0 {
			epoch := g.enter(n)
			for range n {
				b := take()
				uncounted := 1 - f.mark(b, 100, tag{dir: dir, epoch: epoch})
				g.leave(uncounted, epoch)
				held = append(held, b)
			}
			continue
		}
		if len(held) == 0 {
			continue
		}
		i := random.IntN(len(held))
		b := held[i]
		held[i] = held[len(held)-1]
		held = held[:len(held)-1]
		if random.IntN(2) == 0 { // it comes out; else it was dropped, and the mark stays on the buffer
			v, _ := f.tags.take(b)
			tl := tally{f: f}
			tl.add(v)
			tl.done()
		}
		pool = append(pool, b)
	}
	f.reclaim(pool)
	if f.out.inside+f.in.inside != len(held) {
		t.Errorf("%d and %d counted inside: %d are", f.out.inside, f.in.inside, len(held))
	}
	f.reclaim(held)
	if f.out.inside != 0 || f.in.inside != 0 || f.out.forgot+f.in.forgot != 0 {
		t.Errorf("in the end %d and %d are inside", f.out.inside, f.in.inside)
	}
}
