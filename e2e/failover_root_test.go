package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/api"
)

// faultKind is something that is done to a backend or to its host, and how long it may take until no new flow goes there.
type faultKind struct {
	name  string
	check api.GroupHealthRequest
	bound time.Duration
	host  string // that it is done to; "": a backend of host-b
	begin func(m *failoverMesh, f *fault) error
	end   func(m *failoverMesh, f *fault) error // of hosts, which have several
}

// fault is one of them.
type fault struct {
	kind    *faultKind
	port    int
	backend *exec.Cmd // that it is done to
	stop    func()    // ends what goes on until the fault does

	begun    time.Time
	took     time.Duration   // until no new flow failed any more
	failed   int             // of new flows
	requests int             // new flows
	late     int             // answers that nothing kept from coming, and that took longer than anybody waits: a machine that was busy
	ended    []time.Duration // until each long connection to what is gone had ended
}

// Backends that die have the default check, of every 10 s: nothing but what flows meet can tell so soon. One that accepts and
// does not answer is found by its check alone: two probes, a second apart, that wait for a second each.
func httpCheck() api.GroupHealthRequest {
	protocol, second := api.HealthHTTP, uint32(1)
	return api.GroupHealthRequest{HealthCheck: &api.HealthCheckRequest{Protocol: &protocol, IntervalSeconds: &second, TimeoutSeconds: &second}}
}

// Killed, stopped, cut off and slow, each once for a backend and once for a host. A slow backend answers after longer than anybody
// waits; a slow host runs for a moment now and then.
var faultKinds = []*faultKind{
	{name: "backend killed", bound: time.Second, begin: signalBackend(unix.SIGKILL)},
	{name: "backend cut off", bound: time.Second, begin: (*failoverMesh).cutBackend},
	{name: "backend stopped", bound: 3 * time.Second, check: httpCheck(), begin: signalBackend(unix.SIGSTOP)},
	{name: "backend slow", bound: 3 * time.Second, check: httpCheck(), begin: signalBackend(unix.SIGUSR1)},
	{name: "host cut off", bound: 3 * time.Second, host: "host-c", begin: cable("down"), end: cable("up")},
	{name: "host stopped", bound: 3 * time.Second, host: "host-d", begin: signalHost(unix.SIGSTOP), end: signalHost(unix.SIGCONT)},
	{name: "host killed", bound: 3 * time.Second, host: "host-e", begin: killHost, end: (*failoverMesh).startHost},
	{name: "host slow", bound: 3 * time.Second, host: "host-f", begin: slowHost, end: endSlowness},
}

func signalBackend(s unix.Signal) func(*failoverMesh, *fault) error {
	return func(_ *failoverMesh, f *fault) error { return f.backend.Process.Signal(s) }
}

// cutBackend loses what comes for the backend's port, as a machine does that hangs.
func (m *failoverMesh) cutBackend(f *fault) error {
	return run("ip", "netns", "exec", m.ns("faulty"), "nft", fmt.Sprintf("add rule ip cut in tcp dport %d drop", f.port))
}

// cable takes a host's cable out or puts it back.
func cable(state string) func(*failoverMesh, *fault) error {
	return func(m *failoverMesh, f *fault) error {
		return run("ip", "-n", m.prefix+"-underlay", "link", "set", "p-"+f.kind.host, state)
	}
}

// signalHost is to a host's own processes, without which nothing leaves it, and to its backend.
func signalHost(s unix.Signal) func(*failoverMesh, *fault) error {
	return func(m *failoverMesh, f *fault) error {
		errs := []error{f.backend.Process.Signal(s)}
		for _, role := range []string{"tunnel", "agent"} {
			text, err := os.ReadFile(m.lab.RunDir(f.kind.host, role+".pid"))
			var process struct{ PID int }
			if err = errors.Join(err, json.Unmarshal(text, &process)); err != nil || process.PID <= 1 {
				return errors.Join(err, fmt.Errorf("%s of %s is process %d", role, f.kind.host, process.PID))
			}
			errs = append(errs, unix.Kill(process.PID, s))
		}
		return errors.Join(errs...)
	}
}

// killHost is a power failure: its cable is dead, and so is all that ran there.
func killHost(m *failoverMesh, f *fault) error {
	return errors.Join(cable("down")(m, f), signalHost(unix.SIGKILL)(m, f))
}

// startHost has a host that was killed run again, with what is kept of it on disk. Its backend is there before its agent asks it.
func (m *failoverMesh) startHost(f *fault) error {
	ctx, cancel := context.WithTimeout(context.Background(), slack*60*time.Second)
	defer cancel()
	return errors.Join(cable("up")(m, f), m.startBackend(farBackend(f.kind.host), f.port), m.lab.Start(ctx, f.kind.host, ""))
}

// A slow host, as one that swaps, or whose hypervisor has no time for it, runs for slowRuns of each slowCycle. It does not answer
// within anybody's patience, and says all the same, whenever it runs, that it is there and its targets are well.
const (
	slowCycle = 3 * time.Second
	slowRuns  = 100 * time.Millisecond
)

func slowHost(m *failoverMesh, f *fault) error {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	f.stop = func() { cancel(); <-ended }
	err := signalHost(unix.SIGSTOP)(m, f)
	go func() {
		defer close(ended)
		signal, after := unix.SIGCONT, slowCycle-slowRuns
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(after):
			}
			_ = signalHost(signal)(m, f) // that they are gone is told at the end
			if signal == unix.SIGCONT {
				signal, after = unix.SIGSTOP, slowRuns
			} else {
				signal, after = unix.SIGCONT, slowCycle-slowRuns
			}
		}
	}()
	return err
}

// endSlowness lets a slow host run on.
func endSlowness(m *failoverMesh, f *fault) error {
	f.stop()
	return signalHost(unix.SIGCONT)(m, f)
}

func run(argv ...string) error {
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return nil
}

// faultsPerKind is how many there are; CULVERT_FAULTS says another number.
func faultsPerKind(t *testing.T) int {
	n, err := strconv.Atoi(cmp.Or(os.Getenv("CULVERT_FAULTS"), "10"))
	if err != nil || n < 1 {
		t.Fatalf("CULVERT_FAULTS: want a number of faults of each kind, not %q", os.Getenv("CULVERT_FAULTS"))
	}
	return n
}

// batch is how many backends there are of each kind: so many faults, then they are put back.
const batch = 10

// TestFailover does all kinds of faults to backends and hosts under load, without a server, and shows how long new flows still went
// there. More than five times the bound fails: the machine that tests run on is busy. Nothing runs beside it, for what is measured is how long
// something takes.
func TestFailover(t *testing.T) {
	m := newFailoverMesh(t)
	var all []*fault
	for left := faultsPerKind(t); left > 0 && !t.Failed(); left -= batch {
		m.startBackends(t)
		m.awaitHealthy(t, 60*time.Second)
		if err := m.lab.Kill("server", "server", false); err != nil { // from the second time on it is dead
			t.Fatal(err)
		}
		all = append(all, m.faults(t, min(left, batch))...)
		m.stopBackends(t)
	}
	late := 0
	for _, f := range all {
		late += f.late
	}
	if late > max(2, len(all)/20) {
		t.Errorf("in %d faults %d answers of targets that were well came too late", len(all), late)
	}
	for _, kind := range faultKinds {
		kind.report(t, all)
	}
}

// report shows the distribution of a kind's faults: of how long after a fault the last new flow began that failed.
func (k *faultKind) report(t *testing.T, all []*fault) {
	var took, ended []time.Duration
	failed, requests := 0, 0
	for _, f := range all {
		if f.kind == k {
			took, ended = append(took, f.took), append(ended, f.ended...)
			failed, requests = failed+f.failed, requests+f.requests
		}
	}
	slices.Sort(took)
	slices.Sort(ended)
	beyond := len(slices.DeleteFunc(slices.Clone(took), func(d time.Duration) bool { return d <= k.bound }))
	t.Logf("%-15s n=%d: new flows fail for p50 %s p90 %s p99 %s max %s, %d for more than %s; %d of %d new flows failed; "+
		"long connections to it: n=%d, ended after p50 %s p99 %s max %s", k.name, len(took), at(took, 50), at(took, 90), at(took, 99),
		at(took, 100), beyond, k.bound, failed, requests, len(ended), at(ended, 50), at(ended, 99), at(ended, 100))
	if worst := at(took, 100); worst > 5*k.bound {
		t.Errorf("%s: new flows failed for %s, more than five times %s", k.name, worst, k.bound)
	}
}

// at is a percentile of sorted times; of none it is 0.
func at(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*percent+99)/100-1)].Round(time.Millisecond)
}

// faults does so many of each kind. Of backends two of a kind at a time, of a host one after the other. One that goes wrong fails the
// test and is not among those that are returned.
func (m *failoverMesh) faults(t *testing.T, n int) (all []*fault) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for k, kind := range faultKinds {
		lanes := 2
		if kind.host != "" {
			lanes = 1
		}
		next := make(chan int, n)
		for i := range n {
			next <- i
		}
		close(next)
		for range lanes {
			wg.Go(func() {
				for i := range next {
					f := &fault{kind: kind, port: failoverPort(k, i), backend: m.backend(failoverPort(k, i))}
					if err := m.fault(f); err != nil {
						t.Errorf("%s, number %d: %v", kind.name, i, err)
						continue
					}
					mu.Lock()
					all = append(all, f)
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	return all
}

// quiet is how long nothing must fail after a fault for it to be over. Half of the requests went to what is gone.
const quiet = 1500 * time.Millisecond

// fault loads a port, does the fault, and waits until nothing fails any more. What is wrong besides is an error: a request that
// failed before, a connection to the target that is well that ended.
func (m *failoverMesh) fault(f *fault) error {
	url := fmt.Sprintf("http://%s/", m.address(f.port))
	m.client.load(url)
	defer m.client.forget(url)
	both := func(all []request) bool {
		seen := map[string]int{}
		for _, r := range all {
			seen[r.Server]++
		}
		return seen["stable"] >= 4 && seen["faulty"] >= 4
	}
	if err := m.client.await(url, slack*30*time.Second, "both targets answer", both); err != nil {
		return err
	}
	f.begun = time.Now()
	over := func(all []request) bool {
		last := f.begun
		for _, r := range all {
			if r.Err != "" && r.Long == 0 {
				last = later(last, r.Begun)
			}
		}
		return time.Since(later(last, f.begun)) > quiet+patience && time.Since(f.begun) > f.kind.bound+patience
	}
	err := f.kind.begin(m, f)
	if err == nil {
		err = m.client.await(url, 5*f.kind.bound+10*time.Second, "no request fails any more", over)
	}
	if f.kind.end != nil {
		err = errors.Join(err, f.kind.end(m, f))
	}
	if err != nil {
		return err
	}
	err = f.judge(m.client.requests(url))
	if f.kind.end != nil {
		err = errors.Join(err, m.recover(f))
	}
	return err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// judge makes figures of what became of requests.
func (f *fault) judge(all []request) error {
	server := map[int]string{} // of long connections
	for i, r := range all {
		if r.Long == 0 {
			f.requests++
		}
		if r.Long != 0 && r.Err == "" {
			server[r.Long] = r.Server
		}
		if r.Err == "" {
			continue
		}
		ended := r.Begun.Add(r.Took)
		late := strings.Contains(r.Err, context.DeadlineExceeded.Error())
		switch {
		case late && (ended.Before(f.begun) || r.Long != 0 && server[r.Long] == "stable"):
			f.late++
		case ended.Before(f.begun):
			return fmt.Errorf("a request failed before the fault: %+v", r)
		case r.Long != 0 && server[r.Long] == "stable":
			before := slices.DeleteFunc(slices.Clone(all[:i]), func(o request) bool { return o.Long != r.Long })
			return fmt.Errorf("%s after the fault a connection to the target that is well has ended: %+v; its last requests %+v",
				ended.Sub(f.begun), r, before[max(0, len(before)-2):])
		case r.Long != 0:
			f.ended = append(f.ended, ended.Sub(f.begun))
		default:
			f.failed++
			f.took = max(f.took, r.Begun.Sub(f.begun))
		}
	}
	return nil
}

// recover waits until a host's target is used again.
func (m *failoverMesh) recover(f *fault) error {
	url := fmt.Sprintf("http://%s/", m.address(f.port))
	ended := time.Now()
	return m.client.await(url, 30*time.Second, "the host is used again", func(all []request) bool {
		return slices.ContainsFunc(all, func(r request) bool { return r.Long == 0 && r.Begun.After(ended) && r.Server == "faulty" })
	})
}

// loader is a client process in a workload.
type loader struct {
	mu    sync.Mutex
	say   func(line string)
	loads map[string]int       // the number of the newest load, by URL
	seen  map[string][]request // its requests that are over, by URL
	fails error                // of the process
}

func (l *loader) load(url string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.seen, url)
	l.loads[url]++
	l.say(fmt.Sprintf("load %d %s", l.loads[url], url))
}

func (l *loader) forget(url string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.say(fmt.Sprintf("stop %d %s", l.loads[url], url))
}

func (l *loader) requests(url string) []request {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.seen[url])
}

func (l *loader) await(url string, most time.Duration, what string, ok func([]request) bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		all := l.requests(url)
		if ok(all) {
			return nil
		}
		select {
		case <-ctx.Done():
			text := fmt.Sprintf("%d requests", len(all))
			if n := len(all); n > 0 {
				text += fmt.Sprintf(", the last %+v", all[n-1])
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			return errors.Join(fmt.Errorf("%s: not within %s; %s", what, most, text), l.fails)
		case <-tick.C:
		}
	}
}
