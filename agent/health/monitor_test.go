package health

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func key(group uint32, n int) Key {
	return Key{group, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(n)}), 443)}
}

func check(n int) Check {
	return Check{Key: key(1, n), VPC: 7, Port: 443,
		Config: Config{Protocol: TCP, Interval: 10 * time.Second, Timeout: 10 * time.Second, HealthyThreshold: 2, UnhealthyThreshold: 2}}
}

// bench runs a monitor by a clock of its own; each probe's outcome is there at once.
type bench struct {
	Monitor
	now   time.Time
	alive func(Check) bool
	begun []time.Time // probes
}

func newBench(checks ...Check) *bench {
	b := &bench{now: start, alive: func(Check) bool { return true }}
	b.Set(b.now, nil)
	b.Set(b.now, checks)
	return b
}

// run lets time pass, and tells when a target's state changed, from the beginning of the run.
func (b *bench) run(d time.Duration) (changes []string) {
	begin, end := b.now, b.now.Add(d)
	before := map[Key]State{}
	for _, s := range b.Statuses() {
		before[s.Key] = s.State
	}
	for {
		for _, p := range b.Due(b.now) {
			b.begun = append(b.begun, b.now)
			o := Outcome{}
			if !b.alive(p.Check) {
				o = Outcome{Reason: ReasonFailed, Detail: "refused"}
			}
			b.Done(b.now, p.ID, o)
		}
		for _, s := range b.Statuses() {
			if before[s.Key] != s.State {
				before[s.Key] = s.State
				changes = append(changes, fmt.Sprintf("%s %s", b.now.Sub(begin), s.State))
			}
		}
		at, ok := b.Next()
		if !ok || !at.Before(end) {
			b.now = end
			return changes
		}
		b.now = at
	}
}

func (b *bench) state() Status { return b.Statuses()[0] }

func TestThresholds(t *testing.T) {
	b := newBench(check(1))
	if s := b.state(); s.State != Initial || s.Reason != ReasonInitial {
		t.Errorf("before any probe: %+v", s)
	}
	if got := b.run(time.Minute); len(got) != 1 || got[0] != "0s healthy" {
		t.Errorf("one probe brings a new target in: %v", got)
	}
	b.alive = func(Check) bool { return false }
	if b.run(10 * time.Second); b.state().State != Healthy {
		t.Error("one failed probe took it away")
	}
	if b.run(10 * time.Second); b.state().State != Unhealthy || b.state().Reason != ReasonFailed {
		t.Errorf("two failed probes in a row: %+v", b.state())
	}
	b.run(time.Minute)
	b.alive = func(Check) bool { return true }
	if b.run(10 * time.Second); b.state().State != Unhealthy {
		t.Error("one probe brought it back")
	}
	if b.run(10 * time.Second); b.state().State != Healthy || b.state().Reason != ReasonNone {
		t.Errorf("two probes in a row: %+v", b.state())
	}
	if tr := b.Transitions(0, 10); len(tr) != 3 || tr[1].From != Healthy || tr[1].To != Unhealthy || tr[1].Reason != ReasonFailed ||
		tr[1].Detail != "refused" || !tr[2].At.Equal(b.state().Since) {
		t.Errorf("transitions %+v", tr)
	}
}

// Targets that were there when the agent began are of unknown state until they are probed: a restart changes nothing.
func TestTargetsFromBefore(t *testing.T) {
	m := new(Monitor)
	m.Set(start, []Check{check(1), check(2)})
	if m.Statuses()[0].State != Unknown {
		t.Errorf("%+v", m.Statuses()[0])
	}
	p := m.Due(start)
	m.Done(start, p[0].ID, Outcome{})
	m.Done(start, p[1].ID, Outcome{Reason: ReasonTimeout})
	m.Set(start, []Check{check(1), check(2), check(3)})
	if s := m.Statuses(); s[0].State != Healthy || s[1].State != Unknown || s[2].State != Initial {
		t.Errorf("%+v", s)
	}
}

// What one target does, however often, takes away nothing of what is known of another one.
func TestTransitionsAreBounded(t *testing.T) {
	c, quiet := check(1), check(2)
	c.Interval, quiet.Interval = time.Minute, time.Minute
	b := newBench(c, quiet)
	b.alive = func(c Check) bool { return c.Key == quiet.Key || b.now.Sub(start)/(5*time.Minute)%2 == 0 }
	b.run(24 * time.Hour)
	all := b.Transitions(0, 100)
	if len(all) != maxTransitions+1 || all[0].Key != quiet.Key || !all[maxTransitions].At.Equal(b.state().Since) {
		t.Errorf("%d transitions: %+v", len(all), all)
	}
	for i := range all {
		if i > 0 && all[i].Serial <= all[i-1].Serial {
			t.Errorf("%d after %d", all[i].Serial, all[i-1].Serial)
		}
		if rest := b.Transitions(all[i].Serial, 100); !slices.Equal(rest, all[i+1:]) {
			t.Errorf("after %d: %+v", all[i].Serial, rest)
		}
	}
	if some := b.Transitions(0, 3); !slices.Equal(some, all[:3]) {
		t.Errorf("three: %+v", some)
	}
}

// A failure between successes is none: probes count in a row.
func TestFailuresInARow(t *testing.T) {
	b := newBench(check(1))
	n := 0
	b.alive = func(Check) bool { n++; return n%2 == 1 }
	if got := b.run(10 * time.Minute); len(got) != 1 {
		t.Errorf("every second probe fails: %v", got)
	}
}

// Whatever makes a target suspect, it is the probes of a burst that take it away, and they need less than half a second.
func TestSuspicionIsProbedAtOnce(t *testing.T) {
	for threshold := 2; threshold <= 10; threshold++ {
		c := check(1)
		c.UnhealthyThreshold = threshold
		b := newBench(c)
		b.run(time.Minute)
		if b.Suspect(b.now, c.Key); len(b.run(time.Second)) != 0 {
			t.Fatal("a suspicion alone took a target away")
		}
		b.begun = nil
		b.alive = func(Check) bool { return false }
		if !b.Suspect(b.now, c.Key) {
			t.Fatal("no burst")
		}
		got := b.run(time.Second)
		if b.state().State != Unhealthy || len(got) != 1 || b.state().Since.Sub(b.now.Add(-time.Second)) > burstTime+time.Millisecond {
			t.Errorf("threshold %d: %v, %+v", threshold, got, b.state())
		}
		if len(b.begun) != threshold {
			t.Errorf("threshold %d: %d probes", threshold, len(b.begun))
		}
	}
}

// However many suspect it, a target is not probed more than its burst's part of the time.
func TestSuspicionsAreBounded(t *testing.T) {
	b := newBench(check(1))
	b.run(time.Minute)
	b.begun = nil
	for range 1000 {
		b.Suspect(b.now, check(1).Key)
		b.run(time.Millisecond)
	}
	if len(b.begun) == 0 || len(b.begun) > 2+2*int(time.Second/suspectEvery) {
		t.Errorf("%d probes in a second", len(b.begun))
	}
	if b.Suspect(b.now, check(2).Key) {
		t.Error("a target that is not this node's is suspect")
	}
}

// F14: a target that flaps once a second changes at most twice in half a minute, after it was found out, and is out meanwhile.
func TestFlapping(t *testing.T) {
	c := check(1)
	c.Interval, c.Timeout = time.Second, time.Second
	b := newBench(c)
	b.run(time.Minute)
	b.alive = func(Check) bool { return b.now.Sub(start)/(2*time.Second)%2 == 0 }
	var at []time.Duration
	var in time.Duration
	begin, last := b.now, b.state()
	for b.now.Sub(begin) < 10*time.Minute {
		b.run(100 * time.Millisecond)
		if b.state().State == Healthy {
			in += 100 * time.Millisecond
		}
		if s := b.state(); s.State != last.State {
			at, last = append(at, b.now.Sub(begin)), s
		}
	}
	for i := 3; i+2 < len(at); i++ {
		if at[i+2]-at[i] < flapWindow {
			t.Errorf("three changes within %s: %v", at[i+2]-at[i], at[i:i+3])
		}
	}
	if len(at) < 6 || in > 2*time.Minute {
		t.Errorf("%d changes, in for %s of ten minutes", len(at), in)
	}
	b.alive = func(Check) bool { return true }
	if b.run(flapWindow + 3*time.Second); b.state().State != Healthy {
		t.Errorf("when it is over: %+v", b.state())
	}
}

// A held target says why.
func TestFlappingIsSaid(t *testing.T) {
	b := newBench(check(1))
	b.run(time.Second)
	b.alive = func(Check) bool { return false }
	b.Suspect(b.now, check(1).Key)
	b.run(time.Second)
	b.alive = func(Check) bool { return true }
	b.run(25 * time.Second)
	if s := b.state(); s.State != Unhealthy || s.Reason != ReasonFlapping {
		t.Errorf("%+v", s)
	}
}

// Where this node was in the way nothing is known of the target, however often, and it is asked again soon.
// TestAlwaysLate: a node that always notices silences late takes a dead target out all the same, later.
func TestAlwaysLate(t *testing.T) {
	c := check(1)
	m := new(Monitor)
	m.Set(start, nil)
	m.Set(start, []Check{c})
	now, late := start, Outcome{Untried: true, Late: true}
	probe := func(o Outcome) State {
		t.Helper()
		at, _ := m.Next()
		now = at
		for _, p := range m.Due(now) {
			m.Done(now, p.ID, o)
		}
		return m.Statuses()[0].State
	}
	if got := probe(Outcome{}); got != Healthy {
		t.Fatal(got)
	}
	for range 2 { // what is heard in between begins the count anew
		for range maxLate {
			if got := probe(late); got != Healthy {
				t.Errorf("%s after few", got)
			}
		}
		probe(Outcome{})
	}
	for i := range maxLate + c.UnhealthyThreshold {
		if got, last := probe(late), i == maxLate+c.UnhealthyThreshold-1; (got == Unhealthy) != last {
			t.Errorf("%s after %d", got, i+1)
		}
	}
}

func TestUntried(t *testing.T) {
	c := check(1)
	c.Interval = time.Minute
	m := new(Monitor)
	m.Set(start, nil)
	m.Set(start, []Check{c})
	now := start
	probe := func(o Outcome) State {
		t.Helper()
		p := m.Due(now)
		if len(p) != 1 {
			t.Fatalf("%d probes", len(p))
		}
		if changed := m.Done(now, p[0].ID, o); changed && o.Untried {
			t.Error("nothing was found out, and something changed")
		}
		return m.Statuses()[0].State
	}
	none := Outcome{Detail: "too many open files", Untried: true}
	for _, want := range []State{Initial, Healthy} {
		for range 2 * c.UnhealthyThreshold {
			if got := probe(none); got != want {
				t.Errorf("%s, and was %s", got, want)
			}
			at, _ := m.Next()
			if now.Add(initialEvery) != at && want == Healthy || at.Sub(now) > initialEvery {
				t.Errorf("asked again after %s", at.Sub(now))
			}
			now = at
		}
		if got := probe(Outcome{}); got != Healthy {
			t.Errorf("%s after a good answer", got)
		}
		now, _ = m.Next()
	}
	probe(Outcome{Reason: ReasonFailed})
	now = now.Add(time.Minute)
	probe(none)
	if now, _ = m.Next(); probe(Outcome{Reason: ReasonFailed}) != Unhealthy {
		t.Error("two failures, with nothing between that counts")
	}
}

// A probe that was begun before another one passed says nothing any more.
func TestLateFailure(t *testing.T) {
	c := check(1)
	c.UnhealthyThreshold = 2
	m := new(Monitor)
	m.Set(start, []Check{c})
	m.Done(start, m.Due(start)[0].ID, Outcome{})
	ids := []uint64{m.Due(start.Add(10 * time.Second))[0].ID}
	m.Suspect(start.Add(11*time.Second), c.Key)
	for _, after := range []time.Duration{11 * time.Second, 12 * time.Second} {
		ids = append(ids, m.Due(start.Add(after))[0].ID)
	}
	m.Done(start, ids[2], Outcome{})
	m.Done(start, ids[0], Outcome{Reason: ReasonTimeout})
	m.Done(start, ids[1], Outcome{Reason: ReasonTimeout})
	if s := m.Statuses()[0]; s.State != Healthy {
		t.Errorf("%+v", s)
	}
	if m.Done(start, ids[0], Outcome{Reason: ReasonTimeout}) || m.Done(start, 99, Outcome{}) {
		t.Error("an outcome counted twice, or of no probe")
	}
}

// A target that takes its time has one probe outstanding, and one burst, however often it is due and suspect; the next one begins
// when the last has ended. One that was registered anew owes nothing for what it was before.
func TestOneProbeAtATime(t *testing.T) {
	c := check(1)
	c.Interval, c.Timeout = time.Second, time.Second
	m := new(Monitor)
	m.Set(start, nil)
	m.Set(start, []Check{c})
	var out []Probe
	for i := range 600 {
		now := start.Add(time.Duration(i) * 100 * time.Millisecond)
		if at, ok := m.Next(); ok && at.Before(now.Add(-100*time.Millisecond)) {
			t.Fatalf("after %d ms what was due at %s was not begun", 100*i, at.Sub(start))
		}
		m.Suspect(now, c.Key)
		out = append(out, m.Due(now)...)
	}
	if most := 1 + c.UnhealthyThreshold; len(out) != most {
		t.Fatalf("%d probes are outstanding, want %d", len(out), most)
	}
	end := start.Add(time.Minute)
	for _, p := range out {
		if m.Done(end, p.ID, Outcome{}); !p.Hurry {
			if at, ok := m.Next(); !ok || at.After(end) {
				t.Errorf("the probe of the interval has ended, and the next one is due at %v", at)
			}
		}
	}
	if !m.Suspect(end, c.Key) || len(m.Due(end)) != 1 {
		t.Error("all have ended, and none begins")
	}

	m.Set(end, nil)
	m.Set(end, []Check{c})
	again := m.Due(end)
	if len(again) != 1 {
		t.Fatalf("registered anew: probes %+v", again)
	}
	if m.Done(end, again[0].ID-1, Outcome{}); m.Statuses()[0].State != Initial {
		t.Error("a probe of what it was before counts")
	}
	if m.Done(end, again[0].ID, Outcome{}); m.Statuses()[0].State != Healthy {
		t.Errorf("its own probe: %+v", m.Statuses()[0])
	}
}

func TestChecksAreReplaced(t *testing.T) {
	b := newBench(check(1), check(2))
	b.run(time.Minute)
	other := check(1)
	other.Protocol = HTTP
	if !b.Set(b.now, []Check{other, check(3)}) {
		t.Error("nothing changed")
	}
	got := b.Statuses()
	if len(got) != 2 || got[0].State != Healthy || got[1].Key != check(3).Key || got[1].State != Initial {
		t.Errorf("%+v", got)
	}
	if p := b.Due(b.now); len(p) != 2 || p[0].Check.Protocol != HTTP {
		t.Errorf("probes %+v", p)
	}
	if b.Set(b.now, []Check{other, check(3)}) {
		t.Error("the same checks are a change")
	}
}

// Whatever outcomes come: no change to healthy is the third one within the window, and a target that fails its threshold in a
// row is never healthy.
func TestMonitorProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := check(1)
		c.Interval = time.Duration(rapid.IntRange(1, 20).Draw(t, "interval")) * time.Second
		c.UnhealthyThreshold = rapid.IntRange(2, 10).Draw(t, "unhealthy")
		c.HealthyThreshold = rapid.IntRange(2, 10).Draw(t, "healthy")
		b := newBench(c)
		var changes []time.Time
		bad := 0
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			if rapid.IntRange(0, 3).Draw(t, "suspect") == 0 {
				b.Suspect(b.now, c.Key)
			}
			at, _ := b.Next()
			b.now = at
			for _, p := range b.Due(b.now) {
				before, o := b.state().State, Outcome{}
				if bad++; rapid.Bool().Draw(t, "passes") {
					bad = 0
				} else {
					o.Reason = ReasonFailed
				}
				b.Done(b.now, p.ID, o)
				after := b.state().State
				if after == Healthy && bad >= c.UnhealthyThreshold {
					t.Fatalf("healthy after %d failures", bad)
				}
				if before == after {
					continue
				}
				if changes = append(changes, b.now); after == Healthy && len(changes) > 2 &&
					b.now.Sub(changes[len(changes)-3]) < flapWindow {
					t.Fatalf("three changes: %v", changes[len(changes)-3:])
				}
			}
		}
	})
}

// A target that is silent to hurried probes only may be busy: it gets no new flows at once, and keeps those that it has until a
// probe with the check's own patience fails, too. One that passes is back. One that is coming back keeps its flows as well.
func TestDoubt(t *testing.T) {
	for _, c := range []struct {
		name  string
		fails func(Probe) (Outcome, bool)
		want  []string
	}{
		{"busy", func(p Probe) (Outcome, bool) { return Outcome{Reason: ReasonTimeout, Doubt: true}, p.Hurry },
			[]string{"100ms unhealthy in doubt", "100ms healthy"}},
		{"silent", func(p Probe) (Outcome, bool) { return Outcome{Reason: ReasonTimeout, Doubt: p.Hurry}, true },
			[]string{"100ms unhealthy in doubt", "100ms unhealthy", "20.1s unhealthy in doubt", "30.1s healthy"}},
		{"refuses", func(Probe) (Outcome, bool) { return Outcome{Reason: ReasonFailed}, true },
			[]string{"100ms unhealthy", "20.1s unhealthy in doubt", "30.1s healthy"}},
	} {
		b := newBench(check(1))
		b.run(30 * time.Second)
		at := b.now
		b.targets[b.Statuses()[0].Key].next = at.Add(time.Minute) // only the burst says something
		b.Suspect(at, b.Statuses()[0].Key)
		var got []string
		last := b.Statuses()[0]
		for now := at; now.Before(at.Add(40 * time.Second)); now = now.Add(100 * time.Millisecond) {
			for probes := b.Due(now); len(probes) > 0; probes = b.Due(now) {
				for _, p := range probes {
					o, fails := c.fails(p)
					if !fails || now.Sub(at) > 15*time.Second {
						o = Outcome{}
					}
					b.Done(now, p.ID, o)
					s := b.Statuses()[0]
					if s.State != last.State || s.Doubt != last.Doubt {
						text := fmt.Sprintf("%s %s", now.Sub(at), s.State)
						if s.Doubt {
							text += " in doubt"
						}
						got = append(got, text)
					}
					last = s
				}
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
