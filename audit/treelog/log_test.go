package treelog

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/tiles"
)

// brisk is a log whose times are short.
func brisk(t *testing.T, dir string, change func(*Config)) *Log {
	t.Helper()
	cfg := Config{Dir: dir, Signer: signer(t), Version: "1", Interval: 100 * time.Millisecond, Tick: 200 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// The log on a disk is the one in memory, file by file.
func TestLogIsTheOneInMemory(t *testing.T) {
	dir := t.TempDir()
	l := brisk(t, dir, func(c *Config) { c.Tick = time.Hour })
	const events = 600
	var work sync.WaitGroup
	for part := range uint64(3) {
		work.Go(func() {
			var all []leaf.Leaf
			for i := range uint64(events / 3) {
				all = append(all, event(part*events/3+i+1))
			}
			if _, err := l.AppendAll(t.Context(), all); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	size, err := l.Size(t.Context())
	if err != nil || size != events+1 {
		t.Fatal(size, err)
	}
	if at, err := l.Append(t.Context(), event(7)); err != nil || at >= size {
		t.Error("what is in the log is appended again:", at, err)
	}
	if _, err := l.Published(t.Context(), size-1); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	twin := NewMem(origin, nil, signer(t))
	err = l.Leaves(t.Context(), 0, func(_ uint64, lf leaf.Leaf) error {
		_, err := twin.Append(t.Context(), lf)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want, err := twin.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range want {
		have, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil || string(have) != string(data) {
			t.Errorf("%s is another file: %v", path, err)
		}
	}
	if want[tiles.TilePath(0, 1, tiles.Width)] == nil {
		t.Error("the tree is too small for a second tile")
	}
}

func TestLogGoesOn(t *testing.T) {
	dir := t.TempDir()
	for run := range uint64(3) {
		l := brisk(t, dir, nil)
		if run > 0 {
			before, err := l.Size(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if at, err := l.Append(t.Context(), event(run)); err != nil || at >= before {
				t.Error("after the restart what was appended before is appended again:", at, err)
			}
		}
		at, err := l.Append(t.Context(), event(run+1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Published(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		if s := l.Status(); s.Error != "" || s.Size != at+1 {
			t.Errorf("%+v", s)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		data, err := l.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		size, err := l.Size(t.Context())
		if c, errParse := tiles.ParseSigned(data); err != nil || errParse != nil || c.Size != size {
			t.Errorf("stopped with %d leaves and a checkpoint of %v: %v, %v", size, c, err, errParse)
		}
	}
	l := brisk(t, dir, nil)
	defer l.Close()
	if events, others := read(t, l); fmt.Sprint(events) != "[1 2 3]" || others < 7 {
		t.Error(events, others)
	}
}

// A log that nobody appends to shows that it lives, and keeps each checkpoint in the tree.
func TestTicks(t *testing.T) {
	l := brisk(t, t.TempDir(), nil)
	defer l.Close()
	deadline := time.After(20 * time.Second)
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		var sizes []uint64
		err := l.Leaves(t.Context(), 0, func(i uint64, lf leaf.Leaf) error {
			if lf.Type != leaf.TypeTick {
				return nil
			}
			if lf.Tick.Number != uint64(len(sizes)+1) {
				t.Errorf("tick %d is number %d", len(sizes)+1, lf.Tick.Number)
			}
			c, err := tiles.ParseSigned([]byte(lf.Tick.Checkpoint))
			if err != nil || c.Size > i {
				t.Errorf("leaf %d keeps %+v: %v", i, c, err)
			}
			sizes = append(sizes, c.Size)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(sizes); n >= 3 && sizes[n-1] > sizes[0] {
			return
		}
		select {
		case <-deadline:
			t.Fatal("too few ticks:", sizes)
		case <-poll.C:
		}
	}
}

func TestWhatDoesNotOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]Config{
		"no directory": {Signer: signer(t)},
		"no signer":    {Dir: t.TempDir()},
		"a file":       {Dir: file, Signer: signer(t)},
		"witness":      {Dir: t.TempDir(), Signer: signer(t), Witnesses: []Witness{{URL: "http://127.0.0.1:1", Key: "none"}}},
		"address":      {Dir: t.TempDir(), Signer: signer(t), Witnesses: []Witness{{URL: "127.0.0.1:1"}}},
	} {
		if l, err := Open(t.Context(), cfg); err == nil {
			t.Errorf("%s: opens", name)
			l.Close()
		}
	}
	damaged := t.TempDir()
	if err := brisk(t, damaged, nil).Close(); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(filepath.Join(damaged, "tile", "entries"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.WriteFile(path, []byte{0, 9, 'x'}, 0o600)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if l, err := Open(t.Context(), Config{Dir: damaged, Signer: signer(t)}); err == nil {
		t.Error("opens though its entries are damaged")
		l.Close()
	}
}

func TestClockSteps(t *testing.T) {
	base := time.Now()
	now := base
	s := stepper{now: func() time.Time { return now }, last: base}
	now = base.Add(time.Minute)
	s.look()
	if s.sum != 0 {
		t.Error("a minute is no step:", s.sum)
	}
	// A time without the monotonic reading would say nothing: what was set is the wall clock beside it.
	if got := (stepper{now: time.Now, last: time.Now()}); got.sum != 0 {
		t.Error(got.sum)
	}
}

func BenchmarkAppend(b *testing.B) {
	s, err := NewSigner(origin, logKey)
	if err != nil {
		b.Fatal(err)
	}
	l, err := Open(b.Context(), Config{Dir: b.TempDir(), Signer: s})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	var all []leaf.Leaf
	for i := range batchSize {
		all = append(all, leaf.Leaf{Type: leaf.TypeAudit, Event: &api.AuditEvent{Seq: uint64(i), Action: "create-vpc", Actor: "key-1"}})
	}
	seq := uint64(0)
	for b.Loop() {
		for i := range all {
			seq++
			all[i].Event.Seq = seq
		}
		if _, err := l.AppendAll(b.Context(), all); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(seq)/b.Elapsed().Seconds(), "leaves/s")
}
