package flow

import (
	"bytes"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
)

// However much is gone, each seal fits into a leaf: the seals after it declare the rest, once, also after a crash in between.
func TestManyHolesAreDeclaredByManySeals(t *testing.T) {
	const gone = 5*maxHoles + 7
	var gaps []seal.Gap
	for i := range uint64(gone) {
		n := 2*i + 1 // every other: none can be joined
		gaps = append(gaps, seal.Gap{Cause: seal.CauseTrimmed, Boot: "boot-0", FirstSeal: n, LastSeal: n, FirstSequence: n, LastSequence: n},
			seal.Gap{Cause: seal.CauseTrimmed, Boot: "boot-0", Hook: seal.Out, Reason: "FORWARDED", FirstSeal: n, LastSeal: n, Packets: 2})
	}
	cfg := LogConfig{Store: NewMemStore(), Boot: "boot-1", Node: node, Key: sealKey, Shipping: true}
	l, _ := openLog(t, cfg)
	if err := l.note(&state{Boot: "boot-1", Segment: 1}, func(func(api.FlowRecord) bool) {}, 0, gaps); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if i == 3 {
			cfg.Store = cfg.Store.(*MemStore).Crash(0)
			l, _ = openLog(t, cfg)
		}
		if err := l.Write(Batch{Seal: &seal.Seal{End: epoch.Add(time.Duration(i) * time.Second)}}); err != nil {
			t.Fatal(err)
		}
	}
	declared, packets := map[uint64]int{}, uint64(0)
	for _, line := range linesOf(t, cfg.Store) {
		s, _, err := seal.Parse(bytes.TrimSpace(line.Raw))
		if err != nil {
			t.Fatal(err)
		}
		if n := holes(s.Declared); n > maxHoles {
			t.Errorf("seal %d names %d holes", s.Number, n)
		}
		of := *s
		of.Declared = nil
		for _, g := range s.Declared {
			if isHole(&g) {
				of.Declared = append(of.Declared, g)
				declared[g.FirstSeal]++
			}
			packets += g.Packets
		}
		made := leaf.OfSeal(epoch, &of, line.Raw)
		if _, err := made.Encode(); err != nil {
			t.Errorf("seal %d: %v", s.Number, err)
		}
	}
	if len(declared) != gone || packets != 2*gone {
		t.Errorf("%d of %d holes were declared, with %d packets", len(declared), gone, packets)
	}
	for n, times := range declared {
		if times != 1 {
			t.Errorf("hole %d was declared %d times", n, times)
		}
	}
}

// A segment of the disk that stays, since its removal could not be noted, is not declared as gone; once it is, it is declared once.
func TestOnlyWhatWasTrimmedIsDeclared(t *testing.T) {
	store := NewMemStore()
	l, _ := openLog(t, LogConfig{Store: store, Boot: "boot-1", Node: node, Key: sealKey, Shipping: true})
	end := func() *seal.Seal { return &seal.Seal{End: epoch} }
	if err := l.Write(Batch{Records: []api.FlowRecord{counted(3)}, Seal: end()}); err != nil {
		t.Fatal(err)
	}
	if err := l.Rotate(nil); err != nil {
		t.Fatal(err)
	}
	l.cfg.MaxBytes = 1
	for range 3 {
		store.Limit(0)
		if err := l.trim(&state{Boot: "boot-1", Segment: 2, Sequence: 1}, func(func(api.FlowRecord) bool) {}); err == nil {
			t.Fatal("a full disk took what was noted")
		}
		store.Limit(-1)
	}
	if err := l.Write(Batch{Records: []api.FlowRecord{counted(4)}, Seal: end()}); err != nil {
		t.Fatal(err)
	}
	lines := linesOf(t, store)
	if s, _, err := seal.Parse(lines[len(lines)-1].Raw); err != nil || len(s.Declared) > 0 {
		t.Errorf("what is here is declared as gone: %+v, %v", s, err)
	}
	if err := l.Rotate(nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(Batch{Seal: end()}); err != nil {
		t.Fatal(err)
	}
	p := proven(t, linesOf(t, store))
	if got := sumOf(p.declared, seal.CauseTrimmed); got.Packets != 7 {
		t.Errorf("declared %+v, want the 7 packets of both segments", p.declared)
	}
}
