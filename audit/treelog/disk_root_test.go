package treelog

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/internal/fulldisk"
)

// A full disk is an error to who appends. With room again the log goes on, has all that was acknowledged, and opens.
func TestLogOnAFullDisk(t *testing.T) {
	disk := fulldisk.New(t, 4096)
	dir := filepath.Join(disk.Dir, "log")
	l := brisk(t, dir, nil)
	if _, err := l.Append(t.Context(), event(1)); err != nil {
		t.Fatal(err)
	}
	disk.Fill()
	_, err := l.Append(t.Context(), event(2))
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("on a full disk: %v", err)
	}
	if s := l.Status(); !strings.Contains(s.Error, "no space left") {
		t.Errorf("%+v", s)
	}
	disk.Free()
	for _, seq := range []uint64{2, 3} {
		if _, err := l.Append(t.Context(), event(seq)); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.Status(); s.Error != "" {
		t.Errorf("%+v", s)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// It opens on a full disk, is read there, and says that it has begun with what it takes first.
	disk.Fill()
	l = brisk(t, dir, nil)
	if events, _ := read(t, l); len(events) != 3 {
		t.Error(events)
	}
	if _, err := l.Append(t.Context(), event(4)); err == nil {
		t.Error("a full disk takes a leaf")
	}
	disk.Free()
	at, err := l.Append(t.Context(), event(4))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Leaves(t.Context(), at-1, func(i uint64, lf leaf.Leaf) error {
		if i == at-1 && (lf.Type != leaf.TypeStart || lf.Server.ID != l.run) {
			t.Errorf("before the first leaf of a run stands %+v", lf)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = brisk(t, dir, nil)
	defer l.Close()
	if events, _ := read(t, l); len(events) != 4 || events[3] != 4 {
		t.Error(events)
	}
}

// TestATickSaysWhyItIsLate: after a full disk the first tick says since when none could be written, and the next nothing any more.
func TestATickSaysWhyItIsLate(t *testing.T) {
	disk := fulldisk.New(t, 4096)
	l := brisk(t, filepath.Join(disk.Dir, "log"), func(c *Config) { c.Tick = time.Hour })
	defer l.Close()
	at, err := l.Append(t.Context(), event(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Published(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	tick := ticker{log: l, steps: stepper{now: time.Now, last: time.Now()}, number: 1}
	disk.Fill()
	tick.tick(t.Context())
	since := tick.since
	tick.tick(t.Context())
	if since.IsZero() || !tick.since.Equal(since) || tick.number != 1 {
		t.Fatalf("%+v", tick)
	}
	disk.Free()
	tick.tick(t.Context())
	tick.tick(t.Context())
	var reasons []string
	if err := l.Leaves(t.Context(), at, func(_ uint64, lf leaf.Leaf) error {
		if lf.Tick != nil {
			reasons = append(reasons, lf.Tick.Reason)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(reasons) != 2 || !strings.Contains(reasons[0], "from "+since.UTC().Format(time.RFC3339)) || !strings.Contains(reasons[0], "no space left") ||
		reasons[1] != "" {
		t.Errorf("%q", reasons)
	}
}
