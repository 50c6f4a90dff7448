package controlplane

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
)

// looked is a store that counts how often somebody looks how full it is.
type looked struct {
	*store.Mem
	looks atomic.Int64
}

func (s *looked) Fill(ctx context.Context) (float64, error) {
	s.looks.Add(1)
	return s.Mem.Fill(ctx)
}

// A store that is nearly full is made smaller, not again and again, and accounts go on when that helped.
func TestRoomIsMadeInAStoreThatIsNearlyFull(t *testing.T) {
	mem := &looked{Mem: store.NewMem()}
	var later atomic.Int64
	l := startLab(t, func(c *Config) {
		c.Store, c.Tick, c.Now = mem, 10*time.Millisecond, func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	})
	shop := l.as("shop")
	create := func() error {
		_, err := shop.CreateVPC(l.ctx(), api.CreateVPCRequest{CIDR: prefix("10.0.0.0/16")})
		return err
	}
	filled := func(want int64) func() bool {
		return func() bool { return mem.Filled.Load() == want && l.s.tight.Load() == (want >= 80) }
	}
	mem.Freed.Store(30)
	mem.Filled.Store(90)
	l.eventually("room to be made", filled(60))
	if err := create(); err != nil {
		t.Error(err)
	}
	mem.Filled.Store(95)
	l.eventually("the server to notice", filled(95))
	wantCode(t, create(), api.CodeLimitExceeded)
	later.Store(int64(makeRoomEvery) - int64(time.Minute))
	seen := mem.looks.Load()
	l.eventually("two more ticks", func() bool { return mem.looks.Load() >= seen+3 })
	if !filled(95)() {
		t.Errorf("filled %d, too soon", mem.Filled.Load())
	}
	later.Store(int64(makeRoomEvery))
	l.eventually("room to be made again", filled(65))
	if err := create(); err != nil {
		t.Error(err)
	}
}
