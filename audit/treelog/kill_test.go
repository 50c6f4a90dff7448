package treelog

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/tiles"
	"github.com/culvert-net/culvert/internal/randomly"
)

// appendEnv names the directory to which the test's own binary appends, until it is killed.
const appendEnv = "CULVERT_TEST_APPEND"

func TestMain(m *testing.M) {
	if dir := os.Getenv(appendEnv); dir != "" {
		if err := appendForEver(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// appendForEver appends events and tells each one that was acknowledged. It begins with the number in START.
func appendForEver(dir string) error {
	s, err := NewSigner(origin, logKey)
	if err != nil {
		return err
	}
	ctx := context.Background()
	l, err := Open(ctx, Config{Dir: dir, Signer: s, Interval: 100 * time.Millisecond, Tick: 100 * time.Millisecond})
	if err != nil {
		return err
	}
	start, err := strconv.ParseUint(os.Getenv("START"), 10, 64)
	if err != nil {
		return err
	}
	for seq := start; ; seq++ {
		e := leaf.Leaf{Type: leaf.TypeAudit, Event: &api.AuditEvent{Seq: seq, Action: "create-vpc"}}
		if _, err := l.Append(ctx, e); err != nil {
			return err
		}
		fmt.Println(seq)
	}
}

// Killed at whatever moment, a log has every leaf that was acknowledged, once and in order, and each checkpoint that was ever published is
// of the tree that it is in the end.
func TestKilledLogKeepsWhatItAcknowledged(t *testing.T) {
	dir, random := t.TempDir(), rand.New(rand.NewPCG(randomly.Seed(t), 0))
	acked := uint64(0)
	var published []*tiles.Signed
	for range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), appendEnv+"="+dir, fmt.Sprintf("START=%d", acked+1))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		kill := uint64(1 + random.IntN(40))
		for from := acked; lines.Scan(); {
			n, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				t.Fatalf("%q", lines.Text())
			}
			if acked = n; n == from+kill {
				_ = cmd.Process.Kill()
			}
		}
		if err := cmd.Wait(); err == nil || acked == 0 {
			t.Fatal("it ended by itself:", err)
		}
		data, err := os.ReadFile(filepath.Join(dir, tiles.Checkpoint))
		if err != nil {
			t.Fatal(err)
		}
		c, err := tiles.ParseSigned(data)
		if err != nil {
			t.Fatal(err)
		}
		published = append(published, c)
	}
	l := brisk(t, dir, nil)
	defer l.Close()
	var tree tiles.Range
	want, next := uint64(1), 0
	err := l.Leaves(t.Context(), 0, func(_ uint64, lf leaf.Leaf) error {
		for ; next < len(published) && published[next].Size == tree.Size; next++ {
			if published[next].Root != tree.Root() {
				t.Errorf("the checkpoint of %d leaves is of another tree", tree.Size)
			}
		}
		data, err := lf.Encode()
		tree.Append(tiles.LeafHash(data))
		if lf.Type != leaf.TypeAudit {
			return err
		}
		// What was appended and not acknowledged is appended again by the next process, and known.
		if lf.Event.Seq != want {
			t.Errorf("event %d comes where %d should", lf.Event.Seq, want)
		}
		want = lf.Event.Seq + 1
		return err
	})
	if err != nil || want <= acked || next != len(published) {
		t.Errorf("%d events of %d that were acknowledged, %d of %d checkpoints: %v", want-1, acked, next, len(published), err)
	}
}
