package flow

import (
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/culvert-net/culvert/api"
)

// heap is what is in use, in bytes.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// countingStore counts what state.json takes and keeps none of it.
type countingStore struct {
	*MemStore
	state int64
}

type counter struct{ n *int64 }

func (c counter) Write(b []byte) (int, error) { *c.n += int64(len(b)); return len(b), nil }

func (s *countingStore) Replace(name string, write func(io.Writer) error) error {
	if name != stateName {
		return s.MemStore.Replace(name, write)
	}
	s.state = 0
	return write(counter{&s.state})
}

// A full table, most of which has ended, costs little to know, and nothing of its size to read again, to record, or to keep.
func TestMemoryOfAFullTable(t *testing.T) {
	const all, ended, bound = 262_144, 250_000, 5
	a := newAggregator(nil)
	store := &countingStore{MemStore: NewMemStore()}
	l, _ := openLog(t, LogConfig{Store: store})
	base := heap()
	read := func(now float64) (records int) {
		p := a.Begin(Input{})
		for id := range uint64(all) {
			f := with(consumerFlow(id+1, 1), 7, 5, 2)
			f.Closed = id < ended
			p.Observe(&f)
		}
		p.End(Input{Now: at(now), Complete: true, Full: true})
		for more := true; more; {
			var made []api.FlowRecord
			if made, more = p.Next(maxChunk); len(made) > maxChunk {
				t.Fatalf("%d records at once", len(made))
			}
			records += len(made)
		}
		return records
	}
	if n := read(10); n != all {
		t.Fatalf("%d records, want %d", n, all)
	}
	known := heap() - base
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if n := read(20); n != 0 {
		t.Fatalf("%d records of what did not move", n)
	}
	runtime.ReadMemStats(&after)
	again := after.TotalAlloc - before.TotalAlloc
	if err := l.rotate(a.recorded(noLock{}), nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("known: %d KiB; read again: %d KiB allocated; kept: %d KiB on the disk", known>>10, again>>10, store.state>>10)
	for what, m := range map[string]struct{ got, measured uint64 }{
		"known": {known, 31 << 20}, "read again": {again, 1 << 20}, "kept": {uint64(store.state), 42 << 20},
	} {
		if m.got > bound*m.measured {
			t.Errorf("%s: %d bytes, %d times what was measured", what, m.got, m.got/m.measured)
		}
	}
	runtime.KeepAlive(a)
}

type noLock struct{}

func (noLock) Lock()   {}
func (noLock) Unlock() {}

// What an agent of before wrote in one line is read, and what was not written whole is not.
func TestStateOfAnotherBuild(t *testing.T) {
	s := NewMemStore()
	put := func(text string) {
		if err := s.Put(stateName, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	const flow = `{"flowId":"0000000000000001","state":"active","packets":3,"boot":"boot-1"}`
	for _, c := range []struct {
		text  string
		flows int
		lost  uint64
	}{
		{`{"boot":"boot-1","sequence":4,"segment":2,"flows":[` + flow + `]}`, 1, 0},
		{`{"boot":"boot-1","sequence":4,"segment":2}` + "\n" + flow + "\n" + `{"end":1}` + "\n", 1, 0},
		{`{"boot":"boot-1","sequence":4,"segment":2}` + "\n" + flow + "\n" + `{"end":2}` + "\n", 0, 1},
		{`{"boot":"boot-1","sequence":4,"segment":2}` + "\n" + flow + "\n", 0, 1},
		{`{"boot":"boot-1","sequence":4,"segment":2}` + "\n" + flow[:20] + "\n" + `{"end":1}` + "\n", 0, 1},
	} {
		put(c.text)
		_, r := openLog(t, LogConfig{Store: s.Crash(0)})
		if got := r.Baselines(); len(got) != c.flows || r.Lost != c.lost || c.flows == 1 && (got[0].Packets != 3 || r.Sequence != 4) {
			t.Errorf("%s: %s, lost %d, sequence %d", c.text, fmt.Sprint(got), r.Lost, r.Sequence)
		}
	}
}
