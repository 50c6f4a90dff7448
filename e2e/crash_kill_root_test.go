package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	mrand "math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-net/culvert/agent/local"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/seal"
	"github.com/culvert-net/culvert/internal/oracle"
	"github.com/culvert-net/culvert/internal/randomly"
	"github.com/culvert-net/culvert/internal/underlay"
)

// Bounds that are promised; a test fails at five times as much.
const (
	tunnelBound  = time.Second     // packets pass again, after a tunnel process was killed
	connectBound = 5 * time.Second // a new connection, after anything was killed
	failAt       = 5
)

// watch is everything that looks on while processes die.
type watch struct {
	forbidden *oracle.Forbidden
	flows     *oracle.Flows
	stream    *oracle.Stream
	capture   chan underlay.Report
	ends      context.CancelFunc
	captured  error
}

func startWatch(t *testing.T, m *crashMesh) *watch {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	w := &watch{capture: make(chan underlay.Report, 1), ends: cancel}
	for _, target := range []string{"ledger-1", "ledger-2"} {
		if err := oracle.Echo(ctx, m.ns(target), "0.0.0.0:443"); err != nil {
			t.Fatal(err)
		}
	}
	ready := make(chan struct{})
	go func() {
		r, err := m.lab.Capture(ctx, []string{oracle.Magic[:16], "CULVERT-ORACLE-probe"}, func() { close(ready) })
		w.captured = err
		w.capture <- r
	}()
	select {
	case <-ready:
	case <-w.capture:
		t.Fatal(w.captured)
	}
	var err error
	if w.flows, err = oracle.StartFlows(ctx, m.ns("cart"), m.address("ledger", 443), 50); err != nil {
		t.Fatal(err)
	}
	if w.stream, err = oracle.StartStream(m.ns("cart"), m.address("echo", 7777), m.ns("ledger-1"), "10.0.1.5:7777"); err != nil {
		t.Fatal(err)
	}
	probes, places := m.probes()
	if w.forbidden, err = oracle.StartForbidden(probes, places, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the stream", func() error {
		if !w.stream.Arrived(time.Now().Add(-time.Second)) {
			return errors.New("nothing arrives")
		}
		return nil
	})
	return w
}

// stop ends the load and says what was seen; the mesh is quiet then.
func (w *watch) stop(t *testing.T) {
	t.Helper()
	w.stream.Quiet()
	w.flows.Stop()
	w.forbidden.Stop()
	w.stream.Stop()
	w.ends()
	r := <-w.capture
	if err := errors.Join(w.captured, w.forbidden.Err(), w.forbidden.Deaf(), w.flows.Err(), w.stream.Err()); err != nil {
		t.Error(err)
	}
	if !r.OK() || r.Missed > 0 {
		t.Errorf("underlay: %d missed, %v", r.Missed, r.Lines())
	}
	t.Logf("forbidden probes: %d sent, none arrived; %d flows, %d right answers; underlay: %d packets, none in clear", w.forbidden.Sent(),
		w.flows.Len(), w.flows.Answers(), r.Total())
}

// check is what must hold after each kill.
func (w *watch) check(t *testing.T, what string) {
	t.Helper()
	if err := errors.Join(w.forbidden.Err(), w.flows.Err(), w.stream.Err()); err != nil {
		t.Fatalf("after %s: %v", what, err)
	}
}

// oneAnswer opens a connection, has an answer and closes it.
func (m *crashMesh) oneAnswer(ctx context.Context) error {
	f, err := oracle.StartFlows(ctx, m.ns("cart"), m.address("ledger", 443), 1)
	if err == nil {
		f.Stop()
	}
	return err
}

// connected is how long after a moment a new connection has had an answer.
func connected(t *testing.T, m *crashMesh, from time.Time) time.Duration {
	t.Helper()
	eventually(t, connectBound, "a new connection", func() error { return m.oneAnswer(t.Context()) })
	return time.Since(from)
}

// TestCrash kills the processes of a mesh at random moments, at every failpoint, and while the mesh is made and removed.
func TestCrash(t *testing.T) {
	beside(t)
	t.Run("kill -9 at random moments", func(t *testing.T) {
		beside(t)
		newCrashMesh(t, crashKillPrefix).randomKills(t)
	})
	t.Run("kill -9 at every failpoint", func(t *testing.T) {
		beside(t)
		newCrashMesh(t, crashPointPrefix).everyPoint(t)
	})
}

// tally is what kills of one kind came to.
type tally struct {
	ready, resumed, connect oracle.Times
	lost, sent              int
}

func (m *crashMesh) randomKills(t *testing.T) {
	n := killsFromEnv(t)
	random := mrand.New(mrand.NewPCG(randomly.Seed(t), 0))
	t.Logf("n=%d of each", n)
	w := startWatch(t, m)
	c := startChurn(m)
	results := map[string]*tally{}
	for i := range n {
		host := []string{"host-a", "host-b"}[i%2]
		for _, victim := range [][2]string{{host, "agent"}, {host, "tunnel"}, {"server", "server"}} {
			pause(t.Context(), time.Duration(random.Int64N(int64(300*time.Millisecond))))
			m.killOnce(t, w, victim, results)
		}
	}
	for range max(1, n/10) {
		m.killAll(t, w, results)
	}
	c.stop(t)
	w.check(t, "all")
	m.quietLedger(t, w)
	for _, kind := range slices.Sorted(maps.Keys(results)) {
		r := results[kind]
		t.Logf("%-7s ready again: %s; packets pass again: %s; new connection: %s; datagrams lost %d of %d", kind, r.ready, r.resumed,
			r.connect, r.lost, r.sent)
	}
	for _, kind := range []string{"agent", "server"} {
		if r := results[kind]; r.lost > 0 {
			t.Errorf("%s: %d of %d datagrams were lost while it was dead: it is in no packet's way", kind, r.lost, r.sent)
		}
	}
	if d := results["tunnel"].resumed.Max(); d > failAt*tunnelBound {
		t.Errorf("after a tunnel was killed nothing passed for %s, promised is %s", d, tunnelBound)
	}
}

// killOnce kills one process and starts it again, as a supervisor would.
func (m *crashMesh) killOnce(t *testing.T, w *watch, victim [2]string, results map[string]*tally) {
	t.Helper()
	r := results[victim[1]]
	if r == nil {
		r = &tally{}
		results[victim[1]] = r
	}
	before := time.Now()
	if err := m.lab.Kill(victim[0], victim[1], false); err != nil {
		t.Fatal(err)
	}
	dead := time.Now()
	if err := m.lab.Start(t.Context(), victim[0], victim[1]); err != nil {
		t.Fatalf("start again %v: %v", victim, err)
	}
	ready := time.Now()
	r.ready = append(r.ready, ready.Sub(dead))
	r.connect = append(r.connect, connected(t, m, dead))
	eventually(t, 2*tunnelBound, "packets pass", func() error {
		if !w.stream.Arrived(ready) {
			return errors.New("none has arrived")
		}
		return nil
	})
	seen := w.stream.Since(dead, time.Now())
	r.resumed = append(r.resumed, seen.Resumed)
	pause(t.Context(), 50*time.Millisecond) // what is on its way arrives
	seen = w.stream.Since(before, ready)
	r.lost, r.sent = r.lost+seen.Lost, r.sent+seen.Sent
	w.check(t, fmt.Sprintf("%v was killed", victim))
}

// killAll kills everything at once.
func (m *crashMesh) killAll(t *testing.T, w *watch, results map[string]*tally) {
	t.Helper()
	r := results["all"]
	if r == nil {
		r = &tally{}
		results["all"] = r
	}
	var wg sync.WaitGroup
	for _, p := range crashProcesses {
		wg.Go(func() {
			if err := m.lab.Kill(p[0], p[1], false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	dead := time.Now()
	if err := m.lab.Start(t.Context(), "", ""); err != nil {
		t.Fatalf("start all again: %v", err)
	}
	r.ready = append(r.ready, time.Since(dead))
	r.connect = append(r.connect, connected(t, m, dead))
	now := time.Now()
	seen := w.stream.Since(dead, now)
	r.resumed = append(r.resumed, seen.Resumed)
	r.lost, r.sent = r.lost+seen.Lost, r.sent+seen.Sent
	w.check(t, "all processes were killed")
}

// quietLedger stops the load and waits until every packet is accounted for.
func (m *crashMesh) quietLedger(t *testing.T, w *watch) {
	t.Helper()
	w.stop(t)
	var all map[string]*oracle.Ledger
	eventually(t, 20*time.Second, "every packet has one verdict", func() (err error) {
		if all, err = m.ledgers(t.Context()); err != nil {
			return err
		}
		return errors.Join(all["host-a"].Balance(), all["host-b"].Balance())
	})
	for _, host := range slices.Sorted(maps.Keys(all)) {
		var books *oracle.Sealed
		eventually(t, 90*time.Second, host+"'s records and what it declares are what it counted", func() (err error) {
			if books, err = oracle.ReadSealed(m.lab.StateDir("nodes", host)); err != nil {
				return err
			}
			s, err := local.NewClient(m.lab.AgentSocket(host)).Status(t.Context())
			if err != nil {
				return err
			}
			return books.Balance(bootOf(t), s.Counters)
		})
		t.Logf("%s: %s; %d segments, %d with counters; lost %d packets, told too much %d", host, all[host], books.Seals, books.Full,
			books.Lost(seal.CauseLost), books.Lost(seal.CauseOver))
		// What was taken out of the kernel and not yet written goes with an agent that dies then; see decision 0024.
		if lost := books.Lost(seal.CauseLost); lost > all[host].Refused/10+all[host].Forwarded/100 {
			t.Errorf("%s: %d packets of %d forwarded and %d refused are in no record", host, lost, all[host].Forwarded, all[host].Refused)
		}
	}
}

// bootOf names this boot of the machine.
func bootOf(t *testing.T) string {
	t.Helper()
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(id))
}

// churn changes the mesh all the time, so that a process that dies is in the middle of something; and remembers what was
// acknowledged.
type churn struct {
	m      *crashMesh
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	kept     map[string]bool // acknowledged by name: made, and not asked to go
	gone     map[string]bool // acknowledged as deleted
	attempts int
}

func startChurn(m *crashMesh) *churn {
	ctx, cancel := context.WithCancel(context.Background())
	c := &churn{m: m, cancel: cancel, kept: map[string]bool{}, gone: map[string]bool{}}
	c.wg.Go(func() { c.run(ctx, c.groups) })
	c.wg.Go(func() { c.run(ctx, c.connection) })
	c.wg.Go(func() { c.run(ctx, func(ctx context.Context, i int) error { return m.spare(ctx, i%2 == 1) }) })
	return c
}

func (c *churn) run(ctx context.Context, step func(context.Context, int) error) {
	for i := 0; ctx.Err() == nil; i++ {
		one, cancel := context.WithTimeout(ctx, 10*time.Second)
		_ = step(one, i) // whoever it asks may be dead
		cancel()
		pause(ctx, 50*time.Millisecond)
	}
}

// groups makes security groups and deletes some.
func (c *churn) groups(ctx context.Context, i int) error {
	shop := c.m.as("shop")
	name := fmt.Sprintf("churn-%d", i)
	sg, err := shop.CreateSecurityGroup(ctx, api.CreateSecurityGroupRequest{VPC: "shop", Name: name})
	c.mu.Lock()
	c.attempts++
	if err == nil {
		c.kept[name] = true
	}
	c.mu.Unlock()
	if err != nil || i%8 == 0 {
		return err
	}
	c.mu.Lock()
	delete(c.kept, name)
	c.mu.Unlock()
	if _, err = shop.DeleteSecurityGroup(ctx, sg.ID); err == nil {
		c.mu.Lock()
		c.gone[name] = true
		c.mu.Unlock()
	}
	return err
}

// connection rejects and accepts one that nothing uses: permissions go and come.
func (c *churn) connection(ctx context.Context, i int) error {
	ep, err := c.m.as("shop").GetEndpoint(ctx, "side")
	if err != nil {
		return err
	}
	if i%2 == 0 {
		_, err = c.m.as("pay").RejectConnections(ctx, "side", []string{ep.ID})
	} else {
		_, err = c.m.as("pay").AcceptConnections(ctx, "side", []string{ep.ID})
	}
	return err
}

// stop ends the changes and demands all that was acknowledged.
func (c *churn) stop(t *testing.T) {
	t.Helper()
	c.cancel()
	c.wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), slack*60*time.Second)
	defer cancel()
	groups, err := c.m.as("shop").ListSecurityGroups(ctx)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, g := range groups {
		have[g.Name] = true
	}
	for name := range c.kept {
		if !have[name] {
			t.Errorf("security group %s was acknowledged and is lost", name)
		}
	}
	for name := range c.gone {
		if have[name] {
			t.Errorf("security group %s was deleted, acknowledged, and is back", name)
		}
	}
	if len(c.kept) == 0 || len(c.gone) == 0 {
		t.Error("nothing was acknowledged")
	}
	if err := c.m.spare(ctx, true); err != nil {
		t.Error(err)
	}
	if err := c.m.converge(ctx); err != nil {
		t.Error(err)
	}
	t.Logf("writes: %d tried, %d acknowledged and kept, %d deletions acknowledged", c.attempts, len(c.kept), len(c.gone))
}
