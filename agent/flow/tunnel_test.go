package flow

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/audit/seal"
)

// fakeTunnel has one peer.
type fakeTunnel struct {
	mu      sync.Mutex
	row     seal.Passage
	settled seal.Passage
	fail    error
}

func (f *fakeTunnel) give(packets uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.row.Peer, f.row.Epoch = "node-b", "e"
	f.row.Given += packets
}

func (f *fakeTunnel) broken(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func (f *fakeTunnel) Passages() ([]seal.Passage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil || f.row == f.settled {
		return nil, f.fail
	}
	return []seal.Passage{f.row}, nil
}

func (f *fakeTunnel) Settled(rows []seal.Passage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, row := range rows {
		f.settled = row
	}
}

// What passed through the tunnel is in full seals, each time that it is more, also when the disk did not take one in between, and the
// tunnel could not be asked.
func TestSealsTellWhatPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tunnel := &fakeTunnel{}
		r := start(t, NewMem(), NewMemStore(), func(c *Config) { sealed(c); c.Tunnel = tunnel })
		pass(time.Minute)
		traffic := func(given uint64) {
			tunnel.give(given)
			r.carry(1, r.next(), 0)
			pass(time.Minute + 10*time.Second)
		}
		traffic(5)
		r.store.Limit(100)
		traffic(2)
		r.store.Limit(-1)
		pass(time.Minute)
		tunnel.broken(errors.New("not there"))
		traffic(1)
		tunnel.broken(nil)
		traffic(1)
		r.stop()
		var given []uint64
		for _, s := range proven(t, linesOf(t, r.store)).seals {
			for _, row := range s.Tunnel {
				given = append(given, row.Given)
				if !s.Full || row.Peer != "node-b" {
					t.Errorf("seal %d, full %t: %+v", s.Number, s.Full, row)
				}
			}
		}
		if len(given) != 3 || given[0] != 5 || given[1] != 7 || given[2] != 9 {
			t.Errorf("seals say that %v were given: want 5, 7 and 9, once each", given)
		}
	})
}
