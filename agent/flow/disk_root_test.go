package flow

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-net/culvert/internal/fulldisk"
)

// A disk that is full holds up nothing: counters are read in every interval, what waits is bounded, and what its detail cost is
// declared in the figures and in records. With room the records say all that was counted, also after a restart that found the disk
// full, and the collector's files hold whole records only.
func TestCollectorOnAFullDisk(t *testing.T) {
	disk := fulldisk.New(t, 64)
	dir, fill, free := disk.Dir, disk.Fill, disk.Free
	synctest.Test(t, func(t *testing.T) {
		src, store := NewMem(), Dir(filepath.Join(dir, "flows"))
		change := func(c *Config) { c.Interval, c.MaxPending, c.Log.Store = time.Second, 5, store }
		r := start(t, src, NewMemStore(), change)
		r.count(1, 1, 1)
		pass(3 * time.Second)
		if s := r.Stats(); s.Sequence != 1 || s.Queued != 0 || s.Lost != 0 {
			t.Fatalf("%+v", s)
		}
		fill()
		var want Counts
		traffic := func(r *rig, from uint64) {
			for i := range uint64(20) {
				want = Counts{}
				for id := range uint64(20) {
					want = want.add(r.count(id+1, from+10*i+id+1, from+i+1).Counts)
				}
				pass(time.Second)
			}
		}
		traffic(r, 1)
		s := r.Stats()
		if s.Queued == 0 || s.Queued > 5 || s.Flows != 20 || s.Lost == 0 {
			t.Errorf("while it is full: %+v", s)
		}
		free()
		pass(3 * time.Second)
		got := everything(t, store)
		if sum(got) != want {
			t.Errorf("records say %+v, counters %+v", sum(got), want)
		}
		if r.Stats().Queued != 0 || declared(got) != r.Stats().Lost || declared(got) < s.Lost {
			t.Errorf("records declare %d lost, then it was %d: %+v", declared(got), s.Lost, r.Stats())
		}
		fill()
		traffic(r, 1000)
		r.stop()

		again := start(t, src, NewMemStore(), change)
		traffic(again, 2000)
		if again.Stats().Queued == 0 {
			t.Errorf("the disk was not full: %+v", again.Stats())
		}
		free()
		pass(3 * time.Second)
		again.stop()
		if got := everything(t, store); sum(got) != want {
			t.Errorf("after a restart records say %+v, counters %+v", sum(got), want)
		}
	})
}
