package evidence

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-net/culvert/audit/leaf"
	"github.com/culvert-net/culvert/audit/seal"
)

// Where a child process dies: its directory, the step's name, and at which passing.
const crashEnv = "CULVERT_EVIDENCE_CRASH"

// fileLog is a Merkle log as far as this package needs one, that outlives its process.
type fileLog struct {
	f    *os.File
	have map[string]uint64
}

func openFileLog(path string) (*fileLog, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	l := &fileLog{f: f, have: map[string]uint64{}}
	for in := bufio.NewScanner(f); in.Scan(); {
		x, err := leaf.Decode(in.Bytes())
		if err != nil {
			return nil, err
		}
		l.have[x.Key()] = uint64(len(l.have))
	}
	return l, nil
}

func (l *fileLog) AppendAll(_ context.Context, leaves []leaf.Leaf) (first uint64, err error) {
	for i, x := range leaves {
		at, ok := l.have[x.Key()]
		if !ok {
			data, err := x.Encode()
			if err != nil {
				return 0, err
			}
			if _, err := l.f.Write(append(data, '\n')); err != nil {
				return 0, err
			}
			at = uint64(len(l.have))
			l.have[x.Key()] = at
		}
		if i == 0 {
			first = at
		}
	}
	return first, nil
}

// story is what the child takes, batch by batch: the same in each run.
func story(t testing.TB) (batches [][]Line, want map[string]string) {
	a := newAuthor(1)
	var lines []Line
	want = map[string]string{}
	for i := range 12 {
		if i == 7 {
			a.reboot("boot-0")
		}
		if i == 4 || i == 9 {
			a.at = a.at.Add(50 * time.Minute)
		}
		s := a.segment(t, i%4)
		lines = append(lines, s...)
		want[testNode+"/"+hourFile(a.boot, a.at)] += text(s...)
	}
	for chunk := range slices.Chunk(lines, 3) {
		batches = append(batches, chunk)
	}
	return batches, want
}

// TestMain is the child where it is told so.
func TestMain(m *testing.M) {
	spec := os.Getenv(crashEnv)
	if spec == "" {
		os.Exit(m.Run())
	}
	if err := child(spec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child takes the story from where it was acknowledged, and dies where it is told to. Each passing of a step is a byte in DIR/STEP.
func child(spec string) error {
	parts := strings.SplitN(spec, ",", 3)
	dir, where := parts[0], parts[1]
	at, err := strconv.Atoi(parts[2])
	if err != nil {
		return err
	}
	now := noon
	passed := map[string]int{}
	step := func(name string) {
		if passed[name]++; name == where && passed[name] == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		_ = os.WriteFile(filepath.Join(dir, "passed-"+name), []byte(strconv.Itoa(passed[name])), 0o600)
	}
	log, err := openFileLog(filepath.Join(dir, "leaves"))
	if err != nil {
		return err
	}
	pub := newAuthor(1).key.Public().(ed25519.PublicKey)
	found := 0
	s, err := Open(context.Background(), Config{Dir: filepath.Join(dir, "evidence"), Work: filepath.Join(dir, "sealing"), Log: log,
		Key: func(_, key string) ed25519.PublicKey {
			if key == seal.KeyID(pub) {
				return pub
			}
			return nil
		}, Found: func(Finding) { found++ }, Now: func() time.Time { return now }, step: step})
	if err != nil {
		return err
	}
	acked := filepath.Join(dir, "acked")
	from := 0
	if data, err := os.ReadFile(acked); err == nil {
		from, _ = strconv.Atoi(string(data))
	}
	batches, _ := story(crashT{})
	for i := from; i < len(batches); i++ {
		if _, err := s.Take(context.Background(), testNode, batches[i]); err != nil {
			return err
		}
		if err := replaceFile(acked, strconv.AppendInt(nil, int64(i)+1, 10)); err != nil {
			return err
		}
		now = now.Add(20 * time.Minute)
		if err := s.Pack(); err != nil {
			return err
		}
	}
	if found > 0 {
		return fmt.Errorf("%d findings", found)
	}
	return s.Close()
}

// crashT is for helpers that want a test, in a process that is none.
type crashT struct{ testing.TB }

func (crashT) Helper() {}

func (crashT) Fatal(v ...any) { panic(fmt.Sprint(v...)) }

// TestKilledAnywhere kills a process between any two writes. What it had acknowledged is there, once it was sent again what was not all is,
// and each seal has one leaf, before its segment.
func TestKilledAnywhere(t *testing.T) {
	run := func(dir, where string, at int) error {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%s,%d", crashEnv, dir, where, at))
		out, err := cmd.CombinedOutput()
		if len(out) > 0 {
			return errors.Join(err, errors.New(string(out)))
		}
		return err
	}
	dir := quickDir(t)
	if err := run(dir, "", 0); err != nil {
		t.Fatal(err)
	}
	_, want := story(t)
	check := func(dir, when string) {
		t.Helper()
		if got := segmentFiles(t, filepath.Join(dir, "evidence")); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: kept\n%v\nwant\n%v", when, got, want)
		}
		leaves, err := os.ReadFile(filepath.Join(dir, "leaves"))
		if err != nil || bytes.Count(leaves, []byte{'\n'}) != 12 {
			t.Errorf("%s: %d leaves, %v", when, bytes.Count(leaves, []byte{'\n'}), err)
		}
	}
	check(dir, "undisturbed")
	kills := 0
	for _, step := range []string{"spooled", "told", "written", "noted", "emptied", "packed", "unpacked"} {
		data, err := os.ReadFile(filepath.Join(dir, "passed-"+step))
		if err != nil {
			t.Fatalf("the step %s is never passed: %v", step, err)
		}
		n, err := strconv.Atoi(string(data))
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range slices.Compact([]int{1, min(2, n), (n + 1) / 2, n}) {
			here := quickDir(t)
			if err := run(here, step, at); err == nil {
				t.Fatalf("%s %d: not killed", step, at)
			}
			kills++
			mid := segmentFiles(t, filepath.Join(here, "evidence"))
			leaves, err := os.ReadFile(filepath.Join(here, "leaves"))
			if err != nil && step != "spooled" {
				t.Fatal(err)
			}
			for name, content := range mid { // a segment has its leaf
				for line := range strings.Lines(content) {
					if _, sealed, _ := seal.Parse([]byte(line)); sealed && !bytes.Contains(leaves, []byte(seal.HashLine([]byte(line)))) {
						t.Errorf("%s %d: %s has a seal without a leaf", step, at, name)
					}
				}
			}
			if err := run(here, "", 0); err != nil {
				t.Fatalf("%s %d: afterwards: %v", step, at, err)
			}
			check(here, fmt.Sprintf("%s %d", step, at))
		}
	}
	t.Logf("killed %d times", kills)
}
