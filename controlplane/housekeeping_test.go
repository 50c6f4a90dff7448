package controlplane

import (
	"context"
	"errors"
	"strings"
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

// narrow is a store that takes no more keys in one transaction than etcd does, as far as endpoints go: three each, with an audit event.
type narrow struct{ *store.Mem }

func (s narrow) Txn(ctx context.Context, f func(*store.Tx) error) (int64, error) {
	return s.Mem.Txn(ctx, func(tx *store.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		keys, before := 0, s.Snapshot().Endpoints
		for id, e := range tx.Resources().Endpoints {
			if before[id] != e {
				keys += 3
			}
		}
		if keys > 8192 {
			return errors.New("too many operations in txn request")
		}
		return nil
	})
}

// An upgrade after which every endpoint of a large mesh has other names is carried out bit by bit, and holds nothing else up.
func TestNamesOfManyEndpointsOfBefore(t *testing.T) {
	mem := store.NewMem()
	l := mesh(t, func(c *Config) { c.Store = narrow{mem} })
	made := must(l.as("shop").CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	for range 3 {
		l.txn(func(tx *store.Tx) {
			for range 1000 {
				e := *made
				e.ID, e.Name, e.DNSNames = newID("vpce-"), "", made.DNSNames[:1]
				tx.Put(&e)
			}
		})
	}
	token := &api.JoinToken{Meta: api.Meta{ID: newID("token-")}, ExpiresAt: time.Now().Add(-2 * tokenMemory)}
	l.txn(func(tx *store.Tx) { tx.Put(token) })
	left := func() (n int) {
		for _, e := range l.s.Resources().Endpoints {
			if len(e.DNSNames) != len(made.DNSNames) || !strings.HasPrefix(e.DNSNames[0], e.ID) {
				n++
			}
		}
		return n
	}
	for last := left(); last > 0; {
		if err := l.s.expire(l.ctx()); err != nil {
			t.Fatal(err)
		}
		now := left()
		if now >= last || last-now > atOnce {
			t.Fatalf("%d endpoints have names of before, then %d", last, now)
		}
		last = now
	}
	if l.s.Resources().JoinTokens[token.ID] != nil {
		t.Error("other housekeeping was not done")
	}
}

// What one piece of housekeeping cannot do keeps no other from being done.
func TestHousekeepingFailsAlone(t *testing.T) {
	l := mesh(t, nil)
	made := must(l.as("shop").CreateEndpoint(l.ctx(), api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"}))(t)
	token := &api.JoinToken{Meta: api.Meta{ID: newID("token-")}, ExpiresAt: time.Now().Add(-2 * tokenMemory)}
	l.txn(func(tx *store.Tx) {
		e := *made
		e.DNSNames, e.IPAddressType = nil, "bad" // its names cannot be completed: nothing that is wrong is written
		tx.Put(&e)
		tx.Put(token)
	})
	if err := l.s.expire(l.ctx()); err == nil {
		t.Error("the endpoint was completed")
	}
	if l.s.Resources().JoinTokens[token.ID] != nil {
		t.Error("the token is still there")
	}
}
