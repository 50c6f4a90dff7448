package health

import (
	"testing"
	"time"
)

// Incident: AWS us-east-1, October 2025. Health checks ran from capacity whose network state had not come yet, failed and passed in
// turn, and took good capacity out and in. Here all checks of a group do so at once, for ten minutes: of what was in half at most is
// out that went within half a minute, no target changes three times in half a minute, and when checks are right again all are back.
func TestIncidentChecksWithoutNetwork(t *testing.T) {
	const n = 8
	var checks []Check
	var sources []Source
	for i := range n {
		c := check(i)
		c.Interval, c.Timeout = time.Second, time.Second
		checks, sources = append(checks, c), append(sources, source(1, i, self))
	}
	b := newBench(checks...)
	j := NewJudgement(self)
	j.Set(b.now, sources)
	look := func(d time.Duration) map[Key]Fact {
		b.run(d)
		j.Own(b.now, b.Statuses())
		j.Due(b.now)
		return j.Facts()
	}
	was := look(time.Minute)
	if count(j, Healthy) != n {
		t.Fatalf("before: %v", was)
	}
	b.alive = func(Check) bool { return b.now.Sub(start)/(2*time.Second)%2 == 0 }
	changed, worst := map[Key][]time.Time{}, 0
	for end := b.now.Add(10 * time.Minute); b.now.Before(end); {
		facts, recent := look(100*time.Millisecond), 0
		for k, f := range facts {
			if f.State != was[k].State {
				changed[k] = append(changed[k], b.now)
			}
			if at := changed[k]; f.State == Unhealthy && b.now.Sub(at[len(at)-1]) < removalWindow {
				recent++
			}
		}
		if worst = max(worst, recent); recent > n/2 {
			t.Fatalf("%d of %d are out that went within %s", recent, n, removalWindow)
		}
		was = facts
	}
	if worst != n/2 {
		t.Errorf("at most %d of %d were out: the checks did no harm that something kept from", worst, n)
	}
	for k, at := range changed {
		for i := 3; i+2 < len(at); i++ { // from when it was found out
			if d := at[i+2].Sub(at[i]); d < flapWindow {
				t.Errorf("%v changed three times within %s", k, d)
			}
		}
	}
	b.alive = func(Check) bool { return true }
	if look(flapWindow + 3*time.Second); count(j, Healthy) != n {
		t.Errorf("when it is over: %v", j.Facts())
	}
}
