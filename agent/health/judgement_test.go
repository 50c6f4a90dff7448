package health

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const self, other, third = 1, 2, 3

func source(group uint32, n int, node uint32) Source {
	return Source{Key: key(group, n), Node: node, VPC: 7}
}

// judge has n targets of one group, which the nodes host in turn, and is told that all are healthy.
func judge(n int, nodes ...uint32) (*Judgement, []Source) {
	j := NewJudgement(self)
	var sources []Source
	for i := range n {
		sources = append(sources, source(1, i, nodes[i%len(nodes)]))
	}
	j.Set(start, sources)
	for _, node := range nodes {
		say(j, start, node, sources, func(Source) State { return Healthy })
	}
	return j, sources
}

// seq numbers the digests of all tests.
var seq uint64

// say has a node report its targets.
func say(j *Judgement, now time.Time, node uint32, sources []Source, state func(Source) State) {
	seq++
	d := Digest{Boot: 5, Seq: seq}
	var own []Status
	for _, s := range sources {
		r := Report{Key: s.Key, State: state(s), Age: time.Minute}
		if r.State == Unhealthy {
			r.Reason = ReasonFailed
		}
		if s.Node == node {
			d.Reports = append(d.Reports, r)
			own = append(own, Status{Key: s.Key, State: r.State, Reason: r.Reason, Since: now.Add(-r.Age)})
		}
	}
	if node == self {
		j.Own(now, own)
	} else {
		j.Hear(now, node, &d)
	}
	j.Settle(now)
}

// hear has a digest come.
func hear(j *Judgement, now time.Time, node uint32, d *Digest) {
	j.Hear(now, node, d)
	j.Settle(now)
}

func dead(Source) State { return Unhealthy }

func count(j *Judgement, s State) (n int) {
	for _, f := range j.Facts() {
		if f.State == s {
			n++
		}
	}
	return n
}

// live runs a judgement for a while, with the answers of hosts, and tells how many questions each was asked.
func live(j *Judgement, from time.Time, d time.Duration, answers func(node uint32, at time.Time) bool) map[uint32]int {
	asked := map[uint32]int{}
	for now := from; now.Before(from.Add(d)); now = now.Add(10 * time.Millisecond) {
		for _, node := range j.Due(now) {
			asked[node]++
			if answers(node, now) {
				j.Alive(now, node)
			}
		}
	}
	return asked
}

func never(uint32, time.Time) bool { return false }

// A host whose digests stay out is dead within 2.5 s, after three questions; one that answers is not, and one that is heard
// again, twice in a row, is back.
func TestSilentHost(t *testing.T) {
	j, sources := judge(2, other, self)
	if asked := live(j, start, 30*time.Second, func(uint32, time.Time) bool { return true }); asked[other] < 10 || count(j, Healthy) != 2 {
		t.Fatalf("a host without digests that answers: asked %v, %v", asked, j.Facts())
	}
	j, sources = judge(2, other, self)
	live(j, start, silentTicks*Tick+2*questionEvery, never)
	if count(j, Healthy) != 2 {
		t.Fatalf("before the third question: %v", j.Facts())
	}
	live(j, start.Add(silentTicks*Tick+2*questionEvery), questionEvery+20*time.Millisecond, never)
	f := j.Facts()[sources[0].Key]
	if f.State != Unhealthy || f.Reason != ReasonUnreachable || count(j, Healthy) != 1 {
		t.Fatalf("after three questions: %v", j.Facts())
	}
	at := start.Add(10 * time.Second)
	for d := time.Duration(0); d <= returnTime; d += Tick {
		j.Alive(at.Add(d), other)
		j.Settle(at.Add(d))
		if back := j.Facts()[sources[0].Key].State == Healthy; back != (d == returnTime) {
			t.Errorf("heard for %s: back %t", d, back)
		}
	}
}

// A slow host, which runs for a moment now and then, is taken away once and stays away, however it speaks meanwhile. When it runs
// again it is back.
func TestSlowHost(t *testing.T) {
	j, sources := judge(2, other, self)
	const cycle, runs = 3 * time.Second, 100 * time.Millisecond
	awake := func(node uint32, at time.Time) bool { return node == other && at.Sub(start)%cycle < runs }
	for now := start.Add(cycle); now.Before(start.Add(time.Minute)); now = now.Add(cycle) {
		live(j, now.Add(-cycle+runs), cycle-runs, awake)
		if f := j.Facts()[sources[0].Key]; f.State != Unhealthy || f.Reason != ReasonUnreachable {
			t.Fatalf("before %s: %+v", now.Sub(start), f)
		}
		say(j, now, other, sources, func(Source) State { return Healthy })
		live(j, now, runs, awake)
		if f := j.Facts()[sources[0].Key]; f.State != Unhealthy {
			t.Fatalf("back for a moment, after %s: %+v", now.Sub(start), f)
		}
	}
	if asked := live(j, start.Add(time.Minute), returnTime+2*Tick, func(uint32, time.Time) bool { return true }); count(j, Healthy) != 2 {
		t.Errorf("it runs again: asked %v, %v", asked, j.Facts())
	}
}

// A hint, such as what gossip says, asks at once and is nothing else: 10^6 of them remove no target of a host that answers.
func TestHintsOnlyAsk(t *testing.T) {
	j, _ := judge(2, other)
	now := start
	for range 1_000_000 {
		j.Ask(now, other)
		j.Ask(now, third)
		for _, node := range j.Due(now) {
			if node != other {
				t.Fatalf("asked %d", node)
			}
			j.Alive(now, node)
		}
		now = now.Add(time.Millisecond)
	}
	if count(j, Healthy) != 2 {
		t.Fatalf("%v", j.Facts())
	}
	j.Ask(now, other)
	live(j, now, leastSilence+questionEvery, never)
	if count(j, Unhealthy) != 1 { // the other one is over the bound on removals
		t.Errorf("a silent host that was asked: %v", j.Facts())
	}
}

// N2: what a node says of others' targets is nothing.
func TestNodeSpeaksForItsOwn(t *testing.T) {
	j, sources := judge(4, other, third)
	lie := Digest{Boot: 9, Seq: 1}
	for _, s := range sources {
		lie.Reports = append(lie.Reports, Report{Key: s.Key, State: Unhealthy})
	}
	for i := range 1000 {
		lie.Seq = uint64(i)
		hear(j, start.Add(time.Duration(i)*time.Minute), other, &lie)
	}
	for _, s := range sources {
		if f := j.Facts()[s.Key]; s.Node == third && f.State != Healthy {
			t.Errorf("%v, which is not its: %+v", s.Key, f)
		}
	}
	hear(j, start, 77, &lie)
	if len(j.Facts()) != 4 {
		t.Errorf("facts %v", j.Facts())
	}
}

// AWS 2025: a checker that removes good capacity. Half of a group at most goes in half a minute, whoever says so, and the
// others follow only if they stay so.
func TestRemovalVelocity(t *testing.T) {
	j, sources := judge(10, other, third, self)
	for i := range 20 {
		at := start.Add(time.Duration(i) * time.Second)
		for _, node := range []uint32{other, third, self} {
			say(j, at, node, sources, dead)
		}
		if n := count(j, Healthy); n != 5 {
			t.Fatalf("after %d s %d of 10 are left", i, n)
		}
	}
	if at, ok := j.Next(start.Add(19 * time.Second)); !ok || at.After(start.Add(removalWindow)) {
		t.Errorf("nothing will be due: %v", at)
	}
	j.Due(start.Add(removalWindow))
	if n := count(j, Healthy); n != 0 {
		t.Errorf("after the window %d are left", n)
	}
	for _, f := range j.Facts() {
		if f.State == Healthy {
			t.Error("a healthy one")
		}
	}
}

// The same target that goes again and again counts once, and groups do not count for each other.
func TestVelocityCountsTargets(t *testing.T) {
	j := NewJudgement(self)
	sources := []Source{source(1, 1, other), source(1, 2, third), source(2, 3, other), source(2, 4, third)}
	j.Set(start, sources)
	healthy := func(Source) State { return Healthy }
	say(j, start, other, sources, healthy)
	say(j, start, third, sources, healthy)
	for i := range 10 {
		say(j, start.Add(time.Duration(2*i)*time.Second), other, sources, dead)
		if count(j, Unhealthy) != 2 {
			t.Fatalf("%d: %v", i, j.Facts())
		}
		say(j, start.Add(time.Duration(2*i+1)*time.Second), other, sources, healthy)
		if count(j, Unhealthy) != 0 {
			t.Fatalf("%d: %v", i, j.Facts())
		}
	}
}

// A host that has its target flap holds the other's dead one in no longer than its own is away.
func TestFlappingHostKeepsNobodyIn(t *testing.T) {
	j, sources := judge(2, other, third)
	flapping, gone := sources[0].Key, sources[1].Key
	for i := range 10 {
		at := start.Add(time.Duration(25*i) * time.Second)
		say(j, at, other, sources, dead)
		if i > 0 && j.Facts()[gone].State == Healthy {
			t.Fatalf("after %s the dead target is in: %v", at.Sub(start), j.Facts())
		}
		if i == 0 && j.Facts()[flapping].State != Unhealthy {
			t.Fatalf("%v", j.Facts())
		}
		at = at.Add(time.Second)
		if say(j, at, third, sources, dead); i == 0 && count(j, Unhealthy) != 1 {
			t.Fatalf("of two targets one goes at a time: %v", j.Facts())
		}
		at = at.Add(time.Second)
		say(j, at, other, sources, func(Source) State { return Healthy })
		if f := j.Facts(); f[flapping].State != Healthy || f[gone].State != Unhealthy {
			t.Fatalf("after %s: one is back, and the other one is still in: %v", at.Sub(start), f)
		}
	}
}

// Whatever hosts say: of a group half at most is away that went within half a minute, and while it is less no dead one stays in.
func TestVelocityProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 12).Draw(t, "targets")
		j, sources := judge(n, other, third)
		said := map[Key]State{}
		away := map[Key]time.Time{} // since when
		for now := start; now.Before(start.Add(2 * time.Minute)); now = now.Add(time.Second) {
			s := rapid.SampledFrom(sources).Draw(t, "target")
			said[s.Key] = rapid.SampledFrom([]State{Healthy, Unhealthy}).Draw(t, "state")
			say(j, now, s.Node, []Source{s}, func(s Source) State { return said[s.Key] })
			j.Alive(now, other)
			j.Alive(now, third)
			recent := 0
			for k, f := range j.Facts() {
				switch {
				case f.State == Healthy:
					delete(away, k)
				case away[k].IsZero():
					away[k] = now
				}
				if f.State == Unhealthy && now.Sub(away[k]) < removalWindow {
					recent++
				}
			}
			if recent > max(1, n/2) {
				t.Fatalf("%d of %d went within half a minute and are away", recent, n)
			}
			if recent < max(1, n/2) && slices.ContainsFunc(sources, func(s Source) bool {
				return said[s.Key] == Unhealthy && j.Facts()[s.Key].State == Healthy
			}) {
				t.Fatalf("%d of %d went within half a minute, and one that is dead is in", recent, n)
			}
		}
	})
}

// What changes nothing has no fact looked at: a digest like the one before, an answer, what the tunnel brought.
func TestNoNews(t *testing.T) {
	j, sources := judge(4, other, third)
	changes := j.Changes()
	if changes == 0 || j.Stale() {
		t.Fatalf("%d changes, stale %t", changes, j.Stale())
	}
	healthy := Digest{Boot: 5, Seq: seq + 1, Reports: []Report{{Key: sources[0].Key, State: Healthy}, {Key: sources[1].Key, State: Unhealthy}}}
	j.Hear(start, other, &healthy)
	j.Alive(start, other)
	j.Received(start, other, 7)
	j.Own(start, []Status{{Key: sources[0].Key, State: Unhealthy}})
	if j.Stale() {
		t.Error("nothing was news")
	}
	if j.Set(start, sources); j.Changes() != changes {
		t.Error("the same targets are a change")
	}
	j.Hear(start, other, &Digest{Boot: 5, Seq: seq + 2, Reports: []Report{{Key: sources[0].Key, State: Unhealthy}}})
	if at, ok := j.Next(start); !j.Stale() || !ok || at.After(start) || j.Changes() != changes {
		t.Errorf("news: stale %t, due %v, %d changes", j.Stale(), at, j.Changes())
	}
	if j.Due(start); j.Stale() || j.Changes() != changes+1 {
		t.Errorf("after it was due: stale %t, %d changes", j.Stale(), j.Changes()-changes)
	}
	if j.Set(start, sources[1:]); j.Changes() != changes+2 {
		t.Error("a target that goes is no change")
	}
	seq += 2
}

// What was so before this node heard of it is no removal.
func TestFirstWordIsNoRemoval(t *testing.T) {
	j := NewJudgement(self)
	var sources []Source
	for i := range 4 {
		sources = append(sources, source(1, i, other))
	}
	j.Set(start, sources)
	if len(j.Facts()) != 0 {
		t.Errorf("nothing is known: %v", j.Facts())
	}
	if ask := j.Due(start); !slices.Equal(ask, []uint32{other}) {
		t.Errorf("a new host is asked at once: %v", ask)
	}
	say(j, start, other, sources, dead)
	if count(j, Unhealthy) != 4 {
		t.Errorf("%v", j.Facts())
	}
	if f := j.Facts()[sources[0].Key]; !f.Since.Equal(start.Add(-time.Minute)) {
		t.Errorf("since %v", f.Since)
	}
}

// Of a host that was never heard nothing is known, as when its agent is one that knows nothing of health, while its tunnel
// answers. When that is mute, too, its targets go, no faster than others; and are as before when the tunnel answers again.
func TestHostThatWasNeverHeard(t *testing.T) {
	for name, gone := range map[string]bool{"an agent of before": false, "nobody": true} {
		j := NewJudgement(self)
		j.Set(start, []Source{source(1, 1, other), source(1, 2, other)})
		rx, asked := uint64(1), 0
		run := func(from, to time.Duration, answers bool) {
			for d := from; d < to; d += 100 * time.Millisecond {
				if answers && d%(10*time.Second) == 0 {
					rx++
				}
				if d%(2*time.Second) == 0 {
					j.Received(start.Add(d), other, rx)
				}
				asked += len(j.Due(start.Add(d)))
			}
		}
		want := func(n int, when string) {
			t.Helper()
			if count(j, Unhealthy) != n || len(j.Facts()) != n {
				t.Errorf("%s there, %s: %v", name, when, j.Facts())
			}
		}
		run(0, muteTime, !gone)
		want(0, "for less than the time that a tunnel may be mute")
		run(muteTime, muteTime+3*time.Second, !gone)
		want(map[bool]int{true: 1}[gone], "for longer")
		run(muteTime+3*time.Second, time.Minute, !gone)
		want(map[bool]int{true: 2}[gone], "for a minute")
		if asked > 125 {
			t.Errorf("%s there: %d questions in a minute", name, asked)
		}
		run(time.Minute, 62*time.Second, true)
		want(0, "and then its tunnel answers")
	}
}

// A tunnel that nobody speaks to has nothing to answer. That it is silent while an agent is replaced, or while this node does not
// listen, says nothing of the host, until it was asked for as long.
func TestTunnelThatIsNotSpokenTo(t *testing.T) {
	for _, heard := range []bool{true, false} {
		j := NewJudgement(self)
		s := source(1, 1, other)
		s.End = true
		j.Set(start, []Source{s, source(1, 2, self)})
		if heard {
			say(j, start, other, []Source{s}, func(Source) State { return Healthy })
			seq++
			hear(j, start, other, &Digest{Boot: 5, Seq: seq, Leaving: true})
		}
		for d := time.Duration(0); d < restartTime; d += 2 * time.Second {
			j.Received(start.Add(d), other, 1)
		}
		if !heard {
			j.Listening(start.Add(restartTime))
		}
		for d := time.Duration(0); d < time.Minute; d += 100 * time.Millisecond {
			now := start.Add(restartTime + d)
			j.Due(now)
			if d%(2*time.Second) == 0 {
				j.Received(now, other, 1+uint64(d/(10*time.Second)))
			}
			if f := j.Facts()[s.Key]; f.Ended || !heard && f.State != Unknown {
				t.Fatalf("heard before %t, asked for %s: %+v", heard, d, f)
			}
		}
		if f := j.Facts()[s.Key]; heard && f.Reason != ReasonUnreachable {
			t.Errorf("nobody followed: %+v", f)
		}
	}
}

// An agent that is replaced says so, and is not asked for as long as that takes. Its successor knows nothing yet, which changes
// nothing.
func TestRestart(t *testing.T) {
	j, sources := judge(2, other)
	hear(j, start, other, &Digest{Boot: 5, Seq: seq + 1, Leaving: true})
	if asked := live(j, start, restartTime, never); asked[other] != 0 || count(j, Healthy) != 2 {
		t.Fatalf("asked %v, %v", asked, j.Facts())
	}
	next := Digest{Boot: 6, Seq: 1, Reports: []Report{{Key: sources[0].Key, State: Initial}, {Key: sources[1].Key, State: Initial}}}
	hear(j, start.Add(restartTime), other, &next)
	if count(j, Healthy) != 2 {
		t.Errorf("a successor that knows nothing: %v", j.Facts())
	}
	late := Digest{Boot: 5, Seq: seq + 2, Reports: []Report{{Key: sources[0].Key, State: Unhealthy}}}
	if hear(j, start.Add(restartTime), other, &late); count(j, Healthy) != 2 {
		t.Errorf("a digest of the agent before: %v", j.Facts())
	}
	old := Digest{Boot: 6, Seq: 0, Reports: late.Reports}
	if hear(j, start.Add(restartTime), other, &old); count(j, Healthy) != 2 {
		t.Errorf("a digest that was overtaken: %v", j.Facts())
	}
	live(j, start.Add(restartTime), 3*time.Second, never)
	if count(j, Unhealthy) != 1 {
		t.Errorf("the successor is silent: %v", j.Facts())
	}
}

func TestSlowStart(t *testing.T) {
	j := NewJudgement(self)
	s := source(1, 1, other)
	s.SlowStart = 100 * time.Second
	j.Set(start, []Source{s, source(1, 2, other)})
	hear(j, start, other, &Digest{Reports: []Report{{Key: s.Key, State: Healthy}}})
	var weights []uint16
	for now := start; now.Before(start.Add(2 * time.Minute)); now = now.Add(time.Second) {
		at, _ := j.Next(now)
		before := j.Facts()[s.Key].Weight
		j.Alive(now, other)
		j.Due(now)
		w := j.Facts()[s.Key].Weight
		if w != before && at.After(now) {
			t.Fatalf("%s: weight %d came without being due before %s", now.Sub(start), w, at.Sub(start))
		}
		if len(weights) == 0 || weights[len(weights)-1] != w {
			weights = append(weights, w)
		}
	}
	if want := []uint16{100, 200, 300, 400, 500, 600, 700, 800, 900, 1000}; !slices.Equal(weights, want) {
		t.Errorf("weights %v", weights)
	}
}

// Where the group says so, flows of an unhealthy target end, after a while.
func TestFlowsEnd(t *testing.T) {
	j := NewJudgement(self)
	s := source(1, 1, self)
	s.End, s.EndAfter = true, 20*time.Second
	j.Set(start, []Source{s, source(1, 2, self)})
	say(j, start, self, []Source{s}, func(Source) State { return Healthy })
	say(j, start, self, []Source{s}, dead)
	if at, ok := j.Next(start); !ok || !at.Equal(start.Add(20*time.Second)) {
		t.Errorf("due %v", at)
	}
	for at, want := range map[time.Duration]bool{0: false, 19 * time.Second: false, 20 * time.Second: true} {
		if j.Due(start.Add(at)); j.Facts()[s.Key].Ended != want {
			t.Errorf("after %s: %+v", at, j.Facts()[s.Key])
		}
	}
	if say(j, start.Add(time.Minute), self, []Source{s}, func(Source) State { return Healthy }); j.Facts()[s.Key].Ended {
		t.Error("of a healthy one")
	}
}

// Flows of a target of which its host is not sure stay, and end when it is.
func TestFlowsOfDoubtfulTarget(t *testing.T) {
	j := NewJudgement(self)
	s := source(1, 1, other)
	s.End = true
	j.Set(start, []Source{s, source(1, 2, other)})
	say(j, start, other, []Source{s}, func(Source) State { return Healthy })
	for i, doubt := range []bool{true, false, true} {
		d := Digest{Boot: 5, Seq: seq + uint64(i) + 1, Reports: []Report{{Key: s.Key, State: Unhealthy, Reason: ReasonTimeout, Doubt: doubt}}}
		j.Hear(start.Add(time.Duration(i)*time.Second), other, &d)
		j.Settle(start.Add(time.Duration(i) * time.Second))
		if f := j.Facts()[s.Key]; f.State != Unhealthy || f.Ended == doubt {
			t.Errorf("in doubt %t: %+v", doubt, f)
		}
	}
	seq += 3
}

// A host without an agent is not asked for new flows, and keeps those that it has: its tunnel still answers. Those of a host that
// is gone end.
func TestFlowsOfSilentHost(t *testing.T) {
	for name, tunnel := range map[string]bool{"agent": true, "host": false} {
		j := NewJudgement(self)
		s := source(1, 1, other)
		s.End = true
		j.Set(start, []Source{s, source(1, 2, self)})
		say(j, start, other, []Source{s}, func(Source) State { return Healthy })
		rx, ended := uint64(1), time.Duration(0)
		for d := time.Duration(0); d < time.Minute; d += 100 * time.Millisecond {
			now := start.Add(d)
			j.Due(now)
			if d%(2*time.Second) == 0 && d < 40*time.Second { // then it is not looked any more, which says nothing
				if tunnel && d%(10*time.Second) == 0 {
					rx++
				}
				j.Received(now, other, rx)
				j.Settle(now)
			}
			if f := j.Facts()[s.Key]; f.Ended && ended == 0 {
				ended = d
			}
		}
		if f := j.Facts()[s.Key]; f.Reason != ReasonUnreachable {
			t.Errorf("%s gone: %+v", name, f)
		}
		if want := map[bool]time.Duration{true: 0, false: 18 * time.Second}[tunnel]; ended != want {
			t.Errorf("%s gone: flows end after %s, want %s", name, ended, want)
		}
	}
}

func TestSourcesAreReplaced(t *testing.T) {
	j, sources := judge(4, other, third)
	moved := slices.Clone(sources)
	moved[0].Node = third
	j.Set(start, moved[:3])
	want := []Key{moved[1].Key, moved[2].Key} // of the one that moved its new host has said nothing
	if got := slices.SortedFunc(maps.Keys(j.Facts()), Key.Compare); !slices.Equal(got, want) {
		t.Errorf("facts of %v", got)
	}
	if node, ok := j.Node(moved[0].Key); !ok || node != third {
		t.Errorf("node %d %t", node, ok)
	}
	if got := j.Find(7, netip.MustParseAddrPort("10.0.1.2:443")); !slices.Equal(got, []Key{moved[2].Key}) {
		t.Errorf("found %v", got)
	}
	if got := j.Find(8, netip.MustParseAddrPort("10.0.1.2:443")); len(got) != 0 {
		t.Errorf("found %v in another VPC", got)
	}
}
