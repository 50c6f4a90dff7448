package flowlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/fulldisk"
)

// batchOf are so many records of one node, of two days.
func batchOf(from uint64, n int) []api.FlowEnvelope {
	var out []api.FlowEnvelope
	for i := range n {
		out = append(out, record("a", from+uint64(i), noon.Add(time.Duration(i%2)*24*time.Hour), "1"))
	}
	return out
}

func numbers(from uint64, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("a%d", from+uint64(i)))
	}
	return out
}

// Where the disk ends in the middle of a batch, what was acknowledged stays, what was refused is not there, and what is sent again
// when there is room is stored once and whole, with a restart in between or without.
func TestDiskFullInTheMiddleOfABatch(t *testing.T) {
	for _, restart := range []bool{false, true} {
		disk := fulldisk.New(t, 64)
		dir, fill, free := disk.Dir, disk.Fill, disk.Free
		l := open(t, dir)
		appendAll(t, l, 4, batchOf(1, 4)...)
		fill() // what is left is the rest of each file's last page
		acknowledged, refused := 4, false
		for !refused {
			n, err := l.Append(batchOf(uint64(acknowledged+1), 7))
			if refused = errors.Is(err, unix.ENOSPC); !refused && (err != nil || n != 7) {
				t.Fatalf("Append = %d, %v", n, err)
			}
			if !refused {
				acknowledged += 7
			}
			if acknowledged > 1000 {
				t.Fatal("the disk never was full")
			}
		}
		for range 3 {
			if _, err := l.Append(batchOf(uint64(acknowledged+1), 7)); !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("still full: %v", err)
			}
		}
		if restart {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = open(t, dir)
		}
		for _, day := range []string{"2026-03-04", "2026-03-05"} {
			text, err := os.ReadFile(filepath.Join(dir, day+suffix))
			if err != nil || !strings.HasSuffix(string(text), "\n") {
				t.Errorf("%s ends in half a record: %v", day, err)
			}
		}
		free()
		if _, err := l.Append(batchOf(uint64(acknowledged+1), 7)); err != nil {
			t.Fatal(err)
		}
		appendAll(t, l, 0, batchOf(1, acknowledged+7)...)
		got := query(t, l, "1", api.FlowQuery{})
		slices.SortFunc(got, func(a, b string) int {
			if len(a) != len(b) {
				return len(a) - len(b)
			}
			return strings.Compare(a, b)
		})
		if want := numbers(1, acknowledged+7); !slices.Equal(got, want) {
			t.Errorf("restart %t: got %q, want %q", restart, got, want)
		}
	}
}

// As long as half a record cannot be taken back nothing is written behind it.
func TestWhatCannotBeTakenBackIsWaitedFor(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	appendAll(t, l, 1, record("a", 1, noon, "1"))
	f := l.files["2026-03-04"]
	good := f.File
	if _, err := good.WriteString(`{"node":"a","boot":"b","seq":2`); err != nil {
		t.Fatal(err)
	}
	broken, err := os.Open(good.Name()) // neither writes nor cuts
	if err != nil {
		t.Fatal(err)
	}
	defer broken.Close()
	f.File = broken
	for range 2 {
		if n, err := l.Append([]api.FlowEnvelope{record("a", 2, noon, "1")}); err == nil || n != 0 || !f.torn {
			t.Fatalf("Append = %d, %v; torn %t", n, err, f.torn)
		}
	}
	f.File = good
	appendAll(t, l, 1, record("a", 2, noon, "1"))
	if got := query(t, l, "1", api.FlowQuery{}); !slices.Equal(got, numbers(1, 2)) {
		t.Errorf("got %q", got)
	}
}
