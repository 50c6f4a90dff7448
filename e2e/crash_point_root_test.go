package e2e

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/oracle"
)

// manyTimes are points that are passed several times in one operation, for one table, row, file or interface each: how
// many of the times a process is killed there. At all others once.
var manyTimes = map[string]int{
	"apply.removed": 6, "apply.put": 6, "apply.row-removed": 2, "apply.row-put": 3, "state.written": 2, "state.renamed": 2,
	"secure.before": 2, "secure.unpinned": 2, "secure.after": 2, "open.replaced": 4, "cleanup.link": 3, "forget.file": 5,
	"dev.started": 3, "dev.veth": 2, "dev.written": 3, "dev.ended": 3, "store.committed": 2,
}

// codePoints are the failpoints of the sources, by name, with where they stand.
func codePoints(t *testing.T) map[string]string {
	t.Helper()
	points := map[string]string{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if s, ok := call.Fun.(*ast.SelectorExpr); !ok || s.Sel.Name != "Here" || fmt.Sprint(s.X) != "failpoint" {
				return true
			}
			at := set.Position(call.Pos()).String()
			lit, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				t.Errorf("%s: a failpoint's name is a constant", at)
				return true
			}
			name, _ := strconv.Unquote(lit.Value)
			if points[name] != "" {
				t.Errorf("%s: failpoint %s stands at %s too", at, name, points[name])
			}
			points[name] = at
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return points
}

// crashCase is an operation during which a process is killed at each of the failpoints that it passes.
type crashCase struct {
	name string
	dir  string // where the process finds its points
	// first makes that it can be done; nil: it can.
	first func(context.Context) error
	// do is the operation; it fails when the process dies. undo makes that it can be done again.
	do, undo func(context.Context) error
	// revive brings back what died.
	revive func(context.Context) error
	// check is what holds after it was revived and done again; nil: nothing more.
	check func(context.Context) error
	// only: points that matter here; nil: all that are passed.
	only func(point string) bool
}

// pointRun goes through cases and notes which points have killed.
type pointRun struct {
	w       *watch // nil: nobody looks on
	killed  map[string]int
	revived oracle.Times
}

// passings reads how often each point was passed.
func passings(dir string) (map[string]int, error) {
	n := map[string]int{}
	files, err := filepath.Glob(filepath.Join(dir, "*"+failpoint.Passed))
	for _, f := range files {
		info, errStat := os.Stat(f)
		err = errors.Join(err, errStat)
		if errStat == nil {
			n[strings.TrimSuffix(filepath.Base(f), failpoint.Passed)] = int(info.Size())
		}
	}
	return n, err
}

func forgetPassings(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

// run does a case once to see which points it passes, and then dies at each.
func (r *pointRun) run(t *testing.T, c crashCase) {
	t.Helper()
	ctx := t.Context()
	if err := forgetPassings(c.dir); err != nil {
		t.Fatal(err)
	}
	if err := c.do(ctx); err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	passed, err := passings(c.dir)
	if err := errors.Join(err, c.undo(ctx)); err != nil {
		t.Fatalf("%s, undone: %v", c.name, err)
	}
	n, began := 0, time.Now()
	for _, point := range slices.Sorted(maps.Keys(passed)) {
		if c.only != nil && !c.only(point) {
			continue
		}
		for k := 1; k <= min(passed[point], max(1, manyTimes[point])); k++ {
			r.die(ctx, t, c, point, k)
			n++
		}
	}
	t.Logf("%s: n=%d kills at %d points in %s", c.name, n, len(passed), time.Since(began).Round(time.Millisecond))
}

// die kills the process at the k-th passing of a point, revives it, and demands that all is well.
func (r *pointRun) die(ctx context.Context, t *testing.T, c crashCase, point string, k int) {
	t.Helper()
	what := fmt.Sprintf("%s, killed at %s (%d)", c.name, point, k)
	armed := filepath.Join(c.dir, point+failpoint.Armed)
	if err := os.WriteFile(armed, []byte(strconv.Itoa(k)), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, slack*time.Minute)
	defer cancel()
	later := 5 * time.Second
	if k == 1 { // it came there before
		later *= slack
	}
	if came, err := doUntil(ctx, c.do, armed, later); !came { // passed less often this time: what is done at a tick differs
		if err := errors.Join(os.Remove(armed), err, c.undo(ctx)); err != nil {
			t.Fatalf("%s: never came there: %v", what, err)
		}
		if k == 1 {
			t.Errorf("%s: never came there", what)
		}
		return
	}
	r.killed[point]++
	began := time.Now()
	err := c.revive(ctx)
	r.revived = append(r.revived, time.Since(began))
	if err != nil {
		t.Fatalf("%s: revive: %v", what, err)
	}
	if err := c.do(ctx); err != nil {
		t.Fatalf("%s: done again: %v", what, err)
	}
	if c.check != nil {
		eventually(t, 10*time.Second, what, func() error { return c.check(ctx) })
	}
	if err := c.undo(ctx); err != nil {
		t.Fatalf("%s: undone: %v", what, err)
	}
	if r.w != nil {
		r.w.check(t, what)
	}
}

// doUntil does it until the process that was armed dies, and some time longer than it takes where that is passed later. Who
// waits for the dead then waits no more.
func doUntil(ctx context.Context, do func(context.Context) error, armed string, later time.Duration) (came bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var late <-chan time.Time
	for {
		if _, err := os.Stat(armed); errors.Is(err, fs.ErrNotExist) {
			cancel()
			if late == nil {
				<-done
			}
			return true, nil
		}
		select {
		case err = <-done:
			late = time.After(later)
		case <-late:
			return false, err
		case <-tick.C:
		}
	}
}

// well is nil when a host's agent says that all is well.
func (m *crashMesh) well(ctx context.Context, hosts ...string) error {
	for _, host := range hosts {
		s, err := local.NewClient(m.lab.AgentSocket(host)).Status(ctx)
		if err != nil {
			return err
		}
		// What an agent that died has half made, the next one finishes, and says for a while that it found it otherwise.
		bad := slices.DeleteFunc(s.Errors, func(e string) bool { return strings.Contains(e, "put right at") })
		if len(bad) > 0 {
			return fmt.Errorf("%s: %v", host, bad)
		}
		for _, w := range s.Workloads {
			if w.State != "up" {
				return fmt.Errorf("%s: %s in %s is %s", host, w.ENI, w.Netns, w.State)
			}
		}
	}
	return nil
}

// digits of interface and program numbers differ from one life to the next.
var digits = regexp.MustCompile(`\d+`)

// macs as they look after digits.
var macs = regexp.MustCompile(`\b[0-9a-fN]+(:[0-9a-fN]+){5}\b`)

// traces are what the mesh has on this machine, so that two moments can be compared: in the hosts' namespaces links,
// addresses, routes and rules, and of all of them pins, files and namespaces.
func traces(prefix string) ([]string, error) {
	var all []string
	add := func(what string, lines []string) {
		slices.Sort(lines)
		for _, l := range lines {
			all = append(all, what+": "+l)
		}
	}
	names, err := filepath.Glob("/run/netns/" + prefix + "-*")
	if err != nil {
		return nil, err
	}
	add("namespace", slices.Clone(names))
	for _, path := range names {
		ns := filepath.Base(path)
		for _, argv := range [][]string{
			{"ip", "-n", ns, "-brief", "link"}, {"ip", "-n", ns, "-brief", "address"}, {"ip", "-n", ns, "-6", "route"},
			{"ip", "-n", ns, "route"}, {"ip", "netns", "exec", ns, "nft", "list", "ruleset"},
		} {
			out, err := exec.Command(argv[0], argv[1:]...).Output()
			if err != nil {
				return nil, fmt.Errorf("%v: %w", argv, err)
			}
			var lines []string
			for line := range strings.Lines(digits.ReplaceAllString(string(out), "N")) {
				lines = append(lines, strings.Join(strings.Fields(macs.ReplaceAllString(line, "M")), " "))
			}
			add(ns, lines)
		}
	}
	for _, root := range []string{"/sys/fs/bpf/" + prefix + "-dev", "/etc/netns", "/var/lib/" + prefix + "-dev/nodes",
		"/run/" + prefix + "-dev"} {
		var files []string
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if strings.Contains(path, "/flows/") {
				return nil // which grow
			}
			if ours := strings.Contains(path, prefix); err == nil && ours {
				path = digits.ReplaceAllString(path, "N")
				files = append(files, path)
			}
			return nil
		})
		add("file", files)
	}
	return all, nil
}

// same demands that what the mesh has be what it had.
func same(t *testing.T, prefix, what string, before []string) {
	t.Helper()
	eventually(t, 10*time.Second, what+" leaves what was there", func() error {
		now, err := traces(prefix)
		if err != nil {
			return err
		}
		return difference(before, now)
	})
}

func difference(before, now []string) error {
	count := map[string]int{}
	for _, l := range before {
		count[l]--
	}
	for _, l := range now {
		count[l]++
	}
	var errs []error
	for _, l := range slices.Sorted(maps.Keys(count)) {
		switch n := count[l]; {
		case n > 0:
			errs = append(errs, fmt.Errorf("left: %s", l))
		case n < 0:
			errs = append(errs, fmt.Errorf("missing: %s", l))
		}
	}
	return errors.Join(errs...)
}
