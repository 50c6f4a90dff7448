package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/culvert-net/culvert/api"
)

func vpcsOf(t *testing.T, r *api.Resources) string {
	t.Helper()
	b, err := json.Marshal(r.VPCs)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestAt: the picture of every revision can be had again, also of one that changed no resource; not of one that is no more or not yet.
func TestAt(t *testing.T) {
	both(t, func(t *testing.T, s Store, reopen func() Store) {
		ctx := context.Background()
		txn := func(f func(*Tx)) int64 {
			t.Helper()
			rev, err := s.Txn(ctx, func(tx *Tx) error { f(tx); return nil })
			if err != nil {
				t.Fatal(err)
			}
			return rev
		}
		pictures := map[int64]string{}
		vpc := func(i int) *api.VPC {
			return &api.VPC{Meta: api.Meta{ID: fmt.Sprintf("vpc-%d", i%7)}, Number: uint32(i)}
		}
		for i := range 60 {
			rev := txn(func(tx *Tx) {
				if i%3 == 2 {
					tx.Remove(vpc(i / 2))
				} else {
					tx.Put(vpc(i))
				}
			})
			pictures[rev] = vpcsOf(t, s.Snapshot())
		}
		side := txn(func(tx *Tx) { tx.SetSide("x", []byte("y")) })
		pictures[side] = vpcsOf(t, s.Snapshot())
		for rev, want := range pictures {
			r, err := s.At(rev)
			if err != nil || vpcsOf(t, r) != want || r.Revision > rev {
				t.Errorf("at %d: %v\n%s\nwant\n%s", rev, err, vpcsOf(t, r), want)
			}
		}
		if _, err := s.At(side + 100); !errors.Is(err, ErrRevisionGone) {
			t.Errorf("a revision that is not yet: %v", err)
		}
		s = reopen()
		if r, err := s.At(side); err != nil || vpcsOf(t, r) != pictures[side] {
			t.Errorf("the newest revision after a restart: %v", err)
		}
	})
}

// TestHistoryIsBounded: in changes and in bytes; what is forgotten is refused, what is kept is right.
func TestHistoryIsBounded(t *testing.T) {
	for name, size := range map[string]int{"changes": 0, "bytes": maxHistoryBytes / 100} {
		var s state
		s.init()
		many := maxHistory + 100
		if size > 0 {
			many = 150
		}
		for i := range many {
			value := fmt.Sprintf(`{"id":"vpc-a","number":%d,"name":"%s"}`, i, strings.Repeat("x", size))
			if err := s.apply(int64(i+1), []write{{"r/vpcs/vpc-a", []byte(value)}}); err != nil {
				t.Fatal(err)
			}
		}
		h, entries := &s.history, 0
		for e := h.first; e != nil; e = e.next.Load() {
			entries++
		}
		if h.changes > maxHistory || h.bytes > maxHistoryBytes || entries != h.changes || h.floor <= 0 {
			t.Errorf("%s: %d changes in %d entries, %d bytes, floor %d", name, h.changes, entries, h.bytes, h.floor)
		}
		if _, err := s.At(h.floor - 1); !errors.Is(err, ErrRevisionGone) {
			t.Errorf("%s: below the floor: %v", name, err)
		}
		r, err := s.At(h.floor)
		if err != nil || r.Revision != h.floor || r.VPCs["vpc-a"].Number != uint32(h.floor-1) {
			t.Errorf("%s: at the floor %d: %+v, %v", name, h.floor, r, err)
		}
	}
}

// TestAtWhileWriting: a picture is made without the lock that commits need; it is right whatever is written and forgotten meanwhile.
func TestAtWhileWriting(t *testing.T) {
	var s state
	s.init()
	value := strings.Repeat("x", maxHistoryBytes/40) // so that some forty revisions are remembered
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for pictures := 0; ; {
				select {
				case <-stop:
					if pictures == 0 {
						t.Error("no picture was had")
					}
					return
				default:
				}
				s.mu.Lock()
				at := (s.history.floor + s.observed + 1) / 2
				s.mu.Unlock()
				r, err := s.At(at)
				switch {
				case errors.Is(err, ErrRevisionGone):
				case err != nil || r.Revision != at || at > 0 && r.VPCs["vpc-a"].Number != uint32(at):
					t.Errorf("at %d: %+v, %v", at, r, err)
					return
				default:
					pictures++
				}
			}
		})
	}
	for i := 1; i <= 100; i++ {
		data := fmt.Appendf(nil, `{"id":"vpc-a","number":%d,"name":%q}`, i, value)
		if err := s.apply(int64(i), []write{{"r/vpcs/vpc-a", data}}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}
